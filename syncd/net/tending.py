"""The tender of leases: a look at the clocks from time to time.

Owns when `TendLeases` is asked, and of which monotonic clock it tells. What a look does is `engine/reclaiming`'s. A
look with nothing to wait for writes nothing, so an idle daemon stays idle.
"""

from typing import Any

import trio

from syncd.engine.commands import Command, Result, Tended, TendLeases
from syncd.env.ports import Entropy
from syncd.net.counters import Counters
from syncd.store.committer import Committer, Overloaded

TEND_S = 10.0  # how late a lease may end beyond its grace: a sixth of it
RUN_BYTES = 16


class LeaseTender:
    """Looks until it is cancelled. Each has a run of its own: a monotonic clock does not outlive its process."""

    def __init__(self, committer: Committer[Command, Result, Any], entropy: Entropy, counters: Counters) -> None:
        self._committer, self._counters = committer, counters
        self._run_id = entropy.token(RUN_BYTES)

    async def run(self) -> None:
        while True:
            has_more = await self.look()
            if not has_more:
                await trio.sleep(TEND_S)

    async def look(self) -> bool:
        """One look; whether there is more to do at once. A store that is full, or a queue, is no reason to hurry."""
        try:
            result = await self._committer.execute(TendLeases(self._run_id, int(trio.current_time() * 1000)))
        except Overloaded:
            return False
        if not isinstance(result, Tended):
            return False
        self._counters.leases_ended += result.ended
        self._counters.lease_clock_lag_ms = result.lag_ms or 0
        return result.has_more
