"""The HTTP shell: requests, limits, keep-alive, and who may open a WebSocket."""

import json

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.env.memory import MemoryTransport
from syncd.net.exchange import BODY_BYTES_MAX, Request, Response, content
from syncd.net.http import BODY_PIECES_MAX
from syncd.net.limits import NetLimits
from tests.net.harness import Client, World, send_all, upgrade_request, world


async def everything(transport: MemoryTransport) -> bytes:
    """All that the server says until it ends the stream."""
    data = b""
    while piece := await transport.receive(65536):
        data += piece
    return data


async def said(w: World, request: bytes) -> bytes:
    transport = w.connect()
    await send_all(transport, request)
    transport.shutdown()
    answer = await everything(transport)
    transport.abort()
    return answer


def problem_of(answer: bytes) -> tuple[int, str]:
    """(status, name) of an answer that is a problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    return int(head.split()[1]), json.loads(body)["type"].removeprefix("/problems/")


async def test_requests_share_a_connection_and_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with world() as w:
        one = b"POST /a?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        two = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await said(w, one + two)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.index(b"POST /a q=1 3") < answer.index(b"GET /b  0")


async def test_head_has_the_length_and_no_body(autojump_clock: MockClock) -> None:
    async with world() as w:
        answer = await said(w, b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Content-Length: 10" in answer and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b"])
async def test_no_value_of_a_header_can_begin_another(autojump_clock: MockClock, value: str) -> None:
    class Careless:
        async def handle(self, request: Request) -> Response:
            return content(200, "text/plain", b"whole", (("X-Told", value),))

    async with world(api=Careless()) as w:
        assert await said(w, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert "failed" in w.logs[0]


async def test_what_follows_an_answered_request_is_read_to_its_end(autojump_clock: MockClock) -> None:
    """Piece by piece or at once, and the client's own end of the conversation is kept."""
    one = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    async with world() as w:
        assert (await said(w, one * 20)).count(b"POST /a  3") == 20
        transport = w.connect()
        for byte in one * 3:
            await send_all(transport, bytes((byte,)))
            await trio.lowlevel.checkpoint()
        transport.shutdown()
        assert (await everything(transport)).count(b"POST /a  3") == 3
        last = b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await said(w, one + last + one)
        assert answer.count(b"HTTP/1.1 200") == 2 and answer.lower().count(b"connection: close") == 1
        assert not w.logs


