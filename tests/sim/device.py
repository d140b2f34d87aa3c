"""The machine of a device: the real reference client, with a disk, a clock, a token provider and a power switch.

A kill unplugs its links and cancels the client, which says no farewell; its SQLite store keeps what was committed.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import trio

from syncd_client import Device, Ports, open_device
from syncd_client.carriers import Mode
from syncd_client.errors import Unreachable
from syncd_client.shell import Connect
from tests.sim.clocks import SimClock
from tests.sim.network import Network
from tests.sim.polling import connect_as
from tests.sim.sockets import Refused, SimWebSocket, Tap, connect_websocket
from tests.sim.trace import Trace


def _steady() -> tuple[str, float]:
    """Machines are not started anew here, only what runs on them."""
    return "machine", trio.current_time()


class SimDevice:
    """`client` is None while the machine is off."""

    def __init__(
        self,
        name: str,
        user: str,
        binding: str,
        directory: Path,
        random: Random,
        network: Network,
        trace: Trace,
        token: Callable[["SimDevice"], str],
        tap: Callable[["SimDevice"], Tap],
        refused: Callable[[Refused], None],
        carrier: tuple[Mode, bool] = ("websocket", False),
        polled: Callable[[], None] = lambda: None,
        loses: Callable[[], bool] = lambda: False,
    ) -> None:
        """`carrier`: which one the client is told to use, and whether its network takes the `Upgrade` away. `polled`:
        hears of each connection that polls carry. `loses`: whether an answer to a poll is lost now."""
        self.name, self.user, self.binding = name, user, binding
        self.random = random
        self.clock = SimClock()
        self.client: Device | None = None
        self._id = b""
        self.is_cloned = False
        self.is_damaged = False  # its store was, behind its back
        self.directory = directory
        self._network, self._trace = network, trace
        self._token, self._tap, self._refused = token, tap, refused
        self._awake = trio.Event()
        self._awake.set()
        self._entropy = Random(random.random())
        self._mode, self._is_stripped = carrier
        self._polled, self._loses = polled, loses
        self._scope = trio.CancelScope()
        self._leaving = trio.Event()
        self._is_down = trio.Event()
        self._is_down.set()

    @property
    def id(self) -> bytes:
        """The id that it has now: a device whose store was copied takes another one."""
        if self.client is not None:
            self._id = self.client.id
        return self._id

    @property
    def is_on(self) -> bool:
        return self.client is not None

    def stop_reading(self) -> None:
        """The app is frozen, or busy: nothing is taken from its sockets."""
        self._awake = trio.Event()

    def read_on(self) -> None:
        self._awake.set()

    async def _wait_awake(self) -> None:
        if not self._awake.is_set():
            await self._awake.wait()

    async def wait_down(self) -> None:
        await self._is_down.wait()

    async def start(self, nursery: trio.Nursery) -> None:
        assert self._is_down.is_set()
        self._network.reset_unplugged(self.name)
        self._is_down = trio.Event()
        self._leaving = trio.Event()
        await nursery.start(self._live)
        self._trace.record(self.name, "started")

    async def kill(self) -> None:
        self._trace.record(self.name, "killed")
        self._network.unplug(self.name)
        self.client = None
        self._scope.cancel()
        await self._is_down.wait()

    async def stop(self) -> None:
        self._trace.record(self.name, "closed")
        self.client = None
        self._leaving.set()
        await self._is_down.wait()

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._scope = trio.CancelScope()
        connect: Connect = self._connect
        if self._mode != "websocket":
            connect = connect_as(
                self._mode, self._network, self.name, self._entropy.randbytes, self._wait_awake, self._connect,
                lambda: self._tap(self), self._polled, self._loses,
            )  # fmt: skip
        ports = Ports(self.clock.now_ms, self._entropy.randbytes, connect, steady=_steady)
        binding: Any = self.binding
        try:
            with self._scope:
                async with open_device(
                    self.directory, url="ws://server.invalid/v1/sync", token=lambda: self._token(self),
                    binding=binding, ports=ports, durability="off",
                ) as client:  # fmt: skip
                    self.client, self._id = client, client.id
                    task_status.started()
                    await self._leaving.wait()
        finally:
            self.client = None
            self._is_down.set()

    def _connect(self, url: str, subprotocol: str) -> AbstractAsyncContextManager[SimWebSocket]:
        return self._connected(url, subprotocol)

    @asynccontextmanager
    async def _connected(self, url: str, subprotocol: str) -> AsyncIterator[SimWebSocket]:
        if not url.startswith("ws://server.invalid"):
            raise Unreachable(url)
        async with connect_websocket(
            self._network, self.name, subprotocol, self._tap(self), self._wait_awake, self._refused, self._is_stripped
        ) as socket:
            yield socket
