"""One polled connection without its waiting (SPEC 5.5): what to ask, when to ask again, and what an answer means.

Owns the numbers of a polled connection, HTTP/1.1 as bytes (by h11), and the rules by which a request is sent again. A
shell (`lanes`) sends what this file makes and brings what comes. Must not know sockets, clocks and event loops, nor
what the messages say, nor when polls are the right choice (`carriers`).

1. Message n is sent until it is answered, then n + 1: the server takes each once, in order.
2. Answer k is asked for until it has come whole, then k + 1.
3. A wait that the server asks for is kept: a short one within the connection, a long one by ending it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import h11

from .carriers import JUDGED
from .codec import FRAME_BYTES_MAX
from .errors import Refused, TransportClosed
from .policy import retry_after_s

REQUEST_S = 15.0  # for a request and its answer on a bad mobile network, beside what a poll waits on purpose
TRIES_MAX = 5  # of one request: some fifteen seconds, after which the connection counts as lost
RETRY_S = 0.5  # before the second try, doubled each time, with jitter
PATIENCE_S = 20.0  # a longer Retry-After outlasts the connection, which may be silent for half a minute
EMPTY_S = 1.0  # between two polls that were answered with nothing before their time: a cache, or a proxy in haste
AGAIN = (408, 425, 429, 500, 502, 503, 504)
HELD_OFF = (429, 503)  # said by a server that is there: it takes nothing for a moment
WAIT_MIN_S, WAIT_MAX_S = 1.0, 60.0  # what a server may say that its polls wait
MEDIA_TYPES = {
    "syncd.v1.msgpack": "application/vnd.syncd.v1+msgpack",
    "syncd.v1.json": "application/vnd.syncd.v1+json",
}


@dataclass(frozen=True, slots=True)
class Request:
    """`wait_s`: how long the server may keep it, on purpose."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    wait_s: float = 0.0
    is_opening: bool = False

    @property
    def limit_s(self) -> float:
        return self.wait_s + REQUEST_S


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def after_s(self) -> float:
        return retry_after_s(self.headers.get("retry-after"))


