"""What a restored store tells a device of any past, and up to where it promises to have everything."""

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.engine import epochs
from syncd.engine.commands import Ack, Attach, Done, Expired, MarkSafe, Push
from syncd.store import fsck, keys
from syncd.store.memory import MemoryStore
from syncd.store.tables import LOG
from tests.engine.kit import SPACE, Daemon, device, one, raw

ANN, BEN = device(1), device(2)


def restored(daemon: Daemon, image: "MemoryStore", entropy: Callable[[int], bytes]) -> None:
    """The daemon's store is set back to a copy, and every space begins a new epoch."""
    with daemon.store.write() as tx:
        for key, _ in list(tx.scan(b"\0", b"\xff" * 64)):
            tx.delete(key)
        with image.read() as old:
            for key, record in old.scan(b"\0", b"\xff" * 64):
                tx.put(key, record)
        after, count = b"", 1
        while count:
            count, after = epochs.renewed(tx, entropy, 5_000, after, 1)


def copy_of(daemon: Daemon) -> MemoryStore:
    copy = MemoryStore()
    with daemon.store.read() as tx, copy.write() as made:
        for key, record in tx.scan(b"\0", b"\xff" * 64):
            made.put(key, record)
    return copy


def attach(daemon: Daemon, epoch: bytes | None, complete: int) -> object:
    return daemon.ask(Attach(ANN, SPACE, epoch, complete, complete, None, 0, None))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6), st.integers(0, 99))
def test_a_device_is_told_what_its_epoch_shares_with_the_present_one(steps: list[tuple[int, bool]], seed: int) -> None:
    """By brute force: the history of an epoch is the list of the dots that were accepted in it."""
    entropy, daemon = Random(f"{seed}/restores").randbytes, Daemon()
    daemon.push(ANN, raw(1, ["create", "c", "1"]))
    pasts: dict[bytes, list[bytes]] = {}  # epoch -> chain values, by seq
    backup, kept = copy_of(daemon), {first_epoch(daemon)}
    backup_kept = set(kept)
    for count, is_older in steps:
        for _ in range(count):
            daemon.push(
                ANN, raw(daemon.row().head + 1, ["counter.inc", "c", "1", "f", seed + len(pasts) + 1], salt=len(pasts))
            )
        pasts[first_epoch(daemon)] = chains(daemon)
        if not is_older:
            backup, backup_kept = copy_of(daemon), set(kept)
        restored(daemon, backup, entropy)
        kept = backup_kept | {first_epoch(daemon)}
        with daemon.store.read() as tx:
            assert not list(fsck.check(tx))
            for epoch, past in pasts.items():
                shared = sum(a == b for a, b in zip(past, chains(daemon), strict=False))
                assert epochs.fork_of(tx, daemon.row(), epoch) == (shared if epoch in kept else 0)


def first_epoch(daemon: Daemon) -> bytes:
    epoch = daemon.epoch()
    assert epoch is not None
    return epoch


def chains(daemon: Daemon) -> list[bytes]:
    with daemon.store.read() as tx:
        return [row.chain for _, row in LOG.scan(tx, keys.space_range(keys.LOG, daemon.row().id))]


def test_two_restores_behind_is_told_the_older_fork() -> None:
    entropy, daemon = Random("restores").randbytes, Daemon()
    daemon.push(ANN, raw(1, ["create", "c", "1"]))
    first = daemon.epoch()
    assert first is not None
    restored(daemon, copy_of(daemon), entropy)
    daemon.push(ANN, raw(2, ["counter.inc", "c", "1", "f", 1]), raw(3, ["counter.inc", "c", "1", "f", 1]))
    second = daemon.epoch()
    restored(daemon, copy_of(daemon), entropy)
    for epoch, fork in ((first, 1), (second, 3)):
        assert one(attach(daemon, epoch, 1), Expired).fork == fork
        assert one(daemon.ask(Push(ANN, SPACE, epoch, ())), Expired).fork == fork
        assert one(daemon.ask(Ack(ANN, SPACE, epoch or b"", 1, 1, 1)), Expired).fork == fork


def test_a_foreign_position_sends_one_device_back_and_alarms_and_leaves_the_epoch() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, ["create", "c", "1"]))
    attached, epoch = daemon.attach(ANN), daemon.epoch()
    for command in (
        Attach(ANN, SPACE, epoch, 9, 9, None, 0, None),
        Attach(ANN, SPACE, epoch, 1, 1, None, 0, b"x" * 8),
    ):
        expired = one(daemon.ask(command), Expired)
        assert expired.epoch == epoch == daemon.epoch()
        assert expired.alarm is not None
        assert ANN.device.hex() in expired.alarm
    assert one(daemon.ask(Attach(ANN, SPACE, b"?" * 16, 1, 1, None, 0, None)), Expired).alarm is None
    assert daemon.attach(BEN).epoch == attached.epoch


def test_what_is_safe_is_the_head_until_there_is_a_backup_and_then_what_that_has() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, ["create", "c", "1"]), raw(2, ["create", "c", "2"]))
    epoch = daemon.epoch()
    assert epoch is not None
    assert daemon.attach(ANN).safe == 2
    marks = ((SPACE, epoch, 1), (SPACE, b"?" * 16, 2), (SPACE, epoch, 99), ("no/such", epoch, 1))
    assert daemon.ask(MarkSafe(marks, 7)) == Done()
    assert daemon.attach(ANN).safe == daemon.attach(BEN).safe == 1
    daemon.push(ANN, raw(1, ["create", "c", "1"]), space="new")
    assert daemon.attach(ANN, "new").safe == 0, "a space that was made since is in no backup"
    daemon.ask(MarkSafe(((SPACE, epoch, 0),), 8))
    assert daemon.attach(ANN).safe == 1, "an older backup that is told of late takes nothing back"
    restored(daemon, copy_of(daemon), Random("restores").randbytes)
    assert daemon.attach(ANN).safe == 2, "what was restored is in a backup"
