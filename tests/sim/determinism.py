"""A trio run that the seed decides alone: same seed, same order of every step, in any process.

Owns the only two private names of trio that the project touches. Trio shuffles each batch of runnable tasks on purpose;
with these two it shuffles a sorted batch by a generator that we seed. The garbage collector stays off during a run
(`uncollected`): it calls finalisers at moments that depend on what was allocated before.

`Time` is the clock of a run, through trio's public interface. It stands still while any task can run, and then leaps to
whatever comes next: a deadline of trio, or an entry of its own agenda. The agenda is for what happens at a time without
a task that waits for it, as the arrival of a packet: a scope with a deadline costs ten times as much.
"""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from math import inf
from typing import Any, TypeVar

import trio
import trio._core._run as trio_run

T = TypeVar("T")

assert hasattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"), "this trio cannot be made deterministic"
assert hasattr(trio_run, "_r"), "this trio draws its order from elsewhere"


class Time(trio.abc.Clock):
    """Virtual seconds since the run began. In order of `now_s`, then in the order in which they were entered."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        """Have this called, outside of any task, as soon as it is that late. It cannot be taken back: a call that comes
        when nobody needs it any more must do nothing."""
        self._count += 1
        heappush(self._agenda, (when_s, self._count, call))

    async def sleep(self, seconds: float) -> None:
        """`trio.sleep` without a scope, and always a checkpoint."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

        def wake() -> None:
            if task is not None:
                trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal task
            task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.at(self.now_s + seconds, wake)
        await trio.lowlevel.wait_task_rescheduled(abort)
        task = None

    # -- what trio asks ------------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked when no task can run. What it does to time is seen before the next batch."""
        agenda = self._agenda
        if agenda and agenda[0][0] <= deadline:
            self.now_s = max(self.now_s, agenda[0][0])
            while agenda and agenda[0][0] <= self.now_s:
                heappop(agenda)[2]()
        else:
            assert deadline < inf, "everyone waits for ever"
            self.now_s = max(self.now_s, deadline)
        return 0.0


def time() -> Time:
    """Of the run that this task belongs to."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, Time)
    return clock


async def sleep(seconds: float) -> None:
    await time().sleep(seconds)


@contextmanager
def uncollected() -> Iterator[None]:
    """The garbage collector is off, and at the end everything is collected that was made in the block. So the block
    has to hold a run from its making on: what outlives the block, or is older, is not looked through again, and a world
    is one large cycle."""
    was_collecting = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        if was_collecting:
            gc.enable()


def run(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """`trio.run` on a virtual clock."""
    private: Any = trio_run
    was_allowed, state = private._ALLOW_DETERMINISTIC_SCHEDULING, private._r.getstate()
    private._ALLOW_DETERMINISTIC_SCHEDULING = True
    private._r.seed(seed)
    try:
        return trio.run(main, clock=Time())
    finally:
        private._ALLOW_DETERMINISTIC_SCHEDULING = was_allowed
        private._r.setstate(state)
