"""Accepting changes: the decision that everything else serves.

Owns what becomes of each change of a push: recorded before, out of order, refused, or accepted with the next seq. Must
not know who is connected, nor how a result is sent. Called inside a write transaction, through `Batch`.

Invariants: C1 each (device, n) is recorded once, in order of n, with exactly one outcome. C2 a change takes effect
whole or not at all; its effect and its outcome are in one commit. C3 one change cannot hurt another: an exception in
it becomes the outcome `invalid` and a dead letter. C4 what is refused is kept.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from syncd.core.changes import VOID_COUNT_MAX, Change, Operation, RefusedChange, Void
from syncd.core.documents import DOCUMENT_BYTES_MAX, Document, Draft
from syncd.core.fields import Observer, OperationRefused
from syncd.core.ids import INBOX, MEMBERS, WRITABLE_RESERVED, user_of
from syncd.core.schemas import Schema, SchemaRefused, check_operation, check_result, defaults
from syncd.core.values import encoded
from syncd.engine.batch import Batch, DocumentName, SpaceWork, Touched, is_other
from syncd.engine.commands import Author
from syncd.engine.grants import Role, role_on
from syncd.engine.leases import GUARDED, Asker, admitted, certificates, lease_key, spend
from syncd.engine.members import MemberRefused, check_member, check_owner_left, regrants_of
from syncd.engine.reserving import ENDING, Held, taken
from syncd.engine.schemas import Refusal, as_present, is_made, rewritten
from syncd.store import keys
from syncd.store.api import StoreError
from syncd.store.tables import DEVICES, ENTRIES, EntryRow, LetterRow, ReplicaRow
from syncd.wire.limits import DEFAULT
from syncd.wire.messages import OutcomeEntry

LOST_IN_RESTORE = "lost_in_restore"  # the reason of a void for what no backup and no device has any more
MET_MAX = 16  # concurrent changes named in an outcome: enough to explain, bounded for a change of 1,000 operations
DELTA_BYTES_MAX = DEFAULT.delta_bytes_max
# The documents that one seq alters have this at most; the rest of a delta is names and frame.
ALTERED_BYTES_MAX = DELTA_BYTES_MAX - 131072
# Of stored documents that a batch reads, by `SpaceWork.loaded_bytes`: some 100 ms, and ten times as much once decoded.
LOADED_BYTES_MAX = 16 * 1024 * 1024
CHANGE_FIELDS_MAX = 32_768  # of the documents that one change names, together: a batch does that at least, in 200 ms
# Of a push that was recorded before, which a few bytes can name: the outcomes of a thousand changes may have 50 MiB,
# and what they did 256. A whole frame that is sent again has less.
AGAIN_BYTES_MAX = 2 * 1024 * 1024
# Changes of roles in one batch, after which the rest of a push is left to be sent again: each ends a delta, and so
# costs every subscriber a frame.
REGRANTS_MAX = 16
# Entries that the log keeps of a device that settles nothing: who pushes has answers to all but the last 16,000, and
# settles them within seconds. Beyond it what it was told counts as settled, or its log would grow for ever.
UNSETTLED_KEPT = 65_536
# By which an operation can lengthen a document beyond its own encoding: marks, revs, a field's frame.
GROWTH_BYTES_MAX = 96


_new = tuple.__new__  # makes a named tuple in a third of its constructor's time


@dataclass(slots=True)
class Taken:
    """What became of a push so far. `highest`: n up to which the device's changes are recorded."""

    highest: int
    outcomes: list[OutcomeEntry]
    gap: int | None = None
    forked: int | None = None


@dataclass(slots=True)
class _Push:
    """Who pushes, where. `is_other`: the device id is not its own to go on with (`batch.is_other`). `stable`: a change
    with a base below it is late. Late changes are taken by the rules that hold for all, and counted. `role`: what the
    author is after the changes so far; `is_graced`: it lost its role so short a time ago that it may write still."""

    batch: Batch
    work: SpaceWork
    author: Author
    role: Role
    is_graced: bool
    slot: int
    is_other: bool
    stable: int

    def judge(self) -> None:
        self.role = self.work.role(self.author)
        self.is_graced = self.role < Role.WRITER and _is_graced(self.batch, self.work, self.author)


