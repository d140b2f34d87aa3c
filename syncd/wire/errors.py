"""The registry of errors and close codes: what each means, what the client does, and what state survives (SPEC 12).

Owns the tables, `ProtocolError`, and the JSON form of the tables (`python -m syncd.wire.errors` prints
protocol/registry.json). Must not know which code raises what.

Invariants: E1 a code and a name are given once and never reused. E2 the range of a close code alone tells a client what
to do, so an entry never contradicts its range. E3 an error closes the connection iff its kind has a close code.
"""

import json
from dataclasses import dataclass
from typing import Final

from syncd.wire.messages import Error

DETAIL_CHARS_MAX = 500  # an error quotes input; this keeps the answer to a hostile megabyte small

RETRIES: Final = {
    "now": "send it again at once",
    "backoff": "send the same again after `after_ms`, or after the client's own backoff",
    "never": "do not send this again",
    "reauth": "get a new token first",
    "resync": "drop positions, staged and synced state of the space (never the outbox), then subscribe from 0",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One error. `close`: the code with which the connection is then closed; None: it stays open."""

    code: int
    name: str
    retry: str
    close: int | None
    meaning: str


MALFORMED: Final = Kind(
    1,
    "malformed",
    "never",
    1007,  # not 4900: one change that cannot be read must not stop a device for ever; the client bisects to it
    "Bytes, a type or a value break the protocol; `detail` says where and what was expected.",
)
UNKNOWN_MESSAGE: Final = Kind(
    2,
    "unknown_message",
    "never",
    4900,
    "A message type below 128 that this version does not have, or that only servers send.",
)
UNEXPECTED_MESSAGE: Final = Kind(
    3, "unexpected_message", "never", 4900, "A message that is not allowed in the present state of the conversation."
)
UNAUTHENTICATED: Final = Kind(4, "unauthenticated", "reauth", 4200, "No token, or one that does not verify.")
TOKEN_EXPIRED: Final = Kind(5, "token_expired", "reauth", 4201, "The token was valid once.")
DEVICE_BOUND: Final = Kind(6, "device_bound", "never", 4902, "The device id belongs to another user.")
FRAME_LIMIT: Final = Kind(7, "frame_limit", "never", 4903, "`hello.frame_bytes_max` is less than a delta may have.")
TOO_MANY_CHANGES: Final = Kind(8, "too_many_changes", "never", 4900, "A push has more than `push_changes_max` changes.")
TOO_MANY_SUBSCRIPTIONS: Final = Kind(
    9,
    "too_many_subscriptions",
    "never",
    None,
    "The connection has `subscriptions_max` subscriptions; this one was not made.",
)
RATE_LIMITED: Final = Kind(
    10,
    "rate_limited",
    "backoff",
    4100,
    "More messages than `messages_per_s_max` and its bucket allow, or too many wrong credentials from this address.",
)
OVERLOADED: Final = Kind(11, "overloaded", "backoff", None, "The server took nothing of the request; send it again.")
STORE_FULL: Final = Kind(
    12, "store_full", "backoff", None, "The server took nothing of the push: its store is full. Reading goes on."
)
SUPERSEDED: Final = Kind(13, "superseded", "never", 4901, "A newer connection of the same device took over.")
NOT_SUBSCRIBED: Final = Kind(
    14,
    "not_subscribed",
    "never",
    None,
    "An `ack`, `sums` or `unsubscribe` names a space without a subscription.",
)
INTERNAL: Final = Kind(15, "internal", "backoff", 1011, "The server failed; it has logged why.")
BAD_SPACE: Final = Kind(16, "bad_space", "never", None, "The name of the space breaks the syntax of section 1.")
BAD_POSITION: Final = Kind(
    17,
    "bad_position",
    "resync",
    None,
    "The server never gave this position: beyond the head, below `start`, or of another chain.",
)
FORBIDDEN: Final = Kind(18, "forbidden", "never", None, "The user has no role that allows this.")
TOKEN_USER: Final = Kind(19, "token_user", "never", 4900, "`refresh` brought the token of another user.")
TOO_MANY_DEVICES: Final = Kind(
    20, "too_many_devices", "never", 4905, "The user has as many device ids as one may have; this one is new."
)
TOO_MANY_SPACES: Final = Kind(
    21, "too_many_spaces", "never", None, "The user has made as many spaces as one may make; this one is new."
)
SIGNAL_REFUSED: Final = Kind(
    22,
    "signal_refused",
    "never",
    None,
    "A signal was not taken: the role does not allow it, the space is not subscribed to, or it breaks a limit.",
)
SIGNAL_LIMITED: Final = Kind(
    23,
    "signal_limited",
    "backoff",
    None,
    "A signal was not taken: too many come from this device or for this space. A newer value is worth more.",
)
TOO_MANY_EVENTS: Final = Kind(24, "too_many_events", "never", 4900, "An `event` has more events than `events_max`.")
EVENT_LIMITED: Final = Kind(
    25,
    "event_limited",
    "backoff",
    None,
    "An `event` was not taken: too many come from this user, or the server is busy. Send it again after `after_ms`.",
)

KINDS: Final[tuple[Kind, ...]] = (
    MALFORMED,
    UNKNOWN_MESSAGE,
    UNEXPECTED_MESSAGE,
    UNAUTHENTICATED,
    TOKEN_EXPIRED,
    DEVICE_BOUND,
    FRAME_LIMIT,
    TOO_MANY_CHANGES,
    TOO_MANY_SUBSCRIPTIONS,
    RATE_LIMITED,
    OVERLOADED,
    STORE_FULL,
    SUPERSEDED,
    NOT_SUBSCRIBED,
    INTERNAL,
    BAD_SPACE,
    BAD_POSITION,
    FORBIDDEN,
    TOKEN_USER,
    TOO_MANY_DEVICES,
    TOO_MANY_SPACES,
    SIGNAL_REFUSED,
    SIGNAL_LIMITED,
    TOO_MANY_EVENTS,
    EVENT_LIMITED,
)
KIND_BY_NAME: Final = {kind.name: kind for kind in KINDS}
KIND_BY_CODE: Final = {kind.code: kind for kind in KINDS}

# -- close codes ------------------------------------------------------------------------------------------------------

_ALL = ("session", "positions", "staged", "synced", "outbox")
_LOCAL = ("positions", "staged", "synced", "outbox")
_OUTBOX = ("outbox",)

ACTIONS: Final = {
    "resume": "reconnect after uniform(0, first_jitter_ms)",
    "backoff": "reconnect after the next backoff",
    "bisect": "bisect the last push to one change, replace it by a void, keep its payload; then backoff",
    "reauth": "get a new token, then reconnect",
    "resync": "drop positions, staged and synced state (never the outbox), then reconnect",
    "move": "reconnect to another host of its list",
    "stop": "stop, keep everything, tell the application",
}


@dataclass(frozen=True, slots=True)
class Close:
    """One close code. `action`: a key of ACTIONS. `survives`: what the client may go on using afterwards."""

    code: int
    name: str
    action: str
    survives: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Range:
    """What a client does at a code of `first`..`last` that it does not know by name."""

    first: int
    last: int
    action: str
    survives: tuple[str, ...]


RANGES: Final[tuple[Range, ...]] = (
    Range(4000, 4099, "resume", _ALL),
    Range(4100, 4199, "backoff", _ALL),
    Range(4200, 4299, "reauth", _ALL),
    Range(4300, 4399, "resync", _OUTBOX),
    Range(4400, 4499, "move", _LOCAL),
    Range(4900, 4999, "stop", _LOCAL),
)

CLOSES: Final[tuple[Close, ...]] = (
    Close(1000, "normal", "backoff", _ALL, "The conversation ended as agreed (`bye`, or the drain after `goaway`)."),
    Close(1001, "going_away", "backoff", _ALL, "The process or the page goes away."),
    Close(1002, "websocket_error", "bisect", _ALL, "The peer broke RFC 6455."),
    Close(1003, "wrong_frame_type", "bisect", _ALL, "A text frame in the binary binding, or the reverse."),
    Close(1006, "lost", "backoff", _ALL, "The connection ended without a close frame (never on the wire)."),
    Close(1007, "malformed", "bisect", _ALL, "A text frame is not UTF-8, or a frame's content breaks the protocol."),
    Close(1009, "frame_too_long", "bisect", _ALL, "A frame is longer than `frame_bytes_max`."),
    Close(1011, "internal", "backoff", _ALL, "The server failed; it has logged why."),
    Close(1012, "service_restart", "backoff", _ALL, "The server restarts."),
    Close(1013, "try_again_later", "backoff", _ALL, "The server takes no more connections now."),
    Close(4000, "going_away", "resume", _ALL, "The server drains; `goaway` said when to come back."),
    Close(4001, "idle", "resume", _ALL, "Nothing came for 2 x `ping_ms` + 5 s, or no `hello` in time."),
    Close(4002, "no_progress", "resume", _ALL, "The client read nothing for too long."),
    Close(4100, "rate_limited", "backoff", _ALL, "Too many messages."),
    Close(4101, "overloaded", "backoff", _ALL, "The server cannot serve this connection now."),
    Close(4200, "unauthenticated", "reauth", _ALL, "No token, or one that does not verify."),
    Close(4201, "token_expired", "reauth", _ALL, "The token has expired and was not refreshed."),
    Close(4300, "resync", "resync", _OUTBOX, "Positions and synced state are not to be trusted any more."),
    Close(4900, "protocol_error", "stop", _LOCAL, "The client broke the protocol; the error before it says how."),
    Close(4901, "superseded", "stop", _LOCAL, "A newer connection of the same device took over."),
    Close(4902, "device_bound", "stop", _LOCAL, "The device id belongs to another user."),
    Close(4903, "frame_limit", "stop", _LOCAL, "The client can take less than the longest delta."),
    Close(4904, "unsupported", "stop", _LOCAL, "The client lacks something that the server requires."),
    Close(4905, "too_many_devices", "stop", _LOCAL, "The user may add no more devices."),
)
CLOSE_BY_CODE: Final = {close.code: close for close in CLOSES}


class ProtocolError(Exception):
    """The client broke the protocol. `kind` is an entry of KINDS; `detail` says what was expected, and where.

    `close_code` is the kind's, but for faults of a whole frame, for which WebSocket has codes of its own (1003, 1009).
    """

    def __init__(self, kind: Kind, detail: str, *, close_code: int | None = None, space: str | None = None) -> None:
        super().__init__(f"{kind.name}: {detail}")
        self.kind = kind
        self.detail = detail if len(detail) <= DETAIL_CHARS_MAX else detail[: DETAIL_CHARS_MAX - 3] + "..."
        self.space = space
        self.close_code = kind.close if close_code is None else close_code

    def message(self) -> Error:
        """The `error` that tells the client."""
        return error(self.kind, self.detail, space=self.space)


def error(kind: Kind, detail: str | None = None, *, space: str | None = None, after_ms: int | None = None) -> Error:
    """The `error` message of one kind."""
    return Error(kind.code, kind.name, kind.retry, after_ms, detail, space)


def registry() -> dict[str, object]:
    """All tables as plain data: the content of protocol/registry.json."""
    return {
        "errors": [
            {"code": k.code, "name": k.name, "retry": k.retry, "close": k.close, "meaning": k.meaning} for k in KINDS
        ],
        "retries": RETRIES,
        "close_codes": [
            {"code": c.code, "name": c.name, "action": c.action, "survives": list(c.survives), "meaning": c.meaning}
            for c in CLOSES
        ],
        "close_ranges": [
            {"first": r.first, "last": r.last, "action": r.action, "survives": list(r.survives)} for r in RANGES
        ],
        "actions": ACTIONS,
    }


if __name__ == "__main__":
    print(json.dumps(registry(), indent=2))
