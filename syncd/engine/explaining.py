"""Explaining: why a field has the value that it has.

Owns the reading of a field's history from the log and the device logs, and the English sentence about it. Must not
decide anything: it reports what the merge rules decided, with the evidence (dots, bases, times).
"""

from typing import Any

from syncd.core.documents import RESERVED, Document, reservations
from syncd.core.fields import Field
from syncd.core.values import decoded
from syncd.engine.batch import is_forgotten, space_row
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DEVICES, DOCUMENTS, ENTRIES, LETTERS, LOG, SLOTS, SpaceRow

LOG_ROWS_MAX = 2_000  # of the newest, looked at for one explanation: some 20 ms in which the loop does nothing else
LETTERS_MAX = 200  # of the newest, looked at: each may have 256 KiB to decode
CHANGES_MAX = 50  # told, the newest


def explained(tx: Reader, space: str, collection: str, document_id: str, field: str | None) -> dict[str, Any]:
    """The state of a document (or one field of it) and the changes that touched it since this incarnation began.

    Returns JSON-able data (values may hold bytes): `state` is `live`, `deleted` or `absent`; `fields`: name -> type,
    value, rev, winner, sentence; `changes`: newest first, each with its dot, user, base, stamp, eff, seq, outcome,
    operations and whether it had seen the winner; `refused`: dead letters about this document.
    """
    row = space_row(tx, space)
    stored = None if row is None else DOCUMENTS.get(tx, keys.document(row.id, collection, document_id))
    answer: dict[str, Any] = {"space": space, "collection": collection, "id": document_id, "fields": {}, "changes": []}
    if row is None or stored is None or is_forgotten((collection, document_id), stored, row.floor):
        return answer | {"state": "absent", "refused": []}
    answer["state"] = "live" if stored.is_live else "deleted"
    answer |= {"rev": stored.rev, "born": stored.born, "makers": [list(maker) for maker in stored.makers]}
    changes = _changes(tx, row.id, row.head, stored, collection, document_id, field)
    answer["changes"] = changes
    answer["refused"] = _refused(tx, row, collection, document_id)
    answer["unique"] = reservations(stored)
    for name, kept in stored.fields.items():
        if name[0] != RESERVED and (field is None or name == field):
            answer["fields"][name] = _field(name, kept, changes)
    return answer


def _changes(
    tx: Reader, space_id: int, head: int, document: Document, collection: str, document_id: str, field: str | None
) -> list[dict[str, Any]]:
    """The changes that touched the document since it was born, newest first, as far as device logs are kept: those
    among the newest `LOG_ROWS_MAX` of the space, and the last writers of its fields however old they are."""
    found = []
    authors: dict[int, tuple[str, str, str]] = {}
    newest = max(document.born, head - LOG_ROWS_MAX + 1)
    older = sorted({kept.seq for name, kept in document.fields.items() if kept.seq < newest and field in (None, name)})
    for seq in [*older, *range(newest, head + 1)]:
        log = LOG.get(tx, keys.log(space_id, seq))
        if log is None:
            continue
        entry = ENTRIES.get(tx, keys.device_log(space_id, log.slot, log.n))
        if entry is None or entry.payload is None:
            continue
        operations = [
            operation
            for operation in decoded(entry.payload)
            if operation[1:3] == [collection, document_id]
            and (field is None or len(operation) < 4 or operation[3] == field)
        ]
        if not operations:
            continue
        if log.slot not in authors:
            authors[log.slot] = _author(tx, space_id, log.slot)
        device, user, kind = authors[log.slot]
        found.append(
            {
                "seq": seq,
                "device": device,
                "user": user,
                "kind": kind,
                "n": log.n,
                "base": entry.base,
                "context": [[device.hex(), n, seq] for device, n, seq in entry.context],
                "stamp": entry.stamp,
                "time": log.time,
                "eff": min(entry.stamp, log.time),
                "outcome": entry.outcome,
                "met": (entry.detail or {}).get("met", []),
                "operations": operations,
                "slot": log.slot,
            }
        )
        del found[:-CHANGES_MAX]
    return found[::-1]


