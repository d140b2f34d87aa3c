"""One conversation with a client, without I/O: what may come next, and what each event leads to (SPEC 6, 11).

Owns three tables - CONVERSATION (which message may travel when), SUBSCRIPTION (from `subscribe` to live) and KEEPALIVE
(named timers) - and the token bucket. protocol/states.md is drawn from these tables. Must not know sockets, tasks, the
engine or clocks: the caller brings bytes and `now_ms`, and asks for the next deadline.

Invariants: S1 a table has a verdict for every state and event. S2 the state changes only in `_step`. S3 after
`ProtocolError`, or once closed, nothing is received or sent any more but the error that says why.
"""

from enum import Enum
from typing import Final

from syncd.core.ids import BadName, check_space
from syncd.wire import messages as m
from syncd.wire.codec import Codec
from syncd.wire.errors import BAD_SPACE, KIND_BY_CODE, RATE_LIMITED, UNEXPECTED_MESSAGE, ProtocolError, error
from syncd.wire.limits import (
    DEFAULT,
    HELLO_MS_MAX,
    IDLE_SLACK_MS,
    MESSAGES_BURST_MAX,
    PING_MS,
    PING_MS_MAX,
    PING_MS_MIN,
    Limits,
)

# -- the conversation -------------------------------------------------------------------------------------------------


class State(Enum):
    """Where a conversation is."""

    AWAIT_HELLO = "await hello"
    AUTHENTICATING = "authenticating"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Verdict(Enum):
    """What becomes of an event that leads to no state."""

    UNEXPECTED = "unexpected"  # received: a ProtocolError; sent: a defect of the server
    IGNORED = "ignored"  # nothing is closed twice: what is still on its way is dropped


RECEIVED: Final = (
    *("hello", "subscribe", "unsubscribe", "push", "ack", "sums", "signal", "event", "purged", "refresh"),
    *("background", "foreground", "probe", "bye", "ping", "pong"),
)
SENT: Final = (
    *("welcome", "subscribed", "delta", "outcomes", "revoked", "differ", "repair", "signal", "presence", "noted"),
    *("expired", "error", "closing error", "goaway", "ping", "pong", "close"),
)
# What `welcome` announces. "first-flight": frames that follow the hello's before the welcome wait, and are then taken
# as if they had come after it; the reader of a connection finishes a hello before it looks at the next frame.
# "signals": the message `signal` is taken; a client that names it in its hello hears signals, others hear none.
# "events": the message `event` is taken, and answered by `noted`.
SIGNALS: Final = "signals"
CAPS: Final = ("first-flight", SIGNALS, "events")
Event = tuple[str, str]  # ("received" or "sent", a name of RECEIVED or SENT)

_AWAIT, _AUTH, _OPEN, _DRAIN, _CLOSED = State
_UNEXPECTED, _IGNORED = Verdict

EVENTS: Final[tuple[Event, ...]] = (
    *(("received", name) for name in RECEIVED),
    *(("sent", name) for name in SENT),
)


def _conversation() -> dict[State, dict[Event, State | Verdict]]:
    unexpected: dict[Event, State | Verdict] = dict.fromkeys(EVENTS, _UNEXPECTED)
    ends: dict[Event, State | Verdict] = {("sent", "closing error"): _CLOSED, ("sent", "close"): _CLOSED}
    stays: dict[Event, State | Verdict] = dict.fromkeys(EVENTS, _OPEN)
    return {
        _AWAIT: {**unexpected, **ends, ("received", "hello"): _AUTH},
        # Before `welcome` nothing but `hello` is taken: what a user may do is not known yet.
        _AUTH: {**unexpected, **ends, ("sent", "welcome"): _OPEN},
        _OPEN: {
            **stays,
            **ends,
            ("received", "hello"): _UNEXPECTED,
            ("received", "bye"): _CLOSED,
            ("sent", "welcome"): _UNEXPECTED,
            ("sent", "goaway"): _DRAIN,
        },
        # A draining server still takes pushes and answers them: the client leaves when it has nothing in flight.
        _DRAIN: {
            **dict.fromkeys(EVENTS, _DRAIN),
            **ends,
            ("received", "hello"): _UNEXPECTED,
            ("received", "bye"): _CLOSED,
            ("sent", "welcome"): _UNEXPECTED,
            ("sent", "goaway"): _UNEXPECTED,
        },
        _CLOSED: dict.fromkeys(EVENTS, _IGNORED),
    }


CONVERSATION: Final = _conversation()

# -- subscriptions ----------------------------------------------------------------------------------------------------


