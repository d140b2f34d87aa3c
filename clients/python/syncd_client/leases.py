"""Leases on the device: which units are certain, and what an outcome does to them.

Owns section 3.1 of the protocol from the client's side: what a device may take while offline, by which lease, and until
when. Functions over `Tables`, inside one transaction of their caller; knows no clock: times are passed in.

A row of a lease is valid only for the device and installation that it was granted to (the store sees to that), so a
copy of the store elsewhere has no leases, and a device that took a new id has left its leases with the old one.

1. What is certain is what is left of a lease as the server last answered, less what the outbox takes and gives of it.
2. A lease with a ttl is certain for so long after this device asked for it: the server granted it later than that, so
   it ends it later, too, and nobody's wall clock has a say.
3. A row changes in the transaction that stores the outcome: a crash makes no unit certain twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import NotCovered
from .operations import Operation, lease_id_of, operation
from .tables import Entry, Key, LeaseRow, SpaceRow, Tables
from .values import Value

# The rate of a device's clock: crystals are off by 0.01 %, and by some times that in frost and heat.
CLOCK_ERROR = 0.001


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks of the device: `run` and `steady_s` of the one that nobody sets, and the wall clock."""

    run: str
    steady_s: float
    wall_ms: int


def asked(tx: Tables, space: str, operations: Sequence[Operation], now: Moment) -> None:
    """Note when leases were asked for, with the change that asks: there are no units yet."""
    for item in operations:
        if item.name == "bounded.lease":
            field, lease, _units, ttl_ms = item.arguments
            moment = (now.run, now.steady_s, now.wall_ms)
            tx.put_lease(LeaseRow(space, *item.key, field, lease, 0, ttl_ms, None, (), moment))


def is_in_time(row: LeaseRow, now: Moment) -> bool:
    """Whether the server cannot have ended the lease yet. The steady clock may have stood while the device slept, and
    the wall clock may have been set: the one that went farther is believed."""
    if row.ttl_ms is None:
        return True
    if row.asked is None or row.asked[0] != now.run:
        return False
    _, steady_s, wall_ms = row.asked
    elapsed_ms = max((now.steady_s - steady_s) * 1000, now.wall_ms - wall_ms, 0)
    return elapsed_ms * (1 + CLOCK_ERROR) < row.ttl_ms


def held(tx: Tables, space: str) -> list[LeaseRow]:
    """The leases that were granted."""
    return [row for row in tx.leases(space) if row.certificate]


def remaining(tx: Tables, row: LeaseRow) -> int:
    """What of a lease the outbox has not used yet."""
    pending = (entry for entry in tx.touching(row.space, row.key) if entry.outcome is None)
    return max(0, row.left - sum(_used(entry.operations, row.lease) for entry in pending))


def _used(operations: Sequence[Operation], lease: bytes) -> int:
    return sum(units for named, units in map(_use, operations) if named == lease)


def _use(item: Operation) -> tuple[bytes | None, int]:
    """The lease that a take or give names, and how many units of it."""
    if item.name == "bounded.take":
        return lease_id_of(item.arguments[2]), item.arguments[1]
    if item.name == "bounded.give":
        return lease_id_of(item.arguments[1]), item.arguments[2]
    return None, 0


def takes(tx: Tables, space: str, key: Key, field: str, units: int, now: Moment) -> list[Operation]:
    """The operations that take so many units with certainty, from the leases that end first. Raises NotCovered."""
    rows = [row for row in held(tx, space) if row.key == key and row.field == field]
    what = f"{key[0]}/{key[1]} {field} in {space}"
    if tx.setting("forked") is not None:
        raise NotCovered(f"{what}: another replica uses this device id, so none of its leases is certain")
    missing, operations, over = units, [], 0
    for row in sorted(rows, key=lambda row: (row.until is None, row.until or 0, row.lease)):
        if not is_in_time(row, now):
            over += 1
        elif (there := min(missing, remaining(tx, row))) > 0:
            operations.append(operation("bounded.take", *key, field, there, list(row.certificate), seen=_seen(tx, row)))
            missing -= there
    if missing or not operations:
        ended = f"; {over} more may have ended" if over else ""
        raise NotCovered(f"{what}: the leases of this device cover {units - missing} of {units} units{ended}")
    return operations


