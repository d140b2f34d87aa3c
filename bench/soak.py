"""`make soak`: a daemon under a steady mixed load for an hour; does anything grow that should not?

Owns the samples, what may be concluded from them, and the exit code: 0 only if memory was steady and nothing else was
wrong; 1 if it grew, if something was wrong, or if the run was too short to judge. The load is `mixed.py`, the
arithmetic of growth `trend.py`.

What is judged is the memory that the process itself took (`RssAnon`). The pages of the store that the kernel keeps
mapped (`RssFile`) are its cache, which it takes back when it needs to; they grow with the store, which logs every
change, and are reported beside. After the load has gone, descriptors must be back where they were before it came.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click
import trio

from bench import mixed
from bench.client import Broken, Http
from bench.daemon import Daemon
from bench.measure import cores, cpu_s, environment, memory_bytes
from bench.mixed import GENTLE, STEADY, Load, differences
from bench.native import Failed
from bench.trend import STEADY as IS_STEADY
from bench.trend import TOO_SHORT, Trend, trend

RESULTS = Path(__file__).resolve().parent / "results"
SAMPLES = 720  # of an hour-long run: one in five seconds
SAMPLE_S_MIN = 1.0
SAVE_S = 60.0  # so that a run that is killed has told something
REST_S_MAX = 90.0  # for all devices to have everything: the longest absence, and a page
LEAVE_S_MAX = 60.0  # for the daemon to have noticed that all are gone
LOOK_S = 0.5
DESCRIPTORS_SPARE = 2  # sampling's own connection, and one that the kernel has not let go yet
GENTLE_CPU_MAX = 0.25  # of one core, generator and daemon together
SETTINGS = {"SYNCD_LOG__LEVEL": "warning"}  # as an operator would run it; only its complaints are of interest


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the daemon. `seconds`: since the load began; `loop_ms`: a round trip to `/healthz`; `daemon_s`,
    `load_s`: processor time since the start of each."""

    seconds: float
    anon_bytes: int
    file_bytes: int
    descriptors: int
    threads: int
    store_bytes: int
    devices: int
    loop_ms: float
    daemon_s: float
    load_s: float


async def taken(daemon: Daemon, http: Http, began_s: float) -> Sample:
    asked_s = time.perf_counter()
    status, _ = await http.request("GET", "/healthz", {}, b"")
    loop_ms = (time.perf_counter() - asked_s) * 1e3
    if status != 200:
        raise Broken(f"/healthz was answered {status}")
    _, answer = await http.request("GET", "/admin/status", {}, b"")
    told = json.loads(answer)
    memory, proc = memory_bytes(daemon.pid), Path(f"/proc/{daemon.pid}")
    return Sample(
        time.monotonic() - began_s, memory["RssAnon"], memory["RssFile"], len(os.listdir(proc / "fd")),
        len(os.listdir(proc / "task")), told["store"]["used_bytes"], told["connections"]["devices"], loop_ms,
        cpu_s(daemon.pid), time.process_time(),
    )  # fmt: skip


