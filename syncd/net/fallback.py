"""The conversation over plain HTTP, for networks that let no WebSocket through (SPEC 5.5).

Owns the requests: what opens a polled connection, what carries a message, what waits for answers; who may, how many
there may be, and how long one is remembered after its end. Must not know what the messages say: a polled connection is
a `Connection` whose socket is a `carriage.PolledTransport`.

    POST /v1/sync                      the first messages of the client, under an Idempotency-Key; answered by the key
    POST /v1/sync/messages?n=N         message N of the client, with the key in Authorization
    GET  /v1/sync/messages?after=K     waits for answer K + 1

The key is a secret as a token is, so it stands where caches and logs expect one, and never in a URL. It is bound to
nothing else: a phone changes its address in the middle of a conversation, and a proxy may send each request from
another one.

Invariants: A1 at most `polled_max` polled connections are open or remembered, and of one address at most
`connections_per_address_max` are open. A2 a request without the key of a connection reads and alters nothing. A3 no
request waits longer than `poll_s`. A4 a connection that nobody polls ends as a half-open socket does, and its last
answer is remembered for `polled_linger_s`. A5 of messages that wait for room, at most `UNTAKEN_BYTES_MAX` are held.
"""

import re
import traceback
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Final, Protocol

import trio

from syncd.net.api.calls import parsed_query
from syncd.net.auth import Unauthenticated, bearer, challenge
from syncd.net.carriage import Carriage, Ended, OutOfOrder, PolledTransport
from syncd.net.connection import Connection
from syncd.net.exchange import Later, Request, Response, content, http_date, json_content
from syncd.net.gate import counted_as
from syncd.net.http import SYNC_PATH, Upgrade, retry_after
from syncd.net.problems import ProblemRaised, problem_response, raised
from syncd.net.services import Services
from syncd.net.websocket import BINARY, TEXT, masked_frame
from syncd.wire.codec import JSON, MSGPACK, Codec
from syncd.wire.limits import JSON_FACTOR

MESSAGES_PATH: Final = f"{SYNC_PATH}/messages"
METHODS: Final = {SYNC_PATH: ("POST",), MESSAGES_PATH: ("GET", "POST")}
MEDIA_TYPES: Final = {"application/vnd.syncd.v1+msgpack": MSGPACK, "application/vnd.syncd.v1+json": JSON}
KEY_BYTES: Final = 24
TAKES_MAX: Final = 2  # requests with messages of one connection that wait for room: one, and one that was given up
UNTAKEN_BYTES_MAX: Final = (
    67_108_864  # of those of all connections: sixteen of the longest bodies, thousands of usual ones
)
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{16,255}")
PREFLIGHT_S: Final = "600"  # how long a browser may remember that a page may ask


class Door(Protocol):
    """What is asked of the server."""

    def refused_s(self) -> float | None:
        """None: a connection may begin. Else: in how many seconds to try again."""
        ...


class _Polled:
    """One polled connection, and what its requests need of it."""

    __slots__ = ("carriage", "connection", "media_type", "opening", "takes")

    def __init__(self, carriage: Carriage, connection: Connection, media_type: str, opening: str) -> None:
        self.carriage, self.connection, self.media_type, self.opening = carriage, connection, media_type, opening
        self.takes = 0  # requests with messages that are under way


