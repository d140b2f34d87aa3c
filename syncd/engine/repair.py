"""Reconciling: finding what differs between a replica and its space, and bringing only that.

Owns the comparison of what a device says it holds with what is stored: first 1,024 bucket sums, then, for the buckets
that differ, a key hash and a sum for each of its documents. Must not know how a device came to differ (it was away for
longer than deletions are remembered, or its store is damaged), nor how messages travel. Each function reads one
transaction and is bounded; nothing is kept here between two of them.

Everything that a device is given while it reconciles was read at the first position that it was told, or later. So once
all is applied it stands at that first position: what changed behind it comes again with the deltas that follow, which
tell each field whole.

Invariants: R1 what is compared is a bucket as a whole, at one position; a bucket that is found equal there is equal.
R2 a page of repair has at most `bytes_target` bytes of records, or one document, and looks at `rows_max` documents and
`READ_BYTES_MAX` at most. R3 after all pages of a question, the device has of the buckets in it every live document as
it was at the position of its page, and no other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from syncd.core.documents import Document
from syncd.core.sums import BUCKET_COUNT, BUCKET_SHIFT, SUM_MASK, document_sum
from syncd.engine.batch import DocumentName, entry_of, space_row
from syncd.engine.reading import PAGE_BYTES
from syncd.store import keys
from syncd.store.api import Reader, StoreDamaged
from syncd.store.tables import BUCKETS, DOCUMENTS, KEY_HASHES, SpaceRow
from syncd.wire.messages import Differ, DocumentEntry, Repair

SUMS_BYTES: Final = 8 * BUCKET_COUNT
PAIR_BYTES: Final = 16  # a key hash and the sum of its documents
REPAIR_ROWS_MAX: Final = 256  # documents hashed for one page: some 5 ms
READ_BYTES_MAX: Final = 1024 * 1024  # and bytes of them: as long


@dataclass(frozen=True, slots=True)
class Question:
    """What a device holds of some buckets: `pairs`, ascending by key hash. `after`: the key hash up to which it is
    answered, -1 at first. `is_last`: the device has no other question."""

    buckets: tuple[int, ...]
    pairs: bytes
    is_last: bool
    after: int = -1


def refused_question(buckets: Sequence[int], pairs: bytes) -> str | None:
    """What is wrong with a question; None if it is right."""
    if any(not 0 <= number < BUCKET_COUNT for number in buckets) or list(buckets) != sorted(set(buckets)):
        return f"'of' names buckets from 0 to {BUCKET_COUNT - 1}, each once, ascending"
    asked, before = set(buckets), -1
    for offset in range(0, len(pairs), PAIR_BYTES):
        hashed = int.from_bytes(pairs[offset : offset + 8])
        if hashed <= before:
            return "'documents' ascends by key hash, each once"
        if hashed >> BUCKET_SHIFT not in asked:
            return f"'documents' has a key hash of bucket {hashed >> BUCKET_SHIFT}, which 'of' does not name"
        before = hashed
    return None


def compared(tx: Reader, space: str, sums: bytes) -> Differ:
    """Which buckets differ from the sums of a device, and where that was found."""
    row = _row(tx, space)
    stored = [0] * BUCKET_COUNT
    for key, bucket in BUCKETS.scan(tx, keys.space_range(keys.BUCKET, row.id)):
        stored[keys.parse_bucket(key)[1]] = bucket[0]
    differing = tuple(
        number for number, total in enumerate(stored) if total != int.from_bytes(sums[8 * number : 8 * number + 8])
    )
    return Differ(space, row.epoch, row.head, row.time, row.chain, differing)


def repaired(
    tx: Reader,
    space: str,
    question: Question,
    at: int,
    bytes_target: int = PAGE_BYTES,
    rows_max: int = REPAIR_ROWS_MAX,
) -> tuple[Repair, Question | None]:
    """The next page of the answer to a question, and what of it is left (None: nothing). `at`: where the device is
    going to stand; if nothing was committed since, the last page of all has the sum that it must come to."""
    row = _row(tx, space)
    held = _held(question)
    docs: list[DocumentEntry] = []
    brought_bytes = read_bytes = rows = 0
    reached = question.after
    for hashed, names in _groups(tx, row.id, question):
        found = [_document(tx, row.id, name) for name in names]
        group_bytes = sum(size for _, size in found)
        is_full = brought_bytes + group_bytes > bytes_target or read_bytes + group_bytes > READ_BYTES_MAX
        if rows and (is_full or rows + len(names) > rows_max):
            left = Question(question.buckets, question.pairs, question.is_last, reached)
            return _page(row, space, docs, [each for each in held if each <= reached]), left
        rows, read_bytes, reached = rows + len(names), read_bytes + group_bytes, hashed
        total = sum(document_sum(*name, each) for name, (each, _) in zip(names, found, strict=True)) & SUM_MASK
        if held.pop(hashed, None) != total:
            docs.extend(entry_of(name, each, 0) for name, (each, _) in zip(names, found, strict=True))
            brought_bytes += group_bytes
    end = _page(row, space, docs, list(held))
    total_sum = row.sum.to_bytes(8) if question.is_last and row.head == at else None
    return replace(end, done=True, last=question.is_last, sum=total_sum), None


def _page(row: SpaceRow, space: str, docs: list[DocumentEntry], gone: list[int]) -> Repair:
    return Repair(
        space, row.epoch, row.head, row.time, row.chain, tuple(docs), b"".join(each.to_bytes(8) for each in gone)
    )


def _held(question: Question) -> dict[int, int]:
    """key hash -> sum, of what is not answered yet."""
    pairs = question.pairs
    read = ((pairs[at : at + 8], pairs[at + 8 : at + PAIR_BYTES]) for at in range(0, len(pairs), PAIR_BYTES))
    numbers = ((int.from_bytes(hashed), int.from_bytes(total)) for hashed, total in read)
    return {hashed: total for hashed, total in numbers if hashed > question.after}


def _groups(tx: Reader, space_id: int, question: Question) -> Iterator[tuple[int, list[DocumentName]]]:
    """The live documents of the buckets, by rising key hash. Nearly always one has a hash for itself."""
    current, names = -1, list[DocumentName]()
    for bucket in question.buckets:
        first = max(bucket << BUCKET_SHIFT, question.after + 1)
        stop = (bucket + 1) << BUCKET_SHIFT
        if first >= stop:
            continue
        for key, name in KEY_HASHES.scan(tx, keys.key_hash_range(space_id, first, stop)):
            hashed = keys.parse_key_hash(key)[1]
            if hashed != current and names:
                yield current, names
                names = []
            current = hashed
            names.append((name[0], name[1]))
    if names:
        yield current, names


def _document(tx: Reader, space_id: int, name: DocumentName) -> tuple[Document, int]:
    """A document, and how many bytes are stored for it."""
    key = keys.document(space_id, *name)
    record = tx.get(key)
    if record is None:
        raise StoreDamaged(f"space {space_id} has no document {name[0]}/{name[1]}, which its key hash names")
    return DOCUMENTS.row(key, record), len(key) + len(record)


def _row(tx: Reader, space: str) -> SpaceRow:
    row = space_row(tx, space)
    assert row is not None, "a subscription outlives no space"
    return row
