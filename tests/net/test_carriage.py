"""A polled connection's byte stream and its numbers, without HTTP: the port's contract, and the law of the carriage."""

import json
from random import Random

import msgpack
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.env.ports import TransportClosed
from syncd.net.carriage import BUFFER_BYTES, Carriage, Ended, OutOfOrder, PolledTransport
from syncd.net.websocket import BINARY, PONG, TEXT, Closed, Inbound, close_frame, frame, frames_of, masked_frame
from tests.env.kit import Pair, TransportKit


class OtherEnd:
    """What the requests do, as a `Transport`: bytes are offered, fetched, and released once they were read."""

    def __init__(self, server: PolledTransport) -> None:
        self.peer = "server.invalid:8740"
        self._server = server
        self._piece = memoryview(b"")
        self._is_aborted = self._is_ended = False

    def send_now(self, data: bytes | memoryview) -> int:
        if self._is_aborted or self._is_ended or self._server._is_aborted:
            raise TransportClosed("aborted")
        if not self._server.has_room:
            return 0
        self._server.offer(bytes(data))
        return len(data)

    async def receive(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._is_aborted:
            if not self._piece:
                self._piece = memoryview(self._server.fetched() or b"")
            if self._piece:
                data, self._piece = bytes(self._piece[:bytes_max]), self._piece[bytes_max:]
                self._server.release(len(data))
                return data
            if self._server.is_ended:
                return b""
            await self._server.wait_changed()
        raise TransportClosed("aborted")

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._is_aborted:
            if self._server._is_aborted:
                raise TransportClosed("aborted")
            if self._server.has_room:
                return
            await self._server.wait_changed()
        raise TransportClosed("aborted")

    def shutdown(self) -> None:
        self._is_ended = True
        self._server.end_inward()

    def abort(self) -> None:
        self._is_aborted = True
        self._server.end_inward()
        self._server.shutdown()


class TestPolledTransport(TransportKit):
    @pytest.fixture
    def pair(self) -> Pair:
        transport = PolledTransport("client.invalid:1")
        return transport, OtherEnd(transport)


class TestTheOtherEnd(TransportKit):
    @pytest.fixture
    def pair(self) -> Pair:
        transport = PolledTransport("client.invalid:1")
        return OtherEnd(transport), transport


@given(st.lists(st.tuples(st.sampled_from((TEXT, BINARY, PONG)), st.integers(0, 70_000)), max_size=5))
@settings(max_examples=50, deadline=None)
def test_frames_taken_apart_are_what_was_put_together(sizes: list[tuple[int, int]]) -> None:
    payloads = [(opcode, bytes([index]) * size) for index, (opcode, size) in enumerate(sizes)]
    data = b"".join(frame(*each) for each in payloads)
    assert [(opcode, bytes(payload)) for opcode, payload, _ in frames_of(data)] == payloads
    assert sum(size for _, _, size in frames_of(data)) == len(data)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_mask_of_zeros_is_a_mask(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    inbound = Inbound(is_text=False, payload_bytes_max=size)
    assert list(inbound.receive(masked_frame(BINARY, payload) + masked_frame(8, b"\x03\xe8"))) == [
        payload, Closed(1000)]  # fmt: skip


# -- the law ----------------------------------------------------------------------------------------------------------


class Story:
    """Some messages each way over one carriage, with requests that are lost, repeated and late. Whatever happens, each
    side must come to have read exactly what the other wrote, in order."""

    def __init__(self, seed: int, is_text: bool) -> None:
        self.random = Random(seed)
        self.is_text = is_text
        self.transport = PolledTransport("client.invalid:1")
        self.carriage = Carriage(self.transport, is_text=is_text, answer_bytes_max=3_000)
        self.inbound = Inbound(is_text=is_text, payload_bytes_max=1 << 20)
        self.upward = [self.message(i) for i in range(self.random.randint(0, 12))]
        self.downward = [self.message(i) for i in range(self.random.randint(0, 30))]
        self.read_above: list[list[object]] = []
        self.read_below: list[list[object]] = []
        self.answers: dict[int, bytes] = {}
        self.ends: list[tuple[int, str]] = []
        self.all_is_read = trio.Event()
        if not self.upward:
            self.all_is_read.set()

    def message(self, number: int) -> list[object]:
        return [number, "x" * self.random.choice((0, 10, 500, 2_500, 40_000))]

    def encoded(self, message: list[object]) -> bytes:
        return json.dumps([message]).encode() if self.is_text else msgpack.packb(message)

    def decoded(self, body: bytes | str) -> list[list[object]]:
        if self.is_text:
            return list(json.loads(body))
        assert isinstance(body, bytes)
        unpacker = msgpack.Unpacker()
        unpacker.feed(body)
        return list(unpacker)

    async def pause(self) -> None:
        await trio.sleep(self.random.choice((0, 0.001, 0.02, 0.5)))

    async def server_reads(self) -> None:
        while data := await self.transport.receive(self.random.choice((7, 1_000, 65_536))):
            for item in self.inbound.receive(data):
                if not isinstance(item, Closed):
                    assert isinstance(item, bytes | str)
                    self.read_above += self.decoded(item)
            if len(self.read_above) >= len(self.upward):
                self.all_is_read.set()
            await self.pause()
        self.transport.shutdown()

    async def server_writes(self) -> None:
        opcode = TEXT if self.is_text else BINARY
        for message in self.downward:
            data = frame(opcode, self.encoded(message))
            while not self.transport.send_now(data):
                assert self.transport.held_bytes >= BUFFER_BYTES
                await self.transport.wait_writable()
            assert self.transport.held_bytes < BUFFER_BYTES + len(data)
            await self.pause()
        await self.all_is_read.wait()
        while not self.transport.send_now(close_frame(4001, "enough")):
            await self.transport.wait_writable()

    async def one_take(self, n: int) -> bool:
        """One request. False: its answer is lost."""
        try:
            await self.carriage.take(n, self.encoded(self.upward[n - 1]))
        except OutOfOrder as wrong:
            assert n < wrong.expected - 1 or n > wrong.expected
            return True
        return self.random.random() > 0.3

    async def client_writes(self, nursery: trio.Nursery) -> None:
        for n in range(1, len(self.upward) + 1):
            while True:
                await self.pause()
                for other in (n, self.random.randint(1, len(self.upward))):  # late, early, or twice at once
                    if self.random.random() < 0.3 and other <= n:
                        nursery.start_soon(self.one_take, other)
                if self.random.random() < 0.3 and n < len(self.upward):
                    with pytest.raises(OutOfOrder):
                        await self.carriage.take(n + 2, b"")
                if self.random.random() > 0.2 and await self.one_take(n):
                    break

    async def one_poll(self, after: int) -> tuple[int, bytes | None] | None:
        """One request. None: its answer is lost, or says nothing."""
        try:
            body = await self.carriage.answer(after, self.random.choice((0.0, 0.05, 25)))
        except OutOfOrder as wrong:
            assert after != wrong.expected
            return None
        except Ended as end:
            self.ends.append((end.code, end.reason))
            return after + 1, None
        if body is None:
            return None
        assert self.answers.setdefault(after + 1, body) == body, "an answer is the same each time"
        return (after + 1, body) if self.random.random() > 0.3 else None

    async def client_reads(self, nursery: trio.Nursery) -> None:
        after = 0
        while True:
            if self.random.random() < 0.3:
                nursery.start_soon(self.one_poll, self.random.randint(0, after))
            await self.pause()
            answer = await self.one_poll(after)
            if answer is None:
                continue
            after, body = answer
            if body is None:
                return
            self.read_below += self.decoded(body)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server_reads)
            nursery.start_soon(self.server_writes)
            nursery.start_soon(self.client_writes, nursery)
            nursery.start_soon(self.client_reads, nursery)


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_however_requests_are_lost_repeated_and_reordered_each_message_arrives_once_and_in_order(
    seed: int, is_text: bool
) -> None:
    story = Story(seed, is_text)
    trio.run(story.run, clock=MockClock(autojump_threshold=0))
    assert story.read_above == story.upward
    assert story.read_below == story.downward
    assert set(story.ends) == {(4001, "enough")}
    assert story.transport.held_bytes == 0


# -- bounds and ends --------------------------------------------------------------------------------------------------


def carriage() -> Carriage:
    return Carriage(PolledTransport("client.invalid:1"), is_text=False, answer_bytes_max=1_000)


async def test_what_is_not_acknowledged_counts_as_not_sent(autojump_clock: MockClock) -> None:
    it = carriage()
    data = frame(BINARY, bytes(BUFFER_BYTES))
    assert it.transport.send_now(data) == len(data)
    assert it.transport.send_now(b"x") == 0
    first = await it.answer(0, 25)
    assert first == bytes(BUFFER_BYTES) and it.transport.send_now(b"x") == 0
    assert await it.answer(0, 25) is first
    assert await it.answer(1, 1) is None
    assert it.transport.held_bytes == 0


async def test_an_answer_ends_before_the_frame_that_would_make_it_too_long(autojump_clock: MockClock) -> None:
    it = carriage()
    for size in (400, 400, 400, 5_000, 1):
        it.transport.send_now(frame(BINARY, bytes([size % 256]) * size))
    sizes = [len(await it.answer(after, 25) or b"") for after in range(4)]
    assert sizes == [800, 400, 5_000, 1]


async def test_two_that_ask_at_the_same_time_get_the_same_and_a_third_sends_the_oldest_away(
    autojump_clock: MockClock,
) -> None:
    it = carriage()
    told: dict[str, bytes | None] = {}

    async def ask(name: str) -> None:
        told[name] = await it.answer(0, 25)

    async with trio.open_nursery() as nursery:
        for name in ("first", "second", "third"):
            nursery.start_soon(ask, name)
            await wait_all_tasks_blocked()
        assert told == {"first": None}
        it.transport.send_now(frame(BINARY, b"news"))
    assert told == {"first": None, "second": b"news", "third": b"news"}


async def test_a_stream_that_ends_without_a_close_is_told_as_lost(autojump_clock: MockClock) -> None:
    it = carriage()
    it.transport.send_now(frame(BINARY, b"last"))
    it.transport.abort()
    assert await it.answer(0, 25) == b"last"
    for _ in range(2):
        with pytest.raises(Ended) as end:
            await it.answer(1, 25)
        assert end.value.code == 1006
    with pytest.raises(Ended):
        await it.take(1, b"")


async def test_who_waits_is_woken_by_the_end(autojump_clock: MockClock) -> None:
    it = carriage()
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(Ended):
                await it.answer(0, 1e6)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        it.transport.abort()
    assert trio.current_time() < 1


async def test_a_message_waits_until_those_before_it_were_read(autojump_clock: MockClock) -> None:
    it = carriage()
    await it.take(1, bytes(BUFFER_BYTES))
    with trio.move_on_after(25) as waiting:
        await it.take(2, b"x")
    assert waiting.cancelled_caught
    while it.transport._unread_bytes:
        await it.transport.receive(65_536)
    await it.take(2, b"x")
