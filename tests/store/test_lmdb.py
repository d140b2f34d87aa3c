"""What only the store on disk can show: versions, locks, damage, disks that fail."""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import lmdb
import pytest

from syncd.store import keys
from syncd.store.api import StoreDamaged, StoreFull, StoreRefused
from syncd.store.lmdb import LmdbStore, open_store
from syncd.store.tables import LOG, META, SCHEMA_VERSION, LogRow

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


def opened(path: Path, **options: bool) -> LmdbStore:
    return open_store(path, map_bytes=MIB, map_bytes_max=4 * MIB, **options)


def in_child(code: str, *, before: Sequence[str | Path] = (), **env: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process of its own, which may die of it."""
    imports = (
        "import os\nfrom pathlib import Path\nfrom syncd.store.api import *\nfrom syncd.store.lmdb import open_store\n"
    )
    return subprocess.run(
        [*before, sys.executable, "-c", imports + code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_new_store_says_which_version_wrote_it(tmp_path: Path) -> None:
    store = opened(tmp_path / "made" / "here")
    with store.read() as tx:
        assert META.get(tx, keys.meta("schema")) == (SCHEMA_VERSION,)
        assert META.get(tx, keys.meta("lmdb")) == ("0.9",)
    store.close()
    opened(tmp_path / "made" / "here").close()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "schema",
            SCHEMA_VERSION + 1,
            f"the store has schema {SCHEMA_VERSION + 1}, this syncd reads and writes {SCHEMA_VERSION}",
        ),
        ("lmdb", "1.0", r"the store was written for LMDB 1.0, this syncd uses 0.9"),
    ],
)
def test_a_store_of_another_version_is_refused(tmp_path: Path, name: str, value: object, expected: str) -> None:
    store = opened(tmp_path)
    with store.write() as tx:
        META.put(tx, keys.meta(name), (value,))
    store.close()
    for read_only in (False, True):
        with pytest.raises(StoreRefused, match=expected):
            opened(tmp_path, read_only=read_only)


def test_an_lmdb_file_of_another_format_or_program_is_refused(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "newer"), lib_version=1).close()
    with pytest.raises(StoreRefused, match=r"not a store of LMDB 0\.9"):
        opened(tmp_path / "newer")
    with lmdb.open(str(tmp_path / "other"), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"foreign", b"row")
    with pytest.raises(StoreRefused, match="not a store of syncd"):
        opened(tmp_path / "other")


def test_a_file_that_is_no_lmdb_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"text" * 5000)
    with pytest.raises(StoreRefused):
        opened(tmp_path)


def test_a_second_daemon_is_refused_and_told_the_first_ones_pid(tmp_path: Path) -> None:
    store = opened(tmp_path)
    expected = rf"another daemon \(process {os.getpid()}\) has the store in {tmp_path}"
    with pytest.raises(StoreRefused, match=expected):
        opened(tmp_path)
    other = in_child(f"open_store(Path({str(tmp_path)!r}), map_bytes=1 << 20, map_bytes_max=1 << 20)")
    assert other.returncode != 0 and f"process {os.getpid()}" in other.stderr
    store.close()
    opened(tmp_path).close()


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    child = in_child(
        f"store = open_store(Path({str(tmp_path)!r}), map_bytes=1 << 20, map_bytes_max=1 << 20)\n"
        "with store.write() as tx: tx.put(b'k', b'v')\n"
        "os.kill(os.getpid(), 9)"
    )
    assert child.returncode == -9
    store = opened(tmp_path)
    with store.read() as tx:
        assert tx.get(b"k") == b"v"
    store.close()


def test_a_reader_may_look_while_the_daemon_runs_but_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="there is no store in"):
        opened(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    writer = opened(tmp_path)
    child = in_child(
        f"store = open_store(Path({str(tmp_path)!r}), map_bytes=1 << 20, map_bytes_max=1 << 20, read_only=True)\n"
        "with store.read() as tx: print(tx.get(b'Aschema') is not None)\n"
        "store.write()"
    )
    assert child.stdout == "True\n" and "ReadonlyError" in child.stderr
    writer.close()


def test_a_flipped_byte_in_a_record_is_found_when_it_is_read(tmp_path: Path) -> None:
    key = keys.log(1, 1)
    store = opened(tmp_path)
    with store.write() as tx:
        LOG.put(tx, key, LogRow(1, 1, 5, b"chainchn", 9))
        LOG.put(tx, keys.log(1, 2), LogRow(1, 2, 5, b"chainchn", 9))
    store.close()
    with lmdb.open(str(tmp_path), lib_version=0) as env, env.begin(write=True) as txn:
        record = txn.get(key)
        assert record is not None
        txn.put(key, record.replace(b"chain", b"chaim"))
    store = opened(tmp_path)
    with store.read() as tx:
        with pytest.raises(StoreDamaged, match=f"under key {key.hex()} has a wrong checksum"):
            LOG.get(tx, key)
        assert LOG.get(tx, keys.log(1, 2)) == LogRow(1, 2, 5, b"chainchn", 9)
    store.close()


def test_a_record_under_another_rows_key_is_found_too(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with store.write() as tx:
        LOG.put(tx, keys.log(1, 1), LogRow(1, 1, 5, b"chainchn", 9))
        record = tx.get(keys.log(1, 1))
        assert record is not None
        tx.put(keys.log(1, 2), record)
        with pytest.raises(StoreDamaged):
            LOG.get(tx, keys.log(1, 2))
    store.close()


def test_an_open_reader_keeps_its_state_while_commits_go_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with store.write() as tx:
        tx.put(b"k", b"old")
    with store.read() as reader:
        for n in range(5):
            with store.write() as tx:
                tx.put(b"k", b"new")
                tx.put(b"k%d" % n, b"")
        assert list(reader.scan(b"k", b"l")) == [(b"k", b"old")]
    with store.read() as reader:
        assert reader.get(b"k") == b"new"
    store.close()


def test_a_store_that_grew_opens_with_room_for_what_it_holds(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.grow()
    for n in range(15):
        with store.write() as tx:
            tx.put(b"k%02d" % n, bytes(100_000))
    store.close()
    store = opened(tmp_path)
    with store.read() as tx:
        assert sum(1 for _ in tx.scan(b"k", b"l")) == 15
    with pytest.raises(StoreFull), store.write() as tx:
        tx.put(b"more", bytes(500_000))
    assert store.grow()
    with store.write() as tx:
        tx.put(b"more", bytes(500_000))
    store.close()


def test_a_full_disk_refuses_writes_keeps_reads_and_what_was_committed(tmp_path: Path) -> None:
    """On a file system of 2 MiB of its own. The write is cut short, which LMDB calls an input/output error."""
    code = f"""
store = open_store(Path({str(tmp_path)!r}), map_bytes=1 << 24, map_bytes_max=1 << 30)
with store.write() as tx: tx.put(b"k1", b"one")
for attempt in range(2):
    try:
        with store.write() as tx:
            for n in range(400): tx.put(b"big%d" % n, bytes(10_000))
    except StoreFull as error:
        print("full", store.grow(), store.grow())
    with store.read() as tx: print(tx.get(b"k1"), tx.get(b"big0"))
with store.write() as tx: tx.put(b"k2", b"two")
store.close()
store = open_store(Path({str(tmp_path)!r}), map_bytes=1 << 24, map_bytes_max=1 << 30)
with store.read() as tx: print(list(tx.scan(b"b", b"l")))
"""
    try:
        mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=2m none "$0" && exec "$@"', str(tmp_path)]
        subprocess.run([*mounted, "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted: a full disk is NOT tested on this machine")
    child = in_child(code, before=mounted)
    full = ["full False True", "b'one' None"]
    assert child.stdout.splitlines() == [*full, *full, "[(b'k1', b'one'), (b'k2', b'two')]"], child.stderr


FAILING_SYNC = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <unistd.h>
#include <stdlib.h>
int fdatasync(int fd) { errno = atoi(getenv("FAIL_ERRNO")); return getenv("FAIL_NOW") ? -1 : 0; }
int fsync(int fd) { return fdatasync(fd); }
"""


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS], ids=["EIO", "EROFS"])
def test_a_failed_sync_is_damage_and_was_not_committed(tmp_path: Path, code: int) -> None:
    library = preloaded(tmp_path)
    child = in_child(
        f"""
store = open_store(Path({str(tmp_path / "store")!r}), map_bytes=1 << 24, map_bytes_max=1 << 30)
with store.write() as tx: tx.put(b"k1", b"one")
os.environ["FAIL_NOW"] = "1"
try:
    with store.write() as tx: tx.put(b"k2", b"two")
except StoreDamaged as error:
    print("damaged:", error)
""",
        LD_PRELOAD=str(library),
        FAIL_ERRNO=str(code),
    )
    assert child.stdout.startswith("damaged: "), child.stderr
    store = opened(tmp_path / "store")
    with store.read() as tx:
        assert list(tx.scan(b"k", b"l")) == [(b"k1", b"one")]
    store.close()


def preloaded(path: Path) -> Path:
    """A library whose syncs fail on demand; skips where there is no C compiler to make it."""
    source, library = path / "failing.c", path / "failing.so"
    source.write_text(FAILING_SYNC)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    except FileNotFoundError:
        pytest.skip("no C compiler: failing syncs are NOT tested on this machine")
    return library


def test_ended_readers_that_someone_still_holds_keep_no_slot(tmp_path: Path) -> None:
    """A task that waits keeps its variables: a crowd of first contacts used up all reader slots."""
    store = opened(tmp_path)
    held = []
    for _ in range(200):
        with store.read() as tx:
            held.append(tx)
    store.close()


def test_a_death_while_a_store_is_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    aside = tmp_path / "making"
    aside.mkdir()
    (aside / "data.mdb").write_bytes(b"half a page")
    store = opened(tmp_path)
    with store.write() as tx:
        tx.put(b"Dkey", b"value")
    store.close()
    assert not aside.exists()
    store = opened(tmp_path)
    with store.read() as tx:
        assert tx.get(b"Dkey") == b"value"
    store.close()
