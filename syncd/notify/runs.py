"""Runs: what sets a workflow off for a user, and how a run goes from step to step.

Owns the steps, what an event does to runs that go on, and what a decision's outcome does to its run. Must not know
gates (`deciding.py`), learning, nor when timers are looked at.

Invariants: R1 a run stands at one step, and goes on from there in the transaction that its timer or its event began.
R2 a run reads the version of the workflow with which it began. R3 one call takes `STEPS_MAX` steps at most, as steps
only lead forward. R4 of runs of one workflow with one collapse key, only the newest goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from syncd.notify import digests, program, watches
from syncd.notify.book import Pinned
from syncd.notify.civil import instant_ms, shown
from syncd.notify.deciding import Offer, decide, expiry_ms, offered, rank, refused, stopped
from syncd.notify.desk import Desk
from syncd.notify.facts import facts
from syncd.notify.limits import PASSES_MAX, RUNS_MAX
from syncd.notify.policy import Cap, Category
from syncd.notify.workflows import Step
from syncd.store.tables import DecisionRow, RunRow

KEPT_TEXT_CHARS = 160  # of a topic or a collapse key: as long as a name may be

# -- beginning --------------------------------------------------------------------------------------------------------


def begun(desk: Desk, pinned: Pinned, data: Mapping[str, Any], source: tuple[str, str] | None = None) -> int | None:
    """A run of a workflow begins, and goes as far as it can. Returns its number; None if there is no room for it, which
    is told by a decision of its own."""
    workflow = pinned.workflow
    collapse = None if workflow.collapse is None else program.rendered(workflow.collapse, data)[:KEPT_TEXT_CHARS]
    kept = program.read_of(pinned, data)
    if source is not None:
        kept[SOURCE] = list(source)
    run = RunRow(
        desk.user, "run", pinned.name, pinned.version, (0,), "steps", desk.now_ms, rank(pinned.category.priority),
        None, None, None, collapse, kept, desk.now_ms, (), False,
    )  # fmt: skip
    if collapse is not None:
        _replaced(desk, pinned.name, collapse)
    number = desk.begin(run, pinned)
    if number is None:
        _crowded(desk, pinned, collapse, source)
        return None
    go_on(desk, number)
    return number


SOURCE = "\0source"  # of the event in what a run keeps: no field of an event is called so


def _replaced(desk: Desk, workflow: str, collapse: str) -> None:
    """A newer run takes the place of those with its key (R4)."""
    newer = f"run {desk.standing.run_next}"
    for number, run in desk.runs.items():
        if (run.kind, run.name, run.collapse) == ("run", workflow, collapse):
            if run.decision is not None:
                stopped(desk, run.decision, "collapsed", newer, f"a newer one of its kind took its place ({newer})")
            desk.end(number)


_CROWDED = f"this person has {RUNS_MAX} runs, as many as may be at once"


def _crowded(desk: Desk, pinned: Pinned, collapse: str | None, source: tuple[str, str] | None) -> None:
    row = _bare(desk, pinned.name, pinned.category, pinned.version, collapse, source)
    refused(desk, desk.decision_begun(row), "runs", _CROWDED)


def _bare(
    desk: Desk, name: str, category: Category, version: str, collapse: str | None, source: Sequence[str] | None
) -> DecisionRow:
    """A candidate that comes to nothing before it is made."""
    return DecisionRow(
        desk.user, desk.standing.run_next, name, version, category.name, None, category.priority, collapse, source,
        desk.now_ms, None, desk.now_ms, "", None, None, None, None, False, (), "", (), None, {}, (), None,
    )  # fmt: skip


def direct(desk: Desk, event_key: str, shown_fields: Mapping[str, Any]) -> None:
    """A notification that a backend posted: a run of one step."""
    name = str(shown_fields["category"])
    category = desk.current.policy.categories.get(name) or Category(name)
    run = RunRow(
        desk.user, "direct", name, "", (0,), "steps", desk.now_ms, rank(category.priority), None, None, None, None, {},
        desk.now_ms, (), False,
    )  # fmt: skip
    number = desk.begin(run)
    source = (str(shown_fields["source"]), str(shown_fields["event"]))
    if number is None:
        refused(desk, desk.decision_begun(_bare(desk, "", category, "", None, source)), "runs", _CROWDED)
        return
    offer = Offer(category, None, expiry_ms(desk, category), None, False)
    _offer(desk, number, offer, {**shown_fields, "document": event_key}, source)


# -- going on ---------------------------------------------------------------------------------------------------------


def go_on(desk: Desk, number: int) -> None:
    """Take steps until the run waits or ends (R1, R3)."""
    while (run := desk.run(number)) is not None and run.state == "steps":
        pinned = desk.pinned(run)
        if pinned is None or (step := program.step_at(pinned.workflow, run.at)) is None:
            desk.end(number)
            return
        after = program.following(pinned.workflow, run.at)
        if _taken(desk, number, run, pinned, step, after):
            return


def _taken(desk: Desk, number: int, run: RunRow, pinned: Pinned, step: Step, after: list[int]) -> bool:
    """Take one step. Whether the run waits now, or has ended."""
    match step.kind:
        case "send":
            assert step.send is not None
            return not _send(desk, number, pinned, step.send.templates, step.send.choose == "bandit")
        case "digest":
            assert step.digest is not None
            return not _digest(desk, number, pinned, step.digest)
        case "delay":
            assert step.delay is not None
            due_ms = step.delay.end_ms(desk.zone, desk.now_ms)
            civil = shown(desk.zone, due_ms).isoformat() if step.delay.days else None
            desk.alter(number, at=after, due_ms=max(due_ms, desk.now_ms + 1), civil=civil)
            return True
        case "wait_for":
            assert step.timeout is not None
            due_ms = step.timeout.end_ms(desk.zone, desk.now_ms)
            civil = shown(desk.zone, due_ms).isoformat() if step.timeout.days else None
            due_ms = max(due_ms, desk.now_ms + 1)
            desk.alter(number, state="awaits", awaits=step.wait_for, due_ms=due_ms, civil=civil)
            return True
        case "throttle":
            assert step.throttle is not None
            if not _passes(desk, pinned.name, step.throttle):
                words = f"{pinned.name} lets {step.throttle} pass, and as many have"
                row = _bare(desk, pinned.name, pinned.category, pinned.version, run.collapse, _source(run))
                refused(desk, desk.decision_begun(row), "throttle", words)
                desk.end(number)
                return True
        case "branch":
            assert step.branch is not None
            is_then = step.branch.where.holds(facts(desk, run.event))
            after = program.entered(pinned.workflow, run.at, is_then)
    desk.alter(number, at=after)
    return False


def _source(run: RunRow) -> tuple[str, str] | None:
    found = run.event.get(SOURCE)
    return None if found is None else (found[0], found[1])


def _passes(desk: Desk, workflow: str, cap: Cap) -> bool:
    """Whether a throttle lets one more pass; it is counted if so."""
    times = list(desk.standing.passes.get(workflow, ()))
    oldest_ms = times[-cap.count] if len(times) >= cap.count else None
    if oldest_ms is not None and cap.span.end_ms(desk.zone, oldest_ms) > desk.now_ms:
        return False
    passes = {**desk.standing.passes, workflow: [*times, desk.now_ms][-cap.count :]}
    if len(passes) > PASSES_MAX:
        del passes[min(passes, key=lambda name: (passes[name][-1], name))]
    desk.standing = desk.standing._replace(passes=passes)
    return True


def _send(desk: Desk, number: int, pinned: Pinned, templates: Sequence[str], is_drawn: bool) -> bool:
    """Offer a notification of a workflow. Whether its outcome is final."""
    run = desk.run(number)
    assert run is not None
    chosen, propensity = templates[0], 1.0
    if is_drawn and len(templates) > 1:
        # All alike, until what they are opened for tells them apart; the propensity is what learning from it needs.
        chosen, propensity = templates[int(desk.draw() * len(templates))], 1.0 / len(templates)
    title, body = program.words(pinned.templates[chosen], desk.locale, run.event)
    content = {"title": title, "body": body, "workflow": pinned.name, "template": chosen, "propensity": propensity}
    return _offer(desk, number, offer_of(desk, run, pinned), content, _source(run))


def offer_of(desk: Desk, run: RunRow, pinned: Pinned) -> Offer:
    workflow, category = pinned.workflow, pinned.category
    topic = None if workflow.topic is None else program.rendered(workflow.topic, run.event)[:KEPT_TEXT_CHARS] or None
    is_learned = category.priority in ("low", "normal")
    return Offer(category, topic, expiry_ms(desk, category), workflow.window, is_learned)


def _digest(desk: Desk, number: int, pinned: Pinned, frequency: str) -> bool:
    """What a workflow gathers whatever a person chose; one who wants less often gets it so."""
    run = desk.run(number)
    assert run is not None
    named = run.event.get("title")
    content = {"title": named if isinstance(named, str) else pinned.name, "body": "", "workflow": pinned.name}
    category = pinned.category
    if category.frequency == "instant":
        category = replace(category, frequency=frequency)
    offer = offer_of(desk, run, pinned)._replace(category=category, window=None)
    return _offer(desk, number, offer, content, _source(run))


def _offer(desk: Desk, number: int, offer: Offer, content: dict[str, Any], source: tuple[str, str] | None) -> bool:
    """Make a candidate and decide. Whether its outcome is final; the run then goes on behind its step."""
    decision = offered(desk, number, offer, content, source)
    if not decide(desk, decision, offer, is_due=False):
        return False
    settled(desk, number)
    return True


def settled(desk: Desk, number: int) -> None:
    """A run's candidate has come to its outcome: the run goes on behind the step that made it, or ends."""
    run = desk.run(number)
    if run is None:
        return
    pinned = desk.pinned(run) if run.kind == "run" else None
    if pinned is None:
        desk.end(number)
        return
    after = program.following(pinned.workflow, run.at)
    desk.alter(number, at=after, state="steps", decision=None, due_ms=desk.now_ms, civil=None)


