"""One connection, carried out on any event loop: bytes in and out, and timers.

Owns the ports through which a device meets the world, and the tasks of a connection: one reads, one writes, one watches
the silence, one renews the token. They end together. What to do is the conversation's business; this file only waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from .conversation import Close, Conversation, Send, Wait
from .errors import StoreError, TransportClosed, Unreachable
from .loops import Loop
from .session import Effect
from .steady import steady
from .watching import Pulse

CONNECT_S = 10.0  # a TCP, TLS and WebSocket handshake on a bad mobile network
CLOSE_S = 1.0  # how long the closing handshake may take; afterwards the socket is dropped
TOKEN_S = 30.0  # how long the application may take for a token; an identity provider that hangs is one that fails


class Transport(Protocol):
    """An open WebSocket, or what stands in for it. `receive` and `send` raise TransportClosed when it has ended."""

    async def send(self, frame: bytes | str) -> None: ...
    async def receive(self) -> bytes | str: ...
    async def close(self, code: int, reason: str) -> None: ...


# (url, subprotocol) -> a transport, open inside the `async with`. Raises Unreachable.
Connect: TypeAlias = Callable[[str, str], AbstractAsyncContextManager[Transport]]
Token: TypeAlias = "str | Callable[[], str | Awaitable[str]] | None"


@dataclass(frozen=True, slots=True)
class Ports:
    """The world as the client sees it. A simulator passes its own; time that passes is always the loop's clock."""

    clock_ms: Callable[[], int]
    entropy: Callable[[int], bytes]
    connect: Connect
    steady: Callable[[], tuple[str, float]] = steady

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return int.from_bytes(self.entropy(4), "big") / 2**32


async def token_text(loop: Loop, token: Token) -> str | None:
    """The token now. Raises Unreachable if the application has none, whatever its reason is: it is asked again later.

    What a provider raises is of libraries that this one cannot know, and no fault of a token may end a device.
    """
    if not callable(token):
        return token
    provider, text = token, ""

    async def ask() -> None:
        nonlocal text
        result = provider()
        text = result if isinstance(result, str) else await result

    try:
        if not await loop.within(loop.now_s() + TOKEN_S, ask):
            raise Unreachable(f"no token within {TOKEN_S:.0f} s")
    except Unreachable:
        raise
    except Exception as error:
        raise Unreachable(f"no token: {type(error).__name__}: {error}") from error
    return text


class Connection:
    """One conversation over one transport. `run` returns why it ended, and raises nothing of the network."""

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        conversation: Conversation,
        ports: Ports,
        token: Token,
        on_effects: Callable[[Sequence[Effect]], None],
    ) -> None:
        self.conversation = conversation
        self._loop = loop
        self._transport = transport
        self._ports = ports
        self._token = token
        self._on_effects = on_effects
        self._wake = loop.event()
        self._alarm = Pulse(loop)  # a timer may fire earlier than it would have

    async def run(self) -> TransportClosed:
        await self._loop.race(self._receive, self._send, self._watch, self._renew)
        if self.conversation.farewell is not None:
            await self._close(self.conversation.farewell)
        assert self.conversation.ending is not None
        return self.conversation.ending

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def alarm(self) -> None:
        """A timer may fire earlier, and there may be something to send."""
        self._alarm.beat()
        self._wake.set()

    # -- the four tasks ----------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        conversation, is_ready = self.conversation, False
        while conversation.ending is None:
            try:
                frame = await self._transport.receive()
            except TransportClosed as closed:
                return conversation.end(closed)
            effects = conversation.received(frame, self._loop.now_s(), self._ports.clock_ms())
            self._on_effects(effects)
            self._wake.set()
            if conversation.ready_s is not None and not is_ready:
                is_ready = True
                self._alarm.beat()

    async def _send(self) -> None:
        conversation = self.conversation
        try:
            while conversation.ending is None:
                step = conversation.step(self._loop.now_s())
                if isinstance(step, Send):
                    await self._transport.send(step.frame)
                elif isinstance(step, Wait):
                    await self._loop.within(step.until_s, self._wake.wait)
                    self._wake = self._loop.event()
                else:
                    await self._close(step)
                    conversation.end(TransportClosed(step.code))
        except TransportClosed as closed:
            conversation.end(closed)
        except StoreError as error:
            conversation.end(TransportClosed(1006, str(error)))

    async def _close(self, close: Close) -> None:
        await self._loop.within(self._loop.now_s() + CLOSE_S, lambda: self._transport.close(close.code, close.reason))

    async def _watch(self) -> None:
        conversation = self.conversation
        while conversation.ending is None:
            await self._loop.within(conversation.tick_s, self._alarm.wait)
            if conversation.tick(self._loop.now_s()):
                self._wake.set()

    async def _renew(self) -> None:
        conversation = self.conversation
        while True:
            while self._loop.now_s() < conversation.renew_s:
                await self._loop.within(conversation.renew_s, self._alarm.wait)
            try:
                token = await token_text(self._loop, self._token)
            except Unreachable:
                token = None
            conversation.renewed(token, self._loop.now_s())
            self._wake.set()
