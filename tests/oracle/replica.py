"""A replica as a thin client keeps one, written from the specification alone: it never merges, it applies results."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tests.oracle.oracle import packed

PATCH, RESET, DELETED = 0, 1, 2
Key = tuple[str, str]
Shown = tuple[int, dict[str, list[Any]]]


def hashed(item: list[Any]) -> int:
    return int.from_bytes(sha256(packed(item)).digest()[:8], "big")


def sum_of(documents: dict[Key, Shown]) -> int:
    """The checksum of a space (SPEC section 8), computed from nothing."""
    total = 0
    for (collection, document), (rev, fields) in documents.items():
        total += hashed(["d", collection, document, rev])
        for name, (kind, value) in fields.items():
            total += hashed(["f", collection, document, name, value[1][-1][0] if kind == "text" else value])
    return total % 2**64


def grown(before: list[Any] | None, told: list[Any]) -> list[Any]:
    """A text after what a delta tells of it: all there is, or what follows a seq, of which some may be here already."""
    after, updates = told[1]
    if not after:
        return ["text", [0, list(updates)]]
    assert before is not None, "what follows a part is told to those who have it"
    old = before[1][1]
    return ["text", [0, [*old, *(update for update in updates if update[0] > old[-1][0])]]]


@dataclass(slots=True)
class Replica:
    """Synced state and positions. `staged` holds the pages since `complete`."""

    complete: int = 0
    resume: int = 0
    start: int | None = None
    t: int = 0
    documents: dict[Key, Shown] = field(default_factory=dict)
    staged: list[Any] = field(default_factory=list)

    def receive(self, delta: Any) -> bool:
        """Apply or stage a delta; false if it shows a gap."""
        if delta.to <= self.complete:
            return True
        if delta.from_ > self.complete or (self.staged and delta.after > self.resume):
            return False
        if delta.start is not None and (known := self.complete or self.start) and delta.start > known:
            return False
        self.staged.append(delta)
        self.resume, self.start = delta.to, delta.start
        if delta.complete:
            for page in self.staged:
                for entry in page.docs:
                    self._apply(entry)
            self.complete, self.t, self.start = delta.to, delta.t, None
            self.staged.clear()
            assert delta.sum is None or int.from_bytes(delta.sum, "big") == sum_of(self.documents), "the sums differ"
        return True

    def _apply(self, entry: Any) -> None:
        collection, document, rev, state, fields = entry
        key = (collection, document)
        if state == DELETED:
            self.documents.pop(key, None)
            return
        kept = {} if state == RESET else dict(self.documents.get(key, (0, {}))[1])
        for name, shown in fields.items():
            if shown is None:
                kept.pop(name, None)
            else:
                kept[name] = grown(kept.get(name), shown) if shown[0] == "text" else shown
        self.documents[key] = (rev, kept)
