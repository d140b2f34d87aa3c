"""What one connection breaks or burdens, the others do not feel: defects end one connection, and the loop is shared."""

from collections.abc import Callable
from dataclasses import replace

import trio
from trio.testing import MockClock

from syncd.engine.commands import Decision
from syncd.net.channels import SLICE, Room
from syncd.net.connection import Connection
from syncd.net.delivery import Delivery
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.wire.codec import MSGPACK, Codec
from syncd.wire.limits import DEFAULT, Limits
from syncd.wire.messages import ClientMessage, Delta
from tests.net.harness import SPACE, Client, World, world


class Turns:
    """Counts how often others get their turn."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await trio.lowlevel.checkpoint()


class BrokenRooms:
    """Can be entered and not left."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def enter(self, space: str) -> Room:
        return self._hub.enter(space)

    def leave(self, room: Room) -> None:
        raise RuntimeError("a defect")


def delivery_of(w: World, client: Client) -> Delivery:
    return next(member.delivery for member in w.hub.members if member.device == client.device)


async def check_served(w: World, client: Client) -> None:
    """A client that is live gets what another one commits."""
    author = await w.client(9)
    await author.push(author.change(["create", "notes", "a"]))
    with trio.fail_after(5):
        await client.expect("delta")


async def test_a_defect_that_comes_again_while_it_is_handled_ends_its_connection_only(
    autojump_clock: MockClock,
) -> None:
    """Its token expires, so it is the wheel, which serves everybody, that meets the defect."""
    async with world() as w:
        other, victim = await w.client(1), Client(w.connect(), 2)
        await other.subscribe()
        await victim.upgrade()
        await victim.greet(w.token(ttl_s=2))
        await victim.subscribe()
        delivery = delivery_of(w, victim)
        delivery._wiring = replace(delivery._wiring, rooms=BrokenRooms(w.hub))
        await trio.sleep(5)
        assert [member.device for member in w.hub.members] == [other.device]
        assert "a defect" in w.logs[0]
        await check_served(w, other)


async def test_a_defect_in_letting_go_of_a_slow_reader_ends_its_connection_only(autojump_clock: MockClock) -> None:
    """Here it is the task that waits for the socket, in the nursery of all, that meets the defect."""
    async with world() as w:
        other, victim = await w.client(1), await w.client(2, buffer_bytes=1000)
        for client in (other, victim):
            await client.subscribe()
        await other.push(other.change(["create", "notes", "b"], ["reg.set", "notes", "b", "text", "x" * 5000]))
        await other.expect("outcomes")
        await other.expect("delta")
        delivery = delivery_of(w, victim)
        assert delivery.is_stalled
        delivery._wiring = replace(delivery._wiring, rooms=BrokenRooms(w.hub))
        inward = victim.transport._inward
        inward.is_broken = True  # the socket takes nothing more, and the reader does not know it yet
        inward.changed.unpark_all()
        await trio.sleep(1)
        assert [member.device for member in w.hub.members] == [other.device]
        assert w.server.connection_count == 1
        await check_served(w, other)


async def test_a_subscriber_that_cannot_be_served_does_not_keep_a_delta_from_the_others(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        victim, other = await w.client(1), await w.client(2)
        for client in (victim, other):
            await client.subscribe()
        channel = delivery_of(w, victim).channels[SPACE]
        channel.room, channel.pos = None, -1  # it can neither get the delta nor fall behind
        await check_served(w, other)
        assert (await victim.closing()).code == 1011
        assert "AssertionError" in w.logs[0]


async def test_deltas_of_many_spaces_are_handed_out_with_turns_for_others(autojump_clock: MockClock) -> None:
    count = 4 * SLICE
    async with world(wire_limits=Limits(subscriptions_max=count, messages_per_s_max=count)) as w:
        client = await w.client(buffer_bytes=1 << 20)
        for i in range(count):
            await client.subscribe(f"room/{i}")
            if i % SLICE == 0:
                await trio.sleep(1)  # not to meet the limit of messages
        deltas = tuple(Delta(f"room/{i}", bytes(16), 0, 0, 1, 1, b"", (), complete=True) for i in range(count))
        turns = Turns()
        w.nursery.start_soon(turns.run)
        await trio.lowlevel.checkpoint()
        before = turns.count
        await w.hub.publish(Decision((), deltas, ()))
        assert turns.count - before >= count // SLICE - 1
        for i in range(count):
            assert (await client.expect("delta"))["space"] == f"room/{i}"


class Guest:
    """A member that notes in which turn of the others it was spoken to."""

    user = "u"

    def __init__(self, number: int, turns: Turns, hub: Hub) -> None:
        self.device = number.to_bytes(16)
        self._turns, self._hub = turns, hub
        self.departed = self.closed = -1

    @property
    def delivery(self) -> Delivery:
        raise AssertionError("nothing is delivered here")

    def supersede(self) -> None:
        raise AssertionError("each device comes once")

    def depart(self, code: int, retry_after_ms: int, spread_ms: int) -> None:
        self.departed = self._turns.count

    def close(self, code: int, reason: str) -> None:
        self.closed = self._turns.count
        self._hub.part(self)


async def test_sending_everyone_away_leaves_turns_for_others(autojump_clock: MockClock) -> None:
    turns, hub = Turns(), Hub(NetLimits(), DEFAULT)
    guests = [Guest(number, turns, hub) for number in range(8 * SLICE)]
    for guest in guests:
        hub.join(guest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        await hub.drain(0.0, lambda low, high: low)
        nursery.cancel_scope.cancel()
    for told in ([guest.departed for guest in guests], [guest.closed for guest in guests]):
        assert -1 not in told
        # Two slices between two of their turns: trio shuffles the order of those that are ready.
        assert max(told.count(turn) for turn in set(told)) <= 2 * SLICE


class SlowCodec(Codec):
    """Takes its time to read a frame."""

    __slots__ = ("_take_time",)

    def __init__(self, take_time: Callable[[], None]) -> None:
        super().__init__(MSGPACK.name, is_text=False)
        self._take_time = take_time

    def decode(self, data: bytes | str, limits: Limits = DEFAULT) -> list[ClientMessage]:
        self._take_time()
        return super().decode(data, limits)


async def test_frames_that_take_long_to_read_have_half_of_the_loop_at_most(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        (member,) = w.hub.members
        assert isinstance(member, Connection)
        member._session.codec = SlowCodec(lambda: autojump_clock.jump(0.1))
        began_s = trio.current_time()
        for i in range(10):
            await client.send("probe", id=i)
        for i in range(10):
            assert (await client.expect("pong"))["id"] == i
        assert trio.current_time() - began_s >= 10 * 0.1 + 9 * 0.1
