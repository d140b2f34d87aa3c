"""The device under trio: its loop, its WebSocket, and `open_device`.

Owns what is trio's own. Must not decide anything: connections and devices are the same for each loop (shell, device).
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

import h11
import trio
import trio_websocket

from .carriers import JUDGED, Choice, Mode
from .codec import FRAME_BYTES_MAX
from .device import Binding, Device, Durability, opened
from .errors import Absent, Blocked, TransportClosed, Unreachable
from .fallback import connect_by
from .lanes import RECEIVE_BYTES, Place, connect_polls, place
from .loops import Event, Run
from .policy import retry_after_s
from .shell import CONNECT_S, Ports, Token, Transport

_TcpOrTls: TypeAlias = "trio.SocketStream | trio.SSLStream[trio.SocketStream]"


class TrioLoop:
    """`loops.Loop` over trio."""

    def now_s(self) -> float:
        return trio.current_time()

    def event(self) -> Event:
        return trio.Event()

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    async def sleep_until(self, when_s: float) -> None:
        await trio.sleep_until(when_s)

    async def within(self, when_s: float, run: Run) -> bool:
        with trio.move_on_at(when_s) as scope:
            await run()
        return not scope.cancelled_caught

    async def race(self, *runs: Run) -> None:
        async with trio.open_nursery() as nursery:

            async def finish(run: Run) -> None:
                await run()
                nursery.cancel_scope.cancel()

            for run in runs:
                nursery.start_soon(finish, run)

    @asynccontextmanager
    async def beside(self, *runs: Run) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(run)
            yield
            nursery.cancel_scope.cancel()


class _WebSocket:
    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket

    async def send(self, frame: bytes | str) -> None:
        try:
            await self._socket.send_message(frame)
        except trio_websocket.ConnectionClosed as closed:
            raise _closed(closed) from None

    async def receive(self) -> bytes | str:
        try:
            return await self._socket.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise _closed(closed) from None

    async def close(self, code: int, reason: str) -> None:
        await self._socket.aclose(code, reason)


def _closed(closed: trio_websocket.ConnectionClosed) -> TransportClosed:
    reason = closed.reason
    return TransportClosed(1006) if reason is None else TransportClosed(reason.code, reason.reason or "")


class _Unanswered(Exception):
    """The stream ended before the upgrade was answered."""


class _Opening(trio.abc.Stream):
    """A stream that fails if it ends too early: trio-websocket would go on to wait for the answer."""

    def __init__(self, stream: _TcpOrTls) -> None:
        self._stream = stream
        self.is_answered = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.is_answered:
            return await self._stream.receive_some(max_bytes)
        data: bytes | bytearray = b""
        with suppress(trio.BrokenResourceError):
            data = await self._stream.receive_some(max_bytes)
        if not (data or self.is_answered):
            raise _Unanswered
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Bytes:
    """`lanes.Stream` over trio."""

    def __init__(self, stream: _TcpOrTls) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise OSError(str(error) or type(error).__name__) from None

    async def receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise OSError(str(error) or type(error).__name__) from None

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


async def dial(where: Place) -> _Bytes:
    """`lanes.Dial` over trio."""
    to = f"{where.host}:{where.port}"
    with trio.move_on_after(CONNECT_S):
        try:
            socket = await trio.open_tcp_stream(where.host, where.port)
        except OSError as error:
            raise Absent(f"{to}: {error}") from None
        if not where.is_secure:
            return _Bytes(socket)
        context = ssl.create_default_context()
        stream = trio.SSLStream(socket, context, server_hostname=where.host, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(socket)
            if isinstance(error, trio.BrokenResourceError):
                raise Unreachable(f"{to}: {error.__cause__ or error}") from None
            raise
        return _Bytes(stream)
    raise Absent(f"{to}: no connection within {CONNECT_S:.0f} s")


@asynccontextmanager
async def connect_websocket(url: str, subprotocol: str) -> AsyncIterator[Transport]:
    """The default `connect` port: trio-websocket over TCP or TLS.

    The stream and the nursery are ours: trio-websocket 0.12 lets go of a stream whose upgrade was refused, and of one
    that the server closed first, without closing it. What the application raises must not come out in a group.
    """
    where = place(url)
    stream = await dial(where)
    failure: Exception | None = None
    is_open = False
    try:
        async with trio.open_nursery() as nursery:
            socket = await _upgraded(nursery, stream.stream, where, subprotocol)
            if socket is None:
                failure = Blocked(f"{url}: no answer to the upgrade within {CONNECT_S:.0f} s")
            elif socket.subprotocol != subprotocol:
                failure = Unreachable(f"{url}: the server does not speak {subprotocol}")
            else:
                is_open = True
                try:
                    yield _WebSocket(socket)
                except Exception as error:
                    failure = error
            # Whoever wanted a closing handshake has had it.
            nursery.cancel_scope.cancel()
    except* trio_websocket.ConnectionRejected as group:
        failure = _refusal(url, group)
    except* (trio_websocket.ConnectionClosed, h11.ProtocolError, _Unanswered):
        # What came cannot be read, and the path is gone, too: the connection has ended, for whatever reason. Or it has
        # not begun, as what answers is none of this protocol, which the library fails to tell it.
        if not is_open and failure is None:
            failure = Blocked(f"{url}: what answers the upgrade is no WebSocket")
    finally:
        await stream.aclose()
    if failure is not None:
        raise failure


async def _upgraded(
    nursery: trio.Nursery, stream: _TcpOrTls, where: Place, subprotocol: str
) -> trio_websocket.WebSocketConnection | None:
    opening = _Opening(stream)
    with trio.move_on_after(CONNECT_S):
        socket = await trio_websocket.wrap_client_stream(
            nursery,
            cast("_TcpOrTls", opening),  # any stream will do, says its documentation
            where.netloc,
            f"{where.path}?{where.query}" if where.query else where.path,
            subprotocols=[subprotocol],
            max_message_size=FRAME_BYTES_MAX,
            receive_buffer_size=RECEIVE_BYTES,
        )
        opening.is_answered = True
        return socket
    return None


def _refusal(url: str, group: BaseExceptionGroup[trio_websocket.ConnectionRejected]) -> Unreachable:
    rejected = group.exceptions[0]
    assert isinstance(rejected, trio_websocket.ConnectionRejected)
    kind = Unreachable if rejected.status_code in JUDGED else Blocked
    headers = {name.lower(): value.decode("latin-1") for name, value in rejected.headers or ()}
    after_s = retry_after_s(headers.get(b"retry-after"))
    return kind(f"{url}: refused with HTTP status {rejected.status_code}", after_s)


def system_ports(transport: Mode = "auto") -> Ports:
    """The real world: the wall clock, the system's entropy, trio-websocket, and polls where that does not get through.

    `transport`: `websocket` or `poll` to have nothing else."""
    loop = TrioLoop()
    connect = connect_by(
        loop, Choice(transport), os.urandom, connect_websocket, partial(connect_polls, loop, dial)
    )  # fmt: skip
    return Ports(clock_ms=lambda: time.time_ns() // 1_000_000, entropy=os.urandom, connect=connect)


@asynccontextmanager
async def open_device(
    directory: str | os.PathLike[str] | Path,
    *,
    url: str | None = None,
    token: Token = None,
    binding: Binding = "msgpack",
    transport: Mode = "auto",
    online: bool = True,
    keepalive_ms: int | None = None,
    ports: Ports | None = None,
    durability: Durability = "full",
) -> AsyncIterator[Device]:
    """Open (or make) the store in `directory` and, if there is a `url`, connect and stay connected.

    `token` is a text, or a function (sync or async) that gives a fresh one each time it is called. `transport`:
    `auto` falls back to polls on a network that lets no WebSocket through. `keepalive_ms` proposes how often a silent
    connection is tested: minutes suit a phone, half a minute a desktop. Raises StoreError. `durability="off"` is for
    simulators: commits survive the process but not a power cut. `ports` stand for `transport`, too.
    """
    async with opened(
        TrioLoop(), directory, ports or system_ports(transport), url=url, token=token, binding=binding, online=online,
        keepalive_ms=keepalive_ms, durability=durability,
    ) as device:  # fmt: skip
        yield device
