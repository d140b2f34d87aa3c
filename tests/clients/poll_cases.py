"""What every shell must do over polls: survive what befalls requests, and come back as told."""

from __future__ import annotations

from itertools import pairwise

import pytest

from syncd_client import State
from syncd_client.policy import ABSENT_MAX
from syncd_client.polls import PATIENCE_S, TRIES_MAX

from . import peer as p
from .peer import SPACE
from .polled_peer import answer_lost, doubled, forgotten, late, refused, request_lost
from .shell_kit import Stage, poll_case


async def one_change_goes_through(stage: Stage) -> None:
    """A whole conversation, in which the server must see everything once."""
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined()
        change = space.create("items", "a")
        push = await wire.expect(p.PUSH, skipping=(p.ACK,))
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        await wire.delta(0, 1, [["items", "a", 1, 1, {"name": ["reg", "x"]}]])
        assert (await change.outcome()).seq == 1
        assert await device.sync(SPACE)
        assert device.status.carrier == "polls"
        await device.go_offline()
        await wire.expect(p.BYE, skipping=(p.ACK,))
    assert stage.polled.streams_open == 0


@poll_case
async def each_request_may_be_lost_or_doubled_or_its_answer_lost(stage: Stage) -> None:
    for mishap in (answer_lost, request_lost, doubled):
        for queue in stage.polled.mishaps.values():
            queue.append(mishap)
    await one_change_goes_through(stage)
    assert len(stage.peer.wires) == 1
    openings = stage.polled.asked("opening")
    assert len({told.headers["idempotency-key"] for told in openings}) == 1
    assert len(openings) == 3


@poll_case
async def an_answer_that_comes_too_late_is_asked_for_again(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined(ping_ms=600_000)
        await space.wait_complete()
        for kind in ("poll", "message"):
            stage.polled.mishaps[kind].append(late)
        change = space.create("items", "a")
        push = await wire.expect(p.PUSH, skipping=(p.ACK,))
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        assert (await change.outcome()).outcome == "applied"
        await stage.sleep(120)
        space.create("items", "b")
        assert (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"][0][0] == 2
        assert len(stage.peer.attempts) == 1


@poll_case
async def an_idle_connection_that_was_closed_is_no_failure(stage: Stage) -> None:
    """The server closes what was idle: the next request goes out on a new stream, without a wait."""
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined(ping_ms=600_000)
        await space.wait_complete()
        await stage.sleep(100)
        dials = stage.polled.dials
        stage.polled.mishaps["message"].append(request_lost)
        left_s = stage.now_s()
        space.create("items", "a")
        await wire.expect(p.PUSH, skipping=(p.ACK,))
        assert stage.now_s() == left_s
        assert stage.polled.dials == dials + 1


@poll_case
async def a_session_that_the_server_has_forgotten_is_begun_anew(stage: Stage) -> None:
    for kind in ("poll", "message"):
        async with stage.device(path=stage.path / kind) as device:
            space = device.space(SPACE)
            space.subscribe()
            await stage.joined()
            await space.wait_complete()
            stage.polled.mishaps[kind].append(forgotten)
            change = space.create("items", "a")
            wire = await stage.joined()
            push = await wire.expect(p.PUSH, skipping=(p.ACK,))
            await wire.outcomes([1, push["changes"][0][1], "applied", 1])
            assert (await change.outcome()).outcome == "applied"
            await device.go_offline()


@poll_case
async def retry_after_at_the_opening_is_kept_as_at_an_upgrade(stage: Stage) -> None:
    for status in (503, 429):
        stage.polled.mishaps["opening"].append(refused(status, retry_after="40"))
    async with stage.device() as device:
        await stage.reaches(device, State.WAITING)
        await device.wait_until(lambda: "503" in device.status.reason)
        device.probe()  # a wait that the server asked for is not cut short
        await stage.welcomed()
        waits = [after - before for before, after in pairwise(stage.peer.attempts)]
        assert waits == pytest.approx([40, 40], abs=0.1)
        keys = [told.headers["idempotency-key"] for told in stage.polled.asked("opening")]
        assert len(set(keys)) == 3, "each is an attempt of its own"


@poll_case
async def a_short_retry_after_is_kept_within_the_connection(stage: Stage) -> None:
    """Of a message as long as the server says so: it has stopped reading, and its polls say that it lives."""
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined(ping_ms=600_000)
        await space.wait_complete()
        stage.polled.mishaps["message"].extend([refused(503, retry_after="15")] * (2 * TRIES_MAX))
        stage.polled.mishaps["poll"].append(refused(429, retry_after="12"))
        left_s = stage.now_s()
        space.create("items", "a")
        await wire.expect(p.PUSH, skipping=(p.ACK,))
        assert stage.now_s() - left_s == pytest.approx(15 * 2 * TRIES_MAX, abs=1)
        polls_s = [at_s for at_s, told in stage.polled.requests if told.kind == "poll"]
        held_s = [after - before for before, after in pairwise(polls_s)]
        assert min(wait_s for wait_s in held_s if wait_s > 1) == pytest.approx(12, abs=0.1)
        assert len(stage.peer.attempts) == 1


@poll_case
async def a_long_retry_after_ends_the_connection_and_is_kept_before_the_next(stage: Stage) -> None:
    async with stage.device() as device:
        await stage.welcomed(ping_ms=600_000)
        await stage.reaches(device, State.READY)
        stage.polled.mishaps["poll"].append(refused(503, retry_after="300"))
        await stage.reaches(device, State.WAITING)
        assert PATIENCE_S < 300
        left_s = stage.now_s()
        await stage.peer.next()
        assert stage.now_s() - left_s == pytest.approx(300, abs=0.1)


@poll_case
async def a_server_that_is_late_after_a_goaway_is_not_taken_for_one_that_is_down(stage: Stage) -> None:
    async with stage.device() as device:
        wire = await stage.welcomed()
        await stage.reaches(device, State.READY)
        stage.peer.is_reachable = False
        await wire.say(p.GOAWAY, code=1012, retry_after_ms=1_000, spread_ms=0)
        wire.hang_up(1012)
        await device.wait_until(lambda: len(stage.peer.attempts) == ABSENT_MAX + 3)
        waits = [after - before for before, after in pairwise(stage.peer.attempts)]
        # After the goaway a second; then uniform(0, 2 s), of which the peer's entropy draws a half; then they double.
        assert waits[1:] == pytest.approx([1.0] * ABSENT_MAX + [2.0], abs=0.1)


@poll_case
async def a_connection_that_nobody_answers_is_given_up_after_so_many_tries(stage: Stage) -> None:
    async with stage.device() as device:
        await stage.welcomed(ping_ms=600_000)
        await stage.reaches(device, State.READY)
        count = len(stage.polled.asked("poll"))
        stage.polled.mishaps["poll"].extend([refused(502)] * TRIES_MAX)
        await stage.reaches(device, State.WAITING)
        assert device.status.reason == "1006 polls: HTTP status 502"
        assert len(stage.polled.asked("poll")) - count in (TRIES_MAX, TRIES_MAX - 1)
