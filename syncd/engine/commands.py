"""What may be asked of the engine, and what it answers.

Everything that alters the store enters as one of these commands and leaves as one result each, in order, plus the
deltas of the spaces that changed. Plain data: whoever asks (a connection, the HTTP API, an operator) stays outside.
"""

from dataclasses import dataclass
from typing import Any

from syncd.core.changes import Change, RefusedChange, Void
from syncd.core.ids import Place, Position
from syncd.engine.grants import Grant, Role
from syncd.wire.cloudevents import CloudEvent
from syncd.wire.messages import Delta, OutcomeEntry


@dataclass(frozen=True, slots=True)
class Author:
    """Who asks. `kind`: `device`, `key` (an API key) or `server`; only a device has an installation and a memory of its
    own changes. Grants were verified at the edge, at this command's time."""

    device: bytes
    installation: bytes | None
    kind: str
    user: str
    grants: tuple[Grant, ...]


# -- commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bind:
    """A device says hello: bind it to its user at first use. Answer: `Bound` or `Refused`."""

    author: Author


@dataclass(frozen=True, slots=True)
class Attach:
    """Make a subscription durable: slot, low-water. Answer: `Attached`, `Expired` or `Refused`."""

    author: Author
    space: str
    epoch: bytes | None
    complete: int
    resume: int
    start: int | None
    settled: int
    chain: bytes | None


@dataclass(frozen=True, slots=True)
class Forget:
    """The device gives up its replica of the space: its low-water goes. Answer: `Done`."""

    author: Author
    space: str


@dataclass(frozen=True, slots=True)
class Lose:
    """The device was told that its user may not read the space any more. Answer: `Done`."""

    author: Author
    space: str


@dataclass(frozen=True, slots=True)
class Purge:
    """The device has deleted its copy of a space that its user may not read any more. Answer: `Done`."""

    author: Author
    space: str


