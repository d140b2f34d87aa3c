"""A timing wheel: one sleeping task for the deadlines of all connections.

Owns when an entry is woken, not why. A task that sleeps costs some KiB and a place in trio's heap of deadlines that
moves whenever its deadline does; an entry here costs one reference, and a deadline that moves *later*, as an idle
timeout does with each byte received, costs nothing at all: the entry is woken at its old time, looks, and goes back.

Invariants: W1 an entry is woken at or after the time asked for, at most one tick late unless the loop is, and never
twice for one time; if that is more than SLOTS ticks away, also once a round before, and says again what is due next.
W2 asking for a later time than one already asked for keeps the earlier: `wake` returns what is due next. W3 an entry
that is no longer wanted says so by returning None when it is woken; nothing has to be removed.
"""

from math import ceil, inf
from typing import Protocol

import trio

TICK_S = 0.25  # deadlines are seconds and minutes; a finer tick only wakes the loop more often
SLOTS = 1024  # 256 s around; what lies farther goes round again
WAKES = 256  # entries woken between two checkpoints: some ms if each sends a ping, as after a restart


class Entry(Protocol):
    """What can be put on the wheel. `due` is the wheel's own, and starts as None."""

    due: int | None

    def wake(self, now_s: float) -> float | None:
        """Do what is due at `now_s` (trio's clock). Returns when to be woken next, None for never. Must not raise."""
        ...


class Wheel:
    """One ring of slots. Times are those of `trio.current_time`, so a mock clock drives it."""

    def __init__(self) -> None:
        self._slots: list[list[Entry]] = [[] for _ in range(SLOTS)]
        self._count = 0
        self._tick = 0  # every slot up to here has been served
        self._sleep = trio.CancelScope()

    def schedule(self, entry: Entry, at_s: float) -> None:
        """Wake the entry at `at_s`, or at the time it asked for before if that is earlier. O(1)."""
        now_tick = int(trio.current_time() / TICK_S)
        if not self._count:
            self._tick = max(self._tick, now_tick)
        tick = min(max(ceil(at_s / TICK_S), self._tick + 1), self._tick + SLOTS - 1)
        if entry.due is not None and entry.due <= tick:
            return
        entry.due = tick
        self._slots[tick % SLOTS].append(entry)
        self._count += 1
        self._sleep.deadline = min(self._sleep.deadline, tick * TICK_S)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        task_status.started()
        while True:
            self._sleep = trio.CancelScope(deadline=self._next_s())
            with self._sleep:
                await trio.sleep_forever()
            await self._serve(trio.current_time())

    def _next_s(self) -> float:
        """The time of the next slot that holds something."""
        if not self._count:
            return inf
        ticks = range(self._tick + 1, self._tick + SLOTS + 1)
        return next(tick * TICK_S for tick in ticks if self._slots[tick % SLOTS])

    async def _serve(self, now_s: float) -> None:
        """Wake what is due, slot by slot. After a long stall all slots are passed at once."""
        now_tick = int(now_s / TICK_S)
        # Asked anew each time: `schedule` moves an empty wheel on, and to go back behind that would lose what it added.
        while self._count and self._tick < now_tick:
            self._tick += 1
            index = self._tick % SLOTS
            if self._slots[index]:
                entries, self._slots[index] = self._slots[index], []
                self._count -= len(entries)
                await self._wake(entries, self._tick, now_s)
                await trio.lowlevel.checkpoint()

    async def _wake(self, entries: list[Entry], tick: int, now_s: float) -> None:
        for number, entry in enumerate(entries, 1):
            if number % WAKES == 0:
                await trio.lowlevel.checkpoint()
            if entry.due != tick:
                continue  # it asked for an earlier time since, and was or will be woken then
            entry.due = None
            at_s = entry.wake(now_s)
            if at_s is not None:
                self.schedule(entry, at_s)
