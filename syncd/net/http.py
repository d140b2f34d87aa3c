"""The HTTP shell: requests in, responses out, on one connection, until it ends or becomes a WebSocket.

Owns parsing (h11's), the limits on what is read and how long it may take, keep-alive, and the answer to an upgrade.
Must not know routes (`api` handles whole requests) or what a WebSocket carries (`connection` goes on with the bytes).

Invariants: H1 nothing is read of a body whose length is refused. H2 one request at a time: the next is not read before
the last byte of the response before it was taken. H3 every wait has an end: headers, body, handling, writing,
idling; and what a request waits for on purpose ends with its peer, too. H4 what cannot be parsed is answered by a
problem (RFC 9457) and the end of the connection, never by silence. H5 what is received of bodies, and what of responses
waits for slow readers, is bounded in bytes for all connections together.
"""

import base64
import hashlib
import re
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar, cast

import h11
import trio

from syncd.env.ports import Clock, Transport, TransportClosed
from syncd.net import deflate
from syncd.net.counters import Counters
from syncd.net.exchange import BODY_BYTES_MAX, Later, Request, Response, Send, http_date
from syncd.net.limits import NetLimits
from syncd.net.problems import problem_response
from syncd.wire.codec import CODECS, Codec

SYNC_PATH: Final = "/v1/sync"
RECEIVE_BYTES: Final = 65_536
BODY_PIECES_MAX: Final = 16_384  # chunks, or what one read brings of them: 11 us each; 4 MiB in 256 bytes each
BODIES_BYTES_MAX: Final = 134_217_728  # of unfinished bodies: 32 of the longest at once, or thousands of usual ones
# Of responses that wait for their readers, each held twice while it is sent: 64 of the longest pages. A page has 1 MiB,
# and whoever may read one could otherwise leave one on each of thousands of connections.
UNSENT_BYTES_MAX: Final = 67_108_864
PIECES_PER_TURN: Final = 256  # of those between two checkpoints, some 3 ms: a read of 64 KiB may hold ten thousand
_SYNC_TARGET: Final = SYNC_PATH.encode()
_UNWRITABLE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f]")  # nowhere in a header, RFC 9110, 5.5
_KEY_BYTES: Final = 16
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response | Later]]


