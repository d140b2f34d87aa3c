"""New seeds for planted bugs whose own seeds no longer catch them: `python -m tests.sim.mutants --hunt`.

A change of the workload, or of anything that draws, shifts what a seed brings about. Owns which seeds are tried for a
bug, and the rewriting of `seeds=` where the bug stands in its table, which is the only thing that it alters. A seed
counts only if it passes without the bug.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from tests.sim.plan import PROFILES
from tests.sim.planted import Mutant
from tests.sim.topics import TOPICS

DIRECTORY = Path(__file__).parent
SEEDS_TRIED_MAX = 48  # for one bug: some two minutes
SEEDS_ARGUMENT = 5  # of `Mutant`, where they are given by their place
MORE_PROFILES = ("swarm", "rogue", "offline", "storm")  # where no seed says which profile fits

Seed = tuple[int, str]


def candidates(mutant: Mutant) -> Iterator[Seed]:
    """Seeds to try, the most likely first: of the profiles that its own seeds have, in turn; of a topic, only those
    runs in which it takes part."""
    topic = next((topic for topic in TOPICS if mutant in topic.mutants), None)
    profiles = tuple(dict.fromkeys(profile for _, profile in mutant.seeds))
    if not profiles:
        profiles = MORE_PROFILES if topic is None else topic.profiles
    assert set(profiles) <= set(PROFILES)
    tried = ((seed, profile) for seed in range(1, 10_000) for profile in profiles)
    return islice((job for job in tried if topic is None or topic.is_in(*job)), SEEDS_TRIED_MAX)


def rewrite(found: Mapping[str, Seed], directory: Path = DIRECTORY) -> list[Path]:
    """Put the seed of each bug, by its name, into the file in which it is planted. Which files were altered."""
    left, altered = dict(found), []
    for path in sorted(directory.glob("*.py")):
        source = path.read_text()
        edits = sorted(_edits(source, left), reverse=True)
        for first, last, text in edits:
            source = source[:first] + text + source[last:]
        if edits:
            path.write_text(source)
            altered.append(path)
    assert not left, f"planted in no file of {directory}: {sorted(left)}"
    return altered


def _edits(source: str, left: dict[str, Seed]) -> Iterator[tuple[int, int, str]]:
    """From where to where which text goes, in characters. Takes out of `left` what it finds."""
    starts = list(chain([0], (index + 1 for index, character in enumerate(source) if character == "\n")))
    lines = source.splitlines(keepends=True)

    def place(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Mutant"):
            continue
        name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if name not in left:
            continue
        seed, profile = left.pop(str(name))
        text = f"(({seed}, {json.dumps(profile)}),)"
        old = next((keyword.value for keyword in node.keywords if keyword.arg == "seeds"), None)
        if len(node.args) > SEEDS_ARGUMENT:
            old, text = node.args[SEEDS_ARGUMENT], f"seeds={text}"
        if old is not None:
            assert old.end_lineno is not None and old.end_col_offset is not None
            yield place(old.lineno, old.col_offset), place(old.end_lineno, old.end_col_offset), text
            continue
        last = node.args[-1]
        assert last.end_lineno is not None and last.end_col_offset is not None
        end = place(last.end_lineno, last.end_col_offset)
        yield end, end, f",\n        seeds={text}"
