"""Acks: low-water moves, settled logs are trimmed, and what is left still recognises a repetition."""

from syncd.engine import reading
from syncd.engine.batch import SETTLED_KEPT
from syncd.engine.commands import Done, Forget
from syncd.store import fsck, keys
from syncd.store.tables import LOW_WATERS
from tests.engine.kit import SPACE, Daemon, device, nonce, one, raw, replica_row

ANN = device(1)


def voids(daemon: Daemon, count: int) -> None:
    """Fill the device log quickly."""
    for first in range(1, count + 1, 1000):
        last = min(first + 999, count)
        daemon.push(ANN, ["void", first, last, nonce(first), ""])


def kept(daemon: Daemon) -> list[int]:
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))
        replica = replica_row(tx, SPACE, ANN.device)
        assert replica is not None
        return [entry.n for entry in reading.outcomes_after(tx, 1, replica.slot, 0, 100_000).outcomes]


def low_waters(daemon: Daemon) -> list[tuple[int, int, int]]:
    with daemon.store.read() as tx:
        return [keys.parse_low_water(key) for key, _ in LOW_WATERS.scan(tx, keys.table_range(keys.LOW_WATER))]


def test_settled_outcomes_are_dropped_but_for_the_last_thousand() -> None:
    daemon = Daemon()
    voids(daemon, 3500)
    assert len(kept(daemon)) == 3500, "nothing is dropped that the device has not settled"
    daemon.ack(ANN, 0, 1200)
    assert kept(daemon) == list(range(201, 3501))
    daemon.ack(ANN, 0, 3000)
    assert kept(daemon) == list(range(3000 - SETTLED_KEPT + 1, 3501))
    daemon.ack(ANN, 0, 10)
    assert kept(daemon)[0] == 2001, "settled never moves back"


def test_a_repetition_of_what_was_dropped_is_a_fork() -> None:
    daemon = Daemon()
    voids(daemon, 2000)
    daemon.ack(ANN, 0, 2000)
    assert daemon.push(ANN, ["void", 1, 1000, nonce(1), ""]).forked == 1
    told = daemon.push(ANN, ["void", 1001, 2000, nonce(1001), ""])
    assert told.forked is None and len(told.outcomes) == 1000


def test_one_ack_drops_a_bounded_number_and_the_next_goes_on() -> None:
    daemon = Daemon()
    voids(daemon, 6000)
    daemon.ack(ANN, 0, 6000)
    first = len(kept(daemon))
    assert first > SETTLED_KEPT
    for _ in range(3):
        daemon.ack(ANN, 0, 6000)
    assert len(kept(daemon)) == SETTLED_KEPT


def test_the_low_water_is_what_the_device_has_and_still_edits() -> None:
    daemon = Daemon()
    attached = daemon.attach(ANN)
    assert low_waters(daemon) == [(1, 0, attached.slot)]
    daemon.push(ANN, *[raw(n, ["create", "c", str(n)]) for n in range(1, 6)])
    daemon.ack(ANN, 4, 5)
    assert low_waters(daemon) == [(1, 4, attached.slot)]
    daemon.ack(ANN, 2, 5)
    assert low_waters(daemon) == [(1, 4, attached.slot)], "it never moves back"
    assert one(daemon.ask(Forget(ANN, SPACE)), Done) == Done()
    assert low_waters(daemon) == []
    again = daemon.attach(ANN, epoch=daemon.epoch(), complete=5, resume=5)
    assert again.slot == attached.slot and low_waters(daemon) == [(1, 5, attached.slot)]
    assert len(kept(daemon)) == 5


def test_outcomes_are_told_again_from_any_n() -> None:
    daemon = Daemon()
    pushed = daemon.push(ANN, *[raw(n, ["create", "c", str(n)]) for n in range(1, 8)])
    with daemon.store.read() as tx:
        for n in range(8):
            told = reading.outcomes_after(tx, pushed.space_id, pushed.slot, n, 3).outcomes
            assert told == pushed.outcomes[n : n + 3]
