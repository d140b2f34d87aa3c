"""Operations: what a change may do, checked before it is stored.

Owns the table of section 5.2 and the constructors for it. An operation that exists is well-formed: both ways in
(constructors and `operation_from`, which takes the wire form) pass through the same check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import InvalidInput
from .positions import ELEMENT_BYTES, POSITION_BYTES_MAX
from .values import Value, checked, checked_integer, checked_name, checked_number

# Operation name -> the kinds of the items after the document id.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "create": (),
    "delete": (),
    "reg.set": ("field", "value"),
    "reg.unset": ("field",),
    "mv.set": ("field", "value"),
    "counter.inc": ("field", "by"),
    "max.put": ("field", "number"),
    "min.put": ("field", "number"),
    "set.add": ("field", "value"),
    "set.remove": ("field", "value"),
    "flag.enable": ("field",),
    "flag.disable": ("field",),
    "map.put": ("field", "key", "value"),
    "map.drop": ("field", "key"),
    "bounded.restock": ("field", "by"),
    "bounded.lease": ("field", "lease", "units", "ttl"),
    "bounded.take": ("field", "units", "named or null"),
    "bounded.give": ("field", "named", "units"),
    "bounded.refund": ("field", "units"),
    "list.insert": ("field", "position", "value"),
    "list.move": ("field", "position"),
    "list.remove": ("field", "element"),
    "text.update": ("field", "update"),
    "expect": ("field",),
    "unique": ("field", "key"),
}

LEASE_ID_BYTES = 16
LEASE_TTL_MS_MIN, LEASE_TTL_MS_MAX = 1_000, 30 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    collection: str
    id: str
    arguments: tuple[Value, ...] = ()
    seen: int | None = None  # the rev as displayed, for documents shown before their page set is complete
    schema: int | None = None  # the version of its collection's schema that the application knows

    @property
    def key(self) -> tuple[str, str]:
        return (self.collection, self.id)

    def wire(self) -> list[Value]:
        items: list[Value] = [self.name, self.collection, self.id, *self.arguments]
        options = {"schema": self.schema, "seen": self.seen}
        if given := {key: value for key, value in options.items() if value is not None}:
            items.append(given)
        return items


def operation(
    name: str, collection: str, id: str, *arguments: Value, seen: int | None = None, schema: int | None = None
) -> Operation:
    """The checked operation. Raises InvalidInput that says which item was wrong and what was expected."""
    kinds = OPERATIONS.get(name)
    if kinds is None:
        raise InvalidInput(f"operation: {name!r} is unknown; expected one of {', '.join(OPERATIONS)}")
    if len(arguments) != len(kinds):
        expected = ", ".join(kinds) or "none"
        raise InvalidInput(f"{name}: {len(arguments)} items after the document id, expected {expected}")
    checked_name(collection, f"{name}: collection")
    checked_name(id, f"{name}: document id")
    values = tuple(_argument(kind, value, f"{name}: {kind}") for kind, value in zip(kinds, arguments, strict=True))
    for option, number, expected in (("seen", seen, "a rev"), ("schema", schema, "a version")):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise InvalidInput(f"{name}: {option} is {number!r}, expected {expected}, from 1")
    return Operation(name, collection, id, values, seen, schema)


def _argument(kind: str, value: Value, where: str) -> Value:
    if kind in ("field", "key"):
        return checked_name(value, where)
    if kind == "number":
        return checked_number(value, where)
    if kind == "by":
        if checked_integer(value, where) == 0:
            raise InvalidInput(f"{where}: expected an integer other than 0")
        return value
    if kind in ("position", "element"):
        return _checked_place(kind, value, where)
    if kind == "update" and not (isinstance(value, bytes) and value):
        raise InvalidInput(f"{where}: expected bytes, at least one")
    check = _OF_LEASES.get(kind)
    return checked(value, where) if check is None else check(value, where)


def _units(value: Value, where: str) -> Value:
    if checked_integer(value, where) < 1:
        raise InvalidInput(f"{where}: expected a number of units, from 1")
    return value


def _lease_id(value: Value, where: str) -> Value:
    if not isinstance(value, bytes) or len(value) != LEASE_ID_BYTES:
        raise InvalidInput(f"{where}: expected the id of a lease, {LEASE_ID_BYTES} bytes")
    return value


def _named(value: Value, where: str) -> Value:
    """A lease is named by its id or by the certificate that the server gave of it."""
    if isinstance(value, (list, tuple)) and len(value) == 5 and isinstance(value[0], bytes):
        return checked(list(value), where)
    return _lease_id(value, where)


def _ttl(value: Value, where: str) -> Value:
    if value is not None and not LEASE_TTL_MS_MIN <= checked_integer(value, where) <= LEASE_TTL_MS_MAX:
        raise InvalidInput(f"{where}: expected {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} ms, or None for a strict lease")
    return value


_OF_LEASES: dict[str, Callable[[Value, str], Value]] = {
    "units": _units,
    "lease": _lease_id,
    "named": _named,
    "named or null": lambda value, where: None if value is None else _named(value, where),
    "ttl": _ttl,
}


def _checked_place(kind: str, value: Value, where: str) -> Value:
    least, most = (ELEMENT_BYTES + 1, POSITION_BYTES_MAX) if kind == "position" else (ELEMENT_BYTES, ELEMENT_BYTES)
    if not isinstance(value, bytes) or not least <= len(value) <= most or not value[-1]:
        raise InvalidInput(f"{where}: expected {least} to {most} bytes, of which the last is not 0")
    return value


def lease_id_of(named: Value) -> bytes | None:
    """The id of the lease that an operation names, by its id or its certificate; None if it names none."""
    result: bytes | None = named if named is None or isinstance(named, bytes) else named[0]
    return result


def operation_read(items: Sequence[Value]) -> Operation:
    """An operation from the wire form that `Operation.wire` wrote to the store: it was checked when it was made."""
    name, collection, id, *arguments = items
    options = arguments.pop() if len(arguments) > len(OPERATIONS[name]) else {}
    return Operation(name, collection, id, tuple(arguments), options.get("seen"), options.get("schema"))


def operation_from(item: Operation | Sequence[Value]) -> Operation:
    """An operation from its wire form, `[name, collection, id, ...]`, or one that was made before."""
    if isinstance(item, Operation):
        return item
    if not isinstance(item, (list, tuple)) or len(item) < 3:
        raise InvalidInput("operation: expected a list of a name, a collection, a document id and what follows")
    items, options = list(item), {}
    kinds = OPERATIONS.get(items[0]) if isinstance(items[0], str) else None
    if kinds is not None and len(items) == 4 + len(kinds) and isinstance(items[-1], dict):
        options = items.pop()
        if not options or not set(options) <= {"seen", "schema"}:
            raise InvalidInput(f"{items[0]}: unknown option {list(options)}, expected seen or schema")
    return operation(items[0], items[1], items[2], *items[3:], **options)
