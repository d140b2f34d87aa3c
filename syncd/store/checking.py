"""What checks of the store share: findings, rows that may be damaged, the space that is being checked.

Owns the way in which fsck reads: a record with a wrong checksum is `DAMAGED` to every check but the one that reports
it, because what it said is unknown. Must not know what is checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from syncd.store import keys
from syncd.store.api import Reader, StoreDamaged
from syncd.store.tables import SpaceRow, Table


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is not as it must be. `key` is for people: the space's name, then what it is called inside it."""

    table: str
    key: str
    problem: str


class Damaged:
    """Stands for a row whose record cannot be read; the scan of its table reports it."""


DAMAGED: Final = Damaged()
Findings = Iterator[Finding]


@dataclass(frozen=True, slots=True)
class Space:
    """A space that is being checked."""

    tx: Reader
    name: str
    row: SpaceRow

    def rows(self, table: Table[Any]) -> Iterator[tuple[bytes, Any]]:
        """All rows of the space in a table; `DAMAGED` for one that cannot be read."""
        return rows(self.tx, table, keys.space_range(table.prefix, self.row.id))

    def found(self, table: Table[Any], what: str, problem: str) -> Finding:
        return Finding(table.name, f"{self.name} {what}", problem)


def rows(tx: Reader, table: Table[Any], bounds: tuple[bytes, bytes]) -> Iterator[tuple[bytes, Any]]:
    for key, record in tx.scan(*bounds):
        yield key, _row(table, key, record)


def _row(table: Table[Any], key: bytes, record: bytes) -> Any:
    try:
        return table.row(key, record)
    except StoreDamaged:
        return DAMAGED


def get(tx: Reader, table: Table[Any], key: bytes) -> Any:
    record = tx.get(key)
    return None if record is None else _row(table, key, record)
