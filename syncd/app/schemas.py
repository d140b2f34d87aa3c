"""Reading schemas: the tables `[schema.NAME]` of the configuration become rules, or precise complaints.

Owns how schemas are written, every mistake that can be found in them, and its text. What the rules do is
`core/schemas.py`'s; lines and columns are `config.py`'s. Must not know the store.

    [schema.product]
    spaces = "shop/*"
    collection = "product"
    version = 2
    [schema.product.fields]
    title = { type = "reg", required = true, values = ["text"], bytes_max = 200 }
    price = { type = "reg", values = ["integer"], minimum = 0 }
    [[schema.product.step]]
    to = 2
    renamed = { name = "title" }
    defaults = { price = 0 }

Invariants: R1 schemas with any mistake are refused whole, and every mistake is named by its path. R2 no two schemas can
be for the same collection of the same space. R3 a default is allowed by the schema that gives it.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from syncd.core.fields import TYPES
from syncd.core.ids import BadName, check_name
from syncd.core.schemas import KINDS, Rule, Schema, SchemaRefused, Step, check_value
from syncd.core.values import ITEMS_MAX, VALUE_BYTES_MAX, ValueRefused, checked, encoded
from syncd.engine.frontier import DAY_MS
from syncd.engine.grants import Grant, parsed_grant
from syncd.engine.schemas import Schemas
from syncd.notify.workflows import Path, Problem

SCHEMAS_MAX = 200
FIELDS_MAX = 256  # named by one schema; an app's screens show some dozens
STEPS_MAX = 64
CHOICES_MAX = 256
VERSION_MAX = 1_000_000
KEEP_DAYS_MAX = 3_650
TABLE = "schema"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_NUMBERS = ("reg", "mv", "max", "min", "set", "map", "list", "counter")  # types whose values may be numbers
_COUNTED = ("reg", "mv", "set", "map", "list")


def _key(default: Any, expected: str, **limits: Any) -> Any:
    return Field(default, json_schema_extra={"expected": expected}, **limits)


def _named(value: Any) -> Any:
    """A name of the protocol, checked as one."""
    try:
        return check_name(value, "a name")
    except BadName as error:
        raise ValueError(str(error)) from None


def _collection(value: Any) -> Any:
    name = _named(value)
    if name.startswith("_"):
        raise ValueError("")
    return name


def _pattern(value: Any) -> Any:
    try:
        return parsed_grant(value if isinstance(value, str) else "", "reader")
    except BadName as error:
        raise ValueError(str(error)) from None


def _value(value: Any) -> Any:
    try:
        return checked(value)
    except ValueRefused as error:
        raise ValueError(str(error)) from None


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise ValueError("")
    return _value(value)


NameText = Annotated[str, BeforeValidator(_named)]
Number = Annotated[int | float, BeforeValidator(_number)]
AnyValue = Annotated[Any, BeforeValidator(_value)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class FieldTable(_Table):
    """What a field may be."""

    type: Literal[tuple(TYPES)] | None = _key(None, f"one of {', '.join(TYPES)}")  # type: ignore[valid-type]
    required: bool = _key(False, "true or false")
    values: list[Literal[tuple(KINDS)]] | None = _key(None, f"a list of some of {', '.join(KINDS)}", min_length=1)  # type: ignore[valid-type]
    one_of: list[AnyValue] | None = _key(
        None, f"a list of 1-{CHOICES_MAX} values", min_length=1, max_length=CHOICES_MAX
    )
    minimum: Number | None = _key(None, "a number")
    maximum: Number | None = _key(None, "a number")
    bytes_max: int | None = _key(None, f"an integer from 1 to {VALUE_BYTES_MAX:_} (bytes)", ge=1, le=VALUE_BYTES_MAX)
    items_max: int | None = _key(None, f"an integer from 0 to {ITEMS_MAX:_} (items)", ge=0, le=ITEMS_MAX)

    def rule(self) -> Rule:
        return Rule(
            self.type,
            self.required,
            None if self.values is None else tuple(self.values),
            None if self.one_of is None else frozenset(encoded(each) for each in self.one_of),
            self.minimum,
            self.maximum,
            self.bytes_max,
            self.items_max,
        )


class StepTable(_Table):
    """How a change of a version before `to` is read."""

    to: int = _key(..., f"an integer from 2 to {VERSION_MAX:_}", ge=2, le=VERSION_MAX)
    renamed: dict[NameText, NameText] = _key({}, "a table: old name = new name")
    defaults: dict[NameText, AnyValue] = _key({}, "a table: field = value")


class SchemaTable(_Table):
    """The rules for one collection of the spaces that match a pattern."""

    spaces: Annotated[Grant, BeforeValidator(_pattern)] = _key(
        ..., "a pattern of spaces: segments of a name, '*' for any one, '**' at the end for one or more"
    )
    collection: Annotated[str, BeforeValidator(_collection)] = _key(
        ..., "the name of a collection, 1-160 bytes, that is not reserved: no '_' first"
    )
    version: int = _key(1, f"an integer from 1 to {VERSION_MAX:_}", ge=1, le=VERSION_MAX)
    oldest: int = _key(1, f"an integer from 1 to {VERSION_MAX:_}", ge=1, le=VERSION_MAX)
    other_fields: bool = _key(True, "true or false")
    update_wins: bool = _key(False, "true or false")
    keep_days: Number | None = _key(
        None, f"a number above 0 and up to {KEEP_DAYS_MAX:_} (days)", gt=0, le=KEEP_DAYS_MAX
    )
    fields: dict[NameText, FieldTable] = _key({}, f"a table of {FIELDS_MAX} fields at most", max_length=FIELDS_MAX)
    step: list[StepTable] = _key([], f"an array of {STEPS_MAX} tables at most", max_length=STEPS_MAX)

    def named(self, name: str) -> Schema:
        fields = {field: table.rule() for field, table in self.fields.items()}
        steps = tuple(Step(step.to, step.renamed, step.defaults) for step in self.step)
        return Schema(
            name, self.collection, self.version, self.oldest, fields, takes_others=self.other_fields, steps=steps,
            update_wins=self.update_wins,
            keep_ms=None if self.keep_days is None else max(1, round(self.keep_days * DAY_MS)),
        )  # fmt: skip


class _Tables(_Table):
    schema_: Annotated[dict[str, SchemaTable], Field(alias=TABLE, max_length=SCHEMAS_MAX)]


class BadSchemas(ValueError):
    """The schemas are refused."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, each.path))}: {each.message}" for each in problems))
        self.problems = tuple(problems)


