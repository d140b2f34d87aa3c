"""What tests of the engine share: a store in memory, an engine with seeded entropy, authors, and short ways to ask."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, TypeVar

from syncd.core.changes import parsed_change
from syncd.core.texts import Merging
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
    Decision,
    Push,
    Pushed,
    Result,
)
from syncd.engine.engine import Engine
from syncd.engine.frontier import Retention, is_due
from syncd.engine.grants import Grant, Role
from syncd.engine.quotas import Quotas
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.memory import MemoryStore
from syncd.store.tables import REPLICAS, SPACES, ReplicaRow, SpaceRow
from syncd.wire.messages import Delta
from tests.oracle.replica import Replica

SPACE = "team/board"
OWNER = (Grant("**", Role.OWNER),)

R = TypeVar("R")


def replica_row(tx: Reader, space: str, device: bytes) -> ReplicaRow | None:
    """A device's place in a space."""
    row = space_row(tx, space)
    return None if row is None else REPLICAS.get(tx, keys.replica(row.id, device))


def space_rows(tx: Reader) -> Iterator[tuple[str, SpaceRow]]:
    """All spaces by name."""
    for key, row in SPACES.scan(tx, keys.table_range(keys.SPACE)):
        yield key[1:].decode(), row


def device(number: int, *, installation: int = 0, role: Role = Role.OWNER, user: str = "ann") -> Author:
    return Author(bytes([number]) * 16, bytes([number, installation]) * 8, "device", user, (Grant("**", role),))


def api_key(number: int = 200) -> Author:
    return Author(bytes([number]) * 16, None, "key", "key:backend", OWNER)


def nonce(n: int, salt: int = 0) -> bytes:
    return bytes([salt, 7]) + n.to_bytes(6, "big")


def raw(n: int, *operations: Any, base: int = 0, stamp: int = 0, salt: int = 0) -> list[Any]:
    """A change as it travels."""
    return [n, nonce(n, salt), base, stamp, list(operations)]


def one(result: Result, kind: type[R]) -> R:
    """The result, which must be of this kind."""
    assert isinstance(result, kind), result
    return result


class Daemon:
    """Store and engine as the daemon joins them: every `decide` is one committed transaction."""

    def __init__(
        self,
        seed: int = 0,
        quotas: Quotas | None = None,
        retention: Retention | None = None,
        merging: Merging | None = None,
    ) -> None:
        self.store = MemoryStore()
        self.retention = retention or Retention()
        self.engine = Engine(Random(seed).randbytes, quotas, self.retention, merging=merging)
        self.now_ms = 1_000
        self.deltas: list[Delta] = []  # all live ones, in commit order
        self.alarms: list[str] = []

    def decide(self, *commands: Command) -> Decision:
        with self.store.write() as tx:
            decision = self.engine.decide(tx, self.now_ms, commands)
        assert len(decision.results) == len(commands)
        self.deltas.extend(decision.deltas)
        self.alarms.extend(decision.alarms)
        return decision

    def ask(self, command: Command) -> Result:
        return self.decide(command).results[0]

    def attach(self, author: Author, space: str = SPACE, **positions: Any) -> Attached:
        where = {"epoch": None, "complete": 0, "resume": 0, "start": None, "settled": 0, "chain": None, **positions}
        return one(self.ask(Attach(author, space, **where)), Attached)

    def push_result(self, author: Author, *changes: Any, space: str = SPACE, epoch: bytes | None = None) -> Result:
        parsed = tuple(parsed_change(change) if isinstance(change, list) else change for change in changes)
        return self.ask(Push(author, space, epoch or self.epoch(space), parsed))

    def push(self, author: Author, *changes: Any, space: str = SPACE) -> Pushed:
        return one(self.push_result(author, *changes, space=space), Pushed)

    def outcome(self, author: Author, change: Any, space: str = SPACE) -> str:
        """Push one change; the name of its outcome."""
        return self.push(author, change, space=space).outcomes[0].outcome

    def ack(self, author: Author, applied: int, settled: int, space: str = SPACE) -> Result:
        epoch = self.epoch(space)
        assert epoch is not None
        return self.ask(Ack(author, space, epoch, applied, applied, settled))

    def row(self, space: str = SPACE) -> SpaceRow:
        with self.store.read() as tx:
            row = space_row(tx, space)
        assert row is not None
        return row

    def collect(self, space: str = SPACE) -> int:
        """Steps of collection until nothing is due. How many rows were dropped."""
        dropped = 0
        while True:
            with self.store.read() as tx:
                row = space_row(tx, space)
                if row is None or not is_due(tx, row, self.now_ms, self.retention):
                    return dropped
            dropped += one(self.ask(Collect(space)), Collected).dropped_count

    def epoch(self, space: str = SPACE) -> bytes | None:
        with self.store.read() as tx:
            position = reading.position(tx, space)
        return None if position is None else position.epoch

    def head(self, space: str = SPACE) -> int:
        with self.store.read() as tx:
            position = reading.position(tx, space)
        return 0 if position is None else position.seq

    def page(self, replica: Replica, attached: Attached, bytes_target: int) -> Delta:
        """The next delta for a replica that asks at its stored positions."""
        start = replica.start if replica.complete == 0 else None
        cursor = reading.Cursor(attached.space, attached.space_id, replica.complete, replica.resume, start)
        with self.store.read() as tx:
            return reading.page(tx, cursor, bytes_target)

    def catch_up(self, replica: Replica, attached: Attached, bytes_target: int = 1 << 18) -> Sequence[Delta]:
        """Pages until the replica is complete."""
        pages: list[Delta] = []
        while not pages or not pages[-1].complete:
            pages.append(self.page(replica, attached, bytes_target))
            assert replica.receive(pages[-1])
        return pages
