"""The roster of a space, for operators: its members, and the devices that must delete their copy and have not said so.

Owns these two readings. Must not judge anybody (`members` does).
"""

from itertools import islice
from typing import Any

from syncd.core.ids import MEMBERS
from syncd.engine.batch import space_row
from syncd.engine.members import role_in, role_seq
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DOCUMENTS, HOLDERS

LISTED_MAX = 10_000  # of each: some 50 ms in which the loop does nothing else


def members(tx: Reader, space: str) -> list[dict[str, Any]]:
    """By user; `seq`: of the change that gave the role. Who has no role by the space (`None`) is listed, too: it was
    made a member, and nothing is said of it any more."""
    row = space_row(tx, space)
    if row is None:
        return []
    found = DOCUMENTS.scan(tx, keys.collection_range(row.id, MEMBERS))
    live = ((keys.parse_document(key)[2], document) for key, document in found if document.is_live)
    listed = []
    for user, document in islice(live, LISTED_MAX):
        role = role_in(document)
        listed.append({"user": user, "role": None if role is None else role.name.lower(), "seq": role_seq(document)})
    return listed


def unpurged(tx: Reader, space: str) -> list[dict[str, Any]]:
    """Devices that were told, or are to be told, to delete their copy; `seq` of the change that took the right to read
    away, 0 if it was a token that did not bring it; `since_ms`."""
    row = space_row(tx, space)
    if row is None:
        return []
    found = HOLDERS.scan(tx, keys.space_range(keys.HOLDER, row.id))
    lost = ((keys.parse_holder(key)[2], held) for key, held in found if held.lost_seq is not None)
    return [
        {"user": held.user, "device": device.hex(), "seq": held.lost_seq, "since_ms": held.lost_ms}
        for device, held in islice(lost, LISTED_MAX)
    ]
