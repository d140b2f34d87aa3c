"""What a peer may send inside a WebSocket, and how each breach ends the connection."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage
from wsproto.events import Ping as PingFrame

from syncd.engine.commands import Push
from syncd.env.ports import TransportClosed
from syncd.net.websocket import TEXT, close_frame, frame
from tests.net.harness import SPACE, Client, Closed, send_all, world


async def expect_refusal(client: Client, code: int) -> None:
    """An `error` malformed comes first, then the close with the code."""
    error = await client.expect("error")
    assert (error["code"], error["name"]) == (1, "malformed")
    assert (await client.closing()).code == code


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 200_000])
def test_a_frame_is_what_a_client_reads(size: int) -> None:
    websocket = Connection(ConnectionType.CLIENT)
    websocket.receive_data(frame(TEXT, b"x" * size))
    events = [event for event in websocket.events() if isinstance(event, TextMessage)]
    assert "".join(event.data for event in events) == "x" * size
    assert events[-1].message_finished


def test_a_long_reason_is_cut_between_characters() -> None:
    data = close_frame(1009, "é" * 100)
    assert len(data) == 2 + 2 + 122
    assert data[4:].decode() == "é" * 61


async def test_of_messages_that_do_not_end_a_bounded_part_is_held_and_the_oldest_goes_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.net.websocket.UNFINISHED_BYTES_MAX", 25_000)
    async with world() as w:
        first, second, third = [await w.client(number) for number in (1, 2, 3)]
        for client in (first, second):
            await client.send_event(BytesMessage(data=bytes(10_000), message_finished=False))
            await wait_all_tasks_blocked()
        assert w.hub.unfinished.bytes == 20_000
        payload = third.encoded("probe", id=7, padding="x" * 10_000)
        await third.send_event(BytesMessage(data=payload[:8_000], message_finished=False))
        await wait_all_tasks_blocked()
        assert w.hub.unfinished.bytes == 18_000
        assert (await first.closing()).code == 4101
        await third.send_event(BytesMessage(data=payload[8_000:], message_finished=True))
        assert (await third.expect("pong"))["id"] == 7
        assert w.hub.unfinished.bytes == 10_000
        second.transport.abort()
        await wait_all_tasks_blocked()
        assert w.hub.unfinished.bytes == 0


async def test_a_frame_that_is_too_long_is_refused_before_its_end(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.subscribe()
        claim = bytes((0x82, 0x80 | 127)) + (1 << 40).to_bytes(8) + bytes(4)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            await send_all(client.transport, claim)
            with suppress(TransportClosed):
                while True:
                    await send_all(client.transport, bytes(32768))
                    sent += 32768

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            assert (await client.expect("error"))["name"] == "malformed"
            with pytest.raises(Closed) as closed:  # and no answer: it would land in the middle of the flood
                await client.receive()
            assert closed.value.code == 1009
            nursery.cancel_scope.cancel()
        assert sent < 2 * 1_048_576
        assert not any(isinstance(command, Push) for command in w.commands)


async def test_a_message_in_many_fragments_is_one_message(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        payload = client.encoded("probe", id=1) + client.encoded("probe", id=2)
        for i, byte in enumerate(payload):
            is_last = i == len(payload) - 1
            await client.send_event(BytesMessage(data=bytes((byte,)), message_finished=is_last))
            if i == 3:
                await client.send_event(PingFrame(payload=b"between"))
        assert [(await client.expect("pong"))["id"] for _ in range(2)] == [1, 2]
        assert client.pongs == [b"between"]


@pytest.mark.parametrize("pieces", [1, 2000])
async def test_a_message_is_bounded_however_it_is_cut(pieces: int, autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        piece = bytes(1_048_577 // pieces + 1)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for i in range(pieces):
                    await client.send_event(BytesMessage(data=piece, message_finished=i == pieces - 1))

            nursery.start_soon(send)
            await expect_refusal(client, 1009)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("protocol", "event", "code"),
    [
        ("syncd.v1.json", BytesMessage(data=b"[]"), 1003),
        ("syncd.v1.msgpack", TextMessage(data="[]"), 1003),
    ],
)
async def test_the_wrong_kind_of_frame_is_refused(
    protocol: str, event: TextMessage | BytesMessage, code: int, autojump_clock: MockClock
) -> None:
    async with world() as w:
        client = Client(w.connect(), protocol=protocol)
        await client.upgrade()
        await client.greet(w.token())
        await client.send_event(event)
        await expect_refusal(client, code)


async def test_text_that_is_not_utf8_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect(), protocol="syncd.v1.json")
        await client.upgrade()
        await send_all(client.transport, bytes((0x81, 0x82)) + bytes(4) + b"\xc3\x28")
        await expect_refusal(client, 1007)


async def test_a_breach_of_websocket_is_closed_without_a_message_of_ours(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await send_all(client.transport, b"\x82\x01\x00")
        with pytest.raises(Closed) as closed:
            await client.receive()
        assert closed.value.code == 1002


async def test_nothing_of_a_malformed_frame_is_applied(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        good = client.encoded("push", space=SPACE, epoch=None, changes=[client.change(["create", "notes", "a"])])
        await client.send_event(BytesMessage(data=good + b"\x92\x04"))
        error = await client.expect("error")
        assert error["name"] == "malformed" and "byte" in error["detail"]
        assert (await client.closing()).code == 1007
        assert not any(isinstance(command, Push) for command in w.commands)
