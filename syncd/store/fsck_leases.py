"""fsck of bounded fields: books that add up, leases that are listed by space and by time.

Owns what must be true between a document's books and the two indexes of its leases. Must not know how leases come and
go.
"""

from collections.abc import Iterator

from syncd.core import leases
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.checking import Damaged, Finding, Findings, Space, get
from syncd.store.tables import DOCUMENTS, LEASE_ENDS, LEASES


def named(collection: str, document_id: str) -> str:
    return f"{collection}/{document_id}"


def lease_ends(tx: Reader) -> Findings:
    """Each row of the index by time is the end of a lease."""
    for key, _ in tx.scan(*keys.table_range(keys.LEASE_END)):
        at_ms, lease_key = keys.parse_lease_end(key)
        row = get(tx, LEASES, lease_key)
        what = _leasenamed(lease_key)
        if row is None:
            yield Finding(LEASE_ENDS.name, what, "there is no such lease")
        elif not isinstance(row, Damaged) and row.until != at_ms:
            yield Finding(LEASE_ENDS.name, what, f"it ends at {row.until}, not at {at_ms}")


def _leasenamed(key: bytes) -> str:
    space, number, lease_id, field = keys.parse_lease(key)
    return f"space number {space} document {number} {field} {lease_id.hex()}"


def books(space: Space) -> Findings:
    """The book of each bounded field adds up, and its leases are listed; each lease that is listed is in its book."""
    for key, row in space.rows(DOCUMENTS):
        if isinstance(row, Damaged):
            continue
        _, collection, document_id = keys.parse_document(key)
        for name, field in row.fields.items():
            if field.type == "bounded":
                what = f"{named(collection, document_id)} {name}"
                for problem in _book_problems(space, row.number, name, leases.book_of(field.state)):
                    yield space.found(DOCUMENTS, what, problem)
    for key, row in space.rows(LEASES):
        if isinstance(row, Damaged):
            continue
        _, number, lease_id, name = keys.parse_lease(key)
        document = get(space.tx, DOCUMENTS, keys.document(space.row.id, row.collection, row.document_id))
        if isinstance(document, Damaged):
            continue
        field = None if document is None or document.number != number else document.fields.get(name)
        book = leases.book_of(None if field is None or field.type != "bounded" else field.state)
        if lease_id not in book.leases:
            what = f"{named(row.collection, row.document_id)} {name} {lease_id.hex()}"
            yield space.found(LEASES, what, "the field has no such lease")


def _book_problems(space: Space, number: int, name: str, book: leases.Book) -> Iterator[str]:
    left = sum(leases.Lease(*lease).left for lease in book.leases.values())
    granted = sum(not leases.Lease(*lease).is_honoured for lease in book.leases.values())  # no promise is one too many
    accounts = (book.total, book.reserve, book.taken, book.deficit)
    if book.reserve + left + book.taken != book.total + book.deficit:
        held = f"reserve {book.reserve}, leased {left}, taken {book.taken}"
        yield f"its accounts do not add up: {held}, of {book.total}"
    if min(accounts) < 0 or (book.reserve and book.deficit) or granted > leases.LEASES_MAX:
        yield f"its accounts are impossible: {accounts}, with {len(book.leases)} leases"
    for lease_id, stored in book.leases.items():
        lease = leases.Lease(*stored)
        if not 0 <= lease.left <= lease.k or lease.slot >= space.row.slot_next:
            yield f"the lease {lease_id.hex()} by slot {lease.slot} has {lease.left} left of {lease.k}"
        listed = get(space.tx, LEASES, keys.lease(space.row.id, number, lease_id, name))
        if listed is None or (not isinstance(listed, Damaged) and listed.until != lease.until):
            yield f"the lease {lease_id.hex()} is not listed with its end {lease.until}"
        end = None if lease.until is None else keys.lease_end(lease.until, space.row.id, number, lease_id, name)
        if end is not None and space.tx.get(end) is None:
            yield f"the lease {lease_id.hex()} never ends: no row at {lease.until}"
