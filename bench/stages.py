"""The daemon with a stopwatch on the way of a change: `python -m bench.stages FILE serve`, run as `syncd serve` is.

Between the bytes of a push and those of its delta lie the seams below. At each the wall clock is read, and the
processor time of the process, all threads together: while one change is under way, a stage's share of both is its own,
and what takes longer than it computes is a wait, for the disk or for a thread to wake. SIGUSR1 writes the stages of all
pushes that were delivered since the last time (`written.py`).

Owns where the seams are: functions of the daemon, wrapped from outside, so that nothing in it knows of the stopwatch. A
push that was tried more than once has no such stages, and is left out.
"""

import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.measure import Figure
from bench.written import write
from syncd.engine.commands import Push
from syncd.engine.engine import Engine
from syncd.net.connection import Connection
from syncd.net.hub import Hub
from syncd.store.committer import Committer

STAGES = (
    "bytes to a command",  # frame, decode, checks, queue
    "to the writer's task",  # it wakes in the loop, and takes what waits
    "to the writer's thread",
    "begun and decided",
    "committed and synced",
    "back to the loop",  # and to the publisher's task
    "outcome sent",
    "delta encoded and sent",
)
PATHS_MAX = 100_000  # of one measurement; beyond it a run is too long to be one

Mark = tuple[float, float]  # seconds on the wall, and of processor time of the process


def _now() -> Mark:
    return time.perf_counter(), time.process_time()


class Stages:
    """The marks of pushes under way, by their command, and those of the pushes that are through."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: Mark = (0.0, 0.0)
        self._under_way: dict[int, list[Mark]] = {}
        self._told: list[list[Mark]] = []  # outcomes are sent, the delta is not
        self._paths: list[list[Mark]] = []

    def install(self, put: Callable[[Any, str, Any], None] = setattr) -> None:
        """Put the stopwatch around the daemon's functions."""
        for owner, name, around in (
            (Connection, "_take", self._take), (Committer, "submit", self._submit),
            (Committer, "_committed", self._committed), (Committer, "_transact", self._transact),
            (Engine, "decide", self._decide), (Hub, "publish", self._publish),
        ):  # fmt: skip
            put(owner, name, _around(getattr(owner, name), around))

    def write(self, *_: Any) -> None:
        paths, self._paths = self._paths, []
        write(self._file, paths)

    def _mark(self, commands: Sequence[Any]) -> None:
        now = _now()
        for command in commands:
            if (marks := self._under_way.get(id(command))) is not None:
                marks.append(now)

    async def _take(self, take: Callable[..., Any], connection: Any, data: bytes) -> None:
        self._read = _now()
        await take(connection, data)

    def _submit(self, submit: Callable[..., Any], committer: Any, command: Any, done: Callable[[Any], None]) -> None:
        if not isinstance(command, Push):
            submit(committer, command, done)
            return
        marks = self._under_way[id(command)] = [self._read]

        def marked(result: Any) -> None:
            marks.append(_now())
            self._told.append(self._under_way.pop(id(command)))  # names the command: its id is nobody else's until then
            done(result)

        submit(committer, command, marked)
        marks.append(_now())

    async def _committed(self, committed: Callable[..., Any], committer: Any, entries: Sequence[Any]) -> Any:
        self._mark([entry.command for entry in entries])
        return await committed(committer, entries)

    def _transact(self, transact: Callable[..., Any], committer: Any, now_ms: int, commands: Sequence[Any]) -> Any:
        self._mark(commands)
        result = transact(committer, now_ms, commands)
        self._mark(commands)
        return result

    def _decide(self, decide: Callable[..., Any], engine: Any, tx: Any, now_ms: int, commands: Sequence[Any]) -> Any:
        result = decide(engine, tx, now_ms, commands)
        self._mark(commands)
        return result

    async def _publish(self, publish: Callable[..., Any], hub: Any, decision: Any) -> None:
        told, self._told = self._told, []
        began = _now()
        await publish(hub, decision)
        ended = _now()
        for marks in told:
            path = [*marks, began, ended]
            if len(path) == len(STAGES) + 1 and len(self._paths) < PATHS_MAX:
                self._paths.append(path)


def _around(original: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: around(original, *args)


def figures(name: str, paths: Sequence[Sequence[Sequence[float]]], seen_ms: float) -> list[Figure]:
    """The median of each stage, and what of `seen_ms`, from sending to seeing, lies outside of all."""
    walls, cpus = (
        [[path[n + 1][clock] - path[n][clock] for path in paths] for n in range(len(STAGES))] for clock in (0, 1)
    )
    medians = [statistics.median(each) * 1e6 for each in walls]
    seen_us = seen_ms * 1e3
    outside = seen_us - statistics.median(path[-1][0] - path[0][0] for path in paths) * 1e6
    details = [f", {statistics.median(each) * 1e6:.0f} us of processor time" for each in cpus]
    rows = zip((*STAGES, "kernel, wake-ups, generator"), (*medians, outside), (*details, ""), strict=True)
    return [Figure(name, stage, "us", (us,), detail=f"{us / seen_us:.0%}{detail}") for stage, us, detail in rows]


def main() -> None:
    stages = Stages(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGUSR1, stages.write)
    stages.install()
    from syncd.app.cli import main as syncd  # finds the functions with the stopwatch

    syncd()


if __name__ == "__main__":
    main()
