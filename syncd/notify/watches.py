"""Triggers that wait for time: one movable timer per person and rule, and nothing is polled.

Owns the watches of inactivity and of civil schedules, and the crossing of thresholds. Must not know what a workflow
does once it is set off. A watch is a run of the kind `watch`, without steps: `event` holds what it remembers.

Invariants: W1 a schedule sets off once for each local date that it names, whatever the clock does: the last date is
remembered, and so is the date that comes next (`civil`). W2 an inactivity rule sets off once for each absence. W3 its
timer stands where the chance to return crosses the threshold, as of the latest session.
"""

from datetime import date

from syncd.notify import facts, returning
from syncd.notify.book import Pinned
from syncd.notify.civil import Occurrence
from syncd.notify.desk import Desk
from syncd.store.tables import RunRow

RANK = 2  # among timers: as something normal
LAST = "last"  # the local date of a schedule's latest occurrence; the session for which inactivity was set off
CATCH_UP_MAX = 7  # occurrences of a schedule that are caught up with after a downtime


def crossed(desk: Desk, event: str, span_ms: int, count_min: int) -> bool:
    """Whether an event, which is counted already, is the one that makes a threshold; then it is counted anew. Faded as
    they are, so many within the span count as that many to within a half."""
    if facts.count(desk, event, span_ms) < count_min - 0.5:
        return False
    facts.forgotten(desk, event, span_ms)
    return True


def kept(desk: Desk) -> None:
    """Bring the watches of a person in line with the workflows in force. Those of workflows that are gone end when they
    fall due, or when the absence is over for which they were set off."""
    wanted = {each.name: each for each in (*desk.current.inactivity, *desk.current.scheduled)}
    if not wanted:
        return
    found = {run.name: number for number, run in desk.runs.items() if run.kind == "watch"}
    for name, pinned in wanted.items():
        number = found.get(name)
        if number is None:
            run = RunRow(
                desk.user, "watch", name, pinned.version, (0,), "idle", None, RANK, None, None, None, None, {},
                desk.now_ms, (), False,
            )  # fmt: skip
            number = desk.begin(run)
            if number is None:
                continue
            _set(desk, number, pinned)
        elif (run_now := desk.run(number)) is not None and run_now.version != pinned.version:
            desk.alter(number, version=pinned.version)
            _set(desk, number, pinned)


def _set(desk: Desk, number: int, pinned: Pinned) -> None:
    if pinned.workflow.trigger.schedule is not None:
        rescheduled(desk, number)
    else:
        absent(desk, number, pinned)


def _stand(desk: Desk, number: int, due_ms: int | None, civil: str | None = None) -> None:
    state = "idle" if due_ms is None else "steps"
    desk.alter(number, state=state, due_ms=due_ms, civil=civil, is_smeared=False)


# -- inactivity -------------------------------------------------------------------------------------------------------


def sessions(desk: Desk) -> None:
    """A session began: each rule of inactivity waits from now on (W3)."""
    for number, run in desk.runs.items():
        pinned = desk.current.workflows.get(run.name) if run.kind == "watch" else None
        if pinned is None and (run.kind, run.state) == ("watch", "idle"):
            desk.end(number)  # its workflow is gone, and it would never fall due
        elif pinned is not None and pinned.workflow.trigger.inactivity is not None:
            absent(desk, number, pinned)


def absent(desk: Desk, number: int, pinned: Pinned) -> None:
    """Set the timer where the rule's chance is crossed; none for an absence for which it was set off (W2)."""
    run = desk.run(number)
    assert run is not None
    latest_ms = desk.profile.latest_ms
    if not desk.profile.sessions or run.event.get(LAST) == latest_ms:
        _stand(desk, number, None)
        return
    _stand(desk, number, max(crossing_ms(desk, pinned), desk.now_ms + 1))


def crossing_ms(desk: Desk, pinned: Pinned) -> int:
    rule = pinned.workflow.trigger.inactivity
    assert rule is not None
    found = returning.crossing_ms(desk.profile, rule.p_return_below)
    return rule.fallback.end_ms(desk.zone, desk.profile.latest_ms) if found is None else found


# -- schedules --------------------------------------------------------------------------------------------------------


def _last(run: RunRow) -> date | None:
    found = run.event.get(LAST)
    return None if found is None else date.fromisoformat(found)


def rescheduled(desk: Desk, number: int) -> None:
    """Resolve the next occurrence of a schedule on the person's clock as it is now (W1). Whatever else the watch is, is
    left alone."""
    run = desk.run(number)
    assert run is not None
    pinned = desk.current.workflows.get(run.name)
    schedule = None if pinned is None else pinned.workflow.trigger.schedule
    if schedule is None:
        return
    _await(desk, number, schedule.upcoming(desk.zone, desk.now_ms + 1, _last(run)))


def _await(desk: Desk, number: int, next_one: Occurrence) -> None:
    _stand(desk, number, max(next_one.at_ms, desk.now_ms + 1), next_one.date.isoformat())


# -- falling due ------------------------------------------------------------------------------------------------------


def fallen_due(desk: Desk, number: int, is_once: bool) -> tuple[Pinned, int] | None:
    """A watch's time has come: what it sets off, and how often. `is_once`: occurrences that were missed count as one.
    Its timer stands at the next one, or is gone."""
    run = desk.run(number)
    assert run is not None and run.kind == "watch"
    pinned = desk.current.workflows.get(run.name)
    trigger = None if pinned is None else pinned.workflow.trigger
    if pinned is None or trigger is None or (trigger.inactivity is None and trigger.schedule is None):
        desk.end(number)
        return None
    if trigger.inactivity is not None:
        if run.event.get(LAST) == desk.profile.latest_ms or crossing_ms(desk, pinned) > desk.now_ms:
            absent(desk, number, pinned)  # a session came, or what is known has changed
            return None
        desk.alter(number, event={LAST: desk.profile.latest_ms})
        absent(desk, number, pinned)
        return pinned, 1
    assert trigger.schedule is not None
    if run.civil is None:
        rescheduled(desk, number)
        return None
    day, count = date.fromisoformat(run.civil), 1
    missed = trigger.schedule.after(desk.zone, day)
    while (next_one := next(missed)).at_ms <= desk.now_ms:
        day, count = next_one.date, count + 1
    desk.alter(number, event={LAST: day.isoformat()})
    _await(desk, number, next_one)
    return pinned, 1 if is_once else min(count, CATCH_UP_MAX)
