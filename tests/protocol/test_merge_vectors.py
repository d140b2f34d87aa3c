"""The engine and the oracle run the histories of protocol/vectors/merge, written by hand from the specification.

Neither knows the other, and neither made the histories: where all three agree, the specification has been read once
more by somebody who did not write the code.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from syncd.app.schemas import schemas
from syncd.core.changes import parsed_change
from syncd.core.ids import Dot
from syncd.core.values import checked
from syncd.core.vector import VersionVector
from syncd.engine import reading
from syncd.engine.commands import Collect
from syncd.engine.grants import Role
from syncd.wire.codec import from_json_value, json_value
from syncd.wire.messages import DocumentEntry
from tests.engine.kit import SPACE, Daemon, device, nonce
from tests.oracle import members
from tests.oracle import schemas as oracle_schemas
from tests.oracle.histories import Answer, check_met, unmerged
from tests.oracle.oracle import Judgement, Oracle, Told
from tests.protocol.make_merge_vectors import files
from tests.protocol.make_vectors import VECTORS, text_of

HISTORIES = {path.stem: json.loads(path.read_text()) for path in sorted((VECTORS / "merge").glob("*.json"))}


def by_letter(letter: str, grants: dict[str, list[str]]) -> Any:
    user, role = grants.get(letter, ["ann", "owner"])
    return device(ord(letter) - ord("A") + 1, user=user, role=Role[role.upper()])


def acknowledge(daemon: Daemon, history: dict[str, Any], counts: dict[str, int], seq: int) -> None:
    """Every device of the history has everything up to `seq`, and the server has drawn its conclusions."""
    for letter in sorted({change["device"] for change in history["changes"]}):
        author = by_letter(letter, {})
        daemon.attach(author, epoch=daemon.epoch(), complete=seq, resume=seq)
        daemon.ack(author, seq, counts.get(letter, 0))
    daemon.ask(Collect(SPACE))


def played(history: dict[str, Any]) -> tuple[Daemon, list[str]]:
    """The daemon after the history, and every difference from what the history expects of its outcomes."""
    daemon, wrong = Daemon(), []
    counts: dict[str, int] = {}
    for index, change in enumerate(history["changes"]):
        daemon.now_ms = change["now_ms"]
        if "schemas" in change:
            daemon.engine.schemas = schemas(
                {name: {"spaces": "**", **told} for name, told in change["schemas"].items()}
            )
        if "acknowledged" in change:
            acknowledge(daemon, history, counts, change["acknowledged"])
        counts[change["device"]] = change["n"]
        operations = from_json_value(change["operations"])
        raw = [change["n"], nonce(change["n"]), change["base"], change["stamp_ms"], operations]
        if "context" in change:
            raw.append([[by_letter(letter, {}).device, n, seq] for letter, n, seq in change["context"]])
        (entry,) = daemon.push(by_letter(change["device"], history.get("grants", {})), parsed_change(raw)).outcomes
        detail = entry.detail or {}
        told = {"outcome": entry.outcome, "seq": entry.seq, **{key: detail.get(key) for key in DETAIL}}
        wrong += [
            f"change {index}: {key} is {told[key]}, not {change[key]} ({detail})"
            for key in told
            if key in change and told[key] != change[key]
        ]
    return daemon, wrong


DETAIL = ("op", "met", "holder", "schema")


def documents(daemon: Daemon, from_: int) -> list[DocumentEntry]:
    """What a replica that is complete at `from_` is brought, in one delta."""
    attached = daemon.attach(device(99))
    start = daemon.head() if from_ == 0 else None
    with daemon.store.read() as tx:
        delta = reading.page(tx, reading.Cursor(SPACE, attached.space_id, from_, from_, start), 1 << 20)
    assert delta.complete
    return list(delta.docs)


def as_json(entry: DocumentEntry) -> list[Any]:
    fields = {name: field and [field[0], json_value(field[1])] for name, field in entry.fields.items()}
    return [entry.collection, entry.id, entry.rev, entry.state, fields]


def text(value: Any) -> str:
    """By text: in Python 1 == True, and 1 == 1.0."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("name", sorted(HISTORIES))
def test_a_history_has_the_outcomes_the_state_and_the_deltas_of_the_specification(name: str) -> None:
    history = HISTORIES[name]
    daemon, wrong = played(history)
    assert not wrong
    assert not daemon.alarms
    state = {f"{d[0]}/{d[1]}": {"rev": d[2], "fields": d[4]} for d in map(as_json, documents(daemon, 0))}
    assert text(state) == text(history["state"])
    for delta in history["deltas"]:
        assert delta["to"] == daemon.head() or delta["from"] <= delta["to"] <= daemon.head()
        if delta["to"] == daemon.head():
            told = sorted(map(as_json, documents(daemon, delta["from"])))
            assert text(told) == text(sorted(delta["docs"]))
        else:
            (live,) = [d for d in daemon.deltas if (d.from_, d.to) == (delta["from"], delta["to"])]
            assert text(sorted(map(as_json, live.docs))) == text(sorted(delta["docs"]))


