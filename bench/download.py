"""Downloads: 50,000 small documents to a new device, the same again, and a catch-up on few of them.

The limit beside it reads the same rows from the same file with LMDB alone and encodes them with msgpack. The measure is
processor time of the daemon, from `subscribe` to the last page.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgpack

from bench import workload
from bench.daemon import Daemon, device
from bench.measure import Figure, Target, cores, cpu_s, pin, ratios
from bench.native import Devices, Failed, Plan, compiled
from bench.reader import CaughtUp, Position, Reader
from syncd.store import keys

SPACE = "bench/download"
DOCUMENTS, DOCUMENTS_QUICK = 50_000, 10_000
CHANGES = 20  # in a push
WINDOW = 16
CHANGED = 25 * CHANGES  # documents, between two connections of a device that returns
CRC_BYTES = 4  # at the end of each record
SETTLE_S = 0.3
TARGET = Target(most=4.0)
SHARED_TARGET = Target(most=0.25)
CATCH_UP_TARGET = Target(most=2.0)


def _publisher(port: int, token: str, documents: int, runs: int) -> Plan:
    pushes = (documents + runs * CHANGED) // CHANGES
    messages = workload.three_field_pushes(SPACE, pushes, CHANGES, documents)
    return device(
        port, "publisher", token, space=None, pushes=[(CHANGES, workload.client_frame(each)) for each in messages]
    )


class _Measured:
    """Devices that read, one after the other."""

    def __init__(self, daemon: Daemon, token: str) -> None:
        self._daemon, self._token, self._count = daemon, token, 0

    def us(self, expected: int, after: Position | None = None) -> tuple[float, CaughtUp]:
        """Processor microseconds of the daemon for each document of a catch-up by a device that comes anew."""
        self._count += 1
        with Reader(self._daemon.port, f"reader {self._count}", self._token) as reader:
            time.sleep(SETTLE_S)
            before = cpu_s(self._daemon.pid)
            found = reader.catch_up(SPACE, after)
            used = cpu_s(self._daemon.pid) - before
        if found.documents != expected:
            raise Failed(f"{found.documents} documents came, not {expected}")
        return used / expected * 1e6, found


def _raw_us(store: Path, expected: int, core: int) -> float:
    """Processor microseconds for each row of the space's documents: read, decoded, encoded."""
    usual = os.sched_getaffinity(0)
    pin(core)
    try:
        with lmdb.open(str(store), readonly=True, lib_version=0) as env, env.begin() as txn:
            cursor, count = txn.cursor(), 0
            start, stop = keys.space_range(keys.DOCUMENT, 1)  # the only space
            packb, unpackb = msgpack.packb, msgpack.unpackb
            began = time.thread_time()
            cursor.set_range(start)
            for key, value in cursor:
                if key >= stop:
                    break
                packb(unpackb(value[:-CRC_BYTES], strict_map_key=False))
                count += 1
            took = time.thread_time() - began
    finally:
        os.sched_setaffinity(0, usual)
    if count != expected:
        raise Failed(f"the store has {count} documents, not {expected}")
    return took / count * 1e6


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    runs, documents = (3, DOCUMENTS_QUICK) if quick else (5, DOCUMENTS)
    raws: list[float] = []
    firsts: list[float] = []
    again: list[float] = []
    caught_up: list[float] = []
    with Daemon(directory / "download", server_core) as daemon:
        token = daemon.token("bench")
        plan = _publisher(daemon.port, token, documents, runs)
        with Devices(program, daemon.port, [plan], directory, load_core) as devices:
            devices.open()
            say(f"download: making {documents} documents")
            devices.go(WINDOW, documents // CHANGES)
            measured = _Measured(daemon, token)
            _, found = measured.us(documents)
            for index in range(runs):
                say(f"download: run {index + 1} of {runs}")
                position = found.position
                devices.go(WINDOW, CHANGED // CHANGES)  # so that nothing of the run before can be shared
                caught_up.append(measured.us(CHANGED, position)[0])
                raws.append(_raw_us(directory / "download" / "store", documents, server_core))
                us, found = measured.us(documents)
                firsts.append(us)
                again.append(measured.us(documents)[0])
        daemon.check()
    detail = f"{documents} documents, {found.frames} pages, {found.bytes / documents:.0f} bytes each"
    name = f"{CHANGED} of {documents} changed"
    return [
        Figure("download", "raw LMDB scan, decoded and encoded", "us/document", tuple(raws)),
        Figure("download", "first download, CPU", "us/document", tuple(firsts), detail=detail),
        Figure("download", "first download / raw", "ratio", ratios(firsts, raws), TARGET, "of processor time"),
        Figure("download", "the next device's / the first's", "ratio", ratios(again, firsts), SHARED_TARGET, "shared"),
        Figure("download", f"catch-up, {name}, CPU", "us/document", tuple(caught_up), detail="of those that changed"),
        Figure(
            "download", "catch-up / first download", "ratio", ratios(caught_up, firsts), CATCH_UP_TARGET,
            "for each document that is sent: the cost follows what changed",
        ),
    ]  # fmt: skip
