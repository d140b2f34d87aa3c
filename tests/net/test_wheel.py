"""The timing wheel wakes each entry once, in time, whatever was asked for before."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd.net.wheel import SLOTS, TICK_S, Wheel


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
