"""`python -m tests.crash --kills 50 --device-kills 30 --devices 20`: the long run; exits 1 if anything was lost."""

import argparse
import sys
import time

from tests.crash.crash import Plan, run

parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
parser.add_argument("--kills", type=int, default=50, help="of the daemon")
parser.add_argument("--device-kills", type=int, default=30)
parser.add_argument("--devices", type=int, default=20)
parser.add_argument("--seed", type=int, default=1)
options = parser.parse_args()

began_s = time.monotonic()
report = run(
    Plan(options.kills, options.device_kills, options.devices, options.seed), lambda text: print(text, flush=True)
)
for problem in report.problems[:50]:
    print(problem)
print(
    f"{'FAIL' if report.problems else 'PASS'} kills={options.kills} device_kills={options.device_kills}"
    f" devices={options.devices} committed={report.committed} acknowledged={report.acknowledged} applied={report.taken}"
    f" missing={report.verdict.missing} checksum={report.verdict.checksum} seconds={time.monotonic() - began_s:.0f}"
    f" seed={options.seed}"
)
sys.exit(1 if report.problems else 0)
