"""Explaining: why a field has the value that it has.

Owns the reading of a field's history from the log and the device logs, and the English sentence about it. Must not
decide anything: it reports what the merge rules decided, with the evidence (dots, bases, times).
"""

from collections.abc import Mapping
from typing import Any

from syncd.core.documents import RESERVED, Document, reservations
from syncd.core.fields import Field
from syncd.core.leases import book_of
from syncd.core.values import decoded
from syncd.engine.batch import DocumentName, is_forgotten, space_row
from syncd.engine.history import Made, backwards, made_at, told
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DEVICES, DOCUMENTS, LETTERS, SpaceRow

LOOKED_MAX = 500  # changes of the document, the newest: some 20 ms in which the loop does nothing else
LOOKED_BYTES_MAX = 1024 * 1024  # of the changes that they are part of, each of which may have 256 KiB: as long
LETTERS_MAX = 200  # of the newest, looked at
LETTERS_BYTES_MAX = 1024 * 1024  # of them; each may have 256 KiB to decode
CHANGES_MAX = 50  # told, the newest


def explained(tx: Reader, space: str, collection: str, document_id: str, field: str | None) -> dict[str, Any]:
    """The state of a document (or one field of it) and the changes that touched it since this incarnation began.

    Returns JSON-able data (values may hold bytes): `state` is `live`, `deleted` or `absent`; `sentence`: why; `fields`:
    name -> type, value, rev, winner, sentence; `changes`: newest first, each with its dot, user, base, stamp, eff, seq,
    outcome, operations and whether it had seen the winner; `unique`: the keys that it holds, by name; `refused`: dead
    letters about this document, each with its sentence.
    """
    row = space_row(tx, space)
    stored = None if row is None else DOCUMENTS.get(tx, keys.document(row.id, collection, document_id))
    answer: dict[str, Any] = {"space": space, "collection": collection, "id": document_id, "fields": {}, "changes": []}
    if row is None or stored is None or is_forgotten((collection, document_id), stored, row.floor):
        sentence = "nobody made it, or all devices know of its deletion already."
        refused = [] if row is None else _refused(tx, row, collection, document_id)
        return answer | {"state": "absent", "sentence": f"It does not exist: {sentence}", "refused": refused}
    answer["state"] = "live" if stored.is_live else "deleted"
    answer |= {"rev": stored.rev, "born": stored.born, "makers": [list(maker) for maker in stored.makers]}
    changes = told(tx, row.id, _changes(tx, row.id, stored, (collection, document_id), field))
    answer["changes"] = changes
    answer["refused"] = _refused(tx, row, collection, document_id)
    answer["unique"] = reservations(stored)
    answer["sentence"] = _standing(stored, changes)
    for name, kept in stored.fields.items():
        if name[0] != RESERVED and (field is None or name == field):
            answer["fields"][name] = _field(name, kept, changes)
    return answer


def _changes(tx: Reader, space_id: int, document: Document, name: DocumentName, field: str | None) -> list[Made]:
    """The changes that touched the document since it was born, newest first, as far as device logs are kept: of the
    newest `LOOKED_MAX` those that concern the field, and the last writers of its fields however old they are. Whatever
    they are, `LOOKED_BYTES_MAX` and two changes are read at most."""
    found: list[Made] = []
    size = 0
    for looked, change in enumerate(backwards(tx, space_id, name, document.touched), 1):
        found, size = found + _about(change, field), size + change.bytes
        if change.seq <= document.born or looked == LOOKED_MAX or len(found) == CHANGES_MAX or size > LOOKED_BYTES_MAX:
            break
    known = {change.seq for change in found}
    size = 0 if field is not None else size  # its last writer is what is asked for
    for seq in sorted({kept.seq for each, kept in document.fields.items() if field in (None, each)} - known)[::-1]:
        if len(found) >= 2 * CHANGES_MAX or size > LOOKED_BYTES_MAX:
            break
        older = made_at(tx, space_id, name, seq)
        if older is not None:
            found, size = found + _about(older, field), size + older.bytes
    return sorted(found, key=lambda change: -change.seq)


def _about(change: Made, field: str | None) -> list[Made]:
    operations = tuple(o for o in change.operations if field is None or len(o) < 4 or o[3] == field)
    return [change._replace(operations=operations)] if operations else []


