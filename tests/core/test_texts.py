"""Texts: who has everything up to a seq, and is told what follows, has all updates once, in order, folded or not."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from syncd.core import texts
from tests.oracle.replica import grown

MERGING = texts.Merging(b"".join, 4, 1)
# How many updates each change has; a seq is the number of the change.
sizes = st.lists(st.integers(1, 3), min_size=1, max_size=30)


def history(sizes: list[int]) -> tuple[tuple[int, bytes], ...]:
    return tuple((seq, bytes([seq, i])) for seq, size in enumerate(sizes, 1) for i in range(size))


def joined(value: Any) -> bytes:
    return b"".join(update for _, update in value[1])


@given(sizes, st.data())
def test_what_one_lacks_is_told_however_much_is_folded(sizes: list[int], data: st.DataObject) -> None:
    updates, state, held, has = history(sizes), (0, ()), None, 0
    for seq in range(1, len(sizes) + 1):
        state = (state[0], (*state[1], *(each for each in updates if each[0] == seq)))
        if data.draw(st.booleans()):
            state = texts.folded(state, data.draw(st.integers(0, seq)), MERGING) or state
        assert texts.problem(state, seq) is None
        assert joined(texts.whole(state)) == b"".join(each for at, each in updates if at <= seq)
        if data.draw(st.booleans()):
            told_from = data.draw(st.integers(0, has))  # a delta may begin before what one has
            assert held is None or held[1][1][-1][0] >= texts.since(state, told_from)[0]
            held, has = grown(held, ["text", texts.since(state, told_from)]), seq
            assert joined(held[1]) == joined(texts.whole(state))
            assert held[1][1][-1][0] == seq, "the rev is told by the last update"


@given(sizes, st.integers(0, 40))
def test_nothing_above_the_head_and_no_part_of_a_change_is_folded(sizes: list[int], head: int) -> None:
    state = texts.folded((0, history(sizes)), head, MERGING)
    if state is not None:
        assert state[0] == state[1][0][0] <= head
        assert all(seq > state[0] for seq, _ in state[1][1:])


def test_what_cannot_be_merged_stays() -> None:
    def merge(updates: Any) -> bytes:
        raise ValueError("no update")

    assert texts.folded((0, history([1] * 9)), 9, texts.Merging(merge, 4, 1)) is None
    long = ((1, bytes(texts.FOLD_BYTES_MAX)), *((seq, b"x") for seq in range(2, 9)))
    assert texts.folded((0, long), 9, MERGING) is None
    longer = texts.Merging(lambda updates: bytes(sum(map(len, updates)) + 1), 4, 1)
    assert texts.folded((0, history([1] * 9)), 9, longer) is None, "a document is not made longer behind its limit"


def test_a_state_that_cannot_be_is_found() -> None:
    for state, rev in (((0, ()), 1), ((0, ((2, b""), (1, b""))), 1), ((0, ((1, b""),)), 2), ((3, ((1, b""),)), 1)):
        assert texts.problem(state, rev)
