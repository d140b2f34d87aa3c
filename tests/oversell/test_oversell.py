"""The harness at small size, and that it notices: each planted mistake breaks one of its promises."""

from collections.abc import Callable
from typing import Any

import pytest

from syncd.core import leases
from syncd.engine import reclaiming
from tests.oversell.shop import Broken, Shop


def test_nothing_is_oversold_and_everything_is_sold() -> None:
    shop = Shop(seed=2, phones=12, takes=1_200)
    shop.run()
    for what in ("takes strict", "takes ttl", "takes reserve", "crashes", "lost answers", "spells offline"):
        assert shop.counts[what] > 0, what


def _taken_without_looking(book: leases.Book, k: int, named: Any, slot: int) -> Any:
    """A take by a lease that the device does not hold is served as if there were no bottom."""
    lease_id = leases.lease_id_of(named)
    lease = None if lease_id is None else leases.lease_of(book, lease_id)
    if lease_id is None or lease is None or lease.left < k:
        return leases.Moved(book._replace(taken=book.taken + k, total=book.total + k))
    return leases.Moved(
        leases._with_lease(book, lease_id, lease._replace(left=lease.left - k))._replace(taken=book.taken + k)
    )


def _restocked_by_refund(book: leases.Book, k: int) -> Any:
    return leases.Moved(leases._with_reserve(book, k)._replace(total=book.total + k))


@pytest.mark.parametrize(
    ("module", "name", "mistake", "promise"),
    [
        (leases, "_taken", _taken_without_looking, "the stock was"),
        (leases, "_refunded", _restocked_by_refund, "the outcomes said otherwise"),
        (reclaiming, "LEASE_GRACE_MS", -3_600_000, "a certain take ended"),
    ],
)
def test_a_mistake_breaks_a_promise(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, mistake: Callable[..., Any], promise: str
) -> None:
    monkeypatch.setattr(module, name, mistake)
    with pytest.raises(Broken, match=promise):
        Shop(seed=2, phones=12, takes=1_200).run()
