"""Policy by brute force: what must be true of all notifications of a person, from a log of what happened and the rows.

Knows nothing of how decisions are made: zones by `datetime`, windows by counting, quiet hours minute by minute.
Whatever a rule of syncd claims, here it is looked at again in the dullest way.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from syncd.store.tables import DecisionRow

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
FINAL = {"sent", "digested", "collapsed", "suppressed", "held_out", "expired", "cancelled"}
GATES = {
    "holdout", "preference", "mute", "suppression", "segment", "collapse", "expiry", "caps", "quiet hours",
}  # fmt: skip


@dataclass
class Auditor:
    """`caps`: (category or None, count, hours). `critical`: categories. Each history: (from when, what)."""

    caps: list[tuple[str | None, int, int]]
    critical: set[str]
    zones: list[tuple[int, str]] = field(default_factory=lambda: [(0, "UTC")])
    quiet: list[tuple[int, tuple[int, int] | None]] = field(default_factory=lambda: [(0, None)])
    off: list[tuple[int, frozenset[str]]] = field(default_factory=lambda: [(0, frozenset())])
    absences: list[tuple[int, int]] = field(default_factory=list)  # from, to: nobody looked at timers
    seen: dict[int, DecisionRow] = field(default_factory=dict)

    def _at(self, history: list[tuple[int, Any]], at_ms: int) -> Any:
        return [what for since, what in history if since <= at_ms][-1]

    def minute(self, at_ms: int) -> int:
        zone = ZoneInfo(self._at(self.zones, at_ms))
        local = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(zone)
        return local.hour * 60 + local.minute

    def is_quiet(self, at_ms: int) -> bool:
        hours = self._at(self.quiet, at_ms)
        if hours is None:
            return False
        start, end = hours
        now = self.minute(at_ms)
        return start <= now < end if start < end else now >= start or now < end

    def is_full(self, sends: list[tuple[int, str]], category: str, at_ms: int) -> bool:
        """Whether one more at this moment would be one too many in some window."""
        for name, count, hours in self.caps:
            if name in (None, category):
                inside = [at for at, of in sends if at_ms - hours * HOUR_MS < at <= at_ms and name in (None, of)]
                if len(inside) >= count:
                    return True
        return False

    def audit(self, rows: list[DecisionRow], inbox: list[dict[str, Any]], now_ms: int) -> None:
        self._one_final_outcome(rows)
        sent = [row for row in rows if row.outcome == "sent"]
        documents = [shown["decision"] for shown in inbox]
        assert len(documents) == len(set(documents)) == len(sent), "N2: each that was sent is shown once"
        sends = [(row.decided_ms, row.category) for row in sent if row.category not in self.critical]
        for row in sent:
            at_ms = row.decided_ms
            assert row.expires_ms is None or at_ms < row.expires_ms, "N6: nothing after its expiry"
            assert row.category not in self._at(self.off, at_ms), "a category that is off is not sent"
            if row.category in self.critical:
                assert at_ms == row.made_ms, "N7: what is critical goes at once"
                continue
            assert not self.is_quiet(at_ms), f"N3: sent in quiet hours: {row}"
        for at_ms, category in sends:
            before = [each for each in sends if each[0] <= at_ms]
            for name, count, hours in self.caps:
                if name in (None, category):
                    inside = [at for at, of in before if at > at_ms - hours * HOUR_MS and name in (None, of)]
                    assert len(inside) <= count, f"N4: {len(inside)} in {hours} h, at most {count}"
        for row in sent:
            if row.category not in self.critical and row.content.get("workflow") is None and "count" not in row.content:
                self._no_longer_than_needed(row, sends)
        waiting = [(row.workflow, row.collapse) for row in rows if row.outcome == "deferred" and row.collapse]
        assert len(waiting) == len(set(waiting)), "N5: one waits for each collapse key"
        for row in rows:
            if row.outcome == "deferred":
                assert row.until_ms is not None and row.until_ms > row.decided_ms
                assert row.category not in self.critical, "N7: what is critical never waits"

    def _one_final_outcome(self, rows: list[DecisionRow]) -> None:
        for number, row in enumerate(rows):
            assert row.outcome in FINAL | {"deferred"}, f"N1: {row.outcome}"
            assert row.explanation, "each candidate is explained"
            assert {gate for gate, *_ in row.verdicts} >= GATES or row.reason in ("runs", "throttle")
            before = self.seen.get(number)
            if before is not None and before.outcome in FINAL:
                assert before == row, f"N1: what was final has changed: {before} -> {row}"
            self.seen[number] = row
        assert len(self.seen) == len(rows), "N1: no candidate is lost"

    def _no_longer_than_needed(self, row: DecisionRow, sends: list[tuple[int, str]]) -> None:
        """N8: in each minute in which it waited, something forbade it; but for absences, and the spread after them."""
        others = list(sends)
        others.remove((row.decided_ms, row.category))
        for at_ms in range(row.made_ms, row.decided_ms - MINUTE_MS, MINUTE_MS):
            if any(start <= at_ms <= end + 11 * MINUTE_MS for start, end in self.absences):
                continue
            before = [each for each in others if each[0] <= at_ms + MINUTE_MS]
            is_held = self.is_quiet(at_ms) or self.is_quiet(at_ms + MINUTE_MS)
            assert is_held or self.is_full(before, row.category, at_ms), f"N8: it could have gone at {at_ms}: {row}"