class Subscription(Enum):
    """Where one space of a connection is. Only a live one gets deltas as they commit."""

    NONE = "none"
    ATTACHING = "attaching"  # the engine makes it durable; nothing has been sent
    BEHIND = "behind"  # reads pages from its own position; commits of others only leave it further behind
    LIVE = "live"  # every delta that commits is handed to it
    RECONCILING = "reconciling"  # is told what differs, as it asks; gets no deltas


class Step(Enum):
    """What happens to a subscription."""

    SUBSCRIBE = "subscribe received"
    ATTACHED = "attached: subscribed sent"
    REFUSED = "refused: revoked, expired or error sent"
    PAGE = "page sent"
    FINAL_PAGE = "final page sent, nothing committed since"
    FORGOTTEN = "it stands below the floor: subscribed sent, mode reconcile"
    SUMS = "sums received"
    REPAIRED = "nothing differs, or the last repair sent"
    BLOCKED = "a delta could not be handed to the socket"
    UNSUBSCRIBE = "unsubscribe received"
    REVOKED = "revoked sent"
    EXPIRED = "expired sent"


_NONE, _ATTACHING, _BEHIND, _LIVE, _RECONCILING = Subscription

# None: cannot happen (a defect of the server). A second `subscribe` starts anew: the client saw a gap.
SUBSCRIPTION: Final[dict[Subscription, dict[Step, Subscription | None]]] = {
    _NONE: {
        Step.SUBSCRIBE: _ATTACHING,
        Step.ATTACHED: _NONE,  # the answer to a subscribe that was taken back meanwhile
        Step.REFUSED: _NONE,
        Step.PAGE: None,
        Step.FINAL_PAGE: None,
        Step.FORGOTTEN: None,
        Step.SUMS: _NONE,  # answered by `not_subscribed`
        Step.REPAIRED: None,
        Step.BLOCKED: None,
        Step.UNSUBSCRIBE: _NONE,  # answered by `not_subscribed`
        Step.REVOKED: _NONE,
        Step.EXPIRED: _NONE,
    },
    _ATTACHING: {
        Step.SUBSCRIBE: _ATTACHING,
        Step.ATTACHED: _BEHIND,
        Step.REFUSED: _NONE,
        Step.PAGE: None,
        Step.FINAL_PAGE: None,
        Step.FORGOTTEN: _RECONCILING,
        Step.SUMS: _ATTACHING,  # likewise: no mode was told yet
        Step.REPAIRED: None,
        Step.BLOCKED: None,
        Step.UNSUBSCRIBE: _NONE,
        Step.REVOKED: _NONE,
        Step.EXPIRED: _NONE,
    },
    _BEHIND: {
        Step.SUBSCRIBE: _ATTACHING,
        Step.ATTACHED: None,
        Step.REFUSED: None,
        Step.PAGE: _BEHIND,
        Step.FINAL_PAGE: _LIVE,
        Step.FORGOTTEN: _RECONCILING,
        Step.SUMS: _RECONCILING,
        Step.REPAIRED: None,
        Step.BLOCKED: _BEHIND,
        Step.UNSUBSCRIBE: _NONE,
        Step.REVOKED: _NONE,
        Step.EXPIRED: _NONE,
    },
    _LIVE: {
        Step.SUBSCRIBE: _ATTACHING,
        Step.ATTACHED: None,
        Step.REFUSED: None,
        Step.PAGE: None,
        Step.FINAL_PAGE: None,
        Step.FORGOTTEN: None,
        Step.SUMS: _RECONCILING,
        Step.REPAIRED: None,
        Step.BLOCKED: _BEHIND,
        Step.UNSUBSCRIBE: _NONE,
        Step.REVOKED: _NONE,
        Step.EXPIRED: _NONE,
    },
    _RECONCILING: {
        Step.SUBSCRIBE: _ATTACHING,
        Step.ATTACHED: None,
        Step.REFUSED: None,
        Step.PAGE: None,
        Step.FINAL_PAGE: None,
        Step.FORGOTTEN: None,
        Step.SUMS: _RECONCILING,  # also a question about some buckets, and a new beginning
        Step.REPAIRED: _BEHIND,
        Step.BLOCKED: None,
        Step.UNSUBSCRIBE: _NONE,
        Step.REVOKED: _NONE,
        Step.EXPIRED: _NONE,
    },
}


def subscription_after(state: Subscription, step: Step) -> Subscription:
    """The state that follows. A step that cannot happen is a defect of the caller."""
    after = SUBSCRIPTION[state][step]
    assert after is not None, f"a subscription that is {state.value} cannot see: {step.value}"
    return after


# -- keep-alive -------------------------------------------------------------------------------------------------------


