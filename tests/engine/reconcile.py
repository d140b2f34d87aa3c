"""Reconciling as a thin client does it, written from the specification alone (SPEC 8.1), over the real answers."""

from dataclasses import dataclass
from typing import Any

from syncd.core.sums import BUCKET_COUNT, SUM_MASK
from syncd.engine.repair import Question, compared, repaired
from syncd.store.api import Store
from syncd.wire.codec import MSGPACK
from tests.oracle.replica import Key, Replica, hashed, sum_of


@dataclass(slots=True)
class Used:
    """What a comparison cost: bytes of messages in both directions, documents brought, key hashes that were gone."""

    up_bytes: int = 0
    down_bytes: int = 0
    brought: int = 0
    gone: int = 0


def key_hash(key: Key) -> int:
    return hashed(["k", *key])


def reconcile(store: Store, space: str, replica: Replica, *, pairs_max: int = 4_096, **limits: Any) -> Used:
    """Bring a replica to where it may go on by deltas: every step reads a transaction of its own."""
    used = Used()
    held: dict[int, dict[Key, int]] = {}
    for key, shown in replica.documents.items():
        held.setdefault(key_hash(key) >> 54, {})[key] = sum_of({key: shown})
    sums = b"".join((sum(held.get(number, {}).values()) & SUM_MASK).to_bytes(8) for number in range(BUCKET_COUNT))
    with store.read() as tx:
        differ = compared(tx, space, sums)
    used.up_bytes, used.down_bytes = len(sums), len(MSGPACK.encode(differ))
    left, staged = list(differ.buckets), []
    while left:
        asked: list[int] = []
        pairs: list[tuple[int, int]] = []
        while left and (not asked or len(pairs) < pairs_max):
            asked.append(left.pop(0))
            pairs += [(key_hash(key), total) for key, total in held.get(asked[-1], {}).items()]
        packed = b"".join(hash_.to_bytes(8) + total.to_bytes(8) for hash_, total in sorted(pairs))
        used.up_bytes += len(packed) + 3 * len(asked)
        question: Question | None = Question(tuple(asked), packed, is_last=not left)
        while question is not None:
            with store.read() as tx:
                repair, question = repaired(tx, space, question, differ.at, **limits)
            used.down_bytes += len(MSGPACK.encode(repair))
            used.brought, used.gone = used.brought + len(repair.docs), used.gone + len(repair.gone) // 8
            staged.append(repair)
    names = {key_hash(key): key for key in replica.documents}
    for repair in staged:
        for at in range(0, len(repair.gone), 8):
            del replica.documents[names[int.from_bytes(repair.gone[at : at + 8])]]
        for entry in repair.docs:
            replica._apply(entry)
    replica.complete = replica.resume = differ.at
    replica.start, replica.t = None, differ.t
    replica.staged.clear()
    return used
