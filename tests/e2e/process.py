"""A real daemon in a process of its own: start it, wait for its ready line, talk to it, stop or kill it.

Nothing here sleeps: starting ends with the ready line, stopping with the process. Used by the tests of the process, of
crashes, and by whoever needs a daemon from outside.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from syncd.app import config
from syncd.engine.grants import parsed_grant
from syncd.env.real import SystemClock
from syncd.net.auth import sign_token

START_S = 60.0  # slow cores under load; the daemon itself needs less than a second
STOP_S = 60.0

COMMAND = (sys.executable, "-m", "syncd.app.cli")


class StartFailed(Exception):
    """The process ended, or time passed, before it was ready."""

    def __init__(self, code: int | None, stderr: str) -> None:
        super().__init__(f"exit code {code}: {stderr}")
        self.code, self.stderr = code, stderr


def environment(directory: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a daemon or a command on this state directory, free of what the developer has set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYNCD_")}
    own = {"SYNCD_STATE_DIR": str(directory), "SYNCD_LISTEN": "127.0.0.1:0", "SYNCD_ADMIN_LISTEN": "127.0.0.1:0"}
    return inherited | own | dict(extra or {})


def run(directory: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One command of the command line, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(directory), input=stdin, capture_output=True, text=True, timeout=START_S
    )


class Daemon:
    """A running daemon. `http` and `admin` are HOST:PORT. Its log is the file `log`, appended to by each start."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, log: Path, ready: Mapping[str, Any]) -> None:
        self.process, self.directory, self.log = process, directory, log
        self.http: str = ready["http"]
        self.admin: str = ready["admin"]
        self.pid: int = ready["pid"]

    @property
    def url(self) -> str:
        return f"http://{self.http}"

    @property
    def sync_url(self) -> str:
        return f"ws://{self.http}/v1/sync"

    def run(self, *arguments: str) -> str:
        """The output of one command of the command line that must succeed."""
        done = run(self.directory, *arguments)
        assert done.returncode == 0, f"syncd {' '.join(arguments)}: exit code {done.returncode}: {done.stderr}"
        return done.stdout.strip()

    def token(self, user: str, *grants: str, ttl_s: float = 3600.0) -> str:
        """As `syncd token` makes it, without the time that starting a process takes. `grants`: PATTERN:ROLE."""
        settings = config.loaded(None, environment(self.directory))
        given = [parsed_grant(*grant.rsplit(":", 1)) for grant in grants]
        return sign_token(config.signing_key(settings, None), user, given, ttl_s, SystemClock().now_ms())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(STOP_S)

    def stop(self) -> int:
        """SIGTERM, drain, end. The exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: what a power cut is to the process."""
        self.process.kill()
        self.process.wait(STOP_S)


def started(
    directory: Path,
    extra: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    command: Sequence[str] = COMMAND,
) -> Daemon:
    """Start a daemon and wait until it is ready. Raises `StartFailed`. The caller stops it."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "daemon.log"
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [*command, "serve", *options], env=environment(directory, extra), stdout=subprocess.PIPE, stderr=stderr,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    line = _first_line(process)
    if not line.endswith(b"\n"):
        process.kill()
        code = process.wait(STOP_S)
        assert process.stdout is not None
        process.stdout.close()
        raise StartFailed(code, log.read_text())
    return Daemon(process, directory, log, json.loads(line))


@contextmanager
def running(
    directory: Path,
    extra: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    command: Sequence[str] = COMMAND,
) -> Iterator[Daemon]:
    """A daemon for the length of a block; it is killed at the end if it still runs."""
    daemon = started(directory, extra, options, command)
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
        assert daemon.process.stdout is not None
        daemon.process.stdout.close()


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """The first line of the output; less than a line if the process ends or takes too long."""
    assert process.stdout is not None
    descriptor, line, deadline = process.stdout.fileno(), b"", time.monotonic() + START_S
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return line
        data = os.read(descriptor, 1)
        if not data:
            process.wait(STOP_S)  # it is ending: let it, so that its exit code is its own
            return line
        line += data
    return line
