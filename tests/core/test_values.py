"""A value has one canonical encoding, and equality is equality of encodings."""

import math
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncd.core.values import (
    DEPTH_MAX,
    INTEGER_MAX,
    ITEMS_MAX,
    VALUE_BYTES_MAX,
    ValueRefused,
    ValueTooLarge,
    checked,
    decoded,
    encoded,
    is_same,
    normalized,
)
from tests.core.strategies import junk, texts, values


@given(values)
def test_normalizing_is_idempotent(value: Any) -> None:
    once = normalized(value)
    assert encoded(normalized(once)) == encoded(once)


@given(st.lists(values | st.sampled_from([True, None, 1.0, -0.0, INTEGER_MAX + 1]), max_size=4), st.integers(1, 12))
@example([1, INTEGER_MAX + 1], 4)
@example([1, 1.0, True], 4)
def test_a_long_array_is_normalized_as_its_items_are(items: list[Any], times: int) -> None:
    try:
        expected = [normalized(item, 1) for item in items] * times
    except ValueRefused:
        with pytest.raises(ValueRefused):
            normalized(items * times)
    else:
        assert encoded(normalized(items * times)) == encoded(expected)
        assert encoded(normalized(tuple(items * times))) == encoded(expected)


@given(values)
def test_round_trip(value: Any) -> None:
    once = normalized(value)
    again = decoded(encoded(once))
    assert is_same(again, once) and encoded(again) == encoded(once)
    assert encoded(normalized(again)) == encoded(once)


@given(values, values)
@example(1, True)
@example([1], [True])
@example({"a": 0}, {"a": False})
@example("", b"")
@example(0, -0.0)
@example(1, 1.0)
@example(None, False)
def test_values_are_equal_iff_their_encodings_are(a: Any, b: Any) -> None:
    a, b = normalized(a), normalized(b)
    assert is_same(a, b) == (encoded(a) == encoded(b))


@given(st.lists(texts, min_size=2, max_size=8, unique=True), st.randoms())
@example(["\ud7ff", "\U00010000", "￿", "z", "é"], None)
def test_the_order_in_which_keys_came_leaves_no_trace(keys: list[str], random: Any) -> None:
    mapping = {key: i for i, key in enumerate(keys)}
    shuffled = list(mapping.items())
    if random is not None:
        random.shuffle(shuffled)
    assert encoded(normalized(mapping)) == encoded(normalized(dict(shuffled)))
    assert list(normalized(mapping)) == sorted(keys, key=str.encode), "ascending by UTF-8 bytes"


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-0.0)
@example(float(INTEGER_MAX))
@example(float(INTEGER_MAX + 1))
@example(5e-324)
def test_a_double_with_an_integral_value_in_range_is_an_integer(number: float) -> None:
    result = normalized(number)
    assert result == number
    is_integral = number.is_integer() and abs(number) <= INTEGER_MAX
    assert type(result) is (int if is_integral else float)
    assert len(encoded(result)) == 9 if not is_integral else len(encoded(result)) <= 9


@given(st.integers(-INTEGER_MAX, INTEGER_MAX))
@example(-32)
@example(-33)
@example(127)
@example(128)
def test_integers_take_the_shortest_form(number: int) -> None:
    size = len(encoded(number))
    bits = number if number >= 0 else ~number
    if -32 <= number < 128:
        assert size == 1
    elif number >= 0:
        assert size == 1 + next(n for n in (1, 2, 4, 8) if bits < 1 << 8 * n)
    else:
        assert size == 1 + next(n for n in (1, 2, 4, 8) if bits < 1 << (8 * n - 1))


@given(junk)
def test_anything_else_is_refused_with_a_reason(value: Any) -> None:
    try:
        result = checked(value)
    except ValueRefused as error:
        assert str(error)
    else:
        assert encoded(normalized(decoded(encoded(result)))) == encoded(result)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        INTEGER_MAX + 1,
        -INTEGER_MAX - 1,
        {1: "x"},
        {b"k": 1},
        pytest.param(object(), id="object"),
        {1, 2},
        "\ud800",
        ["\ud800"],
        {"\ud800": 1},
        msgpack.ExtType(1, b""),
        bytearray(b"x"),
        [0] * (ITEMS_MAX + 1),
    ],
    ids=repr,
)
def test_what_is_outside_the_model_is_refused(value: Any) -> None:
    with pytest.raises(ValueRefused):
        checked(value)


def nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"k": value}
    return value


def test_values_nest_up_to_the_limit_and_no_deeper() -> None:
    checked(nested(DEPTH_MAX))
    with pytest.raises(ValueRefused, match="nest"):
        checked(nested(DEPTH_MAX + 1))


@pytest.mark.parametrize("make", [lambda n: "x" * n, lambda n: "é" * (n // 2) + "x" * (n % 2), lambda n: b"x" * n])
def test_a_value_is_as_long_as_its_encoding(make: Any) -> None:
    header = 3  # str 16 and bin 16
    checked(make(VALUE_BYTES_MAX - header))
    with pytest.raises(ValueTooLarge):
        checked(make(VALUE_BYTES_MAX - header + 1))
    with pytest.raises(ValueTooLarge):
        checked([make(VALUE_BYTES_MAX - header)])


def foreign(value: Any, random: Any) -> bytes:
    """An encoding of a value that another library might choose: long forms, doubles for integers, keys in any order."""
    if type(value) is int:
        if random.random() < 0.5 and float(value) == value:
            return b"\xcb" + struct.pack(">d", value)
        return b"\xd3" + struct.pack(">q", value)
    if type(value) is str:
        return b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode()
    if type(value) is bytes:
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if type(value) is list:
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(foreign(item, random) for item in value)
    if type(value) is dict:
        items = list(value.items())
        random.shuffle(items)
        return b"\xdf" + struct.pack(">I", len(items)) + b"".join(foreign(x, random) for item in items for x in item)
    return encoded(value)


@given(values, st.randoms())
def test_a_foreign_encoding_of_a_value_is_canonicalized(value: Any, random: Any) -> None:
    canonical = encoded(normalized(value))
    assert encoded(checked(decoded(foreign(normalized(value), random)))) == canonical
