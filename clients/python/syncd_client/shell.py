"""One connection under trio: bytes in and out, timers, and the transport itself.

Owns the tasks of a connection: one reads, one writes, one watches the silence, one renews the token. All of them live
in one nursery and end together. What to say is the session's business; this file only carries it out.

SQLite is called directly, not in a thread: a call is a few rows, a commit one fsync. In a thread each would be an await
in the middle of a decision, where another task may change what it was based on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import trio
import trio_websocket

from . import messages as m
from .codec import FRAME_BYTES_MAX, Binding, decoded, encoded
from .errors import PeerError, StoreError, TransportClosed, Unreachable
from .policy import KeepAlive, State
from .session import Effect, Session
from .store import Store

CONNECT_S = 10.0  # a TCP, TLS and WebSocket handshake on a bad mobile network
HELLO_S = 10.0  # as long as the server waits for the hello
DRAIN_S = 5.0  # how long a draining connection waits for the answers to its pushes
CLOSE_S = 1.0  # how long the closing handshake may take; afterwards the socket is dropped
# Small messages that share a frame: 64 subscribes are 25 KB, far below any frame limit.
FRAME_MESSAGES_MAX = 64
# The server allows bursts of five seconds' worth; two leave room for what it has not counted yet.
BURST_S = 2.0
REFRESH_MARGIN_S = 60.0  # a new token is asked for this long before the old one ends, or a fifth of its life


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
    """The world as the client sees it. A simulator passes its own; time that passes is always trio's clock."""

    clock_ms: Callable[[], int]
    entropy: Callable[[int], bytes]
    connect: Connect

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return int.from_bytes(self.entropy(4), "big") / 2**32


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


async def token_text(token: Token) -> str | None:
    """The token now. A callable that cannot give one raises OSError or Unreachable, and is asked again later."""
    if not callable(token):
        return token
    try:
        result = token()
        return result if isinstance(result, str) else await result
    except OSError as error:
        raise Unreachable(f"no token: {error}") from None


