"""The daemon with a stopwatch on its event loop: `python -m bench.turns FILE serve`, run as `syncd serve` is.

A turn is what the loop does between two waits for the network: as long as it lasts, nobody else is served. For each one
its length on the wall and the processor time of the loop's own thread are kept. SIGUSR1 writes them to the file, and
begins anew (`written.py`).
"""

import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from bench.written import write

TURNS_MAX = 1_000_000  # of one measurement: 16 bytes each, and beyond it a run is too long to be one


class Turns(trio.abc.Instrument):
    """Called by trio around each wait."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._began_s = self._began_cpu_s = 0.0
        self._turns: list[tuple[float, float]] = []

    def after_io_wait(self, timeout: float) -> None:
        self._began_s, self._began_cpu_s = time.perf_counter(), time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        if self._began_s and len(self._turns) < TURNS_MAX:
            took = (time.perf_counter() - self._began_s, time.thread_time() - self._began_cpu_s)
            self._turns.append(took)

    def write(self, *_: Any) -> None:
        turns, self._turns = self._turns, []
        write(self._file, turns)
        self._began_s = 0.0  # the turn in which this was written is none of the daemon's


def main() -> None:
    turns = Turns(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGUSR1, turns.write)
    trio.run = partial(trio.run, instruments=[turns])  # type: ignore[assignment]
    from syncd.app.cli import main as syncd  # finds the `run` with the stopwatch

    syncd()


if __name__ == "__main__":
    main()
