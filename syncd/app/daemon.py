"""The daemon: everything is made here, wired together, and taken down again in the right order.

Owns the lifetime of the process: what is opened when, what a signal does, what ends with what, and what the outside is
told of it. Must not know what goes over the wires or into the store.

Up: the store (whose lock keeps a second daemon out), the generated secret, the listeners, the committer, the server,
the admin listeners, and only then the ready line. Down: no new connections, every device sent away, the committer
emptied, the store closed. A store that cannot be trusted any more ends the process at once, without a drain: nothing
may be acknowledged after that.

Invariants: D1 the ready line is printed once, when a connection will be served. D2 nothing is listened on before the
store is open. D3 after SIGTERM, everything that was taken is committed and answered before the process ends, unless a
second signal comes.
"""

import gc
import resource
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from logging import getLogger
from os import getpid
from typing import Any

import trio

from syncd.app import VERSION, allocator, config, logs, merger
from syncd.app.admin import Admin
from syncd.app.collector import Collector
from syncd.app.config import Settings
from syncd.app.listening import CannotServe, Listeners, host_port, listeners
from syncd.app.metrics import CutOffs, Facts, Metrics, summary
from syncd.app.settings import HOUR_MS
from syncd.app.systemd import Notifier
from syncd.core.changes import Change, Void
from syncd.core.texts import Merging
from syncd.engine.commands import (
    Ack,
    AckConsumer,
    Collect,
    Command,
    Configure,
    Decision,
    DeleteOld,
    DropConsumer,
    DropLetter,
    EraseUser,
    Failed,
    Forget,
    Post,
    PostEvents,
    Push,
    ReplayLetter,
    Result,
    RevokeKey,
    UseConsumer,
)
from syncd.engine.engine import Engine
from syncd.engine.frontier import DAY_MS, Retention
from syncd.engine.quotas import Quotas
from syncd.env.ports import Environment, Listener, Transport, TransportClosed
from syncd.env.real import environment
from syncd.net.api.service import Api
from syncd.net.auth import Authenticator
from syncd.net.counters import Counters
from syncd.net.exchange import Health
from syncd.net.firing import FiringLoop
from syncd.net.gate import Gate
from syncd.net.http import HttpShell
from syncd.net.hub import Hub
from syncd.net.limits import DEFAULTS, NetLimits
from syncd.net.server import Server
from syncd.net.tending import LeaseTender
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.service import Decider
from syncd.store import keys
from syncd.store.api import Store, StoreError
from syncd.store.committer import Committer, Overloaded
from syncd.store.lmdb import open_store
from syncd.wire import limits as wire_limits

_log = getLogger(__name__)

DESCRIPTORS_RESERVED = 128  # for the store, logs, listeners, the admin's connections and the interpreter
COMMIT_HANGS_MS = 10_000  # a commit takes milliseconds, on a sick disk a second; beyond this probes should know
CUT_OFFS_S = 60.0  # between two lines about connections that were cut off
ADMIN_CONNECTIONS_MAX = 64  # operators and probes; more of them are a mistake or an attack
COMMAND_BYTES = 500  # of a command's own objects, beside what it carries
WEIGHED_DEPTH_MAX = 32  # of what is posted: operations nest 2 + 16 deep
VOIDED_MAX = 16  # numbers given up at once that add no data to speak of: each is a row, of 600 bytes with its reason
OPERATION_BYTES = 300  # of an operation's objects, beside its encoding
LONG_LIST = 64  # items; to look whether a shorter one holds but numbers costs more than to weigh each
_WEIGHED = frozenset({str, bytes, dict, list, tuple})

# Containers made since the last look for garbage, before the youngest are looked at. Nearly everything that a change
# makes goes by its reference count; with Python's 700, looking for cycles took a quarter of the processor time of
# durable pushes, over and over through the commands that wait. So many containers hold a few megabytes.
GARBAGE_COUNT = 50_000


def main(settings: Settings, environ: Mapping[str, str], announce: Callable[[Mapping[str, Any]], None]) -> None:
    """Run until a signal. `announce` gets what the ready line says.

    Raises `CannotServe`, `StoreError`, `ConfigError`.
    """
    logs.start(settings.config.log.level)
    allocator.settle()
    gc.freeze()  # modules and classes stay for good: they need not be looked at again
    gc.set_threshold(GARBAGE_COUNT, 10, 10)
    try:
        trio.run(partial(serve, settings, environment(), environ, announce))
    except BaseExceptionGroup as group:
        # What ended the process is what an operator can act on; the rest are its echoes in other tasks.
        expected = group.subgroup((StoreError, CannotServe, config.ConfigError))
        if expected is None:
            raise
        _log.debug("ended by an error", exc_info=group)
        raise _leaf(expected) from None


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first


