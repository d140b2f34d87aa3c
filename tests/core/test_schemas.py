"""Schemas: what a judgement looks at, what it never refuses, and that versions compose."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.changes import Operation, parsed_operation
from syncd.core.documents import Document, Draft
from syncd.core.fields import TYPES, Field, Observer, OperationRefused
from syncd.core.schemas import (
    KINDS,
    Rule,
    Schema,
    SchemaRefused,
    Step,
    check_operation,
    check_result,
    check_value,
    defaults,
    upcast,
)
from syncd.core.values import encoded

FIELDS = "abc"
scalars = st.sampled_from([None, True, -3, 0, 2, 7, 2.5, "", "x", "longer", b"b", [1, 2, 3], {"k": 1}])
versions = st.integers(1, 5)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    return Rule(
        draw(st.none() | st.sampled_from(sorted(TYPES))),
        draw(st.booleans()),
        draw(st.none() | st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3).map(tuple)),
        draw(st.none() | st.lists(scalars, min_size=1, max_size=4).map(lambda found: frozenset(map(encoded, found)))),
        draw(st.none() | st.integers(-4, 3)),
        draw(st.none() | st.integers(0, 8)),
        draw(st.none() | st.integers(1, 6)),
        draw(st.none() | st.integers(0, 3)),
    )


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    fields = draw(st.dictionaries(st.sampled_from(FIELDS), rules(), max_size=3))
    return Schema("s", "c", fields=fields, takes_others=draw(st.booleans()))


def _element(number: int) -> bytes:
    return b"element" + bytes([number])


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    """On fields of one document; those of one field have different types, as bugs in apps make them."""
    field, value = draw(st.sampled_from(FIELDS)), draw(scalars)
    place = b"\x80" + _element(draw(st.integers(1, 6)))
    verb, *args = draw(
        st.sampled_from(
            [
                ["reg.set", value], ["reg.unset"], ["mv.set", value], ["set.add", value], ["set.remove", value],
                ["map.put", "k" + str(draw(st.integers(0, 4))), value], ["map.drop", "k1"], ["flag.enable"],
                ["counter.inc", draw(st.sampled_from([-3, -1, 1, 4]))], ["max.put", draw(st.integers(-6, 9))],
                ["min.put", draw(st.integers(-6, 9))], ["list.insert", place, value], ["list.remove", place[1:]],
                ["text.update", draw(st.binary(min_size=1, max_size=8))],
            ]
        )
    )  # fmt: skip
    return parsed_operation([verb, "c", "d", field, *args])


CREATE = parsed_operation(["create", "c", "d"])
changes = st.lists(st.lists(operations(), min_size=1, max_size=4), min_size=1, max_size=8)


def by(seq: int) -> Observer:
    return Observer(seq - 1, 1, True, seq, seq, seq)


def taken(schema: Schema, document: Document | None, seq: int, change: list[Operation]) -> Document | None:
    """The document after a change; the one before, if it is refused."""
    draft = Draft(document, by(seq))
    try:
        for operation in change:
            check_operation(schema, operation)
            draft.apply(operation, 1)
        check_result(schema, document, draft.document())
    except (SchemaRefused, OperationRefused):
        return document
    return draft.document()


def _values(field: Field) -> list[Any]:
    match field.type:
        case "reg" | "max" | "min":
            return [field.value]
        case "mv" | "set":
            return list(field.value)
        case "map":
            return list(field.value.values())
        case "list":
            return [item[1] for item in field.value]
    return []


def _faults(schema: Schema, fields: Mapping[str, Field]) -> list[str]:
    """What is wrong with a document, told from its state alone."""
    found = []
    for name in FIELDS:
        rule, field = schema.fields.get(name), fields.get(name)
        if field is None or not field.is_visible:
            found += [f"{name} is missing"] if rule is not None and rule.is_required else []
            continue
        if rule is None:
            found += [] if schema.takes_others else [f"{name} is not named"]
            continue
        if rule.type not in (None, field.type):
            found.append(f"{name} has another type")
        values = _values(field)
        numbers = [value for value in values if type(value) in (int, float)]
        numbers += [field.value] if field.type == "counter" else []
        if rule.minimum is not None and any(number < rule.minimum for number in numbers):
            found.append(f"{name} is too small")
        if rule.maximum is not None and any(number > rule.maximum for number in numbers):
            found.append(f"{name} is too great")
        if rule.kinds and any(not any(KINDS[kind](value) for kind in rule.kinds) for value in values):
            found.append(f"{name} has another kind")
        if rule.one_of is not None and any(encoded(value) not in rule.one_of for value in values):
            found.append(f"{name} is none of those")
        if rule.items_max is not None and field.type in ("set", "map", "list") and len(field.value) > rule.items_max:
            found.append(f"{name} has too many items")
    return found


@given(schemas(), changes)
def test_what_was_made_under_a_schema_obeys_it(schema: Schema, made: list[list[Operation]]) -> None:
    document = None
    for seq, change in enumerate(made, 1):
        document = taken(schema, document, seq, change if document else [CREATE, *change])
        if document is not None:
            counters = [name for name, field in document.fields.items() if field.type == "counter"]
            # A sum that begins outside of its range is brought nearer, step by step.
            assert [fault for fault in _faults(schema, document.fields) if fault[0] not in counters] == []


@given(schemas(), changes, st.lists(st.integers(-3, 4).filter(bool), max_size=6))
def test_a_sum_within_its_range_stays_there(schema: Schema, made: list[list[Operation]], steps: list[int]) -> None:
    rule = Rule("counter", minimum=-2, maximum=5)
    schema = Schema("s", "c", fields={"n": rule})
    document = taken(schema, None, 1, [CREATE])
    for seq, step in enumerate(steps, 2):
        document = taken(schema, document, seq, [parsed_operation(["counter.inc", "c", "d", "n", step])])
        assert document is not None
        assert -2 <= (document.fields["n"].value if "n" in document.fields else 0) <= 5


@given(schemas(), changes)
def test_a_change_answers_for_nothing_that_it_leaves_alone(schema: Schema, made: list[list[Operation]]) -> None:
    """A2: whatever a document is that was there before its schema, a change of another field is taken."""
    free = Schema("free", "c")
    document = taken(free, None, 1, [CREATE])
    for seq, change in enumerate(made, 2):
        document = taken(free, document, seq, change)
    assert document is not None
    check_result(schema, document, document)
    after = taken(schema, document, 99, [parsed_operation(["reg.set", "c", "d", "elsewhere", 1])])
    assert (after is not document) == schema.takes_others


@given(schemas(), st.integers(-20, 20), st.integers(-20, 20).filter(bool))
def test_a_sum_out_of_range_may_come_nearer(schema: Schema, before: int, step: int) -> None:
    schema = Schema("s", "c", fields={"n": Rule("counter", minimum=-2, maximum=5)})
    first = parsed_operation(["counter.inc", "c", "d", "n", before or 1])
    document = taken(Schema("free", "c"), None, 1, [CREATE, first])
    assert document is not None
    total = (before or 1) + step
    after = taken(schema, document, 2, [parsed_operation(["counter.inc", "c", "d", "n", step])])
    is_worse = (total > 5 and step > 0) or (total < -2 and step < 0)
    assert (after is document) == is_worse


@st.composite
def ladders(draw: st.DrawFn) -> Schema:
    """Steps whose fields are of a few names that are renamed to and fro."""
    steps = []
    for to in sorted(draw(st.sets(st.integers(2, 6)))):
        old, new = draw(st.permutations("abcd"))[:2]
        steps.append(Step(to, {old: new}, {draw(st.sampled_from("abcd")): to}))
    return Schema("s", "c", version=6, steps=tuple(steps))


@given(ladders(), versions, versions, st.sampled_from("abcd"))
def test_versions_compose(schema: Schema, a: int, b: int, field: str) -> None:
    """A3: to read a change of version a as of the present one, reading it as of b on the way changes nothing."""
    a, b = min(a, b), max(a, b)
    operation = parsed_operation(["reg.set", "c", "d", field, 1, {"schema": a}])
    until_b = schema._replace(version=b, steps=tuple(step for step in schema.steps if step.to <= b))
    halfway = upcast(until_b, operation)
    assert upcast(schema, halfway._replace(schema=b)).field == upcast(schema, operation).field
    found: dict[str, Any] = {}
    for step in schema.steps:
        if step.to > a:
            found = {step.renamed.get(name, name): value for name, value in found.items()} | dict(step.defaults)
    assert defaults(schema, a) == found


@given(ladders(), st.integers(6, 2**53 - 1), st.sampled_from("abcd"))
def test_what_names_no_version_or_a_later_one_is_taken_as_it_is(schema: Schema, later: int, field: str) -> None:
    for options in ([], [{"schema": later}]):
        operation = parsed_operation(["reg.set", "c", "d", field, 1, *options])
        assert upcast(schema, operation) is operation
    assert defaults(schema, 0) == defaults(schema, later) == {}


def test_a_name_under_which_a_key_is_reserved_is_no_field() -> None:
    schema = Schema("s", "c", version=2, steps=(Step(2, {"nick": "name"}, {}),))
    unique = parsed_operation(["unique", "c", "d", "nick", "ann", {"schema": 1}])
    assert upcast(schema, unique).field == "nick"
    assert upcast(schema, parsed_operation(["expect", "c", "d", "nick", {"schema": 1}])).field == "name"


def test_what_was_promised_is_never_refused() -> None:
    schema = Schema("s", "c", fields={"stock": Rule("reg")}, takes_others=False)
    lease = b"lease of 16 bytes"[:16]
    for verb, *args in (["take", 1, lease], ["give", lease, 1], ["refund", 1]):
        check_operation(schema, parsed_operation([f"bounded.{verb}", "c", "d", "stock", *args]))
    with pytest.raises(SchemaRefused) as caught:
        check_operation(schema, parsed_operation(["bounded.restock", "c", "d", "stock", 1]))
    assert caught.value.outcome == "type_mismatch"


def test_what_is_never_refused_is_not_refused_for_its_version() -> None:
    """A device was certain of its lease when it took units offline, under an application that is too old by now."""
    schema = Schema("s", "c", version=3, oldest=3, steps=(Step(3, {"old": "new"}, {}),))
    lease, options = bytes(16), {"schema": 1}
    for verb, *args in (
        ["bounded.take", "old", 1, lease], ["bounded.give", "old", lease, 1], ["bounded.refund", "old", 1],
        ["expect", "old"], ["unique", "old", "key"], ["delete"],
    ):  # fmt: skip
        read = upcast(schema, parsed_operation([verb, "c", "d", *args, options]))
        assert read.field == {"delete": None, "unique": "old"}.get(verb, "new")
    for verb, *args in (["create"], ["bounded.restock", "old", 1], ["reg.unset", "old"]):
        with pytest.raises(SchemaRefused) as caught:
            upcast(schema, parsed_operation([verb, "c", "d", *args, options]))
        assert caught.value.detail["rule"] == "oldest"


@pytest.mark.parametrize(
    ("rule", "value", "outcome", "broken"),
    [
        (Rule(kinds=("integer", "null")), "x", "invalid", "values"),
        (Rule(kinds=("integer",)), True, "invalid", "values"),
        (Rule(one_of=frozenset({encoded(1)})), True, "invalid", "one_of"),
        (Rule(minimum=1), 0.5, "invalid", "minimum"),
        (Rule(maximum=1), 2, "invalid", "maximum"),
        (Rule(bytes_max=3), "äö", "too_large", "bytes_max"),
        (Rule(bytes_max=3), b"1234", "too_large", "bytes_max"),
        (Rule(bytes_max=3), [1, 2, 3], "too_large", "bytes_max"),
        (Rule(items_max=1), {"a": 1, "b": 2}, "too_large", "items_max"),
    ],
)
def test_the_rule_that_is_broken_is_named(rule: Rule, value: Any, outcome: str, broken: str) -> None:
    with pytest.raises(SchemaRefused) as caught:
        check_value(Schema("s", "c", 7, fields={"f": rule}), "f", value)
    assert caught.value.outcome == outcome
    assert caught.value.detail == {"name": "s", "version": 7, "rule": broken, "field": "f"}
