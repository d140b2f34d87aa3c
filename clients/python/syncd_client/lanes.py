"""Polls, carried out on any event loop: the `shell.Transport` of a polled connection.

Owns the two byte streams of one, and their waiting. What is asked, and what an answer means, is the business of
`polls`; which library opens a stream is the shell's (`Dial`).

1. A stream whose request was not answered whole is closed: no answer is ever taken for that of another request.
2. Nothing stays open when the `async with` of `connect_polls` has ended.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

from .errors import TransportClosed, Unreachable
from .loops import Loop
from .polls import Answer, Exchange, Polls, Request, Tries
from .shell import Transport

RECEIVE_BYTES = 65_536
SYNC_PATH = "/v1/sync"  # of a URL that names a host only
_NOT_IN_URLS = re.compile("[^!-~]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads to. `netloc`: as the header `Host` has it."""

    host: str
    port: int
    is_secure: bool
    netloc: str
    path: str
    query: str


def place(url: str) -> Place:
    """Raises Unreachable."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as whoever looks it up will: no label is empty, or longer than may be
    except ValueError as error:
        raise Unreachable(f"{url}: {error}") from None
    if host is None or parts.scheme not in ("ws", "wss", "http", "https"):
        raise Unreachable(f"{url}: expected a URL like ws://HOST:PORT{SYNC_PATH}")
    if _NOT_IN_URLS.search(url):
        raise Unreachable(f"{url}: expected printable ASCII; other characters of a path are percent-encoded")
    is_secure = parts.scheme in ("wss", "https")
    netloc = parts.netloc.rpartition("@")[2]
    return Place(host, port or (443 if is_secure else 80), is_secure, netloc, parts.path or SYNC_PATH, parts.query)


class Stream(Protocol):
    """A byte stream over TCP or TLS. `send` and `receive` raise OSError; `receive` gives nothing at the end."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    async def aclose(self) -> None: ...  # at once, without a farewell


# Raises Unreachable: Absent if nobody listens.
Dial: TypeAlias = Callable[[Place], Awaitable[Stream]]


class Lane:
    """Requests one after the other, on one stream for as long as it is kept open. Raises OSError, or Unreachable."""

    def __init__(self, dial: Dial, where: Place) -> None:
        self._dial, self._place = dial, where
        self._stream: Stream | None = None
        self._exchange = Exchange(where.netloc)

    async def open(self) -> None:
        self._stream, self._exchange = await self._dial(self._place), Exchange(self._place.netloc)

    async def ask(self, request: Request) -> Answer:
        if self._stream is not None:
            try:
                return await self._asked(self._stream, request)
            except OSError:
                # The server has closed a connection that was idle: no answer, and no failure that counts.
                if self._exchange.has_begun:
                    raise
        await self.open()
        assert self._stream is not None
        return await self._asked(self._stream, request)

    async def _asked(self, stream: Stream, request: Request) -> Answer:
        answer = None
        try:
            await stream.send(self._exchange.begun(request))
            while answer is None:
                answer = self._exchange.received(await stream.receive())
        finally:
            if answer is None or not self._exchange.renewed():
                await self.aclose()
        return answer

    async def aclose(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()


class PollTransport:
    """`send` and `receive` may wait at the same time, each in one task."""

    carried_by = "polls"

    def __init__(
        self, loop: Loop, dial: Dial, url: str, subprotocol: str, entropy: Callable[[int], bytes], again_s: float
    ) -> None:
        where = place(url)
        self._loop = loop
        self._polls = Polls(where.path, subprotocol)
        self._sending, self._polling = Lane(dial, where), Lane(dial, where)
        self._entropy = entropy
        self._again_s = again_s
        self._opened = loop.event()

    async def open(self) -> None:
        """Raises Unreachable."""
        await self._sending.open()

    # -- shell.Transport -----------------------------------------------------------------------------------------

    async def send(self, frame: bytes | str) -> None:
        polls = self._polls
        if not polls.is_open:
            polls.opened(await self._answered(self._sending, polls.opening(self._entropy(16).hex(), frame)))
            self._opened.set()
        elif not polls.is_taken(await self._answered(self._sending, polls.message(frame))):
            await self._loop.event().wait()  # the poll ends the connection

    async def receive(self) -> bytes | str:
        """The messages of one answer; an empty frame when a poll was answered with nothing: a sign of life."""
        await self._opened.wait()
        asked_s = self._loop.now_s()
        if asked_s >= self._again_s:
            raise TransportClosed(4000, "a WebSocket is tried again")
        frame = self._polls.polled(await self._answered(self._polling, self._polls.poll()))
        if frame is not None:
            return frame
        pause_s = self._polls.pause_s(self._loop.now_s() - asked_s)
        if pause_s:
            await self._loop.sleep_until(self._loop.now_s() + pause_s)
        return "[]" if self._polls.is_text else b""

    async def close(self, code: int, reason: str) -> None:
        """Whoever leaves has said bye, and the server has taken it."""
        await self.aclose()

    async def aclose(self) -> None:
        try:
            await self._sending.aclose()
        finally:
            await self._polling.aclose()

    # -- requests ------------------------------------------------------------------------------------------------

    async def _answered(self, lane: Lane, request: Request) -> Answer:
        """The answer to a request that is sent again, as it was, until there is one. Raises TransportClosed."""
        tries = Tries(request)
        while True:
            random = self._entropy(1)[0] / 256
            answer = await self._tried(lane, request)
            if isinstance(answer, Answer):
                wait_s = tries.answered(answer, random)
                if wait_s is None:
                    return answer
            else:
                wait_s = tries.failed(answer, random)
            await self._loop.sleep_until(self._loop.now_s() + wait_s)

    async def _tried(self, lane: Lane, request: Request) -> Answer | str:
        """The answer, or why there is none."""
        result: Answer | str = f"no answer within {request.limit_s:.0f} s"

        async def ask() -> None:
            nonlocal result
            try:
                result = await lane.ask(request)
            except (OSError, Unreachable) as error:
                result = str(error) or type(error).__name__

        await self._loop.within(self._loop.now_s() + request.limit_s, ask)
        return result


@asynccontextmanager
async def connect_polls(
    loop: Loop,
    dial: Dial,
    url: str,
    subprotocol: str,
    *,
    entropy: Callable[[int], bytes],
    again_s: float = float("inf"),
) -> AsyncIterator[Transport]:
    """A `connect` port. `again_s`: when the connection ends by itself, so that a WebSocket can be tried."""
    transport = PollTransport(loop, dial, url, subprotocol, entropy, again_s)
    try:
        await transport.open()
        yield transport
    finally:
        await transport.aclose()