async def test_a_client_that_asks_first_is_told_to_go_on(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        await send_all(transport, b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await transport.receive(100)).startswith(b"HTTP/1.1 100 ")
        await send_all(transport, b"abc")
        assert b"POST /a  3" in await transport.receive(1000)
        transport.abort()


async def test_who_asks_first_and_does_not_read_the_answer_is_given_up_in_the_middle_of_it(
    autojump_clock: MockClock,
) -> None:
    """The time limit of the body cut off the answer that asks for it, and the refusal was written behind the half of
    it: over TLS, where a record that was begun is gone on with, less than all of that."""
    async with world() as w:
        length = len(await said(w, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"))
        transport = w.connect(buffer_bytes=length + 10)
        await send_all(transport, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        await send_all(transport, head)
        await trio.sleep(100)
        assert not w.logs
        answer = await everything(transport)
        assert answer[length:] == b"HTTP/1.1 100 "[:10]


async def test_a_body_that_is_too_long_is_refused_unread(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        length = str(BODY_BYTES_MAX + 1).encode()
        request = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: " + length + b"\r\n\r\n"
        await send_all(transport, request)
        answer = await everything(transport)
        assert problem_of(answer) == (413, "too-large") and b"Connection: close" in answer
        transport.abort()


async def test_a_chunked_body_that_is_too_long_is_refused_on_the_way(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        await send_all(transport, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        answers: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                answers.append(await everything(transport))
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            for _ in range(BODY_BYTES_MAX // 65536 + 2):
                await send_all(transport, chunk)
            await trio.sleep(20)
        assert problem_of(answers[0]) == (413, "too-large")
        transport.abort()


async def test_a_body_in_tiny_pieces_is_refused_and_others_get_their_turn_meanwhile(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect(buffer_bytes=1 << 20)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await send_all(transport, head + b"1\r\nx\r\n" * (BODY_PIECES_MAX + 1))
        turns = 0
        answers: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                answers.append(await everything(transport))
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            while turns < BODY_PIECES_MAX:
                turns += 1
                await trio.lowlevel.checkpoint()
        assert problem_of(answers[0]) == (400, "malformed-request") and b"pieces" in answers[0]
        assert turns > BODY_PIECES_MAX // 256
        transport.abort()


async def test_as_many_pieces_as_a_body_may_have_are_taken(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect(buffer_bytes=1 << 20)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await send_all(transport, head + b"1\r\nx\r\n" * 16_000 + b"0\r\n\r\n")
        assert b"POST /  16000" in await transport.receive(1000)
        transport.abort()


async def test_unfinished_bodies_are_bounded_for_all_connections_together(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.net.http.BODIES_BYTES_MAX", 10_000)
    async with world() as w:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        first, second = w.connect(buffer_bytes=1 << 20), w.connect(buffer_bytes=1 << 20)
        await send_all(first, head + b"x" * 6000)
        await wait_all_tasks_blocked()
        await send_all(second, head + b"x" * 6000)
        refused = await everything(second)
        assert problem_of(refused) == (503, "overloaded") and b"Retry-After" in refused
        await send_all(first, b"x" * 3000)
        assert b"POST /  9000" in await first.receive(1000)
        third = w.connect(buffer_bytes=1 << 20)
        await send_all(third, head + b"x" * 9000)
        assert b"POST /  9000" in await third.receive(1000), "what was received does not count any more"
        for transport in (first, second, third):
            transport.abort()


class Long:
    """An API whose every answer is long."""

    async def handle(self, request: Request) -> Response:
        return content(200, "text/plain", bytes(10_000))


async def test_unread_answers_are_bounded_for_all_connections_together_and_the_stalled_go_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.net.http.UNSENT_BYTES_MAX", 35_000)
    async with world(api=Long()) as w:
        readers = [w.connect(buffer_bytes=1000) for _ in range(3)]
        for reader in readers:
            await send_all(reader, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            await wait_all_tasks_blocked()
        slow, stalled, third = readers
        begun = await slow.receive(1000)
        await wait_all_tasks_blocked()
        assert w.server._http.unsent_bytes <= 35_000 and w.server.connection_count == 3
        fourth = w.connect(buffer_bytes=1000)
        await send_all(fourth, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_all_tasks_blocked()
        assert w.server._http.unsent_bytes <= 35_000 and w.server.connection_count == 3
        assert len(await everything(stalled)) < 10_000, "who took nothing for longest was cut off"
        for reader in (slow, third, fourth):
            reader.shutdown()
        assert (begun + await everything(slow)).endswith(bytes(10_000))
        assert (await everything(third)).endswith(bytes(10_000)) and (await everything(fourth)).endswith(bytes(10_000))
        assert w.server._http.unsent_bytes == 0
        for reader in (slow, stalled, third, fourth):
            reader.abort()


async def test_the_last_request_that_a_connection_may_carry_is_answered_as_the_last(autojump_clock: MockClock) -> None:
    async with world(NetLimits(requests_per_connection_max=2)) as w:
        answer = await said(w, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        first, second = answer.split(b"HTTP/1.1 200 ")[1:]
        assert b"Connection: close" not in first and b"Connection: close" in second


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GARBAGE\r\n\r\n", (400, "malformed-request")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "malformed-request")),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", (400, "malformed-request")),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20000 + b"\r\n\r\n", (431, "headers-too-large")),
        (b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n", (500, "internal")),
    ],
)
async def test_what_cannot_be_served_is_answered_by_a_problem(
    request_bytes: bytes, expected: tuple[int, str], autojump_clock: MockClock
) -> None:
    async with world() as w:
        assert problem_of(await said(w, request_bytes)) == expected


async def test_a_handler_that_takes_too_long_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        await send_all(transport, b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert problem_of(await everything(transport)) == (503, "overloaded")
        assert trio.current_time() == pytest.approx(NetLimits().handle_s, abs=6)
        transport.abort()


async def test_headers_that_trickle_in_are_given_up(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        answers: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                answers.append(await everything(transport))
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            for byte in b"GET / HTTP/1.1\r\nHost: a-name-of-some-length":
                await send_all(transport, bytes((byte,)))
                await trio.sleep(1)
        assert problem_of(answers[0]) == (408, "request-timeout")
        assert trio.current_time() == pytest.approx(NetLimits().header_s, abs=2)
        transport.abort()


async def test_a_connection_that_says_nothing_ends_in_silence(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        assert await everything(transport) == b""
        assert trio.current_time() == pytest.approx(NetLimits().header_s, abs=1)


async def test_idle_connections_end_when_the_server_drains(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        await send_all(transport, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await transport.receive(1000)
        await wait_all_tasks_blocked()
        await w.server.drain(60)
        assert await transport.receive(1) == b""
        assert trio.current_time() < 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Upgrade": ""}, (426, "upgrade-required")),
        ({"Connection": "close"}, (400, "malformed-request")),
        ({"Sec_WebSocket_Version": "8"}, (426, "upgrade-required")),
        ({"Sec_WebSocket_Key": "short"}, (400, "malformed-request")),
        ({"Sec_WebSocket_Protocol": "chat, other"}, (400, "malformed-request")),
        ({"Sec_WebSocket_Protocol": ""}, (400, "malformed-request")),
        ({"Origin": "https://evil.example"}, (403, "forbidden")),
    ],
)
async def test_an_upgrade_that_is_not_one_is_told_what_is_missing(
    headers: dict[str, str], expected: tuple[int, str], autojump_clock: MockClock
) -> None:
    async with world(origins=frozenset({"https://app.example"})) as w:
        assert problem_of(await said(w, upgrade_request(**headers))) == expected
        older = upgrade_request(Origin="https://app.example").replace(b"HTTP/1.1", b"HTTP/1.0")
        assert problem_of(await said(w, older)) == (400, "malformed-request"), "RFC 6455, 4.2.1"


async def test_the_client_prefers_among_subprotocols(autojump_clock: MockClock) -> None:
    async with world(origins=frozenset({"https://app.example"})) as w:
        client = Client(w.connect())
        request = upgrade_request("other, syncd.v1.json, syncd.v1.msgpack", Origin="https://app.example")
        head = await client.upgrade(request)
        assert b"Sec-WebSocket-Protocol: syncd.v1.json" in head
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455, 1.3


async def test_beyond_the_limit_of_connections_comes_503(autojump_clock: MockClock) -> None:
    async with world(NetLimits(connections_max=2, refusals_max=1)) as w:
        await w.client(1)
        await w.client(2)
        client = Client(w.connect())
        await send_all(client.transport, upgrade_request())
        refused = w.connect()
        answer = await everything(client.transport)
        assert problem_of(answer) == (503, "overloaded") and b"Retry-After: 16" in answer
        assert await everything(refused) == b"", "beyond that, nothing"


async def test_upgrades_beyond_the_rate_come_again_later(autojump_clock: MockClock) -> None:
    async with world(NetLimits(upgrades_per_s_max=0.5, upgrades_burst_max=2)) as w:
        await w.client(1)
        await w.client(2)
        assert problem_of(await said(w, upgrade_request())) == (503, "overloaded")
        await trio.sleep(2)
        await w.client(3)


async def test_connections_of_an_address_are_bounded(autojump_clock: MockClock) -> None:
    async with world(NetLimits(connections_per_address_max=1)) as w:
        await w.client(1)
        assert problem_of(await said(w, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")) == (503, "overloaded")
        other = w.connect("10.0.0.2:7")
        await send_all(other, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"200" in await everything(other)
        other.abort()


async def test_between_pipelined_requests_others_get_their_turn(autojump_clock: MockClock) -> None:
    """All that one read brings was answered in one go: a thousand requests held up everyone for a second."""
    async with world() as w:
        transport = w.connect(buffer_bytes=1 << 20)
        await send_all(transport, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        turns = 0
        while w.hub.counters.responses[200] < 1_000:
            turns += 1
            await trio.lowlevel.checkpoint()
        assert turns > 500
        transport.abort()
