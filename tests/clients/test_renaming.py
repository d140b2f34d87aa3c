"""A device that must change its id loses nothing, repeats nothing, and knows what it did before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd_client import messages as m
from syncd_client import operation, renaming, replica
from syncd_client.messages import Former
from syncd_client.store import Store
from tests.clients.test_replica import CHAIN, EPOCH, SPACE, stores

NEW = bytes(range(16))


def commit(store: Any, number: int, *, space: str = SPACE) -> Any:
    with store.transaction() as tx:
        return replica.commit(
            tx, space, [operation("counter.inc", "c", "1", "f", number)], nonce=number.to_bytes(8), now_ms=5,
            limits=m.Limits(),
        )  # fmt: skip


def answer(store: Any, *entries: m.OutcomeEntry, forked: int | None = None, space: str = SPACE) -> None:
    with store.transaction() as tx:
        replica.take_outcomes(tx, m.Outcomes(space, EPOCH, entries, None, forked))


def outcome(number: int, n: int, seq: int | None) -> m.OutcomeEntry:
    return m.OutcomeEntry(n, number.to_bytes(8), "applied" if seq else "gone", seq)


def rename(store: Any, device: bytes = NEW) -> None:
    with store.transaction() as tx:
        assert renaming.is_done(tx)
        renaming.rename(tx, device)


def sent(store: Any, space: str = SPACE) -> list[m.Change | m.Void]:
    return [replica.wire_change(entry) for entry in store.unanswered(space, 1, 99)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path, entropy=lambda size: b"o" * size, durability="off")
    with made.transaction() as tx:
        replica.join(tx, SPACE)
        replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 0, 0, "writer", "live"))
    yield made
    made.close()


def test_only_what_was_not_taken_is_made_anew_and_has_seen_the_rest(store: Store) -> None:
    old = store.device
    for number in (1, 2, 3, 4):
        commit(store, number)
    answer(store, outcome(1, 1, 7), outcome(2, 2, None), forked=3)
    rename(store)
    context = (Former(old, 2, 7),)
    assert [(c.n, c.nonce, c.context) for c in sent(store) if isinstance(c, m.Change)] == [
        (1, (3).to_bytes(8), context), (2, (4).to_bytes(8), context),
    ]  # fmt: skip
    assert commit(store, 5).context == context, "what comes later has seen it, too, while its base does not say so"
    assert [entry.n for entry in store.outbox(SPACE)] == [0, 1, 2, 3]
    assert store.refused(SPACE)[0].n < 0
    with store.transaction() as tx:
        replica.take_delta(tx, m.Delta(SPACE, EPOCH, 0, 0, 7, 0, CHAIN, (), True))
    assert [entry.n for entry in store.outbox(SPACE)] == [1, 2, 3], "what had its outcome leaves with its delta"
    assert commit(store, 6).context == ()


def test_each_space_offers_what_it_holds_before_the_id_goes(store: Store) -> None:
    commit(store, 1)
    commit(store, 2, space="t")
    answer(store, forked=1)
    late = commit(store, 3, space="t")
    with store.transaction() as tx:
        row = tx.space("t")
        assert row is not None
        assert not renaming.is_done(tx), "nobody knows yet what the server has of the other space"
        assert [renaming.sends(row, n, leaving=True) for n in (1, late.n)] == [True, False]
    answer(store, outcome(2, 1, 4), space="t")
    rename(store)
    (again,) = sent(store, "t")
    assert (again.n, again.nonce) == (1, late.nonce)
    assert store.outcome_of("t", (2).to_bytes(8)) is not None


def test_what_another_replica_left_between_is_not_claimed_to_be_seen(store: Store) -> None:
    """A push behind the one that forked may still be taken: what lies before it is another's."""
    old = store.device
    for number in (1, 2, 3):
        commit(store, number)
    answer(store, outcome(1, 1, 5), forked=2)
    answer(store, outcome(3, 3, 9))
    rename(store)
    (again,) = sent(store)
    assert isinstance(again, m.Change)
    assert (again.nonce, again.context) == ((2).to_bytes(8), (Former(old, 1, 5),))


def test_what_the_other_copy_sent_for_both_is_seen(store: Store) -> None:
    """A copy that was refused hears later that its changes are recorded: the other holds the same, and sent them."""
    old = store.device
    for number in (1, 2, 3):
        commit(store, number)
    answer(store, outcome(1, 1, 5), forked=2)
    answer(store, outcome(2, 2, 9), outcome(3, 3, 11))
    rename(store)
    assert commit(store, 4).context == (Former(old, 3, 11),)


def test_a_context_is_cut_where_a_restored_server_lost_it(store: Store) -> None:
    commit(store, 1)
    commit(store, 2)
    answer(store, outcome(1, 1, 7), forked=2)
    rename(store)
    with store.transaction() as tx:
        replica.take_expired(tx, m.Expired(SPACE, b"F" * 16, 3, 0), lambda: b"v" * 8)
    changes = sent(store)
    assert [c.nonce for c in changes] == [(1).to_bytes(8), (2).to_bytes(8)], "what was lost comes first"
    assert [c.context[0].seq for c in changes if isinstance(c, m.Change) and c.context] == [3]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(("commit", "answer", "refuse", "fork", "crash", "deliver")), max_size=30),
)
def test_every_change_is_sent_until_it_ended_and_never_again(actions: list[str]) -> None:
    """Against a server that remembers by nonce: whatever the order, each change ends once, in order."""
    with stores() as reopened:
        store = reopened()
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 0, 0, "writer", "live"))
        number, seq, renames = 0, 0, 0
        ended: list[int] = []
        for action in actions:
            waiting = store.unanswered(SPACE, 1, 99)
            if action == "commit":
                number += 1
                commit(store, number)
            elif action == "crash":
                store = reopened()
            elif action == "deliver" and seq:
                with store.transaction() as tx:
                    row = replica.space_row(tx, SPACE)
                    replica.take_delta(tx, m.Delta(SPACE, EPOCH, row.complete, row.complete, seq, 0, CHAIN, (), True))
            elif action == "fork":
                n = waiting[0].n if waiting else replica.space_row(store, SPACE).next_n
                answer(store, forked=n)
                renames += 1
                rename(store, renames.to_bytes(16))
            elif waiting and action in ("answer", "refuse"):
                ended.append(int.from_bytes(waiting[0].nonce))
                seq += action == "answer"
                answer(store, outcome(ended[-1], waiting[0].n, seq if action == "answer" else None))
            rest = [int.from_bytes(entry.nonce) for entry in store.unanswered(SPACE, 1, 99)]
            assert ended + rest == list(range(1, number + 1)), "nothing lost, nothing twice, all in order"
            row = replica.space_row(store, SPACE)
            assert [entry.n for entry in store.unanswered(SPACE, 1, 99)] == list(range(row.settled + 1, row.next_n))
