"""What ends leases without their holders: time, and operators. And what operators are told of leases.

Owns the commands of the lease clock: a look from time to time (`TendLeases`), which ends a bounded number of leases
that are over; the end of one lease by an operator; the release of a space that was frozen by a restore. Each end is a
change by the server in the space, so everyone sees the units come back. Must not know which clocks there are: the wall
time is that of the transaction, the monotonic one is in the command.

A lease with a ttl is a promise to a device that measures it by its own monotonic clock, from when it asked. So the
server may end it only when so much time has passed in the world, not when its wall clock says so. The clock of record
here is `ConfirmedClock`: it moves at most as fast as the monotonic clock between two looks of one process, and never
ahead of the wall clock. A wall clock that jumps forward, or the time that the process was down, does not count until an
operator confirms it: leases then end late, which harms nobody, never early.

Invariants: R1 no lease ends by time before `until` + `LEASE_GRACE_MS` of confirmed time. R2 a look costs a bounded
time. R3 with nothing to wait for there is no clock: what a jump or a stop left behind is forgotten.
"""

from collections.abc import Iterator
from typing import NamedTuple

from syncd.core.documents import Document
from syncd.core.leases import LEASE_GRACE_MS, Lease, book_of, lease_of
from syncd.engine.batch import Batch, SpaceWork
from syncd.engine.commands import ConfirmLeaseClock, Done, EndLease, Refused, ReleaseLeases, Result, Tended, TendLeases
from syncd.engine.grants import Role
from syncd.engine.leases import (
    ConfirmedClock,
    confirmed_clock,
    frozen,
    lease_key,
    release,
    set_confirmed_clock,
    spend,
)
from syncd.engine.posting import SERVER, authored
from syncd.store import keys
from syncd.store.api import Reader, Writer
from syncd.store.tables import (
    DOCUMENTS,
    LEASE_ENDS,
    LEASES,
    META,
    SLOTS,
    SPACE_NAMES,
    SPACES,
    LeaseRow,
    SpaceRow,
)

RELEASED_AT_ONCE = 1_000  # frozen spaces released by one look: a row each
ENDED_AT_ONCE = 64  # leases ended by one look: each is a change, some 0.2 ms in which the writer does nothing else


def tended(batch: Batch, command: TendLeases) -> Result:
    """Move the confirmed clock, and end what is over by it. And have a key of certificates, whoever asks for leases
    when: a backup from before the first grant could prove none of those that were granted since."""
    tx, now_ms = batch.tx, batch.now_ms
    lease_key(tx, batch.entropy)
    clock = confirmed_clock(tx)
    if clock is None:
        return Tended(0, None, False)
    passed_ms = max(0, command.mono_ms - clock.mono_ms) if command.run == clock.run else 0
    confirmed_ms = min(clock.confirmed_ms + passed_ms, now_ms)
    over: list[bytes] = []
    for key, _ in LEASE_ENDS.scan(tx, keys.lease_end_range(max(0, confirmed_ms - LEASE_GRACE_MS + 1))):
        if len(over) == ENDED_AT_ONCE:
            break
        over.append(keys.parse_lease_end(key)[1])
    for each in over:
        _end(batch, each)
    released = _released(tx, confirmed_ms)
    is_idle = not over and not _is_waiting(tx)
    set_confirmed_clock(tx, None if is_idle else ConfirmedClock(confirmed_ms, command.run, command.mono_ms))
    has_more = len(over) == ENDED_AT_ONCE or released == RELEASED_AT_ONCE
    return Tended(len(over), None if is_idle else now_ms - confirmed_ms, has_more)


def _released(tx: Writer, confirmed_ms: int) -> int:
    """Let the reserves of some spaces give out again whose freeze is over; how many. A restore freezes all spaces until
    one moment, so one that is not over stands for those behind it: a look does not read a row for each space."""
    over: list[bytes] = []
    for key, row in META.scan(tx, keys.lease_freezes_range()):
        if row[0] > confirmed_ms or len(over) == RELEASED_AT_ONCE:
            break
        over.append(key)
    for key in over:
        release(tx, keys.parse_lease_freeze(key))
    return len(over)


def _is_waiting(tx: Reader) -> bool:
    """Whether anything still waits for time to pass."""
    ranges = keys.table_range(keys.LEASE_END), keys.lease_freezes_range()
    return any(next(tx.scan(*bounds), None) is not None for bounds in ranges)