class Fallback:
    """All polled connections of a server. `origins`: as for the upgrade, the browsers' origins that may open one, None
    for any."""

    def __init__(self, services: Services, door: Door, origins: frozenset[str] | None) -> None:
        limits = services.limits
        # A client acknowledges an answer when it has all of it, which on a slow link takes its time.
        self._services = replace(services, limits=replace(limits, no_progress_s=limits.polled_no_progress_s))
        self._door, self._origins, self._limits = door, origins, limits
        self._polled: dict[str, _Polled] = {}  # by key
        self._over: dict[str, None] = {}  # keys of those that have ended, oldest first
        self._openings: dict[str, tuple[bytes, str]] = {}  # Idempotency-Key -> hash of the request, key
        self._hosts: dict[str, int] = {}  # open ones by address
        self._untaken_bytes = 0  # of messages that wait until their connection has room

    @property
    def open_count(self) -> int:
        return len(self._polled) - len(self._over)

    @property
    def remembered_count(self) -> int:
        return len(self._over)

    async def handle(self, request: Request) -> Response | Later:
        """The response to a request for one of `METHODS`. Raises only what nobody expected."""
        if request.path == MESSAGES_PATH and request.method in METHODS[MESSAGES_PATH]:
            return Later(self._limits.poll_s, partial(self._finished, request, self._carried))
        return await self._finished(request, self._answered)

    async def _finished(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """The response as it leaves: problems are told, and nothing is to be kept on the way."""
        origin = request.headers.get("origin")
        try:
            if origin is not None and self._origins is not None and origin not in self._origins:
                raise raised("forbidden", "this origin may not connect here")
            response = await answer(request)
        except ProblemRaised as error:
            problem = error.problem
            response = problem_response(problem.name, problem.detail, request.path, problem.headers, **problem.fields)
        headers = [("Date", http_date(self._services.clock.now_ms())), ("X-Content-Type-Options", "nosniff")]
        if response.header("Cache-Control") is None:
            headers.append(("Cache-Control", "no-store"))
        if origin is not None:
            # The page may read the answer. The key is no cookie: a browser adds it only if the page has it.
            headers += [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
        return replace(response, headers=response.headers + tuple(headers))

    async def _answered(self, request: Request) -> Response:
        """Requests that wait for nothing."""
        methods = METHODS.get(request.path)
        if methods is None:
            raise raised("not-found", f"there is {SYNC_PATH} and {MESSAGES_PATH}, nothing else")
        allowed = ", ".join((*methods, "OPTIONS"))
        if request.method == "OPTIONS":
            return _preflight(request, allowed)
        if request.method not in methods:
            raise raised("method-not-allowed", f"this address takes {allowed}", (("Allow", allowed),))
        return self._opened(request)

    async def _carried(self, request: Request) -> Response:
        """Requests with messages, and for messages."""
        polled = self._known(request)
        query = parsed_query(request.query, ("n",) if request.method == "POST" else ("after",))
        polled.connection.heard()
        try:
            if request.method == "POST":
                return await self._taken(polled, _number(query, "n", 1), request)
            return await self._polled_for(polled, _number(query, "after", 0))
        except OutOfOrder as wrong:
            name = "n" if request.method == "POST" else "after"
            detail = f"expected {name} = {wrong.expected}, or the one before as it was"
            raise raised("out-of-order", detail, expected=wrong.expected) from None
        except Ended as end:
            raise raised("connection-ended", end.reason or "closed", code=end.code) from None

    # -- the requests --------------------------------------------------------------------------------------------

    def _opened(self, request: Request) -> Response:
        """A connection, or the one that this very request has opened before: one that came twice, the second time late,
        would take the place of what it had begun itself."""
        services = self._services
        parsed_query(request.query, ())
        media_type, codec = _codec_of(request)
        opening, digest = _opening(request, media_type)
        known_digest, key = self._openings.get(opening, (digest, ""))
        if known_digest != digest:
            raise raised("idempotency-key-reused", "this Idempotency-Key has opened a connection with another request")
        if key:
            return self._told(key)
        host = counted_as(request.peer)
        self._check_room(host)
        if (wait_s := self._door.refused_s()) is not None:
            raise _overloaded(wait_s)
        transport = PolledTransport(request.peer)
        first = masked_frame(TEXT if codec.is_text else BINARY, request.body)
        connection = Connection(transport, Upgrade(codec, request.headers.get("authorization"), first, None), services)
        answer_bytes_max = services.wire_limits.delta_bytes_max * (JSON_FACTOR if codec.is_text else 1)
        carriage = Carriage(transport, is_text=codec.is_text, answer_bytes_max=answer_bytes_max)
        key = urlsafe_b64encode(services.entropy.token(KEY_BYTES)).decode()
        self._polled[key] = _Polled(carriage, connection, media_type, opening)
        self._openings[opening] = digest, key
        self._hosts[host] = self._hosts.get(host, 0) + 1
        services.wiring.nursery.start_soon(self._run, key, host)
        return self._told(key)

    def _told(self, key: str) -> Response:
        return json_content(201, {"key": key, "wait_ms": int(self._limits.poll_s * 1000)})

    async def _taken(self, polled: _Polled, n: int, request: Request) -> Response:
        media_type, _ = _codec_of(request)
        if media_type != polled.media_type:
            detail = f"this connection was opened with {polled.media_type}"
            raise raised("unsupported-media-type", detail, supported=[polled.media_type])
        size = len(request.body)
        if polled.takes >= TAKES_MAX or self._untaken_bytes + size > UNTAKEN_BYTES_MAX:
            raise _overloaded(self._limits.refused_retry_min_s)
        polled.takes += 1
        self._untaken_bytes += size
        try:
            with trio.move_on_after(self._limits.poll_s) as waiting:
                await polled.carriage.take(n, request.body)
        finally:
            polled.takes -= 1
            self._untaken_bytes -= size
        if waiting.cancelled_caught:
            raise _overloaded(self._limits.refused_retry_min_s)
        return Response(204, ())

    async def _polled_for(self, polled: _Polled, after: int) -> Response:
        body = await polled.carriage.answer(after, self._limits.poll_s)
        return Response(204, ()) if body is None else content(200, polled.media_type, body)

    def _known(self, request: Request) -> _Polled:
        try:
            key = bearer(request.headers.get("authorization"))
        except Unauthenticated as error:
            raise raised("unauthenticated", error.detail, (challenge(),), reason=error.reason) from None
        if key is None:
            detail = f"expected 'Authorization: Bearer' and the key that POST {SYNC_PATH} gave"
            raise raised("unauthenticated", detail, (challenge(),), reason="missing")
        polled = self._polled.get(key)
        if polled is None:
            raise raised("unknown-connection", f"no connection has this key; open one with POST {SYNC_PATH}")
        return polled

    # -- room and lifetime ---------------------------------------------------------------------------------------

    def _check_room(self, host: str) -> None:
        """A1. What is only remembered gives way to what begins."""
        limits = self._limits
        if len(self._polled) >= limits.polled_max and self._over:
            self._forget(next(iter(self._over)))
        is_full = len(self._polled) >= limits.polled_max
        if is_full or self._hosts.get(host, 0) >= limits.connections_per_address_max:
            raise _overloaded(self._services.entropy.uniform(limits.refused_retry_min_s, limits.refused_retry_max_s))

    async def _run(self, key: str, host: str) -> None:
        """The whole life of one polled connection."""
        polled = self._polled[key]
        try:
            await polled.connection.run()
        except Exception:
            peer = polled.carriage.transport.peer
            self._services.log(f"the polled connection of {peer} failed\n{traceback.format_exc()}")
        finally:
            polled.carriage.transport.abort()
            self._over[key] = None
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
        await trio.sleep(self._limits.polled_linger_s)
        self._forget(key)

    def _forget(self, key: str) -> None:
        """Nothing is known any more of a connection that has ended. Idempotent."""
        if key in self._over:
            del self._over[key]
            del self._openings[self._polled.pop(key).opening]


def _codec_of(request: Request) -> tuple[str, Codec]:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise raised("unsupported-media-type", "a compressed body is not taken", supported=["identity"])
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    codec = MEDIA_TYPES.get(media_type)
    if codec is None:
        known = list(MEDIA_TYPES)
        raise raised("unsupported-media-type", f"expected a Content-Type of: {', '.join(known)}", supported=known)
    return media_type, codec


def _opening(request: Request, media_type: str) -> tuple[str, bytes]:
    """The Idempotency-Key of a request that opens, and a hash of all that the connection depends on."""
    opening = request.headers.get("idempotency-key", "")
    if not _IDEMPOTENCY_KEY.fullmatch(opening):
        expected = "Idempotency-Key has 16-255 printable ASCII characters, new ones for each connection"
        raise raised("malformed-request", expected, header="Idempotency-Key")
    said = (media_type, request.headers.get("authorization", ""))
    return opening, sha256("\n".join(said).encode() + b"\n" + request.body).digest()


def _number(query: dict[str, str], name: str, least: int) -> int:
    text = query.get(name, "")
    # No number has more digits: at one message a microsecond, 15 of them last for thirty years.
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) >= least):
        raise raised("malformed-request", f"expected {name}, a whole number from {least} on", parameter=name)
    return int(text)


def _preflight(request: Request, allowed: str) -> Response:
    """What a browser asks before a page of another origin may (the Fetch standard, 3.2.2)."""
    if "origin" not in request.headers:
        return Response(204, (("Allow", allowed),))
    told = {
        "Allow": allowed,
        "Access-Control-Allow-Methods": allowed,
        "Access-Control-Allow-Headers": "authorization, content-type, idempotency-key",
        "Access-Control-Max-Age": PREFLIGHT_S,
    }
    return Response(204, tuple(told.items()))


def _overloaded(wait_s: float) -> ProblemRaised:
    return raised("overloaded", "the server takes no more at the moment", retry_after(wait_s))
