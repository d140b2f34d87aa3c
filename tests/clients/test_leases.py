"""Leases on the device: what is certain, by the replica's rows; and with the real engine behind it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from syncd.core.changes import parsed_change
from syncd.core.leases import LEASE_GRACE_MS
from syncd.engine.commands import TendLeases
from syncd_client import NotCovered, leases, replica, steady
from syncd_client import messages as m
from syncd_client.operations import operation
from syncd_client.store import Store
from syncd_client.values import INTEGER_MAX
from tests.engine.kit import Daemon, device

SPACE = "team/board"
KEY = ("stock", "chair")
WHERE = (*KEY, "left")
L = b"l" * 16
START = leases.Moment("run", 50.0, 7_000)


class Phone:
    """A replica and the real engine; what is committed travels when `push` says so."""

    def __init__(self, directory: Path, daemon: Daemon, number: int = 1, *, name: str = "phone") -> None:
        self.store = Store(directory / name, entropy=Random(number).randbytes, durability="off")
        self.daemon, self.author = daemon, device(number)
        with self.store.transaction() as tx:
            replica.join(tx, SPACE)

    def commit(self, *operations: Any) -> m.Change | m.Void:
        with self.store.transaction() as tx:
            leases.asked(tx, SPACE, operations, START)
            entry = replica.commit(tx, SPACE, operations, nonce=bytes(8), now_ms=0, limits=m.Limits())
        return replica.wire_change(entry)

    def take(self, units: int, now: leases.Moment | None = None) -> None:
        with self.store.reading() as tx:
            operations = leases.takes(tx, SPACE, KEY, "left", units, now or START)
        self.commit(*operations)

    def give(self, units: int | None = None) -> None:
        with self.store.reading() as tx:
            operations = leases.gives(tx, SPACE, KEY, "left", units)
        self.commit(*operations)

    def left(self) -> list[int]:
        with self.store.reading() as tx:
            return [leases.remaining(tx, row) for row in leases.held(tx, SPACE)]

    def push(self) -> list[str]:
        """Send the outbox; the outcomes, stored."""
        with self.store.reading() as tx:
            sent = [replica.wire_change(entry) for entry in tx.unanswered(SPACE, 1, 100)]
        wires: list[Any] = [
            [c.n, c.nonce, c.base, c.stamp_ms, [item.wire() for item in c.operations]]
            for c in sent
            if isinstance(c, m.Change)
        ]
        answer = self.daemon.push(self.author, *wires)
        entries = tuple(m.OutcomeEntry(*entry) for entry in answer.outcomes)
        with self.store.transaction() as tx:
            replica.take_outcomes(tx, m.Outcomes(SPACE, answer.epoch, entries))
        return [entry.outcome for entry in entries]


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def phone(tmp_path: Path, daemon: Daemon) -> Iterator[Phone]:
    """A phone that made a stock of ten."""
    phone = Phone(tmp_path, daemon)
    phone.commit(operation("create", *KEY), operation("bounded.restock", *WHERE, 10))
    assert phone.push() == ["applied"]
    yield phone
    assert not daemon.alarms


def lease(phone: Phone, units: int, ttl: int | None = None, lease_id: bytes = L) -> None:
    phone.commit(operation("bounded.lease", *WHERE, lease_id, units, ttl))
    assert phone.push() == ["applied"]


def test_a_lease_is_certain_when_its_outcome_is_stored_and_less_with_each_take(phone: Phone) -> None:
    phone.commit(operation("bounded.lease", *WHERE, L, 4, None))
    assert phone.left() == []
    assert phone.push() == ["applied"]
    assert phone.left() == [4]
    phone.take(3)
    assert phone.left() == [1], "what the outbox takes is taken"
    with pytest.raises(NotCovered, match=r"stock/chair left in team/board: the leases .* cover 1 of 2 units"):
        phone.take(2)
    assert phone.push() == ["applied"]
    assert phone.left() == [1]
    phone.give()
    assert phone.left() == [0]
    assert phone.push() == ["applied"]
    assert phone.left() == []


def test_a_take_is_split_over_leases_that_end_first(phone: Phone) -> None:
    lease(phone, 2, lease_id=b"s" * 16)
    lease(phone, 2, 60_000)
    phone.take(3)
    assert phone.left() == [0, 1], "the one with an end first"
    phone.give(1)
    with pytest.raises(NotCovered, match="hold 0 of 1 units"):
        phone.give(1)
    assert phone.push() == ["applied", "applied"]
    assert phone.left() == []


def test_a_take_is_certain_also_after_the_copy_was_given_up(tmp_path: Path, daemon: Daemon) -> None:
    """The copy had drifted, a new one is not there yet, and what is committed meanwhile has base 0."""
    daemon.push(device(2), [1, b"n" * 8, 0, 0, [["create", *KEY], ["bounded.restock", *WHERE, 10]]])
    phone = Phone(tmp_path, daemon)
    with phone.store.transaction() as tx:
        tx.put_space(replace(replica.space_row(tx, SPACE), complete=1, resume=1))
    lease(phone, 4)
    with phone.store.transaction() as tx:
        replica.drop_synced(tx, SPACE)
    phone.take(3)
    phone.give()
    assert phone.push() == ["applied", "applied"]
    assert phone.left() == []


@pytest.mark.parametrize(("fork", "seen"), [(INTEGER_MAX, 2), (1, 1), (0, None)])
def test_it_says_no_more_than_a_restored_server_has(phone: Phone, fork: int, seen: int | None) -> None:
    """It has nothing of an epoch that it does not know. A `seen` beyond its head made a certain take `invalid`."""
    lease(phone, 4)
    with phone.store.transaction() as tx:
        tx.put_space(replace(replica.space_row(tx, SPACE), fork=fork))
        assert [item.seen for item in leases.takes(tx, SPACE, KEY, "left", 1, START)] == [seen]
        assert [item.seen for item in leases.gives(tx, SPACE, KEY, "left", 1)] == [seen]
        tx.put_space(replace(replica.space_row(tx, SPACE), complete=2, resume=2))
        assert [item.seen for item in leases.takes(tx, SPACE, KEY, "left", 1, START)] == [None]


def test_a_lease_with_a_ttl_is_certain_for_its_ttl_from_when_it_was_asked_for(phone: Phone) -> None:
    """By whichever clock went farther, and some of their error."""
    lease(phone, 9, 10_000)
    for run, steady_s, wall_ms, is_certain in (
        ("run", 50.0, 7_000, True),
        ("run", 59.98, 7_000, True),
        ("run", 59.995, 7_000, False),
        ("run", 50.0, 16_980, True),
        ("run", 50.0, 16_995, False),  # the steady clock stood: the device slept
        ("run", 59.98, 3_000, True),  # the wall clock was set back
        ("run", 59.995, 3_000, False),
        ("another", 50.0, 7_000, False),  # the clock was started anew
    ):
        now = leases.Moment(run, steady_s, wall_ms)
        if is_certain:
            phone.take(1, now)
        else:
            with pytest.raises(NotCovered, match="cover 0 of 1 units; 1 more may have ended"):
                phone.take(1, now)


def test_a_ttl_lease_whose_asking_was_not_noted_is_never_certain(phone: Phone) -> None:
    lease(phone, 4, 60_000)
    with phone.store.transaction() as tx:
        (row,) = tx.leases(SPACE)
        tx.put_lease(replace(row, asked=None))
    with pytest.raises(NotCovered):
        phone.take(1)


def test_a_lease_that_is_refused_leaves_no_row(phone: Phone) -> None:
    phone.commit(operation("bounded.lease", *WHERE, L, 99, None))
    assert phone.push() == ["precondition"]
    phone.commit(operation("bounded.lease", *WHERE, L, 2, None), operation("bounded.take", *WHERE, 2, L))
    assert phone.push() == ["applied"]
    with phone.store.reading() as tx:
        assert tx.leases(SPACE) == []


def test_what_a_refused_change_took_is_there_again(phone: Phone) -> None:
    lease(phone, 4)
    with phone.store.reading() as tx:
        operations = leases.takes(tx, SPACE, KEY, "left", 2, START)
    phone.commit(*operations, operation("bounded.refund", *WHERE, 9))
    assert phone.left() == [2]
    assert phone.push() == ["precondition"]
    assert phone.left() == [4]


def test_a_lease_that_the_server_has_ended_is_forgotten_when_that_is_told(phone: Phone) -> None:
    lease(phone, 4, 60_000)
    phone.daemon.ask(TendLeases(b"r" * 16, 0))
    phone.daemon.now_ms += 200_000
    phone.daemon.ask(TendLeases(b"r" * 16, 60_000 + LEASE_GRACE_MS))
    phone.take(1)
    assert phone.push() == ["merged"] and phone.left() == []


def test_a_lease_expired_outcome_ends_it_too(phone: Phone) -> None:
    lease(phone, 9)
    other = Phone(phone.store.directory, phone.daemon, 2, name="other")
    epoch = phone.daemon.epoch()
    assert epoch is not None
    with other.store.transaction() as tx, phone.store.reading() as mine:
        replica.take_subscribed(tx, m.Subscribed(SPACE, epoch, 2, 2, "owner", "catch-up"))
        replica.take_delta(tx, m.Delta(SPACE, epoch, 0, 0, 2, 9, bytes(8), (), complete=True))
        for row in mine.leases(SPACE):
            tx.put_lease(row)  # what a copy of a disk under a new id would believe
    other.take(2)
    assert other.push() == ["lease_expired"] and other.left() == []
    phone.take(9)
    assert phone.push() == ["applied"]


def test_a_backup_that_is_restored_elsewhere_has_no_leases(phone: Phone, tmp_path: Path) -> None:
    lease(phone, 4)
    phone.store.close()
    (tmp_path / "phone" / "installation").unlink()
    copy = Store(tmp_path / "phone", entropy=Random(9).randbytes, durability="off")
    with copy.reading() as tx:
        assert tx.leases(SPACE) == [] and tx.lease(SPACE, L) is None
    with pytest.raises(NotCovered), copy.reading() as tx:
        leases.takes(tx, SPACE, KEY, "left", 1, START)
    copy.close()


def test_nothing_is_certain_where_another_replica_uses_the_device_id(phone: Phone) -> None:
    lease(phone, 4)
    with phone.store.transaction() as tx:
        tx.put_setting("forked", {"space": SPACE, "n": 3})
    with pytest.raises(NotCovered, match="another replica uses this device id"):
        phone.take(1)


def test_what_a_restored_server_is_offered_again_is_used_once(phone: Phone) -> None:
    lease(phone, 5)
    phone.take(3)
    assert phone.push() == ["applied"] and phone.left() == [2]
    epoch = phone.daemon.epoch()
    assert epoch is not None
    with phone.store.transaction() as tx:
        kept = m.Subscribed(SPACE, epoch, 3, 0, "owner", "live")
        replica.take_subscribed(tx, kept)
        replica.take_delta(tx, m.Delta(SPACE, epoch, 0, 0, 3, 9, bytes(8), (), complete=True))
        assert [entry.n for entry in tx.kept(SPACE)] == [1, 2, 3]
        replica.take_expired(tx, m.Expired(SPACE, b"e" * 16, 2, 2), lambda: bytes(8))
    assert phone.left() == [2], "three of five are in the outbox again"
    with phone.store.transaction() as tx:
        entry = m.OutcomeEntry(3, bytes(8), "applied", 3, None)
        replica.take_outcomes(tx, m.Outcomes(SPACE, b"e" * 16, (entry,)))
    assert phone.left() == [2]


def test_the_steady_clock_goes_on_and_names_its_run() -> None:
    run, s = steady.steady()
    again, later = steady.steady()
    assert run == again and later >= s > 0


def test_the_client_sends_what_the_server_reads() -> None:
    certificate = [L, 4, None, 7, bytes(16)]
    for item in (
        operation("bounded.take", *WHERE, 1, certificate),
        operation("bounded.take", *WHERE, 1, None),
        operation("bounded.give", *WHERE, certificate, 1),
        operation("bounded.lease", *WHERE, L, 1, 1_000),
    ):
        change = parsed_change([1, bytes(8), 0, 0, [item.wire()]])
        assert type(change).__name__ == "Change", change
