"""What backends post: single changes and events, each carried out at most once.

Owns idempotency rows, server-side numbering of a backend's changes, and the way from a notification to a user's inbox.
Must not know HTTP (headers and bodies were checked at the edge), nor when a notification is shown, which whoever is
handed in as `Notices` decides. One that is shown becomes a change by the server in the recipient's own space, and so
travels like every other change.
"""

from collections.abc import Mapping
from typing import Any

from syncd.core.changes import Void, parsed_change
from syncd.core.ids import INBOX, NONCE_BYTES, BadName, Position, check_name, user_space
from syncd.core.values import ValueRefused, normalized
from syncd.engine.batch import SERVER_DEVICE, Batch, SpaceWork, Touched
from syncd.engine.changes import take
from syncd.engine.commands import (
    Attend,
    Author,
    Event,
    EventResults,
    Expired,
    Fire,
    Fired,
    Post,
    Posted,
    PostEvents,
    Refused,
    Result,
    StartWorkflow,
)
from syncd.engine.epochs import fork_of
from syncd.engine.grants import Role
from syncd.engine.notices import Notices
from syncd.store import keys
from syncd.store.tables import EXPIRIES, IDEMPOTENCY, IdempotencyRow
from syncd.wire.messages import OutcomeEntry

TRIMMED_PER_ADDED = 2  # expired idempotency rows dropped for each that is added: so they cannot pile up
TRIMMED_PER_BATCH = 64  # and by each batch whatever is in it, so that they go, too, when none are added
# What a device tells of its user may have waited for a network; what is older says little of the days to come. A clock
# that was corrected by the server's time may have been set since.
TOLD_LATE_MS_MAX, TOLD_EARLY_MS_MAX = 7 * 86_400_000, 86_400_000
TOLD_KEY_MS = TOLD_LATE_MS_MAX + TOLD_EARLY_MS_MAX + 1  # its key is remembered until it is too old to be taken
SERVER = Author(SERVER_DEVICE, None, "server", "", ())
TITLE_BYTES_MAX, BODY_BYTES_MAX, CATEGORY_BYTES_MAX = 200, 4000, 64  # what a push gateway passes on: APNs takes 4 KiB


def trim_idempotency(batch: Batch, count_max: int = TRIMMED_PER_BATCH) -> None:
    """Drop what expired, a bounded number at a time."""
    if batch.is_trimmed:
        return
    expired = []
    for key, row in EXPIRIES.scan(batch.tx, keys.expiry_range(batch.now_ms)):
        expired.append((key, row))
        if len(expired) == count_max:
            break
    for key, (owner,) in expired:
        batch.release(owner)
        batch.tx.delete(keys.idempotency(keys.parse_expiry(key)))
        batch.tx.delete(key)
    batch.is_trimmed = len(expired) < count_max  # what is added expires later than now


def _remember(batch: Batch, author: Author, key: bytes, request: bytes, lifetime_ms: int, answer: Any) -> None:
    trim_idempotency(batch, TRIMMED_PER_ADDED)
    expires_ms = batch.now_ms + lifetime_ms
    old = IDEMPOTENCY.get(batch.tx, keys.idempotency(key))
    if old is not None:
        stale = keys.expiry(old.expires_ms, key)
        row = EXPIRIES.get(batch.tx, stale)
        assert row is not None, "what is remembered expires"
        batch.release(row[0])
        batch.tx.delete(stale)
    IDEMPOTENCY.put(batch.tx, keys.idempotency(key), IdempotencyRow(request, expires_ms, answer))
    EXPIRIES.put(batch.tx, keys.expiry(expires_ms, key), (keys.owner(author.user),))
    held = batch.holdings(author.user)
    batch.hold(held._replace(idempotency_keys=held.idempotency_keys + 1))


def _refused_keys(batch: Batch, author: Author, count: int) -> Refused | None:
    """Why the author may not have so many more keys remembered, if so."""
    most = batch.quotas.idempotency_keys_max(author)
    if batch.holdings(author.user).idempotency_keys + count > most:
        trim_idempotency(batch)  # what has expired makes room
    if batch.holdings(author.user).idempotency_keys + count <= most:
        return None
    return Refused("too_many_keys", f"{most} requests and events are remembered for {author.user}, as many as may be")


