"""Documents: incarnations, and what one operation of a change does to a document.

Owns creation, deletion and the rule that an update never resurrects. Field values are `fields`' business; where a
document is stored, and what becomes of dead letters, is `engine`'s.

A change is applied to a `Draft` of each document that it touches, operation by operation, and a `Document` is made of
it once: the fields are copied once for each change, not for each of its operations.

Invariants: D1 a `Document` is never altered in place. D2 no operation takes effect on an incarnation of which its
author had not seen a maker; who holds a lease of it has. D3 a delete ends only what its author knew to exist; what it
had not seen of the content is handed back as lost. D4 `rev` moves iff something visible changed. D5 a tombstone has no
fields, unless updates win in its collection. D6 a document with leases is not deleted: they are promises to devices
that may be offline. D7 a document has `FIELDS_MAX` fields at most, unset ones and the keys that it holds among them.

Where **updates win**, a delete ends nothing that its author had not seen: it is without effect then. And the body of a
document that was deleted is kept for a while: a change that knew the document, and none of its deletes, revives it, and
its incarnation goes on as if the deletes had not been. (A new one would be `gone` for all that know only the old one.)
Whether a body is kept still is the engine's to say: one that is not has no writers either.
"""

from collections.abc import Mapping
from itertools import starmap
from typing import NamedTuple

from syncd.core.changes import CONTEXT_MAX, VERBS, Operation
from syncd.core.fields import TYPES, Field, Mark, Observer, OperationRefused, stepped
from syncd.core.leases import Honoured, is_held
from syncd.core.values import Value

# Who knows all of these knows all writers. A device's changes are seen by way of its slot, and of the slots that its
# earlier ids had: of one more, each by its latest change, at least one is another's.
WRITERS_MAX = CONTEXT_MAX + 2
DOCUMENT_BYTES_MAX = 262144  # as stored; Firestore allows 1 MiB, Couchbase 20 MiB, both for whole-document writes
# Each change decodes, copies and encodes all of them: some 5 ms for so many, and 15,000 small ones held the writer for
# 80. Elasticsearch maps 1,000 fields of an index. What has more is a `map`, or several documents.
FIELDS_MAX = 1024


class Document(NamedTuple):
    """One document as stored, live or deleted.

    `number` distinguishes documents of one space in `byrev`. `born`: seq of the create that began this incarnation;
    `makers`: its creates that had not seen an earlier one. `deletes`: empty while it lives; then the first
    delete of each slot that knew all makers (who has seen a later one of a slot has seen its first). `writers`: the
    latest change of each slot that wrote to it, the latest `WRITERS_MAX` of them: enough to tell, in O(1), whether a
    change has seen everything in the document. `touched`: seq of the latest change that was to do something to it,
    whether it wrote anything or not: where the document's history begins when it is read backwards.
    """

    number: int
    rev: int
    born: int
    makers: tuple[Mark, ...]
    deletes: tuple[Mark, ...]
    writers: tuple[Mark, ...]
    fields: Mapping[str, Field]
    touched: int

    @property
    def is_live(self) -> bool:
        return not self.deletes

    @property
    def has_body(self) -> bool:
        """Whether it was deleted and may be revived. Who made a document wrote to it, so each body has a writer."""
        return bool(self.deletes) and bool(self.writers)

    def bodiless(self) -> "Document":
        return self._replace(fields={}, writers=())

    def continues(self, earlier: "Document | None") -> bool:
        """Whether this is the incarnation that `earlier` was: what is read from a store has lists for marks."""
        return earlier is not None and tuple(self.makers[0]) == tuple(earlier.makers[0])

    @property
    def has_leases(self) -> bool:
        """Whether units of it are promised to devices (D6)."""
        return any(field.has_leases for field in self.fields.values())

    def visible(self) -> dict[str, list[Value]]:
        """field -> [type, value] of all visible fields, as a delta shows them."""
        return {name: [field.type, field.value] for name, field in self.fields.items() if field.is_visible}


