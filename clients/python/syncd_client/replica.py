"""The replica of a space: what a commit, a delta, an outcome, an expiry does to what is durable.

Owns the rules of sections 2, 6, 7 and 10 of the protocol. Each function is one decision over `Tables`, inside one
transaction of its caller. Knows no clock, no entropy, no connection: times and nonces are passed in.

1. Every n from `settled` + 1 to `next_n` - 1 is in the outbox until its outcome is stored.
2. An entry leaves the view exactly in the transaction in which its effect enters the synced state.
3. Nothing but `commit` takes a new n, and nothing but an outcome with equal n and nonce settles one.
4. Synced state and positions may be dropped at any time; the outbox never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from . import leases, texts
from .codec import change_bytes
from .errors import InvalidInput
from .messages import (
    DELETED,
    RESET,
    Ack,
    Change,
    Delta,
    DocumentEntry,
    Expired,
    FieldValue,
    Limits,
    OutcomeEntry,
    Outcomes,
    Revoked,
    Subscribe,
    Subscribed,
    Void,
)
from .operations import Operation
from .renaming import cut_off, note_fork, take_up_lost, with_former
from .replay import State, replayed
from .sums import MODULUS, bucket_of, document_sum, field_sum, hashed, key_hash, sum_bytes
from .tables import DocumentRow, Entry, Key, OutcomeRow, RefusedRow, SpaceRow, Tables
from .values import INTEGER_MAX, Value

# As many changes as a push may hold: a void makes the server record each n that it gives up.
VOID_CHANGES_MAX = 1_000
NONCES_KEPT = 1_000  # of so many settled changes the server still knows the nonces (section 10)
LOST_IN_RESTORE = "lost_in_restore"  # the reason of a void for what the server lost and this device no longer has
REPAIRS_MAX = 2  # in a row without success; then whatever is wrong, a download is rid of it


@dataclass(frozen=True, slots=True)
class Position:
    """What a reader had seen: `base` of an edit of what it read."""

    epoch: bytes | None
    seq: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a delta: `ignored`, `staged`, `applied`, `gap` (subscribe again), `doubt` (applied, but the sum is
    not the server's: reconcile) or `drift` (reconciling did not help: download again)."""

    what: str
    touched: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What an `outcomes` message settled, and the n at which another replica of this device showed itself."""

    settled: tuple[OutcomeRow, ...] = ()
    touched: tuple[Key, ...] = ()
    forked: int | None = None


def space_row(tx: Tables, name: str) -> SpaceRow:
    return tx.space(name) or SpaceRow(name)


# -- committing and reading ------------------------------------------------------------------------------------------


def commit(
    tx: Tables,
    space: str,
    operations: Sequence[Operation],
    *,
    nonce: bytes,
    now_ms: int,
    limits: Limits,
    read_at: Position | None = None,
) -> Entry:
    """Take the next n of the space for these operations. Raises InvalidInput for what the server would not take."""
    row = space_row(tx, space)
    base = row.complete if read_at is None else min(_base(row, read_at), row.complete)
    stamp_ms = max(now_ms + (tx.setting("offset_ms") or 0), row.t_ms, tx.setting("stamp_ms") or 0)
    # One wrong time of a server or clock would stay for ever, and what no server can read would end all pushing.
    stamp_ms = min(stamp_ms, INTEGER_MAX)
    context = with_former((), row.context, base)
    entry = Entry(row.next_n, row.next_n, nonce, base, stamp_ms, tuple(operations), context=context)
    _check_limits(entry, limits)
    _check_fields(tx, space, entry.operations, limits.document_fields_max)
    tx.put_entry(space, entry)
    tx.put_setting("stamp_ms", stamp_ms)
    tx.put_space(replace(row, next_n=row.next_n + 1))
    return entry


def _base(row: SpaceRow, read_at: Position) -> int:
    # A position of an older epoch is shared with this one up to the least fork since. To have seen less is always safe.
    return read_at.seq if read_at.epoch == row.epoch else min(read_at.seq, row.fork)


def _check_limits(entry: Entry, limits: Limits) -> None:
    count = len(entry.operations)
    if not 1 <= count <= limits.change_operations_max:
        raise InvalidInput(f"change: {count} operations, expected 1 to {limits.change_operations_max}")
    documents = len(dict.fromkeys(operation.key for operation in entry.operations))
    if documents > limits.change_documents_max:
        raise InvalidInput(f"change: {documents} documents, at most {limits.change_documents_max} are allowed")
    size = change_bytes(wire_change(entry))
    if size > limits.change_bytes_max:
        raise InvalidInput(f"change: {size} bytes, at most {limits.change_bytes_max} are allowed")


def _check_fields(tx: Tables, space: str, operations: Sequence[Operation], fields_max: int) -> None:
    """Refuse what the server would refuse as far as the view tells: of unset fields only the server knows."""
    named: dict[Key, set[Value]] = {}
    for each in operations:
        if "." in each.name:  # of all others none makes a field
            named.setdefault(each.key, set()).add(each.arguments[0])
    for key, names in named.items():
        synced = tx.document(space, key)
        if synced is not None and names <= synced.fields.keys():
            continue
        before = view(tx, space, key)[1]
        after = replayed(before, [each for each in operations if each.key == key])
        if after is not None and len(after) > max(fields_max, len(before or ())):
            raise InvalidInput(f"change: {key[0]}/{key[1]} would have {len(after)} fields, at most {fields_max}")


def view(tx: Tables, space: str, key: Key) -> tuple[DocumentRow | None, State, int]:
    """The synced document, the state that the view shows, and the number of pending changes that touch it."""
    synced = tx.document(space, key)
    pending = tx.touching(space, key)
    operations = (operation for entry in pending for operation in entry.operations if operation.key == key)
    return synced, replayed(None if synced is None else synced.fields, operations), len(pending)


def wire_change(entry: Entry) -> Change | Void:
    if entry.void_reason is not None:
        return Void(entry.n, entry.last_n, entry.nonce, entry.void_reason)
    return Change(entry.n, entry.nonce, entry.base, entry.stamp_ms, entry.operations, entry.context)


def subscribe_message(row: SpaceRow) -> Subscribe:
    return Subscribe(
        space=row.name,
        epoch=row.epoch,
        complete=row.complete,
        resume=row.resume,
        settled=row.settled,
        start=row.start,
        # The chain value belongs to `complete`; before anything was applied there is none to repeat.
        chain=row.chain if row.complete else None,
    )


def ack_message(tx: Tables, row: SpaceRow) -> Ack:
    assert row.epoch is not None
    oldest_base = tx.oldest_base(row.name)
    return Ack(row.name, row.epoch, row.complete, row.complete if oldest_base is None else oldest_base, row.settled)


# -- deltas ----------------------------------------------------------------------------------------------------------


def take_subscribed(tx: Tables, message: Subscribed) -> None:
    row = space_row(tx, message.space)
    tx.put_space(replace(row, epoch=message.epoch, role=message.role, safe=message.safe or row.safe, revoked=None))
    for entry in tx.kept(message.space):
        if entry.seq is None or entry.seq <= message.safe:
            tx.drop_entry(message.space, entry.n)


def take_delta(tx: Tables, delta: Delta) -> Applied:
    """The delta rules of section 6, in their order."""
    row = tx.space(delta.space)
    if row is None or not row.is_subscribed or delta.epoch != row.epoch or delta.to <= row.complete:
        return Applied("ignored")
    # `after` beyond `resume` means that pages between the two were never received, also when none is staged yet.
    if delta.from_seq > row.complete or delta.after > row.resume:
        return Applied("gap")
    # A first download leaves out what was deleted up to its `start`. One asked for while less was here may come late.
    known = row.complete or row.start
    if delta.start is not None and known and delta.start > known:
        return Applied("gap")
    if not delta.complete:
        tx.add_page(row.name, delta.to, delta.docs)
        start = delta.start if row.start is None else row.start
        tx.put_space(replace(row, resume=max(row.resume, delta.to), start=start))
        return Applied("staged")
    return apply(tx, row, delta)


def apply(tx: Tables, row: SpaceRow, delta: Delta) -> Applied:
    """Apply what is staged, and then this: the space stands at `delta.to`."""
    added: dict[int, int] = {}
    touched: dict[Key, None] = {}
    for docs in [*tx.pages(row.name), delta.docs]:
        for doc in docs:
            number = bucket_of(key_hash(doc.collection, doc.id))
            added[number] = added.get(number, 0) + _put_document(tx, row.name, doc)
            touched[(doc.collection, doc.id)] = None
    tx.drop_pages(row.name)
    total = (row.sum + sum(added.values())) % MODULUS
    kept = tx.bucket_sums(row.name) if added else {}
    for number, change in added.items():
        if change:
            tx.put_bucket_sum(row.name, number, (kept.get(number, 0) + change) % MODULUS)
    row = replace(
        row, complete=delta.to, resume=delta.to, start=None, chain=delta.chain, t_ms=max(row.t_ms, delta.t), sum=total
    )
    touched.update(dict.fromkeys(_retire_seen(tx, row)))
    if delta.sum is None or sum_bytes(total) == delta.sum:
        tx.put_space(row if delta.sum is None else replace(row, doubts=0))
        return Applied("applied", tuple(touched))
    row = replace(row, doubts=row.doubts + 1)
    tx.put_space(row)
    if row.doubts > REPAIRS_MAX:
        drop_synced(tx, row.name)
        return Applied("drift")
    recount(tx, row)
    return Applied("doubt", tuple(touched))


def recount(tx: Tables, row: SpaceRow) -> bool:
    """Compute the sums from the documents as they are stored, whatever was kept; whether they were what was kept."""
    sums: dict[int, int] = {}
    for document in tx.rehashed(row.name):
        number = bucket_of(key_hash(*document.key))
        total = document_sum(document.collection, document.id, document.rev, document.fields)
        sums[number] = (sums.get(number, 0) + total) % MODULUS
    kept = {number: total for number, total in tx.bucket_sums(row.name).items() if total}
    sums = {number: total for number, total in sums.items() if total}
    total = sum(sums.values()) % MODULUS
    if kept == sums and total == row.sum:
        return True
    tx.drop_bucket_sums(row.name)
    for number, each in sums.items():
        tx.put_bucket_sum(row.name, number, each)
    tx.put_space(replace(row, sum=total))
    return False


def verify(tx: Tables, space: str) -> bool:
    """Look at every stored document. If one is not what was synced, the space is reconciled when there is a connection;
    until then it is shown as it is."""
    row = space_row(tx, space)
    if recount(tx, row):
        return True
    row = space_row(tx, space)
    tx.put_space(replace(row, doubts=max(1, row.doubts)))
    return False


def _field(before: FieldValue | None, told: FieldValue | None) -> FieldValue | None:
    """What is kept of a field of which a delta tells `told`."""
    if told is None or told[0] != "text":
        return told
    joined = texts.joined(None if before is None or before[0] != "text" else before[1], told[1])
    return None if joined is None else ("text", joined)


def _put_document(tx: Tables, space: str, doc: DocumentEntry) -> int:
    """Apply one entry; return what it adds to the sum. A patch costs its own fields, whatever the document holds."""
    old = tx.document(space, (doc.collection, doc.id))
    if doc.state in (DELETED, RESET) or old is None:
        whole = {name: _field(None, each) for name, each in doc.fields.items()}
        fields = {name: each for name, each in whole.items() if each is not None}
        added = 0 if old is None else -document_sum(old.collection, old.id, old.rev, old.fields)
        if doc.state == DELETED:
            tx.drop_document(space, (doc.collection, doc.id))
            return added
        tx.put_document(space, DocumentRow(doc.collection, doc.id, doc.rev, fields))
        return added + document_sum(doc.collection, doc.id, doc.rev, fields)

    def summed(name: str, field: FieldValue | None) -> int:
        return 0 if field is None else field_sum(doc.collection, doc.id, name, field)

    added = hashed(["d", doc.collection, doc.id, doc.rev]) - hashed(["d", doc.collection, doc.id, old.rev])
    fields = dict(old.fields)
    for name, told in doc.fields.items():
        before = fields.pop(name, None)
        field = _field(before, told)
        if field is not None:
            fields[name] = field
        added += summed(name, field) - summed(name, before)
    tx.put_document(space, DocumentRow(doc.collection, doc.id, doc.rev, fields))
    return added


def drop_synced(tx: Tables, space: str) -> tuple[Key, ...]:
    """Forget synced and staged state and positions. The outbox stays, and the epoch that its bases are of."""
    row = space_row(tx, space)
    touched = tuple(document.key for document in tx.documents(space))
    tx.drop_documents(space)
    tx.drop_bucket_sums(space)
    tx.drop_pages(space)
    tx.put_space(replace(row, complete=0, resume=0, start=None, chain=None, sum=0, doubts=0))
    return touched


# -- outcomes --------------------------------------------------------------------------------------------------------


def take_outcomes(tx: Tables, message: Outcomes) -> Answered:
    """Store outcomes, in order, up to the first that cannot be this replica's."""
    row = space_row(tx, message.space)
    if row.epoch is not None and row.epoch != message.epoch:
        return Answered()
    settled: list[OutcomeRow] = []
    touched: dict[Key, None] = {}
    forked = message.forked
    for answer in message.outcomes:
        entry = tx.entry(row.name, answer.n)
        if (entry is None and answer.n >= row.next_n) or (entry is not None and entry.nonce != answer.nonce):
            # Somebody else numbered changes under this device id, or this store is an old copy of itself.
            forked = answer.n
            break
        if entry is None or entry.outcome is not None:
            continue
        if entry.void_reason == LOST_IN_RESTORE:
            settled.extend(_lost(tx, row.name, entry))
        settled.append(_store_outcome(tx, row, entry, answer))
        touched.update(dict.fromkeys(operation.key for operation in entry.operations))
    if settled:  # else a message about a space that is not known here would leave a row
        row = replace(_with_settled(tx, row), epoch=message.epoch)  # what has a seq is a position of it
        # What another replica of the id made lies between those that have all answers before them, and the rest.
        in_order = (outcome.seq or 0 for outcome in settled if outcome.n <= row.settled)
        tx.put_space(replace(row, own_seq=max(row.own_seq, *in_order, 0)))
    if forked is not None:
        note_fork(tx, row.name, forked)
    return Answered(tuple(settled), tuple(touched), forked)


