"""The same histories as `histories.random_history`, drawn by Hypothesis so that a failing one shrinks."""

from typing import Any

from hypothesis import strategies as st

from tests.oracle import lawful
from tests.oracle.histories import (
    CARELESS,
    DOCUMENTS,
    ELEMENTS,
    FIELDS,
    INDEXES,
    KEY_AUTHOR,
    KEYS,
    LEASES,
    NUMBERS,
    VALUES,
    Edit,
    History,
    Push,
    Rename,
    Step,
    Sync,
    Tick,
)

_values = st.sampled_from(VALUES)
_documents = st.sampled_from(DOCUMENTS)
_leases = st.sampled_from(LEASES)
_counts = st.sampled_from((1, 2))
_BY = (1, 2, -1, 2**53 - 1, 0)
_positions = st.builds(lambda index, element: index + element, st.sampled_from(INDEXES), st.sampled_from(ELEMENTS))
# type -> the operations of that type: name and arguments
_UPDATES: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "reg": st.tuples(st.just("reg.set"), _values) | st.just(("reg.unset",)),
    "mv": st.tuples(st.just("mv.set"), _values),
    "counter": st.tuples(st.just("counter.inc"), st.sampled_from(_BY)),
    "max": st.tuples(st.just("max.put"), st.sampled_from(NUMBERS)),
    "min": st.tuples(st.just("min.put"), st.sampled_from(NUMBERS)),
    "set": st.tuples(st.sampled_from(("set.add", "set.remove")), st.sampled_from(VALUES[:5])),
    "flag": st.sampled_from((("flag.enable",), ("flag.disable",))),
    "map": st.tuples(st.just("map.put"), st.sampled_from(KEYS), _values)
    | st.tuples(st.just("map.drop"), st.sampled_from(KEYS)),
    "stock": st.tuples(st.just("bounded.restock"), st.sampled_from((3, 1, -1)))
    | st.tuples(st.just("bounded.lease"), _leases, _counts, st.sampled_from((None, 60_000)))
    | st.tuples(st.just("bounded.take"), _counts, _leases | st.none())
    | st.tuples(st.just("bounded.give"), _leases, _counts)
    | st.tuples(st.just("bounded.refund"), _counts),
    "list": st.tuples(st.just("list.insert"), _positions, _values)
    | st.tuples(st.just("list.move"), _positions)
    | st.tuples(st.just("list.remove"), st.sampled_from(ELEMENTS)),
    "text": st.tuples(st.just("text.update"), st.sampled_from((b"a", b"bc", b"\0"))),
}
_NAMES = ("list", "stock", "text", *FIELDS)


@st.composite
def wires(draw: st.DrawFn) -> tuple[Any, ...]:
    """One operation as it travels."""
    document = draw(_documents)
    what = draw(st.sampled_from(("create", "update", "update", "update", "delete", "expect", "unique")))
    if what in ("create", "delete"):
        return (what, *document)
    if what == "unique":
        return (what, *document, draw(st.sampled_from(("reg", "nick"))), draw(st.sampled_from(KEYS)))
    name = draw(st.sampled_from(_NAMES))
    if what == "expect":
        return (what, *document, name)
    verb, *args = draw(_UPDATES[name if name != "mixed" else draw(st.sampled_from(_NAMES[:-1]))])
    return (verb, *document, name, *args)


def _steps() -> st.SearchStrategy[tuple[Step, ...]]:
    ahead = st.sampled_from((0, 0, 0, 0, 0, 1, 3))
    return st.lists(st.builds(Step, wires(), ahead, st.just(0)), min_size=1, max_size=4).map(tuple)


_devices = st.integers(0, 2)
_events = st.one_of(
    st.builds(Edit, _devices, _steps(), st.sampled_from((0, 0, 0, 0, 1, 2))),
    st.builds(Edit, _devices, _steps(), st.just(0)),
    st.builds(Push, _devices, st.integers(1, 4)),
    st.builds(Sync, _devices),
    st.builds(Edit, st.just(KEY_AUTHOR), _steps(), st.integers(0, 3)),
    st.builds(Tick, st.integers(0, 50)),
    st.builds(Rename, _devices),
)


def histories() -> st.SearchStrategy[History]:
    """2-3 devices, up to 40 events."""
    skews = st.lists(st.sampled_from((0, -40, 40, 10_000, CARELESS)), min_size=2, max_size=3).map(tuple)
    wins = st.sampled_from((frozenset(), frozenset("c"), frozenset("cd")))
    return st.builds(History, skews, st.lists(_events, max_size=40).map(tuple), wins, st.just(()))


def lawful_histories() -> st.SearchStrategy[History]:
    """The same under schemas."""
    return st.builds(lawful.lawful, histories(), st.randoms(use_true_random=False))
