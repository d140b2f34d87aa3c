"""Histories under schemas, which are raised while devices are offline, and the world in which they happen.

Owns random schemas, as an operator writes them, and what makes a history of `histories.py` one of applications of
several versions: what each edit says that it knew, and the names that it used. What a schema makes of a change is
judged by `schemas.py`, which shares nothing with the engine.
"""

from random import Random
from typing import Any, Protocol

from tests.oracle import schemas
from tests.oracle.histories import (
    Answer,
    Configure,
    Edit,
    Event,
    History,
    Sent,
    Server,
    Step,
    Tables,
    World,
    check,
    random_history,
)
from tests.oracle.oracle import Judgement, Told

VERSION_MAX = 4
FORMER = ("was", "old")  # names that fields had
# What an operator may say of a field: few and tight, so that most of what is written meets something.
RULES: dict[str, tuple[dict[str, Any], ...]] = {
    "reg": (
        {"type": "reg"},
        {"type": "reg", "required": True},
        {"type": "reg", "values": ["text", "null"]},
        {"type": "reg", "one_of": ["x", 1, None], "required": True},
        {"type": "reg", "minimum": 0, "maximum": 1},
        {"bytes_max": 1},
        {"items_max": 0},
        {"type": "mv"},
    ),
    "mv": ({"type": "mv", "values": ["integer", "boolean"]}, {"required": True}, {"minimum": 1}),
    "counter": ({"type": "counter", "minimum": 0}, {"maximum": 3}, {"minimum": -1, "maximum": -1}, {"required": True}),
    "max": ({"type": "max", "maximum": 5}, {"values": ["integer"]}),
    "min": ({"type": "min", "minimum": 0}, {"required": True, "minimum": -1}),
    "set": ({"type": "set", "items_max": 1}, {"values": ["boolean"], "items_max": 1}, {"items_max": 0}),
    "flag": ({"type": "flag", "required": True}, {"type": "reg"}),
    "map": ({"items_max": 1}, {"type": "map", "values": ["text", "bytes"]}, {"items_max": 0, "required": True}),
    "list": ({"type": "list", "items_max": 1}, {"items_max": 2, "values": ["null", "integer"]}),
    "text": ({"type": "text", "bytes_max": 2}, {"bytes_max": 1}),
    "stock": ({"type": "bounded", "required": True}, {"type": "counter"}),
    "mixed": ({"type": "reg"}, {"type": "counter", "maximum": 2}, {"type": "bounded"}, {"type": "list"}),
}
DEFAULTS: tuple[dict[str, Any], ...] = ({}, {"reg": "x"}, {"reg": 1, "mixed": None}, {"old": "x"}, {"mixed": True})
RENAMED: tuple[dict[str, str], ...] = (
    {}, {"was": "reg"}, {"was": "old"}, {"old": "reg"}, {"old": "mixed", "was": "counter"}, {"reg": "old"},
)  # fmt: skip


def random_laws(random: Random) -> tuple[Tables, ...]:
    """One to three sets of schemas, each of no lower versions than the one before it."""
    count = random.randint(1, 3)
    laws: list[dict[str, Any]] = [{} for _ in range(count)]
    for collection in ("c", "d") if random.random() < 0.5 else ("c",):
        wins = random.random() < 0.4
        steps = [
            {"to": to, "renamed": random.choice(RENAMED), "defaults": random.choice(DEFAULTS)}
            for to in range(2, VERSION_MAX + 1)
            if random.random() < 0.7
        ]
        version = 1
        for law in laws:
            version = random.randint(version, VERSION_MAX)
            if wins or random.random() < 0.9:  # else the operator has none for it, meanwhile
                law[collection] = _table(random, collection, version, steps, wins)
    return tuple(laws)


def _table(
    random: Random, collection: str, version: int, steps: list[dict[str, Any]], update_wins: bool
) -> dict[str, Any]:
    names = random.sample(sorted(RULES), random.randint(1, 6))
    fields = {name: dict(random.choice(RULES[name])) for name in {"reg": None, **dict.fromkeys(names)}}
    if random.random() < 0.7:  # else hardly anything would be made
        for rule in fields.values():
            rule.pop("required", None)
    table = {
        "collection": collection,
        "version": version,
        "oldest": random.randint(1, version) if random.random() < 0.4 else 1,
        "other_fields": random.random() < 0.8,
        "update_wins": update_wins,
        "fields": fields,
    }
    told = [step for step in steps if step["to"] <= version]
    return {**table, "step": [_fitting(step, told[index + 1 :], fields) for index, step in enumerate(told)]}


def _fitting(step: dict[str, Any], later: list[dict[str, Any]], fields: dict[str, Any]) -> dict[str, Any]:
    """The step, with those of its defaults that the schema allows: others are refused when it is read."""
    defaults = {}
    for name, value in step["defaults"].items():
        kept = name
        for each in later:
            kept = each["renamed"].get(kept, kept)
        rule = fields.get(kept, {})
        if rule.get("type") == "reg" and schemas.wrong(rule, value) is None:
            defaults[name] = value
    return {**step, "defaults": defaults}


def lawful(history: History, random: Random) -> History:
    """The history, with schemas that come into force in its course, and edits by applications that knew some version of
    them, or none."""
    laws = random_laws(random)
    events: list[Event] = [_versioned(event, random) if isinstance(event, Edit) else event for event in history.events]
    for _ in laws[1:]:
        events.insert(random.randint(0, len(events)), Configure())
    return History(history.skews, tuple(events), laws=laws)


def _versioned(edit: Edit, random: Random) -> Edit:
    version = random.choice((0, 0, *range(1, VERSION_MAX + 2)))
    steps = []
    for step in edit.steps:
        known = version if random.random() < 0.95 else random.randint(0, VERSION_MAX)
        is_renamed = len(step.wire) > 3 and step.wire[0] != "unique" and random.random() < 0.15
        wire = (*step.wire[:3], random.choice(FORMER), *step.wire[4:]) if is_renamed else step.wire
        steps.append(Step(wire, step.ahead, known))
    return edit._replace(steps=tuple(steps))


def random_lawful_history(seed: int) -> History:
    return lawful(random_history(seed), Random(f"{seed}/laws"))


class LawfulServer(Server, Protocol):
    def configure(self, tables: Tables) -> None:
        """These schemas are in force from now on, and no others."""
        ...


class LawfulWorld(World):
    """The same world, with an operator."""

    def __init__(self, history: History, server: LawfulServer) -> None:
        super().__init__(history, server)
        self._laws, self._operated = iter(history.laws), server
        self.tables: Tables = {}
        self._configure()

    def _configure(self) -> None:
        self.tables = next(self._laws, self.tables)
        self._operated.configure(self.tables)
        self.oracle.wins = frozenset(table["collection"] for table in self.tables.values() if table["update_wins"])

    def _judged(self, sent: Sent, told: Told, answer: Answer) -> Judgement:
        versions = tuple(_version(operation) for operation in sent.operations)
        judgement, broken = schemas.judged(self.oracle, told, versions, self.tables)
        check(f"rule that {sent} breaks", answer.schema, broken and broken.told())
        if broken is not None:
            rule = f"rule:{broken.rule}"
            self.counts[rule] = self.counts.get(rule, 0) + 1
        return judgement


def _version(operation: list[Any]) -> int:
    options = operation[-1]
    return options.get("schema", 0) if isinstance(options, dict) and options.keys() <= {"seen", "schema"} else 0
