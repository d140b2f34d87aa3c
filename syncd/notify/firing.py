"""Timers that have fallen due.

Owns the look at the queue, what becomes of each run whose time has come, and what is caught up with after a downtime.
Must not know clocks: how far the wall clock is believed is in the command (`TrustedClock` says how that is told).

Each timer is taken by itself: all that it leads to is written at its end, or nothing, so that a defect costs one run.
All of one look are one transaction: with it they are gone from the queue and have had their effect.

Invariants: F1 a timer is taken once, and its run is due at exactly its time; anything else is stale and dropped. F2 one
look is bounded. F3 a wall clock that went back un-fires nothing, as what was taken is gone. F4 what is not critical
waits while the wall clock is not believed. F5 after a downtime a workflow's own word holds, and no herd starts at once.
"""

import traceback
from dataclasses import dataclass

from syncd.engine.batch import Batch
from syncd.engine.commands import Fire, Fired
from syncd.notify import deciding, runs, watches
from syncd.notify.book import Book
from syncd.notify.desk import Desk
from syncd.notify.limits import FIRED_AT_ONCE, JUMP_MS, LATE_MS, SCANNED_AT_ONCE, SMEAR_MS
from syncd.store import keys
from syncd.store.api import StoreError
from syncd.store.tables import RUNS, RunRow

CRITICAL = 0  # the rank of what never waits


@dataclass(frozen=True, slots=True)
class TrustedClock:
    """How far a wall clock is believed: as far as time has passed by the monotonic clock since the last look, and a day
    more. `wall_ms`, `mono_ms`: what both showed when it was last believed."""

    wall_ms: int
    mono_ms: int

    def looked(self, wall_ms: int, mono_ms: int) -> tuple["TrustedClock", int]:
        """The clock after a look, and the time that is believed. A wall clock that leapt further ahead is believed
        again when it is set back, or when as much time has passed; one that was set back is believed at once."""
        expected_ms = self.wall_ms + max(0, mono_ms - self.mono_ms)
        if wall_ms - expected_ms > JUMP_MS:
            return self, expected_ms
        return TrustedClock(wall_ms, mono_ms), wall_ms


def fired(batch: Batch, book: Book, command: Fire) -> Fired:
    """Take what is due, the earliest first, of each millisecond the most urgent; then what is critical among those that
    are held back (F4). There may be any number of these, so one look goes on where the one before ended."""
    now_ms = batch.now_ms
    trusted_ms = min(command.trusted_ms, now_ms)
    due: list[tuple[int, bytes, bytes, int]] = []
    start, believed = keys.timers_range(trusted_ms)
    for key, _ in batch.tx.scan(start, believed):
        due_ms, _, owner, number = keys.parse_timer(key)
        due.append((due_ms, key, owner, number))
        if len(due) == FIRED_AT_ONCE:
            break
    after, last, held = b"", command.after, bool(command.after)
    behind = max(believed, command.after + b"\0")
    for scanned, (key, _) in enumerate(batch.tx.scan(behind, keys.timers_range(now_ms)[1])):
        if len(due) == FIRED_AT_ONCE or scanned == SCANNED_AT_ONCE:
            after = last
            break
        due_ms, rank, owner, number = keys.parse_timer(last := key)
        if rank == CRITICAL:
            due.append((due_ms, key, owner, number))
        else:
            held = True
    for _, key, owner, number in due:
        _fire(batch, book, trusted_ms, key, owner, number)
    late_ms = max((now_ms - due_ms for due_ms, _, _, _ in due), default=0)
    return Fired(len(due), len(due) == FIRED_AT_ONCE or bool(after), late_ms, held, after)


def _fire(batch: Batch, book: Book, trusted_ms: int, key: bytes, owner: bytes, number: int) -> None:
    """One timer. What a defect leaves behind is nothing but the end of its run."""
    row = RUNS.get(batch.tx, keys.run(owner, number))
    if row is None or keys.timer(row.due_ms or 0, row.rank, owner, number) != key:
        batch.tx.delete(key)  # F1
        return
    try:
        desk = Desk(batch, book, row.user, run=(number, row))
        if desk.zone.key != desk.standing.zone:
            runs.moved(desk)
        run = desk.run(number)
        if run is not None and run.due_ms is not None and run.due_ms <= batch.now_ms:
            _go_on(desk, trusted_ms, number, run)
        desk.flush()
    except StoreError:
        raise
    except Exception:
        batch.alarms.append(f"run {number} of {row.user!r}: {traceback.format_exc()}")
        _given_up(batch, book, key, row.user, number)


def _given_up(batch: Batch, book: Book, key: bytes, user: str, number: int) -> None:
    """End a run that met a defect. If not even that can be done, its timer goes, and fsck will find the run: one that
    stays would be the first of each look, and nothing behind it would ever go on."""
    try:
        desk = Desk(batch, book, user)
        runs.cancelled(desk, number, "a defect")
        desk.flush()
    except StoreError:
        raise
    except Exception:
        batch.alarms.append(f"run {number} of {user!r} cannot be ended: {traceback.format_exc()}")
        batch.tx.delete(key)


def _go_on(desk: Desk, trusted_ms: int, number: int, run: RunRow) -> None:
    assert run.due_ms is not None
    is_late = trusted_ms - run.due_ms > LATE_MS and run.rank != CRITICAL and not run.is_smeared
    if is_late and _caught_up(desk, number, run):
        return
    match run.kind, run.state:
        case "watch", _:
            found = watches.fallen_due(desk, number, is_once=_policy(desk, run) == "coalesce")
            if found is not None:
                pinned, count = found
                for _ in range(count):
                    runs.begun(desk, pinned, {})
        case "digest", "steps":
            runs.closed(desk, number)
        case _, "decides":
            runs.redecided(desk, number, is_due=True)
        case _, "awaits":
            runs.timed_out(desk, number)
        case _, "steps":
            runs.go_on(desk, number)


def _policy(desk: Desk, run: RunRow) -> str:
    """What becomes of what fell due while nobody was there."""
    if run.kind == "watch":
        pinned = desk.current.workflows.get(run.name)
    else:
        pinned = desk.pinned(run) if run.kind == "run" else None
    return "fire" if pinned is None else pinned.workflow.after_downtime


def _caught_up(desk: Desk, number: int, run: RunRow) -> bool:
    """What is to be done about a run that is far too late; whether that is all (F5)."""
    policy = _policy(desk, run)
    if policy == "skip":
        if run.kind == "watch":
            watches.fallen_due(desk, number, is_once=True)
        else:
            runs.cancelled(desk, number, "a downtime")
        return True
    if policy == "coalesce" and run.kind == "run":
        newer = [
            other for other, each in desk.runs.items()
            if other > number and (each.kind, each.name) == ("run", run.name) and (each.due_ms or 0) <= desk.now_ms
            and each.due_ms is not None
        ]  # fmt: skip
        if newer:
            if run.decision is not None:
                by = f"run {max(newer)}"
                words = f"{by} took its place when both were late after a downtime"
                deciding.stopped(desk, run.decision, "collapsed", by, words)
            desk.end(number)
            return True
    spread_ms = int(desk.draw() * SMEAR_MS)
    desk.alter(number, due_ms=desk.now_ms + 1 + spread_ms, is_smeared=True)
    return True
