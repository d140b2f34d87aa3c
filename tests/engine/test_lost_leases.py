"""What a restored server makes of the leases that its backup does not know."""

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from syncd.core import leases as core_leases
from syncd.core.leases import LEASE_GRACE_MS, LEASE_TTL_MS_MAX
from syncd.engine import leases
from syncd.engine.batch import space_row
from syncd.engine.commands import Done, EndLease, Refused, ReleaseLeases
from syncd.store import keys
from syncd.store.tables import DOCUMENTS
from tests.engine.kit import SPACE, device, one, raw
from tests.engine.shop import ANN, BEN, TTL, WHERE, L, M, Shop, op


def restored(*, left: int = 10) -> tuple[Shop, list[Any]]:
    """A server that was restored to before it leased 4 of its units to Ann. Returns her certificate, too."""
    lost = Shop()
    lost.do(ANN, op("take", 10 - left, None)) if left < 10 else None
    image = lost.daemon.store.image()
    fork = lost.daemon.head()
    with lost.daemon.store.write() as tx:
        leases.lease_key(tx, Random(1).randbytes)
    image = lost.daemon.store.image()
    certificate = lost.lease(ANN, L, min(left, 4), TTL)
    shop = Shop()
    shop.daemon.store = type(shop.daemon.store)(image=image)
    shop.n = {ANN.device: lost.n[ANN.device] - 1, BEN.device: 0}
    shop.restore(fork)
    return shop, certificate


def test_after_a_restore_the_reserve_gives_nothing_out_until_it_is_released() -> None:
    shop, _ = restored()
    assert shop.outcome(BEN, op("lease", M, 1, None)) == "precondition"
    assert shop.outcome(BEN, op("take", 1, None)) == "precondition"
    assert shop.outcome(BEN, op("take", 1, M)) == "lease_expired"
    assert shop.outcome(BEN, op("restock", 1)) == "applied"
    assert shop.daemon.ask(ReleaseLeases(SPACE)) == Done()
    assert one(shop.daemon.ask(ReleaseLeases(SPACE)), Refused).reason == "unknown"
    assert shop.outcome(BEN, op("take", 1, None)) == "applied"
    shop.check()


def test_after_a_restore_the_reserve_opens_when_the_longest_ttl_has_passed() -> None:
    shop, _ = restored()
    shop.tend()
    shop.daemon.now_ms += 2 * LEASE_TTL_MS_MAX
    shop.tend()
    assert shop.outcome(BEN, op("take", 1, None)) == "precondition", "a jump is no time"
    shop.wait(LEASE_TTL_MS_MAX + LEASE_GRACE_MS)
    assert shop.outcome(BEN, op("take", 1, None)) == "applied"


def test_a_certificate_of_a_lost_grant_is_honoured_once() -> None:
    shop, certificate = restored()
    assert shop.outcome(ANN, op("take", 3, certificate)) == "applied"
    assert shop.leases() == {L: 1} and shop.value()["available"] == 6
    assert shop.outcome(ANN, op("take", 1, certificate)) == "applied"
    assert shop.outcome(ANN, op("take", 1, certificate)) == "precondition"
    shop.check()
    shop.wait(0)
    assert shop.wait(2 * TTL).ended == 1, "its row goes with its time"
    assert shop.outcome(ANN, op("take", 1, certificate)) == "lease_expired", "and is not honoured anew"
    shop.check()


