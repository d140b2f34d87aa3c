"""Reconciling one space: what to say about what is held, and what to do with the answers (section 8.1).

Owns the questions to the server and the staging of what it brings. Knows no connection and no time. A comparison lives
as long as its connection; what was staged is applied whole, with the last answer, or dropped.

1. Nothing that was staged is shown, and the outbox is not touched, before the last answer.
2. A question has whole buckets, and `PAIRS_MAX` pairs unless one bucket alone has more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from . import replica
from .messages import DELETED, Delta, Differ, DocumentEntry, Repair, Sums
from .sums import BUCKET_COUNT, document_sum, key_hash, sum_bytes
from .tables import SpaceRow, Tables

PAIRS_MAX = 4_096  # 64 KiB: one question is small beside a page of its answer


@dataclass(slots=True)
class Mending:
    """A comparison under way. `differ`: the server's first answer; `left`: buckets that were not asked about yet."""

    differ: Differ | None = None
    left: deque[int] = field(default_factory=deque)
    staged: int = 0


def opening(tx: Tables, row: SpaceRow) -> Sums:
    """What is held, as 1,024 sums."""
    assert row.epoch is not None
    kept = tx.bucket_sums(row.name)
    return Sums(row.name, row.epoch, buckets=b"".join(sum_bytes(kept.get(number, 0)) for number in range(BUCKET_COUNT)))


def take_differ(tx: Tables, row: SpaceRow, mending: Mending, message: Differ) -> Sums | replica.Applied:
    """The first question about the buckets that differ; or, if none does, what became of the space."""
    tx.drop_pages(row.name)
    row = replace(row, resume=row.complete, start=None)
    tx.put_space(row)
    mending.differ, mending.left, mending.staged = message, deque(message.buckets), 0
    if mending.left:
        return _question(tx, row, mending)
    # Every bucket is the server's, and so is their sum.
    return _applied(tx, row, message, sum_bytes(sum(tx.bucket_sums(row.name).values())))


def take_repair(tx: Tables, row: SpaceRow, mending: Mending, message: Repair) -> Sums | replica.Applied | None:
    """Stage what it brings. Then the next question; or, after the last answer, what became of the space."""
    assert mending.differ is not None
    docs = list(message.docs)
    brought = {(doc.collection, doc.id) for doc in docs}
    hashes = [message.gone[at : at + 8] for at in range(0, len(message.gone), 8)]
    for hashed in dict.fromkeys([*hashes, *(key_hash(*key) for key in brought)]):
        # A key hash stands for all documents that have it: what is brought replaces them.
        others = [key for key in tx.keys_at(row.name, hashed) if key not in brought]
        docs.extend(DocumentEntry(*key, 0, DELETED, {}) for key in others)
    if docs:
        mending.staged += 1
        tx.add_page(row.name, mending.staged, tuple(docs))
    if message.last:
        return _applied(tx, row, mending.differ, message.sum)
    return _question(tx, row, mending) if message.done else None


def _question(tx: Tables, row: SpaceRow, mending: Mending) -> Sums:
    """The next buckets, and what is held of them."""
    assert row.epoch is not None
    numbers: list[int] = []
    pairs: list[bytes] = []
    while mending.left and (not numbers or len(pairs) < PAIRS_MAX):
        held = _pairs(tx, row.name, mending.left[0])
        if numbers and len(pairs) + len(held) > PAIRS_MAX:
            break
        numbers.append(mending.left.popleft())
        pairs += held
    last = None if mending.left else True
    return Sums(row.name, row.epoch, of=tuple(numbers), documents=b"".join(pairs), last=last)


def _pairs(tx: Tables, space: str, number: int) -> list[bytes]:
    totals: dict[bytes, int] = {}
    for hashed, document in tx.bucket_documents(space, number):
        total = document_sum(document.collection, document.id, document.rev, document.fields)
        totals[hashed] = totals.get(hashed, 0) + total
    return [hashed + sum_bytes(total) for hashed, total in sorted(totals.items())]


def _applied(tx: Tables, row: SpaceRow, differ: Differ, total: bytes | None) -> replica.Applied:
    """All at once: the space stands where the first answer was given."""
    end = Delta(row.name, differ.epoch, row.complete, row.complete, differ.at, differ.t, differ.chain, (), sum=total)
    return replica.apply(tx, row, end)