def _store_outcome(tx: Tables, row: SpaceRow, entry: Entry, answer: OutcomeEntry) -> OutcomeRow:
    outcome = OutcomeRow(row.name, answer.n, answer.nonce, answer.outcome, answer.seq, answer.detail)
    tx.add_outcome(outcome)
    leases.answered(tx, row.name, entry, answer.outcome, answer.detail)
    if answer.seq is None and entry.void_reason is None:
        tx.add_refused(
            RefusedRow(row.name, entry.n, entry.base, entry.stamp_ms, entry.operations, answer.outcome, answer.detail)
        )
    if answer.seq is None:
        tx.drop_entry(row.name, entry.n)
    else:
        entry = replace(entry, outcome=answer.outcome, seq=answer.seq)
        tx.put_entry(row.name, entry)
        if not row.is_subscribed or row.revoked is not None or answer.seq <= row.complete:
            _retire(tx, row, entry)
    return outcome


def _lost(tx: Tables, space: str, void: Entry) -> Iterator[OutcomeRow]:
    """What had been accepted under these numbers is not any more, and its application is told so: each change that it
    may still ask about. What had been refused stays so."""
    for n in range(void.n, void.last_n + 1):
        known = tx.outcome(space, n)
        if known is not None and known.seq is not None:
            outcome = replace(known, outcome="void", seq=None, detail={"reason": LOST_IN_RESTORE})
            tx.add_outcome(outcome)
            yield outcome