@dataclass(frozen=True, slots=True)
class Push:
    """A device's changes, in order of n. Answer: `Pushed`, `Expired` or `Refused`."""

    author: Author
    space: str
    epoch: bytes | None
    changes: tuple[Change | Void | RefusedChange, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """What is durable on the device. Answer: `Done`, `Expired` or `Refused`."""

    author: Author
    space: str
    epoch: bytes
    applied: int
    oldest_base: int
    settled: int


@dataclass(frozen=True, slots=True)
class Idempotency:
    """`key`: hash of (who, Idempotency-Key), 16 bytes; `request`: hash of what was asked; kept for `lifetime_ms`."""

    key: bytes
    request: bytes
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class Post:
    """A backend's change (n is assigned here). `operations` as they came. `base`: position that the backend read, None:
    the head. `if_match`: (collection, id, position): `Refused("if_match")` unless that document's rev is it.
    Answer: `Posted`, `Expired` or `Refused` (`if_match`, `idempotency_reuse`, `forbidden`)."""

    author: Author
    space: str
    operations: Any
    base: Position | None
    if_match: tuple[str, str, Position] | None
    idempotency: Idempotency | None


# Also what a device tells of its user: `key` is then the hash of (user, id), and `time_ms` not None.
Event = CloudEvent


@dataclass(frozen=True, slots=True)
class PostEvents:
    """Answer: `EventResults`, one (status, detail) per event in order: `accepted`, `duplicate` or `invalid`;
    or `Refused` (`too_many_keys`)."""

    author: Author
    events: tuple[Event, ...]
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class ReplayLetter:
    """Replay a dead letter, once; `operations`: others in its place, as they came. Answer: `Posted`, the outcome of the
    first time, or `Refused` (`unknown`, `forbidden`, `invalid`)."""

    author: Author
    space: str
    number: int
    operations: Any


@dataclass(frozen=True, slots=True)
class DropLetter:
    """Answer: `Done`, or `Refused` (`unknown`, `forbidden`)."""

    author: Author
    space: str
    number: int


@dataclass(frozen=True, slots=True)
class Revert:
    """Make a document what it was: `fields`: name -> [type, value] of those that were visible, `keys`: the unique keys
    that it held. Answer: `Reverted` or `Refused` (`forbidden`, `unknown`)."""

    author: Author
    space: str
    collection: str
    document_id: str
    fields: dict[str, list[Any]]
    keys: dict[str, str]


@dataclass(frozen=True, slots=True)
class RetireDevice:
    """Take nothing new from a device id any more. `user`: whose it must be, None if an operator asks. Answer: `Done`,
    or `Refused("unknown")`."""

    device: bytes
    user: str | None = None


@dataclass(frozen=True, slots=True)
class MarkSafe:
    """A verified backup, taken at `made_ms`, has these spaces: (name, epoch, seq). It is told in parts, the time with
    the last. Answer: `Done`."""

    spaces: tuple[tuple[str, bytes, int], ...]
    made_ms: int | None


@dataclass(frozen=True, slots=True)
class CreateKey:
    """A new API key: `secret_hash` 16 bytes. Answer: `Done`, or `Refused("exists")` if the name is taken."""

    name: str
    scopes: tuple[str, ...]
    secret_hash: bytes
    device: bytes


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Answer: `Done`, or `Refused("unknown")`."""

    name: str


@dataclass(frozen=True, slots=True)
class PutConsumer:
    """A named consumer of a space's feed, made unless `owner` has it already. `start`: a place, `0` or `head`.
    Answer: `Consumer`, `Expired` or `Refused` (`forbidden`, `unknown_space`, `bad_position`, `too_many`)."""

    author: Author
    owner: str
    space: str
    name: str
    start: Place | str


@dataclass(frozen=True, slots=True)
class UseConsumer:
    """A consumer is being read: note the time. Answer: `Done`."""

    owner: str
    space: str
    name: str


@dataclass(frozen=True, slots=True)
class AckConsumer:
    """What comes before `place` is done with. Answer: `Consumer`, where it stands now; `Expired` or `Refused`
    (`forbidden`, `unknown`, `bad_position`)."""

    author: Author
    owner: str
    space: str
    name: str
    place: Place


@dataclass(frozen=True, slots=True)
class DropConsumer:
    """Answer: `Done`, or `Refused` (`forbidden`, `unknown`)."""

    author: Author
    owner: str
    space: str
    name: str


@dataclass(frozen=True, slots=True)
class Collect:
    """A small step of collection in a space (frontier.py). Answer: `Collected`."""

    space: str


@dataclass(frozen=True, slots=True)
class DeleteOld:
    """A small step in a space, of deleting what nobody has changed for long (keeping.py). Answer: `DeletedOld`."""

    space: str


@dataclass(frozen=True, slots=True)
class TendLeases:
    """A look at the clock: end the leases that are over. `mono_ms`: the monotonic clock of the process `run` (random
    bytes, made when it started). Answer: `Tended`."""

    run: bytes
    mono_ms: int


@dataclass(frozen=True, slots=True)
class EndLease:
    """An operator ends a lease. Answer: `Done`, or `Refused("unknown")`."""

    space: str
    collection: str
    document_id: str
    field: str
    lease: bytes


@dataclass(frozen=True, slots=True)
class ReleaseLeases:
    """An operator lets the reserves of a restored space give out stock again. Answer: `Done`, or
    `Refused("unknown")`."""

    space: str


@dataclass(frozen=True, slots=True)
class ConfirmLeaseClock:
    """An operator confirms that the wall clock is right. Answer: `Done`."""


@dataclass(frozen=True, slots=True)
class Configure:
    """What a start, or a reload, found in the configuration about notifications, checked: the tables as they were
    written. Answer: `Done`."""

    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KeepWorkflows:
    """Keep versions of all workflows in definitions that were checked; `by`: whose they are. Answer: `Kept`, or
    `Refused("too_many")`."""

    values: dict[str, Any]
    by: str


@dataclass(frozen=True, slots=True)
class ActivateWorkflow:
    """Let new runs of a workflow begin with a version, or with none. Answer: `Done`, or `Refused` (`unknown`,
    `too_many`)."""

    name: str
    version: str | None
    by: str


@dataclass(frozen=True, slots=True)
class DropWorkflow:
    """Forget a workflow that is stopped. Answer: `Done`, or `Refused` (`unknown`, `active`)."""

    name: str


@dataclass(frozen=True, slots=True)
class Fire:
    """Let runs go on whose time has come: those due at `trusted_ms`, and critical ones that are due by the wall clock.
    `after`: the timer behind which the latter are looked for. Answer: `Fired`."""

    trusted_ms: int
    after: bytes = b""


@dataclass(frozen=True, slots=True)
class StartWorkflow:
    """Set a workflow off whose trigger is the API, for these users. `data`: what an event would carry. Answer:
    `Started`, or `Refused` (`unknown`, `forbidden`)."""

    author: Author
    workflow: str
    users: tuple[str, ...]
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Visit:
    """A user came at `at_ms`; or went then, having been there for `stay_s`."""

    user: str
    at_ms: int
    stay_s: float | None = None


@dataclass(frozen=True, slots=True)
class Attend:
    """Learn when people come and go. Answer: `Done`."""

    visits: tuple[Visit, ...]


@dataclass(frozen=True, slots=True)
class EraseUser:
    """Forget, in one step of bounded length, what is kept of a user about notifications. Answer: `ErasedUser`."""

    user: str


Command = (
    EraseUser | Attend |
    Configure | KeepWorkflows | ActivateWorkflow | DropWorkflow | Fire | StartWorkflow
    | Revert | MarkSafe | ReplayLetter | DropLetter | RetireDevice
    | Bind | Attach | Forget | Lose | Purge | Push | Ack | Post | PostEvents | CreateKey | RevokeKey
    | PutConsumer | UseConsumer | AckConsumer | DropConsumer | Collect | DeleteOld
    | TendLeases | EndLease | ReleaseLeases | ConfirmLeaseClock
)  # fmt: skip


# -- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was done. `reason` is a stable word (`forbidden`, `bad_position`, ...), `detail` a sentence. `seq`: of
    the change that took away the role which is missing, for one who had it."""

    reason: str
    detail: str
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """The position belongs to another epoch. `highest`: n up to which the server has the device's changes. `alarm`:
    what operators must hear, if it names this epoch and yet is not of its history."""

    space: str
    epoch: bytes
    fork: int
    highest: int
    alarm: str | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """The device is this user's."""


@dataclass(frozen=True, slots=True)
class Done:
    """Done, and there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Attached:
    """The subscription stands. `space_id`, `slot` name it in reads; `highest`: n recorded of this device; `safe`: up to
    where its changes need not be kept any more; `is_forgotten`: it has to reconcile, as deletions may be forgotten that
    it has not heard of."""

    space: str
    space_id: int
    slot: int
    epoch: bytes
    head: int
    role: str
    highest: int
    safe: int
    is_forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Pushed:
    """Outcomes in order of n. `gap`: the n that was expected; `forked`: the n that was another change before."""

    space: str
    space_id: int
    slot: int
    epoch: bytes
    outcomes: tuple[OutcomeEntry, ...]
    gap: int | None
    forked: int | None


@dataclass(frozen=True, slots=True)
class Posted:
    """`seq` is None for a refused change; `position` is the space's after it."""

    outcome: str
    seq: int | None
    detail: dict[str, Any] | None
    position: Position


@dataclass(frozen=True, slots=True)
class Reverted:
    """What became of the change that was to revert a document, and what it had to leave as it is, with the reasons."""

    posted: Posted
    left: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class EventResults:
    results: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The command could not be carried out and left no trace. `reason`: `internal` (a defect of ours), `store_full` or
    `overloaded` (both: try again later)."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer, and the head of its space. `is_new`: this command made it."""

    name: str
    owner: str
    place: Place
    head: Position
    made_ms: int
    used_ms: int
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Collected:
    """What a step did: devices that lapsed, rows that were dropped. `is_more`: another step would find work at once."""

    space: str
    lapsed_count: int
    dropped_count: int
    is_more: bool


@dataclass(frozen=True, slots=True)
class DeletedOld:
    """What a step deleted, in the order of the changes that did. `is_more`: another step would find work at once."""

    space: str
    documents: tuple[tuple[str, str], ...]
    is_more: bool


@dataclass(frozen=True, slots=True)
class Tended:
    """`ended` leases were over. `lag_ms`: how far the confirmed clock is behind the wall clock, None if nothing waits
    for it. `has_more`: there was no room for all."""

    ended: int
    lag_ms: int | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """(name, version, whether it is new) of each workflow."""

    versions: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class Fired:
    """`count` timers were taken. `has_more`: there was no room for all that are due. `late_ms`: how late the latest of
    them was. `held`: whether there are some that wait for the wall clock to be believed. `after`: behind which of them
    the look goes on; empty: all were looked at."""

    count: int
    has_more: bool
    late_ms: int = 0
    held: bool = False
    after: bytes = b""


@dataclass(frozen=True, slots=True)
class Started:
    """Per user: the number of the run, or why there is none."""

    runs: tuple[tuple[int | None, str | None], ...]


@dataclass(frozen=True, slots=True)
class ErasedUser:
    """What a step deleted. `is_more`: another will find work."""

    documents: int
    rows: int
    is_more: bool


Result = (
    ErasedUser | Kept | Fired | Started | Refused | Expired | Bound | Done | Attached | Pushed | Posted | Reverted
    | EventResults | Consumer | Collected | DeletedOld | Tended | Failed
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Regrant:
    """What members of a space are from `seq` on: the role that it says of them, None if it says nothing. A delta ends
    there, so that those who may not read any more can be detached before the next."""

    space: str
    seq: int
    said: tuple[tuple[str, Role | None], ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What one write transaction decided: a result per command, in order, the deltas to hand out after the commit, in
    the order of each space, after which of them roles change, and alarms: defects of ours that were contained, for the
    log. `late_count`: changes that were made before what every active device has by now. `due_ms`: the earliest of the
    timers that were set."""

    results: tuple[Result, ...]
    deltas: tuple[Delta, ...]
    alarms: tuple[str, ...]
    late_count: int = 0
    regrants: tuple[Regrant, ...] = ()
    due_ms: int | None = None
