"""The two C programs, compiled when they are needed.

Owns the compiler call and the conversation with `devices`. A machine without a compiler cannot run the benchmarks that
need them: they are skipped, loudly, because a load generator in Python would itself be the bottleneck.
"""

import json
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.measure import pin

HERE = Path(__file__).resolve().parent
OPENINGS_PER_S = 900  # below the 1,000 that the daemon admits


class NoCompiler(Exception):
    """There is no `cc`."""


class Failed(Exception):
    """A program of the benchmark ended before it was done; the message has what it wrote."""


def compiled(name: str, directory: Path) -> Path:
    """Compile `name`.c into the directory; returns the program. Raises `NoCompiler`, `Failed`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("no C compiler (cc) is installed")
    program = directory / name
    result = subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(HERE / f"{name}.c")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise Failed(f"{name}.c does not compile: {result.stderr[:2000]}")
    return program


@dataclass(frozen=True, slots=True)
class Plan:
    """One connection of the generator. `subscribe`: a frame, empty if it does not. `pushes`: (changes in it, frame)."""

    upgrade: bytes
    hello: bytes
    subscribe: bytes = b""
    pushes: Sequence[tuple[int, bytes]] = ()

    def encoded(self) -> bytes:
        parts = [sized(self.upgrade), sized(self.hello), sized(self.subscribe), struct.pack("<I", len(self.pushes))]
        parts += [struct.pack("<I", changes) + sized(frame) for changes, frame in self.pushes]
        return b"".join(parts)


def sized(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


class Generator:
    """A load generator, running on a core of its own, as a context manager. Every method raises `Failed`."""

    def __init__(self, name: str, command: Sequence[str | Path], core: int) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command, preexec_fn=partial(pin, core), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def open(self) -> dict[str, Any]:
        """Connect and subscribe all."""
        return self._answer("open")

    def go(self, window: int, count: int) -> dict[str, Any]:
        """Send the next `count` pushes of each publisher, `window` unanswered at most; returns what was counted."""
        return self._counted(f"go {window} {count}")

    def _counted(self, command: str) -> dict[str, Any]:
        counted = self._answer(command)
        if counted["applied"] != counted["outcomes"]:
            raise Failed(
                f"{counted['outcomes'] - counted['applied']} changes were not applied: the figure means nothing"
            )
        return counted

    def _answer(self, command: str) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            process.stdin.write(command + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it says why on stderr
        line = process.stdout.readline()
        if not line:
            raise Failed(f"{self._name} ended during {command!r}: {process.stderr.read().strip()[:1000]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Devices(Generator):
    """`devices.c`: many devices of the daemon."""

    def __init__(self, program: Path, port: int, plans: Iterable[Plan], directory: Path, core: int) -> None:
        encoded = [plan.encoded() for plan in plans]
        path = directory / f"plan-{port}"
        path.write_bytes(struct.pack("<I", len(encoded)) + b"".join(encoded))
        super().__init__("devices", [program, str(port), str(path), str(OPENINGS_PER_S)], core)

    def pace(self, rate: int, count: int) -> dict[str, Any]:
        """Send the next `count` pushes of the only publisher, `rate` a second."""
        return self._counted(f"pace {rate} {count}")
