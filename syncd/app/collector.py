"""The collector: gives the idle time of the committer to the spaces in which something can be dropped.

Owns the sweep over all spaces, and its pace. Must not know what a step does (`engine/frontier`), nor hold the writer:
what is due is looked up in read transactions, and a step is asked for only while no command waits.

Invariants: C1 one step at a time, and none while somebody else's command waits. C2 a look is `LOOK_SPACES` spaces at
most. C3 between two steps at least as long a pause as the step took, so that half of the writer's time is the most.
"""

from collections.abc import Callable
from logging import getLogger
from typing import Any, Final

import trio

from syncd.engine.commands import Collect, Collected, Command, Failed, Result
from syncd.engine.frontier import Retention, is_due
from syncd.store import keys
from syncd.store.api import Store
from syncd.store.committer import STORE_FULL, Committer, Overloaded
from syncd.store.tables import SPACES

LOOK_SPACES: Final = 64  # some 2 ms in which the loop does nothing else
LOOK_S: Final = 0.25  # between two looks: 256 spaces a second, for 1 % of a processor
SWEEP_S: Final = 60.0  # between two sweeps: what is due now may wait a minute

_log = getLogger(__name__)


class Collector:
    def __init__(
        self,
        store: Store,
        committer: Committer[Command, Result, Any],
        now_ms: Callable[[], int],
        retention: Retention,
    ) -> None:
        self._store, self._committer, self._now_ms, self._retention = store, committer, now_ms, retention
        self._cursor = keys.SPACE

    async def run(self) -> None:
        """For ever. A defect in a step is contained by the committer, and told in its log."""
        while True:
            due, is_over = self._look()
            for space in due:
                await self._collect(space)
            await trio.sleep(SWEEP_S if is_over else LOOK_S)

    def _look(self) -> tuple[list[str], bool]:
        """The next spaces in which a step is due, and whether the sweep is over."""
        due = []
        now_ms = self._now_ms()
        with self._store.read() as tx:
            bounds = self._cursor, keys.table_range(keys.SPACE)[1]
            for count, (key, row) in enumerate(SPACES.scan(tx, bounds), 1):
                if is_due(tx, row, now_ms, self._retention):
                    due.append(key[1:].decode())
                if count == LOOK_SPACES:
                    self._cursor = key + b"\0"
                    return due, False
        self._cursor = keys.SPACE
        return due, True

    async def _collect(self, space: str) -> None:
        """Steps in one space until nothing is left to do, or the committer takes none."""
        is_more = True
        while is_more:
            began_s = trio.current_time()
            if self._committer.stats().queue_count:
                await trio.sleep(LOOK_S)  # C1
                continue
            try:
                result = await self._committer.execute(Collect(space))
            except Overloaded:
                return
            if isinstance(result, Failed) and result.reason == STORE_FULL:
                return  # no defect: the next sweep tries again, and who runs out of room is told so elsewhere
            if not isinstance(result, Collected):
                _log.error("a step of collection failed", extra={"space": space, "result": str(result)})
                return
            is_more = result.is_more
            await trio.sleep(max(0.001, trio.current_time() - began_s))  # C3
