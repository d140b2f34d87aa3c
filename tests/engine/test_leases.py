"""Leases through the engine: who is told of them, and what ends them."""

from collections.abc import Iterator
from random import Random

import pytest

from syncd.core.leases import LEASE_GRACE_MS, LEASE_TTL_MS_MAX, LEASES_MAX
from syncd.core.schemas import Schema, Step
from syncd.engine import leases
from syncd.engine.batch import Batch, space_row
from syncd.engine.commands import (
    ConfirmLeaseClock,
    Done,
    EndLease,
    Post,
    Posted,
    Pushed,
    Refused,
    Tended,
    TendLeases,
)
from syncd.engine.epochs import renewed
from syncd.engine.grants import Grant, Role
from syncd.engine.reclaiming import ENDED_AT_ONCE, RELEASED_AT_ONCE, tended
from syncd.engine.schemas import Schemas
from syncd.store.api import Writer
from tests.engine.kit import SPACE, Daemon, api_key, device, one, raw
from tests.engine.shop import ANN, BEN, RUN, TTL, WHERE, L, M, Shop, op


def test_the_holder_is_told_its_lease_and_everyone_else_sees_sums() -> None:
    shop = Shop()
    certificate = shop.lease(ANN, L, 4)
    assert certificate[:4] == [L, 4, None, shop.daemon.head()] and len(certificate[4]) == 16
    (entry,) = shop.daemon.deltas[-1].docs
    assert entry.fields == {"left": ["bounded", {"available": 6, "leased": 4, "taken": 0, "total": 10}]}
    assert shop.outcome(ANN, op("take", 3, certificate)) == "applied"
    assert shop.leases() == {L: 1}
    assert shop.outcome(ANN, op("give", certificate, 1)) == "applied"
    assert shop.leases() == {} and shop.value() == {"available": 7, "leased": 0, "taken": 3, "total": 10}
    shop.check()


def test_a_lost_answer_is_told_again_and_leases_nothing_twice() -> None:
    shop = Shop()
    first = shop.do(ANN, op("lease", L, 4, TTL))
    again = shop.daemon.push(ANN, raw(2, op("lease", L, 4, TTL), base=1)).outcomes[0]
    assert again == first and shop.value()["leased"] == 4
    shop.check()


def test_a_lease_that_is_used_up_in_the_same_change_leaves_nothing() -> None:
    shop = Shop()
    entry = shop.do(ANN, op("lease", L, 4, TTL), op("take", 4, L))
    assert (entry.outcome, entry.detail) == ("applied", None)
    assert shop.leases() == {} and shop.value()["taken"] == 4
    shop.check()


def test_a_document_with_leases_is_not_deleted() -> None:
    shop = Shop()
    shop.lease(ANN, L, 4)
    assert shop.outcome(BEN, ["delete", *WHERE[:2]]) == "precondition"
    assert shop.outcome(ANN, op("give", L, 4), ["delete", *WHERE[:2]]) == "applied"
    shop.check()


def test_only_the_server_ends_a_lease_that_is_not_its_own() -> None:
    shop = Shop()
    shop.lease(ANN, L, 4)
    assert shop.outcome(ANN, op("end", L)) == "forbidden"
    end = EndLease(SPACE, *WHERE, L)
    assert shop.daemon.ask(end) == Done()
    assert shop.value()["available"] == 10 and shop.leases() == {}
    assert one(shop.daemon.ask(end), Refused).reason == "unknown"
    entry = shop.do(ANN, op("take", 1, L))
    assert entry.outcome == "merged" and entry.detail == {"met": [[0, "ended", shop.daemon.head() - 1]]}
    assert shop.outcome(ANN, op("take", 10, L)) == "lease_expired"
    shop.check()


def test_a_backend_leases_as_one_holder_whichever_of_its_workers_asks() -> None:
    shop = Shop()
    granted = one(shop.daemon.ask(Post(api_key(), SPACE, [op("lease", L, 2, TTL)], None, None, None)), Posted)
    assert granted.detail is not None and granted.detail["leases"][0][:2] == [L, 2]
    taken = one(shop.daemon.ask(Post(api_key(), SPACE, [op("take", 2, L)], None, None, None)), Posted)
    assert taken.outcome == "applied" and taken.detail is None
    shop.check()


