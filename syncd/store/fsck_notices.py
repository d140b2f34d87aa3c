"""fsck of notifications: each run that waits for a time has its timer, each decision that waits its run.

Owns what must be true between timers, runs, decisions, dispatches and what is kept of each user. Must not know
workflows, nor by which rules anything was decided.
"""

from typing import Final

from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.checking import Damaged, Finding, Findings, get, rows
from syncd.store.tables import DECISIONS, DISPATCHES, RUNS, STANDINGS, TIMERS, RunRow, StandingRow

FINAL: Final = frozenset({"sent", "digested", "collapsed", "suppressed", "held_out", "expired", "cancelled"})
STATES: Final = frozenset({"steps", "awaits", "decides", "idle"})
KINDS: Final = frozenset({"run", "direct", "digest", "watch"})


def _named(key: bytes) -> str:
    owner, number = keys.parse_of_user(key)
    return f"{owner.hex()} {number}"


def timers(tx: Reader) -> Findings:
    """Each timer is that of a run."""
    for key, _ in tx.scan(*keys.table_range(keys.TIMER)):
        due_ms, rank, owner, number = keys.parse_timer(key)
        run = get(tx, RUNS, keys.run(owner, number))
        what = f"{due_ms} {owner.hex()} {number}"
        if run is None:
            yield Finding(TIMERS.name, what, "there is no such run")
        elif isinstance(run, RunRow) and (run.due_ms, run.rank) != (due_ms, rank):
            yield Finding(TIMERS.name, what, f"the run is due at {run.due_ms} with rank {run.rank}")


def runs(tx: Reader) -> Findings:
    """Each run that is due has a timer; its decision waits."""
    for key, run in rows(tx, RUNS, keys.table_range(keys.RUN)):
        if isinstance(run, Damaged):
            continue
        owner, number = keys.parse_of_user(key)
        if keys.owner(run.user) != owner:
            yield Finding(RUNS.name, _named(key), f"its key is not that of its user {run.user!r}")
        if run.kind not in KINDS or run.state not in STATES:
            yield Finding(RUNS.name, _named(key), f"it is a {run.kind!r} in the state {run.state!r}")
        if (run.state == "idle") != (run.due_ms is None):
            yield Finding(RUNS.name, _named(key), f"it is in the state {run.state!r}, and due at {run.due_ms}")
        if run.due_ms is not None and tx.get(keys.timer(run.due_ms, run.rank, owner, number)) is None:
            yield Finding(RUNS.name, _named(key), f"it is due at {run.due_ms}, and has no timer")
        if (run.state == "decides") != (run.decision is not None):
            yield Finding(RUNS.name, _named(key), f"it is in the state {run.state!r}, with the decision {run.decision}")
        if run.decision is not None:
            decision = get(tx, DECISIONS, keys.decision(owner, run.decision))
            if decision is None:
                yield Finding(RUNS.name, _named(key), f"its decision {run.decision} is not there")
            elif not isinstance(decision, Damaged) and (decision.outcome, decision.run) != ("deferred", number):
                said = f"{decision.outcome}, of run {decision.run}"
                yield Finding(RUNS.name, _named(key), f"its decision {run.decision} is {said}")


def decisions(tx: Reader) -> Findings:
    """Each decision that waits has a run that waits with it; each that was sent a dispatch."""
    for key, row in rows(tx, DECISIONS, keys.table_range(keys.DECISION)):
        if isinstance(row, Damaged):
            continue
        owner, number = keys.parse_of_user(key)
        if row.outcome != "deferred" and row.outcome not in FINAL:
            yield Finding(DECISIONS.name, _named(key), f"{row.outcome!r} is no outcome")
        if not row.explanation or not row.verdicts:
            yield Finding(DECISIONS.name, _named(key), "nothing explains it")
        run = get(tx, RUNS, keys.run(owner, row.run)) if row.outcome == "deferred" else None
        if row.outcome == "deferred" and (run is None or (isinstance(run, RunRow) and run.decision != number)):
            yield Finding(DECISIONS.name, _named(key), f"it waits, and its run {row.run} does not")
        if (row.outcome == "sent") != (row.document is not None):
            yield Finding(DECISIONS.name, _named(key), f"it is {row.outcome}, with the document {row.document!r}")
        if row.document is not None:
            dispatch = get(tx, DISPATCHES, keys.dispatch(owner, row.document))
            # An event that comes again after its key was forgotten is delivered anew under the same id.
            if dispatch is None or (not isinstance(dispatch, Damaged) and dispatch.decision < number):
                yield Finding(DECISIONS.name, _named(key), "it was sent, and has no dispatch")


def dispatches(tx: Reader) -> Findings:
    """Each dispatch is that of a decision."""
    for key, row in rows(tx, DISPATCHES, keys.table_range(keys.DISPATCH)):
        owner, document = keys.parse_dispatch(key)
        if not isinstance(row, Damaged):
            decision = get(tx, DECISIONS, keys.decision(owner, row.decision))
            if decision is None or (not isinstance(decision, Damaged) and decision.document != document):
                yield Finding(DISPATCHES.name, f"{owner.hex()} {document}", f"decision {row.decision} has not sent it")


def standings(tx: Reader) -> Findings:
    """What is counted of a user's runs is their number, and numbers that were given are below the next."""
    for prefix, table in ((keys.RUN, RUNS), (keys.DECISION, DECISIONS)):
        for key, _ in tx.scan(*keys.table_range(prefix)):
            if tx.get(keys.standing(keys.parse_of_user(key)[0])) is None:
                yield Finding(table.name, _named(key), "nothing is kept of its user")
    for key, row in rows(tx, STANDINGS, keys.table_range(keys.STANDING)):
        if isinstance(row, Damaged):
            continue
        owner = key[1:]
        if keys.owner(row.user) != owner:
            yield Finding(STANDINGS.name, owner.hex(), f"its key is not that of its user {row.user!r}")
        yield from _counted(tx, owner, row)


def _counted(tx: Reader, owner: bytes, row: StandingRow) -> Findings:
    count = sum(1 for _ in tx.scan(*keys.of_user_range(keys.RUN, owner)))
    if count != row.run_count:
        yield Finding(STANDINGS.name, owner.hex(), f"it has {count} runs, counted are {row.run_count}")
    for prefix, following, what in ((keys.RUN, row.run_next, "run"), (keys.DECISION, row.decision_next, "decision")):
        last = tx.last(*keys.of_user_range(prefix, owner))
        if last is not None and keys.parse_of_user(last[0])[1] >= following:
            yield Finding(STANDINGS.name, owner.hex(), f"the last {what} is not below the next, {following}")
