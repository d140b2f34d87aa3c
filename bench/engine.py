"""The engine without a network: what deciding a change costs, in memory and on LMDB, and what the codec does.

Owns loops around functions of syncd, in this process, on one core. Figures are processor time, so they say what each
step costs, not how fast a disk is. The changes are those of the durable benchmark.
"""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgpack

from bench import durable, workload
from bench.measure import Figure, cores, pin
from syncd.app.daemon import GARBAGE_COUNT
from syncd.core.changes import parsed_change
from syncd.engine.commands import Push
from syncd.engine.engine import Engine
from syncd.engine.reading import Cursor, page
from syncd.store.api import Store
from syncd.store.lmdb import open_store
from syncd.store.memory import MemoryStore
from syncd.wire.codec import MSGPACK
from syncd.wire.messages import Delta

PUSHES_PER_BATCH = 32
PAGE_SPACE = durable.space(0)


def _repeated(function: Callable[[], object], calls: int, parts: int, runs: int) -> tuple[float, ...]:
    """Processor microseconds of one part of one call, per run; each run is `calls` calls."""
    times = []
    for _ in range(runs):
        began = time.thread_time()
        for _ in range(calls):
            function()
        times.append((time.thread_time() - began) / calls / parts * 1e6)
    return tuple(times)


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    server_core, _ = cores()
    usual, thresholds = os.sched_getaffinity(0), gc.get_threshold()
    pin(server_core)
    gc.set_threshold(GARBAGE_COUNT, 10, 10)  # as the daemon does
    try:
        return _measured(directory, 3 if quick else 5, say)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        os.sched_setaffinity(0, usual)


def _measured(directory: Path, runs: int, say: Callable[[str], None]) -> list[Figure]:
    warm = durable.DOCUMENTS // durable.CHANGES
    say("engine: making the changes")
    queue = list(durable.commands(warm + 2 * runs))
    split = warm * durable.DEVICES
    gc.freeze()  # what is made here would be looked through again and again; the daemon never holds so many commands
    memory = MemoryStore()
    disk = open_store(directory / "engine", map_bytes=1 << 32, map_bytes_max=1 << 32)
    try:
        figures = []
        for name, store in (("MemoryStore", memory), ("LMDB", disk)):
            say(f"engine: deciding on {name}")
            figures.append(_decided(name, store, queue, split, runs))
        say("engine: pages and messages")
        figures += [_paged(disk, runs), *_coded(disk, runs)]
    finally:
        disk.close()
    return figures


def _decided(name: str, store: Store, queue: list[Push], split: int, runs: int) -> Figure:
    """Changes per second of `Engine.decide`, without the commit."""
    engine = Engine(os.urandom)
    _decide(engine, store, queue[:split])
    rates = []
    each = (len(queue) - split) // runs
    for index in range(runs):
        part = queue[split + index * each : split + (index + 1) * each]
        rates.append(each * durable.CHANGES / _decide(engine, store, part))
    return Figure("engine", f"decide on {name}", "changes/s", tuple(rates), detail="processor time, no commit")


def _decide(engine: Engine, store: Store, pushes: list[Push]) -> float:
    used = 0.0
    for start in range(0, len(pushes), PUSHES_PER_BATCH):
        with store.write() as tx:
            batch = pushes[start : start + PUSHES_PER_BATCH]
            began = time.thread_time()
            decision = engine.decide(tx, durable.NOW_MS, batch)
            used += time.thread_time() - began
        assert not decision.alarms, "the engine meets no defect"
    return used


def _page(store: Store) -> Delta:
    with store.read() as tx:
        # The first space that the pushes made has the number 1.
        return page(tx, Cursor(PAGE_SPACE, 1, 0, 0, None))


def _paged(store: Store, runs: int) -> Figure:
    documents = len(_page(store).docs)
    times = _repeated(lambda: _page(store), 20, documents, runs)
    return Figure(
        "engine", "page of a first download", "us/document", times, detail=f"{documents} documents of 3 fields"
    )


def _coded(store: Store, runs: int) -> list[Figure]:
    full = _page(store)
    first = full.docs[0]
    one = Delta(
        full.space, full.epoch, full.from_, full.after, full.to, full.t, full.chain, (first,), True, None, full.sum
    )
    changes = [workload.three_field_change(n, durable.DOCUMENTS) for n in range(1000, 1000 + durable.CHANGES)]
    push = workload.push_message(PAGE_SPACE, changes)
    raw = msgpack.unpackb(msgpack.packb(changes))
    cases: list[tuple[str, str, int, Callable[[], object]]] = [
        (f"decode a push of {durable.CHANGES} changes", "us/change", durable.CHANGES, lambda: MSGPACK.decode(push)),
        ("of it: check and canonicalise", "us/change", durable.CHANGES, lambda: [parsed_change(item) for item in raw]),
        ("encode a delta of one document", "us/message", 1, lambda: MSGPACK.encode(one)),
        ("encode a delta of a page", "us/document", len(full.docs), lambda: MSGPACK.encode(full)),
    ]
    figures = []
    for name, unit, parts, function in cases:
        times = _repeated(function, max(20, 4000 // parts), parts, runs)
        figures.append(Figure("engine", name, unit, times))
    return figures
