"""Anything that a decoder can hand over becomes a change, a void or a refused change, or its header is malformed."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncd.core.changes import (
    CHANGE_BYTES_MAX,
    DOCUMENTS_MAX,
    OPERATIONS_MAX,
    VERBS,
    VOID_COUNT_MAX,
    Change,
    ChangeMalformed,
    RefusedChange,
    Void,
    numbers_of,
    parsed_change,
)
from syncd.core.values import VALUE_BYTES_MAX, decoded, encoded, is_same
from tests.core.strategies import junk, names, values

NONCE = b"8 bytes!"
SEQ_MAX = 2**53 - 1
counts = st.integers(1, SEQ_MAX)

_numbers = st.integers(-SEQ_MAX, SEQ_MAX) | st.floats(allow_nan=False, allow_infinity=False)
_increments = st.integers(-SEQ_MAX, SEQ_MAX).filter(bool)
_lease_ids = st.binary(min_size=16, max_size=16)
_certificates = st.tuples(_lease_ids, counts, st.none() | st.integers(0, SEQ_MAX), counts, _lease_ids)
_leases = _lease_ids | _certificates.map(list)
_elements = st.binary(min_size=7, max_size=7).map(lambda name: name + b"\x01")
_positions = st.builds(lambda index, name: index + name, st.binary(min_size=1, max_size=248), _elements)
_ARGUMENTS: dict[str, list[st.SearchStrategy[Any]]] = {
    "unique": [names], "reg.set": [values], "mv.set": [values], "counter.inc": [_increments], "max.put": [_numbers],
    "min.put": [_numbers], "set.add": [values], "set.remove": [values], "map.put": [names, values], "map.drop": [names],
    "bounded.restock": [_increments], "bounded.lease": [_lease_ids, counts, st.none() | st.integers(1000, 10**9)],
    "bounded.take": [counts, st.none() | _leases], "bounded.give": [_leases, counts], "bounded.refund": [counts],
    "bounded.end": [_lease_ids],
    "list.insert": [_positions, values], "list.move": [_positions], "list.remove": [_elements],
    "text.update": [st.binary(min_size=1, max_size=50)],
}  # fmt: skip


@st.composite
def operations(draw: st.DrawFn) -> list[Any]:
    """A well-formed operation, in any form of its values that is not canonical yet."""
    verb = draw(st.sampled_from(sorted(VERBS)))
    items: list[Any] = [verb, draw(names), draw(names)]
    if VERBS[verb] is not None:
        items.append(draw(names))
        items += [draw(argument) for argument in _ARGUMENTS.get(verb, [])]
    if draw(st.booleans()):
        items.append({"seen": draw(counts)})
    return items


@given(st.one_of(junk, st.lists(junk, min_size=5, max_size=6)))
@example([])
@example(["void"])
@example(["void", 1, SEQ_MAX, NONCE, ""])
@example(["void", 2, 1, NONCE, ""])
@example(["void", 1, 1, NONCE, "\ud800"])
@example([True, NONCE, 0, 0, []])
@example([1.0, NONCE, 0, 0, []])
@example([1, bytearray(NONCE), 0, 0, []])
@example([1, NONCE, -1, 0, []])
@example([1, NONCE, 0, SEQ_MAX + 1, []])
def test_anything_is_parsed_or_malformed(raw: Any) -> None:
    try:
        result = parsed_change(raw)
    except ChangeMalformed as error:
        assert str(error)
        return
    assert isinstance(result, Change | Void | RefusedChange)
    encoded([result.reason if isinstance(result, Void | RefusedChange) else result.payload])


@given(counts, junk | st.lists(junk | st.lists(junk, max_size=6), max_size=3))
@example(1, [["reg.set", "c", "i", "f", "\ud800"]])
@example(1, [["reg.set", "c", "i", "f", {"\ud800": 1}]])
@example(1, [["reg.set", "c", "i", "f", float("nan")]])
@example(1, [["create", "c", "i", {"seen": 0}]])
@example(1, [["create", "c", "i", {"seen": True}]])
@example(1, [["create", "c", "i", {"seen": 1, "more": 1}]])
@example(1, [["create", "c", "i", None]])
@example(1, [["reg.set", "c", "i", "f", "x" * 65000]] * 9)
@example(1, ["x" * 300000])
def test_with_a_good_header_there_is_always_an_outcome(n: int, items: Any) -> None:
    result = parsed_change([n, NONCE, 0, 0, items])
    assert not isinstance(result, Void)
    assert (result.n, result.nonce, result.base, result.stamp) == (n, NONCE, 0, 0)
    assert len(result.payload) <= CHANGE_BYTES_MAX
    decoded(result.payload)
    if isinstance(result, RefusedChange):
        assert result.outcome in ("invalid", "too_large") and result.reason
        encoded(result.reason)


@given(st.lists(operations(), min_size=1, max_size=5))
def test_the_payload_reads_back_as_the_same_operations(items: list[Any]) -> None:
    change = parsed_change([1, NONCE, 0, 0, items])
    assert isinstance(change, Change)
    again = parsed_change([1, NONCE, 0, 0, decoded(change.payload)])
    assert isinstance(again, Change) and again.payload == change.payload
    assert is_same([o.wire() for o in again.operations], [o.wire() for o in change.operations])
    assert [o.wire()[:3] for o in change.operations] == [item[:3] for item in items]


@given(operations(), st.integers(0, 6), junk)
def test_an_item_too_many_or_too_few_is_invalid(item: list[Any], cut: int, more: Any) -> None:
    """Ignoring what is not understood would drop meaning."""
    if not (isinstance(item[-1], dict) and "seen" in item[-1]):
        item = [*item, {"seen": 1}]
    for wrong in ([*item, more], item[:cut] if cut < len(item) - 1 else [*item, more]):
        result = parsed_change([1, NONCE, 0, 0, [["create", "c", "i"], wrong]])
        assert isinstance(result, RefusedChange) and (result.outcome, result.op) == ("invalid", 1)


@pytest.mark.parametrize(
    "item",
    [
        ["nothing", "c", "i"],
        ["list.insert", "c", "i", "f", 1],
        ["create", "", "i"],
        ["create", "c", "i\x00"],
        ["create", "c"],
        ["create"],
        [],
        "create",
        None,
        ["reg.set", "c", "i", "f"],
        ["counter.inc", "c", "i", "f", 0],
        ["counter.inc", "c", "i", "f", True],
        ["counter.inc", "c", "i", "f", 1.5],
        ["counter.inc", "c", "i", "f", 2**53],
        ["max.put", "c", "i", "f", "1"],
        ["max.put", "c", "i", "f", True],
        ["min.put", "c", "i", "f", float("inf")],
        ["map.put", "c", "i", "f", "", 1],
        ["map.put", "c", "i", "f", 1, 1],
        ["map.drop", "c", "i", "f", "x" * 161],
        ["flag.enable", "c", "i", "f", True],
        ["list.insert", "c", "i", "f", b"\x80", 1],
        ["list.insert", "c", "i", "f", b"\x80" + bytes(8), 1],
        ["list.insert", "c", "i", "f", "\x80" * 9, 1],
        ["list.move", "c", "i", "f", b"8 bytes!"],
        ["list.move", "c", "i", "f", b"\x808 bytes!", 1],
        ["list.remove", "c", "i", "f", b"\x808 bytes!"],
        ["list.remove", "c", "i", "f", b"\x807bytes\x00"],
        ["text.update", "c", "i", "f", b""],
        ["text.update", "c", "i", "f", "text"],
        ["expect", "c", "i", 7],
        ["unique", "c", "i", "nick"],
        ["unique", "c", "i", "nick", ""],
        ["unique", "c", "i", "nick", 7],
    ],
    ids=repr,
)
def test_what_is_no_operation_is_invalid_at_its_index(item: Any) -> None:
    result = parsed_change([1, NONCE, 0, 0, [["create", "c", "i"], item]])
    assert isinstance(result, RefusedChange) and (result.outcome, result.op) == ("invalid", 1)


def test_a_sixth_item_is_refused_and_not_ignored() -> None:
    result = parsed_change([1, NONCE, 0, 0, [["create", "c", "i"]], {"context": 1}])
    assert isinstance(result, RefusedChange) and (result.outcome, result.op) == ("invalid", None)


def outcome(items: list[Any]) -> str:
    result = parsed_change([1, NONCE, 0, 0, items])
    return result.outcome if isinstance(result, RefusedChange) else "fits"


def test_each_limit_holds_to_the_item() -> None:
    create = ["create", "c", "i"]
    assert outcome([create] * OPERATIONS_MAX) == "fits"
    assert outcome([create] * (OPERATIONS_MAX + 1)) == "too_large"
    assert outcome([["create", "c", str(i)] for i in range(DOCUMENTS_MAX)]) == "fits"
    assert outcome([["create", "c", str(i)] for i in range(DOCUMENTS_MAX + 1)]) == "too_large"
    assert outcome([["reg.set", "c", "i", "f", b"x" * (VALUE_BYTES_MAX - 3)]]) == "fits"
    assert outcome([["reg.set", "c", "i", "f", b"x" * (VALUE_BYTES_MAX - 2)]]) == "too_large"
    assert outcome([["reg.set", "c", "i", "f", b"x" * 65000]] * 4) == "fits"
    assert outcome([["reg.set", "c", "i", "f", b"x" * 65000]] * 5) == "too_large"
    assert outcome([["reg.set", "c", "i", "f", [b"x" * 65000]]] * 4) == "fits"
    assert outcome([["reg.set", "c", "i", "f", [b"x" * 65000]]] * 5) == "too_large"


def test_what_follows_in_a_change_that_is_too_large_already_is_not_looked_at() -> None:
    """A frame holds four times what a change may: the rest of it would hold the loop up for nothing."""
    heavy = ["reg.set", "c", "i", "f", {"x": b"x" * 65000}]
    assert outcome([heavy] * 5 + [["no.such", "c", "i"]]) == "too_large"
    assert outcome([["no.such", "c", "i"]] + [heavy] * 5) == "invalid"


def test_a_void_gives_up_a_bounded_range() -> None:
    """Each number is recorded by the one writer: an unbounded range would stop everything else."""
    assert parsed_change(["void", 5, 4 + VOID_COUNT_MAX, NONCE, "lost"]) == Void(5, 4 + VOID_COUNT_MAX, NONCE, "lost")
    with pytest.raises(ChangeMalformed):
        parsed_change(["void", 5, 5 + VOID_COUNT_MAX, NONCE, "lost"])


def test_numbers_that_are_given_up_count_one_by_one() -> None:
    changes = (parsed_change(["void", 5, 4 + VOID_COUNT_MAX, NONCE, "lost"]), parsed_change(["void", 9, 9, NONCE, ""]))
    assert numbers_of(changes) == VOID_COUNT_MAX + 1
    assert numbers_of(changes[:1] * 500) == VOID_COUNT_MAX + 500, "no more are taken of one push"
