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
from dataclasses import replace
from typing import Any, NamedTuple

from syncd.notify import digests, profile, timing, volume
from syncd.notify.civil import Span, written
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
from syncd.notify.policy import PRIORITIES, Category, Policy
from syncd.notify.profile import CategoryStats
from syncd.notify.slots import laid_out
from syncd.notify.workflows import Window
from syncd.store.tables import DecisionRow

# Shown to a person, faded, before what they make of it bounds how many they get: until then the operator's word holds.
EVIDENCE_MIN = volume.USUAL_SHOWN / 2


class Offer(NamedTuple):
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
    if policy.categories.get(category.name) is category:
        return policy  # a run of the version that is in force
    return replace(policy, categories={**policy.categories, category.name: category})


def decide(desk: Desk, number: int, offer: Offer, is_due: bool) -> bool:
    """Judge a candidate now. `is_due`: its moment, chosen before, has come. Whether its outcome is final; if not, its
    run waits with it."""
    category, now_ms = offer.category, desk.now_ms
    policy, who = policy_with(desk, category), person(desk, category.name, offer.topic)
    candidate = Candidate(category.name, offer.topic, offer.expires_ms, is_digest=offer.is_digest)
    found = judged(candidate, policy, who, now_ms)
    behaviour = _behaviour(desk, category.name)
    if offer.is_learned:
        learned = _learned(desk, offer, behaviour)
        found = Judgement(found.outcome, (*found.verdicts, *learned), found.explanation)
        if found.outcome.kind in ("sent", "deferred"):
            found = _held(found, learned, candidate, policy, who, now_ms)
    moments, outcome = None, found.outcome
    if outcome.kind in ("sent", "deferred") and not is_due:
        made_ms = desk.decision(number).made_ms
        moments = _timed(desk, offer, outcome, policy, who, behaviour, made_ms)
        if moments is not None and moments.at_ms > now_ms:
            found = _later(desk, found, moments.at_ms)
    return _recorded(desk, number, found, moments, offer)


class Behaviour(NamedTuple):
    """What is known of a person and a category. `week`: how many of any they had within one."""

    stats: CategoryStats
    expected: volume.Rates
    week: int


def _behaviour(desk: Desk, category: str) -> Behaviour:
    stats = profile.category_at(desk.profile, category, desk.now_ms)
    return Behaviour(stats, volume.rates(stats), _this_week(desk))


def _learned(desk: Desk, offer: Offer, behaviour: Behaviour) -> tuple[Verdict, Verdict]:
    """What the person's behaviour says."""
    stats, expected, week = behaviour
    row, budget = stats.ignored_in_a_row, volume.weekly_budget(expected)
    if stats.shown >= EVIDENCE_MIN and week >= budget:
        words = f"{week} this week are as many as are worth their disturbance to this person"
        weekly = Verdict("budget", STOPS, words)
    else:
        weekly = Verdict("budget", PASSES, f"{week} of {budget} this week")
    times = volume.backoff(row)
    last_ms = _last_ms(desk, offer.category.name) if times > 1 else None
    until_ms = 0 if last_ms is None else last_ms + times * _distance_ms(offer.category)
    if until_ms <= desk.now_ms:
        return weekly, _NOT_IGNORED
    until = written(desk.zone, until_ms)
    words = f"the last {row} of {offer.category.name} were ignored, so it waits {times} times as long, until {until}"
    return weekly, Verdict("back-off", WAITS, words, until_ms)


_NOT_IGNORED = Verdict("back-off", PASSES, "not ignored")


def _this_week(desk: Desk) -> int:
    since_ms = desk.now_ms - volume.WEEK_MS
    if not desk.standing.sends:
        return 0
    return sum(at_ms > since_ms for at_ms, _, _, _ in desk.standing.sends)


def _last_ms(desk: Desk, category: str) -> int | None:
    return max((at_ms for at_ms, name, _, _ in desk.standing.sends if name == category), default=None)