def test_a_clone_takes_nothing_of_the_lease_under_either_id() -> None:
    shop = Shop(stock=4)
    certificate = shop.lease(ANN, L, 4)
    clone = device(1, installation=9)
    answer = shop.daemon.push(clone, raw(3, op("take", 2, certificate), base=2, salt=5))
    assert answer.forked == 3 and not answer.outcomes
    # Under a new id it sells from the reserve, of which there is none; and the lease is where it was.
    anew = device(7)
    assert shop.outcome(anew, op("take", 2, certificate)) == "lease_expired"
    assert shop.outcome(anew, op("give", certificate, 2)) == "noop"
    assert shop.outcome(ANN, op("take", 4, certificate)) == "applied"
    shop.check()


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_lease_with_a_ttl_ends_at_its_grace_and_not_a_millisecond_before() -> None:
    shop = Shop()
    until = shop.lease(ANN, L, 4, TTL)[2]
    shop.lease(BEN, M, 2)
    assert until == shop.daemon.now_ms + TTL
    shop.tend()
    assert shop.wait(TTL).ended == 0
    assert shop.outcome(ANN, op("take", 1, L)) == "applied", "a take on its way is in time"
    assert shop.wait(LEASE_GRACE_MS - 1).ended == 0
    assert shop.wait(1) == Tended(1, 0, False)
    assert shop.leases() == {M: 2} and shop.value()["available"] == 7
    assert shop.outcome(ANN, op("take", 1, L)) == "merged"
    assert shop.wait(10 * TTL) == Tended(0, None, False), "a strict one does not end"
    shop.check()


@pytest.mark.parametrize("jump_ms", [LEASE_GRACE_MS + TTL, 10 * 365 * 86_400_000])
def test_a_jump_forward_of_the_wall_clock_ends_nothing_until_it_is_confirmed(jump_ms: int) -> None:
    shop = Shop()
    shop.lease(ANN, L, 4, TTL)
    shop.tend()
    shop.daemon.now_ms += jump_ms
    assert shop.tend() == Tended(0, jump_ms, False)
    assert shop.wait(TTL).ended == 0
    assert shop.daemon.ask(ConfirmLeaseClock()) == Done()
    assert shop.tend().ended == 1
    shop.check()


def test_without_confirmation_as_much_time_must_pass_as_was_promised() -> None:
    shop = Shop()
    shop.lease(ANN, L, 4, TTL)
    shop.tend()
    shop.daemon.now_ms += 100 * TTL
    assert shop.wait(TTL + LEASE_GRACE_MS - 1).ended == 0
    assert shop.wait(1).ended == 1


def test_time_that_the_process_was_down_does_not_count() -> None:
    shop = Shop()
    shop.lease(ANN, L, 4, TTL)
    shop.tend()
    assert shop.wait(TTL, run=b"another process!").ended == 0
    assert shop.wait(LEASE_GRACE_MS + 1, run=b"another process!").lag_ms == TTL
    assert shop.wait(TTL - 1, run=b"another process!").ended == 1


def test_after_a_jump_back_the_wall_clock_must_come_to_the_end_too() -> None:
    """Who shook hands while the clock was wrong believes in it."""
    shop = Shop()
    shop.lease(ANN, L, 4, TTL)
    shop.tend()
    shop.daemon.now_ms -= 500
    assert shop.wait(TTL + LEASE_GRACE_MS).ended == 0
    shop.daemon.now_ms += 500
    assert shop.tend().ended == 0, "nor does the way back count"
    assert shop.wait(500).ended == 1


def test_a_clock_that_is_set_back_and_forth_between_two_looks_ends_nothing_early() -> None:
    shop = Shop()
    shop.lease(BEN, M, 1, TTL)
    shop.tend()
    shop.daemon.now_ms += TTL
    shop.mono_ms += TTL
    shop.tend()
    shop.daemon.now_ms -= TTL
    shop.lease(ANN, L, 4, 60_000)
    shop.daemon.now_ms += TTL
    assert shop.tend().ended == 0
    assert shop.wait(60_000 + LEASE_GRACE_MS).ended == 1