def _seen(tx: Tables, row: LeaseRow) -> int | None:
    """Who was granted a lease has seen the document, also where its copy was given up since (it had drifted) and the
    base of what it commits is 0: without this its certain take would be `gone`. None: the base says it."""
    space, granted = tx.space(row.space) or SpaceRow(row.space), row.certificate[3]
    assert isinstance(granted, int)
    if granted <= space.complete:
        return None
    return min(granted, space.fork) or None  # a seq of what a restore has lost is nobody's


def gives(tx: Tables, space: str, key: Key, field: str, units: int | None) -> list[Operation]:
    """The operations that give so many units back (None: all), from the leases that end last. Raises NotCovered."""
    rows = [row for row in held(tx, space) if row.key == key and row.field == field]
    missing, operations = units, []
    for row in sorted(rows, key=lambda row: (row.until is not None, -(row.until or 0), row.lease)):
        there = remaining(tx, row)
        if missing is not None:
            there = min(there, missing)
            missing -= there
        if there:
            operations.append(operation("bounded.give", *key, field, list(row.certificate), there, seen=_seen(tx, row)))
    if missing or not operations:
        had = f"{(units or 0) - (missing or 0)} of {units}" if units is not None else "no"
        raise NotCovered(f"{key[0]}/{key[1]} {field} in {space}: the leases of this device hold {had} units")
    return operations


# -- outcomes ---------------------------------------------------------------------------------------------------------


def answered(tx: Tables, space: str, entry: Entry, outcome: str, detail: Mapping[str, Value] | None) -> None:
    """What the outcome of a change, stored now, does to the leases of this device."""
    told = detail or {}
    if outcome in ("applied", "merged", "noop"):
        _accepted(tx, space, entry, told)
        return
    for item in entry.operations:
        row = tx.lease(space, item.arguments[1]) if item.name == "bounded.lease" else None
        if row is not None and not row.certificate:
            tx.drop_lease(space, row.lease)
    if outcome == "lease_expired" and isinstance(told.get("op"), int) and told["op"] < len(entry.operations):
        lease, _ = _use(entry.operations[told["op"]])
        if lease is not None:
            tx.drop_lease(space, lease)


def _accepted(tx: Tables, space: str, entry: Entry, told: Mapping[str, Any]) -> None:
    granted = {certificate[0]: certificate for certificate in told.get("leases", ())}
    ended = {index for index, verdict, _seq in told.get("met", ()) if verdict == "ended"}
    for index, item in enumerate(entry.operations):
        if item.name == "bounded.lease":
            _grant(tx, space, item, granted.get(item.arguments[1]))
        lease_used, units = _use(item)
        row = None if lease_used is None else tx.lease(space, lease_used)
        if row is None:
            continue
        if index in ended or row.left <= units:
            tx.drop_lease(space, row.lease)
        else:
            tx.put_lease(replace(row, left=row.left - units))


def _grant(tx: Tables, space: str, item: Operation, certificate: Sequence[Value] | None) -> None:
    """A lease was granted; without a certificate it was used up by the change that asked for it."""
    field, lease, _units, ttl_ms = item.arguments
    row = tx.lease(space, lease)
    if certificate is None:
        tx.drop_lease(space, lease)
        return
    _, k, until = certificate[:3]
    moment = None if row is None else row.asked
    tx.put_lease(LeaseRow(space, *item.key, field, lease, k, ttl_ms, until, tuple(certificate), moment))


def reopened(tx: Tables, space: str, entry: Entry) -> None:
    """The server lost its answer to this change, and will be offered it again: its uses are in the outbox once more."""
    for item in entry.operations:
        lease, units = _use(item)
        row = None if lease is None else tx.lease(space, lease)
        if row is not None:
            tx.put_lease(replace(row, left=row.left + units))
