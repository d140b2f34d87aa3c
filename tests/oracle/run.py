"""The long run: `python -m tests.oracle.run --histories 20000 [--seed FIRST] [--engine | --schemas]`.

Each history happens on the bare merge core; with `--engine` on the real engine; with `--schemas` there, under schemas
that are raised in its course. The last line is `PASS histories=N ...`, or `FAIL` with the line that replays the one
history.
"""

import argparse
import sys
import time
import traceback
from collections import Counter

from tests.oracle.histories import World, random_history
from tests.oracle.sequencer import Sequencer


def world_of(seed: int, options: argparse.Namespace) -> World:
    if options.schemas:
        from tests.engine.server import EngineServer
        from tests.oracle.lawful import LawfulWorld, random_lawful_history

        return LawfulWorld(random_lawful_history(seed), EngineServer(seed))
    history = random_history(seed)
    if options.engine:
        from tests.engine.server import EngineServer

        return World(history, EngineServer(seed, history.wins))
    return World(history, Sequencer(history.wins))


def main() -> int:
    parser = argparse.ArgumentParser(description="Random offline histories against the oracle.")
    parser.add_argument("--histories", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--engine", action="store_true", help="through the real engine instead of the bare merge core")
    parser.add_argument("--schemas", action="store_true", help="through the real engine, under an operator's schemas")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    for done, seed in enumerate(range(options.seed, options.seed + options.histories), 1):
        try:
            outcomes.update(world_of(seed, options).run())
        except Exception:
            traceback.print_exc()
            how = " --schemas" if options.schemas else " --engine" if options.engine else ""
            print(f"FAIL after {done} histories; replay: python -m tests.oracle.run --histories 1 --seed {seed}{how}")
            return 1
        if done % 1000 == 0:
            print(f"{done} histories, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    counts = " ".join(f"{name}={count}" for name, count in sorted(outcomes.items()))
    changes = sum(count for name, count in outcomes.items() if not name.startswith("rule:"))
    print(f"PASS histories={options.histories} changes={changes} {counts} seconds={time.monotonic() - began:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
