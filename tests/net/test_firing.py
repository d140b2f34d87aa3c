"""The firing loop: what is due goes on when it is due, nothing is asked for otherwise, and a clock that leaps is not
believed."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from syncd.engine.commands import Command, Decision, Failed, Fire, Result, StartWorkflow
from syncd.env.memory import InlineOffload
from syncd.env.real import NoFaults
from syncd.net.firing import LOOK_S, FiringLoop
from syncd.store.committer import Committer
from tests.notify.kit import DAY_MS, HOUR_MS, KEY, Office, at


@dataclass
class Wall:
    """Runs with trio's clock, and can be set."""

    start_ms: int
    ahead_ms: int = 0

    def now_ms(self) -> int:
        return self.start_ms + round(trio.current_time() * 1000) + self.ahead_ms


@dataclass
class Daemon:
    office: Office
    wall: Wall
    committer: Committer[Command, Result, Decision]
    loop: FiringLoop
    asked: list[int] = field(default_factory=list)  # when `Fire` was committed


@asynccontextmanager
async def running(office: Office) -> AsyncIterator[Daemon]:
    wall = Wall(office.now_ms - round(trio.current_time() * 1000))

    def decide(tx: object, now_ms: int, commands: object) -> Decision:
        daemon.asked.extend(now_ms for command in commands if isinstance(command, Fire))  # type: ignore[attr-defined]
        return office.engine.decide(tx, now_ms, commands)  # type: ignore[arg-type]

    async def published(decision: Decision) -> None:
        daemon.loop.heard(decision.due_ms)

    committer: Committer[Command, Result, Decision] = Committer(
        office.store, decide, lambda decision: decision.results, published, Failed, wall, InlineOffload(), NoFaults(),
        adds_data=lambda command: True, size_bytes=lambda command: 1,
    )  # fmt: skip
    daemon = Daemon(office, wall, committer, FiringLoop(office.store, committer, wall))
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        nursery.start_soon(daemon.loop.run)
        yield daemon
        nursery.cancel_scope.cancel()


def waiting() -> Office:
    """One notification waits for the end of quiet hours at eight."""
    office = Office(now="2026-03-03 07:50")
    office.sets("_preferences", "all", quiet_hours="22:00-08:00")
    office.notify()
    assert office.outcomes() == ["deferred"]
    return office


async def test_what_is_due_goes_on_at_its_moment_and_nothing_is_asked_for_before(autojump_clock: MockClock) -> None:
    async with running(waiting()) as daemon:
        await trio.sleep(9 * 60)
        assert daemon.asked == [] and daemon.office.outcomes() == ["deferred"]
        await trio.sleep(60.1)
        assert daemon.office.outcomes() == ["sent"]
        assert daemon.asked == [at("2026-03-03 08:00")]
        await trio.sleep(60)
        assert len(daemon.asked) == 1


async def test_an_earlier_timer_that_is_set_meanwhile_wakes_the_loop(autojump_clock: MockClock) -> None:
    office = Office(
        '[category.c]\n[template.t]\ntitle = "x"\n[workflow.w]\ncategory = "c"\ntrigger = { api = true }\n'
        '[[workflow.w.step]]\ndelay = "1s"\n[[workflow.w.step]]\nsend = { templates = ["t"] }\n'
    )
    async with running(office) as daemon:
        await trio.sleep(10.3)
        began_ms = daemon.wall.now_ms()
        await daemon.committer.execute(StartWorkflow(KEY, "w", ("ann",), {}))
        await trio.sleep(1.05)
        assert office.outcomes() == ["sent"] and office.decisions()[0].made_ms - began_ms <= 1_005


async def test_a_clock_that_leaps_ahead_holds_what_waits_and_is_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(waiting()) as daemon:
        await trio.sleep(5)
        daemon.wall.ahead_ms = 7 * DAY_MS
        with caplog.at_level(logging.WARNING):
            await trio.sleep(60)
        assert daemon.office.outcomes() == ["deferred"] and daemon.loop.is_held
        assert len(caplog.records) == 1 and "leapt ahead" in caplog.text
        assert len(daemon.asked) <= 60 / LOOK_S + 2
        await trio.sleep(9 * 60)  # as much time has passed as it had to wait
        assert daemon.office.outcomes() == ["sent"]


async def test_a_clock_that_is_set_back_fires_nothing_again(autojump_clock: MockClock) -> None:
    async with running(waiting()) as daemon:
        await trio.sleep(11 * 60)
        assert daemon.office.outcomes() == ["sent"]
        daemon.wall.ahead_ms = -5 * HOUR_MS
        await trio.sleep(20 * 60)
        assert daemon.office.outcomes() == ["sent"] and len(daemon.asked) == 1