# -- what may be concluded --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """`before`, `after`: without any load. `problems`: what was wrong whatever memory did, in words."""

    samples: tuple[Sample, ...]
    before: Sample
    after: Sample | None
    problems: tuple[str, ...]
    counts: dict[str, Any]

    @property
    def growth(self) -> Trend | None:
        return trend([sample.seconds for sample in self.samples], [sample.anon_bytes for sample in self.samples])

    @property
    def verdict(self) -> str:
        growth = self.growth
        if self.problems:
            return "failed"
        return TOO_SHORT if growth is None else growth.verdict

    @property
    def exit_code(self) -> int:
        return 0 if self.verdict == IS_STEADY else 1

    def cpu_share(self) -> tuple[float, float]:
        """Of one core: (daemon, load), while the load ran."""
        if len(self.samples) < 2:
            return 0.0, 0.0
        first, last = self.samples[0], self.samples[-1]
        took_s = last.seconds - first.seconds
        return (last.daemon_s - first.daemon_s) / took_s, (last.load_s - first.load_s) / took_s

    def as_json(self) -> dict[str, Any]:
        growth = self.growth
        columns = {field.name: [getattr(each, field.name) for each in self.samples] for field in fields(Sample)}
        loops = sorted(columns["loop_ms"])
        daemon_share, load_share = self.cpu_share()
        return {
            "verdict": self.verdict,
            "problems": list(self.problems),
            "growth": None if growth is None else asdict(growth),
            "cpu_share": {"daemon": daemon_share, "load": load_share},
            "loop_ms": {
                "p50": statistics.median(loops), "p99": loops[int(0.99 * (len(loops) - 1))], "max": loops[-1],
            } if loops else None,
            "counts": self.counts,
            "before": asdict(self.before),
            "after": None if self.after is None else asdict(self.after),
            "samples": columns,
        }  # fmt: skip


def leaks(before: Sample, after: Sample) -> list[str]:
    """What a daemon without a client still holds and did not before."""
    found = []
    if after.descriptors > before.descriptors + DESCRIPTORS_SPARE:
        found.append(f"{after.descriptors} descriptors are open after all have left; {before.descriptors} were before")
    if after.devices:
        found.append(f"{after.devices} devices are counted after all have left")
    return found


# -- the run ----------------------------------------------------------------------------------------------------------


class Soak:
    """One run. Keeps what was found so that it can be written at any time."""

    def __init__(self, daemon: Daemon, load: Load, seconds: float, say: Callable[[str], None], file: Path) -> None:
        self._daemon, self._load, self._seconds, self._say, self._file = daemon, load, seconds, say, file
        self._samples: list[Sample] = []
        self._problems: list[str] = []
        self._before: Sample | None = None
        self._after: Sample | None = None
        self.machine: dict[str, Any] = {}

    def report(self) -> Report:
        assert self._before is not None
        counts = self._load.counts.as_json()
        return Report(tuple(self._samples), self._before, self._after, tuple(self._problems), counts)

    async def run(self) -> None:
        http = Http(self._daemon.admin_port, {})
        began_s = time.monotonic()
        try:
            await taken(self._daemon, http, began_s)  # the first makes what later ones reuse
            self._before = await taken(self._daemon, http, began_s)
            await self._load.burst()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._load.run)
                await self._sample(http, began_s)
                self._load.is_editing = False
                self._say("the load rests: every device must have everything")
                await self._wait_rest()
                nursery.cancel_scope.cancel()
            await self._wait_gone(http, began_s)
        except BaseExceptionGroup as group:
            broken, rest = group.split((Broken, OSError))
            if rest is not None or broken is None:
                raise
            self._problems += map(str, _leaves(broken))
        finally:
            http.close()
        try:
            self._daemon.check()
        except Failed as failed:
            self._problems.append(str(failed))

    async def _sample(self, http: Http, began_s: float) -> None:
        every_s = max(SAMPLE_S_MIN, self._seconds / SAMPLES)
        saved_s, due_s = began_s, trio.current_time()
        while time.monotonic() - began_s < self._seconds:
            due_s += every_s
            await trio.sleep_until(due_s)
            self._samples.append(await taken(self._daemon, http, began_s))
            self._say(self._line())
            if time.monotonic() - saved_s >= SAVE_S:
                saved_s = time.monotonic()
                self.save(is_finished=False)

    def _line(self) -> str:
        last, growth = self._samples[-1], self.report().growth
        counts, (daemon_share, load_share) = self._load.counts, self.report().cpu_share()
        return (
            f"{_clock(last.seconds)} of {_clock(self._seconds)}: memory {last.anon_bytes / 2**20:.1f} MiB"
            f" ({'?' if growth is None else growth}), {last.descriptors} descriptors, {last.threads} threads,"
            f" store {last.store_bytes / 2**20:.1f} MiB, loop {last.loop_ms:.1f} ms,"
            f" {counts.edits:,} edits, {counts.sessions:,} sessions, {counts.posts:,} posts, {counts.hostile:,} hostile"
            f", {daemon_share:.0%} + {load_share:.0%} of a core"
        )

    async def _wait_rest(self) -> None:
        with trio.move_on_after(REST_S_MAX):
            while True:  # who comes last is known only by looking
                if not differences(self._load.devices):
                    return
                await trio.sleep(LOOK_S)
        self._problems += differences(self._load.devices)

    async def _wait_gone(self, http: Http, began_s: float) -> None:
        assert self._before is not None
        with trio.move_on_after(LEAVE_S_MAX):
            while True:
                if not leaks(self._before, await taken(self._daemon, http, began_s)):
                    break
                await trio.sleep(LOOK_S)
        self._after = await taken(self._daemon, http, began_s)
        self._problems += leaks(self._before, self._after)

    def save(self, *, is_finished: bool) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": self.machine, "finished": is_finished} | self.report().as_json(), indent=1)
        beside = self._file.with_suffix(".part")
        beside.write_text(text + "\n")
        beside.replace(self._file)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@click.command()
