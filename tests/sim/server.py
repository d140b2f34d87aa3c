"""The machine of the server: the real store layout, engine, committer, hub, API and listener, on simulated ports.

Owns its power switch. A kill unplugs its ports before its tasks are cancelled, so that no `finally` of a dead process
says anything; what it finds when it starts again is the image of its last commit. Every commit is reported at the
moment at which it is durable, before anyone is told of it.
"""

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import trio

from syncd.app.collector import SWEEP_S, Collector
from syncd.app.daemon import adds_data, size_bytes
from syncd.core.texts import Merging
from syncd.engine.batch import space_row
from syncd.engine.commands import Command, Decision, Failed, Result
from syncd.engine.engine import Engine
from syncd.engine.frontier import Retention
from syncd.engine.schemas import Schemas
from syncd.env.ports import Environment, T, Ts
from syncd.net.api import Api
from syncd.net.auth import Authenticator, Principal, token_key
from syncd.net.counters import Counters
from syncd.net.exchange import Health
from syncd.net.firing import FiringLoop
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.net.server import Server
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.service import Decider
from syncd.store import fsck
from syncd.store.api import StoreError
from syncd.store.committer import Committer
from syncd.store.memory import MemoryStore
from syncd.wire.limits import Limits
from tests.sim.auditor import Violation
from tests.sim.clocks import SimClock, SimEntropy
from tests.sim.determinism import sleep
from tests.sim.network import Network, SimListener, Socket
from tests.sim.trace import Trace

KEY = token_key("sim", "HS256", b"a secret of at least thirty-two bytes")
ROOM_BYTES = 1 << 30
FRAME_BYTES = Limits().delta_bytes_max + 16  # and its head
DEATH_S = 2.0  # after a failed sync


class PowerCut(BaseException):
    """The machine dies here. No `except Exception` of the program may survive it."""


class DiskFailed(StoreError):
    """A sync failed: nobody knows what is durable. The process must end, and does not try again."""


class SimStore(MemoryStore):
    """A store of which an operator can alter the limit."""

    def give(self, limit_bytes: int) -> None:
        self._limit_bytes = self._limit_bytes_max = limit_bytes


class Disk:
    """The offload port: runs transactions inline after a latency, and reports what they committed. It does nothing once
    the machine is dead. `fault`: reached at the named points of the committer."""

    def __init__(self, server: "SimServer", life: int) -> None:
        self._server, self._life = server, life
        self._lock = trio.Lock()

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        server = self._server
        async with self._lock:
            await sleep(server.random.random() * server.disk_s)
            if server.life != self._life:
                await trio.sleep_forever()
            failing, server.failing = server.failing, None
            if failing == "before":
                raise server.failed()
            result = fn(*args)
            server.committed(args, result)
            if failing == "after":
                raise server.failed()
            await sleep(server.random.random() * server.disk_s)  # the sync returns later than it took effect
            if server.life != self._life:
                await trio.sleep_forever()
            return result

    def reach(self, name: str) -> None:
        server = self._server
        if server.life == self._life and server.random.random() < server.fault_share:
            server.trace.record("server", f"power cut at {name}")
            server.power_cuts[name] = server.power_cuts.get(name, 0) + 1
            server.unplug()
            raise PowerCut(name)


