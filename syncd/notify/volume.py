"""How much is enough: what one more notification is worth to a person this week, and how rows of ignored ones stretch
the distance between two.

Owns open and dismissal rates drawn towards the usual, the worth of the next notification, the weekly budget, and the
back-off. Must not know caps: those are promises of the operator, and hold whatever is learned here.

The worth of the k-th notification in a week falls with k: a person opens the first more readily than the tenth, and the
hazard that they turn everything off grows with each. What it is worth to interrupt somebody is not known in general;
the three prices below say what this version assumes, in opens.

Invariants: V1 who opens more has no smaller budget, who dismisses more no greater one. V2 the budget is the number of
notifications whose worth is above nothing, from the first on. V3 the back-off never falls while notifications are
ignored, and is bounded.
"""

from typing import NamedTuple

from syncd.notify.profile import CategoryStats

# The usual: of 20 notifications one in ten is opened and one in twenty dismissed. So much evidence weighs as much as
# the usual does.
USUAL_SHOWN, USUAL_OPENED, USUAL_DISMISSED = 20.0, 2.0, 1.0

WEARS_OFF = 0.85  # of the open rate is left for each further one in the same week
DISMISSAL_PRICE = 0.5  # opens that a dismissal takes away again
DISTURBANCE_PRICE = 0.004  # of the k-th in a week, times k: a person who turns everything off costs hundreds of opens

WEEK_MS = 7 * 86_400_000
BUDGET_MAX = 40
_WORN = [WEARS_OFF**sent for sent in range(BUDGET_MAX)]

ROW_OF_IGNORED = 3  # so many in a row double the distance to the next
BACKOFF_DOUBLINGS_MAX = 5  # to 32 times: a daily nudge becomes a monthly one, and not less


class Rates(NamedTuple):
    """The chances that the next one at an average hour is opened, or dismissed."""

    opened: float
    dismissed: float


def rates(stats: CategoryStats) -> Rates:
    """What is expected of a person and category, drawn towards the usual while little is known."""
    shown = stats.shown + USUAL_SHOWN
    # Receipts may come for what was shown long ago and is faded more than they are: a rate is never above one.
    opened = min((stats.opened + USUAL_OPENED) / shown, 1.0)
    return Rates(opened, min((stats.dismissed + USUAL_DISMISSED) / shown, 1.0 - opened))


def worth_of_next(expected: Rates, sent_this_week: int) -> float:
    """What the next notification is worth at an average hour, in opens."""
    opened = expected.opened * worn(sent_this_week)
    return opened - DISMISSAL_PRICE * expected.dismissed - disturbance(sent_this_week)


def worn(sent_this_week: int) -> float:
    """What is left of the open rate after so many in the same week."""
    return _WORN[sent_this_week] if sent_this_week < BUDGET_MAX else float(WEARS_OFF**sent_this_week)


def disturbance(sent_this_week: int) -> float:
    """What one more takes away whatever becomes of it."""
    return DISTURBANCE_PRICE * (sent_this_week + 1)


_BY_SENT = [(worn(sent), disturbance(sent)) for sent in range(BUDGET_MAX)]


def weekly_budget(expected: Rates) -> int:
    """How many a week are worth their disturbance (V2)."""
    opened, dismissed = expected
    cost = DISMISSAL_PRICE * dismissed
    for sent, (part, harm) in enumerate(_BY_SENT):
        if opened * part - cost - harm <= 0:  # `worth_of_next`, which is asked a dozen times for one decision
            return sent
    return BUDGET_MAX


def backoff(ignored_in_a_row: int) -> int:
    """By how much the distance between two of a category is stretched: 1, and doubled by each row of three
    that were ignored. An open ends the row, and with it the stretch."""
    return 1 << min(ignored_in_a_row // ROW_OF_IGNORED, BACKOFF_DOUBLINGS_MAX)
