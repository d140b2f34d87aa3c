"""One run from its seed to its verdict.

Owns what surrounds a world: the directory of its disks, the tuning of the product for small runs, the guard against
runs that do not end, and the report.
"""

import logging
import shutil
import signal
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

import syncd.app.collector
import syncd_client.device
from syncd.engine import reading
from syncd.net.connection import NO_PROGRESS
from tests.sim import determinism
from tests.sim.auditor import Violation
from tests.sim.server import Defects
from tests.sim.world import NotLive, World

POLL_S = 60.0
SWEEP_S = 3.0  # between two sweeps of the collector
PROCESSOR_S_MAX = 180  # a run takes 1-5; one of 800 s in which all topics take part, 60 on a busy machine
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Report:
    """`verdict`: PASS, or what was broken; `exit_code`: 0, 1 correctness, 2 liveness, 3 crash."""

    verdict: str
    exit_code: int
    events: int
    hash: str
    detail: str
    lines: tuple[str, ...]
    outcomes: Mapping[str, int]
    faults: Mapping[str, int]
    power_cuts: Mapping[str, int]
    closes: Mapping[int, int]
    errors: Mapping[str, int]
    misdeeds: Mapping[str, int]
    topics: Mapping[str, int]
    virtual_s: float


@contextmanager
def _tuned(page_bytes: int) -> Iterator[None]:
    """Pages of a catch-up as small as the plan says: in a real one, only much data shows what happens between two. And
    devices that look less often for other processes on their store, of which there are none: it is half of the cost.
    And a collector that comes by in each run."""
    original, poll_s, sweep_s = reading.page, syncd_client.device.POLL_S, syncd.app.collector.SWEEP_S

    def page(tx: object, cursor: object, bytes_target: int = page_bytes, **limits: int) -> object:
        # Also against one who says how long a page shall be: what delivery hands out must be in pieces here.
        return original(tx, cursor, min(bytes_target, page_bytes), **limits)  # type: ignore[arg-type]

    reading.page = page  # type: ignore[assignment]
    syncd_client.device.POLL_S = POLL_S
    syncd.app.collector.SWEEP_S = SWEEP_S  # type: ignore[misc]
    try:
        yield
    finally:
        reading.page = original
        syncd_client.device.POLL_S = poll_s
        syncd.app.collector.SWEEP_S = sweep_s  # type: ignore[misc]


@contextmanager
def _watched(world: World) -> Iterator[None]:
    """Ends a run in which virtual time no longer passes, as in an endless loop at network speed."""

    def bark(number: int, frame: object) -> None:
        world.fail(NotLive(f"still running after {PROCESSOR_S_MAX} s of processor time"))
        raise NotLive("endless")

    previous = signal.signal(signal.SIGPROF, bark)
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def simulate(seed: int, profile: str = "swarm") -> Report:
    """One whole run, of which nothing is left but the report."""
    with determinism.uncollected():
        return _simulate(seed, profile)


def _simulate(seed: int, profile: str) -> Report:
    directory = Path(tempfile.mkdtemp(prefix="sim-", dir=MEMORY if MEMORY.is_dir() else None))
    world = World(seed, profile, directory)
    defects, logger = Defects(), logging.getLogger("syncd")
    logger.addHandler(defects)
    virtual = [0.0]

    async def main() -> None:
        try:
            await world.run()
        finally:
            virtual[0] = trio.current_time()

    failure: BaseException | None = None
    try:
        with _tuned(world.plan.page_bytes), _watched(world):
            determinism.run(seed, main)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = world.failure or _leaf(error)
    finally:
        logger.removeHandler(defects)
        shutil.rmtree(directory, ignore_errors=True)
    if failure is None and defects.lines:
        failure = Violation("S15", defects.lines[0], "server")
    return _report(world, failure, virtual[0])


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _closes(world: World) -> dict[int, int]:
    closes = dict(world.auditor.closes)
    if count := world.server.counters.closes[NO_PROGRESS]:  # who took nothing for too long: it cannot be told
        closes[NO_PROGRESS] = closes.get(NO_PROGRESS, 0) + count
    return dict(sorted(closes.items()))


def _report(world: World, failure: BaseException | None, virtual_s: float) -> Report:
    trace = world.trace
    nodes: tuple[str, ...] = ()
    detail, code, verdict = "", 0, "PASS"
    if isinstance(failure, Violation):
        nodes = failure.nodes
        verdict, code, detail = failure.invariant, 3 if failure.invariant == "S15" else 1, failure.detail
    elif isinstance(failure, NotLive):
        verdict, code, detail = "liveness", 2, str(failure)
    elif failure is not None:
        verdict, code, detail = "crash", 3, "".join(traceback.format_exception(failure))
    lines = tuple(trace.last(nodes, 60)) if failure is not None else ()
    return Report(
        verdict, code, trace.count, trace.hash, detail, lines,
        dict(sorted(world.auditor.outcomes.items())), dict(sorted(world.faults.items())),
        dict(sorted(world.server.power_cuts.items())), _closes(world), dict(sorted(world.auditor.errors.items())),
        dict(sorted(world.misdeeds.items())), dict(sorted(world.topic_counts.items())), virtual_s,
    )  # fmt: skip
