"""GET /v1/spaces/{space}/changes: what changed, as a long poll or as server-sent events.

Owns how a delta stands in JSON and in an event, and the two shells that wait for one. What comes next is decided by
`engine.feeding`, who waits where is `net.waiters`' business.

The log is the queue, as for sockets: a reader that is slow, or away, costs nothing but its place. Each round reads the
store anew in a transaction of its own, judges the caller anew, and makes one page.

Invariants: W1 nothing is read for a caller whose credentials or role do not hold at that moment. W2 a wait ends at the
latest when the token does. W3 an event leaves only after the one before it was taken, so a stream holds one page.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final

import orjson
import trio

from syncd.core.ids import BadName, Place, Position, parse_place
from syncd.engine import feeding
from syncd.engine.batch import space_row
from syncd.engine.commands import Expired, Refused
from syncd.engine.grants import Role
from syncd.net.api.calls import Call, check_credentials, check_role, owner_of
from syncd.net.auth import Principal
from syncd.net.exchange import Later, Response, Send, content
from syncd.net.gate import counted_as
from syncd.net.problems import ProblemRaised, raised
from syncd.store.api import Reader
from syncd.store.tables import SpaceRow
from syncd.wire.codec import json_value
from syncd.wire.messages import DELETED, RESET, Delta, DocumentEntry

EVENT_STREAM: Final = "text/event-stream"
LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
STREAM_SHARE_MIN, STREAM_SHARE_MAX = 0.8, 0.95  # of `stream_s`: streams that began together end apart, and in time
EXPIRY_MARGIN_S = 1.0  # so long before its token a stream ends, so that it ends by itself and not by a refusal
STATES: Final = {DELETED: "deleted", RESET: "reset"}

# Where a reader stands at the moment of a read. Raises a problem.
Standing = Callable[[Reader, SpaceRow], Place]


@dataclass(frozen=True, slots=True)
class News:
    """What a read found. `body`: the delta as JSON. If `to` is `after`, nothing has happened."""

    body: bytes
    after: Place
    to: Place
    head: Position

    @property
    def is_news(self) -> bool:
        return self.to != self.after


async def get_changes(call: Call) -> Response | Later:
    space, limit, wait_s = call.space(), limit_of(call), wait_of(call)
    start = start_of(call.query.get("after", feeding.FROM_START), {"parameter": "after"})
    is_stream = call.produces == EVENT_STREAM
    if is_stream and (last_id := call.request.headers.get("last-event-id")):
        start = start_of(last_id, {"header": "Last-Event-ID"})
    first = read_news(call, space, lambda tx, row: feeding.started(row, start), limit)
    if not is_stream:
        return polled(call, space, _fixed(first.after), limit, wait_s, first)
    call.services.waiters.check_room(*_who(call))
    headers = (
        ("Content-Type", EVENT_STREAM), ("Cache-Control", "no-store"), ("Position", str(first.head)),
        ("X-Accel-Buffering", "no"),  # nginx would hold events back until its buffer is full
    )  # fmt: skip
    return Response(200, headers, stream=partial(_stream, call, space, first.after, limit))


# -- parameters -------------------------------------------------------------------------------------------------------


def start_of(text: object, where: dict[str, Any]) -> Place | str:
    """Where a reader wants to begin. `where` says which part of the request it was."""
    if text in (feeding.FROM_START, feeding.FROM_HEAD):
        return str(text)
    try:
        if isinstance(text, str):
            return parse_place(text)
        detail = "a place in a feed is text: SEQ@EPOCH, as an answer's 'to' gave it"
    except BadName as error:
        detail = str(error)
    name = "invalid-request" if "pointer" in where else "malformed-request"
    raise raised(name, f"{detail}; or '0' for the start, or 'head'", **where)


def limit_of(call: Call) -> int:
    return _integer(call, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX, "documents")


def wait_of(call: Call) -> int:
    return _integer(call, "wait", 0, 0, call.services.waiters.limits.wait_s_max, "seconds")


def _integer(call: Call, name: str, default: int, least: int, most: int, unit: str) -> int:
    text = call.query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise raised("malformed-request", f"{name!r} is an integer from {least} to {most} ({unit})", parameter=name)
    return int(text)


# -- one read ---------------------------------------------------------------------------------------------------------


def read_news(call: Call, space: str, standing: Standing, limit: int) -> News:
    """What comes next for a reader, as far as the caller may read at this moment. Raises problems."""
    services = call.services
    with services.store.read() as tx:
        check_credentials(call, tx)
        check_role(call, tx, space, Role.READER)
        row = space_row(tx, space)
        if row is None:
            raise raised("not-found", f"there is no space {space}")
        place = standing(tx, row)
        refusal = feeding.refused_place(tx, row, space, place)
        if refusal is not None:
            raise place_problem(refusal)
        shared, key = services.waiters.shared, (row.id, row.head, place, limit)
        news: News | None = shared.get(key)
        if news is None:
            delta = feeding.fed(tx, row, space, place, limit)
            to = feeding.place_after(place, delta, row.head)
            news = News(_delta_json(place, to, delta), place, to, Position(row.epoch, row.head))
            shared.keep(key, news, len(news.body))
    return news


def _fixed(place: Place) -> Standing:
    return lambda tx, row: place


def place_problem(refusal: Expired | Refused) -> Exception:
    """Why a place in a feed does not hold."""
    if isinstance(refusal, Expired):
        detail = "the position belongs to another epoch of the space, or lies before what is known of deletions"
        return raised("expired-position", detail, epoch=refusal.epoch.hex(), fork=refusal.fork)
    assert refusal.reason == "bad_position", "every refusal of a place has a problem"
    return raised("bad-position", refusal.detail)


def _delta_json(after: Place, to: Place, delta: Delta) -> bytes:
    return orjson.dumps(
        {
            "space": delta.space,
            "from": str(Position(delta.epoch, delta.from_)),
            "after": str(after),
            "to": str(to),
            "complete": delta.complete,
            "time": delta.t,
            "documents": [_entry_json(entry) for entry in delta.docs],
        }
    )


def _entry_json(entry: DocumentEntry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "collection": entry.collection,
        "id": entry.id,
        "rev": entry.rev,
        "state": STATES.get(entry.state, "patch"),
    }
    if entry.state != DELETED:
        set_ = {name: field for name, field in entry.fields.items() if field is not None}
        shown["fields"] = {name: json_value(value) for name, (_, value) in set_.items()}
        shown["types"] = {name: kind for name, (kind, _) in set_.items()}
        shown["unset"] = [name for name, field in entry.fields.items() if field is None]
    return shown


# -- long poll --------------------------------------------------------------------------------------------------------


def polled(call: Call, space: str, standing: Standing, limit: int, wait_s: int, first: News) -> Response | Later:
    """What was found, or if it is nothing what comes within the wait."""
    if first.is_news or not wait_s or call.request.method == "HEAD":
        return _answer(first)
    return Later(wait_s, partial(_waited, call, space, standing, limit, wait_s))


async def _waited(call: Call, space: str, standing: Standing, limit: int, wait_s: int) -> Response:
    waiters = call.services.waiters
    with waiters.admitted(*_who(call)):
        with trio.move_on_after(min(wait_s, _token_s(call))):
            while not (found := read_news(call, space, standing, limit)).is_news and not waiters.is_ending:
                await waiters.wait(space)
            return _answer(found)
        return _answer(read_news(call, space, standing, limit))  # and is refused if it was the token's time that ended


def _answer(found: News) -> Response:
    headers = (("Position", str(found.head)), ("Cache-Control", "no-store"))
    return content(200, "application/json", found.body, headers)


def _who(call: Call) -> tuple[str, str]:
    return owner_of(call.known_caller()), counted_as(call.request.peer)


def _token_s(call: Call) -> float:
    """How long the caller's token is good for. An API key ends only by being revoked, and is looked up at each read."""
    caller = call.known_caller()
    if not isinstance(caller, Principal) or caller.expires_ms is None:
        return inf
    return max(0.0, (caller.expires_ms - call.services.clock.now_ms()) / 1000)


