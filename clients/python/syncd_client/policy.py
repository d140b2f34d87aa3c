"""When to connect, and what a close code means.

Owns the table of connection states (drawn in states.md), and of sections 11 and 12 of the protocol what concerns
reconnecting. Pure: time and random numbers are passed in.

1. Every change of state passes `next_state`; a pair that is not in the table is a mistake of the caller.
2. An unknown close code is obeyed by its range, so that an old client obeys a new code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .messages import Reconnect


class State(Enum):
    CLOSED = "closed"  # told to be offline, or not started
    WAITING = "waiting"  # until it is time to connect, or until another process lets go of the store
    CONNECTING = "connecting"
    HELLO = "hello"  # the socket is open; only a welcome may come
    READY = "ready"
    DRAINING = "draining"  # the server said goaway: nothing new is sent
    STOPPED = "stopped"  # a terminal code: only the application can start again


class Event(Enum):
    GO = "go online"
    DUE = "due"
    OPENED = "opened"
    WELCOMED = "welcomed"
    GOAWAY = "goaway"
    LOST = "lost"
    TERMINAL = "terminal"
    HALT = "go offline"


_S, _E = State, Event
TRANSITIONS: dict[tuple[State, Event], State] = {
    (_S.CLOSED, _E.GO): _S.WAITING,
    (_S.STOPPED, _E.GO): _S.WAITING,
    (_S.WAITING, _E.DUE): _S.CONNECTING,
    (_S.CONNECTING, _E.OPENED): _S.HELLO,
    (_S.CONNECTING, _E.LOST): _S.WAITING,
    (_S.HELLO, _E.WELCOMED): _S.READY,
    (_S.HELLO, _E.GOAWAY): _S.DRAINING,
    (_S.HELLO, _E.LOST): _S.WAITING,
    (_S.HELLO, _E.TERMINAL): _S.STOPPED,
    (_S.READY, _E.GOAWAY): _S.DRAINING,
    (_S.READY, _E.LOST): _S.WAITING,
    (_S.READY, _E.TERMINAL): _S.STOPPED,
    (_S.DRAINING, _E.GOAWAY): _S.DRAINING,
    (_S.DRAINING, _E.LOST): _S.WAITING,
    (_S.DRAINING, _E.TERMINAL): _S.STOPPED,
    **{(state, _E.HALT): _S.CLOSED for state in State},
}


def next_state(state: State, event: Event) -> State:
    target = TRANSITIONS.get((state, event))
    assert target is not None, f"{event} in {state}"
    return target


class Disposition(Enum):
    """What the range of a close code tells the client to do (section 12)."""

    BACK_OFF = "backs off, then resumes"
    BISECT = "looks for what the server could not read, then backs off"
    RESUME_NOW = "resumes after the first jitter"
    SLOW_DOWN = "backs off, without the first jitter"
    REAUTHENTICATE = "gets a new token first"
    RESYNC = "drops positions and synced state, then reconnects"
    MOVE = "goes to another host"
    STOP = "stops, and tells the application"


def disposition(code: int) -> Disposition:
    if code in (1002, 1003, 1007, 1009):
        return Disposition.BISECT
    if 4000 <= code < 4500:
        hundreds = (
            *(Disposition.RESUME_NOW, Disposition.SLOW_DOWN, Disposition.REAUTHENTICATE),
            *(Disposition.RESYNC, Disposition.MOVE),
        )
        return hundreds[(code - 4000) // 100]
    return Disposition.STOP if 4900 <= code < 5000 else Disposition.BACK_OFF


@dataclass(frozen=True, slots=True)
class Retry:
    """How often connecting has failed since a connection was last stable."""

    attempt: int = 0

    def delay_ms(self, parameters: Reconnect, random: float) -> float:
        """Full jitter: `random` is uniform in [0, 1). Attempt 0 spreads the clients of a server that went away."""
        if self.attempt == 0:
            return random * parameters.first_jitter_ms
        # Beyond 2^32 the factor is past every bound that a server may set; the exponent itself must stay small.
        ceiling_ms: int = parameters.backoff_ms << min(self.attempt, 32)
        return random * min(parameters.backoff_max_ms, ceiling_ms)

    def failed(self) -> Retry:
        return Retry(self.attempt + 1)

    def after(self, what: Disposition, ready_for_ms: float, parameters: Reconnect) -> Retry:
        """The retry to wait for next, after a connection that was ready for so long (0: never)."""
        current = Retry(0) if ready_for_ms >= parameters.stable_ms else self
        return Retry(max(1, current.attempt)) if what is Disposition.SLOW_DOWN else current


# Attempts after a `goaway` that find nobody, a second apart on average, until backing off begins. They cost a server
# that is not there nothing; once it is, those who came too early should not be doubling their waits.
ABSENT_MAX = 10


def goaway_delay_ms(retry_after_ms: int, spread_ms: int, random: float) -> float:
    return retry_after_ms + random * spread_ms


# How long at most a `Retry-After` is obeyed: an hour is a maintenance; what says more is a mistake, or no friend.
AFTER_S_MAX = 3_600.0


def retry_after_s(header: str | None) -> float:
    """What an HTTP answer asks for: whole seconds. 0 for none, and for a date (RFC 9110 has it, syncd sends none)."""
    text = (header or "").strip()
    return min(float(text), AFTER_S_MAX) if text.isascii() and text.isdecimal() else 0.0


# A phone that leaves its Wi-Fi changes networks twice or three times within seconds; more often is a radio that flaps.
HASTE_MAX = 3.0
HASTE_S = 20.0  # one more is allowed after so long


@dataclass(frozen=True, slots=True)
class Haste:
    """Reconnects at the application's word, without backing off: a bucket, so that an application that cries wolf costs
    the server no more than HASTE_MAX connections at once and one each HASTE_S."""

    left: float = HASTE_MAX
    at_s: float = 0.0

    def taken(self, now_s: float) -> Haste | None:
        """The bucket after one more; None if it is empty."""
        left = min(HASTE_MAX, self.left + max(0.0, now_s - self.at_s) / HASTE_S)
        return Haste(left - 1, now_s) if left >= 1 else None
