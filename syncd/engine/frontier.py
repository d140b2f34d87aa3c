"""The stable frontier of a space, and what may be dropped below it.

Owns when a device lapses, how far frontier and floor have come, and the small steps in which tombstones, the log and
the payloads of old changes go. Must not know when a step is due: whoever has idle time asks for one.

A device's **low-water** is a position before which it has everything and will never edit from again. The **frontier**
is the least low-water of the active devices; the index of low-waters has it in its first row. What lies below it,
nobody needs in order to catch up. The **floor** is where dropping has come to: every deletion after it is still known.
It follows the frontier, but passes nothing that is younger than `recent_ms`: backends that follow a space hold no
low-water (no reader that went away keeps history from being dropped), and these hours are what they catch up by.
Where T is ahead, by a clock that was set back since, it tells no age until the true clock has come so far: what counts
there is how much has come since, as it does for devices.

Invariants: G1 floor <= frontier <= every low-water in the index, but that of a device which came back after it had
lapsed: that one is not below the floor. G2 frontier and floor never move back. G3 what is dropped lies at or below a
floor that is committed no later than the drop. G4 a step touches `STEP_ROWS_MAX` rows
at most, and reads no more when it has read `STEP_BYTES_MAX`. G5 with collection
switched off, all of it happens but the drops, and no answer to anyone differs.

Where updates win, a deleted document keeps its body until the frontier has passed the delete; from then on the body
counts as absent (batch.py, B7), and its bytes go with the tombstone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from syncd.core.documents import reservations
from syncd.engine.batch import FIELD_BYTES, Batch, SpaceWork
from syncd.engine.commands import Collect, Collected
from syncd.store import keys
from syncd.store.api import Reader, Writer
from syncd.store.tables import (
    BYREV,
    DEVICES,
    DOCUMENTS,
    ENTRIES,
    LAPSED,
    LOG,
    SLOTS,
    UNIQUE,
    LapsedRow,
    LogRow,
    SpaceRow,
)

DAY_MS = 86_400_000
# Of all tables together, for one step: some 2 ms in which the writer serves nobody else.
STEP_ROWS_MAX = 128
# Of what is read for it: bodies that are kept where updates win, and changes, may have 256 KiB each. As long.
STEP_BYTES_MAX = 512 * 1024


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is kept for devices that are away. `lapse_ms`, `lapse_bytes`: a device lapses when the first change
    that it has not acknowledged is older, or when more bytes of changes have come since. `recent_ms`: the floor passes
    nothing younger. `history_ms`: the log below the floor, and the payloads of its changes, stay for so long.
    `is_collecting`: false to drop nothing."""

    lapse_ms: int = 90 * DAY_MS
    lapse_bytes: int = 256 * 1024 * 1024
    recent_ms: int = DAY_MS
    history_ms: int = 30 * DAY_MS
    is_collecting: bool = True


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A device that has lapsed, for operators: the low-water that it had, and when it lapsed."""

    device: bytes
    user: str
    low: int
    at_ms: int


def least_low(tx: Reader, space_id: int, head: int) -> int:
    """The least low-water of a space's active devices; the head if there is none."""
    for key, _ in tx.scan(*keys.space_range(keys.LOW_WATER, space_id)):
        return keys.parse_low_water(key)[1]
    return head


def lapsed_devices(tx: Reader, space_id: int) -> list[Lapsed]:
    found = []
    for key, row in LAPSED.scan(tx, keys.space_range(keys.LAPSED, space_id)):
        device = _device_of(tx, space_id, keys.parse_lapsed(key)[1])
        owner = DEVICES.get(tx, keys.device(device))
        found.append(Lapsed(device, "" if owner is None else owner.user, row.low, row.at_ms))
    return found


