"""Laws of the replica: however deltas arrive and whenever the process dies, the state is the server's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd_client import SpaceRow, StoreError, operation, replica
from syncd_client import messages as m
from syncd_client.replay import replayed
from syncd_client.store import SCHEMA_VERSION, Store
from syncd_client.sums import document_sum, sum_bytes

SPACE, EPOCH, CHAIN = "s", b"E" * 16, b"C" * 8
KEYS = [("c", "1"), ("c", "2"), ("d", "1")]


@contextmanager
def stores() -> Iterator[Any]:
    """Open stores on one new directory; each call closes the one before, as a restart does."""
    opened: list[Store] = []
    with tempfile.TemporaryDirectory() as directory:

        def reopened() -> Store:
            if opened:
                opened.pop().close()
            opened.append(Store(directory, entropy=os.urandom, durability="off"))
            return opened[0]

        try:
            yield reopened
        finally:
            opened.pop().close()


class History:
    """A space as a server has it: one alteration per seq, and the deltas that any stretch of it makes."""

    def __init__(self, steps: list[tuple[int, str, int]]) -> None:
        self.states: list[dict[Any, dict[str, Any]]] = [{}]  # seq -> key -> {born, rev, fields: name -> (rev, value)}
        self.gone: dict[Any, int] = {}
        for seq, (which, what, value) in enumerate(steps, 1):
            key = KEYS[which]
            state = {other: {**doc, "fields": dict(doc["fields"])} for other, doc in self.states[-1].items()}
            doc = state.get(key)
            if what == "delete":
                if state.pop(key, None):
                    self.gone[(key, seq)] = seq
            else:
                doc = state.setdefault(key, {"born": seq, "rev": seq, "fields": {}})
                doc["rev"] = seq
                doc["fields"][what] = (seq, None if value == 0 else ("reg", value))
            self.states.append(state)

    @property
    def head(self) -> int:
        return len(self.states) - 1

    def delta(self, complete: int, after: int, to: int, *, is_complete: bool, read_at: int) -> m.Delta:
        """The page (after, to] for a client at `complete`, read when the head was `read_at`."""
        now, docs = self.states[read_at], []
        for key, doc in now.items():
            if after < doc["rev"] <= to:
                is_reset = doc["born"] > complete
                fields = {
                    name: value
                    for name, (rev, value) in doc["fields"].items()
                    if (value is not None if is_reset else rev > complete)
                }
                docs.append(m.DocumentEntry(key[0], key[1], doc["rev"], m.RESET if is_reset else m.PATCH, fields))
        for key, seq in self.gone:
            if after < seq <= to and seq <= read_at and key not in now:
                docs.append(m.DocumentEntry(key[0], key[1], seq, m.DELETED, {}))
        docs.sort(key=lambda doc: doc.rev)
        total = sum_bytes(self.sum(to)) if is_complete and to == read_at else None
        return m.Delta(SPACE, EPOCH, complete, after, to, to, CHAIN, tuple(docs), is_complete or None, None, total)

    def visible(self, seq: int) -> dict[Any, tuple[int, dict[str, Any]]]:
        return {
            key: (doc["rev"], {name: value for name, (_rev, value) in doc["fields"].items() if value is not None})
            for key, doc in self.states[seq].items()
        }

    def sum(self, seq: int) -> int:
        return sum(document_sum(key[0], key[1], rev, fields) for key, (rev, fields) in self.visible(seq).items())


def synced(store: Store) -> dict[Any, tuple[int, dict[str, Any]]]:
    return {row.key: (row.rev, dict(row.fields)) for row in store.documents(SPACE)}


steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "delete"]), st.integers(0, 3)), min_size=1, max_size=14
)


@settings(max_examples=60, deadline=None)
@given(steps, st.data())
def test_any_pages_repeats_losses_and_crashes_lead_to_the_servers_state(steps: Any, data: st.DataObject) -> None:
    history = History(steps)
    with stores() as reopened:
        store = reopened()
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 0, 0, "writer", "live"))
        past: list[m.Delta] = []
        head = 0
        for _ in range(40):
            head = data.draw(st.integers(head, history.head))
            row = store.space(SPACE)
            assert row is not None
            action = data.draw(st.sampled_from(["page", "complete", "repeat", "skip", "crash"]))
            delta = None
            if action == "crash":
                store = reopened()
            elif action == "repeat" and past:
                delta = data.draw(st.sampled_from(past))
            elif action == "skip" and row.resume + 1 < head:
                # A live delta whose predecessors were lost.
                delta = history.delta(row.resume + 1, row.resume + 1, head, is_complete=True, read_at=head)
            elif action == "page" and row.resume < head:
                to = data.draw(st.integers(row.resume + 1, head))
                delta = history.delta(row.complete, row.resume, to, is_complete=False, read_at=head)
            elif action == "complete" and row.resume < head:
                delta = history.delta(row.complete, row.resume, head, is_complete=True, read_at=head)
            if delta is None:
                continue
            with store.transaction() as tx:
                result = replica.take_delta(tx, delta)
            after = store.space(SPACE)
            assert after is not None
            if result.what in ("ignored", "gap"):
                assert after == row
            assert result.what != "drift"
            assert action != "skip" or result.what == "gap"
            past.append(delta)
            assert synced(store) == history.visible(after.complete)
            assert after.sum == history.sum(after.complete) % 2**64
        row = store.space(SPACE)
        assert row is not None
        final = history.delta(row.complete, row.resume, history.head, is_complete=True, read_at=history.head)
        with store.transaction() as tx:
            replica.take_delta(tx, final)
        assert synced(reopened()) == history.visible(history.head)


field_operations = st.sampled_from(
    [
        operation("create", "c", "1"),
        operation("delete", "c", "1"),
        operation("reg.set", "c", "1", "a", {"x": [1]}),
        operation("reg.unset", "c", "1", "a"),
        operation("mv.set", "c", "1", "m", 1),
        operation("counter.inc", "c", "1", "n", 2),
        operation("max.put", "c", "1", "top", 3.5),
        operation("min.put", "c", "1", "low", -1),
        operation("set.add", "c", "1", "s", "b"),
        operation("set.add", "c", "1", "s", 7),
        operation("set.remove", "c", "1", "s", "b"),
        operation("flag.enable", "c", "1", "f"),
        operation("flag.disable", "c", "1", "f"),
        operation("map.put", "c", "1", "p", "k", 1),
        operation("map.drop", "c", "1", "p", "k"),
        operation("list.insert", "c", "1", "l", b"\x80element1", [1]),
        operation("list.insert", "c", "1", "l", b"\x80element2", "two"),
        operation("list.move", "c", "1", "l", b"\x90element1"),
        operation("list.remove", "c", "1", "l", b"element2"),
        operation("expect", "c", "1", "a"),
        operation("set.add", "c", "1", "a", 1),
    ]
)


@given(st.lists(field_operations, max_size=12), st.integers(0, 12))
def test_replay_goes_on_from_where_it_stood(operations: Any, at: int) -> None:
    whole = replayed(None, operations)
    assert replayed(replayed(None, operations[:at]), operations[at:]) == whole


@given(st.lists(field_operations, max_size=12))
def test_replay_shares_nothing_with_what_it_was_given(operations: Any) -> None:
    synced = {"a": ("reg", {"x": [1]}), "s": ("set", ["b"])}
    before = repr(synced)
    shown = replayed(synced, operations)
    for _type, value in (shown or {}).values():
        if isinstance(value, (list, dict)):
            value.clear()
    assert repr(synced) == before


def test_replay_does_what_the_names_say() -> None:
    shown = replayed(
        None,
        [
            operation("create", "c", "1"),
            operation("counter.inc", "c", "1", "n", 2),
            operation("counter.inc", "c", "1", "n", -5),
            operation("set.add", "c", "1", "s", "b"),
            operation("set.add", "c", "1", "s", 1.0),
            operation("set.add", "c", "1", "s", 1),
            operation("set.remove", "c", "1", "t", 1),
            operation("max.put", "c", "1", "top", 3),
            operation("max.put", "c", "1", "top", 2),
            operation("flag.disable", "c", "1", "f"),
            operation("map.put", "c", "1", "p", "z", 1),
            operation("map.put", "c", "1", "p", "a", 2),
            operation("mv.set", "c", "1", "m", 4),
            operation("list.insert", "c", "1", "l", b"\x80element1", 1),
            operation("list.insert", "c", "1", "l", b"\x80element2", 2),
            operation("list.insert", "c", "1", "l", b"\x90element3", 3),
            operation("list.insert", "c", "1", "l", b"\x20element3", "this name is taken: nothing happens"),
            operation("list.move", "c", "1", "l", b"\x40element3"),
            operation("list.move", "c", "1", "l", b"\x40element4"),
            operation("list.remove", "c", "1", "l", b"element1"),
            operation("unique", "c", "1", "n", "a key"),
            operation("reg.set", "c", "1", "n", "another type: nothing happens"),
            operation("reg.unset", "c", "1", "n"),
        ],
    )
    assert shown == {
        "n": ("counter", -3),
        "s": ("set", [1, "b"]),
        "t": ("set", []),
        "top": ("max", 3),
        "f": ("flag", False),
        "p": ("map", {"a": 2, "z": 1}),
        "m": ("mv", [4]),
        "l": ("list", [[b"\x40element3", 3], [b"\x80element2", 2]]),
    }


def committed(store: Store, count: int, *, now_ms: int = 10) -> list[Any]:
    with store.transaction() as tx:
        return [
            replica.commit(
                tx,
                SPACE,
                [operation("create", "c", f"{number}")],
                nonce=bytes([number] * 8),
                now_ms=now_ms,
                limits=m.Limits(),
            )
            for number in range(count)
        ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["commit", "apply", "refuse", "delta", "crash"]), max_size=25))
def test_settled_means_durable_and_nothing_unanswered_is_lost(actions: list[str]) -> None:
    """Invariant 1 of replica.py, over any interleaving of edits, outcomes, deltas and restarts."""
    with stores() as reopened:
        store = reopened()
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 0, 10**6, "writer", "live"))
        seq, complete, nonces, outcomes = 0, 0, dict[int, bytes](), dict[int, str]()
        for action in actions:
            row = replica.space_row(store, SPACE)
            if action == "commit":
                (entry,) = committed(store, 1)
                nonces[entry.n] = entry.nonce
            elif action in ("apply", "refuse") and len(outcomes) < len(nonces):
                n = len(outcomes) + 1
                seq += action == "apply"
                outcomes[n] = "applied" if action == "apply" else "gone"
                answer = m.OutcomeEntry(n, nonces[n], outcomes[n], seq if action == "apply" else None)
                with store.transaction() as tx:
                    replica.take_outcomes(tx, m.Outcomes(SPACE, EPOCH, (answer,)))
                    replica.take_outcomes(tx, m.Outcomes(SPACE, EPOCH, (answer,)))  # again: to no effect
            elif action == "delta" and seq > complete:
                with store.transaction() as tx:
                    replica.take_delta(tx, m.Delta(SPACE, EPOCH, complete, complete, seq, 0, CHAIN, (), True))
                complete = seq
            elif action == "crash":
                store = reopened()
            row = replica.space_row(store, SPACE)
            assert row.settled == len(outcomes)
            assert [entry.n for entry in store.unanswered(SPACE, 1, 100)] == list(range(row.settled + 1, row.next_n))
            shown = [entry for entry in store.outbox(SPACE) if entry.seq is not None]
            assert all(entry.seq > complete for entry in shown)
            assert {n: store.outcome(SPACE, n).outcome for n in outcomes} == outcomes


def test_a_void_fills_exactly_what_is_no_longer_held() -> None:
    with stores() as reopened:
        store = reopened()
        entries = committed(store, 6)
        with store.transaction() as tx:
            for entry in entries[:4]:
                answer = m.OutcomeEntry(entry.n, entry.nonce, "gone")
                replica.take_outcomes(tx, m.Outcomes(SPACE, EPOCH, (answer,)))
        with store.transaction() as tx:
            forked, _ = replica.take_expired(tx, m.Expired(SPACE, b"F" * 16, 0, 2), lambda: b"N" * 8)
        assert not forked
        row = replica.space_row(store, SPACE)
        offered = [replica.wire_change(entry) for entry in store.unanswered(SPACE, 1, 100)]
        assert offered[0] == m.Void(3, 4, b"N" * 8, "lost_in_restore")
        assert [change.n for change in offered] == [3, 5, 6]
        assert row.settled == 2
        with store.transaction() as tx:
            voided = m.OutcomeEntry(4, b"N" * 8, "void")
            replica.take_outcomes(tx, m.Outcomes(SPACE, b"F" * 16, (voided,)))
        assert replica.space_row(store, SPACE).settled == 4


def test_changes_are_kept_until_they_are_safe_and_offered_again_after_a_restore() -> None:
    with stores() as reopened:
        store = reopened()
        (entry,) = committed(store, 1)
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 0, 0, "writer", "live"))
            replica.take_outcomes(tx, m.Outcomes(SPACE, EPOCH, (m.OutcomeEntry(1, entry.nonce, "applied", 1),)))
            docs = (m.DocumentEntry("c", "0", 1, 1, {}),)
            replica.take_delta(tx, m.Delta(SPACE, EPOCH, 0, 0, 1, 0, CHAIN, docs, True))
        assert store.outbox(SPACE) == []
        with store.transaction() as tx:
            replica.take_expired(tx, m.Expired(SPACE, b"F" * 16, 0, 0), lambda: b"N" * 8)
        assert [(again.n, again.nonce) for again in store.unanswered(SPACE, 1, 9)] == [(1, entry.nonce)]
        assert replica.view(store, SPACE, ("c", "0"))[1] == {}


def test_an_outcome_with_another_nonce_or_of_a_change_never_made_is_a_fork() -> None:
    with stores() as reopened:
        store = reopened()
        committed(store, 1)
        for n, nonce in ((1, b"x" * 8), (2, b"y" * 8)):
            with store.transaction() as tx:
                answered = replica.take_outcomes(
                    tx, m.Outcomes(SPACE, EPOCH, (m.OutcomeEntry(n, nonce, "applied", 1),))
                )
            assert answered.forked == n
        assert len(store.unanswered(SPACE, 1, 9)) == 1


def test_a_stamp_never_falls_behind_the_clock_the_server_or_itself() -> None:
    with stores() as reopened:
        store = reopened()
        with store.transaction() as tx:
            tx.put_setting("offset_ms", 1_000)
        assert [entry.stamp_ms for entry in committed(store, 2, now_ms=500)] == [1_500, 1_500]
        assert [entry.stamp_ms for entry in committed(store, 1, now_ms=100)] == [1_500]


def test_a_base_of_another_epoch_counts_up_to_the_fork_only() -> None:
    with stores() as reopened:
        store = reopened()
        with store.transaction() as tx:
            row = SpaceRow(SPACE, epoch=EPOCH, complete=9, resume=9, fork=4)
            tx.put_space(row)
            entry = replica.commit(
                tx,
                SPACE,
                [operation("create", "c", "1")],
                nonce=b"n" * 8,
                now_ms=0,
                limits=m.Limits(),
                read_at=replica.Position(b"O" * 16, 7),
            )
        assert entry.base == 4


def test_a_transaction_that_fails_leaves_nothing() -> None:
    with stores() as reopened:
        store = reopened()
        with pytest.raises(RuntimeError), store.transaction() as tx:
            tx.put_setting("x", 1)
            raise RuntimeError
        assert reopened().setting("x") is None


def test_a_store_of_a_newer_version_or_of_something_else_is_refused(tmp_path: Any) -> None:
    store = Store(tmp_path, entropy=os.urandom, durability="off")
    store._db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    store.close()
    with pytest.raises(StoreError, match=f"schema version {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION}"):
        Store(tmp_path, entropy=os.urandom)
    (tmp_path / "replica.db").write_bytes(b"not a database, but long enough to look like a header of one")
    with pytest.raises(StoreError, match=r"cannot open the store|file is not a database"):
        Store(tmp_path, entropy=os.urandom)


def test_a_copy_without_its_installation_file_is_another_installation(tmp_path: Any) -> None:
    def opened() -> tuple[bytes, bytes]:
        store = Store(tmp_path, entropy=os.urandom, durability="off")
        try:
            return store.device, store.installation
        finally:
            store.close()

    device, installation = opened()
    assert opened() == (device, installation)
    (tmp_path / "installation").unlink()
    assert opened()[0] == device
    assert opened()[1] != installation


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_first_download_asked_for_with_less_is_not_taken_on_top_of_what_is_here(is_whole: bool) -> None:
    """It leaves out what was deleted up to its start, which may be among what came meanwhile."""
    with stores() as reopened:
        store = reopened()
        here = m.DocumentEntry("c", "1", 2, m.RESET, {})
        first = m.Delta(SPACE, EPOCH, 0, 0, 3 if is_whole else 2, 0, CHAIN, (here,), is_whole, 3)
        later = m.Delta(SPACE, EPOCH, 0, 0 if is_whole else 2, 5, 0, CHAIN, (), True, 5)  # c/1 was deleted as 4
        with store.transaction() as tx:
            replica.join(tx, SPACE)
            replica.take_subscribed(tx, m.Subscribed(SPACE, EPOCH, 3, 0, "writer", "live"))
            assert replica.take_delta(tx, first).what == ("applied" if is_whole else "staged")
            assert replica.take_delta(tx, later).what == "gap"
            assert replica.take_delta(tx, replace(later, start=3)).what == "applied"
