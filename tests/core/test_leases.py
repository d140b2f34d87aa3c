"""Laws of the bounded counter: units are conserved, nothing is negative, and what is leased is certain."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.leases import LEASES_MAX, Honoured, Moved, Refusal, book_of, is_held, lease_of, moved, value_of
from syncd.core.values import INTEGER_MAX, decoded, encoded

Action = tuple[str, tuple[Any, ...]]
IDS = tuple(bytes([number]) * 16 for number in range(1, 5))
CERTIFICATE = [IDS[0], 2, None, 7, bytes(16)]

ids = st.sampled_from(IDS)
counts = st.integers(1, 4)
slots = st.integers(1, 3)
honoured = st.builds(Honoured, ids, counts, st.none() | st.just(90))
named = ids | honoured
actions: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("restock"), st.tuples(st.integers(-5, 9).filter(bool))),
    st.tuples(st.just("lease"), st.tuples(ids, counts, st.none() | st.just(60))),
    st.tuples(st.just("take"), st.tuples(counts, named | st.none())),
    st.tuples(st.just("give"), st.tuples(named, counts)),
    st.tuples(st.just("refund"), st.tuples(counts)),
    st.tuples(st.just("end"), st.tuples(ids)),
)
histories = st.lists(st.tuples(slots, actions), max_size=30)


def done(state: Any, slot: int, action: str, *args: Any, seq: int = 1) -> Any:
    """The book after an action that must take effect."""
    result = moved(state, action, args, slot, seq, 30)
    assert isinstance(result, Moved), result
    return result.book


def refused(state: Any, slot: int, action: str, *args: Any) -> str:
    result = moved(state, action, args, slot, 1, 30)
    assert isinstance(result, Refusal), result
    assert result.reason
    return result.outcome


@given(histories)
def test_units_are_conserved_and_nothing_is_negative_whatever_happens(history: list[tuple[int, Action]]) -> None:
    state: Any = None
    total = 0
    for seq, (slot, (action, args)) in enumerate(history, 1):
        kept = encoded(state)
        result = moved(state, action, args, slot, seq, 30)
        assert encoded(state) == kept, "a book is never altered in place"
        if isinstance(result, Refusal):
            continue
        total += args[0] if action == "restock" else 0
        again = moved(None if state is None else decoded(kept), action, args, slot, seq, 30)
        assert isinstance(again, Moved) and encoded(again.book) == encoded(result.book), "one read from disk acts alike"
        state = result.book
        book = book_of(state)
        left = sum(lease.left for key in book.leases if (lease := lease_of(book, key)) is not None)
        assert book.total == total, "only a restock changes the total"
        assert book.reserve + left + book.taken == book.total + book.deficit
        assert min(book.total, book.reserve, book.taken, book.deficit, left) >= 0
        shown = value_of(state)
        assert shown["available"] + shown["leased"] + shown["taken"] == shown["total"] + shown.get("deficit", 0)


@given(histories)
def test_no_more_is_ever_sold_than_there_is_unless_a_lost_lease_is_honoured(history: list[tuple[int, Action]]) -> None:
    state: Any = None
    for slot, (action, args) in history:
        if any(isinstance(arg, Honoured) for arg in args):
            continue
        result = moved(state, action, args, slot, 1, 30)
        if isinstance(result, Moved):
            state = result.book
            book = book_of(state)
            assert book.taken <= book.total and not book.deficit


@given(
    st.lists(st.tuples(slots, actions).filter(lambda step: step[1][0] != "end"), max_size=12),
    st.lists(st.integers(1, 3), max_size=5),
    st.randoms(use_true_random=False),
)
def test_takes_within_a_lease_succeed_in_any_order_among_what_others_do(
    others: list[tuple[int, Action]], takes: list[int], random: Any
) -> None:
    """Slot 9 leased what it takes; the others do what they like, also naming its lease."""
    lease = bytes([9]) * 16
    steps: list[tuple[int, Action]] = [(9, ("take", (count, lease))) for count in takes]
    for slot, (action, args) in others:
        if args[0] == lease or (len(args) > 1 and args[1] == lease):
            continue
        steps.insert(random.randint(0, len(steps)), (slot, (action, args)))
    steps.insert(random.randint(0, len(steps)), (1, ("take", (1, lease))))
    state = done(done(None, 1, "restock", sum(takes) + 3), 9, "lease", lease, sum(takes) + 1, None)
    for slot, (action, args) in steps:
        result = moved(state, action, args, slot, 1, 30)
        assert slot != 9 or isinstance(result, Moved), "what was leased is certain"
        if isinstance(result, Moved):
            assert slot != 9 or not result.met
            state = result.book
    left = lease_of(book_of(state), lease)
    assert left is not None and left.left == 1 and is_held(state, 9, lease) and not is_held(state, 1, lease)


def test_each_action_moves_units_between_accounts() -> None:
    a, b = IDS[0], IDS[1]
    state = done(None, 1, "restock", 10)
    state = done(state, 1, "lease", a, 4, None)
    state = done(state, 2, "lease", b, 3, 60)
    assert value_of(state) == {"available": 3, "leased": 7, "taken": 0, "total": 10}
    assert lease_of(book_of(state), b) == (2, 3, 3, 90, False)
    state = done(state, 1, "take", 3, a)
    state = done(state, 1, "give", a, 1)
    assert a not in book_of(state).leases, "a lease that is used up is forgotten"
    state = done(state, 3, "take", 2, None)
    assert value_of(state) == {"available": 2, "leased": 3, "taken": 5, "total": 10}
    state = done(state, 1, "refund", 4)
    state = done(state, 1, "restock", -6)
    assert value_of(state) == {"available": 0, "leased": 3, "taken": 1, "total": 4}
    state = done(state, 0, "end", b, seq=8)
    assert value_of(state) == {"available": 3, "leased": 0, "taken": 1, "total": 4} and book_of(state).ended == 8


def test_what_is_not_there_is_refused_and_says_what_is() -> None:
    state = done(done(None, 1, "restock", 5), 1, "lease", IDS[0], 2, None)
    assert refused(state, 1, "take", 3, IDS[0]) == "precondition"
    assert refused(state, 1, "give", IDS[0], 3) == "precondition"
    assert refused(state, 1, "take", 4, None) == "precondition"
    assert refused(state, 1, "take", 4, IDS[1]) == "lease_expired"
    assert refused(state, 1, "lease", IDS[1], 4, None) == "precondition"
    assert refused(state, 2, "lease", IDS[0], 1, None) == "invalid"
    assert refused(state, 1, "refund", 1) == "precondition"
    assert refused(state, 1, "restock", -4) == "precondition"
    assert refused(state, 1, "restock", INTEGER_MAX) == "invalid"
    assert moved(state, "take", (4, None), 1, 1, 30) == ("precondition", "the reserve holds 3, not 4")


def test_a_take_after_the_end_of_its_lease_is_served_from_the_reserve_and_says_so() -> None:
    state = done(done(None, 1, "restock", 5), 1, "lease", IDS[0], 2, None)
    state = done(state, 0, "end", IDS[0], seq=7)
    assert moved(state, "take", (2, IDS[0]), 1, 9, 30).met == (("ended", 7),)  # type: ignore[union-attr]
    assert moved(state, "give", (IDS[0], 1), 1, 9, 30) == (state, ()), "it is in the reserve already"


@pytest.mark.parametrize("named", [IDS[0], CERTIFICATE])
def test_certainty_belongs_to_the_holder(named: Any) -> None:
    """A clone of the device under a new id sells from the reserve; the lease stays where it was taken."""
    state = done(done(None, 1, "restock", 3), 1, "lease", IDS[0], 2, None)
    result = moved(state, "take", (1, named), 2, 9, 30)
    assert isinstance(result, Moved) and result.met == (("ended", 0),)
    assert refused(result.book, 2, "take", 1, named) == "lease_expired"
    assert moved(result.book, "give", (named, 1), 2, 9, 30) == (result.book, ())
    assert value_of(done(result.book, 1, "take", 2, named))["taken"] == 3


def test_an_honoured_lease_takes_what_is_there_and_the_rest_is_a_deficit_that_is_paid_first() -> None:
    state = done(None, 1, "restock", 3)
    lease = Honoured(IDS[0], 5, None)
    state = done(state, 1, "take", 1, lease)
    assert value_of(state) == {"available": 0, "deficit": 2, "leased": 4, "taken": 1, "total": 3}
    state = done(state, 1, "take", 4, lease)
    assert refused(state, 1, "take", 1, lease) == "precondition", "no certificate is honoured twice"
    state = done(state, 1, "refund", 1)
    assert value_of(state) == {"available": 0, "deficit": 1, "leased": 0, "taken": 4, "total": 3}
    state = done(state, 1, "restock", 4)
    assert value_of(state) == {"available": 3, "leased": 0, "taken": 4, "total": 7}
    assert value_of(done(state, 0, "end", IDS[0])) == value_of(state)


def test_a_given_back_honoured_lease_returns_what_it_took() -> None:
    state = done(done(None, 1, "restock", 3), 1, "give", Honoured(IDS[0], 5, None), 5)
    assert value_of(state) == {"available": 3, "leased": 0, "taken": 0, "total": 3}


def test_leases_are_bounded_in_number() -> None:
    state = done(None, 1, "restock", 2 * LEASES_MAX)
    for number in range(LEASES_MAX):
        state = done(state, 1, "lease", number.to_bytes(16), 1, None)
    assert refused(state, 1, "lease", IDS[0], 1, None) == "too_large"
    state = done(state, 1, "take", 1, bytes(16))
    done(state, 1, "lease", IDS[0], 1, None)
