"""A space as the application sees it: documents to read, changes to commit, outcomes to wait for.

Owns the convenience over `replica`: every method is one local transaction and returns at once. Knows no connection; it
tells the device what it touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import leases, replica
from . import messages as m
from .errors import DocumentExists
from .leases import Moment
from .lists import ListField
from .live import Present
from .operations import Operation, operation, operation_from
from .replica import Position
from .sums import sum_bytes
from .tables import Entry, Key, OutcomeRow, RefusedRow, SpaceRow, Tables
from .texts import TextField
from .values import Value
from .watching import Following, Hearing, Watcher

if TYPE_CHECKING:
    from .device import Device


@dataclass(frozen=True, slots=True)
class Document:
    """A document in the view: the synced state with the outbox replayed on it.

    `rev` is 0 for a document that only this device knows; `pending_count` is the number of its changes that are not in
    the synced state. Pass `read_at` to `commit` if time passes between reading and writing.
    """

    collection: str
    id: str
    rev: int
    fields: Mapping[str, Value]
    types: Mapping[str, str]
    pending_count: int
    read_at: Position

    def __getitem__(self, name: str) -> Value:
        return self.fields[name]


@dataclass(frozen=True, slots=True)
class Lease:
    """Units of a stock that this device holds. `left`: less what the outbox uses. `until`: in the server's ms, or None
    for a strict lease. `is_certain`: a take of what is left will be applied if it is committed now (and, if there is an
    `until`, reaches the server before that)."""

    collection: str
    id: str
    field: str
    lease: bytes
    left: int
    until: int | None
    is_certain: bool


class Change:
    """A committed change. It is durable already; what the server makes of it is its outcome. `n` is its number under
    the id that the device had then; the nonce names it for ever."""

    def __init__(self, device: Device, space: str, entry: Entry) -> None:
        self.space = space
        self.n = entry.n
        self.nonce = entry.nonce
        self.keys: tuple[Key, ...] = tuple(dict.fromkeys(item.key for item in entry.operations))
        self._device = device

    def settled(self) -> OutcomeRow | None:
        """The outcome, if it is stored already."""
        return self._device.store.outcome_of(self.space, self.nonce)

    async def outcome(self) -> OutcomeRow:
        """Wait until the outcome is durable on this device. May take as long as the device is offline."""
        return await self._device.wait_outcome(self.space, self.nonce)


class Space:
    def __init__(self, device: Device, name: str) -> None:
        self.name = name
        self._device = device
        self._store = device.store

    # -- replication -------------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """Replicate this space, now and whenever the device is connected, until `unsubscribe`. Durable."""
        with self._store.transaction() as tx:
            replica.join(tx, self.name)
        if self._device.session is not None:
            self._device.session.rejoin(self.name)
        self._device.touched(self.name, ())

    def unsubscribe(self, *, forget: bool = False) -> None:
        """Stop replicating. `forget` drops the synced documents too, and tells the server so if it is connected."""
        session = self._device.session
        if session is not None and self.name in session.links:
            session.links[self.name].forget = forget
        with self._store.transaction() as tx:
            touched = replica.leave(tx, self.name, forget=forget)
        self._device.touched(self.name, touched)

    @property
    def row(self) -> SpaceRow:
        """Epoch, positions, role and the rest of what is known of the space."""
        return replica.space_row(self._store, self.name)

    @property
    def checksum(self) -> bytes:
        """The sum of the synced documents (section 8 of the protocol), 8 bytes."""
        return sum_bytes(self.row.sum)

    def verify(self) -> bool:
        """Look at every stored document: whether each is what was synced. If not, the space is reconciled with the
        server when there is a connection, and what differs is fetched. Reads all documents of the space."""
        with self._store.transaction() as tx:
            is_right = replica.verify(tx, self.name)
        if not is_right:
            self._device.touched(self.name, None)
        return is_right

    @property
    def is_complete(self) -> bool:
        """This connection has brought all that the server had when the space was subscribed."""
        session = self._device.session
        return session is not None and session.is_complete(self.row)

    @property
    def outbox_depth(self) -> int:
        return self._store.outbox_depth(self.name)

    async def wait_complete(self) -> None:
        await self._device.wait_until(lambda: self.is_complete)

    async def wait_settled(self) -> None:
        """Wait until the outbox of the space is empty."""
        await self._device.wait_until(lambda: self.outbox_depth == 0)

    # -- reading -----------------------------------------------------------------------------------------------------

    def view(self, collection: str, id: str) -> Document | None:
        with self._store.reading() as tx:
            return self._view(replica.space_row(tx, self.name), (collection, id))

    def documents(self, collection: str) -> list[Document]:
        """Every document of a collection that the view shows, by id."""
        with self._store.reading() as tx:
            row = replica.space_row(tx, self.name)
            keys = [document.key for document in tx.documents(self.name, collection)]
            keys += tx.touched_keys(self.name, collection)
            views = (self._view(row, key) for key in sorted(dict.fromkeys(keys)))
            return [document for document in views if document is not None]

    def synced(self) -> list[Document]:
        """The synced documents of all collections, without the outbox: what the checksum is of."""
        with self._store.reading() as tx:
            row = replica.space_row(tx, self.name)
            return [self._document(row, item.key, item.rev, dict(item.fields), 0) for item in tx.documents(self.name)]

    def _view(self, row: SpaceRow, key: Key) -> Document | None:
        synced, state, pending_count = replica.view(self._store, self.name, key)
        if state is None:
            return None
        return self._document(row, key, 0 if synced is None else synced.rev, state, pending_count)

    def _document(
        self, row: SpaceRow, key: Key, rev: int, state: Mapping[str, m.FieldValue], pending_count: int
    ) -> Document:
        fields = {name: value for name, (_type, value) in state.items()}
        types = {name: type_ for name, (type_, _value) in state.items()}
        return Document(*key, rev, fields, types, pending_count, Position(row.epoch, row.complete))

    def changes(self) -> AbstractContextManager[Watcher]:
        """`with space.changes() as changed: async for round in changed: ...`"""
        return self._device.watchers.opened(self.name)

    # -- what is worth something only now ----------------------------------------------------------------------------

    @property
    def can_signal(self) -> bool:
        """Whether this device is connected and subscribed, to a server that takes signals."""
        return self._device.live.can_signal(self.name)

    def signal(self, key: str, value: Value = None, *, ttl_s: float | None = None) -> bool:
        """Hand a value to every device that listens now; it is worth something for `ttl_s` (the server's default: 10).
        False: it went nowhere, and will not. Raises InvalidInput for a value that the server would refuse; if it does
        so for another reason, a notice tells."""
        return self._device.say(self._device.live.signal(self.name, key, value, ttl_s, self._limits()))

    def signals(self) -> AbstractContextManager[Hearing]:
        """`with space.signals() as heard: async for signal in heard: ...`"""
        return self._device.signals(self.name)

    def announce(self, state: Mapping[str, Value] | bool | None) -> None:
        """Be present with this state, whenever this device is connected, and know who else is; True: only know; None:
        neither. Not durable: say it again when the device is opened."""
        self._device.say(self._device.live.wish(self.name, state, self._limits()))

    def present(self) -> tuple[Present, ...]:
        """The devices that are present, as far as the server lists them; none while not connected, or not announced."""
        return self._device.live.present(self.name)

    @property
    def present_count(self) -> int:
        """How many are present, also those that are not listed."""
        return self._device.live.present_count(self.name)

    def presence(self) -> AsyncIterator[tuple[Present, ...]]:
        """Who is present, now and after each change; a slow reader misses those in between."""
        seen: tuple[tuple[Present, ...], int] | None = None

        def news() -> tuple[tuple[Present, ...], ...]:
            nonlocal seen
            before, seen = seen, (self.present(), self.present_count)
            return () if seen == before else (seen[0],)

        return Following(self._device.watchers.pulse, news)

    def _limits(self) -> m.Limits:
        session = self._device.session
        return m.Limits() if session is None else session.parameters.limits

    def refused(self) -> list[RefusedRow]:
        """Changes that were refused or given up, with their payload, until `discard_refused`."""
        return self._store.refused(self.name)

    def discard_refused(self, n: int) -> None:
        with self._store.transaction() as tx:
            tx.drop_refused(self.name, n)

    # -- writing -----------------------------------------------------------------------------------------------------

    def commit(self, operations: Iterable[Operation | Sequence[Value]], *, read_at: Position | None = None) -> Change:
        """Commit operations as one atomic change. Durable when this returns; pushed when the device is connected.

        `read_at` is the position at which the edited documents were read (`Document.read_at`); by default now.
        Raises InvalidInput, and then nothing was stored.
        """
        checked = [operation_from(item) for item in operations]
        return self._commit(lambda tx: checked, read_at)

    def _commit(self, made: Callable[[Tables], Sequence[Operation]], read_at: Position | None = None) -> Change:
        """Commit what `made` makes of the store, in the same transaction."""
        with self._store.transaction() as tx:
            operations = [self._as_known(each) for each in made(tx)]
            leases.asked(tx, self.name, operations, self._now())
            entry = replica.commit(
                tx,
                self.name,
                operations,
                nonce=self._device.ports.entropy(8),
                now_ms=self._device.ports.clock_ms(),
                limits=_limits(tx.setting("limits")),
                read_at=read_at,
            )
        change = Change(self._device, self.name, entry)
        self._device.committed(change)
        return change

    def _as_known(self, made: Operation) -> Operation:
        """The operation with the version of the schema that the application knows: whenever it is pushed, and whatever
        the application has become by then, the server can tell what was meant."""
        version = self._device.schemas.get(made.collection) if made.schema is None else None
        return made if version is None else replace(made, schema=version)

    def random_bytes(self, count: int) -> bytes:
        """For names of elements."""
        return self._device.ports.entropy(count)

    def _do(self, name: str, collection: str, id: str, *arguments: Value) -> Change:
        return self.commit([operation(name, collection, id, *arguments)])

    def create(self, collection: str, id: str, fields: Mapping[str, Value] | None = None) -> Change:
        """Make a document, with `reg` fields if given. Raises DocumentExists if the view shows it already."""
        if self.view(collection, id) is not None:
            raise DocumentExists(f"{collection}/{id} exists in {self.name}")
        settings = [operation("reg.set", collection, id, name, value) for name, value in (fields or {}).items()]
        return self.commit([operation("create", collection, id), *settings])

    def delete(self, collection: str, id: str) -> Change:
        return self._do("delete", collection, id)

    def set(self, collection: str, id: str, field: str, value: Value) -> Change:
        return self._do("reg.set", collection, id, field, value)

    def unset(self, collection: str, id: str, field: str) -> Change:
        return self._do("reg.unset", collection, id, field)

    def inc(self, collection: str, id: str, field: str, by: int = 1) -> Change:
        return self._do("counter.inc", collection, id, field, by)

    def add(self, collection: str, id: str, field: str, value: Value) -> Change:
        return self._do("set.add", collection, id, field, value)

    def remove(self, collection: str, id: str, field: str, value: Value) -> Change:
        return self._do("set.remove", collection, id, field, value)

    def put(self, collection: str, id: str, field: str, key: str, value: Value) -> Change:
        return self._do("map.put", collection, id, field, key, value)

    def drop(self, collection: str, id: str, field: str, key: str) -> Change:
        return self._do("map.drop", collection, id, field, key)

    def enable(self, collection: str, id: str, field: str) -> Change:
        return self._do("flag.enable", collection, id, field)

    def disable(self, collection: str, id: str, field: str) -> Change:
        return self._do("flag.disable", collection, id, field)

    def list_field(self, collection: str, id: str, field: str) -> ListField:
        """A field of type list: its elements, and what can be done to them."""
        return ListField(self, collection, id, field)

    def text_field(self, collection: str, id: str, field: str) -> TextField:
        """A field of type text: its updates. `syncd_client.editing` edits one as a Yjs document."""
        return TextField(self, collection, id, field)

    # -- stocks ------------------------------------------------------------------------------------------------------

    def restock(self, collection: str, id: str, field: str, by: int) -> Change:
        return self._do("bounded.restock", collection, id, field, by)

    def refund(self, collection: str, id: str, field: str, units: int = 1) -> Change:
        return self._do("bounded.refund", collection, id, field, units)

    def lease(self, collection: str, id: str, field: str, units: int, *, ttl_ms: int | None = None) -> Change:
        """Ask for units that this device may then take while offline. It has them once the change is `applied`.
        Without `ttl_ms` the lease is strict: it stays until its units are taken or given back."""
        return self._do("bounded.lease", collection, id, field, self._device.ports.entropy(16), units, ttl_ms)

    def leases(self) -> list[Lease]:
        """What this device holds of the stocks of this space, and how much of it is certain now."""
        with self._store.reading() as tx:
            is_forked, now = tx.setting("forked") is not None, self._now()
            return [
                Lease(row.collection, row.id, row.field, row.lease, leases.remaining(tx, row), row.until,
                      not is_forked and leases.is_in_time(row, now))
                for row in leases.held(tx, self.name)
            ]  # fmt: skip

    def take(self, collection: str, id: str, field: str, units: int = 1, *, certain: bool = True) -> Change:
        """Sell units. With certainty, by the leases of this device: raises NotCovered unless they cover all, and then
        nothing was stored. Else from the reserve, whose word is the outcome of the change."""
        if not certain:
            return self._do("bounded.take", collection, id, field, units, None)
        operation("bounded.take", collection, id, field, units, None)  # raises InvalidInput
        key = (collection, id)
        return self._commit(lambda tx: leases.takes(tx, self.name, key, field, units, self._now()))

    def give(self, collection: str, id: str, field: str, units: int | None = None) -> Change:
        """Give leased units back, by default all that are left. Raises NotCovered if there are not so many."""
        return self._commit(lambda tx: leases.gives(tx, self.name, (collection, id), field, units))

    def _now(self) -> Moment:
        return Moment(*self._device.ports.steady(), self._device.ports.clock_ms())


def _limits(known: Value) -> m.Limits:
    """The limits of the last welcome, for changes that are committed offline."""
    known = known or {}
    names = ("change_operations_max", "change_documents_max", "change_bytes_max", "document_fields_max")
    return m.Limits(**{name: known[name] for name in names if name in known})
