"""Decisions as they are told: to whoever operates syncd, whole; to the person it is about, in words without internals.

Owns both forms, and the counterfactual: what would have become of it but for the gate that decided. Must not know HTTP
or the command line; it reads rows and decides nothing. What is told is what was recorded when it was decided, so it
stays true whatever has changed since.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from syncd.notify.civil import BadTime, written, zone
from syncd.notify.desk import identity
from syncd.notify.gates import STOPS, WAITS
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DECISIONS, DISPATCHES, STANDINGS, DecisionRow, DispatchRow

PAGE_MAX = 200  # as many as are kept of one user
OUTCOMES = ("sent", "deferred", "digested", "collapsed", "suppressed", "held_out", "expired", "cancelled")


def found(tx: Reader, owner: bytes, number: int) -> DecisionRow | None:
    return DECISIONS.get(tx, keys.decision(owner, number))


def listed(tx: Reader, user: str, before: int | None, limit: int) -> list[tuple[int, DecisionRow]]:
    """The decisions about a user with a number below `before`, newest first."""
    owner = keys.owner(user)
    start, stop = keys.of_user_range(keys.DECISION, owner)
    if before is not None:
        stop = keys.decision(owner, before)
    rows = [(keys.parse_of_user(key)[1], row) for key, row in islice(DECISIONS.scan(tx, (start, stop)), PAGE_MAX * 2)]
    return list(reversed(rows))[:limit]


def told(tx: Reader, owner: bytes, number: int, row: DecisionRow) -> dict[str, Any]:
    """All that is known of a decision, ready for JSON."""
    dispatch = None if row.document is None else DISPATCHES.get(tx, keys.dispatch(owner, row.document))
    if dispatch is not None and dispatch.decision != number:
        dispatch = None  # the same document was delivered anew
    verdicts = [dict(zip(("gate", "says", "words", "until_ms"), verdict, strict=True)) for verdict in row.verdicts]
    return {
        "id": identity(owner, number),
        "user": row.user,
        "workflow": row.workflow or None,
        "version": row.version or None,
        "category": row.category,
        "topic": row.topic,
        "priority": row.priority,
        "collapse": row.collapse,
        "source": None if row.source is None else {"source": row.source[0], "id": row.source[1]},
        "made_ms": row.made_ms,
        "decided_ms": row.decided_ms,
        "expires_ms": row.expires_ms,
        "outcome": row.outcome,
        "reason": row.reason,
        "until_ms": row.until_ms,
        "into": row.into,
        "by": row.by,
        "silent": row.is_silent,
        "explanation": row.explanation,
        "counterfactual": counterfactual(tx, owner, row),
        "verdicts": verdicts,
        "scores": [{"at_ms": at_ms, "score": score} for at_ms, score in row.scores],
        "choice": _choice(row),
        "content": _content(row),
        "past": [dict(zip(("at_ms", "outcome", "reason", "until_ms"), each, strict=True)) for each in row.past],
        "delivery": None if dispatch is None else _delivery(row, dispatch),
    }


def _choice(row: DecisionRow) -> dict[str, Any] | None:
    if row.choice is None:
        return None
    return dict(zip(("at_ms", "propensity", "explored", "draw"), row.choice, strict=True))


def _content(row: DecisionRow) -> dict[str, Any]:
    return {name: row.content[name] for name in ("title", "body", "template", "propensity") if name in row.content}


def _delivery(row: DecisionRow, dispatch: DispatchRow) -> dict[str, Any]:
    receipts = {name: getattr(dispatch, name) for name in ("seen_ms", "opened_ms", "dismissed_ms")}
    return {"document": row.document, "at_ms": dispatch.at_ms, **receipts}


def counterfactual(tx: Reader, owner: bytes, row: DecisionRow) -> str | None:
    """What would have been but for the gate that decided, as one sentence; None if it was sent, or no gate decided."""
    if row.outcome == "sent" or row.reason is None:
        return None
    decisive = next((verdict for verdict in row.verdicts if verdict[0] == row.reason), None)
    others = [verdict for verdict in row.verdicts if verdict[1] in (STOPS, WAITS) and verdict is not decisive]
    at, but = _clock(tx, owner, row.decided_ms), f"but for {row.reason}"
    if others:
        first = others[0]
        kept = "would have stopped it" if first[1] == STOPS else "would have made it wait"
        return f"Not sent at {at} even {but}: {first[0]} {kept} ({first[2]})."
    until = "" if row.until_ms is None else f"; it is tried again at {_clock(tx, owner, row.until_ms)}"
    return f"It would have been sent at {at} {but}{until}."


def _clock(tx: Reader, owner: bytes, at_ms: int) -> str:
    """A moment on the person's clock."""
    standing = STANDINGS.get(tx, keys.standing(owner))
    try:
        at = zone("UTC" if standing is None else standing.zone)
    except BadTime:  # a zone that has left the database since
        at = zone("UTC")
    return written(at, at_ms)


# -- to the person ----------------------------------------------------------------------------------------------------

# Why, by the gate that decided. What would tell of experiments, scores or workflows is not theirs to puzzle over.
_WHY: Mapping[str, str] = {
    "preference": "You chose not to get these, or to get them less often.",
    "mute": "You had muted it.",
    "suppression": "Nothing can be sent to you at the moment.",
    "segment": "It was not meant for you.",
    "collapse": "A newer one took its place.",
    "expiry": "It would have come too late to be of use.",
    "caps": "You had got enough of these for the time.",
    "quiet hours": "It was during your quiet hours.",
    "budget": "You had got enough of these for the time.",
    "back-off": "You did not look at the last ones of this kind, so they come less often.",
    "timing": "It waits for a time of day at which you are usually here.",
    "cancelled": "It was no longer needed.",
    "throttle": "There were too many of these at once.",
}
_OTHERWISE = "It was not sent."


def told_to_person(tx: Reader, owner: bytes, number: int, row: DecisionRow) -> dict[str, Any]:
    """Why somebody got a notification, or did not, in words for them."""
    about = f"about {row.topic}" if row.topic is not None else f"of the kind {row.category}"
    if row.outcome == "sent":
        why = f"You got this because it is {about}, and you have not turned that off."
        if row.priority == "critical":
            why = f"You got this because messages {about} are about your safety and are always sent."
    elif row.outcome == "deferred":
        why = (
            f"{_WHY.get(row.reason or '', _OTHERWISE)} It comes at {_clock(tx, owner, row.until_ms or row.decided_ms)}."
        )
    elif row.outcome == "digested":
        why = f"You chose to get these together: it is in your {row.into} summary."
    else:
        why = _WHY.get(row.reason or "", _OTHERWISE)
    return {
        "id": identity(owner, number),
        "category": row.category,
        "topic": row.topic,
        "title": row.content.get("title") if row.outcome in ("sent", "digested") else None,
        "decided_ms": row.decided_ms,
        "sent": row.outcome == "sent",
        "why": why,
    }
