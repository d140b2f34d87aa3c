"""What only the real ports can show: descriptors running out, files of sockets, threads."""

import os
import resource
import socket
import stat
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from syncd.env.ports import host_of
from syncd.env.real import (
    UNSENT_BYTES_MAX,
    SocketListener,
    SystemClock,
    SystemEntropy,
    ThreadOffload,
    environment,
    listen_tcp,
    listen_unix,
)


async def test_accept_outlives_a_shortage_of_descriptors_and_tells_of_it_once_a_minute(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    listener = listen_tcp("127.0.0.1", 0)
    client = socket.create_connection(listener.address)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        while True:
            try:
                held.append(os.dup(0))
            except OSError:
                break
        with trio.move_on_after(119):
            await listener.accept()
        assert caplog.text.count("cannot accept connections for now") == 2
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with trio.fail_after(5):
        server = await listener.accept()
    assert host_of(server.peer) == "127.0.0.1"
    server.abort()
    client.close()
    listener.close()


async def test_a_connection_that_was_reset_before_accept_is_no_harm() -> None:
    listener = listen_tcp("127.0.0.1", 0)
    gone = socket.create_connection(listener.address)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    client = socket.create_connection(listener.address)
    port = client.getsockname()[1]
    with trio.fail_after(5):
        while (server := await listener.accept()).peer != f"127.0.0.1:{port}":
            server.abort()
    server.abort()
    client.close()
    listener.close()


async def test_nothing_is_held_back_to_be_sent_together() -> None:
    listener = listen_tcp("127.0.0.1", 0)
    client = socket.create_connection(listener.address)
    server = await listener.accept()
    assert server._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    server.abort()
    client.close()
    listener.close()


async def test_a_peer_that_reads_nothing_leaves_little_with_the_kernel() -> None:
    """Else it takes 4 MiB: of memory for each such peer, and of old news that it gets before the newest."""
    listener = listen_tcp("127.0.0.1", 0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect(listener.address)
    server = await listener.accept()
    taken = idle = 0
    while idle < 50:  # what left for the peer's own buffer makes room for a moment
        count = server.send_now(bytes(30_000))
        idle = 0 if count else idle + 1
        taken += count
        await trio.sleep(0 if count else 0.001)
    assert UNSENT_BYTES_MAX <= taken < 4 * UNSENT_BYTES_MAX
    server.abort()
    client.close()
    listener.close()


async def test_an_address_can_be_listened_on_again_at_once() -> None:
    listener = listen_tcp("127.0.0.1", 0)
    client = socket.create_connection(listener.address)
    server = await listener.accept()
    server.abort()  # the side that closes first is left with TIME_WAIT
    listener.close()
    assert client.recv(1) == b""
    client.close()
    again = listen_tcp(*listener.address)
    with pytest.raises(OSError, match="in use"):
        listen_tcp(*listener.address)
    again.close()


async def test_a_unix_socket_is_for_our_own_user_and_its_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    listener = listen_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert listener.address == (str(path), 0)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    server = await listener.accept()
    assert server.peer == "unix" == host_of(server.peer)
    server.abort()
    client.close()
    listener.close()
    assert not path.exists()


async def test_a_socket_file_left_by_the_dead_is_replaced_and_any_other_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    listen_unix(path).close()
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        listen_unix(path)
    assert path.read_text() == "precious"


async def test_an_inherited_socket_is_served() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    listener = SocketListener(sock)
    client = socket.create_connection(listener.address)
    (await listener.accept()).abort()
    client.close()
    listener.close()


async def test_offloaded_calls_run_in_one_thread_of_their_own_in_order() -> None:
    offload = ThreadOffload("test")
    order: list[int] = []
    threads = set()

    def call(n: int) -> int:
        threads.add(threading.get_ident())
        order.append(n)
        return n * 2

    results: dict[int, int] = {}

    async def one(n: int) -> None:
        results[n] = await offload.run(call, n)

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(one, n)
    assert sorted(order) == list(range(20)) and results == {n: n * 2 for n in range(20)}
    assert len(threads) == 1 and threading.get_ident() not in threads
    offload.close()


async def test_what_an_offloaded_call_raises_comes_back() -> None:
    offload = ThreadOffload("test")
    with pytest.raises(ZeroDivisionError):
        await offload.run(divmod, 1, 0)
    assert await offload.run(divmod, 7, 2) == (3, 1)
    offload.close()


async def test_a_call_that_has_begun_is_waited_for_in_spite_of_cancellation() -> None:
    offload = ThreadOffload("test")
    begun, go = threading.Event(), threading.Event()
    ended = []

    def call() -> None:
        begun.set()
        go.wait()
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offload.run, call)
        await trio.to_thread.run_sync(begun.wait)
        nursery.cancel_scope.cancel()
        assert not ended
        go.set()
    assert ended
    offload.close()


async def test_a_call_that_waits_for_its_turn_is_given_up_by_cancellation_and_the_next_one_has_it() -> None:
    offload = ThreadOffload("test")
    begun, go = threading.Event(), threading.Event()
    order: list[int] = []

    def first() -> None:
        begun.set()
        go.wait()
        order.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offload.run, first)
        await trio.to_thread.run_sync(begun.wait)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(offload.run, order.append, 2)
            await trio.testing.wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        for number in (3, 4):
            nursery.start_soon(offload.run, order.append, number)
            await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert order == [1, 3, 4]
    await offload.run(order.append, 5)
    assert order == [1, 3, 4, 5]
    offload.close()


def test_the_machine_has_a_clock_and_entropy() -> None:
    env = environment()
    assert isinstance(env.clock, SystemClock) and env.clock.now_ms() > 1_600_000_000_000
    assert isinstance(env.entropy, SystemEntropy)
    assert len(env.entropy.token(16)) == 16 and env.entropy.token(16) != env.entropy.token(16)
    assert 1.0 <= env.entropy.uniform(1.0, 2.0) <= 2.0
    env.faults.reach("anything")
    assert isinstance(env.offload, ThreadOffload)
    env.offload.close()
