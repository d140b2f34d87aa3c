"""The gates that a notification passes, each with its verdict, and the one outcome that they come to.

Owns every rule by which a notification is not sent now, and the sentence that says why. Must not know the store, the
clock or workflows: what has been sent, what a person chose and what time it is are handed in. The same gates are asked
when something is decided and again when its time has come.

Gates do not stop each other: all are asked, so that a reader sees everything that stood in the way; the first decisive
one, in the order of `GATES` (at the end of them), is the reason. Those that only ask to wait (caps, quiet hours) are
asked again at the moment to which they point, until both let it pass: a cap that is free again at three in the night is
no reason to send at three.

Invariants: G1 each candidate comes to exactly one outcome. G2 what is sent is in no quiet hours, over no cap and not
expired at that moment. G3 a critical one passes holdout, mute, caps, quiet hours and every preference but one for its
own category, and nothing else. G4 the outcome is a function of what is handed in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from syncd.notify.civil import QuietHours, written
from syncd.notify.policy import (
    CAP_COUNT_MAX,
    Cap,
    Category,
    Policy,
    Preferences,
    Resolved,
    frequency,
    muted_until,
)

PASSES, STOPS, WAITS, SILENT = "passes", "stops", "waits", "silent"
SENDS_KEPT = CAP_COUNT_MAX  # the latest of a person: as many as a cap may count
WAIT_ROUNDS_MAX = 64  # of caps and quiet hours sending each other on: a month of nights, and as many caps
WAIT_MS_MAX = 31 * 86_400_000


class Sent(NamedTuple):
    """Something that was shown to a person: when, and its category."""

    at_ms: int
    category: str


class Candidate(NamedTuple):
    """What a workflow or a backend would like to send. `newer_id`: a later candidate of the same person with the same
    collapse key, which is waiting or was sent. `in_segment`: whether the workflow's condition on people holds.
    `is_digest`: it is what was gathered for people who want few, so the wish for a digest does not hold it back."""

    category: str
    topic: str | None = None
    expires_ms: int | None = None
    newer_id: str | None = None
    in_segment: bool = True
    is_digest: bool = False


class Person(NamedTuple):
    """What is known of the recipient: their clock, choices and latest notifications. `holdout_draw`: a number in [0, 1)
    that is theirs for ever. `suppressed`: why nothing may be sent to them at all, if so."""

    zone: ZoneInfo
    wishes: Preferences
    sent: Sequence[Sent]
    holdout_draw: float
    suppressed: str | None = None


class _Asked(NamedTuple):
    """What a gate is asked about. `wanted`, `quiet`: the wish and the quiet hours that count for it."""

    candidate: Candidate
    category: Category
    policy: Policy
    person: Person
    now_ms: int
    wanted: Resolved
    quiet: QuietHours | None


class Verdict(NamedTuple):
    """What one gate says. `until_ms`: when it would let it pass, if it waits. `words`: why, as half a sentence."""

    gate: str
    says: str
    words: str
    until_ms: int | None = None


class Outcome(NamedTuple):
    """What becomes of a candidate: `sent`, `deferred` (until), `digested` (into), `collapsed` (by), `suppressed`,
    `held_out` or `expired`. `is_silent`: sent without a sound. `reason`: the gate that decided."""

    kind: str
    reason: str | None = None
    until_ms: int | None = None
    into: str | None = None
    by: str | None = None
    is_silent: bool = False


class Judgement(NamedTuple):
    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    explanation: str


def judged(candidate: Candidate, policy: Policy, person: Person, now_ms: int) -> Judgement:
    """All verdicts, the outcome, and the sentence that explains it."""
    asked = _asked(candidate, policy, person, now_ms)
    verdicts = tuple([gate(asked) for gate in _ALL])
    outcome = _outcome(asked, verdicts)
    return Judgement(outcome, verdicts, _sentence(outcome, verdicts, person, now_ms))


def _asked(candidate: Candidate, policy: Policy, person: Person, now_ms: int) -> _Asked:
    category, wishes = policy.categories[candidate.category], person.wishes
    wanted = frequency(policy, wishes, category, candidate.topic)
    return _Asked(candidate, category, policy, person, now_ms, wanted, wishes.quiet(policy))


_STOPPED = {"holdout": "held_out", "collapse": "collapsed", "expiry": "expired"}  # by other gates: `suppressed`


def _outcome(asked: _Asked, verdicts: Sequence[Verdict]) -> Outcome:
    candidate, wanted = asked.candidate, asked.wanted.frequency
    for verdict in verdicts:
        if verdict.says == STOPS:
            newer_id = candidate.newer_id if verdict.gate == "collapse" else None
            return Outcome(_STOPPED.get(verdict.gate, "suppressed"), verdict.gate, by=newer_id)
    if wanted != "instant" and not candidate.is_digest:
        return Outcome("digested", "preference", into=wanted)
    waiting = next((verdict for verdict in verdicts if verdict.says == WAITS), None)
    if waiting is None:
        return Outcome("sent", is_silent=any(verdict.says == SILENT for verdict in verdicts))
    until_ms = _free_ms(asked, asked.now_ms)
    if until_ms is None or (candidate.expires_ms is not None and until_ms >= candidate.expires_ms):
        return Outcome("expired", waiting.gate)  # no moment is left: it is told now rather than after a vain wait
    return Outcome("deferred", waiting.gate, until_ms)


def free_ms(candidate: Candidate, policy: Policy, person: Person, now_ms: int, from_ms: int) -> int | None:
    """The first moment from `from_ms` on that caps and quiet hours both let pass, if nothing else is sent meanwhile;
    None if that is far away."""
    return _free_ms(_asked(candidate, policy, person, now_ms), from_ms)


def _free_ms(asked: _Asked, at_ms: int) -> int | None:
    for _ in range(WAIT_ROUNDS_MAX):
        full = _full(asked, at_ms)
        quiet_end_ms = _quiet_end_ms(asked, at_ms) if _waits_for_quiet(asked) else None
        if full is None and quiet_end_ms is None:
            return at_ms
        at_ms = max(0 if full is None else full[0], quiet_end_ms or 0)
        if at_ms > asked.now_ms + WAIT_MS_MAX:
            return None
    return None


# -- the gates --------------------------------------------------------------------------------------------------------


def _holdout(asked: _Asked) -> Verdict:
    policy = asked.policy
    if asked.category.priority == "critical" or asked.person.holdout_draw >= policy.holdout:
        return _NOT_HELD_OUT
    return Verdict(
        "holdout", STOPS, f"one of the {policy.holdout:.0%} of people who get nothing, so that the rest can be compared"
    )


def _preference(asked: _Asked) -> Verdict:
    wanted, faults = asked.wanted, asked.person.wishes.faults
    ignored = f" (ignored, as it is no choice: {'; '.join(faults)})" if faults else ""
    if wanted.frequency == "off":
        return Verdict("preference", STOPS, f"turned off by {wanted.by}{ignored}")
    return Verdict("preference", PASSES, f"{wanted.frequency} by {wanted.by}{ignored}")


def _mute(asked: _Asked) -> Verdict:
    person, now_ms = asked.person, asked.now_ms
    found = muted_until(person.wishes, asked.category, asked.candidate.topic, now_ms)
    if found is None:
        return _NOT_MUTED
    until_ms, by = found
    return Verdict("mute", STOPS, f"{by} is muted until {_clock(person, until_ms, now_ms)}", until_ms)


def _suppression(asked: _Asked) -> Verdict:
    suppressed = asked.person.suppressed
    return _NOT_SUPPRESSED if suppressed is None else Verdict("suppression", STOPS, suppressed)


def _segment(asked: _Asked) -> Verdict:
    return _IN_SEGMENT if asked.candidate.in_segment else _NOT_IN_SEGMENT


def _collapse(asked: _Asked) -> Verdict:
    newer_id = asked.candidate.newer_id
    if newer_id is None:
        return _NEWEST
    return Verdict("collapse", STOPS, f"a newer one of its kind took its place ({newer_id})")


def _expiry(asked: _Asked) -> Verdict:
    expires_ms, now_ms = asked.candidate.expires_ms, asked.now_ms
    if expires_ms is None or now_ms < expires_ms:
        return _OF_USE
    return Verdict("expiry", STOPS, f"of no use since {_clock(asked.person, expires_ms, now_ms)}")


def _caps(asked: _Asked) -> Verdict:
    if asked.category.priority == "critical":
        return _NEVER_CAPPED
    found = _full(asked, asked.now_ms)
    if found is None:
        return _UNDER_CAPS
    until_ms, cap, whose = found
    free = _clock(asked.person, until_ms, asked.now_ms)
    return Verdict("caps", WAITS, f"cap {cap}{whose} is full, free again at {free}", until_ms)


def _full(asked: _Asked, at_ms: int) -> tuple[int, Cap, str] | None:
    """The cap that is full at a moment for longest: until when, and whose it is."""
    category, person = asked.category, asked.person
    if not person.sent or category.priority == "critical":
        return None  # a cap is of one at least
    found: tuple[int, Cap, str] | None = None
    own = [sent for sent in person.sent if sent.category == category.name]
    for cap, sent, whose in (
        *((cap, own, f" of {category.name}") for cap in category.caps),
        *((cap, person.sent, "") for cap in asked.policy.caps),
    ):
        until_ms = free_again_ms(cap, sent, person.zone, at_ms)
        if until_ms > at_ms and (found is None or until_ms > found[0]):
            found = until_ms, cap, whose
    return found


def free_again_ms(cap: Cap, sent: Sequence[Sent], zone: ZoneInfo, now_ms: int) -> int:
    """The first moment from now on at which one more keeps the cap: when the oldest of the latest `count` has left the
    span. `now_ms` itself if the cap is not full."""
    if len(sent) < cap.count:
        return now_ms
    oldest = sorted(each.at_ms for each in sent)[-cap.count]
    return max(now_ms, cap.span.end_ms(zone, oldest))


def _quiet(asked: _Asked) -> Verdict:
    _, category, policy, person, now_ms, _, quiet = asked
    if quiet is None or (until_ms := _quiet_end_ms(asked, now_ms)) is None:
        return _NOT_QUIET
    if category.priority == "critical":
        return Verdict("quiet hours", PASSES, f"critical, so it passes the quiet hours {quiet}")
    match policy.quiet_action:
        case "drop":
            return Verdict("quiet hours", STOPS, f"the quiet hours {quiet} drop it", until_ms)
        case "silence":
            return Verdict("quiet hours", SILENT, f"without a sound in the quiet hours {quiet}", until_ms)
    return Verdict("quiet hours", WAITS, f"quiet hours {quiet} end at {_clock(person, until_ms, now_ms)}", until_ms)


def _quiet_end_ms(asked: _Asked, at_ms: int) -> int | None:
    """When the quiet hours end that a moment is in; None if it is in none."""
    if asked.quiet is None:
        return None
    until_ms = asked.quiet.end_ms(asked.person.zone, at_ms)
    return until_ms if until_ms > at_ms else None


def _waits_for_quiet(asked: _Asked) -> bool:
    return asked.policy.quiet_action == "defer" and asked.category.priority != "critical"


# What most gates say of most candidates.
_NOT_HELD_OUT = Verdict("holdout", PASSES, "not held out")
_NOT_MUTED = Verdict("mute", PASSES, "not muted")
_NOT_SUPPRESSED = Verdict("suppression", PASSES, "may be written to")
_IN_SEGMENT = Verdict("segment", PASSES, "among those it is for")
_NOT_IN_SEGMENT = Verdict("segment", STOPS, "not among those it is for")
_NEWEST = Verdict("collapse", PASSES, "the newest of its kind")
_OF_USE = Verdict("expiry", PASSES, "still of use")
_NEVER_CAPPED = Verdict("caps", PASSES, "critical, so it counts against no cap")
_UNDER_CAPS = Verdict("caps", PASSES, "under every cap")
_NOT_QUIET = Verdict("quiet hours", PASSES, "no quiet hours now")

_GATES: Mapping[str, Callable[[_Asked], Verdict]] = {
    "holdout": _holdout,
    "preference": _preference,
    "mute": _mute,
    "suppression": _suppression,
    "segment": _segment,
    "collapse": _collapse,
    "expiry": _expiry,
    "caps": _caps,
    "quiet hours": _quiet,
}
_ALL = tuple(_GATES.values())
GATES = tuple(_GATES)


# -- words ------------------------------------------------------------------------------------------------------------


def _clock(person: Person, at_ms: int, now_ms: int) -> str:
    """A moment on the person's clock, with the date unless it is today's."""
    at = written(person.zone, at_ms)
    if at_ms == now_ms:
        return at[11:]
    return at[11:] if at[:10] == written(person.zone, now_ms)[:10] else at


def _sentence(outcome: Outcome, verdicts: Sequence[Verdict], person: Person, now_ms: int) -> str:
    """One English sentence: what became of it, why, and what would have been otherwise."""
    if outcome.kind == "sent" and not outcome.is_silent:
        return f"Sent at {_clock(person, now_ms, now_ms)}."
    decisive = next((verdict for verdict in verdicts if verdict.gate == outcome.reason), None)
    others = [verdict for verdict in verdicts if verdict.says in (STOPS, WAITS) and verdict is not decisive]
    also = f" (and {'; '.join(verdict.words for verdict in others)})" if others else ""
    match outcome.kind:
        case "sent":
            silent = next((verdict.words for verdict in verdicts if verdict.says == SILENT), None)
            return f"Sent at {_clock(person, now_ms, now_ms)}{f', {silent}' if silent else ''}."
        case "digested":
            assert decisive is not None
            return f"Kept for the {outcome.into} digest: {decisive.words}{also}."
        case "deferred":
            assert decisive is not None and outcome.until_ms is not None
            now, until = _clock(person, now_ms, now_ms), _clock(person, outcome.until_ms, now_ms)
            return f"Would have been sent at {now} but for this: {decisive.words}{also}. It is tried again at {until}."
    assert decisive is not None
    return f"Not sent: {decisive.words}{also}."
