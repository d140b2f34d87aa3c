"""The committer: the only way into the store while the daemon runs.

Owns the queue of commands, the batches, and when the answer to a command may be given. Must not know what a command
means: deciding and publishing are injected.

Group commit: one write transaction, so one fsync, serves whatever arrived while the previous one was written. When
idle nothing waits; under load batches grow by themselves. While a batch is written the previous one is published.

Invariants: C1 `done` is called exactly once per accepted command, unless `run` ends by an exception. C2 it is called
after the commit that carries the command's effect has returned. C3 dones are called in the order of `submit`, batches
are published in the order of their commits, and each after its dones. C4 at most one committed batch waits to be
published. C5 a command that raises leaves no trace and does not hinder the others. C6 a store that cannot vouch for
what it holds ends `run`: nothing is acknowledged, nothing retried.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Generic, Protocol, TypeVar, TypeVarTuple

import trio

from syncd.store.api import Store, StoreError, StoreFull, Writer

C = TypeVar("C")
R = TypeVar("R")
D = TypeVar("D")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_log = getLogger(__name__)

STORE_FULL = "store_full"
INTERNAL = "internal"

_FULL_DETAIL = "the store has no room for more data; what is stored can still be read"
_INTERNAL_DETAIL = "the server could not carry out this command; nothing of it took effect"


class Overloaded(Exception):
    """The command was not taken: the queue is full, or the committer is shutting down. Nothing happened."""


class Clock(Protocol):
    """What is needed of `env.ports.Clock`: packages below `env` do not import it."""

    def now_ms(self) -> int: ...


class Offload(Protocol):
    """What is needed of `env.ports.Offload`."""

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T: ...


class Faults(Protocol):
    """What is needed of `env.ports.Faults`. Reached here: `commit.before`, `commit.after`, `publish.before`."""

    def reach(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class CommitterLimits:
    """Bounds of the queue and of a batch.

    A full queue is about a second of work at the rates measured for LMDB, beyond which refusing is kinder than waiting;
    its bytes bound memory when commands are large. A batch is one synchronous decision that holds the GIL for most of
    its time, and it cannot be cut in the middle, so its count and bytes bound the milliseconds that the loop stutters.
    `full_share` of the store's limit is the mark above which commands that add data are refused: what is left lets
    deletes, acks and outcomes through (the store's own bookkeeping at commit needs room, too).
    """

    queue_count_max: int = 4096
    queue_bytes_max: int = 64 * 1024 * 1024
    batch_count_max: int = 64
    batch_bytes_max: int = 1024 * 1024
    full_share: float = 0.9


@dataclass(frozen=True, slots=True)
class CommitterStats:
    """For metrics and readiness. `commands`: committed ones; `failed`: those answered with `failed`.
    `commit_ms_last`: decision, write and fsync of the last batch. `writing_since_ms`: when the transaction began that
    is being written, None if none is: a disk that hangs shows here."""

    batches: int
    commands: int
    failed: int
    commit_ms_last: int
    writing_since_ms: int | None
    queue_count: int
    queue_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry(Generic[C, R]):
    command: C
    done: Callable[[R], None]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Batch(Generic[C, R, D]):
    """What is to be told: a result per entry, and what to publish unless nothing was written."""

    entries: Sequence[_Entry[C, R]]
    results: Sequence[R]
    decision: D | None


class Committer(Generic[C, R, D]):
    """Injected: `decide` (pure over the transaction; runs in the writer thread; it may carry out the first commands
    only, if they are enough for one transaction), `results` (of a decision: one for each command that it carried out,
    in order), `publish`, `failed(reason, detail)` (the result of a command that could not be carried out: `store_full`,
    `internal`), `adds_data` (whether a command is refused when the store is nearly full), `size_bytes` (about how much
    memory a command holds), `observe` (of each commit: how many commands, how many seconds). `done` callbacks run in
    the loop thread and must not raise."""

    def __init__(
        self,
        store: Store,
        decide: Callable[[Writer, int, Sequence[C]], D],
        results: Callable[[D], Sequence[R]],
        publish: Callable[[D], Awaitable[None]],
        failed: Callable[[str, str], R],
        clock: Clock,
        offload: Offload,
        faults: Faults,
        *,
        adds_data: Callable[[C], bool],
        size_bytes: Callable[[C], int],
        limits: CommitterLimits | None = None,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._store = store
        self._decide, self._results, self._publish, self._failed = decide, results, publish, failed
        self._clock, self._offload, self._faults = clock, offload, faults
        self._adds_data, self._size_bytes, self._observe = adds_data, size_bytes, observe
        self.limits = limits or CommitterLimits()
        self._queue: deque[_Entry[C, R]] = deque()
        self._queue_bytes = 0
        self._is_closing = False
        self._changed = trio.Event()  # something was queued, or closing began; replaced by the writer
        self._batches = self._commands = self._failures = self._commit_ms_last = 0
        self._writing_since_ms: int | None = None

    # -- in ------------------------------------------------------------------------------------------------------

    def submit(self, command: C, done: Callable[[R], None]) -> None:
        """Queue a command; never blocks. Raises `Overloaded`."""
        if self._is_closing:
            raise Overloaded("the server is shutting down")
        size = self._size_bytes(command)
        if len(self._queue) >= self.limits.queue_count_max or (
            self._queue and self._queue_bytes + size > self.limits.queue_bytes_max
        ):
            raise Overloaded("too many commands are waiting to be written")
        self._queue.append(_Entry(command, done, size))
        self._queue_bytes += size
        self._changed.set()

    async def execute(self, command: C) -> R:
        """Submit and wait for the result. If cancelled, the command may still take effect. Raises `Overloaded`."""
        answered = trio.Event()
        box: list[R] = []

        def done(result: R) -> None:
            box.append(result)
            answered.set()

        self.submit(command, done)
        await answered.wait()
        return box[0]

    def close(self) -> None:
        """Take no more commands; `run` returns when those taken are committed and published."""
        self._is_closing = True
        self._changed.set()

    def stats(self) -> CommitterStats:
        return CommitterStats(
            self._batches, self._commands, self._failures, self._commit_ms_last,
            self._writing_since_ms, len(self._queue), self._queue_bytes,
        )  # fmt: skip

    # -- the two tasks -------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write and publish until closed and drained. Raises what the store raises when it can no longer be trusted."""
        # No buffer: the writer hands a batch over when the publisher is ready for it, so one batch at most waits (C4).
        send, receive = trio.open_memory_channel[_Batch[C, R, D]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_publisher, receive)
            nursery.start_soon(self._run_writer, send)
            task_status.started()

    async def _run_writer(self, ready: trio.MemorySendChannel[_Batch[C, R, D]]) -> None:
        async with ready:
            while True:
                if self._queue:
                    await self._write(self._taken(), ready)
                elif self._is_closing:
                    return
                else:
                    self._changed = trio.Event()
                    await self._changed.wait()

    async def _run_publisher(self, ready: trio.MemoryReceiveChannel[_Batch[C, R, D]]) -> None:
        async with ready:
            async for batch in ready:
                for entry, result in zip(batch.entries, batch.results, strict=True):
                    entry.done(result)
                if batch.decision is not None:
                    self._faults.reach("publish.before")
                    await self._publish(batch.decision)

    def _taken(self) -> list[_Entry[C, R]]:
        """The next batch: at least one command, then as many as the bounds allow."""
        taken = [self._queue.popleft()]
        size = taken[0].size_bytes
        while self._queue and len(taken) < self.limits.batch_count_max:
            size += self._queue[0].size_bytes
            if size > self.limits.batch_bytes_max:
                break
            taken.append(self._queue.popleft())
        self._queue_bytes -= sum(entry.size_bytes for entry in taken)
        return taken

    # -- one batch -----------------------------------------------------------------------------------------------

    async def _write(
        self, entries: Sequence[_Entry[C, R]], ready: trio.MemorySendChannel[_Batch[C, R, D]], is_sparing: bool = False
    ) -> None:
        """Commit the entries and hand over their results: together if all goes well, else one at a time.

        `is_sparing`: there is no room, so what adds data is refused without being tried.
        """
        is_sparing = is_sparing or self._is_nearly_full()
        tried = [entry for entry in entries if not (is_sparing and self._adds_data(entry.command))]
        decision: D | None = None
        try:
            results, decision = await self._committed(tried)
            if len(results) < len(tried):
                entries, tried = self._put_back(entries, tried[len(results)]), tried[: len(results)]
        except StoreFull:
            # In spite of the mark: free pages may lie too scattered, or the file system be full below the limit.
            is_grown = self._store.grow()
            if is_grown or not is_sparing:
                await self._write(entries, ready, is_sparing=not is_grown)
                return
            results = [self._failed(STORE_FULL, _FULL_DETAIL)] * len(tried)
            self._failures += len(tried)
        except StoreError:
            raise  # C6
        except Exception:
            # A defect in deciding. One poisoned command must not take its neighbours with it (C5).
            if len(entries) > 1:
                for entry in entries:
                    await self._write([entry], ready, is_sparing)
                return
            _log.exception("a command could not be carried out: %s", type(entries[0].command).__name__)
            results = [self._failed(INTERNAL, _INTERNAL_DETAIL)]
            self._failures += 1
        await ready.send(_Batch(entries, self._completed(entries, tried, results), decision))

    def _put_back(self, entries: Sequence[_Entry[C, R]], first: _Entry[C, R]) -> Sequence[_Entry[C, R]]:
        """A decision ended before this entry: from there on they wait again, ahead of all others. Returns those before
        it."""
        at = next(number for number, entry in enumerate(entries) if entry is first)
        for entry in reversed(entries[at:]):
            self._queue.appendleft(entry)
            self._queue_bytes += entry.size_bytes
        return entries[:at]

    async def _committed(self, entries: Sequence[_Entry[C, R]]) -> tuple[Sequence[R], D | None]:
        if not entries:
            return [], None
        commands = [entry.command for entry in entries]
        self._faults.reach("commit.before")
        began_ms = self._writing_since_ms = self._clock.now_ms()
        began_s = trio.current_time()
        try:
            results, decision = await self._offload.run(self._transact, began_ms, commands)
        finally:
            self._writing_since_ms = None
        self._faults.reach("commit.after")
        self._commit_ms_last = max(0, self._clock.now_ms() - began_ms)
        if self._observe is not None:
            self._observe(len(results), trio.current_time() - began_s)
        self._batches += 1
        self._commands += len(results)
        return results, decision

    def _transact(self, now_ms: int, commands: Sequence[C]) -> tuple[Sequence[R], D]:
        """In the writer thread: one transaction from beginning to end (api.py T4)."""
        with self._store.write() as tx:
            decision = self._decide(tx, now_ms, commands)
            results = self._results(decision)
            assert 0 < len(results) <= len(commands), "a decision has one result for each command that it is about"
        return results, decision

    def _completed(
        self, entries: Sequence[_Entry[C, R]], tried: Sequence[_Entry[C, R]], results: Sequence[R]
    ) -> Sequence[R]:
        """A result per entry: those of the entries that were tried, and a refusal for each that was not."""
        if len(tried) == len(entries):
            return results
        self._failures += len(entries) - len(tried)
        remaining = iter(results)
        tried_ids = {id(entry) for entry in tried}
        return [
            next(remaining) if id(entry) in tried_ids else self._failed(STORE_FULL, _FULL_DETAIL) for entry in entries
        ]

    def _is_nearly_full(self) -> bool:
        """Whether the store is above the mark, although it was given room to grow."""
        while True:
            usage = self._store.usage()
            if usage.used_bytes <= usage.limit_bytes * self.limits.full_share:
                return False
            if not self._store.grow():
                return True
