"""Laws of the field types: order does not matter, what was seen never wins, states are plain data."""

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from syncd.core.fields import MAP_DROPPED_MAX, MV_VALUES_MAX, TYPES, Field, Observer, OperationRefused, stepped
from syncd.core.values import INTEGER_MAX, ITEMS_MAX, decoded, encoded, is_same, normalized
from tests.oracle.histories import ELEMENTS, INDEXES, KEYS, NUMBERS, VALUES

TIME = 1_000
Action = tuple[str, tuple[Any, ...]]
values = st.sampled_from([normalized(value) for value in VALUES])
numbers = st.sampled_from(NUMBERS[:-1])
keys = st.sampled_from(KEYS)


def _name(number: int) -> bytes:
    return bytes(7) + bytes([number])


# Only an element that is known to have been inserted can be named: a list that others work on has these from before.
INSERTED: list[Action] = [("insert", (b"\x80" + name, name[-1])) for name in ELEMENTS]
ACTIONS: dict[str, st.SearchStrategy[Action]] = {
    "reg": st.tuples(st.just("set"), st.tuples(values)) | st.just(("unset", ())),
    "mv": st.tuples(st.just("set"), st.tuples(values)),
    "counter": st.tuples(st.just("inc"), st.tuples(st.integers(-9, 9).filter(bool))),
    "max": st.tuples(st.just("put"), st.tuples(numbers)),
    "min": st.tuples(st.just("put"), st.tuples(numbers)),
    "set": st.tuples(st.sampled_from(("add", "remove")), st.tuples(values)),
    "flag": st.sampled_from((("enable", ()), ("disable", ()))),
    "map": st.tuples(st.just("put"), st.tuples(keys, values)) | st.tuples(st.just("drop"), st.tuples(keys)),
    "list": st.builds(lambda number: ("insert", (b"\x80" + _name(number), number)), st.integers(6, 250))
    | st.builds(lambda index, name: ("move", (index + name,)), st.sampled_from(INDEXES), st.sampled_from(ELEMENTS))
    | st.sampled_from(ELEMENTS).map(lambda name: ("remove", (name,))),
}
kinds = st.sampled_from(sorted(ACTIONS))  # test_leases.py has the laws of `bounded`, whose operations compete


def by(seq: int, *, base: int = 0, slot: int | None = None, stamp: int = 0, memory: bool = True) -> Observer:
    return Observer(base, seq if slot is None else slot, memory, seq, stamp, TIME)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, list[tuple[Action, Observer]]]:
    """A type, and operations on one field with any sight of each other."""
    kind = draw(kinds)
    steps = []
    inserted = set()
    for seq in range(1, draw(st.integers(1, 8)) + 1):
        observer = by(
            seq, base=draw(st.integers(0, seq - 1)), slot=draw(st.integers(1, 3)), stamp=draw(st.integers(0, 9))
        )
        action = draw(ACTIONS[kind])
        if action[0] == "insert":
            assume(action[1][0] not in inserted)
            inserted.add(action[1][0])
        steps.append((action, observer._replace(has_memory=draw(st.booleans()))))
    return kind, steps


def begun(kind: str) -> Field | None:
    """A field as it is before concurrent operations begin, at seq 0."""
    field: Field | None = None
    for action, args in INSERTED if kind == "list" else ():
        field, _ = stepped(field, kind, action, args, by(0))
    return field


def run(kind: str, steps: list[tuple[Action, Observer]]) -> Field:
    field = begun(kind)
    for (action, args), observer in steps:
        field, _ = stepped(field, kind, action, args, observer)
    assert field is not None
    return field


def shown(field: Field) -> bytes:
    return encoded(field.value if field.is_visible else "unset")


@given(
    kinds.flatmap(lambda kind: st.tuples(st.just(kind), st.lists(ACTIONS[kind], min_size=2, max_size=6))), st.randoms()
)
@example(("set", [("add", (1,)), ("remove", (1,))]), None)
def test_concurrent_operations_commute_up_to_their_time(drawn: tuple[str, list[Action]], random: Any) -> None:
    kind, actions = drawn
    if kind == "list":  # a name is random: nobody else has it
        assume(
            len({args[0] for action, args in actions if action == "insert"}) == sum(a[0] == "insert" for a in actions)
        )
    stamped = list(enumerate(actions, 1))  # different times: the seq decides nothing
    results = set()
    for _ in range(2):
        steps = [(action, by(seq, slot=stamp, stamp=stamp)) for seq, (stamp, action) in enumerate(stamped, 1)]
        results.add(shown(run(kind, steps)))
        if random is None:
            stamped.reverse()
        else:
            random.shuffle(stamped)
    assert len(results) == 1


