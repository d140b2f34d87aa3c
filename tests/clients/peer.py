"""A scripted server for tests of the client: it speaks the protocol in raw MessagePack or JSON, over memory.

It shares no code with the client but the seam to the event loop, so that it runs on each: what it sends is spelled out
here as the protocol document spells it.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import msgpack

from syncd_client import Ports, TransportClosed, Unreachable
from syncd_client.loops import Loop
from syncd_client.trio_shell import TrioLoop
from syncd_client.watching import Pulse

HELLO, SUBSCRIBE, UNSUBSCRIBE, PUSH, ACK, REFRESH, PROBE, BYE, PONG = 1, 2, 3, 4, 5, 10, 13, 14, 21
SUMS, PURGED, BACKGROUND, FOREGROUND = 6, 9, 11, 12
PING, WELCOME, SUBSCRIBED, DELTA, OUTCOMES, REVOKED, DIFFER, REPAIR = 20, 32, 33, 34, 35, 36, 37, 38
EXPIRED, ERROR, GOAWAY = 41, 42, 43

EPOCH = b"E" * 16
CHAIN = b"C" * 8
SPACE = "shop/cart/9"


T = TypeVar("T")


class Ended(Exception):
    """Nothing more will come."""


class Channel(Generic[T]):
    """One way of a connection. An item arrives `delay_s` after it was put, on the loop's clock."""

    def __init__(self, loop: Loop, delay_s: float = 0.0) -> None:
        self._loop, self._pulse, self._delay_s = loop, Pulse(loop), delay_s
        self._items: deque[tuple[float, T]] = deque()
        self._ended_s: float | None = None

    def put(self, item: T) -> None:
        self._items.append((self._loop.now_s() + self._delay_s, item))
        self._pulse.beat()

    def end(self) -> None:
        self._ended_s = self._loop.now_s() + self._delay_s
        self._pulse.beat()

    async def get(self) -> T:
        await self._pulse.wait_until(lambda: bool(self._items) or self._ended_s is not None)
        if not self._items:
            assert self._ended_s is not None
            await self._loop.sleep_until(self._ended_s)
            raise Ended
        await self._loop.sleep_until(self._items[0][0])
        return self._items.popleft()[1]