class Door(Protocol):
    """What the shell asks the server about a connection that it holds."""

    def refused_s(self) -> float | None:
        """None: a WebSocket may begin. Else: in how many seconds to try again."""
        ...

    def request_refused_s(self, peer: str) -> float:
        """0: the request is read on. Else: in how many seconds this address may ask again."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether connections are to end with the response that is being made."""
        ...


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The connection is a WebSocket from here on. `trailing`: bytes that came right behind the request. `deflate`: what
    was agreed about compression, None if it is not used."""

    codec: Codec
    authorization: str | None
    trailing: bytes
    deflate: deflate.Agreement | None


class _Ended(Exception):
    """The connection is over, and there is nothing to answer."""


class _Problem(Exception):
    """The request cannot be taken; after the answer the connection ends."""

    def __init__(self, name: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.name, self.detail, self.headers = name, detail, headers


class HttpShell:
    """What all HTTP connections of a server share. `origins`: the browsers' origins that may open a WebSocket, None for
    any (a token is never sent by a browser of its own accord, so a foreign page has nothing to ride on)."""

    def __init__(
        self,
        handle: Handler,
        door: Door,
        clock: Clock,
        limits: NetLimits,
        log: Callable[[str], None],
        origins: frozenset[str] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.handle, self.door, self.clock, self.limits, self.log, self.origins = (
            handle, door, clock, limits, log, origins,
        )  # fmt: skip
        self.counters = counters or Counters()
        self.idle: set[trio.CancelScope] = set()  # connections between two requests; cancelled when we drain
        self.bodies_bytes = 0  # of the bodies that are being received
        self.unsent_bytes = 0  # of the responses that wait for their readers
        self._unsent: OrderedDict[_Conversation, int] = OrderedDict()  # by whom; who took something last is at the end
        self._busy_count = 0  # requests taken whole and not answered yet
        self._answered = trio.Event()  # replaced by `wait_answered`, which alone waits for it

    def begin(self) -> None:
        """A request was taken whole; `end` follows, whatever becomes of it."""
        self._busy_count += 1

    def end(self) -> None:
        self._busy_count -= 1
        if not self._busy_count:
            self._answered.set()

    def waits(self, conversation: "_Conversation", size: int) -> None:
        """So many bytes are held for its reader, who took some just now. If too many are held for all together, those
        who have taken nothing for longest are cut off."""
        self.sent(conversation)
        self._unsent[conversation] = size
        self.unsent_bytes += size
        while self.unsent_bytes > UNSENT_BYTES_MAX:
            slowest = next(iter(self._unsent))
            self.sent(slowest)
            slowest.cut_off()

    def sent(self, conversation: "_Conversation") -> None:
        """Nothing is held for its reader. Idempotent."""
        self.unsent_bytes -= self._unsent.pop(conversation, 0)

    async def wait_answered(self) -> None:
        """Until every request that was taken has its answer."""
        while self._busy_count:
            self._answered = trio.Event()
            await self._answered.wait()

    async def converse(self, transport: Transport) -> Upgrade | None:
        """Serve requests; returns what to go on with if one of them upgraded. Raises `TransportClosed`."""
        conversation = _Conversation(self, transport)
        try:
            return await conversation.run()
        except _Ended:
            return None

    async def refuse(self, transport: Transport, name: str, retry_s: float) -> None:
        """Answer the first request with a problem, `overloaded` or `rate-limited`, whatever it is. Raises
        `TransportClosed`."""
        conversation = _Conversation(self, transport)
        try:
            await conversation.refuse(name, retry_s)
        except _Ended:
            return


def is_sync(path: str) -> bool:
    """Whether requests for this path carry a conversation."""
    return path == SYNC_PATH or path.startswith(SYNC_PATH + "/")


def retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    """A Retry-After header, in whole seconds, rounded up."""
    return (("Retry-After", str(int(seconds) + 1)),)


class _Conversation:
    """One connection while it speaks HTTP."""

    __slots__ = ("_h11", "_is_carrying", "_is_first", "_shell", "_transport")

    def __init__(self, shell: HttpShell, transport: Transport) -> None:
        self._shell = shell
        self._transport = transport
        self._h11 = self._parser()
        self._is_first = True
        self._is_carrying = False  # a conversation, by polls: it leaves when that is over, as a WebSocket does

    def _parser(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._shell.limits.header_bytes_max)

    @property
    def _is_draining(self) -> bool:
        return self._shell.door.is_draining and not self._is_carrying

    async def run(self) -> Upgrade | None:
        requests_max = self._shell.limits.requests_per_connection_max
        for number in range(1, requests_max + 1):
            head: h11.Request | None = None
            try:
                head = await self._head()
                if head.method == b"GET" and head.target.partition(b"?")[0] == _SYNC_TARGET:
                    return await self._upgraded(head)
                if wait_s := self._shell.door.request_refused_s(self._transport.peer):
                    raise _rate_limited(wait_s)
                request = await self._request(head)
            except _Problem as problem:
                await self._answer(head, self._response(head, problem), is_last=True)
                break
            self._shell.begin()
            try:
                limits = self._shell.limits
                response = await self._handled(request, partial(self._shell.handle, request), limits.handle_s)
                if isinstance(response, Later):
                    wait_s = response.wait_s + limits.handle_s
                    response = await self._while_there(partial(self._handled, request, response.answer, wait_s))
                self._is_carrying = is_sync(request.path)
                is_last = self._is_draining or number == requests_max
                goes_on = await self._answer(head, response, is_last=is_last)
            finally:
                self._shell.end()
            if not goes_on:
                break
            self._is_first = False
            if self._h11.trailing_data[0]:
                # The next request is here already, and nothing on its way need wait: others get a turn between the two.
                await trio.lowlevel.checkpoint()
        await self._linger()
        return None

    async def refuse(self, name: str, retry_s: float) -> None:
        head = None
        try:
            head = await self._head()
            problem = _overloaded(retry_s) if name == "overloaded" else _rate_limited(retry_s)
        except _Problem as error:
            problem = error.with_traceback(None)  # which holds this frame, which is about to hold the error
        await self._answer(head, self._response(head, problem), is_last=True)
        await self._linger()

    # -- in ------------------------------------------------------------------------------------------------------

    async def _head(self) -> h11.Request:
        """The next request's line and headers. An idle connection ends here, when it stays silent or we drain."""
        limits = self._shell.limits
        if not self._is_first and self._is_draining:
            raise _Ended
        if not self._is_first and not self._h11.trailing_data[0]:
            with trio.move_on_after(limits.keep_alive_s) as idle:
                if not self._is_carrying:
                    self._shell.idle.add(idle)
                try:
                    await self._feed()
                finally:
                    self._shell.idle.discard(idle)
            if idle.cancelled_caught:
                raise _Ended
        event = self._next()
        if event is None:
            with trio.move_on_after(limits.header_s) as reading:
                event = await self._event()
            if reading.cancelled_caught:
                raise self._unfinished()
        if not isinstance(event, h11.Request):
            raise _Ended
        # h11 bounds headers that are not complete; whole ones may have come in one piece of input.
        size = len(event.target) + sum([len(name) + len(value) + 4 for name, value in event.headers.raw_items()])
        if size > limits.header_bytes_max:
            raise _headers_too_large()
        return event

    def _unfinished(self) -> Exception:
        """Why there is no request, when its time is over."""
        if self._is_first and not self._h11.trailing_data[0]:
            return _Ended()  # a connection that was opened ahead and never used needs no answer
        header_s = self._shell.limits.header_s
        return _Problem("request-timeout", f"the headers did not arrive within {header_s:g} seconds")

    async def _request(self, head: h11.Request) -> Request:
        limits = self._shell.limits
        headers = _joined(head.headers.raw_items())
        length = headers.get("content-length")
        if length is not None and int(length) > BODY_BYTES_MAX:
            raise _too_large()
        if length is not None and "transfer-encoding" in headers:
            # RFC 9112, 6.3: whoever stands before us may have taken the other one for the end of the body.
            raise _Problem("malformed-request", "a request has Content-Length or Transfer-Encoding, not both")
        received_ms = self._shell.clock.now_ms()
        if "transfer-encoding" not in headers and int(length or 0) <= len(self._h11.trailing_data[0]):
            body = await self._body()  # it is here, whole: there is nothing to wait for
        else:
            if self._h11.they_are_waiting_for_100_continue:
                # By the time limit of writing: what was taken by half must not be followed by the refusal of a body.
                await self._write(self._sent(h11.InformationalResponse(status_code=100, headers=[])))
            with trio.move_on_after(limits.body_s) as reading:
                body = await self._body()
            if reading.cancelled_caught:
                raise _Problem("request-timeout", f"the body did not arrive within {limits.body_s:g} seconds")
        try:
            path, _, query = head.target.decode("ascii").partition("?")
        except UnicodeDecodeError:
            raise _Problem("malformed-request", "the request target is ASCII, percent-encoded") from None
        if not path.startswith("/"):
            raise _Problem("malformed-request", "the request target begins with '/'")
        method, peer = head.method.decode("ascii"), self._transport.peer
        return Request(method, path, query, headers, body, peer, received_ms)

    async def _body(self) -> bytes:
        """The body, whole. It is read before anyone looks at credentials, so what strangers send and never finish is
        bounded for all connections together. Raises `_Problem`, `_Ended`."""
        shell, body, pieces = self._shell, bytearray(), 0
        try:
            while isinstance(event := await self._event(), h11.Data):
                if len(body) + len(event.data) > BODY_BYTES_MAX:
                    raise _too_large()
                body += event.data
                shell.bodies_bytes += len(event.data)
                if shell.bodies_bytes > BODIES_BYTES_MAX:
                    wait = retry_after(shell.limits.refused_retry_min_s)
                    raise _Problem("overloaded", "too many bodies are being received at the moment", wait)
                pieces += 1
                if pieces > BODY_PIECES_MAX:
                    raise _Problem("malformed-request", f"a body comes in at most {BODY_PIECES_MAX} pieces")
                if pieces % PIECES_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
        finally:
            shell.bodies_bytes -= len(body)
        if not isinstance(event, h11.EndOfMessage):
            raise _Ended
        return bytes(body)

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._next()) is None:
            await self._feed()
        return event

    def _next(self) -> h11.Event | type[h11.PAUSED] | None:
        """The next event of what is here already, None if it is not whole."""
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            # h11 raises it from a method of its own: the traceback holds a frame that holds the error. A cycle for
            # each line of garbage that comes would stay until the collector looks.
            raise _unparsable(error.with_traceback(None)) from None
        return None if event is h11.NEED_DATA else cast("h11.Event | type[h11.PAUSED]", event)

    async def _feed(self) -> None:
        self._h11.receive_data(await self._transport.receive(RECEIVE_BYTES))

    # -- out -----------------------------------------------------------------------------------------------------

    async def _handled(self, request: Request, answer: Callable[[], Awaitable[T]], limit_s: float) -> T | Response:
        """What `answer` gives. What it raises is logged and hurts this request only."""
        shell = self._shell
        try:
            with trio.move_on_after(limit_s):
                return await answer()
        except Exception:
            shell.log(f"{request.method} {request.path} failed\n{traceback.format_exc()}")
            return problem_response("internal", "the server failed on this request and has logged why", request.path)
        detail = f"no result within {limit_s:g} seconds; it may still take effect: repeat it with its key"
        return problem_response("overloaded", detail, request.path, retry_after(shell.limits.refused_retry_min_s))

    async def _while_there(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, which ends with its peer: a wait for nobody would hold its place to the end. A peer
        that half-closes counts as gone, as with other servers. Raises `_Ended`, and what `work` raises."""
        results: list[T] = []
        failure: Exception | None = None

        async def watch() -> None:
            room = RECEIVE_BYTES  # for requests that come early; who sends more is not watched any longer
            try:
                while data := await self._transport.receive(room):
                    self._h11.receive_data(data)
                    room -= len(data)
                    if not room:
                        return
            except TransportClosed:
                pass
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                results.append(await work())
            except Exception as error:  # raised again below, and not as a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            try:
                raise failure
            finally:
                failure = None  # its traceback holds this frame
        if not results:
            raise _Ended
        return results[0]

    async def _stream(self, stream: Callable[[Send], Awaitable[None]]) -> None:
        """The body that a stream writes. One that fails, or outlives its time, ends without the mark of the end."""

        async def send(data: bytes) -> None:
            await trio.lowlevel.checkpoint()  # a peer that takes everything at once must not keep the loop
            await self._write(self._sent(h11.Data(data=data)))

        shell = self._shell
        try:
            with trio.move_on_after(shell.limits.stream_s) as life:
                await self._while_there(partial(stream, send))
        except (_Ended, TransportClosed):
            raise
        except Exception:
            shell.log(f"a stream failed\n{traceback.format_exc()}")
            raise _Ended from None
        if life.cancelled_caught:
            raise _Ended

    def _response(self, head: h11.Request | None, problem: _Problem) -> Response:
        path = "" if head is None else head.target.partition(b"?")[0].decode("ascii", "replace")
        self._shell.counters.refusals[problem.name] += 1
        if path == SYNC_PATH:
            self._shell.counters.upgrades[problem.name] += 1
        response = problem_response(problem.name, problem.detail, path, problem.headers)
        date = (("Date", http_date(self._shell.clock.now_ms())),)
        return Response(response.status, response.headers + date, response.body)

    async def _answer(self, head: h11.Request | None, response: Response, *, is_last: bool) -> bool:
        """Write a response; whether another request may follow it."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise _Ended
        self._shell.counters.responses[response.status] += 1
        is_head = head is not None and head.method == b"HEAD"
        if self._h11.their_state is h11.DONE and not (is_last or is_head) and (data := _written(response)) is not None:
            # The request was taken whole, and h11 found that the connection may go on. A new parser with what came
            # behind the request costs 2 us, to lead the old one through the response and to its next cycle 30.
            (trailing, is_over), self._h11 = self._h11.trailing_data, self._parser()
            if trailing:
                self._h11.receive_data(trailing)
            if is_over:
                self._h11.receive_data(b"")
            await self._write(data)
            return True
        headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in response.headers]
        if is_last:
            headers.append((b"Connection", b"close"))
        parts = [self._sent(h11.Response(status_code=response.status, headers=headers))]
        if response.body and not is_head:
            parts.append(self._sent(h11.Data(data=response.body)))
        if response.stream is not None:
            await self._write(b"".join(parts))
            await self._stream(response.stream)
            parts = []
        parts.append(self._sent(h11.EndOfMessage()))
        await self._write(b"".join(parts))
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    def _sent(self, event: h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage) -> bytes:
        return self._h11.send(event) or b""

    async def _write(self, data: bytes) -> None:
        """Hand over all of it; the time limit is for each step, so that a slow reader of a long answer is served."""
        rest = memoryview(data)
        while taken := self._transport.send_now(rest):
            rest = rest[taken:]
            if not rest:
                return
        shell = self._shell
        try:
            shell.waits(self, len(data))
            while rest:
                with trio.move_on_after(shell.limits.write_s) as waiting:
                    await self._transport.wait_writable()
                if waiting.cancelled_caught:
                    raise _Ended
                if taken := self._transport.send_now(rest):
                    rest = rest[taken:]
                    shell.waits(self, len(data))
        finally:
            shell.sent(self)

    def cut_off(self) -> None:
        """Whoever waits for the reader learns of it as of any other end of the stream."""
        self._transport.abort()

    async def _linger(self) -> None:
        """Half-close and read on for a moment: closing with unread input would reset the connection, and the peer's
        kernel would throw our answer away (RFC 9112, 9.6)."""
        self._transport.shutdown()
        unread_bytes_max = 4 * BODY_BYTES_MAX
        with trio.move_on_after(self._shell.limits.closing_s):
            while unread_bytes_max > 0 and (data := await self._transport.receive(RECEIVE_BYTES)):
                unread_bytes_max -= len(data)

    # -- upgrade -------------------------------------------------------------------------------------------------

    async def _upgraded(self, head: h11.Request) -> Upgrade:
        """Check an upgrade (RFC 6455, 4.2.1) and answer 101."""
        headers = _joined(head.headers.raw_items())
        if head.http_version < b"1.1":
            raise _Problem("malformed-request", "a WebSocket begins with a request of HTTP/1.1")
        if "websocket" not in _tokens(headers.get("upgrade", "").lower()):
            detail = f"{SYNC_PATH} is a WebSocket: GET with 'Upgrade: websocket'; without one, POST begins"
            raise _Problem("upgrade-required", detail, (("Upgrade", "websocket"),))
        if "upgrade" not in _tokens(headers.get("connection", "").lower()):
            raise _Problem("malformed-request", "the header Connection names 'upgrade'")
        if headers.get("sec-websocket-version") != "13":
            detail = "the WebSocket version is 13"
            raise _Problem("upgrade-required", detail, (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")))
        key = headers.get("sec-websocket-key", "")
        if not _is_key(key):
            raise _Problem("malformed-request", "Sec-WebSocket-Key is 16 bytes in base64")
        origin = headers.get("origin")
        if origin is not None and self._shell.origins is not None and origin not in self._shell.origins:
            raise _Problem("forbidden", "this origin may not open a WebSocket here")
        if headers.get("content-length", "0").strip("0") or "transfer-encoding" in headers:
            raise _Problem("malformed-request", "a request that upgrades has no body")
        offered = _tokens(headers.get("sec-websocket-protocol", ""))
        name = next((name for name in offered if name in CODECS), None)
        if name is None:
            raise _Problem("malformed-request", f"Sec-WebSocket-Protocol offers one of: {', '.join(CODECS)}")
        if (wait_s := self._shell.door.refused_s()) is not None:
            raise _overloaded(wait_s)
        await self._event()  # the end of the request: then h11 stands aside and hands out what follows
        agreement = deflate.agreed(headers.get("sec-websocket-extensions", ""))
        extensions = b"" if agreement is None else f"\r\nSec-WebSocket-Extensions: {agreement.response}".encode()
        accept = base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_GUID, usedforsecurity=False).digest())
        await self._write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept + b"\r\nSec-WebSocket-Protocol: " + name.encode() + extensions + b"\r\n\r\n"
        )  # fmt: skip
        self._shell.counters.upgrades["accepted"] += 1
        return Upgrade(CODECS[name], headers.get("authorization"), bytes(self._h11.trailing_data[0]), agreement)


