"""The collector: gives the idle time of the committer to the spaces in which something can be dropped, or is too old.

Owns the sweep over all spaces, and its pace. Must not know what a step does (`engine/frontier`, `engine/keeping`), nor
hold the writer: what is due is looked up in read transactions, and a step is asked for only while no command waits.

Invariants: C1 one step at a time, and for `PATIENCE_S` none while somebody else's command waits. C2 a look is
`LOOK_SPACES` spaces at most. C3 between two steps at least as long a pause as the step took, so that half of the
writer's time is the most.
"""

from collections.abc import Callable
from logging import getLogger
from typing import Any, Final

import trio

from syncd.engine import frontier, keeping
from syncd.engine.commands import Collect, Collected, Command, DeletedOld, DeleteOld, Failed, Result
from syncd.engine.frontier import Retention
from syncd.engine.schemas import Schemas
from syncd.store import keys
from syncd.store.api import Store
from syncd.store.committer import STORE_FULL, Committer, Overloaded
from syncd.store.tables import SPACES

LOOK_SPACES: Final = 64  # some 2 ms in which the loop does nothing else
LOOK_S: Final = 0.25  # between two looks: 256 spaces a second, for 1 % of a processor
SWEEP_S: Final = 60.0  # between two sweeps: what is due now may wait a minute
# A step waits so long for a moment in which nobody else does. Under a load that leaves none, some milliseconds each
# time are little to those who wait, and keep the disk from filling with what nobody needs.
PATIENCE_S: Final = 1.0

_log = getLogger(__name__)


class Collector:
    """`schemas` are those in force at the moment; `sweep_s` passes between two sweeps."""

    def __init__(
        self,
        store: Store,
        committer: Committer[Command, Result, Any],
        now_ms: Callable[[], int],
        retention: Retention,
        schemas: Callable[[], Schemas],
        sweep_s: float = SWEEP_S,
    ) -> None:
        self._store, self._committer, self._now_ms, self._retention = store, committer, now_ms, retention
        self._schemas, self._sweep_s = schemas, sweep_s
        self._cursor = keys.SPACE

    async def run(self) -> None:
        """For ever. A defect in a step is contained by the committer, and told in its log."""
        while True:
            due, is_over = self._look()
            for step in due:
                await self._take(step)
            await trio.sleep(self._sweep_s if is_over else LOOK_S)

    def _look(self) -> tuple[list[Collect | DeleteOld], bool]:
        """The steps that are due in the next spaces, and whether the sweep is over."""
        due: list[Collect | DeleteOld] = []
        now_ms, schemas = self._now_ms(), self._schemas()
        with self._store.read() as tx:
            bounds = self._cursor, keys.table_range(keys.SPACE)[1]
            for count, (key, row) in enumerate(SPACES.scan(tx, bounds), 1):
                space = key[1:].decode()
                if frontier.is_due(tx, row, now_ms, self._retention):
                    due.append(Collect(space))
                if keeping.is_due(tx, row, schemas.keeping(space), now_ms):
                    due.append(DeleteOld(space))
                if count == LOOK_SPACES:
                    self._cursor = key + b"\0"
                    return due, False
        self._cursor = keys.SPACE
        return due, True

    async def _take(self, step: Collect | DeleteOld) -> None:
        """Such steps in one space until nothing is left to do, or the committer takes none."""
        is_more = True
        while is_more:
            for _ in range(int(PATIENCE_S / LOOK_S)):  # C1
                if self._committer.stats().queue_count:
                    await trio.sleep(LOOK_S)
            began_s = trio.current_time()
            try:
                result = await self._committer.execute(step)
            except Overloaded:
                return
            if isinstance(result, Failed) and result.reason == STORE_FULL:
                return  # no defect: the next sweep tries again, and who runs out of room is told so elsewhere
            if not isinstance(result, Collected | DeletedOld):
                _log.error("a step of collection failed", extra={"step": str(step), "result": str(result)})
                return
            # One that could do nothing came behind others of its space: the next sweep tries again, other spaces wait.
            is_idle = isinstance(result, Collected) and not result.lapsed_count + result.dropped_count
            is_more = result.is_more and not is_idle
            await trio.sleep(max(0.001, trio.current_time() - began_s))  # C3