def _author(tx: Reader, space_id: int, slot: int) -> tuple[str, str, str]:
    """(device, user, kind)"""
    named = SLOTS.get(tx, keys.slot(space_id, slot))
    row = None if named is None else DEVICES.get(tx, keys.device(named[0]))
    if named is None or row is None:
        return ("", "", "")
    return (named[0].hex(), row.user, row.kind)


def _refused(tx: Reader, row: SpaceRow, collection: str, document_id: str) -> list[dict[str, Any]]:
    """Dead letters about the document, newest first, among the newest of the space."""
    found = []
    first = max(0, row.letter_next - LETTERS_MAX)
    for key, letter in LETTERS.scan(tx, (keys.letter(row.id, first), keys.letter(row.id, row.letter_next))):
        if letter.kind == "change":
            operations = decoded(letter.payload)
            about = isinstance(operations, list) and any(
                isinstance(o, list) and o[1:3] == [collection, document_id] for o in operations
            )
        else:
            about = (letter.collection, letter.document_id) == (collection, document_id)
        if about:
            found.append(
                {
                    "letter": int.from_bytes(key[5:13]),
                    "kind": letter.kind,
                    "device": letter.device.hex(),
                    "n": letter.n,
                    "base": letter.base,
                    "stamp": letter.stamp,
                    "reason": letter.reason,
                    "at": letter.at_ms,
                    "payload": decoded(letter.payload),
                }
            )
            del found[:-CHANGES_MAX]
    return found[::-1]


def _field(name: str, field: Field, changes: list[dict[str, Any]]) -> dict[str, Any]:
    touching = [
        c
        for c in changes
        if any(len(o) > 3 and o[3] == name and o[0] not in ("expect", "unique") for o in c["operations"])
    ]
    winner = next((c for c in touching if c["seq"] == field.seq), None)
    shown: dict[str, Any] = {
        "type": field.type,
        "visible": field.is_visible,
        "value": field.value if field.is_visible else None,
        "rev": field.rev,
        "writer_seq": field.seq,
        "winner": winner,
        "sentence": _sentence(name, field, winner, touching),
    }
    return shown


def _sentence(name: str, field: Field, winner: dict[str, Any] | None, touching: list[dict[str, Any]]) -> str:
    """One English sentence on why the value stands."""
    if field.type in ("counter", "max", "min"):
        rule = {"counter": "the sum of all increments", "max": "the greatest put", "min": "the least put"}[field.type]
        return f"{name} is {rule}; {len(touching)} known changes took part."
    if winner is None:
        return f"{name} was written at seq {field.seq}; the change is no longer kept in its device's log."
    rivals = [c for c in touching if c is not winner and not _has_seen(winner, c) and not _has_seen(c, winner)]
    who = f"{name} stands as device {winner['device'][:8]} (user {winner['user']}) wrote it at seq {winner['seq']}"
    if not rivals:
        return f"{who}; it had seen every other change to the field that is still known."
    if field.type in ("set", "flag", "mv", "list"):
        return (
            f"{who}; {len(rivals)} changes were made without knowledge of it, and merged by the rule of {field.type}."
        )
    rival = max(rivals, key=lambda c: (c["eff"], c["seq"]))
    margin = winner["eff"] - rival["eff"]
    reason = (
        f"{margin} ms later by effective time" if margin > 0 else "at an effective time no earlier, and later in order"
    )
    return (
        f"{who}; it was concurrent with the change of device {rival['device'][:8]} at seq {rival['seq']}"
        f" (neither had seen the other: bases {winner['base']} and {rival['base']}) and was {reason}."
    )


def _has_seen(change: dict[str, Any], other: dict[str, Any]) -> bool:
    is_own_earlier = change["slot"] == other["slot"] and other["n"] < change["n"]
    is_in_context = any(other["device"] == device and other["seq"] <= seq for device, _, seq in change["context"])
    return bool(other["seq"] <= change["base"] or (is_own_earlier and change["kind"] == "device") or is_in_context)
