"""What the command line tool prints: one JSON object per line, the same shapes in every command.

Owns the shapes. Values are written as in the JSON binding: bytes as `{"$b": ...}`, ids and sums as hexadecimal text.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import orjson

from .codec import json_value
from .device import Device
from .space import Document, Lease, Space
from .tables import OutcomeRow, RefusedRow


def put_line(line: Mapping[str, Any]) -> None:
    """Write and flush one line. A reader that does not read holds the device up: the tool keeps no queue."""
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


def outcome_line(row: OutcomeRow) -> dict[str, Any]:
    return {
        "space": row.space,
        "n": row.n,
        "nonce": row.nonce.hex(),
        "outcome": row.outcome,
        "seq": row.seq,
        "detail": None if row.detail is None else json_value(dict(row.detail)),
        "at": row.at,
    }


def document_line(space: str, document: Document) -> dict[str, Any]:
    return {
        "space": space,
        "collection": document.collection,
        "id": document.id,
        "rev": document.rev,
        "fields": {name: json_value(value) for name, value in document.fields.items()},
        "types": dict(document.types),
        "pending": document.pending_count,
    }


def lease_line(space: str, lease: Lease) -> dict[str, Any]:
    return {
        "space": space,
        "collection": lease.collection,
        "id": lease.id,
        "field": lease.field,
        "lease": lease.lease.hex(),
        "left": lease.left,
        "until": lease.until,
        "certain": lease.is_certain,
    }


def refused_line(row: RefusedRow) -> dict[str, Any]:
    return {
        "space": row.space,
        "n": row.n,
        "base": row.base,
        "outcome": row.outcome,
        "detail": None if row.detail is None else json_value(dict(row.detail)),
        "operations": json_value([operation.wire() for operation in row.operations]),
    }


def space_line(device: Device, space: Space) -> dict[str, Any]:
    row = space.row
    return {
        "space": row.name,
        "epoch": None if row.epoch is None else row.epoch.hex(),
        "complete": row.complete,
        "resume": row.resume,
        "is_complete": space.is_complete,
        "checksum": space.checksum.hex(),
        "outbox": space.outbox_depth,
        "settled": row.settled,
        "next_n": row.next_n,
        "role": row.role,
        "revoked": row.revoked,
        "subscribed": row.is_subscribed,
        "refused": len(space.refused()),
    }


def status_line(device: Device) -> dict[str, Any]:
    return {
        "device": device.id.hex(),
        "state": device.status.state.value,
        "reason": device.status.reason,
        "user": device.user,
        "outbox": device.outbox_depth(),
        "forked": device.forked,
        "outcomes_at": device.store.outcomes_at(),
        "field_values": device.field_values,
        "spaces": [space_line(device, device.space(row.name)) for row in device.spaces()],
    }
