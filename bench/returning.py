"""A device that was away for longer than deletions are kept: what it gets, what it costs, and what causality costs.

Counts, not rates: bytes, documents, changes. Three devices of the reference client download a space, go offline at
different moments and edit; the space goes on, so that 1, 10 and 100 % of its documents differ from theirs, and deletes
four times as many documents as it has, some of which they have, too, and edit. When each deletion has been forgotten,
they come back: by comparing, since nobody can tell any more what was deleted. Each change must be answered, what was
deleted stays deleted, and what is received must go by what differs.

Beside it: what a change carries so that its causality is known, what a document keeps of how many devices wrote to it,
what a first download has of deletions, and what a counter costs that was incremented very often meanwhile.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack
import trio

from bench import workload
from bench.daemon import RAISED, Daemon
from bench.measure import Figure, Target
from bench.native import Failed
from bench.reader import CaughtUp, Reader
from bench.writer import Writer
from syncd.engine.batch import space_row
from syncd.store import keys
from syncd.store.api import Reader as StoreReader
from syncd.store.lmdb import open_store
from syncd.store.tables import SpaceRow
from syncd_client import Device, open_device
from syncd_client.trio_shell import connect_websocket, system_ports

SPACE, COUNTED = "bench/returning", "bench/counted"
DOCUMENTS, DOCUMENTS_QUICK = 50_000, 5_000
DELETIONS_PER_DOCUMENT = 4
EDITS_PER_DOCUMENT = 9  # by which the one in a hundred that differs for all is edited offline
INCREMENTS, INCREMENTS_QUICK = 100_000, 5_000
WRITERS, WRITERS_QUICK = 1_000, 100
WRITERS_FEW = 10
INCREMENTS_AT_ONCE = 500  # changes in a push
SHARES = (1, 10, 100)  # of a hundred documents, differ
MAP_BYTES = 1 << 30  # address space
FORGOTTEN_S_MAX = 600.0  # a sweep of the collector comes once a minute
BACK_S_MAX = 900.0
TEXT = f"{workload.TITLE} {workload.BODY}"
# As short as it can be: a device lapses when the changes that it lacks come to a MiB.
RETENTION = {
    "SYNCD_RETENTION__LAPSE_BYTES": f"{1 << 20}",
    "SYNCD_RETENTION__RECENT_HOURS": "0",
    "SYNCD_RETENTION__HISTORY_DAYS": "0",
}
PUSH, SUMS, DELTA, OUTCOMES, REPAIR = 4, 6, 34, 35, 38
CAUSALITY_TARGET = Target(most=24.0)
NONE_TARGET = Target(most=0.0)
ALL_TARGET = Target(least=1.0)
EVEN_TARGET = Target(most=1.5)  # half of what differs for the first was deleted, which is told in 8 bytes
SAME_TARGET = Target(most=1.1)  # of four writers it keeps a number, which is longer where there are more
ONE_TARGET = Target(most=1.0)


@dataclass(slots=True)
class Meter:
    """What went over one device's connection: bytes of messages by their code, the outcomes of its changes by their
    number, and the most of a change's causality."""

    sent: Counter[int] = field(default_factory=Counter)
    received: Counter[int] = field(default_factory=Counter)
    causality_bytes_max: int = 0
    outcomes: dict[int, str] = field(default_factory=dict)

    def count(self, frame: bytes, into: Counter[int]) -> None:
        unpacker = msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(frame)
        at = 0
        for code, body in unpacker:
            into[code] += unpacker.tell() - at
            at = unpacker.tell()
            if code == OUTCOMES:
                self.outcomes.update({entry[0]: entry[2] for entry in body["outcomes"]})
            if code == PUSH:
                for change in body["changes"]:
                    self.causality_bytes_max = max(self.causality_bytes_max, causality_bytes(change))


def causality_bytes(change: list[Any]) -> int:
    """Of a change on the wire: its number (whose device is the connection's), its nonce, its base."""
    return sum(len(msgpack.packb(part)) for part in change[:3])


