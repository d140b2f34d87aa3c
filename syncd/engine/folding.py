"""Folding texts: the older updates of a text become one, where the daemon has a library that can merge them.

Owns when that is done. It is invisible: no rev, no sum and no seq moves, and who lacks some of what was merged is told
the whole text instead. It is done in the transaction that adds an update, for whose sake the document is written
anyway; so it needs no list of what is due, and no write of its own.

Invariants: O1 nothing is merged that is younger than what the last batch has told. O2 one field is merged in a batch at
most, which takes some ms. Others wait for some further updates of theirs; `texts` bounds what they may come to.
"""

from syncd.core import texts
from syncd.core.documents import Document


class Folding:
    """What one batch may fold. None: there is no library."""

    __slots__ = ("_merging",)

    def __init__(self, merging: texts.Merging | None) -> None:
        self._merging = merging

    def folded(self, document: Document | None, head: int) -> Document | None:
        """The document with one of its texts folded; itself if none is due."""
        merging = self._merging
        if merging is None or document is None:
            return document
        for name, field in document.fields.items():
            if field.type == "text" and texts.is_due(field.state, head, merging):
                self._merging = None
                state = texts.folded(field.state, head, merging)
                if state is None:
                    return document
                return document._replace(fields={**document.fields, name: field._replace(state=state)})
        return document
