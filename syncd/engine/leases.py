"""Leases as a server sees them: certificates, which operations may go on to the book, and the index of leases.

Owns what the book of a field (`core/leases.py`) cannot know: the server's proof that it granted a lease, who may end
one, whether the space is frozen after a restore, and the rows by which leases are found by space and by time. Must not
know time-driven commands (`reclaiming`) nor who is connected.

A certificate is `[lease id, k, until or null, seq, MAC]`, told to the holder alone, in the outcome of its `lease`
operation. The MAC is over everything that it stands for: epoch, space, document and its incarnation, field, holder. Its
key is made before the first grant and kept in the store, so it is in each backup: a server that was restored must know
the certificates that it gave out after the backup was made. Who has a backup has all that the key protects.

After a restore (a space with a parent epoch), what was granted beyond the fork is unknown here but may be in use on
devices that are offline. So the space is frozen (`freeze`): its reserves give nothing out until an operator releases
them or the longest ttl has passed. A certificate from beyond the fork of any epoch that ended is honoured once: its
units move from the reserve to the lease, and what the reserve lacks is recorded as a deficit. An epoch that the backup
does not know is one of them: it began after the backup was made. So what the MAC begins with names the epoch, and can
be read without knowing it; a MAC over all epochs that are known would leave the holder of a lease of another to chance.

When such a lease is ended, or the change that asked for it is accepted anew, its id is remembered (`spend`) for as long
as there is the store: a strict certificate has no other end. Those are as many as leases were lost; to remember each
lease that is granted after a restore would be a row for each, for ever.
"""

import hmac
from collections.abc import Callable
from typing import Any, NamedTuple

from syncd.core.changes import Change, Operation
from syncd.core.documents import Document
from syncd.core.fields import OperationRefused
from syncd.core.leases import (
    LEASE_GRACE_MS,
    LEASE_MAC_BYTES,
    LEASE_TTL_MS_MAX,
    Certificate,
    Honoured,
    book_of,
    is_held,
    lease_of,
)
from syncd.core.values import encoded
from syncd.store import keys
from syncd.store.api import Reader, Writer
from syncd.store.tables import EPOCHS, LEASE_ENDS, LEASES, META, LeaseRow, SpaceRow

GUARDED = frozenset({"bounded.lease", "bounded.take", "bounded.give", "bounded.end"})
KEY_BYTES = 32
# Of an epoch, in a certificate: two of the few of one space are the same by one in 2^32. The 12 bytes behind it are as
# many as IPsec takes of an HMAC (RFC 2404).
EPOCH_NAME_BYTES = 4

_KEY, _CLOCK = keys.meta("lease key"), keys.meta("lease clock")


# -- the clock and the freeze -----------------------------------------------------------------------------------------


class ConfirmedClock(NamedTuple):
    """Time as far as it is known to have passed: never ahead of the wall clock, and never faster than the monotonic
    clock of the process `run`, which showed `mono_ms`. A wall clock that jumps forward does not move it."""

    confirmed_ms: int
    run: bytes
    mono_ms: int


def confirmed_clock(tx: Reader) -> ConfirmedClock | None:
    """None while nothing waits for time to pass: then there is nothing that a jump could end too early."""
    row = META.get(tx, _CLOCK)
    return None if row is None else ConfirmedClock(*row[0])


def set_confirmed_clock(tx: Writer, clock: ConfirmedClock | None) -> None:
    if clock is None:
        tx.delete(_CLOCK)
    else:
        META.put(tx, _CLOCK, (list(clock),))


def start_clock(tx: Writer, now_ms: int) -> None:
    """Something begins to wait for time to pass, by a wall clock that shows `now_ms`. It may have been set back since
    the last look, and forward again before the next one: so much would then not have passed."""
    clock = confirmed_clock(tx)
    if clock is None:
        set_confirmed_clock(tx, ConfirmedClock(now_ms, b"", 0))
    elif now_ms < clock.confirmed_ms:
        set_confirmed_clock(tx, clock._replace(confirmed_ms=now_ms))


