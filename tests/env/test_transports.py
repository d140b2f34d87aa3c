"""Sockets and their doubles in memory pass the acceptance kit."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncd.env.memory import MemoryListener, MemoryTransport, transport_pair
from syncd.env.ports import TransportClosed
from syncd.env.real import SocketListener, SocketTransport, listen_tcp, listen_unix
from tests.env.kit import Connect, ListenerKit, Pair, TransportKit


def connected(family: socket.AddressFamily, address: object) -> SocketTransport:
    sock = socket.socket(family)
    try:
        sock.connect(address)  # type: ignore[arg-type]
    except OSError as error:
        sock.close()
        raise TransportClosed(str(error)) from None
    return SocketTransport(sock)


class TestSocketPair(TransportKit):
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair]:
        near, far = (SocketTransport(end) for end in socket.socketpair())
        yield near, far
        near.abort()
        far.abort()


class TestTcp(TransportKit):
    @pytest.fixture(params=["127.0.0.1", "::1"])
    async def pair(self, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
        listener = listen_tcp(request.param, 0)
        near = connected(socket.AF_INET6 if ":" in request.param else socket.AF_INET, listener.address)
        far = await listener.accept()
        listener.close()
        yield near, far
        near.abort()
        far.abort()


class TestMemory(TransportKit):
    @pytest.fixture(params=[100, 65536])
    def pair(self, request: pytest.FixtureRequest) -> Pair:
        return transport_pair(request.param)


class TestTcpListener(ListenerKit):
    @pytest.fixture
    async def listener(self) -> AsyncIterator[SocketListener]:
        listener = listen_tcp("127.0.0.1", 0)
        yield listener
        listener.close()

    @pytest.fixture
    def connect(self, listener: SocketListener) -> Connect:
        address = listener.address

        async def connect() -> SocketTransport:
            return connected(socket.AF_INET, address)

        return connect


class TestUnixListener(ListenerKit):
    @pytest.fixture
    async def listener(self, tmp_path: Path) -> AsyncIterator[SocketListener]:
        listener = listen_unix(tmp_path / "admin.sock")
        yield listener
        listener.close()

    @pytest.fixture
    def connect(self, listener: SocketListener) -> Connect:
        path = listener.address[0]

        async def connect() -> SocketTransport:
            return connected(socket.AF_UNIX, path)

        return connect


class TestMemoryListener(ListenerKit):
    @pytest.fixture
    def listener(self) -> MemoryListener:
        return MemoryListener()

    @pytest.fixture
    def connect(self, listener: MemoryListener) -> Connect:
        async def connect() -> MemoryTransport:
            return listener.connect()

        return connect
