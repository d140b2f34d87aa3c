"""An application that echoes, on the daemon's own WebSocket stack: the socket transport, the HTTP shell with its
upgrade, `Inbound` for what is received, formats for what is sent. Only the conversation above them is replaced.
"""

import trio

from syncd.env.ports import Listener, Transport, TransportClosed
from syncd.env.real import SystemClock
from syncd.net.exchange import Request, Response, content
from syncd.net.formats import format_of
from syncd.net.http import RECEIVE_BYTES, HttpShell, Upgrade
from syncd.net.limits import NetLimits
from syncd.net.websocket import (
    PONG,
    Closed,
    FrameRefused,
    Inbound,
    Pinged,
    Scrap,
    close_frame,
    frame,
)

MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # the longest message of the test suite (cases 9.1.6 and 9.2.6)
CLOSING_S = 5.0


class _Door:
    """Lets everybody in."""

    is_draining = False

    def refused_s(self) -> float | None:
        return None

    def request_refused_s(self, peer: str) -> float:
        return 0.0


class EchoServer:
    """Serves each connection of a listener. `logs` has what the shell had to say: nothing, if all is well."""

    def __init__(self) -> None:
        self.logs: list[str] = []
        self._shell = HttpShell(_answer, _Door(), SystemClock(), NetLimits(), self.logs.append)

    async def serve(self, listener: Listener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                nursery.start_soon(self._connection, await listener.accept())

    async def _connection(self, transport: Transport) -> None:
        try:
            upgrade = await self._shell.converse(transport)
            if upgrade is not None:
                await _echo(transport, upgrade)
        except TransportClosed:
            pass
        finally:
            transport.abort()


async def _answer(request: Request) -> Response:
    return content(404, "text/plain", b"this server has nothing but an echo")


async def _echo(transport: Transport, upgrade: Upgrade) -> None:
    agreement = upgrade.deflate
    inbound = Inbound(
        is_text=upgrade.codec.is_text, payload_bytes_max=MESSAGE_BYTES_MAX, is_deflated=agreement is not None
    )
    format = format_of(upgrade.codec, is_deflated=agreement is not None and agreement.is_sent)
    data = upgrade.trailing
    while True:
        try:
            for item in inbound.receive(data):
                match item:
                    case Pinged(payload):
                        await _write(transport, frame(PONG, payload))
                    case Closed(code):
                        return await _end(transport, close_frame(code))
                    case Scrap():
                        pass
                    case str():
                        await _write(transport, format.framed(item.encode()))
                    case bytes():
                        await _write(transport, format.framed(item))
        except FrameRefused as refused:
            return await _end(transport, close_frame(refused.code, refused.reason))
        data = await transport.receive(RECEIVE_BYTES)
        if not data:
            return None


async def _end(transport: Transport, close: bytes) -> None:
    """Say it, half-close, and read to the end: an early close would throw away what is on its way."""
    await _write(transport, close)
    transport.shutdown()
    with trio.move_on_after(CLOSING_S):
        while await transport.receive(RECEIVE_BYTES):
            pass


async def _write(transport: Transport, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        taken = transport.send_now(rest)
        rest = rest[taken:]
        if not taken:
            await transport.wait_writable()
