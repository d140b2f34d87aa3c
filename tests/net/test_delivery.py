"""What goes out: slow readers, going live, and the order of outcomes and deltas."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.engine import reading
from syncd.env.ports import T, TransportClosed, Ts
from syncd.net.delivery import Delivery
from syncd.net.limits import NetLimits
from tests.net.harness import SPACE, Client, Mirror, World, world


def text_of(i: int, length: int = 1000) -> str:
    return f"{i} " + "x" * length


def delivery_of(w: World, client: Client) -> Delivery:
    return next(member.delivery for member in w.hub.members if member.device == client.device)


async def read_until(client: Client, mirror: Mirror, is_done: Callable[[], bool]) -> None:
    with trio.fail_after(100):
        while not is_done():
            mirror.take(await client.receive())


async def test_a_slow_reader_gets_the_newest_state_and_costs_one_frame(autojump_clock: MockClock) -> None:
    async with world() as w:
        slow, writer = await w.client(1, buffer_bytes=8192), await w.client(2)
        mirror = Mirror()
        mirror.take(await _subscribed(slow))
        await writer.push(writer.change(["create", "notes", "a"]))
        await writer.expect("outcomes")
        for i in range(500):
            await writer.push(writer.change(["reg.set", "notes", "a", "text", text_of(i)], base=1), epoch=mirror.epoch)
            await writer.expect("outcomes")
            assert delivery_of(w, slow).waiting_bytes <= 1200
        await read_until(slow, mirror, lambda: mirror.complete == 501)
        assert mirror.documents["notes", "a"]["text"] == text_of(499)
        assert mirror.deltas < 20, "changes of one field collapse into the last"
        await writer.push(writer.change(["reg.set", "notes", "a", "text", "live again"], base=1), epoch=mirror.epoch)
        await read_until(slow, mirror, lambda: mirror.complete == 502)


async def _subscribed(client: Client) -> Any:
    await client.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0)
    return await client.expect("subscribed")


async def test_a_slow_author_hears_its_outcomes_before_its_changes(autojump_clock: MockClock) -> None:
    async with world() as w:
        author, other = await w.client(1, buffer_bytes=4096), await w.client(2)
        mirror = Mirror()
        mirror.take(await _subscribed(author))
        for i in range(100):
            await author.push(author.change(["create", "notes", f"{i}"], ["reg.set", "notes", f"{i}", "t", text_of(i)]))
            await other.push(other.change(["create", "lists", f"{i}"]))
            await wait_all_tasks_blocked()
        await read_until(author, mirror, lambda: mirror.complete == 200)
        assert sorted(mirror.outcomes) == list(range(1, 101))


async def test_outcomes_without_a_subscription_survive_a_full_socket(autojump_clock: MockClock) -> None:
    async with world() as w:
        client, writer = await w.client(1, buffer_bytes=2048), await w.client(2)
        mirror, elsewhere = Mirror(), Mirror("other/1")
        mirror.take(await _subscribed(client))
        for i in range(20):
            await writer.push(writer.change(["create", "notes", f"{i}"], ["reg.set", "notes", f"{i}", "t", text_of(i)]))
        await wait_all_tasks_blocked()
        assert delivery_of(w, client).is_stalled
        for i in range(30):
            await client.push(client.change(["create", "notes", f"{i}"]), space="other/1")
        with trio.fail_after(10):
            while len(elsewhere.outcomes) < 30 or mirror.complete < 20:
                message = await client.receive()
                mirror.take(message)
                elsewhere.take(message)
        await wait_all_tasks_blocked()
        assert list(delivery_of(w, client).channels) == [SPACE]


async def test_who_reads_nothing_for_too_long_is_cut_off(autojump_clock: MockClock) -> None:
    async with world() as w:
        slow, writer = await w.client(1, buffer_bytes=2048, keepalive_ms=600_000), await w.client(2)
        await _subscribed(slow)
        await writer.push(writer.change(["create", "a", "a"], ["reg.set", "a", "a", "t", text_of(1, 5000)]))
        await writer.expect("outcomes")
        await trio.sleep(29)
        assert len(w.hub.members) == 2
        await trio.sleep(2)
        assert [member.device for member in w.hub.members] == [writer.device]


async def test_who_asks_without_reading_the_answers_is_cut_off(autojump_clock: MockClock) -> None:
    async with world(NetLimits(control_bytes_max=1000)) as w:
        client = await w.client(1, buffer_bytes=256)
        with pytest.raises(TransportClosed):
            for i in range(1000):
                await client.send("probe", id=i)
                await wait_all_tasks_blocked()
        assert not w.hub.members


async def test_a_subscription_whose_answer_waits_for_the_socket_is_judged_by_a_token_that_comes_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """It was left to the engine, which had judged it already: when the socket had room it was told the role of before,
    and one at the head went live, with or without a right to read."""
    async with world() as w:
        slow, writer = await w.client(1, buffer_bytes=2048), await w.client(2)
        await _subscribed(slow)
        await writer.push(writer.change(["create", "a", "a"], ["reg.set", "a", "a", "t", text_of(1, 5000)]))
        await writer.expect("outcomes")
        assert delivery_of(w, slow).is_stalled
        for space in ("hall/1", "room/2"):
            await slow.send("subscribe", space=space, epoch=None, complete=0, resume=0, settled=0)
        await wait_all_tasks_blocked()
        await slow.send("refresh", token=w.token(pattern="room/*", role="reader"))
        await wait_all_tasks_blocked()
        assert (await slow.expect("delta"))["space"] == SPACE
        told = [await slow.receive() for _ in range(3)]
        assert [(each.name, each["space"], each.body.get("role")) for each in told] == [
            ("subscribed", SPACE, "reader"), ("revoked", "hall/1", None), ("subscribed", "room/2", "reader"),
        ]  # fmt: skip
        for space in ("hall/1", "room/2"):
            writer.n = 0
            await writer.push(writer.change(["create", "a", "secret"]), space=space)
            await writer.expect("outcomes")
        assert (await slow.expect("delta"))["space"] == "room/2"
        await wait_all_tasks_blocked()
        assert not slow.messages and list(delivery_of(w, slow).channels) == [SPACE, "room/2"]


async def test_one_slow_reader_holds_up_nobody(autojump_clock: MockClock) -> None:
    async with world() as w:
        slow, fast, writer = await w.client(1, buffer_bytes=2048), await w.client(2), await w.client(3)
        await _subscribed(slow)
        await _subscribed(fast)
        for i in range(50):
            await writer.push(writer.change(["create", "notes", f"{i}"], ["reg.set", "notes", f"{i}", "t", text_of(i)]))
            await writer.expect("outcomes")
            assert (await fast.expect("delta"))["to"] == i + 1


async def test_more_than_a_thousand_outcomes_come_in_pieces(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(1)
        for _ in range(3):
            await client.push(*[client.change(["create", "notes", "a"]) for _ in range(700)])
            await client.expect("outcomes")
        await client.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0)
        pieces = [[entry[0] for entry in (await client.expect("outcomes"))["outcomes"]] for _ in range(3)]
        assert pieces == [list(range(1, 1001)), list(range(1001, 2001)), list(range(2001, 2101))]
        await client.expect("subscribed")


async def test_a_first_download_in_pages_goes_on_where_it_was_cut(autojump_clock: MockClock) -> None:
    """Changes that come between the pages are not lost, and the download is live at its end."""
    async with world() as w:
        writer, mirror = await w.client(1), Mirror()
        for part in range(4):
            names = [f"{part}-{i}" for i in range(250)]
            creates = [[["create", "n", name], ["reg.set", "n", name, "t", text_of(part)]] for name in names]
            await writer.push(*[writer.change(*operations) for operations in creates])
            await writer.expect("outcomes")
        reader = await w.client(2, buffer_bytes=4096)
        await reader.send("subscribe", space=SPACE, **mirror.positions())
        await read_until(reader, mirror, lambda: mirror.resume > 0)
        assert mirror.complete == 0 < mirror.resume < 1000 and mirror.start == 1000
        reader.transport.abort()
        await writer.push(writer.change(["reg.set", "n", "0-0", "t", "later"], base=1000), epoch=mirror.epoch)
        await writer.expect("outcomes")
        reader, before = await w.client(2, buffer_bytes=4096), mirror.resume
        mirror.connected()
        await reader.send("subscribe", space=SPACE, **mirror.positions())
        await read_until(reader, mirror, lambda: mirror.complete == 1001)
        assert len(mirror.documents) == 1000 and mirror.documents["n", "0-0"]["t"] == "later"
        assert mirror.deltas > 3 and before > 0
        await writer.push(writer.change(["reg.set", "n", "0-1", "t", "live"], base=1000), epoch=mirror.epoch)
        await read_until(reader, mirror, lambda: mirror.complete == 1002)


class JitteryOffload:
    """Commits now, and comes back after a moment in which anything may read what was committed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.sleep(self._random.random() * 0.002)
        result = fn(*args)
        await trio.sleep(self._random.random() * 0.004)
        return result


