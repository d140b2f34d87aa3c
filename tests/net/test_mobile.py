"""The life of a phone, as the server sees it: keep-alive that follows it into the background, probes when it wakes, one
round trip to be back, and what is left of a connection that died unnoticed."""

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import BytesMessage

from syncd.net.limits import NetLimits
from tests.net.harness import SPACE, Client, Mirror, world


@pytest.mark.parametrize(
    ("wish_ms", "expected_ms"), [(None, 30_000), (1, 15_000), (14_999, 15_000), (240_000, 240_000), (10**9, 600_000)]
)
async def test_a_proposed_keep_alive_is_clamped_and_announced(
    wish_ms: int | None, expected_ms: int, autojump_clock: MockClock
) -> None:
    async with world() as w:
        client = await w.client(keepalive_ms=wish_ms)
        assert client.welcome["ping_ms"] == expected_ms
        began_s = trio.current_time()
        await client.expect("ping")
        assert trio.current_time() - began_s == pytest.approx(expected_ms / 1000, abs=0.6)


@pytest.mark.parametrize(("wish_ms", "expected_s"), [(None, 600), (120_000, 120), (1, 15), (10**9, 600)])
async def test_background_has_an_interval_of_its_own_and_foreground_restores_that_of_welcome(
    wish_ms: int | None, expected_s: float, autojump_clock: MockClock
) -> None:
    async with world() as w:
        client = await w.client(keepalive_ms=20_000)
        for _ in range(2):
            await client.send("background", **({} if wish_ms is None else {"keepalive_ms": wish_ms}))
            began_s = trio.current_time()
            await client.expect("ping")
            assert trio.current_time() - began_s == pytest.approx(expected_s, abs=0.6)
            await client.send("foreground")
            began_s = trio.current_time()
            await client.expect("ping")
            assert trio.current_time() - began_s == pytest.approx(20, abs=0.6)


async def test_a_phone_that_died_in_the_background_is_found_out_after_two_intervals(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.send("background", keepalive_ms=240_000)
        began_s = trio.current_time()
        assert (await client.closing()).code == 4001
        assert trio.current_time() - began_s == pytest.approx(2 * 240 + 5, abs=0.6)
        client.transport.abort()
        await trio.sleep(1)
        assert not w.hub.members


async def test_a_probe_is_answered_before_anything_else_that_waits(autojump_clock: MockClock) -> None:
    """Also of a device that is behind: the frame that is half sent goes on, and then comes the pong."""
    async with world() as w:
        writer = await w.client(1)
        for index in range(40):
            await writer.push(
                writer.change(["create", "c", str(index)], ["reg.set", "c", str(index), "f", "x" * 50_000])
            )
            await writer.expect("outcomes")
        phone = await w.client(2, buffer_bytes=10_000)
        await phone.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0)
        await trio.sleep(1)
        assert next(member for member in w.hub.members if member.device == phone.device).delivery.is_behind
        await phone.send("probe", id=7)
        await trio.sleep(1)
        before = []
        while (message := await phone.receive()).name != "pong":
            before.append(message.name)
        assert message["id"] == 7 and before == ["subscribed", "delta"], "of some eight pages one was on its way"


async def test_a_device_is_back_after_one_round_trip(autojump_clock: MockClock) -> None:
    """hello, subscribe and push in the first flight, behind the upgrade."""
    async with world() as w:
        before, other = await w.client(1), await w.client(2)
        mirror = Mirror()
        await before.send("subscribe", space=SPACE, **mirror.positions())
        mirror.take(await before.expect("subscribed"))
        before.transport.abort()
        await trio.sleep(1)
        await other.push(other.change(["create", "notes", "a"]))
        await other.expect("outcomes")

        client = Client(w.connect(), 1)
        await client.upgrade()
        flight = [
            client.encoded("hello", **client.hello(w.token()), session=before.welcome["session"]),
            client.encoded("subscribe", space=SPACE, **mirror.positions()),
            client.encoded("push", space=SPACE, epoch=mirror.epoch, changes=[client.change(["create", "notes", "b"])]),
        ]
        for payload in flight:
            await client.send_event(BytesMessage(data=payload))
        welcome = await client.expect("welcome")
        assert welcome["resumed"]
        mirror.connected()
        while mirror.complete < 2:
            mirror.take(await client.receive())
        assert set(mirror.documents) == {("notes", "a"), ("notes", "b")} and mirror.outcomes == {1: ("applied", 2)}


async def test_what_comes_behind_a_hello_that_is_refused_has_no_effect(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect(), 1)
        await client.upgrade()
        flight = [
            client.encoded("hello", **client.hello("a.b.c")),
            client.encoded("push", space=SPACE, epoch=None, changes=[client.change(["create", "notes", "b"])]),
        ]
        for payload in flight:
            await client.send_event(BytesMessage(data=payload))
        assert (await client.expect("error"))["name"] == "unauthenticated"
        assert (await client.closing()).code == 4200
        assert w.commands == [] and w.logs == []


async def test_a_user_with_no_room_left_is_turned_away_with_all_that_came_behind(autojump_clock: MockClock) -> None:
    async with world(NetLimits(connections_per_user_max=1)) as w:
        await w.client(1)
        client = Client(w.connect(), 2)
        await client.upgrade()
        flight = [
            client.encoded("hello", **client.hello(w.token())),
            client.encoded("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0),
        ]
        for payload in flight:
            await client.send_event(BytesMessage(data=payload))
        assert (await client.expect("error"))["name"] == "overloaded"
        assert (await client.closing()).code == 4101
        assert w.hub.room_count == 0 and w.logs == []