class _Metered:
    def __init__(self, transport: Any, meter: Meter) -> None:
        self._transport, self._meter = transport, meter

    async def send(self, frame: bytes) -> None:
        self._meter.count(frame, self._meter.sent)
        await self._transport.send(frame)

    async def receive(self) -> bytes:
        frame: bytes = await self._transport.receive()
        self._meter.count(frame, self._meter.received)
        return frame

    async def close(self, code: int, reason: str) -> None:
        await self._transport.close(code, reason)


@asynccontextmanager
async def _online(store: Path, daemon: Daemon, token: str, meter: Meter) -> AsyncIterator[Device]:
    @asynccontextmanager
    async def connect(url: str, subprotocol: str) -> AsyncIterator[_Metered]:
        async with connect_websocket(url, subprotocol) as transport:
            yield _Metered(transport, meter)

    ports = replace(system_ports(), connect=connect)
    url = f"ws://127.0.0.1:{daemon.port}/v1/sync"
    async with open_device(store, url=url, token=token, ports=ports, durability="off") as device:
        yield device


@dataclass(frozen=True, slots=True)
class Names:
    """Documents by what becomes of them: of `kept` the first hundredth differs for all, the first tenth for two of the
    devices. `doomed`: deleted while the devices that have them are away. `passing`: made and deleted meanwhile."""

    kept: list[str]
    doomed: list[str]
    passing: list[str]

    @property
    def hot(self) -> list[str]:
        return self.kept[: len(self.kept) // 100]


def names(documents: int) -> Names:
    def some(kind: str, count: int) -> list[str]:
        return [f"{kind}{number}" for number in range(count)]

    doomed = documents // 100
    return Names(some("d", documents), some("x", doomed), some("p", DELETIONS_PER_DOCUMENT * documents - doomed))


@dataclass(frozen=True, slots=True)
class Back:
    """A device that came back. `share`: of a hundred documents, differ; `differ`: how many, with those deleted."""

    share: int
    differ: int
    held: int
    changes: int
    resurrected: int
    meter: Meter

    @property
    def document_bytes(self) -> int:
        return self.meter.received[REPAIR] + self.meter.received[DELTA]

    @property
    def bytes(self) -> int:
        return sum(self.meter.received.values()) + sum(self.meter.sent.values())


async def _leave(store: Path, daemon: Daemon, token: str, found: Names) -> int:
    """A new device downloads the space, goes offline, and edits: what differs for all, and what will be deleted. The
    number of its changes."""
    async with _online(store, daemon, token, Meter()) as device:
        space = device.space(SPACE)
        space.subscribe()
        await space.wait_complete()
    changes = 0
    async with open_device(store, durability="off") as device:
        space = device.space(SPACE)
        for _ in range(EDITS_PER_DOCUMENT):
            for name in found.hot:
                space.inc(workload.COLLECTION, name, "votes")
                changes += 1
        for name in found.doomed:
            space.inc(workload.COLLECTION, name, "votes")
            changes += 1
    return changes


async def _return(
    store: Path, daemon: Daemon, token: str, found: Names, share: int, changes: int, back_before: int, where: Path
) -> Back:
    """It comes back: all its changes are answered, and it agrees with the server to the byte of a checksum."""
    meter = Meter()
    with trio.fail_after(BACK_S_MAX):
        async with _online(store, daemon, token, meter) as device:
            space = device.space(SPACE)
            await space.wait_settled()
            await device.wait_until(lambda: space.is_complete)
            shown = {document.id: document for document in space.documents(workload.COLLECTION)}
            server = _row(where, SPACE)
            if space.checksum.hex() != f"{server.sum:016x}":
                raise Failed(f"a device that came back disagrees with the server about {SPACE}")
    votes = EDITS_PER_DOCUMENT * (back_before + 1)
    wrong = [name for name in found.hot if name not in shown or shown[name].fields.get("votes") != votes]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(found.hot)} documents that were edited offline do not count all votes")
    if not meter.sent[SUMS]:
        raise Failed("a device that was away came back without comparing: nothing had been forgotten")
    differ = len(found.kept) * share // 100 + len(found.doomed)
    resurrected = len(shown.keys() - set(found.kept))
    return Back(share, differ, len(found.kept) + len(found.doomed), changes, resurrected, meter)


