"""A `connect` port that tries a WebSocket and falls back to polls, as `carriers.Choice` says.

Owns what the choice is told of each attempt: whether an upgrade went through, and whether polls did. Must not know how
either is made: a shell passes both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol

from .carriers import Choice
from .errors import Blocked, Refused, TransportClosed
from .loops import Loop
from .shell import Connect, Transport


class ConnectPolls(Protocol):
    def __call__(
        self, url: str, subprotocol: str, *, entropy: Callable[[int], bytes], again_s: float
    ) -> AbstractAsyncContextManager[Transport]: ...


class _Watched:
    """A transport, and whether anything came over it."""

    def __init__(self, transport: Transport, carried_by: str, on_first: Callable[[], None]) -> None:
        self.carried_by = carried_by
        self.has_received = self.is_closed = False  # closed by the peer, with a code
        self.is_refused = False  # by the server, which would refuse the other carrier as well
        self.close = transport.close
        self._transport, self._on_first = transport, on_first

    async def send(self, frame: bytes | str) -> None:
        try:
            await self._transport.send(frame)
        except Refused:
            self.is_refused = True
            raise

    async def receive(self) -> bytes | str:
        try:
            frame = await self._transport.receive()
        except TransportClosed as closed:
            self.is_closed = closed.code != 1006
            raise
        if not self.has_received:
            self.has_received = True
            self._on_first()
        return frame


def connect_by(
    loop: Loop, choice: Choice, entropy: Callable[[int], bytes], websocket: Connect, polls: ConnectPolls
) -> Connect:
    def blocked() -> bool:
        return choice.blocked(loop.now_s(), entropy(1)[0] / 256)

    @asynccontextmanager
    async def connect(url: str, subprotocol: str) -> AsyncIterator[Transport]:
        async with AsyncExitStack() as stack:
            watched: _Watched | None = None
            if choice.next(loop.now_s()) == "websocket":
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
                if not (watched.has_received or watched.is_refused):
                    choice.polls_failed()

    return connect
