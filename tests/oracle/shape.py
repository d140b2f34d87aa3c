"""What every stored document keeps to, whatever happened to it (D1-D5 of core/documents.py, and the bounds)."""

from syncd.core import texts
from syncd.core.documents import WRITERS_MAX, Document
from syncd.core.fields import ELEMENT_BYTES, MAP_DROPPED_MAX, MV_VALUES_MAX, Field


def check_document(before: Document | None, document: Document, head: int) -> None:
    """Assert the invariants of one document after a change at seq `head`."""
    assert 0 < document.born <= document.rev <= head
    assert document.makers[0][0] <= document.born, "the first maker began the incarnation, which may have been revived"
    assert all(a[0] < b[0] for a, b in zip(document.makers, document.makers[1:], strict=False))
    assert len({slot for _, slot in document.deletes}) == len(document.deletes), (
        "one delete of a slot tells of the rest"
    )
    assert len(document.writers) <= WRITERS_MAX
    if not document.is_live:
        assert document.writers or not document.fields, "a tombstone has no fields, or a body that somebody wrote"
    for field in document.fields.values():
        _check_field(field, document)
    if before is not None:
        assert document.rev >= before.rev and document.number == before.number
        if before.is_live and document.is_live and before.born == document.born:
            assert (document.rev == head) == (before.visible() != document.visible() or document.rev == head)


def _check_field(field: Field, document: Document) -> None:
    assert field.rev <= document.rev, "a field changes visibly only together with its document"
    assert document.makers[0][0] <= field.seq
    if field.type == "set":
        assert all(marks and len(set(marks)) == len(marks) for marks in field.state.values())
    elif field.type == "mv":
        assert 0 < len(field.state) <= MV_VALUES_MAX
    elif field.type == "map":
        assert sum(not register[0] for register in field.state[0].values()) <= MAP_DROPPED_MAX
    elif field.type == "list":
        assert all(item[0][-ELEMENT_BYTES:] == name for name, item in field.state.items())
    elif field.type == "text":
        assert texts.problem(field.state, field.rev) is None
