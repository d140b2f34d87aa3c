"""A device and its session against a scripted server; what each shell must do besides is in shell_cases.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from syncd_client import Device, InvalidInput, open_device, operation

from . import peer as p
from .peer import SPACE, Peer, Wire


@asynccontextmanager
async def device_at(path: Path, peer: Peer, **options: Any) -> AsyncIterator[Device]:
    settings: dict[str, Any] = {"url": "ws://peer", "token": "T", "ports": peer.ports(), "durability": "off", **options}
    async with open_device(path, **settings) as device:
        yield device


async def joined(peer: Peer, head: int = 0, **welcome: Any) -> Wire:
    """Accept a connection and its subscription to the space."""
    wire = await peer.next()
    await wire.welcome(**welcome)
    await wire.subscribed(head)
    return wire


@pytest.mark.parametrize("binding", ["msgpack", "json"])
async def test_a_change_is_shown_at_once_and_once_until_its_effect_is_synced(
    tmp_path: Path, autojump_clock: MockClock, binding: str
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer, binding=binding) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer)
        change = space.commit([operation("create", "items", "a"), operation("counter.inc", "items", "a", "qty", 2)])
        assert space.view("items", "a")["qty"] == 2  # type: ignore[index]
        push = await wire.expect(p.PUSH)
        n, nonce, base, _stamp, operations = push["changes"][0]
        assert (n, base, operations[1]) == (1, 0, ["counter.inc", "items", "a", "qty", 2])
        await wire.outcomes([1, nonce, "applied", 1])
        assert (await change.outcome()).seq == 1
        assert space.view("items", "a")["qty"] == 2  # type: ignore[index]
        assert space.outbox_depth == 1
        await wire.delta(0, 1, [["items", "a", 1, 1, {"qty": ["counter", 2]}]])
        await space.wait_settled()
        document = space.view("items", "a")
        assert document is not None
        assert (document["qty"], document.rev, document.pending_count) == (2, 1, 0)
        ack = await wire.expect(p.ACK)
        if ack["applied"] == 0:  # the ack of the outcome, one ack_ms earlier
            ack = await wire.expect(p.ACK)
        assert (ack["applied"], ack["oldest_base"], ack["settled"]) == (1, 1, 1)


async def test_what_was_committed_offline_is_pushed_in_chunks_within_the_limits(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer, online=False) as device:
        space = device.space(SPACE)
        space.subscribe()
        for number in range(25):
            space.create("items", f"{number}")
        device.go_online()
        wire = await joined(peer, limits={"push_changes_max": 10, "pushes_in_flight_max": 2})
        first, second = await wire.expect(p.PUSH), await wire.expect(p.PUSH)
        assert [change[0] for change in first["changes"] + second["changes"]] == list(range(1, 21))
        with pytest.raises(trio.TooSlowError), trio.fail_after(5):
            await wire.expect(p.PUSH, skipping=(p.ACK,))
        await wire.outcomes(*[[change[0], change[1], "applied", change[0]] for change in first["changes"]])
        third = await wire.expect(p.PUSH, skipping=(p.ACK,))
        assert [change[0] for change in third["changes"]] == [21, 22, 23, 24, 25]


async def test_outcomes_that_come_with_the_subscription_spare_the_push(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        space.create("items", "a")
        wire = await joined(peer)
        push = await wire.expect(p.PUSH)
        wire.hang_up(1012)
        wire = await peer.next()
        await wire.welcome()
        subscribe = await wire.expect(p.SUBSCRIBE)
        assert subscribe["settled"] == 0
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        body = {"space": SPACE, "epoch": p.EPOCH, "head": 1, "safe": 1, "role": "writer", "mode": "catch-up"}
        await wire.say(p.SUBSCRIBED, **body)
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        assert (await wire.expect(p.ACK))["settled"] == 1
        assert space.outbox_depth == 0


async def test_a_refused_change_leaves_the_view_and_keeps_its_payload(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        change = space.create("items", "a", {"name": "x"})
        wire = await joined(peer)
        nonce = (await wire.expect(p.PUSH))["changes"][0][1]
        await wire.outcomes([1, nonce, "forbidden", None, {"op": 0, "reason": "readers may not write"}])
        assert (await change.outcome()).outcome == "forbidden"
        assert space.view("items", "a") is None
        (refused,) = space.refused()
        assert (refused.n, refused.outcome, refused.operations[1].name) == (1, "forbidden", "reg.set")
        space.discard_refused(1)
        assert space.refused() == []


async def test_a_gap_is_filled_by_sending_again_from_there(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer, online=False) as device:
        space = device.space(SPACE)
        space.subscribe()
        for number in range(4):
            space.create("items", f"{number}")
        device.go_online()
        wire = await joined(peer, limits={"push_changes_max": 1})
        pushes = [await wire.expect(p.PUSH) for _ in range(4)]
        body = {"code": 11, "name": "overloaded", "retry": "backoff", "after_ms": 700, "space": SPACE}
        await wire.say(p.ERROR, **body)
        for _ in range(3):
            await wire.outcomes(gap=1)
        again = [await wire.expect(p.PUSH, skipping=(p.ACK,)) for _ in range(4)]
        assert again == pushes
        with pytest.raises(trio.TooSlowError), trio.fail_after(5):
            await wire.expect(p.PUSH, skipping=(p.ACK,))


async def test_a_forked_device_goes_on_under_another_id(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        old, change = device.id, space.create("items", "a")
        wire = await joined(peer)
        pushed = (await wire.expect(p.PUSH))["changes"][0]
        await wire.outcomes(forked=1)
        await wire.expect(p.BYE, skipping=(p.ACK,))
        later = space.create("items", "b")
        wire = await joined(peer)
        assert device.id != old
        assert device.forked is None
        again = (await wire.expect(p.PUSH))["changes"]
        assert again[0] == pushed
        assert [item[0] for item in again] == [1, 2]
        await wire.outcomes(*([item[0], item[1], "applied", item[0]] for item in again))
        assert [(await one.outcome()).seq for one in (change, later)] == [1, 2]
        await wire.delta(0, 2, [["items", "a", 1, 1, {}], ["items", "b", 2, 1, {}]])
        await space.wait_settled()


async def test_a_forked_device_offers_what_it_has_in_a_space_that_it_may_not_read(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Else the answer that the old id waits for never comes, and nothing of any space goes out."""
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space, other = device.space(SPACE), device.space("other")
        space.subscribe()
        wire = await joined(peer)
        old, change = device.id, space.create("items", "a")
        await wire.expect(p.PUSH)
        await device.go_offline()
        other.subscribe()
        other.create("items", "c")
        device.go_online()
        wire = await peer.next()
        await wire.welcome()
        asked = [await wire.expect(p.SUBSCRIBE) for _ in (space, other)]
        assert {each["space"] for each in asked} == {SPACE, "other"}
        await wire.outcomes(forked=1)
        place = {"space": SPACE, "epoch": p.EPOCH, "head": 0, "safe": 0, "role": "writer", "mode": "live"}
        await wire.say(p.SUBSCRIBED, **place)
        await wire.say(p.REVOKED, space="other", reason="not granted")
        assert (await wire.expect(p.PUSH, skipping=(p.ACK,)))["space"] == "other"
        await wire.say(p.ERROR, code=18, name="forbidden", retry="never", space="other")
        await wire.expect(p.BYE, skipping=(p.ACK, p.PURGED))
        wire = await peer.next()
        await wire.welcome()
        assert device.id != old
        await wire.say(p.SUBSCRIBED, **place)
        pushed = (await wire.expect(p.PUSH, skipping=(p.ACK, p.SUBSCRIBE)))["changes"][0]
        await wire.outcomes([pushed[0], pushed[1], "applied", 1])
        assert (await change.outcome()).seq == 1


