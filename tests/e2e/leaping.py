"""The daemon's own process under a wall clock that a test moves: `python -m tests.e2e.leaping CLOCK serve ...`.

All is as `syncd serve` does it - settings, store, sockets, threads - but for one port of its environment, the wall
clock. That is ahead of the machine's by what stands in the file CLOCK, which both processes have mapped. Time that is
waited for stays the machine's: a daemon looks at its timers each second, so a leap is seen within one.
"""

import mmap
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from struct import Struct

import trio

from syncd.app import config, daemon, logs, show
from syncd.env.real import SystemClock, environment

_AHEAD_MS = Struct("<q")


class LeapingClock:
    """A wall clock that is `ahead_ms` of the machine's."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(_AHEAD_MS.pack(0))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), _AHEAD_MS.size)
        self._machine = SystemClock()

    def now_ms(self) -> int:
        return self._machine.now_ms() + self.ahead_ms

    @property
    def ahead_ms(self) -> int:
        return int(_AHEAD_MS.unpack_from(self._shared)[0])

    def set(self, now_ms: int) -> None:
        """Let it be this moment now."""
        _AHEAD_MS.pack_into(self._shared, 0, now_ms - self._machine.now_ms())


def main(clock: str, serve: str, option: str, file: str) -> None:
    assert (serve, option) == ("serve", "--config"), "it is called as `syncd serve --config FILE` is"
    settings = config.loaded(Path(file), os.environ)
    logs.start(settings.config.log.level)
    env = replace(environment(), clock=LeapingClock(Path(clock)))
    trio.run(partial(daemon.serve, settings, env, os.environ, show.ready_line))


if __name__ == "__main__":
    main(*sys.argv[1:])
