"""Presence: who is in a space at the moment, by what connected devices say of themselves.

Owns the roster of one space: who joined, who is away for a moment, who left, and what has to be told of it. Must not
know connections, sockets, clocks or the store: callers bring `now_s` (of trio's clock) and ask for what changed.

A device that lost its connection is *away*, and is told to have left only when it has not come back within the grace: a
phone that changes cells neither leaves nor joins. One that says so itself, or may not read any more, leaves at once.

Invariants: Q1 of the members at most `members_max` are listed, those who joined first; the others are counted, and take
the places of those who leave. Q2 whoever was given all that `changes` returned since a `whole`, knows the roster. Q3 a
member stands once, however often its device connects.
"""

from dataclasses import dataclass
from math import inf

from syncd.core.values import Value
from syncd.wire.messages import Presence


@dataclass(slots=True)
class _Member:
    """`away_s`: when it will have left, inf while its device is connected."""

    user: str
    state: Value
    away_s: float = inf


class Roster:
    """The members of one space, by their ref."""

    __slots__ = ("_changed", "_listed", "_members_max", "_told_count", "_unlisted", "space")

    def __init__(self, space: str, members_max: int) -> None:
        self.space = space
        self._members_max = members_max
        self._listed: dict[bytes, _Member] = {}
        self._unlisted: dict[bytes, _Member] = {}  # in order of their coming
        self._changed: dict[bytes, None] = {}  # listed, or were, since `changes` was asked
        self._told_count = 0

    def __len__(self) -> int:
        return len(self._listed) + len(self._unlisted)

    def __contains__(self, ref: bytes) -> bool:
        return ref in self._listed or ref in self._unlisted

    def here(self, ref: bytes, user: str, state: Value) -> None:
        """The device is connected, and says this of itself."""
        member = self._listed.get(ref) or self._unlisted.get(ref)
        if member is None:
            member = _Member(user, state)
            if len(self._listed) < self._members_max:
                self._listed[ref] = member
                self._changed[ref] = None
            else:
                self._unlisted[ref] = member
        elif member.state != state or member.user != user:
            member.user, member.state = user, state
            if ref in self._listed:
                self._changed[ref] = None
        member.away_s = inf

    def away(self, ref: bytes, until_s: float) -> None:
        """Its connection is over; it has left at `until_s` unless it is here again before."""
        member = self._listed.get(ref) or self._unlisted.get(ref)
        if member is not None:
            member.away_s = until_s

    def left(self, ref: bytes) -> bool:
        """It is no member any more. Whether it was one."""
        if self._unlisted.pop(ref, None) is not None:
            return True
        if self._listed.pop(ref, None) is None:
            return False
        self._changed[ref] = None
        if self._unlisted:
            first = next(iter(self._unlisted))
            self._listed[first] = self._unlisted.pop(first)
            self._changed[first] = None
        return True

    def expire(self, now_s: float) -> int:
        """Those leave whose grace is over; how many."""
        gone = [
            ref
            for members in (self._listed, self._unlisted)
            for ref, member in members.items()
            if member.away_s <= now_s
        ]
        for ref in gone:
            self.left(ref)
        return len(gone)

    @property
    def due_s(self) -> float:
        """When `expire` has something to do next; inf: never."""
        members = (*self._listed.values(), *self._unlisted.values())
        return min((member.away_s for member in members), default=inf)

    @property
    def is_changed(self) -> bool:
        return bool(self._changed) or self._told_count != len(self)

    def changes(self) -> Presence | None:
        """What those have to be told who know the roster as it was when this was last asked; None: nothing. All of it,
        where that is shorter."""
        if not self.is_changed:
            return None
        changed, self._changed = self._changed, {}
        self._told_count = len(self)
        if len(changed) > self._members_max:
            return self.whole()
        here = tuple(self._entry(ref) for ref in changed if ref in self._listed)
        left = b"".join(ref for ref in changed if ref not in self._listed)
        return Presence(self.space, len(self), here, left)

    def whole(self) -> Presence:
        """All of it. What `changes` has to say is in it, and is harmless behind it."""
        return Presence(self.space, len(self), tuple(self._entry(ref) for ref in self._listed), whole=True)

    def _entry(self, ref: bytes) -> tuple[bytes, str, Value]:
        member = self._listed[ref]
        return ref, member.user, member.state
