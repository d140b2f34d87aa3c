"""Rows: what stands behind each key, as typed records with a checksum.

Owns the records and their encoding; key bytes are `keys.py`'s. A record is a MessagePack array followed by four bytes:
CRC-32 over key and array, so that a damaged record and a record under a wrong key are both found when they are read.
Rows are named tuples because a named tuple packs as the array that it is.

Invariant: R1 what `unpacked` returns was written by `packed` under the same key, or `StoreDamaged` is raised.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from zlib import crc32

from syncd.core.documents import Document
from syncd.core.fields import Field
from syncd.core.values import decoded, encoded
from syncd.store import keys
from syncd.store.api import Reader, StoreDamaged, Writer

SCHEMA_VERSION = 13
MARKS_MAX = 32  # into so many parts the time is divided for which documents are kept: a row of 200 bytes, for 3 %


class SpaceRow(NamedTuple):
    """A space. `time`: T(head) in ms. `sum`: of all buckets, modulo 2^64. `document_count`: live ones. `owner_count`:
    members whose role is `owner`.
    `slot_next`, `number_next`, `letter_next`: the first unused slot, document number and dead-letter number.
    `frontier`: up to here all active devices have everything, as of the last step of collection. `floor`: every
    deletion after it is still known. `log_bytes`: of the payloads of all accepted changes, ever. `safe`: up to here the
    last verified backup has it."""

    id: int
    epoch: bytes
    parent: bytes | None
    fork: int
    head: int
    frontier: int
    floor: int
    time: int
    chain: bytes
    sum: int
    document_count: int
    slot_next: int
    number_next: int
    letter_next: int
    log_bytes: int
    owner_count: int
    safe: int


class EpochRow(NamedTuple):
    """An epoch that ended when the store was restored. `fork`: its head in the backup, at which the next one began."""

    fork: int
    ended_ms: int


class LogRow(NamedTuple):
    """One seq: whose change it was, T(seq) in ms, the chain value, and the space's `log_bytes` with this change."""

    slot: int
    n: int
    time: int
    chain: bytes
    log_bytes: int


class EntryRow(NamedTuple):
    """One change in its device's log. `seq` is None unless it was accepted, `payload` (the encoded operations) is None
    unless it was, and once its time in history is over. `context`: (device, n, seq) of earlier ids of the device, all
    up to which the change had seen. `before`: for each document that it names, in the order of their first mention, the
    change that was the last to touch it before this one: so the history of a document is read without its space's. It
    is not positive for a document that was absent: -B means that it had been so since seq B at least."""

    nonce: bytes
    outcome: str
    seq: int | None
    detail: dict[str, Any] | None
    base: int
    stamp: int
    payload: bytes | None
    context: Sequence[tuple[bytes, int, int]] = ()
    before: Sequence[int] = ()


class DeviceRow(NamedTuple):
    """A device. `kind`: `device`, `key` (an API key) or `server`. `installation` is None for the latter two.
    `retired_ms`: when its id was retired; the row stays, so that no other device is ever taken for it."""

    user: str
    kind: str
    installation: bytes | None
    bound_ms: int
    retired_ms: int | None = None


class ReplicaRow(NamedTuple):
    """A device inside a space: `highest` n recorded, `settled` n, `low`: its low-water, or None if it holds none
    (it never subscribed, has forgotten the space, or has lapsed). `trimmed`: entries of its log are dropped up to
    this n."""

    slot: int
    highest: int
    settled: int
    low: int | None
    applied: int
    seen_ms: int
    trimmed: int


class LapsedRow(NamedTuple):
    """A device that was away for longer than the retention: the low-water that it had, and when it lapsed."""

    low: int
    at_ms: int


class KeepingRow(NamedTuple):
    """How old the documents of a collection are, whose schema keeps what nobody changes for `keep_ms`. `marks`: heads
    that the space had, the oldest first, the last one at `marked_ms`; one more than `MARKS_MAX` while what the oldest
    says to be too old is looked through. `place`: (rev, number) of the first document in
    the order of revs that was not looked at yet."""

    keep_ms: int
    marked_ms: int
    marks: Sequence[int]
    place: Sequence[int]


class LetterRow(NamedTuple):
    """A dead letter: what was refused or gave way, and why. `kind`: `change` (payload: operations), `document` or
    `value` (payload: the state that was ended, with `collection` and `document_id`), or `lost` (payload: the first and
    last n that a device gave up after a restore). `replay`: outcome, seq and detail of its replay."""

    kind: str
    device: bytes
    n: int
    base: int
    stamp: int
    reason: str
    at_ms: int
    collection: str | None
    document_id: str | None
    payload: bytes
    replay: Sequence[Any] | None = None


