"""fsck of histories: what a document names as its latest change touches it, and each change names the one before.

Owns that chain, as far as the changes are kept. Must not know how a history is read.
"""

from syncd.core.values import decoded
from syncd.store import keys
from syncd.store.checking import Damaged, Findings, Space, get
from syncd.store.fsck_leases import named
from syncd.store.tables import DOCUMENTS, ENTRIES, LOG, EntryRow, LogRow


def histories(space: Space) -> Findings:
    """The chain of each document begins with it; each link leads back, to a change that names it."""
    for key, row in space.rows(DOCUMENTS):
        if isinstance(row, Damaged):
            continue
        name = keys.parse_document(key)[1:]
        if not row.rev <= row.touched <= space.row.head:
            yield space.found(
                DOCUMENTS, named(*name), f"touched at {row.touched}, rev {row.rev}, head {space.row.head}"
            )
            continue
        yield from _linked(space, DOCUMENTS.name, name, row.touched)
    for key, entry in space.rows(ENTRIES):
        if isinstance(entry, Damaged) or entry.seq is None or entry.payload is None:
            continue
        _, slot, n = keys.parse_device_log(key)
        names = _names(entry)
        if len(names) != len(entry.before):
            yield space.found(ENTRIES, f"slot {slot} n {n}", f"{len(names)} documents, {len(entry.before)} links")
            continue
        for name, before in zip(names, entry.before, strict=True):
            if abs(before) >= entry.seq:
                yield space.found(ENTRIES, f"slot {slot} n {n}", f"its seq is {entry.seq}, a link leads to {before}")
            elif before > 0:
                yield from _linked(space, f"slot {slot} n {n}", name, before)


def _linked(space: Space, what: str, name: tuple[str, str], seq: int) -> Findings:
    log = get(space.tx, LOG, keys.log(space.row.id, seq))
    if not isinstance(log, LogRow):
        return  # dropped, or reported with the log
    entry = get(space.tx, ENTRIES, keys.device_log(space.row.id, log.slot, log.n))
    if isinstance(entry, EntryRow) and entry.payload is not None and name not in _names(entry):
        yield space.found(DOCUMENTS, named(*name), f"{what} leads to seq {seq}, which does not touch it")


def _names(entry: EntryRow) -> list[tuple[str, str]]:
    """The documents that a change names, in the order of their first mention."""
    return list(dict.fromkeys((operation[1], operation[2]) for operation in decoded(entry.payload or b"\x90")))
