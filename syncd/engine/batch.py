"""One write transaction as the engine sees it: the spaces that it touches, decoded once, written once.

Owns reading rows into memory, and writing back what changed: documents, revs, sums, the space itself. A document that
a hundred changes of one batch alter is decoded once, encoded once and moved in `byrev` once. Must not know what a
change means (`changes.py` decides that on the documents handed out here).

Invariants: B1 after `flush`, tables and rows agree as fsck demands. B2 what a change made is seen by the next change of
the batch, or forgotten whole: `SpaceWork.documents` is altered only by `keep`. B3 `head` moves by one per accepted
change, T never falls. B4 the delta of a batch covers (head before, head after] and holds every document that changed
visibly in it, with each field that changed, whole. B5 a tombstone at or below the floor counts as absent, whether it
is stored still or not: so nothing that is decided depends on how far collection has come. B6 a delta ends at each
change that alters roles: what comes after it is in another, which those who lost theirs are not given. B7 the body of a
deleted document counts as absent when the frontier has passed the delete, or updates do not win in its collection any
more, whether it is stored still or not.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from syncd.core.documents import Document, reservations
from syncd.core.ids import MEMBERS, RESERVED_DEVICE_PREFIX, SEQ_MAX
from syncd.core.sums import BUCKET_SHIFT, CHAIN_START, SUM_MASK, chained, key_hash, sum_change
from syncd.core.texts import Merging
from syncd.engine import leases
from syncd.engine.commands import Author, Refused, Regrant
from syncd.engine.folding import Folding
from syncd.engine.grants import Role
from syncd.engine.members import is_kept, member_key, owners_in, role_given, role_in, role_seq
from syncd.engine.quotas import Quotas, nothing
from syncd.engine.reserving import Reservations
from syncd.engine.schemas import Schemas
from syncd.store import keys
from syncd.store.api import Reader, Writer
from syncd.store.tables import (
    BUCKETS,
    BYREV,
    DEVICES,
    DOCUMENTS,
    HOLDERS,
    HOLDINGS,
    KEY_HASHES,
    LAPSED,
    LETTERS,
    LOW_WATERS,
    REPLICAS,
    SLOTS,
    SPACE_NAMES,
    SPACES,
    TOMBSTONES,
    USER_DEVICES,
    VERSION_USES,
    DeviceRow,
    HolderRow,
    HoldingsRow,
    LapsedRow,
    LetterRow,
    LogRow,
    ReplicaRow,
    SpaceRow,
    packed,
)
from syncd.wire.messages import DELETED, PATCH, RESET, Delta, DocumentEntry

SERVER_DEVICE = RESERVED_DEVICE_PREFIX + bytes(10)
SERVER_SLOT = 0
# Dead letters kept per space; the oldest go, so that a broken client cannot fill the store. Each has 256 KiB at most.
LETTERS_MAX = 2_000
SETTLED_KEPT = 1000  # settled entries that a device's log keeps: a push older than that, sent again, is a fork
TRIMMED_AT_ONCE = 2000  # entries dropped by the acks of one batch: bounds the time that they hold the writer
# What a field of a document that is read weighs beside its bytes: 16,384 fields take as long to decode, copy and encode
# as 16 MiB of long texts, some 100 ms.
FIELD_BYTES = 1024
UNSTORED_BYTES = 96  # of a record that does not exist yet: number, rev, born, makers, writers, CRC at their longest

DocumentName = tuple[str, str]  # (collection, id)


def entry_of(name: DocumentName, document: Document, since: int) -> DocumentEntry:
    """What a delta from `since` says of a document: each field with rev > since, whole; or all; or that it is gone."""
    collection, document_id = name
    if not document.is_live:
        return DocumentEntry(collection, document_id, document.rev, DELETED, {})
    if document.born > since:
        shown: dict[str, list[Any] | None] = {**document.visible()}
        return DocumentEntry(collection, document_id, document.rev, RESET, shown)
    fields = {
        field_name: field.shown(since) if field.is_visible else None
        for field_name, field in document.fields.items()
        if field.rev > since
    }
    return DocumentEntry(collection, document_id, document.rev, PATCH, fields)


def is_forgotten(name: DocumentName, document: Document, floor: int) -> bool:
    """Whether a document is a tombstone that no rule may look at any more (B5)."""
    return document.rev <= floor and not document.is_live and not is_kept(name[0])


class SpaceWork:
    """One space inside one write transaction. Everything here is lost if the transaction is."""

    __slots__ = (
        "_buckets",
        "_bytes",
        "_dirty_replicas",
        "_folding",
        "_stored",
        "_tx",
        "chain",
        "deltas",
        "document_count",
        "documents",
        "head",
        "leased",
        "loaded_bytes",
        "log_bytes",
        "name",
        "now_ms",
        "number_next",
        "owner_count",
        "regrants",
        "replicas",
        "reserved",
        "row",
        "schemas",
        "sum",
        "texts",
        "time",
    )

    def __init__(self, tx: Writer, now_ms: int, name: str, row: SpaceRow, folding: Folding, schemas: Schemas) -> None:
        self._tx, self._folding = tx, folding
        self.schemas = schemas.of(name)
        self.now_ms = now_ms
        self.name = name
        # As at the start of the batch, but for what seldom changes. What each change moves is kept beside it: a new row
        # each time would cost more than the change's own effect.
        self.row = row
        self.head, self.time, self.chain, self.log_bytes = row.head, row.time, row.chain, row.log_bytes
        self.sum, self.document_count, self.number_next = row.sum, row.document_count, row.number_next
        self.owner_count = row.owner_count
        self.deltas: list[Delta] = []  # that end at a change of roles; the last one comes with `flush`
        self.regrants: list[Regrant] = []
        self.documents: dict[DocumentName, Document | None] = {}
        self._stored: dict[DocumentName, tuple[bytes, Document | None]] = {}  # key, and what is stored under it
        self._bytes: dict[DocumentName, int] = {}
        self.loaded_bytes = 0  # of all documents read so far, as stored, and `FIELD_BYTES` for each of their fields
        self.leased: dict[DocumentName, None] = {}  # documents in which a lease may have begun or ended
        self.texts: dict[DocumentName, None] = {}  # documents in which a text has grown
        self.reserved = Reservations(tx, row.id)
        self._buckets: dict[int, int] = {}
        self.replicas: dict[bytes, ReplicaRow] = {}
        self._dirty_replicas: dict[bytes, None] = {}

    @property
    def tx(self) -> Writer:
        return self._tx

    # -- documents --------------------------------------------------------------------------------------------------

    def document(self, name: DocumentName) -> Document | None:
        """The document as the changes before this one left it; None if there is not even a tombstone."""
        if name not in self.documents:
            key = keys.document(self.row.id, *name)
            record = self._tx.get(key)
            found = None if record is None else DOCUMENTS.row(key, record)
            self._stored[name] = key, found
            if record is not None and found is not None:
                self.loaded_bytes += len(record) + FIELD_BYTES * len(found.fields)
            if found is not None and found.has_body and not self._keeps_body(name, found):
                found = self._without_body(name, found)
            if found is not None and is_forgotten(name, found, self.row.floor):
                found = record = None
            self.documents[name] = found
            self._bytes[name] = UNSTORED_BYTES if record is None else len(record)
        return self.documents[name]

    def _keeps_body(self, name: DocumentName, document: Document) -> bool:
        """Whether a deleted document may still be revived (B7)."""
        return self.update_wins(name[0]) and document.rev > self.row.frontier

    def _without_body(self, name: DocumentName, document: Document) -> Document:
        """A tombstone like any other: the keys that it held are free."""
        held = [key for key in reservations(document).items() if self.reserved.holder(key) == name]
        self.reserved.keep(dict.fromkeys(held))
        return document.bodiless()

    def update_wins(self, collection: str) -> bool:
        schema = self.schemas.get(collection)
        return schema is not None and schema.update_wins

    def key_holder(self, key: tuple[str, str]) -> DocumentName | None:
        """The document that holds a unique key; one whose body counts no more holds none."""
        name = self.reserved.holder(key)
        if name is not None:
            self.document(name)
        return self.reserved.holder(key)

    def bytes_bound(self, name: DocumentName) -> int:
        """An upper bound of the document's size as stored, cheap; `bytes_exact` when it matters."""
        return self._bytes[name]

    @staticmethod
    def bytes_exact(document: Document) -> int:
        return len(packed(b"", document))

    def keep(self, made: Mapping[DocumentName, Document | None], bounds: Mapping[DocumentName, int]) -> None:
        """Take over what an accepted change made, with the new upper bounds of the sizes."""
        for name, document in made.items():
            if name[0] == MEMBERS:
                self.owner_count += owners_in(document) - owners_in(self.documents[name])
        self.documents.update(made)
        self._bytes.update(bounds)

    def role(self, author: Author) -> Role:
        """What the author may do here after the changes before this moment."""
        member = member_key(author)
        return role_given(author, self.name, None if member is None else self.document(member))

    def role_said(self, author: Author) -> Role | None:
        """What the space says of the author, whatever its token does."""
        member = member_key(author)
        return None if member is None else role_in(self.document(member))

    def said_at(self, author: Author) -> int:
        """The seq of the change that says it; 0 if there is none."""
        member = member_key(author)
        return 0 if member is None else role_seq(self.document(member))

    def regranted(self, said: Mapping[str, tuple[Role | None, Role | None]]) -> None:
        """The last change has altered what these members are: user -> (before, after). Those who may not read any more
        lose what their devices held; the delta ends here (B6)."""
        for user, (before, after) in said.items():
            if after is Role.NONE:
                self._lost_by(user, before or Role.NONE)
        self.regrants.append(Regrant(self.name, self.head, tuple((user, after) for user, (_, after) in said.items())))
        self.deltas.append(self._told())

    def _lost_by(self, user: str, before: Role) -> None:
        held = list(HOLDERS.scan(self._tx, keys.holders_range(self.row.id, keys.owner(user))))
        for key, row in held:
            if row.lost_seq is None:
                self._lose(key, keys.parse_holder(key)[2], HolderRow(user, self.head, self.now_ms, before))

    # -- the order --------------------------------------------------------------------------------------------------

    def advance(self, slot: int, device: bytes, n: int, nonce: bytes, size_bytes: int) -> int:
        """Give the next seq to a change of this size: log row, T, chain. Returns the seq."""
        assert self.head < SEQ_MAX, "a space cannot outlive 2^53 changes"
        self.head += 1
        self.time = max(self.time, self.now_ms)
        self.chain = chained(self.chain, device, n, nonce)
        self.log_bytes += size_bytes
        key = keys.log(self.row.id, self.head)
        self._tx.put(key, packed(key, tuple.__new__(LogRow, (slot, n, self.time, self.chain, self.log_bytes))))
        return self.head

    # -- devices ----------------------------------------------------------------------------------------------------

    def replica(self, device: bytes) -> ReplicaRow | None:
        if device in self.replicas:
            return self.replicas[device]
        row = REPLICAS.get(self._tx, keys.replica(self.row.id, device))
        if row is not None:
            self.replicas[device] = row
        return row

    def replica_made(self, device: bytes) -> ReplicaRow:
        """The device's replica, made with the next slot if it has none (slots are never reused)."""
        row = self.replica(device)
        if row is None:
            slot = self.row.slot_next
            self.row = self.row._replace(slot_next=slot + 1)
            SLOTS.put(self._tx, keys.slot(self.row.id, slot), (device,))
            row = ReplicaRow(slot, 0, 0, None, 0, self.now_ms, 0)
            self.set_replica(device, row)
        return row

    def set_replica(self, device: bytes, row: ReplicaRow) -> None:
        """Replace a replica's row, and move its place in the low-water index."""
        old = self.replicas.get(device)
        before = None if old is None else old.low
        if row.low != before:
            if before is not None:
                self._tx.delete(keys.low_water(self.row.id, before, row.slot))
            if row.low is not None:
                LOW_WATERS.put(self._tx, keys.low_water(self.row.id, row.low, row.slot), ())
                self.forget_lapse(row)
                if before is None:
                    self._hold(device)
        self.replicas[device] = row
        self._dirty_replicas[device] = None

    def lapse(self, device: bytes) -> None:
        """The device counts for nothing in the frontier from here on, until it subscribes again or catches up."""
        replica = self.replica(device)
        assert replica is not None and replica.low is not None, "only an active device lapses"
        LAPSED.put(self._tx, keys.lapsed(self.row.id, replica.slot), LapsedRow(replica.low, self.now_ms))
        self.set_replica(device, replica._replace(low=None))

    def lapsed(self, replica: ReplicaRow) -> LapsedRow | None:
        """When and where the device lapsed; None unless it has."""
        return None if replica.low is not None else LAPSED.get(self._tx, keys.lapsed(self.row.id, replica.slot))

    def forget_lapse(self, replica: ReplicaRow) -> None:
        """The device is active again, or wants nothing more of the space."""
        self._tx.delete(keys.lapsed(self.row.id, replica.slot))

    def trimmed(self, replica: ReplicaRow, count_max: int = TRIMMED_AT_ONCE) -> ReplicaRow:
        """Drop what a device's log holds beyond the last `SETTLED_KEPT` settled entries, a bounded number at a time."""
        target = min(replica.settled - SETTLED_KEPT, replica.trimmed + count_max)
        for n in range(replica.trimmed + 1, target + 1):
            self._tx.delete(keys.device_log(self.row.id, replica.slot, n))
        return replica._replace(trimmed=max(target, replica.trimmed))

    # -- who has a copy ---------------------------------------------------------------------------------------------

    def _hold(self, device: bytes) -> None:
        """A device with a low-water has a copy, or is about to."""
        owner = DEVICES.get(self._tx, keys.device(device))
        assert owner is not None, "a device is bound before it subscribes"
        key = keys.holder(self.row.id, keys.owner(owner.user), device)
        HOLDERS.put(self._tx, key, HolderRow(owner.user, None, 0, Role.NONE))

    def holder(self, author: Author) -> HolderRow | None:
        """What is known of the copy of a device."""
        return HOLDERS.get(self._tx, keys.holder(self.row.id, keys.owner(author.user), author.device))

    def lost(self, author: Author, seq: int) -> None:
        """The device must delete its copy, because its user may not read any more; `seq`: of the change that says so, 0
        if it is the token."""
        key = keys.holder(self.row.id, keys.owner(author.user), author.device)
        held = HOLDERS.get(self._tx, key)
        if held is not None and held.lost_seq is None:
            self._lose(key, author.device, HolderRow(author.user, seq, self.now_ms, Role.NONE))

    def _lose(self, key: bytes, device: bytes, row: HolderRow) -> None:
        HOLDERS.put(self._tx, key, row)
        replica = self.replica(device)
        assert replica is not None, "who has a copy is a replica"
        self.set_replica(device, replica._replace(low=None))
        self.forget_lapse(replica)

    def released(self, author: Author) -> None:
        """The device has no copy any more."""
        self._tx.delete(keys.holder(self.row.id, keys.owner(author.user), author.device))

    # -- dead letters -----------------------------------------------------------------------------------------------

    def letter(self, row: LetterRow) -> int:
        """Keep a dead letter; returns its number."""
        number = self.row.letter_next
        LETTERS.put(self._tx, keys.letter(self.row.id, number), row)
        if number >= LETTERS_MAX:
            self._tx.delete(keys.letter(self.row.id, number - LETTERS_MAX))
        self.row = self.row._replace(letter_next=number + 1)
        return number

    # -- the end ----------------------------------------------------------------------------------------------------

    def flush(self) -> tuple[Delta, ...]:
        """Write back all that changed; the deltas of the batch, none if no change was accepted."""
        before = self.deltas[-1].to if self.deltas else self.row.head
        for name in self.texts:
            self.documents[name] = self._folding.folded(self.documents[name], self.row.head)
        last = self._told()
        if self.head != before:
            self.deltas.append(last)
        for device in self._dirty_replicas:
            REPLICAS.put(self._tx, keys.replica(self.row.id, device), self.replicas[device])
        self.reserved.flush()
        for number, total in self._buckets.items():
            BUCKETS.put(self._tx, keys.bucket(self.row.id, number), (total,))
        self.row = self.row._replace(
            head=self.head,
            time=self.time,
            chain=self.chain,
            sum=self.sum,
            document_count=self.document_count,
            number_next=self.number_next,
            log_bytes=self.log_bytes,
            owner_count=self.owner_count,
        )
        SPACES.put(self._tx, keys.space(self.name), self.row)
        return tuple(self.deltas)

    def _told(self) -> Delta:
        """Write the documents back, and say what became of them since the last delta, or since the batch began."""
        before = self.deltas[-1].to if self.deltas else self.row.head
        entries = []
        for name, document in self.documents.items():
            key, stored = self._stored[name]
            if document is stored or document is None:
                continue
            self._tx.put(key, packed(key, document))
            self._index(name, stored, document)
            if name in self.leased:
                leases.index(self._tx, self.row.id, self.now_ms, name, stored, document)
            self._stored[name] = key, document
            if document.rev > before:
                entries.append(entry_of(name, document, before))
        entries.sort(key=lambda entry: entry.rev)
        return Delta(
            self.name,
            self.row.epoch,
            from_=before,
            after=before,
            to=self.head,
            t=self.time,
            chain=self.chain,
            docs=tuple(entries),
            complete=True,
            sum=self.sum.to_bytes(8),
        )

    def _index(self, name: DocumentName, stored: Document | None, document: Document) -> None:
        """What is kept beside a document that replaces `stored`: its place by rev, and what it adds to sums."""
        before_rev = 0 if stored is None else stored.rev
        if document.rev == before_rev:
            return  # nothing visible changed: no rev, no sum
        if stored is not None:
            self._tx.delete(keys.byrev(self.row.id, before_rev, stored.number))
            if not stored.is_live and not is_kept(name[0]):
                self._tx.delete(keys.tombstone(self.row.id, before_rev, stored.number))
        BYREV.put(self._tx, keys.byrev(self.row.id, document.rev, document.number), name)
        if not document.is_live and not is_kept(name[0]):
            TOMBSTONES.put(self._tx, keys.tombstone(self.row.id, document.rev, document.number), ())
        change = sum_change(*name, stored, document)
        hashed = key_hash(*name)
        number = hashed >> BUCKET_SHIFT
        was_live = stored is not None and stored.is_live
        if document.is_live and not was_live:
            KEY_HASHES.put(self._tx, keys.key_hash(self.row.id, hashed, document.number), name)
        elif was_live and not document.is_live:
            self._tx.delete(keys.key_hash(self.row.id, hashed, document.number))
        if number not in self._buckets:
            row = BUCKETS.get(self._tx, keys.bucket(self.row.id, number))
            self._buckets[number] = 0 if row is None else row[0]
        self._buckets[number] = (self._buckets[number] + change) & SUM_MASK
        self.sum = (self.sum + change) & SUM_MASK
        self.document_count += document.is_live - was_live


