"""The PROXY protocol, version 2: a load balancer says for whom a connection was made.

Owns the header (haproxy's specification, section 2.2) and a listener that reads it before anyone else reads. Without it
every device behind a balancer would have one address, and no limit by address would mean anything.

A header is believed only from the addresses that the operator names; whoever else connects is cut off at once, because
he could claim any address. The header is binary, comes in one piece ahead of everything (also of TLS), and is not
answered; so what is wrong with it is logged and the connection ends.

Invariants: R1 of a header no byte too many is read: what follows belongs to the connection. R2 at most OPENINGS_MAX
connections have not sent theirs, each for at most OPENING_S.
"""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import trio

from syncd.env.ports import Listener, Transport, TransportClosed, host_of

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED_BYTES: Final = 16  # signature, version and command, family, length
REST_BYTES_MAX: Final = 2_048  # two addresses and the balancer's own remarks (a few hundred bytes); haproxy: 520
OPENING_S: Final = 5.0  # the header is the first segment that a balancer sends: one round trip, and a retransmission
OPENINGS_MAX: Final = 1_024
COMPLAINT_S: Final = 60.0  # between two lines of the log about the same thing

LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6 = 0x11, 0x21

Network = IPv4Network | IPv6Network


class BadHeader(Exception):
    """What came is no header of version 2. The text says what was expected."""


def header_rest(fixed: bytes) -> int:
    """How many bytes follow the first sixteen. Raises `BadHeader`."""
    assert len(fixed) == FIXED_BYTES
    if not fixed.startswith(SIGNATURE):
        hint = " (version 1 is not spoken)" if fixed.startswith(b"PROXY ") else ""
        raise BadHeader(f"expected the signature of the PROXY protocol, version 2{hint}")
    if fixed[12] not in (LOCAL, PROXY):
        raise BadHeader(f"expected version 2 with the command LOCAL or PROXY, got 0x{fixed[12]:02x}")
    size = int.from_bytes(fixed[14:16])
    if size > REST_BYTES_MAX:
        raise BadHeader(f"expected at most {REST_BYTES_MAX} bytes behind the fixed part, got {size}")
    return size


def announced_peer(fixed: bytes, rest: bytes) -> str | None:
    """Who is at the other end of the balancer, as in `Transport.peer`; None: the balancer itself (a health check, or
    an address of a kind that has no port). Raises `BadHeader`."""
    if fixed[12] == LOCAL:
        return None
    if fixed[13] == TCP4:
        if len(rest) < 12:
            raise BadHeader(f"expected 12 bytes of IPv4 addresses and ports, got {len(rest)}")
        return f"{IPv4Address(rest[:4])}:{int.from_bytes(rest[8:10])}"
    if fixed[13] == TCP6:
        if len(rest) < 36:
            raise BadHeader(f"expected 36 bytes of IPv6 addresses and ports, got {len(rest)}")
        return f"[{IPv6Address(rest[:16])}]:{int.from_bytes(rest[32:34])}"
    return None


class ProxyListener:
    """A `Listener` whose connections begin with a header; `run` has to be running. Owns the one that it wraps."""

    def __init__(self, inner: Listener, trusted: Sequence[Network], log: Callable[[str], None]) -> None:
        self.address = inner.address
        self._inner, self._trusted, self._log = inner, tuple(trusted), log
        self._ready, self._taken = trio.open_memory_channel[Transport](0)
        self._told_s: dict[str, float] = {}

    async def run(self) -> None:
        """Until it is closed."""
        room = trio.Semaphore(OPENINGS_MAX)
        async with self._ready, trio.open_nursery() as nursery:
            while True:
                await room.acquire()
                try:
                    transport = await self._inner.accept()
                except TransportClosed:
                    nursery.cancel_scope.cancel()
                    return
                if self._is_trusted(transport.peer):
                    nursery.start_soon(self._open, transport, room)
                else:
                    room.release()
                    transport.abort()
                    self._complain(f"{host_of(transport.peer)} is none of server.proxies: cut off")

    async def accept(self) -> Transport:
        try:
            return await self._taken.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise TransportClosed("the listener is closed") from None

    def close(self) -> None:
        self._inner.close()
        self._taken.close()

    def _is_trusted(self, peer: str) -> bool:
        try:
            address = ip_address(host_of(peer).strip("[]"))
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # a socket for both kinds, as systemd opens it, shows IPv4 so
        return any(address in network for network in self._trusted)

    async def _open(self, transport: Transport, room: trio.Semaphore) -> None:
        is_ours = True
        try:
            with trio.move_on_after(OPENING_S) as opening:
                fixed = await _exactly(transport, FIXED_BYTES)
                rest = await _exactly(transport, header_rest(fixed))
                transport.peer = announced_peer(fixed, rest) or transport.peer
            if opening.cancelled_caught:
                raise BadHeader(f"expected a header within {OPENING_S:g} seconds")
            await self._ready.send(transport)
            is_ours = False
        except BadHeader as error:
            self._complain(f"{host_of(transport.peer)} begins with no PROXY header: {error}")
        except (TransportClosed, trio.BrokenResourceError):
            pass
        finally:
            room.release()
            if is_ours:
                transport.abort()

    def _complain(self, text: str) -> None:
        """Not more often than once a minute: a balancer that is set up wrongly connects all the time."""
        now_s = trio.current_time()
        self._told_s = {told: at_s for told, at_s in self._told_s.items() if now_s - at_s < COMPLAINT_S}
        if text not in self._told_s and len(self._told_s) < OPENINGS_MAX:
            self._told_s[text] = now_s
            self._log(text)


async def _exactly(transport: Transport, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await transport.receive(size - len(data))
        if not piece:
            raise TransportClosed("ended within the header")
        data += piece
    return data
