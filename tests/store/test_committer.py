"""The committer: one result per command, after its commit, in order, whatever fails meanwhile."""

import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd.env.memory import InlineOffload
from syncd.env.ports import Offload
from syncd.env.real import NoFaults, ThreadOffload
from syncd.store.api import Store, StoreDamaged, Writer
from syncd.store.committer import Committer, CommitterLimits, Overloaded
from syncd.store.lmdb import open_store
from syncd.store.memory import MemoryStore

# A command is (name, size): size > 0 adds that many bytes, 0 is an ack. A negative size makes the decision raise.
Command = tuple[int, int]
Result = tuple[str, int]  # ("done", name) or (reason, 0)


@dataclass
class Decided:
    results: list[Result]
    names: list[int]


def key_of(name: int) -> bytes:
    return b"k%06d" % name


def decide(tx: Writer, now_ms: int, commands: Sequence[Command]) -> Decided:
    for name, size in commands:
        if size > 0:
            tx.put(key_of(name), bytes(size))
        elif size == 0:
            tx.put(b"acked", key_of(name))
        else:
            tx.put(key_of(name), b"trace")
            raise ZeroDivisionError
    return Decided([("done", name) for name, _ in commands], [name for name, _ in commands])


class LoopClock:
    def now_ms(self) -> int:
        return int(trio.current_time() * 1000)


@dataclass
class Bench:
    """A committer, and a record of all it did."""

    store: Store
    offload: Offload = field(default_factory=lambda: InlineOffload(0.01))
    limits: CommitterLimits = field(default_factory=CommitterLimits)
    faults: Any = field(default_factory=NoFaults)
    publish_s: float = 0.0
    submitted: list[int] = field(default_factory=list)
    told: list[tuple[int, Result]] = field(default_factory=list)
    published: list[list[int]] = field(default_factory=list)
    damage: Exception | None = None
    decision: Callable[[Writer, int, Sequence[Command]], Decided] = decide

    def __post_init__(self) -> None:
        self.committer: Committer[Command, Result, Decided] = Committer(
            self.store, self.decide, lambda decided: decided.results, self.publish,
            lambda reason, detail: (reason, 0), LoopClock(), self.offload, self.faults,
            adds_data=lambda command: command[1] > 0, size_bytes=lambda command: abs(command[1]), limits=self.limits,
        )  # fmt: skip

    def decide(self, tx: Writer, now_ms: int, commands: Sequence[Command]) -> Decided:
        if self.damage is not None:
            raise self.damage
        return self.decision(tx, now_ms, commands)

    async def publish(self, decided: Decided) -> None:
        told = [name for name, _ in self.told]
        assert all(name in told for name in decided.names if name in self.submitted), "published before the dones"
        await trio.sleep(self.publish_s)
        self.published.append(decided.names)

    def submit(self, name: int, size: int = 1) -> None:
        self.committer.submit((name, size), partial(self.on_done, name))
        self.submitted.append(name)

    def on_done(self, name: int, result: Result) -> None:
        if result[0] == "done":
            assert result == ("done", name)
        with self.store.read() as tx:
            is_there = tx.get(key_of(name)) is not None
            acked = tx.get(b"acked") or b""
        assert is_there or acked >= key_of(name) or result[0] != "done", "told before the commit"
        assert not is_there or result[0] == "done", "a refused command left a trace"
        self.told.append((name, result))

    async def drained(self, *steps: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.run)
            for step in steps:
                await step()
            self.committer.close()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        await self.committer.run(task_status=task_status)


def memory_bench(**options: Any) -> Bench:
    return Bench(MemoryStore(1 << 20), **options)


