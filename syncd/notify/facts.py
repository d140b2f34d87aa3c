"""What conditions may ask of a user: the answers to the functions of `expressions.py`.

Owns the faded counts of events. Must not know what a condition is for.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from syncd.notify import profile, returning
from syncd.notify.civil import shown
from syncd.notify.desk import Desk
from syncd.notify.expressions import Facts
from syncd.notify.limits import COUNTS_MAX
from syncd.notify.profile import DAY_MS, HOUR_MS


def facts(desk: Desk, event: Mapping[str, Any]) -> Facts:
    """For a condition about an event of this user."""

    def call(function: str, arguments: Sequence[Any]) -> Any:
        match function:
            case "count":
                name, span = arguments
                return count(desk, name, span.nominal_ms)
            case "since":
                found = desk.standing.counts.get(_key(arguments[0], 0))
                return None if found is None else max(desk.now_ms - found[1], 0) / HOUR_MS
            case "affinity":
                return profile.affinity_at(desk.profile, arguments[0], desk.now_ms)
            case "p_return":
                is_known = arguments[0].nominal_ms == 7 * DAY_MS
                return returning.chance(desk.profile, desk.now_ms) if is_known else None
            case "sessions":
                return desk.profile.sessions
            case "hour":
                return shown(desk.zone, desk.now_ms).hour
        assert function == "weekday", "every function of conditions has an answer"
        return shown(desk.zone, desk.now_ms).isoweekday()

    return Facts(event, call)


def _key(event: str, span_ms: int) -> str:
    return f"{event} {span_ms}"


def count(desk: Desk, event: str, span_ms: int) -> float:
    """How often an event came within a span, faded: each counts e^(-age / span), so that a steady rate comes to as much
    as an exact count would."""
    found = desk.standing.counts.get(_key(event, span_ms))
    if found is None:
        return 0.0
    value, at_ms = found
    return value * math.exp(-max(desk.now_ms - at_ms, 0) / span_ms)


def counted(desk: Desk, event: str, at_ms: int) -> None:
    """One more, in each span over which somebody asks. It came at `at_ms`, which may be long ago."""
    spans = desk.current.counted.get(event, ())
    if not spans:
        return
    counts = dict(desk.standing.counts)
    for span_ms in spans:
        key = _key(event, span_ms)
        if span_ms:
            adds = math.exp(-max(desk.now_ms - at_ms, 0) / span_ms)
            counts[key] = (count(desk, event, span_ms) + adds, desk.now_ms)
        else:
            counts[key] = (1.0, max(at_ms, counts[key][1]) if key in counts else at_ms)
    _keep(desk, counts)


def forgotten(desk: Desk, event: str, span_ms: int) -> None:
    """Count from nothing again."""
    counts = dict(desk.standing.counts)
    counts.pop(_key(event, span_ms), None)
    _keep(desk, counts)


def _keep(desk: Desk, counts: dict[str, tuple[float, int]]) -> None:
    while len(counts) > COUNTS_MAX:
        del counts[min(counts, key=lambda name: (counts[name][1], name))]
    desk.standing = desk.standing._replace(counts=counts)
