"""Reading: everything that a connection or a request learns from the store without writing.

Owns pages of deltas, recorded outcomes, and the checks that tell whether a subscription needs a write at all. Each
function is synchronous and bounded, over a read transaction that the caller opens and closes around it: no transaction
is ever held across a wait.

Invariants: P1 a page ends on a seq boundary. P2 fields are chosen by `rev > complete`, never by `rev > resume`: between
two pages a document that changes again moves behind the cursor with its earlier changes still unseen. P3 a page that
is not the last goes up to the last rev it holds; the last one up to the head of its transaction. P4 a first download
leaves out only tombstones no younger than its `start`. P5 no page is longer than `DELTA_BYTES_MAX`: it holds what one
seq altered, which was measured when it was accepted (what grew since without moving a rev is invisible, and so is not
in the page), or more seqs whose records have `bytes_target` bytes at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from syncd.core.documents import Document
from syncd.core.ids import RESERVED_DEVICE_PREFIX, Position
from syncd.core.sums import CHAIN_START
from syncd.engine.batch import FIELD_BYTES, DocumentName, entry_of, is_other, space_row
from syncd.engine.changes import outcome_entry
from syncd.engine.commands import Attach, Attached, Author, Bound, Expired, Refused
from syncd.engine.epochs import fork_of, safe_seq
from syncd.engine.grants import Role
from syncd.engine.members import role_at, said_at
from syncd.store import keys
from syncd.store.api import Reader, StoreDamaged
from syncd.store.tables import (
    BYREV,
    DEVICES,
    DOCUMENTS,
    ENTRIES,
    HOLDERS,
    LOG,
    REPLICAS,
    ReplicaRow,
    SpaceRow,
)
from syncd.wire.messages import Delta, DocumentEntry, OutcomeEntry

PAGE_BYTES = 262144  # aimed at: some 2 ms of work, so that one returning device does not hold up ten thousand others
LISTED_BYTES_MAX = 2 * 1024 * 1024  # of documents looked at for one page of a list: some 20 ms
PAGE_ROWS_MAX = 4096  # rows looked at for one page, so that a run of skipped tombstones is bounded too


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a subscription stands. `start` is set from the first page of a first download on, else None."""

    space: str
    space_id: int
    complete: int
    resume: int
    start: int | None


# -- who may what -----------------------------------------------------------------------------------------------------


def bound(tx: Reader, author: Author) -> Bound | Refused | None:
    """Whether the device is its author's; None if it is not known yet."""
    if author.kind == "device" and author.device.startswith(RESERVED_DEVICE_PREFIX):
        return Refused("device_bound", "device ids that begin with six zero bytes are the server's own; make another")
    row = DEVICES.get(tx, keys.device(author.device))
    if row is None:
        return None
    if row.user != author.user or row.kind != author.kind:
        return Refused("device_bound", "this device id belongs to another user")
    return Bound()


# -- subscriptions ----------------------------------------------------------------------------------------------------


def attached(tx: Reader, command: Attach) -> Attached | Expired | Refused | None:
    """Subscribe without a write, if the replica is already known and holds a low-water; None: submit the command."""
    author = command.author
    row = space_row(tx, command.space)
    granted = role_at(tx, author, command.space, row)
    if row is None and granted >= Role.WRITER:
        return None
    if row is not None and granted < Role.READER and _has_copy(tx, row, author):
        return None
    replica = None if row is None else REPLICAS.get(tx, keys.replica(row.id, author.device))
    refusal = refused_attach(tx, command, row, replica, granted)
    if refusal is not None:
        return refusal
    assert row is not None, "a missing space is refused"
    if replica is None or (replica.low is None and not is_other(tx, author)):
        return None
    return attached_to(tx, command, row, row.head, granted, replica)


def attached_to(tx: Reader, command: Attach, row: SpaceRow, head: int, granted: Role, replica: ReplicaRow) -> Attached:
    """The subscription that stands."""
    is_forgotten = is_below_floor(row, command.complete, command.start)
    safe, role = safe_seq(tx, row, head), granted.name.lower()
    return Attached(command.space, row.id, replica.slot, row.epoch, head, role, replica.highest, safe, is_forgotten)