async def test_what_arrives_during_a_commit_shares_the_next_one(autojump_clock: MockClock) -> None:
    bench = memory_bench()

    async def work() -> None:
        bench.submit(0)
        await trio.sleep(0.005)
        for name in range(1, 11):
            bench.submit(name)

    await bench.drained(work)
    assert bench.published == [[0], list(range(1, 11))]
    assert [name for name, _ in bench.told] == list(range(11))
    stats = bench.committer.stats()
    assert (stats.batches, stats.commands, stats.failed, stats.commit_ms_last) == (2, 11, 0, 10)
    assert (stats.queue_count, stats.queue_bytes, stats.writing_since_ms) == (0, 0, None)


async def test_a_batch_keeps_to_its_count_and_bytes(autojump_clock: MockClock) -> None:
    bench = memory_bench(limits=CommitterLimits(batch_count_max=3, batch_bytes_max=100))

    async def work() -> None:
        for name, size in enumerate([1, 1, 1, 1, 60, 60, 500, 1]):
            bench.submit(name, size)

    await bench.drained(work)
    assert bench.published == [[0, 1, 2], [3, 4], [5], [6], [7]]


async def test_one_batch_at_most_waits_to_be_published(autojump_clock: MockClock) -> None:
    bench = memory_bench(publish_s=100.0, limits=CommitterLimits(batch_count_max=1))

    async def work() -> None:
        for name in range(5):
            bench.submit(name)
        await trio.sleep(50)
        # 0 is being published, 1 is committed and waits: neither is 2 written, nor is 1 told.
        assert bench.committer.stats().batches == 2
        assert [name for name, _ in bench.told] == [0]

    await bench.drained(work)
    assert bench.published == [[name] for name in range(5)]


