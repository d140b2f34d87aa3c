"""The long run: `python -m tests.oracle.run --histories 20000 [--seed FIRST] [--engine]`.

Each history happens once on the bare merge core and, with `--engine`, once more on the real engine. The last line is
`PASS histories=N ...`, or `FAIL` with the line that replays the one history.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable

from tests.oracle.histories import Server, World, random_history
from tests.oracle.sequencer import Sequencer


def main() -> int:
    parser = argparse.ArgumentParser(description="Random offline histories against the oracle.")
    parser.add_argument("--histories", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--engine", action="store_true", help="through the real engine instead of the bare merge core")
    options = parser.parse_args()
    make: Callable[[int, frozenset[str]], Server] = lambda seed, wins: Sequencer(wins)  # noqa: E731
    if options.engine:
        from tests.engine.server import EngineServer

        make = EngineServer
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    for done, seed in enumerate(range(options.seed, options.seed + options.histories), 1):
        try:
            history = random_history(seed)
            outcomes.update(World(history, make(seed, history.wins)).run())
        except Exception:
            traceback.print_exc()
            engine = " --engine" if options.engine else ""
            print(
                f"FAIL after {done} histories; replay: python -m tests.oracle.run --histories 1 --seed {seed}{engine}"
            )
            return 1
        if done % 1000 == 0:
            print(f"{done} histories, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    counts = " ".join(f"{name}={count}" for name, count in sorted(outcomes.items()))
    print(
        f"PASS histories={options.histories} changes={outcomes.total()} {counts} seconds={time.monotonic() - began:.0f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
