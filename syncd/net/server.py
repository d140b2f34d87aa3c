"""The server: listeners, admission, and the life of every connection.

Owns the tasks (one for each listener, one for each connection, the wheel, and the pumps of slow ones), the counts that
admission goes by, and the way to the end. Must not know what is said on a connection (`http`, `connection`).

All connections and pumps are tasks of one nursery. A nursery for each connection would be the tidier shape, but costs
an idle one about as much memory again as its reader; that no task outlives its owner is kept by `Delivery.abort`.

Invariants: S1 no connection is kept beyond `connections_max` that are served and `refusals_max` that are told to come
back; of the latter none takes the place of one of the former, however many an address opens. S2 what one connection
raises ends that connection only. S3 after `drain` no connection is left.
"""

import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from syncd.engine.commands import Command, Decision, Result
from syncd.env.ports import Environment, Listener, Transport, TransportClosed
from syncd.net.auth import Authenticator
from syncd.net.channels import Wiring
from syncd.net.connection import Connection
from syncd.net.exchange import Later, Request, Response
from syncd.net.fallback import Fallback
from syncd.net.gate import Gate, counted_as
from syncd.net.http import HttpShell, is_sync
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.net.pages import Pages
from syncd.net.rates import Rate, RateTable
from syncd.net.services import Services
from syncd.net.turns import Turns
from syncd.net.wheel import Wheel
from syncd.store.api import Store
from syncd.store.committer import Committer
from syncd.wire.limits import DEFAULT, EVENTS_BURST_MAX, Limits

SECRET_BYTES = 32  # behind the names by which devices hear of each other


class Api(Protocol):
    """What answers plain HTTP requests."""

    async def handle(self, request: Request) -> Response | Later: ...


