"""Compression: what is agreed on, what is shared, and that nothing received becomes more than a message may be."""

import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage
from wsproto.extensions import PerMessageDeflate

from syncd.net.deflate import DEFLATE_BYTES_MIN, agreed
from syncd.net.formats import FORMATS, format_of
from syncd.net.websocket import BINARY, DEFLATED, FrameRefused, Inbound, Pinged, frame
from syncd.wire.codec import JSON, MSGPACK
from tests.net.harness import Client, Mirror, send_all, world

BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
LIMIT = 1_048_576
CONTINUATION, PING, FINAL = 0x0, 0x9, 0x80
TEXT_OF_MANY_BYTES = "milk, eggs and bread; " * 100


def compressed(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def client_frame(first: int, payload: bytes) -> bytes:
    """A frame of a client, masked with zeros; `first`: its first byte."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8)
    return head + bytes(4) + payload


def inbound(payload_bytes_max: int = LIMIT) -> Inbound:
    return Inbound(is_text=False, payload_bytes_max=payload_bytes_max, is_deflated=True)


# -- what is agreed on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "response", "is_sent"),
    [
        ("permessage-deflate", BOTH, True),
        ("permessage-deflate; client_max_window_bits", BOTH, True),
        ("permessage-deflate; client_max_window_bits=10; client_no_context_takeover", BOTH, True),
        ("PerMessage-Deflate;server_no_context_takeover", BOTH, True),
        ("permessage-deflate; server_max_window_bits=15", f"{BOTH}; server_max_window_bits=15", True),
        ('permessage-deflate; server_max_window_bits="9"', f"{BOTH}; server_max_window_bits=9", False),
        ("x-other, permessage-deflate; unknown, permessage-deflate", BOTH, True),
        (
            "permessage-deflate; server_max_window_bits=9, permessage-deflate",
            f"{BOTH}; server_max_window_bits=9",
            False,
        ),
    ],
)
def test_the_first_offer_that_can_be_kept_is_accepted_without_context_takeover(
    offer: str, response: str, is_sent: bool
) -> None:
    agreement = agreed(offer)
    assert agreement is not None
    assert (agreement.response, agreement.is_sent) == (response, is_sent)


@pytest.mark.parametrize(
    "offer",
    [
        "", ",", "x-webkit-deflate-frame", "permessage-deflate; what", "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7", "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09", "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_no_context_takeover=1", "permessage-deflate;",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "x, x, x, x, x, x, x, x, permessage-deflate",
    ],
)  # fmt: skip
def test_an_offer_with_what_is_not_in_the_rfc_is_declined(offer: str) -> None:
    assert agreed(offer) is None


@given(st.text(st.sampled_from('permessage-deflate;,="0159 _cx'), max_size=60))
def test_no_header_breaks_the_negotiation(header: str) -> None:
    agreement = agreed(header)
    assert agreement is None or agreement.response.startswith(BOTH)


async def test_who_offers_nothing_is_answered_nothing(autojump_clock: MockClock) -> None:
    async with world() as w:
        head = await Client(w.connect()).upgrade()
        assert b"Extensions" not in head


# -- what is sent -----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=2000), st.integers(0, 60))
def test_a_client_reads_each_frame_by_itself(part: bytes, repeats: int) -> None:
    payload = part * repeats
    deflate = PerMessageDeflate()
    deflate.finalize(BOTH)
    client = Connection(ConnectionType.CLIENT, [deflate])
    data = format_of(MSGPACK, is_deflated=True).framed(payload)
    assert bool(data[0] & DEFLATED) <= (len(payload) >= DEFLATE_BYTES_MIN)
    assert len(data) <= len(frame(BINARY, payload))
    for _ in range(2):  # the same bytes again: no frame leans on one before it
        client.receive_data(data)
        events = [event for event in client.events() if isinstance(event, BytesMessage)]
        assert b"".join(bytes(event.data) for event in events) == payload


def test_every_format_stands_at_its_number_and_those_of_one_codec_together() -> None:
    assert [item.number for item in FORMATS] == list(range(len(FORMATS)))
    assert [item.codec for item in FORMATS] == [MSGPACK, MSGPACK, JSON, JSON]
    for item in FORMATS:
        assert format_of(item.codec, is_deflated=item.is_deflated) is item


@pytest.mark.parametrize("protocol", ["syncd.v1.msgpack", "syncd.v1.json"])
async def test_all_subscribers_of_a_format_get_the_same_compressed_bytes(
    protocol: str, autojump_clock: MockClock
) -> None:
    async with world() as w:
        readers = [await w.client(i, protocol=protocol, deflate=PerMessageDeflate()) for i in (1, 2)]
        plain, writer = await w.client(3, protocol=protocol), await w.client(4, deflate=PerMessageDeflate())
        for reader in (*readers, plain):
            await reader.subscribe()
        await writer.push(writer.change(["create", "notes", "a"], ["reg.set", "notes", "a", "t", TEXT_OF_MANY_BYTES]))
        await writer.expect("outcomes")
        received = [await reader.transport.receive(65536) for reader in (*readers, plain)]
        assert received[0] == received[1]
        assert received[0][0] & DEFLATED and not received[2][0] & DEFLATED
        assert len(received[0]) < len(received[2]) / 4
        bodies = []
        for reader, data in zip((*readers, plain), received, strict=True):
            reader._feed(data)
            bodies.append((await reader.expect("delta")).body)
        assert bodies[0] == bodies[1] == bodies[2]


async def test_a_client_with_a_small_window_gets_its_messages_as_they_are(autojump_clock: MockClock) -> None:
    async with world() as w:
        reader = await w.client(1, deflate=PerMessageDeflate(server_max_window_bits=9))
        await reader.subscribe()
        await reader.push(reader.change(["create", "notes", "a"], ["reg.set", "notes", "a", "t", TEXT_OF_MANY_BYTES]))
        await reader.expect("outcomes")
        data = await reader.transport.receive(65536)
        assert not data[0] & DEFLATED
        reader._feed(data)
        assert (await reader.expect("delta"))["docs"][0][4]["t"][1] == TEXT_OF_MANY_BYTES


async def test_a_first_download_of_many_pages_comes_compressed(autojump_clock: MockClock) -> None:
    async with world() as w:
        writer, mirror = await w.client(1, deflate=PerMessageDeflate()), Mirror()
        for part in range(2):
            names = [f"{part}-{i}" for i in range(250)]
            creates = [[["create", "n", name], ["reg.set", "n", name, "t", TEXT_OF_MANY_BYTES]] for name in names]
            await writer.push(*[writer.change(*operations) for operations in creates])
            await writer.expect("outcomes")
        reader = await w.client(2, deflate=PerMessageDeflate())
        await reader.send("subscribe", space=mirror.space, **mirror.positions())
        while mirror.complete < 500:
            mirror.take(await reader.receive())
        assert mirror.deltas > 3 and len(mirror.documents) == 500


# -- what is received -------------------------------------------------------------------------------------------------


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Messages, and one way to send them: compressed or not, in frames of any size, with pings between."""
    payloads = draw(st.lists(st.binary(max_size=300).map(lambda part: part * 3), min_size=1, max_size=5))
    sent = b""
    for payload in payloads:
        is_deflated = draw(st.booleans())
        data = compressed(payload) if is_deflated else payload
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
        pieces = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for number, piece in enumerate(pieces):
            first = CONTINUATION if number else BINARY | DEFLATED * is_deflated
            sent += client_frame(first | FINAL * (number == len(pieces) - 1), piece)
            if draw(st.booleans()):
                sent += client_frame(FINAL | PING, b"between")
    return payloads, sent


@given(conversations(), st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_compressed_and_cut(
    conversation: tuple[list[bytes], bytes], step: int
) -> None:
    payloads, sent = conversation
    receiver = inbound()
    items = [item for at in range(0, len(sent), step) for item in receiver.receive(sent[at : at + step])]
    assert [item for item in items if isinstance(item, bytes)] == payloads
    assert all(item.payload == b"between" for item in items if isinstance(item, Pinged))


def bomb(bytes_count: int) -> Iterator[bytes]:
    """The frames of one message that becomes so many zeros: a thousandth of them."""
    compressor = zlib.compressobj(1, wbits=-15)
    for number in range(bytes_count // LIMIT):
        piece = compressor.compress(bytes(LIMIT)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        yield client_frame(CONTINUATION if number else BINARY | DEFLATED, piece)


@pytest.mark.parametrize("is_one_frame", [True, False])
def test_a_bomb_is_refused_before_it_takes_more_than_a_message(is_one_frame: bool) -> None:
    frames = list(bomb(64 * LIMIT))
    if is_one_frame:
        frames = [client_frame(FINAL | BINARY | DEFLATED, b"".join(data[8:] for data in frames))]
    receiver = inbound()
    tracemalloc.start()
    try:
        with pytest.raises(FrameRefused) as refused:
            for data in frames:
                list(receiver.receive(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.code == 1009
    assert peak < 6 * LIMIT  # of 64: the piece that was inflated last, and wsproto's copies of it


def test_blocks_that_hold_nothing_are_bounded_too() -> None:
    receiver = inbound(10_000)
    nothing = b"\x00\x00\x00\xff\xff" * 100
    list(receiver.receive(client_frame(BINARY | DEFLATED, nothing)))
    with pytest.raises(FrameRefused) as refused:
        for _ in range(30):
            list(receiver.receive(client_frame(CONTINUATION, nothing)))
    assert refused.value.code == 1009


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
def test_the_limit_is_exact_for_what_a_message_becomes(size: int) -> None:
    data = client_frame(FINAL | BINARY | DEFLATED, compressed(bytes(size)))
    if size <= LIMIT:
        assert list(inbound().receive(data)) == [bytes(size)]
    else:
        with pytest.raises(FrameRefused, match="compressed or not"):
            list(inbound().receive(data))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(FINAL | BINARY | DEFLATED, b"\xff\xff\xff"), 1007),
        (client_frame(FINAL | BINARY | DEFLATED, b""), 1007),
        (client_frame(FINAL | BINARY | DEFLATED, bytes.fromhex("f348cdc9c907000000")), 1007),
        (client_frame(FINAL | PING | DEFLATED, b"x"), 1002),
        (client_frame(BINARY, b"x") + client_frame(FINAL | DEFLATED, compressed(b"x")), 1002),
        (client_frame(FINAL | BINARY | 0x20, b"x"), 1002),
    ],
)
def test_a_breach_of_the_rfc_has_the_code_that_it_asks_for(data: bytes, code: int) -> None:
    with pytest.raises(FrameRefused) as refused:
        list(inbound().receive(data))
    assert refused.value.code == code


def test_a_final_block_ends_a_message_as_the_rfc_shows_it() -> None:
    hello = bytes.fromhex("f348cdc9c9070000")  # RFC 7692, 7.2.3.4
    assert list(inbound().receive(client_frame(FINAL | BINARY | DEFLATED, hello))) == [b"Hello"]


def test_without_an_agreement_no_compressed_frame_is_taken() -> None:
    receiver = Inbound(is_text=False, payload_bytes_max=LIMIT)
    with pytest.raises(FrameRefused) as refused:
        list(receiver.receive(client_frame(FINAL | BINARY | DEFLATED, compressed(b"x"))))
    assert refused.value.code == 1002


async def test_a_bomb_ends_with_1009_and_its_error(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(1, deflate=PerMessageDeflate())
        await send_all(client.transport, client_frame(FINAL | BINARY | DEFLATED, compressed(bytes(LIMIT + 1))))
        error = await client.expect("error")
        assert error["name"] == "malformed" and "compressed or not" in error["detail"]
        assert (await client.closing()).code == 1009


async def test_before_welcome_no_more_is_inflated_than_a_hello_needs(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect(), deflate=PerMessageDeflate())
        await client.upgrade()
        await send_all(client.transport, client_frame(FINAL | BINARY | DEFLATED, compressed(bytes(65_537))))
        assert (await client.closing()).code == 1009
