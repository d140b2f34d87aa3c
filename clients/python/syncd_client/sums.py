"""Checksums of a space (section 8 of the protocol), kept in O(changed fields).

The sum of a space is a sum modulo 2^64 of one hash per live document and one per visible field, so a change of a
document is a subtraction and an addition. Nothing here knows where the documents are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from . import texts
from .values import Value, encoded

MODULUS = 2**64
BUCKET_COUNT = 1_024


def hashed(array: list[Value]) -> int:
    return int.from_bytes(hashlib.sha256(encoded(array)).digest()[:8], "big")


def key_hash(collection: str, id: str) -> bytes:
    """What stands for a document's name: 8 bytes. Its top ten bits are the bucket."""
    return sum_bytes(hashed(["k", collection, id]))


def bucket_of(hash_: bytes) -> int:
    return int.from_bytes(hash_[:2], "big") >> 6


def document_sum(collection: str, id: str, rev: int, fields: Mapping[str, tuple[str, Value]]) -> int:
    total = hashed(["d", collection, id, rev])
    for name, field in fields.items():
        total += field_sum(collection, id, name, field)
    return total % MODULUS


def field_sum(collection: str, id: str, name: str, field: tuple[str, Value]) -> int:
    type_, value = field
    return hashed(["f", collection, id, name, texts.rev_of(value) if type_ == "text" else value])


def sum_bytes(total: int) -> bytes:
    """A sum as it travels: 8 bytes, big-endian."""
    return (total % MODULUS).to_bytes(8, "big")
