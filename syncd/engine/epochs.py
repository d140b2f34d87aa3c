"""Epochs: what a space shares with its own past, and what of it lies in a backup.

Owns the history of a space's epochs: at which seq each of them ended, when the store was restored from a backup; and
`safe`, up to where the last verified backup has the space. Must not know how a backup is made or put back.

A restored store gives every space a new epoch before it is served (`renewed`), so nothing that serves has to know of a
space that still has its old one. A device of any epoch in the history is told the fork at which its own ended: what
came later has only ever grown on top, so that is what it shares with the present one, whatever lies between.

Invariants: Z1 no epoch is used again. Z2 every epoch that led to the present one is in the history, with the head
that it was restored at. Z3 `safe` never names what no verified backup has.
"""

from collections.abc import Callable

from syncd.engine import leases
from syncd.engine.batch import Batch
from syncd.engine.commands import Done, MarkSafe, Result
from syncd.store import keys
from syncd.store.api import Reader, Writer
from syncd.store.tables import EPOCHS, META, SPACES, EpochRow, SpaceRow

EPOCH_BYTES = 16
_BACKED_UP = keys.meta("backed up")  # when the last backup was taken that the store was told of, in ms


def fork_of(tx: Reader, row: SpaceRow, epoch: bytes) -> int:
    """The last seq that an epoch shares with the present one; 0 if it is not known here."""
    ended = EPOCHS.get(tx, keys.epoch(row.id, epoch))
    return 0 if ended is None else ended.fork


def renewed(tx: Writer, entropy: Callable[[int], bytes], now_ms: int, after: bytes, count: int) -> tuple[int, bytes]:
    """Give the next `count` spaces behind the key `after` (b"": from the first on) a new epoch, as a restore does.
    Returns how many there were, and the key of the last."""
    start, stop = keys.table_range(keys.SPACE)
    found = []
    for key, row in SPACES.scan(tx, (after + b"\0" if after else start, stop)):
        found.append((key, row))
        if len(found) == count:
            break
    for key, row in found:
        EPOCHS.put(tx, keys.epoch(row.id, row.epoch), EpochRow(row.head, now_ms))
        # What was restored is in a backup.
        made = row._replace(epoch=entropy(EPOCH_BYTES), parent=row.epoch, fork=row.head, safe=row.head)
        SPACES.put(tx, key, made)
        leases.freeze(tx, row.id, now_ms)
    META.put(tx, _BACKED_UP, (now_ms,))
    return len(found), found[-1][0] if found else after


def safe_seq(tx: Reader, row: SpaceRow, head: int) -> int:
    """Up to where the changes of a space need not be kept by those who made them. An operator who makes no backups
    promises none: then nothing would ever be safe, and the head is said."""
    return head if META.get(tx, _BACKED_UP) is None else row.safe


def backed_up_ms(tx: Reader) -> int | None:
    """When the last backup was taken of which this store was told."""
    row = META.get(tx, _BACKED_UP)
    return None if row is None else int(row[0])


def marked_safe(batch: Batch, command: MarkSafe) -> Result:
    """A verified backup has these spaces up to these seqs. What was restored meanwhile has another epoch, and is left
    alone."""
    for name, epoch, seq in command.spaces:
        work = batch.space(name)
        if work is not None and work.row.epoch == epoch and seq <= work.row.head:
            work.row = work.row._replace(safe=max(work.row.safe, seq))
    if command.made_ms is not None:
        META.put(batch.tx, _BACKED_UP, (command.made_ms,))
    return Done()
