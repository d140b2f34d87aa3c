"""The engine: one function from commands to results, inside one write transaction.

Owns the dispatch of commands and the rules around changes: roles, epochs, positions, device binding, acks, API keys.
Must not know connections, threads, clocks or the disk: the transaction, the time and random bytes are handed in.

Invariants: E1 every command that is carried out gets exactly one result, in order. E2 a refused command leaves no
trace. E3 nothing is read from or written to a space without the role for it at this moment.
"""

from collections.abc import Callable, Sequence

from syncd.core.changes import Change, RefusedChange, Void
from syncd.core.texts import Merging
from syncd.engine import devices, letters, reading
from syncd.engine.batch import Batch, SpaceWork, is_other
from syncd.engine.changes import LOADED_BYTES_MAX, take, trimmed
from syncd.engine.commands import (
    Ack,
    AckConsumer,
    Attach,
    Attend,
    Author,
    Bind,
    Bound,
    Collect,
    Command,
    ConfirmLeaseClock,
    CreateKey,
    Decision,
    DeleteOld,
    Done,
    DropConsumer,
    DropLetter,
    EndLease,
    Expired,
    Fire,
    Forget,
    Lose,
    MarkSafe,
    Post,
    PostEvents,
    Purge,
    Push,
    Pushed,
    PutConsumer,
    Refused,
    ReleaseLeases,
    ReplayLetter,
    Result,
    RetireDevice,
    Revert,
    RevokeKey,
    StartWorkflow,
    TendLeases,
    UseConsumer,
)
from syncd.engine.epochs import fork_of, marked_safe
from syncd.engine.feeding import consumer_acked, consumer_dropped, consumer_made, consumer_used
from syncd.engine.frontier import Retention, collected, low_after_ack, low_on_arrival
from syncd.engine.grants import Role
from syncd.engine.keeping import deleted_old
from syncd.engine.notices import Notices
from syncd.engine.posting import DirectNotices, post, post_events, trim_idempotency
from syncd.engine.quotas import Quotas
from syncd.engine.reclaiming import clock_confirmed, lease_ended, leases_released, tended
from syncd.engine.reverting import reverted
from syncd.engine.schemas import Schemas
from syncd.store import keys
from syncd.store.api import Writer
from syncd.store.tables import API_KEYS, KeyRow

Further = Callable[[Batch, Command], Result]


