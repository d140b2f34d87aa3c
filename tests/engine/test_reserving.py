"""Unique keys: one holder each, at every moment, and free again the moment that a hold ends."""

from time import process_time
from typing import Any

from syncd.core.changes import parsed_change
from syncd.engine.batch import space_row
from syncd.engine.commands import Push, Pushed
from syncd.store import keys
from syncd.store.fsck import check
from syncd.store.tables import UNIQUE
from tests.engine.kit import SPACE, Daemon, device, one, raw

ANN, BEN = device(1), device(2)


def nick(document: str, key: str) -> list[Any]:
    return ["unique", "user", document, "nick", key]


def made(*documents: str) -> Daemon:
    daemon = Daemon()
    daemon.attach(ANN)
    daemon.attach(BEN)
    daemon.push(ANN, raw(1, *(["create", "user", document] for document in documents)))
    return daemon


def listed(daemon: Daemon) -> dict[tuple[str, str], tuple[str, str]]:
    with daemon.store.read() as tx:
        assert list(check(tx)) == []
        row = space_row(tx, SPACE)
        assert row is not None
        return {
            keys.parse_unique(key)[1:]: tuple(held)
            for key, held in UNIQUE.scan(tx, keys.space_range(keys.UNIQUE, row.id))
        }


def of(*results: Any) -> list[tuple[str, Any]]:
    """(outcome, holder) of every change."""
    entries = [entry for result in results for entry in one(result, Pushed).outcomes]
    return [(entry.outcome, (entry.detail or {}).get("holder")) for entry in entries]


def test_the_second_of_two_changes_of_one_batch_is_refused_and_told_who_holds_the_key() -> None:
    daemon = made("a", "b")
    epoch = daemon.epoch()
    decision = daemon.decide(
        Push(ANN, SPACE, epoch, (parsed_change(raw(2, nick("a", "x"))), parsed_change(raw(3, nick("a", "y"))))),
        Push(BEN, SPACE, epoch, (parsed_change(raw(1, nick("b", "x"), base=1)),)),
        Push(BEN, SPACE, epoch, (parsed_change(raw(2, nick("b", "y"), base=1)),)),
    )
    assert of(*decision.results) == [("noop", None), ("noop", None), ("noop", None), ("precondition", ["user", "a"])]
    assert listed(daemon) == {("nick", "x"): ("user", "b"), ("nick", "y"): ("user", "a")}


def test_two_documents_change_places_by_way_of_a_third_key_in_one_change() -> None:
    daemon = made("a", "b")
    daemon.push(ANN, raw(2, nick("a", "x"), nick("b", "y")))
    assert of(daemon.push(ANN, raw(3, nick("a", "y"), nick("b", "x")))) == [("precondition", ["user", "b"])]
    assert of(daemon.push(ANN, raw(4, nick("a", "-"), nick("b", "x"), nick("a", "y")))) == [("noop", None)]
    assert listed(daemon) == {("nick", "y"): ("user", "a"), ("nick", "x"): ("user", "b")}


def test_a_refused_change_takes_and_frees_nothing() -> None:
    daemon = made("a", "b")
    daemon.push(ANN, raw(2, nick("a", "x")))
    told = of(daemon.push(ANN, raw(3, nick("b", "y"), ["delete", "user", "a"], nick("b", "x"), nick("a", "z"))))
    assert told == [("gone", None)]
    assert listed(daemon) == {("nick", "x"): ("user", "a")}


def test_whoever_deletes_frees_the_key_in_the_same_commit_also_by_a_concurrent_delete() -> None:
    daemon = made("a", "b")
    daemon.push(ANN, raw(2, nick("a", "x")))
    results = daemon.push(BEN, raw(1, ["delete", "user", "a"], base=1), raw(2, nick("b", "x"), base=1))
    assert of(results) == [("merged", None), ("noop", None)]
    assert listed(daemon) == {("nick", "x"): ("user", "b")}
    assert of(daemon.push(ANN, raw(3, ["create", "user", "a"], nick("a", "x")))) == [("gone", None)]
    epoch_base = daemon.head()
    told = of(daemon.push(ANN, raw(4, ["create", "user", "a"], nick("a", "x"), base=epoch_base)))
    assert told == [("precondition", ["user", "b"])], "a new incarnation holds nothing"


def test_a_key_that_loses_against_a_concurrent_one_is_not_taken() -> None:
    daemon = made("a", "b")
    daemon.now_ms += 1000
    daemon.push(ANN, raw(2, nick("a", "late"), stamp=daemon.now_ms))
    assert of(daemon.push(BEN, raw(1, nick("a", "early"), base=1, stamp=1))) == [("merged", None)]
    assert of(daemon.push(BEN, raw(2, nick("b", "early"), base=1))) == [("noop", None)]
    assert listed(daemon) == {("nick", "late"): ("user", "a"), ("nick", "early"): ("user", "b")}


def test_a_reservation_is_seen_in_no_delta_and_in_no_sum() -> None:
    daemon = made("a")
    with daemon.store.read() as tx:
        before = space_row(tx, SPACE)
    daemon.push(ANN, raw(2, nick("a", "x")))
    with daemon.store.read() as tx:
        after = space_row(tx, SPACE)
    assert before is not None and after is not None
    assert (after.head, after.sum) == (before.head + 1, before.sum)
    assert daemon.deltas[-1].docs == ()


def test_taking_a_key_costs_no_more_in_a_document_of_many_fields() -> None:
    """Each of these operations looked through all that the document has: a frame of them held the writer."""

    def cost_s(fields: int) -> float:
        daemon = Daemon()
        daemon.push(
            device(1), raw(1, ["create", "c", "d"], *(["unique", "c", "d", f"{n}", "a"] for n in range(fields)))
        )
        took = []
        for n in range(2, 5):
            change = raw(n, *(["unique", "c", "d", "0", f"{n} {at}"] for at in range(500)))
            began = process_time()
            assert daemon.outcome(device(1), change) == "noop"
            took.append(process_time() - began)
        return min(took)

    assert cost_s(900) < 8 * cost_s(2), "it was 60 times as much"
