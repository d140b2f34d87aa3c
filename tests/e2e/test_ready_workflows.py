"""The five ready workflows in a real process, with reference clients over WebSocket, and a wall clock that is moved.

Days pass in hops of 20 hours at most (a clock that leaps by more than a day is not believed), and each ends when what
is waited for has come, or fails at a deadline; nothing here sleeps. That something does *not* come is asked when
something that was decided later has.
"""

import json
import shutil
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from syncd.app import config
from syncd.core.ids import INBOX, PREFERENCES
from syncd.engine.grants import Grant, Role
from syncd.net.auth import sign_token
from syncd_client import Device, open_device
from tests.e2e.leaping import LeapingClock
from tests.e2e.process import Daemon, environment, running
from tests.e2e.test_process import asked
from tests.notify.kit import DAY_MS, HOUR_MS, READY, at
from tests.notify.town import HOP_MS, inbox

DEADLINE_S = 60.0  # for what takes a second: a loaded machine
SMEAR_MS = 11 * 60_000  # what is found late is caught up with in ten minutes


class Place:
    """A daemon with the five workflows, and its clock."""

    def __init__(self, daemon: Daemon, clock: LeapingClock, directory: Path) -> None:
        self.daemon, self.clock, self.directory = daemon, clock, directory
        settings = config.loaded(None, environment(daemon.directory))
        self._key = config.signing_key(settings, None)
        scopes = ("--scope", "events:write", "--scope", "notifications:read")
        self._key_of_app = daemon.run("apikey", "create", "app", *scopes)
        self._posted = 0

    async def event(self, type: str, user: str, **data: Any) -> None:
        """A backend posts it."""
        self._posted += 1
        body = {"specversion": "1.0", "type": type, "source": "/app", "id": str(self._posted), "subject": user}
        headers = {"Content-Type": "application/cloudevents+json", "Authorization": f"Bearer {self._key_of_app}"}
        url, sent = f"{self.daemon.url}/v1/events", json.dumps(body | {"data": data}).encode()

        def post() -> Any:
            with urllib.request.urlopen(urllib.request.Request(url, sent, headers), timeout=DEADLINE_S) as answer:
                return json.load(answer)

        answer = await trio.to_thread.run_sync(post)
        assert answer["results"][0]["status"] == "accepted"

    async def decisions(self, user: str) -> list[dict[str, Any]]:
        """Oldest first."""
        url = f"{self.daemon.url}/v1/users/{user}/decisions"
        status, answer = await trio.to_thread.run_sync(asked, url, self._key_of_app)
        assert status == 200
        return list(reversed(answer["decisions"]))

    @asynccontextmanager
    async def device(self, user: str, number: int = 1, *, online: bool = True) -> AsyncIterator[Device]:
        def token() -> str:
            return sign_token(self._key, user, [Grant(f"user/{user}", Role.OWNER)], 30 * 86_400, self.clock.now_ms())

        store = self.directory / f"{user}-{number}"
        async with open_device(store, url=self.daemon.sync_url, token=token, online=online) as device:
            device.space(f"user/{user}").subscribe()
            if online:
                await within(device.sync)
            yield device

    async def passes(self, ms: int) -> None:
        """So much time, in hops; after each the daemon has looked at its timers."""
        until_ms = self.clock.now_ms() + ms
        while (left_ms := until_ms - self.clock.now_ms()) > 0:
            self.clock.set(self.clock.now_ms() + min(left_ms, HOP_MS))
            await self.has_looked()

    async def has_looked(self) -> None:
        """A timer that is set now has been fired: so those that were due before have been looked at."""
        await self.event("clock.moved", "clock")
        with trio.fail_after(DEADLINE_S):
            while not (found := await self.decisions("clock")) or not _is(found[-1], self._posted):
                pass

    async def sent(self, user: str) -> dict[str, Any]:
        """The user's only decision, when it has been sent: time passes until it may be."""
        while True:
            (decision,) = await self.decisions(user)
            if decision["outcome"] == "sent":
                return decision
            assert decision["outcome"] == "deferred", decision
            await self.passes(max(decision["until_ms"] - self.clock.now_ms() + 1, SMEAR_MS))


def _is(decision: dict[str, Any], event: int) -> bool:
    return bool(decision["source"]["id"] == str(event) and decision["outcome"] == "sent")


