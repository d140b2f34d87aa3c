"""Whatever happens offline, the merge core and the engine come to what the definitions say."""

import pytest
from hypothesis import example, given

from syncd.core import documents
from tests.engine.server import EngineServer
from tests.oracle import oracle
from tests.oracle.histories import (
    CARELESS,
    KEY_AUTHOR,
    Edit,
    History,
    Push,
    Rename,
    Step,
    Sync,
    Tick,
    World,
    random_history,
)
from tests.oracle.sequencer import Sequencer
from tests.oracle.strategies import histories

A = ("c", "a")


def one_change(*wires: tuple[object, ...]) -> tuple[Step, ...]:
    return tuple(Step(wire) for wire in wires)


# An API key that does not know its own last change, hidden behind another operation of the same change: the delete ends
# what its author had not seen.
UNSEEN_OWN = History(
    (0, 0),
    (
        Edit(0, one_change(("create", *A))),
        Push(0, 1),
        Edit(KEY_AUTHOR, one_change(("reg.set", *A, "reg", 1))),
        Edit(KEY_AUTHOR, one_change(("reg.set", *A, "mixed", 1), ("delete", *A)), 1),
    ),
)
# A put that lost against a concurrent one wrote nothing: who saw only the winner passes `expect`.
LOST_PUT = History(
    (0, -40),
    (
        Edit(0, one_change(("create", *A))),
        Push(0, 1),
        Sync(1),
        Edit(0, one_change(("map.put", *A, "map", "k", 1))),
        Push(0, 1),
        Edit(1, one_change(("map.put", *A, "map", "k", 0))),
        Push(1, 1),
        Edit(0, one_change(("expect", *A, "map"))),
    ),
)

# A clock that stands still overwrites what it has seen, at the time of what it overwrites: so an older concurrent value
# that comes in later does not win against it.
SLOW_CLOCK = History(
    (0, CARELESS, 0),
    (
        Edit(0, one_change(("create", *A))),
        Push(0, 1),
        Sync(1),
        Sync(2),
        Edit(2, one_change(("reg.set", *A, "reg", "x"), ("map.put", *A, "map", "k", "x"), ("mv.set", *A, "mv", "x"))),
        Tick(50),
        Edit(0, one_change(("reg.set", *A, "reg", 0), ("map.put", *A, "map", "k", 0), ("mv.set", *A, "mv", 0))),
        Push(0, 1),
        Sync(1),
        Edit(1, one_change(("reg.set", *A, "reg", 1), ("map.put", *A, "map", "k", 1), ("mv.set", *A, "mv", 1))),
        Push(1, 1),
        Push(2, 1),
    ),
)


# A device that had to change its id deletes a document of which it knows its own work of both ids, and not another's
# between: two writers would not tell.
RENAMED = History(
    (0, 0),
    (
        Edit(0, one_change(("create", *A))),
        Push(0, 1),
        Sync(1),
        Edit(0, one_change(("counter.inc", *A, "counter", 1))),
        Push(0, 1),
        Edit(1, one_change(("counter.inc", *A, "counter", 1))),
        Push(1, 1),
        Edit(1, one_change(("max.put", *A, "max", 1))),
        Edit(1, one_change(("delete", *A))),
        Rename(1),
        Push(1, 2),
    ),
)


@given(histories())
@example(UNSEEN_OWN)
@example(LOST_PUT)
@example(SLOW_CLOCK)
@example(RENAMED)
def test_the_merge_core_comes_to_what_the_definitions_say(history: History) -> None:
    World(history, Sequencer(history.wins)).run()


@given(histories())
@example(UNSEEN_OWN)
@example(LOST_PUT)
@example(SLOW_CLOCK)
@example(RENAMED)
def test_the_engine_comes_to_what_the_definitions_say(history: History) -> None:
    World(history, EngineServer(len(history.events), history.wins)).run()


def test_seeded_histories_meet_every_outcome_of_a_merge() -> None:
    met: dict[str, int] = {}
    for seed in range(200):
        history = random_history(seed)
        for outcome, count in World(history, Sequencer(history.wins)).run().items():
            met[outcome] = met.get(outcome, 0) + count
    wanted = {"applied", "merged", "noop", "gone", "type_mismatch", "precondition", "invalid", "lease_expired"}
    assert set(met) == wanted and min(met.values()) > 10


def test_seeded_histories_through_the_engine() -> None:
    for seed in range(100):
        history = random_history(seed)
        World(history, EngineServer(seed, history.wins)).run()


def test_documents_that_are_full_agree_with_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for four fields most documents of these histories are full: fields, unset ones and names of keys."""
    monkeypatch.setattr(documents, "FIELDS_MAX", 4)
    monkeypatch.setattr(oracle, "FIELDS_MAX", 4)
    met: dict[str, int] = {}
    for seed in range(80):
        history = random_history(seed)
        for outcome, count in World(history, Sequencer(history.wins)).run().items():
            met[outcome] = met.get(outcome, 0) + count
    for seed in range(10):
        history = random_history(seed)
        World(history, EngineServer(seed, history.wins)).run()
    assert met["too_large"] > 50


@pytest.mark.long
def test_many_seeded_histories() -> None:
    for seed in range(20_000):
        history = random_history(seed)
        World(history, Sequencer(history.wins)).run()
    for seed in range(3_000):
        history = random_history(seed)
        World(history, EngineServer(seed, history.wins)).run()
