"""A trio run that the seed decides alone: same seed, same order of every step, in any process.

Owns the only two private names of trio that the project touches. Trio shuffles each batch of runnable tasks on purpose;
with these two it shuffles a sorted batch by a generator that we seed. The garbage collector stays off during a run: it
calls finalisers at moments that depend on what was allocated before.
"""

import gc
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

T = TypeVar("T")

assert hasattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"), "this trio cannot be made deterministic"
assert hasattr(trio_run, "_r"), "this trio draws its order from elsewhere"


def run(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """`trio.run` on a virtual clock that jumps to the next deadline whenever every task waits."""
    private: Any = trio_run
    was_allowed, state = private._ALLOW_DETERMINISTIC_SCHEDULING, private._r.getstate()
    was_collecting = gc.isenabled()
    gc.disable()
    private._ALLOW_DETERMINISTIC_SCHEDULING = True
    private._r.seed(seed)
    try:
        return trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        private._ALLOW_DETERMINISTIC_SCHEDULING = was_allowed
        private._r.setstate(state)
        if was_collecting:
            gc.enable()
        gc.collect()
