"""The whole system on a few fixed seeds, the proof that a seed decides everything, and some planted bugs.

Many seeds are `make sim`; a seed that found something has a hand-written twin beside the code that it concerns.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS, SEEDS, Mutant, hunt, planted
from tests.sim.variety import EXPECTED, SEEDS_JUDGED, SEEDS_LISTED, Variety
from tests.sim.world import Report, simulate

ROOT = Path(__file__).parents[2]
SMOKE = ((1, "swarm"), (2, "swarm"), (3, "swarm"), (5, "swarm"), (8, "swarm"), (3, "offline"), (129, "storm"))
# Caught by the first seed, and each by another invariant; `make test-long` hunts all of them.
QUICK = ("a counter adds twice", "outcomes after the delta", "a delta is lost at the switch from pages to live")


@pytest.mark.parametrize(("seed", "profile"), [*SMOKE, pytest.param(1, "crowd", marks=pytest.mark.long)])
def test_a_run_keeps_every_invariant(seed: int, profile: str) -> None:
    report = simulate(seed, profile)
    told = "\n".join([f"{report.verdict}: {report.detail}", *report.lines])
    assert report.exit_code == 0, f"{told}\nreplay: python -m tests.sim {seed} --profile {profile}"


def test_what_never_occurs_fails_a_long_run_and_is_not_held_against_a_short_one() -> None:
    seen = Report(
        "PASS", 0, 1, "", "", (), dict.fromkeys(EXPECTED["outcome"], 1), dict.fromkeys(EXPECTED["fault"], 1),
        dict.fromkeys(EXPECTED["power cut at"], 1), {int(code): 1 for code in EXPECTED["close"]},
        dict.fromkeys(EXPECTED["error"], 1), dict.fromkeys(EXPECTED["misdeed"], 1), 1.0,
    )  # fmt: skip
    unseen = replace(seen, closes={1000: 1}, power_cuts={})
    told = {}
    for seeds in (SEEDS_LISTED - 1, SEEDS_LISTED, SEEDS_JUDGED):
        full, lacking = Variety(), Variety()
        for _ in range(seeds):
            full.add(seen)
            lacking.add(unseen)
        assert (full.missing, full.exit_code) == ([], 0)
        told[seeds] = ("power cut at commit.after" in lacking.missing, lacking.exit_code)
    assert told == {SEEDS_LISTED - 1: (False, 0), SEEDS_LISTED: (True, 0), SEEDS_JUDGED: (True, 1)}


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    here = simulate(6)
    line = f"PASS seed=6 profile=swarm events={here.events} hash={here.hash}"
    for hash_seed in ("1", "31337"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.sim", "6"],
            cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.stdout.splitlines()[0] == line, told.stderr


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.name in QUICK], ids=lambda mutant: mutant.name
)
def test_a_planted_bug_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant, SEEDS[:3]) is not None


def test_every_planted_bug_still_finds_its_place() -> None:
    for mutant in MUTANTS:
        with planted(mutant):
            pass


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_planted_bug_is_caught_by_the_smoke_seeds(mutant: Mutant) -> None:
    assert hunt(mutant) is not None
