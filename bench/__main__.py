"""`python -m bench [NAME ...]`: run benchmarks, print the table, write the figures as JSON.

Owns which benchmarks there are, their order, what is shown meanwhile, and the exit code: 0 all targets met or only
reported, 1 a benchmark failed or the machine was too noisy to judge a target, 2 wrong usage. A target that is missed is
reported and is no failure: the figures depend on the machine, and a reader must see them.
"""

import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import (
    behaviour,
    connect,
    deflate,
    download,
    durable,
    engine,
    events,
    fanout,
    latency,
    memory,
    notices,
    peers,
    restart,
    returning,
    signals,
    slow,
    stalls,
    tls,
)
from bench.history import Change, Record, compared, is_same_machine, keep, read, records
from bench.measure import SPREAD_MAX, Figure, busy_share, environment
from bench.native import Failed, NoCompiler

RESULTS = Path(__file__).resolve().parent / "results"
HISTORY = RESULTS / "history"
BUSY_MAX = 0.25  # of both cores before the first run: a test run in the next window, say
STYLES = {"met": "green", "missed": "yellow", "noisy": "red", "": ""}
MARKS = {"worse": "red", "better": "green", "": ""}

Say = Callable[[str], None]


def _benchmarks(
    subscribers: tuple[int, ...], quick: bool, profile: bool
) -> dict[str, Callable[[Path, Say], list[Figure]]]:
    def fan_out(directory: Path, say: Say) -> list[Figure]:
        return [
            figure
            for number in subscribers
            for figure in fanout.run(directory, quick=quick, subscribers=number, say=say)
        ]

    def plain(module_run: Callable[..., list[Figure]], directory: Path, say: Say) -> list[Figure]:
        return module_run(directory, quick=quick, say=say)

    return {
        "fanout": fan_out,
        "durable": partial(plain, partial(durable.run, profile=profile)),
        "memory": partial(plain, memory.run),
        "deflate": partial(plain, deflate.run),
        "stalls": partial(plain, stalls.run),
        "connect": partial(plain, connect.run),
        "download": partial(plain, download.run),
        "events": partial(plain, partial(events.run, profile=profile)),
        "engine": partial(plain, engine.run),
        "latency": partial(plain, partial(latency.run, profile=profile)),
        "peers": partial(plain, peers.run),
        "restart": partial(plain, restart.run),
        "returning": partial(plain, returning.run),
        "signals": partial(plain, signals.run),
        "slow": partial(plain, slow.run),
        "tls": partial(plain, tls.run),
        "behaviour": partial(plain, behaviour.run),
        "decisions": partial(plain, notices.run_decisions),
        "timers": partial(plain, notices.run_timers),
    }


@click.command()
@click.argument("names", nargs=-1)
@click.option("--quick", is_flag=True, help="Shorter runs, fewer connections: about a minute and a half.")
@click.option("--subscribers", type=int, multiple=True, help="Of the fan-out; may be repeated. Default: 1000 and 5000.")
@click.option(
    "--profile", is_flag=True,
    help="Sample the daemon in one more run of `durable`, `latency` and `events` (needs py-spy).",
)  # fmt: skip
@click.option("--json", "file", type=click.Path(path_type=Path), default=RESULTS / "latest.json", show_default=False)
@click.option(
    "--against", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Compare with this result instead of the last ones of this machine.",
)  # fmt: skip
def main(
    names: tuple[str, ...], quick: bool, subscribers: tuple[int, ...], profile: bool, file: Path, against: Path | None
) -> None:
    """Measure the daemon. NAMES: as README.md lists them; all if none is given."""
    benchmarks = _benchmarks(subscribers or ((1000,) if quick else (1000, 5000)), quick, profile)
    unknown = set(names) - set(benchmarks)
    if unknown:
        raise click.UsageError(f"unknown benchmark {min(unknown)!r}; there are {', '.join(benchmarks)}")
    try:
        earlier = None if against is None else read(against)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    notes = Console(stderr=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    # Not in /tmp, which may be memory: a sync would cost nothing there.
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=RESULTS))
    try:
        machine = environment(directory)
        if machine["busy_share_before"] > BUSY_MAX:
            notes.print(
                f"[yellow]other programs use {machine['busy_share_before']:.0%} of the two cores: the figures will be"
                " too low and far apart"
            )
        figures, failures, took_s = _run(benchmarks, names or tuple(benchmarks), directory, notes)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    machine["failures"], machine["took_s"] = failures, took_s
    machine["busy_share_after"] = busy_share()
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "figures": [figure.as_json() for figure in figures]}
    file.write_text(json.dumps(record, indent=2) + "\n")
    if figures:
        _print(figures, machine)
        _compare(figures, records(HISTORY, machine) if earlier is None else [earlier], machine, notes)
        keep(HISTORY, record)
    noisy = [figure for figure in figures if figure.verdict == "noisy"]
    for figure in noisy:
        notes.print(
            f"[red]{figure.benchmark}, {figure.name}: the runs lie {figure.spread:.0%} apart; {SPREAD_MAX:.0%} can"
            " be judged: run again on a quiet machine"
        )
    for failure in failures:
        notes.print(failure, style="red", markup=False)
    if max(machine["busy_share_before"], machine["busy_share_after"]) > BUSY_MAX:
        notes.print(
            f"[yellow]other programs used {machine['busy_share_before']:.0%} of the two cores before and"
            f" {machine['busy_share_after']:.0%} after: what is one run, or a time, may be missed for that alone"
        )
    notes.print(f"written to {os.path.relpath(file)}")
    sys.exit(1 if noisy or failures else 0)


