"""Durable pushes: 100 devices, 20 changes of three fields a push, end to end; changes per second against raw LMDB.

Owns the load, the trace of rows that the same changes write, and the replay of that trace into LMDB with nothing else
around it. Every change that is counted was parsed, merged, committed with fsync, answered with its outcome, and
delivered to the subscriber of its space. `raw` writes the same keys and values, in the same order, in transactions of
the size that the daemon's own had in this run, each with a sync: what is left between the two is the daemon's work.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
import msgpack

from bench import workload
from bench.daemon import Daemon, device
from bench.measure import Figure, Target, cores, cpu_s, pin, ratios
from bench.native import Devices, Failed, Plan, compiled
from bench.profiling import profiled
from syncd.core.changes import parsed_change
from syncd.engine.commands import Author, Push
from syncd.engine.engine import Engine
from syncd.engine.grants import Grant, Role
from syncd.store.api import Writer
from syncd.store.memory import MemoryStore

DEVICES = 100
CHANGES = 20  # in a push
DOCUMENTS = 200  # of each device; its first changes make them
WINDOW = 4  # pushes in flight of each device
RATIO_TARGET = Target(least=0.35)
RATE_TARGET = Target(least=20_000)
NOW_MS = workload.STAMP_MS + 1000

Row = tuple[bytes, bytes | None]  # None: deleted


def space(index: int) -> str:
    return f"bench/device/{index}"


def plan(index: int, port: int, token: str, pushes: int) -> Plan:
    messages = workload.three_field_pushes(space(index), pushes, CHANGES, DOCUMENTS)
    frames = [(CHANGES, workload.client_frame(message)) for message in messages]
    return device(port, f"durable {index}", token, space=space(index), pushes=frames)


class _Tracing:
    """A write transaction that notes what is written through it."""

    def __init__(self, tx: Writer, rows: list[Row]) -> None:
        self._tx, self._rows = tx, rows
        self.get, self.scan, self.last = tx.get, tx.scan, tx.last

    def put(self, key: bytes, value: bytes) -> None:
        self._rows.append((key, value))
        self._tx.put(key, value)

    def delete(self, key: bytes) -> bool:
        self._rows.append((key, None))
        return self._tx.delete(key)


def commands(pushes: int) -> Iterator[Push]:
    """The same pushes as the devices', in the order in which they come: one of each device, then the next."""
    grants = (Grant("bench/**", Role.WRITER),)
    authors = [
        Author(workload.sized_id(f"durable {i}"), workload.sized_id(i), "device", "bench", grants)
        for i in range(DEVICES)
    ]
    for number in range(pushes):
        numbers = range(number * CHANGES + 1, (number + 1) * CHANGES + 1)
        for index, author in enumerate(authors):
            raw = msgpack.unpackb(msgpack.packb([workload.three_field_change(n, DOCUMENTS) for n in numbers]))
            yield Push(author, space(index), None, tuple(map(parsed_change, raw)))


def trace(pushes: int, pushes_per_batch: int) -> list[list[Row]]:
    """The rows that each transaction writes when the engine takes the devices' pushes."""
    engine, store = Engine(lambda size: bytes(range(size))), MemoryStore()
    batches: list[list[Row]] = []
    queue = list(commands(pushes))
    for start in range(0, len(queue), pushes_per_batch):
        rows: list[Row] = []
        with store.write() as tx:
            engine.decide(_Tracing(tx, rows), NOW_MS, queue[start : start + pushes_per_batch])
        batches.append(rows)
    return batches


def replayed_s(batches: list[list[Row]], first: int, directory: Path) -> float:
    """Write batches into a fresh LMDB, and return how long those from `first` on took."""
    directory.mkdir()
    with lmdb.open(str(directory), map_size=1 << 32, lib_version=0) as env:
        began = 0.0
        for index, rows in enumerate(batches):
            if index == first:
                began = time.perf_counter()
            with env.begin(write=True) as txn:
                put, delete = txn.put, txn.delete
                for key, value in rows:
                    if value is None:
                        delete(key)
                    else:
                        put(key, value)
        took = time.perf_counter() - began
    shutil.rmtree(directory)
    return took


def run(directory: Path, *, quick: bool, say: Callable[[str], None], profile: bool = False) -> list[Figure]:
    """`profile`: one more run under py-spy, and its shares as figures. Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    runs = 3 if quick else 5
    warm, each = DOCUMENTS // CHANGES, 6 if quick else 12
    pushes = warm + (runs + profile) * each
    rates, acks, cpus, batch_sizes = [], [], [], []
    with Daemon(directory / "durable", server_core) as daemon:
        token = daemon.token("bench")
        say(f"durable push: opening {DEVICES} connections")
        plans = (plan(index, daemon.port, token, pushes) for index in range(DEVICES))
        with Devices(program, daemon.port, plans, directory, load_core) as devices:
            devices.open()
            devices.go(WINDOW, warm)
            for index in range(runs):
                say(f"durable push: run {index + 1} of {runs}")
                before, used = daemon.status()["commits"], cpu_s(daemon.pid)
                counted = devices.go(WINDOW, each)
                cpus.append((cpu_s(daemon.pid) - used) / counted["outcomes"] * 1e6)
                after = daemon.status()["commits"]
                if counted["delivered"] != counted["outcomes"]:
                    raise Failed("not every change was delivered to its subscriber")
                rates.append(counted["outcomes"] / counted["seconds"])
                acks.append(counted["ack_p50_ms"])
                batch_sizes.append((after["commands"] - before["commands"]) / (after["batches"] - before["batches"]))
            shares = []
            if profile:
                shares = profiled("durable", daemon.pid, directory, partial(devices.go, WINDOW, each), say)
        daemon.check()
    per_batch = max(1, round(sum(batch_sizes) / len(batch_sizes)))
    say("durable push: the same rows into LMDB")
    raws = _raw_rates(warm, each, per_batch, runs, directory, server_core)
    detail = f"{per_batch * CHANGES} changes a commit"
    return [
        Figure("durable", "pushed, synced, answered, delivered", "changes/s", tuple(rates), RATE_TARGET, detail),
        Figure("durable", "CPU of the daemon", "us/change", tuple(cpus)),
        Figure("durable", "push to outcome", "ms", tuple(acks), detail=f"median, {WINDOW} in flight on each device"),
        Figure("durable", "raw LMDB, same rows and batches", "changes/s", tuple(raws), detail=detail),
        Figure("durable", "end to end / raw LMDB", "ratio", ratios(rates, raws), RATIO_TARGET),
        *shares,
    ]


def _raw_rates(warm: int, each: int, per_batch: int, runs: int, directory: Path, core: int) -> list[float]:
    """Changes per second of the replay, on the server's core. The batches of the first changes, which make the
    documents, are written too, but not counted, as in the daemon's run."""
    batches = trace(warm + each, per_batch)
    first = warm * DEVICES // per_batch
    changes = ((warm + each) * DEVICES - first * per_batch) * CHANGES
    usual = os.sched_getaffinity(0)
    pin(core)
    try:
        return [changes / replayed_s(batches, first, directory / f"raw-{index}") for index in range(runs)]
    finally:
        os.sched_setaffinity(0, usual)
