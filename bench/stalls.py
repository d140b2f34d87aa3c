"""Stalls of the event loop: how long anybody waits while a fan-out and the writer thread are at work.

The load is that of `fanout`; the daemon runs with a stopwatch (`turns.py`). Without slices, one turn would be a whole
fan-out: the ratio says what part of it the longest turn was. It is made of processor time of the loop's own thread,
which neither other programs nor the writer's thread disturb; how long a turn was on the wall, where the loop also waits
for the lock of the interpreter, is reported beside it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from bench import fanout
from bench.daemon import Daemon, device
from bench.measure import Figure, Target, cores
from bench.native import Devices, compiled
from bench.written import asked

SUBSCRIBERS, SUBSCRIBERS_QUICK = 5000, 1000
TARGET = Target(most=0.25)

Turn = tuple[float, float]  # seconds on the wall, and of the loop's processor time


def _turns(file: Path, pid: int) -> list[Turn]:
    """All since the last time."""
    return [(wall_s, cpu_s) for wall_s, cpu_s in asked(file, pid)]


def _at(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    runs, subscribers = (3, SUBSCRIBERS_QUICK) if quick else (5, SUBSCRIBERS)
    each = max(20, 100_000 // subscribers)
    file = directory / "turns.json"
    longest: dict[int, list[float]] = {1: [], fanout.WINDOW: []}
    late: dict[int, list[float]] = {1: [], fanout.WINDOW: []}
    parts: dict[int, list[float]] = {1: [], fanout.WINDOW: []}
    command = (sys.executable, "-m", "bench.turns", str(file))
    with Daemon(directory / "stalls", server_core, program=command) as daemon:
        token = daemon.token("bench")
        plans = [fanout.publisher(daemon.port, token, fanout.DOCUMENTS + 2 * runs * each)]
        plans += [device(daemon.port, f"subscriber {index}", token, space=fanout.SPACE) for index in range(subscribers)]
        say(f"stalls: opening {subscribers} connections")
        with Devices(program, daemon.port, plans, directory, load_core) as devices:
            devices.open()
            devices.go(1, fanout.DOCUMENTS)
            _turns(file, daemon.pid)
            for index in range(runs):
                say(f"stalls: run {index + 1} of {runs}")
                for window in longest:
                    frames = devices.go(window, each)["frames"]
                    turns = _turns(file, daemon.pid)
                    walls, cpus = [wall_s for wall_s, _ in turns], [cpu_s for _, cpu_s in turns]
                    longest[window].append(max(walls) * 1e3)
                    late[window].append(_at(walls, 0.99) * 1e3)
                    parts[window].append(max(cpus) / (sum(cpus) * subscribers / frames))
        daemon.check()
    return [
        figure
        for window in longest
        for figure in (
            Figure("stalls", f"{window} in flight, longest turn", "ms", tuple(longest[window]), detail="on the wall"),
            Figure("stalls", f"{window} in flight, turns, p99", "ms", tuple(late[window]), detail="on the wall"),
            Figure(
                "stalls", f"{window} in flight, longest turn / fan-out", "ratio", tuple(parts[window]),
                TARGET if subscribers == SUBSCRIBERS else None, f"of processor time, {subscribers} subscribers",
            ),
        )
    ]  # fmt: skip
