"""Autobahn's fuzzing client against the daemon's WebSocket stack.

    python -m tests.conformance.autobahn [--cases 1.* 2.*]

The suite runs on CPython 2.7 only. `prepared` finds one and keeps a virtual environment of it; `results` runs the cases
against an echo (`echo.py`) in this process and reads the report, because the suite exits with 0 also after failures.

The daemon takes one kind of message for each connection, as its subprotocols say, so cases with binary messages
run on the binary one and all others on the text one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import trio

from syncd.env.real import listen_tcp
from tests.conformance.echo import EchoServer

SUITE: Final = "autobahntestsuite==0.8.2"
VIRTUALENV: Final = "virtualenv<20.22"  # the last that makes environments of Python 2.7
BINARY_CASES: Final = ("1.2.*", "9.2.*", "9.4.*", "9.6.*", "9.8.*", "12.2.*", "12.3.*", "12.5.*")
TEXT_CASES: Final = (
    *("1.1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.*", "9.3.*", "9.5.*", "9.7.*", "10.*"),
    *("12.1.*", "12.4.*", "13.*"),
)
COMPRESSION: Final = ("12.", "13.")  # most of the time is theirs
INSTALL_S: Final = 900.0
RUN_S: Final = 3_600.0  # the compression cases have 1,000 messages each, up to 128 KiB

# What a case may end in. INFORMATIONAL: the suite only reports what the server does, and there is no right or wrong.
GOOD: Final = ("OK", "INFORMATIONAL")


class NoSuite(Exception):
    """The suite cannot run here. The text says why."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """`behavior`: of the messages; `closing`: of the end of the connection."""

    case: str
    behavior: str
    closing: str
    agent: str

    @property
    def is_good(self) -> bool:
        return self.behavior in GOOD and self.closing in GOOD


def _candidates() -> Iterator[str]:
    """Interpreters that may be a CPython 2.7: from PATH, and those that pyenv keeps outside of it."""
    if found := shutil.which("python2.7"):
        yield found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(root.glob("versions/2.7*/bin/python2.7")))


def _run(*command: str, **environment: str) -> str:
    """Raises `NoSuite` with the end of what the command said."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, env={**os.environ, **environment}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSuite(str(error)) from None
    if done.returncode:
        raise NoSuite(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def python27() -> str:
    """An interpreter that answers (a version manager's shim may stand for nothing). Raises `NoSuite`."""
    tried = []
    for candidate in _candidates():
        try:
            version = _run(candidate, "-c", "import sys, platform; print(platform.python_implementation())")
        except NoSuite as error:
            tried.append(str(error))
            continue
        if version == "CPython":
            return candidate
    raise NoSuite("; ".join(["no CPython 2.7 was found on PATH or in ~/.pyenv/versions", *tried]))


def prepared(directory: Path) -> Path:
    """The suite's `wstest`, in a virtual environment that is made once. Raises `NoSuite`."""
    wstest = directory / "venv" / "bin" / "wstest"
    if wstest.exists():
        return wstest
    python = python27()
    quiet = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    boot = str(directory / "boot")
    _run(python, *quiet, "--target", boot, VIRTUALENV)
    _run(python, "-m", "virtualenv", "--quiet", str(directory / "venv"), PYTHONPATH=boot)
    _run(str(directory / "venv" / "bin" / "python"), *quiet, SUITE)
    if not wstest.exists():
        raise NoSuite(f"{SUITE} was installed, but there is no {wstest}")
    return wstest


def _specification(url: str, reports: Path, cases: Sequence[str], protocol: str) -> dict[str, Any]:
    return {
        "outdir": str(reports),
        "servers": [{"agent": protocol, "url": url, "protocols": [protocol]}],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }


async def results(wstest: Path, groups: Sequence[tuple[str, Sequence[str]]]) -> list[CaseResult]:
    """Run cases of each subprotocol, and read the report."""
    found: list[CaseResult] = []
    server, listener = EchoServer(), listen_tcp("127.0.0.1", 0)
    with TemporaryDirectory(prefix="syncd-autobahn-") as name:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: server.serve(listener, task_status=task_status))
            for protocol, cases in groups:
                reports = Path(name) / protocol
                specification = Path(name) / f"{protocol}.json"
                host, port = listener.address
                url = f"ws://{host}:{port}/v1/sync"
                specification.write_text(json.dumps(_specification(url, reports, cases, protocol)))
                with trio.fail_after(RUN_S):
                    await trio.run_process(
                        [wstest, "-m", "fuzzingclient", "-s", specification],
                        capture_stdout=True, capture_stderr=True, cwd=name,
                    )  # fmt: skip
                report = json.loads((reports / "index.json").read_text())[protocol]
                found += [
                    CaseResult(case, entry["behavior"], entry["behaviorClose"], protocol)
                    for case, entry in report.items()
                ]
            nursery.cancel_scope.cancel()
    assert not server.logs, server.logs
    return sorted(found, key=lambda result: tuple(map(int, result.case.split("."))))


def groups_of(cases: Sequence[str], *, is_core: bool = False) -> list[tuple[str, Sequence[str]]]:
    """Which of the cases (patterns of the suite; none: all, or `is_core`: all without compression) run on which
    subprotocol."""

    def chosen(patterns: Sequence[str]) -> list[str]:
        if is_core:
            return [pattern for pattern in patterns if not pattern.startswith(COMPRESSION)]
        if not cases:
            return list(patterns)
        return [case for case in cases if any(case.startswith(pattern.rstrip("*")) for pattern in patterns)]

    both = (("syncd.v1.json", chosen(TEXT_CASES)), ("syncd.v1.msgpack", chosen(BINARY_CASES)))
    return [(protocol, patterns) for protocol, patterns in both if patterns]


def summary(found: Sequence[CaseResult]) -> str:
    counts = Counter(result.behavior for result in found)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.autobahn", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="*", default=[], help="patterns such as 9.1.*; all if none is given")
    parser.add_argument(
        "--core", action="store_true", help="all but the cases about compression, which take most of an hour"
    )
    parser.add_argument("--directory", type=Path, default=Path(sys.prefix) / "autobahn", help="where the suite is kept")
    given = parser.parse_args()
    try:
        wstest = prepared(given.directory)
    except NoSuite as missing:
        print(f"SKIPPED: the Autobahn suite cannot run here: {missing}", file=sys.stderr)
        return 0
    found = trio.run(results, wstest, groups_of(given.cases, is_core=given.core))
    bad = [result for result in found if not result.is_good]
    for result in bad:
        print(f"case {result.case} ({result.agent}): {result.behavior}, closing {result.closing}")
    print(f"{len(found)} cases: {summary(found)}; {len(bad)} of them are not as they should be")
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
