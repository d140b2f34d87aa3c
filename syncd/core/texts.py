"""Fields of type `text`: updates of a Yjs document, kept in the order of the space.

Owns the state of such a field: `(start, updates)`, where `updates` is a sequence of `(seq, bytes)`, and the first of
them stands for all up to the seq `start` if that is not 0. Must not know what an update says: whoever can read one
merges several into one of the same meaning, and hands that in.

Invariants: T1 updates are appended, and never reordered, altered or dropped but by `folded`. T2 the seq of the last one
is the field's rev: nothing that is invisible moves it. T3 who has everything up to a seq and is told `since` of it has
everything: what it lacks, or all there is.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from syncd.core.values import Value

Updates = tuple[tuple[int, bytes], ...]
TextState = tuple[int, Updates]
FOLD_BYTES_MAX = 131072  # half a document, some 5 ms: what has become longer is left as it is


@dataclass(frozen=True, slots=True)
class Merging:
    """How updates are folded. `merge`: several as one of the same meaning, ValueError if that cannot be. A text is
    folded when it has `count` of them, so many at once (to merge 256 small ones, and to look at what comes of it, takes
    4 ms), but for the newest `kept_count`, so that who was just away lacks some, and not all."""

    merge: Callable[[Sequence[bytes]], bytes]
    count: int = 256
    kept_count: int = 32


def whole(state: TextState) -> Value:
    """All updates, as a delta shows them to one who has none of them."""
    return [0, [list(update) for update in state[1]]]


def since(state: TextState, seq: int) -> Value:
    """What one lacks that has everything up to `seq`: the updates after it. All of them, and called so, if none is
    before it, or one of those is merged with older ones; so who is told of a part has had another, or has lost it."""
    _, updates = state
    if seq < updates[0][0]:
        return whole(state)
    return [seq, [list(update) for update in updates if update[0] > seq]]


def is_due(state: TextState, head: int, merging: Merging) -> bool:
    """Whether there are enough updates, and what came after `head` made them another `kept_count`: what cannot be
    merged is not tried with each update."""
    _, updates = state
    before = bisect_right(updates, head, key=itemgetter(0))
    return len(updates) >= merging.count and len(updates) // merging.kept_count > before // merging.kept_count


def folded(state: TextState, head: int, merging: Merging) -> TextState | None:
    """The state with its older updates, none of them after `head`, merged into one; None if that is not possible, or
    not worth it. `head`: up to where everyone has been told of them already."""
    _, updates = state
    cut = min(max(0, len(updates) - merging.kept_count), merging.count)
    while cut and (updates[cut - 1][0] > head or (cut < len(updates) and updates[cut][0] == updates[cut - 1][0])):
        cut -= 1  # the updates of one change stay together
    older = updates[:cut]
    older_bytes = sum(len(data) for _, data in older)
    if cut < merging.count // 2 or older_bytes > FOLD_BYTES_MAX:
        return None
    try:
        merged = merging.merge([data for _, data in older])
    except ValueError:
        return None  # somebody wrote what is no update; readers are told each as it is
    if len(merged) > older_bytes:
        return None  # a document stays within the limit by which its changes were judged
    last = older[-1][0]
    return (last, ((last, merged), *[(seq, data) for seq, data in updates[cut:]]))


def problem(state: Any, rev: int) -> str | None:
    """What is impossible about a stored state; None if nothing is."""
    start, updates = state
    seqs = [seq for seq, _ in updates]
    if not seqs:
        return "has no updates"
    if seqs != sorted(seqs) or seqs[-1] != rev:
        return f"has updates at {seqs[0]} to {seqs[-1]}, and rev {rev}"
    if start not in (0, seqs[0]):
        return f"is merged up to {start}, and its first update is at {seqs[0]}"
    return None