async def test_a_command_that_raises_fails_alone(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    bench = memory_bench()

    async def work() -> None:
        for name in range(6):
            bench.submit(name, -1 if name in (2, 5) else 1)

    await bench.drained(work)
    reasons = [result[0] for _, result in bench.told]
    assert reasons == ["done", "done", "internal", "done", "done", "internal"]
    assert bench.published == [[0], [1], [3], [4]]
    assert len(caplog.records) == 2 and all(record.exc_info for record in caplog.records)


async def test_a_full_queue_and_a_closed_committer_refuse(autojump_clock: MockClock) -> None:
    bench = memory_bench(limits=CommitterLimits(queue_count_max=3, queue_bytes_max=100))
    for name in range(3):
        bench.submit(name)
    with pytest.raises(Overloaded, match="waiting"):
        bench.submit(3)

    async def work() -> None:
        await trio.sleep(1)
        bench.submit(4, 1000)  # alone in the queue: large commands must get through somehow
        with pytest.raises(Overloaded, match="waiting"):
            bench.submit(5, 1)
        bench.committer.close()
        with pytest.raises(Overloaded, match="shutting down"):
            bench.submit(6)

    await bench.drained(work)
    assert [name for name, _ in bench.told] == [0, 1, 2, 4]


async def test_closing_drains_the_queue_and_the_publisher(autojump_clock: MockClock) -> None:
    bench = memory_bench(publish_s=1.0, limits=CommitterLimits(batch_count_max=1))
    for name in range(4):
        bench.submit(name)
    bench.committer.close()
    await bench.committer.run()
    assert bench.published == [[0], [1], [2], [3]]


async def test_execute_gives_the_result(autojump_clock: MockClock) -> None:
    bench = memory_bench()
    results = []

    async def work() -> None:
        results.append(await bench.committer.execute((7, 1)))

    await bench.drained(work)
    assert results == [("done", 7)]


async def test_a_store_that_may_grow_grows_before_it_is_full(autojump_clock: MockClock) -> None:
    bench = Bench(MemoryStore(1000, 4000))

    async def work() -> None:
        for name in range(30):
            bench.submit(name, 100)
            await trio.sleep(1)

    await bench.drained(work)
    assert all(result[0] == "done" for _, result in bench.told)
    assert bench.store.usage().limit_bytes == 4000


async def test_a_full_store_refuses_data_and_takes_acks(autojump_clock: MockClock) -> None:
    bench = Bench(MemoryStore(1000))

    async def work() -> None:
        bench.submit(0, 920)
        await trio.sleep(1)
        for name in range(1, 6):
            bench.submit(name, name % 2)
        await trio.sleep(1)

    await bench.drained(work)
    reasons = [result[0] for _, result in bench.told]
    assert reasons == ["done", "store_full", "done", "store_full", "done", "store_full"]
    assert bench.published == [[0], [2, 4]]


async def test_a_batch_too_large_for_what_is_left_is_refused_whole_except_for_acks(autojump_clock: MockClock) -> None:
    bench = Bench(MemoryStore(1000))

    async def work() -> None:
        for name, size in enumerate([600, 0, 600]):
            bench.submit(name, size)

    await bench.drained(work)
    assert [result[0] for _, result in bench.told] == ["store_full", "done", "store_full"]


async def test_damage_ends_the_run_without_acknowledgement(autojump_clock: MockClock) -> None:
    bench = memory_bench(damage=StoreDamaged("sync failed"))
    bench.submit(0)
    with pytest.raises(ExceptionGroup) as caught:
        await bench.committer.run()
    assert caught.group_contains(StoreDamaged, match="sync failed")
    assert bench.told == [] and bench.published == []


class Died(BaseException):
    """A simulated power cut."""


@dataclass
class DiesAt:
    name: str

    def reach(self, name: str) -> None:
        if name == self.name:
            raise Died


@pytest.mark.parametrize(
    ("place", "is_committed", "is_told"),
    [("commit.before", False, False), ("commit.after", True, False), ("publish.before", True, True)],
)
async def test_a_death_at_each_fault_point_keeps_exactly_what_was_committed(
    autojump_clock: MockClock, place: str, is_committed: bool, is_told: bool
) -> None:
    bench = memory_bench(faults=DiesAt(place))
    bench.submit(0)
    with pytest.raises(BaseExceptionGroup) as caught:
        await bench.committer.run()
    assert caught.group_contains(Died)
    assert isinstance(bench.store, MemoryStore)
    assert (key_of(0) in bench.store.image()) == is_committed
    assert bool(bench.told) == is_told
    assert bench.published == []


async def test_a_commit_that_has_begun_is_finished_before_a_cancelled_run_ends() -> None:
    offload = ThreadOffload("test-writer")
    begun, go = threading.Event(), threading.Event()

    def slow(tx: Writer, now_ms: int, commands: Sequence[Command]) -> Decided:
        begun.set()
        go.wait()
        return decide(tx, now_ms, commands)

    bench = memory_bench(offload=offload, decision=slow)
    bench.submit(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await trio.to_thread.run_sync(begun.wait)
        assert bench.committer.stats().writing_since_ms is not None
        nursery.cancel_scope.cancel()
        go.set()
    offload.close()
    assert isinstance(bench.store, MemoryStore)
    assert key_of(0) in bench.store.image()
    assert bench.committer.stats().writing_since_ms is None
    assert bench.told == []


STEPS = st.lists(
    st.tuples(st.lists(st.sampled_from([-1, 0, 1, 10, 90, 300]), max_size=8), st.sampled_from([0.0, 0.004, 0.02])),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    publish_s=st.sampled_from([0.0, 0.015, 0.1]),
    count_max=st.sampled_from([1, 3, 64]),
    limit_bytes=st.sampled_from([500, 1 << 20]),
    limit_bytes_max=st.sampled_from([500, 3000, 1 << 20]),
)
def test_every_command_gets_one_result_in_order_after_its_commit(
    steps: list[tuple[list[int], float]], publish_s: float, count_max: int, limit_bytes: int, limit_bytes_max: int
) -> None:
    async def main() -> None:
        bench = Bench(
            MemoryStore(limit_bytes, max(limit_bytes, limit_bytes_max)),
            publish_s=publish_s,
            limits=CommitterLimits(batch_count_max=count_max, batch_bytes_max=200),
        )
        sizes: list[int] = []

        async def work() -> None:
            for batch, pause_s in steps:
                for size in batch:
                    bench.submit(len(sizes), size)
                    sizes.append(size)
                await trio.sleep(pause_s)

        await bench.drained(work)
        assert [name for name, _ in bench.told] == list(range(len(sizes)))
        done = [name for name, result in bench.told if result[0] == "done"]
        assert [name for names in bench.published for name in names] == done
        for (_, result), size in zip(bench.told, sizes, strict=True):
            assert result[0] in ("internal" if size < 0 else "done", "store_full")
        stats = bench.committer.stats()
        assert (stats.commands, stats.failed) == (len(done), len(sizes) - len(done))

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_on_a_disk_and_with_a_thread_the_same_holds(tmp_path: Path) -> None:
    store = open_store(tmp_path, map_bytes=1 << 20, map_bytes_max=1 << 24)
    offload = ThreadOffload("test-writer")
    bench = Bench(store, offload=offload)

    async def work() -> None:
        for name in range(400):
            bench.submit(name, -1 if name == 200 else 10_000 if name % 7 == 0 else 1)
            if name % 50 == 0:
                await trio.lowlevel.checkpoint()

    try:
        await bench.drained(work)
    finally:
        offload.close()
        store.close()
    assert [name for name, _ in bench.told] == list(range(400))
    assert [name for name, result in bench.told if result[0] != "done"] == [200]
    again = open_store(tmp_path, map_bytes=1 << 20, map_bytes_max=1 << 24)
    with again.read() as tx:
        assert sum(1 for _ in tx.scan(b"k", b"l")) == 399
    again.close()


async def test_the_loop_reads_while_the_thread_writes(tmp_path: Path) -> None:
    store = open_store(tmp_path, map_bytes=1 << 24, map_bytes_max=1 << 24)
    offload = ThreadOffload("test-writer")
    bench = Bench(store, offload=offload)
    seen = []
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.run)
        for name in range(200):
            bench.submit(name)
        while len(bench.told) < 200:
            with store.read() as tx:
                seen.append(sum(1 for _ in tx.scan(b"k", b"l")))
            await trio.lowlevel.checkpoint()
        bench.committer.close()
    offload.close()
    store.close()
    assert seen == sorted(seen)  # commits become visible whole and in order
    assert set(seen) <= {0, 64, 128, 192, 200}


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_what_a_decision_leaves_over_comes_next_in_order_and_once(autojump_clock: MockClock, most: int) -> None:
    """Also among commands that are refused for want of room, and behind one whose decision is a defect."""

    def some(tx: Writer, now_ms: int, commands: Sequence[Command]) -> Decided:
        return decide(tx, now_ms, commands[:most])

    bench = memory_bench(decision=some)

    async def work() -> None:
        bench.submit(0)
        await trio.sleep(0.005)
        for name in range(1, 9):
            bench.submit(name, -1 if name == 4 else name % 3)

    await bench.drained(work)
    assert [name for name, _ in bench.told] == list(range(9))
    assert [name for name, result in bench.told if result[0] != "done"] == [4]
    assert [name for names in bench.published for name in names] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert max(map(len, bench.published)) == most
    stats = bench.committer.stats()
    assert (stats.commands, stats.queue_count, stats.queue_bytes) == (8, 0, 0)


async def test_what_a_decision_leaves_over_keeps_its_place_among_what_is_refused(autojump_clock: MockClock) -> None:
    def some(tx: Writer, now_ms: int, commands: Sequence[Command]) -> Decided:
        return decide(tx, now_ms, commands[:1])

    bench = memory_bench(decision=some)

    async def work() -> None:
        bench.submit(0, 1_000_000)  # beyond the mark
        await trio.sleep(0.005)
        for name in range(1, 9):
            bench.submit(name, name % 2)

    await bench.drained(work)
    assert [name for name, _ in bench.told] == list(range(9))
    assert [name for name, result in bench.told if result[0] == "store_full"] == [1, 3, 5, 7]