class IdempotencyRow(NamedTuple):
    """What a request with this key was answered. `request`: hash of what was asked, to tell a reuse of the key."""

    request: bytes
    expires_ms: int
    answer: Any


class HoldingsRow(NamedTuple):
    """How much a user or API key has of what it can make without end. `retired`: devices whose ids are, beside
    `devices`, whose are not."""

    user: str
    devices: int
    spaces: int
    idempotency_keys: int
    retired: int = 0


class KeyRow(NamedTuple):
    """An API key, stored under the hash of its secret. Acts as the device `device`."""

    name: str
    scopes: list[str]
    device: bytes
    created_ms: int
    revoked_ms: int | None


class ConsumerRow(NamedTuple):
    """A named reader of a space's feed, and the place up to which it acknowledged. `owner`: `key:NAME` of an API key,
    or `user:ID`; it alone may read through the consumer or move it. `used_ms`: when it was last read, moved or made,
    to within some minutes."""

    owner: str
    epoch: bytes
    complete: int
    resume: int
    start: int
    made_ms: int
    used_ms: int


class LeaseRow(NamedTuple):
    """Where a lease is, and (copied from it) when it ends by itself. `at_ms`: when it was granted."""

    collection: str
    document_id: str
    until: int | None
    at_ms: int


class HolderRow(NamedTuple):
    """A device that has a copy of a space. `lost_seq` is None as long as its user may read. Then it is the change that
    took that away (0 if none did: the token), `lost_ms` when that was by the clock, and `role` what the user was as a
    member before it; and the row stays until the device says that it has deleted its copy."""

    user: str
    lost_seq: int | None
    lost_ms: int
    role: int


class VersionRow(NamedTuple):
    """A version of a workflow, as it was written: tables `workflow`, `category` and `template` as in a configuration,
    with all that a run reads and nothing else. `by`: who made it first."""

    values: dict[str, Any]
    made_ms: int
    by: str


class UseRow(NamedTuple):
    """The workflow of a version, and how many runs are in it. Beside the version, as it changes with each run."""

    name: str
    runs: int


# -- notifications ----------------------------------------------------------------------------------------------------


class ProfileRow(NamedTuple):
    """What was learned of a user, or of all people: the items of `notify.profile.Profile`, of which each is faded from
    `landmark_ms`."""

    landmark_ms: int
    first_ms: int
    latest_ms: int
    sessions: int
    offset_s: int
    recent: float
    steady: float
    stay_s: float
    hours: bytes
    taste: dict[str, float]
    categories: dict[str, Sequence[Any]]


class StandingRow(NamedTuple):
    """What decisions need of a user beside the profile. `zone`: of the clock by which civil times were last resolved.
    `run_next`, `decision_next`: the first unused numbers. `run_count`: rows of its runs. `sends`: the latest
    notifications that were shown, (at, category, number of the decision, whether it was opened or dismissed). `counts`:
    event and span -> (faded count, as of when). `passes`: workflow -> when its throttle let something pass."""

    user: str
    zone: str
    run_next: int
    decision_next: int
    run_count: int
    sends: Sequence[tuple[int, str, int, bool]]
    counts: dict[str, tuple[float, int]]
    passes: dict[str, Sequence[int]]


class RunRow(NamedTuple):
    """Something that goes on by time or by an event, for one user. `kind`: `run` (of a workflow), `direct` (a
    notification that a backend posted), `digest` (what is gathered for one), `watch` (a trigger that waits for time).

    `name`, `version`: of the workflow; a digest's are its category and frequency. `at`: the path to the step at which
    it stands. `state`: `steps` (goes on with the step when it is due), `awaits` (an event of the type `awaits`, at most
    until then), `decides` (its notification waits: `decision`), `idle` (nothing is due). `due_ms`, `rank`: its timer,
    None if it has none. `civil`: the local date and time that are meant, if the instant was found from them. `event`:
    what set it off, as far as its workflow reads it. `entries`: what a digest has gathered: (decision, title).
    `is_smeared`: it was late after a downtime, and was spread."""

    user: str
    kind: str
    name: str
    version: str
    at: Sequence[int]
    state: str
    due_ms: int | None
    rank: int
    civil: str | None
    awaits: str | None
    decision: int | None
    collapse: str | None
    event: dict[str, Any]
    began_ms: int
    entries: Sequence[tuple[int, str]]
    is_smeared: bool