def _run(
    benchmarks: dict[str, Callable[[Path, Say], list[Figure]]], names: tuple[str, ...], directory: Path, notes: Console
) -> tuple[list[Figure], list[str], dict[str, int]]:
    """Also how many seconds each took."""
    figures: list[Figure] = []
    took_s: dict[str, int] = {}
    failures: list[str] = []
    for name in names:
        began = time.monotonic()
        work = directory / name
        work.mkdir()
        with notes.status(name) as status:

            def say(text: str) -> None:
                status.update(text)
                if not notes.is_terminal:
                    notes.print(text)

            try:
                figures += benchmarks[name](work, say)
            except NoCompiler as missing:
                failures.append(f"{name}: SKIPPED: {missing}; its load generator is written in C")
            except (Failed, OSError) as error:
                failures.append(f"{name}: {error}")
            except Exception as error:  # a benchmark that is broken costs nothing of what the others have measured
                notes.print(traceback.format_exc(), markup=False)
                failures.append(f"{name}: is broken: {type(error).__name__}: {error}")
        shutil.rmtree(work, ignore_errors=True)
        took_s[name] = round(time.monotonic() - began)
        notes.print(f"{name}: {took_s[name]} s")
    notes.print(f"all: {sum(took_s.values())} s")
    return figures, failures, took_s


def _print(figures: list[Figure], machine: dict[str, Any]) -> None:
    table = Table(
        title=f"{machine['cpu']}, Linux {machine['kernel']}, {machine['python']}, sync {machine['sync_ms']:.2f} ms"
    )
    for header, justify in (
        ("benchmark", "left"), ("figure", "left"), ("median", "right"), ("unit", "left"), ("spread", "right"),
        ("target", "right"), ("", "left"), ("detail", "left"),
    ):  # fmt: skip
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    before = ""
    for figure in figures:
        name = "" if figure.benchmark == before else figure.benchmark
        if name and before:
            table.add_section()
        before = figure.benchmark
        style = STYLES[figure.verdict]
        spread = f"{figure.spread:.0%}" if len(figure.values) > 1 else ""
        table.add_row(
            name, figure.name, _number(figure.median), figure.unit, spread,
            str(figure.target or ""), f"[{style}]{figure.verdict}[/]" if style else "", figure.detail,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _compare(figures: list[Figure], earlier: list[Record], machine: dict[str, Any], notes: Console) -> None:
    """The table of what changed, if there is anything to compare with."""
    changes = compared(figures, earlier)
    if not changes:
        return
    if not is_same_machine(machine, earlier[0]["machine"]):
        notes.print("[yellow]the result compared with is of another machine: only ratios say something")
    table = Table(title="against the last recorded run of each figure", caption="marked where it exceeds the spread")
    for header in ("benchmark", "figure", "since", "then", "now", "change", ""):
        table.add_column(header, justify="right" if header in ("then", "now", "change") else "left")
    for each in changes:
        table.add_row(*_changed(each))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _changed(change: Change) -> tuple[str, ...]:
    style = MARKS[change.mark]
    mark = f"[{style}]{change.mark}[/]" if style else ""
    numbers = (_number(change.then), _number(change.now), f"{change.share:+.0%}", mark)
    return change.benchmark, f"{change.name}, {change.unit}", change.since, *numbers


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