def refused_attach(
    tx: Reader, command: Attach, row: SpaceRow | None, replica: ReplicaRow | None, granted: Role
) -> Expired | Refused | None:
    """Why a subscription cannot stand; None if it can. `row`, `replica`: of its space and of its device there."""
    if granted < Role.READER:
        return _barred(tx, command, row)
    if row is None:
        # Also to one who names an epoch of it, from a store that is no more: there is no other epoch to go to yet.
        return Refused(
            "unknown_space", f"the space {command.space} does not exist yet, and making it needs the role writer"
        )
    complete, resume = command.complete, command.resume
    highest = 0 if replica is None else replica.highest
    if command.epoch is None:
        if complete or resume:
            return Refused("bad_position", "a position other than 0 names its epoch")
    elif command.epoch != row.epoch:
        return Expired(command.space, row.epoch, fork_of(tx, row, command.epoch), highest)
    if not complete <= resume:
        return Refused("bad_position", f"complete {complete} lies beyond resume {resume}")
    if (complete == 0 < resume) != (command.start is not None):
        return Refused("bad_position", "'start' is given exactly in the middle of a first download")
    if max(resume, command.start or 0) > row.head or not _is_chained(tx, row, complete, command.chain):
        # Not this epoch's history: what the client holds came from a server state that no longer exists. The low-water
        # was acknowledged to this state, but where it reaches `complete`, it cannot be what both share.
        low = 0 if replica is None or replica.low is None else replica.low
        alarm = (
            f"{command.space}: device {command.author.device.hex()} stands at {max(resume, command.start or 0)},"
            f" complete up to {complete}, which is not this store's history (head {row.head}); it is sent back to"
            f" {low if low < complete else 0}. If nobody restored or replaced the store, run syncd fsck"
        )
        return Expired(command.space, row.epoch, low if low < complete else 0, highest, alarm)
    return None


def is_forgotten(tx: Reader, cursor: Cursor) -> bool:
    """Whether no page can be given at this place any more: it has to be looked for in each page's own transaction."""
    row = space_row(tx, cursor.space)
    return row is not None and is_below_floor(row, cursor.complete, cursor.start)


def is_below_floor(row: SpaceRow, complete: int, start: int | None) -> bool:
    """Whether deletions may be forgotten that a device at this position has not heard of."""
    return (complete or (row.floor if start is None else start)) < row.floor


def _has_copy(tx: Reader, row: SpaceRow, author: Author) -> bool:
    """Whether the device counts as one that has a copy: if it must not, that is written down first."""
    held = HOLDERS.get(tx, keys.holder(row.id, keys.owner(author.user), author.device))
    return held is not None and held.lost_seq is None and not is_other(tx, author)


def _barred(tx: Reader, command: Attach, row: SpaceRow | None) -> Refused:
    """Who never had a place here learns nothing, not even whether the space exists."""
    detail, author = f"reading {command.space} needs the role reader", command.author
    if row is None or REPLICAS.get(tx, keys.replica(row.id, author.device)) is None:
        return Refused("forbidden", detail)
    return Refused("forbidden", detail, said_at(tx, author, row.id) or None)


def _is_chained(tx: Reader, row: SpaceRow, complete: int, chain: bytes | None) -> bool:
    """Whether the chain value that the client repeats is ours at its position. Below the floor the log may be gone, and
    all that the client holds is going to be compared."""
    if chain is None or complete == 0 or complete < row.floor:
        return True
    log = LOG.get(tx, keys.log(row.id, complete))
    return log is not None and log.chain == chain


class Told(NamedTuple):
    """Recorded outcomes, ascending. `is_all`: nothing follows. `read_bytes`: of their records, with what they did."""

    outcomes: tuple[OutcomeEntry, ...]
    is_all: bool
    read_bytes: int


def outcomes_after(
    tx: Reader,
    space_id: int,
    slot: int,
    n: int,
    limit: int,
    granted: Role = Role.READER,
    bytes_max: int = PAGE_BYTES,
) -> Told:
    """The recorded outcomes of a device's changes after n: `limit` at most, and none more when `bytes_max` were read.
    A change may have 256 KiB, and be granted a thousand leases."""
    entries: list[OutcomeEntry] = []
    read_bytes = 0
    for key, record in tx.scan(*keys.device_log_range(space_id, slot, n)):
        if len(entries) == limit or read_bytes > bytes_max:
            return Told(tuple(entries), False, read_bytes)
        entries.append(outcome_entry(keys.parse_device_log(key)[2], ENTRIES.row(key, record), granted))
        read_bytes += len(record)
    return Told(tuple(entries), True, read_bytes)


# -- pages ------------------------------------------------------------------------------------------------------------


def page(tx: Reader, cursor: Cursor, bytes_target: int = PAGE_BYTES, rows_max: int = PAGE_ROWS_MAX) -> Delta:
    """The next delta for a subscription; `complete` says that it is the last, and reaches the head. The caller has
    looked, in the same transaction, that the place is not forgotten."""
    row = space_row(tx, cursor.space)
    assert row is not None and row.id == cursor.space_id, "a subscription outlives no space"
    assert cursor.complete <= cursor.resume <= row.head, "positions never pass the head"
    start = cursor.start
    if cursor.complete == 0 and start is None:
        start = row.head
    # Tombstones at or below the floor may be stored or not, and count as absent: whoever begins needs none of them.
    omitted = max(start or 0, row.floor) if cursor.complete == 0 else 0
    entries: list[DocumentEntry] = []
    to, size, rows = cursor.resume, 0, 0
    is_last = True
    for rev, group in _groups(tx, row.id, cursor.resume):
        group_size = sum(length for _, _, length in group)
        if rows and (size + group_size > bytes_target or rows + len(group) > rows_max):
            is_last = False
            break
        for name, document, _ in group:
            if not document.is_live and rev <= omitted:
                continue
            entries.append(entry_of(name, document, cursor.complete))
        to, size, rows = rev, size + group_size, rows + len(group)
    if is_last:
        to, time, chain = row.head, row.time, row.chain
    else:
        time, chain = _moment(tx, row, to)
    return Delta(
        cursor.space,
        row.epoch,
        cursor.complete,
        cursor.resume,
        to,
        time,
        chain,
        tuple(entries),
        is_last,
        start if cursor.complete == 0 else None,
        row.sum.to_bytes(8) if is_last else None,
    )


