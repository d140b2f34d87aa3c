"""The device under trio: its loop, its WebSocket, and `open_device`.

Owns what is trio's own. Must not decide anything: connections and devices are the same for each loop (shell, device).
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio_websocket

from .carriers import JUDGED, Choice, Mode
from .codec import FRAME_BYTES_MAX
from .device import Binding, Device, Durability, opened
from .errors import Absent, Blocked, TransportClosed, Unreachable
from .loops import Event, Run
from .policy import retry_after_s
from .polls import connect_polls
from .shell import CLOSE_S, CONNECT_S, Connect, Ports, Token, Transport


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
        kind = Unreachable if rejected.status_code in JUDGED else Blocked
        headers = {name.lower(): value.decode("latin-1") for name, value in rejected.headers or ()}
        raise kind(
            f"{url}: refused with HTTP status {rejected.status_code}", retry_after_s(headers.get(b"retry-after"))
        ) from None
    except trio_websocket.HandshakeError as error:
        if not is_open:  # afterwards it is a closing handshake that took too long: the connection is gone either way
            kind = Absent if isinstance(error.__cause__, OSError) else Blocked
            raise kind(f"{url}: {error.__cause__ or error or type(error).__name__}") from None
    except OSError as error:
        raise Absent(f"{url}: {error}") from None


class _Watched:
    """A transport, and whether anything came over it."""

    def __init__(self, transport: Transport, carried_by: str, on_first: Callable[[], None]) -> None:
        self.carried_by = carried_by
        self.has_received = self.is_closed = False  # closed by the peer, with a code
        self.send, self.close = transport.send, transport.close
        self._receive, self._on_first = transport.receive, on_first

    async def receive(self) -> bytes | str:
        try:
            frame = await self._receive()
        except TransportClosed as closed:
            self.is_closed = closed.code != 1006
            raise
        if not self.has_received:
            self.has_received = True
            self._on_first()
        return frame


def connect_by(
    choice: Choice, entropy: Callable[[int], bytes], websocket: Connect, polls: Callable[..., Any] = connect_polls
) -> Connect:
    """A `connect` port that tries a WebSocket and falls back to polls, as `choice` says."""

    def blocked() -> bool:
        return choice.blocked(trio.current_time(), entropy(1)[0] / 256)

    @asynccontextmanager
    async def connect(url: str, subprotocol: str) -> AsyncIterator[Transport]:
        async with AsyncExitStack() as stack:
            watched: _Watched | None = None
            if choice.next(trio.current_time()) == "websocket":
                try:
                    socket = await stack.enter_async_context(websocket(url, subprotocol))
                    watched = _Watched(socket, "websocket", choice.upgraded)
                except Blocked:
                    if not blocked():
                        raise
            if watched is not None:
                yield watched
                # Not reached if the application ended it. What goes silent, or breaks off, right behind an upgrade was
                # no WebSocket for something on the way.
                if not (watched.has_received or watched.is_closed):
                    blocked()
                return
            transport = await stack.enter_async_context(
                polls(url, subprotocol, entropy=entropy, again_s=choice.again_s)
            )
            watched = _Watched(transport, "polls", lambda: None)
            try:
                yield watched
            finally:
                if not watched.has_received:
                    choice.polls_failed()

    return connect


def system_ports(transport: Mode = "auto") -> Ports:
    """The real world: the wall clock, the system's entropy, trio-websocket, and polls where that does not get through.

    `transport`: `websocket` or `poll` to have nothing else."""
    connect = connect_by(Choice(transport), os.urandom, connect_websocket)
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
