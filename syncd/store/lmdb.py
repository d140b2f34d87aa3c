"""The store on disk: one LMDB file.

Owns the environment's flags, its size, the lock that keeps a second daemon out, and what each error of LMDB means. Must
not know what keys and values mean, but for the rows that say which version wrote the file.

Durability is LMDB's default: data pages, fdatasync, meta page written through (`metasync=False` and `sync=False` lost
acknowledged commits in simulated power cuts, and a writable map turns a stray write into damage). One database holds
everything: keys carry their table's prefix, so that one cursor and one set of page counts serve.

Which errors may be retried: a full map or file system, also when it is found at commit. LMDB never writes over pages
that a commit refers to, and the meta page comes last; so what a failed transaction wrote belongs to nothing, and the
next one writes all its pages anew. (If the meta page itself fails, LMDB refuses all further transactions: that is
`StoreDamaged`.) A disk that fills up in the middle of a write makes it short, which LMDB reports as EIO: so that error
is a full file system if there is no room left, and damage otherwise. Every other error of a read, write or sync is
fatal: after a failed fsync the kernel may forget that pages were dirty, and a second one may "succeed" without them.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

import lmdb

from syncd.store import keys
from syncd.store.api import StoreDamaged, StoreFull, StoreRefused, Usage
from syncd.store.tables import META, SCHEMA_VERSION

LMDB_FORMAT: Final = "0.9"  # py-lmdb 3 also bundles LMDB 1.0, which writes another file format
_LMDB_MAJOR: Final = 0

KEY_BYTES_MAX: Final = 511

# Slots in the lock file for readers in all processes: the loop thread, the writer thread, a few command-line tools. A
# commit looks at every slot in use, so there is no reason to offer LMDB's 126.
_READERS_MAX: Final = 32

# Finished read transactions kept for reuse: 0.24 us for begin, get, abort instead of 0.31 (measured). One per thread.
_SPARE_READERS: Final = 2

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Below this the file system is taken to be full. A short write has used up what there was, so what is seen is nothing,
# or what other programs freed meanwhile.
_ROOM_BYTES_MIN: Final = 1 << 20


def _translated(error: lmdb.Error) -> Exception:
    """What an error of LMDB means to the caller. What only a defect of ours can cause stays as it is."""
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(str(error))
    if isinstance(error, lmdb.VersionMismatchError | lmdb.InvalidError):
        return StoreRefused(f"not a store of LMDB {LMDB_FORMAT}: {error}")
    if isinstance(error, lmdb.ReadersFullError | lmdb.MapResizedError | lmdb.LockError):
        return StoreRefused(f"the store is in use by other processes: {error}")
    if isinstance(error, lmdb.TxnFullError | lmdb.BadValsizeError | lmdb.InvalidParameterError | lmdb.ReadonlyError):
        return error
    return StoreDamaged(str(error))


class LmdbReader:
    """A read transaction, and the block that it lasts for."""

    __slots__ = ("_txn",)

    def __init__(self, txn: "lmdb.Transaction[bytes]") -> None:
        self._txn = txn

    def __enter__(self) -> "LmdbReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.abort()
        # An ended read transaction keeps its slot among the readers until its object goes, and this one may live on as
        # a variable of a task that waits: with some thirty such tasks nobody could read any more.
        del self._txn

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._txn.get(key)
        except lmdb.Error as error:
            raise _translated(error) from error

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._txn.cursor() as cursor:
                if cursor.set_range(start):  # else the iterator below would begin at the first key
                    for key, value in cursor.iternext():
                        if key >= stop:
                            return
                        yield key, value
        except lmdb.Error as error:
            raise _translated(error) from error

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        try:
            with self._txn.cursor() as cursor:
                is_found = cursor.prev() if cursor.set_range(stop) else cursor.last()
                return cursor.item() if is_found and cursor.key() >= start else None
        except lmdb.Error as error:
            raise _translated(error) from error


class LmdbWriter(LmdbReader):
    """The write transaction: committed at the end of its block, aborted if the block raises."""

    __slots__ = ("_store",)

    def __init__(self, txn: "lmdb.Transaction[bytes]", store: "LmdbStore") -> None:
        super().__init__(txn)
        self._store = store

    def __enter__(self) -> "LmdbWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._txn.abort()
            return
        try:
            self._txn.commit()
        except lmdb.Error as failure:
            raise self._store.failure(failure) from failure

    def put(self, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= KEY_BYTES_MAX, f"a key has 1-{KEY_BYTES_MAX} bytes"
        try:
            self._txn.put(key, value)
        except lmdb.Error as error:
            raise self._store.failure(error) from error

    def delete(self, key: bytes) -> bool:
        try:
            return self._txn.delete(key)
        except lmdb.Error as error:
            raise self._store.failure(error) from error


class LmdbStore:
    """An `api.Store`; `open_store` makes one."""

    def __init__(self, env: lmdb.Environment, map_bytes_max: int, lock: int | None) -> None:
        self._env = env
        self._map_bytes_max = map_bytes_max
        self._lock = lock
        self._is_disk_full = False
        # Never looked at: its keys. The binding interns them anew each time that nobody has them, and Python's table of
        # interned names grows by a megabyte or two when enough of them have come and gone, an hour after the start.
        self._kept_names = env.stat(), env.info()

    def read(self) -> LmdbReader:
        try:
            return LmdbReader(self._env.begin())
        except lmdb.Error as error:
            raise _translated(error) from error

    def write(self) -> LmdbWriter:
        try:
            return LmdbWriter(self._env.begin(write=True), self)
        except lmdb.Error as error:
            raise self.failure(error) from error

    def usage(self) -> Usage:
        """Pages that hold rows, by the counts that LMDB keeps: pages that are free inside the file do not count.

        The file itself never shrinks, so its size would show the most that was ever stored. LMDB's list of free pages
        (a few pages) is not counted.
        """
        stat = self._env.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return Usage(pages * stat["psize"], self._env.info()["map_size"])

    def grow(self) -> bool:
        """Double the map. False at its maximum, or if the file system was what was full (asked once)."""
        if self._is_disk_full:
            self._is_disk_full = False
            return False
        present = self._env.info()["map_size"]
        grown = min(present * 2, self._map_bytes_max)
        if grown <= present:
            return False
        try:
            self._env.set_mapsize(grown)
        except lmdb.Error as error:
            raise StoreDamaged(f"the map could not be replaced: {error}") from error  # the old one is gone
        return True

    def sync(self) -> None:
        """All bytes of the file are on the disk, also those that no commit of this process wrote."""
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            raise self.failure(error) from error

    def close(self) -> None:
        self._env.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def failure(self, error: lmdb.Error) -> Exception:
        """What a failed write means; remembers whether growing would help."""
        self._is_disk_full = error.code in _FULL or (error.code == errno.EIO and self._has_no_room())
        return StoreFull(str(error)) if self._is_disk_full else _translated(error)

    def _has_no_room(self) -> bool:
        file_system = os.statvfs(self._env.path())
        return file_system.f_bavail * file_system.f_frsize < _ROOM_BYTES_MIN


def open_store(path: Path, *, map_bytes: int, map_bytes_max: int, read_only: bool = False) -> LmdbStore:
    """Open the store in the directory `path`, or make it (unless `read_only`). Raises `StoreRefused`, `StoreDamaged`.

    `map_bytes`: room to begin with (address space, not disk); a store that holds more gets what it needs.
    """
    assert map_bytes <= map_bytes_max
    if read_only and not (path / "data.mdb").is_file():
        raise StoreRefused(f"there is no store in {path}")
    lock = None
    if not read_only:
        _make_directory(path)
        lock = _locked(path / "daemon.lock")
    try:
        if not (path / "data.mdb").exists():
            _make_store(path, map_bytes)
        env = _opened(path, map_bytes, read_only)
        try:
            store = LmdbStore(env, map_bytes_max, lock)
            _check_versions(store)
        except BaseException:
            env.close()
            raise
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    return store


def copied(store_path: Path, to: Path, *, map_bytes: int) -> None:
    """A consistent, compacted copy of a store that may be in use, as the new directory `to`. What it holds is what one
    read transaction saw; writers go on meanwhile, and the store keeps the pages that they replace until it ends."""
    to.mkdir(mode=0o700)
    env = _opened(store_path, map_bytes, read_only=True)
    try:
        env.copy(str(to), compact=True)
    except lmdb.Error as error:
        raise _translated(error) from error
    finally:
        env.close()
    handle = os.open(to / "data.mdb", os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    _sync_names(to)


def named(made: Path, final: Path) -> None:
    """Give a whole directory its name, durably."""
    os.rename(made, final)
    _sync_names(final.parent)


def replaced(
    path: Path, source: Path, prepare: Callable[[LmdbStore], None], *, map_bytes: int, map_bytes_max: int
) -> Path | None:
    """Put a copy of the store in `source` in the place of the one in `path`, which no daemon may have. The copy is made
    and prepared aside, and takes the name when it is whole: a death before that leaves the old store as it was.
    Returns where the old one lies now. Raises `StoreRefused`, `StoreDamaged`, and what `prepare` raises."""
    if not (source / "data.mdb").is_file():
        raise StoreRefused(f"there is no store in {source}")
    _make_directory(path)
    lock = _locked(path / "daemon.lock")
    aside = path / "restoring"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        shutil.copyfile(source / "data.mdb", aside / "data.mdb")
        os.chmod(aside / "data.mdb", 0o600)
        room = max(map_bytes, 2 * (aside / "data.mdb").stat().st_size)
        store = LmdbStore(_opened(aside, room, read_only=False), max(room, map_bytes_max), None)
        try:
            _check_versions(store)
            prepare(store)
            store.sync()
        finally:
            store.close()
        kept = None
        if (path / "data.mdb").exists():
            number = next(n for n in range(1, 10_000) if not (path / f"replaced-{n}.mdb").exists())
            kept = path / f"replaced-{number}.mdb"
            os.link(path / "data.mdb", kept)
        os.replace(aside / "data.mdb", path / "data.mdb")
        _sync_names(path)
        shutil.rmtree(aside, ignore_errors=True)
        return kept
    finally:
        os.close(lock)


def _opened(path: Path, map_bytes: int, read_only: bool) -> lmdb.Environment:
    try:
        env = lmdb.open(
            str(path), map_size=map_bytes, readonly=read_only, mode=0o600, max_readers=_READERS_MAX,
            max_spare_txns=_SPARE_READERS, lib_version=_LMDB_MAJOR,
        )  # fmt: skip
        # Slots of processes that died would keep old pages from being reused.
        env.reader_check()
    except lmdb.Error as error:
        raise _translated(error) from error
    return env


def _make_directory(path: Path) -> None:
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        _sync_names(each.parent)


def _make_store(path: Path, map_bytes: int) -> None:
    """Make a store aside, and give it its name when it is whole: a death in between leaves nothing that must be removed
    by hand before the next start. The caller holds the lock."""
    aside = path / "making"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    store = LmdbStore(_opened(aside, map_bytes, read_only=False), map_bytes, None)
    try:
        with store.write() as tx:
            META.put(tx, keys.meta("schema"), (SCHEMA_VERSION,))
            META.put(tx, keys.meta("lmdb"), (LMDB_FORMAT,))
    finally:
        store.close()
    os.replace(aside / "data.mdb", path / "data.mdb")
    _sync_names(path)
    shutil.rmtree(aside, ignore_errors=True)


def _sync_names(directory: Path) -> None:
    """LMDB syncs what is in its file, not what the file is called: a new one may be gone after a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    """The lock of the one process that may write: a file descriptor; it goes with the process.

    flock, not lockf: that lets the same process in twice, and goes when any other handle to the file is closed.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        pid = os.read(lock, 20).decode("ascii", "replace").strip() or "not known yet"
        os.close(lock)
        raise StoreRefused(f"another daemon (process {pid}) has the store in {path.parent}") from None
    except BaseException:  # a disk without room for the number, a file system without locks
        os.close(lock)
        raise
    return lock


def _check_versions(store: LmdbStore) -> None:
    """Refuse what another version wrote, or another program."""
    with store.read() as tx:
        schema = META.get(tx, keys.meta("schema"))
        file_format = META.get(tx, keys.meta("lmdb"))
    if schema is None or file_format is None:
        raise StoreRefused("the LMDB file is not a store of syncd")
    if schema != (SCHEMA_VERSION,):
        raise StoreRefused(f"the store has schema {schema[0]}, this syncd reads and writes {SCHEMA_VERSION}")
    if file_format != (LMDB_FORMAT,):
        raise StoreRefused(f"the store was written for LMDB {file_format[0]}, this syncd uses {LMDB_FORMAT}")
