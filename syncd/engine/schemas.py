"""Which schema a collection of a space has, and what becomes of a change that meets one.

Owns the choice of the schema by the space's name, and the way from a judgement (`core/schemas.py`) to what the engine
records. Must not know how schemas are written down, nor when they change: a batch is decided by those that were in
force when it began.

Invariants: S1 a collection of a space has one schema at most, whatever the order in which they were given. S2 reserved
collections have none. S3 what is recorded of an accepted change is what was applied: its operations as of the present
version, with the defaults that it got. So its history does not depend on a configuration. A refused one is kept as it
was made.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from syncd.core.changes import Change, Operation
from syncd.core.documents import Document
from syncd.core.leases import book_of, lease_id_of
from syncd.core.schemas import Schema, SchemaRefused, upcast
from syncd.core.values import encoded
from syncd.engine.grants import Grant

SPACES_KEPT_MAX = 4_096  # names of which it is remembered what schemas they have; then it is looked up anew

OfSpace = Mapping[str, Schema]  # by collection
NONE: OfSpace = {}


class Schemas:
    """All that are in force. `given`: for which spaces, and what."""

    __slots__ = ("_found", "_keeping", "given")

    def __init__(self, given: Iterable[tuple[Grant, Schema]] = ()) -> None:
        self.given = tuple(given)
        assert not any(schema.collection.startswith("_") for _, schema in self.given), "S2"
        self._keeping = [(spaces, schema) for spaces, schema in self.given if schema.keep_ms is not None]
        self._found: dict[str, OfSpace] = {}

    def of(self, space: str) -> OfSpace:
        """The schemas of a space's collections."""
        if not self.given:
            return NONE
        found = self._found.get(space)
        if found is None:
            if len(self._found) >= SPACES_KEPT_MAX:
                self._found.clear()
            found = {schema.collection: schema for spaces, schema in self.given if spaces.matches(space)}
            self._found[space] = found
        return found

    def keeping(self, space: str) -> list[Schema]:
        """Those of a space's collections that keep what nobody changes for some time only. Not remembered: whoever goes
        through all spaces asks once for each, and what changes need would be forgotten for it."""
        return [schema for spaces, schema in self._keeping if spaces.matches(space)]


class Refusal(Exception):
    """A schema refuses a change. `op`: the index of the operation, None if it is the change as a whole."""

    def __init__(self, refused: SchemaRefused, op: int | None) -> None:
        super().__init__(refused.reason)
        self.outcome, self.reason, self.op = refused.outcome, refused.reason, op
        self.more = {"schema": refused.detail}


def as_present(schemas: OfSpace, change: Change, document_of: Callable[[tuple[str, str]], Document | None]) -> Change:
    """The change as one of the present versions; itself, if there is nothing to be read otherwise. Raises `Refusal`."""
    if not schemas or not any(operation.schema for operation in change.operations):
        return change
    operations = []
    for index, operation in enumerate(change.operations):
        schema = schemas.get(operation.collection)
        try:
            read = operation if schema is None else upcast(schema, operation)
            if read is not operation and _stays(operation, read, document_of):
                read = operation
            operations.append(read)
        except SchemaRefused as refused:
            raise Refusal(refused, index) from None
    return change if operations == list(change.operations) else rewritten(change, operations)


def _stays(operation: Operation, renamed: Operation, document_of: Callable[[tuple[str, str]], Document | None]) -> bool:
    """Whether what a device does by a lease is done under the field's old name: documents are not rewritten, so that is
    where the lease is, and its holder was promised that it is served."""
    if operation.verb not in ("bounded.take", "bounded.give"):
        return False
    named = operation.args[1 if operation.verb == "bounded.take" else 0]
    document, lease_id = document_of((operation.collection, operation.id)), lease_id_of(named)
    if document is None or lease_id is None:
        return False
    before, after = (_leases(document, each.field) for each in (operation, renamed))
    if after is not None and lease_id in after:
        return False
    # A certificate may be of a lease that a restore has lost: then no book says where it was.
    return before is not None and (lease_id in before or (after is None and type(named) is list))


def _leases(document: Document, name: str | None) -> Mapping[bytes, Any] | None:
    field = None if name is None else document.fields.get(name)
    return None if field is None or field.type != "bounded" else book_of(field.state).leases


def rewritten(change: Change, operations: Iterable[Operation]) -> Change:
    """The change with other operations."""
    operations = tuple(operations)
    return change._replace(operations=operations, payload=encoded([operation.wire() for operation in operations]))


def is_made(before: Document | None, after: Document | None) -> bool:
    """Whether a change began the incarnation that is there now."""
    return after is not None and after.is_live and not after.continues(before)
