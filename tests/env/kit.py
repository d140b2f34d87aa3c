"""The acceptance kit of `ports.Transport` and `ports.Listener`: the real ones and the doubles pass the same tests."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from syncd.env.ports import Listener, Transport, TransportClosed, host_of

Pair = tuple[Transport, Transport]


async def send_all(transport: Transport, data: bytes) -> None:
    """What a shell does with a remainder."""
    left = memoryview(data)
    while left:
        taken = transport.send_now(left)
        left = left[taken:]
        if left:
            await transport.wait_writable()


async def receive_all(transport: Transport, bytes_max: int = 65536) -> bytes:
    chunks = []
    while chunk := await transport.receive(bytes_max):
        assert len(chunk) <= bytes_max
        chunks.append(chunk)
    return b"".join(chunks)


MUCH = bytes(1 << 20)


async def fill(transport: Transport) -> int:
    """Send zeros until nothing is taken any more. Whoever goes on offers zeros again (P6)."""
    total = 0
    while taken := transport.send_now(MUCH):
        total += taken
    return total


class TransportKit:
    """Subclass it, and give it a fixture `pair`: two connected ends."""

    async def test_bytes_arrive_both_ways(self, pair: Pair) -> None:
        near, far = pair
        assert near.send_now(b"ping") == 4
        assert await far.receive(100) == b"ping"
        assert far.send_now(memoryview(b"pong")) == 4
        assert await near.receive(100) == b"pong"

    async def test_receive_gives_at_most_what_was_asked(self, pair: Pair) -> None:
        near, far = pair
        near.send_now(b"abcdef")
        near.shutdown()
        assert await far.receive(4) == b"abcd"
        assert await far.receive(4) == b"ef"

    async def test_a_large_message_arrives_whole_and_in_order(self, pair: Pair) -> None:
        near, far = pair
        data = b"".join(n.to_bytes(4) for n in range(400_000))
        received = []

        async def read() -> None:
            received.append(await receive_all(far, 10_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await send_all(near, data)
            near.shutdown()
        assert received == [data]

    async def test_a_sender_runs_ahead_by_a_bounded_amount_and_can_wait(self, pair: Pair) -> None:
        near, far = pair
        total = await fill(near)
        assert 0 < total < 64 << 20
        assert near.send_now(MUCH) == 0
        woken = []

        async def wait() -> None:
            await near.wait_writable()
            woken.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked(0.01)
            assert not woken
            left = total
            while left:
                left -= len(await far.receive(65536))
        assert near.send_now(MUCH) > 0

    async def test_wait_writable_returns_when_there_is_room(self, pair: Pair) -> None:
        near, _ = pair
        await near.wait_writable()

    async def test_a_half_close_ends_one_direction_after_its_last_byte(self, pair: Pair) -> None:
        near, far = pair
        near.send_now(b"last words")
        near.shutdown()
        near.shutdown()
        assert await receive_all(far) == b"last words"
        assert await far.receive(10) == b""
        assert far.send_now(b"answer") == 6
        assert await near.receive(100) == b"answer"
        with pytest.raises(TransportClosed):
            near.send_now(b"more")

    @pytest.mark.parametrize(
        "wait", [lambda transport: transport.receive(10), lambda transport: transport.wait_writable()]
    )
    async def test_abort_wakes_whoever_waits(self, pair: Pair, wait: Callable[[Transport], object]) -> None:
        near, _ = pair
        await fill(near)
        ended = []

        async def waiter() -> None:
            with pytest.raises(TransportClosed):
                await wait(near)  # type: ignore[misc]
            ended.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            await wait_all_tasks_blocked(0.01)
            near.abort()
        assert ended

    async def test_after_abort_every_method_says_so(self, pair: Pair) -> None:
        near, _ = pair
        near.abort()
        near.abort()
        near.shutdown()
        with pytest.raises(TransportClosed):
            near.send_now(b"x")
        with pytest.raises(TransportClosed):
            await near.receive(10)
        with pytest.raises(TransportClosed):
            await near.wait_writable()
        assert near.peer

    async def test_what_was_not_read_before_an_abort_is_not_read_after_it(self, pair: Pair) -> None:
        near, far = pair
        far.send_now(b"abcdef")
        assert await near.receive(2) == b"ab"
        near.abort()
        with pytest.raises(TransportClosed):
            await near.receive(10)

    async def test_the_peer_of_an_aborted_end_learns_of_it(self, pair: Pair) -> None:
        near, far = pair
        near.send_now(b"last words")
        near.abort()
        with trio.fail_after(5):
            with suppress(TransportClosed):  # a reset
                assert await receive_all(far) in (b"", b"last words")
            with pytest.raises(TransportClosed):
                while True:
                    far.send_now(b"x" * 1000)
                    await far.wait_writable()

    async def test_receive_can_be_cancelled_and_loses_nothing(self, pair: Pair) -> None:
        near, far = pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.receive, 10)
            await wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        near.send_now(b"kept")
        assert await far.receive(10) == b"kept"


Connect = Callable[[], object]


class ListenerKit:
    """Subclass it, and give it fixtures `listener`, and `connect`: an async function that makes a client's end."""

    async def test_accept_gives_the_servers_end(self, listener: Listener, connect: Connect) -> None:
        client: Transport = await connect()  # type: ignore[misc]
        server = await listener.accept()
        client.send_now(b"hello")
        assert await server.receive(10) == b"hello"
        assert server.peer == "unix" or host_of(server.peer)
        client.abort()
        server.abort()

    async def test_close_wakes_who_accepts(self, listener: Listener) -> None:
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises(TransportClosed):
                    await listener.accept()

            nursery.start_soon(accept)
            await wait_all_tasks_blocked(0.01)
            listener.close()
        with pytest.raises(TransportClosed):
            await listener.accept()
        listener.close()

    async def test_nobody_connects_to_a_closed_listener(self, listener: Listener, connect: Connect) -> None:
        listener.close()
        with pytest.raises(TransportClosed):
            await connect()  # type: ignore[misc]