# -- server-sent events -----------------------------------------------------------------------------------------------


async def _stream(call: Call, space: str, place: Place, limit: int, send: Send) -> None:
    """Events until the stream's time is over, nobody is to wait any more, or the caller may not read any more. All of
    that ends it in order, with a whole event: the reader comes back with its last id, and is told then."""
    waiters, uniform = call.services.waiters, call.services.uniform
    limits = waiters.limits
    life_s = min(limits.stream_s * uniform(STREAM_SHARE_MIN, STREAM_SHARE_MAX), _token_s(call) - EXPIRY_MARGIN_S)
    end_s = trio.current_time() + life_s
    retry_ms = int(1000 * uniform(limits.stream_retry_s_min, limits.stream_retry_s_max))
    try:
        with waiters.admitted(*_who(call)):
            await send(b"retry: %d\n\n" % retry_ms)
            while not waiters.is_ending and trio.current_time() < end_s:
                found = read_news(call, space, _fixed(place), limit)
                if found.is_news:
                    await send(b"event: delta\nid: %s\ndata: %s\n\n" % (str(found.to).encode(), found.body))
                    place = found.to
                    continue
                with trio.move_on_at(min(end_s, trio.current_time() + limits.stream_keep_alive_s)) as pause:
                    await waiters.wait(space)
                if pause.cancelled_caught:
                    await send(b": still here\n\n")
    except ProblemRaised:
        return
