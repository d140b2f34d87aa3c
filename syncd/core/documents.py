"""Documents: incarnations, and what one operation of a change does to a document.

Owns creation, deletion and the rule that an update never resurrects. Field values are `fields`' business; where a
document is stored, and what becomes of dead letters, is `engine`'s.

Invariants: D1 a `Document` is never altered in place. D2 no operation takes effect on an incarnation of which its
author had not seen a maker. D3 a delete ends only what its author knew to exist; what it had not seen of the content
is handed back as lost. D4 `rev` moves iff something visible changed. D5 a tombstone has no fields.
"""

from collections.abc import Mapping
from itertools import starmap
from typing import NamedTuple

from syncd.core.changes import Operation
from syncd.core.fields import Field, Mark, Observer, OperationRefused, stepped
from syncd.core.values import Value

DOCUMENT_BYTES_MAX = 262144  # as stored; Firestore allows 1 MiB, Couchbase 20 MiB, both for whole-document writes


class Document(NamedTuple):
    """One document as stored, live or deleted.

    `number` distinguishes documents of one space in `byrev`. `born`: seq of the create that began this incarnation;
    `makers`: its creates that had not seen an earlier one. `deletes`: empty while it lives; then the first
    delete of each slot that knew all makers (who has seen a later one of a slot has seen its first). `writers`: the
    latest writer, and the latest of which it could not speak: enough to tell, in O(1), whether a change has seen
    everything in the document.
    """

    number: int
    rev: int
    born: int
    makers: tuple[Mark, ...]
    deletes: tuple[Mark, ...]
    writers: tuple[Mark, ...]
    fields: Mapping[str, Field]

    @property
    def is_live(self) -> bool:
        return not self.deletes

    def visible(self) -> dict[str, list[Value]]:
        """field -> [type, value] of all visible fields, as a delta shows them."""
        return {name: [field.type, field.value] for name, field in self.fields.items() if field.is_visible}


class Applied(NamedTuple):
    """What an operation did. `verdict`: `applied`, `merged` or `noop`. `met`: concurrent changes, each with what became
    of it. `lost`: payloads to keep as dead letters: (kind, value)."""

    document: Document | None
    verdict: str
    met: tuple[tuple[str, int], ...] = ()
    lost: tuple[tuple[str, Value], ...] = ()


def _knows(document: Document, by: Observer) -> bool:
    return any(starmap(by.has_seen, document.makers))


def _with_writer(writers: tuple[Mark, ...], by: Observer) -> tuple[Mark, ...]:
    """The latest writer and the latest other: by another slot, or, as an API key does not know its own earlier changes,
    by another change of the same key."""
    latest = by.mark
    if writers and writers[0] == latest:
        return writers  # another operation of the same change
    for mark in writers:
        if mark[1] != by.slot or not by.has_memory:
            return (latest, mark)
    return (latest,)


def has_unseen(document: Document, by: Observer) -> bool:
    """Whether the document holds the work of a change that `by` has not seen.

    The latest writer alone does not tell: it may be our own earlier change, made without knowledge of another's before
    it. If the latest is within our base, so are all before it; if it is our own, the latest by another decides.
    """
    return any(not by.has_seen(seq, slot) for seq, slot in document.writers)


def _created(document: Document | None, number: int, by: Observer) -> Applied:
    if document is not None and document.is_live:
        if _knows(document, by):
            return Applied(document, "noop")
        makers = (*document.makers, by.mark)
        writers = _with_writer(document.writers, by)
        merged = document._replace(makers=makers, writers=writers)
        return Applied(merged, "merged", (("maker", document.makers[-1][0]),))
    if document is not None:
        knew_delete = any(by.has_seen(seq, slot) for seq, slot in document.deletes)
        if _knows(document, by) and not knew_delete:
            raise OperationRefused("gone", "the document was deleted; this create had seen it but not its deletion")
        number = document.number
    return Applied(Document(number, by.seq, by.seq, (by.mark,), (), (by.mark,), {}), "applied")


def _deleted(document: Document | None, by: Observer, floor: int) -> Applied:
    if document is None:
        return Applied(None, "noop")
    if not all(by.has_seen(seq, slot) for seq, slot in document.makers):
        met = tuple(("maker", seq) for seq, slot in document.makers if not by.has_seen(seq, slot))
        return Applied(document, "noop", met)
    if not document.is_live:
        if any(slot == by.slot for _, slot in document.deletes):
            return Applied(document, "noop")  # a device that goes on deleting must not lengthen the tombstone for ever
        return Applied(document._replace(deletes=(*document.deletes, by.mark)), "noop")
    unseen = has_unseen(document, by)
    if unseen and by.base < floor:
        raise OperationRefused("precondition", "a late delete of a document that changed since it was read")
    tombstone = Document(document.number, by.seq, document.born, document.makers, (by.mark,), (), {})
    if not unseen:
        return Applied(tombstone, "applied")
    met = tuple(("ended", seq) for seq, slot in document.writers if not by.has_seen(seq, slot))
    return Applied(tombstone, "merged", met, (("document", document.visible()),))


def _expected(document: Document | None, name: str, by: Observer) -> None:
    if document is None:
        return
    if not document.is_live:
        if not any(by.has_seen(seq, slot) for seq, slot in document.deletes):
            raise OperationRefused("precondition", "the document was deleted by a change that this one had not seen")
        return
    field = document.fields.get(name)
    if field is not None and not by.has_seen(field.seq, field.slot):
        raise OperationRefused("precondition", f"the field was written at seq {field.seq}, not seen by this change")


def applied(document: Document | None, operation: Operation, number: int, by: Observer, floor: int = 0) -> Applied:
    """Apply one operation to a document (None: never made, or its tombstone is gone).

    `number` is given to a document that is made. Raises `OperationRefused` with the outcome of the whole change. The
    result is a new document; the old one is unchanged, so a refused change is undone by forgetting what it made.
    """
    if operation.seen > by.base:
        by = by._replace(base=operation.seen)
    verb = operation.verb
    if verb == "create":
        return _created(document, number, by)
    if verb == "delete":
        return _deleted(document, by, floor)
    name = operation.field
    assert name is not None, "every other operation names a field"
    if verb == "expect":
        _expected(document, name, by)
        return Applied(document, "noop")
    if document is None or not document.is_live:
        raise OperationRefused("gone", "the document does not exist")
    if not _knows(document, by):
        raise OperationRefused("gone", "the document was made anew by a change that this one had not seen")
    type_name, _, action = verb.partition(".")
    field = document.fields.get(name)
    after, step = stepped(field, type_name, action, operation.args, by)
    if after is not field:
        fields = dict(document.fields)
        fields[name] = after
        rev = by.seq if step.visible else document.rev
        writers = _with_writer(document.writers, by)
        # In full, not by `_replace`, which takes thrice as long and is called for each operation.
        document = Document(document.number, rev, document.born, document.makers, document.deletes, writers, fields)
    verdict = "merged" if step.met else "applied" if step.visible else "noop"
    return Applied(document, verdict, step.met, tuple([("value", value) for value in step.lost]) if step.lost else ())