def _remembered(batch: Batch, key: bytes) -> IdempotencyRow | None:
    row = IDEMPOTENCY.get(batch.tx, keys.idempotency(key))
    return row if row is not None and row.expires_ms > batch.now_ms else None


def post(batch: Batch, command: Post) -> Result:
    """Carry out a backend's change. Its n is the next of its device; the answer is its settlement."""
    author = command.author
    role = batch.role(author, command.space)
    if role < Role.WRITER:
        return Refused("forbidden", f"writing to {command.space} needs the role writer")
    idempotency = command.idempotency
    if idempotency is not None and (row := _remembered(batch, idempotency.key)) is not None:
        if row.request != idempotency.request:
            return Refused("idempotency_reuse", "this Idempotency-Key was used for another request")
        outcome, seq, detail, epoch, head = row.answer
        return Posted(outcome, seq, detail, Position(epoch, head))
    work = batch.space(command.space)
    refusal = _refused_position(batch, command, work) or batch.refused_space(command.space, author)
    if refusal is None and idempotency is not None:
        refusal = _refused_keys(batch, author, 1)
    if refusal is not None:
        return refusal
    work = batch.space_made(command.space, author)
    batch.device_made(author)
    base = work.head if command.base is None else command.base.seq
    if command.if_match is not None and command.base is None:
        base = command.if_match[2].seq
    entry = authored(batch, work, author, role, base, command.operations)
    if idempotency is not None:
        answer = [entry.outcome, entry.seq, entry.detail, work.row.epoch, work.head]
        _remember(batch, author, idempotency.key, idempotency.request, idempotency.lifetime_ms, answer)
    return Posted(entry.outcome, entry.seq, entry.detail, Position(work.row.epoch, work.head))


def _refused_position(batch: Batch, command: Post, work: SpaceWork | None) -> Result | None:
    """Why a post's position does not hold, if it does not."""
    positions = [command.base] if command.base is not None else []
    if command.if_match is not None:
        positions.append(command.if_match[2])
    for position in positions:
        if work is None:
            return Refused("bad_position", "the space does not exist")
        if position.epoch != work.row.epoch:
            return Expired(command.space, work.row.epoch, fork_of(batch.tx, work.row, position.epoch), 0)
        if position.seq > work.head:
            return Refused("bad_position", f"the position lies beyond the head {work.head}")
    if command.if_match is not None:
        assert work is not None, "checked above"
        collection, document_id, position = command.if_match
        try:
            name = (check_name(collection, "a collection"), check_name(document_id, "a document id"))
        except BadName as error:
            return Refused("if_match", str(error))
        document = work.document(name)
        if document is None or not document.is_live or document.rev != position.seq:
            return Refused("if_match", "the document has moved")
    return None


def authored(
    batch: Batch,
    work: SpaceWork,
    author: Author,
    role: Role,
    base: int,
    operations: Any,
    stamp: int | None = None,
) -> OutcomeEntry:
    """One change made here, at `stamp` or now, in the name of a backend or of the server, and settled at once."""
    replica = work.replica_made(author.device)
    stamp = batch.now_ms if stamp is None else stamp
    change = parsed_change([replica.highest + 1, batch.entropy(NONCE_BYTES), base, stamp, operations])
    assert not isinstance(change, Void), "five items are a change"
    taken = take(batch, work, author, role, (change,))
    replica = work.replica_made(author.device)
    replica = replica._replace(settled=replica.highest)
    work.set_replica(author.device, work.trimmed(replica))
    return taken.outcomes[0]


def post_events(batch: Batch, command: PostEvents, notices: Notices) -> Result:
    """Take events, each at most once by (source, id) while its key is remembered."""
    if _refused_keys(batch, command.author, len(command.events)) is not None:
        # Those that are remembered need no room: who repeats them must learn that they were taken.
        new = {event.key for event in command.events if _remembered(batch, event.key) is None}
        if (refusal := _refused_keys(batch, command.author, len(new))) is not None:
            return refusal
    return EventResults(
        tuple(_event(batch, command.author, event, command.lifetime_ms, notices) for event in command.events)
    )


