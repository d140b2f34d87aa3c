"""Does it grow? The slope of a series, with the error that it has, and what may be concluded from it.

Owns the arithmetic of the soak's verdict. Samples that follow each other are alike, so an error computed from each of
them would be far too small; the method of batch means is used instead: the window is cut into `BLOCKS` parts of equal
time, and a line is fitted through their means (Law and Kelton, Simulation Modeling and Analysis, 9.5.3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS = 12
T_95 = 2.228  # Student's t for 95 % on both sides, with BLOCKS - 2 degrees of freedom
SKIPPED_SHARE = 1 / 3  # of the run: caches fill, arenas are taken
GROWTH_MAX = 0.01  # per hour

# An allocator takes memory from the system in pieces (Python's: 1 MiB) and reuses what is free in there. So growth of
# less than the first may hide in what was held already: no run is sure of less. And growth of less than the second may
# be a piece or two that were taken once.
HIDDEN_BYTES = 128 * 1024
PIECES_BYTES = 2 * 1024 * 1024

STEADY, GROWS, TOO_SHORT = "steady", "grows", "too short to judge"


@dataclass(frozen=True, slots=True)
class Trend:
    """`per_hour`: growth, as a share of the mean; `error`: half the 95 % confidence interval around it. `mean`: bytes;
    `window_s`: how long the samples that were judged lasted."""

    per_hour: float
    error: float
    mean: float
    window_s: float

    @property
    def verdict(self) -> str:
        if self.per_hour + self.error <= GROWTH_MAX:
            return STEADY
        grown_bytes = self.per_hour * self.mean * self.window_s / 3600
        if self.per_hour - self.error > GROWTH_MAX and grown_bytes > PIECES_BYTES:
            return GROWS
        return TOO_SHORT

    def __str__(self) -> str:
        return f"{self.per_hour:+.2%}/h, 95 % within {self.error:.2%}"


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend | None:
    """The growth of a series of bytes after its first third; None if there are too few samples to tell."""
    first_s = seconds[0] + SKIPPED_SHARE * (seconds[-1] - seconds[0]) if seconds else 0.0
    kept = [(at, value) for at, value in zip(seconds, values, strict=True) if at >= first_s]
    blocks = _blocks(kept)
    if blocks is None:
        return None
    window_s = kept[-1][0] - kept[0][0]
    times, means = [at for at, _ in blocks], [value for _, value in blocks]
    slope, error = _line(times, means)
    mean = sum(means) / len(means)
    hidden = HIDDEN_BYTES / window_s
    return Trend(slope * 3600 / mean, max(T_95 * error, hidden) * 3600 / mean, mean, window_s)


def _blocks(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]] | None:
    """(mean time, mean value) of each block; None if one of them is empty."""
    if len(samples) < BLOCKS:
        return None
    first_s, last_s = samples[0][0], samples[-1][0]
    if last_s <= first_s:
        return None
    parts: list[list[tuple[float, float]]] = [[] for _ in range(BLOCKS)]
    for at, value in samples:
        parts[min(BLOCKS - 1, int((at - first_s) / (last_s - first_s) * BLOCKS))].append((at, value))
    if not all(parts):
        return None
    return [(sum(at for at, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def _line(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope by least squares, and its standard error."""
    count = len(times)
    middle, mean = sum(times) / count, sum(values) / count
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True)) / spread
    rest = sum((value - mean - slope * (at - middle)) ** 2 for at, value in zip(times, values, strict=True))
    return slope, math.sqrt(rest / (count - 2) / spread)
