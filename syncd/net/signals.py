"""Signals: values that are handed to whoever listens at the moment, and are kept by nobody.

Owns which signals wait, and for how long: of one sender and key only the newest does. Must not know who listens
(`live`), sockets, clocks or the store: a signal touches no row, so it costs what its bytes cost. Callers bring `now_s`.

Invariants: G1 at most `count_max` signals and `bytes_max` of their values wait in one place; beyond that the one that
waits longest is given up, and counted. G2 of one space, sender and key, what is taken is never older than what was
taken before: a newer value takes the place of an older one, which is gone. G3 nothing is taken at or after its end.
"""

from dataclasses import dataclass, replace
from typing import Final

from syncd.core.ids import BadName, check_name
from syncd.core.values import Value, encoded
from syncd.net.counters import Counters
from syncd.wire.limits import SIGNAL_TTL_MS, Limits
from syncd.wire.messages import Heard

# One frame of signals: beyond it a slow socket would wait for it longer than for a delta of its size class.
FRAME_BYTES_MAX: Final = 32_768
# What surrounds a value in a message: space, user, ref and keys.
ENVELOPE_BYTES: Final = 300


class SignalRefused(Exception):
    """A signal that is not taken; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A signal, until when it means anything (trio's clock), and about what it costs."""

    heard: Heard
    until_s: float
    size: int


def signal(
    space: str, user: str | None, ref: bytes, key: str, value: Value, ttl_ms: int | None, limits: Limits, now_s: float
) -> Waiting:
    """A signal by this sender. Raises `SignalRefused`."""
    try:
        check_name(key, "the key of a signal")
    except BadName as wrong:
        raise SignalRefused(str(wrong)) from None
    ttl_ms = SIGNAL_TTL_MS if ttl_ms is None else ttl_ms
    if not 1 <= ttl_ms <= limits.signal_ttl_ms_max:
        raise SignalRefused(f"'ttl_ms' is from 1 to {limits.signal_ttl_ms_max}")
    size = checked_bytes(value, limits.signal_bytes_max, "the value of a signal")
    return Waiting(Heard(space, ref, key, value, ttl_ms, user), now_s + ttl_ms / 1000, size + ENVELOPE_BYTES)


def checked_bytes(value: Value, bytes_max: int, what: str) -> int:
    """The size of a normalized value that is within the limit. Raises `SignalRefused`."""
    size = len(encoded(value))
    if size > bytes_max:
        raise SignalRefused(f"{what} has at most {bytes_max} bytes, not {size}")
    return size


class Conflated:
    """Signals that wait in one place: of a space, until they are handed out, or of a connection that is behind.

    `spaces`: those whose presence is to be told anew, whole, when the connection can take it.
    """

    __slots__ = ("_bytes", "_bytes_max", "_count_max", "_counters", "_signals", "spaces")

    def __init__(self, count_max: int, bytes_max: int, counters: Counters) -> None:
        self._count_max, self._bytes_max, self._counters = count_max, bytes_max, counters
        self._signals: dict[tuple[str, bytes, str], Waiting] = {}
        self._bytes = 0
        self.spaces: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._signals)

    def __bool__(self) -> bool:
        return bool(self._signals) or bool(self.spaces)

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def put(self, waiting: Waiting) -> None:
        """Let it wait, in the place of an older one of its sender and key."""
        heard = waiting.heard
        key = (heard.space, heard.ref, heard.key)
        older = self._signals.get(key)
        if older is not None:
            self._bytes -= older.size
            self._counters.signals["conflated"] += 1
        self._signals[key] = waiting
        self._bytes += waiting.size
        while len(self._signals) > self._count_max or self._bytes > self._bytes_max:
            self._bytes -= self._signals.pop(next(iter(self._signals))).size
            self._counters.signals["shed"] += 1

    def take(self, now_s: float) -> list[Waiting]:
        """The next frame's worth, in order of their first arrival; at least one unless none is left."""
        taken: list[Waiting] = []
        size = 0
        while self._signals and size < FRAME_BYTES_MAX:
            waiting = self._signals.pop(next(iter(self._signals)))
            self._bytes -= waiting.size
            if now_s >= waiting.until_s:
                self._counters.signals["expired"] += 1
                continue
            size += waiting.size
            taken.append(waiting)
        return taken

    def forget(self, space: str) -> None:
        """The connection listens to the space no more."""
        self.spaces.pop(space, None)
        for key in [key for key in self._signals if key[0] == space]:
            self._bytes -= self._signals.pop(key).size


def messages(taken: list[Waiting], now_s: float) -> list[Heard]:
    """What was taken, as messages that say how much of its time is left."""
    return [replace(each.heard, ttl_ms=max(1, round((each.until_s - now_s) * 1000))) for each in taken]
