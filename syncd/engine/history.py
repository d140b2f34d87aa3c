"""History: what became of a document change by change, and what it was as of a seq.

Owns the way back through a document's changes, and replaying them. Must not know any merge rule: a document as of a seq
is made by the same pure functions (`core/documents.py`) that made it then, out of the same changes.

A document says which change was the last to touch it, and that change's entry in its device's log says which one was
before it: so the history of a document costs what its own changes cost, whatever else happened in the space. It reaches
back as far as those entries are kept ([retention] history; of each device the last settled ones at least).

Invariants: H1 what is told of a seq is what stood then, or it is said from which seq on that is known; nothing is
guessed. Replaying goes on to the present, and what does not come to what is stored counts as not known. H2 a step reads
`STEP_CHANGES` changes at most, and no transaction is held between two.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from syncd.core.changes import Operation, parsed_operation
from syncd.core.documents import Document, Draft
from syncd.core.fields import Observer, OperationRefused
from syncd.core.leases import Honoured, book_of
from syncd.core.values import decoded
from syncd.engine.batch import DocumentName, is_forgotten, space_row
from syncd.store import keys
from syncd.store.api import Reader, StoreDamaged
from syncd.store.tables import DEVICES, DOCUMENTS, ENTRIES, LOG, REPLICAS, SLOTS, SpaceRow

# Changes read, or replayed, in one go: some 5 ms in which the loop does nothing else.
STEP_CHANGES = 100
STEP_BYTES = 512 * 1024  # of their operations, which may be two of the greatest
# Changes replayed for one answer, some seconds of steps: a counter that is counted up ten times a minute for a day.
REPLAYED_MAX = 20_000
LISTED_MAX = 200  # changes in a page of a document's history
LISTED_BYTES_MAX = 512 * 1024  # of their operations; a page ends beyond


class Writer(NamedTuple):
    """Who stands behind a slot. Empty if the space does not know it any more."""

    device: bytes
    user: str
    kind: str


class Made(NamedTuple):
    """A change that was accepted, as far as it concerns one document. `operations`: those on the document, as they
    travelled. `before`: the change before it that touched the document; not positive if the document was absent, since
    seq -`before` at least."""

    seq: int
    slot: int
    n: int
    time: int
    base: int
    stamp: int
    context: tuple[tuple[bytes, int, int], ...]
    outcome: str
    detail: dict[str, Any]
    operations: tuple[Any, ...]
    before: int
    bytes: int

    @property
    def eff(self) -> int:
        return min(self.stamp, self.time)


class NotTouched(Exception):
    """A change that does not touch the document was taken for one of its history."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a document's history, newest first. `next`: the change with which the next page begins, None at the
    end. `known_from`: at the end, the first seq from which on the history is whole: 0 if from its beginning."""

    state: str  # `live`, `deleted` or `absent`
    rev: int
    changes: tuple[Made, ...]
    next: int | None
    known_from: int | None


@dataclass(frozen=True, slots=True)
class Past:
    """What a document was as of a seq: `document` is None if there was none, or nobody knows. `known_from`: None if it
    is known; else the first seq from which on it is."""

    document: Document | None
    known_from: int | None = None

    @property
    def is_live(self) -> bool:
        return self.document is not None and self.document.is_live


def writer(tx: Reader, space_id: int, slot: int) -> Writer:
    """Who stands behind a slot."""
    named = SLOTS.get(tx, keys.slot(space_id, slot))
    row = None if named is None else DEVICES.get(tx, keys.device(named[0]))
    return Writer(b"", "", "") if named is None or row is None else Writer(named[0], row.user, row.kind)


def stored(tx: Reader, row: SpaceRow, name: DocumentName) -> Document | None:
    """The document or its tombstone, as far as anyone may look at it."""
    found = DOCUMENTS.get(tx, keys.document(row.id, *name))
    return None if found is None or is_forgotten(name, found, row.floor) else found


def made_at(tx: Reader, space_id: int, name: DocumentName, seq: int) -> Made | None:
    """The change at a seq, as far as it concerns a document; None if it is not kept any more. Raises `NotTouched`."""
    log = LOG.get(tx, keys.log(space_id, seq))
    entry = None if log is None else ENTRIES.get(tx, keys.device_log(space_id, log.slot, log.n))
    if log is None or entry is None or entry.payload is None:
        return None
    operations, place = [], None
    names: dict[DocumentName, int] = {}
    for operation in decoded(entry.payload):
        about = (operation[1], operation[2])
        names.setdefault(about, len(names))
        if about == name:
            operations.append(operation)
            place = names[about]
    if place is None or place >= len(entry.before):
        raise NotTouched(f"the change at seq {seq} does not touch {name[0]}/{name[1]}")
    context = tuple((former[0], former[1], former[2]) for former in entry.context)
    return Made(
        *(seq, log.slot, log.n, log.time, entry.base, entry.stamp, context, entry.outcome, entry.detail or {}),
        *(tuple(operations), entry.before[place], len(entry.payload)),
    )


def backwards(tx: Reader, space_id: int, name: DocumentName, seq: int) -> Iterator[Made]:
    """The changes that touched a document, from the one at `seq` on, newest first, as far as they are kept."""
    while seq > 0:
        try:
            found = made_at(tx, space_id, name, seq)
        except NotTouched as error:
            raise StoreDamaged(f"space {space_id}: {error}, as a later one says") from None
        if found is None:
            return
        yield found
        seq = found.before


def listed(tx: Reader, space: str, name: DocumentName, start: int | None, limit: int) -> Listing:
    """A page of a document's history, from the change `start` on (None: from the newest). Raises `NotTouched` if
    `start` is none of it."""
    row = space_row(tx, space)
    document = None if row is None else stored(tx, row, name)
    if row is None or document is None:
        return Listing("absent", 0, (), None, 0 if row is None else row.floor)
    state = "live" if document.is_live else "deleted"
    if start is not None:
        made_at(tx, row.id, name, start)
    changes: list[Made] = []
    seq, size = document.touched if start is None else start, 0
    for change in backwards(tx, row.id, name, seq):
        if len(changes) == limit or size > LISTED_BYTES_MAX:
            return Listing(state, document.rev, tuple(changes), change.seq, None)
        changes.append(change)
        seq, size = change.before, size + change.bytes
    # What is above `seq` was read; if it is a change, that one is not kept.
    known_from = changes[-1].seq if seq > 0 and changes else seq + 1 if seq > 0 else -seq
    return Listing(state, document.rev, tuple(changes), None, known_from)


# -- as of a seq ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rewind:
    """Finds what a document was as of `seq`, which is not beyond the head. `step` in a read transaction of its own each
    time, until it answers: first the changes are looked for, newest first, then replayed, oldest first."""

    space: str
    name: DocumentName
    seq: int
    _last: Document | None = None  # as stored, when this began
    _changes: list[int] = field(default_factory=list)  # those to replay, newest first
    _next: int = 0  # the change to look at next; then where replaying has come to
    _is_forward: bool = False
    _document: Document | None = None
    _found: Past | None = None
    _granted: set[bytes] = field(default_factory=set)  # ids of all leases that these changes asked for
    _replayed: list[int] = field(default_factory=list)  # of the changes, those that are done, oldest first
    _update_wins: bool = False  # whether a delete is taken for one over which updates win

    def step(self, tx: Reader) -> Past | None:
        """The answer, or None: there is more to do."""
        row = space_row(tx, self.space)
        if row is None:
            return Past(None)
        if self._last is None:
            self._last = last = stored(tx, row, self.name)
            if last is None:
                return Past(None, row.floor if self.seq < row.floor else None)
            if self.seq >= last.touched:
                return Past(last)
            self._next = last.touched
        return self._forward(tx, row) if self._is_forward else self._back(tx, row)

    def _unknown(self) -> Past:
        assert self._last is not None, "there is a document to ask for"
        return Past(None, self._last.touched)

    def _back(self, tx: Reader, row: SpaceRow) -> Past | None:
        assert self._last is not None
        read = size = 0
        for change in backwards(tx, row.id, self.name, self._next):
            self._changes.append(change.seq)
            self._next, read, size = change.before, read + 1, size + change.bytes
            if change.seq == self._last.born <= self.seq and not any(o[0] == "delete" for o in change.operations):
                self._is_forward = True  # there was none when it was made: older incarnations do not matter
                return None
            if len(self._changes) > REPLAYED_MAX:
                return self._unknown()
            if change.before <= 0:
                break
            if read >= STEP_CHANGES or size > STEP_BYTES:
                return None
        if self._next > 0:
            return self._unknown()
        if self.seq < self._changes[-1]:
            return Past(None, None if self.seq >= -self._next else -self._next)
        self._is_forward = True
        return None

    def _forward(self, tx: Reader, row: SpaceRow) -> Past | None:
        last, read, size = self._last, 0, 0
        assert last is not None
        while self._changes:
            if read >= STEP_CHANGES or size > STEP_BYTES:
                return None
            self._replayed.append(self._changes.pop())
            change = made_at(tx, row.id, self.name, self._replayed[-1])
            if change is None:
                return self._unknown()  # its time was over meanwhile
            if change.seq > self.seq and self._found is None:
                self._found = Past(self._document)
            try:
                self._document = replayed(
                    tx, row.id, self._document, change, last.number, self._granted, self._update_wins
                )
            except OperationRefused:
                return self._otherwise()
            read, size = read + 1, size + change.bytes
        assert self._found is not None, "the last change is beyond the seq"
        found = self._document
        if found is not None and found.has_body and not last.has_body:
            found = found.bodiless()  # it was kept only for a while
        return self._found if _plain(found) == _plain(last) else self._otherwise()

    def _otherwise(self) -> Past | None:
        """By which rule deletes were judged is not recorded: what does not come to what is stored by the one rule is
        tried by the other, over which updates win."""
        if self._update_wins:
            return self._unknown()
        self._changes, self._replayed = [*self._changes, *reversed(self._replayed)], []
        self._document, self._found, self._granted, self._update_wins = None, None, set(), True
        return None


def replayed(
    tx: Reader,
    space_id: int,
    document: Document | None,
    change: Made,
    number: int,
    granted: set[bytes],
    update_wins: bool = False,
) -> Document | None:
    """The document after a change that was accepted. `granted`: the leases that were asked for so far, which this
    goes on with."""
    is_device = writer(tx, space_id, change.slot).kind == "device"
    seen = []
    for device, _, seq in change.context:
        former = REPLICAS.get(tx, keys.replica(space_id, device))
        if former is not None:
            seen.append((former.slot, seq))
    by = Observer(change.base, change.slot, is_device, change.seq, change.stamp, change.time, tuple(seen))
    draft = Draft(document, by, update_wins)
    for item in change.operations:
        operation = parsed_operation(item)
        if operation.verb.startswith("bounded."):
            operation = _as_admitted(operation, change, draft.document(), granted)
        draft.apply(operation, number)
    return draft.document()


def _as_admitted(operation: Operation, change: Made, document: Document | None, granted: set[bytes]) -> Operation:
    """The operation as the server had let it go on to the book: with the end that it gave to a lease, and with a lease
    that it vouched for because it was granted in a history that was lost."""
    args = operation.args
    if operation.verb == "bounded.lease":
        granted.add(args[0])
        until = next((each[2] for each in change.detail.get("leases", ()) if each[0] == args[0]), None)
        return operation if until is None else operation._replace(args=(*args[:2], until - change.time))
    at = {"bounded.take": 1, "bounded.give": 0}.get(operation.verb)
    named = None if at is None else args[at]
    if at is None or type(named) is not list or named[0] in granted or change.outcome == "noop":
        return operation
    kept = None if document is None or operation.field is None else document.fields.get(operation.field)
    if kept is None or named[0] in book_of(kept.state).leases:
        return operation
    if any(verdict == "ended" for _, verdict, _ in change.detail.get("met", ())):
        return operation  # it was not vouched for: the take was served from the reserve
    return operation._replace(args=(*args[:at], Honoured(named[0], named[1], named[2]), *args[at + 1 :]))


def _plain(item: Any) -> Any:
    """Without the difference between what was just made and what was read: tuples come back as lists."""
    if isinstance(item, list | tuple):
        return [_plain(each) for each in item]
    if isinstance(item, dict):
        return {key: _plain(each) for key, each in item.items()}
    return item


def told(tx: Reader, space_id: int, changes: Iterable[Made]) -> list[dict[str, Any]]:
    """Changes as they are shown to readers and operators: who changed what, having seen what, and what came of it.
    Values may hold bytes."""
    writers: dict[int, Writer] = {}
    shown = []
    for change in changes:
        if change.slot not in writers:
            writers[change.slot] = writer(tx, space_id, change.slot)
        by = writers[change.slot]
        shown.append(
            {
                "seq": change.seq,
                "device": by.device.hex(),
                "user": by.user,
                "kind": by.kind,
                "n": change.n,
                "base": change.base,
                "context": [[device.hex(), n, seq] for device, n, seq in change.context],
                "stamp": change.stamp,
                "time": change.time,
                "eff": change.eff,
                "outcome": change.outcome,
                "met": change.detail.get("met", []),
                "operations": list(change.operations),
            }
        )
    return shown