def test_a_lease_granted_after_a_wrong_clock_was_set_back_ends_by_the_right_one() -> None:
    shop = Shop()
    shop.daemon.now_ms += 86_400_000
    assert shop.outcome(ANN, op("restock", 1)) == "applied"
    shop.daemon.now_ms -= 86_400_000
    assert shop.lease(ANN, L, 4, TTL)[2] == shop.daemon.now_ms + TTL
    shop.tend()
    assert shop.wait(TTL + LEASE_GRACE_MS).ended == 1


def test_with_nothing_to_wait_for_the_past_is_forgotten() -> None:
    shop = Shop()
    shop.lease(ANN, L, 4, TTL)
    shop.tend()
    shop.daemon.now_ms += 9 * TTL
    assert shop.outcome(ANN, op("take", 4, L)) == "applied"
    assert shop.tend().lag_ms is None
    shop.lease(ANN, M, 1, TTL)
    assert shop.wait(TTL + LEASE_GRACE_MS) == Tended(0, TTL + LEASE_GRACE_MS, False), "counted from the first look"
    assert shop.wait(TTL + LEASE_GRACE_MS) == Tended(1, TTL + LEASE_GRACE_MS, False)
    assert shop.tend().lag_ms is None


def test_a_look_ends_a_bounded_number() -> None:
    shop = Shop(stock=2 * LEASES_MAX)
    count = ENDED_AT_ONCE + 5
    for number in range(count):
        shop.lease(ANN, number.to_bytes(16), 1, TTL)
    shop.tend()
    assert shop.wait(2 * TTL) == Tended(ENDED_AT_ONCE, 0, True)
    assert shop.tend() == Tended(5, 0, False)
    shop.check()


def test_what_ended_in_the_same_batch_is_ended_once() -> None:
    shop = Shop()
    shop.lease(ANN, L, 4, TTL)
    shop.wait(2 * TTL)
    shop.lease(ANN, M, 4, TTL)
    shop.tend()
    shop.daemon.now_ms += 2 * TTL
    shop.mono_ms += 2 * TTL
    decision = shop.daemon.decide(EndLease(SPACE, *WHERE, M), TendLeases(RUN, shop.mono_ms), EndLease(SPACE, *WHERE, M))
    assert decision.results[0] == Done() and isinstance(decision.results[2], Refused)
    assert shop.value() == {"available": 10, "leased": 0, "taken": 0, "total": 10}
    shop.check()


def test_random_histories_leave_books_that_add_up_and_indexes_that_agree() -> None:
    for seed in range(12):
        _random_history(Random(seed))


def _random_history(random: Random) -> None:
    shop = Shop(seed=random.randrange(99), stock=random.randint(3, 30))
    authors = [ANN, BEN, device(3), device(4)]
    ids = [bytes([number]) * 16 for number in range(8)]
    for _ in range(80):
        author, lease, k = random.choice(authors), random.choice(ids), random.randint(1, 3)
        roll = random.random()
        if roll < 0.3:
            shop.do(author, op("lease", lease, k, random.choice((None, 1000, 60_000))))
        elif roll < 0.6:
            shop.do(author, op("take", k, random.choice((lease, lease, None))))
        elif roll < 0.7:
            shop.do(author, op("give", lease, k), op("refund", 1))
        elif roll < 0.8:
            shop.do(author, op("restock", random.choice((2, -2))))
        elif roll < 0.85:
            shop.daemon.ask(EndLease(SPACE, *WHERE, lease))
        else:
            jump = random.choice((0, 0, 0, 90_000, -90_000))
            shop.daemon.now_ms = max(1, shop.daemon.now_ms + jump)
            shop.wait(random.choice((0, 500, 40_000)), run=random.choice((RUN, b"r" * 16)))
        value = shop.value()
        assert value["available"] + value["leased"] + value["taken"] == value["total"] and "deficit" not in value
        assert sum(shop.leases().values()) == value["leased"]
    shop.check()