async def within(run: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(DEADLINE_S):
        await run()


async def comes(device: Device, user: str, count: int = 1) -> list[dict[str, Any]]:
    """The inbox, when it has as many."""
    await within(lambda: device.wait_until(lambda: len(inbox(device, user)) >= count))
    return inbox(device, user)


POLICY = """
[policy]
quiet_hours = "22:00-08:00"
caps = ["6 / 24h"]
[category.clock]
priority = "critical"
[template.clock]
title = "It is later"
[workflow.clock]
category = "clock"
trigger = { event = "clock.moved" }
[[workflow.clock.step]]
delay = "1s"
[[workflow.clock.step]]
send = { templates = ["clock"] }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One process for all tests: its time goes on from one to the next, and each has people of its own."""
    directory = tmp_path_factory.mktemp("place")
    shutil.copytree(READY, directory / "workflows")
    file = directory / "syncd.toml"
    file.write_text(POLICY)
    clock = LeapingClock(directory / "clock")
    clock.set(at("2026-03-02 02:00"))
    command = (sys.executable, "-m", "tests.e2e.leaping", str(directory / "clock"))
    with running(directory / "state", options=("--config", str(file)), command=command) as daemon:
        yield Place(daemon, clock, directory)
        assert daemon.stop() == 0
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        assert not [line for line in lines if line["level"] in ("error", "warning")]


async def noon(place: Place) -> None:
    """The next one, in UTC, where everybody here lives."""
    await place.passes((12 * HOUR_MS - place.clock.now_ms()) % DAY_MS)


async def test_a_security_alert_comes_at_night_to_who_wants_nothing(place: Place) -> None:
    await place.passes((2 * HOUR_MS - place.clock.now_ms()) % DAY_MS)
    async with place.device("ann") as phone, place.device("ann", 2) as watch:
        everything = {"frequency": "off", "mute_until": place.clock.now_ms() + 30 * DAY_MS}
        phone.space("user/ann").create(PREFERENCES, "all", everything)
        await within(phone.sync)
        await place.event("cart.updated", "ann", cart_id="c", item="x", count=1, total=99)
        sign_in = {"is_new_place": True, "place": "Oslo", "device": "A laptop", "sign_in_id": "s1"}
        await place.event("account.signed_in", "ann", **sign_in)
        titles = [fields["title"] for device in (phone, watch) for fields in await comes(device, "ann")]
        assert titles == ["New sign-in from Oslo"] * 2
        (document,) = phone.space("user/ann").documents(INBOX)
        phone.event("opened", {"document": document.id})
        await within(lambda: phone.wait_until(lambda: phone.events_waiting == 0))
    decision = next(each for each in await place.decisions("ann") if each["outcome"] == "sent")
    assert decision["delivery"]["opened_ms"] is not None


async def test_breaking_news_come_to_those_whose_devices_say_that_they_read_the_topic(place: Place) -> None:
    await noon(place)
    async with place.device("bea") as reader, place.device("bob") as other:
        for device, topic in ((reader, "football"), (other, "opera")):
            for _ in range(6):
                device.event("article.read", {"topic": topic})
            await within(lambda device=device: device.wait_until(lambda: device.events_waiting == 0))
        story = {"breaking": True, "topic": "football", "story_id": 7, "headline": "Goal", "lead": "1:0"}
        for user in ("bob", "bea"):
            await place.event("article.published", user, **story)
        assert [fields["title"] for fields in await comes(reader, "bea")] == ["Goal"]
        assert inbox(other, "bob") == [] and await place.decisions("bob") == []


async def test_a_cart_that_was_left_is_mentioned_unless_it_was_bought(place: Place) -> None:
    await noon(place)
    async with place.device("cat") as left, place.device("col") as bought:
        for device in (left, bought):
            device.event("cart.updated", {"cart_id": "c", "item": "the chair", "count": 1, "total": 20})
            await within(lambda device=device: device.wait_until(lambda: device.events_waiting == 0))
        await place.passes(HOUR_MS // 2)
        bought.event("order.placed")
        await within(lambda: bought.wait_until(lambda: bought.events_waiting == 0))
        await place.passes(HOUR_MS // 2 + 1_000)
        await place.sent("cat")
        assert [fields["title"] for fields in await comes(left, "cat")] == ["Still thinking about the chair?"]
        assert inbox(bought, "col") == [] and await place.decisions("col") == []


@pytest.mark.long
async def test_a_digest_comes_as_often_as_was_chosen_offline(place: Place) -> None:
    await noon(place)
    async with place.device("dan", online=False) as daily, place.device("dora") as weekly:
        daily.space("user/dan").create(PREFERENCES, "category:team", {"frequency": "daily"})
        daily.go_online()
        await within(daily.sync)
        for page in range(3):
            for user in ("dan", "dora"):
                await place.event("team.activity", user, own=False, author="Eve", verb="wrote", subject=f"page {page}")
        await place.passes(DAY_MS + SMEAR_MS)
        (digest,) = await comes(daily, "dan")
        assert all(f"page {page}" in digest["body"] for page in range(3)), digest
        assert inbox(weekly, "dora") == []
        await place.passes(6 * DAY_MS + SMEAR_MS)
        digest = next(each for each in await comes(weekly, "dora") if each["category"] == "team")
        assert all(f"page {page}" in digest["body"] for page in range(3)), digest


@pytest.mark.long
async def test_a_nudge_comes_to_who_stays_away_and_not_to_who_came_first(place: Place) -> None:
    await noon(place)
    for user in ("eli", "eva"):
        async with place.device(user):
            pass
    await place.passes(2 * DAY_MS)
    async with place.device("eva"):
        await place.passes(5_000)  # a coming is learned when it has lasted for a moment
    await place.passes(DAY_MS + SMEAR_MS)
    await place.passes(SMEAR_MS)
    await place.sent("eli")
    assert await place.decisions("eva") == []
    async with place.device("eli") as phone:
        (nudge,) = await comes(phone, "eli")
    assert nudge["title"] in ("Your streak of  days is waiting", " is closer than it looks")
