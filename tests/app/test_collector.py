"""The collector finds what is due in any space, in idle time only."""

import pytest
import trio
from trio.testing import MockClock

from syncd.app.collector import LOOK_SPACES, PATIENCE_S, SWEEP_S, Collector
from syncd.core.schemas import Schema
from syncd.engine.commands import Collect, DeleteOld, Post, Result, UseConsumer
from syncd.engine.frontier import Retention
from syncd.engine.grants import parsed_grant
from syncd.engine.schemas import Schemas
from syncd.env.memory import InlineOffload
from syncd.store import fsck, keys
from syncd.store.tables import SPACES
from tests.engine.kit import api_key
from tests.net.harness import Clock, World, world

SOON = Retention(lapse_ms=1_000, recent_ms=100, history_ms=100)


def rows(w: World, prefix: bytes) -> int:
    with w.store.read() as tx:
        return sum(1 for _ in tx.scan(*keys.table_range(prefix)))


def tombstones(w: World) -> int:
    return rows(w, keys.TOMBSTONE)


def documents(w: World) -> int:
    with w.store.read() as tx:
        return sum(row.document_count for _, row in SPACES.scan(tx, keys.table_range(keys.SPACE)))


async def test_every_space_is_swept_and_left_alone_when_nothing_is_due(autojump_clock: MockClock) -> None:
    async with world(retention=SOON) as w:
        for number in range(LOOK_SPACES + 20):
            for verb in ("create", "delete"):
                await w.committer.execute(Post(api_key(), f"s/{number}", [[verb, "c", "a"]], None, None, None))
        await trio.sleep(1)
        assert tombstones(w) == LOOK_SPACES + 20
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON, Schemas).run)
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
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON, Schemas).run)
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
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON, Schemas).run)
        await trio.sleep(5)
        refused = sum(isinstance(command, Collect) for command in w.commands)
        assert refused and not caplog.records, (refused, caplog.records)
        w.store._limit_bytes = w.store._limit_bytes_max = room_bytes
        await trio.sleep(2 * SWEEP_S)
        assert tombstones(w) == 0


async def test_what_nobody_changes_goes_from_every_space_of_a_schema_that_keeps(autojump_clock: MockClock) -> None:
    keep_s, spaces = 64 * SWEEP_S, 3
    schema = Schema("chat", "chat", keep_ms=round(keep_s * 1000))
    async with world(retention=SOON) as w:
        w.engine.schemas = Schemas([(parsed_grant("s/*", "reader"), schema)])
        for number in range(spaces):
            operations = [["create", "chat", "old"], ["create", "notes", "stays"]]
            await w.committer.execute(Post(api_key(), f"s/{number}", operations, None, None, None))
        await w.committer.execute(Post(api_key(), "other", [["create", "chat", "stays"]], None, None, None))
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON, lambda: w.engine.schemas).run)
        await trio.sleep(keep_s - SWEEP_S)
        assert documents(w) == 2 * spaces + 1
        await trio.sleep(6 * SWEEP_S)
        assert documents(w) == spaces + 1
        steps = sum(isinstance(command, DeleteOld) for command in w.commands)
        assert steps <= 36 * spaces, "a step for each mark and no more"
        await trio.sleep(2 * keep_s)
        assert documents(w) == spaces + 1
        with w.store.read() as tx:
            assert not list(fsck.check(tx))


async def test_a_schema_that_goes_takes_its_marks_along(autojump_clock: MockClock) -> None:
    schema = Schema("chat", "chat", keep_ms=round(64_000 * SWEEP_S))
    async with world(retention=SOON) as w:
        w.engine.schemas = Schemas([(parsed_grant("s/*", "reader"), schema)])
        await w.committer.execute(Post(api_key(), "s/1", [["create", "chat", "a"]], None, None, None))
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON, lambda: w.engine.schemas).run)
        await trio.sleep(SWEEP_S)
        assert rows(w, keys.KEEPING) == 1
        w.engine.schemas = Schemas()
        await trio.sleep(2 * SWEEP_S)
        assert rows(w, keys.KEEPING) == 0


async def test_a_committer_that_is_never_idle_does_not_keep_everything_for_ever(autojump_clock: MockClock) -> None:
    """It waited for a moment in which nobody else waits: under a load that leaves none, the disk would fill."""
    async with world(retention=SOON, offload=InlineOffload(0.05)) as w:
        for number in range(3):
            operations = [["create", "c", f"{number}"], ["delete", "c", f"{number}"]]
            await w.committer.execute(Post(api_key(), f"s/{number}", operations, None, None, None))
        await trio.sleep(1)

        def again(result: Result | None) -> None:
            w.committer.submit(UseConsumer("key:backend", "s/0", "none"), again)

        for _ in range(3 * w.committer.limits.batch_count_max):
            again(None)
        w.nursery.start_soon(Collector(w.store, w.committer, Clock().now_ms, SOON, Schemas).run)
        await trio.sleep(10 * PATIENCE_S)
        assert w.committer.stats().queue_count > w.committer.limits.batch_count_max, "it is busy"
        assert tombstones(w) == 0