def take(
    batch: Batch, work: SpaceWork, author: Author, role: Role, changes: Sequence[Change | Void | RefusedChange]
) -> Taken:
    """Take a device's changes in order. Another installation that uses its id, or one whose id is retired, is told the
    outcomes of what is recorded, and nothing new is taken from it. Stops at a gap or a fork."""
    replica = work.replica_made(author.device)
    taken = Taken(replica.highest, [])
    stable = max(work.row.frontier, work.row.floor, replica.low or 0)
    is_graced = role < Role.WRITER and _is_graced(batch, work, author)
    push = _Push(batch, work, author, role, is_graced, replica.slot, is_other(batch.tx, author), stable)
    _take_in_order(push, changes, taken)
    if taken.highest != replica.highest:
        replica = work.replica_made(author.device)  # which one of its changes may have taken the low-water from
        settled = max(replica.settled, taken.highest - UNSETTLED_KEPT)
        replica = replica._replace(highest=taken.highest, settled=settled, seen_ms=work.now_ms)
        work.set_replica(author.device, trimmed(batch, work, replica) if settled > replica.trimmed else replica)
    return taken


def trimmed(batch: Batch, work: SpaceWork, replica: ReplicaRow) -> ReplicaRow:
    """Drop settled entries of a device's log, as far as the batch may: what is left over goes with the next one."""
    after = work.trimmed(replica, batch.trims_left)
    batch.trims_left -= after.trimmed - replica.trimmed
    return after


def _is_graced(batch: Batch, work: SpaceWork, author: Author) -> bool:
    """Whether a writer was revoked less than the grace ago: what it made before it could know is taken still. To write
    is all that it may: it learns nothing, and makes no members."""
    held = work.holder(author) if batch.revocation_grace_ms else None
    if held is None or not held.lost_seq:
        return False
    was = max(role_on(author.grants, work.name), held.role)
    # Whichever way the clock was set since: a grace that is too short costs less than one without an end.
    return was >= Role.WRITER and abs(work.now_ms - held.lost_ms) < batch.revocation_grace_ms


def _take_in_order(push: _Push, changes: Sequence[Change | Void | RefusedChange], taken: Taken) -> None:
    batch, work = push.batch, push.work
    elsewhere_bytes = batch.loaded_bytes - work.loaded_bytes  # summed up once: a batch may touch many spaces
    again_bytes = 0  # of records whose outcomes are told again
    for change in changes:
        last = change.last if isinstance(change, Void) else change.n
        n = change.n
        loaded_bytes = elsewhere_bytes + work.loaded_bytes
        if taken.outcomes and (
            _is_enough(loaded_bytes, change, len(taken.outcomes) + last - n + 1)
            or len(work.regrants) >= REGRANTS_MAX
            or again_bytes > AGAIN_BYTES_MAX
        ):
            taken.gap = n
            return
        while n <= last:
            if n <= taken.highest:
                key = keys.device_log(work.row.id, push.slot, n)
                record = batch.tx.get(key)
                entry = None if record is None else ENTRIES.row(key, record)
                again_bytes += len(record or b"")
                if entry is None or entry.nonce != change.nonce:
                    taken.forked = n
                    return
            elif push.is_other:
                taken.forked = n
                return
            elif n > taken.highest + 1:
                taken.gap = taken.highest + 1
                return
            else:
                entry = _recorded(push, change, n)
                taken.highest = n
            taken.outcomes.append(outcome_entry(n, entry, push.role))
            n += 1


def _is_enough(loaded_bytes: int, change: Change | Void | RefusedChange, count: int) -> bool:
    """Whether the rest of a push is left to be sent again, because a few bytes of it ask for too much at once: a void
    writes a row for each number that it gives up, a change reads and delivers whole fields. Progress is at least one
    item for each push."""
    return (isinstance(change, Void) and count > VOID_COUNT_MAX) or loaded_bytes > LOADED_BYTES_MAX


def outcome_entry(n: int, entry: EntryRow, role: Role) -> OutcomeEntry:
    """A recorded outcome as it is told; details only to those who may read now."""
    detail = entry.detail if role >= Role.READER else None
    return _new(OutcomeEntry, (n, entry.nonce, entry.outcome, entry.seq, detail))


def _recorded(push: _Push, change: Change | Void | RefusedChange, n: int) -> EntryRow:
    """Decide one new change and write it into its device's log."""
    if isinstance(change, Void):
        entry = EntryRow(change.nonce, "void", None, {"reason": change.reason}, 0, 0, None)
        if change.reason == LOST_IN_RESTORE and n == change.n:
            told, payload = (None, None), encoded([n, change.last])
            push.work.letter(
                LetterRow("lost", push.author.device, n, 0, 0, change.reason, push.work.now_ms, *told, payload)
            )
    elif isinstance(change, RefusedChange):
        detail: dict[str, Any] = {"reason": change.reason}
        if change.op is not None:
            detail["op"] = change.op
        entry = _refused(push, change, change.outcome, detail)
    else:
        entry = _decided(push, change)
    ENTRIES.put(push.batch.tx, keys.device_log(push.work.row.id, push.slot, n), entry)
    return entry


