"""The fallback binding in the simulator: devices that poll, and networks that take the `Upgrade` away.

Owns which device speaks how, the byte streams of polls over the simulated network, and the tap on what they carry. The
client's own code decides when to poll, what to ask and when to ask again; the network loses, delays and resets each of
its requests like everything else.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random

from syncd.env.ports import TransportClosed
from syncd_client.carriers import Choice, Mode
from syncd_client.errors import Absent, Unreachable
from syncd_client.errors import TransportClosed as ClientClosed
from syncd_client.fallback import connect_by
from syncd_client.lanes import Place, connect_polls
from syncd_client.shell import Connect, Transport
from syncd_client.trio_shell import TrioLoop
from tests.sim.network import Network, NobodyListens, Socket
from tests.sim.sockets import RECEIVE_BYTES, Tap, send_all

RUNS_SHARE = 0.4  # of the runs have devices that do not speak over WebSockets
WaitAwake = Callable[[], Awaitable[None]]


def carriers_of(seed: int, profile: str, names: list[str]) -> dict[str, tuple[Mode, bool]]:
    """For each device: what it is told to use, and whether its network takes the `Upgrade` away."""
    random = Random(f"{profile}/{seed}/carriers")
    if random.random() >= RUNS_SHARE:
        return {}
    share = random.choice((0.3, 0.6, 1.0))
    chosen: tuple[tuple[Mode, bool], ...] = (("poll", False), ("poll", True), ("auto", True))
    return {name: random.choice(chosen) for name in names if random.random() < share}


class PolledStream:
    """A `lanes.Stream`. What the network calls a closed transport is an OSError to a client."""

    def __init__(self, socket: Socket, wait_awake: WaitAwake, loses: Callable[[], bool]) -> None:
        """`loses`: whether what has come now is lost on its last metre, and the stream with it."""
        self._socket, self._wait_awake, self._loses = socket, wait_awake, loses

    async def send(self, data: bytes) -> None:
        try:
            await send_all(self._socket, data)
        except TransportClosed as closed:
            raise OSError(str(closed)) from None

    async def receive(self) -> bytes:
        await self._wait_awake()
        try:
            data = await self._socket.receive(RECEIVE_BYTES)
            if self._loses():
                self._socket.abort()
                raise OSError("the connection broke")
            return data
        except TransportClosed as closed:
            raise OSError(str(closed)) from None

    async def aclose(self) -> None:
        self._socket.abort()


class Tapped:
    """A transport, and who listens to it."""

    carried_by = "polls"

    def __init__(self, transport: Transport, tap: Tap) -> None:
        self._transport, self._tap, self.close = transport, tap, transport.close

    async def send(self, frame: bytes | str) -> None:
        self._tap.sent(frame)
        try:
            await self._transport.send(frame)
        except ClientClosed as closed:
            self._tap.closed(closed.code)
            raise

    async def receive(self) -> bytes | str:
        try:
            frame = await self._transport.receive()
        except ClientClosed as closed:
            self._tap.closed(closed.code)
            raise
        self._tap.received(frame)
        return frame


def connect_as(
    mode: Mode,
    network: Network,
    device: str,
    entropy: Callable[[int], bytes],
    wait_awake: WaitAwake,
    websocket: Connect,
    tap: Callable[[], Tap],
    opened: Callable[[], None],
    loses: Callable[[], bool],
) -> Connect:
    """The `connect` port of a device that polls, or may. `opened`: polls carry a connection from now on."""

    async def dial(place: Place) -> PolledStream:
        try:
            return PolledStream(await network.connect(device), wait_awake, loses)
        except NobodyListens as closed:
            raise Absent(str(closed)) from None
        except TransportClosed as closed:
            raise Unreachable(str(closed)) from None

    loop = TrioLoop()
    plain = partial(connect_polls, loop, dial)

    @asynccontextmanager
    async def polls(
        url: str, subprotocol: str, *, entropy: Callable[[int], bytes], again_s: float
    ) -> AsyncIterator[Transport]:
        async with plain(url, subprotocol, entropy=entropy, again_s=again_s) as transport:
            opened()
            yield Tapped(transport, tap())

    return connect_by(loop, Choice(mode), entropy, websocket, polls)
