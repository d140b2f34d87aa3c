"""A device in Python, for loads that need a client that behaves: it resumes, pushes again, acknowledges, answers pings.

Owns one conversation (`Conversation`), what a device keeps between two of them (`Device`, `Replica`), and a bare HTTP
client. It shares no code with the server and keeps all in memory; it checks what the protocol promises about positions
and outcomes, and raises `Broken` where a promise is not kept. Where a client in Python would be the bottleneck,
`devices.c` is the load instead.

Invariants: C1 a change leaves the outbox only by an outcome with its n and nonce. C2 `complete` moves by deltas that
begin at or before it, and never back. C3 documents change only when `complete` does.
"""

import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import h11
import msgpack
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
)

from bench import workload

ACK, BYE = 5, 14
PING, PONG = 20, 21
WELCOME, SUBSCRIBED, DELTA, OUTCOMES, REVOKED, EXPIRED, ERROR, GOAWAY = 32, 33, 34, 35, 36, 41, 42, 43
PUSH_CHANGES_MAX = 200  # of an outbox that is sent again, at once
READ_BYTES = 1 << 16


class Broken(Exception):
    """The server did what the protocol forbids."""


class Refused(Exception):
    """The upgrade was not accepted. `status`: of HTTP; `retry_after_s`: what it asks for, or None."""

    def __init__(self, status: int, retry_after_s: float | None) -> None:
        super().__init__(f"the upgrade was answered {status}")
        self.status, self.retry_after_s = status, retry_after_s


