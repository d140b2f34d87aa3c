"""Waiting for what a device brings: nobody starves, nobody waits for what will not come, and trouble stays small."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from syncd_client import OutcomeForgotten, State, StoreError, operation, replica
from syncd_client import messages as m
from syncd_client.policy import State as SessionState
from syncd_client.session import PUSH_ANSWER_S, Session
from syncd_client.store import OUTCOMES_PER_SPACE_MAX, Store
from syncd_client.watching import Watcher

from . import peer as p
from .peer import EPOCH, SPACE, Peer
from .test_device import device_at, joined


async def test_an_application_that_answers_each_change_with_one_lets_the_device_sync(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer)

        async def answer(changed: Watcher) -> None:
            async for _round in changed:  # each commit is a change that the next round tells of
                space.commit([operation("create", "items", "a")])

        with space.changes() as changed:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, changed)
                space.commit([operation("create", "items", "a")])
                await wire.expect(p.PUSH, skipping=(p.ACK,))
                nursery.cancel_scope.cancel()


async def test_waiting_for_what_is_already_so_lets_others_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        wire = await peer.next()
        await wire.welcome()
        change = space.commit([operation("create", "items", "a")])
        push = await wire.expect(p.PUSH)
        await wire.outcomes([1, push["changes"][0][1], "applied", 1])
        await change.outcome()
        with trio.testing.assert_checkpoints():
            await change.outcome()
        with trio.testing.assert_checkpoints():
            await device.wait_until(lambda: True)


async def test_an_outcome_that_is_no_longer_kept_is_not_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        wire = await peer.next()
        await wire.welcome()
        count = OUTCOMES_PER_SPACE_MAX + 1
        changes = [space.commit([operation("counter.inc", "items", "a", "f", 1)]) for _ in range(count)]
        answered = 0
        while answered < count:
            push = await wire.expect(p.PUSH)
            await wire.outcomes(*([n, nonce, "gone", None] for n, nonce, *_rest in push["changes"]))
            answered += len(push["changes"])
        assert (await changes[-1].outcome()).outcome == "gone"
        with trio.fail_after(1), pytest.raises(OutcomeForgotten):
            await changes[0].outcome()


async def test_who_gives_up_waiting_for_an_outcome_or_had_it_from_another_process_leaves_nothing_behind(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as syncing:
        wire = await peer.next()
        await wire.welcome()
        async with device_at(tmp_path, peer) as other:
            changes = [other.space(SPACE).commit([operation("create", "items", id)]) for id in ("a", "b")]
            push = await wire.expect(p.PUSH)
            with trio.move_on_after(1):
                await changes[1].outcome()
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(changes[0].outcome)
                await wire.outcomes([1, push["changes"][0][1], "applied", 1])
            assert [change.settled() is not None for change in changes] == [True, False]
            assert (syncing._awaited, other._awaited) == ({}, {})


async def test_a_lock_that_cannot_be_taken_for_a_while_ends_no_device(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No file descriptor, a file system that is read-only for a moment: the error of the system ended the device."""
    (tmp_path / "sync.lock").mkdir()
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        with trio.fail_after(5):
            await device.wait_until(lambda: "cannot lock the store" in device.status.reason)
        assert device.status.state is State.WAITING
        (tmp_path / "sync.lock").rmdir()
        with trio.fail_after(5):
            await (await peer.next()).welcome()
            await device.wait_until(lambda: device.status.state is State.READY)


async def test_who_waits_for_another_process_is_told_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer):
        await peer.next()
        async with device_at(tmp_path, peer) as second:
            with trio.fail_after(5):
                async for status in second.statuses():
                    if status.reason:
                        break
            assert status.state is State.WAITING
            assert "another process" in status.reason


async def test_a_store_that_cannot_be_read_for_a_while_ends_no_device(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer, online=False) as device:
        with monkeypatch.context() as patch:

            def failing(_store: Store) -> int:
                raise StoreError("disk I/O error")

            patch.setattr(Store, "data_version", failing)
            await trio.sleep(1)
        await trio.sleep(1)
        device.space(SPACE).commit([operation("create", "items", "a")])
        assert device.outbox_depth() == 1


def test_a_push_that_nobody_answers_is_never_due_in_the_past(tmp_path: Path) -> None:
    """The sender sleeps until something is due: a time that has passed and stays would make it spin."""
    store = Store(tmp_path, entropy=lambda size: bytes(size), durability="off")
    session = Session(lambda: bytes(8))
    welcome = m.Welcome(b"S" * 16, 0, "42", False, {}, 30_000, 1_000, {}, "peer", ())
    with store.transaction() as tx:
        replica.join(tx, SPACE)
        session.received(tx, welcome, 0, 0.0)
        subscribed = m.Subscribed(SPACE, EPOCH, 0, 0, "writer", "live")
        session.outgoing(tx, 0.0)
        session.received(tx, subscribed, 0, 0.0)
    with store.transaction() as tx:
        replica.commit(tx, SPACE, [operation("create", "c", "i")], nonce=bytes(8), now_ms=0, limits=m.Limits())
    session.look_at(SPACE)
    assert any(isinstance(message, m.Push) for message in session.outgoing(store, 0.0))
    session.state = SessionState.DRAINING
    for now_s in (PUSH_ANSWER_S, PUSH_ANSWER_S + 1):
        session.outgoing(store, now_s)
        assert session.next_due_s(now_s) > now_s
    store.close()
