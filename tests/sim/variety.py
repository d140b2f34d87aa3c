"""What a run of many seeds must have seen, or its passing says little.

Owns the counts over all seeds and the lists of what can occur at all: kinds of faults, points at which the power goes,
outcomes, and close codes as devices hear them. What never occurred in a long run is a hole in the simulator, as when a
change of the workload makes an outcome impossible.
"""

from collections import Counter
from collections.abc import Iterator

from tests.sim.plan import FAULTS
from tests.sim.world import Report

SEEDS_LISTED = 100  # from here on, what is missing is listed
SEEDS_JUDGED = 200  # and from here on, it fails the run

# Of closes, a well-behaved client meets no other: 4901 goes to a connection that its device has left, 4100 to a flood,
# and one that is idle or makes no progress hears nothing. Of outcomes, `too_large` and `void` are not brought about.
EXPECTED: dict[str, tuple[str, ...]] = {
    "fault": tuple(sorted(set(FAULTS) - {"power-cut"})),
    "power cut at": ("commit.before", "commit.after", "publish.before"),
    "outcome": ("applied", "merged", "noop", "gone", "precondition", "forbidden", "type_mismatch", "invalid"),
    "close": ("1000", "1006", "1012", "4200", "4201"),
}


class Variety:
    def __init__(self) -> None:
        self.seeds = 0
        self._seen: dict[str, Counter[str]] = {group: Counter() for group in EXPECTED}

    def add(self, report: Report) -> None:
        self.seeds += 1
        self._seen["fault"].update(report.faults)
        self._seen["power cut at"].update(report.power_cuts)
        self._seen["outcome"].update(report.outcomes)
        self._seen["close"].update({str(code): count for code, count in report.closes.items()})

    @property
    def missing(self) -> list[str]:
        """What can occur and never did; nothing is held against a short run."""
        if self.seeds < SEEDS_LISTED:
            return []
        return [f"{group} {name}" for group, names in EXPECTED.items() for name in names if not self._seen[group][name]]

    @property
    def exit_code(self) -> int:
        return int(self.seeds >= SEEDS_JUDGED and bool(self.missing))

    def lines(self) -> Iterator[str]:
        for group, counts in self._seen.items():
            yield f"{group}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        if self.missing:
            yield "NEVER OCCURRED: " + ", ".join(self.missing)
