"""The tender looks at the clocks, and leases end when their time is over by both of them."""

import trio
from trio.testing import MockClock

from syncd.core.leases import LEASE_GRACE_MS
from syncd.engine.commands import Author, Post
from syncd.engine.grants import Grant, Role
from syncd.net.counters import Counters
from syncd.net.tending import TEND_S, LeaseTender
from tests.app.test_admin import Entropy
from tests.http.harness import Server

KEY = Author(b"k" * 16, None, "key", "key:shop", (Grant("**", Role.OWNER),))
WHERE = ["stock", "chair", "left"]


def leases(count: int, ttl_ms: int) -> Post:
    grants = [["bounded.lease", *WHERE, number.to_bytes(16), 1, ttl_ms] for number in range(count)]
    operations = [["create", *WHERE[:2]], ["bounded.restock", *WHERE, count], *grants]
    return Post(KEY, "shop", operations, None, None, None)


async def test_leases_end_within_a_look_of_their_grace(autojump_clock: MockClock) -> None:
    server, counters = Server(), Counters()
    began_s, began_ms = trio.current_time(), server.clock.now_ms()

    async def wait(seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            await trio.sleep(0.5)
            server.clock.ms = began_ms + int((trio.current_time() - began_s) * 1000)

    async with trio.open_nursery() as nursery:
        await nursery.start(server.committer.run)
        await server.committer.execute(leases(100, 60_000))
        nursery.start_soon(LeaseTender(server.committer, Entropy(), counters).run)
        await wait((60_000 + LEASE_GRACE_MS) / 1000 - 0.5)
        assert counters.leases_ended == 0
        batches = server.committer.stats().batches
        await wait(2 * TEND_S)
        assert counters.leases_ended == 100, "in two steps, one right behind the other"
        assert server.committer.stats().batches - batches <= 4
        assert counters.lease_clock_lag_ms == 0
        nursery.cancel_scope.cancel()


async def test_a_jump_of_the_wall_clock_shows_as_a_lag(autojump_clock: MockClock) -> None:
    server, counters = Server(), Counters()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.committer.run)
        await server.committer.execute(leases(1, 60_000))
        tender = LeaseTender(server.committer, Entropy(), counters)
        assert not await tender.look()
        server.clock.ms += 1_000_000
        assert not await tender.look()
        assert (counters.leases_ended, counters.lease_clock_lag_ms) == (0, 1_000_000)
        nursery.cancel_scope.cancel()


async def test_an_idle_store_is_looked_at_and_not_written(autojump_clock: MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.committer.run)
        tender = LeaseTender(server.committer, Entropy(), Counters())
        assert not await tender.look()  # the first makes the key of certificates, so that every backup has one
        before = server.store.image()
        for _ in range(3):
            assert not await tender.look()
        assert server.store.image() == before
        server.committer.close()
    assert not await LeaseTender(server.committer, Entropy(), Counters()).look(), "one that is closing is left alone"