def _distance_ms(category: Category) -> int:
    """Between two of a category: what its caps leave, or the time in which one comes to be worth half."""
    return max((cap.span.nominal_ms // cap.count for cap in category.caps), default=category.half_life.nominal_ms)


def _held(
    found: Judgement,
    learned: tuple[Verdict, Verdict],
    candidate: Candidate,
    policy: Policy,
    who: Person,
    now_ms: int,
) -> Judgement:
    """What the gates let pass, now or later, once behaviour has its say."""
    weekly, backoff = learned
    if weekly.says == STOPS:
        return Judgement(Outcome("suppressed", "budget"), found.verdicts, f"Not sent: {weekly.words}.")
    if backoff.until_ms is None:
        return found
    earliest_ms = max(backoff.until_ms, found.outcome.until_ms or 0)
    until_ms = free_ms(candidate, policy, who, now_ms, earliest_ms)
    if until_ms is None or (candidate.expires_ms is not None and until_ms >= candidate.expires_ms):
        words = f"Not sent: {backoff.words}, and it is of no use by then."
        return Judgement(Outcome("expired", "back-off"), found.verdicts, words)
    return Judgement(Outcome("deferred", "back-off", until_ms), found.verdicts, f"Not sent yet: {backoff.words}.")


# -- the moment -------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """The moment that was chosen, and what it was chosen from: (at, score), the best first."""

    at_ms: int
    scores: tuple[tuple[int, float], ...]
    propensity: float
    is_explored: bool
    draw: float


def _timed(
    desk: Desk, offer: Offer, outcome: Outcome, policy: Policy, who: Person, behaviour: Behaviour, made_ms: int
) -> Moments | None:
    """The best moment within the window that the gates let pass; None if there is nothing to choose. The window is as
    of when the candidate was made, however often it is judged anew."""
    window, category = offer.window, offer.category
    if window is None or window.at != "best" or category.priority == "critical":
        return None
    first_ms = outcome.until_ms or desk.now_ms
    end_ms = window.within.end_ms(desk.zone, made_ms)
    if offer.expires_ms is not None:
        end_ms = min(end_ms, offer.expires_ms - 1)
    _, expected, week = behaviour
    half_life_ms = category.half_life.nominal_ms
    worth = timing.Worth(
        1.0, half_life_ms, expected.opened * volume.worn(week), expected.dismissed,
        volume.DISMISSAL_PRICE, volume.disturbance(week),
    )  # fmt: skip
    slots = laid_out(desk.zone, who.wishes.quiet(policy), desk.now_ms, first_ms, end_ms, half_life_ms)
    own = profile.hours_at(desk.profile, desk.now_ms)
    scores = timing.scored(worth, slots.left, slots.receptive(own, desk.people))
    draw = desk.draw()
    at, _, propensity, is_explored, ranked = timing.choose(scores, draw, may_explore=True)
    kept = tuple([(slots.at_ms[each], round(scores[each], 6)) for each in ranked])
    return Moments(slots.at_ms[at], kept, propensity, is_explored, draw)


def _later(desk: Desk, found: Judgement, at_ms: int) -> Judgement:
    """What may be sent and waits for its moment."""
    if found.outcome.kind == "deferred" and found.outcome.until_ms == at_ms:
        return found
    at = written(desk.zone, at_ms)
    why = f" {found.explanation}" if found.outcome.kind == "deferred" else ""
    explanation = f"Waits for {at}, when this person is more likely to open it.{why}"
    return Judgement(Outcome("deferred", "timing", at_ms), found.verdicts, explanation)


# -- the record -------------------------------------------------------------------------------------------------------


def _recorded(desk: Desk, number: int, found: Judgement, moments: Moments | None, offer: Offer) -> bool:
    outcome, run = found.outcome, desk.decision(number).run
    said: dict[str, Any] = {
        "verdicts": found.verdicts,
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
