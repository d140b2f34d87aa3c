"""The auditor: what was made, what became durable, what was told, and whether that may be.

Owns the invariants that are checked while a run goes on. Imports nothing of engine, store, net or client: of syncd only
ids and version vectors. It is told in plain data what devices committed, what the server made durable and what crossed
a wire, and computes what should have been by brute force (tests/oracle).

S1 what a device was told is durable. S2 a dot is recorded once; seqs have no gap. S3 the changes of a device enter in
order of n. S4 positions do not move back, nor pass the head. S5 deltas are contiguous on each connection. S6 a base is
no more than what its author had. S7 what a delta's checksum says is the oracle's sum at that seq. S8 nobody is brought
what is deleted, nor told that what lives is gone. S11 nothing of a space goes to one who may not read it.
S17 one outcome for each change, the oracle's; on a connection, before its delta.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from syncd.core.ids import Dot
from syncd.core.vector import VersionVector
from tests.oracle.histories import Answer, Difference, check_met
from tests.oracle.members import MEMBERS, Asker, role_of, said_of
from tests.oracle.members import judged as judged_member
from tests.oracle.oracle import Key, Oracle, Shown, Told, packed
from tests.oracle.replica import sum_of

WRITER, READER = 2, 1
MET_MAX = 16
LOST_IN_RESTORE = "lost_in_restore"  # the reason of a void


class Violation(Exception):
    """An invariant is broken. `nodes`: who was involved."""

    def __init__(self, invariant: str, detail: str, *nodes: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant, self.detail, self.nodes = invariant, detail, nodes


@dataclass(frozen=True, slots=True)
class Sent:
    """A change as it reached the server. `operations` None: a void (of n..last), or one that the server's reader
    refused (`is_refused`)."""

    n: int
    last: int
    nonce: bytes
    base: int
    stamp: int
    operations: tuple[tuple[Any, ...], ...] | None
    is_refused: bool = False
    context: tuple[tuple[bytes, int, int], ...] = ()  # (device, n, seq)
    reason: str = ""  # of a void


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the server made durable about one change."""

    nonce: bytes
    outcome: str
    seq: int | None


@dataclass(frozen=True, slots=True)
class Made:
    """What a device committed locally: the positions that bound what it can have seen (where it had everything, and
    where it read what it edits), each with its epoch; the operations, and which machine it was. `fate`: the outcome in
    which a change of a rogue must end whatever the state (`void`, `invalid`, `too_large`); None: the oracle's."""

    seen: tuple[tuple[bytes | None, int], ...]
    operations: tuple[tuple[Any, ...], ...]
    by: str
    fate: str | None = None


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
    regrants: list[tuple[int, dict[str, int | None]]] = field(default_factory=list)  # at which seq whose role changed
    lives: dict[Key, list[tuple[int, bool]]] = field(default_factory=dict)  # from which seq on it lives, or does not
    summed: dict[Key, tuple[Shown, int]] = field(default_factory=dict)  # what was added up last of each document

    def copied(self) -> "SpaceAudit":
        """As it is now, whatever becomes of this one. What was accepted never changes, and is shared."""
        return SpaceAudit(
            self.oracle.copied(), list(self.times), list(self.prefix), dict(self.recorded), dict(self.highest),
            dict(self.sums), dict(self.committed_s), self.posts, list(self.regrants),
            {key: list(life) for key, life in self.lives.items()},
        )  # fmt: skip

    def ended(self) -> None:
        """The head is one at which someone may read."""
        head, state = self.oracle.head, self.oracle.state()
        self.sums[head] = self._sum(state)
        self.committed_s[head] = trio.current_time()
        for key in {**dict.fromkeys(self.lives), **dict.fromkeys(state)}:
            life = self.lives.setdefault(key, [])
            if (life[-1][1] if life else False) != (key in state):
                life.append((head, key in state))

    def _sum(self, state: Mapping[Key, Shown]) -> int:
        """The checksum, of which each document is a summand: those that are as they were are not hashed again."""
        total = 0
        for key, shown in state.items():
            known = self.summed.get(key)
            if known is None or known[0] is not shown:
                known = self.summed[key] = (shown, sum_of({key: shown}))
            total += known[1]
        return total % 2**64

    def is_live(self, key: Key, seq: int) -> bool:
        """Whether the document lived when this seq, at which someone could read, was the head."""
        return next((lives for at, lives in reversed(self.lives.get(key, ())) if at <= seq), False)

    def live(self, seq: int) -> list[Key]:
        return [key for key in self.lives if self.is_live(key, seq)]

    def said(self, user: str, seq: int) -> int | None:
        """What the space said of a user's role when this seq was its head."""
        found = None
        for at, said in self.regrants:
            if at <= seq and user in said:
                found = said[user]
        return found


