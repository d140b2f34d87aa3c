"""`python -m tests.powerloss --commits 150 --seeds 3`: the long run; exits 1 if an image lost or mixed anything, or if
a store with unsafe flags passed."""

import argparse
import sys
import time

from tests.powerloss.proof import Plan, compiler, run

parser = argparse.ArgumentParser(prog="python -m tests.powerloss", description=__doc__)
parser.add_argument("--commits", type=int, default=100)
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--sample", type=int, default=6, help="drawn subsets, and torn ones, for each epoch")
options = parser.parse_args()

if compiler() is None:
    sys.exit("no C compiler (cc, gcc, clang): the recorder cannot be built, NOTHING was proved")
began_s = time.monotonic()
is_good = True
total = 0
for seed in range(1, options.seeds + 1):
    report = run(Plan(commits=options.commits, seed=seed, sample=options.sample))
    total += report.images
    is_good = is_good and not report.bad
    print(
        f"seed {seed}: {report.images} images of {report.epochs} epochs, {report.commits} acknowledged: {report.found}"
    )
    print("\n".join(report.problems), end="\n" if report.problems else "", flush=True)
for kind in ("nosync", "nometasync"):
    report = run(Plan(kind, options.commits, 1, options.sample, images_max=300))
    is_good = is_good and bool(report.bad)
    print(f"control {kind}: {report.images} images, {report.bad} bad, as they must be: {report.found}", flush=True)
verdict = "PASS" if is_good else "FAIL"
print(
    f"{verdict} images={total} commits={options.commits} seeds={options.seeds} seconds={time.monotonic() - began_s:.0f}"
)
sys.exit(not is_good)
