"""The least server there can be: it gives seqs and calls the merge core directly, with no store and no engine."""

from collections.abc import Sequence

from syncd.core.changes import Change, RefusedChange, parsed_change
from syncd.core.documents import Document, Draft, reservations
from syncd.core.fields import Observer, OperationRefused
from syncd.core.sums import SUM_MASK, document_sum, sum_change
from syncd.engine.batch import SpaceWork, entry_of, is_forgotten
from syncd.engine.changes import GROWTH_BYTES_MAX
from syncd.engine.reserving import ENDING, Held, taken
from syncd.wire.messages import Delta
from tests.oracle.histories import KEY_AUTHOR, Answer, Sent
from tests.oracle.replica import Replica
from tests.oracle.shape import check_document

Key = tuple[str, str]


class Sequencer:
    """Keeps documents in a dict. A second server of the same kind could not be told from the real one by a client."""

    def __init__(self, wins: frozenset[str] = frozenset()) -> None:
        self.documents: dict[Key, Document] = {}
        self.wins = wins  # collections in which updates win
        self.head = self.time = self.sum = self.floor = self.frontier = 0
        self._pushes = 0

    def collect(self, now_ms: int) -> None:
        """Forget what was deleted a while ago, whoever has not heard of it: every rule has to bear that."""
        self._pushes += 1
        if self._pushes % 3 == 0:
            self.floor = max(self.floor, self.head - 8)
            self.frontier = max(self.frontier, self.head - 5)

    def _known(self, key: Key) -> Document | None:
        found = self.documents.get(key)
        if found is not None and found.has_body and found.rev <= self.frontier:
            found = found.bodiless()
        return None if found is not None and is_forgotten(key, found, self.floor) else found

    def push(self, device: int, changes: Sequence[Sent], now_ms: int) -> list[Answer]:
        return [self._take(device, sent, now_ms) for sent in changes]

    def _take(self, device: int, sent: Sent, now_ms: int) -> Answer:
        change = parsed_change(sent.wire())
        if isinstance(change, RefusedChange):
            return Answer(change.outcome, None, change.op, ())
        assert isinstance(change, Change)
        time = max(self.time, now_ms)
        context = tuple((former.device[0], former.seq) for former in change.context)
        by = Observer(change.base, device + 1, device != KEY_AUTHOR, self.head + 1, change.stamp, time, context)
        drafts: dict[Key, Draft] = {}
        met: list[tuple[int, str, int]] = []
        verdicts = set()
        held: Held = {}
        for index, operation in enumerate(change.operations):
            key = (operation.collection, operation.id)
            if key not in drafts:
                drafts[key] = Draft(self._known(key), by, key[0] in self.wins)
            before = drafts[key].document()
            try:
                step = drafts[key].apply(operation, 1, self.floor)
            except OperationRefused as refused:
                return Answer(refused.outcome, None, index, ())
            if operation.verb in (*ENDING, "create") and taken(self._holder, held, key, before, drafts[key].document()):
                return Answer("precondition", None, index, ())
            verdicts.add(step.verdict)
            met.extend((index, what, seq) for what, seq in step.met)
        self.head, self.time = self.head + 1, time
        for key, draft in drafts.items():
            self._keep(key, draft.document(), len(change.payload) + GROWTH_BYTES_MAX * len(change.operations))
        outcome = next((word for word in ("merged", "applied") if word in verdicts), "noop")
        return Answer(outcome, self.head, None, tuple(met))

    def _holder(self, key: Key) -> Key | None:
        """Who holds a unique key, looked for everywhere."""
        return next((name for name in self.documents if reservations(self._known(name)).get(key[0]) == key[1]), None)

    def _keep(self, key: Key, document: Document | None, growth: int) -> None:
        if document is None:
            return
        before = self._known(key)
        self.sum = (self.sum + sum_change(*key, before, document)) & SUM_MASK
        self.documents[key] = document
        check_document(before, document, self.head)
        was = 0 if before is None else SpaceWork.bytes_exact(before)
        assert SpaceWork.bytes_exact(document) <= max(was, 96) + growth, "the engine's cheap bound of sizes holds"

    def deltas(self, replica: Replica, device: int) -> None:
        since = replica.complete
        changed = [(key, doc) for key, doc in self.documents.items() if doc.rev > since]
        entries = tuple(
            entry_of(key, document, since) for key, document in sorted(changed, key=lambda item: item[1].rev)
        )
        total = self.sum.to_bytes(8, "big")
        assert replica.receive(
            Delta("s", bytes(16), since, since, self.head, self.time, bytes(8), entries, complete=True, sum=total)
        )

    def finish(self) -> None:
        total = sum(document_sum(*key, document) for key, document in self.documents.items()) & SUM_MASK
        assert total == self.sum, "the sum kept step by step is the sum computed from nothing"
