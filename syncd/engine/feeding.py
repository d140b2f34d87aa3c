"""The change feed of a space for backends, and the named consumers that remember where they stand in it.

Owns what a reader at a place is given next, which places hold, and the rows of consumers. Must not know HTTP, waiting,
or who is woken. What is read is a page as a device gets it (`reading.page`), so a backend learns what a device would.

A feed is made of deltas, not of the log's entries. A delta says what became of each document, with changes that were
repeated collapsed into one; it can be read from any place for ever, costs what changed and not what happened, and shows
a reader nothing but what it may read. Log entries would have to be kept as long as the slowest reader wants them, are
meaningless without the merge rules, and hold what was refused or gave way.

Invariants: F1 from any place, whatever the limits, the deltas up to one that is complete come to the documents at the
head. F2 after a place nothing is left out that comes behind it, deletions included: a reader may have applied what it
never acknowledged, so not even the first pages of all leave out tombstones, as those of a device do. F3 a consumer
moves by acknowledgement only, forward in both of its numbers, and never beyond the head. F4 a consumer counts for
nothing in the frontier: it reads documents, not history, and no reader that went away keeps history from being dropped.
"""

from collections.abc import Iterator

from syncd.core.ids import Place, Position
from syncd.engine import reading
from syncd.engine.batch import Batch, space_row
from syncd.engine.commands import (
    AckConsumer,
    Author,
    Consumer,
    Done,
    DropConsumer,
    Expired,
    PutConsumer,
    Refused,
    Result,
    UseConsumer,
)
from syncd.engine.epochs import fork_of
from syncd.engine.grants import Role
from syncd.engine.quotas import KEY_PREFIX
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import CONSUMER_OWNERS, CONSUMERS, ConsumerRow, SpaceRow
from syncd.wire.messages import Delta

FROM_START, FROM_HEAD = "0", "head"  # places that need no epoch
LIMIT_MAX = reading.PAGE_ROWS_MAX
SPACE_CONSUMERS_MAX = 64  # of all owners: each is a backend, of which a company has tens; they are listed in one go
# Of these, those of users: else whoever may read a space could leave no place in it for any backend.
USERS_CONSUMERS_MAX = 32
OWNER_CONSUMERS_MAX = 1_024  # in all spaces: a key that follows one space per customer wants another design beyond it
USED_MS = 300_000  # so precise is `used_ms` while a consumer is only read: a write for each poll would be waste


def owner_hash(owner: str) -> bytes:
    return keys.owner(owner)


# -- reading ----------------------------------------------------------------------------------------------------------


def started(row: SpaceRow, start: Place | str) -> Place:
    """A place, also for one of the two that need no epoch."""
    if isinstance(start, Place):
        return start
    seq = row.head if start == FROM_HEAD else 0
    return Place(row.epoch, seq, seq)


def refused_place(tx: Reader, row: SpaceRow, space: str, place: Place) -> Expired | Refused | None:
    """Why nothing can be read from a place; None if it holds."""
    if place.epoch != row.epoch:
        return Expired(space, row.epoch, fork_of(tx, row, place.epoch), 0)
    if max(place.resume, place.start) > row.head:
        return Refused("bad_position", f"the position lies beyond the head {row.head}")
    if 0 < (place.complete or place.start) < row.floor:
        # Deletions after it may be forgotten. Nothing of what the reader holds can be told to be right.
        return Expired(space, row.epoch, 0, 0)
    return None


def fed(tx: Reader, row: SpaceRow, space: str, place: Place, limit: int) -> Delta:
    """What comes next for a reader at a place that holds: a page of at most `limit` documents, unless the first change
    in it alone altered more. Nothing if the reader is at the head."""
    # `start` 0: no tombstone is left out (F2).
    cursor = reading.Cursor(space, row.id, place.complete, place.resume, 0 if place.complete == 0 else None)
    return reading.page(tx, cursor, rows_max=limit)


def place_after(place: Place, delta: Delta, head: int) -> Place:
    """Where a reader stands that has taken what came behind `place` when the head was at `head`."""
    if delta.complete:
        return Place(delta.epoch, delta.to, delta.to)
    return Place(delta.epoch, delta.from_, delta.to, 0 if delta.from_ else place.start or head)


def consumer(tx: Reader, space: str, owner: str, name: str) -> Consumer | None:
    row = space_row(tx, space)
    found = None if row is None else CONSUMERS.get(tx, keys.consumer(row.id, owner_hash(owner), name))
    return None if row is None or found is None else _told(row, name, found)


def consumers(tx: Reader, space: str, owner: str | None = None) -> Iterator[Consumer]:
    """The consumers of a space, of one owner or of all."""
    row = space_row(tx, space)
    if row is None:
        return
    if owner is None:
        bounds = keys.space_range(keys.CONSUMER, row.id)
    else:
        bounds = keys.consumers_range(row.id, owner_hash(owner))
    for key, found in CONSUMERS.scan(tx, bounds):
        yield _told(row, keys.parse_consumer(key)[2], found)


def _told(row: SpaceRow, name: str, found: ConsumerRow, *, is_new: bool = False) -> Consumer:
    head = Position(row.epoch, row.head)
    return Consumer(name, found.owner, _place(found), head, found.made_ms, found.used_ms, is_new)


def _place(found: ConsumerRow) -> Place:
    return Place(found.epoch, found.complete, found.resume, found.start)


