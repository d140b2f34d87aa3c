"""What a device does when the server was put back to a backup: what it had seen, what it still has, what is lost."""

from __future__ import annotations

from pathlib import Path

from trio.testing import MockClock

from syncd.engine.grants import Role
from syncd.net.standing import Standing, subscribed
from syncd_client import messages as m
from syncd_client import operation, replica
from tests.clients import peer as p
from tests.clients.peer import EPOCH, SPACE, Peer
from tests.clients.test_device import device_at
from tests.clients.test_replica import stores

NEXT, LAST = b"F" * 16, b"G" * 16


def test_what_was_read_two_restores_ago_counts_up_to_the_older_fork() -> None:
    with stores() as reopened:
        store = reopened()
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 50, 0, "writer", "live"))
            replica.take_delta(tx, m.Delta(SPACE, EPOCH, 0, 0, 50, 0, b"C" * 8, (), True))
        read_at = replica.Position(EPOCH, 50)
        for epoch, fork, complete in ((NEXT, 30, 100), (LAST, 80, 90)):
            with store.transaction() as tx:
                replica.take_expired(tx, m.Expired(SPACE, epoch, fork, 0), lambda: b"N" * 8)
                row = replica.space_row(tx, SPACE)
                delta = m.Delta(SPACE, epoch, row.complete, row.complete, complete, 0, b"C" * 8, (), True)
                replica.take_delta(tx, delta)
        with store.transaction() as tx:
            change = (operation("delete", "c", "1"),)
            entry = replica.commit(tx, SPACE, change, nonce=b"n" * 8, now_ms=1, limits=m.Limits(), read_at=read_at)
        assert entry.base == 30, "31 to 50 of the first epoch were read, and those of the present one were not"


def test_a_role_that_changes_says_nothing_of_what_is_safe() -> None:
    """The head is in no backup: a device that took it for safe would let go of what only it has."""
    with stores() as reopened:
        store = reopened()
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 0, 0, "writer", "live"))
            change = (operation("create", "c", "1"),)
            entry = replica.commit(tx, SPACE, change, nonce=b"n" * 8, now_ms=1, limits=m.Limits())
            answer = m.OutcomeEntry(entry.n, entry.nonce, "applied", 1)
            replica.take_outcomes(tx, m.Outcomes(SPACE, EPOCH, (answer,)))
            replica.take_delta(tx, m.Delta(SPACE, EPOCH, 0, 0, 1, 0, b"C" * 8, (), True))
            assert [kept.nonce for kept in tx.kept(SPACE)] == [entry.nonce]
            told = subscribed(SPACE, EPOCH, Standing(Role.READER, 0, 1), is_live=True)
            replica.take_subscribed(
                tx, m.Subscribed(told.space, told.epoch, told.head, told.safe, told.role, told.mode)
            )
            assert [kept.nonce for kept in tx.kept(SPACE)] == [entry.nonce]
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 1, 1, "reader", "live"))
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 1, told.safe, "reader", "live"))
            assert (replica.space_row(tx, SPACE).safe, tx.kept(SPACE)) == (1, [])


def test_the_outcome_of_each_change_that_a_restore_lost_is_void() -> None:
    """One void gives up a range of numbers; each of them is told, but what was refused stays as it was told."""
    with stores() as reopened:
        store = reopened()
        nonces = [bytes([n]) * 8 for n in range(1, 5)]
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 0, 9, "writer", "live"))
            change = (operation("create", "c", "1"),)
            for nonce in nonces:
                replica.commit(tx, SPACE, change, nonce=nonce, now_ms=1, limits=m.Limits())
            told = [("applied", 1), ("noop", 2), ("gone", None), ("noop", 3)]
            answers = [m.OutcomeEntry(n, nonces[n - 1], *outcome) for n, outcome in enumerate(told, 1)]
            replica.take_outcomes(tx, m.Outcomes(SPACE, EPOCH, tuple(answers)))
            replica.take_delta(tx, m.Delta(SPACE, EPOCH, 0, 0, 3, 0, b"C" * 8, (), True))
        with store.transaction() as tx:
            replica.take_expired(tx, m.Expired(SPACE, NEXT, 1, 1), lambda: b"N" * 8)
            assert [(entry.n, entry.last_n) for entry in tx.unanswered(SPACE, 1, 9)] == [(2, 4)]
            voids = tuple(m.OutcomeEntry(n, b"N" * 8, "void") for n in (2, 3, 4))
            answered = replica.take_outcomes(tx, m.Outcomes(SPACE, NEXT, voids))
        assert [store.outcome_of(SPACE, nonce).outcome for nonce in nonces] == ["applied", "void", "gone", "void"]
        assert {row.nonce: row.outcome for row in answered.settled if row.nonce in nonces} == dict.fromkeys(
            (nonces[1], nonces[3]), "void"
        )
        assert store.outcome_of(SPACE, nonces[3]).detail == {"reason": "lost_in_restore"}


async def test_what_the_backup_has_and_was_never_answered_is_pushed_again_without_a_subscription(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        wire = await peer.next()
        await wire.welcome()
        space.create("items", "1")
        (first,) = (await wire.expect(p.PUSH))["changes"]
        await wire.outcomes([1, first[1], "applied", 1])
        change = space.create("items", "2")
        await wire.expect(p.PUSH)
        wire.hang_up(1012)
        wire = await peer.next()
        await wire.welcome()
        (second,) = (await wire.expect(p.PUSH))["changes"]
        await wire.say(p.EXPIRED, space=SPACE, epoch=NEXT, fork=2, highest=2)
        again = await wire.expect(p.PUSH)
        assert (again["epoch"], again["changes"][0][:2]) == (NEXT, second[:2])
        await wire.outcomes([2, second[1], "applied", 2], epoch=NEXT)
        assert (await change.outcome()).seq == 2


async def test_what_is_kept_of_a_space_that_is_not_subscribed_is_asked_after(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody tells of a restore one who does not listen: so its kept changes would never be pushed again."""
    peer = Peer()
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        wire = await peer.next()
        await wire.welcome()
        nonces = []
        for n in (1, 2):
            space.create("items", str(n))
            (change,) = (await wire.expect(p.PUSH))["changes"]
            nonces.append(change[1])
            await wire.outcomes([n, change[1], "applied", n])
            await device.wait_until(lambda n=n: space.row.settled == n)
        for epoch in (EPOCH, NEXT):
            wire.hang_up(1012)
            wire = await peer.next()
            await wire.welcome()
            again = await wire.expect(p.PUSH)
            assert (again["epoch"], [change[:2] for change in again["changes"]]) == (EPOCH, [[2, nonces[1]]])
            if epoch == EPOCH:
                await wire.outcomes([2, nonces[1], "applied", 2])
                continue
            await wire.say(p.EXPIRED, space=SPACE, epoch=NEXT, fork=0, highest=0)
            again = await wire.expect(p.PUSH)
            assert (again["epoch"], [change[:2] for change in again["changes"]]) == (
                NEXT, [[1, nonces[0]], [2, nonces[1]]],
            )  # fmt: skip
