"""Polls under trio: the `shell.Transport` of SPEC 5.5, over HTTP/1.1 by h11.

Owns the requests of one polled connection: their numbers, and when one is sent again. Must not know what the messages
say, nor when polls are the right choice (`carriers`).

1. Message n is sent until it is answered, then n + 1: the server takes each once, in order.
2. Answer k is asked for until it has come whole, then k + 1.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import trio

from .codec import FRAME_BYTES_MAX
from .errors import TransportClosed, Unreachable
from .shell import CONNECT_S, Transport

REQUEST_S = 15.0  # for a request and its answer on a bad mobile network, beside what a poll waits on purpose
TRIES_MAX = 5  # of one request: some fifteen seconds, after which the connection counts as lost
RETRY_S = 0.5  # before the second try, doubled each time, with jitter
EMPTY_S = 1.0  # between two polls that were answered with nothing before their time: a cache, or a proxy in haste
AGAIN = (408, 425, 429, 500, 502, 503, 504)
MEDIA_TYPES = {
    "syncd.v1.msgpack": "application/vnd.syncd.v1+msgpack",
    "syncd.v1.json": "application/vnd.syncd.v1+json",
}
_RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Lane:
    """Requests one after the other, on one connection for as long as it is kept open. Raises OSError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None:
            raise Unreachable(f"{url}: expected a URL with a host")
        self._host, self._is_secure = parts.hostname, parts.scheme in ("wss", "https")
        self._port = parts.port or (443 if self._is_secure else 80)
        self._netloc = parts.netloc.rpartition("@")[2]
        self._stream: trio.abc.Stream | None = None
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        try:
            stream = self._stream or await self._opened()
            answer = await self._exchanged(stream, method, target, headers, body)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError) as error:
            await self.aclose()
            raise OSError(str(error) or type(error).__name__) from None
        except BaseException:
            await self.aclose()
            raise
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        else:
            await self.aclose()
        return answer

    async def aclose(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def _opened(self) -> trio.abc.Stream:
        with trio.move_on_after(CONNECT_S):
            if self._is_secure:
                context = ssl.create_default_context()
                self._stream = await trio.open_ssl_over_tcp_stream(self._host, self._port, ssl_context=context)
            else:
                self._stream = await trio.open_tcp_stream(self._host, self._port)
            self._h11 = h11.Connection(h11.CLIENT)
            return self._stream
        raise OSError(f"no connection within {CONNECT_S:.0f} s")

    async def _exchanged(
        self, stream: trio.abc.Stream, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> Answer:
        lines = [("Host", self._netloc), *headers.items()]
        if method == "POST":
            lines.append(("Content-Length", str(len(body))))
        events: list[h11.Event] = [h11.Request(method=method, target=target, headers=lines)]
        events += [h11.Data(data=body)] if body else []
        await stream.send_all(b"".join(self._h11.send(event) or b"" for event in (*events, h11.EndOfMessage())))
        status, told, content = 0, {}, bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(bytes(await stream.receive_some(_RECEIVE_BYTES)))
            elif isinstance(event, h11.Response):
                status = event.status_code
                told = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                content += event.data
                if len(content) > FRAME_BYTES_MAX:
                    raise OSError(f"an answer of more than {FRAME_BYTES_MAX} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, told, bytes(content))
            elif not isinstance(event, h11.InformationalResponse):
                raise OSError("the connection ended before the answer")


class PollTransport:
    """`send` and `receive` may wait at the same time, each in one task."""

    carried_by = "polls"

    def __init__(self, url: str, subprotocol: str, entropy: Callable[[int], bytes], again_s: float) -> None:
        self._sending, self._polling = Lane(url), Lane(url)
        self._path = urlsplit(url).path or "/v1/sync"
        self._media_type = MEDIA_TYPES[subprotocol]
        self._is_text = subprotocol.endswith("json")
        self._entropy = entropy
        self._again_s = again_s
        self._opened = trio.Event()
        self._key, self._wait_s = "", 25.0
        self._n = self._after = 0

    # -- shell.Transport -----------------------------------------------------------------------------------------

    async def send(self, frame: bytes | str) -> None:
        body = frame.encode() if isinstance(frame, str) else frame
        if not self._key:
            await self._open(body)
            return
        self._n += 1
        answer = await self._answered(self._sending, "POST", f"{self._path}/messages?n={self._n}", 0.0, body)
        if answer.status == 410:
            await trio.sleep_forever()  # the poll says how it ended, after what came before
        if answer.status != 204:
            raise _refused(answer)

    async def receive(self) -> bytes | str:
        """The messages of one answer; an empty frame when a poll was answered with nothing: a sign of life."""
        await self._opened.wait()
        if trio.current_time() >= self._again_s:
            raise TransportClosed(4000, "a WebSocket is tried again")
        asked_s = trio.current_time()
        target = f"{self._path}/messages?after={self._after}"
        answer = await self._answered(self._polling, "GET", target, self._wait_s)
        if answer.status == 204:
            if trio.current_time() - asked_s < min(EMPTY_S, self._wait_s):
                await trio.sleep(EMPTY_S)
            return "[]" if self._is_text else b""
        if answer.status != 200 or answer.headers.get("content-type") != self._media_type:
            raise _refused(answer)
        self._after += 1
        return answer.body.decode() if self._is_text else answer.body

    async def close(self, code: int, reason: str) -> None:
        """Whoever leaves has said bye, and the server has taken it."""
        await self.aclose()

    async def aclose(self) -> None:
        await self._sending.aclose()
        await self._polling.aclose()

    # -- requests ------------------------------------------------------------------------------------------------

    async def _open(self, body: bytes) -> None:
        headers = {"Idempotency-Key": self._entropy(16).hex()}
        answer = await self._answered(self._sending, "POST", self._path, 0.0, body, headers)
        try:
            if answer.status != 201:
                raise _refused(answer)
            told = json.loads(answer.body)
            self._key, self._wait_s = str(told["key"]), min(60.0, max(1.0, told["wait_ms"] / 1000))
        except (ValueError, TypeError, KeyError):
            raise _refused(answer) from None
        self._opened.set()

    async def _answered(
        self, lane: Lane, method: str, target: str, wait_s: float, body: bytes = b"", more: dict[str, str] | None = None
    ) -> Answer:
        """The answer to a request that is sent again, as it was, until there is one. Raises TransportClosed."""
        headers = {"Accept": f"{self._media_type}, application/json", **(more or {})}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if method == "POST":
            headers["Content-Type"] = self._media_type
        problem = ""
        for number in range(TRIES_MAX):
            if number:
                await trio.sleep(RETRY_S * 2**number * (0.5 + self._entropy(1)[0] / 256))
            problem = f"no answer within {wait_s + REQUEST_S:.0f} s"
            with trio.move_on_after(wait_s + REQUEST_S):
                try:
                    answer = await lane.ask(method, target, headers, body)
                except OSError as error:
                    problem = str(error)
                    continue
                if answer.status not in AGAIN:
                    return answer
                problem = f"HTTP status {answer.status}"
        raise TransportClosed(1006, f"polls: {problem}")


def _refused(answer: Answer) -> TransportClosed:
    """What an answer means that carries no messages."""
    if answer.status == 410:
        try:
            told = json.loads(answer.body)
            return TransportClosed(int(told["code"]), str(told.get("detail", "")))
        except (ValueError, TypeError, KeyError):
            pass
    return TransportClosed(1006, f"polls: refused with HTTP status {answer.status}")


@asynccontextmanager
async def connect_polls(
    url: str, subprotocol: str, *, entropy: Callable[[int], bytes], again_s: float = float("inf")
) -> AsyncIterator[Transport]:
    """A `connect` port. `again_s`: when the connection ends by itself, so that a WebSocket can be tried."""
    transport = PollTransport(url, subprotocol, entropy, again_s)
    try:
        yield transport
    finally:
        await transport.aclose()
