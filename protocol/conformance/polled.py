"""The binding of SPEC 5.5 for the two runners: a polling client, which checks servers, and a polled server for clients.

Owns HTTP/1.1 as far as polls need it, and what may befall a request on its way. Must not know what the messages say.
Shares no code with syncd or any client. Needs trio and h11.
"""
# Part of a tool with an edge of its own:
# ruff: noqa: TID251

import json
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11
import trio

MEDIA_TYPES = {
    "syncd.v1.msgpack": "application/vnd.syncd.v1+msgpack",
    "syncd.v1.json": "application/vnd.syncd.v1+json",
}
ANSWER_S = 10.0  # beside what a poll waits on purpose
WAIT_MS = 1_000  # what the polled server tells: short, so that a run is
TRIES_MAX = 20  # of a request that is answered 503


class Closed(Exception):
    """The connection has ended with this close code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told


# -- a polling client -------------------------------------------------------------------------------------------------


class PollingSocket:
    """One polled connection, with what a WebSocket has: `send_message`, `get_message`, `aclose`."""

    def __init__(self, url: str, subprotocol: str) -> None:
        self._parts = urlsplit(url)
        self.media_type = MEDIA_TYPES[subprotocol]
        self._is_text = subprotocol.endswith("json")
        self.key = ""
        self.opening = os.urandom(16).hex()
        self.n = self.after = 0

    async def ask(self, method: str, target: str, body: bytes = b"", **more: str) -> Answer:
        """One request on a stream of its own. `more`: headers, with `_` for `-`."""
        parts = self._parts
        assert parts.hostname is not None, "a URL names a host"
        is_secure = parts.scheme in ("wss", "https")
        tcp = await trio.open_tcp_stream(parts.hostname, parts.port or (443 if is_secure else 80))
        stream: trio.abc.Stream = tcp
        if is_secure:
            stream = trio.SSLStream(tcp, ssl.create_default_context(), server_hostname=parts.hostname)
        headers = {"Host": parts.netloc, "Connection": "close"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        if method == "POST":
            headers |= {"Content-Length": str(len(body))}
            headers.setdefault("Content-Type", self.media_type)
        connection = h11.Connection(h11.CLIENT)
        async with stream:
            sent = connection.send(h11.Request(method=method, target=target, headers=list(headers.items()))) or b""
            sent += (connection.send(h11.Data(data=body)) or b"") if body else b""
            await stream.send_all(sent + (connection.send(h11.EndOfMessage()) or b""))
            return await _answer(connection, stream)

    async def open(self, body: bytes) -> Answer:
        answer = await self.ask("POST", self._parts.path, body, Idempotency_Key=self.opening)
        if answer.status == 201:
            self.key = answer.told()["key"]
        return answer

    async def message(self, n: int, body: bytes) -> Answer:
        return await self.ask("POST", f"{self._parts.path}/messages?n={n}", body)

    async def poll(self, after: int) -> Answer:
        return await self.ask("GET", f"{self._parts.path}/messages?after={after}")

    async def send_message(self, frame: bytes | str) -> None:
        body = frame.encode() if isinstance(frame, str) else frame
        for _ in range(TRIES_MAX):
            answer = await (self.message(self.n + 1, body) if self.key else self.open(body))
            if answer.status == 201:
                return
            if answer.status == 204:
                self.n += 1
                return
            if answer.status == 410:
                return  # the poll says so, after what came before
            if answer.status not in (429, 503):
                break
            await trio.sleep(float(answer.headers["retry-after"]))
        raise AssertionError(f"a message was answered {answer.status}: {answer.body!r}")

    async def get_message(self) -> bytes | str:
        while True:
            answer = await self.poll(self.after)
            if answer.status == 200:
                assert answer.headers["content-type"] == self.media_type, "the answer has another Content-Type"
                self.after += 1
                return answer.body.decode() if self._is_text else answer.body
            if answer.status == 410:
                raise Closed(answer.told()["code"])
            assert answer.status == 204, f"a poll was answered {answer.status}: {answer.body!r}"

    async def aclose(self) -> None:
        """Who says nothing more, is gone: the server finds out by itself."""


async def _answer(connection: h11.Connection, stream: trio.abc.Stream) -> Answer:
    status, headers, body = 0, dict[str, str](), b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(65_536)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, headers, body)
        else:
            raise AssertionError(f"no answer: {event!r}")


# -- a polled server --------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """The stream is cut instead of an answer."""


@dataclass(frozen=True)
class _Request:
    kind: str  # opening, message, poll
    number: int
    headers: dict[str, str]
    body: bytes


class PolledServer:
    """The server's end of the connections of one client, in the JSON binding.

    `befall(kind, what)`: what befalls the next request of a kind, in order: `request-lost`, `answer-lost`, `doubled`,
    `late`, `forgotten`, or a status with the seconds of its Retry-After.
    """

    def __init__(self) -> None:
        self._befalls: dict[str, deque[Any]] = {"opening": deque(), "message": deque(), "poll": deque()}
        self.accepted, self.connections = trio.open_memory_channel[ServerSocket](10)
        self._sockets: dict[str, ServerSocket] = {}  # by key
        self._openings: dict[str, tuple[bytes, str]] = {}  # Idempotency-Key -> body, key
        self._held_until_s = 0.0
        self.complaint: str | None = None

    def befall(self, kind: str, what: Any) -> None:
        self._befalls[kind].append(what)

    @property
    def is_through(self) -> bool:
        """Everything has befallen somebody."""
        return not any(self._befalls.values())

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while (request := await self._request(connection, stream)) is not None:
                    status, headers, body = await self._befallen(request)
                    lines = {**headers, **({} if status == 204 else {"Content-Length": str(len(body))})}
                    sent = connection.send(h11.Response(status_code=status, headers=list(lines.items()))) or b""
                    sent += (connection.send(h11.Data(data=body)) or b"") if body else b""
                    await stream.send_all(sent + (connection.send(h11.EndOfMessage()) or b""))
                    connection.start_next_cycle()
            except (_Broken, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                return

    async def _request(self, connection: h11.Connection, stream: trio.SocketStream) -> _Request | None:
        head, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65_536)))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                break
            else:
                return None
        parts = urlsplit(head.target.decode())
        query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        kind = "poll" if head.method == b"GET" else "message" if parts.path.endswith("/messages") else "opening"
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return _Request(kind, query.get("after", query.get("n", 0)), headers, body)

    async def _befallen(self, request: _Request) -> tuple[int, dict[str, str], bytes]:
        if request.kind == "opening" and trio.current_time() < self._held_until_s:
            self.complaint = "the client opened sooner than Retry-After had said"
        befalls = self._befalls[request.kind]
        what = befalls.popleft() if befalls else None
        if isinstance(what, dict):
            if request.kind == "opening":
                self._held_until_s = trio.current_time() + what["retry_after"]
            return _problem(what["status"], "overloaded", {"Retry-After": str(what["retry_after"])})
        if what == "request-lost":
            raise _Broken
        if what == "forgotten":
            return _problem(404, "unknown-connection")
        if what == "doubled":
            await self._answered(request)
        answer = await self._answered(request)
        if what == "answer-lost":
            raise _Broken
        if what == "late":
            await trio.sleep(WAIT_MS / 1000 + 60)  # until long after the client has given it up
        return answer

    async def _answered(self, request: _Request) -> tuple[int, dict[str, str], bytes]:
        if request.kind == "opening":
            return await self._opened(request)
        socket = self._sockets.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if socket is None or socket.close_code == 1006:
            return _problem(404, "unknown-connection")
        return await (socket.polled(request.number) if request.kind == "poll" else socket.taken(request))

    async def _opened(self, request: _Request) -> tuple[int, dict[str, str], bytes]:
        if request.headers.get("content-type") != MEDIA_TYPES["syncd.v1.json"]:
            return _problem(415, "unsupported-media-type")
        opening = request.headers.get("idempotency-key", "")
        if len(opening) < 16:
            return _problem(400, "malformed-request")
        body, key = self._openings.get(opening, (request.body, ""))
        if body != request.body:
            return _problem(422, "idempotency-key-reused")
        if not key:
            key = os.urandom(16).hex()
            self._openings[opening] = request.body, key
            socket = self._sockets[key] = ServerSocket()
            socket.received.send_nowait(request.body.decode())
            await self.accepted.send(socket)
        return 201, {"Content-Type": "application/json"}, json.dumps({"key": key, "wait_ms": WAIT_MS}).encode()


class ServerSocket:
    """One connection, with what a WebSocket has: `send_message`, `get_message`, `aclose`."""

    def __init__(self) -> None:
        self.received, self._arriving = trio.open_memory_channel[str](1_000)
        self._leaving, self._waiting = trio.open_memory_channel[str](1_000)
        self.close_code: int | None = None
        self._ended = trio.Event()
        self._n = self._k = 0
        self._kept = b""
        self._lock = trio.Lock()

    async def send_message(self, frame: str) -> None:
        self._leaving.send_nowait(frame)

    async def get_message(self) -> str:
        return await self._arriving.receive()

    async def aclose(self, code: int = 1000) -> None:
        self.close_code = code
        self._leaving.close()
        with trio.move_on_after(WAIT_MS / 1000):
            await self._ended.wait()

    async def taken(self, request: _Request) -> tuple[int, dict[str, str], bytes]:
        if self.close_code is not None:
            return self._end()
        if request.number not in (self._n, self._n + 1):
            return _problem(409, "out-of-order", expected=self._n + 1)
        if request.number == self._n + 1:
            self._n += 1
            self.received.send_nowait(request.body.decode())
        return 204, {}, b""

    async def polled(self, after: int) -> tuple[int, dict[str, str], bytes]:
        async with self._lock:
            if after not in (self._k, self._k - 1):
                return _problem(409, "out-of-order", expected=self._k)
            if after == self._k:
                try:
                    with trio.move_on_after(WAIT_MS / 1000):
                        self._kept = (await self._waiting.receive()).encode()
                        self._k += 1
                except trio.EndOfChannel:
                    return self._end()
                if after == self._k:
                    return 204, {}, b""
            return 200, {"Content-Type": MEDIA_TYPES["syncd.v1.json"]}, self._kept

    def _end(self) -> tuple[int, dict[str, str], bytes]:
        self._ended.set()
        assert self.close_code is not None
        return _problem(410, "connection-ended", code=self.close_code, detail="closed")


def _problem(
    status: int, name: str, headers: dict[str, str] | None = None, **fields: Any
) -> tuple[int, dict[str, str], bytes]:
    told = {"Content-Type": "application/problem+json", **(headers or {})}
    return status, told, json.dumps({"type": f"/problems/{name}", "status": status, **fields}).encode()


@asynccontextmanager
async def polling(url: str, subprotocol: str) -> AsyncIterator[PollingSocket]:
    socket = PollingSocket(url, subprotocol)
    yield socket
    if socket.key:  # leave nothing behind: bye, and the end
        bye = b"[[14,{}]]" if subprotocol.endswith("json") else b"\x92\x0e\x80"
        with trio.move_on_after(ANSWER_S):
            await socket.message(socket.n + 1, bye)
