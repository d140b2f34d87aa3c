"""Schemas: what an operator lets the documents of a collection be.

Owns the rules for one collection, the judgement of a change by them, and how a change that was made under an older
version is read. Must not know which spaces a schema is for (`engine/schemas.py`), nor how it is written down
(`app/schemas.py`).

Invariants: A1 a judgement is a function of the document, the operations and the schema, and of nothing else: no clock,
no order of arrival, no other document. A2 a change answers for what it writes, not for what it finds: none is refused
for a value that it leaves alone, or brings nearer to what is allowed, or for a field that was missing before. A3
reading a change of version a as one of c is reading it as one of b, and that as one of c, for any b between. A4 what
was promised is not taken back: units that are leased may be taken, given and refunded whatever a schema says.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from syncd.core.changes import Operation
from syncd.core.documents import Document
from syncd.core.fields import Field
from syncd.core.values import Value, encoded

_PROMISED: Final = frozenset({"bounded.take", "bounded.give", "bounded.refund", "bounded.end"})
# Verbs whose last argument is a value that a field holds from then on.
_HOLDING: Final = frozenset({"reg.set", "mv.set", "max.put", "min.put", "set.add", "map.put", "list.insert"})
_WHOLE: Final = frozenset({"create", "delete", "expect", "unique"})
# What no schema refuses, whatever version it names: it takes away, asks, or spends what was promised.
_FREE: Final = (_WHOLE | _PROMISED) - {"create"}

# What a value may be, by name.
KINDS: Final[Mapping[str, Callable[[Value], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: type(value) is bool,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "text": lambda value: type(value) is str,
    "bytes": lambda value: type(value) is bytes,
    "array": lambda value: type(value) is list,
    "map": lambda value: type(value) is dict,
}


class Rule(NamedTuple):
    """What a field may be; None: anything. `kinds`: names of `KINDS`. `one_of`: canonical encodings. `minimum` and
    `maximum` of each number, and of the sum of a counter. `bytes_max` of each value: of text and bytes their own
    length, else that of the encoding. `items_max` of a set, a list or a map, and of each array or map in the field."""

    type: str | None = None
    is_required: bool = False
    kinds: tuple[str, ...] | None = None
    one_of: frozenset[bytes] | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    bytes_max: int | None = None
    items_max: int | None = None


class Step(NamedTuple):
    """How a change that was made under a version before `to` is read: `renamed`: old name -> new name of a field;
    `defaults`: what a document that it makes gets in fields that it does not write."""

    to: int
    renamed: Mapping[str, str]
    defaults: Mapping[str, Value]


class Schema(NamedTuple):
    """The rules for one collection. `version`: the present one; changes of versions before `oldest` are refused.
    `takes_others`: whether fields may be written that it does not name. `steps`: ascending."""

    name: str
    collection: str
    version: int = 1
    oldest: int = 1
    fields: Mapping[str, Rule] = {}
    takes_others: bool = True
    steps: tuple[Step, ...] = ()
    update_wins: bool = False  # over a delete that had not seen it (documents.py)
    keep_ms: int | None = None  # how long a document stays that nobody changes (engine/keeping.py); None: for ever


class SchemaRefused(Exception):
    """A schema does not allow what a change would do. `rule` is the key of the schema that it breaks."""

    def __init__(self, schema: Schema, outcome: str, field: str | None, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, f"the schema {schema.name!r} {reason}"
        self.detail = {"name": schema.name, "version": schema.version, "rule": rule}
        if field is not None:
            self.detail["field"] = field


# -- versions ---------------------------------------------------------------------------------------------------------


def upcast(schema: Schema, operation: Operation) -> Operation:
    """The operation as one of the present version. One that names no version, or a later one than the server knows, is
    taken as it is: the rules judge it like any other. One that no schema refuses is read by the steps that are known,
    however old it is (A4). Raises `SchemaRefused`."""
    version = operation.schema
    if version == 0 or version >= schema.version:
        return operation
    if version < schema.oldest and operation.verb not in _FREE:
        reason = f"takes no changes that were made under a version before {schema.oldest}; this one was under {version}"
        raise SchemaRefused(schema, "invalid", None, "oldest", reason)
    field = operation.field if operation.verb != "unique" else None
    for step in schema.steps:
        if step.to > version and field is not None:
            field = step.renamed.get(field, field)
    return operation if field is None or field == operation.field else operation._replace(field=field)


def defaults(schema: Schema, version: int) -> dict[str, Value]:
    """What a document gets that was made under an older version, by the names of the present one."""
    found: dict[str, Value] = {}
    for step in schema.steps:
        if 0 < version < step.to:
            found = {step.renamed.get(field, field): value for field, value in found.items()} | dict(step.defaults)
    return found


# -- rules ------------------------------------------------------------------------------------------------------------


def check_operation(schema: Schema, operation: Operation) -> None:
    """Whether an operation may be tried. Raises `SchemaRefused`."""
    verb, field = operation.verb, operation.field
    if verb in _WHOLE or verb in _PROMISED or field is None:
        return
    rule = schema.fields.get(field)
    kind = verb.partition(".")[0]
    if rule is None:
        if schema.takes_others or verb == "reg.unset":  # by which what a schema found can be cleared away
            return
        raise SchemaRefused(schema, "invalid", field, "other_fields", f"has no field {field!r}, and takes no others")
    if rule.type is not None and kind != rule.type:
        reason = f"says that {field!r} is of type {rule.type}, not {kind}"
        raise SchemaRefused(schema, "type_mismatch", field, "type", reason)
    if verb in _HOLDING:
        _check_value(schema, field, rule, operation.args[-1])
    elif verb == "text.update" and rule.bytes_max is not None:
        _check_bytes(schema, field, rule, operation.args[0])


def check_value(schema: Schema, field: str, value: Value) -> None:
    """Whether a field may hold a value. Raises `SchemaRefused`."""
    rule = schema.fields.get(field)
    if rule is not None:
        _check_value(schema, field, rule, value)


def _check_value(schema: Schema, field: str, rule: Rule, value: Value) -> None:
    if rule.kinds is not None and not any(KINDS[kind](value) for kind in rule.kinds):
        reason = f"takes {' or '.join(rule.kinds)} in {field!r}"
        raise SchemaRefused(schema, "invalid", field, "values", reason)
    if rule.one_of is not None and encoded(value) not in rule.one_of:
        raise SchemaRefused(schema, "invalid", field, "one_of", f"names the values of {field!r}, and this is none")
    if type(value) in (int, float):
        if rule.minimum is not None and value < rule.minimum:
            reason = f"takes no less than {rule.minimum} in {field!r}, not {value}"
            raise SchemaRefused(schema, "invalid", field, "minimum", reason)
        if rule.maximum is not None and value > rule.maximum:
            reason = f"takes no more than {rule.maximum} in {field!r}, not {value}"
            raise SchemaRefused(schema, "invalid", field, "maximum", reason)
    if rule.items_max is not None and type(value) in (list, dict) and len(value) > rule.items_max:
        reason = f"takes at most {rule.items_max} items in {field!r}, not {len(value)}"
        raise SchemaRefused(schema, "too_large", field, "items_max", reason)
    if rule.bytes_max is not None:
        _check_bytes(schema, field, rule, value)


def _check_bytes(schema: Schema, field: str, rule: Rule, value: Value) -> None:
    size = len(value) if type(value) is bytes else len(value.encode() if type(value) is str else encoded(value))
    if rule.bytes_max is not None and size > rule.bytes_max:
        reason = f"takes at most {rule.bytes_max} bytes in {field!r}, not {size}"
        raise SchemaRefused(schema, "too_large", field, "bytes_max", reason)


def check_result(schema: Schema, before: Document | None, after: Document | None) -> None:
    """Whether a change may leave a document so. `before`: as the change found it. Raises `SchemaRefused`, for the first
    field in the order of names."""
    if after is None or not after.is_live:
        return
    is_same = after.continues(before)
    found: Mapping[str, Field] = before.fields if before is not None and is_same else {}
    for name in sorted(schema.fields):
        rule, was, field = schema.fields[name], found.get(name), after.fields.get(name)
        if field is None or not field.is_visible:
            if rule.is_required and (not is_same or (was is not None and was.is_visible)):
                raise SchemaRefused(schema, "invalid", name, "required", f"requires the field {name!r}")
        elif field is not was:
            _check_state(schema, name, rule, was, field)


def _check_state(schema: Schema, name: str, rule: Rule, was: Field | None, field: Field) -> None:
    """What no operation shows by itself: sums, and how many items there are (A2)."""
    if field.type == "counter":
        total, before = field.state, 0 if was is None else was.state
        if rule.minimum is not None and total < rule.minimum and total < before:
            reason = f"takes no less than {rule.minimum} in {name!r}, and it would be {total}"
            raise SchemaRefused(schema, "invalid", name, "minimum", reason)
        if rule.maximum is not None and total > rule.maximum and total > before:
            reason = f"takes no more than {rule.maximum} in {name!r}, and it would be {total}"
            raise SchemaRefused(schema, "invalid", name, "maximum", reason)
    elif field.type in ("set", "list", "map") and rule.items_max is not None:
        count = len(field.value)
        if count > rule.items_max and count > (0 if was is None or was.type != field.type else len(was.value)):
            reason = f"takes at most {rule.items_max} items in {name!r}, and it would have {count}"
            raise SchemaRefused(schema, "too_large", name, "items_max", reason)