def _refused(push: _Push, change: Change | RefusedChange, outcome: str, detail: dict[str, Any]) -> EntryRow:
    number = _letter(push, change, "change", f"{outcome}: {detail['reason']}", (None, None), change.payload)
    # What it would have done is in the letter, and nowhere else.
    return EntryRow(change.nonce, outcome, None, {**detail, "letters": [number]}, change.base, change.stamp, None)


def _letter(
    push: _Push,
    change: Change | RefusedChange,
    kind: str,
    reason: str,
    name: tuple[str | None, str | None],
    payload: bytes,
) -> int:
    """Keep a dead letter of this change; returns its number."""
    row = LetterRow(
        kind, push.author.device, change.n, change.base, change.stamp, reason, push.work.now_ms, *name, payload
    )
    return push.work.letter(row)


@dataclass(slots=True)
class _Effect:
    """What a change would do: nothing of it is in the space yet."""

    made: dict[DocumentName, Document | None]
    bounds: dict[DocumentName, int]
    numbers: int
    outcome: str
    met: list[list[Any]]
    lost: list[tuple[DocumentName, str, Any]]
    leased: dict[DocumentName, None]  # documents whose leases were looked at
    texts: dict[DocumentName, None]  # documents whose texts grew
    regrants: dict[str, tuple[Role | None, Role | None]]
    held: Held  # unique keys that were taken and freed
    before: list[int]  # as the change's entry keeps it
    change: Change  # what was applied: as of the present version of the schemas


