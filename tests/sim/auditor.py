"""The auditor: what was made, what became durable, what was told, and whether that may be.

Owns the invariants that are checked while a run goes on. Imports nothing of engine, store, net or client: of syncd only
ids and version vectors. It is told in plain data what devices committed, what the server made durable and what crossed
a wire, and computes what should have been by brute force (tests/oracle).

S1 what a device was told is durable. S2 a dot is recorded once; seqs have no gap. S3 the changes of a device enter in
order of n. S4 positions do not move back, nor pass the head. S5 deltas are contiguous on each connection. S6 a base is
no more than what its author had. S7 what a delta's checksum says is the oracle's sum at that seq. S11 nothing of a
space goes to one who may not read it. S17 one outcome for each change, the oracle's; on a connection, before its delta.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from syncd.core.ids import Dot
from syncd.core.vector import VersionVector
from tests.oracle.histories import Answer, Difference, _check_met
from tests.oracle.oracle import Oracle, Told, packed
from tests.oracle.replica import sum_of

WRITER, READER = 2, 1
MET_MAX = 16


class Violation(Exception):
    """An invariant is broken. `nodes`: who was involved."""

    def __init__(self, invariant: str, detail: str, *nodes: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant, self.detail, self.nodes = invariant, detail, nodes


@dataclass(frozen=True, slots=True)
class Sent:
    """A change as it reached the server; `operations` None for a void (of n..last)."""

    n: int
    last: int
    nonce: bytes
    base: int
    stamp: int
    operations: tuple[tuple[Any, ...], ...] | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the server made durable about one change."""

    nonce: bytes
    outcome: str
    seq: int | None


@dataclass(frozen=True, slots=True)
class Made:
    """What a device committed locally: the complete position that it had, and the operations."""

    nonce: bytes
    complete: int
    operations: bytes


@dataclass(slots=True)
class SpaceAudit:
    """All that was ever accepted in a space. `sums`: the oracle's checksum at each seq at which a commit ended."""

    oracle: Oracle = field(default_factory=Oracle)
    times: list[int] = field(default_factory=lambda: [0])
    prefix: list[VersionVector] = field(default_factory=lambda: [VersionVector()])
    recorded: dict[tuple[bytes, int], Recorded] = field(default_factory=dict)
    highest: dict[bytes, int] = field(default_factory=dict)
    sums: dict[int, int] = field(default_factory=lambda: {0: 0})
    committed_s: dict[int, float] = field(default_factory=dict)  # virtual time of the commit that ended at a seq
    posts: int = 0


