"""An application that changes its mind: the opposite call comes before the first one has been carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from syncd_client import State

from . import peer as p
from .peer import SPACE, Peer
from .test_device import device_at, joined


async def test_a_space_that_is_forgotten_and_joined_at_once_is_downloaded_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        await device.wait_until(lambda: space.row.complete == 1)
        space.unsubscribe(forget=True)
        space.subscribe()
        assert not space.documents("items")
        assert (await wire.expect(p.UNSUBSCRIBE, skipping=(p.ACK,)))["forget"]
        assert (await wire.subscribed(1))["complete"] == 0
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        await space.wait_complete()
        assert space.documents("items")


async def test_a_space_that_is_left_and_joined_at_once_stays_subscribed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        await device.wait_until(lambda: space.row.complete == 1)
        space.unsubscribe()
        space.subscribe()
        await wire.delta(1, 2, [["items", "b", 2, 1, {}]])
        await device.wait_until(lambda: space.row.complete == 2)


async def test_a_device_that_is_sent_offline_and_online_at_once_connects_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device, trio.open_nursery() as nursery:
        wire = await peer.next()
        await wire.welcome()
        await device.wait_until(lambda: device.status.state is State.READY)
        nursery.start_soon(device.go_offline)
        await wire.expect(p.BYE)
        device.go_online()
        wire.hang_up(1000)
        wire = await peer.next()
        await wire.welcome()
        await device.wait_until(lambda: device.status.state is State.READY)


async def test_going_offline_takes_effect_also_if_nobody_waits_for_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        wire = await peer.next()
        await wire.welcome()
        await device.wait_until(lambda: device.status.state is State.READY)
        wire.is_slow_to_close = True
        with trio.move_on_after(0.1):
            await device.go_offline()
        assert device.status.state is State.CLOSED
        device.go_online()
        wire = await peer.next()
        await wire.welcome()
        await device.wait_until(lambda: device.status.state is State.READY)


async def test_a_space_that_is_forgotten_while_it_reconciles_takes_nothing_of_the_repair(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is brought are the differences to a copy that is no longer there."""
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, head=1)
        await wire.delta(0, 1, [["items", "a", 1, 1, {}]])
        await device.wait_until(lambda: space.row.complete == 1)
        wire.hang_up(1001)
        wire = await peer.next()
        await wire.welcome()
        await wire.expect(p.SUBSCRIBE)
        told: dict[str, Any] = {"space": SPACE, "epoch": p.EPOCH}
        await wire.say(p.SUBSCRIBED, **told, head=2, safe=2, role="writer", mode="reconcile")
        assert len((await wire.expect(p.SUMS, skipping=(p.ACK,)))["buckets"]) == 8 * 1024
        await wire.say(p.DIFFER, **told, at=2, t=5, chain=p.CHAIN, buckets=[0])
        assert (await wire.expect(p.SUMS, skipping=(p.ACK,)))["of"] == [0]
        wire.is_slow_to_close = True
        await wire.say(p.GOAWAY, code=4100, retry_after_ms=0, spread_ms=0)
        await wire.expect(p.BYE, skipping=(p.ACK,))  # so the space is forgotten here before the server can be told
        space.unsubscribe(forget=True)
        space.subscribe()
        docs = [["items", "b", 2, 1, {}]]
        await wire.say(
            p.REPAIR, **told, at=2, t=5, chain=p.CHAIN, docs=docs, gone=b"", done=True, last=True, sum=bytes(8)
        )
        await trio.sleep(0.5)
        assert (space.row.complete, space.row.doubts, space.documents("items")) == (0, 0, [])
        wire.hang_up(1000)
        wire = await peer.next()
        await wire.welcome()
        assert (await wire.subscribed(2))["complete"] == 0
