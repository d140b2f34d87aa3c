"""Requests that wait for a space to change, and what they share.

Owns the places where long polls and event streams wait, how many may, and the pages that were read for one of them and
are good for the next. Must not know what is read or how it is sent. The hub wakes a space's waiters when it publishes
a commit; none of them polls the store.

A waiter reads the store, and if there is nothing for it waits in the same step, without a checkpoint between: a commit
that it did not see is published later, and wakes it.

Invariants: W1 a commit's publication wakes every waiter of its space that has not seen it. W2 between two checkpoints
of whoever wakes, at most `SLICE` waiters are woken, so a crowd does not stop the loop. W3 nobody waits beyond the
limits, and a place is given back however a wait ends. W4 after `end` nobody waits.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import trio

from syncd.net.limits import NetLimits
from syncd.net.problems import raised

V = TypeVar("V")

SLICE = 32  # woken between two checkpoints: each reads and answers within some 0.1 ms
RETRY_S = 5  # of one who is told that too many wait


class Waiters:
    """All that wait on one server. `is_ending`: nobody is to wait any more."""

    def __init__(self, limits: NetLimits) -> None:
        self.limits = limits
        self._lots: dict[str, trio.lowlevel.ParkingLot] = {}
        self._counts: dict[tuple[str, str], int] = {}  # by (what, name): callers and addresses
        self.count = 0
        self.is_ending = False
        self.shared: Shared[Any] = Shared(limits.shared_bytes_max)

    def check_room(self, caller: str, host: str) -> None:
        """Raises a problem if one more may not wait."""
        limits = self.limits
        retry = (("Retry-After", str(RETRY_S)),)
        if self.count >= limits.waiters_max:
            raise raised("overloaded", "too many requests wait for changes at the moment", retry)
        counts_max = (limits.waiters_per_caller_max, limits.waiters_per_address_max)
        for key, count_max in zip(_keys(caller, host), counts_max, strict=True):
            if self._counts.get(key, 0) >= count_max:
                raise raised("too-many-waiting", f"at most {count_max} requests of one {key[0]} wait at a time", retry)

    @contextmanager
    def admitted(self, caller: str, host: str) -> Iterator[None]:
        """A place among those who wait. Raises a problem if there is none."""
        self.check_room(caller, host)
        keys = _keys(caller, host)
        self.count += 1
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + 1
        try:
            yield
        finally:
            self.count -= 1
            for key in keys:
                self._counts[key] -= 1
                if not self._counts[key]:
                    del self._counts[key]

    async def wait(self, space: str) -> None:
        """Until something may have happened in the space, or `end`."""
        if self.is_ending:
            return
        lot = self._lots.get(space)
        if lot is None:
            lot = self._lots[space] = trio.lowlevel.ParkingLot()
        try:
            await lot.park()
        finally:
            if not lot and self._lots.get(space) is lot:
                del self._lots[space]

    async def wake(self, space: str, woken: int = 0) -> int:
        """Wake all who wait for the space, in slices. `woken`, and the result: how many since the last checkpoint."""
        lot = self._lots.get(space)
        left = 0 if lot is None else len(lot)
        while lot is not None and left > 0:
            if woken >= SLICE:
                await trio.lowlevel.checkpoint()
                woken = 0
            count = min(left, SLICE - woken)
            lot.unpark(count=count)  # the oldest first: who comes meanwhile has seen the commit
            left -= count
            woken += count
        return woken

    async def end(self) -> None:
        """Let nobody wait any more."""
        self.is_ending = True
        woken = 0
        for space in list(self._lots):
            woken = await self.wake(space, woken)


def _keys(caller: str, host: str) -> tuple[tuple[str, str], ...]:
    return ("caller", caller), ("address", host)


class Shared(Generic[V]):
    """What was made for one waiter and fits the next, by a key that names all that it depends on. Bounded in bytes;
    what was used longest ago goes first. Whoever looks has checked the permission before."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes = 0
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def keep(self, key: Hashable, value: V, size_bytes: int) -> None:
        if size_bytes > self._bytes_max // 4 or key in self._kept:
            return  # one long page would push out all others
        self._kept[key] = value, size_bytes
        self.bytes += size_bytes
        while self.bytes > self._bytes_max:
            _, (_, dropped) = self._kept.popitem(last=False)
            self.bytes -= dropped
