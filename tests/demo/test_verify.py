"""The demo's verdict can fail: each kind of loss or disagreement is found."""

from dataclasses import replace

import pytest

from syncd.app.demo.verify import Acknowledged, Replica, verdict
from syncd.core.changes import parsed_change
from syncd.core.ids import Dot
from syncd.engine.commands import Author, Push, Pushed
from syncd.engine.engine import Engine
from syncd.engine.grants import parsed_grant
from syncd.store import keys
from syncd.store.memory import MemoryStore
from syncd.store.tables import ENTRIES, LOG

SPACE = "home/cart"
DEVICE = b"d" * 16


@pytest.fixture
def store() -> MemoryStore:
    """One device that made a document (applied), updated an unknown one (gone) and incremented a counter (applied)."""
    store = MemoryStore()
    author = Author(DEVICE, b"i" * 16, "device", "ann", (parsed_grant("home/*", "writer"),))
    changes = (
        parsed_change([1, b"nonce--1", 0, 1000, [["create", "item", "a"]]]),
        parsed_change([2, b"nonce--2", 0, 1000, [["reg.set", "item", "b", "f", 1]]]),
        parsed_change([3, b"nonce--3", 0, 1000, [["counter.inc", "item", "a", "f", 1]]]),
    )
    with store.write() as tx:
        decision = Engine(lambda size: bytes(size)).decide(tx, 1000, [Push(author, SPACE, None, changes)])
    (result,) = decision.results
    assert isinstance(result, Pushed) and [o.outcome for o in result.outcomes] == ["applied", "gone", "applied"]
    return store


ACKNOWLEDGED = (
    Acknowledged(SPACE, Dot(DEVICE, 1), "applied", 1),
    Acknowledged(SPACE, Dot(DEVICE, 2), "gone", None),
    Acknowledged(SPACE, Dot(DEVICE, 3), "applied", 2),
)


def _replica(store: MemoryStore) -> Replica:
    with store.read() as tx:
        found = verdict(tx, (), (Replica("phone", SPACE, 0, "", 0),))
    return Replica("phone", SPACE, 2, found.checksum, 0)


def _problems(store: MemoryStore, acknowledged: tuple[Acknowledged, ...], replica: Replica) -> tuple[str, ...]:
    with store.read() as tx:
        return verdict(tx, acknowledged, (replica,)).problems


def test_agreement_has_no_problems_and_counts_what_was_accepted(store: MemoryStore) -> None:
    with store.read() as tx:
        found = verdict(tx, ACKNOWLEDGED, (_replica(store),))
    assert (found.problems, found.missing, found.changes) == ((), 0, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ACKNOWLEDGED[0], seq=2),
        replace(ACKNOWLEDGED[0], outcome="merged"),
        replace(ACKNOWLEDGED[1], outcome="applied"),
        replace(ACKNOWLEDGED[2], dot=Dot(DEVICE, 4)),
        replace(ACKNOWLEDGED[2], dot=Dot(b"e" * 16, 3)),
        replace(ACKNOWLEDGED[2], space="home/other"),
    ],
)
def test_an_acknowledgement_that_the_store_does_not_bear_out_is_missing(
    store: MemoryStore, wrong: Acknowledged
) -> None:
    with store.read() as tx:
        found = verdict(tx, (*ACKNOWLEDGED, wrong), (_replica(store),))
    assert found.missing == 1 and len(found.problems) == 1


@pytest.mark.parametrize("field, value", [("complete", 1), ("checksum", "00" * 8), ("outbox_depth", 1)])
def test_a_replica_that_differs_disagrees(store: MemoryStore, field: str, value: object) -> None:
    assert len(_problems(store, ACKNOWLEDGED, replace(_replica(store), **{field: value}))) == 1


def test_a_change_that_left_the_store_is_missing(store: MemoryStore) -> None:
    with store.write() as tx:
        tx.delete(keys.device_log(1, 1, 2))
    assert any("not in the device's log" in problem for problem in _problems(store, ACKNOWLEDGED, _replica(store)))


def test_damage_that_no_device_could_see_is_found(store: MemoryStore) -> None:
    with store.write() as tx:
        row = LOG.get(tx, keys.log(1, 2))
        entry = ENTRIES.get(tx, keys.device_log(1, 1, 3))
        assert row is not None and entry is not None
        LOG.put(tx, keys.log(1, 2), row._replace(chain=bytes(8)))
    assert any(problem.startswith("fsck") for problem in _problems(store, ACKNOWLEDGED, _replica(store)))
