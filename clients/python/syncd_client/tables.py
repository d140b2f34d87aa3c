"""The rows of a replica, and the seam behind which they are kept.

Owns the shape of what is durable. Decisions (replica, session) read and write rows through `Tables` inside one
transaction that their caller holds, so a decision is durable as a whole or not at all, and no row lives in memory
beyond it: another process may open the same store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .messages import DocumentEntry, FieldValue, Former
from .operations import Operation
from .values import INTEGER_MAX, Value

Key: TypeAlias = tuple[str, str]  # collection, document id


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """What the device knows of one space.

    1. `complete` <= `resume`; they are equal unless pages are staged.
    2. `sum` is the sum of section 8 over exactly the synced documents, and that of all its buckets.
    3. Every n < `next_n` was committed on this device; every n <= `settled` has a durable outcome here.
    """

    name: str
    epoch: bytes | None = None
    complete: int = 0
    resume: int = 0
    start: int | None = None
    chain: bytes | None = None
    t_ms: int = 0  # T at complete
    sum: int = 0
    next_n: int = 1
    settled: int = 0
    safe: int = 0  # the server holds everything up to here in a backup or a replica
    fork: int = INTEGER_MAX  # up to here the current epoch shares the history of every one before it
    is_subscribed: bool = False
    role: str | None = None
    revoked: str | None = None
    own_seq: int = 0  # the last seq among this id's changes that are settled in order
    resend_n: int | None = None  # while the id is being left: from here on nothing is sent under it
    context: tuple[Former, ...] = ()  # earlier ids of this device, whose changes its own have seen
    doubts: int = 0  # how many times in a row the sum was not the server's


@dataclass(frozen=True, slots=True)
class DocumentRow:
    collection: str
    id: str
    rev: int
    fields: Mapping[str, FieldValue]

    @property
    def key(self) -> Key:
        return (self.collection, self.id)


@dataclass(frozen=True, slots=True)
class Entry:
    """One change (or void) in the outbox. `outcome` is None until the server's answer is stored.

    A kept entry is past the outbox: its effect is in the synced state, and it is held only until the server calls its
    seq safe, because a server restored from an older backup would ask for it again. What an earlier id of this device
    committed has n <= 0, in order.
    """

    n: int
    last_n: int
    nonce: bytes
    base: int
    stamp_ms: int
    operations: tuple[Operation, ...] = ()
    void_reason: str | None = None
    outcome: str | None = None
    seq: int | None = None
    is_kept: bool = False
    context: tuple[Former, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """Units of a stock that this device holds, or has asked for. `left`: as the server last answered. `ttl_ms`, `until`
    (in the server's ms): None for a strict one. `certificate`: the server's proof, as it came; empty until then.
    `asked`: run and seconds of the steady clock, and wall time in ms, when it was asked for."""

    space: str
    collection: str
    id: str
    field: str
    lease: bytes
    left: int
    ttl_ms: int | None
    until: int | None
    certificate: tuple[Value, ...]
    asked: tuple[str, float, int] | None

    @property
    def key(self) -> Key:
        return (self.collection, self.id)


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """What became of a change, as stored on this device. Kept for the last changes of each space."""

    space: str
    n: int
    nonce: bytes
    outcome: str
    seq: int | None
    detail: Mapping[str, Value] | None
    at: int = 0  # the order in which this store received it


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A change that was refused or voided, with its payload: the application decides what to do with it."""

    space: str
    n: int
    base: int
    stamp_ms: int
    operations: tuple[Operation, ...]
    outcome: str
    detail: Mapping[str, Value] | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that the user did, until the server has taken it. `at`: the order in which it was told here."""

    id: bytes
    name: str
    time_ms: int
    data: Mapping[str, Value] | None
    at: int = 0


class Tables(Protocol):
    """Reads and writes inside the transaction that is open. All iteration is in a defined order."""

    def space(self, name: str) -> SpaceRow | None: ...
    def spaces(self) -> list[SpaceRow]: ...
    def put_space(self, row: SpaceRow) -> None: ...

    def setting(self, name: str) -> Value: ...
    def put_setting(self, name: str, value: Value) -> None: ...

    def document(self, space: str, key: Key) -> DocumentRow | None: ...
    def documents(self, space: str, collection: str | None = None) -> list[DocumentRow]: ...
    def put_document(self, space: str, row: DocumentRow) -> None: ...
    def drop_document(self, space: str, key: Key) -> None: ...
    def drop_documents(self, space: str) -> None: ...

    def bucket_sums(self, space: str) -> dict[int, int]: ...
    def put_bucket_sum(self, space: str, number: int, total: int) -> None: ...
    def drop_bucket_sums(self, space: str) -> None: ...
    def bucket_documents(self, space: str, number: int) -> list[tuple[bytes, DocumentRow]]: ...
    def keys_at(self, space: str, hashed: bytes) -> list[Key]: ...
    def rehashed(self, space: str) -> Iterator[DocumentRow]: ...

    def add_page(self, space: str, to: int, docs: tuple[DocumentEntry, ...]) -> None: ...
    def pages(self, space: str) -> Iterator[tuple[DocumentEntry, ...]]: ...
    def drop_pages(self, space: str) -> None: ...

    def entry(self, space: str, n: int) -> Entry | None: ...
    def unanswered(self, space: str, first_n: int, count_max: int) -> list[Entry]: ...
    def outbox(self, space: str) -> list[Entry]: ...
    def answered(self, space: str, seq_max: int) -> list[Entry]: ...
    def kept(self, space: str) -> list[Entry]: ...
    def touching(self, space: str, key: Key) -> list[Entry]: ...
    def touched_keys(self, space: str, collection: str | None = None) -> list[Key]: ...
    def put_entry(self, space: str, entry: Entry) -> None: ...
    def drop_entry(self, space: str, n: int) -> None: ...
    def oldest_n(self, space: str) -> int | None: ...
    def oldest_base(self, space: str) -> int | None: ...

    def leases(self, space: str) -> list[LeaseRow]: ...
    def lease(self, space: str, lease: bytes) -> LeaseRow | None: ...
    def put_lease(self, row: LeaseRow) -> None: ...
    def drop_lease(self, space: str, lease: bytes) -> None: ...

    def add_event(self, row: EventRow, count_max: int) -> int: ...
    def events(self, count_max: int) -> list[EventRow]: ...
    def drop_event(self, id: bytes) -> None: ...

    def add_outcome(self, row: OutcomeRow) -> None: ...
    def outcome(self, space: str, n: int) -> OutcomeRow | None: ...
    def outcome_of(self, space: str, nonce: bytes) -> OutcomeRow | None: ...
    def set_refused_aside(self, space: str) -> None: ...
    def add_refused(self, row: RefusedRow) -> None: ...
