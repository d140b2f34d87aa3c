"""A daemon with a stock, and devices that lease from it: what tests of leases share."""

from typing import Any

from syncd.engine import leases
from syncd.engine.batch import space_row
from syncd.engine.commands import Tended, TendLeases
from syncd.engine.reclaiming import listed
from syncd.store import fsck, keys
from syncd.store.tables import DOCUMENTS, EPOCHS, SPACES, EpochRow
from syncd.wire.messages import OutcomeEntry
from tests.engine.kit import SPACE, Daemon, device, one, raw

ANN, BEN = device(1), device(2, user="ben")
WHERE = ("stock", "chair", "left")
L, M = b"l" * 16, b"m" * 16
RUN = b"run" + bytes(13)
TTL = 3_600_000


def op(action: str, *args: Any) -> list[Any]:
    return [f"bounded.{action}", *WHERE, *args]


class Shop:
    """A daemon with a stock of ten chairs, and devices that count their own changes."""

    def __init__(self, seed: int = 0, stock: int = 10) -> None:
        self.daemon = Daemon(seed)
        self.n: dict[bytes, int] = {}
        self.mono_ms = 0
        self.daemon.attach(ANN)
        self.daemon.attach(BEN)
        assert self.do(ANN, ["create", *WHERE[:2]], op("restock", stock)).outcome == "applied"

    def do(self, author: Any, *operations: Any) -> OutcomeEntry:
        n = self.n[author.device] = self.n.get(author.device, 0) + 1
        return self.daemon.push(author, raw(n, *operations, base=self.daemon.head())).outcomes[0]

    def outcome(self, author: Any, *operations: Any) -> str:
        return self.do(author, *operations).outcome

    def lease(self, author: Any, lease: bytes, k: int, ttl: int | None = None) -> list[Any]:
        """The certificate of a lease that must be granted."""
        entry = self.do(author, op("lease", lease, k, ttl))
        assert entry.outcome == "applied" and entry.detail is not None, entry
        (certificate,) = entry.detail["leases"]
        return list(certificate)

    def wait(self, ms: int, *, run: bytes = RUN) -> Tended:
        """Time passes, by both clocks; the server looks at them."""
        self.daemon.now_ms += ms
        self.mono_ms += ms
        return self.tend(run)

    def tend(self, run: bytes = RUN) -> Tended:
        return one(self.daemon.ask(TendLeases(run, self.mono_ms)), Tended)

    def value(self) -> dict[str, int]:
        with self.daemon.store.read() as tx:
            row = space_row(tx, SPACE)
            assert row is not None
            document = DOCUMENTS.get(tx, keys.document(row.id, *WHERE[:2]))
            assert document is not None
            value: dict[str, int] = document.fields["left"].value
            return value

    def leases(self) -> dict[bytes, int]:
        with self.daemon.store.read() as tx:
            return {each.lease: each.left for each in listed(tx, SPACE, 2000)}

    def restore(self, fork: int, epoch: bytes = b"e" * 16) -> None:
        """What a restore does: a new epoch that shares the seqs up to `fork` with the one before."""
        with self.daemon.store.write() as tx:
            row = space_row(tx, SPACE)
            assert row is not None
            EPOCHS.put(tx, keys.epoch(row.id, row.epoch), EpochRow(fork, 0))
            SPACES.put(tx, keys.space(SPACE), row._replace(epoch=epoch, parent=row.epoch, fork=fork))
            leases.freeze(tx, row.id, self.daemon.now_ms)

    def check(self) -> None:
        assert not self.daemon.alarms
        with self.daemon.store.read() as tx:
            assert list(fsck.check(tx)) == []
