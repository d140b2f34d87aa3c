"""Long fuzzing: `python -m tests.fuzz [TARGET...] --seconds 60`, or one input again: `... TARGET --input HEX`.

With atheris (group `fuzz`) each target runs in a process of its own under libFuzzer, guided by coverage; without it,
the mutator of the short form runs for as long. Exit code 1: something was found, and the output says how to replay it.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.fuzz.mutate import INPUT_BYTES_MAX
from tests.fuzz.runner import Found, Target, mutations, replayed, tried

INPUT_S_MAX: Final = 10  # libFuzzer's: of wall time
MEMORY_MIB_MAX: Final = 1_024


def _targets() -> dict[str, Target]:
    from tests.fuzz import intake_targets, text_targets, wire_targets

    return {target.name: target for target in (*wire_targets.TARGETS, *intake_targets.TARGETS, *text_targets.TARGETS)}


def _guided(name: str, seconds: float, corpus: str) -> None:
    """The body of the child process. Never returns: libFuzzer ends the process."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["syncd", "syncd_client", "wsproto", "h11"]):
        target = _targets()[name]
    for index, seed in enumerate(target.seeds()):
        (Path(corpus) / f"seed-{index}").write_bytes(seed)

    def one(data: bytes) -> None:
        try:
            tried(target, data)
        except Found as found:
            print(found, file=sys.stderr, flush=True)
            raise

    options = [
        *(f"-max_total_time={round(seconds)}", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_S_MAX}"),
        *(
            f"-rss_limit_mb={MEMORY_MIB_MAX}",
            "-print_final_stats=1",
            "-verbosity=0",
            "-artifact_prefix=" + corpus + "/",
        ),
    ]
    atheris.Setup([sys.argv[0], *options, corpus], one)
    atheris.Fuzz()


def _guided_in_child(target: Target, seconds: float) -> bool:
    with TemporaryDirectory(prefix="syncd-fuzz-") as corpus:
        command = [sys.executable, "-m", "tests.fuzz", target.name, "--seconds", str(seconds), "--child", corpus]
        done = subprocess.run(command, capture_output=True, text=True)
        said = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("INFO: Instrumenting"))
        if done.returncode:
            print(f"{target.name}: FOUND\n{said[-6000:]}", flush=True)
            return False
        stats = dict(
            line.split(":", 1) for line in done.stderr.splitlines() if line.startswith("stat::") for line in [line[6:]]
        )
        runs = stats.get("number_of_executed_units", "0").strip()
        added = stats.get("new_units_added", "0").strip()
        print(
            f"{target.name}: {runs} inputs, {added} of them new paths, nothing found ({target.invariant})", flush=True
        )
        return True


def _mutated(target: Target, seconds: float) -> bool:
    until_s = time.monotonic() + seconds
    try:
        replayed(target)
        count = mutations(target, time.time_ns(), lambda count: time.monotonic() >= until_s)
    except Found as found:
        print(f"{target.name}: FOUND\n{found}", flush=True)
        return False
    print(f"{target.name}: {count} inputs (no coverage to guide them), nothing found ({target.invariant})", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", help="all if none is named")
    parser.add_argument("--seconds", type=float, default=300.0, help="in all, shared among the targets")
    parser.add_argument("--input", help="try this one input, in hexadecimal")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _guided(given.targets[0], given.seconds, given.child)
    known = _targets()
    unknown = [name for name in given.targets if name not in known]
    if unknown:
        parser.error(f"unknown target {unknown[0]}; there are: {', '.join(known)}")
    targets = [known[name] for name in given.targets] or list(known.values())
    if given.input is not None:
        for target in targets:
            tried(target, bytes.fromhex(given.input))
        return 0
    is_guided = importlib.util.find_spec("atheris") is not None
    if not is_guided:
        print("atheris is not installed (pip install --group fuzz): a plain mutator without coverage runs instead")
    run = _guided_in_child if is_guided else _mutated
    outcomes = [run(target, given.seconds / len(targets)) for target in targets]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
