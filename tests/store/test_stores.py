"""Both stores pass the acceptance kit."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from syncd.store.api import Store
from syncd.store.lmdb import open_store
from syncd.store.memory import MemoryStore
from tests.store.kit import Room, StoreKit, StoreMachine, Subject


class MemorySubject:
    def opened(self, limit_bytes: int, limit_bytes_max: int) -> MemoryStore:
        return MemoryStore(limit_bytes, limit_bytes_max)

    def reopened(self, store: Store) -> MemoryStore:
        assert isinstance(store, MemoryStore)
        store.close()
        return MemoryStore(1 << 24, image=store.image())


class LmdbSubject:
    def __init__(self, path: Path) -> None:
        self.path = path

    def opened(self, limit_bytes: int, limit_bytes_max: int) -> Store:
        return open_store(self.path, map_bytes=limit_bytes, map_bytes_max=limit_bytes_max)

    def reopened(self, store: Store) -> Store:
        store.close()
        return self.opened(1 << 22, 1 << 24)


class TestMemoryStore(StoreKit):
    room = Room()

    @pytest.fixture
    def subject(self) -> Subject:
        return MemorySubject()


class TestLmdbStore(StoreKit):
    room = Room(limit_bytes=1 << 20, limit_bytes_max=1 << 22, chunk_bytes=50_000)

    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        return LmdbSubject(tmp_path)


class _MemoryMachine(StoreMachine):
    @staticmethod
    def make() -> tuple[Subject, Callable[[], None]]:
        return MemorySubject(), lambda: None


class _LmdbMachine(StoreMachine):
    @staticmethod
    def make() -> tuple[Subject, Callable[[], None]]:
        path = Path(tempfile.mkdtemp())
        return LmdbSubject(path), lambda: shutil.rmtree(path)


TestMemoryMachine = _MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestLmdbMachine = _LmdbMachine.TestCase
TestLmdbMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
