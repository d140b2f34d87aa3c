"""The device under asyncio: its loop, its WebSocket, and `open_device`.

Owns what is asyncio's own; nothing here imports trio. Must not decide anything: connections and devices are the same
for each loop (shell, device). Needs the extra `syncd-client[asyncio]`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, NegotiationError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import Subprotocol

from .carriers import JUDGED, Choice, Mode
from .codec import FRAME_BYTES_MAX
from .device import Binding, Device, Durability, opened
from .errors import Absent, Blocked, TransportClosed, Unreachable
from .fallback import connect_by
from .lanes import RECEIVE_BYTES, Place, connect_polls
from .loops import Event, Run
from .policy import retry_after_s
from .shell import CLOSE_S, CONNECT_S, Ports, Token, Transport

T = TypeVar("T")


class AsyncioLoop:
    """`loops.Loop` over asyncio, on whichever event loop runs (the standard one, uvloop)."""

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def event(self) -> Event:
        return asyncio.Event()

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def sleep_until(self, when_s: float) -> None:
        await asyncio.sleep(max(0.0, when_s - self.now_s()))

    async def within(self, when_s: float, run: Run) -> bool:
        limit = asyncio.timeout_at(None if when_s == float("inf") else when_s)  # uvloop takes no timer at `inf`
        try:
            async with limit:
                await run()
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        return True

    async def race(self, *runs: Run) -> None:
        tasks = [asyncio.create_task(_ran(run)) for run in runs]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _ended(tasks)
        errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
        if errors:
            raise BaseExceptionGroup("a task of the device failed", errors)

    @asynccontextmanager
    async def beside(self, *runs: Run) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ran(run)) for run in runs]
            yield
            for task in tasks:
                task.cancel()


async def _ran(run: Run) -> None:
    await run()


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel what still runs, and wait for it, also if this task is cancelled meanwhile: no task outlives its owner."""
    for task in tasks:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while any(not task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class _WebSocket:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, frame: bytes | str) -> None:
        try:
            await self._socket.send(frame)
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def receive(self) -> bytes | str:
        try:
            return await self._socket.recv()
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)


def _closed(closed: ConnectionClosed) -> TransportClosed:
    return TransportClosed(1006) if closed.rcvd is None else TransportClosed(closed.rcvd.code, closed.rcvd.reason)


class _Bytes:
    """`lanes.Stream` over asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        if self._writer.is_closing():  # uvloop has closed what the peer reset, and raises RuntimeError for a write
            raise ConnectionResetError("the stream is closed")
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        return await self._reader.read(RECEIVE_BYTES)

    async def aclose(self) -> None:
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()


async def dial(where: Place) -> _Bytes:
    """`lanes.Dial` over asyncio."""
    to = f"{where.host}:{where.port}"
    context = ssl.create_default_context() if where.is_secure else None
    try:
        async with asyncio.timeout(CONNECT_S):
            return _Bytes(*await asyncio.open_connection(where.host, where.port, ssl=context))
    except TimeoutError:
        raise Absent(f"{to}: no connection within {CONNECT_S:.0f} s") from None
    except ssl.SSLError as error:
        raise Unreachable(f"{to}: {error}") from None
    except OSError as error:
        raise Absent(f"{to}: {error}") from None


@asynccontextmanager
async def connect_websocket(url: str, subprotocol: str) -> AsyncIterator[Transport]:
    """The default `connect` port: the `websockets` library over TCP or TLS."""
    try:
        socket = await connect(
            url,
            subprotocols=[Subprotocol(subprotocol)],
            max_size=FRAME_BYTES_MAX,
            open_timeout=CONNECT_S,
            close_timeout=CLOSE_S,
            ping_interval=None,  # silence is noticed by the timers of the protocol, which any byte resets
            compression=None,  # that would offer context takeover, which no server of this protocol has
            extensions=[ClientPerMessageDeflateFactory(True, True)],
            proxy=None,
        )
    except (InvalidURI, OSError, InvalidHandshake) as error:
        raise _unreachable(url, error) from None
    try:
        if socket.subprotocol != subprotocol:
            raise Unreachable(f"{url}: the server does not speak {subprotocol}")
        yield _WebSocket(socket)
    finally:
        # Whoever wanted a closing handshake has had it. A dead path would make a second one wait for its timeout.
        socket.transport.abort()
        await socket.wait_closed()


def _unreachable(url: str, error: Exception) -> Unreachable:
    """What a failed attempt says: of the server, or of what stands between."""
    said = f"{url}: {error or type(error).__name__}"
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        kind = Unreachable if status in JUDGED else Blocked
        asked_s = retry_after_s(error.response.headers.get("Retry-After"))
        return kind(f"{url}: refused with HTTP status {status}", asked_s)
    if isinstance(error, (InvalidURI, ssl.SSLError, NegotiationError)):
        return Unreachable(said)
    # A time-out does not say whether anybody listens: the library dials and upgrades in one.
    return Absent(said) if isinstance(error, OSError) and not isinstance(error, TimeoutError) else Blocked(said)


def system_ports(transport: Mode = "auto") -> Ports:
    """The real world: the wall clock, the system's entropy, `websockets`, and polls where that does not get through.

    `transport`: `websocket` or `poll` to have nothing else."""
    loop = AsyncioLoop()
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
    """As `syncd_client.open_device`, in asyncio."""
    async with opened(
        AsyncioLoop(), directory, ports or system_ports(transport), url=url, token=token, binding=binding,
        online=online, keepalive_ms=keepalive_ms, durability=durability,
    ) as device:  # fmt: skip
        yield device


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """`asyncio.run`, on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