def redecided(desk: Desk, number: int, is_due: bool) -> None:
    """Judge the candidate of a run again: its time has come, or what it was judged by has changed."""
    run = desk.run(number)
    assert run is not None and run.decision is not None, "only what waits is decided again"
    row = desk.decision(run.decision)
    pinned = desk.pinned(run) if run.kind == "run" else None
    if run.kind == "run" and pinned is None:
        stopped(desk, run.decision, "cancelled", "definitions", "its workflow is not known any more")
        desk.end(number)
        return
    if pinned is not None:
        offer = offer_of(desk, run, pinned)._replace(topic=row.topic, expires_ms=row.expires_ms)
    else:
        category = desk.current.policy.categories.get(row.category) or Category(row.category)
        offer = Offer(category, row.topic, row.expires_ms, None, False, run.kind == "digest")
    if decide(desk, run.decision, offer, is_due):
        settled(desk, number)
        go_on(desk, number)


def closed(desk: Desk, number: int) -> None:
    """A digest closes: it offers its notification."""
    run = desk.run(number)
    assert run is not None and run.kind == "digest"
    category = desk.current.policy.categories.get(run.name) or Category(run.name)
    offer = Offer(category, None, expiry_ms(desk, category), None, False, True)
    _offer(desk, number, offer, {**digests.content(run), "count": len(run.entries)}, None)