class DecisionRow(NamedTuple):
    """What became of one candidate, and all that explains it. `run`: the number of its run. `source`: the event, as
    (source, id), if one set it off.

    `outcome` is `deferred` while it waits; then exactly one of `sent`, `digested`, `collapsed`, `suppressed`,
    `held_out`, `expired`, `cancelled`, for good. `reason`: the gate that decided; `until_ms`, `into`, `by`: as the
    outcome has them. `verdicts`: of all gates at `decided_ms`: (gate, says, words, until). `scores`: the moments that
    were weighed: (at, score), the best first. `choice`: (the moment chosen, propensity, whether to learn, the draw).
    `content`: what it shows, or the templates. `past`: what it came to before: (at, outcome, reason, until).
    `document`: the id of its document in the inbox."""

    user: str
    run: int
    workflow: str
    version: str
    category: str
    topic: str | None
    priority: str
    collapse: str | None
    source: Sequence[str] | None
    made_ms: int
    expires_ms: int | None
    decided_ms: int
    outcome: str
    reason: str | None
    until_ms: int | None
    into: str | None
    by: str | None
    is_silent: bool
    verdicts: Sequence[tuple[str, str, str, int | None]]
    explanation: str
    scores: Sequence[tuple[int, float]]
    choice: Sequence[Any] | None
    content: dict[str, Any]
    past: Sequence[tuple[int, str, str | None, int | None]]
    document: str | None


class DispatchRow(NamedTuple):
    """A notification that was delivered to the inbox, by the number of its decision; and the receipts that devices
    gave: when it was first seen, opened, dismissed."""

    decision: int
    at_ms: int
    category: str
    is_silent: bool
    seen_ms: int | None
    opened_ms: int | None
    dismissed_ms: int | None


class CounterRow(NamedTuple):
    """What came of the notifications of one day, category and workflow; or of a day: sessions, and how long those
    lasted of which the end was told."""

    sent: int
    seen: int
    opened: int
    dismissed: int
    opt_outs: int
    sessions: int
    session_ends: int
    session_s: int


Row = TypeVar("Row")


def packed(key: bytes, row: Any) -> bytes:
    """A record: the row's array and the CRC over key and array."""
    data = encoded(row)
    return data + crc32(data, crc32(key)).to_bytes(4)


def unpacked(key: bytes, record: bytes) -> Any:
    """The array of a record. Raises `StoreDamaged`."""
    data = record[:-4]
    if crc32(data, crc32(key)).to_bytes(4) != record[-4:]:
        raise StoreDamaged(f"the record under key {key.hex()} has a wrong checksum")
    try:
        return decoded(data)
    except (ValueError, TypeError) as error:  # the checksum is right, so it was written so; by whom is for fsck to ask
        raise StoreDamaged(f"the record under key {key.hex()} is no MessagePack: {error}") from None


class Table(Generic[Row]):
    """Typed access to the records of one table. Keys come from `keys.py`; a table knows only how its rows are made."""

    def __init__(self, name: str, prefix: bytes, row_type: Any) -> None:
        self.name, self.prefix = name, prefix
        self._row_type = row_type

    def row(self, key: bytes, record: bytes) -> Row:
        items = unpacked(key, record)
        try:
            if type(items) is not list:
                raise TypeError("it is no array")
            row: Row = self._row_type(*items)
        except (TypeError, AttributeError) as error:
            raise StoreDamaged(f"the record under key {key.hex()} is no row of table {self.name}: {error}") from None
        return row

    def get(self, tx: Reader, key: bytes) -> Row | None:
        record = tx.get(key)
        return None if record is None else self.row(key, record)

    def put(self, tx: Writer, key: bytes, row: Row) -> None:
        tx.put(key, packed(key, row))

    def scan(self, tx: Reader, bounds: tuple[bytes, bytes]) -> Iterator[tuple[bytes, Row]]:
        for key, record in tx.scan(*bounds):
            yield key, self.row(key, record)


_FIELD_ITEMS = len(Field._fields)


def _document(
    number: int,
    rev: int,
    born: int,
    makers: Any,
    deletes: Any,
    writers: Any,
    fields: dict[str, list[Any]],
    touched: int,
) -> Document:
    typed = {}
    for name, items in fields.items():
        if type(items) is not list or len(items) != _FIELD_ITEMS:
            raise TypeError(f"the field {name!r} is no array of {_FIELD_ITEMS} items")
        typed[name] = tuple.__new__(Field, items)
    return Document(number, rev, born, makers, deletes, writers, typed, touched)


def _single(*items: Any) -> tuple[Any, ...]:
    return items


