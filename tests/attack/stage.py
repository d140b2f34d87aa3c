"""What an attack needs: connections to a server, in memory or over sockets, and what the server answered, as one line.

Attacks are written once. In memory they run against the whole server with virtual time (`test_attack.py`); over sockets
against the daemon in a process of its own (`__main__.py`).
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from syncd.env.memory import MemoryTransport
from syncd.env.ports import TransportClosed
from tests.net.harness import Client, Closed, Message, upgrade_request

ATTACKER, BYSTANDER = "127.0.0.2", "127.0.0.1"
LONG_S = 90.0  # no answer takes longer: a connection that says nothing lives for 75 s at most


class Target(Protocol):
    """A server under attack. `has_api`: the routes of the HTTP API are there."""

    has_api: bool

    async def connect(self, host: str = ATTACKER, buffer_bytes: int = 65536) -> MemoryTransport:
        """A connection from this address. `buffer_bytes`: how much the server can send ahead of what is read."""
        ...

    def token(self, user: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Attack:
    """`answer`: what is documented to come of it. `counted`: (metric, value of its label) that must rise.
    `is_long`: it waits for a deadline, so over sockets it takes real time."""

    name: str
    run: Callable[[Target], Awaitable[str]]
    answer: str
    counted: tuple[str, str]
    is_long: bool = False
    needs_api: bool = False


# -- HTTP -------------------------------------------------------------------------------------------------------------


async def push(transport: MemoryTransport, data: bytes) -> None:
    """Send as much as the server takes; it may have closed in the middle."""
    try:
        while data:
            taken = transport.send_now(data[:65536])
            data = data[taken:]
            if not taken:
                await transport.wait_writable()
    except TransportClosed:
        pass


async def everything(transport: MemoryTransport) -> bytes:
    data = b""
    with trio.move_on_after(LONG_S):
        try:
            while piece := await transport.receive(65536):
                data += piece
        except TransportClosed:
            pass
    return data


def statuses(data: bytes) -> str:
    """`200, 400 malformed-request`: the answers in order; `silence` if there were none."""
    found = []
    while data.startswith(b"HTTP/1.1 "):
        head, _, rest = data.partition(b"\r\n\r\n")
        status = head.split()[1].decode()
        lengths = [
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        ]
        body, data = rest[: sum(lengths)], rest[sum(lengths) :]
        if b"problem+json" in head and body:
            status += " " + json.loads(body)["type"].removeprefix("/problems/")
        found.append(status)
    return ", ".join(found) + ("" if not data else f" and {data[:20]!r}") if found or data else "silence"


async def http(target: Target, *pieces: bytes, pause_s: float = 0.0) -> str:
    """Send the pieces on one connection, and read to its end."""
    transport = await target.connect()
    answers: list[bytes] = []
    try:
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                answers.append(await everything(transport))
                nursery.cancel_scope.cancel()  # an answer came: the rest is not worth sending

            nursery.start_soon(read)
            for piece in pieces:
                await push(transport, piece)
                if pause_s:
                    await trio.sleep(pause_s)
            await trio.sleep(LONG_S)
    finally:
        transport.abort()
    return statuses(answers[0] if answers else b"")


# -- WebSocket --------------------------------------------------------------------------------------------------------


def masked(first: int, payload: bytes = b"", length: int | None = None, mask_bit: int = 0x80) -> bytes:
    """A client's frame with a mask of zeros. `first`: FIN, RSV and opcode as they stand. `length`: announced."""
    size = len(payload) if length is None else length
    if size < 126:
        head = bytes((first, mask_bit | size))
    elif size < 65536:
        head = bytes((first, mask_bit | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, mask_bit | 127)) + size.to_bytes(8)
    return head + (bytes(4) if mask_bit else b"") + payload


async def opened(target: Target, protocol: str = "syncd.v1.msgpack", number: int = 900, **options: Any) -> Client:
    client = Client(await target.connect(**options), number, protocol)
    await client.upgrade()
    return client


async def welcomed(
    target: Target, protocol: str = "syncd.v1.msgpack", user: str = "mallory", number: int = 900, **options: Any
) -> Client:
    keepalive_ms = options.pop("keepalive_ms", None)
    client = await opened(target, protocol, number, **options)
    await client.greet(target.token(user), keepalive_ms=keepalive_ms)
    return client


async def ending(client: Client) -> str:
    """`error NAME, close CODE`: what a connection is told until it ends. Messages other than errors are passed over."""
    told: list[str] = []
    with trio.move_on_after(LONG_S):
        try:
            while True:
                message: Message = await client.receive()
                if message.name == "error" and f"error {message['name']}" not in told:
                    told.append(f"error {message['name']}")
        except Closed as closed:
            told.append(f"close {closed.code}")
        except TransportClosed:
            told.append("cut off")
    client.transport.abort()
    return ", ".join(told) or "silence"


async def told(client: Client, *frames: bytes) -> str:
    """What a connection is told about these frames."""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for data in frames:
                await push(client.transport, data)

        nursery.start_soon(send)
        answer = await ending(client)
        nursery.cancel_scope.cancel()
    return answer


__all__ = [
    "LONG_S", "Attack", "Target", "ending", "http", "masked", "opened", "push", "told", "upgrade_request", "welcomed",
]  # fmt: skip
