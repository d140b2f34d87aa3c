"""What a target is, and how inputs are tried on it.

A target's `check` takes any bytes and returns, or raises: `AssertionError` when an invariant is broken, anything else
when the product let through an exception that it does not document. Time and memory are bounded here, for all.
"""

import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.fuzz.mutate import mutated

INPUT_S_MAX: Final = 2.0  # of processor time, on a machine under load, for at most 16 KiB of input
# Nested headers of MessagePack may claim 32 KiB on each of 1,000 levels; all else is proportional to the input.
MEMORY_BYTES_MAX: Final = 48 << 20
MEMORY_PER_BYTE_MAX: Final = 1_000
MEASURED_EACH: Final = 32  # memory is measured for one input of so many: it makes a run several times slower


@dataclass(frozen=True, slots=True)
class Target:
    """`invariant`: one line. `short_count`: inputs of the short form."""

    name: str
    invariant: str
    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], None]
    short_count: int


class Found(Exception):
    """An input that breaks a target. The text says how to try it again."""

    def __init__(self, target: Target, data: bytes, cause: BaseException | str) -> None:
        what = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(
            f"{target.name}: {what[:2000]}\nreplay: python -m tests.fuzz {target.name} --input {data.hex()}"
        )
        self.data = data


def tried(target: Target, data: bytes, *, measures_memory: bool = False) -> None:
    """One input. Raises `Found`."""
    if measures_memory:
        tracemalloc.start()
    began_s = time.thread_time()
    try:
        target.check(data)
    except Exception as error:
        raise Found(target, data, error) from error
    finally:
        spent_s = time.thread_time() - began_s
        peak = tracemalloc.get_traced_memory()[1] if measures_memory else 0
        if measures_memory:
            tracemalloc.stop()
    if spent_s > INPUT_S_MAX and not measures_memory:
        raise Found(target, data, f"{len(data)} bytes took {spent_s:.1f} s")
    if peak > MEMORY_BYTES_MAX + MEMORY_PER_BYTE_MAX * len(data):
        raise Found(target, data, f"{len(data)} bytes took {peak >> 20} MiB")


def replayed(target: Target) -> int:
    """Every seed as it is. Returns how many."""
    seeds = target.seeds()
    assert seeds, f"{target.name} has no seeds"
    for number, data in enumerate(seeds):
        tried(target, data, measures_memory=number % 8 == 0)
    return len(seeds)


def mutations(target: Target, seed: int, is_over: Callable[[int], bool]) -> int:
    """Mutations of the seeds, until `is_over` of their count. Returns the count. Mutations are not mutated further:
    without coverage to choose by, the pool would drift away from anything that is read at all."""
    draw = random.Random(f"{target.name} {seed}")
    pool = target.seeds()
    count = 0
    while not is_over(count):
        data = mutated(draw.choice(pool), draw, pool)
        tried(target, data, measures_memory=count % MEASURED_EACH == 0)
        count += 1
    return count