# A document holds a key under a name as an unset register of this field, which no operation can name: the register rule
# decides between concurrent keys, and what is never visible is in no delta and in no sum.
RESERVED = "\0"


def reservations(document: Document | None) -> dict[str, str]:
    """name -> the unique key that the document holds under it."""
    if document is None:
        return {}
    return {name[1:]: field.state[1] for name, field in document.fields.items() if name[0] == RESERVED}


class Applied(NamedTuple):
    """What an operation did. `verdict`: `applied`, `merged` or `noop`. `met`: concurrent changes, each with what became
    of it. `lost`: payloads to keep as dead letters: (kind, value)."""

    verdict: str
    met: tuple[tuple[str, int], ...] = ()
    lost: tuple[tuple[str, Value], ...] = ()


_APPLIED, _NOOP = Applied("applied"), Applied("noop")
# verb -> (type, action) of the operations on fields
_ON_FIELDS = {verb: (kind, action) for verb in VERBS for kind, _, action in [verb.partition(".")] if kind in TYPES}
_BY_LEASE = {"bounded.take": 1, "bounded.give": 0}  # the place of the lease among the arguments
_new = tuple.__new__  # what a named tuple's own constructor calls, after twice the time (see fields.py)


def _knows(document: Document, by: Observer) -> bool:
    return any(starmap(by.has_seen, document.makers))


def _with_writer(writers: tuple[Mark, ...], by: Observer) -> tuple[Mark, ...]:
    """The latest writers, one for each slot; but of an API key, which does not know its own earlier changes, each."""
    latest = by.mark
    if writers and writers[0] == latest:
        return writers  # another operation of the same change
    slot = by.slot if by.has_memory else None
    return (latest, *[mark for mark in writers if mark[1] != slot][: WRITERS_MAX - 1])


def has_unseen(document: Document, by: Observer) -> bool:
    """Whether the document holds the work of a change that `by` has not seen.

    The latest writer alone does not tell: it may be our own earlier change, made without knowledge of another's before
    it. If the latest is within our base, so are all before it; if it is our own (also by an id that we had before), the
    latest by another decides.
    """
    return any(not by.has_seen(seq, slot) for seq, slot in document.writers)


def _created(document: Document | None, number: int, by: Observer) -> tuple[Document, Applied]:
    if document is not None and document.is_live:
        if _knows(document, by):
            return document, _NOOP
        makers = (*document.makers, by.mark)
        writers = _with_writer(document.writers, by)
        merged = document._replace(makers=makers, writers=writers)
        return merged, Applied("merged", (("maker", document.makers[-1][0]),))
    if document is not None and (back := _revived(document, by)) is not None:
        return back, Applied("merged", _met_delete(document))
    if document is not None:
        knew_delete = any(by.has_seen(seq, slot) for seq, slot in document.deletes)
        if _knows(document, by) and not knew_delete:
            raise OperationRefused("gone", "the document was deleted; this create had seen it but not its deletion")
        number = document.number
    return Document(number, by.seq, by.seq, (by.mark,), (), (by.mark,), {}, by.seq), _APPLIED


def _revived(document: Document, by: Observer) -> Document | None:
    """The body that is kept, alive again, if the change knew the document and none of its deletes."""
    if not document.has_body or not _knows(document, by) or any(starmap(by.has_seen, document.deletes)):
        return None
    writers = _with_writer(document.writers, by)  # whatever it does to a field: that it lives is its work
    return document._replace(rev=by.seq, born=by.seq, deletes=(), writers=writers, touched=by.seq)


def _met_delete(document: Document) -> tuple[tuple[str, int], ...]:
    return (("won", document.deletes[0][0]),)


