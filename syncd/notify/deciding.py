"""What becomes of one candidate: all gates, the moment, the outcome, the record that explains it.

Owns the way of a candidate from its making to its one final outcome, when it is made and again each time it falls due.
Must not know workflows' steps (`runs.py` says what is offered, and goes on afterwards), nor how rows are written.

A candidate is judged by `gates.judged`; what a person's behaviour says (they ignore this category; they have had as
many this week as are worth their disturbance) is two more verdicts, which bind only what is neither urgent nor asked
for. What may be sent is then given its moment: the best slot within its window, or at once. When its time has come the
same is asked again of the state as it is then; only the moment is not chosen anew.

Invariants: N1 each candidate comes to exactly one final outcome. N9 the outcome is a function of the rows, the policy,
the time and the draw, which is recorded. N10 a candidate that waits has a run with a timer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from syncd.notify import digests, profile, timing, volume
from syncd.notify.civil import Span, offset_s, shown
from syncd.notify.desk import Delivery, Desk, identity
from syncd.notify.gates import (
    PASSES,
    STOPS,
    WAITS,
    Candidate,
    Judgement,
    Outcome,
    Person,
    Sent,
    Verdict,
    free_ms,
    judged,
)
from syncd.notify.limits import SCORES_KEPT, SLOTS_MAX
from syncd.notify.policy import PRIORITIES, Category, Policy
from syncd.notify.profile import HOUR_MS
from syncd.notify.workflows import Window
from syncd.store.tables import DecisionRow

PRIOR_POPULATION = 200.0  # sessions that the usual day of nobody in particular weighs, beside those of all people
# Shown to a person, faded, before what they make of it bounds how many they get: until then the operator's word holds.
EVIDENCE_MIN = volume.USUAL_SHOWN / 2


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate as its run has it. `is_learned`: whether what a person's behaviour says may hold it back."""

    category: Category
    topic: str | None
    expires_ms: int | None
    window: Window | None
    is_learned: bool
    is_digest: bool = False


def rank(priority: str) -> int:
    """The place of a priority among timers that are due in the same millisecond: critical ones first."""
    return len(PRIORITIES) - 1 - PRIORITIES.index(priority)


def offered(desk: Desk, run: int, offer: Offer, content: dict[str, Any], source: tuple[str, str] | None = None) -> int:
    """A new candidate of a run; the number of its decision, which is still to be decided."""
    row = desk.run(run)
    assert row is not None, "a run that ended offers nothing"
    expires_ms = offer.expires_ms
    return desk.decision_begun(
        DecisionRow(
            desk.user, run, row.name if row.kind != "direct" else "", row.version, offer.category.name, offer.topic,
            offer.category.priority, row.collapse, source, desk.now_ms, expires_ms, desk.now_ms, "", None, None, None,
            None, False, (), "", (), None, content, (), None,
        )
    )  # fmt: skip


def person(desk: Desk, category: str, topic: str | None) -> Person:
    """What is known of the user now."""
    sent = [Sent(at_ms, name) for at_ms, name, _, _ in desk.standing.sends]
    return Person(desk.zone, desk.wishes(category, topic), sent, desk.lot() if desk.current.policy.holdout else 1.0)


def policy_with(desk: Desk, category: Category) -> Policy:
    """The policy in force, with the category as the run has it."""
    policy = desk.current.policy
    return replace(policy, categories={**policy.categories, category.name: category})


