"""When to send: the hours at which a person is there, and the best of the slots that are allowed.

Owns the estimate of a person's receptiveness by local hour, the value of each slot, and the choice with its propensity.
Must not know quiet hours or caps (the caller offers only slots that are allowed), nor clocks, nor randomness: a draw in
[0, 1) is handed in.

The estimate is a histogram of sessions, two kinds of days by 24 hours, faded (`profile.py`), smoothed around the clock
and shrunk: one kind of day towards the person's whole week, that towards the population. With little known it is the
population's; with much, the person's own. Replayed day by day on the sessions of 110 people, a window of two hours
chosen by it holds a session of that day in 36.8 % of the days, the best single hour in hindsight in 33.1 %, each
person's own best hour in hindsight in 39.5 % (`python -m bench behaviour`). 168 bins, one for each hour of a week, are
worse.

Invariants: M1 densities are positive and sum to 1. M2 the propensity reported with a choice is exactly the probability
with which that slot is chosen over all draws. M3 what may not be explored is never chosen for exploration's sake.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

HOURS = 24
SMOOTHING_SD_H = 1.0
PRIOR_POPULATION = 200.0  # sessions that the usual day of nobody in particular weighs, beside those of all people
PRIOR_SESSIONS = 8.0  # how many sessions the population's habit is worth beside a person's own
EXPLORED_SHARE = 0.05  # of choices; plain Thompson sampling over hours costs far more than it learns
EXPLORED_SLOTS = 4  # the best ones: what is never chosen is not worth learning about
WINDOW_H = 2  # after a notification has come, so long it is likely to be seen as new


def _kernel() -> tuple[float, ...]:
    """Weights of the hours around one, -3 to +3: a normal curve, of which less than 1 % lies beyond."""
    raw = [math.exp(-0.5 * (distance / SMOOTHING_SD_H) ** 2) for distance in range(-3, 4)]
    return tuple(value / sum(raw) for value in raw)


_KERNEL = _kernel()
# What a population looks like of which nothing is known: awake from eight to eleven, most in the evening.
_NOBODY = (1, 1, 1, 1, 1, 2, 4, 7, 9, 9, 9, 9, 10, 10, 10, 10, 10, 11, 12, 13, 13, 12, 8, 3)
NOBODYS_HOURS: tuple[float, ...] = tuple(value / sum(_NOBODY) for value in _NOBODY) * 2


def shares(hours: Sequence[float]) -> tuple[float, ...]:
    """When people are there, all together, from their 48 faded counts: 48 shares, each 24 of which sum to 1, drawn
    towards the usual while little is known."""
    found: list[float] = []
    for at in (0, HOURS):
        day = hours[at : at + HOURS]
        total = sum(day) + PRIOR_POPULATION
        usual = NOBODYS_HOURS[at : at + HOURS]
        found += [(count + PRIOR_POPULATION * share) / total for count, share in zip(day, usual, strict=True)]
    return tuple(found)


def density(own: Sequence[float], population: Sequence[float], is_weekend: bool) -> tuple[float, ...]:
    """How a person's sessions are spread over the 24 hours of a weekday, or of a day at the weekend. `own`: 48 faded
    counts (`profile.hours_at`); `population`: 48 shares, each 24 of which sum to 1."""
    at = HOURS * is_weekend
    day, people = own[at : at + HOURS], population[at : at + HOURS]
    week = [one + other for one, other in zip(own[:HOURS], own[HOURS:], strict=True)]
    week_total, day_total = sum(week) + PRIOR_SESSIONS, sum(day) + PRIOR_SESSIONS
    raw = [
        (mine + PRIOR_SESSIONS * ((whole + PRIOR_SESSIONS * theirs) / week_total)) / day_total
        for mine, whole, theirs in zip(day, week, people, strict=True)
    ]
    around = [*raw[-3:], *raw, *raw[:3]]
    k0, k1, k2, k3, k4, k5, k6 = _KERNEL
    # All steps are linear, so smoothing once at the end is the same as smoothing each histogram before.
    return tuple(
        [
            k0 * a + k1 * b + k2 * c + k3 * d + k4 * e + k5 * f + k6 * g
            for a, b, c, d, e, f, g in zip(
                around, around[1:], around[2:], around[3:], around[4:], around[5:], around[6:], strict=False
            )
        ]
    )


def receptiveness(spread: Sequence[float], second: float) -> float:
    """How likely a person is to be there within `WINDOW_H` hours after a second of the day, against a person who is
    there at all hours alike: 1 is average. Between full hours it goes over from one hour to the next."""
    hour, into = int(second // 3600), second % 3600 / 3600
    inside = sum(spread[(hour + index) % HOURS] for index in range(1, WINDOW_H))
    edges = (1 - into) * spread[hour % HOURS] + into * spread[(hour + WINDOW_H) % HOURS]
    return (inside + edges) * HOURS / WINDOW_H


def by_hour(spread: Sequence[float]) -> list[float]:
    """`receptiveness` at each full hour of the day."""
    # These steps are those of `receptiveness` (a half and a double are exact): the same numbers to the last bit.
    return [(later + now) * (HOURS / WINDOW_H) for now, later in zip(spread, (*spread[1:], spread[0]), strict=True)]


assert WINDOW_H == 2, "by_hour adds two hours"


class Slot(NamedTuple):
    """A moment at which something may be sent. `second`: of the local day; `is_weekend`: of its local date."""

    at_ms: int
    second: float
    is_weekend: bool


class Worth(NamedTuple):
    """What a notification is worth, in opens. `half_life_ms`: after so long it is worth half. `open_rate`: of this
    person and category at an average hour. `dismissal_cost`, `harm`: what a dismissal, and a further disturbance in a
    busy week, take away again (the latter falls due whenever it is sent)."""

    value: float
    half_life_ms: int
    open_rate: float
    dismissal_rate: float
    dismissal_cost: float
    harm: float


def left(wait_ms: int, half_life_ms: int) -> float:
    """The part of what something is worth that is left after a wait."""
    return float(2.0 ** (-wait_ms / half_life_ms))


def score(worth: Worth, slot: Slot, receptive: float, now_ms: int) -> float:
    """What sending in a slot is worth: value, faded by the wait, times the chance that it is opened because it was
    sent, less what a dismissal and the disturbance cost. Breaking news has a short half-life, and goes now by the same
    formula by which a nudge waits for its hour."""
    faded = worth.value * left(slot.at_ms - now_ms, worth.half_life_ms)
    opened = min(worth.open_rate * receptive, 1.0)
    return faded * opened - worth.dismissal_cost * worth.dismissal_rate - worth.harm


def scored(worth: Worth, parts_left: Sequence[float], receptive: Sequence[float]) -> list[float]:
    """`score` of many moments, by what is `left` at each and how likely the person is to be there."""
    value, _, open_rate, dismissal_rate, dismissal_cost, harm = worth
    cost = dismissal_cost * dismissal_rate
    return [
        value * part * (opened if (opened := open_rate * there) < 1.0 else 1.0) - cost - harm
        for part, there in zip(parts_left, receptive, strict=True)
    ]


def best(scores: Sequence[float], count: int) -> list[int]:
    """The places of the best, the best first, the earliest of equals first."""
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:count]


class Choice(NamedTuple):
    """The slot that was chosen: its place among those offered, its score, the probability of being chosen, and whether
    it was chosen to learn. `ranked`: the places of those that may be, the best first."""

    at: int
    score: float
    propensity: float
    is_explored: bool
    ranked: Sequence[int]


def choose(scores: Sequence[float], draw: float, may_explore: bool) -> Choice:
    """The best slot, or with a probability of `EXPLORED_SHARE` one of the best few, each alike (the best among them: so
    it is chosen with 1 - share + share / count). The earliest of equals is the best. `draw` lies in [0, 1)."""
    assert scores, "there is a slot"
    ranked = best(scores, EXPLORED_SLOTS)
    first, count = ranked[0], len(ranked)
    if not may_explore or count == 1:
        return Choice(first, scores[first], 1.0, False, ranked)
    chosen, is_explored = first, draw < EXPLORED_SHARE
    if is_explored:
        chosen = ranked[min(int(draw / EXPLORED_SHARE * count), count - 1)]
    propensity = EXPLORED_SHARE / count + (1.0 - EXPLORED_SHARE) * (chosen == first)
    return Choice(chosen, scores[chosen], propensity, is_explored, ranked)