def _retire(tx: Tables, row: SpaceRow, entry: Entry) -> None:
    """Take an entry out of the view: its effect is in the synced state, or is none of this replica's business."""
    assert entry.seq is not None
    if entry.seq > row.safe and row.revoked is None:
        tx.put_entry(row.name, replace(entry, is_kept=True))
    else:
        tx.drop_entry(row.name, entry.n)


def _retire_seen(tx: Tables, row: SpaceRow) -> list[Key]:
    touched: list[Key] = []
    for entry in tx.answered(row.name, row.complete):
        _retire(tx, row, entry)
        touched.extend(operation.key for operation in entry.operations)
    return touched


def last_kept(tx: Tables, row: SpaceRow) -> Entry | None:
    """Nobody tells one who does not subscribe that the server was restored. To offer the last of what is kept once more
    finds out: it gets its outcome again, or `expired`. An older one would look like another replica's change."""
    kept = tx.kept(row.name)
    return kept[-1] if kept and kept[-1].n > max(0, row.settled - NONCES_KEPT) else None


def _with_settled(tx: Tables, row: SpaceRow) -> SpaceRow:
    oldest_n = tx.oldest_n(row.name)
    return replace(row, settled=(row.next_n if oldest_n is None else oldest_n) - 1)


def join(tx: Tables, space: str) -> None:
    """Replicate a space from now on, or again: positions and synced state of an earlier time are taken up."""
    tx.put_space(replace(space_row(tx, space), is_subscribed=True))


