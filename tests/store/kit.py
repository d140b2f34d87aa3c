"""The acceptance kit of `api.Store`: what every store must do, whatever it is made of.

A store under test is described by a `Subject`: how to open it with some room, and how to open it again with what was
committed. `StoreMachine` compares any interleaving of calls with a dict.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncd.store.api import Reader, Store, StoreFull, Writer


class Subject(Protocol):
    def opened(self, limit_bytes: int, limit_bytes_max: int) -> Store: ...

    def reopened(self, store: Store) -> Store:
        """The store as a machine finds it that was switched off while `store` was open, or closed it."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """Sizes at which a kind of store starts and ends; `chunk_bytes`: of a value that soon fills it."""

    limit_bytes: int = 1 << 20
    limit_bytes_max: int = 1 << 22
    chunk_bytes: int = 50_000


class Deliberate(Exception):
    """Raised by tests inside a transaction."""


def rows(store: Store, start: bytes = b"k", stop: bytes = b"l") -> dict[bytes, bytes]:
    with store.read() as tx:
        return dict(tx.scan(start, stop))


class StoreKit:
    """Subclass it, and give it a fixture `subject`."""

    room = Room()

    @pytest.fixture
    def store(self, subject: Subject) -> Any:
        store = subject.opened(self.room.limit_bytes, self.room.limit_bytes_max)
        yield store
        store.close()

    def test_a_commit_is_seen_by_later_transactions(self, store: Store) -> None:
        with store.write() as tx:
            tx.put(b"k1", b"one")
            assert tx.get(b"k1") == b"one"
        with store.read() as reader:
            assert reader.get(b"k1") == b"one"
            assert reader.get(b"k2") is None

    def test_a_transaction_that_raises_leaves_nothing(self, store: Store) -> None:
        with store.write() as tx:
            tx.put(b"k1", b"one")
        with pytest.raises(Deliberate), store.write() as tx:
            tx.put(b"k1", b"two")
            tx.put(b"k2", b"two")
            raise Deliberate
        assert rows(store) == {b"k1": b"one"}

    def test_what_was_committed_is_there_after_a_restart_and_nothing_else(self, store: Store, subject: Subject) -> None:
        with store.write() as tx:
            tx.put(b"k1", b"one")
        with pytest.raises(Deliberate), store.write() as tx:
            tx.put(b"k2", b"two")
            raise Deliberate
        again = subject.reopened(store)
        try:
            assert rows(again) == {b"k1": b"one"}
        finally:
            again.close()

    def test_scans_ascend_by_bytes_and_keep_to_their_bounds(self, store: Store) -> None:
        keys = [b"k", b"k\0", b"k\0\0", b"k\x01", b"ka", b"kaa", b"k\xff", b"k\xff\xff", b"l", b"j\xff"]
        with store.write() as tx:
            for key in keys:
                tx.put(key, key * 2)
            expected = [(key, key * 2) for key in sorted(keys) if b"k\0" <= key < b"l"]
            assert list(tx.scan(b"k\0", b"l")) == expected
        with store.read() as reader:
            assert list(reader.scan(b"k\0", b"l")) == expected
            assert list(reader.scan(b"m", b"z")) == []
            assert list(reader.scan(b"l", b"k")) == []

    def test_a_scan_may_be_left_in_the_middle(self, store: Store) -> None:
        with store.write() as tx:
            for n in range(100):
                tx.put(b"k%03d" % n, b"")
            assert next(iter(tx.scan(b"k", b"l"))) == (b"k000", b"")
            tx.delete(b"k000")
            assert next(iter(tx.scan(b"k", b"l"))) == (b"k001", b"")

    @pytest.mark.parametrize(
        ("start", "stop", "expected"),
        [
            (b"k", b"l", b"k5"),
            (b"k", b"k5", b"k3"),
            (b"k3", b"k4", b"k3"),
            (b"k4", b"k5", None),
            (b"k", b"k1", None),
            (b"a", b"z", b"m"),
            (b"a", b"k", None),
        ],
    )
    def test_last_is_the_greatest_key_inside_the_bounds(
        self, store: Store, start: bytes, stop: bytes, expected: bytes | None
    ) -> None:
        wanted = None if expected is None else (expected, b"v")
        with store.write() as tx:
            for key in (b"k1", b"k3", b"k5", b"m"):
                tx.put(key, b"v")
            assert tx.last(start, stop) == wanted
        with store.read() as reader:
            assert reader.last(start, stop) == wanted

    def test_nothing_is_last_in_an_empty_range_at_the_end_of_the_store(self, store: Store) -> None:
        with store.read() as reader:
            assert reader.last(b"\xfe", b"\xff") is None
            assert reader.get(b"\xfe") is None

    def test_delete_tells_whether_there_was_something(self, store: Store) -> None:
        with store.write() as tx:
            tx.put(b"k1", b"")
            assert tx.delete(b"k1")
            assert not tx.delete(b"k1")
            assert tx.get(b"k1") is None
        assert rows(store) == {}

    def test_keys_of_511_bytes_and_empty_values_are_kept(self, store: Store) -> None:
        with store.write() as tx:
            tx.put(b"k" * 511, b"")
            tx.put(b"k", b"v" * 40_000)
        assert rows(store) == {b"k" * 511: b"", b"k": b"v" * 40_000}

    def test_a_full_store_refuses_with_nothing_applied_and_reads_go_on(self, store: Store) -> None:
        with store.write() as tx:
            tx.put(b"k1", b"one")
        with pytest.raises(StoreFull):
            self.fill(store)
        assert rows(store) == {b"k1": b"one"}
        with store.write() as tx:
            tx.put(b"k2", b"two")
        assert rows(store) == {b"k1": b"one", b"k2": b"two"}

    def test_a_full_store_grows_and_then_takes_what_it_refused(self, store: Store) -> None:
        with pytest.raises(StoreFull):
            self.fill(store)
        before = store.usage().limit_bytes
        assert store.grow()
        assert store.usage().limit_bytes > before
        self.fill(store, self.room.limit_bytes)
        assert len(rows(store)) == self.room.limit_bytes // self.room.chunk_bytes

    def test_growth_ends_at_the_maximum(self, store: Store) -> None:
        steps = 0
        while store.grow():
            steps += 1
        assert store.usage().limit_bytes == self.room.limit_bytes_max
        assert steps == 2

    def test_usage_follows_what_is_stored(self, store: Store) -> None:
        empty = store.usage().used_bytes
        with store.write() as tx:
            for n in range(10):
                tx.put(b"k%d" % n, bytes(10_000))
        full = store.usage().used_bytes
        assert full - empty >= 100_000
        with store.write() as tx:
            for n in range(10):
                tx.delete(b"k%d" % n)
        assert store.usage().used_bytes <= empty + 4096

    def fill(self, store: Store, size: int | None = None) -> None:
        """Put `size` bytes, or more than fits, in one transaction."""
        size = self.room.limit_bytes_max * 2 if size is None else size
        with store.write() as tx:
            for n in range(size // self.room.chunk_bytes):
                tx.put(b"k%06d" % n, bytes(self.room.chunk_bytes))


KEYS = st.binary(min_size=1, max_size=3).map(lambda tail: b"k" + tail) | st.sampled_from([b"k", b"k\0", b"k\xff"])
VALUES = st.binary(max_size=40) | st.sampled_from([b"v" * 3000, b"v" * 9000])


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls leaves the store equal to a dict. Subclasses give `make`."""

    make: Callable[[], tuple[Subject, Callable[[], None]]]

    @initialize()
    def open(self) -> None:
        self.subject, self.dispose = type(self).make()
        self.store = self.subject.opened(1 << 22, 1 << 24)
        self.committed: dict[bytes, bytes] = {}
        self.model: dict[bytes, bytes] = {}
        self.block: AbstractContextManager[Writer] | None = None
        self.tx: Reader = None  # type: ignore[assignment]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            if self.block is not None:
                self.block.__exit__(Deliberate, Deliberate(), None)
            self.store.close()
            self.dispose()

    @precondition(lambda self: self.block is None)
    @rule()
    def begin(self) -> None:
        self.block = self.store.write()
        self.tx = self.writer = self.block.__enter__()
        self.model = dict(self.committed)

    @precondition(lambda self: self.block is not None)
    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self.writer.put(key, value)
        self.model[key] = value

    @precondition(lambda self: self.block is not None)
    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        assert self.writer.delete(key) == (self.model.pop(key, None) is not None)

    @precondition(lambda self: self.block is not None)
    @rule(key=KEYS, start=KEYS, stop=KEYS)
    def look(self, key: bytes, start: bytes, stop: bytes) -> None:
        assert self.tx.get(key) == self.model.get(key)
        inside = sorted((key, value) for key, value in self.model.items() if start <= key < stop)
        assert list(self.tx.scan(start, stop)) == inside
        assert self.tx.last(start, stop) == (inside[-1] if inside else None)

    @precondition(lambda self: self.block is not None)
    @rule()
    def commit(self) -> None:
        assert self.block is not None
        self.block.__exit__(None, None, None)
        self.block, self.committed = None, self.model

    @precondition(lambda self: self.block is not None)
    @rule()
    def abort(self) -> None:
        assert self.block is not None
        self.block.__exit__(Deliberate, Deliberate(), None)
        self.block = None

    @precondition(lambda self: self.block is None)
    @rule()
    def restart(self) -> None:
        self.store = self.subject.reopened(self.store)

    @precondition(lambda self: self.block is None)
    @rule()
    def grow(self) -> None:
        self.store.grow()

    @invariant()
    def readers_see_what_is_committed(self) -> None:
        if hasattr(self, "store"):
            assert rows(self.store) == self.committed
