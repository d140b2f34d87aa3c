"""Ports in memory: honest doubles of transport and listener, and an offload without threads.

Owns byte streams with finite buffers, short writes and half-closes, as sockets have them, and none of their system
calls: with trio's mock clock a whole conversation is deterministic. Both pass the acceptance kit of the real ones
(tests/env/kit.py). Delay, loss and partition are a simulator's to add.
"""

from collections import deque
from collections.abc import Callable

import trio

from syncd.env.ports import T, TransportClosed, Ts

BUFFER_BYTES = 65536  # what a sender may run ahead; loopback sockets take more, slow radio links less
REFUSED_BYTES = 64  # of what was not taken, to see that it is offered again


class _Pipe:
    """One direction: bytes that were sent and not yet received."""

    __slots__ = ("buffer", "capacity_bytes", "changed", "is_broken", "is_ended")

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.buffer = bytearray()
        self.is_ended = False  # the sender said that nothing follows
        self.is_broken = False  # the receiver is gone
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def room_bytes(self) -> int:
        return self.capacity_bytes - len(self.buffer)


class MemoryTransport:
    """One end of a stream; `transport_pair` makes both."""

    def __init__(self, outward: _Pipe, inward: _Pipe, peer: str) -> None:
        self.peer = peer
        self._outward = outward
        self._inward = inward
        self._is_aborted = False
        self._refused = b""  # the beginning of what was offered last and not taken

    def send_now(self, data: bytes | memoryview) -> int:
        self._check_sending()
        pipe = self._outward
        refused = self._refused
        assert bytes(data[: len(refused)]) == refused[: len(data)], "P6: what was not taken comes first"
        taken = min(len(data), pipe.room_bytes)
        if taken:
            pipe.buffer += data[:taken]
            pipe.changed.unpark_all()
        self._refused = bytes(data[taken : taken + REFUSED_BYTES]) or refused[taken:]
        return taken

    async def receive(self, bytes_max: int) -> bytes:
        assert bytes_max > 0
        await trio.lowlevel.checkpoint()
        pipe = self._inward
        while not self._is_aborted:
            if pipe.buffer:
                data = bytes(pipe.buffer[:bytes_max])
                del pipe.buffer[:bytes_max]
                pipe.changed.unpark_all()
                return data
            if pipe.is_ended:
                return b""
            await pipe.changed.park()
        raise TransportClosed("aborted")

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            self._check_sending()
            if self._outward.room_bytes:
                return
            await self._outward.changed.park()

    def shutdown(self) -> None:
        self._outward.is_ended = True
        self._outward.changed.unpark_all()

    def abort(self) -> None:
        self._is_aborted = True
        self._outward.is_ended = True
        self._inward.is_broken = True
        self._outward.changed.unpark_all()
        self._inward.changed.unpark_all()

    def _check_sending(self) -> None:
        if self._is_aborted or self._outward.is_ended or self._outward.is_broken:
            raise TransportClosed("aborted" if self._is_aborted else "nobody receives")


def transport_pair(
    buffer_bytes: int = BUFFER_BYTES, peers: tuple[str, str] = ("a.invalid:1", "b.invalid:2")
) -> tuple[MemoryTransport, MemoryTransport]:
    """Two connected ends. `peers` names them; each end's `peer` is the other's name."""
    there, back = _Pipe(buffer_bytes), _Pipe(buffer_bytes)
    return MemoryTransport(there, back, peers[1]), MemoryTransport(back, there, peers[0])


class InlineOffload:
    """Runs the call in the loop itself, at once, after the `latency_s` that a disk would take. A call that is cancelled
    before its time comes never happens, as after a power cut."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s
        self._one_at_a_time = trio.Lock()

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        async with self._one_at_a_time:
            await trio.sleep(self._latency_s)
            return fn(*args)


class MemoryListener:
    """Takes what `connect` offers."""

    def __init__(self, address: tuple[str, int] = ("server.invalid", 8740), backlog: int = 128) -> None:
        self.address = address
        self._backlog = backlog
        self._waiting: deque[MemoryTransport] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def connect(self, peer: str = "client.invalid:1", buffer_bytes: int = BUFFER_BYTES) -> MemoryTransport:
        """A client's end of a new stream. Raises `TransportClosed`: refused."""
        if self._is_closed or len(self._waiting) >= self._backlog:
            raise TransportClosed("connection refused")
        host, port = self.address
        client, server = transport_pair(buffer_bytes, (peer, f"{host}:{port}"))
        self._waiting.append(server)
        self._changed.unpark()
        return client

    async def accept(self) -> MemoryTransport:
        await trio.lowlevel.checkpoint()
        while not self._is_closed:
            if self._waiting:
                return self._waiting.popleft()
            await self._changed.park()
        raise TransportClosed("the listener is closed")

    def close(self) -> None:
        self._is_closed = True
        self._changed.unpark_all()
        while self._waiting:
            self._waiting.popleft().abort()