def _end(batch: Batch, key: bytes) -> None:
    """End the lease whose key this is, unless a command before this one in the batch did."""
    space_id, _, lease_id, field = keys.parse_lease(key)
    where = LEASES.get(batch.tx, key)
    named = SPACE_NAMES.get(batch.tx, keys.space_name(space_id))
    assert where is not None and named is not None, "the index by time names leases that are there"
    work = batch.space(named[0])
    assert work is not None, "a space that has a name exists"
    _end_in(batch, work, where.collection, where.document_id, field, lease_id)


def _end_in(
    batch: Batch, work: SpaceWork, collection: str, document_id: str, field: str, lease_id: bytes
) -> str | None:
    """Send the units of a lease back to the reserve, by a change of the server. Returns why there is no such lease."""
    lease = _lease_in(work.document((collection, document_id)), field, lease_id)
    if lease is None:
        return f"{collection}/{document_id} has no lease {lease_id.hex()} in its field {field}"
    if lease.is_honoured:
        spend(batch.tx, work.row.id, lease_id)
    operation = ["bounded.end", collection, document_id, field, lease_id]
    entry = authored(batch, work, SERVER, Role.OWNER, work.head, [operation])
    assert entry.seq is not None, f"a lease could not be ended: {entry.outcome} {entry.detail}"
    return None


def _lease_in(document: Document | None, name: str, lease_id: bytes) -> Lease | None:
    field = None if document is None else document.fields.get(name)
    return None if field is None or field.type != "bounded" else lease_of(book_of(field.state), lease_id)


def lease_ended(batch: Batch, command: EndLease) -> Result:
    """An operator ends a lease, of either kind: what its device still sells by it is no longer certain."""
    work = batch.space(command.space)
    if work is None:
        return Refused("unknown", f"there is no space {command.space!r}")
    problem = _end_in(batch, work, command.collection, command.document_id, command.field, command.lease)
    return Done() if problem is None else Refused("unknown", problem)


def leases_released(batch: Batch, command: ReleaseLeases) -> Result:
    work = batch.space(command.space)
    if work is None or frozen(batch.tx, work.row.id) is None:
        return Refused("unknown", f"{command.space!r} is no space whose reserves are frozen")
    release(batch.tx, work.row.id)
    return Done()


def clock_confirmed(batch: Batch, command: ConfirmLeaseClock) -> Result:
    """An operator has looked: the wall clock is right, and the time that seems to have passed has passed."""
    clock = confirmed_clock(batch.tx)
    if clock is not None:
        set_confirmed_clock(batch.tx, clock._replace(confirmed_ms=batch.now_ms))
    return Done()


# -- what operators are told ------------------------------------------------------------------------------------------


class ListedLease(NamedTuple):
    """A lease as operators see it. `until`: None for a strict one. `key`: of the index, to go on from."""

    lease: bytes
    collection: str
    document_id: str
    field: str
    device: bytes
    k: int
    left: int
    until: int | None
    granted_ms: int
    is_honoured: bool
    key: bytes


def listed(tx: Reader, space: str, count_max: int, after: bytes = b"") -> Iterator[ListedLease]:
    """The leases of a space in the order of its index, from behind the key `after`."""
    row: SpaceRow | None = SPACES.get(tx, keys.space(space))
    if row is None:
        return
    start, stop = keys.space_range(keys.LEASE, row.id)
    read: tuple[bytes, Document | None] = (b"", None)  # the leases of a document stand together
    for count, (key, where) in enumerate(LEASES.scan(tx, (max(start, after + b"\0" if after else start), stop))):
        if count == count_max:
            return
        document_key = keys.document(row.id, where.collection, where.document_id)
        if document_key != read[0]:
            read = document_key, DOCUMENTS.get(tx, document_key)
        yield _listed(tx, row, key, where, read[1])


def _listed(tx: Reader, row: SpaceRow, key: bytes, where: LeaseRow, document: Document | None) -> ListedLease:
    _, _, lease_id, field = keys.parse_lease(key)
    lease = _lease_in(document, field, lease_id)
    assert lease is not None, "the index names leases that are there"
    device = SLOTS.get(tx, keys.slot(row.id, lease.slot))
    return ListedLease(
        lease_id, where.collection, where.document_id, field, b"" if device is None else device[0],
        lease.k, lease.left, lease.until, where.at_ms, lease.is_honoured, key,
    )  # fmt: skip