def _refused(tx: Reader, row: SpaceRow, collection: str, document_id: str) -> list[dict[str, Any]]:
    """Dead letters about the document, newest first, among the newest of the space."""
    found: list[dict[str, Any]] = []
    size = 0
    for number in range(row.letter_next - 1, max(0, row.letter_next - LETTERS_MAX) - 1, -1):
        if len(found) == CHANGES_MAX or size > LETTERS_BYTES_MAX:
            break
        letter = LETTERS.get(tx, keys.letter(row.id, number))
        if letter is None:
            continue  # it was dropped
        size += len(letter.payload)
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
                    "letter": number,
                    "kind": letter.kind,
                    "device": letter.device.hex(),
                    "user": _user(tx, letter.device),
                    "n": letter.n,
                    "base": letter.base,
                    "stamp": letter.stamp,
                    "reason": letter.reason,
                    "at": letter.at_ms,
                    "payload": decoded(letter.payload),
                }
            )
            found[-1]["sentence"] = _kept(found[-1])
    return found


def _user(tx: Reader, device: bytes) -> str:
    row = DEVICES.get(tx, keys.device(device))
    return "" if row is None else row.user


def _kept(letter: dict[str, Any]) -> str:
    """One English sentence on a dead letter: what it is, and why it is none of the document's past."""
    change = f"change {letter['n']} of device {letter['device'][:8]} (user {letter['user']})"
    if letter["kind"] == "change":
        return f"What {change} would have done is kept as it was refused: {letter['reason']}."
    what = "The document as it was" if letter["kind"] == "document" else "A value"
    return f"{what} when {change} ended it is kept: {letter['reason']}."


def _standing(document: Document, changes: list[dict[str, Any]]) -> str:
    """One English sentence on why a document is there, or is not."""
    if document.is_live:
        makers = len(document.makers)
        by = "" if makers < 2 else f", by {makers} creates that had not seen each other and were merged"
        return f"It is there since seq {document.born}{by}."
    ended = next(
        (c for c in changes if c["seq"] == document.rev and any(o[0] == "delete" for o in c["operations"])), None
    )
    if ended is None:
        return f"It was deleted at seq {document.rev}; the change is no longer kept in its device's log."
    return (
        f"It was deleted at seq {document.rev} by device {ended['device'][:8]} (user {ended['user']}), which had read"
        f" up to seq {ended['base']}: what was not known there gave way, and is kept as a dead letter."
    )


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
    if field.type in _TOGETHER:
        return _together(name, field, winner, touching)
    if field.type == "text":
        return f"{name} is what all its updates come to, in any order; {len(touching)} known changes brought some."
    if winner is None:
        return f"{name} was written at seq {field.seq}; the change is no longer kept in its device's log."
    rivals = [c for c in touching if c is not winner and not _has_seen(winner, c) and not _has_seen(c, winner)]
    who = f"{name} stands as device {winner['device'][:8]} (user {winner['user']}) wrote it at seq {winner['seq']}"
    if not rivals:
        return f"{who}; it had seen every other change to the field that is still known."
    rival = max(rivals, key=lambda c: (c["eff"], c["seq"]))
    margin = winner["eff"] - rival["eff"]
    reason = (
        f"{margin} ms later by effective time" if margin > 0 else "at an effective time no earlier, and later in order"
    )
    return (
        f"{who}; it was concurrent with the change of device {rival['device'][:8]} at seq {rival['seq']}"
        f" (neither had seen the other: bases {winner['base']} and {rival['base']}) and was {reason}."
    )


# What becomes of changes of one field that did not know of each other, where no one of them stands for all.
_TOGETHER: Mapping[str, str] = {
    "mv": "values that had not seen each other stand side by side",
    "set": "an element is in it as long as no remove has seen its add",
    "flag": "it is on as long as no disable has seen its enable",
    "map": "each key has the value of the put that had seen the others, or else of the latest",
    "list": "an element stands where its latest move put it, and a remove wins over a move that it had not seen",
}


def _together(name: str, field: Field, latest: dict[str, Any] | None, touching: list[dict[str, Any]]) -> str:
    """The sentence on a field that is made of many changes."""
    made = f"{name} is a {field.type} of {len(touching)} known changes: {_TOGETHER[field.type]}"
    if latest is None:
        return f"{made}; the latest, at seq {field.seq}, is no longer kept in its device's log."
    unseen = sum(c is not latest and not _has_seen(latest, c) and not _has_seen(c, latest) for c in touching)
    knew = "had seen all others" if not unseen else f"had not seen {unseen} of the others"
    return f"{made}; the latest, of device {latest['device'][:8]} (user {latest['user']}) at seq {field.seq}, {knew}."


def _has_seen(change: dict[str, Any], other: dict[str, Any]) -> bool:
    is_own_earlier = change["device"] == other["device"] and other["n"] < change["n"]
    is_in_context = any(other["device"] == device and other["seq"] <= seq for device, _, seq in change["context"])
    return bool(other["seq"] <= change["base"] or (is_own_earlier and change["kind"] == "device") or is_in_context)
