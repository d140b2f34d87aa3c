"""Connections as behaviour, with real clients: how long people stay is learned from when they were connected."""

from pathlib import Path

from trio.testing import MockClock

from syncd.store import keys
from syncd.store.tables import PROFILES, ProfileRow
from tests.notify.kit import HOUR_MS, ready
from tests.notify.town import Town, town

MINUTE_MS = 60_000


def row(t: Town, user: str) -> ProfileRow:
    with t.store.read() as tx:
        found = PROFILES.get(tx, keys.profile(keys.owner(user)))
    assert found is not None
    return found


async def test_the_length_of_a_session_is_from_the_first_device_to_the_last(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with town(tmp_path, ready("fitness")) as t:
        async with t.device("ann"):
            await t.passes(10 * MINUTE_MS)
            async with t.device("ann", 2):
                await t.passes(5 * MINUTE_MS)
            await t.passes(5 * MINUTE_MS)
        await t.passes(10 * MINUTE_MS)  # a tunnel
        async with t.device("ann", 2):
            await t.passes(10 * MINUTE_MS)
        await t.passes(29 * MINUTE_MS)
        assert row(t, "ann").stay_s == 0.0, "she may be back"
        for _ in range(20):
            await t.passes(5 * MINUTE_MS)
        learned = row(t, "ann")
        assert learned.sessions == 1 and abs(learned.stay_s - 30 * 60) < 60


async def test_in_the_background_nobody_is_there_and_what_the_application_says_is_better(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with town(tmp_path, ready("fitness")) as t, t.device("ann") as phone, t.device("ben") as other:
        await t.passes(10 * MINUTE_MS)
        phone.background()
        other.event("session.end", {"seconds": 77})
        other.background()
        await t.passes(1_000)
        for _ in range(30):  # in which tokens expire, and both come back by themselves
            await t.passes(5 * MINUTE_MS)
        assert abs(row(t, "ann").stay_s - 600) < 60 and row(t, "ben").stay_s == 77.0
        phone.foreground()
        await t.passes(HOUR_MS)
        assert row(t, "ann").sessions == 2
