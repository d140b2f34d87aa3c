"""A scripted server for tests of the client: it speaks the protocol in raw MessagePack or JSON, over memory.

It shares no code with the client: what it sends is spelled out here as the protocol document spells it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import trio

from syncd_client import Ports, TransportClosed, Unreachable

HELLO, SUBSCRIBE, UNSUBSCRIBE, PUSH, ACK, REFRESH, PROBE, BYE, PONG = 1, 2, 3, 4, 5, 10, 13, 14, 21
PING, WELCOME, SUBSCRIBED, DELTA, OUTCOMES, REVOKED, EXPIRED, ERROR, GOAWAY = 20, 32, 33, 34, 35, 36, 41, 42, 43

EPOCH = b"E" * 16
CHAIN = b"C" * 8
SPACE = "shop/cart/9"


class Wire:
    """The client's end of one connection, and the server's handles on it."""

    def __init__(self, url: str, subprotocol: str) -> None:
        self.url = url
        self.is_json = subprotocol.endswith("json")
        self.to_server, self.from_client = trio.open_memory_channel[bytes | str](1000)
        self.to_client, self.from_server = trio.open_memory_channel[bytes | str](1000)
        self.close_code: int | None = None  # given by the server
        self.client_code: int | None = None  # given by the client
        self.pending: list[list[Any]] = []
        self.is_slow_to_close = False

    # The transport that the client sees.

    async def send(self, frame: bytes | str) -> None:
        if self.close_code is not None:
            raise TransportClosed(self.close_code)
        await self.to_server.send(frame)

    async def receive(self) -> bytes | str:
        try:
            return await self.from_server.receive()
        except trio.EndOfChannel:
            raise TransportClosed(self.close_code or 1006) from None

    async def close(self, code: int, reason: str) -> None:
        self.client_code = code
        self.to_server.close()
        if self.is_slow_to_close:
            await trio.sleep_forever()

    # The server.

    async def next(self) -> list[Any]:
        """The next message of the client, `[type, body]`."""
        while not self.pending:
            frame = await self.from_client.receive()
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
        if self.is_json:
            hexed = json.dumps([[code, body]], default=lambda data: data.hex())
            await self.to_client.send(hexed)
        else:
            await self.to_client.send(msgpack.packb([code, body]))

    def hang_up(self, code: int) -> None:
        self.close_code = code
        self.to_client.close()

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
    """What the client's `connect` port reaches: each connection arrives as a Wire."""

    def __init__(self) -> None:
        self.accept, self.arrivals = trio.open_memory_channel[Wire](100)
        self.is_reachable = True
        self.attempts: list[float] = []
        self._count = itertools.count(1)

    def ports(self) -> Ports:
        return Ports(
            clock_ms=lambda: 500_000 + int(trio.current_time() * 1000), entropy=self.entropy, connect=self.connect
        )

    def entropy(self, size: int) -> bytes:
        """Distinct and reproducible; four bytes of it (a random number) are about a half."""
        return (2**31 + next(self._count)).to_bytes(4, "big").ljust(size, b"\x07")

    @asynccontextmanager
    async def connect(self, url: str, subprotocol: str) -> AsyncIterator[Wire]:
        self.attempts.append(trio.current_time())
        if not self.is_reachable:
            raise Unreachable("no route")
        wire = Wire(url, subprotocol)
        await self.accept.send(wire)
        yield wire

    async def next(self) -> Wire:
        return await self.arrivals.receive()
