"""Decisions about notifications, and durable timers, on LMDB without a network: what one costs, how many there may be.

Owns loops around functions of syncd, in this process, on one core. `decisions`: events of known people, each of which
sets a workflow off that judges, chooses its moment among two days of hours and writes a run, a decision and a timer; by
processor time, commits apart. `timers`: timers that are set and let go on, commits included, in groups as the committer
makes them; a queue that is long, opened anew; and a stream of timers that fall due while the loop runs.
"""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import trio

from bench.measure import Figure, Target, cores, pin
from syncd.app.daemon import GARBAGE_COUNT
from syncd.engine.commands import (
    Author,
    Bind,
    Command,
    Configure,
    Decision,
    Event,
    EventResults,
    Failed,
    Fire,
    Fired,
    PostEvents,
    Result,
)
from syncd.engine.engine import Engine
from syncd.engine.grants import Grant, Role
from syncd.env.real import NoFaults
from syncd.net.firing import FiringLoop
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.service import Decider
from syncd.notify.workflows import definitions
from syncd.store import keys
from syncd.store.api import Store, Writer
from syncd.store.committer import Committer
from syncd.store.lmdb import open_store
from syncd.store.tables import RUNS, STANDINGS, TIMERS, RunRow, StandingRow

NOW_MS = 1_772_492_400_000  # a Monday, 23:00: in quiet hours, so each decision chooses among the hours of two days
KEY = Author(b"k" * 16, None, "key", "key:bench", (Grant("**", Role.OWNER),))
PEOPLE, PEOPLE_QUICK = 2_000, 500
GROUP = 256  # timers in one transaction
EVENTS, BETWEEN_MS = 64, 13  # in one transaction, and from one to the next: 5,000 a second
PENDING, PENDING_QUICK = 2_000_000, 100_000
RATE, SECONDS = 5_000, 5
MAP_BYTES = 1 << 33

SEND = {"send": {"templates": ["t"]}}
DEFINITIONS: dict[str, object] = {
    "policy": {"caps": ["4 / 24h"], "quiet_hours": "22:00-08:00"},
    "category": {"shop": {"caps": ["2 / 24h"], "half_life": "12h", "expires": "3d"}},
    "template": {"t": {"title": "{item}", "body": "{text}"}},
    "workflow": {
        "best": {
            "category": "shop", "trigger": {"event": "viewed", "where": 'count("viewed", 7d) >= 1 and price > 3'},
            "window": {"within": "2d", "at": "best"}, "step": [SEND],
        },
        "later": {"category": "shop", "trigger": {"event": "put"}, "step": [{"delay": "1h"}, {"delay": "1h"}, SEND]},
    },
}  # fmt: skip


LATER = definitions(DEFINITIONS).versions["later"]


def _engine() -> Engine:
    return Engine(os.urandom, further=carried_out, notices=Decider(Book()))


def _event(number: int, type: str, people: int, now_ms: int) -> PostEvents:
    data = {"item": "Shoes", "text": "Only two are left in your size", "price": 20}
    event = Event(number.to_bytes(16), "/bench", str(number), type, f"user-{number % people}", now_ms, data)
    return PostEvents(KEY, (event,), 60_000)


def _decide(engine: Engine, store: Store, now_ms: int, commands: list[Command]) -> Decision:
    with store.write() as tx:
        decision = engine.decide(tx, now_ms, commands)
    assert not decision.alarms, decision.alarms
    return decision


def _quietly(measured: Callable[[], list[Figure]]) -> list[Figure]:
    server_core, _ = cores()
    usual, thresholds = os.sched_getaffinity(0), gc.get_threshold()
    pin(server_core)
    gc.set_threshold(GARBAGE_COUNT, 10, 10)  # as the daemon does
    try:
        return measured()
    finally:
        gc.set_threshold(*thresholds)
        os.sched_setaffinity(0, usual)


# -- decisions --------------------------------------------------------------------------------------------------------


