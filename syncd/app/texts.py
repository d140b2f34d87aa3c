"""The library that merges updates of texts, if it is there (the extra `text`).

Owns the doubt about it: devices write what they like. Must not know where updates are kept.

1. What is merged means what its parts meant, one after the other: it is loaded both ways and compared. Where an update
   is missing, or two claim the same place, the library's merging does not keep to that.
2. Whatever an update does to the library, the server gets a ValueError, and goes on without merging.
"""

from collections.abc import Sequence
from typing import Any

from syncd.core.texts import Merging


def merging() -> Merging | None:
    try:
        from pycrdt import Doc, merge_updates
    except ImportError:
        return None

    def loaded(updates: Sequence[bytes]) -> bytes:
        doc: Doc[Any] = Doc()
        for update in updates:
            doc.apply_update(update)
        return bytes(doc.get_update())

    def merged(updates: Sequence[bytes]) -> bytes:
        try:
            one = bytes(merge_updates(*updates))
            is_same = loaded((one,)) == loaded(updates)
        except BaseException as error:
            # The library is written in Rust. What it did not expect comes as a panic: no `Exception`, and of a class
            # that cannot be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"the library cannot merge these updates: {error}") from None
        if not is_same:
            raise ValueError("merged, these updates mean something else")
        return one

    return Merging(merged)