class Touched(NamedTuple):
    """A device's change altered what people say about themselves in the space of a user: name -> (before, after)."""

    user: str
    author: Author
    stamp: int
    documents: Mapping[DocumentName, tuple[Document | None, Document | None]]


class Batch:
    """One write transaction. `entropy(size)` gives random bytes for epochs and the server's nonces. `alarms` collects
    defects of ours that were contained, `touched` what whoever decides about notifications is to be told after the
    command. `due_ms`: the earliest timer that was set. `is_trimmed`: all idempotency rows that had expired are gone.
    `trims_left`: how many entries of device logs it may still drop."""

    __slots__ = (
        *("_folding", "_held", "_schemas", "_tx", "alarms", "due_ms", "entropy", "is_trimmed", "late_count", "now_ms"),
        *("_uses", "quotas", "revocation_grace_ms", "spaces", "touched", "trims_left"),
    )

    def __init__(
        self,
        tx: Writer,
        now_ms: int,
        entropy: Callable[[int], bytes],
        quotas: Quotas | None = None,
        revocation_grace_ms: int = 0,
        merging: Merging | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        self._folding = Folding(merging)
        self._schemas = schemas or Schemas()
        self.revocation_grace_ms = revocation_grace_ms
        self._tx = tx
        self._held: dict[bytes, HoldingsRow] = {}  # altered holdings, by owner
        self._uses: dict[str, int] = {}  # versions of workflows: how many more runs are in them
        self.quotas = quotas or Quotas()
        self.now_ms = now_ms
        self.entropy = entropy
        self.spaces: dict[str, SpaceWork] = {}
        self.alarms: list[str] = []
        self.touched: list[Touched] = []
        self.due_ms: int | None = None
        self.is_trimmed = False
        self.trims_left = TRIMMED_AT_ONCE
        self.late_count = 0  # accepted or not: changes that were made before what every active device has by now

    @property
    def tx(self) -> Writer:
        return self._tx

    @property
    def loaded_bytes(self) -> int:
        """Of all documents read so far: what it takes to work on them."""
        return sum(work.loaded_bytes for work in self.spaces.values())

    def space(self, name: str) -> SpaceWork | None:
        """The space, if it exists."""
        work = self.spaces.get(name)
        if work is None:
            row = SPACES.get(self._tx, keys.space(name))
            if row is None:
                return None
            work = self.spaces[name] = SpaceWork(self._tx, self.now_ms, name, row, self._folding, self._schemas)
        return work

    def role(self, author: Author, name: str) -> Role:
        """What the author may do in a space, existing or not, after the changes before this moment."""
        work = self.space(name)
        return role_given(author, name, None) if work is None else work.role(author)

    def holdings(self, user: str) -> HoldingsRow:
        """What a user or API key has."""
        owner = keys.owner(user)
        return self._held.get(owner) or HOLDINGS.get(self._tx, keys.holdings(owner)) or nothing(user)

    def hold(self, row: HoldingsRow) -> None:
        self._held[keys.owner(row.user)] = row

    def used(self, version: str, more: int) -> None:
        """So many more runs are in a version of a workflow."""
        self._uses[version] = self._uses.get(version, 0) + more

    def count_uses(self) -> None:
        """Write what `used` has gathered: at the end, and before anybody asks which versions are in use."""
        for version, more in self._uses.items():
            use = VERSION_USES.get(self._tx, keys.version_use(version))
            if use is not None and more:  # None: of a version that a restored store does not have
                VERSION_USES.put(self._tx, keys.version_use(version), use._replace(runs=max(0, use.runs + more)))
        self._uses.clear()

    def release(self, owner: bytes) -> None:
        """One idempotency key less."""
        row = self._held.get(owner) or HOLDINGS.get(self._tx, keys.holdings(owner))
        assert row is not None and row.idempotency_keys > 0, "a key that goes was counted when it came"
        self.hold(row._replace(idempotency_keys=row.idempotency_keys - 1))

    def refused_space(self, name: str, author: Author) -> Refused | None:
        """Why the author may not make this space, if it does not exist and would be one too many. (The server may.)"""
        most, is_server = self.quotas.spaces_max(author), author.kind == "server"
        if is_server or self.space(name) is not None or self.holdings(author.user).spaces < most:
            return None
        return Refused("too_many_spaces", f"{author.user} has made {most} spaces, and may make no more")

    def space_made(self, name: str, author: Author) -> SpaceWork:
        """The space, made with a new epoch if it does not exist, and then counted to the author. Slot 0 is the server's
        own replica."""
        work = self.space(name)
        if work is not None:
            return work
        last = self._tx.last(*keys.table_range(keys.SPACE_NAME))
        number = 1 if last is None else int.from_bytes(last[0][1:5]) + 1
        row = SpaceRow(number, self.entropy(16), None, 0, 0, 0, 0, 0, CHAIN_START, 0, 0, SERVER_SLOT, 1, 0, 0, 0, 0)
        SPACE_NAMES.put(self._tx, keys.space_name(number), (name,))
        work = self.spaces[name] = SpaceWork(self._tx, self.now_ms, name, row, self._folding, self._schemas)
        self.device_made(Author(SERVER_DEVICE, None, "server", "", ()))
        assert work.replica_made(SERVER_DEVICE).slot == SERVER_SLOT
        # Written at once: a space made later in this batch must find its number taken.
        SPACES.put(self._tx, keys.space(name), work.row)
        held = self.holdings(author.user)
        self.hold(held._replace(spaces=held.spaces + 1))
        return work

    def device_made(self, author: Author) -> DeviceRow:
        """The author's device row, made at first use."""
        row = DEVICES.get(self._tx, keys.device(author.device))
        if row is None:
            row = DeviceRow(author.user, author.kind, author.installation, self.now_ms)
            DEVICES.put(self._tx, keys.device(author.device), row)
            if author.kind == "device":
                USER_DEVICES.put(self._tx, keys.user_device(keys.owner(author.user), author.device), ())
                held = self.holdings(author.user)
                self.hold(held._replace(devices=held.devices + 1))
        return row

    @property
    def regrants(self) -> tuple[Regrant, ...]:
        return tuple(each for work in self.spaces.values() for each in work.regrants)

    def flush(self) -> tuple[Delta, ...]:
        self.count_uses()
        for owner, held in self._held.items():
            HOLDINGS.put(self._tx, keys.holdings(owner), held)
        return tuple(delta for work in self.spaces.values() for delta in work.flush())


def space_row(tx: Reader, name: str) -> SpaceRow | None:
    """A space's row outside a batch."""
    return SPACES.get(tx, keys.space(name))


def is_other(tx: Reader, author: Author) -> bool:
    """Whether the device id is not the author's to go on with: another installation uses it (a restored or cloned
    phone), or it is retired. Who asks is told what became of its changes, and nothing new is taken from it."""
    row = DEVICES.get(tx, keys.device(author.device))
    return row is not None and (row.installation != author.installation or row.retired_ms is not None)
