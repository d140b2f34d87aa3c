"""Planted bugs of notifications, of each promise some: what `notices.py` and its auditor must find.

Owns the table alone.
"""

from tests.sim.planted import Mutant

MUTANTS = (
    Mutant(
        "notices: an event without a notification is not remembered",
        "syncd.engine.posting", "_event",
        '_remember(batch, author, event.key, b"", lifetime_ms, None)',
        'if shown is not None:\n        _remember(batch, author, event.key, b"", lifetime_ms, None)',
        seeds=((4, "swarm"),),
    ),
    Mutant(
        "notices: a candidate whose run is replaced waits for ever",
        "syncd.notify.runs", "_replaced",
        "if run.decision is not None:",
        "if False:",
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "notices: what is shown is written, and its decision is not",
        "syncd.notify.desk", "Desk.flush",
        "if isinstance(mark, int):\n            DECISIONS",
        "if isinstance(mark, int) and self._decisions[mark].document is None:\n            DECISIONS",
        seeds=((4, "swarm"),),
    ),
    Mutant(
        "notices: all that a run sends is one document",
        "syncd.notify.deciding", "_delivered",
        "name = identity(desk.owner, number)",
        "name = identity(desk.owner, row.run)",
        seeds=((4, "swarm"),),
    ),
    Mutant(
        "notices: quiet hours are those of the server's zone",
        "syncd.notify.gates", "_quiet_end_ms",
        "asked.person.zone, at_ms",
        'ZoneInfo("UTC"), at_ms',
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "notices: a wait for a cap ends in quiet hours",
        "syncd.notify.gates", "_free_ms",
        "if _waits_for_quiet(asked) else None",
        "if False else None",
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "notices: one more than a cap",
        "syncd.notify.gates", "free_again_ms",
        "if len(sent) < cap.count:",
        "if len(sent) <= cap.count:",
        seeds=((4, "swarm"),),
    ),
    Mutant(
        "notices: caps count from the full minute of the clock",
        "syncd.notify.gates", "free_again_ms",
        "cap.span.end_ms(zone, oldest)",
        "(oldest // cap.span.nominal_ms + 1) * cap.span.nominal_ms",
        seeds=((4, "swarm"),),
    ),
    Mutant(
        "notices: the cap of a category counts every category",
        "syncd.notify.gates", "_full",
        "if sent.category == category.name]",
        "]",
        seeds=((4, "swarm"),),
    ),
    Mutant(
        "notices: of one collapse key the older is kept",
        "syncd.notify.runs", "begun",
        "if collapse is not None:\n",
        "if any((each.name, each.collapse) == (pinned.name, collapse) for each in desk.runs.values() if collapse):\n"
        "        return None\n"
        "    if collapse is not None:\n",
        seeds=((38, "swarm"),),
    ),
    Mutant(
        "notices: each with a collapse key takes the place of all",
        "syncd.notify.runs", "_replaced",
        '(run.kind, run.name, run.collapse) == ("run", workflow, collapse)',
        '(run.kind, run.name) == ("run", workflow)',
        seeds=((109, "swarm"),),
    ),
    Mutant(
        "notices: what is critical waits in quiet hours",
        "syncd.notify.gates", "_quiet",
        'if category.priority == "critical":',
        "if False:",
        seeds=((183, "swarm"),),
    ),
    Mutant(
        "notices: what is critical counts against caps",
        "syncd.notify.deciding", "_delivered",
        'if offer.category.priority != "critical":',
        "if True:",
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "notices: a mute is no obstacle",
        "syncd.notify.gates", "_mute",
        "if found is None:",
        "if True:",
        seeds=((35, "swarm"),),
    ),
    Mutant(
        "notices: the time of use begins anew with each look",
        "syncd.notify.runs", "redecided",
        "topic=row.topic, expires_ms=row.expires_ms)",
        "topic=row.topic)",
        seeds=((105, "swarm"),),
    ),
    Mutant(
        "notices: another draw is recorded",
        "syncd.notify.timing", "choose",
        "draw < EXPLORED_SHARE",
        "draw > 1 - EXPLORED_SHARE",
        seeds=((38, "swarm"),),
    ),
    Mutant(
        "notices: timers are known by what was committed since the start",
        "syncd.net.firing", "FiringLoop.look",
        "self._next_ms = self._earliest_ms()",
        "self._next_ms = None if self._next_ms is None else self._earliest_ms()",
        seeds=((62, "swarm"),),
    ),
    Mutant(
        "notices: a timer outlives its run",
        "syncd.notify.desk", "Desk._write_run",
        "if was is not None and was != now:",
        "if was is not None and now is not None and was != now:",
        seeds=((4, "swarm"),),
    ),
    Mutant(
        "notices: a new choice does not reach what waits",
        "syncd.notify.runs", "rejudged",
        "redecided(desk, number, is_due=False)",
        "pass",
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "notices: who waited for an event goes back to its step",
        "syncd.notify.runs", "timed_out",
        "after = program.following(pinned.workflow, run.at)",
        "after = [0] if not run.is_smeared else program.following(pinned.workflow, run.at)",
        seeds=((15, "swarm"),),
    ),
    Mutant(
        "notices: a digest loses what comes second",
        "syncd.notify.digests", "gathered",
        "desk.alter(number, entries=[*run.entries, (decision, title)])",
        "pass",
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "notices: what is critical is sent also by a name that is off",
        "syncd.notify.policy", "frequency",
        'is_off = named.frequency == "off"',
        "is_off = False",
        seeds=((87, "swarm"),),
    ),
    Mutant(
        "notices: what has expired is sent",
        "syncd.notify.gates", "_expiry",
        "now_ms < expires_ms",
        "True",
        seeds=((64, "swarm"),),
    ),
)  # fmt: skip
