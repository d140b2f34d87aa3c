"""Where the daemon's time goes: samples of its stacks, summed by layer and by function.

Owns the run of py-spy beside a load and the grouping of what it found, the same for every benchmark that can be
profiled. Only threads that hold the interpreter's lock are sampled: the profile is of work, not of waits. A sample
counts for its innermost frame that lies in a known place, so that what a library does for a layer is part of that
layer; the time inside LMDB, msgpack and the kernel shows in the function that called them.
"""

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.measure import Figure
from bench.native import Failed

LAYERS = (
    ("parse", ("syncd/wire/", "syncd/core/changes.py", "syncd/core/ids.py", "wsproto/", "syncd/net/websocket.py")),
    ("merge", ("syncd/core/fields.py", "syncd/core/documents.py")),
    ("sums", ("syncd/core/sums.py",)),
    ("engine", ("syncd/engine/",)),
    ("notifications", ("syncd/notify/",)),
    ("encode rows", ("syncd/core/values.py", "syncd/store/tables.py", "syncd/store/keys.py")),
    ("LMDB", ("syncd/store/lmdb.py",)),
    ("committer", ("syncd/store/committer.py",)),
    ("sockets and threads", ("syncd/env/",)),
    ("HTTP", ("h11/", "syncd/net/http.py", "syncd/net/exchange.py")),
    ("API", ("syncd/net/api/", "syncd/net/auth.py", "syncd/net/gate.py", "syncd/net/rates.py")),
    ("connections and hub", ("syncd/net/",)),
    ("event loop", ("trio/", "outcome/")),
)
SAMPLES_PER_S = 500
TOP = 15
WRITE_S = 30


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares of all samples with a busy thread: by layer, and by function (its own time)."""

    layers: tuple[tuple[str, float], ...]
    functions: tuple[tuple[str, float], ...]


class Sampler:
    """py-spy beside a running process, as a context manager. Raises `Failed` where it is missing or may not look."""

    def __init__(self, pid: int, directory: Path) -> None:
        beside = Path(sys.executable).parent / "py-spy"
        program = str(beside) if beside.exists() else shutil.which("py-spy")
        if program is None:
            raise Failed("no py-spy is installed (pip install py-spy)")
        self._output = directory / "stacks"
        command = [program, "record", "--pid", str(pid), "--format", "raw", "--output", str(self._output)]
        command += ["--rate", str(SAMPLES_PER_S), "--duration", "600", "--nonblocking", "--gil"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)  # it writes what it has
        _, self._said = self._process.communicate(timeout=WRITE_S)

    def profile(self) -> Profile:
        """What was found, after the end."""
        if not self._output.exists():
            raise Failed(f"py-spy found nothing: {self._said[-500:]}")
        return grouped(self._output.read_text().splitlines())


def profiled(
    name: str, pid: int, directory: Path, load: Callable[[], object], say: Callable[[str], None]
) -> list[Figure]:
    """One more run of a benchmark, sampled: the daemon's time by layer and by function. Raises `Failed`."""
    say(f"{name}: one more run, sampled by py-spy")
    with Sampler(pid, directory) as sampler:
        load()
    found = sampler.profile()
    return [
        Figure(f"{name}, time by {kind}", of, "%", (100 * share,))
        for kind, shares in (("layer", found.layers), ("function", found.functions))
        for of, share in shares
    ]


def grouped(stacks: Iterable[str]) -> Profile:
    """Sum collapsed stacks: `frame (file:line);frame (file:line) COUNT`, outermost first."""
    layers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in stacks:
        text, _, count = line.rpartition(" ")
        frames = text.split(";")
        layers[_layer(frames)] += int(count)
        functions[_function(frames[-1])] += int(count)
    total = max(1, layers.total())
    return Profile(
        tuple((name, count / total) for name, count in layers.most_common()),
        tuple((name, count / total) for name, count in functions.most_common(TOP)),
    )


def _layer(frames: list[str]) -> str:
    for frame in reversed(frames):
        for name, places in LAYERS:
            if any(place in frame for place in places):
                return name
    return "other"


def _function(frame: str) -> str:
    """`decide (syncd/engine/engine.py:60)` -> `decide (engine/engine.py)`"""
    name, _, place = frame.partition(" (")
    path = place.rstrip(")").rpartition(":")[0]
    return f"{name} ({'/'.join(path.split('/')[-2:])})"
