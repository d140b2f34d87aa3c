"""The stopwatch on the event loop measures turns, and what it writes is whole."""

import json
import time
from pathlib import Path

import trio
import trio.lowlevel

from bench.turns import Turns


def test_a_turn_is_as_long_as_nobody_else_is_served(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns.json")

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        began_s = time.thread_time()
        while time.thread_time() - began_s < 0.05:
            pass
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    trio.run(main, instruments=[turns])
    turns.write()
    found = json.loads((tmp_path / "turns.json").read_text())
    assert len(found) >= 3 and all(wall_s > 0 for wall_s, _ in found)
    assert sum(1 for _, cpu_s in found if cpu_s > 0.04) == 1
    turns.write()
    assert json.loads((tmp_path / "turns.json").read_text()) == []
