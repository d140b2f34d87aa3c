"""From the engine's commands and results to the plain data that the auditor takes.

Owns the only place of the simulator that reads what the server decided; it judges nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

from syncd.core.changes import Change, RefusedChange, Void
from syncd.core.ids import INBOX
from syncd.engine.commands import (
    Bind,
    Bound,
    Command,
    Decision,
    EventResults,
    Post,
    Posted,
    PostEvents,
    Push,
    Pushed,
    Result,
)
from syncd.engine.grants import role_on
from syncd.wire.messages import RESET
from tests.oracle.members import Asker
from tests.sim.auditor import Auditor, Pushing, Sent, Violation
from tests.sim.topic import Work

Delivered = tuple[int, str, dict[str, Any]]  # seq, document, fields


class CommitReader:
    """Reports each commit to the auditor. `name`: of a device, by its id. `is_deciding`: whether somebody decides when
    a notification goes into its inbox; if nobody does, it goes there with its event."""

    def __init__(self, auditor: Auditor, name: Callable[[bytes], str], works: Sequence[Work] = ()) -> None:
        self._auditor, self._name, self._works = auditor, name, works
        self.is_deciding = False

    def read(self, now_ms: int, commands: Sequence[Command], results: Sequence[Result], decision: Decision) -> None:
        if decision.alarms:
            raise Violation("S15", f"the engine contained a defect: {decision.alarms[0]}")
        delivered = delivered_by(decision) if self.is_deciding else {}
        for command, result in zip(commands[: len(results)], results, strict=True):
            match command, result:
                case Push(author, space, _, changes), Pushed():
                    role = int(role_on(author.grants, space))
                    entries = [(e.n, e.nonce, e.outcome, e.seq, e.detail) for e in result.outcomes]
                    push = Pushing(
                        now_ms, self._name(author.device), space, author.device, author.installation or b"",
                        Asker(author.user, role), [_sent(change) for change in changes],
                    )  # fmt: skip
                    self._auditor.pushed(push, entries, result.gap, result.forked)
                case Bind(author), Bound():
                    self._auditor.installations.setdefault(author.device, author.installation or b"")
                    self._auditor.users[author.device] = author.user
                case Post(), Posted(outcome, seq, detail, position):
                    key = None if command.idempotency is None else command.idempotency.key
                    base = None if command.base is None else command.base.seq
                    asker = Asker(None, int(role_on(command.author.grants, command.space)))
                    self._auditor.posted_change(
                        now_ms, command.space, asker, key, base, command.operations,
                        (outcome, seq, detail, position.seq),
                    )  # fmt: skip
                case PostEvents(), EventResults(told):
                    for event, (status, _) in zip(command.events, told, strict=True):
                        inbox, written = (None, []) if self.is_deciding else _inbox(now_ms, event)
                        self._auditor.event(now_ms, event.key, status, inbox, written)
            for work in self._works:
                work.committed(now_ms, command, result)
            for user, waiting in delivered.items():
                self._deliver(now_ms, user, waiting)
        self._auditor.batch_ended()
        for work in self._works:
            work.decided(now_ms, commands, decision)
        self._check_deltas(decision)

    def _deliver(self, now_ms: int, user: str, waiting: list[Delivered]) -> None:
        """Those whose turn it is: what comes from this command, or from one after it that altered nothing before."""
        audit = self._auditor.space(f"user/{user}")
        while waiting and waiting[0][0] == audit.oracle.head + 1:
            seq, document, fields = waiting.pop(0)
            for work in self._works:
                work.delivered(now_ms, user, seq, document, fields)
            self._auditor.delivered(now_ms, f"user/{user}", document, fields)

    def _check_deltas(self, decision: Decision) -> None:
        ends: dict[str, list[int]] = {}
        for delta in decision.deltas:
            ends.setdefault(delta.space, []).append(delta.to)
        for space, tos in ends.items():
            audit = self._auditor.space(space)
            if tos[-1] != audit.oracle.head:
                raise Violation("S2", f"{space}: a commit that ends at {audit.oracle.head} is published up to {tos}")
            first = next(delta.from_ for delta in decision.deltas if delta.space == space)
            cuts = [seq for seq, _ in audit.regrants if seq > first]
            if cuts != [seq for seq in tos if seq in cuts] or len(tos) > len(cuts) + 1:
                raise Violation("S11", f"{space}: roles change at {cuts}, and the deltas end at {tos}", "server")


def delivered_by(decision: Decision) -> dict[str, list[Delivered]]:
    """By user what went into an inbox, as the deltas have it, in order. No device knows of it yet, so it is as it was
    delivered."""
    found: dict[str, list[Delivered]] = {}
    for delta in decision.deltas:
        for entry in delta.docs:
            if entry.collection == INBOX and entry.state == RESET:
                fields = {name: field[1] for name, field in entry.fields.items() if field is not None}
                found.setdefault(delta.space.removeprefix("user/"), []).append((entry.rev, entry.id, fields))
    return {user: sorted(each, key=lambda one: one[0]) for user, each in found.items()}


def _sent(change: Change | Void | RefusedChange) -> Sent:
    if isinstance(change, Void):
        return Sent(change.n, change.last, change.nonce, 0, 0, None, reason=change.reason)
    if isinstance(change, RefusedChange):
        return Sent(change.n, change.n, change.nonce, change.base, change.stamp, None, True)
    operations = tuple(tuple(operation.wire()) for operation in change.operations)
    context = tuple((former.device, former.n, former.seq) for former in change.context)
    return Sent(change.n, change.n, change.nonce, change.base, change.stamp, operations, context=context)


def _inbox(now_ms: int, event: Any) -> tuple[str | None, list[list[Any]]]:
    """What an event with a notification writes, and where."""
    notification = event.data.get("notification") if isinstance(event.data, dict) else None
    if notification is None:
        return None, []
    document = ["_inbox", event.key.hex()]
    fields = {name: notification[name] for name in ("title", "body", "category", "data") if name in notification}
    fields |= {"at": now_ms if event.time_ms is None else event.time_ms, "source": event.source, "event": event.id}
    operations: list[list[Any]] = [["create", *document]]
    operations += [["reg.set", *document, name, value] for name, value in fields.items()]
    return f"user/{event.subject}", operations
