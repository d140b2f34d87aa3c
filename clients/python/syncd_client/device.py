"""A device: the application's way in, and the loop that keeps it connected.

Owns the public API, the states of the connection, and what is told to whom. Every write returns at once, durable in the
local store; nothing here waits for the network unless the application asks for an outcome. Knows no event loop but
through `loops.Loop`: the shells under trio and asyncio are this one.

1. A process that holds the store's sync lock is the only one that connects. Another one that opened the store writes to
   the outbox, and this one sees it within POLL_S; the other one sees the outcome in the store in the same way.
2. No task outlives `open_device`.
3. One attempt at a time. Whatever ends it, `_over` sees its end once, while the sync lock is still held.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from . import happenings, replica
from . import messages as m
from .codec import BINDINGS, FRAME_BYTES_MAX
from .conversation import Conversation
from .errors import Absent, OutcomeForgotten, Refused, StoreError, TransportClosed, Unreachable
from .live import SIGNALS, Live, PresenceChanged, Signal
from .loops import Loop
from .policy import Disposition, Event, State, next_state
from .reconnect import Reconnecting
from .session import Effect, Notice, Session, Settled, Touched
from .shell import Connection, Ports, Token, token_text
from .space import Change, Space
from .store import Store
from .tables import OutcomeRow, SpaceRow
from .values import Value, checked_space
from .watching import Following, Hearing, Pulse, Watcher, Watchers

POLL_S = 0.2  # how soon a change made by another process on the same store is seen
LEAVE_S = 2.0  # for the last acks and the closing handshake when the device goes offline
Binding: TypeAlias = Literal["msgpack", "json"]
Durability: TypeAlias = Literal["full", "off"]
CLIENT = {"name": "syncd-client-python", "version": "0.1.0"}


@dataclass(frozen=True, slots=True)
class Status:
    """The connection as the application sees it. `reason` says why it is not ready, if it is not; `code` is the close
    code with which the last connection ended, if that is the reason. STOPPED stays until `go_online`; 4901 then means
    that another connection of this device took over, 4902 that the device belongs to another user. `carrier` says what
    carries the connection while there is one: `websocket`, or `polls` where the network lets none through."""

    state: State
    reason: str = ""
    code: int | None = None
    carrier: str = ""


class Device:
    """One durable replica. Made by `open_device`; use from the task tree that opened it."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        ports: Ports,
        *,
        url: str | None = None,
        token: Token = None,
        binding: Binding = "msgpack",
        keepalive_ms: int | None = None,
    ) -> None:
        self.loop = loop
        self.store = store
        self.ports = ports
        self.status = Status(State.CLOSED, "" if url else "no url")
        self.user: str | None = None
        self.watchers = Watchers(loop)
        self.live = Live()
        self.schemas: dict[str, int] = {}  # collection -> the version of its schema that the application knows
        self._url = url
        self._token = token
        self._binding = BINDINGS[binding]
        self._keepalive_ms = keepalive_ms
        self._reconnecting = Reconnecting(url, renews=callable(token))
        self._is_wanted = False
        self._connection: Connection | None = None
        self._ending: TransportClosed | None = None  # how the present attempt ended
        self._is_absent = False  # because nobody listens
        self._after_s = 0.0  # how long the server asked to be left alone
        self._interrupt = loop.event()  # ends the present attempt
        self._carrier = ""  # of the present connection, or the last one
        self._sooner = Pulse(loop)  # `due_s` may have moved
        self._background: m.Background | None = None
        self._field_values = 0  # of earlier connections
        self._known_n: dict[str, int] = {}
        self._awaited: dict[tuple[str, bytes], Pulse] = {}  # by space and nonce

    # -- what an application uses ------------------------------------------------------------------------------------

    @property
    def id(self) -> bytes:
        return self.store.device

    def space(self, name: str) -> Space:
        """A handle on a space. Raises InvalidInput for a name that the protocol does not allow."""
        return Space(self, checked_space(name))

    def spaces(self) -> list[SpaceRow]:
        """Every space that this device knows, with its positions."""
        return self.store.spaces()

    def outbox_depth(self) -> int:
        """Changes, in all spaces, whose effect is not yet in the synced state."""
        return sum(self.store.outbox_depth(row.name) for row in self.store.spaces())

    @property
    def field_values(self) -> int:
        """How many values of fields have come in deltas since the device was opened: what its synced state cost."""
        now = self._connection.conversation.field_values if self._connection is not None else 0
        return self._field_values + now

    @property
    def forked(self) -> Value:
        """None, or where it was seen that this device must leave its id (another replica uses it, or it was retired).
        It does so by itself; what was not taken under the old id is pushed under the next one."""
        return self.store.setting("forked")

    def event(self, name: str, data: Mapping[str, Value] | None = None, *, at_ms: int | None = None) -> None:
        """Tell the server what the user did: now, or at `at_ms` by this device's clock. Durable at once, sent when
        there is a connection, and counted once. Of more than `EVENTS_KEPT_MAX` that wait the oldest give way: a notice
        says so, and `events_dropped` how many did in all."""
        id, at_ms = self.ports.entropy(16), self.ports.clock_ms() if at_ms is None else at_ms
        limits = self.session.parameters.limits if self.session is not None else m.Limits()
        with self.store.transaction() as tx:
            dropped = happenings.told(tx, id, name, data, at_ms, limits.event_bytes_max)
        if dropped:
            self.watchers.notify(Notice("event", None, f"{dropped} of the oldest events gave way, as too many wait"))
        self._look_at_events()

    def _look_at_events(self) -> None:
        if self._connection is not None:
            self._connection.conversation.session.telling.look_at()
            self._connection.wake()

    @property
    def events_waiting(self) -> int:
        """How many events the server has not judged yet."""
        with self.store.reading() as tx:
            return len(tx.events(happenings.EVENTS_KEPT_MAX))

    @property
    def events_dropped(self) -> int:
        """How many events gave way because too many waited, since the store was made."""
        dropped = self.store.setting("events_dropped")
        return dropped if isinstance(dropped, int) else 0

    def go_online(self) -> None:
        """Connect, and stay connected. Also starts again after a terminal close code."""
        if self._url is not None and not self._is_wanted:
            self._is_wanted = True
            self._reconnecting.start()
            # While a connection is still leaving, its end brings the next one about.
            if self.status.state in (State.CLOSED, State.STOPPED):
                self._move(Event.GO, "")

    async def go_offline(self) -> None:
        """Acknowledge what is stored, close the connection and stay offline. Takes LEAVE_S at most."""
        if self._is_wanted:
            self._is_wanted = False
            try:
                if self._connection is not None:
                    self._connection.conversation.leave()
                    self._connection.wake()
                    limit_s = self.loop.now_s() + LEAVE_S
                    await self.loop.within(limit_s, lambda: self.wait_until(lambda: self._connection is None))
            finally:
                # Also if nobody waits any more; but not against an application that has changed its mind meanwhile.
                if not self._is_wanted:
                    self._interrupt.set()
                    self._move(Event.HALT, "offline")

    def background(self, keepalive_ms: int | None = None) -> None:
        """The app went to the background: acknowledge, and ask less often whether the connection lives: each
        `keepalive_ms` (15 s to 10 min, by default the longest). Holds for later connections too, until `foreground`."""
        self._background = m.Background(keepalive_ms)
        if self._connection is not None:
            self._connection.conversation.rest(self._background, self.loop.now_s())
            self._connection.alarm()

    def foreground(self) -> None:
        """The app is visible again: end `background`, and `probe`."""
        is_back, self._background = self._background is not None, None
        if is_back and self._connection is not None:
            self._connection.conversation.rise(self.loop.now_s())
        self.probe()

    def probe(self) -> None:
        """The device may have slept. A connection that does not answer within 5 s is given up; a device that waits for
        its next attempt tries now."""
        if self._connection is not None:
            self._connection.conversation.probe(self.loop.now_s())
            self._connection.alarm()
        elif self.status.state is State.WAITING and self._reconnecting.hasten(self.loop.now_s()):
            self._sooner.beat()

    def network_changed(self) -> None:
        """The system has another network. Whatever was open goes by the old one: it is dropped without farewell, and
        the next attempt is made at once; but three times in a row at most, then one each 20 s, and never before the
        time at which the server asked to come back."""
        if self.status.state in (State.CONNECTING, State.HELLO, State.READY, State.DRAINING) and self._is_wanted:
            self._ending = TransportClosed(1006, "the network changed")
            self._interrupt.set()
        elif self.status.state is State.WAITING and self._reconnecting.hasten(self.loop.now_s()):
            self._sooner.beat()

    def statuses(self) -> AsyncIterator[Status]:
        """The connection's status now and after each change; a slow reader misses those in between."""
        seen: Status | None = None

        def news() -> tuple[Status, ...]:
            nonlocal seen
            before, seen = seen, self.status
            return () if seen == before else (seen,)

        return Following(self.watchers.pulse, news)

    def notices(self) -> AsyncIterator[Notice]:
        """What the application should hear of, from now on: forked, renamed, revoked, expired, drift, malformed,
        errors."""
        seen = self.watchers.notice_count

        def news() -> list[Notice]:
            nonlocal seen
            new = min(self.watchers.notice_count - seen, len(self.watchers.notices))
            seen = self.watchers.notice_count
            return list(self.watchers.notices)[len(self.watchers.notices) - new :]

        return Following(self.watchers.pulse, news)

    def outcomes(self, after: int | None = None) -> AsyncIterator[OutcomeRow]:
        """Each outcome once it is durable in the local store, in order, from the position `after` (default: now)."""
        at = self.store.outcomes_at() if after is None else after

        def news() -> list[OutcomeRow]:
            nonlocal at
            rows = self.store.outcomes_since(at, 1_000)
            at = rows[-1].at if rows else at
            return rows

        return Following(self.watchers.pulse, news)

    def changes(self) -> AbstractContextManager[Watcher]:
        """`with device.changes() as changed: async for round in changed: ...`, over all spaces."""
        return self.watchers.opened(None)

    def signals(self, space: str | None = None) -> AbstractContextManager[Hearing]:
        """`with device.signals() as heard: async for signal in heard: ...`: what is heard from now on, own ones too. A
        slow reader gets of each sender and key the newest, and nothing whose time is over."""
        return self.watchers.hearing(space)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a commit, a message, an outcome or a change of the connection may bring about."""
        await self.watchers.pulse.wait_until(condition)

    def is_synced(self, spaces: Collection[str]) -> bool:
        """The outbox is empty, and each of these spaces has all that the server had when it was subscribed."""
        session = self.session
        if session is None or session.welcome is None or self.outbox_depth() > 0:
            return False
        return all(self.space(name).is_complete for name in spaces)

    async def sync(self, *spaces: str) -> bool:
        """Wait until the outbox is empty and `spaces` (default: all subscribed) are complete. False if that cannot be:
        the connection has stopped, or a space may not be read."""
        names = spaces or tuple(row.name for row in self.spaces() if row.is_subscribed)
        await self.wait_until(lambda: self.is_synced(names) or self._is_stuck(names))
        return self.is_synced(names)

    def _is_stuck(self, names: Collection[str]) -> bool:
        """What is missing will not come on this connection, and all else is there."""
        session = self.session
        if session is None or session.welcome is None:
            return self.status.state in (State.STOPPED, State.CLOSED)
        missing = [name for name in names if not self.space(name).is_complete]
        is_shut = all(session.is_shut(name) for name in missing)
        return is_shut and bool(missing) and self.outbox_depth() == 0

    # -- what the space handle uses ----------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        return self._connection.conversation.session if self._connection is not None else None

    async def wait_outcome(self, space: str, nonce: bytes) -> OutcomeRow:
        await self.loop.checkpoint()
        # A pulse for each change: a thousand waiters on the common one would all look at each message. By its nonce: n
        # is another one once this device has another id.
        while (row := self.store.outcome_of(space, nonce)) is None:
            if not self.store.holds(space, nonce):
                raise OutcomeForgotten(f"{space}: the outcome of the change {nonce.hex()} is no longer kept")
            awaited = self._awaited.setdefault((space, nonce), Pulse(self.loop))
            try:
                await awaited.wait()
            finally:
                if not awaited.waiting_count and self._awaited.get((space, nonce)) is awaited:
                    del self._awaited[space, nonce]
        return row

    def say(self, message: m.Signal | None) -> bool:
        """Send it now. False: there is no connection that takes it."""
        if message is None or self._connection is None:
            return False
        self._connection.conversation.session.say(message)
        self._connection.wake()
        return True

    def committed(self, change: Change) -> None:
        self._known_n[change.space] = change.n + 1
        self.touched(change.space, change.keys)

    def touched(self, space: str, keys: tuple[tuple[str, str], ...] | None) -> None:
        self.watchers.touch(space, keys)
        self.watchers.pulse.beat()
        if self._connection is not None:
            self._connection.conversation.session.look_at(space)
            self._connection.wake()

    # -- effects -----------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Touched):
                self.watchers.touch(effect.space, effect.keys)
            elif isinstance(effect, Notice):
                self.watchers.notify(effect)
            elif isinstance(effect, Signal):
                self.watchers.hear(effect)
            elif isinstance(effect, PresenceChanged):
                pass  # the pulse below wakes who waits for it
            else:
                assert isinstance(effect, Settled)  # the row is durable: whoever waits reads it from the store
                awaited = self._awaited.pop((effect.outcome.space, effect.outcome.nonce), None)
                if awaited is not None:
                    awaited.beat()
        connection = self._connection
        if connection is not None:
            session = connection.conversation.session
            if session.welcome is not None and self.status.state is State.HELLO:
                self.user = session.welcome.user
                self._reconnecting.welcomed(session)
                self._move(Event.WELCOMED, "")
                if self._background is not None:
                    connection.conversation.rest(self._background, self.loop.now_s())
            if session.state is State.DRAINING and self.status.state in (State.HELLO, State.READY):
                self._move(Event.GOAWAY, "the server said goaway")
        self.watchers.pulse.beat()

    def _move(self, event: Event, reason: str, code: int | None = None) -> None:
        state = next_state(self.status.state, event)
        is_carried = state in (State.HELLO, State.READY, State.DRAINING)
        self._show(Status(state, reason, code, self._carrier if is_carried else ""))

    def _show(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            self.watchers.pulse.beat()

    # -- other processes on the same store ---------------------------------------------------------------------------

    async def poll(self) -> None:
        """Notice what another process committed to the store."""
        seen: int | None = None
        while True:
            # A store that cannot be read for a moment is looked at again; whoever uses it is told by its own call.
            with suppress(StoreError):
                version = self.store.data_version()
                if seen is not None and seen != version:
                    self._look_again()
                seen = version
            await self.loop.sleep_until(self.loop.now_s() + POLL_S)

    def _look_again(self) -> None:
        """Only the process that is connected changes synced state; from another one, only outbox entries come."""
        with self.store.reading() as tx:
            for row in tx.spaces():
                keys: tuple[tuple[str, str], ...] | None = None
                if self._connection is not None:
                    entries = tx.unanswered(row.name, self._known_n.get(row.name, row.settled + 1), 10_000)
                    operations = (operation for entry in entries for operation in entry.operations)
                    keys = tuple(dict.fromkeys(operation.key for operation in operations))
                self._known_n[row.name] = row.next_n
                self.touched(row.name, keys)
        self._look_at_events()
        for awaited in self._awaited.values():
            awaited.beat()
        self.watchers.pulse.beat()

    # -- staying connected -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            if not self._is_wanted:
                await self.wait_until(lambda: self._is_wanted)
            self._interrupt, self._ending = self.loop.event(), None
            self._is_absent, self._after_s = False, 0.0
            await self.loop.race(self._attempt, self._interrupt.wait)
            self._over()

    async def _attempt(self) -> None:
        """Wait until it is time and the store is free, connect, and converse until it ends."""
        while self.loop.now_s() < self._reconnecting.due_s:
            await self.loop.within(self._reconnecting.due_s, self._sooner.wait)
        await self.loop.checkpoint()
        while not self._holds_store():
            await self.loop.sleep_until(self.loop.now_s() + POLL_S)
        if self._is_interrupted:
            return
        self._move(Event.DUE, "")
        try:
            token = await token_text(self.loop, self._token)
            async with self.ports.connect(self._reconnecting.target(), self._binding.name) as transport:
                if self._is_interrupted:
                    return
                self._carrier = getattr(transport, "carried_by", "websocket")
                self._move(Event.OPENED, "")
                is_early = self.store.setting("first_flight") is True
                session = Session(
                    lambda: self.ports.entropy(8), self._reconnecting.suspicion, is_early=is_early, live=self.live
                )
                conversation = Conversation(
                    session, self.store, self._binding, self._hello(token), self.loop.now_s(),
                    token_renews=callable(self._token),
                )  # fmt: skip
                connection = Connection(self.loop, transport, conversation, self.ports, self._token, self._carry_out)
                self._connection = connection
                self._ending = await connection.run()
                self._after_s = self._ending.after_s
        except Unreachable as error:
            self._ending = self._ending or TransportClosed(1006, str(error))
            self._is_absent, self._after_s = isinstance(error, Absent), error.after_s
        except StoreError as error:
            self._ending = self._ending or TransportClosed(1006, str(error))

    def _holds_store(self) -> bool:
        """Whether this process may sync the store now; else the status says why not."""
        try:
            if self.store.acquire_sync_lock():
                return True
            reason = "another process is syncing this store"
        except StoreError as error:
            reason = str(error)
        self._show(Status(State.WAITING, reason))
        return False

    @property
    def _is_interrupted(self) -> bool:
        """The application does not want this attempt, although its task may not have met a checkpoint since."""
        return self._interrupt.is_set() or not self._is_wanted

    def _hello(self, token: str | None) -> m.Hello:
        return m.Hello(
            device=self.store.device,
            installation=self.store.installation,
            time=self.ports.clock_ms(),
            session=self._reconnecting.session_id,
            token=token,
            client=CLIENT,
            caps=(SIGNALS,),
            frame_bytes_max=FRAME_BYTES_MAX // 6,
            keepalive_ms=self._keepalive_ms,
        )

    def _over(self) -> None:
        """The attempt has ended. If that is news to the application, obey the way in which it did."""
        self._field_values = self.field_values
        connection, self._connection = self._connection, None
        self.live.connected()  # to nobody: nobody is known to be present
        is_news = self.status.state in (State.CONNECTING, State.HELLO, State.READY, State.DRAINING)
        if self._is_wanted and is_news:
            self._after(self._ending or TransportClosed(1006), connection)
        self.store.release_sync_lock()
        self.watchers.pulse.beat()

    def _after(self, ending: TransportClosed, connection: Connection | None) -> None:
        """Obey the way in which a connection ended: state, durable consequences, and the wait before the next."""
        now_s = self.loop.now_s()
        is_refused = isinstance(ending, Refused)  # then there was no conversation
        conversation = connection.conversation if connection is not None and not is_refused else None
        session = conversation.session if conversation is not None else None
        ready_s = conversation.ready_s if conversation is not None else None
        ready_for_s = 0.0 if ready_s is None else now_s - ready_s
        verdict = self._reconnecting.ended(
            ending, session, ready_for_s, self.ports.random(), now_s,
            is_absent=self._is_absent, after_s=self._after_s,
        )  # fmt: skip
        if verdict.what is Disposition.STOP:
            self._is_wanted = False
            self._move(Event.TERMINAL, verdict.reason, verdict.code)
            self.watchers.notify(Notice("stopped", None, verdict.reason))
            return
        if session is not None:
            try:
                self._heal(verdict.what, session)
            except StoreError as error:  # nothing was altered, so the server will say the same again
                self.watchers.notify(Notice("error", None, str(error)))
        is_renamed = session is not None and session.is_renamed
        if is_renamed:
            self._known_n.clear()
        if self._interrupt.is_set() or is_renamed or (conversation is not None and conversation.slept):
            self._reconnecting.hasten(now_s)
        self._move(Event.LOST, verdict.reason, verdict.code)

    def _heal(self, what: Disposition, session: Session) -> None:
        effects: list[Effect] = []
        if what is Disposition.BISECT:
            with self.store.transaction() as tx:
                self._reconnecting.suspicion, effects = session.suspected(tx)
        elif what is Disposition.RESYNC:
            with self.store.transaction() as tx:
                for row in tx.spaces():
                    replica.drop_synced(tx, row.name)
                    effects.append(Touched(row.name, None))
        self._carry_out(effects)


@asynccontextmanager
async def opened(
    loop: Loop,
    directory: str | os.PathLike[str] | Path,
    ports: Ports,
    *,
    url: str | None,
    token: Token,
    binding: Binding,
    online: bool,
    keepalive_ms: int | None,
    durability: Durability,
) -> AsyncIterator[Device]:
    """What each shell's `open_device` does, on its loop."""
    store = Store(directory, entropy=ports.entropy, durability=durability)
    failure: Exception | None = None
    try:
        device = Device(loop, store, ports, url=url, token=token, binding=binding, keepalive_ms=keepalive_ms)
        async with loop.beside(device.run, device.poll):
            if online:
                device.go_online()
            # The application's own error must leave as it is, not inside a group made by the loop.
            try:
                yield device
            except Exception as error:
                failure = error
            await device.go_offline()
    finally:
        store.close()
    if failure is not None:
        raise failure
