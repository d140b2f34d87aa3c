"""The whole system on a few fixed seeds, the proof that a seed decides everything, and some planted bugs.

Many seeds are `make sim`; a seed that found something has a hand-written twin beside the code that it concerns.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from syncd.engine.commands import Command, Result
from tests.sim import world
from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.mutants import MUTANTS, SEEDS, Mutant, hunt, planted
from tests.sim.reseeding import SEEDS_TRIED_MAX, candidates, rewrite
from tests.sim.run import Report, simulate
from tests.sim.topic import Topic, Work
from tests.sim.topics import TOPICS
from tests.sim.variety import EXPECTED, SEEDS_JUDGED, SEEDS_LISTED, Variety

ROOT = Path(__file__).parents[2]
SMOKE = (
    (1, "swarm"),
    (2, "swarm"),
    (3, "swarm"),
    (5, "swarm"),
    (8, "swarm"),
    (4, "swarm"),
    (3, "offline"),
    (129, "storm"),
)
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
        dict.fromkeys(EXPECTED["error"], 1), dict.fromkeys(EXPECTED["misdeed"], 1), dict.fromkeys(EXPECTED["topic"], 1),
        1.0,
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
    assert not any(isinstance(each, world.World) for each in gc.get_objects()), "a run leaves its world behind"
    line = f"PASS seed=6 profile=swarm events={here.events} hash={here.hash}"
    for hash_seed in ("1", "31337"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.sim", "6"],
            cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.stdout.splitlines()[0] == line, told.stderr


def test_a_topic_sees_everything_and_can_fail_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Curious(Work):
        every_s_mean = 1.0

        async def prepare(self) -> None:
            self.count("prepare")

        async def act(self, device: SimDevice) -> None:
            assert device.client is not None
            space = device.client.space(self.world.spaces_of(device.user)[0])
            self.world.people[device.name].commit(space, [["create", "c", "curious"]])
            self.count("act")

        def heal(self) -> None:
            self.count("heal")

        def sent(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
            self.count(f"> {name}")

        def received(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
            self.count(f"< {name}")

        def committed(self, now_ms: int, command: Command, result: Result) -> None:
            self.count(type(command).__name__)

        def unfinished(self) -> list[str]:
            self.count("unfinished")
            return []

        def check(self) -> None:
            self.count("check")
            raise Violation("S8", "a topic's rule is broken")

    monkeypatch.setattr(world, "TOPICS", ())
    without = simulate(13)
    monkeypatch.setattr(world, "TOPICS", (Topic("curious", Curious, profiles=("storm",)),))
    assert simulate(13).hash == without.hash
    monkeypatch.setattr(world, "TOPICS", (Topic("curious", Curious, share=1.0),))
    report = simulate(13)
    assert (report.verdict, report.exit_code, report.detail) == ("S8", 1, "a topic's rule is broken")
    wanted = ("prepare", "act", "heal", "> push", "< outcomes", "Push", "unfinished", "check")
    assert [what for what in wanted if not report.topics.get(f"curious: {what}")] == []


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.name in QUICK], ids=lambda mutant: mutant.name
)
def test_a_planted_bug_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant, SEEDS[:3]) is not None


def test_every_planted_bug_still_finds_its_place() -> None:
    for mutant in MUTANTS:
        with planted(mutant):
            pass


def test_new_seeds_are_written_where_the_bug_is_planted(tmp_path: Path) -> None:
    table = tmp_path / "table.py"
    source = """MUTANTS = (
    Mutant(
        "é one", "m", "f", "old", "new",
        seeds=((1, "swarm"), (2, "rogue")),  # why
    ),
    Mutant(
        "two", "m", "f", "old", "new",
    ),
    Mutant("three", "m", "f", "old", "new"),
    Mutant("of many", "m", "f", "old", "new", SEEDS),
)
"""
    table.write_text(source)
    found = {"é one": (7, "storm"), "two": (8, "offline"), "of many": (9, "swarm")}
    assert rewrite(found, tmp_path) == [table]
    one = source.replace('((1, "swarm"), (2, "rogue"))', '((7, "storm"),)')
    one = one.replace('"new", SEEDS', '"new", seeds=((9, "swarm"),)')
    assert table.read_text() == one.replace(
        '    ),\n    Mutant("three', '        seeds=((8, "offline"),),\n    ),\n    Mutant("three'
    )
    with pytest.raises(AssertionError, match="planted in no file"):
        rewrite({"four": (1, "swarm")}, tmp_path)


def test_the_seeds_that_a_hunt_tries_fit_the_bug() -> None:
    for mutant in MUTANTS:
        tried = list(candidates(mutant))
        assert len(tried) == SEEDS_TRIED_MAX
        assert not mutant.seeds or {profile for _, profile in tried} == {profile for _, profile in mutant.seeds}
        assert all(topic.is_in(*job) for topic in TOPICS if mutant in topic.mutants for job in tried)


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_planted_bug_is_caught_by_the_smoke_seeds(mutant: Mutant) -> None:
    assert hunt(mutant) is not None