# -- what events do to runs -------------------------------------------------------------------------------------------


def heard(desk: Desk, event: str, of: int | None = None) -> None:
    """An event of the user came: runs that it cancels end, those that wait for it go on. `of`: the only decision about
    which it is (an opened notification): it ends no run but the one that sent it."""
    if event not in desk.current.heard:
        return  # most events set off, and nothing waits for them: no run needs to be read
    about = None if of is None else desk.kept_decision(of)
    for number in desk.runs:
        run = desk.run(number)
        if run is None or run.kind != "run":
            continue
        pinned = desk.pinned(run)
        is_its_affair = of is None or (about is not None and about.run == number)
        if is_its_affair and pinned is not None and event in pinned.workflow.cancel_on:
            cancelled(desk, number, event)
        elif run.awaits == event and (of is None or of == _last_decision(desk, number)):
            if pinned is None:
                desk.end(number)  # its workflow is not known any more
                continue
            desk.alter(
                number, state="steps", at=program.following(pinned.workflow, run.at), awaits=None, due_ms=desk.now_ms,
                civil=None,
            )  # fmt: skip
            go_on(desk, number)


def _last_decision(desk: Desk, number: int) -> int | None:
    """The latest decision of a run that was sent."""
    for _, _, decision, _ in reversed(desk.standing.sends):
        row = desk.kept_decision(decision)
        if row is not None and row.run == number:
            return decision
    return None


def cancelled(desk: Desk, number: int, by: str) -> None:
    """A run ends before its time, and its candidate with it."""
    run = desk.run(number)
    assert run is not None
    if run.decision is not None:
        stopped(desk, run.decision, "cancelled", by, f"cancelled by {by}")
    desk.end(number)


def timed_out(desk: Desk, number: int) -> None:
    """What a run waited for did not come."""
    run = desk.run(number)
    pinned = None if run is None else desk.pinned(run)
    if run is None or pinned is None:
        desk.end(number)
        return
    after = program.following(pinned.workflow, run.at)
    desk.alter(number, state="steps", at=after, awaits=None, due_ms=desk.now_ms, civil=None)
    go_on(desk, number)


def triggered(desk: Desk, event: str, data: Mapping[str, Any], source: tuple[str, str] | None) -> None:
    """Set off what an event sets off."""
    for pinned in desk.current.on_event.get(event, ()):
        where = pinned.workflow.trigger.where
        if where is None or where.holds(facts(desk, data)):
            begun(desk, pinned, data, source)
    for pinned in desk.current.on_threshold.get(event, ()):
        threshold = pinned.workflow.trigger.threshold
        assert threshold is not None, "it is listed by its threshold"
        if watches.crossed(desk, event, threshold.within.nominal_ms, threshold.count):
            begun(desk, pinned, data, source)


# -- another clock ----------------------------------------------------------------------------------------------------


def moved(desk: Desk) -> None:
    """The person's zone is another than when civil times were last resolved: they are resolved again, and what waits
    for its moment is decided again."""
    for number in desk.runs:
        run = desk.run(number)
        if run is None:
            continue
        if run.kind == "watch":
            watches.rescheduled(desk, number)
        elif run.civil is not None and run.due_ms is not None:
            due_ms = instant_ms(desk.zone, datetime.fromisoformat(run.civil))
            desk.alter(number, due_ms=max(due_ms, desk.now_ms + 1))
        elif run.decision is not None:
            redecided(desk, number, is_due=False)


def rejudged(desk: Desk) -> None:
    """The person chose otherwise: what waits is decided again."""
    for number in desk.runs:
        run = desk.run(number)
        if run is not None and run.decision is not None:
            redecided(desk, number, is_due=False)