def _deleted(document: Document | None, by: Observer, floor: int, update_wins: bool) -> tuple[Document | None, Applied]:
    if document is None:
        return None, _NOOP
    if not all(by.has_seen(seq, slot) for seq, slot in document.makers):
        met = tuple(("maker", seq) for seq, slot in document.makers if not by.has_seen(seq, slot))
        return document, Applied("noop", met)
    if update_wins and document.has_body and (lost := _lost_delete(document, by)):
        return document, Applied("noop", lost)
    if not document.is_live:
        if any(slot == by.slot for _, slot in document.deletes):
            return document, _NOOP  # a device that goes on deleting must not lengthen the tombstone for ever
        return document._replace(deletes=(*document.deletes, by.mark)), _NOOP
    if document.has_leases:
        raise OperationRefused("precondition", "units of the document are leased: take, give or end the leases first")
    if update_wins:
        if lost := _lost_delete(document, by):
            return document, Applied("noop", lost)
        return document._replace(rev=by.seq, deletes=(by.mark,), touched=by.seq), _APPLIED
    unseen = has_unseen(document, by)
    if unseen and by.base < floor:
        raise OperationRefused("precondition", "a late delete of a document that changed since it was read")
    tombstone = Document(document.number, by.seq, document.born, document.makers, (by.mark,), (), {}, by.seq)
    if not unseen:
        return tombstone, _APPLIED
    met = tuple(("ended", seq) for seq, slot in document.writers if not by.has_seen(seq, slot))
    return tombstone, Applied("merged", met, (("document", document.visible()),))


def _lost_delete(document: Document, by: Observer) -> tuple[tuple[str, int], ...]:
    """The latest change that a delete had not seen, and so loses against. It is among the writers that are kept: those
    after it are the deleter's own."""
    return tuple(("lost", seq) for seq, slot in document.writers if not by.has_seen(seq, slot))[:1]


def _reserved(document: Document | None, name: str, key: Value, by: Observer) -> tuple[Document, Applied]:
    """A document takes a key. Whether another holds it is the engine's to ask: it alone sees the whole space."""
    document, back = _known(document, by)
    field = document.fields.get(RESERVED + name)
    if field is None:
        _check_room(document.fields)
    after, step = stepped(field, "reg", "reserve", (key,), by)
    verdict = Applied("merged" if back or step.met else "noop", (*back, *step.met))
    if after is field:
        return document, verdict
    fields = {**document.fields, RESERVED + name: after}
    return document._replace(fields=fields, writers=_with_writer(document.writers, by)), verdict


def _check_room(fields: Mapping[str, Field]) -> None:
    """Whether a document that has these may have one more (D7)."""
    if len(fields) >= FIELDS_MAX:
        raise OperationRefused("too_large", f"a document has at most {FIELDS_MAX} fields and unique keys together")


def _known(document: Document | None, by: Observer) -> tuple[Document, tuple[tuple[str, int], ...]]:
    """The document, if the change knows it and it lives, or is revived; and the delete that it then won against."""
    if document is None or document.deletes:
        back = None if document is None else _revived(document, by)
        if document is None or back is None:
            raise OperationRefused("gone", "the document does not exist")
        return back, _met_delete(document)
    if not _knows(document, by):
        raise OperationRefused("gone", "the document was made anew by a change that this one had not seen")
    return document, ()


def _expected(document: Document | None, name: str, by: Observer, floor: int) -> None:
    if document is None:
        if by.base < floor:
            # Perhaps it was deleted since: that would be a write which this change had not seen, and nobody knows.
            raise OperationRefused("precondition", "whether the document was deleted since it was read is forgotten")
        return
    if not document.is_live:
        if not any(by.has_seen(seq, slot) for seq, slot in document.deletes):
            raise OperationRefused("precondition", "the document was deleted by a change that this one had not seen")
        return
    field = document.fields.get(name)
    if field is not None and not by.has_seen(field.seq, field.slot):
        raise OperationRefused("precondition", f"the field was written at seq {field.seq}, not seen by this change")


