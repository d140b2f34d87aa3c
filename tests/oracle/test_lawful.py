"""Under whatever schemas, raised while devices are offline, the engine comes to what the specification says."""

import pytest
from hypothesis import example, given, settings

from tests.engine.server import EngineServer
from tests.oracle.histories import Edit, History, Push, Step, Sync
from tests.oracle.lawful import LawfulWorld, random_lawful_history
from tests.oracle.strategies import lawful_histories

A = ("c", "a")


def law(**more: object) -> dict[str, dict[str, object]]:
    return {"c": {"collection": "c", "version": 2, "update_wins": False, "fields": {"reg": {"type": "reg"}}, **more}}


# A second maker of a document that is in the store needs no field that is required, and gives none by default.
SECOND_MAKER = History(
    (0, 0),
    (
        Edit(0, (Step(("create", *A)), Step(("reg.set", *A, "reg", 1)))),
        Push(0, 1),
        Edit(1, (Step(("create", *A), schema=1), Step(("counter.inc", *A, "counter", 1), schema=1))),
        Push(1, 1),
    ),
    laws=(law(fields={"reg": {"type": "reg", "required": True}}, step=[{"to": 2, "defaults": {"reg": 0}}]),),
)
# Of two creates in one change, the one that makes the document says which defaults it gets.
TWO_CREATES = History(
    (0, 0),
    (Edit(0, (Step(("create", *A), schema=1), Step(("create", *A)))), Push(0, 1), Sync(1)),
    laws=(law(step=[{"to": 2, "defaults": {"reg": 0}}]),),
)


@settings(max_examples=settings().max_examples // 4)
@given(lawful_histories())
@example(SECOND_MAKER)
@example(TWO_CREATES)
def test_the_engine_makes_of_schemas_what_the_specification_says(history: History) -> None:
    LawfulWorld(history, EngineServer(len(history.events))).run()


RULES = (
    "type",
    "values",
    "one_of",
    "minimum",
    "maximum",
    "bytes_max",
    "items_max",
    "required",
    "other_fields",
    "oldest",
)


@pytest.mark.long
def test_many_seeded_histories_break_every_rule() -> None:
    met: dict[str, int] = {}
    for seed in range(3_000):
        for what, count in LawfulWorld(random_lawful_history(seed), EngineServer(seed)).run().items():
            met[what] = met.get(what, 0) + count
    assert min(met.get(f"rule:{rule}", 0) for rule in RULES) > 50 and met["applied"] > 5_000 and met["merged"] > 1_000