def leave(tx: Tables, space: str, *, forget: bool) -> tuple[Key, ...]:
    """Stop replicating a space: answered entries no longer wait for a delta; `forget` also drops what was synced."""
    row = replace(space_row(tx, space), is_subscribed=False)
    tx.put_space(row)
    touched = list(drop_synced(tx, space)) if forget else []
    for entry in tx.outbox(space):
        if entry.seq is not None:
            _retire(tx, row, entry)
            touched.extend(operation.key for operation in entry.operations)
    return tuple(dict.fromkeys(touched))


# -- giving up and starting again ------------------------------------------------------------------------------------


def give_up(tx: Tables, space: str, n: int, reason: str) -> None:
    """Replace a change that the server cannot read by a void. The payload stays among the refused.

    The void keeps the nonce: should the server have recorded the change after all, it answers with that outcome.
    """
    entry = tx.entry(space, n)
    assert entry is not None
    assert entry.outcome is None
    assert entry.void_reason is None
    detail = {"reason": reason}
    tx.add_refused(RefusedRow(space, n, entry.base, entry.stamp_ms, entry.operations, "void", detail))
    tx.put_entry(space, replace(entry, operations=(), void_reason=reason))


def fill_gap(tx: Tables, space: str, expected_n: int, new_nonce: Callable[[], bytes], reason: str) -> None:
    """Make void what the server expects and this device no longer holds, from `expected_n` on; offer the rest again."""
    row = space_row(tx, space)
    next_missing_n = expected_n
    held = sorted(tx.outbox(space) + tx.kept(space), key=lambda entry: entry.n)
    for entry in (entry for entry in held if entry.last_n >= expected_n):
        _put_voids(tx, space, next_missing_n, entry.n, new_nonce, reason)
        if entry.outcome is not None:
            leases.reopened(tx, space, entry)
            tx.put_entry(space, replace(entry, outcome=None, seq=None, is_kept=False))
        next_missing_n = entry.last_n + 1
    _put_voids(tx, space, next_missing_n, row.next_n, new_nonce, reason)
    tx.put_space(_with_settled(tx, row))