# -- the oracle -------------------------------------------------------------------------------------------------------

# What the oracle has no opinion on, by history.
BEYOND = {
    "reserved-collections": "which collections may be written",
    "bounded-is-ended-by-the-server-alone": "who may end a lease",
    "bounded-too-few": "amounts of which nobody can hold each unit in hands",
}


class Opinion:
    """The oracle, asked change by change. `seqs`: the accepted ones of each device, by n."""

    def __init__(self, history: dict[str, Any]) -> None:
        self.history, self.oracle = history, Oracle()
        self.tables: dict[str, Any] = {}
        self.made: list[tuple[int, Dot]] = []  # (seq, dot) of what was accepted
        self.time = 0

    def judged(self, change: dict[str, Any]) -> tuple[Judgement, dict[str, Any] | None]:
        self.oracle.frontier = change.get("acknowledged", self.oracle.frontier)
        self.tables = change.get("schemas", self.tables)
        self.oracle.wins = frozenset(each["collection"] for each in self.tables.values() if each.get("update_wins"))
        self.time = max(self.time, change["now_ms"])
        raw = [tuple(checked(item) for item in operation) for operation in from_json_value(change["operations"])]
        options = [
            each[-1] if type(each[-1]) is dict and each[-1].keys() <= {"seen", "schema"} else None for each in raw
        ]
        operations = tuple(each if more is None else each[:-1] for each, more in zip(raw, options, strict=True))
        bases = tuple(max(change["base"], (more or {}).get("seen", 0)) for more in options)
        told = Told(
            Dot(change["device"].encode(), change["n"]), self.vector(change, change["base"]),
            tuple(self.vector(change, base) for base in bases), change["stamp_ms"], self.time, operations, bases,
        )  # fmt: skip
        broken = None
        if "grants" in self.history:
            judgement = self.of_member(change, told)
        elif self.tables:
            versions = tuple((more or {}).get("schema", 0) for more in options)
            judgement, broken = oracle_schemas.judged(self.oracle, told, versions, self.tables)
        else:
            judgement = self.oracle.judge(told)
        if judgement.seq is not None:
            self.made.append((judgement.seq, told.dot))
        return judgement, broken and broken.told()

    def of_member(self, change: dict[str, Any], told: Told) -> Judgement:
        user, role = self.history["grants"][change["device"]]
        asker = members.Asker(user, members.NAMES.index(role))
        if members.role_of(self.oracle, asker) < members.WRITER:
            return Judgement("forbidden", None, None, ())
        return members.judged(self.oracle, told, asker)

    def vector(self, change: dict[str, Any], base: int) -> VersionVector:
        """All that the author had read up to `base`, or made, or made under an earlier id."""
        formers = {letter.encode(): seq for letter, _, seq in change.get("context", ())}
        author = change["device"].encode()
        return VersionVector.of(
            dot for seq, dot in self.made if seq <= base or dot.device == author or seq <= formers.get(dot.device, 0)
        )


def state_of(oracle: Oracle) -> Iterator[tuple[str, Any]]:
    for key, (rev, fields) in oracle.state().items():
        yield "/".join(key), {"rev": rev, "fields": fields}


def comparable(state: dict[str, Any]) -> str:
    """As JSON shows it; a text as one update, however many it is told in."""
    shown = {
        name: {**told, "fields": {field: unmerged(each) for field, each in told["fields"].items()}}
        for name, told in state.items()
    }
    return text(json_value(shown))


@pytest.mark.parametrize("name", sorted(HISTORIES.keys() - BEYOND))
def test_the_oracle_comes_to_the_same_outcomes_and_the_same_state(name: str) -> None:
    history = HISTORIES[name]
    opinion = Opinion(history)
    for index, change in enumerate(history["changes"]):
        judgement, broken = opinion.judged(change)
        assert (judgement.outcome, judgement.seq) == (change["outcome"], change["seq"]), f"change {index}: {judgement}"
        if "op" in change:
            assert judgement.op == change["op"], f"change {index}: {judgement}"
        if "met" in change:
            check_met(Answer("", None, None, tuple(map(tuple, change["met"]))), judgement)
        assert broken == change.get("schema"), f"change {index}: {broken}"
    wanted = {key: {**told, "fields": from_json_value(told["fields"])} for key, told in history["state"].items()}
    assert comparable(dict(state_of(opinion.oracle))) == comparable(wanted)


def test_the_oracle_is_asked_of_all_but_what_it_does_not_know() -> None:
    assert HISTORIES.keys() >= BEYOND.keys()


def test_the_files_are_up_to_date() -> None:
    assert {name: text_of(content) for name, content in files().items()} == {
        path.stem: path.read_text() for path in (VECTORS / "merge").glob("*.json")
    }
