"""How long documents stay that nobody changes: where a schema says so, the server deletes them when it is over.

Owns the age of documents, and the small steps in which those go that are too old, each by an ordinary change of the
server: devices, tombstones, outcomes, history and updates that win know no other kind of delete. Must not know when a
step is due: whoever has idle time asks for one.

Age is not the difference of two wall times: a clock that is set ten years ahead must not empty a store, and the log
that tells when a change came goes after a while. What is kept, for each collection of a space that has such a schema,
is its last `MARKS_MAX` **marks**: heads, made when at least `keep_ms / MARKS_MAX` had passed since the one before. A
document that has not changed since the oldest of more than so many marks has been left alone for `keep_ms`. A leap of
the clock makes one mark, however far it goes; so does the time in which the server did not run.

All up to the oldest mark is looked through in the order of revs, from the place to which the last mark was: each change
is passed once. Rejected: an index by age (a row more for each change), a look through the collection for each mark
(what is large and does not change would be read again and again), and times in documents (they would not survive a
clock that was wrong).

Invariants: K1 a document is deleted only if its last change lies at or before a mark that `MARKS_MAX` others followed,
each `keep_ms / MARKS_MAX` of wall time after the one before; what a change did earlier in the same batch counts. K2
there are `MARKS_MAX + 1` marks at most, the last one not beyond the head, and `place` not beyond the first. K3 a step
looks at `WALKED_MAX` documents, deletes `DELETED_MAX`, and reads `READ_BYTES_MAX` and one document, at most. K4 without
a schema that keeps, or under one that keeps longer, nothing goes by what was marked before. K5 a document with leases
is passed over: its leases are promises (core/documents.py, D6). It ages anew from its next change.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from syncd.core.schemas import Schema
from syncd.engine.batch import Batch, DocumentName, SpaceWork
from syncd.engine.commands import DeletedOld, DeleteOld
from syncd.engine.grants import Role
from syncd.engine.posting import SERVER, authored
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import BYREV, KEEPING, MARKS_MAX, KeepingRow, SpaceRow

# For one step, and all its collections together: 5 ms on a busy machine in which the writer serves nobody else.
WALKED_MAX = 256
DELETED_MAX = 8
READ_BYTES_MAX = 128 * 1024  # of documents as stored, which are decoded


def is_due(tx: Reader, row: SpaceRow, schemas: Iterable[Schema], now_ms: int) -> bool:
    """Whether a step in this space would alter anything. `schemas`: those that keep."""
    found = _rows(tx, row.id)
    for schema in schemas:
        kept = found.pop(schema.collection, None)
        moved = _moved(tx, row.id, schema, kept, row.head, now_ms)
        if moved is not None and (moved is not kept or len(moved.marks) > MARKS_MAX):
            return True
    return bool(found)  # of schemas that are no more


def deleted_old(batch: Batch, command: DeleteOld) -> DeletedOld:
    """One step in one space."""
    work = batch.space(command.space)
    if work is None:
        return DeletedOld(command.space, (), is_more=False)
    found, step = _rows(batch.tx, work.row.id), _Step(batch, work, [])
    for collection, schema in sorted(work.schemas.items()):
        if schema.keep_ms is None:
            continue
        kept = found.pop(collection, None)
        moved = _moved(batch.tx, work.row.id, schema, kept, work.head, batch.now_ms)
        if moved is not None and len(moved.marks) > MARKS_MAX and not step.is_over:
            moved = step.walked(collection, moved)
        if moved is not None and moved is not kept:
            KEEPING.put(batch.tx, keys.keeping(work.row.id, collection), moved)
    for collection in found:
        batch.tx.delete(keys.keeping(work.row.id, collection))
    return DeletedOld(command.space, tuple(step.deleted), is_more=step.is_over)


def _rows(tx: Reader, space_id: int) -> dict[str, KeepingRow]:
    return {keys.parse_keeping(key)[1]: row for key, row in KEEPING.scan(tx, keys.space_range(keys.KEEPING, space_id))}


def _moved(
    tx: Reader, space_id: int, schema: Schema, kept: KeepingRow | None, head: int, now_ms: int
) -> KeepingRow | None:
    """The row of a collection as of now; None as long as it has no document that could age."""
    if kept is None and next(tx.scan(*keys.collection_range(space_id, schema.collection)), None) is None:
        return None
    assert schema.keep_ms is not None, "whoever asks has a schema that keeps"
    return marked(kept, schema.keep_ms, head, now_ms)


def marked(kept: KeepingRow | None, keep_ms: int, head: int, now_ms: int) -> KeepingRow:
    """The row with a mark more, if one is due; the same row, if there is nothing to alter. Under a schema that keeps
    longer all begins anew; under one that keeps less, what was marked was left alone for longer than is asked."""
    if kept is None or kept.keep_ms < keep_ms:
        return KeepingRow(keep_ms, now_ms, [head], (0, 0))
    if kept.keep_ms != keep_ms:
        kept = kept._replace(keep_ms=keep_ms)
    passed_ms = now_ms - kept.marked_ms
    if passed_ms < 0:
        return kept._replace(marked_ms=now_ms)  # the clock was set back
    is_waiting = len(kept.marks) > MARKS_MAX  # the oldest goes first, when all up to it is looked through
    is_done = kept.place[0] > head  # nothing is left that could age
    if is_waiting or is_done or passed_ms * MARKS_MAX < keep_ms:
        return kept
    return kept._replace(marked_ms=now_ms, marks=[*kept.marks, head])


class _Place(NamedTuple):
    rev: int
    number: int
    name: DocumentName


class _Step:
    """What a step has done, and what it may still do."""

    __slots__ = ("_batch", "_bytes_max", "_walked_left", "_work", "deleted", "is_over")

    def __init__(self, batch: Batch, work: SpaceWork, deleted: list[DocumentName]) -> None:
        self._batch, self._work, self.deleted = batch, work, deleted
        self._walked_left, self._bytes_max = WALKED_MAX, work.loaded_bytes + READ_BYTES_MAX
        self.is_over = False  # more is left, and another step has to do it

    def walked(self, collection: str, row: KeepingRow) -> KeepingRow:
        """Look through what has not changed since the oldest mark, and drop the mark when that is all done."""
        target = row.marks[0]
        for rev, number, name in self._places(row, target):
            if self._walked_left == 0 or len(self.deleted) == DELETED_MAX or self._work.loaded_bytes >= self._bytes_max:
                self.is_over = True
                return row._replace(place=(rev, number))
            self._walked_left -= 1
            if name[0] == collection and self._delete(name, target):
                self.deleted.append(name)
        return row._replace(marks=row.marks[1:], place=max((target + 1, 0), tuple(row.place)))

    def _places(self, row: KeepingRow, target: int) -> Iterator[_Place]:
        """One more than may be looked at. Read before anything is written."""
        start, stop = keys.byrev(self._work.row.id, *row.place), keys.byrev(self._work.row.id, target + 1, 0)
        found = []
        for key, named in BYREV.scan(self._batch.tx, (start, stop)) if start < stop else ():
            _, rev, number = keys.parse_byrev(key)
            found.append(_Place(rev, number, (named[0], named[1])))
            if len(found) > self._walked_left:
                break
        return iter(found)

    def _delete(self, name: DocumentName, target: int) -> bool:
        """Delete the document, unless it has changed since, or cannot go."""
        document = self._work.document(name)
        if document is None or not document.is_live or document.rev > target or document.has_leases:
            return False
        entry = authored(self._batch, self._work, SERVER, Role.OWNER, self._work.head, [["delete", *name]])
        return entry.seq is not None
