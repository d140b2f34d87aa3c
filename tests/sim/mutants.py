"""Planted bugs: each must be caught by a few seeds, or the simulator is blind there.

`python -m tests.sim.mutants` prints who caught which. A mutant replaces one piece of source text of one function, for
the time of a `with` block and in this process only. The product has no hook for it, and a mutant whose text is no
longer there fails loudly.
"""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from types import CodeType, FunctionType
from typing import Any

from tests.sim.planted import MUTANTS as GENERAL
from tests.sim.planted import Mutant
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


def hunt(mutant: Mutant, seeds: tuple[tuple[int, str], ...] = SEEDS) -> tuple[int, str, Report] | None:
    """The first of its own seeds, or of `seeds`, that catches it."""
    with planted(mutant):
        for seed, profile in dict.fromkeys((*mutant.seeds, *seeds)):
            report = simulate(seed, profile)
            if report.exit_code:
                return seed, profile, report
    return None


def _hunted(mutant: Mutant) -> tuple[Mutant, str, str]:
    caught = hunt(mutant)
    if caught is None:
        return mutant, "ALIVE", ""
    seed, profile, report = caught
    return mutant, f"{report.verdict:9} {profile} {seed}", report.detail


def main() -> int:
    """All of them, or those whose names hold all the given words, in two processes."""
    words = [word for word in sys.argv[1:] if word != "-v"]
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in words)]
    alive = 0
    print(f"{'planted bug':70} caught as, by seed")
    with ProcessPoolExecutor(PROCESSES_MAX, get_context("fork")) as pool:
        for mutant, told, detail in pool.map(_hunted, chosen):
            alive += told == "ALIVE"
            print(f"{mutant.name:70} {told}", flush=True)
            if "-v" in sys.argv and detail:
                print(f"    {detail[-300:]}")
    print(f"{len(chosen)} planted bugs, {alive} alive")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
