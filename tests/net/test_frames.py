"""What a peer may send inside a WebSocket, and how each breach ends the connection."""

from contextlib import suppress
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage
from wsproto.events import Ping as PingFrame

from syncd.engine.commands import Push
from syncd.env.ports import TransportClosed
from syncd.net.websocket import TEXT, FrameRefused, Inbound, Scrap, close_frame, frame
from syncd.net.websocket import Closed as ClosedByPeer
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


def client_frame(first: int, is_masked: bool, mask: bytes, payload: bytes, is_long: bool) -> bytes:
    """`is_long`: the size is written with more bytes than it needs, if that can be."""
    size = len(payload)
    flag = 0x80 if is_masked else 0
    short = size < 126 and not is_long
    head = bytes((first, flag | size)) if short else bytes((first, flag | 126)) + size.to_bytes(2)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return head + (mask + masked if is_masked else payload)


def taken(inbound: Inbound, pieces: list[bytes]) -> list[object]:
    """All that comes out, and the refusal that ends it."""
    items: list[object] = []
    try:
        for piece in pieces:
            for item in inbound.receive(piece):
                items.append(item)
                inbound.allow(150 + len(items) % 2 * 100)
    except FrameRefused as refused:
        items.append((refused.code, str(refused)))
    return items


FIRST = [*[0x81, 0x82] * 6, 0x01, 0x02, 0x00, 0x80, 0x83, 0x88, 0x89, 0x8A, 0xC1, 0xC2]
FRAMES = st.builds(
    client_frame,
    st.sampled_from(FIRST),
    st.sampled_from([True] * 9 + [False]),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=300) | st.text(max_size=90).map(str.encode),
    st.sampled_from([False] * 9 + [True]),
)


@given(st.lists(FRAMES, max_size=8), st.booleans(), st.booleans(), st.data())
def test_short_messages_are_taken_apart_as_the_parser_does_it(
    frames: list[bytes], is_text: bool, is_deflated: bool, data: st.DataObject
) -> None:
    """Cut at frames or anywhere: the same as from one that has had a pong first, and so has its parser from then on."""
    whole = b"".join(frames)
    cuts = data.draw(st.none() | st.lists(st.integers(0, len(whole)), max_size=3))
    if cuts is None:
        pieces = [each for each in frames if each]
    else:
        ends = [0, *sorted(cuts), len(whole)]
        pieces = [whole[start:end] for start, end in pairwise(ends) if start < end]
    quick, parser = (Inbound(is_text=is_text, payload_bytes_max=200, is_deflated=is_deflated) for _ in range(2))
    assert taken(parser, [client_frame(0x8A, True, b"mask", b"", False)]) == [Scrap()]
    parser.allow(200)
    assert taken(quick, pieces) == taken(parser, pieces)


@pytest.mark.parametrize("cut", range(40))
def test_what_was_not_asked_for_after_a_message_is_there_with_the_next_piece(cut: int) -> None:
    """Whoever refuses a message looks at nothing behind it, and still has to find the peer's close frame."""
    inbound = Inbound(is_text=False, payload_bytes_max=200)
    one = client_frame(0x82, True, b"mask", b"one", False)
    whole = one * 2 + client_frame(0x88, True, b"mask", (1000).to_bytes(2), False)
    cut = len(one) + cut % (len(whole) - len(one))
    assert next(inbound.receive(whole[:cut])) == b"one"
    assert taken(inbound, [whole[cut:]]) == [b"one", ClosedByPeer(1000)]


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
        assert w.hub.counters.cut_off == {"unfinished": 1}
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