class Ended(Exception):
    """The connection is gone. `code`: of the close frame, or None without one."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__("the connection was cut" if code is None else f"the server closed with {code}")
        self.code = code


@dataclass(slots=True)
class Replica:
    """One space on one device. `outbox`: changes without an outcome, by n. `staged`: pages of a download."""

    space: str
    epoch: bytes | None = None
    complete: int = 0
    resume: int = 0
    start: int | None = None
    n: int = 0
    settled: int = 0
    acked: tuple[int, int] = (0, 0)
    outbox: dict[int, list[Any]] = field(default_factory=dict)
    staged: list[Any] = field(default_factory=list)
    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)  # how many of each
    values: int = 0  # fields received
    deltas: int = 0

    def edit(self, operations: list[list[Any]]) -> None:
        """Add a change to the outbox, based on what the device has."""
        self.n += 1
        self.outbox[self.n] = [self.n, os.urandom(8), self.complete, workload.STAMP_MS, operations]

    def forget(self) -> None:
        """Drop the synced state, as after a loss of it: the next subscribe is a first download."""
        self.complete = self.resume = 0
        self.start = None
        self.staged.clear()
        self.documents.clear()

    def subscription(self) -> bytes:
        body = {
            "space": self.space, "epoch": self.epoch, "complete": self.complete, "resume": self.resume,
            "settled": self.settled,
        }  # fmt: skip
        if self.start is not None:
            body["start"] = self.start
        return workload.message(workload.SUBSCRIBE, body)

    def pushes(self, first: int = 0) -> list[bytes]:
        """What the outbox holds from n on, in messages. A change based on something needs the epoch."""
        waiting = [change for n, change in self.outbox.items() if n >= first]
        return [
            workload.message(
                workload.PUSH,
                {"space": self.space, "epoch": self.epoch, "changes": waiting[at : at + PUSH_CHANGES_MAX]},
            )
            for at in range(0, len(waiting), PUSH_CHANGES_MAX)
        ]

    def acknowledgement(self) -> bytes | None:
        """An `ack`, if there is anything new to say."""
        now = (self.complete, self.settled)
        if self.epoch is None or now == self.acked:
            return None
        self.acked = now
        oldest = min((change[2] for change in self.outbox.values()), default=self.complete)
        body = {
            "space": self.space, "epoch": self.epoch, "applied": self.complete, "oldest_base": oldest,
            "settled": self.settled,
        }  # fmt: skip
        return workload.message(ACK, body)

    def take_outcomes(self, body: Mapping[str, Any]) -> None:
        if body.get("gap") is not None or body.get("forked") is not None:
            raise Broken(f"{self.space}: the server misses a change or calls it a fork: {body!r}"[:300])
        self.epoch = body["epoch"]
        for n, nonce, outcome, *_ in body["outcomes"]:
            change = self.outbox.get(n)
            if change is None:
                if n > self.settled:
                    raise Broken(f"{self.space}: an outcome for the change {n}, which was never made")
                continue
            if change[1] != nonce:
                raise Broken(f"{self.space}: the outcome of the change {n} is of another change")
            del self.outbox[n]
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            self.settled = max(self.settled, n)

    def take_delta(self, body: Mapping[str, Any]) -> bool:
        """False: a gap, the space must be subscribed to again."""
        self.deltas += 1
        self.values += sum(len(entry[4]) for entry in body["docs"])
        if body["to"] <= self.complete:
            return True
        if body["from"] > self.complete or body["after"] > self.resume:
            return False
        self.staged += body["docs"]
        self.resume = body["to"]
        self.start = body.get("start")
        if body.get("complete"):
            for entry in self.staged:
                self._apply(entry)
            self.staged.clear()
            self.complete, self.start = body["to"], None
        return True

    def _apply(self, entry: list[Any]) -> None:
        collection, document_id, _, state, fields = entry
        key = (collection, document_id)
        if state == 2:
            self.documents.pop(key, None)
            return
        document = self.documents.setdefault(key, {})
        if state == 1:
            document.clear()
        for name, value in fields.items():
            if value is None:
                document.pop(name, None)
            else:
                document[name] = value[1]


@dataclass(slots=True)
class Device:
    """What a device keeps while it is offline."""

    name: str
    token: str
    replicas: dict[str, Replica]
    session: bytes | None = None

    @property
    def id(self) -> bytes:
        return workload.sized_id(self.name)

    def hello(self) -> bytes:
        body = {
            "device": self.id, "installation": workload.sized_id("installation", self.name), "token": self.token,
            "time": workload.STAMP_MS,
        }  # fmt: skip
        if self.session is not None:
            body["session"] = self.session
        return workload.message(workload.HELLO, body)


class Conversation:
    """A device on one connection. Methods raise `Refused`, `Ended`, `Broken`."""

    def __init__(self, device: Device, stream: trio.abc.Stream, host: str) -> None:
        self.device, self._stream, self._host = device, stream, host
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._unpacker = msgpack.Unpacker(use_list=True, strict_map_key=False)
        self._sending = trio.Lock()
        self.goaway: dict[str, Any] | None = None
        self.heads: dict[str, int] = {}  # by space, when it was subscribed to
        self.welcome: dict[str, Any] = {}
        self._received: list[tuple[int, dict[str, Any]]] = []

    async def open(self) -> None:
        """Upgrade, hello, welcome."""
        request = Request(self._host, "/v1/sync", subprotocols=[workload.SUBPROTOCOL])
        await self._send_raw(self._ws.send(request))
        while True:
            await self._read()
            for event in self._ws.events():
                match event:
                    case AcceptConnection():
                        await self.send(self.device.hello())
                        await self._welcomed()
                        return
                    case RejectConnection(status_code=status, headers=headers):
                        after = dict(headers).get(b"retry-after")
                        raise Refused(status, None if after is None else float(after))

    async def _welcomed(self) -> None:
        while not self._received:
            await self._receive()
        code, body = self._received.pop(0)
        if code != WELCOME:
            raise Broken(f"{self.device.name}: instead of a welcome: {code} {body!r}"[:300])
        self.welcome, self.device.session = body, body["session"]

    async def subscribe_all(self) -> None:
        for replica in self.device.replicas.values():
            await self.send(replica.subscription())
            for message in replica.pushes():
                await self.send(message)

    async def send(self, message: bytes) -> None:
        await self._send_raw(self._ws.send(BytesMessage(message)))

    async def push(self, replica: Replica) -> None:
        """Send the youngest change of the outbox."""
        for message in replica.pushes(replica.n):
            await self.send(message)

    async def acknowledge(self) -> None:
        for replica in self.device.replicas.values():
            message = replica.acknowledgement()
            if message is not None:
                await self.send(message)

    async def serve(self) -> None:
        """Take what comes, for ever; ends with `Ended` or `Broken`."""
        await self.serve_until(lambda: False)

    async def serve_until(self, is_done: Callable[[], bool]) -> None:
        """Take what comes until it is enough."""
        while True:
            while self._received:
                await self._take(*self._received.pop(0))
            if is_done():
                return
            await self._receive()

    async def wait_head(self, space: str) -> int:
        """The head of the space, as the answer to its `subscribe` says it."""
        await self.serve_until(lambda: space in self.heads)
        return self.heads[space]

    async def close(self) -> None:
        await self._stream.aclose()

    async def _take(self, code: int, body: dict[str, Any]) -> None:
        replica = self.device.replicas.get(body.get("space", ""))
        if code == PING:
            await self.send(workload.message(PONG, body))
        elif code in (REVOKED, EXPIRED, ERROR):
            raise Broken(f"{self.device.name}: the server answers {code} {body!r}"[:300])
        elif code == GOAWAY:
            self.goaway = body
        elif code == SUBSCRIBED and replica is not None:
            replica.epoch = body["epoch"]
            self.heads[replica.space] = body["head"]
        elif code == OUTCOMES and replica is not None:
            replica.take_outcomes(body)
        elif code == DELTA and replica is not None and not replica.take_delta(body):
            await self.send(replica.subscription())

    async def _receive(self) -> None:
        """Read once; messages go into `_received`."""
        await self._read()
        for event in self._ws.events():
            match event:
                case BytesMessage(data=data):
                    self._unpacker.feed(data)
                    self._received += [(code, body) for code, body in self._unpacker]
                case Ping():
                    await self._send_raw(self._ws.send(event.response()))
                case CloseConnection(code=code):
                    raise Ended(code)

    async def _read(self) -> None:
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError):
            raise Ended from None
        if not data:
            raise Ended
        self._ws.receive_data(bytes(data))

    async def _send_raw(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            raise Ended from None


async def dialled(port: int, *, receive_buffer_bytes: int | None = None) -> trio.SocketStream:
    """A connection to the daemon; a small receive buffer makes a reader that stops reading felt soon."""
    sock = trio.socket.socket()
    try:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class Http:
    """Requests on one kept connection, one after the other; connects anew when the server has closed it."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self._port, self._headers = port, dict(headers)
        self._stream: trio.SocketStream | None = None
        self._connection = h11.Connection(h11.CLIENT)

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """(status, body). Raises `OSError`, `trio.BrokenResourceError`, `h11.RemoteProtocolError`."""
        if self._stream is None:
            self._stream, self._connection = await dialled(self._port), h11.Connection(h11.CLIENT)
        try:
            return await self._exchanged(self._stream, method, target, headers, body)
        except BaseException:
            self.close()
            raise

    async def _exchanged(
        self, stream: trio.SocketStream, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes]:
        connection = self._connection
        every = self._headers | dict(headers) | {"Host": f"127.0.0.1:{self._port}", "Content-Length": str(len(body))}
        data = connection.send(h11.Request(method=method, target=target, headers=list(every.items()))) or b""
        data += connection.send(h11.Data(data=body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        await stream.send_all(data)
        status, content = 0, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(READ_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
                    connection.start_next_cycle()
                else:
                    self.close()
                return status, content
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("the server closed the connection before it answered")

    def close(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.socket.close()
            self._stream = None
