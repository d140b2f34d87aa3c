"""Latency: how long after a device writes, another device sees it, at 200 changes a second.

Owns the pace and the yardstick of the same minute: one sync of the disk, and one round trip over loopback, which is the
same change passed on by `limit.c` without a thought. The path is whole: parse, merge, commit with fsync, delta. Changes
leave at their time whether earlier ones have arrived or not, so a stall shows in every change that it delays.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.daemon import Daemon, device
from bench.fanout import DOCUMENTS, SPACE, Limit, publisher
from bench.measure import Figure, Target, cores, sync_ms
from bench.native import Devices, Plan, compiled
from bench.profiling import profiled
from bench.stages import figures as stage_figures
from bench.written import asked

SUBSCRIBERS = 10
RATE = 200  # changes per second: a busy group of people
SECONDS, SECONDS_QUICK = 5, 2
P50_TARGET = Target(most=4.0)
P99_TARGET = Target(most=5.0)


def run(directory: Path, *, quick: bool, say: Callable[[str], None], profile: bool = False) -> list[Figure]:
    """`profile`: one more run with a stopwatch at the stages of a change, and one under py-spy, as figures. Raises
    `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program, limit_program = compiled("devices", directory), compiled("limit", directory)
    runs, count = (3, RATE * SECONDS_QUICK) if quick else (5, RATE * SECONDS)
    total = DOCUMENTS + RATE + (runs + profile) * count
    shares: list[Figure] = []
    syncs, trips, seen = [], [], []
    with Daemon(directory / "daemon", server_core) as daemon, Limit(limit_program, directory, server_core) as limit:
        token = daemon.token("bench")

        def devices(port: int) -> Devices:
            return Devices(program, port, _plans(port, token, total), directory, load_core)

        with devices(limit.port) as limited, devices(daemon.port) as measured:
            for generator in (limited, measured):
                generator.open()
                generator.go(1, DOCUMENTS + RATE)
            for index in range(runs):
                say(f"latency: run {index + 1} of {runs}")
                syncs.append(statistics.median(sync_ms(directory)))
                trips.append(limited.pace(RATE, count))
                seen.append(measured.pace(RATE, count))
            if profile:
                shares = profiled("latency", daemon.pid, directory, partial(measured.pace, RATE, count), say)
        daemon.check()
    stages = _stages(program, count, directory, say) if profile else []
    return figures(syncs, trips, seen) + stages + shares


def _plans(port: int, token: str, total: int) -> list[Plan]:
    listeners = [device(port, f"subscriber {i}", token, space=SPACE) for i in range(SUBSCRIBERS)]
    return [publisher(port, token, total), *listeners]


def _stages(program: Path, count: int, directory: Path, say: Callable[[str], None]) -> list[Figure]:
    """The same load on a daemon of its own, which has a stopwatch."""
    say("latency: one more run, with a stopwatch at the stages of a change")
    server_core, load_core = cores()
    file = directory / "stages.json"
    command = (sys.executable, "-m", "bench.stages", str(file))
    with Daemon(directory / "stages", server_core, program=command) as daemon:
        plans = _plans(daemon.port, daemon.token("bench"), DOCUMENTS + RATE + count)
        with Devices(program, daemon.port, plans, directory, load_core) as devices:
            devices.open()
            devices.go(1, DOCUMENTS + RATE)
            asked(file, daemon.pid)
            seen = devices.pace(RATE, count)
            paths = asked(file, daemon.pid)
        daemon.check()
    return stage_figures("latency, stages", paths, seen["seen_p50_ms"])


def figures(syncs: list[float], trips: list[dict[str, Any]], seen: list[dict[str, Any]]) -> list[Figure]:
    """`syncs`: milliseconds; `trips`, `seen`: what the generator counted of the limit, and of the daemon."""
    round_trips = [counted["seen_p50_ms"] for counted in trips]
    p50s, p99s = [counted["seen_p50_ms"] for counted in seen], [counted["seen_p99_ms"] for counted in seen]
    name = "latency"
    floor = [sync + trip for sync, trip in zip(syncs, round_trips, strict=True)]
    detail = f"{RATE} changes/s, {SUBSCRIBERS} subscribers"
    return [
        Figure(name, "one sync of 4 KiB", "ms", tuple(syncs), detail="median of 50, before each run"),
        Figure(name, "one round trip, limit in C", "ms", tuple(round_trips), detail="median"),
        Figure(name, "write to seen, p50", "ms", tuple(p50s), detail=detail),
        Figure(name, "write to seen, p99", "ms", tuple(p99s), detail=detail),
        Figure(
            name, "p50 / (sync + round trip)", "ratio",
            tuple(p50 / least for p50, least in zip(p50s, floor, strict=True)), P50_TARGET,
        ),
        Figure(name, "p99 / p50", "ratio", tuple(p99 / p50 for p99, p50 in zip(p99s, p50s, strict=True)), P99_TARGET),
    ]  # fmt: skip
