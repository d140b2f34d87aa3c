"""fsck finds each way in which notifications may not hold together."""

from collections.abc import Callable
from typing import Any

import pytest

from syncd.store import fsck, keys
from syncd.store.api import Writer
from syncd.store.memory import MemoryStore
from syncd.store.tables import DECISIONS, DISPATCHES, RUNS, STANDINGS, TIMERS, Table
from tests.notify.kit import Office

OWNER = keys.owner("ann")
STANDING = keys.standing(OWNER)
SENT, WAITING = keys.decision(OWNER, 0), keys.decision(OWNER, 1)
RUN = keys.run(OWNER, 1)


@pytest.fixture(scope="module")
def image() -> dict[bytes, bytes]:
    """One that was sent, and one that waits for the end of quiet hours."""
    office = Office(now="2026-03-02 23:00")
    office.notify()
    office.sets("_preferences", "all", quiet_hours="22:00-08:00")
    office.notify()
    assert office.outcomes() == ["sent", "deferred"]
    office.check()
    return office.store.image()


def changed(table: Table[Any], key: bytes, **items: Any) -> Callable[[Writer], None]:
    def damage(tx: Writer) -> None:
        row = table.get(tx, key)
        assert row is not None
        table.put(tx, key, row._replace(**items))

    return damage


def dropped(key: bytes) -> Callable[[Writer], None]:
    def damage(tx: Writer) -> None:
        assert tx.delete(key)

    return damage


def timer_dropped(tx: Writer) -> None:
    [(key, _)] = tx.scan(*keys.table_range(keys.TIMER))
    tx.delete(key)


def dispatch_dropped(tx: Writer) -> None:
    [(key, _)] = tx.scan(*keys.table_range(keys.DISPATCH))
    tx.delete(key)


def dispatch_of(number: int) -> Callable[[Writer], None]:
    def damage(tx: Writer) -> None:
        [(key, row)] = DISPATCHES.scan(tx, keys.table_range(keys.DISPATCH))
        DISPATCHES.put(tx, key, row._replace(decision=number))

    return damage


CASES: list[tuple[str, Callable[[Writer], None], set[tuple[str, str]]]] = [
    ("timer gone", timer_dropped, {("run", "has no timer")}),
    ("timer of nothing", lambda tx: TIMERS.put(tx, keys.timer(1, 2, OWNER, 9), ()), {("timer", "no such run")}),
    ("timer twice", lambda tx: TIMERS.put(tx, keys.timer(1, 2, OWNER, 1), ()), {("timer", "the run is due at")}),
    ("run gone", dropped(RUN), {
        ("timer", "no such run"), ("decision", "it waits, and its run"), ("standing", "counted are 1"),
    }),
    ("run of another", changed(RUNS, RUN, user="ben"), {("run", "not that of its user")}),
    ("run of no state", changed(RUNS, RUN, state="sleeps", decision=None), {
        ("run", "in the state 'sleeps'"), ("decision", "it waits, and its run"),
    }),
    ("run idle and due", changed(RUNS, RUN, state="idle", decision=None), {
        ("run", "and due at"), ("decision", "it waits, and its run"),
    }),
    ("run of a decision that is not there", dropped(WAITING), {("run", "is not there")}),
    ("decision that came to its end", changed(DECISIONS, WAITING, outcome="expired"), {("run", "is expired")}),
    ("no outcome", changed(DECISIONS, SENT, outcome="lost"), {
        ("decision", "is no outcome"), ("decision", "with the document"),
    }),
    ("unexplained", changed(DECISIONS, SENT, explanation=""), {("decision", "nothing explains it")}),
    ("sent nowhere", dispatch_dropped, {("decision", "has no dispatch")}),
    ("dispatch of another", dispatch_of(7), {("dispatch", "decision 7 has not sent it")}),
    ("number given twice", changed(STANDINGS, STANDING, decision_next=1), {("standing", "last decision is not below")}),
    ("runs miscounted", changed(STANDINGS, STANDING, run_count=5), {("standing", "counted are 5")}),
    ("standing of another", changed(STANDINGS, STANDING, user="ben"), {("standing", "not that of its user")}),
    ("standing gone", dropped(STANDING), {("run", "nothing is kept of"), ("decision", "nothing is kept of")}),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_damage_is_found(
    image: dict[bytes, bytes], damage: Callable[[Writer], None], expected: set[tuple[str, str]]
) -> None:
    store = MemoryStore(image=dict(image))
    with store.write() as tx:
        damage(tx)
    with store.read() as tx:
        found = list(fsck.check(tx))
    for table, problem in expected:
        assert any(each.table == table and problem in each.problem for each in found), found
    assert {each.table for each in found} == {table for table, _ in expected}
