"""The durable store: SQLite, one file, one local transaction per decision.

Owns what is on disk: `replica.db` (everything that a backup may hold), `installation` beside it (kept out of backups,
so that a restored copy is recognised as another installation) and `sync.lock` (held by the one process that talks to
the server). Knows the rows (tables.py) and nothing of the rules between them.

1. When `transaction()` has returned, its writes survive a kill and a power cut (WAL, synchronous=FULL).
2. When it has raised, or the process was killed inside it, none of its writes exist.
3. Any number of processes may open one store; SQLite puts their transactions in one order. `BEGIN IMMEDIATE` takes the
   write lock first, so that a read in a transaction is never stale when its write comes.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields as fields_of
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgpack

from .errors import StoreError
from .messages import DocumentEntry, Former
from .operations import Operation, operation_read
from .sums import key_hash, sum_bytes
from .tables import DocumentRow, Entry, EventRow, Key, LeaseRow, OutcomeRow, RefusedRow, SpaceRow
from .values import Value, packed

SCHEMA_VERSION = 5
APPLICATION_ID = 0x73796E64  # "synd": tells this file from any other SQLite database

# Another process holds the write lock for the length of one fsync; ten seconds are a disk in trouble, not a queue.
BUSY_S = 10.0
# As many outcomes per space as the server keeps of what is settled: enough to ask what became of a recent change.
OUTCOMES_PER_SPACE_MAX = 1_000
# Refused payloads wait for the application to look at them. Beyond this many nobody looks; the oldest give way.
REFUSED_MAX = 10_000
# Changes held until the server calls them safe. A server without backups never does, so the oldest give way.
KEPT_PER_SPACE_MAX = 1_000
KEPT_BYTES_PER_SPACE_MAX = 4 * 1024 * 1024  # of their operations: a phone has other uses for its room

_SPACE_COLUMNS = [field.name for field in fields_of(SpaceRow)]
_SPACE_VALUES = attrgetter(*_SPACE_COLUMNS)
# Those that SQLite keeps in another form: its integers are signed and 64 bits long, a sum is unsigned.
_SUM, _IS_SUBSCRIBED, _CONTEXT = (_SPACE_COLUMNS.index(name) for name in ("sum", "is_subscribed", "context"))

_SCHEMA = f"""
CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE space ({", ".join(name + (" TEXT PRIMARY KEY" if name == "name" else "") for name in _SPACE_COLUMNS)})
    WITHOUT ROWID;
CREATE TABLE document (space TEXT, collection TEXT, id TEXT, rev INTEGER, fields BLOB, hash BLOB,
    PRIMARY KEY (space, collection, id)) WITHOUT ROWID;
CREATE INDEX document_by_hash ON document (space, hash);
CREATE TABLE bucket (space TEXT, number INTEGER, sum BLOB, PRIMARY KEY (space, number)) WITHOUT ROWID;
CREATE TABLE page (space TEXT, upto INTEGER, docs BLOB, PRIMARY KEY (space, upto)) WITHOUT ROWID;
CREATE TABLE entry (space TEXT, n INTEGER, last_n INTEGER, nonce BLOB, base INTEGER, stamp_ms INTEGER, operations BLOB,
    void_reason TEXT, outcome TEXT, seq INTEGER, is_kept INTEGER, context BLOB, PRIMARY KEY (space, n)) WITHOUT ROWID;
CREATE INDEX entry_unanswered ON entry (space, n, base) WHERE outcome IS NULL;
CREATE INDEX entry_answered ON entry (space, seq) WHERE seq IS NOT NULL AND NOT is_kept;
CREATE TABLE touch (space TEXT, collection TEXT, id TEXT, n INTEGER, PRIMARY KEY (space, collection, id, n))
    WITHOUT ROWID;
CREATE INDEX touch_by_n ON touch (space, n);
CREATE TABLE outcome (at INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT, n INTEGER, nonce BLOB, outcome TEXT,
    seq INTEGER, detail BLOB);
CREATE UNIQUE INDEX outcome_by_n ON outcome (space, n, nonce);
CREATE INDEX outcome_by_nonce ON outcome (space, nonce);
CREATE TABLE refused (at INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT, n INTEGER, base INTEGER, stamp_ms INTEGER,
    operations BLOB, outcome TEXT, detail BLOB);
