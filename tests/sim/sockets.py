"""What a device's system library does: WebSocket and HTTP clients over a simulated byte stream.

Owns the reference client's `connect` port and a one-request HTTP client. Reports every frame that passes to a tap, so
that what a device hears is seen from outside of it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import h11
import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from syncd.env.ports import TransportClosed
from syncd_client.carriers import JUDGED
from syncd_client.errors import Absent, Blocked, Unreachable
from syncd_client.errors import TransportClosed as ClientClosed
from tests.sim.network import Network, NobodyListens, Socket

CONNECT_S = 10.0
RECEIVE_BYTES = 65536


class Tap(Protocol):
    """Sees each frame of one connection, before it is sent and before its receiver sees it."""

    def sent(self, frame: bytes | str) -> None: ...

    def received(self, frame: bytes | str) -> None: ...

    def closed(self, code: int) -> None: ...


class Refused(Exception):
    """The upgrade was answered by a status other than 101. `retry_after_s`: what it says, if it does."""

    def __init__(self, status: int, retry_after_s: int | None) -> None:
        super().__init__(f"refused with {status}")
        self.status, self.retry_after_s = status, retry_after_s


async def send_all(socket: Socket, data: bytes) -> None:
    while data:
        data = data[socket.send_now(data) :]
        if data:
            await socket.wait_writable()


class SimWebSocket:
    """A `syncd_client.shell.Transport`."""

    def __init__(self, socket: Socket, tap: Tap, rest: bytes, wait_awake: Callable[[], Awaitable[None]]) -> None:
        self._socket, self._tap, self._wait_awake = socket, tap, wait_awake
        self._websocket = Connection(ConnectionType.CLIENT)
        self._frames: list[bytes | str] = []
        self._pieces: list[bytes | str] = []
        self._sending = trio.Lock()
        self._is_receiving = False
        self._closed: ClientClosed | None = None
        self._ended = trio.Event()
        if rest:
            self._feed(rest)

    async def send(self, frame: bytes | str) -> None:
        event = TextMessage(data=frame) if isinstance(frame, str) else BytesMessage(data=frame)
        try:
            async with self._sending:
                if self._websocket.state is not ConnectionState.OPEN:
                    raise TransportClosed("closing")
                self._tap.sent(frame)
                await send_all(self._socket, self._websocket.send(event))
        except TransportClosed:
            raise self._closed or ClientClosed(1006) from None

    async def receive(self) -> bytes | str:
        self._is_receiving = True
        try:
            while not self._frames:
                if self._closed is not None:
                    raise self._closed
                await self._wait_awake()
                data = await self._socket.receive(RECEIVE_BYTES)
                if not data:
                    raise TransportClosed("the stream ended")
                self._feed(data)
                await self._answer_close()
        except TransportClosed:
            if self._closed is None:
                self._closed = ClientClosed(1006)
                self._tap.closed(1006)
            self._ended.set()
            raise self._closed from None
        finally:
            self._is_receiving = False
        frame = self._frames.pop(0)
        self._tap.received(frame)
        return frame

    async def close(self, code: int, reason: str) -> None:
        with suppress(TransportClosed, ClientClosed):
            async with self._sending:
                if self._websocket.state is ConnectionState.OPEN:
                    await send_all(self._socket, self._websocket.send(CloseConnection(code=code, reason=reason)))
            if self._is_receiving:
                await self._ended.wait()
            while self._closed is None:
                await self.receive()

    def _feed(self, data: bytes) -> None:
        self._websocket.receive_data(data)
        for event in self._websocket.events():
            if isinstance(event, CloseConnection):
                self._closed = ClientClosed(event.code, event.reason or "")
                self._tap.closed(event.code)
                self._ended.set()
            elif isinstance(event, TextMessage | BytesMessage):
                self._pieces.append(bytes(event.data) if isinstance(event, BytesMessage) else event.data)
                if event.message_finished:
                    self._frames.append(
                        b"".join(self._pieces) if isinstance(event, BytesMessage) else "".join(self._pieces)  # type: ignore[arg-type]
                    )
                    self._pieces = []

    async def _answer_close(self) -> None:
        if self._closed is not None and self._websocket.state is ConnectionState.REMOTE_CLOSING:
            async with self._sending:
                answer = self._websocket.send(CloseConnection(code=self._closed.code))
                with trio.move_on_after(1):
                    await send_all(self._socket, answer)


async def opened(network: Network, device: str, subprotocol: str, is_stripped: bool = False) -> tuple[Socket, bytes]:
    """A socket on which the upgrade is done, and what came after it. Raises `TransportClosed` or `Refused`.

    `is_stripped`: something on the way takes out what belongs to one hop only, as old proxies do."""
    hop = "" if is_stripped else "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    request = (
        f"GET /v1/sync HTTP/1.1\r\nHost: server.invalid\r\n{hop}"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
    socket = await network.connect(device)
    is_open = False
    try:
        await send_all(socket, request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = await socket.receive(RECEIVE_BYTES)
            if not data:
                raise TransportClosed("the stream ended")
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        if not status.startswith("HTTP/1.1 101"):
            told = [line.partition(":")[2] for line in lines if line.lower().startswith("retry-after:")]
            raise Refused(int(status.split(" ")[1]), int(told[0]) if told else None)
        is_open = True
        return socket, rest
    finally:
        if not is_open:
            socket.abort()


@asynccontextmanager
async def connect_websocket(
    network: Network,
    device: str,
    subprotocol: str,
    tap: Tap,
    wait_awake: Callable[[], Awaitable[None]],
    refused: Callable[[Refused], None],
    is_stripped: bool = False,
) -> AsyncIterator[SimWebSocket]:
    """The `connect` port. Raises `Unreachable`. `wait_awake`: until the device reads again; `refused`: hears of it."""
    try:
        with trio.fail_after(CONNECT_S):
            socket, rest = await opened(network, device, subprotocol, is_stripped)
    except Refused as error:
        if error.status not in JUDGED:
            raise Blocked(str(error)) from None
        refused(error)
        raise Unreachable(str(error), error.retry_after_s or 0.0) from None
    except NobodyListens as error:
        raise Absent(str(error)) from None
    except (TransportClosed, trio.TooSlowError) as error:
        raise Unreachable(str(error)) from None
    try:
        yield SimWebSocket(socket, tap, rest, wait_awake)
    finally:
        socket.abort()


async def ask_http(
    network: Network, device: str, method: str, target: str, headers: Mapping[str, str], body: bytes, timeout_s: float
) -> tuple[int, bytes] | None:
    """One request on a connection of its own; None if no answer came."""
    socket: Socket | None = None
    with trio.move_on_after(timeout_s), suppress(TransportClosed):
        try:
            socket = await network.connect(device)
            connection = h11.Connection(h11.CLIENT)
            lines = [("Host", "server.invalid"), ("Content-Length", str(len(body))), *headers.items()]
            data = connection.send(h11.Request(method=method, target=target, headers=lines)) or b""
            data += (connection.send(h11.Data(data=body)) or b"") if body else b""
            data += connection.send(h11.EndOfMessage()) or b""
            await send_all(socket, data)
            status, pieces = 0, []
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await socket.receive(RECEIVE_BYTES))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return status, b"".join(pieces)
                else:
                    return None
        except h11.RemoteProtocolError:
            return None
        finally:
            if socket is not None:
                socket.abort()
    return None