class Auditor:
    def __init__(self) -> None:
        self.spaces: dict[str, SpaceAudit] = {}
        self.made: dict[tuple[bytes, str, int], Made] = {}
        self.posted: dict[bytes, tuple[Any, ...]] = {}  # Idempotency-Key -> what was answered
        self.events: set[bytes] = set()
        self.outcomes: dict[str, int] = {}
        self.closes: dict[int, int] = {}  # close codes, as devices heard them
        self._touched: dict[str, None] = {}

    def space(self, name: str) -> SpaceAudit:
        return self.spaces.setdefault(name, SpaceAudit())

    # -- on a device ---------------------------------------------------------------------------------------------

    def committed(
        self, device: bytes, space: str, n: int, nonce: bytes, complete: int, operations: Sequence[Sequence[Any]]
    ) -> None:
        self.made[device, space, n] = Made(nonce, complete, packed([list(operation) for operation in operations]))

    # -- in the server's store, at the moment of the commit ------------------------------------------------------

    def pushed(
        self,
        now_ms: int,
        node: str,
        space: str,
        device: bytes,
        role: int,
        changes: Sequence[Sent],
        outcomes: Sequence[Sequence[Any]],
        forked: int | None,
    ) -> None:
        audit = self.space(space)
        by_n = {n: change for change in changes for n in range(change.n, change.last + 1)}
        if forked is not None:
            raise Violation("S2", f"{space}: n = {forked} of {node} counts as forked, and nobody was cloned", node)
        for n, nonce, outcome, seq, detail in outcomes:
            change, known = by_n[n], audit.recorded.get((device, n))
            entry = Recorded(bytes(nonce), outcome, seq)
            if known is not None:
                if entry != known:
                    raise Violation("S17", f"{space}: n = {n} ended as {known}, and now as {entry}", node)
                continue
            expected = audit.highest.get(device, 0) + 1
            if n != expected:
                raise Violation("S3", f"{space}: n = {n} was recorded where {expected} is next", node)
            self._check_made(node, space, device, change, n)
            audit.recorded[device, n] = entry
            audit.highest[device] = n
            self._judge(audit, now_ms, node, space, Dot(device, n), True, role, change, outcome, seq, detail)
        self._touched[space] = None

    def posted_change(
        self,
        now_ms: int,
        space: str,
        role: int,
        key: bytes | None,
        base: int | None,
        operations: Sequence[Sequence[Any]],
        answer: tuple[Any, ...],
    ) -> None:
        """`answer`: outcome, seq, detail, head after it."""
        if key is not None and key in self.posted:
            if self.posted[key] != answer:
                raise Violation("S17", f"{space}: a retried post was answered {answer}, first {self.posted[key]}")
            return
        if key is not None:
            self.posted[key] = answer
        audit = self.space(space)
        outcome, seq, detail, head = answer
        if base is None:
            base = audit.oracle.head
        told = tuple(tuple(operation) for operation in operations)
        audit.posts += 1
        dot = Dot(b"backend" + audit.posts.to_bytes(9), 1)
        change = Sent(1, 1, b"", base, now_ms, told)
        self._judge(audit, now_ms, "server", space, dot, False, role, change, outcome, seq, detail)
        if head != audit.oracle.head:
            raise Violation("S4", f"{space}: a post was told the head {head}, which is {audit.oracle.head}")
        self._touched[space] = None

    def event(
        self, now_ms: int, key: bytes, status: str, space: str | None, operations: Sequence[Sequence[Any]]
    ) -> None:
        expected = "duplicate" if key in self.events else "accepted"
        if status != expected:
            raise Violation("S17", f"an event is {status}, expected {expected}")
        if status == "accepted":
            self.events.add(key)
            if space is not None:
                audit = self.space(space)
                answer = ("applied", audit.oracle.head + 1, None, audit.oracle.head + 1)
                self.posted_change(now_ms, space, 3, None, None, operations, answer)

    def batch_ended(self, now_s: float) -> None:
        for space in self._touched:
            audit = self.spaces[space]
            if audit.oracle.head not in audit.sums:
                audit.sums[audit.oracle.head] = sum_of(audit.oracle.state())
                audit.committed_s[audit.oracle.head] = now_s
        self._touched.clear()

    def _check_made(self, node: str, space: str, device: bytes, change: Sent, n: int) -> None:
        made = self.made.get((device, space, n))
        if made is None:
            raise Violation("S2", f"{space}: the server recorded n = {n}, which {node} never committed", node)
        if change.operations is None:
            raise Violation("S17", f"{space}: {node} gave up n = {n}, which was well-formed", node)
        if made.nonce != change.nonce or made.operations != packed([list(item) for item in change.operations]):
            raise Violation("S1", f"{space}: n = {n} of {node} is not what was committed there", node)
        if change.base > made.complete:
            raise Violation("S6", f"{space}: n = {n} says base {change.base}, made at {made.complete}", node)

    def _judge(
        self,
        audit: SpaceAudit,
        now_ms: int,
        node: str,
        space: str,
        dot: Dot,
        has_memory: bool,
        role: int,
        change: Sent,
        outcome: str,
        seq: int | None,
        detail: dict[str, Any] | None,
    ) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        where = f"{space}: the outcome of n = {change.n} of {node}, {change.operations}"
        if role < WRITER:
            if (outcome, seq) != ("forbidden", None):
                raise Violation("S11", f"{where} is {outcome}, and its author may not write", node)
            return
        assert change.operations is not None
        base = change.base
        if base > audit.oracle.head:
            raise Violation("S4", f"{where}: base {base} lies beyond the head {audit.oracle.head}", node)
        vector = audit.prefix[base]
        if has_memory and dot.n > 1:
            vector = vector.advanced(Dot(dot.device, dot.n - 1))
        time = max(audit.times[-1], now_ms)
        told = Told(dot, vector, (vector,) * len(change.operations), change.stamp, time, change.operations)
        judged = audit.oracle.judge(told)
        op = detail.get("op") if detail else None
        is_told = detail is not None or judged.op is None
        if (outcome, seq) != (judged.outcome, judged.seq) or (is_told and op != judged.op):
            raise Violation(
                "S17", f"{where} is {outcome}, seq {seq}, op {op}; by the definitions: {judged}", node, "server"
            )
        if seq is not None:
            met = tuple((item[0], item[1], item[2]) for item in (detail or {}).get("met", ()))
            try:
                if node != "server":
                    _check_met(Answer(outcome, seq, op, met if len(met) < MET_MAX else None), judged)
            except Difference as difference:
                raise Violation("S17", f"{where}: {difference}", node) from None
            audit.times.append(time)
            audit.prefix.append(audit.prefix[-1].advanced(dot))
