"""What a run of many seeds must have seen, or its passing says little.

Owns the counts over all seeds and the lists of what can occur at all: kinds of faults, points at which the power goes,
outcomes, and close codes as devices hear them. What never occurred in a long run is a hole in the simulator, as when a
change of the workload makes an outcome impossible.
"""

from collections import Counter
from collections.abc import Iterator

from syncd.wire.errors import CLOSES, KINDS
from tests.sim.plan import FAULTS, LATER_FAULTS
from tests.sim.rogue import MISDEEDS
from tests.sim.run import Report
from tests.sim.topics import TOPICS

SEEDS_LISTED = 100  # from here on, what is missing is listed
SEEDS_JUDGED = 150  # and from here on, it fails the run: so many there are in the time of a check of a clean checkout

# Close codes and errors that this version has in its registry, and never uses; and what would be a defect of ours.
# Quotas (4905 and the two errors of the name) are beyond what a run has time to fill.
UNUSED_CLOSES = (1001, 1011, 1013, 4000, 4300, 4904, 4905)
UNUSED_ERRORS = ("internal", "too_many_devices", "too_many_spaces")
EXPECTED: dict[str, tuple[str, ...]] = {
    "fault": tuple(
        sorted({*FAULTS, *LATER_FAULTS, "early display", "follower crashed", "polls", "lost answer"} - {"power-cut"})
    ),
    "misdeed": tuple(sorted(MISDEEDS)),
    "power cut at": ("commit.before", "commit.after", "publish.before"),
    "outcome": (
        "applied",
        "merged",
        "noop",
        "gone",
        "precondition",
        "forbidden",
        "type_mismatch",
        "invalid",
        "too_large",
        "void",
    ),
    "error": tuple(kind.name for kind in KINDS if kind.name not in UNUSED_ERRORS),
    "close": tuple(str(close.code) for close in CLOSES if close.code not in UNUSED_CLOSES),
    "topic": tuple(f"{topic.name}: {what}" for topic in TOPICS for what in topic.expected),
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
        self._seen["error"].update(report.errors)
        self._seen["misdeed"].update(report.misdeeds)
        self._seen["topic"].update(report.topics)

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
