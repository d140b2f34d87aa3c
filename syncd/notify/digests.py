"""Digests: what is gathered for a person who wants to hear of a category hourly, daily or weekly.

Owns what a digest gathers, when it closes, and what it then says. Must not know gates: a digest that closes offers one
notification, which passes them like any other.

Invariants: G1 what is gathered is in a digest that has a timer, in one transaction. G2 a digest takes nothing more once
it has closed. G3 it closes by the person's clock, once each hour, day or week.
"""

from syncd.notify.civil import parse_schedule, shown
from syncd.notify.desk import Desk
from syncd.notify.limits import DIGEST_ENTRIES_MAX, DIGEST_SHOWN
from syncd.store.tables import RunRow

# In the evening, when most people have a moment (timing.NOBODYS_HOURS), and before the quiet hours of nearly all.
DAILY, WEEKLY = parse_schedule("18:00"), parse_schedule("mon 18:00")
RANK = 2  # among timers: as something normal


def gathered(desk: Desk, category: str, frequency: str, decision: int, title: str) -> bool:
    """Take a candidate into the open digest of its category, made with its timer if there is none (G1). Whether there
    was room."""
    for number, run in desk.runs.items():
        if (run.kind, run.name, run.version, run.state) == ("digest", category, frequency, "steps"):
            if len(run.entries) < DIGEST_ENTRIES_MAX:
                desk.alter(number, entries=[*run.entries, (decision, title)])
            else:
                desk.alter(number, event={"more": run.event.get("more", 0) + 1})
            return True
    due_ms, civil = closing(desk, frequency)
    entries = [(decision, title)]
    run = RunRow(
        desk.user, "digest", category, frequency, (0,), "steps", due_ms, RANK, civil, None, None, None, {},
        desk.now_ms, entries, False,
    )  # fmt: skip
    return desk.begin(run) is not None


def closing(desk: Desk, frequency: str) -> tuple[int, str | None]:
    """When a digest that is begun now closes, and the local time that is meant (G3)."""
    if frequency == "hourly":
        local = shown(desk.zone, desk.now_ms)
        into_ms = (local.minute * 60 + local.second) * 1000 + local.microsecond // 1000
        return desk.now_ms + 3_600_000 - into_ms, None
    schedule = WEEKLY if frequency == "weekly" else DAILY
    found = schedule.upcoming(desk.zone, desk.now_ms + 1)
    return found.at_ms, shown(desk.zone, found.at_ms).isoformat()


def content(run: RunRow) -> dict[str, str]:
    """What a digest says."""
    count = len(run.entries) + int(run.event.get("more", 0))
    titles = [title for _, title in run.entries if title]
    if count == 1 and titles:
        return {"title": titles[0], "body": ""}
    rest = count - len(titles[:DIGEST_SHOWN])
    lines = [*titles[:DIGEST_SHOWN], *([f"and {rest} more"] if rest and titles else [])]
    return {"title": f"{count} new in {run.name}", "body": "\n".join(lines)}