class Life(Enum):
    """What the server knows about the other end. Each state has one timer."""

    NEW = "new"  # timer `hello`: `welcome` must be out HELLO_MS_MAX after the connection began
    ALIVE = "alive"  # timer `quiet`: ping_ms after the last byte
    PINGED = "pinged"  # timer `idle`: 2 x ping_ms + IDLE_SLACK_MS after the last byte
    DEAD = "dead"  # no timer


class Beat(Enum):
    """What happens to a connection's life."""

    WELCOMED = "welcome sent"
    RECEIVED = "bytes received"
    HELLO_DUE = "timer hello"
    QUIET_DUE = "timer quiet"
    IDLE_DUE = "timer idle"
    CLOSED = "closed"


class Due(Enum):
    """What the caller has to do when a timer has fired."""

    NOTHING = "nothing"
    PING = "send ping"
    CLOSE = "close with 4001"


_NEW, _ALIVE, _PINGED, _DEAD = Life
_NOTHING, _PING, _CLOSE = Due

# (state after, what to do). None: that timer does not run in this state.
KEEPALIVE: Final[dict[Life, dict[Beat, tuple[Life, Due] | None]]] = {
    _NEW: {
        Beat.WELCOMED: (_ALIVE, _NOTHING),
        Beat.RECEIVED: (_NEW, _NOTHING),  # bytes without a hello buy no time
        Beat.HELLO_DUE: (_DEAD, _CLOSE),
        Beat.QUIET_DUE: None,
        Beat.IDLE_DUE: None,
        Beat.CLOSED: (_DEAD, _NOTHING),
    },
    _ALIVE: {
        Beat.WELCOMED: None,
        Beat.RECEIVED: (_ALIVE, _NOTHING),
        Beat.HELLO_DUE: None,
        Beat.QUIET_DUE: (_PINGED, _PING),
        Beat.IDLE_DUE: None,
        Beat.CLOSED: (_DEAD, _NOTHING),
    },
    _PINGED: {
        Beat.WELCOMED: None,
        Beat.RECEIVED: (_ALIVE, _NOTHING),
        Beat.HELLO_DUE: None,
        Beat.QUIET_DUE: None,
        Beat.IDLE_DUE: (_DEAD, _CLOSE),
        Beat.CLOSED: (_DEAD, _NOTHING),
    },
    _DEAD: {
        Beat.WELCOMED: (_DEAD, _NOTHING),
        Beat.RECEIVED: (_DEAD, _NOTHING),
        Beat.HELLO_DUE: None,
        Beat.QUIET_DUE: None,
        Beat.IDLE_DUE: None,
        Beat.CLOSED: (_DEAD, _NOTHING),
    },
}
TIMER: Final = {_NEW: Beat.HELLO_DUE, _ALIVE: Beat.QUIET_DUE, _PINGED: Beat.IDLE_DUE}


def ping_ms_for(wish_ms: int | None, default_ms: int = PING_MS) -> int:
    """The interval that the server takes for what a client proposes."""
    return default_ms if wish_ms is None else min(max(wish_ms, PING_MS_MIN), PING_MS_MAX)


# -- the session ------------------------------------------------------------------------------------------------------