@click.option("--seconds", type=click.IntRange(min=5), default=3600, show_default=True)
@click.option("--gentle", is_flag=True, help="A low rate: at most a quarter of one core, daemon and load together.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the load's choices.")
@click.option("--json", "file", type=click.Path(path_type=Path), default=RESULTS / "soak.json", show_default=False)
def main(seconds: int, gentle: bool, seed: int, file: Path) -> None:
    """Run a daemon under a steady mixed load, and judge whether its memory grows."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="soak-", dir=RESULTS))
    rates = GENTLE if gentle else STEADY
    try:
        machine = environment(directory)
        server_core, load_core = cores()
        with Daemon(directory / "store", None if gentle else server_core, settings=SETTINGS) as daemon:
            if not gentle:
                os.sched_setaffinity(0, {load_core})
            users = -(-rates.devices // mixed.DEVICES_PER_USER)
            tokens = [daemon.token(f"soak-{user}", ttl=f"{seconds + 3600}s") for user in range(users)]
            api_key = daemon.api_key("events:write", "changes:write:bench/**")
            load = Load(daemon.port, rates, tokens, api_key, seed)
            soak = Soak(daemon, load, seconds, _progress(), file)
            soak.machine = machine
            trio.run(soak.run)
        soak.save(is_finished=True)
        report = soak.report()
    except Failed as failed:
        click.echo(f"the soak could not run: {failed}", err=True)
        sys.exit(1)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _conclude(report, gentle)
    click.echo(f"written to {os.path.relpath(file)}", err=True)
    sys.exit(report.exit_code)


def _progress() -> Callable[[str], None]:
    """A line that is written over on a terminal; elsewhere one in a minute, and what is not a count at once."""
    is_terminal, last_s = sys.stderr.isatty(), -60.0

    def say(text: str) -> None:
        nonlocal last_s
        if is_terminal:
            click.echo(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", err=True, nl=False)
        elif time.monotonic() - last_s >= 60.0 or text[0].isalpha():
            last_s = time.monotonic()
            click.echo(text, err=True)

    return say


def _conclude(report: Report, gentle: bool) -> None:
    click.echo("", err=True)
    for problem in report.problems:
        click.echo(f"wrong: {problem}")
    share = sum(report.cpu_share())
    if gentle and share > GENTLE_CPU_MAX:
        click.echo(f"note: daemon and load took {share:.0%} of a core; {GENTLE_CPU_MAX:.0%} were promised", err=True)
    growth = report.growth
    click.echo(f"memory: {'too few samples' if growth is None else growth}; {report.verdict}")


if __name__ == "__main__":
    main()
