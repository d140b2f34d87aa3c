"""Fields of type `text`: what a replica keeps of them.

Owns the value of such a field: `[after, [[seq, update], ...]]`, the updates with a seq above `after` (0: all of them),
in their order. What a replica keeps, and a view shows, is whole: `after` is 0. In a view the updates that are not
synced yet follow, with None for their seq. What an update says is Yjs's affair: see `editing.py`.

1. No update of the server's is lost, repeated or reordered by what is joined here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import InvalidInput
from .operations import operation
from .values import Value
from .yjs import checked

if TYPE_CHECKING:
    from .space import Change, Space

# More updates than this are merged into one, if there is a library for it; the checksum counts none of them.
KEPT_MAX = 1_024

_merge: Callable[..., bytes] | None
try:
    from pycrdt import Doc as _Doc
    from pycrdt import merge_updates as _merge  # the extra `text`
except ImportError:
    _merge = None


def joined(before: Value, told: Value) -> Value | None:
    """What is kept after a delta that tells `told` of a field that was `before` (None: it was not there). None if it
    tells what follows a part that is not there: the store has lost it, and the checksum shows that the field lacks."""
    after, updates = told
    if not after:
        return [0, shortened(updates)]
    if before is None:
        return None
    last = rev_of(before)  # of what is told, some may be here already
    return [0, shortened([*before[1], *(item for item in updates if item[0] > last)])]


def shortened(updates: list[Value], kept_max: int = KEPT_MAX) -> list[Value]:
    """The updates, merged into one if there are more than `kept_max` and a library that can."""
    if _merge is None or len(updates) <= kept_max:
        return updates
    try:
        parts = [checked(update) for _, update in updates]
        merged = _merge(*parts)
        # Where an update is missing, or two claim the same place, the library merges to something else.
        is_same = _loaded([merged]) == _loaded(parts)
    except ValueError:
        return updates  # some are none
    except BaseException as error:
        if not is_panic(error):
            raise
        return updates
    return [[updates[-1][0], merged]] if is_same else updates


def _loaded(updates: list[bytes]) -> bytes:
    doc: _Doc[Any] = _Doc()
    for update in updates:
        doc.apply_update(update)
    return bytes(doc.get_update())


def is_panic(error: BaseException) -> bool:
    """The library is written in Rust. What it did not expect comes as a panic: no `Exception`, and of a class that
    cannot be imported."""
    return type(error).__name__ == "PanicException"


def rev_of(value: Value) -> int:
    """What the checksum counts of a text: the seq of its last update."""
    rev: int = value[1][-1][0]
    return rev


class TextField:
    """The updates of one text as they are: Yjs's encoding version 1, which any of its implementations reads."""

    def __init__(self, space: Space, collection: str, id: str, field: str) -> None:
        self._space = space
        self._where = (collection, id, field)

    def updates(self) -> list[bytes]:
        """What the view shows, in order: what is synced, then what is not yet. Empty if there is no such field."""
        collection, id, field = self._where
        document = self._space.view(collection, id)
        if document is None or field not in document.fields:
            return []
        if document.types[field] != "text":
            raise InvalidInput(f"{collection}/{id}: {field} is a {document.types[field]}, not a text")
        return [update for _, update in document.fields[field][1]]

    def update(self, *updates: bytes) -> Change:
        """Commit updates, as one change."""
        return self._space.commit(operation("text.update", *self._where, update) for update in updates)