class Exchange:
    """Requests and answers on one byte stream, one after the other. What cannot be read raises OSError, as a stream
    that breaks does: whoever asks then asks again, on another one."""

    def __init__(self, netloc: str) -> None:
        self._netloc = netloc
        self._h11 = h11.Connection(h11.CLIENT)
        self._status, self._headers, self._body = 0, dict[str, str](), bytearray()
        self.has_begun = False  # the present answer

    def begun(self, request: Request) -> bytes:
        """The bytes of a request."""
        self._status, self._headers, self._body, self.has_begun = 0, {}, bytearray(), False
        lines = [("Host", self._netloc), *request.headers.items()]
        if request.method == "POST":
            lines.append(("Content-Length", str(len(request.body))))
        events: list[h11.Event] = [h11.Request(method=request.method, target=request.target, headers=lines)]
        events += [h11.Data(data=request.body)] if request.body else []
        return b"".join(self._h11.send(event) or b"" for event in (*events, h11.EndOfMessage()))

    def received(self, data: bytes) -> Answer | None:
        """Take some bytes, none at the end of the stream. The answer once it is whole."""
        self.has_begun = self.has_begun or bool(data)
        try:
            self._h11.receive_data(data)
            return self._read()
        except h11.ProtocolError as error:
            raise OSError(str(error)) from None

    def _read(self) -> Answer | None:
        while (event := self._h11.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                self._status = event.status_code
                self._headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > FRAME_BYTES_MAX:
                    raise OSError(f"an answer of more than {FRAME_BYTES_MAX} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return Answer(self._status, self._headers, bytes(self._body))
            elif not isinstance(event, h11.InformationalResponse):
                raise OSError("the connection ended before the answer")
        return None

    def renewed(self) -> bool:
        """After an answer: whether another request may follow on this stream."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            return True
        return False


@dataclass(slots=True)
class Tries:
    """One request, until it is answered for good. `random` is uniform in [0, 1)."""

    request: Request
    count: int = field(default=0)

    def failed(self, problem: str, random: float) -> float:
        """No answer came: how long to wait before the next try. Raises TransportClosed after the last one."""
        self.count += 1
        if self.count >= TRIES_MAX:
            raise TransportClosed(1006, f"polls: {problem}")
        return self._backoff_s(random)

    def answered(self, answer: Answer, random: float) -> float | None:
        """None: the answer stands. Else as `failed`."""
        problem = f"HTTP status {answer.status}"
        if self.request.is_opening and answer.status in JUDGED:
            # No connection has come about, as when an upgrade is refused: the next attempt is the device's matter.
            raise Refused(1006, f"polls: refused with {problem}", answer.after_s)
        if answer.status not in AGAIN:
            return None
        if answer.after_s > PATIENCE_S:
            raise TransportClosed(1006, f"polls: {problem}", answer.after_s)
        if answer.status in HELD_OFF and self.request.method == "POST":
            # It does not read now, as a WebSocket's peer may do for as long as it likes. Whether it lives is for the
            # poll beside this request to find out, whose tries are counted.
            self.count = min(self.count + 1, TRIES_MAX - 1)
            return max(answer.after_s, self._backoff_s(random))
        return max(answer.after_s, self.failed(problem, random))

    def _backoff_s(self, random: float) -> float:
        return RETRY_S * (1 << self.count) * (0.5 + random)


class Polls:
    """The numbers of one polled connection. At most one request of each kind is under way at a time."""

    def __init__(self, path: str, subprotocol: str) -> None:
        self.is_text = subprotocol.endswith("json")
        self.wait_s = 25.0
        self._path = path
        self._media_type = MEDIA_TYPES[subprotocol]
        self._key = ""
        self._n = self._after = 0

    @property
    def is_open(self) -> bool:
        return bool(self._key)

    def opening(self, idempotency_key: str, frame: bytes | str) -> Request:
        headers = {**self._headers, "Content-Type": self._media_type, "Idempotency-Key": idempotency_key}
        return Request("POST", self._path, headers, _bytes(frame), is_opening=True)

    def opened(self, answer: Answer) -> None:
        if answer.status != 201:
            raise _refused(answer)
        try:
            told = json.loads(answer.body)
            self._key, wait_s = str(told["key"]), told["wait_ms"] / 1000
            self.wait_s = min(WAIT_MAX_S, max(WAIT_MIN_S, wait_s))
        except (ValueError, TypeError, KeyError):
            raise _refused(answer) from None

    def message(self, frame: bytes | str) -> Request:
        """The next message. `is_taken` says what its answer means."""
        headers = {**self._headers, "Content-Type": self._media_type}
        return Request("POST", f"{self._path}/messages?n={self._n + 1}", headers, _bytes(frame))

    def is_taken(self, answer: Answer) -> bool:
        """False: the connection has ended, and the poll says how, after what came before. Raises TransportClosed."""
        if answer.status == 410:
            return False
        if answer.status != 204:
            raise _refused(answer)
        self._n += 1
        return True

    def poll(self) -> Request:
        return Request("GET", f"{self._path}/messages?after={self._after}", self._headers, wait_s=self.wait_s)

    def polled(self, answer: Answer) -> bytes | str | None:
        """The messages of an answer; None: there were none. Raises TransportClosed."""
        if answer.status == 204:
            return None
        if answer.status != 200 or answer.headers.get("content-type") != self._media_type:
            raise _refused(answer)
        self._after += 1
        return answer.body.decode() if self.is_text else answer.body

    def pause_s(self, asked_for_s: float) -> float:
        """How long to wait after a poll that was answered with nothing after so long."""
        return EMPTY_S if asked_for_s < min(EMPTY_S, self.wait_s) else 0.0

    @property
    def _headers(self) -> dict[str, str]:
        headers = {"Accept": f"{self._media_type}, application/json"}
        return {**headers, "Authorization": f"Bearer {self._key}"} if self._key else headers


def _bytes(frame: bytes | str) -> bytes:
    return frame.encode() if isinstance(frame, str) else frame


def _refused(answer: Answer) -> TransportClosed:
    """What an answer means that carries no messages."""
    if answer.status == 410:
        try:
            told = json.loads(answer.body)
            return TransportClosed(int(told["code"]), str(told.get("detail", "")))
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
    return TransportClosed(1006, f"polls: refused with HTTP status {answer.status}")