def schemas(tables: Any) -> Schemas:
    """Read and check what the table `schema` holds, as a TOML parser gives it. Raises `BadSchemas`."""
    try:
        found = _Tables.model_validate({TABLE: tables}).schema_
    except ValidationError as error:
        # A union complains once for each of its alternatives, and a mistake is one.
        problems = {each.path: each for each in map(_problem, error.errors())}
        raise BadSchemas(list(problems.values())) from None
    problems_left = list(_broken_relations(found))
    if problems_left:
        raise BadSchemas(problems_left)
    return Schemas([(table.spaces, table.named(name)) for name, table in found.items()])


def _problem(error: Mapping[str, Any]) -> Problem:
    loc = [item for item in error["loc"] if item != "[key]"]
    path: Path = tuple(loc[: _depth(loc)])
    model = _model_at(path[:-1])
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields)) if model is not None else ""
        return Problem(path, f"got an unknown key, expected one of {known}", is_key=True)
    field = None if model is None or not isinstance(path[-1], str) else model.model_fields.get(path[-1])
    extra = None if field is None else field.json_schema_extra
    expected = extra["expected"] if isinstance(extra, dict) else "a table"
    if error["type"] == "missing":
        return Problem(path, f"got nothing, expected {expected}")
    cause = (error.get("ctx") or {}).get("error")
    reason = f": {cause}" if cause is not None and str(cause) else ""
    return Problem(path, f"got {_shown(error['input'])}, expected {expected}{reason}")


