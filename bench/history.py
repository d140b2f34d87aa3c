"""What the same figures were before: records of earlier runs, and what has become worse.

Owns where records lie (`bench/results/history`, one file a run, never committed), which of them is of this machine, and
when a difference is more than noise: when it is greater than the spread of either run.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Figure

RECORDS_MAX = 100  # the oldest go: a few kilobytes each
NOISE_MIN = 0.05  # of a figure that was taken once there is no spread
SAME = ("host", "cpu", "cores")  # what makes two runs comparable

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A figure then and now. `share`: (now - then) / then. `mark`: `worse`, `better`, or nothing: noise."""

    benchmark: str
    name: str
    unit: str
    then: float
    now: float
    since: str
    mark: str

    @property
    def share(self) -> float:
        return (self.now - self.then) / self.then if self.then else 0.0


def is_more_better(figure: Figure) -> bool | None:
    """None: neither, as for the shares of a profile."""
    if figure.target is not None:
        return figure.target.least is not None
    if figure.unit.endswith("/s") or figure.unit == "ratio":
        return True
    if figure.unit.partition("/")[0] in ("us", "ms", "s", "KiB", "MiB"):
        return False
    return None


def change(figure: Figure, before: dict[str, Any], since: str) -> Change:
    """`before`: the figure as it was recorded."""
    then, now = before["median"], figure.median
    noise = max(NOISE_MIN, before["spread"], figure.spread)
    share = (now - then) / then if then else 0.0
    mark, is_more = "", is_more_better(figure)
    if is_more is not None and abs(share) > noise:
        mark = "better" if (share > 0) == is_more else "worse"
    return Change(figure.benchmark, figure.name, figure.unit, then, now, since, mark)


def compared(figures: Iterable[Figure], records: Sequence[Record]) -> list[Change]:
    """Each figure against the newest record that has it; `records`: newest first. A new figure has no line."""
    found = []
    for figure in figures:
        key = (figure.benchmark, figure.name, figure.unit)
        for record in records:
            before = next((each for each in record["figures"] if _key(each) == key), None)
            if before is not None:
                found.append(change(figure, before, record["machine"]["time"]))
                break
    return found


def _key(recorded: dict[str, Any]) -> tuple[str, str, str]:
    return recorded["benchmark"], recorded["name"], recorded["unit"]


def is_same_machine(machine: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(machine.get(name) == other.get(name) for name in SAME)


def records(directory: Path, machine: dict[str, Any]) -> list[Record]:
    """Those of this machine, newest first. A file that cannot be read is no record."""
    found = []
    for path in sorted(directory.glob("*.json"), reverse=True):
        try:
            record = read(path)
        except ValueError:
            continue
        if is_same_machine(machine, record["machine"]):
            found.append(record)
    return found


def read(path: Path) -> Record:
    """Raises `ValueError` with what is wrong, `OSError`."""
    record = json.loads(path.read_text())
    if not (isinstance(record, dict) and isinstance(record.get("machine"), dict) and "figures" in record):
        raise ValueError(f"{path} is no result of `python -m bench`: 'machine' and 'figures' are expected")
    return record


def keep(directory: Path, record: Record) -> None:
    """Add a record, and drop the oldest beyond `RECORDS_MAX`."""
    directory.mkdir(parents=True, exist_ok=True)
    name = record["machine"]["time"].replace(":", "")
    (directory / f"{name}.json").write_text(json.dumps(record) + "\n")
    for path in sorted(directory.glob("*.json"), reverse=True)[RECORDS_MAX:]:
        path.unlink()
