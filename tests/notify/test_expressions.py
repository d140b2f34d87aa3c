"""Conditions: read with their mistakes pointed at, evaluated to an answer whatever the facts are."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.notify.expressions import DEPTH_MAX, TEXT_CHARS_MAX, BadExpression, Facts, parse

EVENT = {
    "breaking": True,
    "topic": "cycling",
    "price": 12,
    "cart": {"items": 3, "total": 99.5},
    "tags": ["a"],
    "type": "t",
}
ANSWERS = {"affinity": 0.4, "count": 2.0, "since": None, "p_return": 0.3, "sessions": 40, "hour": 18, "weekday": 6}


def call(function: str, arguments: Sequence[Any]) -> Any:
    return ANSWERS[function]


FACTS = Facts(EVENT, call)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("breaking and affinity(topic) > 0.3", True),
        ("not breaking or price < 10", False),
        ("cart.items * 2 + 1 == 7", True),
        ("10 - 3 - 2 == 5", True),
        ("2 + 3 * 4 == 14", True),
        ("(2 + 3) * 4 == 20", True),
        ('topic == "cycling" and type == "t"', True),
        ('topic != "cycling"', False),
        ('count("cart.add", 7d) >= 2 and p_return(7d) < 0.35', True),
        ("hour() >= 9 and hour() < 20 and weekday() <= 5", False),
        ("true or breaking", True),
        # What is missing, or of another type, is not true, equal to nothing, and neither less nor greater.
        ("nothing", False),
        ("not nothing", True),
        ("nothing == nothing", False),
        ("nothing != 1", True),
        ("nothing < 1 or nothing >= 1", False),
        ("topic > 1 or topic <= 1", False),
        ("price + topic > 0", False),
        ("price", False),
        ("breaking == 1", False),
        ("breaking > false", None),
        ("tags == 1", False),
        ("cart.items.more == 1", False),
        ("affinity(price) >= 0", False),
        ('since("cart.add") < 5 or since("cart.add") >= 5', False),
        (r'"a\"b" == "a\"b"', True),
    ],
)
def test_a_condition_holds_as_its_grammar_says(text: str, holds: bool | None) -> None:
    if holds is None:
        with pytest.raises(BadExpression, match="has no order"):
            parse(text)
    else:
        assert parse(text).holds(FACTS) is holds


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "expected a value, found 'the end'"),
        ("price >", 8, "expected a value, found 'the end'"),
        ("price > and", 9, "expected a value, found 'and'"),
        ("price ; 1", 7, "expected a value, a name or an operator, found '; 1'"),
        ("price 1", 7, "expected an operator or the end, found '1'"),
        ("(price > 1", 11, "expected ')' after this part in parentheses"),
        ("1 < price < 3", 11, "comparisons do not chain"),
        ("affinity(3) > 1", 10, "expected text, found a number"),
        ("affinity() > 1", 1, "affinity() takes text; it was given 0 arguments"),
        ("hour(1) > 1", 1, "hour() takes nothing; it was given 1 arguments"),
        ("explode(1)", 1, "no function 'explode'; there are count,"),
        ("hour() and true", 1, "expected true or false, found a number"),
        ('price > 1 and "x"', 15, "expected true or false, found text"),
        ('hour() == "x"', 11, "expected a number, as on the left, found text"),
        ("1 + true == 2", 5, "expected a number, found true or false"),
        ("price > 7d", 9, "a span is an argument of a function"),
        ("count(topic, 7d) > 1", 7, "takes text and spans as they stand"),
        ('count("x", 0d) > 1', 12, "a span is a number"),
        ("hour()", 1, "expected true or false, found a number"),
        ('topic == "x', 10, "expected a value, a name or an operator"),
        ("not " * (DEPTH_MAX + 1) + "true", 4 * DEPTH_MAX + 1, "nested more than"),
        ("(" * (DEPTH_MAX + 1) + "true", DEPTH_MAX + 1, "nested more than"),
        ("x" * (TEXT_CHARS_MAX + 1), TEXT_CHARS_MAX + 1, "at most 1000 characters"),
        ("3x > 1", 1, "expected a value, a name or an operator"),
        ("__import__('os')", 12, "expected a value, a name or an operator"),
    ],
)
def test_a_mistake_is_told_with_its_column_and_what_was_expected(text: str, column: int, message: str) -> None:
    with pytest.raises(BadExpression) as raised:
        parse(text)
    assert message in raised.value.message
    assert raised.value.column == column


# Pieces out of which both good and bad conditions come.
PIECES = (
    "price", "cart.items", "nothing", "breaking", "1", "0.5", '"x"', "7d", "true", "and", "or", "not", "(", ")", ",",
    "<", ">=", "==", "!=", "+", "-", "*", "affinity(", "count(", "hour()", "p_return(7d)",
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("items", "x")), inner, max_size=3),
    max_leaves=6,
)
events = st.dictionaries(st.sampled_from(("price", "cart", "breaking", "nothing")), values)


@given(st.lists(st.sampled_from(PIECES), max_size=14), events, values)
def test_what_can_be_read_always_answers_and_nothing_else_is_raised(
    pieces: list[str], event: dict[str, Any], answer: Any
) -> None:
    try:
        condition = parse(" ".join(pieces))
    except BadExpression as error:
        assert 1 <= error.column <= len(" ".join(pieces)) + 1
        return
    answered = answer if isinstance(answer, float) else None
    assert condition.holds(Facts(event, lambda function, arguments: answered)) in (True, False)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except BadExpression as error:
        assert 1 <= error.column <= len(text) + 1


def test_what_must_be_counted_is_known_from_the_text() -> None:
    condition = parse('count("cart.add", 7d) > 1 or (count("visit", 24h) < 3 and since("buy") > 2)')
    assert [event for event, _ in condition.calls("count")] == ["cart.add", "visit"]
    assert [str(span) for _, span in condition.calls("count")] == ["7d", "24h"]
    assert condition.calls("since") == (("buy",),)


def test_an_integer_beyond_all_floats_is_missing_from_arithmetic() -> None:
    assert parse("price * 2 > 1").holds(Facts({"price": 10**400}, call)) is False
