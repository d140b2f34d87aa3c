"""The messages of the protocol as frozen data (SPEC section 5).

Owns their fields and codes. Must not know bytes (`codec` turns them into frames), the order in which they may come
(`session`) or what they do (`engine`). Field names are the keys on the wire, but for `from`, which is a Python keyword
and is called `from_` here. Ids, epochs, nonces and chain values are bytes; sums are bytes as on the wire.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from syncd.core.changes import Change, RefusedChange, Void
from syncd.core.values import Value


class OutcomeEntry(NamedTuple):
    """`[n, nonce, outcome, seq, detail]`"""

    n: int
    nonce: bytes
    outcome: str
    seq: int | None
    detail: dict[str, Any] | None


class DocumentEntry(NamedTuple):
    """`[collection, id, rev, state, fields]`; state: PATCH, RESET or DELETED; fields: name -> [type, value] or None."""

    collection: str
    id: str
    rev: int
    state: int
    fields: dict[str, list[Any] | None]


PATCH, RESET, DELETED = 0, 1, 2


# -- client to server -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    device: bytes
    installation: bytes
    time: int
    session: bytes | None = None
    token: str | None = None
    client: dict[str, str] | None = None
    caps: tuple[str, ...] = ()
    frame_bytes_max: int | None = None
    keepalive_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    space: str
    epoch: bytes | None
    complete: int
    resume: int
    settled: int
    start: int | None = None
    chain: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    space: str
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Push:
    space: str
    epoch: bytes | None
    changes: tuple[Change | Void | RefusedChange, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    space: str
    epoch: bytes
    applied: int
    oldest_base: int
    settled: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What the device holds. First `buckets`: 1,024 sums. Then, of the buckets that differ, `of`: some of them, with
    `documents`: pairs of key hash and sum; `last`: it asks of no others."""

    space: str
    epoch: bytes
    buckets: bytes | None = None
    of: tuple[int, ...] | None = None
    documents: bytes | None = None
    last: bool = False


@dataclass(frozen=True, slots=True)
class Signal:
    """A value for those who listen now, under a `key`; or what the device says of its `presence`: a map, it is present
    and watches; true, it watches; false, neither."""

    space: str
    key: str | None = None
    value: Value = None
    ttl_ms: int | None = None
    presence: dict[str, Value] | bool | None = None


class Happening(NamedTuple):
    """`[id, name, time, data]`: what a user did, at `time` by the device's clock and offset. `id`: 16 random bytes."""

    id: bytes
    name: str
    time: int
    data: dict[str, Value] | None


@dataclass(frozen=True, slots=True)
class Event:
    """What a device reports of its user."""

    events: tuple[Happening, ...]


@dataclass(frozen=True, slots=True)
class Purged:
    space: str


@dataclass(frozen=True, slots=True)
class Refresh:
    token: str


@dataclass(frozen=True, slots=True)
class Background:
    keepalive_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Foreground:
    pass


@dataclass(frozen=True, slots=True)
class Probe:
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Bye:
    end: bool = False


# -- both ways --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ping:
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    id: int | None = None


# -- server to client -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    session: bytes
    time: int
    user: str
    resumed: bool
    limits: dict[str, int]
    ping_ms: int
    ack_ms: int
    reconnect: dict[str, int]
    server: str
    caps: tuple[str, ...] = ()
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    space: str
    epoch: bytes
    head: int
    safe: int
    role: str
    mode: str
    ref: bytes | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    space: str
    epoch: bytes
    from_: int
    after: int
    to: int
    t: int
    chain: bytes
    docs: tuple[DocumentEntry, ...]
    complete: bool = False
    start: int | None = None
    sum: bytes | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    space: str
    epoch: bytes
    outcomes: tuple[OutcomeEntry, ...]
    gap: int | None = None
    forked: int | None = None


@dataclass(frozen=True, slots=True)
class Differ:
    """The buckets that differ at seq `at`."""

    space: str
    epoch: bytes
    at: int
    t: int
    chain: bytes
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Documents that differ, whole, as of seq `at`, and the key hashes (8 bytes each) of which there are none. `done`:
    the question is answered; `last`: it was the last one; `sum`: what the device has to come to."""

    space: str
    epoch: bytes
    at: int
    t: int
    chain: bytes
    docs: tuple[DocumentEntry, ...]
    gone: bytes = b""
    done: bool = False
    last: bool = False
    sum: bytes | None = None


@dataclass(frozen=True, slots=True)
class Revoked:
    space: str
    reason: str
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A `signal` to listeners. `ref`: of the device that sent it, in this space; `user` None: a backend did. `ttl_ms`:
    what is left of its time."""

    space: str
    ref: bytes
    key: str
    value: Value
    ttl_ms: int
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Presence:
    """`here`: `[ref, user, state]` of those who came or altered their state, `left`: refs, 8 bytes each; with `whole`:
    all there are. `count`: of all, also those beyond what is listed."""

    space: str
    count: int
    here: tuple[tuple[bytes, str, Value], ...] = ()
    left: bytes | None = None
    whole: bool = False


class EventResult(NamedTuple):
    """`[id, status, detail]`; status: `accepted`, `duplicate` or `invalid`."""

    id: bytes
    status: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class Noted:
    """What became of each event of one `event`, when it is durable."""

    results: tuple[EventResult, ...]


@dataclass(frozen=True, slots=True)
class Expired:
    space: str
    epoch: bytes
    fork: int
    highest: int


@dataclass(frozen=True, slots=True)
class Error:
    code: int
    name: str
    retry: str
    after_ms: int | None = None
    detail: str | None = None
    space: str | None = None


@dataclass(frozen=True, slots=True)
class Goaway:
    code: int
    retry_after_ms: int
    spread_ms: int
    resume_url: str | None = None


ClientMessage = (
    Hello
    | Subscribe
    | Unsubscribe
    | Push
    | Ack
    | Sums
    | Signal
    | Event
    | Purged
    | Refresh
    | Background
    | Foreground
    | Probe
    | Bye
    | Ping
    | Pong
)
ServerMessage = (
    Welcome
    | Subscribed
    | Delta
    | Outcomes
    | Revoked
    | Differ
    | Repair
    | Heard
    | Presence
    | Noted
    | Expired
    | Error
    | Goaway
    | Ping
    | Pong
)
