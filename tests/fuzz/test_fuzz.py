"""The short form of the fuzzing: every seed, and a fixed number of mutations from a fixed seed; the long one is
`make fuzz`.
"""

import random

import pytest

from tests.fuzz import intake_targets, text_targets, wire_targets
from tests.fuzz.mutate import INPUT_BYTES_MAX, mutated
from tests.fuzz.runner import Found, Target, mutations, replayed, tried

TARGETS = (*wire_targets.TARGETS, *intake_targets.TARGETS, *text_targets.TARGETS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_breaks_the_invariant_of(target: Target) -> None:
    replayed(target)
    assert mutations(target, 1, lambda count: count >= target.short_count) == target.short_count


def test_the_mutator_is_deterministic_and_bounded() -> None:
    pool = [b"x" * INPUT_BYTES_MAX, b"", b"[1]"]
    runs = [[mutated(draw.choice(pool), draw, pool) for _ in range(200)] for draw in map(random.Random, (1, 1, 2))]
    assert runs[0] == runs[1] != runs[2]
    assert max(map(len, runs[0])) <= INPUT_BYTES_MAX


def test_a_broken_invariant_is_reported_with_the_line_that_replays_it() -> None:
    def check(data: bytes) -> None:
        assert b"\x00" not in data, "no zeros"

    target = Target("zeros", "no zeros", lambda: [b"\x01\x01"], check, 0)
    assert replayed(target) == 1
    with pytest.raises(Found, match="zeros: AssertionError: no zeros"):
        mutations(target, 1, lambda count: False)
    with pytest.raises(Found, match=r"python -m tests\.fuzz zeros --input 00ff"):
        tried(target, b"\x00\xff")


def test_memory_out_of_proportion_is_found() -> None:
    held: list[bytes] = []
    target = Target("memory", "small", lambda: [b"x"], lambda data: held.append(bytes(50 << 20)), 0)
    with pytest.raises(Found, match="1 bytes took 50 MiB"):
        tried(target, b"x", measures_memory=True)