async def test_a_forked_device_does_not_wait_for_a_space_that_has_refused_it_already(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """On this connection it is not asked again, and to no other the old id would ever go."""
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer)
        old = device.id
        device.space("other").create("items", "c")
        assert (await wire.expect(p.PUSH, skipping=(p.ACK,)))["space"] == "other"
        await wire.say(p.ERROR, code=18, name="forbidden", retry="never", space="other")
        space.create("items", "a")
        assert (await wire.expect(p.PUSH, skipping=(p.ACK,)))["space"] == SPACE
        await wire.outcomes(forked=1)
        await wire.expect(p.BYE, skipping=(p.ACK,))
        await peer.next()
        assert device.id != old


async def test_an_expired_epoch_is_left_and_the_outbox_offered_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    new_epoch = b"F" * 16
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=5)
        await wire.delta(0, 5, [["items", "a", 5, 1, {"name": ["reg", "x"]}]])
        await space.wait_complete()
        space.set("items", "a", "name", "y")
        assert (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"][0][2] == 5
        wire.hang_up(1012)
        wire = await peer.next()
        await wire.welcome()
        await wire.expect(p.SUBSCRIBE)
        await wire.say(p.EXPIRED, space=SPACE, epoch=new_epoch, fork=3, highest=0)
        subscribe = await wire.subscribed(3, epoch=new_epoch)
        assert (subscribe["epoch"], subscribe["complete"], subscribe["resume"]) == (new_epoch, 0, 0)
        change = (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"][0]
        assert (change[0], change[2]) == (1, 3)
        assert space.view("items", "a") is None


async def test_a_wrong_checksum_makes_the_device_say_what_it_holds(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]], sum=b"\x00" * 8)
        sums = await wire.expect(6, skipping=(p.ACK,))
        assert len(sums["buckets"]) == 8 * 1_024
        assert not space.is_complete
        assert [document.id for document in space.synced()] == ["a"]


