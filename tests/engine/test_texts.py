"""Texts in a space: folding is invisible to whoever catches up, in pages or live, and is bounded in each batch."""

from collections.abc import Sequence
from random import Random

import pytest

from syncd.core.texts import Merging
from syncd.core.values import ITEMS_MAX
from syncd.store import fsck, keys
from syncd.store.tables import DOCUMENTS
from tests.engine.kit import Daemon, device, raw
from tests.oracle.histories import exact
from tests.oracle.replica import Replica

ANN, BOB = device(1), device(2)
TEXTS = ("a", "b")


def updates_in(daemon: Daemon, document: str) -> tuple[int, list[list[object]]]:
    with daemon.store.read() as tx:
        stored = DOCUMENTS.get(tx, keys.document(daemon.row().id, "c", document))
    assert stored is not None
    start, updates = stored.fields["t"].state
    return start, updates


@pytest.mark.parametrize("seed", range(6))
def test_replicas_that_catch_up_at_any_time_have_every_update_once_and_in_order(seed: int) -> None:
    random = Random(seed)
    daemon, plain = Daemon(seed, merging=Merging(b"".join, 6, 2)), Daemon(seed)
    attached, _ = daemon.attach(BOB), plain.attach(BOB)
    readers = [Replica() for _ in range(3)]
    for n in range(1, 61):
        operations = [["create", "c", name] for name in TEXTS] if n == 1 else []
        count = random.choice((1, 1, 2, 4))
        operations += [["text.update", "c", random.choice(TEXTS), "t", random.randbytes(8)] for _ in range(count)]
        if random.random() < 0.05:
            operations.append(["delete", "c", "b"])
            operations.append(["create", "c", "b"])
        change = raw(n, *operations, base=daemon.head(), stamp=n)
        assert daemon.outcome(ANN, change) == plain.outcome(ANN, change) == "applied"
        for reader in readers:
            roll = random.random()
            if roll < 0.15:
                daemon.catch_up(reader, attached, random.choice((1, 100, 1 << 18)))  # the sum is checked
            elif roll < 0.3:
                reader.receive(daemon.page(reader, attached, 1))  # and goes on some other time
    whole, reference = Replica(), Replica()
    daemon.catch_up(whole, attached)
    plain.catch_up(reference, plain.attach(BOB))
    for reader in readers:
        daemon.catch_up(reader, attached)
        assert exact(reader.documents) == exact(whole.documents) == exact(reference.documents)
    assert daemon.row().sum == plain.row().sum
    assert len(updates_in(daemon, "a")[1]) < len(updates_in(plain, "a")[1])
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))


def test_live_deltas_bring_only_what_is_new() -> None:
    daemon, reader = Daemon(merging=Merging(b"".join, 6, 2)), Replica()
    daemon.attach(ANN)
    for n in range(1, 30):
        create = [["create", "c", "a"]] if n == 1 else []
        daemon.push(ANN, raw(n, *create, ["text.update", "c", "a", "t", bytes([n])], base=n - 1))
        delta = daemon.deltas[-1]
        assert len(delta.docs[0].fields["t"][1][1]) == 1  # type: ignore[index]
        assert reader.receive(delta)
    assert updates_in(daemon, "a")[0] > 0


def test_one_text_is_folded_in_a_batch() -> None:
    daemon = Daemon(merging=Merging(b"".join, 4, 1))
    daemon.attach(ANN)
    makes = [
        operation for name in TEXTS for operation in (["create", "c", name], ["text.update", "c", name, "t", b"x"])
    ]
    daemon.push(ANN, raw(1, *makes))
    for n in range(2, 5):
        daemon.push(ANN, raw(n, *makes[1::2], base=n - 1))
    assert sorted(updates_in(daemon, name)[0] for name in TEXTS) == [0, 3]
    daemon.push(ANN, raw(5, *makes[1::2], base=4))
    assert sorted(updates_in(daemon, name)[0] for name in TEXTS) == [3, 4]


def test_what_cannot_be_merged_is_tried_again_now_and_then_and_so_many_at_once() -> None:
    """Else whoever writes what a library chokes on would have it choke with every update that follows."""
    tried: list[int] = []

    def merge(updates: Sequence[bytes]) -> bytes:
        tried.append(len(updates))
        raise ValueError("no update")

    daemon = Daemon(merging=Merging(merge, 24, 8))
    daemon.attach(ANN)
    daemon.push(ANN, raw(1, ["create", "c", "a"]))
    for n in range(2, 102):
        daemon.push(ANN, raw(n, ["text.update", "c", "a", "t", b"x"], base=n - 1))
    assert tried == [16, 24, 24, 24, 24, 24, 24, 24, 24, 24]  # at 24, 32, ... 96 updates
    assert len(updates_in(daemon, "a")[1]) == 100


def test_a_text_that_is_never_merged_takes_no_more_than_its_limit() -> None:
    daemon = Daemon()
    daemon.attach(ANN)
    daemon.push(ANN, raw(1, ["create", "c", "a"]))
    update = ["text.update", "c", "a", "t", b"x"]
    for n in range(2, 6):
        assert daemon.outcome(ANN, raw(n, *[update] * 999, base=1)) == "applied"
    assert daemon.outcome(ANN, raw(6, *[update] * (ITEMS_MAX - 4 * 999 + 1), base=1)) == "too_large"
    assert daemon.outcome(ANN, raw(7, *[update] * (ITEMS_MAX - 4 * 999), base=1)) == "applied"
