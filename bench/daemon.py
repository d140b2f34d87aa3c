"""The daemon under test: a process of its own on a core of its own, with a store that is thrown away.

Owns its start, its tokens and its end. It runs exactly as an operator would start it; only limits that guard against a
single host with thousands of devices are raised, because here all devices are on one host.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from bench import workload
from bench.measure import pin
from bench.native import Failed, Plan

START_S = 60  # on a machine that is busy: counts are measured there, too


RAISED = {
    "SYNCD_SERVER__CONNECTIONS_PER_ADDRESS_MAX": "100_000",
    "SYNCD_SERVER__CONNECTIONS_PER_USER_MAX": "10_000",
    "SYNCD_SERVER__UPGRADES_PER_S_MAX": "100_000",
    "SYNCD_LIMITS__MESSAGES_PER_S_MAX": "10_000",
    "SYNCD_RATES__ADDRESS_CONNECTIONS_PER_S": "0",
    "SYNCD_RATES__ADDRESS_REQUESTS_PER_S": "0",
    "SYNCD_RATES__CALLER_REQUESTS_PER_S": "0",
    "SYNCD_RATES__USER_BYTES_PER_S": "0",
    "SYNCD_RATES__USER_CHANGES_PER_S": "0",
    "SYNCD_QUOTAS__DEVICES_PER_USER_MAX": "1_000_000",
    "SYNCD_QUOTAS__SPACES_PER_USER_MAX": "1_000_000",
    "SYNCD_QUOTAS__IDEMPOTENCY_KEYS_PER_KEY_MAX": "1_000_000_000",
    "SYNCD_KEEPALIVE__PING_MS": "600_000",
    "SYNCD_LOG__LEVEL": "warning",
}


_SYNCD = (sys.executable, "-m", "syncd.app.cli")
# As systemd hands a socket on: descriptor 3, and the number of the process that it is meant for.
_INHERITING = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


class Daemon:
    """A running daemon, as a context manager."""

    def __init__(
        self,
        directory: Path,
        core: int | None,
        *,
        settings: Mapping[str, str] | None = None,
        program: Sequence[str] = _SYNCD,
        listener: socket.socket | None = None,
    ) -> None:
        """`core` None: wherever the kernel wants it. `settings`: instead of `RAISED`. `program`: what `serve` is said
        to. `listener`: the socket that it inherits, as from `conf/syncd.socket`; None: it opens one."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SYNCD_")}
        self._environ = environ | dict(RAISED if settings is None else settings) | {
            "SYNCD_STATE_DIR": str(directory), "SYNCD_LISTEN": "127.0.0.1:0",
            "SYNCD_ADMIN_LISTEN": "127.0.0.1:0",
        }  # fmt: skip
        self._log = (directory.parent / f"{directory.name}.log").open("w+")
        inherited = () if listener is None else (listener.fileno(),)
        inheriting = [sys.executable, "-c", _INHERITING, *map(str, inherited)] if inherited else []
        self._process = subprocess.Popen(
            [*inheriting, *program, "serve"], env=self._environ, text=True, stdout=subprocess.PIPE, stderr=self._log,
            preexec_fn=None if core is None else partial(pin, core), pass_fds=inherited,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the daemon did not start: {self._logged()}")
        ready = json.loads(line)
        self.port = int(ready["http"].rpartition(":")[2])
        self.admin_port = int(ready["admin"].rpartition(":")[2])
        self.pid = self._process.pid

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Nobody is drained: what was measured is over, and the store goes with its directory.
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Until it has ended by itself; returns its exit code."""
        return self._process.wait()

    def token(self, user: str, ttl: str = "1h") -> str:
        """A token of a user who may write every space of the benchmarks, and the user's own."""
        grants = ["--grant", "bench/**:writer", "--grant", f"user/{user}:owner"]
        return self._command("token", "--user", user, *grants, "--ttl", ttl).strip()

    def api_key(self, *scopes: str) -> str:
        """The secret of a new API key."""
        asked = [part for scope in scopes for part in ("--scope", scope)]
        made: dict[str, Any] = json.loads(self._command("apikey", "create", "bench", *asked, "--json"))
        secret: str = made["secret"]
        return secret

    def status(self) -> dict[str, Any]:
        """What `syncd status --json` says."""
        status: dict[str, Any] = json.loads(self._command("status", "--json"))
        return status

    def _command(self, *arguments: str) -> str:
        return subprocess.run(
            [*_SYNCD, *arguments], env=self._environ, check=True, capture_output=True, text=True, timeout=START_S
        ).stdout

    def check(self, expected: str | None = None) -> None:
        """Raises `Failed` if the daemon logged anything: a warning or an error makes a figure worthless. Lines that
        hold `expected` are part of what is measured."""
        lines = [line for line in self._logged().splitlines() if expected is None or expected not in line]
        if lines:
            raise Failed(f"the daemon complained: {' '.join(lines)}")

    def _logged(self) -> str:
        self._log.flush()
        self._log.seek(0)
        return self._log.read()[-2000:].strip()


def device(
    port: int, name: str, token: str, *, space: str | None, pushes: list[tuple[int, bytes]] | None = None
) -> Plan:
    """One connection; with `space` it subscribes to it."""
    device_id = workload.sized_id(name)
    return Plan(
        workload.upgrade_request(f"127.0.0.1:{port}", device_id),
        workload.client_frame(workload.hello_message(device_id, token)),
        workload.client_frame(workload.subscribe_message(space)) if space is not None else b"",
        pushes or (),
    )