# -- writing ----------------------------------------------------------------------------------------------------------


def consumer_made(batch: Batch, command: PutConsumer) -> Result:
    """Make a consumer, unless it is there: every worker may ask for it when it starts, and none moves the others. One
    whose place does not hold any more is made anew, as there is nothing left of what it stood for."""
    row = _readable(batch, command.author, command.space)
    if isinstance(row, Refused):
        return row
    if row is None:
        return Refused("unknown_space", f"there is no space {command.space}")
    owner = owner_hash(command.owner)
    key = keys.consumer(row.id, owner, command.name)
    found = CONSUMERS.get(batch.tx, key)
    if found is not None and refused_place(batch.tx, row, command.space, _place(found)) is None:
        return _told(row, command.name, found)
    place = started(row, command.start)
    refusal = refused_place(batch.tx, row, command.space, place)
    if refusal is not None:
        return refusal
    if found is None:
        if _is_full(batch, keys.space_range(keys.CONSUMER, row.id), SPACE_CONSUMERS_MAX):
            return Refused("too_many", f"a space has at most {SPACE_CONSUMERS_MAX} consumers")
        if not command.owner.startswith(KEY_PREFIX) and _users_count(batch, row) >= USERS_CONSUMERS_MAX:
            return Refused("too_many", f"users have at most {USERS_CONSUMERS_MAX} consumers in a space")
        if _is_full(batch, keys.consumer_owner_range(owner), OWNER_CONSUMERS_MAX):
            return Refused("too_many", f"one key or user has at most {OWNER_CONSUMERS_MAX} consumers")
    made = ConsumerRow(
        command.owner, place.epoch, place.complete, place.resume, place.start, batch.now_ms, batch.now_ms
    )
    CONSUMERS.put(batch.tx, key, made)
    CONSUMER_OWNERS.put(batch.tx, keys.consumer_owner(owner, row.id, command.name), ())
    return _told(row, command.name, made, is_new=True)


def consumer_used(batch: Batch, command: UseConsumer) -> Result:
    work = batch.space(command.space)
    key = b"" if work is None else keys.consumer(work.row.id, owner_hash(command.owner), command.name)
    found = CONSUMERS.get(batch.tx, key) if key else None
    if found is not None:
        CONSUMERS.put(batch.tx, key, found._replace(used_ms=batch.now_ms))
    return Done()


def consumer_acked(batch: Batch, command: AckConsumer) -> Result:
    """Move a consumer to a place (F3). One that it has passed already is an acknowledgement sent again, or that of the
    slower of two workers: it moves nothing, and is no error. What two workers were given, the consumer has both of."""
    row = _readable(batch, command.author, command.space)
    if isinstance(row, Refused):
        return row
    key = b"" if row is None else keys.consumer(row.id, owner_hash(command.owner), command.name)
    found = CONSUMERS.get(batch.tx, key) if key else None
    if row is None or found is None:
        return Refused("unknown", f"there is no consumer {command.name}")
    place = command.place
    if place.epoch != row.epoch or found.epoch != row.epoch:
        # Also a good place for a consumer that stands in another epoch: it is made anew first, knowing what is lost.
        old = place.epoch if place.epoch != row.epoch else found.epoch
        return Expired(command.space, row.epoch, fork_of(batch.tx, row, old), 0)
    if max(place.resume, place.start) > row.head:
        return Refused("bad_position", f"the position lies beyond the head {row.head}")
    if place.complete > found.complete and place.resume > place.complete:
        # Pages are given from where the consumer stands: this one comes from another feed, and would open a gap.
        return Refused("bad_position", "this place between two pages was not given to this consumer")
    complete = max(found.complete, place.complete)
    begun = [each.start for each in (found, place) if each.start and not complete]  # the earlier of two readings
    found = found._replace(
        complete=complete,
        resume=max(found.resume, place.resume),
        start=min(begun, default=0),
        used_ms=max(found.used_ms, batch.now_ms),
    )
    CONSUMERS.put(batch.tx, key, found)
    return _told(row, command.name, found)


def consumer_dropped(batch: Batch, command: DropConsumer) -> Result:
    row = _readable(batch, command.author, command.space)
    if isinstance(row, Refused):
        return row
    owner = owner_hash(command.owner)
    if row is None or not batch.tx.delete(keys.consumer(row.id, owner, command.name)):
        return Refused("unknown", f"there is no consumer {command.name}")
    batch.tx.delete(keys.consumer_owner(owner, row.id, command.name))
    return Done()


def _readable(batch: Batch, author: Author, space: str) -> SpaceRow | Refused | None:
    """The space as the changes before this command left it, for one who may read it; None if there is none."""
    if batch.role(author, space) < Role.READER:
        return Refused("forbidden", f"reading {space} needs the role reader")
    work = batch.space(space)
    return None if work is None else work.row._replace(head=work.head)


def _users_count(batch: Batch, row: SpaceRow) -> int:
    found = CONSUMERS.scan(batch.tx, keys.space_range(keys.CONSUMER, row.id))
    return sum(not each.owner.startswith(KEY_PREFIX) for _, each in found)


def _is_full(batch: Batch, bounds: tuple[bytes, bytes], count_max: int) -> bool:
    return any(number == count_max for number, _ in enumerate(batch.tx.scan(*bounds), 1))