def test_the_answers_of_pushes_are_pushes() -> None:
    """The kit's own: a refused change still is an outcome of a push that was taken."""
    shop = Shop()
    result = shop.daemon.push_result(ANN, raw(2, op("take", 99, None), base=1))
    assert isinstance(result, Pushed) and result.outcomes[0].outcome == "precondition"
    with shop.daemon.store.read() as tx:
        row = space_row(tx, SPACE)
        assert row is not None and row.letter_next == 1, "what is refused is kept"


def test_what_is_done_by_a_lease_is_done_where_it_is_whatever_the_schema_calls_the_field_since() -> None:
    """A certain take was `lease_expired`: it was looked for under the new name, and documents are not rewritten."""
    shop, everywhere = Shop(), Grant("**", Role.OWNER)
    step = Step(2, {"left": "units"}, {})
    first, second = Schema("stock", "stock", 1), Schema("stock", "stock", 2, steps=(step,))
    shop.daemon.engine.schemas = Schemas([(everywhere, first)])
    certificate, other = shop.lease(ANN, L, 4), shop.lease(BEN, M, 2)
    shop.daemon.engine.schemas = Schemas([(everywhere, second)])
    old = {"schema": 1}
    assert shop.outcome(ANN, [*op("take", 1, certificate), old]) == "applied"
    assert shop.outcome(ANN, [*op("take", 1, L), old]) == "applied"
    assert shop.outcome(ANN, [*op("give", certificate, 2), old]) == "applied"
    assert shop.value() == {"available": 6, "leased": 2, "taken": 2, "total": 10}
    units = ["bounded.restock", *WHERE[:2], "units", 5]
    assert shop.outcome(BEN, units) == "applied"
    assert shop.outcome(BEN, [*op("take", 2, other), old]) == "applied", "also where there is a field of the new name"
    assert shop.outcome(BEN, [*op("take", 3, None), old]) == "applied", "without a lease it is the new one"
    assert shop.value() == {"available": 6, "leased": 0, "taken": 4, "total": 10}
    granted = shop.do(ANN, [*op("lease", b"n" * 16, 1, None), old]).detail or {}
    assert shop.outcome(ANN, [*op("take", 1, granted["leases"][0]), old]) == "applied", "this one is under the new name"
    shop.check()


def test_a_look_reads_and_releases_a_bounded_number_of_frozen_spaces() -> None:
    daemon, count = Daemon(), RELEASED_AT_ONCE + 50
    for number in range(count):
        daemon.attach(ANN, f"a/{number}")
    with daemon.store.write() as tx:
        assert renewed(tx, Random(0).randbytes, daemon.now_ms, b"", 10 * count)[0] == count
    look = TendLeases(RUN, 0)

    def rows_read() -> int:
        with daemon.store.write() as tx:
            counting = Counting(tx)
            tended(Batch(counting, daemon.now_ms, Random(0).randbytes), look)
            return counting.rows

    assert rows_read() < 20, "while nothing is over"
    daemon.now_ms += LEASE_TTL_MS_MAX + LEASE_GRACE_MS
    daemon.ask(look)
    daemon.ask(ConfirmLeaseClock())
    assert [one(daemon.ask(look), Tended).has_more for _ in range(2)] == [True, False]
    with daemon.store.read() as tx:
        assert not any(leases.frozen(tx, number) for number in range(1, count + 1))


class Counting:
    """A transaction of which the rows are counted that are read."""

    def __init__(self, tx: Writer) -> None:
        self._tx, self.rows = tx, 0

    def get(self, key: bytes) -> bytes | None:
        self.rows += 1
        return self._tx.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        for item in self._tx.scan(start, stop):
            self.rows += 1
            yield item

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        return self._tx.last(start, stop)

    def put(self, key: bytes, value: bytes) -> None:
        self._tx.put(key, value)

    def delete(self, key: bytes) -> bool:
        return self._tx.delete(key)
