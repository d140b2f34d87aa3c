"""Editing a field of type `text` offline, as a Yjs document (the extra `text`: pycrdt).

Owns the bookkeeping between a `TextField`, which holds updates, and a live document. Must not know how updates are
stored or sent. Yjs numbers what a client id has made; who lacks one update of an id can show none of its later ones. So

1. a client id lives as long as all that was made under it is in the view: synced, or waiting in the outbox;
2. when something of it has gone (a change was refused, given up, or lost in a restore), what the person sees is kept:
   the difference between that and the view is made anew under a new id, and committed.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, TypeAlias

from pycrdt import Doc, Text

from .errors import UnreadableText
from .texts import is_panic
from .yjs import checked

if TYPE_CHECKING:
    from .space import Change
    from .texts import TextField

YDoc: TypeAlias = "Doc[Any]"
ROOT = "text"  # the name of the shared type inside the Yjs document
EMPTY = b"\x00\x00"  # the update that says nothing


class TextEditor:
    """One open editor. `insert` and `delete` alter what is shown; `commit` makes it durable, `refresh` takes in what
    has come from elsewhere. Places are counted in characters of `str(editor)`."""

    def __init__(self, field: TextField, root: str = ROOT) -> None:
        self._field, self._root = field, root
        self._doc = self._viewed()
        self._known = self._doc.get_state()  # what was committed, or came from the view
        self._document_text = self._doc.get(root, type=Text)

    def __str__(self) -> str:
        return str(self._document_text)

    @property
    def client_id(self) -> int:
        return int(self._doc.client_id)

    def insert(self, at: int, text: str) -> None:
        self._document_text.insert(self._bytes_before(at), text)

    def delete(self, at: int, count: int) -> None:
        start, stop = self._bytes_before(at), self._bytes_before(at + count)
        del self._document_text[start:stop]

    def _bytes_before(self, at: int) -> int:
        return len(str(self)[:at].encode())  # pycrdt counts the bytes of UTF-8

    def commit(self) -> Change | None:
        """Make durable what was edited since the last time; None if nothing was."""
        update = self._doc.get_update(self._known)
        if update == EMPTY or (self._doc.get_state() == self._known and not self._has_deleted()):
            return None
        self._known = self._doc.get_state()
        return self._field.update(update)

    def _has_deleted(self) -> bool:
        """Deletions move no clock: whether one is not in the view yet."""
        return str(self) != str(self._viewed().get(self._root, type=Text))

    def refresh(self) -> bool:
        """Take in what the view holds by now. Commits first what was edited. True if what is shown has changed."""
        self.commit()
        shown, viewed = str(self), self._viewed()
        if _covers(viewed.get_state(), self._doc.get_state()):
            self._doc.apply_update(viewed.get_update())
            self._known = self._doc.get_state()
            return str(self) != shown
        self._rebase(viewed, shown)
        return str(self) != shown

    def _rebase(self, viewed: YDoc, shown: str) -> None:
        """Something that this editor had committed, or shown, has gone from the view. Goes on under a new client id
        from what is there, and commits what of the text is not."""
        self._doc, self._known = viewed, viewed.get_state()
        self._document_text = viewed.get(self._root, type=Text)
        moves = SequenceMatcher(None, str(self), shown, autojunk=False).get_opcodes()
        for tag, start, stop, new_start, new_stop in reversed(moves):
            if tag in ("replace", "delete"):
                self.delete(start, stop - start)
            if tag in ("replace", "insert"):
                self.insert(start, shown[new_start:new_stop])
        self.commit()

    def _viewed(self) -> YDoc:
        """A document of its own, under a client id that was never used, with all that the view has."""
        doc: YDoc = Doc()
        for number, update in enumerate(self._field.updates(), 1):
            try:
                doc.apply_update(checked(update))
            except BaseException as error:
                if not isinstance(error, ValueError) and not is_panic(error):
                    raise
                raise UnreadableText(f"update {number} of the text cannot be read: {error}") from None
        return doc


def _covers(state: bytes, other: bytes) -> bool:
    """Whether a state vector has at least all that another has."""
    clocks = _clocks(state)
    return all(clocks.get(client, 0) >= clock for client, clock in _clocks(other).items())


def _clocks(state: bytes) -> dict[int, int]:
    """client id -> clock, from Yjs's encoding of a state vector: a count, then pairs, as variable-length integers."""
    numbers, number, shift = [], 0, 0
    for byte in state:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(number)
            number = shift = 0
    return dict(zip(numbers[1::2], numbers[2::2], strict=True))
