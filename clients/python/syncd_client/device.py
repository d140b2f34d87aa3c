"""A device: the application's way in, and the loop that keeps it connected.

Owns the public API, the decision when to connect again, and what is told to whom. Every write returns at once, durable
in the local store; nothing here waits for the network unless the application asks for an outcome.

1. A process that holds the store's sync lock is the only one that connects. Another one that opened the store writes to
   the outbox, and this one sees it within POLL_S; the other one sees the outcome in the store in the same way.
2. No task outlives `open_device`.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import trio

from . import messages as m
from . import replica
from .codec import BINDINGS, FRAME_BYTES_MAX
from .errors import OutcomeForgotten, StoreError, TransportClosed, Unreachable
from .policy import Disposition, Event, Retry, State, disposition, goaway_delay_ms, next_state
from .session import Effect, Notice, Session, Settled, Suspicion, Touched
from .shell import Connection, Ports, Token, connect_websocket, token_text
from .space import Change, Space
from .store import Store
from .tables import OutcomeRow, SpaceRow
from .values import Value, checked_space
from .watching import Following, Pulse, Watcher, Watchers

POLL_S = 0.2  # how soon a change made by another process on the same store is seen
LEAVE_S = 2.0  # for the last acks and the closing handshake when the device goes offline
CLIENT = {"name": "syncd-client-python", "version": "0.1.0"}


@dataclass(frozen=True, slots=True)
class Status:
    """The connection as the application sees it. `reason` says why it is not ready, if it is not."""

    state: State
    reason: str = ""


class Device:
    """One durable replica. Made by `open_device`; use from the task tree that opened it."""

    def __init__(self, store: Store, ports: Ports, url: str | None, token: Token, binding: str) -> None:
        self.store = store
        self.ports = ports
        self.status = Status(State.CLOSED, "" if url else "no url")
        self.user: str | None = None
        self.watchers = Watchers()
        self._url = url
        self._next_url: str | None = None
        self._token = token
        self._binding = BINDINGS[binding]
        self._is_wanted = False
        self._connection: Connection | None = None
        self._attempt = trio.CancelScope()
        self._suspicion: Suspicion | None = None
        self._session_id: bytes | None = None
        self._retry = Retry()
        self._reconnect = m.Reconnect()
        self._known_n: dict[str, int] = {}
        self._awaited: dict[tuple[str, int], Pulse] = {}

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
    def forked(self) -> Value:
        """None, or where another replica of this device id was seen: nothing is pushed any more."""
        return self.store.setting("forked")

    def go_online(self) -> None:
        """Connect, and stay connected. Also starts again after a terminal close code."""
        if self._url is not None and not self._is_wanted:
            self._is_wanted = True
            self._retry = Retry()
            # While a connection is still leaving, its end brings the next one about.
            if self.status.state in (State.CLOSED, State.STOPPED):
                self._move(Event.GO, "")

    async def go_offline(self) -> None:
        """Acknowledge what is stored, close the connection and stay offline. Takes LEAVE_S at most."""
        if self._is_wanted:
            self._is_wanted = False
            try:
                if self._connection is not None:
                    self._connection.leave()
                    with trio.move_on_after(LEAVE_S):
                        await self.watchers.pulse.wait_until(lambda: self._connection is None)
            finally:
                # Also if nobody waits any more; but not against an application that has changed its mind meanwhile.
                if not self._is_wanted:
                    self._attempt.cancel()
                    self._move(Event.HALT, "offline")

    def background(self, keepalive_ms: int | None = None) -> None:
        """The app went to the background: acknowledge, and let the server ping less often."""
        if self._connection is not None:
            with self.store.reading() as tx:
                for ack in self._connection.session.acks(tx, trio.current_time()):
                    self._connection.session.say(ack)
            self._say(m.Background(keepalive_ms))

    def foreground(self) -> None:
        """The app is visible again: end `background`, and test a socket that may have died meanwhile."""
        self._say(m.Foreground())
        self._say(m.Probe())

    def statuses(self) -> AsyncIterator[Status]:
        """The connection's status now and after each change; a slow reader misses those in between."""
        seen: Status | None = None

        def news() -> tuple[Status, ...]:
            nonlocal seen
            before, seen = seen, self.status
            return () if seen == before else (seen,)

        return Following(self.watchers.pulse, news)

    def notices(self) -> AsyncIterator[Notice]:
        """What the application should hear of, from now on: forked, revoked, expired, drift, malformed, errors."""
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

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a commit, a message, an outcome or a change of the connection may bring about."""
        await self.watchers.pulse.wait_until(condition)

    # -- what the space handle uses ----------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        return self._connection.session if self._connection is not None else None

    async def wait_outcome(self, space: str, n: int) -> OutcomeRow:
        await trio.lowlevel.checkpoint()
        # A pulse for each change: a thousand waiters on the common one would all look at each message.
        while (row := self.store.outcome(space, n)) is None:
            if n <= replica.space_row(self.store, space).settled:
                raise OutcomeForgotten(f"{space}: the outcome of n = {n} is no longer kept")
            await self._awaited.setdefault((space, n), Pulse()).wait()
        return row

    def committed(self, change: Change) -> None:
        self._known_n[change.space] = change.n + 1
        self.touched(change.space, change.keys)

    def touched(self, space: str, keys: tuple[tuple[str, str], ...] | None) -> None:
        self.watchers.touch(space, keys)
        self.watchers.pulse.beat()
        if self._connection is not None:
            self._connection.session.look_at(space)
            self._connection.wake()

    # -- effects -----------------------------------------------------------------------------------------------------

    def _say(self, message: m.ClientMessage) -> None:
        if self._connection is not None and self._connection.session.welcome is not None:
            self._connection.session.say(message)
            self._connection.wake()

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Touched):
                self.watchers.touch(effect.space, effect.keys)
            elif isinstance(effect, Notice):
                self.watchers.notify(effect)
            else:
                assert isinstance(effect, Settled)  # the row is durable: whoever waits reads it from the store
                awaited = self._awaited.pop((effect.outcome.space, effect.outcome.n), None)
                if awaited is not None:
                    awaited.beat()
        connection = self._connection
        if connection is not None:
            session = connection.session
            if session.welcome is not None and self.status.state is State.HELLO:
                self._session_id, self.user = session.welcome.session, session.welcome.user
                self._reconnect = session.parameters.reconnect
                self._move(Event.WELCOMED, "")
            if session.state is State.DRAINING and self.status.state in (State.HELLO, State.READY):
                self._move(Event.GOAWAY, "the server said goaway")
        self.watchers.pulse.beat()

    def _move(self, event: Event, reason: str) -> None:
        self._show(Status(next_state(self.status.state, event), reason))

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
            await trio.sleep(POLL_S)

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
        for awaited in self._awaited.values():
            awaited.beat()
        self.watchers.pulse.beat()

    # -- staying connected -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        delay_s = 0.0
        while True:
            if not self._is_wanted:
                await self.watchers.pulse.wait_until(lambda: self._is_wanted)
                delay_s = 0.0
            wait_s, delay_s = delay_s, 0.0
            with trio.CancelScope() as self._attempt:
                await trio.sleep(wait_s)
                while not self.store.acquire_sync_lock():
                    self._show(Status(State.WAITING, "another process is syncing this store"))
                    await trio.sleep(POLL_S)
                if not self._is_over:
                    delay_s = await self._attempt_once()
            self._connection = None
            self.store.release_sync_lock()
            self.watchers.pulse.beat()

    async def _attempt_once(self) -> float:
        """Connect once and converse until it ends. Returns the seconds to wait before the next attempt."""
        self._move(Event.DUE, "")
        url = self._next_url or self._url
        assert url is not None
        self._next_url = None
        connection: Connection | None = None
        ending = TransportClosed(1006)
        try:
            token = await token_text(self._token)
            async with self.ports.connect(url, self._binding.name) as transport:
                if self._is_over:
                    return 0.0
                self._move(Event.OPENED, "")
                session = Session(lambda: self.ports.entropy(8), self._suspicion)
                connection = self._connection = Connection(
                    transport, session, self.store, self.ports, self._binding, self._token, self._carry_out
                )
                ending = await connection.run(self._hello(token))
        except Unreachable as error:
            ending = TransportClosed(1006, str(error))
        ready_s = connection.ready_s if connection is not None else None
        ready_for_ms = 0.0 if ready_s is None else 1000 * (trio.current_time() - ready_s)
        return 0.0 if self._is_over else self._after(ending, ready_for_ms, connection)

    @property
    def _is_over(self) -> bool:
        """The application went offline, although the attempt's task may not have met a checkpoint since."""
        return self._attempt.cancel_called or not self._is_wanted

    def _hello(self, token: str | None) -> m.Hello:
        return m.Hello(
            device=self.store.device,
            installation=self.store.installation,
            time=self.ports.clock_ms(),
            session=self._session_id,
            token=token,
            client=CLIENT,
            frame_bytes_max=FRAME_BYTES_MAX // 6,
        )

    def _after(self, ending: TransportClosed, ready_for_ms: float, connection: Connection | None) -> float:
        """Obey the way in which a connection ended: state, durable consequences, and the wait before the next."""
        session = connection.session if connection is not None else None
        self._connection = None
        what = disposition(ending.code)
        reason = f"{ending.code} {ending.reason}".strip()
        if session is not None:
            self._suspicion = session.suspicion
            if session.error is not None:
                # The close frame's reason says the same once more, cut to 123 bytes.
                reason = f"{ending.code} {session.error.name}: {session.error.detail or ending.reason}"
        if what is Disposition.REAUTHENTICATE and not callable(self._token):
            what = Disposition.STOP  # a token that is a text cannot become another one
        if what is Disposition.STOP and session is not None:
            self._is_wanted = False
            self._move(Event.TERMINAL, reason)
            self.watchers.notify(Notice("stopped", None, reason))
            return 0.0
        if session is not None:
            try:
                self._heal(what, session)
            except StoreError as error:  # nothing was altered, so the server will say the same again
                self.watchers.notify(Notice("error", None, str(error)))
        self._retry = self._retry.after(what, ready_for_ms, self._reconnect)
        random = self.ports.random()
        goaway = session.goaway if session is not None else None
        if goaway is not None:
            delay_ms = goaway_delay_ms(goaway.retry_after_ms, goaway.spread_ms, random)
            self._next_url = self._followed(goaway.resume_url)
        elif what is Disposition.RESUME_NOW:
            delay_ms = random * self._reconnect.first_jitter_ms
        else:
            delay_ms = self._retry.delay_ms(self._reconnect, random)
        self._retry = self._retry.failed()
        self._move(Event.LOST, reason)
        return delay_ms / 1000

    def _heal(self, what: Disposition, session: Session) -> None:
        effects: list[Effect] = []
        if what is Disposition.BISECT:
            with self.store.transaction() as tx:
                self._suspicion, effects = session.suspected(tx)
        elif what is Disposition.RESYNC:
            with self.store.transaction() as tx:
                for row in tx.spaces():
                    replica.drop_synced(tx, row.name)
                    effects.append(Touched(row.name, None))
        self._carry_out(effects)

    def _followed(self, url: str | None) -> str | None:
        """Another host that the server names, unless that would take a token from TLS to plain text."""
        if url is None or self._url is None:
            return None
        scheme, now = urlsplit(url).scheme, urlsplit(self._url).scheme
        return url if scheme == now or scheme == "wss" else None