class Device:
    """A device that reads when it is told to, and reconnects with what it has."""

    def __init__(self, w: World, number: int, buffer_bytes: int) -> None:
        self.w, self.number, self.buffer_bytes = w, number, buffer_bytes
        self.mirror = Mirror()
        self.n = 0
        self.unsettled: list[list[Any]] = []
        self.client: Client | None = None

    async def connect(self) -> None:
        """Subscribe with the stored positions, and push again whatever has no outcome yet."""
        if self.client is not None:
            self.client.transport.abort()
        self.client = await self.w.client(self.number, buffer_bytes=self.buffer_bytes)
        self.mirror.connected()
        await self.client.send("subscribe", space=SPACE, **self.mirror.positions())
        self.unsettled = [change for change in self.unsettled if change[0] not in self.mirror.outcomes]
        if self.unsettled:
            await self.client.push(*self.unsettled)

    async def resubscribe(self) -> None:
        assert self.client is not None
        self.mirror.asked_again = True
        await self.client.send("subscribe", space=SPACE, **self.mirror.positions())

    async def push(self, count: int) -> None:
        assert self.client is not None
        for _ in range(count):
            self.n += 1
            name = str(self.n % 3)
            operations = [["create", "notes", name], ["reg.set", "notes", name, "t", text_of(self.n, self.n % 7 * 300)]]
            self.unsettled.append([self.n, self.n.to_bytes(8), 0, 1, operations])
        if count:
            await self.client.push(*self.unsettled[-count:])

    async def read(self, count: int) -> None:
        assert self.client is not None
        with trio.move_on_after(0.003):
            for _ in range(count):
                self.mirror.take(await self.client.receive())

    async def finish(self, head: int) -> None:
        assert self.client is not None
        mirror = self.mirror
        await read_until(self.client, mirror, lambda: mirror.complete == head and len(mirror.outcomes) == self.n)


ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["push", "push", "read", "read", "connect", "resubscribe"]),
        st.integers(0, 12),
    ),
    max_size=40,
)