CREATE TABLE lease (space TEXT, lease BLOB, collection TEXT, id TEXT, field TEXT, remains INTEGER, ttl_ms INTEGER,
    until INTEGER, certificate BLOB, asked BLOB, holder BLOB, PRIMARY KEY (space, lease)) WITHOUT ROWID;
CREATE TABLE event (at INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB UNIQUE, name TEXT, time_ms INTEGER, data BLOB);
"""

_LEASE = "SELECT space, collection, id, field, lease, remains, ttl_ms, until, certificate, asked FROM lease"
_SPACES = f"SELECT {', '.join(_SPACE_COLUMNS)} FROM space ORDER BY name"
_SPACE_BY_NAME = f"SELECT {', '.join(_SPACE_COLUMNS)} FROM space WHERE name = ?"
_PUT_SPACE = f"INSERT OR REPLACE INTO space VALUES ({', '.join('?' * len(_SPACE_COLUMNS))})"
# All kept entries but the newest, as many as have the bytes that may be kept.
_DROP_KEPT = """DELETE FROM entry WHERE space = ? AND is_kept AND n IN (SELECT n FROM
    (SELECT n, sum(length(operations)) OVER (ORDER BY n DESC) AS total FROM entry WHERE space = ? AND is_kept)
    WHERE total > ?)"""
_ENTRY = "SELECT n, last_n, nonce, base, stamp_ms, operations, void_reason, outcome, seq, is_kept, context FROM entry"


def _unpacked(data: bytes | None) -> Any:
    return None if data is None else msgpack.unpackb(data, raw=False, strict_map_key=True)


def _operations(data: bytes) -> tuple[Operation, ...]:
    return tuple(operation_read(item) for item in _unpacked(data))


def _entry(row: tuple[Any, ...]) -> Entry:
    n, last_n, nonce, base, stamp_ms, operations, void_reason, outcome, seq, is_kept, context = row
    checked, formers = _operations(operations), _context(context)
    return Entry(n, last_n, nonce, base, stamp_ms, checked, void_reason, outcome, seq, bool(is_kept), formers)


def _context(data: bytes | None) -> tuple[Former, ...]:
    return tuple(Former(*item) for item in _unpacked(data) or ())


def _packed_context(context: tuple[Former, ...]) -> bytes | None:
    return packed([[former.device, former.n, former.seq] for former in context]) if context else None


def _lease(row: tuple[Any, ...]) -> LeaseRow:
    certificate, asked = _unpacked(row[8]), _unpacked(row[9])
    space, collection, id, field, lease, left, ttl_ms, until = row[:8]
    moment = None if asked is None else (asked[0], asked[1], asked[2])
    return LeaseRow(space, collection, id, field, lease, left, ttl_ms, until, tuple(certificate), moment)


def _document(row: tuple[Any, ...]) -> DocumentRow:
    return DocumentRow(row[0], row[1], row[2], {name: (pair[0], pair[1]) for name, pair in _unpacked(row[3]).items()})


def _space(row: tuple[Any, ...]) -> SpaceRow:
    values = list(row)
    values[_SUM] = int.from_bytes(values[_SUM], "big")
    values[_IS_SUBSCRIBED], values[_CONTEXT] = bool(values[_IS_SUBSCRIBED]), _context(values[_CONTEXT])
    return SpaceRow(*values)


class Store:
    """The open store of one device. Use from one thread; implements `tables.Tables` inside a transaction."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        entropy: Callable[[int], bytes],
        durability: Literal["full", "off"] = "full",
    ) -> None:
        """Open or make the store. `durability="off"` is for simulators: it survives the process, not the machine."""
        self.directory = Path(directory)
        self._in_transaction = False
        self._lock_fd: int | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.directory / "replica.db", timeout=BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self.directory}: cannot open the store: {error}") from None
        try:
            self._prepare(durability)
            self._make_device(entropy)
            self.installation = _installation(self.directory / "installation", entropy)
        except (OSError, sqlite3.Error) as error:
            self._db.close()
            raise StoreError(f"{self.directory}: cannot open the store: {error}") from None
        except StoreError:
            self._db.close()
            raise

    def _prepare(self, durability: str) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={durability.upper()}")
        with self.transaction():
            version, application_id, tables = (
                self._one(sql)
                for sql in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_schema")
            )
            if tables == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            elif application_id != APPLICATION_ID:
                raise StoreError(f"{self.directory}: replica.db is not the store of a syncd device")
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.directory}: the store has schema version {version}, this program knows {SCHEMA_VERSION}"
                )

    def _make_device(self, entropy: Callable[[int], bytes]) -> None:
        with self.transaction():
            if self.setting("device") is None:
                self.put_setting("device", entropy(16))

    @property
    def device(self) -> bytes:
        """The device's id. Another process may have changed it (renaming.py)."""
        device = self.setting("device")
        assert isinstance(device, bytes)
        return device

    def close(self) -> None:
        self.release_sync_lock()
        self._db.close()

    # -- transactions and processes ----------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Store]:
        """One decision. Durable when the block ends; undone as a whole if it raises."""
        yield from self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """One consistent look, in which nothing may be written."""
        yield from self._transaction("BEGIN")

    def _transaction(self, begin: str) -> Iterator[Store]:
        assert not self._in_transaction, "transactions do not nest"
        try:
            self._db.execute(begin)
            self._in_transaction = True
            yield self
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"{self.directory}: {error}") from None
        finally:
            self._in_transaction = False
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def data_version(self) -> int:
        """A number that changes when another process has committed something."""
        version: int = self._one("PRAGMA data_version")
        return version

    def acquire_sync_lock(self) -> bool:
        """Become the one process that talks to the server for this device; false if another is. Raises StoreError."""
        if self._lock_fd is not None:
            return True
        try:
            fd = os.open(self.directory / "sync.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                raise
        except BlockingIOError:
            return False
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot lock the store: {error}") from None
        self._lock_fd = fd
        return True

    def release_sync_lock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    # -- rows --------------------------------------------------------------------------------------------------------

    def _one(self, sql: str, *arguments: object) -> Any:
        rows = self._rows(sql, *arguments)
        return rows[0][0] if rows else None

    def _rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, arguments).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.directory}: {error}") from None

    def space(self, name: str) -> SpaceRow | None:
        rows = self._rows(_SPACE_BY_NAME, name)
        return _space(rows[0]) if rows else None

    def spaces(self) -> list[SpaceRow]:
        return [_space(row) for row in self._rows(_SPACES)]

    def put_space(self, row: SpaceRow) -> None:
        values = list(_SPACE_VALUES(row))
        values[_SUM], values[_CONTEXT] = sum_bytes(row.sum), _packed_context(row.context)
        self._db.execute(_PUT_SPACE, values)

    def setting(self, name: str) -> Value:
        return _unpacked(self._one("SELECT value FROM setting WHERE name = ?", name))

    def put_setting(self, name: str, value: Value) -> None:
        self._db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, packed(value)))

    def document(self, space: str, key: Key) -> DocumentRow | None:
        sql = "SELECT collection, id, rev, fields FROM document WHERE space = ? AND collection = ? AND id = ?"
        rows = self._rows(sql, space, *key)
        return _document(rows[0]) if rows else None

    def documents(self, space: str, collection: str | None = None) -> list[DocumentRow]:
        sql = "SELECT collection, id, rev, fields FROM document WHERE space = ?"
        if collection is None:
            return [_document(row) for row in self._rows(f"{sql} ORDER BY collection, id", space)]
        return [_document(row) for row in self._rows(f"{sql} AND collection = ? ORDER BY id", space, collection)]

    def put_document(self, space: str, row: DocumentRow) -> None:
        values = (space, row.collection, row.id, row.rev, packed(dict(row.fields)), key_hash(*row.key))
        self._db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, ?, ?)", values)

    def drop_document(self, space: str, key: Key) -> None:
        self._db.execute("DELETE FROM document WHERE space = ? AND collection = ? AND id = ?", (space, *key))

    def drop_documents(self, space: str) -> None:
        self._db.execute("DELETE FROM document WHERE space = ?", (space,))

    # Sums are unsigned and 64 bits long, SQLite's integers are signed: they are kept as 8 bytes, and so are key hashes.

    def bucket_sums(self, space: str) -> dict[int, int]:
        rows = self._rows("SELECT number, sum FROM bucket WHERE space = ?", space)
        return {number: int.from_bytes(total, "big") for number, total in rows}

    def put_bucket_sum(self, space: str, number: int, total: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)", (space, number, sum_bytes(total)))

    def drop_bucket_sums(self, space: str) -> None:
        self._db.execute("DELETE FROM bucket WHERE space = ?", (space,))

    def bucket_documents(self, space: str, number: int) -> list[tuple[bytes, DocumentRow]]:
        """The documents of one bucket, each with its key hash."""
        sql = "SELECT collection, id, rev, fields, hash FROM document WHERE space = ? AND hash >= ? AND hash <= ?"
        first, last = (number << 54).to_bytes(8, "big"), ((number + 1 << 54) - 1).to_bytes(8, "big")
        return [(row[4], _document(row[:4])) for row in self._rows(f"{sql} ORDER BY hash", space, first, last)]

    def keys_at(self, space: str, hashed: bytes) -> list[Key]:
        sql = "SELECT collection, id FROM document WHERE space = ? AND hash = ? ORDER BY collection, id"
        return [(row[0], row[1]) for row in self._rows(sql, space, hashed)]

    def rehashed(self, space: str) -> Iterator[DocumentRow]:
        """All documents, after what cannot be read is dropped and each has its right key hash again."""
        rows = self._rows("SELECT collection, id, rev, fields, hash FROM document WHERE space = ?", space)
        for row in rows:
            try:
                document = _document(row[:4])
                hashed = key_hash(*document.key)
            except (ValueError, TypeError, AttributeError, LookupError, msgpack.UnpackException):
                self._db.execute(
                    "DELETE FROM document WHERE space = ? AND collection = ? AND id = ?", (space, row[0], row[1])
                )
                continue
            if hashed != row[4]:
                self.put_document(space, document)
            yield document

    def add_page(self, space: str, to: int, docs: tuple[DocumentEntry, ...]) -> None:
        wires = [[doc.collection, doc.id, doc.rev, doc.state, dict(doc.fields)] for doc in docs]
        self._db.execute("INSERT OR REPLACE INTO page VALUES (?, ?, ?)", (space, to, packed(wires)))

    def pages(self, space: str) -> Iterator[tuple[DocumentEntry, ...]]:
        for (data,) in self._rows("SELECT docs FROM page WHERE space = ? ORDER BY upto", space):
            yield tuple(
                DocumentEntry(
                    collection, id, rev, state, {name: pair and (pair[0], pair[1]) for name, pair in fields.items()}
                )
                for collection, id, rev, state, fields in _unpacked(data)
            )

    def drop_pages(self, space: str) -> None:
        self._db.execute("DELETE FROM page WHERE space = ?", (space,))

    def entry(self, space: str, n: int) -> Entry | None:
        # The last entry that begins at or before n: a void may stand for a range of n.
        rows = self._rows(f"{_ENTRY} WHERE space = ? AND n <= ? ORDER BY n DESC LIMIT 1", space, n)
        return _entry(rows[0]) if rows and rows[0][1] >= n else None

    def unanswered(self, space: str, first_n: int, count_max: int) -> list[Entry]:
        sql = f"{_ENTRY} WHERE space = ? AND n >= ? AND outcome IS NULL ORDER BY n LIMIT ?"
        return [_entry(row) for row in self._rows(sql, space, first_n, count_max)]

    def outbox(self, space: str) -> list[Entry]:
        return [_entry(row) for row in self._rows(f"{_ENTRY} WHERE space = ? AND NOT is_kept ORDER BY n", space)]

    def answered(self, space: str, seq_max: int) -> list[Entry]:
        sql = f"{_ENTRY} WHERE space = ? AND seq IS NOT NULL AND NOT is_kept AND seq <= ? ORDER BY seq"
        return [_entry(row) for row in self._rows(sql, space, seq_max)]

    def kept(self, space: str) -> list[Entry]:
        return [_entry(row) for row in self._rows(f"{_ENTRY} WHERE space = ? AND is_kept ORDER BY n", space)]

    def outbox_depth(self, space: str) -> int:
        depth: int = self._one("SELECT count(*) FROM entry WHERE space = ? AND NOT is_kept", space)
        return depth

    def touching(self, space: str, key: Key) -> list[Entry]:
        sql = (
            f"{_ENTRY} WHERE space = ?1 AND n IN "
            "(SELECT n FROM touch WHERE space = ?1 AND collection = ?2 AND id = ?3) ORDER BY n"
        )
        return [_entry(row) for row in self._rows(sql, space, *key)]

    def touched_keys(self, space: str, collection: str | None = None) -> list[Key]:
        sql = "SELECT DISTINCT collection, id FROM touch WHERE space = ?1 AND collection = ifnull(?2, collection)"
        sql += " ORDER BY collection, id"
        return [(row[0], row[1]) for row in self._rows(sql, space, collection)]

    def put_entry(self, space: str, entry: Entry) -> None:
        self._db.execute("DELETE FROM touch WHERE space = ? AND n = ?", (space, entry.n))
        operations = packed([operation.wire() for operation in entry.operations])
        head = (space, entry.n, entry.last_n, entry.nonce, entry.base, entry.stamp_ms, operations)
        tail = (entry.void_reason, entry.outcome, entry.seq, entry.is_kept, _packed_context(entry.context))
        self._db.execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*head, *tail))
        if entry.is_kept:
            self._db.execute(
                "DELETE FROM entry WHERE space = ? AND n <= ? AND is_kept", (space, entry.n - KEPT_PER_SPACE_MAX)
            )
            self._db.execute(_DROP_KEPT, (space, space, KEPT_BYTES_PER_SPACE_MAX))
            return
        keys = dict.fromkeys(operation.key for operation in entry.operations)
        self._db.executemany("INSERT INTO touch VALUES (?, ?, ?, ?)", [(space, *key, entry.n) for key in keys])

    def drop_entry(self, space: str, n: int) -> None:
        self._db.execute("DELETE FROM entry WHERE space = ? AND n = ?", (space, n))
        self._db.execute("DELETE FROM touch WHERE space = ? AND n = ?", (space, n))

    def oldest_n(self, space: str) -> int | None:
        """The least n of the changes without an outcome."""
        n: int | None = self._one("SELECT min(n) FROM entry WHERE space = ? AND outcome IS NULL", space)
        return n

    def oldest_base(self, space: str) -> int | None:
        """The least base of the changes without an outcome."""
        base: int | None = self._one("SELECT min(base) FROM entry WHERE space = ? AND outcome IS NULL", space)
        return base

    # A lease is this installation's alone. A backup may hold the rows, but what makes them valid is outside of it.

    @property
    def _holder(self) -> bytes:
        return self.device + self.installation

    def leases(self, space: str) -> list[LeaseRow]:
        sql = f"{_LEASE} WHERE space = ? AND holder = ? ORDER BY collection, id, field, lease"
        return [_lease(row) for row in self._rows(sql, space, self._holder)]

    def lease(self, space: str, lease: bytes) -> LeaseRow | None:
        rows = self._rows(f"{_LEASE} WHERE space = ? AND lease = ? AND holder = ?", space, lease, self._holder)
        return _lease(rows[0]) if rows else None

    def put_lease(self, row: LeaseRow) -> None:
        values = (row.space, row.lease, row.collection, row.id, row.field, row.left, row.ttl_ms, row.until)
        certificate, asked = packed(list(row.certificate)), packed(row.asked)
        self._db.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                         (*values, certificate, asked, self._holder))  # fmt: skip

    def drop_lease(self, space: str, lease: bytes) -> None:
        self._db.execute("DELETE FROM lease WHERE space = ? AND lease = ?", (space, lease))

    def add_event(self, row: EventRow, count_max: int) -> int:
        """Keep an event until it is taken; how many of the oldest gave way, so that there are `count_max` at most."""
        data = None if row.data is None else packed(dict(row.data))
        sql = "INSERT INTO event (id, name, time_ms, data) VALUES (?, ?, ?, ?)"
        self._db.execute(sql, (row.id, row.name, row.time_ms, data))
        sql = "DELETE FROM event WHERE at <= (SELECT at FROM event ORDER BY at DESC LIMIT 1 OFFSET ?)"
        return self._db.execute(sql, (count_max,)).rowcount

    def events(self, count_max: int) -> list[EventRow]:
        """Those that wait, the oldest first."""
        sql = "SELECT id, name, time_ms, data, at FROM event ORDER BY at LIMIT ?"
        return [EventRow(row[0], row[1], row[2], _unpacked(row[3]), row[4]) for row in self._rows(sql, count_max)]

    def drop_event(self, id: bytes) -> None:
        self._db.execute("DELETE FROM event WHERE id = ?", (id,))

    def add_outcome(self, row: OutcomeRow) -> None:
        detail = None if row.detail is None else packed(dict(row.detail))
        self._db.execute(
            "INSERT OR REPLACE INTO outcome (space, n, nonce, outcome, seq, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (row.space, row.n, row.nonce, row.outcome, row.seq, detail),
        )
        self._db.execute("DELETE FROM outcome WHERE space = ? AND n <= ?", (row.space, row.n - OUTCOMES_PER_SPACE_MAX))

    def outcome(self, space: str, n: int) -> OutcomeRow | None:
        """The outcome of n; if the device had n under an earlier id, too, the newest."""
        sql = "SELECT space, n, nonce, outcome, seq, detail, at FROM outcome WHERE space = ? AND n = ?"
        return next((_outcome(row) for row in self._rows(f"{sql} ORDER BY at DESC LIMIT 1", space, n)), None)

    def outcome_of(self, space: str, nonce: bytes) -> OutcomeRow | None:
        """The outcome of the change with this nonce, whatever its n is by now."""
        sql = "SELECT space, n, nonce, outcome, seq, detail, at FROM outcome WHERE space = ? AND nonce = ?"
        return next((_outcome(row) for row in self._rows(f"{sql} ORDER BY at DESC LIMIT 1", space, nonce)), None)

    def holds(self, space: str, nonce: bytes) -> bool:
        """Whether a change with this nonce waits for its outcome. Looks at the whole outbox."""
        sql = "SELECT count(*) FROM entry WHERE space = ? AND outcome IS NULL AND nonce = ?"
        return bool(self._one(sql, space, nonce))

    def outcomes_since(self, at: int, count_max: int) -> list[OutcomeRow]:
        """Outcomes in the order in which they were stored, after the position `at`."""
        sql = "SELECT space, n, nonce, outcome, seq, detail, at FROM outcome WHERE at > ? ORDER BY at LIMIT ?"
        return [_outcome(row) for row in self._rows(sql, at, count_max)]

    def outcomes_at(self) -> int:
        """The position of the last stored outcome."""
        return self._one("SELECT max(at) FROM outcome") or 0

    def add_refused(self, row: RefusedRow) -> None:
        operations = packed([operation.wire() for operation in row.operations])
        detail = None if row.detail is None else packed(dict(row.detail))
        cursor = self._db.execute(
            "INSERT INTO refused (space, n, base, stamp_ms, operations, outcome, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.space, row.n, row.base, row.stamp_ms, operations, row.outcome, detail),
        )
        assert cursor.lastrowid is not None
        self._db.execute("DELETE FROM refused WHERE at <= ?", (cursor.lastrowid - REFUSED_MAX,))

    def refused(self, space: str) -> list[RefusedRow]:
        sql = "SELECT space, n, base, stamp_ms, operations, outcome, detail FROM refused WHERE space = ? ORDER BY at"
        return [
            RefusedRow(name, n, base, stamp_ms, _operations(operations), outcome, _unpacked(detail))
            for name, n, base, stamp_ms, operations, outcome, detail in self._rows(sql, space)
        ]

    def set_refused_aside(self, space: str) -> None:
        """Number what was refused under an id that is given up by negative numbers, beside those of the next one."""
        self._db.execute("UPDATE refused SET n = -at WHERE space = ? AND n > 0", (space,))

    def drop_refused(self, space: str, n: int) -> None:
        self._db.execute("DELETE FROM refused WHERE space = ? AND n = ?", (space, n))


def _outcome(row: Sequence[Any]) -> OutcomeRow:
    space, n, nonce, outcome, seq, detail, at = row
    return OutcomeRow(space, n, nonce, outcome, seq, _unpacked(detail), at)


def _installation(path: Path, entropy: Callable[[int], bytes]) -> bytes:
    """The installation id, made at the first start. The first of two processes wins; both read the same."""
    if not path.exists():
        draft = path.with_name(f"installation.{entropy(8).hex()}")
        with draft.open("x") as file:
            file.write(entropy(16).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    text = path.read_text().strip()
    try:
        installation = bytes.fromhex(text)
    except ValueError:
        installation = b""
    if len(installation) != 16:
        raise StoreError(f"{path}: expected 32 hexadecimal digits")
    return installation
