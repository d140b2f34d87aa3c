"""Clients that mean harm: what they make the server hold or do is bounded, and others do not notice."""

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import Ping, Pong

from syncd.env.ports import TransportClosed
from syncd.wire.limits import Limits
from tests.net.harness import SPACE, Client, send_all, upgrade_request, world


@pytest.mark.parametrize("header", ["Content-Length: 10", "Transfer-Encoding: chunked", "Content-Length: 0010"])
async def test_an_upgrade_with_a_body_is_refused_and_not_waited_for(autojump_clock: MockClock, header: str) -> None:
    async with world() as w:
        transport = w.connect()
        await send_all(transport, upgrade_request().replace(b"\r\n\r\n", f"\r\n{header}\r\n\r\n".encode()))
        with trio.fail_after(60):
            assert (await transport.receive(65536)).startswith(b"HTTP/1.1 400 ")
            while await transport.receive(65536):
                pass
            transport.abort()
        await trio.sleep(60)
        assert w.server.connection_count == 0


async def test_a_connection_that_ends_before_hello_is_no_defect(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect())
        await client.upgrade()
        client.transport.abort()
        await trio.sleep(1)
        assert w.server.connection_count == 0 and w.logs == []


@pytest.mark.parametrize("kind", ["ping", "pong", "piece"])
async def test_a_flood_of_frames_without_content_ends_its_connection(autojump_clock: MockClock, kind: str) -> None:
    """Six bytes each: the rate of messages would not see them."""
    async with world() as w:
        client = await w.client()
        piece = b"\x00\x80\0\0\0\0"
        data = {
            "ping": client.websocket.send(Ping(payload=b"")), "pong": client.websocket.send(Pong(payload=b"")),
            "piece": piece,
        }[kind]  # fmt: skip
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                try:
                    if kind == "piece":
                        await send_all(client.transport, b"\x02\x80\0\0\0\0")
                    await send_all(client.transport, data * 5_000)
                except TransportClosed:
                    pass

            nursery.start_soon(flood)
            with trio.fail_after(60):
                assert (await client.closing()).code == 4100
            nursery.cancel_scope.cancel()


async def test_a_large_message_may_come_in_many_pieces(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        change = client.change(["create", "c", "i"], *(["reg.set", "c", "i", f"f{i}", "x" * 50_000] for i in range(4)))
        payload = client.encoded("push", space=SPACE, epoch=None, changes=[change])
        pieces = [payload[i : i + 150] for i in range(0, len(payload), 150)]
        assert len(pieces) > 1_300
        for index, piece in enumerate(pieces):
            opcode = (2 if index == 0 else 0) | (0x80 if index == len(pieces) - 1 else 0)
            head = bytes((opcode, 0x80 | 126)) + len(piece).to_bytes(2) if len(piece) > 125 else bytes(
                (opcode, 0x80 | len(piece)))  # fmt: skip
            await send_all(client.transport, head + bytes(4) + piece)
        assert (await client.expect("outcomes"))["outcomes"][0][2] == "applied"


async def test_one_who_does_not_read_is_not_owed_outcomes_of_ever_more_spaces(autojump_clock: MockClock) -> None:
    limits = Limits(subscriptions_max=4, pushes_in_flight_max=2)
    async with world(wire_limits=limits) as w:
        client = await w.client(buffer_bytes=2_000)
        reads = client.change(["create", "c", "i"], *(["reg.set", "c", "i", f"f{i}", "x" * 9_000] for i in range(4)))
        await client.push(reads)
        await client.expect("outcomes")
        await client.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=1)
        with pytest.raises(TransportClosed):
            for i in range(100):
                await client.push([1, bytes(8), 0, 1, [["create", "c", "i"]]], space=f"room/x{i}")
                await trio.sleep(0.1)
        assert all(len(member.delivery.channels) <= 6 for member in w.hub.members)


async def test_a_subscription_ended_while_it_was_made_stays_ended(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        for _ in range(3):
            await client.push(client.change(["create", "c", str(client.n)]), space="room/2")
            await client.send("subscribe", space="room/2", epoch=None, complete=0, resume=0, settled=0)
            await client.send("unsubscribe", space="room/2", forget=True)
        await client.send("probe", id=7)
        names = []
        while not names or names[-1] != "pong":
            names.append((await client.receive()).name)
        await trio.sleep(5)
        assert w.hub.room_count == 0 and w.logs == []


@pytest.mark.parametrize(("path", "is_answered"), [("/soon", True), ("/slow", False)])
async def test_a_request_that_was_taken_is_answered_before_the_server_goes_but_not_for_ever(
    autojump_clock: MockClock, path: str, is_answered: bool
) -> None:
    async with world() as w:
        transport = w.connect()
        await send_all(transport, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await trio.sleep(0.1)
        began_s = trio.current_time()
        await w.server.drain(10)
        assert trio.current_time() - began_s == pytest.approx(0.9 if is_answered else 10, abs=0.1)
        if is_answered:
            assert (await transport.receive(65536)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("protocol", ["syncd.v1.msgpack", "syncd.v1.json"])
async def test_before_hello_little_is_kept(autojump_clock: MockClock, protocol: str) -> None:
    async with world() as w:
        client = Client(w.connect(), protocol=protocol)
        await client.upgrade()
        await client.send("hello", **client.hello("x" * 100_000))
        assert (await client.closing()).code == 1009
        client = Client(w.connect(), protocol=protocol)
        await client.upgrade()
        await client.greet(w.token())
        await client.send("push", space=SPACE, epoch=None, changes=[["void", 1, 1, "00" * 8, ""]] if client.is_text
                          else [["void", 1, 1, bytes(8), ""]], padding="x" * 500_000)  # fmt: skip
        assert (await client.expect("outcomes"))["outcomes"][0][2] == "void"


async def test_two_lengths_of_one_body_are_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        transport = w.connect()
        head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        await send_all(transport, head)
        assert (await transport.receive(65536)).startswith(b"HTTP/1.1 400 ")
