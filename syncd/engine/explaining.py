"""Explaining: why a field has the value that it has.

Owns the reading of a field's history from the log and the device logs, and the English sentence about it. Must not
decide anything: it reports what the merge rules decided, with the evidence (dots, bases, times).
"""

from typing import Any

from syncd.core.documents import RESERVED, Document, reservations
from syncd.core.fields import Field
from syncd.core.leases import book_of
from syncd.core.values import decoded
from syncd.engine.batch import DocumentName, is_forgotten, space_row
from syncd.engine.history import Made, backwards, made_at, told
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DOCUMENTS, LETTERS, SpaceRow

LOOKED_MAX = 500  # changes of the document, the newest: some 20 ms in which the loop does nothing else
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
    changes = told(tx, row.id, _changes(tx, row.id, stored, (collection, document_id), field))
    answer["changes"] = changes
    answer["refused"] = _refused(tx, row, collection, document_id)
    answer["unique"] = reservations(stored)
    for name, kept in stored.fields.items():
        if name[0] != RESERVED and (field is None or name == field):
            answer["fields"][name] = _field(name, kept, changes)
    return answer


def _changes(tx: Reader, space_id: int, document: Document, name: DocumentName, field: str | None) -> list[Made]:
    """The changes that touched the document since it was born, newest first, as far as device logs are kept: of the
    newest `LOOKED_MAX` those that concern the field, and the last writers of its fields however old they are."""
    found: list[Made] = []
    looked = 0
    for looked, change in enumerate(backwards(tx, space_id, name, document.touched), 1):
        found += _about(change, field)
        if change.seq <= document.born or looked == LOOKED_MAX or len(found) == CHANGES_MAX:
            break
    known = {change.seq for change in found}
    for seq in {kept.seq for each, kept in document.fields.items() if field in (None, each)} - known:
        older = made_at(tx, space_id, name, seq)
        found += [] if older is None or len(found) == 2 * CHANGES_MAX else _about(older, field)
    return sorted(found, key=lambda change: -change.seq)


def _about(change: Made, field: str | None) -> list[Made]:
    operations = tuple(o for o in change.operations if field is None or len(o) < 4 or o[3] == field)
    return [change._replace(operations=operations)] if operations else []


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
    if field.type == "bounded":
        book = book_of(field.state)
        leased = sum(lease[2] for lease in book.leases.values())
        short = f", and {book.deficit} are owed after a restore" if book.deficit else ""
        return (
            f"Of {name}, {book.total} in all, {book.reserve} are in the reserve for whoever comes first, {leased} are"
            f" leased to devices ({len(book.leases)} leases) and {book.taken} are taken{short}."
        )
    if field.type == "text":
        return f"{name} is what all its updates come to, in any order; {len(touching)} known changes brought some."
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
    is_own_earlier = change["device"] == other["device"] and other["n"] < change["n"]
    is_in_context = any(other["device"] == device and other["seq"] <= seq for device, _, seq in change["context"])
    return bool(other["seq"] <= change["base"] or (is_own_earlier and change["kind"] == "device") or is_in_context)
