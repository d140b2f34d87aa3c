"""Backups: a copy of the store while it is in use, and putting one back.

Owns the steps of both commands, and what is told to the daemon of a backup that was checked. Must not know how LMDB
copies (`store/lmdb.py`) or what a new epoch is (`engine/epochs.py`).

A backup is copied aside, checked by fsck in a process of its own (a damaged file may end a process that maps it), and
only then given its name: a directory with the name of a backup holds a good one. A restore gives each space a new epoch
before the store has its name. It is done at once, not at each space's first use: then no part of the daemon has to know
of spaces that are restored by half, and it costs 20 us for each space.

Invariants: K1 nothing is called a backup that was not checked. K2 devices are told of a backup (`safe`) only after it
has its name. K3 a restore leaves either the old store or the new one, and never a store without new epochs.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from syncd.app import client, show
from syncd.app.admin import SAFE_MAX
from syncd.app.config import Settings
from syncd.engine import epochs
from syncd.engine.commands import MarkSafe
from syncd.engine.engine import Engine
from syncd.env.real import SystemClock, SystemEntropy
from syncd.store import keys
from syncd.store.api import Reader, Store, StoreDamaged, StoreFull, StoreRefused
from syncd.store.lmdb import LmdbStore, copied, named, open_store, replaced
from syncd.store.tables import SPACES

RENEWED_AT_ONCE = 1_000  # spaces given a new epoch in one transaction
MADE_FILE = "backup.json"  # beside the data: when it was taken, for people


def backup(settings: Settings, to: Path) -> dict[str, Any]:
    """Make a checked backup. Raises `StoreRefused`, `StoreDamaged`, `StoreFull`."""
    room, source = settings.config.store, settings.store_directory
    if not (source / "data.mdb").is_file():
        raise StoreRefused(f"there is no store in {source}")
    if to.exists():
        raise StoreRefused(f"{to} exists; a backup is a new directory")
    to.parent.mkdir(parents=True, exist_ok=True)
    making = to.with_name(f"{to.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    made_ms = SystemClock().now_ms()
    try:
        size = (source / "data.mdb").stat().st_size
        with show.working("copying", lambda: size, lambda: _size(making / "data.mdb")):
            copied(source, making, map_bytes=room.map_bytes)
        check(settings, making)
        facts = {"made_ms": made_ms, "spaces": sum(len(part) for part in _spaces(settings, making))}
        (making / MADE_FILE).write_text(json.dumps(facts) + "\n")
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    named(making, to)
    is_told = _tell(settings, to, made_ms)
    return {"directory": str(to), "bytes": _size(to / "data.mdb"), "is_told": is_told, **facts}


def check(settings: Settings, directory: Path) -> None:
    """fsck in a process of its own. Raises `StoreDamaged`."""
    command = [sys.executable, "-m", "syncd.app.cli", "fsck", "--json", "--directory", str(directory)]
    with show.working("checking", lambda: None, lambda: 0.0):
        done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode == 0:
        return
    try:
        told = json.loads(done.stdout)
        found = "; ".join(f"{each['table']} {each['key']}: {each['problem']}" for each in told["findings"])
        raise StoreDamaged(f"{told['count']} problems in {directory}: {found[:500]}")
    except (ValueError, KeyError):
        raise StoreDamaged(f"{directory} could not be checked: {done.stderr.strip()[-500:]}") from None


def restore(settings: Settings, source: Path) -> dict[str, Any]:
    """Replace the store by a backup. Raises `StoreRefused` (also if a daemon runs), `StoreDamaged`."""
    if not (source / "data.mdb").is_file():
        raise StoreRefused(f"there is no store in {source}")
    check(settings, source)
    room, now_ms, entropy = settings.config.store, SystemClock().now_ms(), SystemEntropy()
    renewed = 0

    def prepare(store: LmdbStore) -> None:
        nonlocal renewed
        for count in renewing(store, entropy.token, now_ms):
            renewed += count

    with show.working("restoring", lambda: None, lambda: float(renewed)):
        kept = replaced(
            settings.store_directory, source, prepare, map_bytes=room.map_bytes, map_bytes_max=room.map_bytes_max
        )
    return {"spaces": renewed, "replaced": None if kept is None else str(kept)}


def renewing(store: Store, entropy: Callable[[int], bytes], now_ms: int) -> Iterator[int]:
    """Give each space of a store that was put back a new epoch; yields how many have it, some at a time."""
    after, count = b"", RENEWED_AT_ONCE
    while count == RENEWED_AT_ONCE:
        try:
            with store.write() as tx:
                count, after = epochs.renewed(tx, entropy, now_ms, after, RENEWED_AT_ONCE)
        except StoreFull:
            if not store.grow():
                raise
            continue
        yield count


def marks(tx: Reader) -> Iterator[list[list[Any]]]:
    """[name, epoch, head] of the spaces in a backup, some at a time; the last part is the one that is not full."""
    part: list[list[Any]] = []
    for key, row in SPACES.scan(tx, keys.table_range(keys.SPACE)):
        part.append([key[1:].decode(), row.epoch.hex(), row.head])
        if len(part) == SAFE_MAX:
            yield part
            part = []
    yield part


def _spaces(settings: Settings, directory: Path) -> Iterator[list[list[Any]]]:
    room = settings.config.store
    store = open_store(directory, map_bytes=room.map_bytes, map_bytes_max=room.map_bytes_max, read_only=True)
    try:
        with store.read() as tx:
            yield from marks(tx)
    finally:
        store.close()


def _tell(settings: Settings, directory: Path, made_ms: int) -> bool:
    """Tell the daemon what the backup has, or where none runs, its store: else devices would go on to believe that no
    backup is made, keep nothing, and have nothing to bring back after a restore. Whether anybody was told."""
    try:
        for part in _spaces(settings, directory):
            is_last = len(part) < SAFE_MAX
            body = {"spaces": part, "made_ms": made_ms if is_last else None}
            client.request(settings.admin_socket, "POST", ("admin", "safe"), body=body)
    except client.Unreachable:
        return _note(settings, directory, made_ms)
    except client.RequestRefused:  # it has no room for more at the moment: no reason to call the backup failed
        return False
    return True


def _note(settings: Settings, directory: Path, made_ms: int) -> bool:
    """Write down in a store that nobody serves what the backup has. Whether that could be done: a store without room,
    or a daemon that has it and does not answer, is no reason to have no backup."""
    room, engine = settings.config.store, Engine(SystemEntropy().token)
    try:
        store = open_store(settings.store_directory, map_bytes=room.map_bytes, map_bytes_max=room.map_bytes_max)
    except StoreRefused:
        return False
    try:
        for part in _spaces(settings, directory):
            spaces = tuple((name, bytes.fromhex(epoch), head) for name, epoch, head in part)
            mark = MarkSafe(spaces, made_ms if len(part) < SAFE_MAX else None)
            with store.write() as tx:
                engine.decide(tx, made_ms, [mark])
    except StoreFull:
        return False
    finally:
        store.close()
    return True


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
