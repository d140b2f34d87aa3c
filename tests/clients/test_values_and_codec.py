"""Values have one encoding; messages survive both bindings; what is malformed is named."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd_client import InvalidInput, PeerError, operation
from syncd_client import messages as m
from syncd_client.codec import BINDINGS, CODES, JSON, MSGPACK, decoded, encoded, json_value, value_from_json
from syncd_client.operations import OPERATIONS, operation_from
from syncd_client.values import INTEGER_MAX, checked, checked_name, checked_space
from syncd_client.values import encoded as value_bytes

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.binary(max_size=8)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["$", "$b", "$$b", "a"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)


@given(values)
def test_canonical_form_is_reached_in_one_step(value: Any) -> None:
    once = checked(value)
    assert checked(once) == once
    assert value_bytes(value) == msgpack.packb(once)


@given(st.dictionaries(texts, scalars, max_size=5))
def test_the_order_of_map_keys_does_not_show(value: dict[str, Any]) -> None:
    assert value_bytes(dict(reversed(value.items()))) == value_bytes(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (3.0, "03"),
        (-0.0, "00"),
        (2.0**53, "cb4340000000000000"),
        (INTEGER_MAX, "cf001fffffffffffff"),
        (-33, "d0df"),
        (0.5, "cb3fe0000000000000"),
        ("é", "a2c3a9"),
        (b"\x01", "c40101"),
        ({"b": 1, "a": 2}, "82a16102a16201"),
        ({"\U0001f600": 1, "￿": 2}, "82a3efbfbf02a4f09f988001"),
    ],
)
def test_one_value_has_one_encoding(value: Any, data: str) -> None:
    assert value_bytes(value).hex() == data


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2**53, r"value: the integer .* outside"),
        (float("inf"), "not a finite number"),
        ([{"a": object()}], r"value\[0\].a: object is not a type"),
        ({1: 2}, "a map key is int"),
        ("\ud800", "lone surrogate"),
        ([0] * 4097, "4097 items"),
        ("x" * 65_536, "65541 bytes"),
    ],
)
def test_what_is_not_a_value_is_refused_with_its_place(value: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        checked(value)


def test_sixteen_levels_are_allowed_and_no_more() -> None:
    value: Any = 1
    for _ in range(16):
        value = [value]
    checked(value)
    with pytest.raises(InvalidInput, match="deeper than 16"):
        checked([value])


@pytest.mark.parametrize("name", ["user/42", "a", "a.b/~c/%2F", "/".join("a" * 16), "x" * 200])
def test_a_space_name_is_accepted(name: str) -> None:
    assert checked_space(name) == name


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", ".", "a/..", "%2f", "ü", "a b", "/".join("a" * 17), "x" * 201]
)
def test_a_space_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="space: "):
        checked_space(name)


@pytest.mark.parametrize("name", ["", "a\x00", "\x7f", "\x9f", "x" * 161, 5])
def test_a_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidInput):
        checked_name(name, "field")


@given(values)
def test_a_value_survives_json(value: Any) -> None:
    canonical = checked(value)
    assert value_from_json(json.loads(json.dumps(json_value(canonical)))) == canonical


@pytest.mark.parametrize("raw", [{"$b": "a"}, {"$b": "YQ=="}, {"$b": "+w"}, {"$x": 1}, {"$b": "YQ", "a": 1}])
def test_a_key_with_a_dollar_that_is_neither_bytes_nor_escaped_is_refused(raw: Any) -> None:
    with pytest.raises(InvalidInput):
        value_from_json(raw)


# -- messages ---------------------------------------------------------------------------------------------------------

counts = st.integers(0, INTEGER_MAX)
names = st.text("abü/", min_size=1, max_size=4)
arguments: dict[str, st.SearchStrategy[Any]] = {
    "field": names,
    "key": names,
    "value": values,
    "by": st.integers(1, 9),
    "update": st.binary(min_size=1, max_size=20),
    "number": st.integers(-9, 9) | st.just(0.5),
    "element": st.just(b"element1"),
    "lease": st.just(b"sixteen bytes..."),
    "units": st.integers(1, 9),
    "ttl": st.none() | st.just(1_000),
    "named": st.just(b"sixteen bytes...") | st.just([b"sixteen bytes...", 3, None, 1, b"mac of 16 bytes."]),
    "named or null": st.none() | st.just(b"sixteen bytes..."),
    "position": st.binary(min_size=1, max_size=9).map(lambda index: index + b"element1"),
}


@st.composite
def operations(draw: st.DrawFn) -> Any:
    name = draw(st.sampled_from(list(OPERATIONS)))
    items = [draw(arguments[kind]) for kind in OPERATIONS[name]]
    return operation(name, draw(names), draw(names), *items, seen=draw(st.none() | st.integers(1, INTEGER_MAX)))


eight = st.binary(min_size=8, max_size=8)
field_values = (
    st.none()
    | st.tuples(st.sampled_from(["reg", "later"]), values.map(checked))
    | st.tuples(st.just("map"), st.dictionaries(names, st.integers(-9, 9), max_size=3).map(checked))
)
entries = st.builds(
    m.DocumentEntry, names, names, counts, st.sampled_from([0, 1, 2]), st.dictionaries(names, field_values, max_size=3)
)
details = st.none() | st.dictionaries(names, values.map(checked), max_size=2)
outcome_entries = st.builds(m.OutcomeEntry, counts, eight, names, st.none() | counts, details)
changes = st.builds(m.Change, counts, eight, counts, counts, st.lists(operations(), max_size=3).map(tuple))
voids = st.builds(m.Void, counts, counts, eight, names)
states = st.dictionaries(names, values, max_size=2).map(checked)
sixteen = st.binary(min_size=16, max_size=16)
happenings = st.builds(m.Happening, sixteen, names, counts, st.none() | states)
results = st.builds(m.EventResult, sixteen, names, st.none() | names)
kinds: dict[str, st.SearchStrategy[Any]] = {
    "int": counts,
    "str": names,
    "bool": st.booleans(),
    "bytes": st.binary(min_size=16, max_size=16),
    "tuple[int, ...]": st.lists(counts, max_size=3).map(tuple),
    "tuple[str, ...]": st.lists(names, max_size=2).map(tuple),
    "Mapping[str, str]": st.dictionaries(names, names, max_size=2),
    "Mapping[str, int]": st.dictionaries(names, counts, max_size=2),
    "tuple[Change | Void, ...]": st.lists(changes | voids, min_size=1, max_size=2).map(tuple),
    "tuple[DocumentEntry, ...]": st.lists(entries, max_size=2).map(tuple),
    "Value": values.map(checked),
    "Mapping[str, Value] | bool": st.booleans() | states,
    "tuple[tuple[bytes, str, Mapping[str, Value]], ...]": st.lists(st.tuples(eight, names, states), max_size=2).map(
        tuple
    ),
    "tuple[Happening, ...]": st.lists(happenings, min_size=1, max_size=2).map(tuple),
    "tuple[EventResult, ...]": st.lists(results, max_size=2).map(tuple),
    "tuple[OutcomeEntry, ...]": st.lists(outcome_entries, max_size=2).map(tuple),
}


@st.composite
def messages(draw: st.DrawFn) -> Any:
    type_ = draw(st.sampled_from(list(CODES)))
    body = {}
    for field in fields(type_):
        annotation = str(field.type).removesuffix(" | None")
        strategy = eight if field.name in ("chain", "sum", "ref") else kinds[annotation]
        if field.name in ("documents", "gone", "left") or (type_ is m.Sums and field.name == "buckets"):
            strategy = st.integers(0, 2).flatmap(lambda count: st.binary(min_size=16 * count, max_size=16 * count))
        if field.default is not MISSING or str(field.type).endswith("None"):
            strategy = st.none() | strategy if field.default in (MISSING, None) else strategy
        body[field.name] = draw(strategy)
    return type_(**body)


@given(st.lists(messages(), max_size=3), st.sampled_from(list(BINDINGS.values())))
def test_messages_survive_a_frame(sent: list[Any], binding: Any) -> None:
    assert decoded(encoded(sent, binding), binding) == sent


@given(operations())
def test_an_operation_survives_its_wire_form(made: Any) -> None:
    assert operation_from(made.wire()) == made


def test_a_push_looks_as_the_protocol_says() -> None:
    change = m.Change(1, b"\x01" * 8, 0, 5, (operation("reg.set", "c", "i", "f", b"\xff"),))
    push = m.Push("s", None, (change, m.Void(2, 3, b"\x02" * 8, "lost")))
    assert json.loads(encoded([push], JSON)) == [
        [
            4,
            {
                "space": "s",
                "epoch": None,
                "changes": [
                    [1, "01" * 8, 0, 5, [["reg.set", "c", "i", "f", {"$b": "_w"}]]],
                    ["void", 2, 3, "02" * 8, "lost"],
                ],
            },
        ]
    ]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([[32, {}]], r"message 0 \(welcome\).session|the key session is missing"),
        ([[20, {}], [99, {}]], "message 1: unknown message type 99"),
        ([[20]], "message 0: expected an array of a type code and a body"),
        ([[20, {"id": -1}]], r"message 0 \(ping\).id: expected an integer from 0"),
        ([[36, {"space": 5, "reason": ""}]], r"\(revoked\).space: expected text, got int"),
    ],
)
def test_a_malformed_message_is_named(raw: list[Any], says: str) -> None:
    frames: list[tuple[bytes | str, Any]] = [(json.dumps(raw), JSON)]
    frames.append((b"".join(msgpack.packb(item) for item in raw), MSGPACK))
    for frame, binding in frames:
        with pytest.raises(PeerError, match=says):
            decoded(frame, binding)


def test_a_cut_frame_and_the_wrong_kind_of_frame_are_refused() -> None:
    whole = encoded([m.Ping(70_000)], MSGPACK)
    assert isinstance(whole, bytes)
    with pytest.raises(PeerError, match="cut off"):
        decoded(whole[:-1], MSGPACK)
    with pytest.raises(PeerError, match="binary frame"):
        decoded("[]", MSGPACK)
    with pytest.raises(PeerError, match="text frame"):
        decoded(b"[]", JSON)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), msgpack.ExtType(5, b"x"), msgpack.Timestamp(1)])
def test_what_is_no_value_of_the_protocol_is_refused_also_from_a_server(value: Any) -> None:
    body = {"space": "s", "epoch": bytes(16), "from": 0, "after": 0, "to": 1, "t": 0, "chain": bytes(8)}
    for type_, argument in (("reg", value), ("set", [value])):
        docs = [["notes", "n", 1, 0, {"f": [type_, argument]}]]
        with pytest.raises(PeerError, match=r"notes|docs"):
            decoded(msgpack.packb([34, body | {"docs": docs}]), MSGPACK)


def test_unknown_keys_and_message_types_of_later_versions_are_ignored() -> None:
    assert decoded('[[20, {"id": 1, "new": 2}], [128, "anything"]]', JSON) == [m.Ping(1)]


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_decoder(frame: bytes) -> None:
    with suppress(PeerError):
        decoded(frame, MSGPACK)
