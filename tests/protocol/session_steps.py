"""The steps of which scripted sessions are made: messages of both sides, and what is expected of a client meanwhile."""

from typing import Any

from tests.protocol.make_vectors import hashed

SPACE = "team/board"
EPOCH, NEW_EPOCH = "e0" * 16, "e1" * 16
ANY = "*"
Step = dict[str, Any]
Fields = dict[str, Any]


def sum_of(documents: dict[str, tuple[int, Fields]]) -> str:
    """The sum of a space: "collection/id" -> (rev, visible fields), with values that JSON writes as they are."""
    total = 0
    for name, (rev, fields) in documents.items():
        collection, document = name.split("/")
        total += hashed(["d", collection, document, rev])
        for field, (kind, value) in fields.items():
            total += hashed(["f", collection, document, field, value[1][-1][0] if kind == "text" else value])
    return (total % 2**64).to_bytes(8).hex()


def key_hash(name: str) -> str:
    return hashed(["k", *name.split("/")]).to_bytes(8).hex()


def bucket(name: str) -> int:
    return int(key_hash(name), 16) >> 54


def bucket_sums(documents: dict[str, tuple[int, Fields]]) -> list[Any]:
    """What a client says that it holds."""
    sums = [f"{0:016x}"] * 1024
    for number in {bucket(name) for name in documents}:
        sums[number] = sum_of({name: each for name, each in documents.items() if bucket(name) == number})
    return [6, {"space": SPACE, "epoch": EPOCH, "buckets": "".join(sums)}]


def document_sums(documents: dict[str, tuple[int, Fields]], *asked: str) -> list[Any]:
    """What it holds of the buckets of these documents, and of those in which the others would be."""
    pairs = sorted(key_hash(name) + sum_of({name: each}) for name, each in documents.items())
    of = sorted({bucket(name) for name in [*documents, *asked]})
    return [6, {"space": SPACE, "epoch": EPOCH, "of": of, "documents": "".join(pairs), "last": True}]


def differ(at: int, *buckets: int) -> list[Any]:
    body = {"space": SPACE, "epoch": EPOCH, "at": at, "t": 1_000 + at, "chain": f"{at:016x}", "buckets": list(buckets)}
    return [37, body]


def repair(at: int, *docs: list[Any], gone: str = "", **more: Any) -> list[Any]:
    body = {"space": SPACE, "epoch": EPOCH, "at": at, "t": 1_000 + at, "chain": f"{at:016x}", "docs": list(docs)}
    return [38, {**body, "gone": gone, "done": True, "last": True, **more}]


def client(*messages: list[Any]) -> Step:
    return {"client": list(messages)}


def server(*messages: list[Any]) -> Step:
    return {"server": list(messages)}


def commit(*operations: list[Any]) -> Step:
    return {"commit": {"space": SPACE, "operations": list(operations)}}


def expect(view: dict[str, Fields] | None = None, **facts: Any) -> Step:
    told = {} if view is None else {"view": view}
    return {"expect": {"space": SPACE, **told, **facts}}


def subscribe(complete: int = 0, resume: int | None = None, epoch: str | None = EPOCH, **more: Any) -> list[Any]:
    where = {"complete": complete, "resume": complete if resume is None else resume}
    return [2, {"space": SPACE, "epoch": epoch, **where, "settled": 0, **more}]


def subscribed(head: int, mode: str = "live", epoch: str = EPOCH) -> list[Any]:
    return [33, {"space": SPACE, "epoch": epoch, "head": head, "safe": 0, "role": "owner", "mode": mode}]


def delta(
    from_: int, to: int, *docs: list[Any], after: int | None = None, complete: bool = True, **more: Any
) -> list[Any]:
    body = {"space": SPACE, "epoch": EPOCH, "from": from_, "after": from_ if after is None else after, "to": to}
    body |= {"t": 1_000 + to, "chain": f"{to:016x}", "docs": list(docs), **more}
    return [34, {**body, "complete": True} if complete else body]


def outcomes(*entries: list[Any], epoch: str = EPOCH, **more: Any) -> list[Any]:
    return [35, {"space": SPACE, "epoch": epoch, "outcomes": list(entries), **more}]


def outcome(n: int, name: str, seq: int | None = None, detail: Any = None) -> list[Any]:
    return [n, f"$nonce({n})", name, seq, detail]


def change(n: int, base: int = 0, *operations: list[Any]) -> list[Any]:
    return [n, ANY, base, ANY, list(operations) if operations else ANY]


def push(*changes: list[Any], epoch: str | None = EPOCH) -> list[Any]:
    return [4, {"space": SPACE, "epoch": epoch, "changes": list(changes)}]


def note(name: str, rev: int, state: int, **fields: Any) -> list[Any]:
    return ["notes", name, rev, state, {field: value and ["reg", value] for field, value in fields.items()}]