def run_decisions(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    return _quietly(lambda: _decisions(directory, PEOPLE_QUICK if quick else PEOPLE, 3 if quick else 5, say))


def _decisions(directory: Path, people: int, runs: int, say: Callable[[str], None]) -> list[Figure]:
    store, engine = open_store(directory / "decisions", map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES), _engine()
    try:
        _decide(engine, store, NOW_MS, [Configure(DEFINITIONS)])
        say(f"decisions: {people} people come to be known")
        for day in range(3):
            devices = [
                Author(number.to_bytes(16), bytes(16), "device", f"user-{number}", (Grant("**", Role.OWNER),))
                for number in range(1, people + 1)
            ]
            for at in range(0, people, GROUP):
                binds: list[Command] = [Bind(device) for device in devices[at : at + GROUP]]
                _decide(engine, store, NOW_MS - (3 - day) * 86_400_000, binds)
        say("decisions: in groups as large as the committer makes them")
        rates, times, number, now_ms = [], [], 0, NOW_MS
        for run in range(runs + 1):
            used = 0.0
            for _ in range(people // EVENTS):
                now_ms += BETWEEN_MS
                commands = [_event(number + index, "viewed", people, now_ms) for index in range(EVENTS)]
                number += EVENTS
                with store.write() as tx:
                    if run == runs:  # the last run: one by one, for how long the slowest take
                        for command in commands:
                            began_s = time.perf_counter()
                            engine.decide(tx, now_ms, [command])
                            times.append(time.perf_counter() - began_s)
                        continue
                    began = time.thread_time()
                    decision = engine.decide(tx, now_ms, commands)
                    used += time.thread_time() - began
                    assert set(decision.results) == {EventResults((("accepted", None),))}, decision
            if run < runs:
                rates.append(people // EVENTS * EVENTS / used)
    finally:
        store.close()
    times.sort()
    p99_ms = times[len(times) * 99 // 100] * 1000
    detail = "an event, whole, without the commit"
    return [
        Figure("decisions", "with reads of LMDB, p99", "ms", (p99_ms,), Target(most=1.0), f"{detail}; wall time"),
        Figure(
            "decisions", "decisions on one core", "/s", tuple(rates), Target(least=5_000), f"{detail}; in {EVENTS}s"
        ),
    ]


# -- timers -----------------------------------------------------------------------------------------------------------


def run_timers(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    return _quietly(lambda: _timers(directory, quick, say))


def _set(tx: Writer, first: int, count: int, due_ms: Callable[[int], int], per_user: int) -> None:
    """Rows as runs have them that wait for a delay: each with a timer, of as many users as it takes."""
    for number in range(first, first + count):
        user, own = f"user-{number // per_user}", number % per_user
        owner, due = keys.owner(user), due_ms(number)
        run = RunRow(
            user, "run", "later", LATER, (1,), "steps", due, 2, None, None, None, None, {"item": "Shoes"}, NOW_MS,
            (), False,
        )  # fmt: skip
        RUNS.put(tx, keys.run(owner, own), run)
        TIMERS.put(tx, keys.timer(due, 2, owner, own), ())
        if own == 0:
            STANDINGS.put(tx, keys.standing(owner), StandingRow(user, "UTC", per_user, 0, per_user, (), {}, {}))


def _timers(directory: Path, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    pending = PENDING_QUICK if quick else PENDING
    path = directory / "timers"
    store = open_store(path, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES)
    _decide(_engine(), store, NOW_MS, [Configure(DEFINITIONS)])
    say(f"timers: {pending:,} are set, {GROUP} in each transaction")
    rates, began = [], time.perf_counter()
    for at in range(0, pending, GROUP):
        with store.write() as tx:
            _set(tx, at, GROUP, lambda number: NOW_MS + number % 1_000_000, 16)
        if (at // GROUP) % 100 == 99:
            rates.append(100 * GROUP / (time.perf_counter() - began))
            began = time.perf_counter()
    store.close()
    say("timers: the store is opened anew")
    began = time.perf_counter()
    store = open_store(path, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES)
    engine = _engine()
    fired = _decide(engine, store, NOW_MS, [Fire(NOW_MS)]).results[0]
    boot_s = time.perf_counter() - began
    assert isinstance(fired, Fired) and fired.count > 0, fired
    say("timers: they go on")
    used, count = 0.0, 0
    for _ in range(40):
        began = time.thread_time()
        result = _decide(engine, store, NOW_MS + 50_000, [Fire(NOW_MS + 50_000)]).results[0]
        used += time.thread_time() - began
        assert isinstance(result, Fired)
        count += result.count
    late = trio.run(_lateness, store, engine, say)
    store.close()
    return [
        Figure("timers", f"set durably, {GROUP} in a transaction", "/s", tuple(rates), Target(least=20_000)),
        Figure(
            "timers", "opened to the first that goes on", "s", (boot_s,), Target(most=1.0), f"{pending:,} are pending"
        ),
        Figure("timers", "that go on, commits included", "/s", (count / used,), None, "processor time"),
        Figure(
            "timers", f"how late at {RATE:,}/s, p99", "ms", (late,), Target(most=100.0),
            f"{SECONDS} s, wall time: a busy machine shows here",
        ),
    ]  # fmt: skip


class _Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class _Inline:
    async def run(self, fn: Callable[..., object], *args: object) -> object:
        return await trio.to_thread.run_sync(fn, *args)


async def _lateness(store: Store, engine: Engine, say: Callable[[str], None]) -> float:
    """Timers that fall due one after the other while the daemon's own loop and committer let them go on: the 99th
    percentile over looks of how late the latest timer of a look was."""
    clock = _Clock()
    late: list[tuple[int, int]] = []  # of each look: how late, how many
    with store.write() as tx:  # what was pending is not part of this
        for key, _ in list(tx.scan(*keys.table_range(keys.TIMER))):
            tx.delete(key)
    start_ms = clock.now_ms() + 2_000
    say(f"timers: {RATE:,} a second fall due")
    for at in range(0, RATE * SECONDS, GROUP):
        with store.write() as tx:
            _set(tx, PENDING + at, GROUP, lambda number: start_ms + (number - PENDING) * 1000 // RATE, 16)

    is_over = trio.Event()

    def results(decision: Decision) -> tuple[Result, ...]:
        late.extend((each.late_ms, each.count) for each in decision.results if isinstance(each, Fired))
        return decision.results

    async def published(decision: Decision) -> None:
        loop.heard(decision.due_ms)
        if sum(count for _, count in late) >= RATE * SECONDS:
            is_over.set()

    committer: Committer[Command, Result, Decision] = Committer(
        store, engine.decide, results, published, Failed, clock, _Inline(), NoFaults(),  # type: ignore[arg-type]
        adds_data=lambda command: True, size_bytes=lambda command: 500,
    )  # fmt: skip
    loop = FiringLoop(store, committer, clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        nursery.start_soon(loop.run)
        await is_over.wait()
        nursery.cancel_scope.cancel()
    weighed = sorted(ms for ms, count in late for _ in range(count))
    return float(weighed[len(weighed) * 99 // 100])
