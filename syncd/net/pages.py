"""Pages that are shared: devices that return to the same position get one page, read, encoded and deflated once.

Owns a small cache of framed pages, bounded in bytes, and when one of them may be given to another device. Must not know
connections. Whoever asks has been let in by the engine before: a page depends on no role, so it is the asker's
subscription that is checked, never the page.

Invariants: C1 a page is found only by the space's number and epoch, the position that it follows on (complete, resume,
start) and the format. C2 a last page is given only while its `to` is the head: then it is, byte for byte, what reading
anew would give. C3 the first page of a first download is given only while its `start` is the head, for the same reason.
C4 any other page may be older than the reader's transaction. That is as if it had been read then: it goes up to its
`to`, a document that changed since has moved behind it, and its later page says so whole (reading, P2 and P3). C5 what
C2 and C3 forbid to give is not kept once its space is found at another head: nearly every page that is read is a last
one, so the cache would else fill for weeks with what nobody may have.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from syncd.core.ids import Position
from syncd.engine import reading
from syncd.engine.reading import Cursor
from syncd.net.formats import Format
from syncd.store.api import Reader

ENTRY_BYTES: Final = 1100  # of objects around the bytes of one page: key, page, the places of both, a set of its space
READ_BYTES_MIN: Final = 8192  # what looking for a page is taken for, if there is nothing, or little, to say

Key = tuple[int, bytes, int, int, int | None, int]


@dataclass(frozen=True, slots=True)
class Page:
    """`data`: the frame, empty if there is nothing to say. The rest: where the cursor goes from it."""

    data: bytes
    to: int
    complete: bool
    start: int | None


class Pages:
    """`bytes_max`: of all pages that are kept; what was used longest ago goes first. `page_bytes`: aimed at for one."""

    def __init__(self, bytes_max: int, page_bytes: int = reading.PAGE_BYTES) -> None:
        self._bytes_max, self._page_bytes = bytes_max, page_bytes
        self._pages: OrderedDict[Key, Page] = OrderedDict()
        # By space: the head at which it was seen last, and the pages that are good only there.
        self._passing: dict[int, tuple[Position, set[Key]]] = {}
        self.bytes = 0
        self.read_count = self.shared_count = 0  # pages that were read from the store, and that were not
        # Of the former, and no less for each than `READ_BYTES_MIN`; and of what is read beside pages, for the turns.
        self.read_bytes = 0

    def page(self, tx: Reader, cursor: Cursor, format: Format) -> Page:
        """The next page for a subscription that stands at this cursor."""
        position = reading.position(tx, cursor.space)
        assert position is not None, "a subscription outlives no space"
        self._let_pass(cursor.space_id, position)
        key = (cursor.space_id, position.epoch, cursor.complete, cursor.resume, cursor.start, format.number)
        found = self._pages.get(key)
        if found is not None:
            self._pages.move_to_end(key)
            self.shared_count += 1
            return found
        delta = reading.page(tx, cursor, self._page_bytes)
        data = format.encoded(delta) if delta.to > delta.from_ else b""
        page = Page(data, delta.to, delta.complete, delta.start)
        self.read_count += 1
        self.read_bytes += max(len(data), READ_BYTES_MIN)
        if data:
            if page.complete or (cursor.start is None and page.start is not None):
                self._passing.setdefault(cursor.space_id, (position, set()))[1].add(key)
            self._keep(key, page)
        return page

    def _let_pass(self, space_id: int, position: Position) -> None:
        """C5."""
        passing = self._passing.get(space_id)
        if passing is not None and passing[0] != position:
            del self._passing[space_id]
            for key in passing[1]:
                self.bytes -= _size(self._pages.pop(key))

    def _keep(self, key: Key, page: Page) -> None:
        self._pages[key] = page
        self.bytes += _size(page)
        while self.bytes > self._bytes_max:
            oldest, dropped = self._pages.popitem(last=False)
            self.bytes -= _size(dropped)
            passing = self._passing.get(oldest[0])
            if passing is not None:
                passing[1].discard(oldest)
                if not passing[1]:
                    del self._passing[oldest[0]]


def _size(page: Page) -> int:
    return len(page.data) + ENTRY_BYTES
