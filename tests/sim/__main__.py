"""`python -m tests.sim SEED`, or many: `python -m tests.sim --seeds 1..300 --seconds 480`. See tests/README.md."""

import argparse
import resource
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context

from tests.sim.plan import PROFILES
from tests.sim.run import Report, simulate
from tests.sim.variety import Variety

PROCESSES_MAX = 2
TOLD_EVERY = 100  # seeds: a line on stderr, as many seeds take long
SHARES = ("swarm", "swarm", "offline", "swarm", "storm", "rogue")  # of the profiles, in a run of many seeds
CROWD_EVERY = 50  # seeds: such a run costs about two others


def profile_of(seed: int) -> str:
    """The profile of a seed in a run of many."""
    return "crowd" if seed % CROWD_EVERY == 0 else SHARES[seed % len(SHARES)]


def line_of(seed: int, profile: str, report: Report) -> str:
    word = "PASS" if not report.exit_code else "FAIL"
    return f"{word} seed={seed} profile={profile} events={report.events} hash={report.hash}"


def tell(seed: int, profile: str, report: Report, is_verbose: bool) -> None:
    print(line_of(seed, profile, report), flush=True)
    if report.exit_code:
        print(f"  {report.verdict}: {report.detail}")
        for line in report.lines:
            print(f"  {line}")
        print(f"  replay: python -m tests.sim {seed} --profile {profile}", flush=True)
    elif is_verbose:
        print(f"  outcomes {dict(report.outcomes)}  closes {dict(report.closes)}  {report.virtual_s:.0f} virtual s")
        print(f"  faults {dict(report.faults)}  power cuts {dict(report.power_cuts)}  topics {dict(report.topics)}")


def one(job: tuple[int, str]) -> tuple[int, str, Report]:
    return *job, simulate(*job)


def many(first: int, last: int, seconds: float, profile: str | None) -> int:
    """Run the seeds in order for at most so long; the greatest exit code, 1 if too little occurred in many seeds."""
    jobs = [(seed, profile or profile_of(seed)) for seed in range(first, last + 1)]
    began_s = time.monotonic()
    due_s = began_s + seconds
    codes: list[int] = []
    variety = Variety()
    events = 0
    with ProcessPoolExecutor(PROCESSES_MAX, get_context("fork")) as pool:
        waiting = iter(jobs)
        running = {pool.submit(one, job) for job in islice(waiting, PROCESSES_MAX)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                seed, name, report = future.result()
                codes.append(report.exit_code)
                events += report.events
                variety.add(report)
                if report.exit_code:
                    tell(seed, name, report, False)
                if len(codes) % TOLD_EVERY == 0:
                    took_s = time.monotonic() - began_s
                    told = f"{len(codes)} of {len(jobs)} seeds, {sum(map(bool, codes))} failed, {took_s:.0f} s"
                    print(told, file=sys.stderr, flush=True)
                if time.monotonic() < due_s:
                    running |= {pool.submit(one, job) for job in islice(waiting, 1)}
    failed = sum(bool(code) for code in codes)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # by the pool, which has ended
    each_s = (spent.ru_utime + spent.ru_stime) / max(1, len(codes))
    print(f"{len(codes)} of {len(jobs)} seeds, {failed} failed, {events} events, {each_s:.2f} processor s a seed")
    for line in variety.lines():
        print(f"  {line}")
    return max(*codes, variety.exit_code, 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="The whole system, from a seed.")
    parser.add_argument("seed", type=int, nargs="?", help="run this seed, and tell what happened")
    parser.add_argument("--profile", choices=PROFILES)
    parser.add_argument("--seeds", metavar="A..B", help="run these seeds, in two processes")
    parser.add_argument("--seconds", type=float, default=480.0, help="stop after so long (with --seeds)")
    arguments = parser.parse_args()
    if arguments.seeds is not None:
        first, _, last = arguments.seeds.partition("..")
        return many(int(first), int(last or first), arguments.seconds, arguments.profile)
    if arguments.seed is None:
        parser.error("a seed, or --seeds")
    profile = arguments.profile or "swarm"
    report = simulate(arguments.seed, profile)
    tell(arguments.seed, profile, report, True)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
