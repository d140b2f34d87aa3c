"""A phone's life, under every shell: sleep, other networks, the background, and coming back in one round trip."""

from __future__ import annotations

import pytest

from syncd_client import State
from syncd_client.policy import HASTE_MAX

from . import peer as p
from .peer import SPACE
from .shell_kit import Stage, case, websocket_case


@websocket_case  # polls that are answered with nothing are life enough
async def the_keep_alive_is_proposed_and_the_background_lengthens_it(stage: Stage) -> None:
    async with stage.device(keepalive_ms=240_000) as device:
        device.space(SPACE).subscribe()
        wire = await stage.peer.next()
        assert (await wire.welcome(ping_ms=240_000))["keepalive_ms"] == 240_000
        await wire.subscribed()
        device.background(600_000)
        assert (await wire.expect(p.BACKGROUND, skipping=(p.ACK,)))["keepalive_ms"] == 600_000
        heard_s = stage.now_s()
        await wire.expect(p.PROBE, skipping=(p.ACK,))
        assert stage.now_s() - heard_s == pytest.approx(605, abs=1)
        await wire.say(p.PONG)
        wire.hang_up(1006)
        wire = await stage.welcomed(ping_ms=240_000)
        assert (await wire.expect(p.BACKGROUND))["keepalive_ms"] == 600_000
        await wire.subscribed()
        device.foreground()
        await wire.expect(p.FOREGROUND, skipping=(p.ACK,))
        await wire.expect(p.PROBE, skipping=(p.ACK,))
        await wire.say(p.PONG)
        heard_s = stage.now_s()
        await wire.expect(p.PROBE, skipping=(p.ACK,))
        assert stage.now_s() - heard_s == pytest.approx(245, abs=0.1)


@case
async def a_half_open_connection_is_noticed_by_its_timers(stage: Stage) -> None:
    async with stage.device() as device:
        wire = await stage.welcomed(ping_ms=20_000)
        await stage.reaches(device, State.READY)
        began_s = stage.now_s()
        wire.is_stuck = True  # what is sent disappears, the probe too
        again = await stage.peer.next()
        assert stage.now_s() - began_s == pytest.approx(20 + 5 + 10 + 0.5, abs=0.1)
        assert not wire.is_open
        began_s = stage.now_s()
        await stage.peer.next()  # which never says welcome
        assert stage.now_s() - began_s == pytest.approx(10 + 1, abs=0.1)
        assert not again.is_open


@case
async def a_socket_that_outlived_the_sleep_is_kept(stage: Stage) -> None:
    async with stage.device() as device:
        wire = await stage.welcomed(ping_ms=600_000)
        await stage.reaches(device, State.READY)
        device.probe()
        await wire.expect(p.PROBE)
        await stage.sleep(4)
        await wire.say(p.PONG)
        await stage.sleep(60)
        assert wire.is_open
        assert len(stage.peer.attempts) == 1


@case
async def a_socket_that_died_in_the_sleep_is_replaced_at_once(stage: Stage) -> None:
    async with stage.device() as device:
        wire = await stage.welcomed(ping_ms=600_000)
        await stage.reaches(device, State.READY)
        wire.is_stuck = True
        device.probe()
        woke_s = stage.now_s()
        await stage.sleep(3)
        device.probe()  # asking again puts nothing off
        await stage.welcomed()
        assert stage.now_s() - woke_s == pytest.approx(5, abs=0.1)
        assert not wire.is_open


@case
async def waking_cuts_the_wait_for_the_next_attempt_short(stage: Stage) -> None:
    stage.peer.is_reachable = False
    async with stage.device() as device:
        await device.wait_until(lambda: len(stage.peer.attempts) == 8 and device.status.state is State.WAITING)
        stage.peer.is_reachable = True
        woke_s = stage.now_s()
        device.probe()
        await stage.welcomed()
        assert stage.now_s() == woke_s


