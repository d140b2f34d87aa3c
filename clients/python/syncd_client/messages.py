"""The messages of the protocol as data (section 5). How they look in bytes is the codec's business.

A message holds ids, nonces, sums and chain values as `bytes`, whatever the binding, and values in canonical form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from .operations import Operation
from .values import Value

PATCH, RESET, DELETED = 0, 1, 2
CONTEXT_MAX = 2  # earlier ids that a change may name

FieldValue: TypeAlias = tuple[str, Value]


@dataclass(frozen=True, slots=True)
class Former:
    """An earlier id of this device: its changes up to n, of which the last has `seq`, count as seen."""

    device: bytes
    n: int
    seq: int


@dataclass(frozen=True, slots=True)
class Change:
    n: int
    nonce: bytes
    base: int
    stamp_ms: int
    operations: tuple[Operation, ...]
    context: tuple[Former, ...] = ()


@dataclass(frozen=True, slots=True)
class Void:
    n: int
    last_n: int
    nonce: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    collection: str
    id: str
    rev: int
    state: int
    fields: Mapping[str, FieldValue | None]


@dataclass(frozen=True, slots=True)
class OutcomeEntry:
    n: int
    nonce: bytes
    outcome: str
    seq: int | None = None
    detail: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    device: bytes
    installation: bytes
    time: int
    session: bytes | None = None
    token: str | None = None
    client: Mapping[str, str] | None = None
    caps: tuple[str, ...] | None = None
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
    forget: bool | None = None


@dataclass(frozen=True, slots=True)
class Push:
    space: str
    epoch: bytes | None
    changes: tuple[Change | Void, ...]


@dataclass(frozen=True, slots=True)
class Purged:
    space: str


@dataclass(frozen=True, slots=True)
class Ack:
    space: str
    epoch: bytes
    applied: int
    oldest_base: int
    settled: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What is held: first `buckets`, 1,024 sums; then `of` some of those that differ, pairs of key hash and sum."""

    space: str
    epoch: bytes
    buckets: bytes | None = None
    of: tuple[int, ...] | None = None
    documents: bytes | None = None
    last: bool | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A value under a key for those who listen now; or `presence`: a map, this device is present with that state and
    watches; true, it watches; false, neither."""

    space: str
    key: str | None = None
    value: Value = None
    ttl_ms: int | None = None
    presence: Mapping[str, Value] | bool | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that the user did at `time`, as changes are stamped. `id`: 16 random bytes."""

    id: bytes
    name: str
    time: int
    data: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    events: tuple[Happening, ...]


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
    end: bool | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Welcome:
    session: bytes
    time: int
    user: str
    resumed: bool
    limits: Mapping[str, int]
    ping_ms: int
    ack_ms: int
    reconnect: Mapping[str, int]
    server: str = ""
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
    from_seq: int
    after: int
    to: int
    t: int
    chain: bytes
    docs: tuple[DocumentEntry, ...]
    complete: bool | None = None
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
    space: str
    epoch: bytes
    at: int
    t: int
    chain: bytes
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Documents that differ, whole, and the key hashes (8 bytes each) of which the space has none."""

    space: str
    epoch: bytes
    at: int
    t: int
    chain: bytes
    docs: tuple[DocumentEntry, ...]
    gone: bytes = b""
    done: bool | None = None
    last: bool | None = None
    sum: bytes | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A signal as it is heard. `user` None: a backend sent it. `ttl_ms`: what is left of its time."""

    space: str
    ref: bytes
    key: str
    ttl_ms: int
    value: Value = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Presence:
    """`here`: (ref, user, state) of those who came or altered it; `left`: refs, 8 bytes each. `whole`: there are no
    others, but for those that only `count` counts."""

    space: str
    count: int
    here: tuple[tuple[bytes, str, Mapping[str, Value]], ...]
    left: bytes | None = None
    whole: bool | None = None


@dataclass(frozen=True, slots=True)
class Revoked:
    space: str
    reason: str
    seq: int | None = None


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
class EventResult:
    """`status`: `accepted`, `duplicate` or `invalid`."""

    id: bytes
    status: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """What became of each event of one message."""

    results: tuple[EventResult, ...]


@dataclass(frozen=True, slots=True)
class Goaway:
    code: int
    retry_after_ms: int = 0
    spread_ms: int = 0
    resume_url: str | None = None


ClientMessage: TypeAlias = (
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
ServerMessage: TypeAlias = (
    Welcome
    | Subscribed
    | Delta
    | Outcomes
    | Revoked
    | Differ
    | Repair
    | Heard
    | Presence
    | Expired
    | Noted
    | Error
    | Goaway
    | Ping
    | Pong
)
Message: TypeAlias = ClientMessage | ServerMessage


@dataclass(frozen=True, slots=True)
class Limits:
    """Section 9: what the server enforces. The defaults hold until a welcome says otherwise."""

    frame_bytes_max: int = 1_048_576
    push_changes_max: int = 1_000
    change_operations_max: int = 1_000
    change_documents_max: int = 128
    change_bytes_max: int = 262_144
    document_fields_max: int = 1_024
    subscriptions_max: int = 256
    pushes_in_flight_max: int = 16
    messages_per_s_max: int = 200
    signal_bytes_max: int = 8_192
    signal_ttl_ms_max: int = 300_000
    signals_per_s_max: int = 50
    presence_bytes_max: int = 512
    events_max: int = 100
    event_bytes_max: int = 4_096


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Section 11: how the client spreads its reconnects. The defaults hold before the first welcome."""

    first_jitter_ms: int = 1_000
    backoff_ms: int = 1_000
    backoff_max_ms: int = 60_000
    stable_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a welcome set for one connection."""

    limits: Limits = field(default_factory=Limits)
    reconnect: Reconnect = field(default_factory=Reconnect)
    ping_ms: int = 30_000
    ack_ms: int = 1_000