class Defects(logging.Handler):
    """What the program's own log calls an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


class Doorkeeper(Authenticator):
    """Tells which tokens were accepted, at the moment at which they are."""

    def __init__(self, accepted: Callable[[str], None]) -> None:
        super().__init__([KEY])
        self._on_accepted = accepted

    def token(self, token: str, now_ms: int, token_digest: bytes = b"") -> Principal:
        principal = super().token(token, now_ms, token_digest)
        self._on_accepted(token)
        return principal


class SimServer:
    """`life` is the number of the present life, odd while the machine is up."""

    def __init__(
        self,
        random: Random,
        network: Network,
        trace: Trace,
        net_limits: NetLimits,
        wire_limits: Limits,
        on_commit: Callable[[int, Sequence[Command], Sequence[Result], Decision], None],
        on_token: Callable[[str], None],
    ) -> None:
        self.random, self.trace = random, trace
        self.clock = SimClock()
        self.disk_s, self.fault_share = 0.0, 0.0
        self.life = 0
        self.defects: list[str] = []
        self.power_cuts: dict[str, int] = {}  # by the point at which the power went
        self.failing: str | None = None  # the next commit fails: `before` or `after` it took effect
        self.failed_life, self.failed_s = 0, 0.0
        self.counters = Counters()  # of all lives
        self.limit_bytes = ROOM_BYTES
        self.retention: Retention | None = None  # None: no collector runs
        self.schemas = Schemas()
        self.sweep_s = SWEEP_S  # between two sweeps of the collector
        self.is_deciding = False  # about notifications; else what backends post is shown at once
        self.is_draining = False
        self.server: Server | None = None
        self.hub: Hub | None = None
        self.committer: Committer[Command, Result, Decision] | None = None
        self._entropy = SimEntropy(Random(random.random()))
        self._network, self._net_limits, self._wire_limits = network, net_limits, wire_limits
        self._on_commit, self._on_token = on_commit, on_token
        self.store = SimStore()
        self._scope = trio.CancelScope()
        self._is_down = trio.Event()
        self._sound: dict[bytes, bytes] = {}  # the image that fsck saw last

    @property
    def is_going(self) -> bool:
        """Whether this life is about to end."""
        return self.is_draining or self.failed_life == self.life

    def failed(self) -> DiskFailed:
        """The disk has failed under this life."""
        self.failed_life, self.failed_s = self.life, trio.current_time()
        self.trace.record("server", "the disk failed")
        return DiskFailed("the disk failed")

    def fill_up(self, share: float) -> None:
        """The file system is nearly full: what is stored is this share of what there is room for."""
        self.limit_bytes = int(self.store.usage().used_bytes / share)
        self.store.give(self.limit_bytes)

    def make_room(self) -> None:
        self.limit_bytes = ROOM_BYTES
        self.store.give(self.limit_bytes)

    def epoch(self, space: str) -> bytes | None:
        with self.store.read() as tx:
            row = space_row(tx, space)
        return None if row is None else row.epoch

    def committed(self, args: Any, result: Any) -> None:
        now_ms, commands = args
        self.trace.record("server", f"committed {len(commands)} commands")
        self._on_commit(now_ms, commands, result[0], result[1])

    # -- power ---------------------------------------------------------------------------------------------------

    def unplug(self) -> None:
        """From here on, nothing that this life does has an effect on anyone."""
        if self.life % 2:
            self.life += 1
            self._network.unplug_server()
            self._scope.cancel()

    @property
    def is_down(self) -> bool:
        """Whether every task of the last life has ended."""
        return self._is_down.is_set()

    async def wait_down(self) -> None:
        await self._is_down.wait()

    async def kill(self) -> None:
        self.trace.record("server", "killed")
        self.unplug()
        await self._is_down.wait()

    async def stop(self, deadline_s: float) -> None:
        """Stop as on SIGTERM: drain, commit what was taken, end."""
        self.trace.record("server", "stopping")
        server, committer, is_down = self.server, self.committer, self._is_down
        assert server is not None and committer is not None
        self.is_draining = True
        await server.drain(deadline_s)
        committer.close()
        await is_down.wait()
        self.trace.record("server", "stopped")

    async def start(self, nursery: trio.Nursery) -> None:
        assert self.life % 2 == 0
        self.store = SimStore(self.limit_bytes, image=self.store.image())
        self.check_store()
        self.life += 1
        self.is_draining = False
        self._is_down = trio.Event()
        self._network.reset_unplugged(None)
        self.trace.record("server", f"started, life {self.life}")
        await nursery.start(self._live)

    def check_store(self) -> None:
        """S13. What was found sound, and is byte for byte the same, is not looked through again."""
        image = self.store.image()
        if image == self._sound:
            return
        with self.store.read() as tx:
            findings = list(fsck.check(tx))
        if findings:
            raise Violation("S13", f"fsck: {findings[:3]}")
        self._sound = image

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._scope = trio.CancelScope()
        life = self.life
        try:
            with self._scope:
                await self._run(life, task_status)
        except* (PowerCut, DiskFailed):
            pass
        finally:
            if self.life == life:
                self.life += 1
                self._network.unplug_server()
            self._is_down.set()

    async def _run(self, life: int, task_status: trio.TaskStatus[None]) -> None:
        disk = Disk(self, life)
        env = Environment(self.clock, self._entropy, disk, disk)
        self.hub = hub = Hub(self._net_limits, self._wire_limits, self.counters)
        engine = Engine(
            self._entropy.token, retention=self.retention, merging=Merging(b"".join, 8, 2), further=carried_out,
            notices=Decider(Book()) if self.is_deciding else None, schemas=self.schemas,
        )  # fmt: skip

        async def published(decision: Decision) -> None:
            firing.heard(decision.due_ms)
            await hub.publish(decision)

        self.committer = committer = Committer(
            self.store, engine.decide, lambda decision: decision.results, published, Failed, self.clock, disk, disk,
            adds_data=adds_data, size_bytes=size_bytes,
        )  # fmt: skip
        firing = FiringLoop(self.store, committer, self.clock)
        authenticator = Doorkeeper(self._on_token)
        api = Api(
            store=self.store, committer=committer, authenticator=authenticator, clock=self.clock, health=Health,
            waiters=hub.waiters, live=hub.live, uniform=self._entropy.uniform,
        )  # fmt: skip
        self.server = server = Server(
            env, hub, api, authenticator, self.store, committer, self._log,
            limits=self._net_limits, wire_limits=self._wire_limits,
        )  # fmt: skip
        self._network.listener = listener = SimListener()
        async with trio.open_nursery() as idle:
            if self.retention is not None:
                collector = Collector(
                    self.store, committer, self.clock.now_ms, self.retention, lambda: engine.schemas, self.sweep_s
                )
                idle.start_soon(collector.run)
            if self.is_deciding:
                idle.start_soon(firing.run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(committer.run)
                nursery.start_soon(server.serve, (listener,))
                task_status.started()
            idle.cancel_scope.cancel()

    def _log(self, text: str) -> None:
        if self.life % 2 and not text.startswith("alarm: "):  # of positions that a rogue invents
            self.defects.append(text)

    def check_bounds(self) -> None:
        """S14, at any moment."""
        if self.life % 2 == 0 or self.hub is None or self.committer is None:
            return
        stats = self.committer.stats()
        if stats.queue_count > 4096 or stats.queue_bytes > 64 << 20:
            raise Violation("S14", f"the committer's queue holds {stats.queue_count} commands")
        if self.failed_life == self.life and trio.current_time() > self.failed_s + DEATH_S:
            raise Violation("S1", "the server goes on after its disk failed", "server")
        for member in self.hub.members:
            delivery = member.delivery
            # One remainder of what was handed over at once, control messages behind it, and signals behind all. Polls
            # take whole frames.
            limits, is_socket = self._net_limits, isinstance(delivery.transport, Socket)
            longest = delivery.transport.longest_bytes if isinstance(delivery.transport, Socket) else FRAME_BYTES
            bound = longest + limits.control_bytes_max
            signals_bytes = delivery.signals_bytes
            if delivery.waiting_bytes - signals_bytes > bound or signals_bytes > limits.signals_held_bytes_max:
                told = f"{delivery.waiting_bytes} bytes wait for one device, {signals_bytes} of them signals"
                raise Violation("S14", f"{told}; more than {bound} or {limits.signals_held_bytes_max}")
            since_s = trio.current_time() - delivery.progress_s
            patience_s = limits.no_progress_s if is_socket else max(limits.no_progress_s, limits.polled_no_progress_s)
            if delivery.is_stalled and since_s > patience_s + 5:
                raise Violation("S14", f"{delivery.transport.peer} has taken nothing for {since_s:.0f} s", "server")
            if len(delivery.channels) > self._wire_limits.subscriptions_max + self._wire_limits.pushes_in_flight_max:
                raise Violation("S14", f"a connection has {len(delivery.channels)} channels")