@settings(max_examples=80)
@given(actions=ACTIONS, buffers=st.tuples(*[st.sampled_from([300, 1000, 65536])] * 3), seed=st.integers(0, 1 << 16))
def test_whatever_the_interleaving_every_device_gets_all_of_it_once_and_in_order(
    actions: list[tuple[int, str, int]], buffers: tuple[int, int, int], seed: int
) -> None:
    """`Mirror` checks on the way: no gap, nothing twice, and each outcome before the delta that holds its change."""

    async def main() -> None:
        async with world(offload=JitteryOffload(Random(seed))) as w:
            devices = [Device(w, number + 1, buffers[number]) for number in range(3)]
            for device in devices:
                await device.connect()
            for number, action, count in actions:
                device = devices[number]
                if action == "push":
                    await device.push(count)
                elif action == "read":
                    await device.read(count)
                elif action == "connect":
                    await device.connect()
                elif action == "wait":
                    await trio.sleep(count / 1000)
                else:
                    await device.resubscribe()
            await _check_converged(w, devices)
            assert not w.logs

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def _check_converged(w: World, devices: list[Device]) -> None:
    total = sum(device.n for device in devices)

    async def drain(device: Device) -> None:
        await device.finish(total)

    async with trio.open_nursery() as nursery:
        for device in devices:
            nursery.start_soon(drain, device)
    with w.store.read() as tx:
        found = reading.documents(tx, SPACE, None, None, 100).found
    expected = {(document.collection, document.id): dict(document.fields) for document in found}
    for device in devices:
        assert device.mirror.documents == expected
        assert sorted(device.mirror.outcomes) == list(range(1, device.n + 1))


async def test_a_reader_that_takes_nothing_is_cut_off_and_counted_but_is_no_error_of_ours(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        deaf, writer = await w.client(1, buffer_bytes=2_000), await w.client(2)
        await deaf.subscribe()
        await writer.push(writer.change(["create", "notes", "a"], ["reg.set", "notes", "a", "text", text_of(1, 5_000)]))
        await writer.expect("outcomes")
        await trio.sleep(NetLimits().no_progress_s + 1)
        assert [member.device for member in w.hub.members] == [writer.device]
        assert w.hub.counters.closes == {4002: 1}
        assert w.hub.counters.cut_off == {"no_progress": 1}
        assert w.logs == [], "whoever is woken by the log could repair nothing"
