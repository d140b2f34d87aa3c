"""The timing wheel wakes each entry once, in time, whatever was asked for before."""

from collections.abc import Callable

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd.net.wheel import SLOTS, TICK_S, WAKES, Wheel


class Sleeper:
    """Wants to be woken at each of its times, and notes when it was."""

    def __init__(self, times: list[float]) -> None:
        self.due: int | None = None
        self.times = sorted(times)
        self.woken: list[float] = []

    def wake(self, now_s: float) -> float | None:
        while self.times and self.times[0] <= now_s:
            del self.times[0]
            self.woken.append(now_s)
        return self.times[0] if self.times else None


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(0.1, 3 * SLOTS * TICK_S), min_size=1, max_size=5), min_size=1, max_size=5))
def test_each_time_is_met_at_most_one_tick_late(plans: list[list[float]]) -> None:
    async def main() -> None:
        wheel = Wheel()
        sleepers = [Sleeper(plan) for plan in plans]
        wanted = [sorted(plan) for plan in plans]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wheel.run)
            for sleeper in sleepers:
                for at_s in reversed(sleeper.times):
                    wheel.schedule(sleeper, at_s)
            await trio.sleep(4 * SLOTS * TICK_S)
            nursery.cancel_scope.cancel()
        for sleeper, times in zip(sleepers, wanted, strict=True):
            assert len(sleeper.woken) == len(times)
            for at_s, woken_s in zip(times, sleeper.woken, strict=True):
                assert at_s <= woken_s <= at_s + 2 * TICK_S

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_an_earlier_time_wakes_a_sleeping_wheel(autojump_clock: MockClock) -> None:
    wheel, sleeper = Wheel(), Sleeper([5.0, 100.0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wheel.run)
        wheel.schedule(sleeper, 100.0)
        await trio.sleep(1)
        wheel.schedule(sleeper, 5.0)
        await trio.sleep(9)
        assert sleeper.woken == [5.0]
        await trio.sleep(100)
        assert sleeper.woken == [5.0, 100.0]
        nursery.cancel_scope.cancel()


class Caller:
    """Notes in which turn of the others it was woken, and lets time pass."""

    def __init__(self, pass_time: Callable[[], None]) -> None:
        self.due: int | None = None
        self.woken_s = -1.0
        self._pass_time = pass_time

    def wake(self, now_s: float) -> float | None:
        self._pass_time()
        self.woken_s = trio.current_time()
        return None


async def test_entries_of_one_tick_leave_turns_for_others(autojump_clock: MockClock) -> None:
    wheel, turns, woken = Wheel(), 0, []

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wheel.run)
        for _ in range(8 * WAKES):
            wheel.schedule(Caller(lambda: woken.append(turns)), 1.0)
        await trio.sleep(0.9)
        nursery.start_soon(others)
        while len(woken) < 8 * WAKES:
            autojump_clock.jump(0.1)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert max(woken.count(turn) for turn in set(woken)) <= 2 * WAKES, "trio shuffles the order of those that are ready"


async def test_what_is_asked_for_while_the_wheel_is_late_is_not_forgotten(autojump_clock: MockClock) -> None:
    """The wheel serves an old tick, and holds nothing else, when the entry takes seconds and asks for a far time."""
    wheel = Wheel()
    last = Caller(lambda: None)

    def stall() -> None:
        autojump_clock.jump(3.0)
        wheel.schedule(last, trio.current_time() + 2 * SLOTS * TICK_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wheel.run)
        wheel.schedule(Caller(stall), 1.0)
        autojump_clock.jump(3.0)
        await trio.sleep(2 * SLOTS * TICK_S + 10)
        nursery.cancel_scope.cancel()
    assert last.woken_s > 0