@given(written(), st.data())
def test_what_a_change_has_seen_never_beats_it(drawn: tuple[str, list[tuple[Action, Observer]]], data: Any) -> None:
    kind, steps = drawn
    before = run(kind, steps)
    seq = len(steps) + 1
    action, args = data.draw(ACTIONS[kind])
    if action == "insert":
        assume(not any(args[0] == known[0] for (_, known), _ in steps if known))
    # A clock that stands at 0 does not help what was seen.
    field, step = stepped(before, kind, action, args, by(seq, base=seq - 1, slot=9))
    assert not step.met
    if kind == "reg":
        assert (field.value if field.is_visible else "unset") == (args[0] if action == "set" else "unset")
    elif kind == "mv":
        assert is_same(field.value, [args[0]])
    elif kind == "set":
        assert any(is_same(item, args[0]) for item in field.value) == (action == "add")
    elif kind == "flag":
        assert field.value == (action == "enable")
    elif kind == "map":
        assert (args[0] in field.value) == (action == "put")
    elif kind == "counter":
        assert field.value == before.value + args[0]
    elif kind == "list":
        was = any(item[0][-8:] == args[0][-8:] for item in before.value)
        now = [item[0] for item in field.value if item[0][-8:] == args[0][-8:]]
        assert now == ([args[0]] if action == "insert" or (action == "move" and was) else [])
    else:
        assert field.value == (max if kind == "max" else min)(before.value, args[0])


@given(written())
def test_a_state_is_plain_data_and_is_never_altered_in_place(drawn: tuple[str, list[tuple[Action, Observer]]]) -> None:
    kind, steps = drawn
    field = stored = begun(kind)
    for (action, args), observer in steps:
        kept = encoded(field)
        after, step = stepped(field, kind, action, args, observer)
        assert encoded(field) == kept
        again, same = stepped(stored, kind, action, args, observer)
        assert encoded(again) == encoded(after), "a state read back from disk merges alike"
        assert (same.visible, same.met, encoded(same.lost)) == (step.visible, step.met, encoded(step.lost))
        field, stored = after, Field(*decoded(encoded(after)))
        assert is_same(normalized(field.value), field.value)


@given(written())
def test_rev_moves_exactly_when_the_value_does(drawn: tuple[str, list[tuple[Action, Observer]]]) -> None:
    kind, steps = drawn
    field = begun(kind)
    for (action, args), observer in steps:
        before = encoded("absent") if field is None or not field.is_visible else shown(field)
        after, step = stepped(field, kind, action, args, observer)
        now = encoded("absent") if not after.is_visible else shown(after)
        if kind != "counter":
            assert step.visible == (before != now)
        assert after.rev == (observer.seq if step.visible else field.rev if field is not None else 0)
        assert field is None or after is field or (after.seq, after.slot) == observer.mark
        field = after


@given(written())
def test_a_field_keeps_its_type(drawn: tuple[str, list[tuple[Action, Observer]]]) -> None:
    kind, steps = drawn
    field = run(kind, steps)
    for other in set(TYPES) - {kind}:
        with pytest.raises(OperationRefused) as refused:
            stepped(field, other, "any", (), by(99))
        assert refused.value.outcome == "type_mismatch"


@pytest.mark.parametrize("start", [INTEGER_MAX, -INTEGER_MAX])
def test_a_counter_never_leaves_the_integers(start: int) -> None:
    field, _ = stepped(None, "counter", "inc", (start,), by(1))
    with pytest.raises(OperationRefused) as refused:
        stepped(field, "counter", "inc", (1 if start > 0 else -1,), by(2))
    assert refused.value.outcome == "invalid"


def test_at_most_eight_values_stand_and_the_earliest_gives_way_and_is_handed_back() -> None:
    field = run("mv", [(("set", (stamp,)), by(stamp, stamp=stamp)) for stamp in range(1, MV_VALUES_MAX + 1)])
    field, step = stepped(field, "mv", "set", ("new",), by(9, stamp=5))
    assert field.value == [8, 7, 6, "new", 5, 4, 3, 2] and step.lost == (1,)
    again, step = stepped(field, "mv", "set", ("late",), by(10, stamp=1))
    assert again is field and step.lost == ("late",) and not step.visible


