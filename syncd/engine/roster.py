"""The roster of a space, for operators and owners: its members, and the devices that must delete their copy and have
not said so.

Owns these two readings, whole and in pages. Must not judge anybody (`members` does).
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from syncd.core.documents import Document
from syncd.core.ids import MEMBERS
from syncd.engine.batch import space_row
from syncd.engine.members import role_in, role_seq
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DOCUMENTS, HOLDERS, HolderRow

LISTED_MAX = 10_000  # of each: some 50 ms in which the loop does nothing else
LOOKED_MAX = 2_000  # rows read for one page: tombstones of members stay, and most who have a copy may keep it


def members(tx: Reader, space: str) -> list[dict[str, Any]]:
    """By user; `seq`: of the change that gave the role. Who has no role by the space (`None`) is listed, too: it was
    made a member, and nothing is said of it any more."""
    row = space_row(tx, space)
    if row is None:
        return []
    found = _documents(tx, row.id)
    return list(islice((_member(user, document) for user, document in found if document.is_live), LISTED_MAX))


def member_page(tx: Reader, space: str, after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """Up to `limit` of `members` behind the user `after`, and behind whom the next page goes on, None at the end."""
    row = space_row(tx, space)
    listed: list[dict[str, Any]] = []
    for count, (user, document) in enumerate(() if row is None else _documents(tx, row.id, after), 1):
        if document.is_live:
            listed.append(_member(user, document))
        if len(listed) == limit or count == LOOKED_MAX:
            return listed, user
    return listed, None


def _documents(tx: Reader, space_id: int, after: str = "") -> Iterator[tuple[str, Document]]:
    for key, document in DOCUMENTS.scan(tx, keys.collection_range(space_id, MEMBERS, after)):
        yield keys.parse_document(key)[2], document


def _member(user: str, document: Document) -> dict[str, Any]:
    role = role_in(document)
    return {"user": user, "role": None if role is None else role.name.lower(), "seq": role_seq(document)}


def unpurged(tx: Reader, space: str) -> list[dict[str, Any]]:
    """Devices that were told, or are to be told, to delete their copy; `seq` of the change that took the right to read
    away, 0 if it was a token that did not bring it; `since_ms`."""
    row = space_row(tx, space)
    if row is None:
        return []
    found = HOLDERS.scan(tx, keys.space_range(keys.HOLDER, row.id))
    return list(islice((_holder(key, held) for key, held in found if held.lost_seq is not None), LISTED_MAX))


def unpurged_page(tx: Reader, space: str, after: bytes, limit: int) -> tuple[list[dict[str, Any]], bytes | None]:
    """Up to `limit` of `unpurged` from behind the place `after` (empty: from the first), and the place where the next
    page goes on, None at the end. A place is one among all that have a copy."""
    row = space_row(tx, space)
    listed: list[dict[str, Any]] = []
    if row is None:
        return listed, None
    start, stop = keys.space_range(keys.HOLDER, row.id)
    head = keys.holder(row.id, b"", b"")
    if after:
        start = head + after + b"\0"
    for count, (key, held) in enumerate(HOLDERS.scan(tx, (start, stop)), 1):
        if held.lost_seq is not None:
            listed.append(_holder(key, held))
        if len(listed) == limit or count == LOOKED_MAX:
            return listed, key[len(head) :]
    return listed, None


def _holder(key: bytes, held: HolderRow) -> dict[str, Any]:
    device = keys.parse_holder(key)[2]
    return {"user": held.user, "device": device.hex(), "seq": held.lost_seq, "since_ms": held.lost_ms}