META: Table[tuple[Any, ...]] = Table("meta", keys.META, _single)
SPACES: Table[SpaceRow] = Table("space", keys.SPACE, SpaceRow)
SPACE_NAMES: Table[tuple[Any, ...]] = Table("space name", keys.SPACE_NAME, _single)
DOCUMENTS: Table[Document] = Table("document", keys.DOCUMENT, _document)
BYREV: Table[tuple[Any, ...]] = Table("byrev", keys.BYREV, _single)
LOG: Table[LogRow] = Table("log", keys.LOG, LogRow)
ENTRIES: Table[EntryRow] = Table("device log", keys.DEVICE_LOG, EntryRow)
DEVICES: Table[DeviceRow] = Table("device", keys.DEVICE, DeviceRow)
USER_DEVICES: Table[tuple[Any, ...]] = Table("user's device", keys.USER_DEVICE, _single)
REPLICAS: Table[ReplicaRow] = Table("replica", keys.REPLICA, ReplicaRow)
SLOTS: Table[tuple[Any, ...]] = Table("slot", keys.SLOT, _single)
LOW_WATERS: Table[tuple[Any, ...]] = Table("low-water", keys.LOW_WATER, _single)
BUCKETS: Table[tuple[Any, ...]] = Table("bucket", keys.BUCKET, _single)
LETTERS: Table[LetterRow] = Table("dead letter", keys.LETTER, LetterRow)
IDEMPOTENCY: Table[IdempotencyRow] = Table("idempotency", keys.IDEMPOTENCY, IdempotencyRow)
EXPIRIES: Table[tuple[Any, ...]] = Table("expiry", keys.EXPIRY, _single)
API_KEYS: Table[KeyRow] = Table("API key", keys.API_KEY, KeyRow)
CONSUMERS: Table[ConsumerRow] = Table("consumer", keys.CONSUMER, ConsumerRow)
CONSUMER_OWNERS: Table[tuple[Any, ...]] = Table("consumer owner", keys.CONSUMER_OWNER, _single)
HOLDINGS: Table[HoldingsRow] = Table("holdings", keys.HOLDINGS, HoldingsRow)
TOMBSTONES: Table[tuple[Any, ...]] = Table("tombstone", keys.TOMBSTONE, _single)
UNIQUE: Table[tuple[Any, ...]] = Table("unique", keys.UNIQUE, _single)
LAPSED: Table[LapsedRow] = Table("lapsed", keys.LAPSED, LapsedRow)
KEEPING: Table[KeepingRow] = Table("keeping", keys.KEEPING, KeepingRow)
LEASES: Table[LeaseRow] = Table("lease", keys.LEASE, LeaseRow)
LEASE_ENDS: Table[tuple[Any, ...]] = Table("lease end", keys.LEASE_END, _single)
HOLDERS: Table[HolderRow] = Table("holder", keys.HOLDER, HolderRow)
EPOCHS: Table[EpochRow] = Table("epoch", keys.EPOCH, EpochRow)
KEY_HASHES: Table[tuple[Any, ...]] = Table("key hash", keys.KEY_HASH, _single)
WORKFLOW_VERSIONS: Table[VersionRow] = Table("workflow version", keys.WORKFLOW, VersionRow)
COUNTERS: Table[CounterRow] = Table("counter", keys.COUNTER, CounterRow)
VERSION_USES: Table[UseRow] = Table("version use", keys.VERSION_USE, UseRow)
PROFILES: Table[ProfileRow] = Table("profile", keys.PROFILE, ProfileRow)
TIMERS: Table[tuple[Any, ...]] = Table("timer", keys.TIMER, _single)
RUNS: Table[RunRow] = Table("run", keys.RUN, RunRow)
DECISIONS: Table[DecisionRow] = Table("decision", keys.DECISION, DecisionRow)
DISPATCHES: Table[DispatchRow] = Table("dispatch", keys.DISPATCH, DispatchRow)
STANDINGS: Table[StandingRow] = Table("standing", keys.STANDING, StandingRow)

TABLES: tuple[Table[Any], ...] = (
    META, SPACES, SPACE_NAMES, DOCUMENTS, BYREV, LOG, ENTRIES, DEVICES, REPLICAS, SLOTS, LOW_WATERS, BUCKETS, LETTERS,
    IDEMPOTENCY, EXPIRIES, API_KEYS, CONSUMERS, CONSUMER_OWNERS, HOLDINGS, TOMBSTONES, LAPSED,
    LEASES, LEASE_ENDS, HOLDERS, UNIQUE, EPOCHS, KEY_HASHES, WORKFLOW_VERSIONS, VERSION_USES, COUNTERS,
    PROFILES, TIMERS, RUNS, DECISIONS, DISPATCHES, STANDINGS, USER_DEVICES, KEEPING,
)  # fmt: skip