def test_a_field_that_was_full_of_leases_honours_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of those that fill it had ended in what was lost: the promise of another holds all the same."""
    shop, certificate = restored()
    monkeypatch.setattr(core_leases, "LEASES_MAX", 2)
    shop.daemon.ask(ReleaseLeases(SPACE))
    for lease in (M, b"n" * 16):
        shop.lease(BEN, lease, 1)
    assert shop.outcome(BEN, op("lease", b"o" * 16, 1, None)) == "too_large"
    assert shop.outcome(ANN, op("take", 3, certificate)) == "applied"
    assert len(shop.leases()) == 3
    shop.check()


def test_what_the_reserve_lacks_for_a_lost_grant_is_a_deficit() -> None:
    shop, certificate = restored()
    shop.daemon.ask(ReleaseLeases(SPACE))
    assert shop.outcome(BEN, op("take", 8, None)) == "applied"
    assert shop.outcome(ANN, op("take", 4, certificate)) == "applied"
    assert shop.value() == {"available": 0, "deficit": 2, "leased": 0, "taken": 12, "total": 10}
    shop.check()


def test_what_is_no_certificate_of_this_server_for_this_device_and_field_is_not_honoured() -> None:
    shop, certificate = restored()
    lease_id, k, until, seq, mac = certificate
    forged = [
        [lease_id, k + 1, until, seq, mac],
        [lease_id, k, until + 1, seq, mac],
        [lease_id, k, None, seq, mac],
        [M, k, until, seq, mac],
        [lease_id, k, until, 1, mac],
        [lease_id, k, until, seq, bytes(16)],
        lease_id,
    ]
    for wrong in forged:
        assert shop.outcome(ANN, op("take", 1, wrong)) == "lease_expired", wrong
    assert shop.outcome(BEN, op("take", 1, certificate)) == "lease_expired", "another device's"
    assert shop.outcome(ANN, ["create", "stock", "x"], ["bounded.restock", "stock", "x", "left", 9]) == "applied"
    elsewhere = ["bounded.take", "stock", "x", "left", 1, certificate]
    assert shop.outcome(ANN, elsewhere) == "lease_expired", "another document's"
    assert shop.outcome(ANN, op("take", 1, certificate)) == "applied"
    shop.check()


def test_a_lease_from_before_the_fork_is_known_or_has_ended() -> None:
    shop = Shop()
    certificate = shop.lease(ANN, L, 4)
    assert shop.daemon.ask(EndLease(SPACE, *WHERE, L)) == Done()
    shop.restore(shop.daemon.head())
    assert shop.outcome(ANN, op("take", 1, certificate)) == "lease_expired"
    shop.check()


def test_a_certificate_of_a_lost_grant_is_honoured_also_after_another_restore() -> None:
    """The grant is lost from the first restore on; what was backed up since knows nothing of it either."""
    shop, certificate = restored()
    shop.restore(shop.daemon.head(), b"f" * 16)
    shop.restore(shop.daemon.head(), b"g" * 16)
    assert shop.outcome(BEN, op("take", 1, certificate)) == "lease_expired", "another device's"
    assert shop.outcome(ANN, op("take", 3, certificate)) == "applied"
    assert shop.leases() == {L: 1}
    shop.restore(shop.daemon.head(), b"h" * 16)
    assert shop.outcome(ANN, op("take", 2, certificate)) == "precondition", "it is known now, and has one left"
    shop.check()


def test_an_honoured_lease_that_an_operator_ended_is_not_brought_back_by_its_certificate() -> None:
    shop, certificate = restored()
    assert shop.outcome(ANN, op("take", 3, certificate)) == "applied"
    assert shop.daemon.ask(EndLease(SPACE, *WHERE, L)) == Done()
    assert shop.outcome(ANN, op("take", 3, certificate)) == "lease_expired"
    assert shop.daemon.ask(ReleaseLeases(SPACE)) == Done()
    assert shop.outcome(ANN, op("take", 3, certificate)) == "merged", "from the reserve, as of any lease that ended"
    assert shop.leases() == {} and shop.value()["taken"] == 6
    shop.restore(shop.daemon.head(), b"f" * 16)
    assert shop.outcome(ANN, op("take", 1, certificate)) == "lease_expired", "nor after the next restore"
    shop.check()


def restored_again(shop: Shop, image: Mapping[bytes, bytes], fork: int, epoch: bytes) -> None:
    """The store is a backup that knows nothing of the epochs between; its spaces have a new one."""
    shop.daemon.store = type(shop.daemon.store)(image=image)
    shop.restore(fork, epoch)
    shop.n = dict.fromkeys(shop.n, 1)  # the first push of all: what has been done since is lost


def test_a_grant_is_proven_also_by_a_backup_from_before_the_first_one() -> None:
    """The key was made at the first grant: a backup from before had none, and a phone that was certain was refused."""
    shop = Shop()
    shop.tend()
    image, fork = shop.daemon.store.image(), shop.daemon.head()
    certificate = shop.lease(ANN, L, 4)
    restored_again(shop, image, fork, b"e" * 16)
    assert shop.outcome(ANN, op("take", 3, certificate)) == "applied"
    assert shop.leases() == {L: 1}
    shop.check()


def test_a_grant_of_an_epoch_that_the_backup_never_knew_is_honoured() -> None:
    """The same backup is put back twice: what was granted in between was proven by an epoch of which it has no row."""
    shop = Shop()
    shop.tend()
    image, fork = shop.daemon.store.image(), shop.daemon.head()
    restored_again(shop, image, fork, b"e" * 16)
    shop.daemon.ask(ReleaseLeases(SPACE))
    certificate = shop.lease(ANN, L, 4)
    restored_again(shop, image, fork, b"f" * 16)
    named = b"x" + certificate[4][1:], certificate[4][:4] + bytes(12), b"f" * 4 + certificate[4][4:]
    for mac in named:
        assert shop.outcome(ANN, op("take", 1, [*certificate[:4], mac])) == "lease_expired", "what is forged"
    assert shop.outcome(BEN, op("take", 1, certificate)) == "lease_expired", "another device's"
    assert shop.outcome(ANN, op("take", 3, certificate)) == "applied"
    assert shop.outcome(ANN, op("take", 2, certificate)) == "precondition" and shop.leases() == {L: 1}
    shop.check()


def test_what_a_lease_of_the_present_epoch_was_is_not_honoured_when_it_has_ended() -> None:
    shop, _ = restored()
    shop.daemon.ask(ReleaseLeases(SPACE))
    certificate = shop.lease(ANN, M, 2)
    assert shop.outcome(ANN, op("take", 2, certificate)) == "applied"
    assert shop.outcome(ANN, op("take", 8, certificate)) == "merged", "from the reserve"
    assert shop.outcome(ANN, op("take", 1, certificate)) == "lease_expired"
    shop.check()


@pytest.mark.parametrize("is_lost", [True, False])
def test_who_holds_a_lease_has_seen_its_document_whatever_its_base_says(is_lost: bool) -> None:
    """A device of an epoch that the restored backup does not know has the base 0: its certain take was `gone`."""
    if is_lost:
        shop, certificate = restored()
    else:
        shop = Shop()
        certificate = shop.lease(ANN, L, 4)
    n = shop.n[ANN.device]
    maker = device(5)
    assert shop.outcome(maker, ["create", "stock", "x"], ["bounded.restock", "stock", "x", "left", 9]) == "applied"

    def blind(author: Any, n: int, operation: list[Any]) -> str:
        return shop.daemon.push(author, raw(n, operation, base=0, salt=3)).outcomes[0].outcome

    # Ann made the document, and so has seen it: here it is as if another had.
    with shop.daemon.store.write() as tx:
        row = space_row(tx, SPACE)
        assert row is not None
        key = keys.document(row.id, *WHERE[:2])
        document = DOCUMENTS.get(tx, key)
        assert document is not None
        DOCUMENTS.put(tx, key, document._replace(makers=((document.makers[0][0], 0),)))
    assert blind(ANN, n + 1, op("restock", 1)) == "gone"
    assert blind(ANN, n + 2, op("take", 3, certificate)) == "applied"
    assert blind(ANN, n + 3, op("give", certificate, 1)) in ("applied", "noop")
    assert blind(ANN, n + 4, op("take", 1, M)) in ("gone", "lease_expired"), "a lease that it does not hold"
    shop.check()


def test_a_lease_that_is_granted_anew_stands_for_the_one_that_was_lost() -> None:
    """The change that asked for it is offered again after a release. An operator ends what it is granted now: a take
    that names the lost certificate brought it back, whole."""
    shop, certificate = restored()
    shop.daemon.ask(ReleaseLeases(SPACE))
    n = shop.n[ANN.device] = shop.n[ANN.device] + 1
    again = shop.daemon.push(ANN, raw(n, op("lease", L, 4, TTL), base=shop.daemon.row().fork)).outcomes[0]
    assert again.outcome == "applied" and again.detail is not None and again.detail["leases"][0] != certificate
    assert shop.outcome(ANN, op("take", 1, certificate)) == "applied"
    assert shop.leases() == {L: 3} and shop.value()["available"] == 6
    assert shop.daemon.ask(EndLease(SPACE, *WHERE, L)) == Done()
    assert shop.outcome(BEN, op("take", 9, None)) == "applied"
    assert shop.outcome(ANN, op("take", 1, certificate)) == "lease_expired"
    assert shop.value() == {"available": 0, "leased": 0, "taken": 10, "total": 10}
    shop.check()


def test_a_lost_lease_ends_by_no_jump_of_the_wall_clock() -> None:
    shop, certificate = restored()
    shop.tend()
    shop.daemon.now_ms += 2 * TTL
    shop.tend()
    assert shop.outcome(ANN, op("take", 1, certificate)) == "applied"
    shop, certificate = restored()
    shop.tend()
    shop.wait(TTL + LEASE_GRACE_MS)
    assert shop.outcome(ANN, op("take", 1, certificate)) == "lease_expired"
    shop.check()
