"""Wall clocks that go wrong, and entropy that a seed decides."""

from random import Random

import trio

BASE_MS = 1_795_000_000_000


def true_ms() -> int:
    """What a perfect wall clock shows."""
    return BASE_MS + round(trio.current_time() * 1000)


class SimClock:
    """An `env.ports.Clock`: off by `offset_ms`, fast or slow by `drift`, and set to another time by `step`."""

    def __init__(self, offset_ms: int = 0, drift: float = 0.0) -> None:
        self.offset_ms, self.drift = offset_ms, drift

    def now_ms(self) -> int:
        return true_ms() + self.offset_ms + round(trio.current_time() * 1000 * self.drift)

    def step(self, by_ms: int) -> None:
        self.offset_ms += by_ms

    def correct(self) -> None:
        self.offset_ms, self.drift = 0, 0.0


class SimEntropy:
    """An `env.ports.Entropy`."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)