def system_ports() -> Ports:
    """The real world: the wall clock, the system's entropy, trio-websocket."""
    return Ports(clock_ms=lambda: time.time_ns() // 1_000_000, entropy=os.urandom, connect=connect_websocket)


@asynccontextmanager
async def open_device(
    directory: str | os.PathLike[str] | Path,
    *,
    url: str | None = None,
    token: Token = None,
    binding: Literal["msgpack", "json"] = "msgpack",
    online: bool = True,
    ports: Ports | None = None,
    durability: Literal["full", "off"] = "full",
) -> AsyncIterator[Device]:
    """Open (or make) the store in `directory` and, if there is a `url`, connect and stay connected.

    `token` is a text, or a function (sync or async) that gives a fresh one each time it is called. Raises StoreError.
    `durability="off"` is for simulators: commits survive the process but not a power cut.
    """
    ports = ports or system_ports()
    store = Store(directory, entropy=ports.entropy, durability=durability)
    failure: Exception | None = None
    try:
        device = Device(store, ports, url, token, binding)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run)
            nursery.start_soon(device.poll)
            if online:
                device.go_online()
            # The application's own error must leave as it is, not inside a group made by the nursery.
            try:
                yield device
            except Exception as error:
                failure = error
            await device.go_offline()
            nursery.cancel_scope.cancel()
    finally:
        store.close()
    if failure is not None:
        raise failure