class Engine:
    """All decisions about sync. `entropy(size)` returns random bytes (epochs and the server's nonces).
    `revocation_grace_ms`: for so long after a member was denied, what its devices had not sent yet is taken. `further`
    carries out the commands that are not about sync, in the same transaction. `notices` decides about notifications;
    without, they are shown as they come. `merging`: of texts. `schemas` may be put in place of others at any time: a
    batch is decided by those with which it begins."""

    def __init__(
        self,
        entropy: Callable[[int], bytes],
        quotas: Quotas | None = None,
        retention: Retention | None = None,
        *,
        revocation_grace_ms: int = 0,
        further: Further | None = None,
        notices: Notices | None = None,
        merging: Merging | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        self.schemas = schemas or Schemas()
        self._notices: Notices = notices or DirectNotices()
        self._entropy, self._quotas, self._retention = entropy, quotas or Quotas(), retention or Retention()
        self._revocation_grace_ms, self._further, self._merging = revocation_grace_ms, further, merging

    def decide(self, tx: Writer, now_ms: int, commands: Sequence[Command]) -> Decision:
        """Carry out the commands in order, in one transaction that the caller commits: all of them, or the first ones,
        if these had to read so much that the rest is for another. Raises only `StoreError`, and what a defect raises:
        the caller then aborts and tries the commands one by one."""
        batch = Batch(
            tx, now_ms, self._entropy, self._quotas, self._revocation_grace_ms, self._merging, self.schemas
        )  # fmt: skip
        results: list[Result] = []
        for command in commands:
            if results and batch.loaded_bytes > LOADED_BYTES_MAX:
                break
            results.append(self._carried_out(batch, command))
        trim_idempotency(batch)
        return Decision(
            tuple(results), batch.flush(), tuple(batch.alarms), batch.late_count, batch.regrants, batch.due_ms
        )

    def _carried_out(self, batch: Batch, command: Command) -> Result:
        result = self._result(batch, command)
        while batch.touched:
            self._notices.touched(batch, batch.touched.pop(0))
        if isinstance(command, Bind) and isinstance(result, Bound):
            self._notices.bound(batch, command.author)
        return result

    def _result(self, batch: Batch, command: Command) -> Result:
        match command:
            case Fire():
                return self._notices.fired(batch, command)
            case StartWorkflow():
                return self._notices.started(batch, command)
            case Attend():
                self._notices.attended(batch, command)
                return Done()
            case Push():
                return _push(batch, command)
            case Ack():
                return _ack(batch, command)
            case Bind():
                return _bind(batch, command)
            case Attach():
                return _attach(batch, command)
            case Forget():
                return _forget(batch, command)
            case Lose():
                return _lose(batch, command)
            case Purge():
                return _purge(batch, command)
            case Post():
                return post(batch, command)
            case PostEvents():
                return post_events(batch, command, self._notices)
            case CreateKey():
                return _create_key(batch, command)
            case RevokeKey():
                return _revoke_key(batch, command)
            case ReplayLetter():
                return letters.replayed(batch, command)
            case DropLetter():
                return letters.dropped(batch, command)
            case RetireDevice():
                return devices.retired(batch, command)
            case Revert():
                return reverted(batch, command)
            case MarkSafe():
                return marked_safe(batch, command)
            case PutConsumer():
                return consumer_made(batch, command)
            case UseConsumer():
                return consumer_used(batch, command)
            case AckConsumer():
                return consumer_acked(batch, command)
            case DropConsumer():
                return consumer_dropped(batch, command)
            case Collect():
                return collected(batch, command, self._retention)
            case DeleteOld():
                return deleted_old(batch, command)
            case TendLeases():
                return tended(batch, command)
            case EndLease():
                return lease_ended(batch, command)
            case ReleaseLeases():
                return leases_released(batch, command)
            case ConfirmLeaseClock():
                return clock_confirmed(batch, command)
            case _:
                assert self._further is not None, "whoever takes such commands has somebody who carries them out"
                return self._further(batch, command)


def _bind(batch: Batch, command: Bind) -> Result:
    author = command.author
    result = reading.bound(batch.tx, author)
    if result is None:
        held, quotas = batch.holdings(author.user), batch.quotas
        if author.kind == "device" and not quotas.takes_device(held):
            had = f", and has retired {held.retired}" if held.retired else ""
            detail = f"{author.user} has {held.devices} devices{had}, and may add no more"
            return Refused("too_many_devices", detail)
        batch.device_made(author)
        return Bound()
    return result


def _push(batch: Batch, command: Push) -> Result:
    author = command.author
    binding = _bind(batch, Bind(author))
    if isinstance(binding, Refused):
        return binding
    role = batch.role(author, command.space)
    work = batch.space(command.space)
    if role < Role.WRITER and (work is None or work.replica(author.device) is None):
        # One who never had a place here cannot make the server keep anything; one who had is owed an outcome.
        return Refused("forbidden", f"writing to {command.space} needs the role writer")
    if command.epoch is None and any(_names_position(change) for change in command.changes):
        return Refused(
            "bad_position",
            "a push without an epoch names no position: base is 0, no operation has 'seen', no context a seq",
        )
    if (refusal := batch.refused_space(command.space, author)) is not None:
        return refusal
    if work is None:
        # Made also for one who names an epoch of a store that is no more: it is told which epoch to go on with.
        work = batch.space_made(command.space, author)
    if command.epoch is not None and command.epoch != work.row.epoch:
        return _expired(work, author, command.epoch)
    if any(_newest_position(change) > work.row.head for change in command.changes):
        return Refused("bad_position", f"a base or a context lies beyond the head {work.row.head} of the space")
    taken = take(batch, work, author, role, command.changes)
    replica = work.replica(author.device)
    assert replica is not None, "a push makes the replica"
    return Pushed(
        command.space, work.row.id, replica.slot, work.row.epoch, tuple(taken.outcomes), taken.gap, taken.forked
    )


def _names_position(change: Change | Void | RefusedChange) -> bool:
    if isinstance(change, Change):
        is_named = bool(change.base) or any(operation.seen for operation in change.operations)
        return is_named or any(former.seq for former in change.context)
    return isinstance(change, RefusedChange) and bool(change.base)


def _newest_position(change: Change | Void | RefusedChange) -> int:
    """The newest seq that a change says to have seen. (`seen` is judged with its operation.)"""
    if isinstance(change, Change) and change.context:
        return max(change.base, *(former.seq for former in change.context))
    return 0 if isinstance(change, Void) else change.base


def _expired(work: SpaceWork, author: Author, epoch: bytes) -> Expired:
    replica = work.replica(author.device)
    fork = fork_of(work.tx, work.row, epoch)
    return Expired(work.name, work.row.epoch, fork, 0 if replica is None else replica.highest)


def _attach(batch: Batch, command: Attach) -> Result:
    author = command.author
    binding = _bind(batch, Bind(author))
    if isinstance(binding, Refused):
        return binding
    role = batch.role(author, command.space)
    if batch.space(command.space) is None and role >= Role.WRITER:
        if (too_many := batch.refused_space(command.space, author)) is not None:
            return too_many
        batch.space_made(command.space, author)
    work = batch.space(command.space)
    if work is not None and role < Role.READER and not is_other(batch.tx, author):
        work.lost(author, work.said_at(author))
    row, replica = (None, None) if work is None else (work.row, work.replica(author.device))
    refusal = reading.refused_attach(batch.tx, command, row, replica, role)
    if refusal is not None:
        return refusal
    assert work is not None, "a missing space is refused"
    replica = work.replica_made(author.device)
    if replica.low is None and not is_other(batch.tx, author):
        # The low-water is committed before the first page is read: nothing after it is collected meanwhile.
        low = low_on_arrival(work, command.complete, command.start)
        replica = replica._replace(low=low, applied=command.complete, seen_ms=work.now_ms)
        work.set_replica(author.device, replica)
    return reading.attached_to(batch.tx, command, work.row, work.head, role, replica)


def _forget(batch: Batch, command: Forget) -> Result:
    work = batch.space(command.space)
    replica = None if work is None else work.replica(command.author.device)
    if work is not None and replica is not None and not is_other(batch.tx, command.author):
        work.set_replica(command.author.device, replica._replace(low=None))
        work.forget_lapse(replica)
        work.released(command.author)
    return Done()


def _lose(batch: Batch, command: Lose) -> Result:
    author, work = command.author, batch.space(command.space)
    if work is not None and work.role(author) < Role.READER and not is_other(batch.tx, author):
        work.lost(author, work.said_at(author))
    return Done()


def _purge(batch: Batch, command: Purge) -> Result:
    """Only a copy that is to be deleted can be: one who was let in again since has another."""
    author, work = command.author, batch.space(command.space)
    held = None if work is None else work.holder(author)
    if work is not None and held is not None and held.lost_seq is not None and not is_other(batch.tx, author):
        work.released(author)
    return Done()


def _ack(batch: Batch, command: Ack) -> Result:
    author = command.author
    work = batch.space(command.space)
    replica = None if work is None else work.replica(author.device)
    if work is None or replica is None or is_other(batch.tx, author):
        return Done()
    if command.epoch != work.row.epoch:
        return _expired(work, author, command.epoch)
    if command.applied > work.head or command.settled > replica.highest:
        return Refused("bad_position", f"an ack lies beyond the head {work.head} or beyond n {replica.highest}")
    low = replica.low
    if low is None:
        low = low_after_ack(work, work.lapsed(replica), command.applied, command.oldest_base)
    else:
        low = max(low, min(command.applied, command.oldest_base))
    settled = max(replica.settled, command.settled)
    replica = replica._replace(
        low=low, applied=max(replica.applied, command.applied), settled=settled, seen_ms=work.now_ms
    )
    work.set_replica(author.device, trimmed(batch, work, replica))
    return Done()


def _create_key(batch: Batch, command: CreateKey) -> Result:
    for _, row in API_KEYS.scan(batch.tx, keys.table_range(keys.API_KEY)):
        if row.name == command.name and row.revoked_ms is None:
            return Refused("exists", f"there is an API key named {command.name!r}")
    row = KeyRow(command.name, list(command.scopes), command.device, batch.now_ms, None)
    API_KEYS.put(batch.tx, keys.api_key(command.secret_hash), row)
    batch.device_made(Author(command.device, None, "key", f"key:{command.name}", ()))
    return Done()


def _revoke_key(batch: Batch, command: RevokeKey) -> Result:
    for key, row in list(API_KEYS.scan(batch.tx, keys.table_range(keys.API_KEY))):
        if row.name == command.name and row.revoked_ms is None:
            API_KEYS.put(batch.tx, key, row._replace(revoked_ms=batch.now_ms))
            return Done()
    return Refused("unknown", f"there is no API key named {command.name!r}")
