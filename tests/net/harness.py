"""A server over the network in memory, with the real engine and committer, and clients that speak the raw protocol.

The clients share no code with the server but the constants of WebSocket; messages are MessagePack maps written here.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import msgpack
import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from syncd.engine.commands import Command, Decision, Failed, Push, Result
from syncd.engine.engine import Engine
from syncd.engine.frontier import Retention
from syncd.engine.grants import Grant, Role
from syncd.env.memory import BUFFER_BYTES, InlineOffload, MemoryListener, MemoryTransport
from syncd.env.ports import Environment, Offload, TransportClosed
from syncd.env.real import NoFaults
from syncd.net.auth import Authenticator, sign_token, token_key
from syncd.net.deflate import NAME
from syncd.net.exchange import Request, Response, content
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.net.server import Api, Server
from syncd.store.committer import Committer
from syncd.store.memory import MemoryStore
from syncd.wire.limits import DEFAULT, Limits

BASE_MS = 1_795_000_000_000
KEY = token_key("test", "HS256", b"a secret of at least thirty-two bytes")
SPACE = "room/1"
CODES = {
    "hello": 1, "subscribe": 2, "unsubscribe": 3, "push": 4, "ack": 5, "sums": 6, "signal": 7, "event": 8,
    "purged": 9,
    "refresh": 10,
    "background": 11, "foreground": 12, "probe": 13, "bye": 14, "ping": 20, "pong": 21, "welcome": 32,
    "subscribed": 33, "delta": 34, "outcomes": 35, "revoked": 36, "differ": 37, "repair": 38, "heard": 39,
    "presence": 40, "expired": 41,
    "error": 42, "goaway": 43, "noted": 44,
}  # fmt: skip
NAMES = {code: name for name, code in CODES.items()}


class Clock:
    """A wall clock that goes with trio's."""

    def now_ms(self) -> int:
        return BASE_MS + round(trio.current_time() * 1000)