def is_due(tx: Reader, row: SpaceRow, now_ms: int, retention: Retention) -> bool:
    """Whether a step in this space would alter anything."""
    for key, _ in tx.scan(*keys.space_range(keys.LOW_WATER, row.id)):
        if _has_lapsed(tx, row.id, keys.parse_low_water(key)[1], row.head, row.log_bytes, now_ms, retention):
            return True
        break
    is_past = _past(row, now_ms, retention.recent_ms, retention)
    if _risen(tx, row.id, row.floor, least_low(tx, row.id, row.head), is_past) > row.floor:
        return True
    if not retention.is_collecting:
        return False
    if next(iter(tx.scan(*keys.tombstones_range(row.id, row.floor))), None) is not None:
        return True
    for _, log in LOG.scan(tx, keys.log_range(row.id, row.floor)):
        return _past(row, now_ms, retention.history_ms, retention)(log)
    return False


def collected(batch: Batch, command: Collect, retention: Retention) -> Collected:
    """One step in one space."""
    name = command.space
    if name in batch.spaces:
        # What this batch has decoded of the space must not be dropped under its hands.
        return Collected(name, 0, 0, is_more=True)
    work = batch.space(name)
    if work is None:
        return Collected(name, 0, 0, is_more=False)
    lapsed = _lapse(batch, work, retention)
    tx, row, now_ms = batch.tx, work.row, batch.now_ms
    least = least_low(tx, row.id, row.head)
    frontier = max(row.frontier, least)
    floor = _risen(tx, row.id, row.floor, least, _past(row, now_ms, retention.recent_ms, retention))
    work.row = row._replace(frontier=frontier, floor=floor)
    dropped = read_bytes = 0
    if retention.is_collecting:
        dropped, read_bytes = _drop_tombstones(batch, work, STEP_ROWS_MAX - lapsed)
        if read_bytes < STEP_BYTES_MAX:
            is_past = _past(row, now_ms, retention.history_ms, retention)
            count, more_bytes = _drop_log(batch, work, is_past, STEP_ROWS_MAX - lapsed - dropped, read_bytes)
            dropped, read_bytes = dropped + count, read_bytes + more_bytes
    is_more = lapsed + dropped >= STEP_ROWS_MAX or read_bytes >= STEP_BYTES_MAX
    return Collected(name, lapsed, dropped, is_more)


# -- lapsing ----------------------------------------------------------------------------------------------------------


def _has_lapsed(
    tx: Reader, space_id: int, low: int, head: int, log_bytes: int, now_ms: int, retention: Retention
) -> bool:
    """Whether a device with this low-water has been away for too long, talking or not."""
    if low >= head:
        return False
    first = LOG.get(tx, keys.log(space_id, low + 1))
    assert first is not None, "no log row goes that follows a low-water"
    since_bytes = log_bytes - first.log_bytes  # without that first change, which may be greater than any retention
    return first.time <= now_ms - retention.lapse_ms or since_bytes > retention.lapse_bytes


def _lapse(batch: Batch, work: SpaceWork, retention: Retention) -> int:
    """Those at the beginning of the index that have been away for too long. How many they are."""
    slots: list[int] = []
    row = work.row
    for key, _ in batch.tx.scan(*keys.space_range(keys.LOW_WATER, row.id)):
        _, low, slot = keys.parse_low_water(key)
        is_gone = _has_lapsed(batch.tx, row.id, low, row.head, row.log_bytes, batch.now_ms, retention)
        if not is_gone or len(slots) == STEP_ROWS_MAX:
            break  # whoever comes behind it in the index has more, and more recent things
        slots.append(slot)
    for slot in slots:
        work.lapse(_device_of(batch.tx, row.id, slot))
    return len(slots)


def _device_of(tx: Reader, space_id: int, slot: int) -> bytes:
    found = SLOTS.get(tx, keys.slot(space_id, slot))
    assert found is not None, "every slot has a device"
    device: bytes = found[0]
    return device


def low_on_arrival(work: SpaceWork, complete: int, start: int | None) -> int:
    """The low-water of a device that subscribes at this position and holds none. For one that has nothing yet, or may
    lack what is forgotten, the head: what it is going to read is at least as new."""
    stands = complete or start
    return work.head if stands is None or stands < work.row.floor else min(stands, work.head)


