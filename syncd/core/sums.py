"""Checksums of a space: sums of hashes, so that they can be kept by hashing what changed, and split into buckets.

Owns the definitions that both sides compute (SPEC section 8) and the server's chain. Must not know the store. Sums are
integers modulo 2^64 here, and 8 bytes on the wire.
"""

from hashlib import sha256
from struct import Struct
from typing import Final

from syncd.core.documents import Document
from syncd.core.values import Value, encoded, encoded_each

BUCKET_COUNT: Final = 1024
BUCKET_SHIFT: Final = 54  # of a key hash
SUM_MASK: Final = 2**64 - 1
CHAIN_START: Final = bytes(8)

_U64: Final = Struct(">Q")


def hashed(item: tuple[Value, ...]) -> int:
    """h of the specification: the first 8 bytes of SHA-256 over the canonical encoding of an array, as an integer."""
    first: int = _U64.unpack_from(sha256(encoded(item)).digest())[0]
    return first


def key_hash(collection: str, document_id: str) -> int:
    """What stands for a document's name where 8 bytes have to do."""
    return hashed(("k", collection, document_id))


def bucket_of(collection: str, document_id: str) -> int:
    """The bucket, 0-1023, of a document: the top ten bits of its key hash."""
    return key_hash(collection, document_id) >> BUCKET_SHIFT


def document_sum(collection: str, document_id: str, document: Document | None) -> int:
    """The part of its bucket's sum that a document makes up, computed from nothing (fsck and tests)."""
    return sum_change(collection, document_id, None, document)


def sum_change(collection: str, document_id: str, before: Document | None, after: Document | None) -> int:
    """What to add, modulo 2^64, to a sum that counts `before` so that it counts `after`. Hashes what differs only."""
    gone: list[tuple[Value, ...]] = []
    come: list[tuple[Value, ...]] = []
    old = before.fields if before is not None and before.is_live else {}
    new = after.fields if after is not None and after.is_live else {}
    if before is not None and before.is_live:
        gone.append(("d", collection, document_id, before.rev))
    if after is not None and after.is_live:
        come.append(("d", collection, document_id, after.rev))
    for name, field in new.items():
        previous = old.get(name)
        if previous is not None:
            if previous.rev == field.rev:
                continue  # not changed visibly since
            if previous.is_visible:
                gone.append(("f", collection, document_id, name, previous.counted))
        if field.is_visible:
            come.append(("f", collection, document_id, name, field.counted))
    for name, field in old.items():
        if name not in new and field.is_visible:
            gone.append(("f", collection, document_id, name, field.counted))
    return (_summed(come) - _summed(gone)) & SUM_MASK


def _summed(items: list[tuple[Value, ...]]) -> int:
    """The sum of `hashed` of each."""
    first = _U64.unpack_from
    return sum([first(sha256(data).digest())[0] for data in encoded_each(items)])


def chained(chain: bytes, device: bytes, n: int, nonce: bytes) -> bytes:
    """The chain value after one more change: tells apart two histories that reached the same seq."""
    return sha256(chain + device + _U64.pack(n) + nonce).digest()[:8]
