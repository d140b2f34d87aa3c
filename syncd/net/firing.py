"""The firing loop: looks at the queue of timers, and asks that what is due goes on.

Owns when `Fire` is asked for, and how far the wall clock is believed. Must not know what a timer is for. Between two
looks it sleeps until the earliest timer, or until an earlier one is set, which it is told after the commit.

Invariants: L1 nothing is asked for while nothing is due. L2 at most one command of it is in the queue. L3 a wall clock
that is set, in whichever direction, is noticed within `LOOK_S`.
"""

from logging import getLogger
from typing import Any, Final

import trio

from syncd.engine.commands import Command, Fire, Fired, Result
from syncd.env.ports import Clock
from syncd.notify.firing import TrustedClock
from syncd.store import keys
from syncd.store.api import Store
from syncd.store.committer import Committer, Overloaded

LOOK_S: Final = 1.0
BUSY_S: Final = 0.05  # before it asks again when the queue was full
SOONEST_S: Final = 0.001

_log = getLogger(__name__)


class FiringLoop:
    def __init__(self, store: Store, committer: Committer[Command, Result, Any], clock: Clock) -> None:
        self._store, self._committer, self._clock = store, committer, clock
        self._trusted = TrustedClock(clock.now_ms(), _mono_ms())
        self._next_ms: int | None = None
        self._sooner = trio.Event()
        self.fired = 0
        self.late_ms_last = 0
        self.is_held = False  # a leap of the wall clock holds something back
        self._after = b""  # behind which timer of these the look for critical ones goes on

    def heard(self, due_ms: int | None) -> None:
        """A transaction was committed that set a timer."""
        if due_ms is not None and (self._next_ms is None or due_ms < self._next_ms):
            self._next_ms = due_ms
            self._sooner.set()

    async def run(self) -> None:
        while True:
            sleep_s = await self.look()
            self._sooner = trio.Event()
            with trio.move_on_after(sleep_s):
                await self._sooner.wait()

    async def look(self) -> float:
        """One look: let go on what is due. How long nothing will be."""
        wall_ms = self._clock.now_ms()
        was_held = self.is_held
        self._trusted, trusted_ms = self._trusted.looked(wall_ms, _mono_ms())
        self._next_ms = self._earliest_ms()
        if self._next_ms is None or self._next_ms > wall_ms:
            self.is_held, self._after = False, b""
            return LOOK_S if self._next_ms is None else min(LOOK_S, max((self._next_ms - wall_ms) / 1000, SOONEST_S))
        try:
            result = await self._committer.execute(Fire(trusted_ms, self._after))
        except Overloaded:
            return BUSY_S
        if not isinstance(result, Fired):
            return LOOK_S  # a store that is full, or a defect, which is in the log: neither is gone in a moment
        self.fired += result.count
        self.late_ms_last = result.late_ms
        self.is_held, self._after = result.held, result.after
        if self.is_held and not was_held:
            extra = {"wall_ms": wall_ms, "believed_ms": trusted_ms}
            _log.warning("the clock has leapt ahead: notifications that are not critical wait", extra=extra)
        return 0.0 if result.has_more else (LOOK_S if result.held and not result.count else SOONEST_S)

    def _earliest_ms(self) -> int | None:
        with self._store.read() as tx:
            first = next(tx.scan(*keys.table_range(keys.TIMER)), None)
        return None if first is None else keys.parse_timer(first[0])[0]


def _mono_ms() -> int:
    return int(trio.current_time() * 1000)