def _put_voids(tx: Tables, space: str, first_n: int, end_n: int, new_nonce: Callable[[], bytes], reason: str) -> None:
    for n in range(first_n, end_n, VOID_CHANGES_MAX):
        last_n = min(n + VOID_CHANGES_MAX, end_n) - 1
        tx.put_entry(space, Entry(n, last_n, new_nonce(), 0, 0, void_reason=reason))


def take_expired(tx: Tables, message: Expired, new_nonce: Callable[[], bytes]) -> tuple[bool, tuple[Key, ...]]:
    """Move to another epoch (section 10). Returns whether another replica showed itself, and what the view lost."""
    row = space_row(tx, message.space)
    if row.epoch == message.epoch and row.complete <= message.fork and row.resume == row.complete:
        # The answer to something sent before the first `expired` arrived. In the same epoch it can be a first one, too:
        # of a server whose disk was set back, which never gave the positions that are held here.
        return False, ()
    is_restored = row.epoch != message.epoch
    touched: tuple[Key, ...] = ()
    if row.complete > message.fork:
        touched = drop_synced(tx, row.name)
        row = space_row(tx, row.name)
    tx.drop_pages(row.name)
    row = replace(
        row,
        epoch=message.epoch,
        fork=min(row.fork, message.fork),
        resume=row.complete,
        start=None,
        safe=min(row.safe, message.fork),
        own_seq=min(row.own_seq, message.fork),
        context=cut_off(row.context, message.fork),
    )
    for entry in tx.outbox(row.name) + tx.kept(row.name):
        tx.put_entry(row.name, _cut_off(entry, message.fork))
    if is_restored and message.fork and not message.highest:
        row = take_up_lost(tx, row, message.fork)
    tx.put_space(row)
    forked = message.highest >= row.next_n
    if forked:
        note_fork(tx, row.name, row.next_n)
    else:
        fill_gap(tx, row.name, message.highest + 1, new_nonce, LOST_IN_RESTORE)
    pending = (operation.key for entry in tx.outbox(row.name) for operation in entry.operations)
    return forked, tuple(dict.fromkeys([*touched, *pending]))


def _cut_off(entry: Entry, fork: int) -> Entry:
    """What a change says to have seen, in an epoch that shares the history up to `fork` with the one it was made in."""
    operations = tuple(
        operation if operation.seen is None or operation.seen <= fork else replace(operation, seen=fork or None)
        for operation in entry.operations
    )
    return replace(entry, base=min(entry.base, fork), operations=operations, context=cut_off(entry.context, fork))


def take_revoked(tx: Tables, message: Revoked) -> tuple[Key, ...]:
    """The user may no longer read: discard what was synced, and the answered changes that are kept for a restore. Left
    is what its user wrote and the server has not answered, or refused, and the numbers that are never given twice."""
    touched = list(drop_synced(tx, message.space))
    row = replace(space_row(tx, message.space), revoked=message.reason, role=None)
    tx.put_space(row)
    for entry in tx.kept(message.space):
        tx.drop_entry(message.space, entry.n)
    for entry in tx.outbox(message.space):
        if entry.seq is not None:
            _retire(tx, row, entry)
            touched.extend(operation.key for operation in entry.operations)
    return tuple(dict.fromkeys(touched))