def _moment(tx: Reader, row: SpaceRow, seq: int) -> tuple[int, bytes]:
    """T and the chain value at a seq. Below the floor, which only the pages of a first download end at, the log may be
    gone: such a page is of no use without the last one, which brings both."""
    log = LOG.get(tx, keys.log(row.id, seq)) if seq >= row.floor else None
    if log is not None:
        return log.time, log.chain
    if seq >= row.floor:
        raise StoreDamaged(f"space {row.id} has no log row for seq {seq}")
    return 0, CHAIN_START


def _groups(
    tx: Reader, space_id: int, after_rev: int
) -> Iterator[tuple[int, list[tuple[tuple[str, str], Document, int]]]]:
    """Documents by rising rev, those of one rev together: (rev, [(name, document, bytes)])."""
    group: list[tuple[tuple[str, str], Document, int]] = []
    current = 0
    for key, name in BYREV.scan(tx, keys.byrev_range(space_id, after_rev)):
        rev = keys.parse_byrev(key)[1]
        if rev != current and group:
            yield current, group
            group = []
        current = rev
        document_key = keys.document(space_id, *name)
        record = tx.get(document_key)
        if record is None:
            raise StoreDamaged(f"space {space_id} has no document {name[0]}/{name[1]}, which byrev names at rev {rev}")
        size = len(record) + len(document_key)
        group.append(((name[0], name[1]), DOCUMENTS.row(document_key, record), size))
    if group:
        yield current, group


# -- documents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A live document as HTTP shows it: `fields` maps a name to its value, `types` to its type."""

    collection: str
    id: str
    rev: int
    fields: dict[str, Any]
    types: dict[str, str]


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of documents. `after`: where the next one goes on, None if nothing follows. A page may hold fewer than
    were asked for, even none, before the end: it looks at `PAGE_ROWS_MAX` rows, and at `LISTED_BYTES_MAX` and one
    document, at most. Tombstones count: where updates win they are as long as documents."""

    found: tuple[Found, ...]
    after: DocumentName | None


def position(tx: Reader, space: str) -> Position | None:
    """The head of a space; None if it does not exist."""
    row = space_row(tx, space)
    return None if row is None else Position(row.epoch, row.head)


def document(tx: Reader, space: str, collection: str, document_id: str) -> Found | None:
    """One live document; None if there is none."""
    row = space_row(tx, space)
    if row is None:
        return None
    found = DOCUMENTS.get(tx, keys.document(row.id, collection, document_id))
    return None if found is None or not found.is_live else shown(collection, document_id, found)


def documents(tx: Reader, space: str, collection: str | None, after: DocumentName | None, limit: int) -> Listing:
    """Live documents after `after` in key order, of one collection or of all; at most `limit`."""
    row = space_row(tx, space)
    if row is None:
        return Listing((), None)
    if collection is not None:
        start, stop = keys.collection_range(row.id, collection, after[1] if after else "")
    else:
        start, stop = keys.space_range(keys.DOCUMENT, row.id)
        if after is not None:
            start = keys.document(row.id, *after) + b"\0"
    found: list[Found] = []
    last, size = after, 0
    for count, (key, record) in enumerate(tx.scan(start, stop)):
        if count == PAGE_ROWS_MAX or size > LISTED_BYTES_MAX:
            return Listing(tuple(found), last)
        stored = DOCUMENTS.row(key, record)
        size += len(record) + FIELD_BYTES * len(stored.fields) // 8  # it is read, and not written
        if stored.is_live and len(found) == limit:
            return Listing(tuple(found), last)
        _, *name = keys.parse_document(key)
        last = (name[0], name[1])
        if stored.is_live:
            found.append(shown(*last, stored))
    return Listing(tuple(found), None)


def shown(collection: str, document_id: str, stored: Document) -> Found:
    """A document as HTTP shows it."""
    visible = stored.visible()
    fields = {name: value for name, (_, value) in visible.items()}
    return Found(collection, document_id, stored.rev, fields, {name: kind for name, (kind, _) in visible.items()})
