"""A clock that nobody sets: it measures how long ago a lease was asked for.

Owns where that clock comes from. On Linux and Android it is the time since the machine was started, sleep included, and
one `run` is from start to start, so a process that was restarted can go on measuring. Elsewhere it is the monotonic
clock, and a run ends with the process; it may stand while the machine sleeps, so who reads it looks at the wall clock
as well.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def _run() -> str:
    if hasattr(time, "CLOCK_BOOTTIME"):
        try:
            return _BOOT_ID.read_text().strip()
        except OSError:  # no /proc here
            pass
    return f"process {os.urandom(8).hex()}"


def steady() -> tuple[str, float]:
    """The run, and the seconds since some moment of it."""
    run = _run()
    if run.startswith("process "):
        return run, time.monotonic()
    return run, time.clock_gettime(time.CLOCK_BOOTTIME)