class Connection:
    """One conversation over one transport. `run` returns why it ended, and raises nothing of the network."""

    def __init__(
        self,
        transport: Transport,
        session: Session,
        store: Store,
        ports: Ports,
        binding: Binding,
        token: Token,
        on_effects: Callable[[Sequence[Effect]], None],
    ) -> None:
        self.session = session
        self.ready_s: float | None = None
        self.ending: TransportClosed | None = None
        self._transport = transport
        self._store = store
        self._ports = ports
        self._binding = binding
        self._token = token
        self._on_effects = on_effects
        self._wake = trio.Event()
        self._welcomed = trio.Event()
        self._is_leaving = False
        self._scope = trio.CancelScope()
        self._keepalive = KeepAlive(ping_s=30.0, received_s=trio.current_time())
        self._paced_s = trio.current_time()

    async def run(self, hello: m.Hello) -> TransportClosed:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                nursery.start_soon(self._send, hello)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._renew_token)
        return self.ending or TransportClosed(1006, "cancelled")

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def leave(self) -> None:
        """Acknowledge what is stored, say bye, and close."""
        self._is_leaving = True
        self._wake.set()

    def _end(self, ending: TransportClosed) -> None:
        self.ending = self.ending or ending
        self._scope.cancel()

    # -- the four tasks ----------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            try:
                frame = await self._transport.receive()
            except TransportClosed as closed:
                return self._end(closed)
            self._keepalive = self._keepalive.received(trio.current_time())
            try:
                effects = self._take(frame)
            except StoreError as error:
                # Nothing of the frame was stored, so it will be sent again: perhaps the disk has room by then.
                return self._end(TransportClosed(1006, str(error)))
            except PeerError as error:
                with trio.move_on_after(CLOSE_S):
                    await self._transport.close(1002, "protocol error")
                # To the policy this is a lost connection: the fault is the server's, so nothing of ours is suspect.
                return self._end(TransportClosed(1006, str(error)))
            if self.session.welcome is not None and self.ready_s is None:
                self.ready_s = trio.current_time()
                self._keepalive = KeepAlive(self.session.parameters.ping_ms / 1000, self.ready_s)
                self._welcomed.set()
            self._on_effects(effects)
            self._wake.set()

    def _take(self, frame: bytes | str) -> list[Effect]:
        messages = decoded(frame, self._binding)
        effects: list[Effect] = []
        with self._store.transaction() as tx:
            for message in messages:
                effects += self.session.received(tx, message, self._ports.clock_ms(), trio.current_time())
        return effects

    async def _send(self, hello: m.Hello) -> None:
        try:
            await self._transport.send(encoded([hello], self._binding))
            drain_s: float | None = None
            while True:
                now_s = trio.current_time()
                with self._store.reading() as tx:
                    messages = self.session.outgoing(tx, now_s)
                for group in _frames(messages):
                    await self._pace(len(group))
                    await self._transport.send(encoded(group, self._binding))
                if self.session.state is State.DRAINING and drain_s is None:
                    drain_s = now_s + DRAIN_S
                is_drained = drain_s is not None and (self.session.is_quiet or now_s >= drain_s)
                if self._is_leaving or is_drained:
                    return await self._bye()
                with trio.move_on_at(min(self.session.next_due_s(now_s), drain_s or float("inf"))):
                    await self._wake.wait()
                self._wake = trio.Event()
        except TransportClosed as closed:
            self._end(closed)
        except StoreError as error:
            self._end(TransportClosed(1006, str(error)))

    async def _pace(self, count: int) -> None:
        """Stay below `messages_per_s_max`: what is committed during the pause goes out in fewer, longer pushes."""
        rate = 0.8 * self.session.parameters.limits.messages_per_s_max
        now_s = trio.current_time()
        # The time at which everything sent so far will have been sent at the even rate.
        self._paced_s = max(self._paced_s, now_s) + count / rate
        if self._paced_s > now_s + BURST_S:
            await trio.sleep_until(self._paced_s - BURST_S)

    async def _bye(self) -> None:
        if self.session.welcome is not None:
            with self._store.reading() as tx:
                last = [*self.session.acks(tx, trio.current_time()), m.Bye()]
            for group in _frames(last):
                await self._transport.send(encoded(group, self._binding))
        with trio.move_on_after(CLOSE_S):
            await self._transport.close(1000, "")
        self._end(TransportClosed(1000))

    async def _watch(self) -> None:
        with trio.move_on_after(HELLO_S):
            await self._welcomed.wait()
        if not self._welcomed.is_set():
            return self._end(TransportClosed(1006, f"no welcome within {HELLO_S:.0f} s"))
        while True:
            now_s = trio.current_time()
            what, when_s = self._keepalive.due(now_s)
            if what == "drop":
                return self._end(TransportClosed(1006, "the server is silent"))
            if what == "probe":
                self._keepalive = self._keepalive.probed(now_s)
                self.session.say(m.Probe())
                self._wake.set()
            else:
                await trio.sleep_until(when_s)

    async def _renew_token(self) -> None:
        await self._welcomed.wait()
        welcome = self.session.welcome
        if welcome is None or welcome.expires is None or not callable(self._token):
            return
        # The server does not answer a refresh, so a new token is taken to live as long as the first one did.
        life_s = max(1.0, (welcome.expires - welcome.time) / 1000)
        while True:
            await trio.sleep(life_s - min(REFRESH_MARGIN_S, life_s / 5))
            try:
                token = await token_text(self._token)
            except Unreachable:
                continue  # the old token still has a fifth of its life; when it ends, connecting asks again
            if token is not None:
                self.session.say(m.Refresh(token))
                self._wake.set()


def _frames(messages: Sequence[m.ClientMessage]) -> list[list[m.ClientMessage]]:
    """Messages in their order, in frames: a push alone, because it may fill one; small ones together."""
    frames: list[list[m.ClientMessage]] = []
    for message in messages:
        fits = frames and len(frames[-1]) < FRAME_MESSAGES_MAX and not isinstance(frames[-1][-1], m.Push)
        if fits and not isinstance(message, m.Push):
            frames[-1].append(message)
        else:
            frames.append([message])
    return frames
