"""The five ready workflows from end to end: a server that decides and fires, real clients that choose and are told."""

from pathlib import Path
from typing import Any

from trio.testing import MockClock

from syncd.core.ids import INBOX, PREFERENCES, PROFILE
from syncd.notify.civil import shown, zone
from syncd.store import keys
from syncd.store.tables import PROFILES
from syncd_client import Device
from tests.notify.kit import DAY_MS, HOUR_MS, ready
from tests.notify.town import inbox, town

POLICY: dict[str, Any] = {"policy": {"quiet_hours": "22:00-08:00", "caps": ["6 / 24h"]}}
BERLIN = zone("Europe/Berlin")


def titles(device: Device, user: str) -> list[str]:
    return [fields["title"] for fields in inbox(device, user)]


async def test_a_nudge_comes_when_habit_says_they_will_not_at_the_hour_they_train_and_not_if_they_came_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with town(tmp_path, ready("fitness") | POLICY, "2026-03-02 17:00") as t:
        for user in ("ann", "ben"):
            async with t.device(user) as device:
                device.space(f"user/{user}").create(PROFILE, "main", {"zone": "Europe/Berlin", "locale": "de"})
                await device.sync()
        for day in range(3, 13):
            await t.pass_until(f"2026-03-{day:02} 17:00")  # 18:00 on their clocks
            for user in ("ann", "ben"):
                await t.visits(user)
        day = 13
        while not [each for each in t.decisions("ann") if each.outcome == "sent"]:
            await t.pass_until(f"2026-03-{day:02} 17:00")
            await t.visits("ben")  # who goes on as before
            day += 1
        (nudge,) = t.decisions("ann")
        assert nudge.outcome == "sent" and nudge.workflow == "nudge", nudge
        at = shown(BERLIN, nudge.decided_ms)
        assert 17 <= at.hour <= 20, f"at {at}, and she is there at 18:00"
        async with t.device("ann") as phone:
            (message,) = inbox(phone, "ann")
            assert message["title"] in ("Deine Serie von  Tagen wartet", " is closer than it looks")
        assert not [each for each in t.decisions("ben") if each.outcome == "sent"]


async def test_each_coming_of_a_known_device_is_a_session_but_for_one_within_half_an_hour(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A device that was bound before needs no commit to be welcomed, and so was never heard of again."""
    async with town(tmp_path, ready("cart")) as t:
        for minutes in (0, 10, 60, 60, 5):
            await t.passes(minutes * 60_000)
            await t.visits("ann")
        await t.passes(1_000)
        with t.store.read() as tx:
            row = PROFILES.get(tx, keys.profile(keys.owner("ann")))
        assert row is not None and row.sessions == 3


async def test_breaking_news_reach_at_once_those_who_read_the_topic_and_a_correction_is_one_story(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with town(tmp_path, ready("news") | POLICY, "2026-03-02 13:00") as t:
        for _ in range(6):
            await t.event("article.read", "ann", topic="football")
            await t.event("article.read", "ben", topic="opera")
        async with t.device("ann") as phone, t.device("ann", 2) as watch, t.device("ben") as other:
            story = {"breaking": True, "topic": "football", "story_id": 7, "headline": "Goal", "lead": "1:0"}
            for user in ("ann", "ben"):
                await t.event("article.published", user, **story)
            await t.passes(5_000)
            assert titles(phone, "ann") == titles(watch, "ann") == ["Goal"] and titles(other, "ben") == []
            (message,) = phone.space("user/ann").documents(INBOX)
            watch.space("user/ann").set(INBOX, message.id, "seen", True)
            await t.passes(5_000)
            (message,) = phone.space("user/ann").documents(INBOX)
            assert message["seen"] is True, "seen on one is seen on all"


async def test_a_cart_is_mentioned_unless_it_was_bought(tmp_path: Path, autojump_clock: MockClock) -> None:
    values = ready("cart") | POLICY
    async with town(tmp_path, values, "2026-03-02 12:00") as t, t.device("ann") as ann, t.device("ben") as ben:
        began_ms = t.clock.now_ms()
        for user in ("ann", "ben"):
            await t.event("cart.updated", user, cart_id="c", item="the chair", count=1, total=20)
        await t.passes(30 * 60_000)
        await t.event("order.placed", "ben")
        await t.pass_until("2026-03-03 12:00")
        assert titles(ann, "ann") == ["Still thinking about the chair?"] and titles(ben, "ben") == []
        assert HOUR_MS <= inbox(ann, "ann")[0]["at"] - began_ms <= 8 * HOUR_MS
        assert [each.outcome for each in t.decisions("ben")] == [], "the run ended before it offered anything"


async def test_a_digest_comes_as_often_as_each_person_chose_offline(tmp_path: Path, autojump_clock: MockClock) -> None:
    values = ready("digest") | POLICY
    async with (
        town(tmp_path, values, "2026-03-02 09:00") as t,
        t.device("ann", online=False) as ann,
        t.device("ben") as ben,
    ):
        ann.space("user/ann").create(PREFERENCES, "category:team", {"frequency": "daily"})
        ann.go_online()
        await ann.sync()
        for day in range(10):
            for user in ("ann", "ben"):
                await t.event("team.activity", user, own=False, author="Eve", verb="wrote", subject=f"page {day}")
            await t.passes(DAY_MS)
        daily, weekly = inbox(ann, "ann"), inbox(ben, "ben")
        assert [fields["title"] for fields in daily] == [f"Eve wrote page {day}" for day in range(10)]
        assert len(weekly) == 2 and 7 * DAY_MS - 1_000 <= weekly[1]["at"] - weekly[0]["at"] <= 7 * DAY_MS + 1_000
        told = "\n".join(f"{fields['title']}\n{fields['body']}" for fields in weekly)
        assert [told.count(f"page {day}") for day in range(8)] == [1] * 8, told
        assert {each.outcome for each in t.decisions("ben")} == {"digested", "sent"}


async def test_a_security_alert_passes_night_and_mutes_and_reaches_every_device(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    values = ready("security", "cart") | POLICY
    async with town(tmp_path, values, "2026-03-02 02:00") as t, t.device("ann") as phone, t.device("ann", 2) as watch:
        everything = {"frequency": "off", "mute_until": t.clock.now_ms() + 30 * DAY_MS}
        phone.space("user/ann").create(PREFERENCES, "all", everything)
        await phone.sync()
        await t.event("cart.updated", "ann", cart_id="c", item="x", count=1, total=99)
        sign_in = {"is_new_place": True, "place": "Oslo", "device": "A laptop", "sign_in_id": "s1"}
        await t.event("account.signed_in", "ann", **sign_in)
        await t.passes(3_000)
        assert titles(phone, "ann") == titles(watch, "ann") == ["New sign-in from Oslo"]
        await t.passes(DAY_MS)
        assert titles(phone, "ann") == ["New sign-in from Oslo"], "nothing else got through"
        phone.space("user/ann").create(PREFERENCES, "category:security", {"frequency": "off"})
        await phone.sync()
        await t.event("account.signed_in", "ann", **(sign_in | {"sign_in_id": "s2"}))
        await t.passes(3_000)
        assert len(titles(phone, "ann")) == 1, "turned off by its own name"