@dataclass(frozen=True, slots=True)
class Pushing:
    """Who pushed what, where, as whom."""

    now_ms: int
    node: str
    space: str
    device: bytes
    installation: bytes
    asker: Asker
    changes: Sequence[Sent]


@dataclass(frozen=True, slots=True)
class Truth:
    """All that the server's store has to hold, at one moment."""

    spaces: Mapping[str, SpaceAudit]
    installations: Mapping[bytes, bytes]
    posted: Mapping[bytes, tuple[Any, ...]]
    events: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Lost:
    """A change that was recorded, and is not any more, as the store was put back to before. `is_held`: its author still
    has it."""

    entry: Recorded
    is_held: bool


class Auditor:
    """`restores`: how many there were. `shared`: of each epoch that a restore ended, up to where it is the history of
    the present one. `lost`: by space, device and n."""

    def __init__(self) -> None:
        self.restores = 0
        self.shared: dict[bytes, int] = {}
        self.lost: dict[tuple[str, bytes, int], Lost] = {}
        self._gone: dict[tuple[str, bytes], None] = {}  # space and nonce of what was lost, and let go of by its author
        self.spaces: dict[str, SpaceAudit] = {}
        self.wins: frozenset[str] = frozenset()  # collections in which updates win over deletes
        # (space, device, operation) -> the operation, with what only one who remembers all epochs can know of it
        self.vouched: Callable[[str, bytes, tuple[Any, ...]], tuple[Any, ...]] = lambda _, __, operation: operation
        self.made: dict[tuple[str, bytes], Made] = {}  # by space and nonce: n is another under another id of the device
        self.installations: dict[bytes, bytes] = {}  # of each device, the one to which the server has bound it
        self.forks = 0
        self.users: dict[bytes, str] = {}  # of devices
        self.posted: dict[bytes, tuple[Any, ...]] = {}  # Idempotency-Key -> what was answered
        self.events: set[bytes] = set()
        self.outcomes: dict[str, int] = {}
        self.closes: dict[int, int] = {}  # close codes, as devices heard them
        self.errors: dict[str, int] = {}  # names of errors, likewise
        self.goaways: list[tuple[str, int]] = []  # since the server began to drain: who was told to come back when
        self.forgotten: Counter[tuple[str, str]] = Counter()  # how often a device forgot its copy of a space
        self._touched: dict[str, None] = {}

    def space(self, name: str) -> SpaceAudit:
        return self.spaces.setdefault(name, SpaceAudit(Oracle(self.wins)))

    def told_close(self, code: int) -> None:
        self.closes[code] = self.closes.get(code, 0) + 1

    def told_error(self, name: str) -> None:
        self.errors[name] = self.errors.get(name, 0) + 1

    def told_goaway(self, node: str, retry_after_ms: int) -> None:
        self.goaways.append((node, retry_after_ms))

    # -- backups -------------------------------------------------------------------------------------------------

    def truth(self) -> Truth:
        return Truth(
            {name: audit.copied() for name, audit in self.spaces.items()}, dict(self.installations),
            dict(self.posted), frozenset(self.events),
        )  # fmt: skip

    def put_back(self, truth: Truth) -> None:
        """The store is what it was. What devices committed and heard stays."""
        self.spaces = {name: audit.copied() for name, audit in truth.spaces.items()}
        self.installations, self.posted = dict(truth.installations), dict(truth.posted)
        self.events = set(truth.events)
        self._touched.clear()
        self.restores += 1

    def lose(self, space: str, device: bytes, n: int, lost: Lost) -> None:
        self.lost[space, device, n] = lost
        if not lost.is_held:
            self._gone[space, lost.entry.nonce] = None

    def is_gone(self, space: str, nonce: bytes) -> bool:
        """Nobody has it any more."""
        return (space, nonce) in self._gone

    def bound(self, epoch: bytes | None, seq: int) -> int:
        """What one who had seen so much of an epoch has seen of the present one."""
        return seq if epoch is None else min(seq, self.shared.get(epoch, seq))

    # -- on a device ---------------------------------------------------------------------------------------------

    def committed(
        self,
        device: bytes,
        space: str,
        n: int,
        nonce: bytes,
        seen: Sequence[tuple[bytes | None, int]],
        operations: Sequence[Sequence[Any]],
        by: str,
        fate: str | None = None,
    ) -> None:
        made = Made(tuple(seen), tuple(tuple(operation) for operation in operations), by, fate)
        # A void gives up several with one nonce.
        assert (space, nonce) not in self.made or fate == "void", "nonces are random"
        self.made[space, nonce] = made

    # -- in the server's store, at the moment of the commit ------------------------------------------------------

    def pushed(self, push: "Pushing", outcomes: Sequence[Sequence[Any]], gap: int | None, forked: int | None) -> None:
        space, device, node = push.space, push.device, push.node
        audit = self.space(space)
        by_n = {n: change for change in push.changes for n in range(change.n, change.last + 1)}
        for n, nonce, outcome, seq, detail in outcomes:
            change, known = by_n[n], audit.recorded.get((device, n))
            entry = Recorded(bytes(nonce), outcome, seq)
            if change.nonce != entry.nonce:
                raise Violation("S2", f"{space}: n = {n} of {node} is answered as if it were another change", node)
            if known is not None:
                if entry != known:
                    raise Violation("S17", f"{space}: n = {n} ended as {known}, and now as {entry}", node)
                continue
            expected = audit.highest.get(device, 0) + 1
            if n != expected:
                raise Violation("S3", f"{space}: n = {n} was recorded where {expected} is next", node)
            if self.installations.setdefault(device, push.installation) != push.installation:
                raise Violation("S2", f"{space}: n = {n} of {node} was taken from another installation", node)
            fate = self._check_made(node, space, device, change, n)
            audit.recorded[device, n] = entry
            audit.highest[device] = n
            if fate is None:
                dot = Dot(device, n)
                self._judge(audit, push.now_ms, node, space, dot, True, push.asker, change, outcome, seq, detail)
            elif (outcome, seq) != (fate, None):
                raise Violation("S17", f"{space}: n = {n} of {node} must end as {fate}, and is {outcome}", node)
            else:
                self.outcomes[fate] = self.outcomes.get(fate, 0) + 1
        self._check_stop(push, audit, gap, forked)
        self._touched[space] = None

    def _check_stop(self, push: "Pushing", audit: SpaceAudit, gap: int | None, forked: int | None) -> None:
        """Where the server stopped in a push, and why, is what has to be said of it."""
        highest = audit.highest.get(push.device, 0)
        where = f"{push.space}: {push.node}, whose highest n is {highest},"
        if gap is not None and (gap != highest + 1 or not any(change.last >= gap for change in push.changes)):
            raise Violation("S3", f"{where} is told of a gap at {gap}", push.node)
        if forked is None:
            return
        self.forks += 1
        is_elsewhere = self.installations.get(push.device, push.installation) != push.installation
        sent = next((change for change in push.changes if change.n <= forked <= change.last), None)
        known = audit.recorded.get((push.device, forked))
        is_other = known is not None and sent is not None and known.nonce != sent.nonce
        if sent is None or not (is_other or (is_elsewhere and forked > highest)):
            raise Violation("S2", f"{where} is told that n = {forked} forked, and it did not", push.node)

    def posted_change(
        self,
        now_ms: int,
        space: str,
        asker: Asker,
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
        self._judge(audit, now_ms, "server", space, dot, False, asker, change, outcome, seq, detail)
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
                self.posted_change(now_ms, space, Asker(None, 3), None, None, operations, answer)

    def delivered(self, now_ms: int, space: str, document: str, fields: Mapping[str, Any]) -> None:
        """The server wrote a notification into an inbox."""
        operations: list[list[Any]] = [["create", "_inbox", document]]
        operations += [["reg.set", "_inbox", document, name, value] for name, value in fields.items()]
        seq = self.space(space).oracle.head + 1
        self.posted_change(now_ms, space, Asker(None, 3), None, None, operations, ("applied", seq, None, seq))

    def batch_ended(self) -> None:
        for space in self._touched:
            audit = self.spaces[space]
            if audit.oracle.head not in audit.sums:
                audit.ended()
        self._touched.clear()

    def _check_made(self, node: str, space: str, device: bytes, change: Sent, n: int) -> str | None:
        """The change is what its author made. Returns its fate, if that is known beforehand."""
        made = self.made.get((space, change.nonce))
        if change.reason == LOST_IN_RESTORE:
            lost = self.lost.get((space, device, n))
            if lost is None or lost.is_held:
                what = "never lost" if lost is None else "lost, and which it holds"
                raise Violation("S10", f"{space}: {node} gives up n = {n}, which was {what}", node, "server")
            return "void"
        if made is None:
            raise Violation("S2", f"{space}: the server recorded n = {n}, which {node} never committed", node)
        if made.fate is not None:
            return made.fate
        if change.is_refused:
            raise Violation("S17", f"{space}: the server cannot read n = {n} of {node}, which is well-formed", node)
        if change.operations is None:
            raise Violation("S17", f"{space}: {node} gave up n = {n}, which was well-formed", node)
        if not self._is_as_made(made, change.operations):
            raise Violation("S1", f"{space}: n = {n} of {node} is not what was committed there", node)
        had = min(self.bound(epoch, seq) for epoch, seq in made.seen)
        if change.base > had:
            raise Violation("S6", f"{space}: n = {n} says base {change.base}, made at {had}", node)
        self._check_context(node, space, change)
        return None

    def _is_as_made(self, made: Made, operations: Sequence[tuple[Any, ...]]) -> bool:
        """What was seen of a document in an epoch that ended may be less now, but no more than what is shared."""
        if packed(made.operations) == packed(operations):
            return True
        if made.seen[0][0] not in self.shared or len(made.operations) != len(operations):
            return False
        for was, now in zip(made.operations, operations, strict=True):
            (was, was_seen), (now, now_seen) = without_seen(was), without_seen(now)
            if packed(was) != packed(now) or now_seen > self.bound(made.seen[0][0], was_seen):
                return False
        return True

    def _check_context(self, node: str, space: str, change: Sent) -> None:
        """What a change says to have seen under earlier ids is what was recorded of them, up to the last one."""
        audit = self.space(space)
        for former, n, seq in change.context:
            own = [audit.recorded.get((former, number)) for number in range(1, n + 1)]
            last = max((entry.seq or 0 for entry in own if entry is not None), default=0)
            if None in own or last != seq:
                told = f"{space}: n = {change.n} of {node} says it has seen {n} changes of {former.hex()[:8]}"
                raise Violation("S6", f"{told} up to seq {seq}, and the last of them has {last}", node)

    def _judge(
        self,
        audit: SpaceAudit,
        now_ms: int,
        node: str,
        space: str,
        dot: Dot,
        has_memory: bool,
        asker: Asker,
        change: Sent,
        outcome: str,
        seq: int | None,
        detail: dict[str, Any] | None,
    ) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        where = f"{space}: the outcome of n = {change.n} of {node}, {change.operations}"
        if role_of(audit.oracle, asker) < WRITER:
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
        for former, n, _ in change.context:
            vector = vector.advanced(Dot(former, n))
        time = max(audit.times[-1], now_ms)
        operations, vectors, bases = _plain(audit, change, vector)
        operations = tuple(self.vouched(space, dot.device, operation) for operation in operations)
        told = Told(dot, vector, vectors, change.stamp, time, operations, bases)
        users = [operation[2] for operation in operations if operation[1] == MEMBERS]
        before = {user: said_of(audit.oracle, user) for user in users}
        judged = judged_member(audit.oracle, told, asker) if users else audit.oracle.judge(told)
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
                    check_met(Answer(outcome, seq, op, met if len(met) < MET_MAX else None), judged)
            except Difference as difference:
                raise Violation("S17", f"{where}: {difference}", node) from None
            audit.times.append(time)
            audit.prefix.append(audit.prefix[-1].advanced(dot))
            said = {user: said_of(audit.oracle, user) for user in users}
            if said != before:
                audit.regrants.append((seq, said))
                audit.ended()


def without_seen(operation: tuple[Any, ...]) -> tuple[tuple[Any, ...], int]:
    """An operation, and which rev of its document was shown when it was made (0: nothing is said of that)."""
    last = operation[-1]
    # An operation ends with a map of one key `seen`, or with an argument; no argument of a workload is such a map.
    is_seen = isinstance(last, dict) and set(last) == {"seen"}
    return (operation[:-1], last["seen"]) if is_seen else (operation, 0)


def _plain(
    audit: SpaceAudit, change: Sent, vector: VersionVector
) -> tuple[tuple[tuple[Any, ...], ...], tuple[VersionVector, ...], tuple[int, ...]]:
    """The operations without what was seen of their documents; the vector of each with it, and the base."""
    assert change.operations is not None
    operations, vectors, bases = [], [], []
    for operation in change.operations:
        plain, seen = without_seen(operation)
        seen = min(seen, audit.oracle.head)
        operations.append(plain)
        vectors.append(vector.joined(audit.prefix[seen]) if seen > change.base else vector)
        bases.append(max(change.base, seen))
    return tuple(operations), tuple(vectors), tuple(bases)
