"""What devices tell of their users, to the end: learned as of its own time, and it sets workflows off."""

from pathlib import Path

import pytest
from trio.testing import MockClock

from syncd.core.ids import INBOX
from syncd.notify.profile import Profile, affinity_at, hours_at, of_row
from syncd.store import keys
from syncd.store.tables import DISPATCHES, PROFILES
from tests.notify.kit import DAY_MS, HOUR_MS, ready
from tests.notify.town import Town, inbox, town


def profile(t: Town, user: str) -> Profile:
    with t.store.read() as tx:
        row = PROFILES.get(tx, keys.profile(keys.owner(user)))
    assert row is not None
    return of_row(row)


async def test_what_waited_offline_counts_as_of_its_own_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with town(tmp_path, ready("news"), "2026-03-02 06:00") as t:
        async with t.device("ann", online=False) as phone:
            phone.event("session.start")
            for _ in range(6):
                phone.event("article.read", {"topic": "football"})
            phone.event("session.end", {"seconds": 90})
        await t.pass_until("2026-03-04 12:00")
        async with t.device("ann") as phone:
            await phone.wait_until(lambda: phone.events_waiting == 0)
        learned = profile(t, "ann")
        assert learned.sessions == 2 and learned.stay_s == 90.0
        assert [hour for hour, weight in enumerate(hours_at(learned, t.clock.now_ms())) if weight > 0.5] == [6, 12]
        assert affinity_at(learned, "football", t.clock.now_ms()) > 0.5


async def test_an_event_of_a_device_sets_a_workflow_off_as_a_backends_does_and_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    values = ready("cart")
    async with town(tmp_path, values, "2026-03-02 12:00") as t, t.device("ann") as ann, t.device("ben") as ben:
        for device in (ann, ben):
            device.event("cart.updated", {"cart_id": "c", "item": "the chair", "count": 1, "total": 20})
        await t.passes(30 * 60_000)
        ben.event("order.placed")
        await t.pass_until("2026-03-03 12:00")
        assert [fields["title"] for fields in inbox(ann, "ann")] == ["Still thinking about the chair?"]
        assert inbox(ben, "ben") == [] and t.decisions("ben") == []


async def test_a_beginning_that_is_told_is_the_session_of_the_connection(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with town(tmp_path, ready("news")) as t, t.device("ann") as phone:
        phone.event("session.start")
        await t.passes(2 * HOUR_MS)
        phone.event("session.start")
        await phone.wait_until(lambda: phone.events_waiting == 0)
        assert profile(t, "ann").sessions == 2


@pytest.mark.parametrize("name", ["seen", "opened", "dismissed"])
async def test_a_receipt_is_told_by_an_event_or_by_a_field_and_counts_once(
    tmp_path: Path, autojump_clock: MockClock, name: str
) -> None:
    async with town(tmp_path, ready("security")) as t, t.device("ann") as phone:
        await t.event("account.signed_in", "ann", is_new_place=True, place="Oslo", device="x", sign_in_id="1")
        await t.passes(3_000)
        (document,) = phone.space("user/ann").documents(INBOX)
        phone.event(name, {"document": document.id})
        phone.event(name, {"document": "no such"})
        await t.passes(3_000)
        with t.store.read() as tx:
            row = DISPATCHES.get(tx, keys.dispatch(keys.owner("ann"), document.id))
        assert row is not None and getattr(row, f"{name}_ms") is not None
        before = profile(t, "ann").categories
        phone.space("user/ann").set(INBOX, document.id, name, True)
        await t.passes(DAY_MS)
        assert profile(t, "ann").categories == before, "it was counted already"