def test_the_oldest_markers_of_dropped_keys_are_forgotten_and_counted() -> None:
    steps: list[tuple[Action, Observer]] = [(("put", ("kept", 1)), by(1))]
    steps += [(("drop", (f"k{i}",)), by(i + 2, slot=1, base=i)) for i in range(MAP_DROPPED_MAX + 10)]
    markers, forgotten = run("map", steps).state
    assert forgotten == 10 and len(markers) == MAP_DROPPED_MAX + 1
    assert "kept" in markers and "k9" not in markers and "k10" in markers


def test_a_set_and_a_map_hold_no_more_than_an_array_may() -> None:
    """What is read whole is written down whole: a delta shows them as one array and one map."""
    elements = {encoded(i): ((1, 1),) for i in range(ITEMS_MAX)}
    full = Field("set", 1, 1, 1, elements)
    assert len(stepped(full, "set", "add", (0,), by(2))[0].value) == ITEMS_MAX
    with pytest.raises(OperationRefused) as refused:
        stepped(full, "set", "add", (ITEMS_MAX,), by(2))
    assert refused.value.outcome == "too_large"
    full, _ = stepped(full, "set", "remove", (0,), by(2, base=1))
    assert len(stepped(full, "set", "add", (ITEMS_MAX,), by(3))[0].value) == ITEMS_MAX

    keys = {f"k{i}": (True, i, 0, 1, 1) for i in range(ITEMS_MAX)}
    keys |= {f"dropped{i}": (False, None, 0, 1, 1) for i in range(MAP_DROPPED_MAX)}
    map_field = Field("map", 1, 1, 1, (keys, 0))
    with pytest.raises(OperationRefused) as refused:
        stepped(map_field, "map", "put", ("new", 1), by(2))
    assert refused.value.outcome == "too_large"
    stepped(map_field, "map", "put", ("k0", 1), by(2))


def test_a_list_holds_no_more_elements_than_an_array_may() -> None:
    items = {i.to_bytes(8): (b"\x80" + i.to_bytes(8), i, 0, 1, 1) for i in range(ITEMS_MAX)}
    full = Field("list", 1, 1, 1, items)
    with pytest.raises(OperationRefused) as refused:
        stepped(full, "list", "insert", (b"\x80another!", 1), by(2))
    assert refused.value.outcome == "too_large"
    full, _ = stepped(full, "list", "remove", ((0).to_bytes(8),), by(2))
    assert len(stepped(full, "list", "insert", (b"\x80another!", 1), by(3))[0].value) == ITEMS_MAX


def test_the_name_of_an_element_that_is_there_cannot_be_given_to_another() -> None:
    field, _ = stepped(None, "list", "insert", (b"\x80element1", 1), by(1))
    with pytest.raises(OperationRefused) as refused:
        stepped(field, "list", "insert", (b"\x90element1", 2), by(2))
    assert refused.value.outcome == "invalid"


@given(
    st.permutations([("move", (b"\x40" + ELEMENTS[0],)), ("move", (b"\xc0" + ELEMENTS[0],)), ("remove", ELEMENTS[:1])])
)
def test_a_remove_wins_over_concurrent_moves_whoever_comes_first(actions: list[Action]) -> None:
    field = run("list", [(action, by(seq, stamp=9 - seq)) for seq, action in enumerate(actions, 1)])
    assert [item[0][-8:] for item in field.value] == list(ELEMENTS[1:])


def test_a_clock_in_the_far_future_cannot_beat_what_arrives_later() -> None:
    fast = by(1, stamp=10**12)
    later = Observer(0, 2, True, 2, TIME + 1, TIME + 1)
    assert run("reg", [(("set", ("fast",)), fast), (("set", ("later",)), later)]).value == "later"


def test_what_ended_nothing_wrote_nothing() -> None:
    """So it does not become the last writer, whom `expect` asks for."""
    pairs: tuple[tuple[str, Action, Action], ...] = (
        ("set", ("add", (1,)), ("remove", (1,))),
        ("set", ("add", (1,)), ("remove", (2,))),
        ("flag", ("enable", ()), ("disable", ())),
        ("map", ("put", ("k", 1)), ("put", ("k", 2))),
        ("reg", ("set", (1,)), ("set", (2,))),
        ("max", ("put", (1,)), ("put", (0,))),
        ("list", ("move", (b"\x40" + ELEMENTS[0],)), ("move", (b"\xc0" + ELEMENTS[0],))),
        ("list", ("remove", ELEMENTS[:1]), ("move", (b"\xc0" + ELEMENTS[0],))),
    )
    for kind, first, second in pairs:
        field = run(kind, [(first, by(1, stamp=9))])
        action, args = second
        assert stepped(field, kind, action, args, by(2, stamp=1))[0] is field
