"""A server that decides, and people with real reference clients, under a clock that goes as fast as it is let.

Shells wait by trio's clock, which a `MockClock` moves; the wall clock is ahead of it by what `pass_until` has skipped.
That stops at each timer, as one that is found late is taken for one that fell due in a downtime.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import trio

from syncd.core.ids import INBOX
from syncd.engine.commands import Command, Configure, Decision, Done, Event, EventResults, Failed, PostEvents, Result
from syncd.engine.engine import Engine
from syncd.engine.grants import Grant, Role
from syncd.env.memory import InlineOffload, MemoryListener, MemoryTransport
from syncd.env.ports import Environment
from syncd.env.real import NoFaults
from syncd.net.auth import Authenticator, sign_token
from syncd.net.firing import FiringLoop
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.net.server import Server
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.service import Decider
from syncd.store import fsck, keys
from syncd.store.committer import Committer
from syncd.store.memory import MemoryStore
from syncd.store.tables import DECISIONS, DecisionRow
from syncd.wire.limits import DEFAULT
from syncd_client import Device, Ports, open_device
from tests.engine.kit import api_key
from tests.net.devices import Line
from tests.net.harness import KEY, Echo, Entropy
from tests.notify.kit import DAY_MS, HOUR_MS, at
from tests.sim.sockets import SimWebSocket, connect_websocket

HOP_MS = 20 * HOUR_MS  # a wall clock that leaps by more than a day is not believed
LOOK_S = 2.5  # in which the firing loop looks, what it decides is committed, and reaches the devices


@dataclass
class WallClock:
    """Ahead of trio's by what was skipped."""

    ahead_ms: int

    def now_ms(self) -> int:
        return self.ahead_ms + round(trio.current_time() * 1000)


class Town:
    """One running server. Made by `town`."""

    def __init__(self, store: MemoryStore, clock: WallClock, directory: Path) -> None:
        self.store, self.clock, self.directory = store, clock, directory
        self.listener = MemoryListener()
        self.alarms: list[str] = []
        self.events = 0
        self.engine = Engine(Random(1).randbytes, further=carried_out, notices=Decider(Book()))
        self.hub = Hub(NetLimits(), DEFAULT)
        self.committer: Committer[Command, Result, Decision] = Committer(
            store, self.engine.decide, lambda decision: decision.results, self._published, Failed, clock,
            InlineOffload(), NoFaults(), adds_data=lambda command: True, size_bytes=lambda command: 100,
        )  # fmt: skip
        self.firing = FiringLoop(store, self.committer, clock)

    async def _published(self, decision: Decision) -> None:
        self.alarms.extend(decision.alarms)
        self.firing.heard(decision.due_ms)
        await self.hub.publish(decision)

    # -- what happens ------------------------------------------------------------------------------------------------

    async def configure(self, values: dict[str, Any]) -> None:
        assert isinstance(await self.committer.execute(Configure(values)), Done)

    async def event(self, type: str, user: str, **data: Any) -> None:
        """A backend posts an event."""
        self.events += 1
        event = Event(self.events.to_bytes(16), "https://app", str(self.events), type, user, None, data)
        result = await self.committer.execute(PostEvents(api_key(), (event,), 7 * DAY_MS))
        assert isinstance(result, EventResults) and result.results[0][0] == "accepted"

    @asynccontextmanager
    async def device(self, user: str, number: int = 1, *, online: bool = True) -> AsyncIterator[Device]:
        """A reference client of a user, with a store that is kept from one opening to the next."""
        space, name = f"user/{user}", f"{user}-{number}"

        def token() -> str:
            return sign_token(KEY, user, [Grant(space, Role.OWNER)], 3600, self.clock.now_ms())

        async def awake() -> None:
            pass

        def connect(url: str, subprotocol: str) -> AbstractAsyncContextManager[SimWebSocket]:
            links: Any = self
            return connect_websocket(links, name, subprotocol, Line(), awake, lambda refused: None)

        ports = Ports(self.clock.now_ms, Random(name).randbytes, connect)
        async with open_device(
            self.directory / name, url="ws://server.invalid/v1/sync", token=token, ports=ports, durability="off",
            online=online,
        ) as device:  # fmt: skip
            device.space(space).subscribe()
            if online:
                await device.space(space).wait_complete()
            yield device

    async def connect(self, device: str) -> MemoryTransport:
        """A new stream to the server, for `connect_websocket`."""
        await trio.lowlevel.checkpoint()
        return self.listener.connect()

    async def visits(self, user: str, number: int = 1) -> None:
        """The person opens the app for a moment."""
        async with self.device(user, number) as device:
            await device.sync()

    # -- time --------------------------------------------------------------------------------------------------------

    async def pass_until(self, now: int | str) -> None:
        """Time passes; what falls due meanwhile is fired at its moment, and reaches whoever is connected."""
        until_ms = at(now) if isinstance(now, str) else now
        while (wait_ms := until_ms - self.clock.now_ms()) > 0:
            with self.store.read() as tx:
                first = next(tx.scan(*keys.table_range(keys.TIMER)), None)
            if first is not None:
                wait_ms = min(wait_ms, keys.parse_timer(first[0])[0] - self.clock.now_ms())
            self.clock.ahead_ms += max(0, min(wait_ms, HOP_MS))
            await trio.sleep(LOOK_S)

    async def passes(self, ms: int) -> None:
        await self.pass_until(self.clock.now_ms() + ms)

    # -- what is there -----------------------------------------------------------------------------------------------

    def decisions(self, user: str) -> list[DecisionRow]:
        with self.store.read() as tx:
            return [row for _, row in DECISIONS.scan(tx, keys.of_user_range(keys.DECISION, keys.owner(user)))]


def inbox(device: Device, user: str) -> list[dict[str, Any]]:
    """What the device has in its inbox, oldest first."""
    found = [dict(document.fields) for document in device.space(f"user/{user}").documents(INBOX)]
    return sorted(found, key=lambda fields: fields["at"])


@asynccontextmanager
async def town(directory: Path, values: dict[str, Any], now: str = "2026-03-02 10:00") -> AsyncIterator[Town]:
    """A server with these workflows, from a moment on."""
    clock = WallClock(at(now) - round(trio.current_time() * 1000))
    found = Town(MemoryStore(1 << 30), clock, directory)
    env = Environment(clock, Entropy(), InlineOffload(), NoFaults())
    logs: list[str] = []
    server = Server(
        env, found.hub, Echo(), Authenticator([KEY]), found.store, found.committer, logs.append, limits=NetLimits(),
        wire_limits=DEFAULT, origins=None,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        await nursery.start(found.committer.run)
        await nursery.start(lambda task_status: server.serve([found.listener], task_status=task_status))
        nursery.start_soon(found.firing.run)
        await found.configure(values)
        yield found
        nursery.cancel_scope.cancel()
    assert not found.alarms and not logs, (found.alarms, logs)
    with found.store.read() as tx:
        assert not list(fsck.check(tx))
