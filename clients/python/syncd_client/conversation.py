"""One connection without its waiting: frames in, frames out, and when to look again.

Owns what a connection does beside the protocol's own questions (session): grouping messages into frames, pacing them,
keep-alive, renewing the token, draining and leaving. A shell carries out what `step`, `tick` and `renew_s` say and
brings what it receives; it decides nothing. Knows no event loop, no socket and no clock: `now_s` is monotonic, `now_ms`
wall time. The store is called directly: a call is a few rows, a commit one fsync; in a thread each would be an await in
the middle of a decision, where another task may change what it was based on.

1. `ending` is set once, by whatever ended the connection first; then nothing more is said or taken.
2. What `step` gives is counted as sent. Frames leave in the order in which they are given.
3. A frame that cannot be stored, or that breaks the protocol, has no effect at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from . import messages as m
from .codec import Binding, decoded, encoded
from .errors import PeerError, StoreError, TransportClosed
from .keepalive import HELLO_S, Does, KeepAlive, Life, background_ms
from .policy import State
from .session import Effect, Session
from .store import Store

DRAIN_S = 5.0  # how long a draining connection waits for the answers to its pushes
# Small messages that share a frame: 64 subscribes are 25 KB, far below any frame limit.
FRAME_MESSAGES_MAX = 64
# The server allows bursts of five seconds' worth; two leave room for what it has not counted yet.
BURST_S = 2.0
TICK_S = 1e-6  # clocks are floats: nothing is waited for that is nearer than this
REFRESH_MARGIN_S = 60.0  # a new token is asked for this long before the old one ends, or a fifth of its life
REFRESH_RETRIES = 4  # how often in that margin, if there is none


@dataclass(frozen=True, slots=True)
class Send:
    frame: bytes | str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to send before `until_s`, unless something is received or committed."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str


Step: TypeAlias = Send | Wait | Close


class Conversation:
    """One conversation with the server. `token_renews`: the application can give a new token."""

    def __init__(
        self, session: Session, store: Store, binding: Binding, hello: m.Hello, now_s: float, *, token_renews: bool
    ) -> None:
        self.session = session
        self.ready_s: float | None = None
        self.field_values = 0  # received in deltas
        self.ending: TransportClosed | None = None
        self.farewell: Close | None = None  # what the server is told when `ending` is our own doing
        self.slept = False  # `ending` is that a socket did not outlive the sleep of the device
        self.renew_s = float("inf")  # when to ask for a new token
        self._store = store
        self._binding = binding
        self._keepalive = KeepAlive(now_s)
        self._token_renews = token_renews
        self._token_life_s = 0.0
        self._groups: deque[list[m.ClientMessage]] = deque([[hello]])
        self._paced_s = now_s  # when everything sent so far will have been sent at the even rate
        self._is_leaving = self._is_last = False
        self._drain_s: float | None = None

    def end(self, ending: TransportClosed) -> None:
        self.ending = self.ending or ending

    def leave(self) -> None:
        """Acknowledge what is stored, say bye, and close."""
        self._is_leaving = True

    # -- receiving ---------------------------------------------------------------------------------------------------

    def received(self, frame: bytes | str, now_s: float, now_ms: int) -> list[Effect]:
        """Take one frame of the server."""
        if self.ending is not None:
            return []
        self._keepalive.heard(now_s)
        try:
            effects = self._taken(frame, now_s, now_ms)
        except StoreError as error:
            # Nothing of the frame was stored, so it will be sent again: perhaps the disk has room by then.
            self.end(TransportClosed(1006, str(error)))
            return []
        except PeerError as error:
            # To the policy this is a lost connection: the fault is the server's, so nothing of ours is suspect.
            self.farewell = Close(1002, "protocol error")
            self.end(TransportClosed(1006, str(error)))
            return []
        welcome = self.session.welcome
        if welcome is not None and self.ready_s is None:
            self.ready_s = now_s
            self._keepalive.welcomed(welcome.ping_ms)
            if welcome.expires is not None and self._token_renews:
                # The server does not answer a refresh, so a new token is taken to live as long as the first one did.
                self._token_life_s = max(1.0, (welcome.expires - welcome.time) / 1000)
                self.renew_s = now_s + self._token_life_s - self._margin_s
        return effects

    def _taken(self, frame: bytes | str, now_s: float, now_ms: int) -> list[Effect]:
        messages = decoded(frame, self._binding)
        effects: list[Effect] = []
        with self._store.transaction() as tx:
            for message in messages:
                effects += self.session.received(tx, message, now_ms, now_s)
        if self.session.is_renamed:
            self._groups.clear()
            self.leave()
        self.field_values += sum(
            len(entry.fields) for message in messages if isinstance(message, m.Delta) for entry in message.docs
        )
        return effects

    # -- sending -----------------------------------------------------------------------------------------------------

    def step(self, now_s: float) -> Step:
        """What to do now. After a `Close`, call `end`."""
        if not self._groups and not self._is_last:
            self._collect(now_s)
        if self._groups:
            paced_s = self._paced_after(len(self._groups[0]), now_s)
            if paced_s > now_s + BURST_S + TICK_S:
                return Wait(paced_s - BURST_S)
            self._paced_s = paced_s
            return Send(encoded(self._groups.popleft(), self._binding))
        if self._is_last:
            return Close(1000, "")
        return Wait(min(self.session.next_due_s(now_s), float("inf") if self._drain_s is None else self._drain_s))

    def _collect(self, now_s: float) -> None:
        with self._store.reading() as tx:
            self._groups.extend(_frames(self.session.outgoing(tx, now_s)))
            if self.session.state is State.DRAINING and self._drain_s is None:
                self._drain_s = now_s + DRAIN_S
            is_drained = self._drain_s is not None and (self.session.is_quiet or now_s >= self._drain_s)
            if self._is_leaving or is_drained:
                self._is_last = True
                if self.session.welcome is not None:
                    self._groups.extend(_frames([*self.session.acks(tx, now_s), m.Bye()]))

    def _paced_after(self, count: int, now_s: float) -> float:
        """Stay below `messages_per_s_max`: what is committed during the pause goes out in fewer, longer pushes."""
        rate = 0.8 * self.session.parameters.limits.messages_per_s_max
        return max(self._paced_s, now_s) + count / rate

    # -- keep-alive --------------------------------------------------------------------------------------------------

    @property
    def tick_s(self) -> float:
        """When `tick` must be called: what is received moves it later, `probe` and `foreground` bring it nearer."""
        return self._keepalive.deadline_s

    def tick(self, now_s: float) -> bool:
        """Do what is due, if anything is. Whether there is something to send, or the connection has ended."""
        is_testing = self._keepalive.life is Life.TESTING
        does = self._keepalive.tick(now_s)
        self.slept = does is Does.DROP and is_testing
        self._do(does)
        return does is not Does.NOTHING

    def probe(self, now_s: float) -> None:
        """The device may have slept: a suspended socket looks open. Ask, and wait a short time only."""
        self._do(self._keepalive.woke(now_s))

    def _do(self, does: Does) -> None:
        if does is Does.PROBE:
            self.session.say(m.Probe())
        elif does is Does.DROP:
            self.end(
                TransportClosed(1006, "the server is silent" if self.ready_s else f"no welcome in {HELLO_S:.0f} s")
            )

    def rest(self, background: m.Background, now_s: float) -> None:
        """The application is in the background: acknowledge, and let both sides ask less often."""
        if self._keepalive.life in (Life.GREETING, Life.GONE):
            return
        with self._store.reading() as tx:
            for message in self.session.acks(tx, now_s):
                self.session.say(message)
        self.session.say(background)
        self._keepalive.ping_s = background_ms(background.keepalive_ms) / 1000

    def rise(self, now_s: float) -> None:
        """The application is visible again."""
        if self.session.welcome is not None:
            self.session.say(m.Foreground())
            self._keepalive.ping_s = self.session.welcome.ping_ms / 1000
            self.probe(now_s)

    # -- the token ---------------------------------------------------------------------------------------------------

    @property
    def _margin_s(self) -> float:
        return min(REFRESH_MARGIN_S, self._token_life_s / 5)

    def renewed(self, token: str | None, now_s: float) -> None:
        """What the application answered to `renew_s`; None: nothing, so it is asked again while the old one lives."""
        if token is None:
            self.renew_s = now_s + self._margin_s / REFRESH_RETRIES
        else:
            self.renew_s = now_s + self._token_life_s - self._margin_s
            self.session.renewed(token)


_LARGE = (m.Push, m.Sums, m.Signal, m.Event)


def _frames(messages: Sequence[m.ClientMessage]) -> list[list[m.ClientMessage]]:
    """Messages in their order, in frames: what may fill a good part of one alone, small ones together."""
    frames: list[list[m.ClientMessage]] = []
    for message in messages:
        fits = frames and len(frames[-1]) < FRAME_MESSAGES_MAX and not isinstance(frames[-1][-1], _LARGE)
        if fits and not isinstance(message, _LARGE):
            frames[-1].append(message)
        else:
            frames.append([message])
    return frames
