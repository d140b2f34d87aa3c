"""fsck of what collection goes by: tombstones, lapsed devices, the index of key hashes by which replicas reconcile, and
how old documents are.

Owns what must be true between these indexes and their tables. Must not know when anything is dropped.
"""

from syncd.core.documents import Document
from syncd.core.ids import MEMBERS
from syncd.core.sums import key_hash
from syncd.store import keys
from syncd.store.checking import Damaged, Findings, Space, get
from syncd.store.fsck_leases import named
from syncd.store.tables import (
    BYREV,
    DOCUMENTS,
    KEEPING,
    KEY_HASHES,
    LAPSED,
    MARKS_MAX,
    REPLICAS,
    SLOTS,
    TOMBSTONES,
    ReplicaRow,
)


def tombstones(space: Space) -> Findings:
    """The index of tombstones has each of them, and nothing else."""
    for key, _ in space.tx.scan(*keys.space_range(keys.TOMBSTONE, space.row.id)):
        _, rev, number = keys.parse_tombstone(key)
        place = get(space.tx, BYREV, keys.byrev(space.row.id, rev, number))
        if place is None:
            yield space.found(TOMBSTONES, f"rev {rev} number {number}", "no document has its place there")
            continue
        found = (
            Damaged() if isinstance(place, Damaged) else get(space.tx, DOCUMENTS, keys.document(space.row.id, *place))
        )
        if isinstance(found, Document) and found.is_live and found.rev == rev:
            yield space.found(TOMBSTONES, f"rev {rev} number {number}", f"{named(*place)} lives")
    for key, row in space.rows(DOCUMENTS):
        name = keys.parse_document(key)[1:]
        if not isinstance(row, Damaged) and row.has_body and name[0].startswith("_"):
            yield space.found(DOCUMENTS, named(*name), "it is deleted and keeps a body, in a reserved collection")
        if isinstance(row, Damaged) or row.is_live or name[0] == MEMBERS:
            continue  # those of members stay for ever, and are not listed
        if space.tx.get(keys.tombstone(space.row.id, row.rev, row.number)) is None:
            yield space.found(TOMBSTONES, f"rev {row.rev}", f"{named(*name)} is deleted and not listed")


def key_hashes(space: Space) -> Findings:
    """The index of key hashes has each live document, under the hash of its name, and nothing else."""
    for key, row in space.rows(KEY_HASHES):
        _, hashed, number = keys.parse_key_hash(key)
        found = Damaged() if isinstance(row, Damaged) else get(space.tx, DOCUMENTS, keys.document(space.row.id, *row))
        if isinstance(found, Damaged):
            continue
        if found is None or not found.is_live or found.number != number or key_hash(*row) != hashed:
            yield space.found(KEY_HASHES, f"{hashed:016x} number {number}", f"{named(*row)} is no such live document")
    for key, row in space.rows(DOCUMENTS):
        name = keys.parse_document(key)[1:]
        place = keys.key_hash(space.row.id, key_hash(*name), row.number) if isinstance(row, Document) else b""
        if place and row.is_live and space.tx.get(place) is None:
            yield space.found(KEY_HASHES, named(*name), "it lives and is not listed")


def lapsed(space: Space) -> Findings:
    """Who has lapsed holds no low-water, and had one."""
    for key, row in space.rows(LAPSED):
        _, slot = keys.parse_lapsed(key)
        what = f"slot {slot}"
        owner = get(space.tx, SLOTS, keys.slot(space.row.id, slot))
        if owner is None or isinstance(owner, Damaged):
            if slot >= space.row.slot_next:
                yield space.found(LAPSED, what, "the slot was never given")
            continue
        replica = get(space.tx, REPLICAS, keys.replica(space.row.id, owner[0]))
        if isinstance(replica, ReplicaRow) and (replica.slot, replica.low) != (slot, None):
            yield space.found(LAPSED, what, f"its device is active, with the low-water {replica.low}")
        if not isinstance(row, Damaged) and not 0 <= row.low <= space.row.head:
            yield space.found(LAPSED, what, f"its low-water was {row.low}, the head is {space.row.head}")


def keepings(space: Space) -> Findings:
    """Marks are heads that the space had, in order; what was looked through is not beyond the first of them."""
    for key, row in space.rows(KEEPING):
        if isinstance(row, Damaged):
            continue
        what, marks = keys.parse_keeping(key)[1], list(row.marks)
        if row.keep_ms < 1:
            yield space.found(KEEPING, what, f"its documents are kept for {row.keep_ms} ms")
        if not 0 < len(marks) <= MARKS_MAX + 1:
            yield space.found(KEEPING, what, f"it has {len(marks)} marks, not 1 to {MARKS_MAX + 1}")
        elif marks != sorted(marks) or not 0 <= marks[0] <= marks[-1] <= space.row.head:
            yield space.found(KEEPING, what, f"its marks {marks} do not rise to the head {space.row.head} at most")
        elif not (0, 0) <= tuple(row.place) <= (marks[0] + 1, 0):
            yield space.found(KEEPING, what, f"it is looked through to {row.place}, its first mark is {marks[0]}")