async def serve(
    settings: Settings,
    env: Environment,
    environ: Mapping[str, str],
    announce: Callable[[Mapping[str, Any]], None],
) -> None:
    """The daemon from beginning to end, in the environment given."""
    with ExitStack() as stack:
        store = _opened(settings)
        stack.callback(store.close)
        if config.ensure_generated_key(settings, env.entropy.token):
            _log.info("no token key is configured: made one", extra={"file": str(settings.generated_key)})
        made = listeners(settings, environ, _log.warning)
        stack.callback(made.close)
        notifier = stack.enter_context(Notifier(environ))
        merging = None
        if merger.is_possible():
            merging = Merging(stack.enter_context(merger.Merger(_log.error)).merge)
        daemon = _Daemon(settings, env, environ, store, made, notifier, merging)
        await daemon.run(announce)
    _log.info("stopped")


class _Daemon:
    """The parts of a running daemon."""

    def __init__(
        self,
        settings: Settings,
        env: Environment,
        environ: Mapping[str, str],
        store: Store,
        listeners: Listeners,
        notifier: Notifier,
        merging: Merging | None,
    ) -> None:
        self._settings, self._env, self._store, self._notifier = settings, env, store, notifier
        self._environ = environ
        self._listeners = listeners
        self._began_ms = env.clock.now_ms()
        self._addresses = (host_port(listeners.clients), host_port(listeners.admin))
        limits, wire = _limits(settings)
        self._limits = limits
        _raise_descriptor_limit(limits.connections_max + limits.refusals_max + DESCRIPTORS_RESERVED)
        self._counters = Counters()
        self._gate = Gate(limits, self._counters)
        self._hub = Hub(limits, wire, self._counters)
        self._engine = engine = Engine(
            env.entropy.token, Quotas(**settings.config.quotas.model_dump()), _retention(settings),
            revocation_grace_ms=1000 * settings.config.retention.revocation_grace_s, further=carried_out,
            notices=Decider(Book()), merging=merging, schemas=settings.schemas,
        )  # fmt: skip
        self._committer: Committer[Command, Result, Decision] = Committer(
            store, engine.decide, lambda decision: decision.results, self._published, Failed,
            env.clock, env.offload, env.faults, adds_data=adds_data, size_bytes=size_bytes,
            observe=self._counters.committed,
        )  # fmt: skip
        self._firing = FiringLoop(store, self._committer, env.clock)
        self._collector = Collector(
            store, self._committer, env.clock.now_ms, _retention(settings), lambda: self._engine.schemas
        )
        auth = settings.config.auth
        authenticator = Authenticator(
            config.verifying_keys(settings), issuer=auth.issuer or None, audience=auth.audience or None,
            leeway_ms=auth.leeway_ms,
        )  # fmt: skip
        api = Api(
            store=store, committer=self._committer, authenticator=authenticator, clock=env.clock, health=self.health,
            waiters=self._hub.waiters, live=self._hub.live, uniform=env.entropy.uniform, gate=self._gate,
        )  # fmt: skip
        origins = settings.config.server.origins
        self._server = Server(
            env, self._hub, api, authenticator, store, self._committer, _log.error,
            name=f"syncd/{VERSION}", limits=limits, wire_limits=wire,
            origins=None if "*" in origins else frozenset(origins), gate=self._gate,
        )  # fmt: skip
        self._metrics = Metrics(self._counters, self._facts)
        self._tender = LeaseTender(self._committer, env.entropy, self._counters)
        self._is_stopping = False

    async def run(self, announce: Callable[[Mapping[str, Any]], None]) -> None:
        listeners = self._listeners
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                committed = trio.Event()
                await nursery.start(partial(self._run_committer, committed))
                await self._configure(self._settings)
                nursery.start_soon(self._collector.run)
                if listeners.proxied is not None:
                    nursery.start_soon(listeners.proxied.run)
                await nursery.start(self._server.serve, (listeners.clients,))
                nursery.start_soon(self._serve_admin, listeners.admin, False)
                nursery.start_soon(self._serve_admin, listeners.socket, True)
                nursery.start_soon(self._notifier.run_watchdog)
                nursery.start_soon(self._tender.run)
                nursery.start_soon(self._firing.run)
                nursery.start_soon(self._tell_cut_offs)
                self._tell_ready(announce)
                while (number := await anext(signals)) == signal.SIGHUP:
                    await self._reload()
                _log.info("stopping", extra={"signal": signal.Signals(number).name})
                nursery.start_soon(self._stop, committed, nursery.cancel_scope)
                while (number := await anext(signals)) == signal.SIGHUP:
                    pass  # what is stopping takes nothing new
                raise CannotServe(f"stopped at once by a second signal, {signal.Signals(number).name}")

    async def _run_committer(
        self, committed: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self._committer.run(task_status=task_status)
        committed.set()

    async def _configure(self, settings: Settings) -> None:
        """Take the definitions of notifications over. Runs in flight go on as they began."""
        result = await self._committer.execute(Configure(dict(settings.defined)))
        if isinstance(result, Failed):
            raise CannotServe(f"the workflows cannot be stored: {result.detail}")

    async def _reload(self) -> None:
        """SIGHUP: read the configuration again, and take over what defines notifications and schemas; all else needs a
        restart. A configuration with a mistake changes nothing."""
        try:
            found = config.loaded(self._settings.file, self._environ)
            await self._configure(found)
        except config.ConfigError as error:
            _log.error("the configuration is not reloaded: it has mistakes", extra={"problems": error.problems})
            return
        except (CannotServe, Overloaded) as error:
            _log.error("the configuration is not reloaded", extra={"reason": str(error)})
            return
        but_place = {"store": {"directory"}}  # which the command line may name in the file's stead
        if found.config.model_dump(exclude=but_place) != self._settings.config.model_dump(exclude=but_place):
            _log.warning("only notifications and schemas are reloaded; the rest of the configuration needs a restart")
        before, after = self._settings.definitions, found.definitions
        names = {*before.versions, *after.versions}
        changed = sorted(name for name in names if before.versions.get(name) != after.versions.get(name))
        is_new_schema = found.schemas.given != self._settings.schemas.given
        self._engine.schemas = found.schemas
        self._settings = replace(self._settings, defined=found.defined, definitions=after, schemas=found.schemas)
        told = {"workflows": changed, "policy": before.policy != after.policy, "schemas": is_new_schema}
        _log.info("reloaded", extra=told)

    async def _published(self, decision: Decision) -> None:
        for alarm in decision.alarms:
            _log.error("a defect was contained", extra={"alarm": alarm})
        self._counters.decided(decision)
        self._firing.heard(decision.due_ms)
        await self._hub.publish(decision)

    async def _tell_cut_offs(self) -> None:
        """One line a minute at most. Not a warning: it is what phones do; that all of them do so at once is news."""
        cut_offs = CutOffs(self._counters)
        while True:
            await trio.sleep(CUT_OFFS_S)
            if news := cut_offs.news():
                _log.info("connections were cut off", extra={**news, "within_s": int(CUT_OFFS_S)})

    def _tell_ready(self, announce: Callable[[Mapping[str, Any]], None]) -> None:
        clients, admin = self._addresses
        _log.info(
            "ready",
            extra={
                "http": clients, "admin": admin, "socket": str(self._settings.admin_socket),
                "store": str(self._settings.store_directory),
                "config": "none: defaults and variables" if self._settings.file is None else str(self._settings.file),
            },
        )  # fmt: skip
        announce({"event": "ready", "http": clients, "admin": admin, "pid": getpid()})
        self._notifier.notify("READY=1", f"STATUS=Serving on {clients}")

    async def _stop(self, committed: trio.Event, scope: trio.CancelScope) -> None:
        """The way down. The admin listeners serve to the end, so that an operator can see it happen."""
        self._is_stopping = True
        self._notifier.notify("STOPPING=1", "STATUS=Sending devices away")
        await self._server.drain(self._settings.config.drain.deadline_ms / 1000)
        self._committer.close()
        await committed.wait()
        scope.cancel()

    # -- the operators' side -------------------------------------------------------------------------------------

    async def _serve_admin(self, listener: Listener, is_trusted: bool) -> None:
        admin = Admin(
            self._store, self._committer, self._env.entropy, self._env.clock, self.health, self.status,
            self._metrics.text, is_trusted=is_trusted,
        )  # fmt: skip
        shell = HttpShell(admin.handle, _NoWebSockets(), self._env.clock, self._limits, _log.error)
        room = trio.Semaphore(ADMIN_CONNECTIONS_MAX)
        async with trio.open_nursery() as nursery:
            while True:
                await room.acquire()  # first the place: a connection that waits for one would belong to nobody
                transport = await listener.accept()
                nursery.start_soon(_converse, shell, transport, room)

    def health(self) -> Health:
        """Whether writes are taken. Reports what the last commits showed; writes nothing by itself."""
        reasons = []
        if self._is_stopping:
            reasons.append("the daemon is stopping")
        since_ms = self._committer.stats().writing_since_ms
        if since_ms is not None and self._env.clock.now_ms() - since_ms > COMMIT_HANGS_MS:
            reasons.append(
                f"a commit has not returned for more than {COMMIT_HANGS_MS // 1000} seconds: look at the disk"
            )
        used, limit = self._store.usage().used_bytes, self._settings.config.store.map_bytes_max
        if used > limit * self._committer.limits.full_share:
            reasons.append(f"the store is full: {used} of store.map_bytes_max = {limit} bytes are used")
        return Health(tuple(reasons))

    def _facts(self) -> Facts:
        """What is true now, for /metrics."""
        stats, usage = self._committer.stats(), self._store.usage()
        members = self._hub.members
        return Facts(
            connections=self._server.connection_count, polled=self._server.polled_count,
            waiting=self._hub.waiters.count, devices=len(members),
            behind=sum(member.delivery.is_behind for member in members), rooms=self._hub.room_count,
            queue_commands=stats.queue_count, queue_bytes=stats.queue_bytes, commands_failed=stats.failed,
            store_used_bytes=usage.used_bytes, store_bytes_max=self._settings.config.store.map_bytes_max,
            is_ready=self.health().is_ready,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        stats, usage, health = self._committer.stats(), self._store.usage(), self.health()
        with self._store.read() as tx:
            # Spaces are numbered from 1 without gaps and never removed: the last number is their count.
            last = tx.last(*keys.table_range(keys.SPACE_NAME))
        clients, admin = self._addresses
        return {
            "version": VERSION,
            "pid": getpid(),
            "uptime_ms": max(0, self._env.clock.now_ms() - self._began_ms),
            "ready": health.is_ready,
            "reasons": list(health.reasons),
            "http": clients,
            "admin": admin,
            "tls": bool(self._settings.config.tls.private_key),
            "connections": {
                "open": self._server.connection_count,
                "polled": self._server.polled_count,
                "devices": len(self._hub.members),
                "listened_spaces": self._hub.room_count,
                "waiting_requests": self._hub.waiters.count,
            },
            "spaces": 0 if last is None else int.from_bytes(last[0][1:5]),
            "commits": {
                "batches": stats.batches,
                "commands": stats.commands,
                "failed": stats.failed,
                "last_ms": stats.commit_ms_last,
            },
            "edge": summary(self._counters),
            "queue": {"commands": stats.queue_count, "used_bytes": stats.queue_bytes},
            "store": {
                "used_bytes": usage.used_bytes,
                "map_bytes": usage.limit_bytes,
                "map_max_bytes": self._settings.config.store.map_bytes_max,
            },
        }


class _NoWebSockets:
    """The admin listeners' `net.http.Door`."""

    is_draining = False

    def refused_s(self) -> float | None:
        return 1.0

    def request_refused_s(self, peer: str) -> float:
        return 0.0


async def _converse(shell: HttpShell, transport: Transport, room: trio.Semaphore) -> None:
    try:
        await shell.converse(transport)
    except TransportClosed:
        pass
    except Exception:
        _log.exception("an admin connection failed")
    finally:
        transport.abort()
        room.release()


# -- making the parts -------------------------------------------------------------------------------------------------


def _opened(settings: Settings) -> Store:
    room = settings.config.store
    try:
        settings.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_store(settings.store_directory, map_bytes=room.map_bytes, map_bytes_max=room.map_bytes_max)
    except OSError as error:
        raise CannotServe(
            f"cannot use the state directory {settings.state_directory} (store.directory): {error.strerror}"
        ) from None


def _limits(settings: Settings) -> tuple[NetLimits, wire_limits.Limits]:
    """The limits in force: those that are configured over the defaults."""
    server, reconnect, rates = settings.config.server, settings.config.reconnect, settings.config.rates
    net = NetLimits(
        upgrades_per_s_max=float(server.upgrades_per_s_max),
        upgrades_burst_max=float(server.upgrades_per_s_max),
        address_connections=DEFAULTS.address_connections.scaled(rates.address_connections_per_s),
        address_requests=DEFAULTS.address_requests.scaled(rates.address_requests_per_s),
        caller_requests=DEFAULTS.caller_requests.scaled(rates.caller_requests_per_s),
        address_failures=DEFAULTS.address_failures.scaled(rates.address_failures_per_min / 60),
        user_bytes=DEFAULTS.user_bytes.scaled(rates.user_bytes_per_s),
        user_changes=DEFAULTS.user_changes.scaled(rates.user_changes_per_s),
        connections_max=server.connections_max,
        connections_per_address_max=server.connections_per_address_max,
        connections_per_user_max=server.connections_per_user_max,
        polled_max=server.polled_max,
        ping_ms=settings.config.keepalive.ping_ms,
        ack_ms=settings.config.keepalive.ack_ms,
        first_jitter_ms=reconnect.first_jitter_ms,
        backoff_ms=reconnect.backoff_ms,
        backoff_ms_max=reconnect.backoff_max_ms,
        stable_ms=reconnect.stable_ms,
        goaway_spread_ms=settings.config.drain.spread_ms,
        goaway_absence_ms=settings.config.drain.absence_ms,
    )
    return net, wire_limits.Limits(**settings.config.limits.model_dump())


def _retention(settings: Settings) -> Retention:
    found = settings.config.retention
    return Retention(
        lapse_ms=found.lapse_days * DAY_MS,
        lapse_bytes=found.lapse_bytes,
        recent_ms=found.recent_hours * HOUR_MS,
        history_ms=found.history_days * DAY_MS,
        is_collecting=found.collect,
    )


def _raise_descriptor_limit(needed: int) -> None:
    """Take as many file descriptors as the connections need, or all that the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        extra = {"allowed": allowed, "needed": needed}
        _log.info("fewer file descriptors than server.connections_max needs; LimitNOFILE raises them", extra=extra)


# -- what the committer needs to know of commands ---------------------------------------------------------------------


def adds_data(command: Command) -> bool:
    """Whether a command is refused while the store is nearly full: all but those that make room or only tell."""
    match command:
        case (
            Configure()
            | EraseUser()
            | Ack()
            | Forget()
            | RevokeKey()
            | UseConsumer()
            | AckConsumer()
            | DropConsumer()
            | DropLetter()
            | Collect()
            | DeleteOld()
        ):
            return False
        case Push():
            return not all(
                (isinstance(change, Void) and change.last - change.n < VOIDED_MAX)
                or (isinstance(change, Change) and all(operation.verb == "delete" for operation in change.operations))
                for change in command.changes
            )
        case _:
            return True


def size_bytes(command: Command) -> int:
    """About how much memory a command holds while it waits."""
    match command:
        case Push():
            return COMMAND_BYTES + sum(
                COMMAND_BYTES + OPERATION_BYTES * (change.last - change.n + 1)
                if isinstance(change, Void)
                else COMMAND_BYTES + 2 * len(change.payload) + OPERATION_BYTES * len(getattr(change, "operations", ()))
                for change in command.changes
            )
        case Post() | ReplayLetter():
            return COMMAND_BYTES + _weight(command.operations)
        case PostEvents():
            return COMMAND_BYTES + sum(COMMAND_BYTES + _weight(event.data) for event in command.events)
        case _:
            return COMMAND_BYTES


def _weight(value: object, depth: int = 0) -> int:
    """About how many bytes a decoded value takes. What lies deeper than any value may is not looked at: it will be
    refused, and there can be little of it for what is above. Exact types are asked for, as decoders make no others."""
    kind = type(value)
    if kind is str or kind is bytes:
        return 50 + len(value)  # type: ignore[arg-type]
    if depth < WEIGHED_DEPTH_MAX:
        if kind is dict:
            weight = 100
            for key, item in value.items():  # type: ignore[attr-defined]
                weight += _weight(key) + _weight(item, depth + 1)
            return weight
        if kind is list or kind is tuple:
            count = len(value)  # type: ignore[arg-type]
            if count >= LONG_LIST and _WEIGHED.isdisjoint(map(type, value)):  # type: ignore[call-overload]
                return 60 + 38 * count  # of numbers there may be millions
            weight = 60
            for item in value:  # type: ignore[attr-defined]
                weight += 8 + _weight(item, depth + 1)
            return weight
    return 30