class Entropy:
    """Different bytes each time, the middle of each range."""

    def __init__(self) -> None:
        self._count = 0

    def token(self, size: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(size)

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


@dataclass
class Message:
    name: str
    body: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.body[key]


class Closed(Exception):
    """The server closed the WebSocket."""

    def __init__(self, code: int, reason: str | None) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Echo:
    """An API of one route: tells what came in."""

    async def handle(self, request: Request) -> Response:
        if request.path == "/slow":
            await trio.sleep_forever()
        if request.path == "/soon":
            await trio.sleep(1)
        if request.path == "/fault":
            raise RuntimeError("a defect")
        text = f"{request.method} {request.path} {request.query} {len(request.body)}".encode()
        whole = content(200, "text/plain", text)
        return Response(200, whole.headers) if request.method == "HEAD" else whole


@dataclass
class World:
    server: Server
    hub: Hub
    store: MemoryStore
    committer: Committer[Command, Result, Decision]
    listener: MemoryListener
    nursery: trio.Nursery
    logs: list[str]
    commands: list[Command]
    engine: Engine
    make: Callable[["World", int, int, str, PerMessageDeflate | None], "Client"]

    def token(self, user: str = "u", role: str = "owner", ttl_s: float = 3600, pattern: str = "**") -> str:
        return sign_token(KEY, user, [Grant(pattern, Role[role.upper()])], ttl_s, Clock().now_ms())

    def connect(self, peer: str = "10.0.0.1:1", buffer_bytes: int = BUFFER_BYTES) -> MemoryTransport:
        return self.listener.connect(peer, buffer_bytes)

    async def client(
        self,
        number: int = 1,
        *,
        user: str = "u",
        buffer_bytes: int = BUFFER_BYTES,
        protocol: str = "syncd.v1.msgpack",
        deflate: PerMessageDeflate | None = None,
        **hello: Any,
    ) -> "Client":
        """A client that has been welcomed."""
        client = self.make(self, number, buffer_bytes, protocol, deflate)
        await client.upgrade()
        await client.greet(self.token(user), **hello)
        return client


def _over_websocket(
    world: World, number: int, buffer_bytes: int, protocol: str, deflate: PerMessageDeflate | None
) -> "Client":
    return Client(world.connect(buffer_bytes=buffer_bytes), number, protocol, deflate)


MAKE: ContextVar[Callable[[World, int, int, str, PerMessageDeflate | None], "Client"]] = ContextVar(
    "MAKE", default=_over_websocket
)


@asynccontextmanager
async def world(
    limits: NetLimits | None = None,
    wire_limits: Limits = DEFAULT,
    origins: frozenset[str] | None = None,
    offload: Offload | None = None,
    api: Api | None = None,
    entropy: Entropy | None = None,
    retention: Retention | None = None,
) -> AsyncIterator[World]:
    """A running server."""
    offload = offload or InlineOffload()
    clock, store = Clock(), MemoryStore(1 << 30)
    logs: list[str] = []
    env = Environment(clock, entropy or Entropy(), offload, NoFaults())
    limits = limits or NetLimits()
    hub = Hub(limits, wire_limits)
    commands: list[Command] = []
    engine = Engine(Entropy().token, None, retention)

    def decide(tx: Any, now_ms: int, batch: Any) -> Decision:
        commands.extend(batch)
        return engine.decide(tx, now_ms, batch)

    committer: Committer[Command, Result, Decision] = Committer(
        store, decide, lambda decision: decision.results, hub.publish, Failed, clock, offload, NoFaults(),
        adds_data=lambda command: isinstance(command, Push), size_bytes=lambda command: 100,
    )  # fmt: skip
    server = Server(
        env, hub, api or Echo(), Authenticator([KEY]), store, committer, logs.append,
        limits=limits, wire_limits=wire_limits, origins=origins,
    )  # fmt: skip
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        await nursery.start(lambda task_status: server.serve([listener], task_status=task_status))
        yield World(server, hub, store, committer, listener, nursery, logs, commands, engine, MAKE.get())
        nursery.cancel_scope.cancel()


def upgrade_request(protocols: str = "syncd.v1.msgpack", **headers: str) -> bytes:
    lines = {
        "Host": "server.invalid", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": protocols,
    }  # fmt: skip
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"GET /v1/sync HTTP/1.1\r\n{text}\r\n".encode()


async def send_all(transport: MemoryTransport, data: bytes) -> None:
    while data:
        data = data[transport.send_now(data) :]
        if data:
            await transport.wait_writable()


class Client:
    """One connection that speaks the protocol by hand."""

    def __init__(
        self,
        transport: MemoryTransport,
        number: int = 1,
        protocol: str = "syncd.v1.msgpack",
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        """`deflate`: offered to the server, which has to accept it."""
        self.transport = transport
        self.device = b"device\0\0" + number.to_bytes(8)
        self.installation = b"install\0" + number.to_bytes(8)
        self.protocol = protocol
        self.is_text = protocol.endswith("json")
        self.deflate = deflate
        self.websocket = Connection(ConnectionType.CLIENT)
        self.messages: deque[Message] = deque()
        self.pongs: list[bytes] = []
        self.closed: Closed | None = None
        self.welcome: dict[str, Any] = {}
        self.n = 0
        self._pieces: list[Any] = []

    async def upgrade(self, request: bytes | None = None) -> bytes:
        """The head of the response to an upgrade request."""
        offer = {} if self.deflate is None else {"Sec_WebSocket_Extensions": f"{NAME}; {self.deflate.offer()}"}
        await send_all(self.transport, request or upgrade_request(self.protocol, **offer))
        head = b""
        while b"\r\n\r\n" not in head:
            data = await self.transport.receive(65536)
            assert data, "the server ended the stream"
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        if self.deflate is not None:
            lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            self.deflate.finalize(lines["Sec-WebSocket-Extensions"])
            self.websocket = Connection(ConnectionType.CLIENT, [self.deflate])
        if rest:
            self._feed(rest)
        return head

    async def greet(self, token: str, **hello: Any) -> None:
        await self.send("hello", **{**self.hello(token), **hello})
        self.welcome = (await self.expect("welcome")).body

    def hello(self, token: str | None) -> dict[str, Any]:
        ids = {"device": self.device, "installation": self.installation}
        if self.is_text:
            ids = {name: value.hex() for name, value in ids.items()}  # type: ignore[misc]
        return {**ids, "time": 1, "token": token}

    def encoded(self, name: str, **body: Any) -> bytes:
        if self.is_text:
            return json.dumps([[CODES[name], body]]).encode()
        return bytes(msgpack.packb([CODES[name], body], use_bin_type=True))

    async def send(self, name: str, **body: Any) -> None:
        payload = self.encoded(name, **body)
        await self.send_event(TextMessage(data=payload.decode()) if self.is_text else BytesMessage(data=payload))

    async def send_event(self, event: Event) -> None:
        await send_all(self.transport, self.websocket.send(event))

    async def subscribe(self, space: str = SPACE, **positions: Any) -> dict[str, Any]:
        """Subscribe from the start; the body of `subscribed`."""
        body = {"epoch": None, "complete": 0, "resume": 0, "settled": 0} | positions
        await self.send("subscribe", space=space, **body)
        return (await self.expect("subscribed")).body

    async def push(self, *changes: list[Any], space: str = SPACE, epoch: bytes | None = None) -> None:
        await self.send("push", space=space, epoch=epoch, changes=list(changes))

    def change(self, *operations: list[Any], base: int = 0) -> list[Any]:
        """The next change of this device."""
        self.n += 1
        return [self.n, self.n.to_bytes(8), base, 1, list(operations)]

    async def expect(self, name: str) -> Message:
        """The next message, which has this name."""
        message = await self.receive()
        assert message.name == name, message
        return message

    async def receive(self) -> Message:
        """The next message. Raises `Closed`, or `TransportClosed` if the stream ends without a close frame."""
        while not self.messages:
            if self.closed is not None:
                raise self.closed
            data = await self.transport.receive(65536)
            if not data:
                raise TransportClosed("the server ended the stream")
            self._feed(data)
        return self.messages.popleft()

    async def closing(self) -> Closed:
        """Read to the server's close frame, and answer it."""
        try:
            while True:
                await self.receive()
        except Closed as closed:
            if self.websocket.state is ConnectionState.REMOTE_CLOSING:
                with suppress(TransportClosed):
                    await self.send_event(CloseConnection(code=closed.code))
            return closed

    def _feed(self, data: bytes) -> None:
        self.websocket.receive_data(data)
        for event in self.websocket.events():
            if isinstance(event, TextMessage | BytesMessage):
                self._pieces.append(event.data)
                if event.message_finished:
                    self._decode(self._pieces)
                    self._pieces = []
            elif isinstance(event, CloseConnection):
                self.closed = Closed(event.code, event.reason)
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
            else:
                assert not isinstance(event, Ping), "the server uses messages of its own"

    def _decode(self, pieces: list[Any]) -> None:
        if self.is_text:
            items = json.loads("".join(pieces))
        else:
            unpacker = msgpack.Unpacker(raw=False, strict_map_key=True, max_buffer_size=1 << 26)
            unpacker.feed(b"".join(pieces))
            items = list(unpacker)
        self.messages.extend(Message(NAMES[code], body) for code, body in items)


class Mirror:
    """What a device makes of what it is sent for one space, checking the rules of the protocol on the way."""

    def __init__(self, space: str = SPACE) -> None:
        self.space = space
        self.complete = self.resume = self.settled = 0
        self.start: int | None = None
        self.epoch: bytes | None = None
        self.mode = ""
        self.documents: dict[tuple[str, str], dict[str, Any]] = {}
        self.outcomes: dict[int, Any] = {}
        self._staged: list[Any] = []
        self._seen_to = 0  # the highest `to` on this connection
        self.asked_again = False  # a second `subscribe` on this connection: what was on its way comes twice
        self.deltas = self.delta_bytes = 0

    def connected(self) -> None:
        """A new connection: what was seen on the old one says nothing about this one."""
        self._seen_to, self.asked_again = 0, False

    def positions(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch, "complete": self.complete, "resume": self.resume, "start": self.start,
            "settled": self.settled,
        }  # fmt: skip

    def take(self, message: Message) -> None:
        if message.body.get("space") != self.space:
            return
        if message.name == "subscribed":
            self.epoch, self.mode = message["epoch"], message["mode"]
        elif message.name == "outcomes":
            for n, _, outcome, seq, _ in message["outcomes"]:
                if n not in self.outcomes:
                    assert seq is None or self._seen_to < seq, "an outcome comes before the delta that holds its change"
                self.outcomes[n] = (outcome, seq)
                self.settled = max(self.settled, n)
        elif message.name == "delta":
            self._take_delta(message.body)

    def _take_delta(self, delta: dict[str, Any]) -> None:
        self.deltas += 1
        self._seen_to = max(self._seen_to, delta["to"])
        if self.asked_again and (delta["to"] <= self.complete or delta["after"] > self.resume):
            return
        assert delta["to"] > self.complete, "nothing is sent twice"
        assert delta["from"] <= self.complete, "no gap"
        assert delta["after"] <= self.resume, "no gap between pages"
        self._staged.extend(delta["docs"])
        self.resume = delta["to"]
        self.start = delta.get("start")
        if not delta.get("complete"):
            return
        for collection, id, _, state, fields in self._staged:
            document = {} if state == 1 else self.documents.get((collection, id), {})
            if state == 2:
                self.documents.pop((collection, id), None)
                continue
            for name, field in fields.items():
                if field is None:
                    document.pop(name, None)
                else:
                    document[name] = field[1]
            self.documents[collection, id] = document
        self._staged = []
        self.complete, self.start = self.resume, None
