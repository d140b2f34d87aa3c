"""The real engine as a `Server` of random histories: batches, pages and live deltas are mixed at random."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from syncd.app.schemas import schemas
from syncd.core.changes import parsed_change
from syncd.core.ids import Position
from syncd.core.schemas import Schema
from syncd.engine import reading
from syncd.engine.batch import space_row
from syncd.engine.commands import (
    Ack,
    Attach,
    Attached,
    Author,
    Collect,
    Collected,
    Command,
    Post,
    Posted,
    Push,
    Result,
)
from syncd.engine.engine import Engine
from syncd.engine.explaining import explained
from syncd.engine.frontier import Retention
from syncd.engine.grants import Grant, Role
from syncd.engine.schemas import Schemas
from syncd.store import fsck, keys
from syncd.store.api import Reader
from syncd.store.memory import MemoryStore
from syncd.wire.messages import OutcomeEntry
from tests.engine.kit import SPACE, Daemon, api_key, device, one
from tests.oracle.histories import DOCUMENTS, KEY_AUTHOR, Answer, Sent, Tables
from tests.oracle.oracle import packed
from tests.oracle.replica import Replica

MET_MAX = 16


def _answer(outcome: str, seq: int | None, detail: dict[str, Any] | None) -> Answer:
    detail = detail or {}
    met = tuple((op, what, at) for op, what, at in detail.get("met", ()))
    return Answer(outcome, seq, detail.get("op"), met if len(met) < MET_MAX else None, detail.get("schema"))


class Asked(NamedTuple):
    """A command and its result. `needed_head`: what must be committed before it. `schemas`: those in force."""

    now_ms: int
    needed_head: int
    command: Command
    result: Result
    schemas: Schemas


class EngineServer:
    """Every replica catches up by pages of random size, now and then in pieces while others write, or by live deltas.
    What is deleted is forgotten after some ms, and devices that are silent for a little longer lapse. Beside the daemon
    runs another one that drops nothing: it is asked the same, and has to answer the same.

    At the end the whole run is decided once more by a second engine in batches of random size: the store must come out
    the same to the byte.
    """

    def __init__(self, seed: int, wins: frozenset[str] = frozenset()) -> None:
        self.random = Random(seed)
        self.seed = seed
        times = {"lapse_ms": self.random.choice((20, 60, 10_000)), "recent_ms": self.random.choice((0, 15))}
        self.retention = Retention(**times, history_ms=30)
        self.daemon = Daemon(seed, retention=self.retention)
        self.hoarder = Daemon(seed, retention=replace(self.retention, is_collecting=False))
        self._enact(Schemas((Grant("**", Role.NONE), Schema(name, name, update_wins=True)) for name in sorted(wins)))
        self.asked: list[Asked] = []
        self.attached: dict[int, Attached] = {}
        self.replicas: dict[int, Replica] = {}
        self.answers: dict[int, list[OutcomeEntry]] = {}

    def _enact(self, schemas: Schemas) -> None:
        self.schemas = self.daemon.engine.schemas = self.hoarder.engine.schemas = schemas

    def configure(self, tables: Tables) -> None:
        """These schemas are in force from the next batch on."""
        self._enact(schemas({name: {"spaces": "**", **table} for name, table in tables.items()}))

    def _author(self, number: int) -> Author:
        return api_key() if number == KEY_AUTHOR else device(number + 1)

    def _ask(self, command: Command, needed_head: int = 0) -> Result:
        self.hoarder.now_ms = self.daemon.now_ms
        result, same = self.daemon.ask(command), self.hoarder.ask(command)
        if isinstance(result, Collected):
            result = same = replace(result, dropped_count=0, is_more=False)
        assert result == same, "what is dropped alters no answer"
        assert self.daemon.deltas[-1:] == self.hoarder.deltas[-1:]
        self.asked.append(Asked(self.daemon.now_ms, needed_head, command, result, self.schemas))
        return result

    def _attach(self, number: int) -> Attached:
        if number not in self.attached:
            self.attached[number] = one(self._ask(_attach_of(self._author(number))), Attached)
        return self.attached[number]

    @property
    def floor(self) -> int:
        with self.daemon.store.read() as tx:
            row = space_row(tx, SPACE)
        return 0 if row is None else row.floor

    @property
    def frontier(self) -> int:
        with self.daemon.store.read() as tx:
            row = space_row(tx, SPACE)
        return 0 if row is None else row.frontier

    def collect(self, now_ms: int) -> None:
        self.daemon.now_ms = now_ms
        for _ in range(self.random.choice((0, 0, 1, 3))):
            self._ask(Collect(SPACE))

    def push(self, device: int, changes: Sequence[Sent], now_ms: int) -> list[Answer]:
        self.daemon.now_ms = now_ms
        attached = self._attach(device if device != KEY_AUTHOR else 0)
        if device == KEY_AUTHOR:
            (sent,) = changes
            base = Position(attached.epoch, sent.base)
            posted = one(self._ask(Post(api_key(), SPACE, sent.operations, base, None, None), _needed(sent)), Posted)
            return [_answer(posted.outcome, posted.seq, posted.detail)]
        answers: list[Answer] = []
        left = list(changes)
        while left:
            count = self.random.randint(1, len(left))
            answers += self._push(device, left[:count])
            if self.random.random() < 0.1:
                # The answer was lost: everything once more, which must alter nothing.
                head = self.daemon.head()
                assert self._push(device, left[:count], repeated=True) == answers[-count:]
                assert self.daemon.head() == head
            left = left[count:]
        for number, replica in self.replicas.items():
            if self.random.random() < 0.2 and not self._is_forgotten(replica):
                page = self.daemon.page(replica, self._attach(number), self.random.randint(1, 300))
                if not page.complete:
                    assert replica.receive(page)
        return answers

    def _push(self, device: int, changes: Sequence[Sent], repeated: bool = False) -> list[Answer]:
        parsed = tuple(parsed_change(sent.wire()) for sent in changes)
        epoch = self._attach(device).epoch
        needed = max(map(_needed, changes))
        result: Any = self._ask(Push(self._author(device), SPACE, epoch, parsed), needed)
        assert (result.gap, result.forked) == (None, None)
        if not repeated:
            self.answers.setdefault(device, []).extend(result.outcomes)
        return [_answer(entry.outcome, entry.seq, entry.detail) for entry in result.outcomes]

    def deltas(self, replica: Replica, device: int) -> None:
        attached = self._attach(device)
        self.replicas[device] = replica
        if self._is_forgotten(replica):
            # Nothing tells which of its documents are deleted: it begins anew.
            replica.complete = replica.resume = 0
            replica.start = None
            replica.documents.clear()
            replica.staged.clear()
            self.attached[device] = one(self._ask(_attach_of(self._author(device))), Attached)
        if self.random.random() < 0.3 and not replica.staged:
            for delta in self.daemon.deltas:
                assert replica.receive(delta), "live deltas leave no gap"
        else:
            target = self.random.choice((1, 60, 200, 1000, 1 << 18))
            since, twin = replica.complete, deepcopy(replica)
            pages = self.daemon.catch_up(replica, attached, target)
            # A first download differs in its pages only: they hold fewer rows where tombstones were dropped.
            assert since == 0 or list(self.hoarder.catch_up(twin, attached, target)) == list(pages)
        if self.random.random() < 0.5:
            settled = len(self.answers.get(device, ()))
            applied = replica.complete
            ack = Ack(self._author(device), SPACE, attached.epoch, applied, applied, settled)
            self._ask(ack, applied)

    def _is_forgotten(self, replica: Replica) -> bool:
        with self.daemon.store.read() as tx:
            row = space_row(tx, SPACE)
        start = replica.start if replica.complete == 0 else None
        return row is not None and reading.is_below_floor(row, replica.complete, start)

    def finish(self) -> None:
        assert not self.daemon.alarms
        with self.daemon.store.read() as tx, self.hoarder.store.read() as other:
            assert not list(fsck.check(other))
            assert list(_documents(tx)) == list(_documents(other))
            row, kept = space_row(tx, SPACE), space_row(other, SPACE)
            assert row == kept
        with self.daemon.store.read() as tx:
            assert not list(fsck.check(tx))
            self._check_explained(tx)
            for device, entries in self.answers.items():
                attached = self.attached[device]
                told = reading.outcomes_after(tx, attached.space_id, attached.slot, 0, 10_000).outcomes
                assert [*told] == entries, "what a device is told again is what it was told"
        self._check_batches()

    def _check_explained(self, tx: Reader) -> None:
        """Why a field has its value is told of every document, and names the value that is read."""
        for collection, document in DOCUMENTS:
            told = explained(tx, SPACE, collection, document, None)
            found = reading.document(tx, SPACE, collection, document)
            assert (found is not None) == (told["state"] == "live")
            shown = {name: field["value"] for name, field in told["fields"].items() if field["visible"]}
            assert found is None or packed(sorted(shown.items())) == packed(sorted(found.fields.items()))
            assert told["sentence"] and all(field["sentence"] for field in told["fields"].values())
            assert all(letter["sentence"] and letter["user"] for letter in told["refused"])

    def _check_batches(self) -> None:
        """The same commands in two other partitions into batches: the same results, and the same bytes stored.
        But for the clock of leases: one that ends in the batch in which it begins is never waited for."""
        images = []
        for size_max in (1, 8):
            store = MemoryStore()
            engine = Engine(Random(self.seed).randbytes, None, self.retention)
            for batch in self._batches(size_max):
                engine.schemas = batch[0].schemas
                with store.write() as tx:
                    decision = engine.decide(tx, batch[0].now_ms, [asked.command for asked in batch])
                results = [
                    replace(result, dropped_count=0, is_more=False) if isinstance(result, Collected) else result
                    for result in decision.results
                ]
                assert results == [asked.result for asked in batch]
            images.append({key: data for key, data in store.image().items() if key != keys.meta("lease clock")})
        assert images[0] == images[1], "batches of any size come to the same"

    def _batches(self, size_max: int) -> list[list[Asked]]:
        """Runs of commands of one moment, none of which reads what another of its batch writes: a client cannot name a
        position before it was committed."""
        batches: list[list[Asked]] = []
        head = committed = 0
        for asked in self.asked:
            limit = self.random.randint(1, size_max)
            last = batches[-1] if batches else []
            is_alone = isinstance(asked.command, Collect) or (last and isinstance(last[-1].command, Collect))
            if (
                not last
                or is_alone
                or (last[0].now_ms, last[0].schemas) != (asked.now_ms, asked.schemas)
                or len(last) >= limit
                or asked.needed_head > committed
            ):
                batches.append([])
                committed = head
            batches[-1].append(asked)
            head = max([head, *_seqs(asked.result)])
        return batches


def _documents(tx: Reader) -> Iterator[reading.Found]:
    after = None
    while True:
        listing = reading.documents(tx, SPACE, None, after, 10)
        yield from listing.found
        if listing.after is None:
            return
        after = listing.after


def _needed(sent: Sent) -> int:
    seen: list[int] = [operation[-1]["seen"] for operation in sent.operations if _has_seen(operation)]
    return max(sent.base, *seen, *(seq for _, _, seq in sent.context), 0)


def _has_seen(operation: Any) -> bool:
    return isinstance(operation[-1], dict) and "seen" in operation[-1]


def _seqs(result: Result) -> list[int]:
    if isinstance(result, Posted):
        return [result.seq or 0]
    return [entry.seq or 0 for entry in getattr(result, "outcomes", ())]


def _attach_of(author: Author) -> Command:
    return Attach(author, SPACE, None, 0, 0, None, 0, None)
