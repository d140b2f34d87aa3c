"""The scripted server of `peer`, reached by polls: the client's own requests, over byte streams in memory.

The server's side of SPEC 5.5, spelled out a second time, on the other role of h11. It runs inside the client's reads,
so it needs no task. `mishaps` is what befalls the next requests.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import h11

from syncd_client import Transport
from syncd_client.errors import Absent
from syncd_client.lanes import Place, connect_polls
from syncd_client.loops import Loop

from .peer import Ended, Peer, Wire

WAIT_S = 25.0
LATE_S = 60.0


class Broken(Exception):
    """The stream breaks off instead of an answer."""


class Told:
    """One request as the server read it."""

    def __init__(self, loop: Loop, event: h11.Request, body: bytes) -> None:
        self.loop = loop
        self.method = event.method.decode()
        parts = urlsplit(event.target.decode())
        self.path = parts.path
        self.query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        self.headers = {name.decode(): value.decode() for name, value in event.headers}
        self.body = body

    @property
    def kind(self) -> str:
        return "poll" if self.method == "GET" else "message" if self.path.endswith("/messages") else "opening"


Answer: TypeAlias = tuple[int, dict[str, str], bytes]
Handle: TypeAlias = Callable[[Told], Awaitable[Answer]]
# Called in place of the server's handling, which is passed, too.
Mishap: TypeAlias = Callable[[Told, Handle], Awaitable[Answer]]


async def answer_lost(told: Told, handle: Handle) -> Answer:
    """It was taken, and nobody hears so."""
    await handle(told)
    raise Broken


async def request_lost(told: Told, handle: Handle) -> Answer:
    raise Broken


async def doubled(told: Told, handle: Handle) -> Answer:
    """Something on the way sends it twice; the client hears the second answer."""
    await handle(told)
    return await handle(told)


async def forgotten(told: Told, handle: Handle) -> Answer:
    """The server was started anew, and knows no connection."""
    return problem(404, "unknown-connection")


async def late(told: Told, handle: Handle) -> Answer:
    """The answer is there when the client has long given it up."""
    answer = await handle(told)
    await told.loop.sleep_until(told.loop.now_s() + LATE_S)
    return answer


MISHAPS: dict[str, Mishap] = {
    "answer-lost": answer_lost,
    "request-lost": request_lost,
    "doubled": doubled,
    "forgotten": forgotten,
    "late": late,
}


def refused(status: int, **headers: str) -> Mishap:
    async def refuse(told: Told, handle: Handle) -> Answer:
        return problem(status, "refused", headers={name.replace("_", "-"): value for name, value in headers.items()})

    return refuse


def problem(status: int, name: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return (
        status,
        {"content-type": "application/problem+json", **(headers or {})},
        json.dumps({"type": name, **fields}).encode(),
    )


class PolledPeer(Peer):
    """`mishaps`: kind of request -> what befalls the next ones, one each. `requests`: all that came, with the time."""

    carrier = "polls"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mishaps: dict[str, deque[Mishap]] = {"opening": deque(), "message": deque(), "poll": deque()}
        self.requests: list[tuple[float, Told]] = []
        self.dials = self.streams_open = 0

    def asked(self, kind: str) -> list[Told]:
        return [told for _, told in self.requests if told.kind == kind]

    @asynccontextmanager
    async def connect(self, url: str, subprotocol: str) -> AsyncIterator[Transport]:
        self.attempts.append(self.loop.now_s())
        await self.loop.checkpoint()
        host = _Host(self, url, subprotocol)
        try:
            async with connect_polls(self.loop, host.dial, url, subprotocol, entropy=self.entropy) as transport:
                yield transport
        finally:
            if host.wire is not None:
                host.wire.is_open = False
                host.wire.to_server.end()


class _Host:
    """The server as one polled connection of the client knows it."""

    def __init__(self, peer: PolledPeer, url: str, subprotocol: str) -> None:
        self.peer, self.url, self.subprotocol = peer, url, subprotocol
        self.wire: Wire | None = None
        self.media_type = f"application/vnd.syncd.v1+{'json' if subprotocol.endswith('json') else 'msgpack'}"
        self.opening: tuple[str, bytes] | None = None
        self.n = self.k = 0
        self.kept: bytes | None = None  # answer number k, until it is acknowledged

    async def dial(self, where: Place) -> _Stream:
        self.peer.dials += 1
        await self.peer.loop.checkpoint()
        if self.peer.is_hanging:
            await self.peer.loop.event().wait()
        if not self.peer.is_reachable:
            raise Absent(f"{where.host}: nobody listens")
        self.peer.streams_open += 1
        return _Stream(self)

    async def handle(self, told: Told) -> Answer:
        self.peer.requests.append((self.peer.loop.now_s(), told))
        await self.stuck()
        mishaps = self.peer.mishaps[told.kind]
        answer = await (mishaps.popleft()(told, self.answered) if mishaps else self.answered(told))
        await self.stuck()
        return answer

    async def stuck(self) -> None:
        if self.wire is not None and self.wire.is_stuck:
            await self.peer.loop.event().wait()

    async def answered(self, told: Told) -> Answer:
        if told.kind == "opening":
            return self.opened(told)
        wire = self.wire
        assert wire is not None, "the first request opens the connection"
        assert told.headers["authorization"] == "Bearer KEY"
        if wire.close_code == 1006:
            return problem(404, "unknown-connection")
        if told.kind == "poll":
            return await self.polled(wire, told.query["after"])
        if wire.close_code is not None:
            return problem(410, "connection-ended", code=wire.close_code)
        return self.taken(wire, told)

    def opened(self, told: Told) -> Answer:
        assert "authorization" not in told.headers
        opening = told.headers["idempotency-key"], told.body
        assert len(opening[0]) >= 16
        assert told.headers["content-type"] == self.media_type
        if self.wire is None:
            self.opening = opening
            self.wire = Wire(self.peer.loop, self.url, self.subprotocol, self.peer.delay_s)
            self.peer.wires.append(self.wire)
            self.put(self.wire, told)
            self.peer.arrivals.put(self.wire)
        assert opening == self.opening, "it is repeated as it was"
        return 201, {"content-type": "application/json"}, json.dumps({"key": "KEY", "wait_ms": 1000 * WAIT_S}).encode()

    def taken(self, wire: Wire, told: Told) -> Answer:
        n = told.query["n"]
        if n not in (self.n, self.n + 1):
            return problem(409, "out-of-order", expected=self.n + 1)
        if n == self.n + 1:
            self.n = n
            self.put(wire, told)
        return 204, {}, b""

    def put(self, wire: Wire, told: Told) -> None:
        wire.to_server.put(told.body.decode() if wire.is_json else told.body)

    async def polled(self, wire: Wire, after: int) -> Answer:
        if after not in (self.k, self.k - 1) or (after == self.k - 1 and self.kept is None):
            return problem(409, "out-of-order", expected=self.k)
        if after == self.k:
            self.kept, frame = None, None

            async def wait() -> None:
                nonlocal frame
                frame = await wire.to_client.get()

            try:
                if not await self.peer.loop.within(self.peer.loop.now_s() + WAIT_S, wait):
                    return 204, {}, b""
            except Ended:
                code = wire.close_code or 1006
                return problem(404, "unknown-connection") if code == 1006 else problem(410, "ended", code=code)
            assert frame is not None
            self.kept, self.k = frame if isinstance(frame, bytes) else frame.encode(), self.k + 1
        assert self.kept is not None
        return 200, {"content-type": self.media_type}, self.kept


class _Stream:
    """The client's end of a byte stream in memory."""

    def __init__(self, host: _Host) -> None:
        self._host = host
        self._h11 = h11.Connection(h11.SERVER)
        self._is_closed = False

    async def send(self, data: bytes) -> None:
        await self._host.peer.loop.checkpoint()
        self._h11.receive_data(data)

    async def receive(self) -> bytes:
        await self._host.peer.loop.checkpoint()
        event, body = self._h11.next_event(), b""
        assert isinstance(event, h11.Request), event
        while isinstance(part := self._h11.next_event(), h11.Data):
            body += part.data
        assert isinstance(part, h11.EndOfMessage)
        try:
            status, headers, content = await self._host.handle(Told(self._host.peer.loop, event, bytes(body)))
        except Broken:
            return b""
        lines = {**headers, **({} if status == 204 else {"content-length": str(len(content))})}
        written = self._h11.send(h11.Response(status_code=status, headers=list(lines.items()))) or b""
        written += (self._h11.send(h11.Data(data=content)) or b"") if content else b""
        written += self._h11.send(h11.EndOfMessage()) or b""
        self._h11.start_next_cycle()
        return written

    async def aclose(self) -> None:
        assert not self._is_closed, "closed twice"
        self._is_closed = True
        self._host.peer.streams_open -= 1
