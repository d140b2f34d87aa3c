"""Real clients on the server of the harness: the reference client, with a store on disk, over the network in memory."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio

from syncd.env.memory import MemoryTransport
from syncd_client import Device, Ports, open_device
from tests.net.harness import Clock, World
from tests.sim.sockets import SimWebSocket, connect_websocket


@dataclass
class Line:
    """What goes over a device's connections, as frames."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_frames: list[bytes | str] = field(default_factory=list)

    def sent(self, frame: bytes | str) -> None:
        self.sent_bytes += len(frame)
        self.sent_frames.append(frame)

    def received(self, frame: bytes | str) -> None:
        self.received_bytes += len(frame)

    def closed(self, code: int) -> None:
        pass

    @property
    def bytes(self) -> int:
        return self.sent_bytes + self.received_bytes


class _Links:
    def __init__(self, world: World) -> None:
        self._world = world

    async def connect(self, device: str) -> MemoryTransport:
        await trio.lowlevel.checkpoint()
        return self._world.connect()


@asynccontextmanager
async def opened(
    world: World, directory: Path, number: int, line: Line | None = None, *, binding: Any = "msgpack"
) -> AsyncIterator[Device]:
    """A device that connects by itself. `directory`: of its store, kept from one opening to the next."""
    tap = line or Line()

    async def awake() -> None:
        pass

    def connect(url: str, subprotocol: str) -> AbstractAsyncContextManager[SimWebSocket]:
        links: Any = _Links(world)
        return connect_websocket(links, str(number), subprotocol, tap, awake, lambda refused: None)

    ports = Ports(Clock().now_ms, Random(number).randbytes, connect)
    async with open_device(
        directory, url="ws://server.invalid/v1/sync", token=lambda: world.token(), binding=binding, ports=ports,
        durability="off",
    ) as device:  # fmt: skip
        yield device