def frozen(tx: Reader, space_id: int) -> int | None:
    """Until when the reserves of a space give nothing out (in confirmed time), None if they do."""
    row = META.get(tx, keys.lease_freeze(space_id))
    return None if row is None else int(row[0])


def freeze(tx: Writer, space_id: int, now_ms: int) -> None:
    """To be called in the transaction that gives a restored space its new epoch."""
    META.put(tx, keys.lease_freeze(space_id), (now_ms + LEASE_TTL_MS_MAX + LEASE_GRACE_MS,))
    start_clock(tx, now_ms)


def release(tx: Writer, space_id: int) -> None:
    tx.delete(keys.lease_freeze(space_id))


def spend(tx: Writer, space_id: int, lease_id: bytes) -> None:
    """The book forgets a lease that a restore had lost, and its certificate must not bring it back."""
    META.put(tx, keys.lease_spent(space_id, lease_id), (1,))


# -- certificates -----------------------------------------------------------------------------------------------------


def lease_key(tx: Writer, entropy: Callable[[int], bytes]) -> bytes:
    """The key of all certificates, made at the first look at the clock of leases, so before any backup."""
    row = META.get(tx, _KEY)
    if row is None:
        META.put(tx, _KEY, row := (entropy(KEY_BYTES),))
    key: bytes = row[0]
    return key


def _mac(
    key: bytes, epoch: bytes, space: str, operation: Operation, born: int, device: bytes, certificate: Certificate
) -> bytes:
    """What names the epoch, or at least its beginning, and proves the rest with it."""
    _, collection, document_id, field, _, _, _ = operation
    named = epoch[:EPOCH_NAME_BYTES]
    signed = [named, space, collection, document_id, born, field, device, *certificate[:4]]
    return named + hmac.digest(key, encoded(signed), "sha256")[: LEASE_MAC_BYTES - EPOCH_NAME_BYTES]


def certificates(
    key: Callable[[], bytes],
    space: tuple[str, bytes],
    device: bytes,
    seq: int,
    change: Change,
    document_of: Callable[[tuple[str, str]], Document | None],
) -> list[Certificate]:
    """What the holder is told of the leases that its change was granted, but of those that it used up at once.
    `space`: name and epoch."""
    name, epoch = space
    granted: list[Certificate] = []
    for operation in change.operations:
        if operation.verb != "bounded.lease":
            continue
        lease_id, k, _ = operation.args
        document = document_of((operation.collection, operation.id))
        assert document is not None and operation.field is not None, "an accepted change was granted this"
        lease = lease_of(book_of(document.fields[operation.field].state), lease_id)
        if lease is not None:
            certificate = [lease_id, k, lease.until, seq]
            mac = _mac(key(), epoch, name, operation, document.born, device, certificate)
            granted.append([*certificate, mac])
    return granted


def _is_lost(
    tx: Reader, row: SpaceRow, space: str, device: bytes, operation: Operation, born: int, certificate: Certificate
) -> bool:
    """Whether this server granted the lease to this device, in an epoch that has ended and beyond where it did: then
    the book cannot know of it, however many restores ago that was. One granted before is known, or has ended."""
    key = META.get(tx, _KEY)
    if row.parent is None or key is None:
        return False
    named = certificate[4][:EPOCH_NAME_BYTES]
    wanted = _mac(key[0], named, space, operation, born, device, certificate)
    if not hmac.compare_digest(wanted, certificate[4]) or row.epoch.startswith(named):
        return False
    for epoch_key, ended in EPOCHS.scan(tx, keys.space_range(keys.EPOCH, row.id)):
        if keys.parse_epoch(epoch_key)[1].startswith(named):
            seq: int = certificate[3]
            return seq > ended.fork
    return True


# -- what may go on to the book ---------------------------------------------------------------------------------------


