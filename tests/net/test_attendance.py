"""Sessions as connections show them: against a brute-force reading of random comings and goings, and in a crowd."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd.engine.commands import Attend, Command, Configure, Decision, Failed, Result, Visit
from syncd.engine.engine import Engine
from syncd.env.memory import InlineOffload
from syncd.env.real import NoFaults
from syncd.net.attendance import HOLD_MS, PAUSE_S, SETTLE_MS, VISITS_AT_ONCE, Attendance
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.limits import RECENT_SESSION_MS
from syncd.notify.service import Decider
from syncd.store import keys
from syncd.store.api import Writer
from syncd.store.committer import Committer
from syncd.store.memory import MemoryStore
from syncd.store.tables import PROFILES
from tests.notify.kit import at, ready

START_MS = at("2026-03-02 10:00")


@dataclass
class Hand:
    """A clock that is moved by hand."""

    ms: int = START_MS

    def now_ms(self) -> int:
        return self.ms


class Trio:
    def now_ms(self) -> int:
        return START_MS + round(trio.current_time() * 1000)


def learning_store() -> MemoryStore:
    store = MemoryStore(1 << 30)
    engine = Engine(bytes, further=carried_out, notices=Decider(Book()))
    with store.write() as tx:
        engine.decide(tx, START_MS, [Configure(ready("fitness"))])
    return store


STORE = learning_store()  # only read, where it stands for a server that learns


def told(attendance: Attendance) -> list[Visit]:
    found: list[Visit] = []
    while attendance.is_due:
        with STORE.read() as tx:
            found += attendance.visits(tx)
    return found


steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 40 * 60_000)), min_size=1, max_size=30
)  # a connection, whether it comes, and how long nothing happened before


@given(steps)
def test_sessions_are_the_times_with_any_connection_joined_over_short_gaps(steps: list[tuple[str, bool, int]]) -> None:
    clock, attendance = Hand(), Attendance(10)
    attendance.start(clock)
    present: set[str] = set()
    intervals: list[list[int]] = []
    visits: list[Visit] = []
    for name, is_coming, pause_ms in steps:
        clock.ms += pause_ms
        visits += told(attendance)
        if is_coming:
            if not present:
                intervals.append([clock.ms, -1])
            present.add(name)
            attendance.came("ann", name)
        else:
            attendance.went("ann", name)
            if present == {name}:
                intervals[-1][1] = clock.ms
            present.discard(name)
    visits += told(attendance)
    for name in sorted(present):
        attendance.went("ann", name)
    if present:
        intervals[-1][1] = clock.ms
    clock.ms += RECENT_SESSION_MS
    visits += told(attendance)
    sessions: list[list[list[int]]] = []
    for interval in intervals:
        if sessions and interval[0] - sessions[-1][-1][1] < RECENT_SESSION_MS:
            sessions[-1].append(interval)
        else:
            sessions.append([interval])
    assert [visit.at_ms for visit in visits if visit.stay_s is None] == [session[0][0] for session in sessions]
    ends = [(session[-1][1], sum(end - begin for begin, end in session) / 1000) for session in sessions]
    assert [(visit.at_ms, visit.stay_s) for visit in visits if visit.stay_s is not None] == ends
    assert len(attendance) == 0


def test_a_clock_that_is_set_back_holds_no_ends_back() -> None:
    """Those who had gone by a clock that was a day ahead stood before all others, until that day had come."""
    clock, attendance = Hand(START_MS + 86_400_000), Attendance(1_000)
    attendance.start(clock)
    for user in range(VISITS_AT_ONCE + 1):
        attendance.came(f"{user}", 1)
        attendance.went(f"{user}", 1)
    clock.ms = START_MS
    attendance.came("ann", 1)
    clock.ms += 60_000
    attendance.went("ann", 1)
    clock.ms += RECENT_SESSION_MS
    assert Visit("ann", START_MS + 60_000, 60.0) in told(attendance)
    assert len(attendance) == 0


def test_what_an_application_tells_itself_is_not_told_again() -> None:
    clock, attendance = Hand(), Attendance(10)
    attendance.start(clock)
    attendance.came("ann", 1)
    attendance.tells("ann")
    attendance.tells("nobody")
    attendance.went("ann", 1)
    clock.ms += RECENT_SESSION_MS
    assert told(attendance) == [Visit("ann", START_MS)]


def test_who_comes_back_because_the_server_was_restarted_begins_nothing() -> None:
    clock, attendance = Hand(), Attendance(10)
    attendance.start(clock)
    clock.ms += SETTLE_MS - 1
    attendance.came("ann", 1, is_back=True)
    attendance.came("ben", 2)
    clock.ms += 1
    attendance.came("cy", 3, is_back=True)
    came_ms = clock.ms
    clock.ms += HOLD_MS
    assert told(attendance) == [Visit("ben", came_ms - 1), Visit("cy", came_ms)]


def test_a_phone_that_comes_back_in_the_background_begins_nothing_until_somebody_looks() -> None:
    clock, attendance = Hand(), Attendance(10)
    attendance.start(clock)
    attendance.came("ann", 1)
    clock.ms += HOLD_MS - 1
    attendance.went("ann", 1, is_resting=True)
    clock.ms += RECENT_SESSION_MS
    assert told(attendance) == [] and len(attendance) == 0
    attendance.came("ann", 1)
    clock.ms += HOLD_MS
    assert told(attendance) == [Visit("ann", clock.ms - HOLD_MS)]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60), st.integers(1, 4))
def test_what_is_held_is_bounded_and_nothing_is_left_when_all_are_gone(
    steps: list[tuple[int, bool]], users_max: int
) -> None:
    clock, attendance = Hand(), Attendance(users_max)
    attendance.start(clock)
    for user, is_coming in steps:
        clock.ms += 1_000
        turn = attendance.came if is_coming else attendance.went
        turn(str(user), 1)
        assert len(attendance) <= users_max
    for user in range(10):
        attendance.went(str(user), 1)
    clock.ms += RECENT_SESSION_MS
    told(attendance)
    assert len(attendance) == 0 and not attendance.is_due


def test_nothing_is_told_where_nothing_is_learned() -> None:
    clock, attendance, store = Hand(), Attendance(10), MemoryStore(1 << 20)
    attendance.start(clock)
    attendance.came("ann", 1)
    clock.ms += HOLD_MS
    with store.read() as tx:
        assert attendance.visits(tx) == () and not attendance.is_due


@pytest.mark.parametrize("count", [300])
async def test_a_crowd_that_comes_back_is_learned_in_small_steps_and_each_once(
    autojump_clock: MockClock, count: int
) -> None:
    """No connection waits for it, and no command is longer than the next."""
    store, attendance, clock = learning_store(), Attendance(10_000), Trio()
    engine = Engine(bytes, further=carried_out, notices=Decider(Book()))
    steps: list[tuple[float, int]] = []

    def decide(tx: Writer, now_ms: int, commands: Sequence[Command]) -> Decision:
        steps.extend((trio.current_time(), len(each.visits)) for each in commands if isinstance(each, Attend))
        return engine.decide(tx, now_ms, commands)

    async def published(decision: Decision) -> None:
        assert not decision.alarms

    committer: Committer[Command, Result, Decision] = Committer(
        store, decide, lambda decision: decision.results, published, Failed, clock, InlineOffload(), NoFaults(),
        adds_data=lambda command: True, size_bytes=lambda command: 100,
    )  # fmt: skip
    logs: list[str] = []
    attendance.start(clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        nursery.start_soon(attendance.run, store, committer, logs.append)
        for _ in range(3):  # a restart storm: each is thrown out and comes again
            for user in range(count):
                attendance.came(f"u{user}", user)
                attendance.went(f"u{user}", user)
        for user in range(count):
            attendance.came(f"u{user}", user)
        assert steps == []
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert sum(size for _, size in steps) == count and max(size for _, size in steps) <= VISITS_AT_ONCE
    assert all(later - earlier >= PAUSE_S for (earlier, _), (later, _) in pairwise(steps))
    with store.read() as tx:
        rows = [PROFILES.get(tx, keys.profile(keys.owner(f"u{user}"))) for user in range(count)]
    assert {row.sessions for row in rows if row is not None} == {1} and None not in rows
    assert not logs