def _written(response: Response) -> bytes | None:
    """The bytes of a response that says itself how long it is. None: h11 has to frame it, or to refuse it."""
    if response.stream is not None:
        return None
    lines = [f"{name}: {value}" for name, value in response.headers]
    if f"Content-Length: {len(response.body)}" not in lines:
        return None
    if _UNWRITABLE.search("".join(lines)):
        return None  # it would end in the middle of a header
    text = f"HTTP/1.1 {response.status} \r\n" + "\r\n".join(lines) + "\r\n\r\n"
    return text.encode("latin-1", "replace") + response.body


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _tokens(value: str) -> list[str]:
    return [token.strip() for token in value.split(",") if token.strip()]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except ValueError:
        return False


def _too_large() -> _Problem:
    return _Problem("too-large", f"the body of a request has at most {BODY_BYTES_MAX} bytes")


def _headers_too_large() -> _Problem:
    return _Problem("headers-too-large", "the request line and the headers are too long together")


def _overloaded(wait_s: float) -> _Problem:
    return _Problem("overloaded", "the server takes no more connections at the moment", retry_after(wait_s))


def _rate_limited(wait_s: float) -> _Problem:
    return _Problem("rate-limited", "this address asks too often", retry_after(wait_s))


def _unparsable(error: h11.RemoteProtocolError) -> _Problem:
    if error.error_status_hint == 431:
        return _headers_too_large()
    if error.error_status_hint == 501:
        return _Problem("malformed-request", f"not supported: {error}")
    return _Problem("malformed-request", f"no HTTP/1.1 request: {error}")
