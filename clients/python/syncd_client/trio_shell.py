"""The device under trio: its loop, its WebSocket, and `open_device`.

Owns what is trio's own. Must not decide anything: connections and devices are the same for each loop (shell, device).
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio_websocket

from .codec import FRAME_BYTES_MAX
from .device import Binding, Device, Durability, opened
from .errors import TransportClosed, Unreachable
from .loops import Event, Run
from .shell import CLOSE_S, CONNECT_S, Ports, Token, Transport


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


@asynccontextmanager
async def connect_websocket(url: str, subprotocol: str) -> AsyncIterator[Transport]:
    """The default `connect` port: trio-websocket over TCP or TLS."""
    is_open = False
    try:
        async with trio_websocket.open_websocket_url(
            url,
            subprotocols=[subprotocol],
            max_message_size=FRAME_BYTES_MAX,
            connect_timeout=CONNECT_S,
            disconnect_timeout=CLOSE_S,
            receive_buffer_size=65_536,
        ) as socket:
            if socket.subprotocol != subprotocol:
                raise Unreachable(f"{url}: the server does not speak {subprotocol}")
            is_open = True
            yield _WebSocket(socket)
    except trio_websocket.ConnectionRejected as rejected:
        raise Unreachable(f"{url}: refused with HTTP status {rejected.status_code}") from None
    except trio_websocket.HandshakeError as error:
        if not is_open:  # afterwards it is a closing handshake that took too long: the connection is gone either way
            raise Unreachable(f"{url}: {error.__cause__ or error or type(error).__name__}") from None
    except OSError as error:
        raise Unreachable(f"{url}: {error}") from None


def system_ports() -> Ports:
    """The real world: the wall clock, the system's entropy, trio-websocket."""
    return Ports(clock_ms=lambda: time.time_ns() // 1_000_000, entropy=os.urandom, connect=connect_websocket)


@asynccontextmanager
async def open_device(
    directory: str | os.PathLike[str] | Path,
    *,
    url: str | None = None,
    token: Token = None,
    binding: Binding = "msgpack",
    online: bool = True,
    keepalive_ms: int | None = None,
    ports: Ports | None = None,
    durability: Durability = "full",
) -> AsyncIterator[Device]:
    """Open (or make) the store in `directory` and, if there is a `url`, connect and stay connected.

    `token` is a text, or a function (sync or async) that gives a fresh one each time it is called. `keepalive_ms`
    proposes how often a silent connection is tested: minutes suit a phone, half a minute a desktop. Raises StoreError.
    `durability="off"` is for simulators: commits survive the process but not a power cut.
    """
    async with opened(
        TrioLoop(), directory, ports or system_ports(), url=url, token=token, binding=binding, online=online,
        keepalive_ms=keepalive_ms, durability=durability,
    ) as device:  # fmt: skip
        yield device
