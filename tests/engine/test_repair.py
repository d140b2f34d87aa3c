"""Only what differs travels, whatever differs, and in pages of any size the replica comes to the same."""

from random import Random

import pytest

from syncd.engine.frontier import Retention
from syncd.engine.repair import refused_question
from tests.engine.kit import SPACE, Daemon, device, raw
from tests.engine.reconcile import key_hash, reconcile
from tests.oracle.replica import Replica, sum_of

ANN, BEN = device(1), device(2, user="ben")


def filled(count: int) -> tuple[Daemon, Replica]:
    daemon = Daemon(retention=Retention(lapse_ms=1_000, recent_ms=0))
    replica, attached = Replica(), daemon.attach(BEN)
    daemon.attach(ANN)
    for n in range(1, count + 1):
        daemon.push(ANN, raw(n, ["create", "c", f"d{n}"], ["reg.set", "c", f"d{n}", "x", f"value {n}"]))
    daemon.catch_up(replica, attached)
    return daemon, replica


@pytest.mark.parametrize("seed", range(12))
def test_whatever_differs_is_repaired_in_pages_of_any_size(seed: int) -> None:
    random = Random(seed)
    daemon, replica = filled(60)
    n = 60
    for number in random.sample(range(1, 61), 20):
        n += 1
        verb = random.choice(("delete", "reg.set"))
        operation = ["delete", "c", f"d{number}"] if verb == "delete" else ["reg.set", "c", f"d{number}", "x", n]
        daemon.push(ANN, raw(n, operation, base=60))
    for key in random.sample(sorted(replica.documents), 8):
        what = random.random()
        if what < 0.3:
            del replica.documents[key]
        elif what < 0.6:
            replica.documents[key] = (1, {"x": ["reg", "damaged"]})
        else:
            replica.documents["c", f"ghost {key[1]}"] = replica.documents[key]
    limits = {"bytes_target": random.choice((1, 200, 1 << 18)), "rows_max": random.choice((1, 3, 256))}
    used = reconcile(daemon.store, SPACE, replica, pairs_max=random.choice((1, 7, 4_096)), **limits)
    assert replica.complete == daemon.head()
    with daemon.store.read():
        assert sum_of(replica.documents) == daemon.row().sum
    assert used.brought + used.gone <= 28 + 8


def test_what_is_the_same_costs_the_sums_and_nothing_else() -> None:
    daemon, replica = filled(200)
    used = reconcile(daemon.store, SPACE, replica)
    assert (used.brought, used.gone) == (0, 0) and used.up_bytes == 8_192 and used.down_bytes < 200


def test_a_question_that_makes_no_sense_is_refused() -> None:
    low, high = key_hash(("c", "a")), key_hash(("c", "b"))
    pairs = b"".join(each.to_bytes(8) + bytes(8) for each in sorted((low, high)))
    buckets = sorted({low >> 54, high >> 54})
    assert refused_question(buckets, pairs) is None
    assert "ascends" in (refused_question(buckets, pairs[:16] * 2) or "")
    assert "does not name" in (refused_question(buckets[:1], pairs) or "")
    assert "ascending" in (refused_question(buckets[::-1], pairs) or "")
