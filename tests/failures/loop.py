"""The loop: N = 1, 2, ... until a run has no Nth call of the kind."""

from dataclasses import dataclass

from tests.failures.faults import Kind
from tests.failures.stage import run


@dataclass(frozen=True, slots=True)
class Tally:
    """`reached`: the last N that was hit."""

    reached: int
    runs: int
    ends: int
    problems: tuple[str, ...]


def strike(kind: Kind, is_lasting: bool, stride: int = 1, dense: int = 10, factor: int = 1) -> Tally:
    """Every N up to `dense`, and each `stride`th beyond; with a `factor`, its powers instead."""
    at, reached, runs, ends = 1, 0, 0, 0
    problems: list[str] = []
    while True:
        outcome = run(kind, at, is_lasting)
        runs += 1
        ends += outcome.ends
        problems += [f"{kind} at {at}{' and after' if is_lasting else ''}: {problem}" for problem in outcome.problems]
        if not outcome.hits:
            return Tally(reached, runs, ends, tuple(problems))
        reached = at
        at = at * factor if factor > 1 else at + (1 if at < dense else stride)