class Server:
    """HTTP and WebSocket on the given listeners. `name` goes into `welcome`; `log` takes one text."""

    def __init__(
        self,
        env: Environment,
        hub: Hub,
        api: Api,
        authenticator: Authenticator,
        store: Store,
        committer: Committer[Command, Result, Decision],
        log: Callable[[str], None],
        *,
        name: str = "syncd",
        limits: NetLimits | None = None,
        wire_limits: Limits = DEFAULT,
        origins: frozenset[str] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._env, self._hub, self._authenticator = env, hub, authenticator
        self._store, self._committer, self._log = store, committer, log
        self._limits, self._wire_limits = limits or NetLimits(), wire_limits
        self._name = name
        self._gate, self._counters = gate or Gate(self._limits, hub.counters), hub.counters
        self._api, self._origins = api, origins
        self._fallback: Fallback | None = None  # while `serve` runs
        self._http = HttpShell(self._handled, self, env.clock, self._limits, log, origins, self._counters)
        self._hosts: dict[str, int] = {}  # connections that are served, by address
        self._count = 0
        self._refusing_count = 0  # connections that are only told to come back; not in the other counts
        self._upgrades = self._limits.upgrades_burst_max  # what is left in the bucket
        self._upgrades_s = 0.0
        self._listeners: Sequence[Listener] = ()
        self._scope = trio.CancelScope()
        self.is_draining = False

    @property
    def connection_count(self) -> int:
        return self._count + self._refusing_count

    @property
    def polled_count(self) -> int:
        """Polled connections that are open."""
        return 0 if self._fallback is None else self._fallback.open_count

    @property
    def remembered_count(self) -> int:
        """Polled connections that have ended, and whose end can still be asked for."""
        return 0 if self._fallback is None else self._fallback.remembered_count

    async def serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `drain` is done, or until cancelled: then every connection is cut off."""
        self._listeners = listeners
        self._upgrades_s = trio.current_time()
        wheel = Wheel()
        with self._scope:
            async with trio.open_nursery() as nursery:
                channels_max = self._wire_limits.subscriptions_max + self._wire_limits.pushes_in_flight_max
                wiring = Wiring(
                    self._store,
                    self._hub,
                    nursery,
                    Pages(self._limits.shared_pages_bytes_max),
                    self._limits.control_bytes_max,
                    channels_max,
                    self._counters,
                    self._limits.signals_held_max,
                    self._limits.signals_held_bytes_max,
                    Turns(),
                )
                told = Rate(self._wire_limits.events_per_minute_max / 60, EVENTS_BURST_MAX)
                services = Services(
                    self._store, self._committer, self._authenticator, self._gate, self._hub, wheel, wiring,
                    self._env.clock, self._env.entropy, self._limits, self._wire_limits,
                    RateTable(told, self._limits.rate_entries_max), self._name, self._wire_limits.welcome(),
                    self._limits.reconnect(), self._log,
                )  # fmt: skip
                self._fallback = Fallback(services, self, self._origins)
                await nursery.start(wheel.run)
                self._hub.live.start(wheel, self._env.entropy.token(SECRET_BYTES))
                nursery.start_soon(self._hub.live.run, self._log)
                self._hub.attendance.start(self._env.clock)
                nursery.start_soon(self._hub.attendance.run, self._store, self._committer, self._log)
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, services)
                task_status.started()

    async def drain(self, deadline_s: float) -> None:
        """Accept nothing more, send every device away in its own time, close what is left, answer the requests that
        were taken, and end `serve`."""
        due_s = trio.current_time() + deadline_s
        self.is_draining = True
        for listener in self._listeners:
            listener.close()
        for idle in list(self._http.idle):
            idle.cancel()
        await self._hub.drain(deadline_s, self._env.entropy.uniform)
        with trio.move_on_at(due_s):
            await self._http.wait_answered()
        self._scope.cancel()

    async def _handled(self, request: Request) -> Response | Later:
        """A request is the API's, or it carries a conversation."""
        if not is_sync(request.path):
            return await self._api.handle(request)
        assert self._fallback is not None, "requests come while `serve` runs"
        return await self._fallback.handle(request)

    # -- admission -----------------------------------------------------------------------------------------------

    async def _accept(self, listener: Listener, services: Services) -> None:
        counted, nursery = self._counters.connections, services.wiring.nursery
        try:
            while True:
                transport = await listener.accept()
                # Counted and judged here, not in the task: a burst must not pass before its tasks have begun.
                host = counted_as(transport.peer)
                problem = self._unwelcome(host, transport.peer)
                if problem is None:
                    counted["served"] += 1
                    self._count += 1
                    self._hosts[host] = self._hosts.get(host, 0) + 1
                    nursery.start_soon(self._connection, transport, host, services)
                elif self._refusing_count < self._limits.refusals_max:
                    self._refusing_count += 1
                    nursery.start_soon(self._refusal, transport, problem)
                else:
                    counted["dropped"] += 1
                    transport.abort()  # too many even to be told so
        except TransportClosed:
            return

    def _unwelcome(self, host: str, peer: str) -> str | None:
        """The problem with one more connection of this address, None: it is served."""
        limits, counted = self._limits, self._counters.connections
        if self._count >= limits.connections_max:
            counted["refused_full"] += 1
            return "overloaded"
        if self._hosts.get(host, 0) >= limits.connections_per_address_max:
            counted["refused_address"] += 1
            return "overloaded"
        if self._gate.connection_refused_s(peer):
            counted["refused_rate"] += 1
            return "rate-limited"
        return None

    async def _connection(self, transport: Transport, host: str, services: Services) -> None:
        """The whole life of one accepted connection."""
        try:
            if (upgrade := await self._http.converse(transport)) is not None:
                connection = Connection(transport, upgrade, services)
                del upgrade  # this frame lives as long as the connection
                await connection.run()
        except TransportClosed:
            pass
        except Exception:
            self._log(f"the connection of {transport.peer} failed\n{traceback.format_exc()}")
        finally:
            transport.abort()
            self._count -= 1
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    async def _refusal(self, transport: Transport, problem: str) -> None:
        """The whole life of a connection that is one too many."""
        try:
            await self._http.refuse(transport, problem, self._retry_s())
        except TransportClosed:
            pass
        except Exception:
            self._log(f"the refusal of {transport.peer} failed\n{traceback.format_exc()}")
        finally:
            transport.abort()
            self._refusing_count -= 1

    def _retry_s(self) -> float:
        return self._env.entropy.uniform(self._limits.refused_retry_min_s, self._limits.refused_retry_max_s)

    def refused_s(self) -> float | None:
        """Asked for each upgrade: a token bucket below the rate that was measured, before any authentication."""
        limits, now_s = self._limits, trio.current_time()
        earned = (now_s - self._upgrades_s) * limits.upgrades_per_s_max
        self._upgrades = min(limits.upgrades_burst_max, self._upgrades + earned)
        self._upgrades_s = now_s
        if self.is_draining or self._upgrades < 1:
            return self._retry_s()
        self._upgrades -= 1
        return None

    def request_refused_s(self, peer: str) -> float:
        wait_s = self._gate.request_refused_s(peer)
        # Those behind one address are told different times, or they would return as one.
        return wait_s and wait_s + self._env.entropy.uniform(0, self._limits.refused_retry_min_s)
