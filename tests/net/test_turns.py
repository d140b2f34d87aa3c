"""Turns of pumps: what many read at once is spread over turns of the loop, everyone goes on, and who fails or is
cancelled takes nobody along."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd.engine import reading
from syncd.net.turns import WOKEN, Turns
from syncd.wire.messages import Delta
from tests.net.harness import SPACE, world

MOST = 100


class Loop(trio.abc.Instrument):
    """Calls something after each turn of the loop."""

    def __init__(self, passed: Callable[[], None]) -> None:
        self._passed = passed

    def after_io_wait(self, timeout: float) -> None:
        self._passed()


@given(st.lists(st.lists(st.sampled_from([0, 0, 1, 30, 99, 100, 250]), max_size=4), max_size=WOKEN + 20), st.data())
def test_no_turn_begins_a_step_beyond_the_bound_and_everyone_goes_on(
    reads: list[list[int]], data: st.DataObject
) -> None:
    failing = data.draw(st.sets(st.integers(0, max(0, len(reads) - 1)), max_size=5))
    cancelled = data.draw(st.sets(st.integers(0, max(0, len(reads) - 1)), max_size=5))
    turns = Turns(MOST)
    now: list[int] = []  # what was read in this turn
    done: list[int] = []

    async def pump(number: int, scope: trio.CancelScope) -> None:
        with scope:
            for read in reads[number]:

                def step(read: int = read) -> int:
                    assert sum(now) < MOST
                    if number in failing:
                        raise RuntimeError("this pump is broken")
                    now.append(read)
                    done.append(read)
                    return read

                try:
                    await turns.take(step)
                except RuntimeError:
                    return

    async def main() -> None:
        with trio.fail_after(5):  # of real time: all that waits, waits for somebody in this loop
            trio.lowlevel.add_instrument(Loop(now.clear))
            async with trio.open_nursery() as nursery:
                for number in range(len(reads)):
                    scope = trio.CancelScope()
                    nursery.start_soon(pump, number, scope)
                    if number in cancelled:
                        scope.cancel()

    trio.run(main)
    spared = [number for number in range(len(reads)) if number not in failing | cancelled]
    assert len(done) >= sum(len(reads[number]) for number in spared)


async def test_devices_that_come_to_different_places_at_once_do_not_read_all_their_pages_in_one_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 pages of 50 ms each are 3 seconds in which nobody else is served."""
    read, most = 0, 0

    def page(*arguments: Any) -> Delta:
        nonlocal read, most
        read += 1
        most = max(most, read)
        return page_of(*arguments)

    def passed() -> None:
        nonlocal read
        read = 0

    page_of = reading.page
    monkeypatch.setattr(reading, "page", page)
    async with world() as w:
        writer = await w.client(1)
        for number in range(24):
            created = ["create", "c", str(number)]
            await writer.push(writer.change(created, ["reg.set", "c", str(number), "body", "x" * 60_000]))
            epoch = (await writer.expect("outcomes"))["epoch"]
        readers = [await w.client(number) for number in range(2, 22)]
        for reader in readers:  # known to the space from here on: what comes then needs no commit, and so comes at once
            await reader.subscribe(epoch=epoch, complete=24, resume=24)
            await reader.send("ack", space=SPACE, epoch=epoch, applied=0, oldest_base=0, settled=0)
            await reader.send("unsubscribe", space=SPACE)
        await trio.sleep(5)
        trio.lowlevel.add_instrument(Loop(passed))
        async with trio.open_nursery() as nursery:
            for number, reader in enumerate(readers):
                place = {"space": SPACE, "epoch": epoch, "complete": number + 1, "resume": number + 1, "settled": 0}
                nursery.start_soon(partial(reader.send, "subscribe", **place))
        for number, reader in enumerate(readers):
            await reader.expect("subscribed")
            seen = number + 1
            while seen < 24:
                seen = (await reader.expect("delta"))["to"]
    assert 0 < most <= 2, "each of twenty has its own first page, of 256 KiB"
