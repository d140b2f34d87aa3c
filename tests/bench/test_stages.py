"""The stopwatch on the way of a change: each delivered push has all stages, in order, and none is told twice."""

import json
from pathlib import Path

import pytest
from trio.testing import MockClock

from bench.stages import STAGES, Stages, figures
from tests.net.harness import world


async def test_every_stage_of_a_push_is_taken_in_order(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stages = Stages(tmp_path / "stages.json")
    stages.install(monkeypatch.setattr)
    async with world() as w:
        client, reader = await w.client(1), await w.client(2)
        await reader.subscribe()
        for _ in range(3):
            await client.push(client.change(["create", "notes", f"d{client.n}"]))
            await client.expect("outcomes")
            await reader.expect("delta")
        assert not w.logs
    stages.write()
    paths = json.loads((tmp_path / "stages.json").read_text())
    assert [len(path) for path in paths] == [len(STAGES) + 1] * 3
    for path in paths:
        for clock in (0, 1):
            times = [mark[clock] for mark in path]
            assert times == sorted(times) and times[-1] > times[0]
    stages.write()
    assert json.loads((tmp_path / "stages.json").read_text()) == []


def test_what_lies_outside_of_the_stages_is_the_rest_of_the_way() -> None:
    path = [[float(number), number / 2] for number in range(len(STAGES) + 1)]
    made = figures("latency, stages", [path, path, path], 1000 * (len(STAGES) + 2))
    assert [figure.median for figure in made] == [1e6] * len(STAGES) + [2e6]
    assert made[0].detail == "10%, 500000 us of processor time"
