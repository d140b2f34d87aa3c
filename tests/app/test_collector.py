"""The collector finds what is due in any space, in idle time only."""

import pytest
import trio
from trio.testing import MockClock

from syncd.app.collector import LOOK_SPACES, SWEEP_S, Collector
from syncd.engine.commands import Collect, Post
from syncd.engine.frontier import Retention
from syncd.store import fsck, keys
from tests.engine.kit import api_key
from tests.net.harness import Clock, World, world

SOON = Retention(lapse_ms=1_000, recent_ms=100, history_ms=100)


def tombstones(w: World) -> int:
    with w.store.read() as tx:
        return sum(1 for _ in tx.scan(*keys.table_range(keys.TOMBSTONE)))


async def test_every_space_is_swept_and_left_alone_when_nothing_is_due(autojump_clock: MockClock) -> None:
    async with world(retention=SOON) as w:
        for number in range(LOOK_SPACES + 20):
            for verb in ("create", "delete"):
                await w.committer.execute(Post(api_key(), f"s/{number}", [[verb, "c", "a"]], None, None, None))
        await trio.sleep(1)
        assert tombstones(w) == LOOK_SPACES + 20
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON).run)
        await trio.sleep(5)
        assert tombstones(w) == 0
        steps = sum(isinstance(command, Collect) for command in w.commands)
        await trio.sleep(5 * SWEEP_S)
        assert sum(isinstance(command, Collect) for command in w.commands) == steps, "nothing is due"
        with w.store.read() as tx:
            assert not list(fsck.check(tx))


async def test_many_tombstones_go_in_small_steps(autojump_clock: MockClock) -> None:
    async with world(retention=SOON) as w:
        for number in range(400):
            operations = [["create", "c", f"{number}"], ["delete", "c", f"{number}"]]
            await w.committer.execute(Post(api_key(), "s/1", operations, None, None, None))
        await trio.sleep(1)
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON).run)
        await trio.sleep(5)
        assert tombstones(w) == 0
        assert sum(isinstance(command, Collect) for command in w.commands) >= 4


async def test_a_full_store_is_no_defect_and_is_swept_when_there_is_room_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(retention=SOON) as w:
        for number in range(5):
            operations = [["create", "c", f"{number}"], ["delete", "c", f"{number}"]]
            await w.committer.execute(Post(api_key(), "s/1", operations, None, None, None))
        room_bytes = w.store._limit_bytes
        w.store._limit_bytes = w.store._limit_bytes_max = w.store.usage().used_bytes // 2
        await trio.sleep(1)
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON).run)
        await trio.sleep(5)
        refused = sum(isinstance(command, Collect) for command in w.commands)
        assert refused and not caplog.records, (refused, caplog.records)
        w.store._limit_bytes = w.store._limit_bytes_max = room_bytes
        await trio.sleep(2 * SWEEP_S)
        assert tombstones(w) == 0