def _row(where: Path, name: str) -> SpaceRow:
    """A space's row, read beside the daemon."""
    with _read(where) as tx:
        row = space_row(tx, name)
    if row is None:
        raise Failed(f"the store has no space {name}")
    return row


@contextmanager
def _read(where: Path) -> Iterator[StoreReader]:
    store = open_store(where, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES, read_only=True)
    try:
        with store.read() as tx:
            yield tx
    finally:
        store.close()


def _wait_forgotten(where: Path, say: Callable[[str], None]) -> None:
    """Until no deletion of the space is known any more."""
    say("returning: waiting until the collector has forgotten the deletions")
    deadline = time.monotonic() + FORGOTTEN_S_MAX
    while (row := _row(where, SPACE)).floor < row.head:
        if time.monotonic() > deadline:
            raise Failed(
                f"after {FORGOTTEN_S_MAX:.0f} s deletions are known from {row.floor} on, of {row.head} changes"
            )
        time.sleep(1.0)


def _returned(
    daemon: Daemon, where: Path, token: str, directory: Path, documents: int, say: Callable[[str], None]
) -> tuple[list[Back], CaughtUp]:
    """The devices that came back, and a first download at the end."""
    found = names(documents)
    tenth = found.kept[: len(found.kept) // 10]
    with Writer(daemon.port, "writer", token) as writer:
        say(f"returning: making {documents + len(found.doomed)} documents")
        writer.create(SPACE, [*found.kept, *found.doomed], TEXT)
        made: dict[int, int] = {}
        for share, since in ((100, found.kept[len(tenth) :]), (10, tenth[len(found.hot) :]), (1, found.hot)):
            say(f"returning: a device leaves, for which {share} % will differ")
            made[share] = trio.run(_leave, directory / f"device-{share}", daemon, token, found)
            writer.set(SPACE, since, TEXT.upper())
        say(f"returning: {len(found.doomed) + len(found.passing)} deletions")
        for first in range(0, len(found.passing), documents):
            some = found.passing[first : first + documents]
            writer.create(SPACE, some, TEXT)
            writer.delete(SPACE, some)
        writer.delete(SPACE, found.doomed)
    _wait_forgotten(where, say)
    with Reader(daemon.port, "new", token) as reader:
        download = reader.catch_up(SPACE)
    backs = []
    for index, share in enumerate(SHARES):
        say(f"returning: the device comes back for which {share} % differ")
        store = directory / f"device-{share}"
        backs.append(trio.run(_return, store, daemon, token, found, share, made[share], index, where))
    return backs, download


# -- what causality costs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a document that so many devices wrote to: its row in the store, and the first download of its space."""

    writers: int
    row_bytes: int
    download_bytes: int


def _written(daemon: Daemon, where: Path, token: str, writers: int, changes: int) -> Sizes:
    """A document to which devices write in turn, so many changes in all, each having read what the last one wrote."""
    space, name = f"bench/written/{writers:06}", "shared"
    with Writer(daemon.port, f"maker of {writers}", token) as writer:
        writer.create(space, [name], TEXT)
    for index in range(changes):
        with Writer(daemon.port, f"writer {index % writers} of {writers}", token, index // writers) as writer:
            at = writer.catch_up(space).position
            text = ["reg.set", workload.COLLECTION, name, "text", TEXT.format(index)]
            writer.push(space, [[text, ["counter.inc", workload.COLLECTION, name, "votes", 1]]], at)
    with Reader(daemon.port, f"reader of {writers}", token) as reader:
        found = reader.catch_up(space)
    key = keys.document(_row(where, space).id, workload.COLLECTION, name)
    with _read(where) as tx:
        raw = tx.get(key)
    if raw is None or found.documents != 1:
        raise Failed(f"{found.documents} documents came from {space}, not one that is stored")
    return Sizes(writers, len(raw), found.bytes)


def _counted(daemon: Daemon, token: str, increments: int) -> CaughtUp:
    """What a device is brought that was there before a counter was incremented so often."""
    name = "counter"
    more = ["counter.inc", workload.COLLECTION, name, "votes", 1]
    with Writer(daemon.port, "counting", token) as writer:
        writer.create(COUNTED, [name], TEXT)
        with Reader(daemon.port, "away", token) as reader:
            before = reader.catch_up(COUNTED).position
        for first in range(0, increments, INCREMENTS_AT_ONCE):
            writer.push(COUNTED, [[more]] * min(INCREMENTS_AT_ONCE, increments - first))
    with Reader(daemon.port, "away", token) as reader:
        return reader.catch_up(COUNTED, before)


# -- figures ----------------------------------------------------------------------------------------------------------


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `Failed`."""
    documents = DOCUMENTS_QUICK if quick else DOCUMENTS
    writers = WRITERS_QUICK if quick else WRITERS
    increments = INCREMENTS_QUICK if quick else INCREMENTS
    with Daemon(directory / "causality", None) as daemon:
        token = daemon.token("bench")
        say(f"returning: {writers} devices write to one document, one after the other")
        where = directory / "causality" / "store"
        few, many = (_written(daemon, where, token, count, writers) for count in (WRITERS_FEW, writers))
        say(f"returning: {increments} increments")
        counted = _counted(daemon, token, increments)
        daemon.check()
    with Daemon(directory / "returning", None, settings=RAISED | RETENTION) as daemon:
        where = directory / "returning" / "store"
        backs, first = _returned(daemon, where, daemon.token("bench"), directory, documents, say)
        daemon.check()
    return figures(backs, first, few, many, counted, increments)


def figures(
    backs: list[Back], first: CaughtUp, few: Sizes, many: Sizes, counted: CaughtUp, increments: int
) -> list[Figure]:
    """The rows of the table."""
    found = []
    for back in backs:
        outcomes = Counter(back.meter.outcomes.values())
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        answered = outcomes.total() / back.changes
        what = f"{back.share} % differ"
        found += [
            _figure(f"{what}: changes answered / made", "ratio", answered, ALL_TARGET, told),
            _figure(f"{what}: documents that came back from the dead", "documents", back.resurrected, NONE_TARGET),
            _figure(f"{what}: all that travelled, both ways", "bytes", back.bytes, detail=_parts(back.meter)),
            _figure(
                f"{what}: received of documents, for each that differs", "bytes", back.document_bytes / back.differ,
                detail=f"{back.differ} of {back.held} documents",
            ),
        ]  # fmt: skip
    each = [back.document_bytes / back.differ for back in backs]
    causality = max(back.meter.causality_bytes_max for back in backs)
    live = first.documents - first.deleted
    spread = "the greatest to the least: what is received goes by what differs"
    return [
        *found,
        _figure("received for each document that differs", "ratio", max(each) / min(each), EVEN_TARGET, spread),
        _figure("first download: tombstones", "documents", first.deleted, NONE_TARGET, f"{live} documents came"),
        _figure("causality of a change: number, nonce, base", "bytes", causality, CAUSALITY_TARGET, "at most"),
        _figure(
            f"a document that {many.writers} devices wrote to / {few.writers}, as often", "ratio",
            many.row_bytes / few.row_bytes, SAME_TARGET, f"{few.row_bytes} and {many.row_bytes} bytes stored",
        ),
        _figure(
            f"the same, downloaded by {many.writers} / {few.writers}", "ratio",
            many.download_bytes / few.download_bytes, SAME_TARGET,
            f"{few.download_bytes} and {many.download_bytes} bytes",
        ),
        _figure(
            f"field values after {increments} increments", "values", counted.values, ONE_TARGET,
            f"{counted.bytes} bytes",
        ),
    ]  # fmt: skip


def _figure(name: str, unit: str, value: float, target: Target | None = None, detail: str = "") -> Figure:
    return Figure("returning", name, unit, (float(value),), target, detail)


def _parts(meter: Meter) -> str:
    documents = meter.received[REPAIR] + meter.received[DELTA]
    sums = meter.sent[SUMS]
    rest = sum(meter.received.values()) - documents - meter.received[OUTCOMES]
    return (
        f"sent: changes {meter.sent[PUSH]}, sums {sums}; received: documents {documents},"
        f" outcomes {meter.received[OUTCOMES]}, other {rest}"
    )