def decide(desk: Desk, number: int, offer: Offer, is_due: bool) -> bool:
    """Judge a candidate now. `is_due`: its moment, chosen before, has come. Whether its outcome is final; if not, its
    run waits with it."""
    category, now_ms = offer.category, desk.now_ms
    policy, who = policy_with(desk, category), person(desk, category.name, offer.topic)
    candidate = Candidate(category.name, offer.topic, offer.expires_ms, is_digest=offer.is_digest)
    found = judged(candidate, policy, who, now_ms)
    learned = _learned(desk, offer) if offer.is_learned else ()
    found = Judgement(found.outcome, (*found.verdicts, *learned), found.explanation)
    outcome = found.outcome
    if outcome.kind in ("sent", "deferred"):
        outcome, explanation = _held(found, candidate, policy, who, now_ms)
        found = replace(found, outcome=outcome, explanation=explanation)
    moments = None
    if outcome.kind in ("sent", "deferred") and not is_due:
        moments = _timed(desk, offer, outcome, policy, who)
        if moments is not None and moments.at_ms > now_ms:
            found = _later(desk, found, moments.at_ms)
    return _recorded(desk, number, found, moments, offer)


def _learned(desk: Desk, offer: Offer) -> tuple[Verdict, ...]:
    """What the person's behaviour says."""
    stats = profile.category_at(desk.profile, offer.category.name, desk.now_ms)
    row, expected, week = stats.ignored_in_a_row, volume.rates(stats), _this_week(desk)
    budget = volume.weekly_budget(expected)
    if stats.shown >= EVIDENCE_MIN and week >= budget:
        words = f"{week} this week are as many as are worth their disturbance to this person"
        weekly = Verdict("budget", STOPS, words)
    else:
        weekly = Verdict("budget", PASSES, f"{week} of {budget} this week")
    times, last_ms = volume.backoff(row), _last_ms(desk, offer.category.name)
    until_ms = last_ms + times * _distance_ms(offer.category) if last_ms is not None and times > 1 else 0
    if until_ms <= desk.now_ms:
        return weekly, Verdict("back-off", PASSES, "not ignored")
    until = f"{shown(desk.zone, until_ms):%Y-%m-%d %H:%M}"
    words = f"the last {row} of {offer.category.name} were ignored, so it waits {times} times as long, until {until}"
    return weekly, Verdict("back-off", WAITS, words, until_ms)


def _this_week(desk: Desk) -> int:
    since_ms = desk.now_ms - volume.WEEK_MS
    return sum(at_ms > since_ms for at_ms, _, _, _ in desk.standing.sends)


def _last_ms(desk: Desk, category: str) -> int | None:
    return max((at_ms for at_ms, name, _, _ in desk.standing.sends if name == category), default=None)


