"""Rates: how often someone may do something, for many someones, in bounded memory.

Owns the arithmetic of one table of token buckets. Must not know what is counted, nor by whom (`gate` does), nor any
clock: the caller brings `now_s` of trio's, which no one can set, so that a wall clock that jumps neither bans nor frees
anyone.

A bucket is one number, the time at which it will be full again (the "generic cell rate algorithm" of ATM, ITU-T I.371):
a full bucket is the absence of a number, so who has been quiet costs nothing to forget.

Invariants: R1 a table has at most `entries_max` buckets; beyond that the one used longest ago is forgotten, which can
only be to its owner's good. R2 what is refused takes nothing out of the bucket: insisting does not make it longer.
"""

from collections import OrderedDict
from dataclasses import dataclass

ROUNDING_S = 1e-6  # of sums of many small costs: who takes just what is announced, in however many steps, has it all


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket holds `burst` and fills by `per_s`; `per_s` 0: there is no limit."""

    per_s: float
    burst: float

    def scaled(self, per_s: float) -> "Rate":
        """Another rate whose bucket fills in the same time."""
        return Rate(per_s, self.burst * per_s / self.per_s)


class RateTable:
    """One bucket for each key."""

    __slots__ = ("_full_at_s", "_rate", "entries_max")

    def __init__(self, rate: Rate, entries_max: int) -> None:
        self._rate = rate
        self.entries_max = entries_max
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at_s)

    def refused_s(self, key: str, now_s: float, cost: float = 1.0) -> float:
        """Take `cost` out of the bucket: 0; or, if it does not hold so much, in how many seconds it will."""
        per_s = self._rate.per_s
        if not per_s:
            return 0.0
        full_at_s = max(now_s, self._full_at_s.get(key, 0.0))
        wait_s = self._wait_s(full_at_s - now_s, cost)
        if wait_s:
            return wait_s
        self._keep(key, full_at_s + cost / per_s)
        return 0.0

    def pause_s(self, key: str, now_s: float, cost: float) -> float:
        """Take `cost` in any case; for how many seconds the taker has to pause until the bucket is no longer in debt.
        The debt is bounded by what takers do before they look: one step each."""
        per_s = self._rate.per_s
        if not per_s:
            return 0.0
        full_at_s = max(now_s, self._full_at_s.get(key, 0.0)) + cost / per_s
        self._keep(key, full_at_s)
        return max(0.0, full_at_s - now_s - self._rate.burst / per_s)

    def empty_s(self, key: str, now_s: float, cost: float = 1.0) -> float:
        """Take nothing; in how many seconds the bucket will hold `cost`, 0: it does."""
        full_at_s = self._full_at_s.get(key)
        return 0.0 if full_at_s is None or not self._rate.per_s else self._wait_s(full_at_s - now_s, cost)

    def _wait_s(self, full_in_s: float, cost: float) -> float:
        wait_s = full_in_s - (self._rate.burst - cost) / self._rate.per_s
        return wait_s if wait_s > ROUNDING_S else 0.0

    def _keep(self, key: str, full_at_s: float) -> None:
        self._full_at_s[key] = full_at_s
        self._full_at_s.move_to_end(key)
        if len(self._full_at_s) > self.entries_max:
            self._full_at_s.popitem(last=False)
