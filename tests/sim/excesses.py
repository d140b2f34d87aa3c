"""A rogue that takes too much: time, room, and more words than are its due. See `misdeeds.py`."""

from contextlib import AsyncExitStack
from typing import Any

import msgpack
import trio
from wsproto.frame_protocol import Opcode

from syncd.env.ports import TransportClosed
from syncd.wire.limits import EVENTS_BURST_MAX, HELLO_MS_MAX, IDLE_SLACK_MS, MESSAGES_BURST_MAX, SIGNALS_BURST_MAX
from tests.sim.clocks import true_ms
from tests.sim.determinism import sleep
from tests.sim.rogue import WAIT_S, Disturbed, Rogue, Talk, masked, misdeed, packed_message
from tests.sim.sockets import Refused, opened, send_all
from tests.sim.wiretap import CODES

LATE_S = 15.0  # by which a timer's effect may come later: latency, and the turns of the wheel
ROOM = "rogue/room"  # where nobody else listens

# -- words ------------------------------------------------------------------------------------------------------------


@misdeed
async def floods(rogue: Rogue) -> None:
    async with rogue.welcomed() as talk:
        rate = rogue.world.wire_limits.messages_per_s_max
        frame = msgpack.packb([CODES["pong"], {}]) * 250
        for _ in range((MESSAGES_BURST_MAX + 20 * rate) // 250):
            await talk.frame(frame)
        await talk.refused("rate_limited", 4100)


@misdeed
async def signals_without_end(rogue: Rogue) -> None:
    """What is over the limit is refused one by one, with a time to come back, and the connection goes on."""
    async with rogue.talk() as talk:
        talk.device = rogue.random.randbytes(16)  # one that has not said anything yet
        await talk.hello(caps=["signals"])
        await talk.subscribe(ROOM)
        await talk.hear("subscribed", space=ROOM)
        await talk.frame(packed_message("signal", {"space": ROOM, "key": "k", "value": 1}) * (SIGNALS_BURST_MAX + 5))
        await talk.say("probe", id=1)
        refused = 0
        while (heard := await talk.hear_any("error", "pong"))[0] != "pong":
            talk.expect(heard[1], "signal_limited")
            refused += 1
        if refused != 5:
            raise talk.wrong(f"{refused} of 5 signals too many were refused")


def _events(rogue: Rogue, count: int) -> bytes:
    """Of a name that is none, so that nothing comes of them."""
    events = [[rogue.random.randbytes(16), "no\0name", true_ms()] for _ in range(count)]
    return packed_message("event", {"events": events})


@misdeed
async def tells_of_its_user_without_end(rogue: Rogue) -> None:
    each = rogue.world.wire_limits.events_max
    async with rogue.welcomed() as talk:
        for _ in range(EVENTS_BURST_MAX // each + 2):
            await talk.frame(_events(rogue, each))
            name, body = await talk.hear_any("error", "noted")
            if name == "error":
                return talk.expect(body, "event_limited")
            if [status for _, status, _ in body["results"]] != ["invalid"] * each:
                raise talk.wrong(f"is told {body} of events without a name")
        raise talk.wrong("may tell events for ever")


@misdeed
async def tells_too_much_at_once(rogue: Rogue) -> None:
    async with rogue.welcomed() as talk:
        await talk.frame(_events(rogue, rogue.world.wire_limits.events_max + 1))
        await talk.refused("too_many_events", 4900)


# -- time and room ----------------------------------------------------------------------------------------------------


@misdeed
async def connects_and_never_says_hello(rogue: Rogue) -> None:
    """Bytes that are no hello buy no time."""
    async with rogue.talk() as talk:
        with trio.move_on_after(HELLO_MS_MAX / 2000):
            while not talk.is_disturbed:
                await talk.raw(masked(Opcode.PING, b""))
                await sleep(1)
        await talk.hear_close(4001, HELLO_MS_MAX / 1000 + LATE_S)


@misdeed
async def falls_silent(rogue: Rogue) -> None:
    """Half open: what it says never arrives, and no reset tells the server."""
    async with rogue.talk() as talk:
        ping_ms = (await talk.hello())["ping_ms"]
        await talk.hear_close(4001, (2 * ping_ms + IDLE_SLACK_MS) / 1000 + LATE_S)


@misdeed
async def sends_its_request_byte_by_byte(rogue: Rogue) -> None:
    """A slow loris: it is shown the door when the time for a request's head is over."""
    world = rogue.world
    life = world.server.life
    try:
        socket = await world.network.connect(rogue.name)
    except TransportClosed as error:
        raise Disturbed(str(error)) from None
    try:
        with trio.move_on_after(world.net_limits.header_s + world.net_limits.write_s + LATE_S):
            try:
                for byte in b"GET /v1/sync HTTP/1.1\r\nHost: server.invalid\r\nX: " + b"y" * 600:
                    await send_all(socket, bytes([byte]))
                    await sleep(0.5)
            except TransportClosed:
                return
        if world.server.life == life and not world.server.is_going:
            raise Talk(rogue, socket, b"", None, life).wrong("still sends its first request")
    finally:
        socket.abort()


@misdeed
async def opens_more_sockets_than_an_address_has(rogue: Rogue) -> None:
    """What is one too many is told so by a 503, with a time to come back that is not everyone's."""
    world = rogue.world
    limit = world.net_limits.connections_per_address_max
    if limit > 64:
        return await floods(rogue)
    life, refused, sockets = world.server.life, 0, []
    async with AsyncExitStack() as stack:
        for _ in range(limit + 3):
            try:
                with trio.fail_after(WAIT_S):
                    socket, _ = await opened(world.network, rogue.name, "syncd.v1.msgpack")
                stack.callback(socket.abort)
                sockets.append(socket)
            except Refused as error:
                refused += error.status in (429, 503)
            except (TransportClosed, trio.TooSlowError) as error:
                raise Disturbed(str(error)) from None
        # What the network has reset meanwhile made room.
        count = sum(not socket.is_over for socket in sockets)
        if not refused and count > limit and world.server.life == life and not world.server.is_going:
            raise Talk(rogue, socket, b"", None, life).wrong(f"has {count} sockets, more than {limit}")


@misdeed
async def asks_and_does_not_read(rogue: Rogue) -> None:
    """What it is owed may not pile up: it is cut off."""
    async with rogue.welcomed() as talk:
        for _ in range((rogue.world.net_limits.control_bytes_max + 2 * rogue.weather.buffer_bytes) // 127 + 8):
            if talk.socket.is_over:
                return
            await talk.raw(masked(Opcode.PING, bytes(125)))
            await sleep(0.02)  # slower than a flood
        await _cut_off(talk, LATE_S)


@misdeed
async def stops_reading_while_others_write(rogue: Rogue) -> None:
    """It makes no progress, so it is cut off: as 4002, which nobody can tell it."""
    async with rogue.welcomed() as talk:
        talk.socket.resize(150)
        for space in rogue.world.shared_spaces:
            await talk.subscribe(space)
        with trio.move_on_after(600):
            while not (talk.socket.is_over or talk.is_disturbed):
                await talk.raw(masked(Opcode.PING, b"here"))
                await sleep(5)
        await _cut_off(talk, 0)


async def _cut_off(talk: Talk, timeout_s: float) -> None:
    with trio.move_on_after(timeout_s):
        while not talk.socket.is_over:
            await sleep(0.5)
    if not talk.socket.is_over:
        raise talk.wrong("reads nothing, and is not cut off")


@misdeed
async def reads_a_little_at_a_time(rogue: Rogue) -> None:
    """It is served for minutes, costs one frame, gets no gap, and has everything in the end."""
    tap = rogue.world.tap_of(rogue.name, rogue.device, ("rate_limited",))
    async with rogue.welcomed(tap) as talk:
        talk.socket.resize(200)
        for space in rogue.world.shared_spaces:
            await talk.subscribe(space)
        end_s = trio.current_time() + rogue.random.choice((20, 60, 180))
        while trio.current_time() < end_s or not _has_all(rogue, tap):
            with trio.move_on_after(2):
                try:
                    data = await talk.socket.receive(40 if trio.current_time() < end_s else 65536)
                except TransportClosed:
                    data = b""
                if not data or talk.close_code is not None:
                    raise talk.wrong("is cut off, although it reads")
                talk.take(data)
            await talk.say("pong")
            await sleep(1.5 if trio.current_time() < end_s else 0.05)
            if trio.current_time() > end_s + 600:
                if "collection" in rogue.world.works:  # it is told to compare by now, and does not
                    raise Disturbed("read for longer than it is waited for")
                raise talk.wrong("does not come to the head")


def _has_all(rogue: Rogue, tap: Any) -> bool:
    return all(tap.complete(space) == rogue.head(space) for space in rogue.world.shared_spaces)
