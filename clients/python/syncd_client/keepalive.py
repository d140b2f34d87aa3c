"""Whether the other end still lives: named timers and what they lead to (section 11 of the protocol).

Owns the table KEEPALIVE, from which states.md is drawn, and the lengths of its timers. Pure: time is passed in. Must
not know how a byte is sent or a connection dropped; it says what to do.

1. Every change of state passes `_beat`; a pair that is not in the table is a mistake of the caller.
2. In every state but *gone* and *waiting* one timer runs: a connection that nobody hears from ends in bounded time.
3. Any byte counts as life, also half a frame, where the transport shows it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

HELLO_S: Final = 10.0  # as long as the server waits for the hello
# Five seconds for the server's ping to cross a slow network, then one question with ten seconds for the answer.
SILENCE_GRACE_S: Final = 5.0
PROBE_ANSWER_S: Final = 10.0
# After sleep the socket is dead more often than not, and somebody looks at the screen: a round trip on a bad mobile
# network is 2 s, waking its radio up to 3 s.
WAKE_ANSWER_S: Final = 5.0
# What the server takes for a wish outside of it (section 11), and for `background` without one: the longest.
PING_MS_MIN, PING_MS_MAX = 15_000, 600_000


class Life(Enum):
    """What the client knows about the other end. `timer` names what runs in it."""

    WAITING = "waiting"  # there is no connection; the policy says when to make one
    GREETING = "greeting"  # timer hello: the welcome must be here HELLO_S after the socket opened
    ALIVE = "alive"  # timer quiet: ping_ms + SILENCE_GRACE_S after the last byte
    PROBING = "probing"  # timer probe: PROBE_ANSWER_S after the probe
    TESTING = "testing"  # timer wake: WAKE_ANSWER_S after the probe
    GONE = "gone"


class Beat(Enum):
    CONNECTED = "connected / send hello"
    HEARD = "any byte received"
    WELCOMED = "welcome received"
    WOKE = "the device woke from sleep"
    HELLO_DUE = "timer hello"
    QUIET_DUE = "timer quiet"
    PROBE_DUE = "timer probe"
    WAKE_DUE = "timer wake"
    DROPPED = "reconnect as section 11 says"


class Does(Enum):
    NOTHING = "nothing"
    PROBE = "send probe"
    DROP = "drop the connection"


_W, _G, _A, _P, _T, _X = Life
_NOTHING, _PROBE, _DROP = Does

KEEPALIVE: Final[dict[tuple[Life, Beat], tuple[Life, Does]]] = {
    (_W, Beat.CONNECTED): (_G, _NOTHING),
    (_G, Beat.HEARD): (_G, _NOTHING),  # bytes without a welcome buy no time
    (_G, Beat.WOKE): (_G, _NOTHING),  # the answer that is awaited already is as good as one to a probe
    (_G, Beat.WELCOMED): (_A, _NOTHING),
    (_G, Beat.HELLO_DUE): (_X, _DROP),
    (_A, Beat.HEARD): (_A, _NOTHING),
    (_A, Beat.QUIET_DUE): (_P, _PROBE),
    (_A, Beat.WOKE): (_T, _PROBE),
    (_P, Beat.HEARD): (_A, _NOTHING),
    (_P, Beat.PROBE_DUE): (_X, _DROP),
    (_P, Beat.WOKE): (_T, _PROBE),
    (_T, Beat.HEARD): (_A, _NOTHING),
    (_T, Beat.WAKE_DUE): (_X, _DROP),
    (_T, Beat.WOKE): (_T, _NOTHING),  # asking again must not put the end off
    (_X, Beat.HEARD): (_X, _NOTHING),
    (_X, Beat.WOKE): (_X, _NOTHING),
    (_X, Beat.DROPPED): (_W, _NOTHING),
}
TIMER: Final = {_G: Beat.HELLO_DUE, _A: Beat.QUIET_DUE, _P: Beat.PROBE_DUE, _T: Beat.WAKE_DUE}


def background_ms(wish_ms: int | None) -> int:
    """The interval that the server takes for `background` with this wish."""
    return PING_MS_MAX if wish_ms is None else min(max(wish_ms, PING_MS_MIN), PING_MS_MAX)


class KeepAlive:
    """The life of one connection, from the moment at which its socket is open."""

    __slots__ = ("_heard_s", "_since_s", "life", "ping_s")

    def __init__(self, now_s: float) -> None:
        self.life = Life.WAITING
        self.ping_s = 0.0
        self._heard_s = self._since_s = now_s
        self._beat(Beat.CONNECTED)

    @property
    def deadline_s(self) -> float:
        """When the timer of the present state fires; `inf` when none runs."""
        if self.life is Life.GREETING:
            return self._since_s + HELLO_S
        if self.life is Life.ALIVE:
            return self._heard_s + self.ping_s + SILENCE_GRACE_S
        if self.life is Life.PROBING:
            return self._since_s + PROBE_ANSWER_S
        return self._since_s + WAKE_ANSWER_S if self.life is Life.TESTING else float("inf")

    def heard(self, now_s: float) -> None:
        self._heard_s = now_s
        self._beat(Beat.HEARD)

    def welcomed(self, ping_ms: int) -> None:
        self.ping_s = ping_ms / 1000
        self._beat(Beat.WELCOMED)

    def woke(self, now_s: float) -> Does:
        """The device may have slept: the socket is not to be trusted until it has answered."""
        does = self._beat(Beat.WOKE)
        if does is Does.PROBE:
            self._since_s = now_s
        return does

    def tick(self, now_s: float) -> Does:
        """What is due now. Earlier than `deadline_s`: nothing."""
        if now_s < self.deadline_s:
            return Does.NOTHING
        self._since_s = now_s
        return self._beat(TIMER[self.life])

    def _beat(self, beat: Beat) -> Does:
        after = KEEPALIVE.get((self.life, beat))
        assert after is not None, f"{beat.value} while {self.life.value}"
        self.life, does = after
        return does
