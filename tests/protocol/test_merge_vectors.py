"""The engine runs the histories of protocol/vectors/merge: results written by hand from the specification."""

import json
from typing import Any

import pytest

from syncd.core.changes import parsed_change
from syncd.engine import reading
from syncd.engine.grants import Role
from syncd.wire.codec import from_json_value, json_value
from syncd.wire.messages import DocumentEntry
from tests.engine.kit import SPACE, Daemon, device, nonce
from tests.protocol.make_merge_vectors import files
from tests.protocol.make_vectors import VECTORS, text_of

HISTORIES = {path.stem: json.loads(path.read_text()) for path in sorted((VECTORS / "merge").glob("*.json"))}


def by_letter(letter: str, grants: dict[str, list[str]]) -> Any:
    user, role = grants.get(letter, ["ann", "owner"])
    return device(ord(letter) - ord("A") + 1, user=user, role=Role[role.upper()])


def played(history: dict[str, Any]) -> tuple[Daemon, list[str]]:
    """The daemon after the history, and every difference from what the history expects of its outcomes."""
    daemon, wrong = Daemon(), []
    for index, change in enumerate(history["changes"]):
        daemon.now_ms = change["now_ms"]
        operations = from_json_value(change["operations"])
        raw = [change["n"], nonce(change["n"]), change["base"], change["stamp_ms"], operations]
        if "context" in change:
            raw.append([[by_letter(letter, {}).device, n, seq] for letter, n, seq in change["context"]])
        (entry,) = daemon.push(by_letter(change["device"], history.get("grants", {})), parsed_change(raw)).outcomes
        detail = entry.detail or {}
        told = {"outcome": entry.outcome, "seq": entry.seq, "op": detail.get("op"), "met": detail.get("met")}
        wrong += [
            f"change {index}: {key} is {told[key]}, not {change[key]} ({detail})"
            for key in told
            if key in change and told[key] != change[key]
        ]
    return daemon, wrong


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


def test_the_files_are_up_to_date() -> None:
    assert {name: text_of(content) for name, content in files().items()} == {
        path.stem: path.read_text() for path in (VECTORS / "merge").glob("*.json")
    }
