"""What every shell of the client must do: connecting, coming back, obeying, and being cancelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncd_client import Device, Notice, State, Unreachable, operation
from syncd_client.messages import Limits
from syncd_client.shell import TOKEN_S
from syncd_client.store import Store
from syncd_client.watching import NOTICES_MAX, WATCHED_KEYS_MAX

from . import peer as p
from .peer import SPACE, Peer
from .shell_kit import Counting, Stage, case, counted_device, serving

DOC = ["items", "a", 1, 1, {"name": ["reg", "x"]}]


@case
async def a_device_connects_pushes_and_acknowledges(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined()
        change = space.create("items", "a")
        push = await wire.expect(p.PUSH)
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        assert (await change.outcome()).seq == 1
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        assert await device.sync(SPACE)
        assert (device.user, device.status.state) == ("42", State.READY)
        await device.go_offline()
        assert device.status.state is State.CLOSED
        ack = await wire.expect(p.ACK)
        while ack["applied"] == 0:
            ack = await wire.expect(p.ACK)
        assert (ack["settled"], await wire.expect(p.BYE)) == (1, {})
        assert not wire.is_open


@case
async def a_resumed_session_says_where_it_stood(stage: Stage) -> None:
    async with stage.device() as device:
        device.space(SPACE).subscribe()
        wire = await stage.joined(head=1)
        await wire.delta(0, 1, [DOC])
        await device.space(SPACE).wait_complete()
        wire.hang_up(1012)
        wire = await stage.peer.next()
        assert (await wire.welcome(resumed=True))["session"] == b"S" * 16
        subscribe = await wire.subscribed(1)
        assert (subscribe["complete"], subscribe["epoch"], subscribe["chain"]) == (1, p.EPOCH, p.CHAIN)


@case
async def the_first_retry_is_jitter_and_the_next_ones_back_off(stage: Stage) -> None:
    stage.peer.is_reachable = False
    async with stage.device() as device:
        await device.wait_until(lambda: len(stage.peer.attempts) == 6)
        waits = [after - before for before, after in zip(stage.peer.attempts, stage.peer.attempts[1:], strict=False)]
        # The peer's entropy draws a half: of the first jitter (1 s), then of 2, 4, 8 and 16 s.
        assert waits == pytest.approx([0.5, 1, 2, 4, 8], abs=0.01)
        stage.peer.is_reachable = True
        wire = await stage.welcomed(ping_ms=600_000)
        await stage.sleep(61)  # stable: what failed before is forgotten
        wire.hang_up(1006)
        left_s = stage.now_s()
        await stage.peer.next()
        assert stage.now_s() - left_s == pytest.approx(0.5, abs=0.01)


@case
async def goaway_is_obeyed_with_what_is_in_flight_answered_first(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined()
        change = space.create("items", "a")
        push = await wire.expect(p.PUSH)
        await wire.say(p.GOAWAY, code=1012, retry_after_ms=5_000, spread_ms=2_000, resume_url="ws://other")
        await stage.reaches(device, State.DRAINING)
        space.create("items", "b")  # nothing new is sent to a server that goes
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        assert (await change.outcome()).outcome == "applied"
        await wire.expect(p.BYE, skipping=(p.ACK,))
        left_s = stage.now_s()
        wire = await stage.peer.next()
        assert stage.now_s() - left_s == pytest.approx(6, abs=0.1)
        assert wire.url == "ws://other"


@case
async def superseded_stops_and_is_told(stage: Stage) -> None:
    async with stage.device() as device:
        notices = device.notices()
        wire = await stage.welcomed()
        await wire.say(p.ERROR, code=13, name="superseded", retry="never", detail="a newer connection took over")
        wire.hang_up(4901)
        await stage.reaches(device, State.STOPPED)
        assert device.status.code == 4901
        assert device.status.reason == "4901 superseded: a newer connection took over"
        told = [await anext(notices), await anext(notices)]
        assert [(notice.what, notice.detail) for notice in told][1] == ("stopped", device.status.reason)
        assert await stage.is_quiet(3_600, stage.peer.next)
        assert not await device.sync(SPACE)
        device.go_online()
        await stage.welcomed()


@case
async def the_ranges_of_close_codes_are_obeyed(stage: Stage) -> None:
    tokens: list[str] = []

    def token() -> str:
        tokens.append(f"T{len(tokens)}")
        return tokens[-1]

    async with stage.device(token=token) as device:
        device.space(SPACE).subscribe()
        wire = await stage.joined(head=1)
        await wire.delta(0, 1, [DOC])
        await device.space(SPACE).wait_complete()
        # Code, the least and the longest wait, whether the synced state survives.
        table = [
            (1006, 0, 1, True), (1012, 0, 2, True), (4002, 0, 1, True), (4099, 0, 1, True), (4101, 1, 60, True),
            (4150, 1, 60, True), (4201, 0, 60, True), (4300, 0, 60, False),
        ]  # fmt: skip
        for code, least_s, longest_s, survives in table:
            wire.hang_up(code)
            left_s, asked = stage.now_s(), len(tokens)
            wire = await stage.peer.next()
            assert least_s <= stage.now_s() - left_s <= longest_s, code
            assert len(tokens) == asked + 1
            assert (await wire.welcome())["token"] == tokens[-1]
            assert ((await wire.subscribed(1))["complete"] == 1) is survives, code
            if not survives:
                await wire.delta(0, 1, [DOC])
                await device.space(SPACE).wait_complete()
        wire.hang_up(4999)
        await stage.reaches(device, State.STOPPED)
        assert device.status.code == 4999


@case
async def a_token_that_is_a_text_cannot_be_renewed_so_the_device_stops(stage: Stage) -> None:
    async with stage.device() as device:
        wire = await stage.welcomed()
        wire.hang_up(4201)
        await stage.reaches(device, State.STOPPED)
        assert device.status.code == 4201


@case
async def a_token_is_renewed_in_band_before_it_expires(stage: Stage) -> None:
    tokens = iter(["first", "second", "third"])

    async def token() -> str:
        await stage.sleep(1)
        return next(tokens)

    async with stage.device(token=token):
        wire = await stage.welcomed(expires=1_000_000 + 100_000, ping_ms=600_000)
        began_s = stage.now_s()
        assert (await wire.expect(p.REFRESH))["token"] == "second"
        assert stage.now_s() - began_s == pytest.approx(81, abs=0.1)
        assert (await wire.expect(p.REFRESH))["token"] == "third"
        assert len(stage.peer.attempts) == 1


@case
async def a_new_token_asks_again_for_what_the_old_one_was_refused(stage: Stage) -> None:
    tokens = iter(["reader of nothing", "writer"])
    async with stage.device(token=lambda: next(tokens)) as device:
        space = device.space(p.SPACE)
        space.subscribe()
        wire = await stage.welcomed(expires=1_000_000 + 100_000, ping_ms=600_000)
        await wire.expect(p.SUBSCRIBE)
        await wire.say(p.REVOKED, space=p.SPACE, reason="not granted")
        await wire.expect(p.PURGED)
        assert (await wire.expect(p.REFRESH))["token"] == "writer"
        await wire.subscribed()
        await device.wait_until(lambda: space.row.role == "writer")


@case
async def a_new_token_pushes_again_what_the_old_one_might_not_write(stage: Stage) -> None:
    tokens = iter(["reader of nothing", "writer"])
    async with stage.device(token=lambda: next(tokens)) as device:
        change = device.space(p.SPACE).create("items", "a")
        wire = await stage.welcomed(expires=1_000_000 + 100_000, ping_ms=600_000)
        await wire.expect(p.PUSH)
        await wire.say(p.ERROR, code=18, name="forbidden", retry="never", space=p.SPACE)
        assert (await wire.expect(p.REFRESH))["token"] == "writer"
        push = await wire.expect(p.PUSH)
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        assert (await change.outcome()).seq == 1


@case
async def a_provider_that_fails_is_asked_again_while_the_token_lives(stage: Stage) -> None:
    asked_s: list[float] = []

    def token() -> str:
        asked_s.append(stage.now_s())
        if 1 < len(asked_s) < 4:
            raise KeyError("an identity library's own error")
        return f"T{len(asked_s)}"

    async with stage.device(token=token):
        wire = await stage.welcomed(expires=1_000_000 + 100_000, ping_ms=600_000)
        assert (await wire.expect(p.REFRESH))["token"] == "T4"
        assert [at_s - asked_s[0] for at_s in asked_s] == pytest.approx([0, 80, 85, 90], abs=0.1)
        assert len(stage.peer.attempts) == 1


@case
async def a_provider_that_fails_or_hangs_ends_no_device(stage: Stage) -> None:
    count = 0

    async def token() -> str:
        nonlocal count
        count += 1
        if count == 1:
            raise RuntimeError("no identity provider")
        if count == 2:
            raise Unreachable("captive portal")
        if count == 3:
            await stage.sleep(10_000)
        return "T"

    async with stage.device(token=token) as device:
        await device.wait_until(lambda: bool(device.status.reason))
        assert device.status.reason == "1006 no token: RuntimeError: no identity provider"
        await device.wait_until(lambda: count == 3)
        hung_s = stage.now_s()
        await device.wait_until(lambda: "no token within" in device.status.reason)
        assert stage.now_s() - hung_s == pytest.approx(TOKEN_S, abs=0.1)
        assert not stage.peer.attempts, "nobody connects without a token"
        assert (await (await stage.peer.next()).welcome())["token"] == "T"


@case
async def a_push_in_flight_when_the_connection_dies_is_made_once(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined()
        change = space.create("items", "a")
        first = await wire.expect(p.PUSH)
        wire.hang_up(1006)  # it was recorded, and the answer is lost
        wire = await stage.joined()
        again = await wire.expect(p.PUSH)
        assert again["changes"] == first["changes"]
        await wire.outcomes([1, first["changes"][0][1], "applied", 1])
        await wire.outcomes([1, first["changes"][0][1], "applied", 1])
        assert (await change.outcome()).seq == 1
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        await space.wait_settled()
        assert [document.id for document in space.documents("items")] == ["a"]


@case
async def a_slow_watcher_costs_what_exists_and_not_what_happened(stage: Stage) -> None:
    async with stage.device(online=False) as device:
        space = device.space(SPACE)
        statuses, notices = device.statuses(), device.notices()
        with space.changes() as slow, device.changes() as other:
            space.create("items", "a")
            for _ in range(300):
                space.inc("items", "a", "qty")
            (round_one,) = await anext(slow)
            assert round_one.keys == (("items", "a"),)
            assert await stage.is_quiet(60, lambda: anext(slow))
            size = Limits().change_documents_max
            for number in range(WATCHED_KEYS_MAX // size + 1):
                space.commit([operation("create", "many", f"{number}-{index}") for index in range(size)])
            (round_two,) = await anext(other)
            assert round_two.keys is None, "beyond the bound: read the space again"
        for number in range(NOTICES_MAX + 20):
            device.watchers.notify(Notice("error", None, str(number)))
        told = [(await anext(notices)).detail for _ in range(NOTICES_MAX)]
        assert told == [str(number) for number in range(20, NOTICES_MAX + 20)]
        device.go_online()
        await stage.welcomed()
        await stage.reaches(device, State.READY)
        assert (await anext(statuses)).state is State.READY
        assert await stage.is_quiet(10, lambda: anext(statuses))


@case
async def two_processes_share_a_store_and_one_of_them_syncs(stage: Stage) -> None:
    async with stage.device() as first:
        first.space(SPACE).subscribe()
        wire = await stage.joined()
        async with stage.device() as second:
            change = second.space(SPACE).create("items", "a")
            push = await wire.expect(p.PUSH)
            await wire.outcomes([1, push["changes"][0][1], "applied", 1])
            assert (await change.outcome()).seq == 1
            assert (second.status.state, second.status.reason[:15]) == (State.WAITING, "another process")
            await first.go_offline()
            await stage.welcomed()
            await stage.reaches(second, State.READY)
        assert first.status.state is State.CLOSED


@case
async def a_device_that_is_cancelled_at_any_await_leaves_a_consistent_store(stage: Stage) -> None:
    """Cancelled when its await number 1, 2, 3, ... begins, until it is through: nothing stays open, the sync lock is
    free, what was committed is there, and another run brings the server and the device together."""
    at, is_through = 0, False
    while not is_through:
        at += 1
        path, peer, cancelled = stage.path / str(at), stage.new_peer(), stage.loop.event()
        loop = Counting(stage.loop, at, cancelled.set)
        committed: list[int] = []

        async def scenario(
            path: Path = path, peer: Peer = peer, loop: Counting = loop, committed: list[int] = committed
        ) -> None:
            nonlocal is_through
            async with counted_device(stage, loop, peer, path) as device:
                await edits(device, committed)
            is_through = True

        peer.loop = loop  # the transport's awaits count, too
        async with serving(stage, peer) as server:
            await stage.loop.race(scenario, cancelled.wait)
            assert not any(wire.is_open for wire in peer.wires), f"await {at}"
            peer.loop = stage.loop
            check_store(path, committed, at)
            async with counted_device(stage, stage.loop, peer, path) as device:
                device.space(SPACE).subscribe()
                assert await device.sync(SPACE)
                await device.space(SPACE).wait_settled()
                assert list(server.recorded) == committed
                assert len(device.space(SPACE).documents("items")) == len(committed)
    assert at > 50, "it is cancelled at many places"


async def edits(device: Device, committed: list[int]) -> None:
    space = device.space(SPACE)
    space.subscribe()
    committed.append(space.create("items", "a").n)
    change = space.create("items", "b")
    committed.append(change.n)
    await change.outcome()
    assert await device.sync(SPACE)
    await device.go_offline()
    assert device.status.state is State.CLOSED
    committed.append(space.create("items", "c").n)
    device.go_online()
    await space.wait_settled()


def check_store(path: Path, committed: list[int], at: int) -> None:
    store = Store(path, entropy=lambda size: bytes(size), durability="off")
    try:
        assert store.acquire_sync_lock(), f"await {at}: the lock is held"
        for row in store.spaces():
            held = [entry.n for entry in store.outbox(row.name)]
            assert row.next_n == len(committed) + 1, f"await {at}"
            assert held == sorted(held)
            assert row.complete <= row.resume
            assert all(store.outcome(SPACE, n) is not None for n in committed if n <= row.settled)
            assert {document.id for document in store.documents(SPACE)} <= {"a", "b", "c"}
    finally:
        store.close()


@case
async def going_offline_that_is_cancelled_at_any_await_leaves_the_device_offline(stage: Stage) -> None:
    at, is_through = 0, False
    while not is_through:
        at += 1
        peer, cancelled = stage.new_peer(), stage.loop.event()
        async with counted_device(stage, stage.loop, peer, stage.path / str(at)) as device:
            wire = await peer.next()
            await wire.welcome()
            await stage.reaches(device, State.READY)
            wire.is_slow_to_close = True
            device.loop = loop = Counting(stage.loop, at, cancelled.set)

            async def leave(device: Device = device) -> None:
                nonlocal is_through
                await device.go_offline()
                is_through = True

            await stage.loop.race(leave, cancelled.wait)
            assert device.status.state is (State.CLOSED if loop.count or is_through else State.READY)
            await stage.sleep(3)
            assert not wire.is_open
            device.go_online()
            await (await peer.next()).welcome()
            await stage.reaches(device, State.READY)


@case
async def a_call_that_is_cancelled_leaves_the_device_as_it_was(stage: Stage) -> None:
    async with stage.device() as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await stage.joined()
        change = space.create("items", "a")
        push = await wire.expect(p.PUSH)
        with space.changes() as changed:
            for run in (change.outcome, space.wait_settled, lambda: device.sync(SPACE), lambda: anext(changed)):
                assert await stage.is_quiet(1, run)
            await wire.outcomes([1, push["changes"][0][1], "applied", 1])
            assert (await change.outcome()).seq == 1
            assert [item.keys for item in await anext(changed)] == [(("items", "a"),)]
        assert device.status.state is State.READY


@case
async def the_application_s_own_error_leaves_as_it_is(stage: Stage) -> None:
    with pytest.raises(ZeroDivisionError):
        async with stage.device():
            wire = await stage.welcomed()
            _ = 1 / 0
    assert not wire.is_open


@case
async def going_offline_and_online_at_once_connects_again(stage: Stage) -> None:
    async with stage.device() as device:
        wire = await stage.welcomed()
        await stage.reaches(device, State.READY)
        async with stage.loop.beside(device.go_offline):
            await wire.expect(p.BYE)
            device.go_online()
            wire.hang_up(1000)
            await stage.welcomed()
            await stage.reaches(device, State.READY)
