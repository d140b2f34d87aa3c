"""`python -m tests.failures [--stride N]`: every call of every kind fails, once and lastingly; counts them."""

import argparse
import sys
import time

from tests.failures.faults import KINDS
from tests.failures.loop import strike

parser = argparse.ArgumentParser(prog="python -m tests.failures", description=__doc__)
parser.add_argument("--stride", type=int, default=1, help="beyond the first ten, only each Nth call")
options = parser.parse_args()

began_s = time.monotonic()
runs = 0
bad = 0
for kind in KINDS:
    for is_lasting in (False, True):
        tally = strike(kind, is_lasting, options.stride)
        runs += tally.runs
        bad += len(tally.problems)
        mode = "for ever" if is_lasting else "once"
        print(
            f"{kind} {mode}: N={tally.reached} runs={tally.runs} ends={tally.ends} bad={len(tally.problems)}",
            flush=True,
        )
        for problem in tally.problems[:3]:
            print(f"    {problem}", flush=True)
print(f"{'FAIL' if bad else 'PASS'} runs={runs} bad={bad} seconds={time.monotonic() - began_s:.0f}")
sys.exit(bool(bad))