class _ChangeRefused(Exception):
    """`more`: what else its author is told."""

    def __init__(self, outcome: str, op: int | None, reason: str, more: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.outcome, self.op, self.reason, self.more = outcome, op, reason, more or {}


def _decided(push: _Push, change: Change) -> EntryRow:
    work, author = push.work, push.author
    push.batch.late_count += change.base < push.stable and any(each.collection != MEMBERS for each in change.operations)
    try:
        if push.role < Role.WRITER and not push.is_graced:
            raise _ChangeRefused("forbidden", None, "writing needs the role writer")
        has_memory, time = author.kind == "device", max(work.time, work.now_ms)
        context = _seen_slots(push, change) if change.context else ()
        by = Observer(change.base, push.slot, has_memory, work.head + 1, change.stamp, time, context)
        effect = _effect(work, author, push.role, as_present(work.schemas, change, work.document), by)
    except StoreError:
        raise
    except Refusal as refused:
        more = {**refused.more, **({} if refused.op is None else {"op": refused.op})}
        return _refused(push, change, refused.outcome, {"reason": refused.reason, **more})
    except _ChangeRefused as refused:
        detail: dict[str, Any] = {"reason": refused.reason, **refused.more}
        if refused.op is not None:
            detail["op"] = refused.op
        return _refused(push, change, refused.outcome, detail)
    except Exception:
        # A defect of ours must not stop the device behind this change, nor the others in the batch.
        push.batch.alarms.append(f"{work.name} {author.device.hex()} n={change.n}: {traceback.format_exc()}")
        return _refused(push, change, "invalid", {"reason": "internal"})
    change = effect.change
    _tell_touched(push, change, effect)
    work.keep(effect.made, effect.bounds)
    work.leased.update(effect.leased)
    work.texts.update(effect.texts)
    work.reserved.keep(effect.held)
    work.number_next += effect.numbers
    seq = work.advance(push.slot, author.device, change.n, change.nonce, len(change.payload))
    told = _detail(push, change, effect, seq)
    if effect.regrants:
        work.regranted(effect.regrants)
        push.judge()
    return _new(
        EntryRow,
        (
            *(change.nonce, effect.outcome, seq, told, change.base, change.stamp, change.payload, change.context),
            effect.before,
        ),
    )


_TOLD = WRITABLE_RESERVED - {MEMBERS}


def _tell_touched(push: _Push, change: Change, effect: _Effect) -> None:
    """Note what a change says about its user, before it is taken over: receipts, preferences, the zone."""
    if not push.work.name.startswith("user/"):
        return
    told = {name: (push.work.document(name), made) for name, made in effect.made.items() if name[0] in _TOLD}
    if push.author.kind == "server" and any(collection == INBOX for collection, _ in told):
        return  # a notification that is being delivered
    user = user_of(push.work.name)
    if told and user is not None:
        push.batch.touched.append(Touched(user, push.author, change.stamp, told))


def _seen_slots(push: _Push, change: Change) -> tuple[tuple[int, int], ...]:
    """What a change's context says, by slots. A device that never had a place here (or is not known any more, after a
    restore) did nothing that could be seen."""
    seen = []
    for former in change.context:
        row = DEVICES.get(push.batch.tx, keys.device(former.device))
        replica = None if row is None else push.work.replica(former.device)
        if row is None or replica is None:
            continue
        if row.user != push.author.user:
            raise _ChangeRefused("invalid", None, "the context names a device of another user")
        seen.append((replica.slot, former.seq))
    return tuple(seen)


def _detail(push: _Push, change: Change, effect: _Effect, seq: int) -> dict[str, Any] | None:
    """What an accepted change's author is told: whom it met, the dead letters of what gave way, the leases that it was
    granted."""
    detail: dict[str, Any] = {}
    if effect.leased:
        batch, work = push.batch, push.work
        granted = certificates(
            lambda: lease_key(batch.tx, batch.entropy), (work.name, work.row.epoch), push.author.device, seq, change,
            effect.made.__getitem__,
        )  # fmt: skip
        if granted:
            detail["leases"] = granted
        if granted and work.row.parent is not None and change.base <= work.row.fork:
            # Perhaps it was granted before, beyond the fork: then the lease is this one now, and has this certificate.
            for certificate in granted:
                spend(batch.tx, work.row.id, certificate[0])
    if effect.met:
        detail["met"] = effect.met
    if effect.lost:
        detail["letters"] = [
            _letter(push, change, kind, f"{kind} ended by this change", name, encoded(payload))
            for name, kind, payload in effect.lost
        ]
    return detail or None


def _effect(work: SpaceWork, author: Author, role: Role, change: Change, by: Observer) -> _Effect:
    """Apply all operations to an overlay. Raises `_ChangeRefused` at the first that cannot take effect."""
    effect = _Effect({}, {}, 0, "noop", [], [], {}, {}, {}, {}, [], change)
    drafts: dict[DocumentName, Draft] = {}
    is_applied = is_merged = False
    name: DocumentName = ("", "")  # no document's
    schema: Schema | None = None
    head, floor, number = work.row.head, work.row.floor, work.number_next
    fields = 0
    for index, operation in enumerate(change.operations):
        verb, collection, document_id, _, _, seen, _ = operation
        if document_id != name[1] or collection != name[0]:  # most changes stay with one document
            name = (collection, document_id)
            if name[0].startswith("_") and name[0] not in WRITABLE_RESERVED and author.kind != "server":
                raise _ChangeRefused("forbidden", index, f"the collection {name[0]!r} is reserved")
            found = drafts.get(name)
            if found is None:
                stored = work.document(name)
                fields += 0 if stored is None else len(stored.fields)
                if fields > CHANGE_FIELDS_MAX:
                    reason = f"the documents of one change have at most {CHANGE_FIELDS_MAX} fields together"
                    raise _ChangeRefused("too_large", index, reason)
                found = drafts[name] = Draft(stored, by, work.update_wins(collection))
                effect.bounds[name] = work.bytes_bound(name) + len(change.payload)
            draft, schema = found, work.schemas.get(collection)
        if schema is not None:
            _check_operation(schema, operation, index)
        if seen > head:
            raise _ChangeRefused("invalid", index, f"'seen' is {seen}, beyond the head {head}")
        if collection == MEMBERS:
            _check_member(role, operation, work.document(name), by, index)
        is_made = verb == "create" and draft.document() is None
        try:
            if verb in GUARDED:
                asker = Asker(work.tx, work.name, work.row, author.kind, author.device, by.slot, work.now_ms, by.time)
                operation = admitted(asker, operation, draft.document())
                effect.leased[name] = None
            is_ending = verb in ENDING or (verb == "create" and schema is not None and schema.update_wins)
            before = draft.document() if is_ending else None
            verdict, met, lost = draft.apply(operation, number, floor if collection != MEMBERS else 0)
        except OperationRefused as refused:
            raise _ChangeRefused(refused.outcome, index, refused.reason) from None
        if verb == "text.update":
            effect.texts[name] = None
        if is_ending:
            _reserve(work, effect, index, name, before, draft.document(), operation)
        number += is_made
        effect.bounds[name] += GROWTH_BYTES_MAX
        if verdict == "applied":
            is_applied = True
        elif verdict == "merged":
            is_merged = True
        if met:
            room = MET_MAX - len(effect.met)
            effect.met.extend([index, what, seq] for what, seq in met[:room])
        if lost:
            effect.lost.extend((name, kind, payload) for kind, payload in lost)
    if work.schemas:
        _check_results(work, effect, drafts)
    effect.outcome = "merged" if is_merged else "applied" if is_applied else "noop"
    effect.numbers = number - work.number_next
    for name, draft in drafts.items():
        stored = work.document(name)
        effect.made[name] = draft.document()
        effect.before.append(-floor if stored is None else stored.touched)
    _check_sizes(effect)
    if any(collection == MEMBERS for collection, _ in effect.made):
        _regrant(work, author, effect)
    return effect


def _check_operation(schema: Schema, operation: Operation, index: int) -> None:
    try:
        check_operation(schema, operation)
    except SchemaRefused as refused:
        raise Refusal(refused, index) from None


def _check_results(work: SpaceWork, effect: _Effect, drafts: dict[DocumentName, Draft]) -> None:
    """Give what the change made under an older version its defaults, and judge what it leaves behind."""
    versions: dict[DocumentName, int] = {}  # of the create that makes a document: the first behind the last delete
    for verb, collection, document_id, _, _, _, version in effect.change.operations:
        if verb == "create":
            versions.setdefault((collection, document_id), version)
        elif verb == "delete":
            versions.pop((collection, document_id), None)
    added = []
    for name, draft in drafts.items():
        schema, before = work.schemas.get(name[0]), work.document(name)
        if schema is None:
            continue
        if versions.get(name) and is_made(before, made := draft.document()):
            assert made is not None, "what was made is there"
            for field, value in defaults(schema, versions[name]).items():
                if field not in made.fields:
                    added.append(Operation("reg.set", *name, field, (value,), 0))
                    try:
                        draft.apply(added[-1], 0)
                    except OperationRefused as refused:
                        raise _ChangeRefused(refused.outcome, None, refused.reason) from None
                    effect.bounds[name] += GROWTH_BYTES_MAX + len(encoded(added[-1].wire()))
        try:
            check_result(schema, before, draft.document())
        except SchemaRefused as refused:
            raise Refusal(refused, None) from None
    if added:
        effect.change = rewritten(effect.change, (*effect.change.operations, *added))


def _reserve(
    work: SpaceWork,
    effect: _Effect,
    index: int,
    name: DocumentName,
    before: Document | None,
    after: Document | None,
    operation: Operation,
) -> None:
    """Take and free the unique keys that an operation took and freed."""
    under = operation.field if operation.verb == "unique" else None
    found = taken(work.key_holder, effect.held, name, before, after, under)
    if found is not None:
        (under, key), holder = found
        reason = f"{holder[0]}/{holder[1]} holds the key {key!r} under the name {under!r}"
        raise _ChangeRefused("precondition", index, reason, {"holder": list(holder)})


def _check_member(role: Role, operation: Operation, member: Document | None, by: Observer, index: int) -> None:
    """An operation on a member, judged by what was before this change. It is never late: a deleted member is remembered
    for ever, so whether its author has seen the last change needs no floor."""
    try:
        check_member(role, operation, member, by)
    except MemberRefused as refused:
        raise _ChangeRefused(refused.outcome, index, refused.reason) from None


def _regrant(work: SpaceWork, author: Author, effect: _Effect) -> None:
    effect.regrants = regrants_of({name: (work.document(name), made) for name, made in effect.made.items()})
    try:
        check_owner_left(author, work.name, work.owner_count, effect.regrants, work.role_said(author))
    except MemberRefused as refused:
        raise _ChangeRefused(refused.outcome, None, refused.reason) from None


def _check_sizes(effect: _Effect) -> None:
    """Documents stay within their limit, and what one seq alters within one delta. The bounds only ever overestimate;
    a document is encoded to be measured only when its bound is above a limit."""
    total = 0
    for name, document in effect.made.items():
        bound = effect.bounds[name]
        if bound > DOCUMENT_BYTES_MAX:
            bound = 0 if document is None else SpaceWork.bytes_exact(document)
            if bound > DOCUMENT_BYTES_MAX:
                raise _ChangeRefused(
                    "too_large",
                    None,
                    f"the document {name[0]}/{name[1]} would have {bound} bytes; at most {DOCUMENT_BYTES_MAX}",
                )
            effect.bounds[name] = bound
        total += bound
    if total > ALTERED_BYTES_MAX:
        exact = sum(SpaceWork.bytes_exact(document) for document in effect.made.values() if document is not None)
        if exact > ALTERED_BYTES_MAX:
            raise _ChangeRefused(
                "too_large", None, f"the documents of one change have at most {ALTERED_BYTES_MAX} bytes, not {exact}"
            )
