"""fsck of unique keys: what documents hold, and the table by key, say the same.

Owns that relation. Must not know how keys are taken.
"""

from syncd.core.documents import reservations
from syncd.store import keys
from syncd.store.checking import Damaged, Findings, Space, get
from syncd.store.fsck_leases import named
from syncd.store.tables import DOCUMENTS, UNIQUE


def unique_keys(space: Space) -> Findings:
    """Each key that a document holds is in the table as its own; each row of the table is held."""
    for key, row in space.rows(DOCUMENTS):
        if isinstance(row, Damaged):
            continue
        holder = keys.parse_document(key)[1:]
        if row.has_body and row.rev <= space.row.frontier:
            continue  # what it held is free, whether it is listed still or not
        for name, held in reservations(row).items():
            listed = get(space.tx, UNIQUE, keys.unique(space.row.id, name, held))
            if listed is None:
                yield space.found(UNIQUE, f"{name} {held}", f"{named(*holder)} holds it, and it is not listed")
            elif not isinstance(listed, Damaged) and tuple(listed) != holder:
                yield space.found(
                    UNIQUE, f"{name} {held}", f"{named(*holder)} holds it, and {named(*listed)} is listed"
                )
    for key, row in space.rows(UNIQUE):
        if isinstance(row, Damaged):
            continue
        _, name, held = keys.parse_unique(key)
        document = get(space.tx, DOCUMENTS, keys.document(space.row.id, *row))
        if not isinstance(document, Damaged) and reservations(document).get(name) != held:
            yield space.found(UNIQUE, f"{name} {held}", f"{named(*row)} does not hold it")
