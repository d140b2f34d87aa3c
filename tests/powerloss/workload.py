"""What runs under the recorder: commits of the real engine to the real store, each acknowledged when it has returned.

`python -m tests.powerloss.workload DIRECTORY KIND COMMITS SEED`. The acknowledgement is one write to the file
`acknowledged`, which the recorder puts into its order: the number of the commit and the digest of all rows.

The changes make LMDB do what is dangerous for it: pages that are freed and used again, values longer than a page,
deletes, acks that trim a device's log, and a map that has to grow.
"""

import hashlib
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import lmdb

from syncd.core.changes import parsed_change
from syncd.engine.batch import space_row
from syncd.engine.commands import Ack, Attach, Author, Command, Push
from syncd.engine.engine import Engine
from syncd.engine.grants import Grant, Role
from syncd.store import keys
from syncd.store.api import Store, StoreFull
from syncd.store.lmdb import LmdbStore, open_store
from syncd.store.tables import REPLICAS

MAP_BYTES: Final = 1 << 17  # grows within a few commits
MAP_BYTES_MAX: Final = 1 << 26
SPACES: Final = ("room/1", "room/2")
DEVICES: Final = 3
DIGEST_BYTES: Final = 16
MARK: Final = struct.Struct(f"<Q{DIGEST_BYTES}s")


def digest(store: Store) -> bytes:
    """Of all rows."""
    hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with store.read() as tx:
        for key, value in tx.scan(b"\0", b"\xff" * 8):
            hashed.update(struct.pack("<II", len(key), len(value)) + key + value)
    return hashed.digest()


def _unsafe(directory: Path, **flags: bool) -> LmdbStore:
    """A store opened as the product never does: what the proof must catch."""
    open_store(directory, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES_MAX).close()  # says which version it is
    env = lmdb.open(str(directory), map_size=MAP_BYTES, lib_version=0, **flags)
    return LmdbStore(env, MAP_BYTES_MAX, None)


OPENED: Final[dict[str, Callable[[Path], LmdbStore]]] = {
    "product": lambda directory: open_store(directory, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES_MAX),
    "nosync": lambda directory: _unsafe(directory, sync=False),
    "nometasync": lambda directory: _unsafe(directory, metasync=False),
}


class Workload:
    """Commands from a seed, for some devices in some spaces."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store, self._random = store, random
        self._engine = Engine(random.randbytes)
        self._authors = [
            Author(bytes([number + 1]) * 16, bytes([number + 1]) * 16, "device", "ann", (Grant("**", Role.OWNER),))
            for number in range(DEVICES)
        ]
        self._numbers: dict[tuple[bytes, str], int] = {}
        self._now_ms = 1_000_000

    def commit(self) -> None:
        """One transaction with a few commands; a full map grows, and it is tried again."""
        commands = [self._command() for _ in range(self._random.randint(1, 3))]
        self._now_ms += self._random.randrange(5_000)
        while True:
            try:
                with self._store.write() as tx:
                    self._engine.decide(tx, self._now_ms, commands)
                return
            except StoreFull:
                assert self._store.grow(), "the map may become much larger than this workload needs"

    def _command(self) -> Command:
        author, space = self._random.choice(self._authors), self._random.choice(SPACES)
        with self._store.read() as tx:
            row = space_row(tx, space)
        if row is None:
            return Attach(author, space, None, 0, 0, None, 0, None)
        highest = self._numbers.get((author.device, space), 0)
        if highest and self._random.random() < 0.25:
            settled = self._random.randint(0, highest) if self._random.random() < 0.5 else highest
            return Ack(author, space, row.epoch, row.head, row.head, min(settled, self._durable(author, space)))
        changes = []
        for n in range(highest + 1, highest + 1 + self._random.randint(1, 3)):
            raw = [n, self._random.randbytes(8), row.head, self._now_ms, list(self._operations())]
            changes.append(parsed_change(raw))
            self._numbers[author.device, space] = n
        return Push(author, space, row.epoch, tuple(changes))

    def _durable(self, author: Author, space: str) -> int:
        """Acks speak of what was answered: not of pushes in the same transaction."""
        with self._store.read() as tx:
            row = space_row(tx, space)
            assert row is not None
            replica = REPLICAS.get(tx, keys.replica(row.id, author.device))
        return 0 if replica is None else replica.highest

    def _operations(self) -> Sequence[Any]:
        random = self._random
        name = f"d{random.randrange(20)}"
        size = random.choice((10, 100, 1_500, 9_000))
        made: list[list[Any]] = [
            [["create", "notes", name], ["reg.set", "notes", name, "text", random.randbytes(size)]],
            [["reg.set", "notes", name, "text", random.randbytes(size)]],
            [["counter.inc", "tally", "all", "count", 1]],
            [["set.add", "notes", name, "tags", random.randrange(100)]],
            [["delete", "notes", name]],
        ]
        return random.choice(made) if random.random() < 0.9 else [["create", "tally", "all"]]


def main(directory: Path, kind: str, commits: int, seed: int) -> None:
    acknowledged = os.open(directory / "acknowledged", os.O_WRONLY | os.O_CREAT, 0o600)
    store = OPENED[kind](directory / "made" / "store")
    workload = Workload(store, Random(seed))
    os.write(acknowledged, MARK.pack(0, digest(store)))
    for number in range(1, commits + 1):
        workload.commit()
        os.write(acknowledged, MARK.pack(number, digest(store)))
    os._exit(0)  # as abruptly as the power goes: closing might sync


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
