"""The proof: record a workload, make the images, open each of them in a process of its own, compare.

Each image must open, be found whole by fsck, and hold exactly the rows of one commit: the last one that had been
acknowledged, or a later one. It must take a further commit, too. `python -m tests.powerloss` runs it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Final

from syncd.store import fsck
from syncd.store.api import StoreError, StoreRefused
from syncd.store.lmdb import open_store
from tests.powerloss.images import Image, Recording, epochs, final, images, recording
from tests.powerloss.workload import MAP_BYTES, MAP_BYTES_MAX, Workload, digest

RECORDER: Final = Path(__file__).with_name("recorder.c")
ROOT: Final = Path(__file__).parents[2]
CHECK_S: Final = 20  # an image on which opening never ends is a failure, too
PROBLEMS_MAX: Final = 20  # that are kept to be shown

OK = "ok"
BEFORE = "refused before anything was acknowledged"  # the file was not finished being made


@dataclass(frozen=True, slots=True)
class Plan:
    """`kind`: how the store is opened (`workload.OPENED`). `sample`: images of each sort drawn for each epoch."""

    kind: str = "product"
    commits: int = 20
    seed: int = 1
    sample: int = 1
    images_max: int | None = None  # then the rest is left out: what is unsafe fails early


@dataclass(frozen=True, slots=True)
class Report:
    """`found`: how many distinct images ended how. `ops`: the recorded calls, a letter each."""

    found: dict[str, int]
    problems: tuple[str, ...]
    ops: str
    epochs: int
    commits: int
    directories: tuple[str, ...]  # that were synced before the first acknowledgement

    @property
    def images(self) -> int:
        return sum(self.found.values())

    @property
    def bad(self) -> int:
        return self.images - self.found.get(OK, 0) - self.found.get(BEFORE, 0)


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def run(plan: Plan) -> Report:
    """Raises `subprocess.CalledProcessError` if the recorder or the workload fails."""
    cc = compiler()
    assert cc is not None, "the recorder needs a C compiler"
    # Images in memory if that is possible: syncing them proves nothing. The recording needs no real disk either.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="syncd-power-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        directory = Path(name)
        library = directory / "recorder.so"
        subprocess.run([cc, "-O1", "-shared", "-fPIC", "-o", library, RECORDER, "-ldl"], check=True)
        made = _recorded(plan, directory, library)
        data = (directory / "made" / "store" / "data.mdb").read_bytes()
        assert final(made) == data, "the recorder has seen every write"
        return _checked(plan, directory / "image", made)


def _recorded(plan: Plan, directory: Path, library: Path) -> Recording:
    log = directory / "log"
    environment = {**os.environ, "LD_PRELOAD": str(library), "POWERLOSS_LOG": str(log), "PYTHONPATH": str(ROOT)}
    arguments = [str(directory), plan.kind, str(plan.commits), str(plan.seed)]
    command = [sys.executable, "-m", "tests.powerloss.workload", *arguments]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=120)
    return recording(log.read_bytes())


def _checked(plan: Plan, place: Path, made: Recording) -> Report:
    random, found, problems = Random(plan.seed), Counter[str](), list[str]()
    seen: set[bytes] = set()
    count = 0
    for epoch in epochs(made):
        count += 1
        for image in images(epoch, random, plan.sample):
            key = blake2b(image.data + repr(image.acknowledged).encode(), digest_size=16).digest()
            if key in seen or (plan.images_max is not None and len(seen) >= plan.images_max):
                continue
            seen.add(key)
            verdict = _in_a_child(place, lambda image=image: _verdict(place, image, made.digests))  # type: ignore[misc]
            kind = verdict.partition(":")[0]
            found[kind] += 1
            if kind not in (OK, BEFORE) and len(problems) < PROBLEMS_MAX:
                problems.append(f"epoch {epoch.number}, {image.label}, acknowledged {image.acknowledged}: {verdict}")
    before = made.records[: made.ops.index("A")]
    directories = tuple(Path(record.data.decode()).name for record in before if record.op == "D")
    return Report(dict(found), tuple(problems), made.ops, count, made.ops.count("A"), directories)


def _in_a_child(place: Path, verdict: Callable[[], str]) -> str:
    """In a forked process: what is damaged in a mapped file may end it by a signal, or keep it for ever."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(CHECK_S)
            os.write(writing, verdict().encode()[:2000])
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as answer:
            said = answer.read().decode()
    finally:
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return said or "no answer"


def _verdict(place: Path, image: Image, digests: dict[bytes, int]) -> str:
    try:
        (place / "data.mdb").write_bytes(image.data)
        try:
            store = open_store(place, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES_MAX)
        except StoreRefused as refused:
            if image.acknowledged is not None:
                return f"refused: {refused}"
            return BEFORE
        with store.read() as tx:
            findings = list(fsck.check(tx))
        if findings:
            return f"fsck: {findings[0]}"
        holds = digests.get(digest(store))
        if holds is None:
            # Before the first answer the rows are those of no commit: fsck is what can be said of them.
            return OK if image.acknowledged is None else "mixed: the rows are those of no commit"
        if image.acknowledged is not None and holds < image.acknowledged:
            return f"lost: it holds commit {holds}"
        Workload(store, Random(1)).commit()
        with store.read() as tx:
            findings = list(fsck.check(tx))
        return f"a commit on it: {findings[0]}" if findings else OK
    except StoreError as error:
        return f"damaged: {error}"
    except Exception as error:
        return f"failed: {error!r}"


def run_apart(plan: Plan) -> Report:
    """In a process without threads, where forking is safe."""
    command = [sys.executable, "-m", "tests.powerloss.proof", json.dumps(asdict(plan))]
    done = subprocess.run(
        command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    return Report(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(run(Plan(**json.loads(sys.argv[1]))))))
