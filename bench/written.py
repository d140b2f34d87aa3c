"""What a stopwatch inside the daemon tells: it is asked by SIGUSR1, and writes a file.

Owns both ends. What is written is what was measured since the last time; the file is renamed into place, so whoever
reads it reads all of it.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from bench.native import Failed

WAIT_S = 30.0


def write(file: Path, measured: Any) -> None:
    """In the daemon, as SIGUSR1 comes."""
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(measured))
    os.rename(aside, file)


def asked(file: Path, pid: int) -> Any:
    """All that the stopwatch in a process has measured since the last time. Raises `Failed`."""
    file.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    due_s = time.monotonic() + WAIT_S
    while not file.exists():
        if time.monotonic() > due_s:
            raise Failed("the daemon did not write what it measured")
        time.sleep(0.02)
    return json.loads(file.read_text())