class ServerSession:
    """The server's side of one connection.

    `receive` takes one WebSocket message, `send` makes the payload of one. `deadline_ms` is when `tick` must be called
    (None: never). What is received moves it later, so a timer wheel need look at it only when the old deadline comes;
    `send(welcome)` and a `foreground` bring it nearer, and are the times to look at once.
    """

    __slots__ = (
        "_allowance",
        "_default_ping_ms",
        "_heard_ms",
        "_life",
        "_opened_ms",
        "_tokens_ms",
        "codec",
        "limits",
        "ping_ms",
        "state",
    )

    def __init__(self, codec: Codec, now_ms: int, limits: Limits = DEFAULT, ping_ms: int = PING_MS) -> None:
        self.codec = codec
        self.limits = limits
        self.state = State.AWAIT_HELLO
        self.ping_ms = ping_ms
        self._default_ping_ms = ping_ms
        self._life = Life.NEW
        self._opened_ms = now_ms
        self._heard_ms = now_ms
        self._allowance = MESSAGES_BURST_MAX * 1000  # in thousandths of a message: integers do not drift
        self._tokens_ms = now_ms

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    def receive(self, data: bytes | str, now_ms: int) -> list[m.ClientMessage | m.Error]:
        """The messages of one frame, in order; an `Error` stands in the place of a message that must be answered by it
        and has no other effect (a space name that breaks the syntax). Raises `ProtocolError`; then nothing of the frame
        takes effect: send `.message()`, then close with `.close_code`."""
        self.heard(now_ms)
        if self.is_closed:
            return []
        messages = self.codec.decode(data, self.limits)
        self.charge(max(1, len(messages)), now_ms)  # an empty frame is work too
        result: list[m.ClientMessage | m.Error] = []
        for message in messages:
            if self.is_closed:
                break  # what follows a `bye` was not meant
            self._step(("received", type(message).__name__.lower()))
            self._regard(message)
            result.append(_checked(message))
        return result

    def send(self, *messages: m.ServerMessage) -> bytes:
        """The payload of one frame that holds these messages; empty if the conversation is over. A message that may not
        be sent now is a defect of the caller."""
        if self.is_closed:
            return b""
        for message in messages:
            self._sending(message)
        return self.codec.encode(*messages)

    def _sending(self, message: m.ServerMessage) -> None:
        # What subscriptions bring does not pass here (a delta is encoded once for all subscribers): it moves no state.
        name = "signal" if isinstance(message, m.Heard) else type(message).__name__.lower()
        if isinstance(message, m.Error) and _is_closing(message):
            name = "closing error"
        self._step(("sent", name))
        if name == "welcome":
            self._beat(Beat.WELCOMED)
        elif name == "closing error":
            self._beat(Beat.CLOSED)

    def close(self) -> None:
        """The connection ends, whoever ended it."""
        self._step(("sent", "close"))
        self._beat(Beat.CLOSED)

    def heard(self, now_ms: int) -> None:
        """Bytes came: any byte counts as life, also half a frame."""
        self._heard_ms = now_ms
        self._beat(Beat.RECEIVED)

    @property
    def deadline_ms(self) -> int | None:
        """When the present timer fires; None when nothing is left to wait for."""
        if self._life is Life.NEW:
            return self._opened_ms + HELLO_MS_MAX
        if self._life is Life.ALIVE:
            return self._heard_ms + self.ping_ms
        if self._life is Life.PINGED:
            return self._heard_ms + 2 * self.ping_ms + IDLE_SLACK_MS
        return None

    def tick(self, now_ms: int) -> Due:
        """What is due now. Call it at `deadline_ms` or later; earlier calls do nothing."""
        deadline_ms = self.deadline_ms
        if deadline_ms is None or now_ms < deadline_ms:
            return Due.NOTHING
        return self._beat(TIMER[self._life])

    def _step(self, event: Event) -> None:
        after = CONVERSATION[self.state][event]
        if isinstance(after, State):
            self.state = after
        elif after is Verdict.UNEXPECTED:
            assert event[0] == "received", f"{event[1]} must not be sent while {self.state.value}"
            raise ProtocolError(UNEXPECTED_MESSAGE, f"{event[1]} is not allowed here (state: {self.state.value})")

    def _beat(self, beat: Beat) -> Due:
        after = KEEPALIVE[self._life][beat]
        assert after is not None, f"{beat.value} while {self._life.value}"
        self._life, due = after
        return due

    def _regard(self, message: m.ClientMessage) -> None:
        """What a message means for the conversation itself."""
        if isinstance(message, m.Hello):
            self._default_ping_ms = self.ping_ms = ping_ms_for(message.keepalive_ms, self._default_ping_ms)
        elif isinstance(message, m.Background):
            self.ping_ms = ping_ms_for(message.keepalive_ms, PING_MS_MAX)
        elif isinstance(message, m.Foreground):
            self.ping_ms = self._default_ping_ms
        elif isinstance(message, m.Bye):
            self._beat(Beat.CLOSED)

    def charge(self, count: int, now_ms: int) -> None:
        """Take `count` messages out of the bucket, which fills by `messages_per_s_max` up to MESSAGES_BURST_MAX."""
        rate = self.limits.messages_per_s_max
        elapsed_ms = max(0, now_ms - self._tokens_ms)  # a wall clock that is set back gives nothing and takes nothing
        self._tokens_ms = now_ms
        full = MESSAGES_BURST_MAX * 1000
        self._allowance = min(full, self._allowance + elapsed_ms * rate) - count * 1000
        if self._allowance < 0:
            raise ProtocolError(RATE_LIMITED, f"at most {rate} messages a second, after the first {MESSAGES_BURST_MAX}")


def _is_closing(message: m.Error) -> bool:
    return message.space is None and KIND_BY_CODE[message.code].close is not None


def _checked(message: m.ClientMessage) -> m.ClientMessage | m.Error:
    if isinstance(message, m.Subscribe | m.Unsubscribe | m.Push | m.Ack | m.Sums | m.Signal | m.Purged):
        try:
            check_space(message.space)
        except BadName as wrong:
            return error(BAD_SPACE, str(wrong), space=message.space[:200])
    return message
