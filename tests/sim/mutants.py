"""Planted bugs: each must be caught by a few seeds, or the simulator is blind there.

`python -m tests.sim.mutants` prints who caught which; with `--hunt`, it also looks for new seeds for those whose own no
longer catch them (`reseeding.py`). A mutant replaces one piece of source text of one function, for
the time of a `with` block and in this process only. The product has no hook for it, and a mutant whose text is no
longer there fails loudly.
"""

import argparse
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from types import CodeType, FunctionType
from typing import Any

from tests.sim.planted import MUTANTS as GENERAL
from tests.sim.planted import Mutant
from tests.sim.reseeding import Seed, candidates, rewrite
from tests.sim.run import Report, simulate
from tests.sim.topics import TOPICS

MUTANTS = (*GENERAL, *(mutant for topic in TOPICS for mutant in topic.mutants))
PROCESSES_MAX = 2
SEEDS = tuple((seed, profile) for seed in range(1, 5) for profile in ("swarm", "rogue", "offline"))


def _target(mutant: Mutant) -> FunctionType:
    found: Any = import_module(mutant.module)
    for name in mutant.function.split("."):
        found = getattr(found, name)
    assert isinstance(found, FunctionType)
    return found


def _mutated_code(mutant: Mutant, target: FunctionType) -> CodeType:
    source = textwrap.dedent(inspect.getsource(target))
    old, new = mutant.old, mutant.new
    assert source.count(old) == 1, f"{mutant.name}: {old!r} occurs {source.count(old)} times in {mutant.function}"
    namespace = dict(target.__globals__)
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), mutant.function, "exec"), namespace)
    code: CodeType = namespace[target.__name__].__code__
    return code


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The bug is in for the block, also for whoever imported the function before."""
    target = _target(mutant)
    original = target.__code__
    target.__code__ = _mutated_code(mutant, target)
    try:
        yield
    finally:
        target.__code__ = original


def hunt(mutant: Mutant, seeds: Iterable[Seed] = SEEDS) -> tuple[int, str, Report] | None:
    """The first of its own seeds, or of `seeds`, that catches it."""
    with planted(mutant):
        for seed, profile in dict.fromkeys((*mutant.seeds, *seeds)):
            report = simulate(seed, profile)
            if report.exit_code:
                return seed, profile, report
    return None


def hunt_anew(mutant: Mutant) -> tuple[int, str, Report] | None:
    """The same, among more seeds; and one that was not its own must pass without it."""
    tried: set[Seed] = set()
    while caught := hunt(mutant, (job for job in candidates(mutant) if job not in tried)):
        seed, profile, _ = caught
        if (seed, profile) in mutant.seeds or not simulate(seed, profile).exit_code:
            return caught
        tried.add((seed, profile))
    return None


def _hunted(job: tuple[Mutant, bool]) -> tuple[Mutant, Seed | None, str, str]:
    mutant, is_anew = job
    caught = hunt_anew(mutant) if is_anew else hunt(mutant)
    if caught is None:
        return mutant, None, "ALIVE", ""
    seed, profile, report = caught
    return mutant, (seed, profile), f"{report.verdict:9} {profile} {seed}", report.detail


def main() -> int:
    """All of them, or those whose names hold all the given words, in two processes."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description="Who catches which planted bug.")
    parser.add_argument("words", nargs="*", help="only those whose names hold all of these")
    parser.add_argument("-v", dest="is_verbose", action="store_true", help="say what was found broken")
    parser.add_argument("--hunt", action="store_true", help="find new seeds for those that survive")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in arguments.words)]
    alive = 0
    moved: dict[str, Seed] = {}
    print(f"{'planted bug':70} caught as, by seed")
    with ProcessPoolExecutor(PROCESSES_MAX, get_context("fork")) as pool:
        for mutant, by, told, detail in pool.map(_hunted, [(mutant, arguments.hunt) for mutant in chosen]):
            alive += by is None
            is_new = arguments.hunt and by is not None and by not in (*mutant.seeds, *SEEDS[:3])
            print(f"{mutant.name:70} {told}{', a new one' * is_new}", flush=True)
            if arguments.is_verbose and detail:
                print(f"    {detail[-300:]}")
            if is_new and by is not None:
                moved[mutant.name] = by
                rewrite({mutant.name: by})  # at once: who interrupts a long hunt keeps what it found
    print(f"{len(chosen)} planted bugs, {alive} alive" + (f", {len(moved)} with new seeds" if arguments.hunt else ""))
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
