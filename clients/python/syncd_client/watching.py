"""What changed since you last looked: bounded, coalescing notifications.

Owns the meeting point of the device, which never waits, and the application, which may be slow. Nothing here queues
events: a watcher holds at most the set of what is new, so a slow reader costs memory for what exists, not for what
happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from .live import Signal
from .loops import Loop
from .session import Notice
from .tables import Key

# Beyond this many documents a reader does better to read the space again than to look at each.
WATCHED_KEYS_MAX = 10_000
# Notices are rare and for people; the last hundred say what is going on.
NOTICES_MAX = 100
# Signals that a reader has not looked at: of each sender and key the newest. Beyond it the oldest are dropped.
SIGNALS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Changed:
    """Documents of one space whose view may have changed, in order of their first change; None means any."""

    space: str
    keys: tuple[Key, ...] | None


class Pulse:
    """Wakes everyone who waits now. A waiter checks its condition, waits, and checks again."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._event = loop.event()
        self.waiting_count = 0

    def beat(self) -> None:
        event, self._event = self._event, self._loop.event()
        event.set()

    async def wait(self) -> None:
        self.waiting_count += 1
        try:
            await self._event.wait()
        finally:
            self.waiting_count -= 1

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return in the step in which the condition was seen to hold. Always a checkpoint: whoever changes something
        each time that something has changed would else keep everyone else, the network too, from running."""
        await self._loop.checkpoint()
        while not condition():
            await self.wait()

    async def checkpoint(self) -> None:
        await self._loop.checkpoint()


T = TypeVar("T")


class Following(Generic[T]):
    """An async iterator over what `news` gives; waits for the pulse when that is nothing. It can be left at any time:
    not an async generator, because one that is left unfinished is ended by nobody."""

    def __init__(self, pulse: Pulse, news: Callable[[], Sequence[T]]) -> None:
        self._pulse = pulse
        self._news = news
        self._ready: deque[T] = deque()

    def __aiter__(self) -> Following[T]:
        return self

    async def __anext__(self) -> T:
        if not self._ready:
            await self._pulse.wait_until(self._is_fed)
        else:
            await self._pulse.checkpoint()
        return self._ready.popleft()

    def _is_fed(self) -> bool:
        self._ready.extend(self._news())
        return bool(self._ready)


class Watcher:
    """An async iterator of `Changed`. Each round gives all that changed since the round before."""

    def __init__(self, space: str | None, loop: Loop) -> None:
        self._space = space
        self._spaces: dict[str, dict[Key, None] | None] = {}
        self._pulse = Pulse(loop)

    def touch(self, space: str, keys: tuple[Key, ...] | None) -> None:
        if self._space not in (None, space) or keys == ():
            return
        known = self._spaces.setdefault(space, {})
        if keys is None:
            self._spaces[space] = None
        elif known is not None:
            known.update(dict.fromkeys(keys))
            if len(known) > WATCHED_KEYS_MAX:
                self._spaces[space] = None
        self._pulse.beat()

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> list[Changed]:
        await self._pulse.wait_until(lambda: bool(self._spaces))
        spaces, self._spaces = self._spaces, {}
        return [Changed(name, None if keys is None else tuple(keys)) for name, keys in spaces.items()]


class Hearing:
    """An async iterator of signals: of each sender and key the newest, while its time lasts."""

    def __init__(self, space: str | None, loop: Loop) -> None:
        self._space = space
        self._signals: dict[tuple[str, bytes, str], Signal] = {}
        self._loop = loop
        self._pulse = Pulse(loop)

    def hear(self, signal: Signal) -> None:
        if self._space not in (None, signal.space):
            return
        self._signals[signal.space, signal.ref, signal.key] = signal
        if len(self._signals) > SIGNALS_MAX:
            del self._signals[next(iter(self._signals))]
        self._pulse.beat()

    def __aiter__(self) -> Hearing:
        return self

    async def __anext__(self) -> Signal:
        await self._pulse.wait_until(self._has_one)
        return self._signals.pop(next(iter(self._signals)))

    def _has_one(self) -> bool:
        now_s = self._loop.now_s()
        while self._signals:
            first = next(iter(self._signals))
            if now_s < self._signals[first].until_s:
                return True
            del self._signals[first]
        return False


class Watchers:
    """The open watchers of a device, and its last notices."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._open: dict[int, Watcher] = {}
        self._hearing: dict[int, Hearing] = {}
        self.pulse = Pulse(loop)
        self.notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        self.notice_count = 0

    @contextmanager
    def opened(self, space: str | None) -> Iterator[Watcher]:
        watcher = Watcher(space, self._loop)
        self._open[id(watcher)] = watcher
        try:
            yield watcher
        finally:
            del self._open[id(watcher)]

    @contextmanager
    def hearing(self, space: str | None) -> Iterator[Hearing]:
        hearing = Hearing(space, self._loop)
        self._hearing[id(hearing)] = hearing
        try:
            yield hearing
        finally:
            del self._hearing[id(hearing)]

    def hear(self, signal: Signal) -> None:
        for hearing in self._hearing.values():
            hearing.hear(signal)

    def touch(self, space: str, keys: tuple[Key, ...] | None) -> None:
        for watcher in self._open.values():
            watcher.touch(space, keys)

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)
        self.notice_count += 1
        self.pulse.beat()
