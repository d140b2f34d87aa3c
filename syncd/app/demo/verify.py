"""The demo's verdict: do all devices and the server agree, and is every acknowledged change in the store?

Owns the comparison of what devices said with what is on disk. Must not talk to the daemon: it reads the store itself,
through fsck's eyes, so that a daemon that lies is found out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from syncd.core.ids import Dot
from syncd.engine.batch import space_row
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.fsck import check
from syncd.store.tables import ENTRIES, LOG, REPLICAS


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A change whose outcome a device had stored durably."""

    space: str
    dot: Dot
    outcome: str
    seq: int | None


@dataclass(frozen=True, slots=True)
class Replica:
    """What a device says of its copy of a space, at the end."""

    name: str
    space: str
    complete: int
    checksum: str
    outbox_depth: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problems` is empty iff all agree. `checksum` covers all compared spaces; `changes`: accepted by the server."""

    problems: tuple[str, ...]
    missing: int
    changes: int
    checksum: str


def verdict(tx: Reader, acknowledged: Sequence[Acknowledged], replicas: Sequence[Replica]) -> Verdict:
    """Compare everything, over one read transaction."""
    problems = [f"fsck: {finding.table} {finding.key}: {finding.problem}" for finding in check(tx)]
    missing = [problem for change in acknowledged if (problem := _missing(tx, change)) is not None]
    problems += missing
    spaces = sorted({replica.space for replica in replicas})
    total = changes = 0
    for name in spaces:
        row = space_row(tx, name)
        if row is None:
            problems.append(f"{name}: the server does not have this space")
            continue
        changes += row.head
        total = (total + row.sum) % 2**64
        expected = f"{row.sum:016x}"
        for replica in replicas:
            if replica.space != name:
                continue
            if replica.complete != row.head:
                problems.append(
                    f"{name}: {replica.name} is complete to {replica.complete}, the server's head is {row.head}"
                )
            elif replica.checksum != expected:
                problems.append(f"{name}: {replica.name} has checksum {replica.checksum}, the server {expected}")
            if replica.outbox_depth:
                problems.append(f"{name}: {replica.name} still has {replica.outbox_depth} changes in its outbox")
    return Verdict(tuple(problems), len(missing), changes, f"{total:016x}")


def _missing(tx: Reader, change: Acknowledged) -> str | None:
    """What is wrong with the server's record of an acknowledged change, if anything."""
    name = f"{change.space} n={change.dot.n} of device {change.dot.device.hex()[:8]}"
    row = space_row(tx, change.space)
    replica = None if row is None else REPLICAS.get(tx, keys.replica(row.id, change.dot.device))
    if row is None or replica is None:
        return f"{name}: acknowledged as {change.outcome}, but the server does not know the device there"
    if change.seq is not None:
        log = LOG.get(tx, keys.log(row.id, change.seq))
        if log is None or (log.slot, log.n) != (replica.slot, change.dot.n):
            return f"{name}: acknowledged at seq {change.seq}, where the log has another change or none"
    entry = ENTRIES.get(tx, keys.device_log(row.id, replica.slot, change.dot.n))
    if entry is None:
        # Long settled entries leave the device log; the space's log, checked above, keeps each accepted change.
        return None if change.dot.n <= replica.trimmed else f"{name}: acknowledged, but not in the device's log"
    if (entry.outcome, entry.seq) != (change.outcome, change.seq):
        return f"{name}: acknowledged as {change.outcome} at {change.seq}, recorded as {entry.outcome} at {entry.seq}"
    return None
