"""Unique keys: no two documents of a space hold the same key under the same name.

Owns who holds what, as the changes of a batch so far left it, and whether an operation may take a key. What a document
holds is in the document (`core/documents.py`); the table here is its reverse. Must not know what keys mean.

Invariants: U1 each key has one holder at most, which is alive. U2 whatever ends a hold frees the key for the very next
operation, also of the same change. U3 a change that is refused has taken and freed nothing.
"""

from collections.abc import Callable, Mapping

from syncd.core.documents import RESERVED, Document, reservations
from syncd.store import keys
from syncd.store.api import Writer
from syncd.store.tables import UNIQUE

DocumentName = tuple[str, str]  # (collection, id)
Key = tuple[str, str]  # (name, key)
Held = dict[Key, DocumentName | None]  # None: free

ENDING = frozenset({"unique", "delete"})  # operations after which a document may hold other keys than before


class Reservations:
    """Of one space in one write transaction."""

    __slots__ = ("_held", "_space", "_stored", "_tx")

    def __init__(self, tx: Writer, space: int) -> None:
        self._tx, self._space = tx, space
        self._held: Held = {}
        self._stored: Held = {}

    def holder(self, key: Key) -> DocumentName | None:
        if key not in self._held:
            row = UNIQUE.get(self._tx, keys.unique(self._space, *key))
            self._held[key] = self._stored[key] = None if row is None else (row[0], row[1])
        return self._held[key]

    def keep(self, held: Mapping[Key, DocumentName | None]) -> None:
        """Take over what an accepted change took and freed."""
        for key in held:
            self.holder(key)
        self._held.update(held)

    def flush(self) -> None:
        for key, name in self._held.items():
            if name == self._stored[key]:
                continue
            if name is None:
                self._tx.delete(keys.unique(self._space, *key))
            else:
                UNIQUE.put(self._tx, keys.unique(self._space, *key), name)
            self._stored[key] = name


def taken(
    holder_of: Callable[[Key], DocumentName | None],
    held: Held,
    name: DocumentName,
    before: Document | None,
    after: Document | None,
    under: str | None = None,
) -> tuple[Key, DocumentName] | None:
    """Note in `held`, what the change so far took and freed, what an operation did to a document's keys. Returns the
    key that another document holds, and which, if there is one. `under`: the only name under which the operation could
    take or free one; None: any."""
    if before is not None and after is not None and before.fields is after.fields:
        return None
    had, has = _keys(before, under), _keys(after, under)
    for key in had - has:
        held[key] = None
    for key in sorted(has - had):
        holder = held[key] if key in held else holder_of(key)
        if holder is not None and holder != name:
            return key, holder
        held[key] = name
    return None


def _keys(document: Document | None, under: str | None) -> set[Key]:
    """What a document holds. There may be a thousand fields to look through, and a thousand operations that ask."""
    if under is None or document is None:
        return set(reservations(document).items())
    field = document.fields.get(RESERVED + under)
    return set() if field is None else {(under, field.state[1])}
