"""A server that is buggy, hostile or set back, and a disk that fails: the device keeps its outbox and stays alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from syncd_client import InvalidInput, StoreError, operation, replica
from syncd_client import messages as m
from syncd_client.session import Session
from syncd_client.store import Store

from . import peer as p
from .peer import EPOCH, SPACE, Peer
from .test_device import device_at, joined

DOC = ["items", "a", 5, 1, {"name": ["reg", "x"]}]


@pytest.mark.parametrize("is_staged", [False, True])
async def test_expired_in_the_same_epoch_starts_anew(
    tmp_path: Path, autojump_clock: MockClock, is_staged: bool
) -> None:
    """The server's disk was set back: it never gave these positions."""
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=5)
        if is_staged:
            await wire.delta(0, 5, [DOC], complete=False, start=9)
            await device.wait_until(lambda: space.row.resume == 5)
        else:
            await wire.delta(0, 5, [DOC])
            await space.wait_complete()
        space.set("items", "a", "name", "y")
        wire.hang_up(1012)
        wire = await peer.next()
        await wire.welcome()
        await wire.expect(p.SUBSCRIBE)
        await wire.say(p.EXPIRED, space=SPACE, epoch=EPOCH, fork=0, highest=0)
        subscribe = await wire.subscribed(3)
        assert (subscribe["epoch"], subscribe["complete"], subscribe["resume"]) == (EPOCH, 0, 0)
        assert subscribe.get("start") is None
        change = (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"][0]
        assert (change[0], change[2]) == (1, 0)


def test_a_server_that_refuses_for_hours_is_asked_at_a_bounded_pace(tmp_path: Path) -> None:
    store = Store(tmp_path, entropy=lambda size: b"e" * size, durability="off")
    session = Session(lambda: b"n" * 8)
    now_s = 0.0
    with store.transaction() as tx:
        replica.join(tx, SPACE)
        reconnect = {"first_jitter_ms": 1, "backoff_ms": 1, "backoff_max_ms": 1, "stable_ms": 1}
        welcome = m.Welcome(b"S" * 16, 0, "u", False, {}, 30_000, 1_000, reconnect, "peer", ())
        session.received(tx, welcome, 0, now_s)
        for _ in range(1_100):
            assert [type(message) for message in session.outgoing(tx, now_s)] == [m.Subscribe]
            session.received(tx, m.Error(17, "bad_position", "resync", space=SPACE), 0, now_s)
            wait_s = session.next_due_s(now_s) - now_s
            assert 1 <= wait_s <= 60
            now_s += wait_s
    store.close()


@pytest.mark.parametrize("limit", [0, -1, 2**63 - 1])
async def test_absurd_limits_and_times_stop_no_change(tmp_path: Path, autojump_clock: MockClock, limit: int) -> None:
    peer = Peer()
    names = ("frame_bytes_max", "push_changes_max", "change_operations_max", "change_documents_max")
    limits = dict.fromkeys(
        [*names, "change_bytes_max", "document_fields_max", "pushes_in_flight_max", "messages_per_s_max", "x"], limit
    )
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, limits=limits, time=2**53 - 1, ping_ms=0, ack_ms=0)
        await wire.delta(0, 1, [DOC], t=2**53 - 1)
        await device.wait_until(lambda: space.row.complete == 1)
        await trio.sleep(10)
        if limit < 1:
            with pytest.raises(InvalidInput):
                space.set("items", "a", "name", "y")
            return
        space.set("items", "a", "name", "y")
        push = await wire.expect(p.PUSH, skipping=(p.ACK, p.PROBE))
        assert push["changes"][0][3] <= 2**53 - 1, "a stamp that the protocol can carry"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "docs",
    [
        [["items", "a", 1, 1, {"name": ["reg", nested(600)]}]],
        [["items", "a", 1, 1, {"name": ["reg", {b"k": 1}]}]],
        [["items", "a", 1, [], {}]],
        [["items", "a", 1, 1, {"name": ["reg"]}]],
        [["items", "a", 1, 1, {b"name": ["reg", 1]}]],
        [[1, 2, 3, 4, 5]],
        [None],
    ],
)
async def test_a_delta_that_makes_no_sense_ends_the_connection_only(
    tmp_path: Path, autojump_clock: MockClock, docs: list[Any]
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        await wire.delta(0, 1, docs)
        wire = await peer.next()
        await wire.welcome()
        assert (await wire.subscribed(1))["complete"] == 0


@pytest.mark.parametrize(
    "field",
    [
        ["set", 5], ["map", [1]], ["counter", "x"], ["max", None], ["mv", {}], ["flag", 7], ["new", 1], ["set", {}],
        ["list", 1], ["list", [1]], ["list", [["text", 1]]], ["list", [[b"position!"]]],
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "change",
    [
        ["set.add", 1], ["set.remove", 1], ["map.put", "k", 1], ["map.drop", "k"], ["counter.inc", 1], ["max.put", 1],
        ["mv.set", 1], ["flag.enable"], ["list.insert", b"position!", 1], ["list.move", b"position!"],
        ["list.remove", b"osition!"],
    ],
)  # fmt: skip
async def test_a_value_that_its_type_cannot_have_breaks_no_view(
    tmp_path: Path, autojump_clock: MockClock, field: list[Any], change: list[Any]
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        await wire.delta(0, 1, [["items", "a", 1, 1, {"f": field}]])
        await device.wait_until(lambda: space.row.complete == 1 or len(peer.attempts) > 1)
        verb, *arguments = change
        space.commit([operation(verb, "items", "a", "f", *arguments)])
        space.view("items", "a")


async def test_outcomes_and_deltas_of_other_spaces_are_not_taken(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer)
        await wire.delta(0, 1, [DOC], space="other")
        await wire.outcomes(space="other")
        await wire.delta(1, 2, [DOC], epoch=b"X" * 16)
        await wire.delta(3, 4, [DOC])
        assert (await wire.subscribed(4))["complete"] == 0, "a gap is asked for again"
        await wire.delta(0, 4, [DOC])
        await wire.delta(2, 3, [["items", "a", 3, 2, {}]])
        await space.wait_complete()
        assert space.view("items", "a") is not None
        assert [row.name for row in device.spaces()] == [SPACE]


async def test_a_disk_that_fails_under_a_message_ends_the_connection_and_not_the_application(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=5)
        pages = device.store._db.execute("PRAGMA page_count").fetchone()[0]
        device.store._db.execute(f"PRAGMA max_page_count={pages}")
        docs = [["items", str(i), i + 1, 1, {"t": ["reg", "x" * 5_000]}] for i in range(100)]
        await wire.delta(0, 100, docs)
        with pytest.raises(StoreError):
            space.commit([operation("create", "c", "big"), operation("reg.set", "c", "big", "f", "y" * 60_000)])
        wire = await peer.next()
        await wire.welcome()
        device.store._db.execute("PRAGMA max_page_count=1000000")
        wire.hang_up(1012)
        wire = await peer.next()
        await wire.welcome()
        assert (await wire.subscribed(100))["complete"] == 0
        await wire.delta(0, 100, docs)
        await space.wait_complete()
        space.set("items", "1", "t", "z")
        assert (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"][0][0] == 1