class Asker(NamedTuple):
    """Who asks in which space, and when: by the wall clock, and `time`, T of the change."""

    tx: Reader
    space: str
    row: SpaceRow
    kind: str
    device: bytes
    slot: int
    now_ms: int
    time: int


def admitted(asker: Asker, operation: Operation, document: Document | None) -> Operation:
    """The operation as it goes on to the book: with what the server vouches for. Raises `OperationRefused`."""
    verb, args = operation.verb, operation.args
    if verb == "bounded.end":
        if asker.kind != "server":
            raise OperationRefused("forbidden", "a lease is ended by its holder's take or give, or by an operator")
        return operation
    assert operation.field is not None, "it is an operation on a field"
    field = None if document is None else document.fields.get(operation.field)
    state = None if field is None or field.type != "bounded" else field.state
    if verb == "bounded.lease":
        _check_frozen(asker, "precondition")
        if args[2] is None:
            return operation
        # The end is by the clock that devices are told of. T, from which the book counts, stays ahead after a wall
        # clock that was wrong was set back: leases would last as much longer.
        return operation._replace(args=(*args[:2], args[2] - (asker.time - asker.now_ms)))
    at = 1 if verb == "bounded.take" else 0
    named = args[at]
    if document is not None and _is_to_be_honoured(asker, operation, document, state, named):
        honoured = Honoured(named[0], named[1], named[2])
        return operation._replace(args=(*args[:at], honoured, *args[at + 1 :]))
    if verb == "bounded.take" and not is_held(state, asker.slot, named):
        _check_frozen(asker, "precondition" if named is None else "lease_expired")
    return operation


def _is_to_be_honoured(asker: Asker, operation: Operation, document: Document, state: Any, named: Any) -> bool:
    if named is None or type(named) is bytes or named[0] in book_of(state).leases:
        return False
    until = named[2]
    if until is not None and until + LEASE_GRACE_MS <= _passed_ms(asker):
        return False
    if META.get(asker.tx, keys.lease_spent(asker.row.id, named[0])) is not None:
        return False
    return _is_lost(asker.tx, asker.row, asker.space, asker.device, operation, document.born, named)


def _passed_ms(asker: Asker) -> int:
    """Until when time has passed for certain: a lost lease ends no earlier than one in the book would."""
    clock = confirmed_clock(asker.tx)
    return asker.now_ms if clock is None else min(asker.now_ms, clock.confirmed_ms)


def _check_frozen(asker: Asker, outcome: str) -> None:
    if asker.row.parent is not None and frozen(asker.tx, asker.row.id) is not None:
        raise OperationRefused(
            outcome, "the space was restored from a backup: its reserves give nothing out until they are released"
        )


# -- the index --------------------------------------------------------------------------------------------------------


def _found(document: Document | None) -> dict[tuple[str, bytes], int | None]:
    """(field, lease id) -> until, of all leases of a document."""
    found = {}
    for name, field in (document.fields if document is not None else {}).items():
        if field.has_leases:
            for lease_id, lease in book_of(field.state).leases.items():
                found[name, lease_id] = lease[3]
    return found


def index(
    tx: Writer, space_id: int, now_ms: int, name: tuple[str, str], stored: Document | None, document: Document
) -> None:
    """Bring the rows of leases in line with a document that replaces `stored`."""
    before, after = _found(stored), _found(document)
    for (field, lease_id), until in before.items():
        if (field, lease_id) not in after:
            where = (space_id, document.number, lease_id, field)
            tx.delete(keys.lease(*where))
            if until is not None:
                tx.delete(keys.lease_end(until, *where))
    for (field, lease_id), until in after.items():
        if (field, lease_id) not in before:
            where = (space_id, document.number, lease_id, field)
            LEASES.put(tx, keys.lease(*where), LeaseRow(*name, until, now_ms))
            if until is not None:
                LEASE_ENDS.put(tx, keys.lease_end(until, *where), ())
                start_clock(tx, now_ms)
