"""Figures, how they are condensed, and the machine they were taken on.

Owns the arithmetic: medians, spreads, ratios, verdicts. A figure is the median of several runs; its spread says how far
apart they lay. A ratio is made of pairs of runs that followed each other, so that what the machine did meanwhile to
both of them falls out of it.
"""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPREAD_MAX = 0.35  # beyond it the median says little, and there is a verdict only if all runs agree on it
LIBRARIES = ("trio", "lmdb", "msgpack", "orjson", "wsproto", "h11")


@dataclass(frozen=True, slots=True)
class Target:
    """`least` or `most` of the figure; exactly one is given."""

    least: float | None = None
    most: float | None = None

    def is_met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `values`: one per run. `detail`: what it is made of, in a few words."""

    benchmark: str
    name: str
    unit: str
    values: tuple[float, ...]
    target: Target | None = None
    detail: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(greatest - least) / median"""
        return spread(self.values)

    @property
    def verdict(self) -> str:
        """`met`, `missed`, `noisy`, or nothing if there is no target."""
        if self.target is None:
            return ""
        verdicts = {self.target.is_met(value) for value in self.values}
        if self.spread > SPREAD_MAX and len(verdicts) > 1:
            return "noisy"
        return "met" if self.target.is_met(self.median) else "missed"

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark, "name": self.name, "unit": self.unit, "median": self.median,
            "spread": self.spread, "values": list(self.values), "target": str(self.target) if self.target else None,
            "verdict": self.verdict or None, "detail": self.detail,
        }  # fmt: skip


def spread(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, ...]:
    """The ratio of each pair of runs."""
    return tuple(above / below for above, below in zip(numerators, denominators, strict=True))


# -- processes --------------------------------------------------------------------------------------------------------


def cores() -> tuple[int, int]:
    """(core of the server under test, core of everything else): the last two that this process may use.

    Raises `OSError` if there is only one: then the load would be measured with the server.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise OSError("benchmarks need two cores: one for the server, one for the load")
    return usable[-1], usable[-2]


def pin(core: int) -> None:
    """Keep this process, and what it starts from now on, on one core."""
    os.sched_setaffinity(0, {core})


def cpu_s(pid: int) -> float:
    """Processor time of a process and its threads (`/proc/PID/stat` would give ticks of 10 ms)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_bytes(pid: int) -> dict[str, int]:
    """What of a process is in RAM, as the kernel counts it: `VmRSS` = `RssAnon`, its own, + `RssFile`, mapped files,
    + `RssShmem`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "Rss"))}


def rss_bytes(pid: int) -> int:
    """Memory of a process that is in RAM and belongs to it alone or is shared."""
    return memory_bytes(pid)["VmRSS"]


def busy_share(seconds: float = 0.5) -> float:
    """The share of our cores' time that other processes, or other machines of this host, use now."""

    def reading() -> tuple[int, int]:
        wanted = {f"cpu{core}" for core in cores()}
        busy = total = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name in wanted:
                user, nice, system, idle, iowait, irq, softirq, steal = map(int, ticks[:8])
                busy += user + nice + system + irq + softirq + steal
                total += user + nice + system + irq + softirq + steal + idle + iowait
        return busy, total

    busy, total = reading()
    time.sleep(seconds)
    busy_after, total_after = reading()
    return (busy_after - busy) / max(1, total_after - total)


def sync_ms(directory: Path, count: int = 50) -> list[float]:
    """How long writing and syncing 4 KiB takes in a directory: what bounds every durable figure."""
    path = directory / "sync-probe"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    return took


def environment(directory: Path) -> dict[str, Any]:
    """The machine, recorded with the figures: without it they mean little."""
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "sync_ms": statistics.median(sync_ms(directory)),
        "busy_share_before": busy_share(),
    }
