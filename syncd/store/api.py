"""The store's port: an ordered map of bytes with transactions, and the ways in which it may fail.

Owns the contract that every store keeps (tests/store/kit.py accepts one) and no implementation. `lmdb.py` is the one on
disk, `memory.py` its twin. Must not know what keys and values mean: that is `keys.py` and `tables.py`.

Invariants: T1 a write transaction takes effect whole at commit or not at all. T2 when `write` has returned, its effect
survives the death of the process and of the machine (memory: until the store is dropped). T3 a read transaction sees
one commit's state throughout. T4 at most one write transaction exists; it belongs to the thread that began it. T5 scans
ascend by key bytes and see the transaction's own writes; a scan tolerates no write while it runs.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """The store cannot do what was asked. Each subclass says what the caller may do about it."""


class StoreFull(StoreError):
    """No room: nothing was written, reads go on; the caller may retry after growth or clean-up."""


class StoreDamaged(StoreError):
    """What is on disk is not what was written, or a sync failed. A writer that meets it ends the process and never
    retries: nobody knows what is durable. A read that meets a damaged record fails alone, and others go on."""


class StoreRefused(StoreError):
    """The file belongs to another version of syncd or of LMDB, or to a running daemon."""


class Reader(Protocol):
    """A read transaction. Keys have 1-511 bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) with start <= key < stop, ascending."""
        ...

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """The greatest (key, value) with start <= key < stop."""
        ...


class Writer(Reader, Protocol):
    """A write transaction: a reader that sees its own writes."""

    def put(self, key: bytes, value: bytes) -> None:
        """Raises `StoreFull`."""
        ...

    def delete(self, key: bytes) -> bool:
        """Whether the key existed."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Room in the store: bytes in use and the present limit (the map size)."""

    used_bytes: int
    limit_bytes: int


class Store(Protocol):
    """An open store. All methods are synchronous; `write` blocks for the sync to disk: it runs in the writer thread."""

    def read(self) -> AbstractContextManager[Reader]: ...

    def write(self) -> AbstractContextManager[Writer]:
        """Commit at the end of the block, or abort if it raises. Raises `StoreFull`, `StoreDamaged`."""
        ...

    def usage(self) -> Usage: ...

    def grow(self) -> bool:
        """Raise the limit by a step; false if it is at its maximum. Only while this process has no transaction open."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...
