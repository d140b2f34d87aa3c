"""Events of devices over connections: each is judged, counts once, and too many are told to wait."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from syncd.engine.posting import TOLD_EARLY_MS_MAX, TOLD_LATE_MS_MAX
from syncd.wire.limits import DEFAULT, EVENTS_BURST_MAX
from tests.net.harness import BASE_MS, Client, World, world


async def results(client: Client, *events: list[Any]) -> list[tuple[str, str | None]]:
    """What becomes of each."""
    await client.send("event", events=list(events))
    judged = (await client.expect("noted"))["results"]
    assert [each[0] for each in judged] == [event[0] for event in events], "in their order"
    return [(status, detail) for _, status, detail in judged]


def event(number: int, name: str = "screen", at_ms: int = BASE_MS, *data: Any) -> list[Any]:
    return [number.to_bytes(16), name, at_ms, *data]


async def other_of(w: World, number: int, user: str) -> Client:
    client = Client(w.connect(), number)
    await client.upgrade()
    await client.greet(w.token(user))
    return client


async def test_an_event_counts_once_for_its_user_whichever_device_tells_it(autojump_clock: MockClock) -> None:
    async with world() as w:
        phone, watch, bob = await other_of(w, 1, "ann"), await other_of(w, 2, "ann"), await other_of(w, 3, "bob")
        assert await results(phone, event(1, "screen", BASE_MS, {"topic": "news"})) == [("accepted", None)]
        assert await results(phone, event(1), event(2)) == [("duplicate", None), ("accepted", None)]
        assert await results(watch, event(2), event(1), event(2)) == [("duplicate", None)] * 3
        assert await results(bob, event(1), event(1)) == [("accepted", None), ("duplicate", None)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (event(1, ""), "1-160 bytes"),
        (event(1, "a\n"), "control"),
        (event(1, "screen", BASE_MS, {"x": "y" * 4_096}), "at most 4096 bytes, not 4102"),
        (event(1, "screen", BASE_MS - TOLD_LATE_MS_MAX - 1), "within 7 days"),
        (event(1, "screen", BASE_MS + TOLD_EARLY_MS_MAX + 60_000), "in the future"),
    ],
)
async def test_a_wrong_event_hurts_no_other_and_closes_nothing(
    autojump_clock: MockClock, wrong: list[Any], said: str
) -> None:
    async with world() as w:
        client = await w.client(1)
        (first, second, third) = await results(client, event(8), wrong, event(9))
        assert (first[0], second[0], third[0]) == ("accepted", "invalid", "accepted")
        assert said in (second[1] or "")
        assert (await results(client, wrong))[0][0] == "invalid", "and it is not taken later"


async def test_an_event_is_not_taken_again_when_its_key_is_forgotten(autojump_clock: MockClock) -> None:
    """The earliest and the latest time that it may name, and each moment at which it might be told again."""
    for at_ms in (BASE_MS - TOLD_LATE_MS_MAX + 60_000, BASE_MS, BASE_MS + TOLD_EARLY_MS_MAX):
        async with world() as w:
            start_s, told = trio.current_time(), event(1, "screen", at_ms + round(trio.current_time() * 1000))
            async with trio.open_nursery():
                assert await results(await w.client(1), told) == [("accepted", None)]
            for day in range(1, 11):
                await trio.sleep_until(start_s + day * 86_400)
                for number in (10 * day, 10 * day + 1):  # what it was told by makes room for what has expired
                    client = await w.client(number)
                    ((status, _),) = await results(client, told)
                    assert status in ("duplicate", "invalid"), f"on day {day}"


async def test_too_many_events_wait_and_none_of_their_message_is_taken(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(1)
        for number in range(EVENTS_BURST_MAX // 100):
            assert len(await results(client, *[event(100 * number + each) for each in range(100)])) == 100
        await client.send("event", events=[event(10_000 + each) for each in range(10)])
        refused = await client.expect("error")
        assert (refused["name"], refused["retry"], "space" in refused.body) == ("event_limited", "backoff", False)
        assert 9_000 <= refused["after_ms"] <= 10_000, "ten more, at one a second"
        await trio.sleep(refused["after_ms"] / 1000)
        again = await results(client, *[event(10_000 + each) for each in range(10)])
        assert again == [("accepted", None)] * 10
        assert w.hub.counters.errors["event_limited"] == 1


async def test_more_events_than_a_message_may_have_are_an_error_of_their_own(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(1)
        await client.send("event", events=[event(number) for number in range(DEFAULT.events_max + 1)])
        assert (await client.expect("error"))["name"] == "too_many_events"
        assert (await client.closing()).code == 4900


async def test_what_a_device_tells_is_never_a_notification(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(1)
        shown = {"notification": {"title": "Hello", "body": "x", "category": "c"}}
        assert await results(client, event(1, "screen", BASE_MS, shown)) == [("accepted", None)]
        body = await client.subscribe("user/u")
        assert body["head"] == 0, "nothing was written into the inbox"