def low_after_ack(work: SpaceWork, lapsed: LapsedRow | None, applied: int, oldest_base: int) -> int | None:
    """The low-water with which a lapsed device that goes on acknowledging counts again; None as long as it must not:
    it has not come on since it lapsed, or what it lacks may be forgotten."""
    low = min(applied, oldest_base, work.head)
    if lapsed is None or low <= lapsed.low or low < work.row.floor:
        return None
    return low


# -- the floor --------------------------------------------------------------------------------------------------------


IsPast = Callable[[LogRow], bool]


def _past(row: SpaceRow, now_ms: int, age_ms: int, retention: Retention) -> IsPast:
    """Whether a change is as old as this. If one is, all before it are."""
    before_ms, since_bytes = now_ms - age_ms, -1
    if row.time > now_ms + retention.recent_ms:
        since_bytes = row.log_bytes - retention.lapse_bytes
    return lambda log: log.time <= before_ms or log.log_bytes < since_bytes


def _risen(tx: Reader, space_id: int, floor: int, least: int, is_past: IsPast) -> int:
    """The greatest seq up to `least` that is past; by bisection."""
    low, high = floor, max(floor, least)
    while low < high:
        middle = high if low == floor and high == least else (low + high + 1) // 2
        log = LOG.get(tx, keys.log(space_id, middle))
        assert log is not None, "no log row above the floor goes"
        if is_past(log):
            low = middle
        else:
            high = middle - 1
    return low


def _drop_tombstones(batch: Batch, work: SpaceWork, count_max: int) -> tuple[int, int]:
    """How many went, and how many bytes were read for it."""
    tx, space_id = batch.tx, work.row.id
    gone: list[bytes] = []
    for key, _ in tx.scan(*keys.tombstones_range(space_id, work.row.floor)):
        if len(gone) >= count_max:
            break
        gone.append(key)
    count = read_bytes = 0
    for key in gone:
        count += 1
        _, rev, number = keys.parse_tombstone(key)
        place = keys.byrev(space_id, rev, number)
        named = BYREV.get(tx, place)
        assert named is not None, "a tombstone has its place by rev"
        read_bytes += _free_keys(tx, space_id, (named[0], named[1]))
        tx.delete(keys.document(space_id, *named))
        tx.delete(place)
        tx.delete(key)
        if read_bytes >= STEP_BYTES_MAX:
            break
    return count, read_bytes


def _free_keys(tx: Writer, space_id: int, name: tuple[str, str]) -> int:
    """What a kept body held, if nobody has taken it since the frontier passed the delete. How much was read, by what a
    field costs beside its bytes."""
    where = keys.document(space_id, *name)
    record = tx.get(where)
    document = None if record is None else DOCUMENTS.row(where, record)
    for under, key in reservations(document).items():
        row = keys.unique(space_id, under, key)
        holder = UNIQUE.get(tx, row)
        if holder is not None and (holder[0], holder[1]) == name:
            tx.delete(row)
    return len(record or b"") + (0 if document is None else FIELD_BYTES * len(document.fields) // 8)


def _drop_log(batch: Batch, work: SpaceWork, is_past: IsPast, count_max: int, read_bytes: int) -> tuple[int, int]:
    """The log below the floor, which itself keeps its row: a position there still has a chain value. With each row goes
    the payload of its change; its outcome stays, until its device has it for good. `read_bytes`: by this step before.
    How many went, and how many bytes were read for it."""
    tx, space_id = batch.tx, work.row.id
    gone: list[tuple[bytes, int, int]] = []
    for key, log in LOG.scan(tx, keys.log_range(space_id, work.row.floor)):
        if len(gone) >= count_max or not is_past(log):
            break
        gone.append((key, log.slot, log.n))
    count, before_bytes = 0, read_bytes
    for key, slot, n in gone:
        count += 1
        tx.delete(key)
        entry_key = keys.device_log(space_id, slot, n)
        entry = ENTRIES.get(tx, entry_key)
        if entry is not None and entry.payload is not None:
            ENTRIES.put(tx, entry_key, entry._replace(payload=None))
            read_bytes += len(entry.payload)
            if read_bytes >= STEP_BYTES_MAX:
                break
    return count, read_bytes - before_bytes
