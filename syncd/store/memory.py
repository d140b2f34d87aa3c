"""The store in memory: the twin of `lmdb.py` for tests and simulation.

Owns a sorted map with the contract of `api.py`. What a machine keeps when it dies is what was committed: `image()` is
that, and a store made from it is the machine started again. Breaking the contract (a write while a scan runs, a second
transaction in one thread) is an assertion here, where LMDB would give wrong answers or hang.
"""

import threading
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from syncd.store.api import StoreFull, Usage

KEY_BYTES_MAX: Final = 511  # LMDB's
_INSORTED_MAX: Final = 64  # new keys of a commit that are moved into place one by one; more: sorting is cheaper


class _Data:
    """What is committed: a map and its keys in order."""

    def __init__(self, image: Mapping[bytes, bytes]) -> None:
        self.rows = dict(image)
        self.keys = sorted(self.rows)
        self.used_bytes = sum(len(key) + len(value) for key, value in self.rows.items())

    def merge(self, changes: Mapping[bytes, bytes | None], used_bytes: int) -> None:
        new = [key for key, value in changes.items() if value is not None and key not in self.rows]
        gone = [key for key, value in changes.items() if value is None and key in self.rows]
        for key in gone:
            del self.rows[key]
            del self.keys[bisect_left(self.keys, key)]
        self.rows.update((key, value) for key, value in changes.items() if value is not None)
        if len(new) > _INSORTED_MAX:
            self.keys.extend(new)
            self.keys.sort()
        else:
            for key in new:
                insort(self.keys, key)
        self.used_bytes = used_bytes


class MemoryReader:
    """A read transaction. Commits wait until it ends, so what it sees does not change."""

    def __init__(self, data: _Data) -> None:
        self._data = data
        self._thread = threading.get_ident()
        self._is_open = True

    def get(self, key: bytes) -> bytes | None:
        self._check(key)
        return self._data.rows.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        rows, keys = self._data.rows, self._data.keys
        for index in range(bisect_left(keys, start), bisect_left(keys, stop)):
            self._check()
            yield keys[index], rows[keys[index]]

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        self._check()
        index = bisect_left(self._data.keys, stop) - 1
        if index < 0 or self._data.keys[index] < start:
            return None
        key = self._data.keys[index]
        return key, self._data.rows[key]

    def close(self) -> None:
        self._is_open = False

    def _check(self, key: bytes = b"-") -> None:
        assert self._is_open, "the transaction has ended"
        assert self._thread == threading.get_ident(), "a transaction belongs to the thread that began it"
        assert type(key) is bytes and 0 < len(key) <= KEY_BYTES_MAX, f"a key has 1-{KEY_BYTES_MAX} bytes"


class MemoryWriter(MemoryReader):
    """A write transaction: changes beside the committed map, where None stands for a deleted row."""

    def __init__(self, data: _Data, limit_bytes: int) -> None:
        super().__init__(data)
        self._limit_bytes = limit_bytes
        self.used_bytes = data.used_bytes
        self.changes: dict[bytes, bytes | None] = {}
        self._changed_keys: list[bytes] = []  # of `changes`, in order
        self._writes = 0  # tells a scan that a write disturbed it

    def get(self, key: bytes) -> bytes | None:
        self._check(key)
        return self.changes[key] if key in self.changes else self._data.rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        assert type(value) is bytes, "a value is bytes"
        old = self.get(key)
        used = self.used_bytes + len(value) + (len(key) if old is None else -len(old))
        if used > self._limit_bytes:
            raise StoreFull(f"the store holds at most {self._limit_bytes} bytes")
        self.used_bytes = used
        self._change(key, value)

    def delete(self, key: bytes) -> bool:
        old = self.get(key)
        if old is None:
            return False
        self.used_bytes -= len(key) + len(old)
        self._change(key, None)
        return True

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        writes = self._writes
        old, new = self._data.keys, self._changed_keys
        i, i_end = bisect_left(old, start), bisect_left(old, stop)
        j, j_end = bisect_left(new, start), bisect_left(new, stop)
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and old[i] < new[j]):
                key, value = old[i], self._data.rows[old[i]]
                i += 1
            else:
                i += i < i_end and old[i] == new[j]
                key, changed = new[j], self.changes[new[j]]
                j += 1
                if changed is None:
                    continue
                value = changed
            yield key, value
            self._check()
            assert writes == self._writes, "a scan tolerates no write while it runs"

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        self._check()
        candidates = []
        for keys in (self._data.keys, self._changed_keys):
            index = bisect_left(keys, stop) - 1
            while index >= 0 and keys[index] >= start and self.get(keys[index]) is None:
                index -= 1
            if index >= 0 and keys[index] >= start:
                candidates.append(keys[index])
        if not candidates:
            return None
        value = self.get(max(candidates))
        assert value is not None, "only rows that exist are candidates"
        return max(candidates), value

    def _change(self, key: bytes, value: bytes | None) -> None:
        if key not in self.changes:
            insort(self._changed_keys, key)
        self.changes[key] = value
        self._writes += 1


class MemoryStore:
    """An `api.Store`. `limit_bytes`: of keys and values; `grow` doubles it, up to `limit_bytes_max`."""

    def __init__(
        self,
        limit_bytes: int = 1 << 30,
        limit_bytes_max: int | None = None,
        image: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self._data = _Data(image or {})
        self._limit_bytes = limit_bytes
        self._limit_bytes_max = limit_bytes if limit_bytes_max is None else limit_bytes_max
        self._writing = threading.Lock()  # T4
        self._writer_thread: int | None = None
        self._idle = threading.Condition()  # of readers, for T3
        self._reader_threads: list[int] = []
        self._is_open = True

    @contextmanager
    def read(self) -> Iterator[MemoryReader]:
        assert self._is_open, "the store is closed"
        thread = threading.get_ident()
        with self._idle:
            self._reader_threads.append(thread)
        reader = MemoryReader(self._data)
        try:
            yield reader
        finally:
            reader.close()
            with self._idle:
                self._reader_threads.remove(thread)
                self._idle.notify_all()

    @contextmanager
    def write(self) -> Iterator[MemoryWriter]:
        assert self._is_open, "the store is closed"
        thread = threading.get_ident()
        assert self._writer_thread != thread, "one write transaction at a time"
        with self._writing:
            self._writer_thread = thread
            writer = MemoryWriter(self._data, self._limit_bytes)
            try:
                yield writer
                with self._idle:
                    assert thread not in self._reader_threads, "a commit waits for readers: this one waits for itself"
                    self._idle.wait_for(lambda: not self._reader_threads)
                    self._data.merge(writer.changes, writer.used_bytes)
            finally:
                writer.close()
                self._writer_thread = None

    def usage(self) -> Usage:
        return Usage(self._data.used_bytes, self._limit_bytes)

    def grow(self) -> bool:
        assert self._writer_thread is None and not self._reader_threads, "no transaction is open"
        grown = min(self._limit_bytes * 2, self._limit_bytes_max)
        if grown <= self._limit_bytes:
            return False
        self._limit_bytes = grown
        return True

    def close(self) -> None:
        self._is_open = False

    def image(self) -> dict[bytes, bytes]:
        """What is committed: what a machine still has after a power cut."""
        return dict(self._data.rows)