def _distance_ms(category: Category) -> int:
    """Between two of a category: what its caps leave, or the time in which one comes to be worth half."""
    return max((cap.span.nominal_ms // cap.count for cap in category.caps), default=category.half_life.nominal_ms)


def _held(found: Judgement, candidate: Candidate, policy: Policy, who: Person, now_ms: int) -> tuple[Outcome, str]:
    """The outcome and sentence of what the gates let pass, now or later, once behaviour has its say."""
    for verdict in found.verdicts:
        if verdict.gate == "budget" and verdict.says == STOPS:
            return Outcome("suppressed", "budget"), f"Not sent: {verdict.words}."
        if verdict.gate == "back-off" and verdict.until_ms is not None:
            earliest_ms = max(verdict.until_ms, found.outcome.until_ms or 0)
            until_ms = free_ms(candidate, policy, who, now_ms, earliest_ms)
            if until_ms is None or (candidate.expires_ms is not None and until_ms >= candidate.expires_ms):
                return Outcome("expired", "back-off"), f"Not sent: {verdict.words}, and it is of no use by then."
            return Outcome("deferred", "back-off", until_ms), f"Not sent yet: {verdict.words}."
    return found.outcome, found.explanation


# -- the moment -------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """The moment that was chosen, and what it was chosen from: (at, score), the best first."""

    at_ms: int
    scores: tuple[tuple[int, float], ...]
    propensity: float
    is_explored: bool
    draw: float


def _timed(desk: Desk, offer: Offer, outcome: Outcome, policy: Policy, who: Person) -> Moments | None:
    """The best moment within the window that the gates let pass; None if there is nothing to choose."""
    window, category = offer.window, offer.category
    if window is None or window.at != "best" or category.priority == "critical":
        return None
    first_ms = outcome.until_ms or desk.now_ms
    end_ms = window.within.end_ms(desk.zone, desk.now_ms)
    if offer.expires_ms is not None:
        end_ms = min(end_ms, offer.expires_ms - 1)
    slots = _slots(desk, who, policy, first_ms, end_ms)
    people = _population(desk)
    own = profile.hours_at(desk.profile, desk.now_ms)
    stats = profile.category_at(desk.profile, category.name, desk.now_ms)
    expected, week = volume.rates(stats), _this_week(desk)
    worth = timing.Worth(
        1.0, category.half_life.nominal_ms, expected.opened * volume.WEARS_OFF**week, expected.dismissed,
        volume.DISMISSAL_PRICE, volume.disturbance(week),
    )  # fmt: skip
    spread = {is_weekend: timing.density(own, people, is_weekend) for is_weekend in {slot.is_weekend for slot in slots}}
    scores = [
        timing.score(worth, slot, timing.receptiveness(spread[slot.is_weekend], slot.second), desk.now_ms)
        for slot in slots
    ]
    draw = desk.draw()
    choice = timing.choose(scores, draw, may_explore=True)
    ranked = sorted(range(len(slots)), key=lambda index: (-scores[index], index))[:SCORES_KEPT]
    kept = tuple((slots[index].at_ms, round(scores[index], 6)) for index in ranked)
    return Moments(slots[choice.at].at_ms, kept, choice.propensity, choice.is_explored, draw)


def _slots(desk: Desk, who: Person, policy: Policy, first_ms: int, end_ms: int) -> list[timing.Slot]:
    """The first moment that is free, then each full hour of the clock that is, up to the end of the window."""
    quiet = who.wishes.quiet(policy)
    last_ms = min(max(end_ms, first_ms), first_ms + SLOTS_MAX * HOUR_MS)
    offset = offset_s(desk.zone, first_ms)
    # Within two days a clock is changed once at most: where both ends have one offset, local time is an addition.
    is_steady = offset == offset_s(desk.zone, last_ms)
    slots: list[timing.Slot] = []
    at_ms = first_ms
    while at_ms <= last_ms and len(slots) < SLOTS_MAX:
        day, second = divmod(at_ms / 1000 + (offset if is_steady else offset_s(desk.zone, at_ms)), 86_400)
        # The first is what the gates said: even silently in quiet hours.
        if at_ms == first_ms or quiet is None or not quiet.has(second):
            slots.append(timing.Slot(at_ms, second, (day + 3) % 7 >= 5))  # 1970-01-01 was a Thursday
        at_ms += HOUR_MS - round(second % 3600 * 1000)
    return slots


def _population(desk: Desk) -> list[float]:
    """When people are there, all together: 48 shares, drawn towards the usual while little is known."""
    hours = profile.hours_at(desk.population, desk.now_ms)
    shares: list[float] = []
    for at in (0, timing.HOURS):
        day = hours[at : at + timing.HOURS]
        total = sum(day) + PRIOR_POPULATION
        usual = timing.NOBODYS_HOURS[at : at + timing.HOURS]
        shares += [(day[hour] + PRIOR_POPULATION * usual[hour]) / total for hour in range(timing.HOURS)]
    return shares


def _later(desk: Desk, found: Judgement, at_ms: int) -> Judgement:
    """What may be sent and waits for its moment."""
    if found.outcome.kind == "deferred" and found.outcome.until_ms == at_ms:
        return found
    at = f"{shown(desk.zone, at_ms):%Y-%m-%d %H:%M}"
    why = f" {found.explanation}" if found.outcome.kind == "deferred" else ""
    explanation = f"Waits for {at}, when this person is more likely to open it.{why}"
    return replace(found, outcome=Outcome("deferred", "timing", at_ms), explanation=explanation)


# -- the record -------------------------------------------------------------------------------------------------------


def _recorded(desk: Desk, number: int, found: Judgement, moments: Moments | None, offer: Offer) -> bool:
    outcome, run = found.outcome, desk.decision(number).run
    said: dict[str, Any] = {
        "verdicts": [tuple(verdict) for verdict in found.verdicts],
        "explanation": found.explanation,
        "is_silent": outcome.is_silent,
        "reason": outcome.reason,
        "into": outcome.into,
        "by": outcome.by,
    }
    if moments is not None:
        said["scores"] = moments.scores
        said["choice"] = (moments.at_ms, moments.propensity, moments.is_explored, moments.draw)
    match outcome.kind:
        case "deferred":
            assert outcome.until_ms is not None and outcome.until_ms > desk.now_ms, "a wait has an end, and not now"
            desk.decided(number, outcome="deferred", **{**said, "until_ms": outcome.until_ms})
            urgency = rank(offer.category.priority)
            desk.alter(run, state="decides", decision=number, due_ms=outcome.until_ms, rank=urgency, civil=None)
            return False
        case "digested":
            assert outcome.into is not None, "a digest has a rhythm"
            row = desk.decision(number)
            if not digests.gathered(desk, offer.category.name, outcome.into, number, title_of(row.content)):
                said |= {"into": None, "reason": "runs"}
                said["explanation"] = "Not sent: this person has as many runs as there may be, so nothing gathers it."
                desk.decided(number, outcome="suppressed", **said)
            else:
                desk.decided(number, outcome="digested", **said)
        case "sent":
            document = _delivered(desk, number, offer)
            desk.decided(number, outcome="sent", **{**said, "document": document})
        case _:
            desk.decided(number, outcome=outcome.kind, **said)
    return True


def title_of(content: Mapping[str, Any]) -> str:
    title = content.get("title")
    return title if isinstance(title, str) else ""


def _delivered(desk: Desk, number: int, offer: Offer) -> str:
    """Deliver at the end of the transaction, and remember it. Returns the document's id."""
    row, category = desk.decision(number), offer.category.name
    name = identity(desk.owner, number)
    content = dict(row.content)
    document = content.pop("document", name)
    fields = {"at": desk.now_ms, "category": category, **content, "decision": name}
    if row.topic is not None:
        fields["topic"] = row.topic
    if row.is_silent:
        fields["silent"] = True
    desk.deliveries.append(Delivery(number, document, fields))
    if offer.category.priority != "critical":
        _learn_shown(desk, category)
        desk.sent(desk.now_ms, category, number)
    return str(document)


def _learn_shown(desk: Desk, category: str) -> None:
    """One more was shown; the one before it of its category was ignored, if nothing was heard of it until now."""
    before = next((each for each in reversed(desk.standing.sends) if each[1] == category), None)
    learned = desk.profile
    if before is not None and not before[3]:
        learned = profile.with_receipt(learned, category, "ignored", desk.now_ms)
    desk.profile = profile.with_receipt(learned, category, "shown", desk.now_ms)


# -- from outside -----------------------------------------------------------------------------------------------------


def stopped(desk: Desk, number: int, outcome: str, by: str, words: str) -> None:
    """A candidate that waits is no longer wanted: `cancelled` or `collapsed`, by what."""
    row = desk.decision(number)
    desk.decided(
        number, outcome=outcome, by=by, reason="collapse" if outcome == "collapsed" else "cancelled",
        verdicts=row.verdicts, explanation=f"Not sent: {words}.",
    )  # fmt: skip


def refused(desk: Desk, number: int, reason: str, words: str) -> None:
    """A candidate that no gate was asked about, as there is no room for it or its step lets no more pass."""
    verdicts = [(reason, STOPS, words, None)]
    desk.decided(number, outcome="suppressed", reason=reason, verdicts=verdicts, explanation=f"Not sent: {words}.")


def expiry_ms(desk: Desk, category: Category) -> int | None:
    """When a candidate made now is of no use any more."""
    span: Span | None = category.expires
    return None if span is None else span.end_ms(desk.zone, desk.now_ms)
