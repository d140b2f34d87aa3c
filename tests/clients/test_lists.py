"""Laws of positions, and of lists as an application edits them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd_client import InvalidInput, operation
from syncd_client.positions import (
    POSITION_BYTES_MAX,
    RUN_MAX,
    Item,
    element_of,
    index_between,
    items_of,
    neighbours,
    positions_of_run,
    respaced,
)
from syncd_client.replay import replayed
from syncd_client.sums import document_sum, sum_bytes
from syncd_client.values import DEPTH_MAX

from .peer import SPACE, Peer
from .test_device import device_at, joined

# Names and indexes out of few bytes, so that positions are equal, adjacent, and prefixes of each other.
few = st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF])
elements = (
    st.lists(few, min_size=7, max_size=7)
    .map(bytes)
    .flatmap(lambda start: st.sampled_from([1, 2, 0x80, 0xFF]).map(lambda last: start + bytes([last])))
)
positions = st.builds(bytes.__add__, st.lists(few, min_size=1, max_size=12).map(bytes), elements)
sides = st.lists(st.none() | positions, min_size=2, max_size=2).filter(
    lambda pair: pair[0] is None or pair[0] != pair[1]
)


@given(sides, elements)
def test_between_any_two_positions_there_is_room_whatever_the_new_name(pair: Any, name: bytes) -> None:
    left, right = pair
    if left is not None and right is not None and left > right:
        left, right = right, left
    index = index_between(left, right)
    assert index
    for position in (index + name, index + bytes(7) + b"\x01", index + b"\xff" * 8):
        assert left is None or left < position
        assert right is None or position < right


@given(positions, positions, st.lists(elements, min_size=1, max_size=5, unique=True), elements)
def test_what_others_insert_at_the_same_time_never_falls_into_a_run(
    a: bytes, b: bytes, names: Any, other: bytes
) -> None:
    if a == b:
        return
    left, right = min(a, b), max(a, b)
    run = positions_of_run(left, right, names)
    assert [left, *run, right] == sorted({left, *run, right})
    theirs = positions_of_run(left, right, [other, names[0][:-1] + bytes([names[0][-1] ^ 0xFF or 1])])
    for position in theirs:
        assert position in run or not run[0] < position < run[-1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["insert", "move", "remove"]), st.integers(0, 9), st.integers(0, 9)), max_size=30
    )
)
def test_edits_by_neighbours_do_to_the_list_what_they_do_to_a_python_list(edits: Any) -> None:
    random, model = Random(len(edits)), []
    state: Any = {}
    for number, (what, at, to) in enumerate(edits):
        items = items_of(state["l"][1]) if "l" in state else []
        if what == "insert":
            at = min(at, len(items))
            places = neighbours(items, items[at - 1].element if at else None)
            values = [number, -number - 1]
            names = [element_of(random.randbytes(8)) for _ in values]
            for position, value in zip(positions_of_run(*places, names), values, strict=True):
                state = replayed(state, [operation("list.insert", "c", "1", "l", position, value)])
            model[at:at] = values
        elif items and what == "move":
            at, to = at % len(items), to % len(items)
            others = items[:at] + items[at + 1 :]
            places = neighbours(others, others[to - 1].element if to else None)
            position = positions_of_run(*places, [items[at].element])[0]
            state = replayed(state, [operation("list.move", "c", "1", "l", position)])
            model.insert(to, model.pop(at))
        elif items:
            at %= len(items)
            state = replayed(state, [operation("list.remove", "c", "1", "l", items[at].element)])
            del model[at]
        assert [item.value for item in items_of(state["l"][1]) if "l" in state] == model if "l" in state else not model


def _filled(count: int, place: str, random: Random) -> int:
    """How many elements go into one place before it is full; `count` if it is not."""
    left = right = None
    if place in ("inside, before", "inside, after"):
        left, right = (
            index_between(None, None) + b"element1",
            index_between(index_between(None, None), None) + b"element2",
        )
    for number in range(count):
        try:
            new = positions_of_run(left, right, [element_of(random.randbytes(8))])[0]
        except InvalidInput:
            return number
        if place in ("append", "inside, after"):
            left = new
        else:
            right = new
    return count


@pytest.mark.parametrize(
    ("place", "least"), [("append", 20_000), ("prepend", 20_000), ("inside, before", 1_500), ("inside, after", 1_500)]
)
def test_how_many_elements_fit_into_one_place_one_after_the_other(place: str, least: int) -> None:
    """More than a list may hold, at its ends. Inside, always at one place: see the specification."""
    assert _filled(least, place, Random(place)) == least


def test_a_place_that_is_full_says_so_and_has_room_again_when_its_neighbours_were_respaced() -> None:
    random = Random(1)
    items = [Item(name, b"\x80" + name, number) for number, name in enumerate((b"element1", b"element2", b"element3"))]
    while True:
        places = neighbours(items, b"element1")
        name = element_of(random.randbytes(8))
        try:
            position = positions_of_run(*places, [name])[0]
        except InvalidInput as error:
            assert "respace" in str(error)
            break
        items.insert(1, Item(name, position, None))
        if len(items) > 100:
            del items[2:50]  # who adds and removes keeps the list short, and the positions long
    moved = respaced(items, b"element1")
    assert 0 < len(moved) <= min(RUN_MAX, len(items))
    by_name = {position[-8:]: position for position in moved}
    again = [Item(item.element, by_name.get(item.element, item.position), item.value) for item in items]
    assert [item.position for item in again] == sorted(item.position for item in again)
    assert len(positions_of_run(*neighbours(again, b"element1"), [name])[0]) < POSITION_BYTES_MAX / 2


async def test_an_application_edits_a_list_by_its_elements(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with device_at(tmp_path, Peer()) as device:
        space = device.space(SPACE)
        space.create("todo", "t")
        todo = space.list_field("todo", "t", "items")
        assert todo.items() == []
        todo.append("bread", "milk")
        todo.insert("first", after=None)
        first, bread, milk = todo.items()
        assert (first.value, bread.value, milk.value) == ("first", "bread", "milk")
        todo.insert({"of": "two"}, [1], after=first.element)
        todo.move(milk.element, after=None)
        todo.remove(bread.element)
        assert [item.value for item in todo.items()] == ["milk", "first", {"of": "two"}, [1]]
        todo.respace(after=first.element)
        assert [item.value for item in todo.items()] == ["milk", "first", {"of": "two"}, [1]]
        for wrong in (lambda: todo.move(bread.element, after=None), lambda: todo.insert(1, after=bread.element)):
            with pytest.raises(InvalidInput, match="no element"):
                wrong()
        space.set("todo", "t", "name", "x")
        with pytest.raises(InvalidInput, match="is a reg, not a list"):
            space.list_field("todo", "t", "name").items()
        with pytest.raises(InvalidInput, match="expected 1 to 999"):
            todo.append(*range(RUN_MAX + 1))


async def test_the_deepest_values_of_a_set_and_of_a_list_are_taken_and_summed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A field holds them one or two levels deeper, and its sum another."""
    deepest: Any = []
    for _ in range(DEPTH_MAX - 1):
        deepest = [deepest]
    fields = {"s": ("set", [deepest]), "l": ("list", [[b"\x80element1", deepest]])}
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        total = sum_bytes(document_sum("items", "a", 1, fields))
        await wire.delta(0, 1, [["items", "a", 1, 1, {name: list(field) for name, field in fields.items()}]], sum=total)
        await space.wait_complete()
        assert space.list_field("items", "a", "l").items()[0].value == deepest
        space.add("items", "a", "s", deepest)
