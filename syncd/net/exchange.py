"""What the HTTP shell and the API hand to each other: one request, one response, the state of health.

A response may be not there yet (`Later`: a long poll) or never be whole (`Response.stream`: server-sent events). Both
are waits, which the shell alone can bound, and end when the peer has gone: so they come to it as data, too.

Owns these shapes and the writing of common headers. Must not know sockets, h11 or routes. A response of the API is
complete: it carries `Date`, `Content-Type` and `Content-Length`; the shell adds only what concerns the connection.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import orjson

# The largest request body of any route, for the shell to enforce while it reads (each route then checks its own
# limit). A batch of CloudEvents sets it: one event may have 64 KiB, 1,000 typical ones of a few hundred bytes fit well.
BODY_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, whole. `path` and `query` are the two parts of the target as they came, still percent-encoded;
    names in `headers` are lower-case, the values of a repeated one joined by ", "; they hold credentials, and so stay
    out of the repr. `received_ms`: wall milliseconds."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    peer: str
    received_ms: int


# Hands one piece of a body to the peer; returns when the socket has taken all of it, so whoever writes keeps nothing.
Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response, whole. The answer to HEAD has an empty body and the length of the body it stands for.

    With a `stream` the body is what that writes, piece by piece, until it returns; there is no `Content-Length` then.
    It is cancelled when the peer has gone, when it takes nothing for `write_s`, and after `stream_s`."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    stream: Callable[[Send], Awaitable[None]] | None = None

    def header(self, name: str) -> str | None:
        """The value of the first header of this name, whatever its case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class Later:
    """A response that something has to happen for. `answer` waits for it, `wait_s` at most by itself, and is cancelled
    when the peer has gone; whatever it holds on to, its cancellation lets go of."""

    wait_s: float
    answer: Callable[[], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the daemon can take writes. `reasons`: a sentence for each thing that is wrong; empty means ready."""

    reasons: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        return not self.reasons


def http_date(at_ms: int) -> str:
    """An HTTP date (RFC 9110, 5.6.7)."""
    return _date(at_ms // 1000)


@lru_cache(maxsize=2)  # each response has one, and it changes once a second
def _date(at_s: int) -> str:
    return formatdate(at_s, usegmt=True)


def content(status: int, media_type: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A response with a body; `Content-Type` and `Content-Length` come first, then `headers`."""
    own = (("Content-Type", media_type), ("Content-Length", str(len(body))))
    return Response(status, own + headers, body)


def json_content(
    status: int, value: Any, headers: tuple[tuple[str, str], ...] = (), media_type: str = "application/json"
) -> Response:
    """A response whose body is `value` as JSON."""
    return content(status, media_type, orjson.dumps(value), headers)
