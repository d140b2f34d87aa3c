"""Pages that are shared: devices that return to the same position get one page, read, encoded and deflated once.

Owns a small cache of framed pages, bounded in bytes, and when one of them may be given to another device. Must not know
connections. Whoever asks has been let in by the engine before: a page depends on no role, so it is the asker's
subscription that is checked, never the page.

Invariants: C1 a page is found only by the space's number and epoch, the position that it follows on (complete, resume,
start) and the format. C2 a last page is given only while its `to` is the head: then it is, byte for byte, what reading
anew would give. C3 the first page of a first download is given only while its `start` is the head, for the same reason.
C4 any other page may be older than the reader's transaction. That is as if it had been read then: it goes up to its
`to`, a document that changed since has moved behind it, and its later page says so whole (reading, P2 and P3).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from syncd.engine import reading
from syncd.engine.reading import Cursor
from syncd.net.formats import Format
from syncd.store.api import Reader

ENTRY_BYTES: Final = 700  # of objects around the bytes of one page: key, page, and the places of both

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
        self.bytes = 0
        self.read_count = self.shared_count = 0  # pages that were read from the store, and that were not

    def page(self, tx: Reader, cursor: Cursor, format: Format) -> Page:
        """The next page for a subscription that stands at this cursor."""
        position = reading.position(tx, cursor.space)
        assert position is not None, "a subscription outlives no space"
        key = (cursor.space_id, position.epoch, cursor.complete, cursor.resume, cursor.start, format.number)
        found = self._pages.get(key)
        if found is not None and _is_current(found, cursor, position.seq):
            self._pages.move_to_end(key)
            self.shared_count += 1
            return found
        delta = reading.page(tx, cursor, self._page_bytes)
        data = format.encoded(delta) if delta.to > delta.from_ else b""
        page = Page(data, delta.to, delta.complete, delta.start)
        self.read_count += 1
        if data:
            self._keep(key, page)
        return page

    def _keep(self, key: Key, page: Page) -> None:
        older = self._pages.pop(key, None)
        if older is not None:
            self.bytes -= _size(older)
        self._pages[key] = page
        self.bytes += _size(page)
        while self.bytes > self._bytes_max:
            _, oldest = self._pages.popitem(last=False)
            self.bytes -= _size(oldest)


def _is_current(page: Page, cursor: Cursor, head: int) -> bool:
    """C2, C3."""
    if page.complete and page.to != head:
        return False
    return cursor.start is not None or page.start is None or page.start == head


def _size(page: Page) -> int:
    return len(page.data) + ENTRY_BYTES
