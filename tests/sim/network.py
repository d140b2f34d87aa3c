"""A network: byte streams with delay, pieces, finite buffers, partitions, resets and machines that lose power.

Owns `env.ports.Transport` and `Listener` for one server and any number of devices, each known by name. Knows nothing of
what the bytes mean. Bytes of one direction arrive in order or not at all. A partition is silent: what was sent waits,
and neither end learns of it. An unplugged machine sends nothing and hears nothing, whatever its tasks still do.
"""

from collections import deque
from dataclasses import dataclass, replace
from math import inf
from random import Random

import trio

from syncd.env.ports import TransportClosed
from tests.sim.determinism import Time, sleep, time
from tests.sim.trace import Trace

PIECE_BYTES_MIN = 40
PIECES_MEAN = 16  # of what is sent at once, at most


class NobodyListens(TransportClosed):
    """The machine is there, and says that no program takes connections."""


@dataclass(slots=True)
class Weather:
    """How a device's links behave now. `buffer_bytes`: what a direction holds that nobody has received."""

    latency_s: float = 0.02
    jitter_s: float = 0.01
    buffer_bytes: int = 65536
    short_share: float = 0.0  # of sends that take less than there is room for
    is_cut: bool = False


class Seat:
    """Where one task waits for something that may happen at a time."""

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._called_s = inf  # the earliest call that the agenda will make

    def call(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def call_at(self, time: Time, when_s: float) -> None:
        """If someone waits, then no longer than that."""
        if self._task is not None and when_s < self._called_s:
            self._called_s = when_s
            time.at(when_s, self._due)

    def _due(self) -> None:
        self._called_s = inf
        self.call()

    async def wait(self, time: Time, until_s: float) -> None:
        """Until it is called, or so late. It may be called for nothing."""
        assert self._task is None, "one task at a time reads, or writes, a direction"
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.call_at(time, until_s)
        await trio.lowlevel.wait_task_rescheduled(abort)


class Pipe:
    """One direction of a link."""

    def __init__(self, link: "Link") -> None:
        self._link, self._time = link, link.time
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._last_s = 0.0
        self._ended_s = inf  # when the end of the stream arrives
        self._broken_s = inf  # when the sender learns that nobody receives
        self._is_abandoned = False  # the receiver has let go
        self._reader, self._writer = Seat(), Seat()

    def wake(self) -> None:
        self._reader.call()
        self._writer.call()

    def _due_s(self) -> float:
        weather, random = self._link.weather, self._link.random
        self._last_s = max(self._last_s, self._time.now_s + weather.latency_s + random.random() * weather.jitter_s)
        return self._last_s

    @property
    def _arrives_s(self) -> float:
        """When the next thing arrives, as far as it is on its way."""
        if self._link.weather.is_cut:
            return inf
        return self._pieces[0][0] if self._pieces else self._ended_s

    def check_open(self) -> None:
        is_known = self._broken_s <= self._time.now_s and not self._link.weather.is_cut
        if self._link.is_reset or self._ended_s < inf or is_known:
            raise TransportClosed("nobody receives")

    def put(self, data: bytes | memoryview) -> int:
        self.check_open()
        if self._is_abandoned:
            return len(data)  # lost: the news of it is on its way
        weather, random = self._link.weather, self._link.random
        taken = min(len(data), weather.buffer_bytes - self._bytes)
        if taken <= 0:
            return 0
        if taken > 1 and random.random() < weather.short_share:
            taken = random.randrange(1, taken)
        rest = bytes(data[:taken])
        largest = max(4096, taken // PIECES_MEAN)
        while rest:
            size = random.randrange(PIECE_BYTES_MIN, largest)
            self._pieces.append((self._due_s(), rest[:size]))
            rest = rest[size:]
        self._bytes += taken
        self._reader.call_at(self._time, self._arrives_s)
        return taken

    def end(self) -> None:
        if self._ended_s == inf:
            self._ended_s = self._due_s()
            self.wake()

    def break_off(self) -> None:
        """The receiver is gone: the sender learns it when the news arrives."""
        if not self._is_abandoned:
            self._is_abandoned = True
            self._broken_s = self._time.now_s + self._link.weather.latency_s
            self._pieces.clear()
            self.wake()

    async def get(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while not self._link.is_reset and not self._is_abandoned:
            arrives_s = self._arrives_s
            if arrives_s <= self._time.now_s:
                if not has_waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return self._taken(bytes_max)
            has_waited = True
            await self._reader.wait(self._time, arrives_s)
        raise TransportClosed("connection reset")

    def _taken(self, bytes_max: int) -> bytes:
        if not self._pieces:
            return b""
        due_s, data = self._pieces.popleft()
        if len(data) > bytes_max:
            self._pieces.appendleft((due_s, data[bytes_max:]))
            data = data[:bytes_max]
        self._bytes -= len(data)
        if self._is_roomy:
            self._writer.call()
        return data

    @property
    def _is_roomy(self) -> bool:
        """As in Linux, a third of the buffer has to be free before a sender is called."""
        return 3 * self._bytes <= 2 * self._link.weather.buffer_bytes

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while True:
            self.check_open()
            if self._is_roomy:
                break
            has_waited = True
            await self._writer.wait(self._time, inf if self._link.weather.is_cut else self._broken_s)
        if not has_waited:
            await trio.lowlevel.cancel_shielded_checkpoint()


class Link:
    """A connection between a device and the server."""

    def __init__(self, network: "Network", device: str, number: int) -> None:
        self.device, self.number = device, number
        self.weather, self.random, self.time = network.weather[device], network.random, time()
        self.is_reset = False
        self.is_lost = False
        up, down = Pipe(self), Pipe(self)
        self.client = Socket(self, down, up, f"server.invalid:{number}")
        self.server = Socket(self, up, down, f"{device}.invalid:{number}")

    @property
    def is_over(self) -> bool:
        return self.is_reset or (self.client.is_gone and self.server.is_gone)

    def lose(self) -> None:
        """The device's end is gone, and no packet of either end arrives any more: the server's end is half open."""
        self.is_lost = True
        self.weather = replace(self.weather, is_cut=True)
        self.client.abort()
        self.wake()

    def reset(self) -> None:
        """Both ends learn at once that the connection is gone, and what was on its way is lost."""
        self.is_reset = True
        self.wake()

    def wake(self) -> None:
        self.client.wake()
        self.server.wake()


class Socket:
    """One end of a link: an `env.ports.Transport`."""

    def __init__(self, link: Link, inward: Pipe, outward: Pipe, peer: str) -> None:
        self.peer = peer
        self.longest_bytes = 0  # of what was handed over at once
        self._link, self._inward, self._outward = link, inward, outward
        self._is_aborted = False
        self._is_unplugged = False

    @property
    def is_gone(self) -> bool:
        return self._is_aborted or self._is_unplugged

    @property
    def is_reset(self) -> bool:
        return self._link.is_reset

    @property
    def is_over(self) -> bool:
        """Whether the server has let go of this connection."""
        return self._link.is_reset or self._link.server.is_gone

    def resize(self, buffer_bytes: int) -> None:
        """This link alone has so much room from now on."""
        self._link.weather = replace(self._link.weather, buffer_bytes=buffer_bytes)

    def send_now(self, data: bytes | memoryview) -> int:
        if self._is_aborted:
            raise TransportClosed("aborted")
        self.longest_bytes = max(self.longest_bytes, len(data))
        return len(data) if self._is_unplugged else self._outward.put(data)

    async def receive(self, bytes_max: int) -> bytes:
        assert bytes_max > 0
        data = b""
        if self._is_unplugged or self._is_aborted:
            await trio.lowlevel.checkpoint()
        else:
            data = await self._inward.get(bytes_max)
        if self._is_aborted:
            raise TransportClosed("aborted")
        if self._is_unplugged:
            await trio.sleep_forever()
        return data

    async def wait_writable(self) -> None:
        if self._is_aborted or self._is_unplugged:
            await trio.lowlevel.checkpoint()
        else:
            await self._outward.wait_room()
        if self._is_aborted:
            raise TransportClosed("aborted")

    def shutdown(self) -> None:
        if not self.is_gone:
            self._outward.end()

    def abort(self) -> None:
        if not self.is_gone:
            self._outward.end()
            self._inward.break_off()
            self._link.wake()
        self._is_aborted = True

    def unplug(self) -> None:
        self._is_unplugged = True

    def wake(self) -> None:
        self._inward.wake()
        self._outward.wake()


class SimListener:
    """The server's `env.ports.Listener`."""

    address = ("server.invalid", 8740)

    def __init__(self) -> None:
        self._waiting: deque[Socket] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self.is_closed = False

    def offer(self, socket: Socket) -> None:
        self._waiting.append(socket)
        self._changed.unpark_all()

    async def accept(self) -> Socket:
        await trio.lowlevel.checkpoint()
        while not self.is_closed:
            if self._waiting:
                return self._waiting.popleft()
            await self._changed.park()
        raise TransportClosed("the listener is closed")

    def close(self) -> None:
        self.is_closed = True
        self._changed.unpark_all()
        for socket in self._waiting:
            socket.abort()
        self._waiting.clear()


class Network:
    """All links, and what a nemesis may do to them."""

    def __init__(self, random: Random, trace: Trace) -> None:
        self.random, self._trace = random, trace
        self.weather: dict[str, Weather] = {}
        self.links: list[Link] = []
        self.listener: SimListener | None = None
        self._count = 0

    async def connect(self, device: str) -> Socket:
        """A device's end of a new connection. Raises `TransportClosed` if the server is not there."""
        weather = self.weather[device]
        await sleep(weather.latency_s)
        if weather.is_cut:
            await sleep(30)  # nobody answers
            raise TransportClosed("connection timed out")
        if self.listener is None or self.listener.is_closed:
            raise NobodyListens("connection refused")
        self._count += 1
        link = Link(self, device, self._count)
        self.links = [other for other in self.links if not other.is_over]
        self.links.append(link)
        self.listener.offer(link.server)
        self._trace.record(device, f"connected by link {link.number}")
        return link.client

    def of(self, device: str | None) -> list[Link]:
        return [link for link in self.links if device in (None, link.device) and not link.is_over]

    def cut(self, device: str) -> None:
        self.weather[device].is_cut = True

    def mend(self, device: str) -> None:
        self.weather[device].is_cut = False
        for link in self.of(device):
            link.wake()

    def unplug_server(self) -> None:
        if self.listener is not None:
            self.listener.is_closed = True
        for link in self.of(None):
            link.server.unplug()
            link.wake()

    def unplug(self, device: str) -> None:
        for link in self.of(device):
            link.client.unplug()
            link.wake()

    def reset_unplugged(self, device: str | None) -> None:
        """A machine is up again and answers packets of connections that it knows nothing of."""
        for link in self.links:
            is_lost = link.server.is_gone if device is None else link.client.is_gone and link.device == device
            if is_lost and not link.is_reset and not link.is_lost:
                link.reset()
