"""fsck: does the store hold together?

Owns what must be true of every row, between the tables, and of what is counted twice: revs, sums, chains, numbers. Must
not know how rows came about. Reads one transaction; repairs nothing (every copy that disagrees may be the right one).

Each check is a function over a table or a pair of tables, named in `SPACE_CHECKS` and `STORE_CHECKS`. They report what
they own: a missing row is reported once, by the check of its own table, and the others leave it out. A record with a
wrong checksum is a finding, and what it said is unknown: checks that need it say nothing about it.

Memory: rows are streamed. What grows is one bit per document number of the space that is being checked, 1,024 sums, and
two numbers for each user. Time: about three reads per document, two per log row.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from syncd.core import texts
from syncd.core.documents import Document
from syncd.core.ids import ID_BYTES, MEMBERS
from syncd.core.sums import BUCKET_COUNT, CHAIN_START, SUM_MASK, bucket_of, chained, document_sum
from syncd.store import keys
from syncd.store.api import Reader, StoreDamaged
from syncd.store.checking import Damaged as _Damaged
from syncd.store.checking import Finding as Finding  # callers know it by this module
from syncd.store.checking import Findings
from syncd.store.checking import Space as _Space
from syncd.store.checking import get as _get
from syncd.store.checking import rows as _rows
from syncd.store.fsck_collection import keepings, key_hashes, lapsed, tombstones
from syncd.store.fsck_history import histories
from syncd.store.fsck_leases import books, lease_ends
from syncd.store.fsck_notices import decisions, dispatches, runs, standings, timers
from syncd.store.fsck_unique import unique_keys
from syncd.store.fsck_workflows import counters, version_uses, workflow_versions
from syncd.store.tables import (
    API_KEYS,
    BUCKETS,
    BYREV,
    CONSUMER_OWNERS,
    CONSUMERS,
    DEVICES,
    DOCUMENTS,
    ENTRIES,
    EPOCHS,
    EXPIRIES,
    HOLDERS,
    HOLDINGS,
    IDEMPOTENCY,
    KEEPING,
    KEY_HASHES,
    LAPSED,
    LEASES,
    LETTERS,
    LOG,
    LOW_WATERS,
    META,
    REPLICAS,
    SLOTS,
    SPACE_NAMES,
    SPACES,
    TABLES,
    TOMBSTONES,
    UNIQUE,
    USER_DEVICES,
    EntryRow,
    EpochRow,
    LogRow,
    ReplicaRow,
    SpaceRow,
    Table,
)

_ACCEPTED: Final = frozenset({"applied", "merged", "noop"})  # outcomes of changes that have a seq
_KINDS: Final = frozenset({"device", "key", "server"})


def check(tx: Reader) -> Findings:
    """All findings, as they are met."""
    for store_check in STORE_CHECKS:
        yield from store_check(tx)
    for key, row in _rows(tx, SPACES, keys.table_range(keys.SPACE)):
        if not isinstance(row, _Damaged):
            space = _Space(tx, key[1:].decode(errors="replace"), row)
            for space_check in SPACE_CHECKS:
                yield from space_check(space)


# -- the whole store --------------------------------------------------------------------------------------------------

_BY_SPACE: Final = (
    *(DOCUMENTS, BYREV, LOG, ENTRIES, REPLICAS, SLOTS, LOW_WATERS, BUCKETS, LETTERS, CONSUMERS, TOMBSTONES, LAPSED),
    *(LEASES, HOLDERS, UNIQUE, EPOCHS, KEY_HASHES, KEEPING),
)


def _records(tx: Reader) -> Findings:
    """Every record is what was written under its key."""
    for table in TABLES:
        for key, record in tx.scan(*keys.table_range(table.prefix)):
            try:
                table.row(key, record)
            except StoreDamaged as error:
                yield Finding(table.name, key[1:].hex(), str(error))


def _outside(tx: Reader) -> Findings:
    """No key lies outside the tables, no row belongs to a space that does not exist."""
    start = b"\0"
    for begins, ends in [*sorted(keys.table_range(table.prefix) for table in TABLES), (b"\xff" * 512, b"")]:
        for key, _ in tx.scan(start, begins):
            yield Finding("none", key.hex(), "the key belongs to no table")
        start = ends
    for table in _BY_SPACE:
        start, stop = keys.table_range(table.prefix)
        while (first := next(tx.scan(start, stop), None)) is not None:
            number = keys.space_of(first[0])
            if tx.get(keys.space_name(number)) is None:
                yield Finding(table.name, f"space number {number}", "there is no such space")
            start = keys.space_range(table.prefix, number)[1]


def _meta(tx: Reader) -> Findings:
    for key, row in _rows(tx, META, keys.table_range(keys.META)):
        if not isinstance(row, _Damaged) and len(row) != 1:
            yield Finding(META.name, key[1:].decode(errors="replace"), f"a meta row has one item, not {len(row)}")


def _spaces(tx: Reader) -> Findings:
    """Names and numbers of spaces are one to one; what a space says of itself is possible."""
    for key, row in _rows(tx, SPACES, keys.table_range(keys.SPACE)):
        if isinstance(row, _Damaged):
            continue
        name = key[1:].decode(errors="replace")
        named = _get(tx, SPACE_NAMES, keys.space_name(row.id))
        if named is None:
            yield Finding(SPACES.name, name, f"its number {row.id} has no name")
        elif not isinstance(named, _Damaged) and named[0] != name:
            yield Finding(SPACES.name, name, f"its number {row.id} is named {named[0]!r}")
        if len(row.epoch) != ID_BYTES:
            yield Finding(SPACES.name, name, f"the epoch has {len(row.epoch)} bytes")
        for what, seq in (("frontier", row.frontier), ("floor", row.floor)):
            if not 0 <= seq <= row.head:
                yield Finding(SPACES.name, name, f"the {what} {seq} lies beyond the head {row.head}")
        if row.floor > row.frontier:
            yield Finding(SPACES.name, name, f"the floor {row.floor} lies beyond the frontier {row.frontier}")
    for key, named in _rows(tx, SPACE_NAMES, keys.table_range(keys.SPACE_NAME)):
        number = keys.space_of(key)
        if isinstance(named, _Damaged):
            continue
        if tx.get(keys.space(named[0])) is None:
            yield Finding(SPACE_NAMES.name, f"{number}", f"there is no space {named[0]!r}")


def _devices(tx: Reader) -> Findings:
    for key, row in _rows(tx, DEVICES, keys.table_range(keys.DEVICE)):
        if len(key) != 1 + ID_BYTES:
            yield Finding(DEVICES.name, key[1:].hex(), f"a device id has {ID_BYTES} bytes, not {len(key) - 1}")
        if isinstance(row, _Damaged):
            continue
        if row.kind not in _KINDS:
            yield Finding(DEVICES.name, key[1:].hex(), f"unknown kind {row.kind!r}")
        elif (row.installation is not None) != (row.kind == "device"):
            yield Finding(DEVICES.name, key[1:].hex(), "a device, and nothing else, has an installation")
        elif row.kind == "device" and tx.get(keys.user_device(keys.owner(row.user), key[1:])) is None:
            yield Finding(DEVICES.name, key[1:].hex(), f"it is not among the devices of its user {row.user!r}")
    for key, _ in _rows(tx, USER_DEVICES, keys.table_range(keys.USER_DEVICE)):
        owner, device = keys.parse_user_device(key)
        named = _get(tx, DEVICES, keys.device(device))
        if named is None or keys.owner(named.user) != owner:
            yield Finding(USER_DEVICES.name, device.hex(), "there is no such device of this user")
    for _, row in _rows(tx, API_KEYS, keys.table_range(keys.API_KEY)):
        if not isinstance(row, _Damaged) and tx.get(keys.device(row.device)) is None:
            yield Finding(API_KEYS.name, row.name, f"its device {row.device.hex()} has no row")


def _holdings(tx: Reader) -> Findings:
    """What is counted of each user and key is there. (Who made a space stands nowhere else.)"""
    devices, retired = (_counted(tx, DEVICES, partial(_counted_owner, is_retired)) for is_retired in (False, True))
    remembered = _counted(tx, EXPIRIES, lambda row: row[0] if row else None)
    for key, held in _rows(tx, HOLDINGS, keys.table_range(keys.HOLDINGS)):
        owner = key[1:]
        there = [None if counts is None else counts.pop(owner, 0) for counts in (devices, retired, remembered)]
        if isinstance(held, _Damaged):
            continue
        if owner != keys.owner(held.user):
            yield Finding(HOLDINGS.name, held.user, "it stands under the hash of another name")
        counted = (held.devices, held.retired, held.idempotency_keys)
        for what, count, found in zip(("devices", "retired devices", "idempotency keys"), counted, there, strict=True):
            if found is not None and count != found:
                yield Finding(HOLDINGS.name, held.user, f"{count} {what} are counted, {found} are there")
        if held.spaces < 0:
            yield Finding(HOLDINGS.name, held.user, f"{held.spaces} spaces are counted")
    for owner in (devices or Counter()) | (retired or Counter()) | (remembered or Counter()):
        yield Finding(HOLDINGS.name, owner.hex(), "its devices or idempotency keys are not counted")


def _counted_owner(is_retired: bool, row: Any) -> bytes | None:
    is_of_user = row.kind not in ("key", "server") and (row.retired_ms is not None) == is_retired
    return keys.owner(row.user) if is_of_user else None


def _counted(tx: Reader, table: Table[Any], owner: Callable[[Any], bytes | None]) -> Counter[bytes] | None:
    """How many rows each owner has; None if one is damaged, and so nobody knows whose it was."""
    counts: Counter[bytes] = Counter()
    for _, row in _rows(tx, table, keys.table_range(table.prefix)):
        if isinstance(row, _Damaged):
            return None
        if (found := owner(row)) is not None:
            counts[found] += 1
    return counts


def _idempotency(tx: Reader) -> Findings:
    """Each remembered answer has one expiry, and each expiry its answer."""
    for key, row in _rows(tx, IDEMPOTENCY, keys.table_range(keys.IDEMPOTENCY)):
        if not isinstance(row, _Damaged) and tx.get(keys.expiry(row.expires_ms, key[1:])) is None:
            yield Finding(IDEMPOTENCY.name, key[1:].hex(), f"it never expires: no row at {row.expires_ms}")
    for key, _ in tx.scan(*keys.table_range(keys.EXPIRY)):
        key_hash = keys.parse_expiry(key)
        row = _get(tx, IDEMPOTENCY, keys.idempotency(key_hash))
        if row is None:
            yield Finding(EXPIRIES.name, key_hash.hex(), "nothing is remembered that could expire")
        elif not isinstance(row, _Damaged) and keys.expiry(row.expires_ms, key_hash) != key:
            yield Finding(EXPIRIES.name, key_hash.hex(), f"it expires at {row.expires_ms}, not here")


def _consumer_owners(tx: Reader) -> Findings:
    """Each row of the index by owner is that of a consumer."""
    for key, _ in tx.scan(*keys.table_range(keys.CONSUMER_OWNER)):
        owner_hash, space, name = keys.parse_consumer_owner(key)
        if tx.get(keys.consumer(space, owner_hash, name)) is None:
            yield Finding(CONSUMER_OWNERS.name, f"space number {space} {name}", "there is no such consumer")


# -- one space: documents ---------------------------------------------------------------------------------------------


def _named(collection: str, document_id: str) -> str:
    return f"{collection}/{document_id}"


def _documents(space: _Space) -> Findings:
    """Each document is possible by itself, has a number of its own, and one row in byrev."""
    numbers = bytearray(space.row.number_next // 8 + 1)
    for key, row in space.rows(DOCUMENTS):
        if isinstance(row, _Damaged):
            continue
        _, collection, document_id = keys.parse_document(key)
        what = _named(collection, document_id)
        for problem in _document_problems(space.row, row):
            yield space.found(DOCUMENTS, what, problem)
        if 0 <= row.number < space.row.number_next:
            byte, bit = divmod(row.number, 8)
            if numbers[byte] >> bit & 1:
                yield space.found(DOCUMENTS, what, f"its number {row.number} is taken by another document")
            numbers[byte] |= 1 << bit
        byrev = _get(space.tx, BYREV, keys.byrev(space.row.id, row.rev, row.number))
        if byrev is None:
            yield space.found(DOCUMENTS, what, f"it is not listed in byrev at rev {row.rev}")
        elif not isinstance(byrev, _Damaged) and tuple(byrev) != (collection, document_id):
            yield space.found(BYREV, f"rev {row.rev} number {row.number}", f"it names {_named(*byrev)}, not {what}")


def _document_problems(space: SpaceRow, row: Document) -> Iterator[str]:
    if not 0 < row.number < space.number_next:
        yield f"its number {row.number} was never given: the next is {space.number_next}"
    if not 0 < row.rev <= space.head:
        yield f"its rev {row.rev} lies beyond the head {space.head}"
    if not 0 < row.born <= row.rev:
        yield f"it was born at {row.born}, after its rev {row.rev}"
    if not row.makers:
        yield "nobody made it"
    if row.fields and not row.is_live and not row.has_body:
        yield "it is deleted and has fields that nobody wrote"
    for seq, slot in (*row.makers, *row.deletes, *row.writers):
        if seq > space.head or slot >= space.slot_next:
            yield f"it names the change {seq} by slot {slot}, which the space has not"
    for name, field in row.fields.items():
        if field.rev > row.rev:
            yield f"the field {name} has rev {field.rev}, the document {row.rev}"
        if field.seq > space.head or field.slot >= space.slot_next:
            yield f"the field {name} names the change {field.seq} by slot {field.slot}, which the space has not"
        wrong = texts.problem(field.state, field.rev) if field.type == "text" else None
        if wrong is not None:
            yield f"the text {name} {wrong}"


def _byrev(space: _Space) -> Findings:
    """Each row of byrev stands for a document at its rev (that it names the right one is `_documents`' finding)."""
    for key, row in space.rows(BYREV):
        _, rev, number = keys.parse_byrev(key)
        if isinstance(row, _Damaged):
            continue
        document = _get(space.tx, DOCUMENTS, keys.document(space.row.id, *row))
        if document is None:
            yield space.found(BYREV, f"rev {rev} number {number}", f"there is no document {_named(*row)}")
        elif not isinstance(document, _Damaged) and document.number == number and document.rev != rev:
            yield space.found(BYREV, f"rev {rev} number {number}", f"{_named(*row)} has rev {document.rev}")


def _sums(space: _Space) -> Findings:
    """Buckets, total and count are those of the documents."""
    sums = [0] * BUCKET_COUNT
    count = owner_count = 0
    for key, row in space.rows(DOCUMENTS):
        if isinstance(row, _Damaged):
            return  # nothing can be said
        _, collection, document_id = keys.parse_document(key)
        number = bucket_of(collection, document_id)
        sums[number] = (sums[number] + document_sum(collection, document_id, row)) & SUM_MASK
        count += row.is_live
        owner_count += collection == MEMBERS and _is_owner(row)
    for key, row in space.rows(BUCKETS):
        _, number = keys.parse_bucket(key)
        if number >= BUCKET_COUNT:
            yield space.found(BUCKETS, f"{number}", f"there are {BUCKET_COUNT} buckets")
        elif isinstance(row, _Damaged) or row[0] == sums[number]:
            sums[number] = -1 - sums[number]  # agreed: only what has no row is left positive
        else:
            yield space.found(BUCKETS, f"{number}", f"the sum is {row[0]:016x}, its documents have {sums[number]:016x}")
            sums[number] = -1 - sums[number]
    for number, total in enumerate(sums):
        if total > 0:
            yield space.found(BUCKETS, f"{number}", f"the sum is missing, its documents have {total:016x}")
    total = sum(-1 - total if total < 0 else total for total in sums) & SUM_MASK
    if space.row.sum != total:
        yield Finding(SPACES.name, space.name, f"the sum is {space.row.sum:016x}, its documents have {total:016x}")
    if space.row.document_count != count:
        yield Finding(SPACES.name, space.name, f"it counts {space.row.document_count} documents and has {count}")
    if space.row.owner_count != owner_count:
        yield Finding(SPACES.name, space.name, f"it counts {space.row.owner_count} owners and has {owner_count}")


def _is_owner(member: Document) -> bool:
    role = member.fields.get("role")
    return role is not None and role.type == "reg" and role.is_visible and role.value == "owner"


# -- one space: the order and the devices -----------------------------------------------------------------------------


def _log(space: _Space) -> Findings:
    """Seqs without gaps up to the head, T that never falls, and a chain that follows from the device logs."""
    row = space.row
    expected: int | None = None  # the next seq; None before the first row
    last: LogRow | None = None
    chains = {CHAIN_START}  # what the chain may have been one seq earlier, if that is known
    for key, found in space.rows(LOG):
        _, seq = keys.parse_log(key)
        if expected is None and seq > max(row.floor, 1):
            yield space.found(LOG, f"seq {seq}", f"it is the first, although the floor is {row.floor}")
        if expected is not None and seq != expected:
            yield space.found(LOG, f"seq {seq}", f"it follows seq {expected - 1}")
        if seq != (expected or 1):
            chains = set()
        expected = seq + 1
        if isinstance(found, _Damaged):
            last, chains = None, set()
            continue
        if last is not None and found.time < last.time:
            yield space.found(LOG, f"seq {seq}", f"T falls from {last.time} to {found.time}")
        if last is not None and found.log_bytes < last.log_bytes:
            yield space.found(LOG, f"seq {seq}", f"its bytes fall from {last.log_bytes} to {found.log_bytes}")
        possible, problem = _followed(space, seq, found, chains)
        if problem:
            yield space.found(LOG, f"seq {seq}", problem)
        # After a mismatch either the recomputed or the stored value is the right one: the rest may follow from both.
        chains = possible | {found.chain}
        last = found
    end = (expected or row.floor + 1) - 1
    if end < row.head or (expected is not None and end > row.head):
        yield space.found(LOG, f"seq {end}", f"the log ends here, the head is {row.head}")
    elif last is not None and (last.time, last.chain, last.log_bytes) != (row.time, row.chain, row.log_bytes):
        yield Finding(SPACES.name, space.name, "its T, chain or bytes are not those of its last change")


def _followed(space: _Space, seq: int, row: LogRow, chains: set[bytes]) -> tuple[set[bytes], str | None]:
    """The chain values that a log row should have, as far as its device log tells; and what contradicts the row."""
    slot = _get(space.tx, SLOTS, keys.slot(space.row.id, row.slot))
    if row.slot >= space.row.slot_next:
        return set(), f"slot {row.slot} was never given: the next is {space.row.slot_next}"
    if slot is None or isinstance(slot, _Damaged):
        return set(), None
    entry = _get(space.tx, ENTRIES, keys.device_log(space.row.id, row.slot, row.n))
    replica = _get(space.tx, REPLICAS, keys.replica(space.row.id, slot[0]))
    if isinstance(entry, EntryRow):
        if entry.seq != seq:
            return set(), f"it is n {row.n} of slot {row.slot}, whose log says seq {entry.seq}"
        possible = {chained(chain, slot[0], row.n, entry.nonce) for chain in chains}
        if possible and row.chain not in possible:
            return possible, "the chain does not follow from the change before"
        return possible, None
    if entry is None and isinstance(replica, ReplicaRow) and row.n > replica.highest:
        return set(), f"it is n {row.n} of slot {row.slot}, which has recorded only {replica.highest}"
    return set(), None  # trimmed, or reported as a gap of the device log


def _device_logs(space: _Space) -> Findings:
    """Each device's log runs without gaps from what was trimmed to its highest n, its seqs rise and are in the log."""
    first = next(space.tx.scan(*keys.space_range(keys.LOG, space.row.id)), None)
    log_start = space.row.head + 1 if first is None else keys.parse_log(first[0])[1]
    for slot in range(space.row.slot_next):
        owner = _get(space.tx, SLOTS, keys.slot(space.row.id, slot))
        if owner is None or isinstance(owner, _Damaged):
            continue
        replica = _get(space.tx, REPLICAS, keys.replica(space.row.id, owner[0]))
        if isinstance(replica, ReplicaRow) and replica.slot == slot:
            yield from _device_log(space, slot, replica, log_start)
    beyond = keys.device_log(space.row.id, space.row.slot_next, 0)
    for key, _ in space.tx.scan(beyond, keys.space_range(keys.DEVICE_LOG, space.row.id)[1]):
        _, slot, n = keys.parse_device_log(key)
        yield space.found(ENTRIES, f"slot {slot} n {n}", "the slot was never given")


def _device_log(space: _Space, slot: int, replica: ReplicaRow, log_start: int) -> Findings:
    expected, last_seq = replica.trimmed + 1, 0
    for key, entry in _rows(space.tx, ENTRIES, keys.device_log_range(space.row.id, slot, 0)):
        _, _, n = keys.parse_device_log(key)
        what = f"slot {slot} n {n}"
        if n <= replica.trimmed:
            yield space.found(ENTRIES, what, f"it lies below what was trimmed, {replica.trimmed}")
            continue
        if n != expected:
            yield space.found(ENTRIES, what, f"it follows n {expected - 1}")
        expected = n + 1
        if isinstance(entry, _Damaged):
            continue
        if (entry.outcome in _ACCEPTED) != (entry.seq is not None):
            yield space.found(ENTRIES, what, f"its outcome is {entry.outcome}, its seq {entry.seq}")
        if entry.seq is None:
            continue
        if entry.seq <= last_seq:
            yield space.found(ENTRIES, what, f"its seq {entry.seq} is not above the one before, {last_seq}")
        last_seq = entry.seq
        if entry.seq > space.row.head:
            yield space.found(ENTRIES, what, f"its seq {entry.seq} lies beyond the head {space.row.head}")
            continue
        logged = _get(space.tx, LOG, keys.log(space.row.id, entry.seq)) if entry.seq >= log_start else None
        if isinstance(logged, LogRow) and (logged.slot, logged.n) != (slot, n):
            problem = f"the log says that its seq {entry.seq} is n {logged.n} of slot {logged.slot}"
            yield space.found(ENTRIES, what, problem)
    if expected != replica.highest + 1:
        problem = f"its log ends here, its highest n is {replica.highest}"
        yield space.found(ENTRIES, f"slot {slot} n {expected - 1}", problem)


def _replicas(space: _Space) -> Findings:
    """A replica, its slot and its device belong together; its numbers are possible; its low-water is in the index."""
    for key, row in space.rows(REPLICAS):
        if isinstance(row, _Damaged):
            continue
        _, device = keys.parse_replica(key)
        what = device.hex()
        if space.tx.get(keys.device(device)) is None:
            yield space.found(REPLICAS, what, "the device has no row")
        owner = _get(space.tx, SLOTS, keys.slot(space.row.id, row.slot))
        if row.slot >= space.row.slot_next:
            yield space.found(REPLICAS, what, f"slot {row.slot} was never given: the next is {space.row.slot_next}")
        elif owner is not None and not isinstance(owner, _Damaged) and owner[0] != device:
            yield space.found(REPLICAS, what, f"slot {row.slot} is that of device {owner[0].hex()}")
        if not 0 <= row.trimmed <= row.settled <= row.highest:
            numbers = f"trimmed {row.trimmed}, settled {row.settled}, highest {row.highest}"
            yield space.found(REPLICAS, what, f"its numbers do not rise: {numbers}")
        if not 0 <= row.applied <= space.row.head:
            yield space.found(REPLICAS, what, f"it has applied {row.applied}, the head is {space.row.head}")
        if row.low is None:
            continue
        if not space.row.floor <= row.low <= space.row.head:
            problem = f"its low-water is {row.low}, the floor {space.row.floor}, the head {space.row.head}"
            yield space.found(REPLICAS, what, problem)
        if space.tx.get(keys.low_water(space.row.id, row.low, row.slot)) is None:
            yield space.found(REPLICAS, what, f"its low-water {row.low} is not in the index")
        owner = _get(space.tx, DEVICES, keys.device(device))
        if owner is not None and not isinstance(owner, _Damaged):
            held = _get(space.tx, HOLDERS, keys.holder(space.row.id, keys.owner(owner.user), device))
            if held is None:
                yield space.found(REPLICAS, what, "it has a low-water, and is not listed as having a copy")
            elif not isinstance(held, _Damaged) and held.lost_seq is not None:
                yield space.found(HOLDERS, what, f"it lost its copy at {held.lost_seq}, and has a low-water")


def _holders(space: _Space) -> Findings:
    """Each device that is listed as having a copy is a replica, and stands under its user."""
    for key, row in space.rows(HOLDERS):
        _, owner_hash, device = keys.parse_holder(key)
        what = device.hex()
        if space.tx.get(keys.replica(space.row.id, device)) is None:
            yield space.found(HOLDERS, what, "it has a copy, and no replica")
        if isinstance(row, _Damaged):
            continue
        if keys.owner(row.user) != owner_hash:
            yield space.found(HOLDERS, what, f"its key is not that of its user {row.user!r}")
        if row.lost_seq is not None and not 0 <= row.lost_seq <= space.row.head:
            yield space.found(HOLDERS, what, f"it lost its copy at {row.lost_seq}, the head is {space.row.head}")


def _slots(space: _Space) -> Findings:
    """Every slot that was given has a device, and that device a replica."""
    expected = 0
    for key, row in space.rows(SLOTS):
        _, slot = keys.parse_slot(key)
        if slot >= space.row.slot_next:
            yield space.found(SLOTS, f"{slot}", f"it was never given: the next is {space.row.slot_next}")
            continue
        for missing in range(expected, slot):
            yield space.found(SLOTS, f"{missing}", "the slot was given and has no row")
        expected = slot + 1
        if not isinstance(row, _Damaged) and space.tx.get(keys.replica(space.row.id, row[0])) is None:
            yield space.found(SLOTS, f"{slot}", f"its device {row[0].hex()} has no replica")
    for missing in range(expected, space.row.slot_next):
        yield space.found(SLOTS, f"{missing}", "the slot was given and has no row")


def _low_waters(space: _Space) -> Findings:
    """Each row of the index is the low-water of a replica."""
    for key, _ in space.rows(LOW_WATERS):
        _, low, slot = keys.parse_low_water(key)
        owner = _get(space.tx, SLOTS, keys.slot(space.row.id, slot))
        if owner is None or isinstance(owner, _Damaged):
            if slot >= space.row.slot_next:
                yield space.found(LOW_WATERS, f"{low} slot {slot}", "the slot was never given")
            continue
        replica = _get(space.tx, REPLICAS, keys.replica(space.row.id, owner[0]))
        if isinstance(replica, ReplicaRow) and replica.low != low:
            yield space.found(LOW_WATERS, f"{low} slot {slot}", f"the replica's low-water is {replica.low}")


def _letters(space: _Space) -> Findings:
    for key, _ in space.tx.scan(*keys.space_range(keys.LETTER, space.row.id)):
        _, number = keys.parse_letter(key)
        if number >= space.row.letter_next:
            yield space.found(LETTERS, f"{number}", f"it was never given: the next is {space.row.letter_next}")


def _consumers(space: _Space) -> Findings:
    """Each consumer is filed under its owner, and stands at a place that the space has."""
    for key, row in space.rows(CONSUMERS):
        number, owner_hash, name = keys.parse_consumer(key)
        if space.tx.get(keys.consumer_owner(owner_hash, number, name)) is None:
            yield space.found(CONSUMERS, name, "it is not listed under its owner")
        if isinstance(row, _Damaged):
            continue
        if keys.owner(row.owner) != owner_hash:
            yield space.found(CONSUMERS, name, f"its key is not that of its owner {row.owner!r}")
        if len(row.epoch) != ID_BYTES:
            yield space.found(CONSUMERS, name, f"the epoch has {len(row.epoch)} bytes")
        if not 0 <= row.complete <= row.resume:
            yield space.found(CONSUMERS, name, f"it is complete up to {row.complete} and has read up to {row.resume}")
        if (row.start > 0) != (row.complete == 0 < row.resume):
            yield space.found(CONSUMERS, name, f"a first reading up to {row.resume} cannot have begun at {row.start}")
        elif row.epoch == space.row.epoch and row.resume > space.row.head:
            yield space.found(CONSUMERS, name, f"it has read up to {row.resume}, the head is {space.row.head}")


def _epochs(space: _Space) -> Findings:
    """An epoch that ended did so at a head that the space had, and its parent is the last of them."""
    for key, row in space.rows(EPOCHS):
        epoch = keys.parse_epoch(key)[1]
        if isinstance(row, _Damaged):
            continue
        if len(epoch) != ID_BYTES or epoch == space.row.epoch:
            yield space.found(EPOCHS, epoch.hex(), "it is no epoch that ended")
        if not 0 <= row.fork <= space.row.fork:
            yield space.found(EPOCHS, epoch.hex(), f"it ended at {row.fork}, the present one began at {space.row.fork}")
    parent = space.row.parent
    if parent is not None:
        row = _get(space.tx, EPOCHS, keys.epoch(space.row.id, parent))
        if row is None or (isinstance(row, EpochRow) and row.fork != space.row.fork):
            yield space.found(EPOCHS, parent.hex(), f"the parent of the present epoch did not end at {space.row.fork}")
    if not 0 <= space.row.safe <= space.row.head:
        yield space.found(SPACES, "safe", f"a backup has it up to {space.row.safe}, the head is {space.row.head}")


STORE_CHECKS: Final[tuple[Callable[[Reader], Findings], ...]] = (
    _outside, _records, _meta, _spaces, _devices, _holdings, _idempotency, _consumer_owners, lease_ends,
    workflow_versions, version_uses, counters,
    timers, runs, decisions, dispatches, standings,
)  # fmt: skip
SPACE_CHECKS: Final[tuple[Callable[[_Space], Findings], ...]] = (
    _documents, books, unique_keys, histories, _byrev, tombstones, key_hashes, _sums, _log, _device_logs, _replicas,
    _holders, _slots, _low_waters, lapsed, keepings, _letters, _consumers, _epochs,
)  # fmt: skip