async def test_a_revoked_space_is_discarded_but_not_its_outbox(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        await space.wait_complete()
        await wire.say(p.REVOKED, space=SPACE, seq=2, reason="removed by an owner")
        await device.wait_until(lambda: space.row.revoked is not None)
        assert space.synced() == []
        await wire.expect(9, skipping=(p.ACK,))  # purged
        space.create("items", "b")
        push = await wire.expect(p.PUSH, skipping=(p.ACK,))
        assert push["changes"][0][0] == 1


async def test_a_token_is_asked_for_anew_when_the_server_refuses_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer, tokens = Peer(), iter(["old", "new"])
    async with device_at(tmp_path, peer, token=lambda: next(tokens)):
        wire = await peer.next()
        assert (await wire.expect(p.HELLO))["token"] == "old"
        await wire.say(p.ERROR, code=5, name="token_expired", retry="reauth")
        wire.hang_up(4201)
        wire = await peer.next()
        assert (await wire.expect(p.HELLO))["token"] == "new"


async def test_a_ping_is_answered_with_its_id(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer):
        wire = await peer.next()
        await wire.welcome()
        await wire.say(p.PING, id=7)
        assert await wire.expect(p.PONG) == {"id": 7}


async def test_an_unreadable_change_is_found_by_halving_and_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The server closes with 1007 whenever a push holds n = 6; everything else must arrive."""
    peer = Peer()
    recorded: dict[int, str] = {}
    async with device_at(tmp_path, peer, online=False) as device:
        space = device.space(SPACE)
        space.subscribe()
        for number in range(9):
            space.create("items", f"{number}")
        device.go_online()
        while len(recorded) < 9:
            wire = await joined(peer, limits={"push_changes_max": 4})
            while len(recorded) < 9:
                push = await wire.expect(p.PUSH, skipping=(p.ACK,))
                if any(change[0] == 6 for change in push["changes"]):
                    wire.hang_up(1007)
                    break
                answers = []
                for change in push["changes"]:
                    n, nonce, outcome = (
                        (change[1], change[3], "void") if change[0] == "void" else (change[0], change[1], "applied")
                    )
                    if n != max(recorded, default=0) + 1 and n not in recorded:
                        await wire.outcomes(gap=max(recorded, default=0) + 1)
                        break
                    recorded[n] = outcome
                    answers.append([n, nonce, outcome, None if outcome == "void" else n])
                await wire.outcomes(*answers)
        assert recorded == {n: "void" if n == 6 else "applied" for n in range(1, 10)}
        (refused,) = space.refused()
        assert (refused.n, refused.operations[0].id) == (6, "5")


async def test_changes_are_told_once_each_however_slow_the_reader(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer, online=False) as device:
        space = device.space(SPACE)
        with space.changes() as changed:
            space.create("items", "a")
            for _ in range(100):
                space.inc("items", "a", "qty")
            space.create("items", "b")
            (round_one,) = await anext(changed)
            assert round_one.keys == (("items", "a"), ("items", "b"))
            with pytest.raises(trio.TooSlowError), trio.fail_after(5):
                await anext(changed)


async def test_bad_input_is_refused_precisely_and_nothing_is_stored(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer, online=False) as device:
        space = device.space(SPACE)
        with pytest.raises(InvalidInput, match=r"reg.set: value\[1\]: nan is not a finite number"):
            space.commit([operation("create", "items", "a"), ["reg.set", "items", "a", "x", [1, float("nan")]]])
        with pytest.raises(InvalidInput, match="1001 operations, expected 1 to 1000"):
            space.commit([operation("create", "items", "a")] * 1001)
        assert space.outbox_depth == 0
        assert space.row.next_n == 1


async def test_a_message_that_the_protocol_does_not_know_ends_the_connection_only(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer):
        wire = await peer.next()
        await wire.welcome()
        await wire.say(200, whatever=1)  # a later version's; ignored
        await wire.say(99)
        await peer.next()
        assert wire.client_code == 1002


async def test_what_would_have_too_many_fields_is_refused_before_anybody_is_asked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, limits={"document_fields_max": 3})
        await wire.delta(0, 1, [["items", "a", 1, 1, {"x": ["reg", 1], "y": ["reg", 1]}]])
        await device.wait_until(lambda: space.row.complete == 1)
        space.set("items", "a", "z", 1)
        for refused in (
            [operation("reg.set", "items", "a", "w", 1)],
            [operation("create", "items", "b"), *(operation("flag.enable", "items", "b", f"{n}") for n in range(4))],
        ):
            with pytest.raises(InvalidInput, match="would have 4 fields, at most 3"):
                space.commit(refused)
        assert space.outbox_depth == 1
        space.set("items", "a", "x", 2)
        space.commit([operation("reg.unset", "items", "a", "x"), operation("reg.set", "items", "a", "w", 1)])
        assert space.outbox_depth == 3