def _shown(value: object) -> str:
    text = "a table" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _depth(loc: list[Any]) -> int:
    """How much of a place is the way to a key: what follows are alternatives, or parts of its value."""
    at: list[str] = [item for item in loc[2:3] if isinstance(item, str)]
    if at in (["fields"], ["step"]):
        return 5
    return 3


def _model_at(path: Path) -> type[BaseModel] | None:
    """The table that a path leads to; None: one that holds others by their names."""
    match path:
        case (str(), str()):
            return SchemaTable
        case (str(), str(), "fields", str()):
            return FieldTable
        case (str(), str(), "step", int()):
            return StepTable
    return None


def _broken_relations(found: Mapping[str, SchemaTable]) -> Iterator[Problem]:
    for name, table in found.items():
        at: Path = (TABLE, name)
        if not _NAME.fullmatch(name):
            yield Problem(at, "expected a name of 1-64 letters, digits, '_' and '-', no sign first", is_key=True)
        if table.oldest > table.version:
            yield Problem((*at, "oldest"), f"got {table.oldest}, expected at most the version, {table.version}")
        for field, rule in table.fields.items():
            yield from _broken_field((*at, "fields", field), rule)
        yield from _broken_steps(at, name, table)
    for (one, first), (other, second) in combinations(found.items(), 2):
        if first.collection == second.collection and overlap(first.spaces.pattern, second.spaces.pattern):
            message = f"got {second.spaces.pattern!r}, expected spaces that schema.{one} is not for, as it is for this"
            yield Problem((TABLE, other, "spaces"), f"{message} collection, too")


def _broken_field(at: Path, rule: FieldTable) -> Iterator[Problem]:
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        yield Problem((*at, "minimum"), f"got {rule.minimum}, expected at most the maximum, {rule.maximum}")
    for key, types in (("minimum", _NUMBERS), ("maximum", _NUMBERS), ("items_max", _COUNTED)):
        if getattr(rule, key) is not None and rule.type is not None and rule.type not in types:
            yield Problem((*at, key), f"expected no such limit: a field of type {rule.type} has nothing that it limits")
    if rule.type in ("flag", "bounded", "counter", "text"):
        for key in ("values", "one_of"):
            if getattr(rule, key) is not None:
                yield Problem((*at, key), f"expected no such list: a field of type {rule.type} holds no other values")


def _broken_steps(at: Path, name: str, table: SchemaTable) -> Iterator[Problem]:
    schema, before = table.named(name), 1
    for index, step in enumerate(table.step):
        where: Path = (*at, "step", index)
        if not before < step.to <= table.version:
            expected = f"expected an integer from {before + 1} to the version, {table.version}: steps ascend"
            yield Problem((*where, "to"), f"got {step.to}, {expected}")
        before = max(before, step.to)
        for old, new in step.renamed.items():
            if old == new or new in step.renamed:
                yield Problem((*where, "renamed", old), f"got {new!r}, expected a name that is not renamed itself")
        for field, value in step.defaults.items():
            kept = field
            for later in table.step[index + 1 :]:
                kept = later.renamed.get(kept, kept)
            rule = table.fields.get(kept)
            if rule is None or rule.type != "reg":
                yield Problem((*where, "defaults", field), "expected a field that the schema names, of type reg")
                continue
            try:
                check_value(schema, kept, value)
            except SchemaRefused as refused:
                yield Problem((*where, "defaults", field), f"got {_shown(value)}: {refused.reason}")


def overlap(one: str, other: str) -> bool:
    """Whether a space may match both patterns."""
    first, second = one.split("/"), other.split("/")
    while first and second:
        if first[0] == "**" or second[0] == "**":
            return True  # it stands at an end, and is one segment or more
        if first[0] != second[0] and "*" not in (first[0], second[0]):
            return False
        first, second = first[1:], second[1:]
    return not first and not second