@case
async def another_network_drops_the_old_path_at_once(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined()
        space.create("items", "a")
        first = await wire.expect(p.PUSH, skipping=(p.ACK,))
        wire.is_stuck = wire.is_slow_to_close = True
        changed_s = stage.now_s()
        device.network_changed()
        wire_two = await stage.joined()
        assert stage.now_s() == changed_s
        assert (wire.is_open, wire.client_code) == (False, None), "no farewell by a path that is gone"
        assert (await wire_two.expect(p.PUSH))["changes"] == first["changes"]


@case
async def another_network_also_ends_an_attempt_that_hangs(stage: Stage) -> None:
    stage.peer.is_hanging = True
    async with stage.device() as device:
        await stage.reaches(device, State.CONNECTING)
        await stage.sleep(3)
        stage.peer.is_hanging = False
        device.network_changed()
        await stage.welcomed()
        assert stage.peer.attempts == pytest.approx([0, 3], abs=0.01)


@case
async def a_radio_that_flaps_connects_at_a_bounded_rate(stage: Stage) -> None:
    async with stage.device() as device:
        for _ in range(600):
            device.network_changed()
            await stage.sleep(0.1)
        # A minute of flapping: the bucket, what it got back, and after each the backoff that was counted anew.
        assert HASTE_MAX <= len(stage.peer.attempts) <= 1 + (HASTE_MAX + 60 / 20) * 6


@case
async def another_network_does_not_cut_short_what_the_server_asked_for(stage: Stage) -> None:
    async with stage.device() as device:
        wire = await stage.welcomed()
        await wire.say(p.GOAWAY, code=1012, retry_after_ms=60_000, spread_ms=0)
        await wire.expect(p.BYE)
        left_s = stage.now_s()
        await stage.reaches(device, State.WAITING)
        for _ in range(5):
            device.network_changed()
            device.probe()
            await stage.sleep(1)
        await stage.welcomed()
        assert stage.now_s() - left_s == pytest.approx(60, abs=0.1)


@case
async def a_network_that_changes_while_offline_or_stopped_connects_nobody(stage: Stage) -> None:
    async with stage.device(online=False) as device:
        device.network_changed()
        device.probe()
        device.foreground()
        assert await stage.is_quiet(60, stage.peer.next)
        device.go_online()
        wire = await stage.welcomed()
        wire.hang_up(4901)
        await stage.reaches(device, State.STOPPED)
        device.network_changed()
        device.probe()
        assert await stage.is_quiet(60, stage.peer.next)


async def resumed(stage: Stage, caps: list[str]) -> float:
    """Seconds from the open socket of a second run until the outcome of a change made offline, 0.1 s each way."""
    peer = stage.peer = stage.new_peer(delay_s=0.1)
    path = stage.path / "-".join(["caps", *caps])
    async with stage.device(path=path) as device:
        space = device.space(SPACE)
        space.subscribe()
        await stage.joined(caps=caps)
        await device.wait_until(lambda: space.row.epoch is not None)
        await device.go_offline()
        change = space.create("items", "a")
        device.go_online()
        wire = await peer.next()
        open_s = stage.now_s()
        await wire.welcome(caps=caps)
        await wire.subscribed()
        push = await wire.expect(p.PUSH)
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        assert (await change.outcome()).seq == 1
        done_s = stage.now_s()
        await space.wait_settled()
        space.create("items", "b")  # what follows is pushed as ever, and nothing of the first flight again
        assert [change[0] for change in (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"]] == [2]
        return done_s - open_s


@case
async def a_session_is_resumed_in_one_round_trip(stage: Stage) -> None:
    assert await resumed(stage, ["first-flight"]) == pytest.approx(0.2, abs=0.01)
    assert await resumed(stage, []) == pytest.approx(0.6, abs=0.01)


@case
async def outcomes_that_answer_the_first_flight_twice_are_taken_once(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined(caps=["first-flight"])
        changes = [space.create("items", str(number)) for number in range(3)]
        first = await wire.expect(p.PUSH, skipping=(p.ACK,))
        wire.hang_up(1006)  # recorded, and the answer is lost
        wire = await stage.peer.next()
        await wire.welcome(caps=["first-flight"])
        assert (await wire.expect(p.SUBSCRIBE))["settled"] == 0
        assert (await wire.expect(p.PUSH))["changes"] == first["changes"]
        answers = [[n, nonce, "applied", n] for n, nonce, *_rest in first["changes"]]
        await wire.outcomes(*answers)
        place = {"space": SPACE, "epoch": p.EPOCH, "head": 3, "safe": 3, "role": "writer", "mode": "live"}
        await wire.say(p.SUBSCRIBED, **place)
        await wire.delta(0, 3, [["items", str(number), number + 1, 1, {}] for number in range(3)])
        await wire.outcomes(*answers)
        assert [(await change.outcome()).seq for change in changes] == [1, 2, 3]
        await space.wait_settled()
        assert await stage.is_quiet(5, lambda: wire.expect(p.PUSH, skipping=(p.ACK,)))


@case
async def who_was_refused_in_the_first_flight_and_let_in_later_pushes_all_that_waits(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined(caps=["first-flight"])
        await device.go_offline()
        change = space.create("items", "a")
        device.go_online()
        wire = await stage.peer.next()
        await wire.welcome(caps=["first-flight"])
        await wire.expect(p.SUBSCRIBE)
        await wire.say(p.REVOKED, space=SPACE, reason="removed")
        await wire.expect(p.PUSH)
        await wire.say(p.ERROR, code=18, name="forbidden", retry="never", space=SPACE)
        await wire.expect(p.PURGED)
        space.subscribe()
        await wire.subscribed()
        push = await wire.expect(p.PUSH, skipping=(p.ACK,))
        await wire.outcomes([push["changes"][0][0], push["changes"][0][1], "applied", 1])
        assert (await change.outcome()).seq == 1


@case
async def a_first_flight_into_another_epoch_is_expired_and_offered_again(stage: Stage) -> None:
    new_epoch = b"F" * 16
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined(caps=["first-flight"])
        space.create("items", "a")
        await wire.expect(p.PUSH, skipping=(p.ACK,))
        wire.hang_up(1006)
        wire = await stage.peer.next()
        await wire.welcome(caps=["first-flight"])
        await wire.expect(p.SUBSCRIBE)
        await wire.expect(p.PUSH)
        for _ in ("the subscribe", "the push"):
            await wire.say(p.EXPIRED, space=SPACE, epoch=new_epoch, fork=0, highest=0)
        while (subscribe := await wire.expect(p.SUBSCRIBE))["epoch"] != new_epoch:
            pass
        place = {"space": SPACE, "epoch": new_epoch, "head": 0, "safe": 0, "role": "writer", "mode": "live"}
        await wire.say(p.SUBSCRIBED, **place)
        push = await wire.expect(p.PUSH, skipping=(p.ACK, p.SUBSCRIBE))
        assert (push["epoch"], push["changes"][0][0], subscribe["complete"]) == (new_epoch, 1, 0)
        assert space.outbox_depth == 1


@case
async def a_subscription_behind_an_expired_one_outlives_the_refusal_of_an_early_push(stage: Stage) -> None:
    await _refused_behind_an_expired_one(stage, is_before=False)


@case
async def an_expired_subscription_is_asked_for_anew_although_an_early_push_is_refused(stage: Stage) -> None:
    await _refused_behind_an_expired_one(stage, is_before=True)


async def _refused_behind_an_expired_one(stage: Stage, *, is_before: bool) -> None:
    """The restored server knows nothing of this device, whose user may read only: it refuses the push of the first
    flight, whose answer comes when the device has subscribed anew."""
    new_epoch = b"F" * 16
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined(caps=["first-flight"])
        await device.wait_until(lambda: space.row.epoch is not None)
        await device.go_offline()
        space.create("items", "a")
        device.go_online()
        wire = await stage.peer.next()
        await wire.welcome(caps=["first-flight"])
        await wire.expect(p.SUBSCRIBE)
        await wire.expect(p.PUSH)
        expired = (p.EXPIRED, {"space": SPACE, "epoch": new_epoch, "fork": 0, "highest": 0})
        refused = (p.ERROR, {"code": 18, "name": "forbidden", "retry": "never", "space": SPACE})
        if is_before:
            await wire.say_at_once(expired, refused)
        else:
            await wire.say_at_once(expired)
        await wire.expect(p.SUBSCRIBE)
        if not is_before:
            await wire.say_at_once(refused)
        await wire.say(p.SUBSCRIBED, space=SPACE, epoch=new_epoch, head=1, safe=0, role="reader", mode="catch-up")
        await wire.delta(0, 1, [["items", "b", 1, 1, {}]], epoch=new_epoch)
        await device.wait_until(lambda: space.row.complete == 1)


@case
async def a_server_that_no_longer_takes_a_first_flight_is_given_time(stage: Stage) -> None:
    async with stage.device() as device:
        device.space(SPACE).subscribe()
        wire = await stage.joined(caps=["first-flight"])
        wire.hang_up(1012)
        wire = await stage.peer.next()
        await wire.expect(p.HELLO)
        await wire.expect(p.SUBSCRIBE)
        await wire.say(p.ERROR, code=3, name="unexpected_message", retry="never")
        wire.hang_up(4900)
        wire = await stage.peer.next()
        await wire.expect(p.HELLO)
        assert await stage.is_quiet(5, wire.next)
        assert device.status.state is State.HELLO