class Wire:
    """The client's end of one connection, and the server's handles on it."""

    def __init__(self, loop: Loop, url: str, subprotocol: str, delay_s: float = 0.0) -> None:
        self.url = url
        self.is_json = subprotocol.endswith("json")
        self.loop = loop
        self.to_server: Channel[bytes | str] = Channel(loop, delay_s)
        self.to_client: Channel[bytes | str] = Channel(loop, delay_s)
        self.close_code: int | None = None  # given by the server
        self.client_code: int | None = None  # given by the client
        self.pending: list[list[Any]] = []
        self.is_slow_to_close = False
        self.is_stuck = False  # the path is dead: what is sent goes nowhere, and nobody says so
        self.is_open = True

    # The transport that the client sees.

    async def send(self, frame: bytes | str) -> None:
        await self.loop.checkpoint()
        while self.is_stuck:
            await self.loop.event().wait()
        if self.close_code is not None:
            raise TransportClosed(self.close_code)
        self.to_server.put(frame)

    async def receive(self) -> bytes | str:
        try:
            return await self.to_client.get()
        except Ended:
            raise TransportClosed(self.close_code or 1006) from None

    async def close(self, code: int, reason: str) -> None:
        self.client_code = code
        self.to_server.end()
        if self.is_slow_to_close:
            await self.loop.event().wait()

    # The server.

    async def next(self) -> list[Any]:
        """The next message of the client, `[type, body]`."""
        while not self.pending:
            frame = await self.to_server.get()
            if self.is_json:
                assert isinstance(frame, str)
                self.pending.extend(json.loads(frame))
            else:
                assert isinstance(frame, bytes)
                unpacker = msgpack.Unpacker(raw=False)
                unpacker.feed(frame)
                self.pending.extend(unpacker)
        return self.pending.pop(0)

    async def expect(self, code: int, *, skipping: tuple[int, ...] = ()) -> dict[str, Any]:
        while (message := await self.next())[0] in skipping and message[0] != code:
            pass
        assert message[0] == code, message
        body: dict[str, Any] = message[1]
        return body

    async def say(self, code: int, /, **body: Any) -> None:
        await self.say_at_once((code, body))

    async def say_at_once(self, *messages: tuple[int, dict[str, Any]]) -> None:
        """In one frame: the client says nothing between them."""
        if self.is_json:
            self.to_client.put(json.dumps(messages, default=lambda data: data.hex()))
        else:
            self.to_client.put(b"".join(msgpack.packb(list(message)) for message in messages))

    def hang_up(self, code: int) -> None:
        self.close_code = code
        self.to_client.end()

    async def welcome(self, **changes: Any) -> dict[str, Any]:
        hello = await self.expect(HELLO)
        reconnect = {"first_jitter_ms": 1_000, "backoff_ms": 1_000, "backoff_max_ms": 60_000, "stable_ms": 60_000}
        body: dict[str, Any] = {"session": b"S" * 16, "time": 1_000_000, "user": "42", "resumed": False, "limits": {}}
        body.update(ping_ms=30_000, ack_ms=1_000, server="peer", caps=[], reconnect=reconnect)
        await self.say(WELCOME, **{**body, **changes})
        return hello

    async def subscribed(self, head: int = 0, *, space: str = SPACE, epoch: bytes = EPOCH) -> dict[str, Any]:
        subscribe = await self.expect(SUBSCRIBE, skipping=(ACK,))
        assert subscribe["space"] == space
        await self.say(SUBSCRIBED, space=space, epoch=epoch, head=head, safe=head, role="writer", mode="live")
        return subscribe

    async def delta(self, from_: int, to: int, docs: list[Any], **changes: Any) -> None:
        body = {"space": SPACE, "epoch": EPOCH, "from": from_, "after": from_, "to": to, "complete": True, "t": 5}
        await self.say(DELTA, **{**body, "chain": CHAIN, "docs": docs, **changes})

    async def outcomes(self, *entries: list[Any], **changes: Any) -> None:
        await self.say(OUTCOMES, **{"space": SPACE, "epoch": EPOCH, "outcomes": list(entries), **changes})


class Peer:
    """What the client's `connect` port reaches: each connection arrives as a Wire. `delay_s`: of one way."""

    def __init__(self, loop: Loop | None = None, delay_s: float = 0.0) -> None:
        self.loop = loop or TrioLoop()
        self.arrivals: Channel[Wire] = Channel(self.loop)
        self.wires: list[Wire] = []
        self.is_reachable = True
        self.is_hanging = False  # whoever connects waits for ever
        self.attempts: list[float] = []
        self.delay_s = delay_s
        self._count = itertools.count(1)

    def ports(self) -> Ports:
        return Ports(
            clock_ms=lambda: 500_000 + int(self.loop.now_s() * 1000), entropy=self.entropy, connect=self.connect
        )

    def entropy(self, size: int) -> bytes:
        """Distinct and reproducible; four bytes of it (a random number) are about a half."""
        return (2**31 + next(self._count)).to_bytes(4, "big").ljust(size, b"\x07")

    @asynccontextmanager
    async def connect(self, url: str, subprotocol: str) -> AsyncIterator[Wire]:
        self.attempts.append(self.loop.now_s())
        await self.loop.checkpoint()
        if self.is_hanging:
            await self.loop.event().wait()
        if not self.is_reachable:
            raise Unreachable("no route")
        wire = Wire(self.loop, url, subprotocol, self.delay_s)
        self.wires.append(wire)
        self.arrivals.put(wire)
        try:
            yield wire
        finally:
            wire.is_open = False
            wire.to_server.end()

    async def next(self) -> Wire:
        return await self.arrivals.get()
