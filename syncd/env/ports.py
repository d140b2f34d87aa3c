"""Ports: everything that the daemon asks of the world.

Owns the seams, and no implementation. `real.py` is the machine; `memory.py` holds honest doubles of the network; a
simulator brings its own clock, entropy and faults. What decides takes `now_ms` and bytes; only shells hold a port.

Invariants of a `Transport` (tests/env/kit.py accepts one): P1 bytes arrive in order, once, or not at all. P2 `send_now`
never blocks and may take fewer bytes than it is given; 0 means that `wait_writable` is due. P3 after `abort` every
method raises `TransportClosed`, and whoever waits is woken with it. P4 `receive` returns b"" for ever after the peer's
half-close. P5 what one side's `send_now` took is bounded as long as the other does not receive. P6, the caller's: what
was offered and not taken is offered again before anything else, unless the connection is given up. (An encrypted record
cannot be taken back.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class TransportClosed(Exception):
    """The byte stream has ended, by our `abort`, or the peer's or the network's doing. Nothing more can be sent."""


class Clock(Protocol):
    """Wall clocks only: how long to wait is trio's clock's business."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC. May step back."""
        ...


class Entropy(Protocol):
    def token(self, size: int) -> bytes:
        """`size` bytes that nobody can guess."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A number from [low, high], for jitter."""
        ...


class Offload(Protocol):
    """Runs what blocks outside the loop, one call at a time, in the order of the calls."""

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """The result of fn(*args), or what it raised. A call that has begun is not cancelled, only waited for."""
        ...


class Transport(Protocol):
    """One byte stream. At most one task receives and at most one waits to write, at a time."""

    peer: str
    """Who is at the other end, for logs and limits: `HOST:PORT`, `[HOST]:PORT`, or `unix`."""

    def send_now(self, data: bytes | memoryview) -> int:
        """How many bytes were taken: 0 if it would block. Raises `TransportClosed`."""
        ...

    async def receive(self, bytes_max: int) -> bytes:
        """At least one byte, b"" at the end of the stream. Always a checkpoint. Raises `TransportClosed`."""
        ...

    async def wait_writable(self) -> None:
        """Returns when `send_now` may take something. Raises `TransportClosed`."""
        ...

    def shutdown(self) -> None:
        """Half-close: the peer reads the end of the stream after the last byte that was taken. Idempotent."""
        ...

    def abort(self) -> None:
        """Let go of the stream at once, and wake whoever waits for it. Idempotent. Bytes that were taken may still
        arrive, so a connection that has said all ends with `shutdown`, reading on to the end, and `abort`."""
        ...


class Listener(Protocol):
    @property
    def address(self) -> tuple[str, int]:
        """(host, port) that clients use; (path, 0) for a UNIX socket."""
        ...

    async def accept(self) -> Transport:
        """The next connection. Raises `TransportClosed` once closed; outlives a shortage of file descriptors."""
        ...

    def close(self) -> None:
        """Take no more connections, and wake who waits for one. Idempotent."""
        ...


class Faults(Protocol):
    """Named places where a simulator may let the machine die."""

    def reach(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Environment:
    """The ports that the whole process shares."""

    clock: Clock
    entropy: Entropy
    offload: Offload
    faults: Faults


def host_of(peer: str) -> str:
    """The part of `Transport.peer` that limits count by: without the port."""
    return peer if peer == "unix" else peer.rpartition(":")[0]
