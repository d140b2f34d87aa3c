"""Signals and presence, sans I/O: what is worth something only now (section 15). Nothing of it is stored.

Owns what this device wants to say of itself in each space, and who is present as far as the connection told. Outlives
connections: what is wanted is said again after each new subscription. Knows no socket and no clock but `now_s`.

1. A signal is offered to the connection that is there, or to none: it does not wait for the next one.
2. A roster is what the server told on this connection, whole and what changed since; with the subscription it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from . import messages as m
from .errors import InvalidInput
from .values import Value, checked, checked_name, packed

SIGNALS = "signals"  # the capability of servers that take signals, and of clients that hear them
REFUSED, LIMITED = 22, 23  # errors of section 12 that concern one signal, and nothing else of its space


@dataclass(frozen=True, slots=True)
class Signal:
    """A value that was heard. `user` None: a backend sent it. `ref`: the sending device, in this space and for as long
    as the server runs. `until_s`, on the device's monotonic clock: do not show it longer."""

    space: str
    key: str
    value: Value
    user: str | None
    ref: bytes
    is_own: bool
    until_s: float


@dataclass(frozen=True, slots=True)
class Present:
    """A device that is present, and what it says of itself."""

    ref: bytes
    user: str
    state: Mapping[str, Value]
    is_own: bool


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    space: str


Wish: TypeAlias = Mapping[str, Value] | bool  # a state: to be seen and to see; True: to see


@dataclass(slots=True)
class _Roster:
    count: int
    members: dict[bytes, tuple[str, Mapping[str, Value]]]


class Live:
    """One for each device."""

    def __init__(self) -> None:
        self._wishes: dict[str, Wish] = {}
        self._refs: dict[str, bytes] = {}  # our own, by space, where this connection is subscribed and may signal
        self._rosters: dict[str, _Roster] = {}

    # -- what a connection says ----------------------------------------------------------------------------------

    def connected(self) -> None:
        self._refs.clear()
        self._rosters.clear()

    def subscribed(self, message: m.Subscribed) -> list[m.ClientMessage]:
        """A subscription has begun: what is to be said in it first."""
        self.ended(message.space)
        if message.ref is None:
            return []  # a server without signals
        self._refs[message.space] = message.ref
        wish = self._wishes.get(message.space)
        return [] if wish is None else [m.Signal(message.space, presence=wish)]

    def ended(self, space: str) -> None:
        """The subscription is no more."""
        self._refs.pop(space, None)
        self._rosters.pop(space, None)

    def received(self, message: m.Heard | m.Presence, now_s: float) -> Signal | PresenceChanged:
        if isinstance(message, m.Heard):
            is_own = message.ref == self._refs.get(message.space)
            until_s = now_s + message.ttl_ms / 1000
            return Signal(message.space, message.key, message.value, message.user, message.ref, is_own, until_s)
        roster = self._rosters.setdefault(message.space, _Roster(0, {}))
        if message.whole:
            roster.members.clear()
        left = message.left or b""
        for start in range(0, len(left), 8):
            roster.members.pop(left[start : start + 8], None)
        roster.members.update({ref: (user, state) for ref, user, state in message.here})
        roster.count = message.count
        return PresenceChanged(message.space)

    # -- what the application wants ------------------------------------------------------------------------------

    def can_signal(self, space: str) -> bool:
        return space in self._refs

    def signal(self, space: str, key: str, value: Value, ttl_s: float | None, limits: m.Limits) -> m.Signal | None:
        """The message; None: nobody takes it now. Raises InvalidInput for what the server would refuse."""
        checked_name(key, "signal")
        value = checked(value)
        if len(packed(value)) > limits.signal_bytes_max:
            raise InvalidInput(f"signal: the value has at most {limits.signal_bytes_max} bytes")
        ttl_ms = None if ttl_s is None else round(1000 * ttl_s)
        if ttl_ms is not None and not 1 <= ttl_ms <= limits.signal_ttl_ms_max:
            raise InvalidInput(f"signal: a ttl is from 0.001 to {limits.signal_ttl_ms_max / 1000} s")
        return m.Signal(space, key, value, ttl_ms) if self.can_signal(space) else None

    def wish(self, space: str, wish: Wish | None, limits: m.Limits) -> m.Signal | None:
        """From now on, in each subscription to the space; the message that says so now, if it can be said."""
        if isinstance(wish, Mapping):
            wish = checked(dict(wish))
            if len(packed(wish)) > limits.presence_bytes_max:
                raise InvalidInput(f"presence: the state has at most {limits.presence_bytes_max} bytes")
        if wish is None or wish is False:
            if self._wishes.pop(space, None) is None:
                return None
            self._rosters.pop(space, None)
            wish = False
        else:
            self._wishes[space] = wish
        return m.Signal(space, presence=wish) if self.can_signal(space) else None

    def present(self, space: str) -> tuple[Present, ...]:
        own, roster = self._refs.get(space), self._rosters.get(space)
        members = {} if roster is None else roster.members
        return tuple(Present(ref, user, state, ref == own) for ref, (user, state) in members.items())

    def present_count(self, space: str) -> int:
        roster = self._rosters.get(space)
        return 0 if roster is None else roster.count
