"""Requests that wait and responses that are streamed: every wait ends, with its peer at the latest."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.env.ports import TransportClosed
from syncd.net.exchange import Later, Request, Response, Send, content
from syncd.net.http import RECEIVE_BYTES
from syncd.net.limits import NetLimits
from tests.net.harness import send_all, world
from tests.net.test_http import everything, problem_of

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class Waiting:
    """An API whose every answer is the one given; counts those that wait."""

    def __init__(self, answer: Callable[[], Awaitable[Response]] | None = None, stream: object = None) -> None:
        self._answer, self._stream = answer, stream
        self.count = 0
        self.go = trio.Event()

    async def handle(self, request: Request) -> Response | Later:
        if request.path == "/now":
            return content(200, "text/plain", b"now")
        if self._stream is not None:
            return Response(200, (("Content-Type", "text/plain"),), stream=self._counted)
        return Later(40.0, self._later)

    async def _later(self) -> Response:
        self.count += 1
        try:
            await (self._answer or self.go.wait)()
        finally:
            self.count -= 1
        return content(200, "text/plain", b"done")

    async def _counted(self, send: Send) -> None:
        self.count += 1
        try:
            await self._stream(send)  # type: ignore[operator]
        finally:
            self.count -= 1


async def test_an_answer_that_comes_later_is_given_when_it_is_there(autojump_clock: MockClock) -> None:
    api = Waiting()
    async with world(api=api) as w:
        transport = w.connect()
        await send_all(transport, GET)
        await trio.sleep(39)  # beyond `handle_s`
        assert api.count == 1
        api.go.set()
        assert (await transport.receive(1000)).endswith(b"done")
        await send_all(transport, b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await transport.receive(1000)).endswith(b"now"), "the connection goes on"
        transport.abort()


async def test_a_wait_that_does_not_end_by_itself_is_ended(autojump_clock: MockClock) -> None:
    api = Waiting(trio.sleep_forever)
    async with world(NetLimits(handle_s=30.0), api=api) as w:
        transport = w.connect()
        await send_all(transport, GET)
        answer = await transport.receive(2000)
        assert problem_of(answer) == (503, "overloaded") and trio.current_time() == 70
        assert api.count == 0
        transport.abort()


@pytest.mark.parametrize("is_half_closed", [True, False])
async def test_a_wait_ends_when_its_peer_has_gone(autojump_clock: MockClock, is_half_closed: bool) -> None:
    api = Waiting()
    async with world(api=api) as w:
        transport = w.connect()
        await send_all(transport, GET)
        await wait_all_tasks_blocked()
        assert api.count == 1
        if is_half_closed:
            transport.shutdown()
        else:
            transport.abort()
        await wait_all_tasks_blocked()
        assert api.count == 0 and w.server.connection_count == 0 and trio.current_time() == 0


@pytest.mark.parametrize("is_half_closed", [True, False])
async def test_a_wait_ends_with_its_peer_although_that_has_sent_the_next_request(
    autojump_clock: MockClock, is_half_closed: bool
) -> None:
    api = Waiting()
    async with world(api=api) as w:
        transport = w.connect()
        for piece in (GET, b"GET /now HTTP/1.1\r\n", b"Host: x\r\n\r\n"):
            await send_all(transport, piece)
            await wait_all_tasks_blocked()
            assert api.count == 1
        if is_half_closed:
            transport.shutdown()
        else:
            transport.abort()
        await wait_all_tasks_blocked()
        assert api.count == 0 and w.server.connection_count == 0 and trio.current_time() == 0


async def test_of_what_comes_during_a_wait_a_bounded_part_is_read(autojump_clock: MockClock) -> None:
    api = Waiting()
    async with world(api=api) as w:
        transport = w.connect(buffer_bytes=4096)
        await send_all(transport, GET)
        sent = 0
        while taken := transport.send_now(bytes(4096)):
            sent += taken
            await wait_all_tasks_blocked()
        assert api.count == 1 and sent <= RECEIVE_BYTES + 2 * 4096
        transport.abort()


async def test_a_request_that_comes_during_a_wait_is_answered_after_it(autojump_clock: MockClock) -> None:
    api = Waiting()
    async with world(api=api) as w:
        transport = w.connect()
        await send_all(transport, GET)
        await wait_all_tasks_blocked()
        await send_all(transport, b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_all_tasks_blocked()
        assert api.count == 1
        api.go.set()
        await wait_all_tasks_blocked()
        answers = await transport.receive(2000)
        assert answers.index(b"done") < answers.index(b"now")
        transport.abort()


async def test_what_fails_while_it_waits_is_logged_and_answered(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await trio.sleep(1)
        raise RuntimeError("a defect")

    async with world(api=Waiting(fail)) as w:  # type: ignore[arg-type]
        transport = w.connect()
        await send_all(transport, GET)
        assert problem_of(await transport.receive(2000)) == (500, "internal")
        assert len(w.logs) == 1 and "a defect" in w.logs[0]
        transport.abort()


async def test_a_drain_waits_for_a_waiting_request_and_no_longer_than_it_may(autojump_clock: MockClock) -> None:
    api = Waiting()
    async with world(api=api) as w:
        transport = w.connect()
        await send_all(transport, GET)
        await wait_all_tasks_blocked()
        w.nursery.start_soon(w.server.drain, 10.0)
        await trio.sleep(5)
        api.go.set()
        answer = await everything(transport)
        assert answer.endswith(b"done") and b"Connection: close" in answer
        transport.abort()


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_arrives_piece_by_piece_with_an_end_and_the_connection_goes_on(
    autojump_clock: MockClock,
) -> None:
    async def stream(send: Send) -> None:
        for piece in (b"one", b"two"):
            await send(piece)
            await trio.sleep(50)

    async with world(api=Waiting(stream=stream)) as w:
        transport = w.connect()
        await send_all(transport, GET)
        await wait_all_tasks_blocked()
        head = await transport.receive(1000)
        assert b"Transfer-Encoding: chunked" in head and b"Content-Length" not in head
        assert head.endswith(b"3\r\none\r\n")
        assert await transport.receive(1000) == b"3\r\ntwo\r\n" and trio.current_time() == 50
        assert await transport.receive(1000) == b"0\r\n\r\n"
        await send_all(transport, b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await transport.receive(1000)).endswith(b"now")
        transport.abort()


async def test_a_stream_waits_for_a_slow_reader_and_leaves_one_that_takes_nothing(autojump_clock: MockClock) -> None:
    sent = 0

    async def stream(send: Send) -> None:
        nonlocal sent
        while True:
            await send(bytes(1000))
            sent += 1

    api = Waiting(stream=stream)
    async with world(NetLimits(write_s=30.0), api=api) as w:
        transport = w.connect(buffer_bytes=4000)
        await send_all(transport, GET)
        await wait_all_tasks_blocked()
        assert api.count == 1 and sent < 4, "no more was made than the socket took"
        for _ in range(10):
            await trio.sleep(20)
            await transport.receive(100)
        assert api.count == 1, "it takes little, but it takes something"
        await trio.sleep(31)
        assert api.count == 0 and w.server.connection_count == 0
        transport.abort()


async def test_a_stream_ends_when_its_peer_has_gone(autojump_clock: MockClock) -> None:
    async def stream(send: Send) -> None:
        await send(b"x")
        await trio.sleep_forever()

    api = Waiting(stream=stream)
    async with world(api=api) as w:
        transport = w.connect()
        await send_all(transport, GET)
        await wait_all_tasks_blocked()
        transport.abort()
        await wait_all_tasks_blocked()
        assert api.count == 0 and w.server.connection_count == 0 and trio.current_time() == 0


@pytest.mark.parametrize("is_defect", [True, False])
async def test_a_stream_that_fails_or_never_ends_is_cut_without_the_mark_of_the_end(
    autojump_clock: MockClock, is_defect: bool
) -> None:
    async def stream(send: Send) -> None:
        await send(b"x")
        await trio.sleep(1)
        if is_defect:
            raise RuntimeError("a defect")
        await trio.sleep_forever()

    async with world(NetLimits(stream_s=100.0), api=Waiting(stream=stream)) as w:
        transport = w.connect()
        await send_all(transport, GET)
        data = b""
        with pytest.raises(TransportClosed):
            while piece := await transport.receive(1000):
                data += piece
            raise TransportClosed("the end of the stream")
        assert data.endswith(b"1\r\nx\r\n"), "no last chunk: the reader knows that it is not whole"
        assert trio.current_time() == (1 if is_defect else 100)
        assert bool(w.logs) == is_defect
        transport.abort()


async def test_an_http_1_0_peer_gets_a_stream_that_ends_with_the_connection(autojump_clock: MockClock) -> None:
    async def stream(send: Send) -> None:
        await send(b"one")

    async with world(api=Waiting(stream=stream)) as w:
        transport = w.connect()
        await send_all(transport, b"GET /a HTTP/1.0\r\n\r\n")
        answer = await everything(transport)
        assert answer.endswith(b"\r\n\r\none") and b"chunked" not in answer
        transport.abort()