def _holds_lease(
    document: Document | None, written: Mapping[str, Field] | None, operation: Operation, by: Observer
) -> bool:
    """Who was granted a lease of a document has seen it, whatever its base says: a restored server may share no
    position with a device that holds one, and what that is certain of would be `gone`. `written`: fields, where any
    were written already."""
    if document is None or document.deletes:
        return False
    named = operation.args[_BY_LEASE[operation.verb]]
    if type(named) is Honoured:
        return True
    assert operation.field is not None, "it is an operation on a field"
    field = (document.fields if written is None else written).get(operation.field)
    return field is not None and field.type == "bounded" and is_held(field.state, by.slot, named)


class Draft:
    """A document (None: never made, or its tombstone is gone) while one change is applied to it.

    `apply` takes the change's operations on it, in order, and raises `OperationRefused` with the outcome of the whole
    change; `document` is what they made of it. The document that it began with is unchanged, so a refused change is
    undone by forgetting its drafts.
    """

    __slots__ = ("_by", "_document", "_fields", "_is_known", "_is_touched", "_rev", "_update_wins")

    def __init__(self, document: Document | None, by: Observer, update_wins: bool = False) -> None:
        self._by = by
        self._update_wins = update_wins
        self._document = document
        self._fields: dict[str, Field] | None = None  # a copy, once a field has been written
        self._rev = 0  # with it
        self._is_known = False  # `by` was found to know the document as it stands
        self._is_touched = False  # by more than a look at it

    def document(self) -> Document | None:
        """What the operations so far made of it."""
        fields, old = self._fields, self._document
        if fields is not None:
            assert old is not None, "a document has the fields"
            writers = _with_writer(old.writers, self._by)
            self._document = _new(
                Document, (old.number, self._rev, old.born, old.makers, old.deletes, writers, fields, self._by.seq)
            )  # fmt: skip
            self._fields = None
        elif self._is_touched and old is not None and old.touched != self._by.seq:
            self._document = old._replace(touched=self._by.seq)
        return self._document

    def apply(self, operation: Operation, number: int, floor: int = 0) -> Applied:
        """Apply one operation. `number` is given to a document that is made."""
        by = self._by
        verb, _, _, name, args, seen, _ = operation
        is_raised = seen > by.base
        if is_raised:
            by = by._replace(base=seen)
        on_field = _ON_FIELDS.get(verb)
        if on_field is None:
            return self._apply_whole(operation, number, by, floor)
        document = self._document
        back: tuple[tuple[str, int], ...] = ()
        # What this change knows without `seen`, it knows; with `seen`, it may know more for one operation.
        if not self._is_known and verb in _BY_LEASE and _holds_lease(document, self._fields, operation, by):
            self._is_touched = True
        elif not self._is_known:
            document, back = _known(document, by)
            if back:
                self._document = document  # `_fields` is None: what is deleted was made whole before
            self._is_known, self._is_touched = not is_raised, True
        assert document is not None and name is not None, "these operations name a field"
        fields = self._fields
        found = document.fields if fields is None else fields
        field = found.get(name)
        if field is None:
            _check_room(found)
        after, step = stepped(field, *on_field, args, by)
        if after is not field:
            if fields is None:
                self._fields = fields = dict(document.fields)
                self._rev = document.rev
            fields[name] = after
            if step.visible:
                self._rev = by.seq
        if back or step.met or step.lost:
            verdict = "merged" if back or step.met else "applied" if step.visible else "noop"
            return Applied(verdict, (*back, *step.met), tuple([("value", value) for value in step.lost]))
        return _APPLIED if step.visible else _NOOP

    def _apply_whole(self, operation: Operation, number: int, by: Observer, floor: int) -> Applied:
        """`create`, `delete`, `expect`, `unique`: they look at the document, not into one field's state."""
        document = self.document()
        if operation.verb == "create":
            self._document, result = _created(document, number, by)
        elif operation.verb == "delete":
            self._document, result = _deleted(document, by, floor, self._update_wins)
        elif operation.verb == "unique":
            assert operation.field is not None
            self._document, result = _reserved(document, operation.field, operation.args[0], by)
        else:
            assert operation.verb == "expect" and operation.field is not None
            _expected(document, operation.field, by, floor)
            return _NOOP
        self._is_known, self._is_touched = False, True
        return result