def _event(batch: Batch, author: Author, event: Event, lifetime_ms: int, notices: Notices) -> tuple[str, str | None]:
    if _remembered(batch, event.key) is not None:
        return "duplicate", None
    is_told = author.kind == "device"  # what a device tells of its user is never a notification
    if is_told and (refusal := _refused_time(batch.now_ms, event.time_ms)) is not None:
        return "invalid", refusal
    notification = event.data.get("notification") if isinstance(event.data, dict) and not is_told else None
    try:
        shown = None if notification is None else _direct(batch, event, notification)
    except (BadName, ValueRefused) as error:
        return "invalid", str(error)
    problem = notices.event(batch, author, event, shown)
    if problem is not None:
        return "invalid", problem
    _remember(batch, author, event.key, b"", lifetime_ms, None)
    return "accepted", None


def _refused_time(now_ms: int, time_ms: int | None) -> str | None:
    """Why the event of a device has no possible time, if so. With the lifetime of its key this makes it count once for
    ever: a key is forgotten when the event is too old to be taken again."""
    assert time_ms is not None, "a device tells when it was"
    if time_ms < now_ms - TOLD_LATE_MS_MAX:
        return f"an event is told within {TOLD_LATE_MS_MAX // 86_400_000} days"
    return None if time_ms <= now_ms + TOLD_EARLY_MS_MAX else "the event lies in the future"


def _direct(batch: Batch, event: Event, notification: Any) -> dict[str, Any]:
    """The fields of a notification that an event carries. Raises `BadName`, `ValueRefused`."""
    if event.subject is None:
        raise ValueRefused("an event with a notification names its recipient as subject")
    user_space(event.subject)
    return {
        **_checked_notification(notification),
        "at": event.time_ms if event.time_ms is not None else batch.now_ms,
        "source": event.source,
        "event": event.id,
    }


def delivered(batch: Batch, author: Author, user: str, document_id: str, fields: Mapping[str, Any]) -> str | None:
    """Write a notification into its recipient's inbox; returns why that cannot be, if so. `author`: to whom the space
    is counted, if it is made."""
    space = user_space(user)
    document = [INBOX, document_id]
    operations: list[Any] = [["create", *document]]
    operations += [["reg.set", *document, name, value] for name, value in fields.items()]
    if (refusal := batch.refused_space(space, author)) is not None:
        return refusal.detail
    work = batch.space_made(space, author)
    entry = authored(batch, work, SERVER, Role.OWNER, work.head, operations)
    if entry.seq is None:
        return f"{entry.outcome}: {(entry.detail or {}).get('reason', '')}"
    return None


class DirectNotices:
    """Nothing is decided: what a backend posts is shown at once."""

    def event(self, batch: Batch, author: Author, event: Event, shown: Mapping[str, Any] | None) -> str | None:
        if shown is None or event.subject is None:
            return None
        return delivered(batch, author, event.subject, event.key.hex(), shown)

    def bound(self, batch: Batch, author: Author) -> None:
        pass

    def attended(self, batch: Batch, command: Attend) -> None:
        pass

    def touched(self, batch: Batch, touched: Touched) -> None:
        pass

    def fired(self, batch: Batch, command: Fire) -> Result:
        return Fired(0, False)

    def started(self, batch: Batch, command: StartWorkflow) -> Result:
        return Refused("unknown", f"there is no workflow {command.workflow!r}")


def _checked_notification(notification: Any) -> dict[str, Any]:
    if not isinstance(notification, dict):
        raise ValueRefused("data.notification is a map with title, body and category")
    fields: dict[str, Any] = {}
    for name, limit in (("title", TITLE_BYTES_MAX), ("body", BODY_BYTES_MAX), ("category", CATEGORY_BYTES_MAX)):
        value = notification.get(name)
        if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "replace")) <= limit:
            raise ValueRefused(f"data.notification.{name} is text of 1-{limit} bytes")
        fields[name] = normalized(value)
    if unknown := sorted(set(notification) - {"title", "body", "category", "data"}):
        raise ValueRefused(f"data.notification has the unknown key {str(unknown[0])[:40]!r}")
    if "data" in notification:
        fields["data"] = normalized(notification["data"])
    return fields
