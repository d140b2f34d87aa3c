"""A client of the HTTP fallback that speaks the raw protocol, and a network that loses, repeats and reorders requests.

`PolledClient` has the interface of `harness.Client`, so a test written for a WebSocket can be told over polls.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import h11
import msgpack
import trio

from syncd.env.memory import MemoryTransport
from syncd.env.ports import TransportClosed
from syncd.net.exchange import Response
from syncd.net.fallback import METHODS
from tests.http.harness import check_described
from tests.net.harness import NAMES, Client, Closed, Message, World, send_all

OPEN, MESSAGES = "/v1/sync", "/v1/sync/messages"
MSGPACK, JSON = "application/vnd.syncd.v1+msgpack", "application/vnd.syncd.v1+json"

BY_THE_SHELL = (408, 413, 426, 500)  # problems of any request, whatever its address


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    version: bytes = b"1.1"

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        return str(self.json["type"]).removeprefix("/problems/")


Ask = Callable[..., Awaitable[Answer]]


def asking(connect: Callable[[], MemoryTransport]) -> Ask:
    """One connection for each request, as through a proxy that closes each time."""

    async def ask(method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        transport = connect()
        try:
            return await exchange(transport, h11.Connection(h11.CLIENT), method, target, body, **headers)
        finally:
            transport.abort()

    return ask


def keeping(transport: MemoryTransport) -> Ask:
    """All requests on one connection, one after the other."""
    parser = h11.Connection(h11.CLIENT)

    async def ask(method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        answer = await exchange(transport, parser, method, target, body, **headers)
        parser.start_next_cycle()
        return answer

    return ask


async def exchange(
    transport: MemoryTransport, parser: h11.Connection, method: str, target: str, body: bytes = b"", **headers: str
) -> Answer:
    """One request and its answer on a connection. Raises `TransportClosed` if there is none."""
    lines = [("Host", "server.invalid"), *((name.replace("_", "-"), value) for name, value in headers.items())]
    if method == "POST":
        lines.append(("Content-Length", str(len(body))))
    data = parser.send(h11.Request(method=method, target=target, headers=lines)) or b""
    if body:
        data += parser.send(h11.Data(data=body)) or b""
    await send_all(transport, data + (parser.send(h11.EndOfMessage()) or b""))
    answer: Answer | None = None
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await transport.receive(65536))
        elif isinstance(event, h11.Response):
            told = {name.decode().lower(): value.decode() for name, value in event.headers}
            answer = Answer(event.status_code, told, b"", bytes(event.http_version))
        elif isinstance(event, h11.Data):
            assert answer is not None
            answer.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert answer is not None
            path = target.partition("?")[0]
            if path in METHODS and method != "OPTIONS" and answer.status not in BY_THE_SHELL:
                check_described(method, path, Response(answer.status, tuple(answer.headers.items()), answer.body))
            return answer
        else:
            raise TransportClosed(f"no answer: {event}")


class PolledClient(Client):
    """One polled connection that speaks the protocol by hand. A request that is lost is repeated as it was."""

    count = 0  # of connections opened in this process

    def __init__(self, ask: Ask, number: int = 1, protocol: str = "syncd.v1.msgpack") -> None:
        super().__init__(None, number, protocol)  # type: ignore[arg-type]
        self.ask = ask
        self.media_type = JSON if self.is_text else MSGPACK
        self.key = ""
        self.sent_n = self.after = 0
        self.polls = 0
        self.answer_bytes: list[int] = []
        self.opening: dict[str, str] = {}  # headers of the first request

    async def upgrade(self, request: bytes | None = None) -> bytes:
        return b""

    async def send(self, name: str, **body: Any) -> None:
        await self.send_payload(self.encoded(name, **body))

    async def send_payload(self, payload: bytes) -> None:
        if not self.key:
            PolledClient.count += 1
            headers = {"Content_Type": self.media_type, "Idempotency_Key": f"opening {PolledClient.count:>20}"}
            answer = await self.asked("POST", OPEN, payload, **headers, **self.opening)
            assert answer.status == 201, answer
            self.key = answer.json["key"]
            return
        self.sent_n += 1
        answer = await self.asked("POST", f"{MESSAGES}?n={self.sent_n}", payload, Content_Type=self.media_type)
        if answer.status == 410:
            self.closed = Closed(answer.json["code"], answer.json["detail"])
            raise TransportClosed("ended")
        assert answer.status == 204, answer

    async def asked(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        for _ in range(100):
            try:
                answer = await self.ask(method, target, body, **headers)
            except TransportClosed:
                await trio.sleep(0.05)
                continue
            assert answer.headers["cache-control"] == "no-store"
            return answer
        raise AssertionError("the network lets nothing through")

    async def receive(self) -> Message:
        while not self.messages:
            await self.poll()
        return self.messages.popleft()

    async def poll(self) -> int:
        """One poll; its status. Raises `Closed` at the end of the conversation."""
        answer = await self.asked("GET", f"{MESSAGES}?after={self.after}")
        self.polls += 1
        if answer.status == 200:
            self.after += 1
            assert answer.headers["content-type"] == self.media_type
            self.answer_bytes.append(len(answer.body))
            self._take_body(answer.body)
        elif answer.status == 410:
            raise Closed(answer.json["code"], answer.json["detail"])
        elif answer.status == 404:
            raise TransportClosed("unknown")
        else:
            assert answer.status == 204, answer
        return answer.status

    def _take_body(self, body: bytes) -> None:
        if self.is_text:
            items = json.loads(body)
        else:
            unpacker = msgpack.Unpacker(raw=False, strict_map_key=True, max_buffer_size=1 << 26)
            unpacker.feed(body)
            items = list(unpacker)
        self.messages.extend(Message(NAMES[code], body) for code, body in items)

    async def closing(self) -> Closed:
        try:
            while True:
                await self.receive()
        except Closed as closed:
            return closed


class Unkind:
    """A network between a client and `ask`: requests and answers are lost, requests come twice, at once or much later.

    What comes late was given up by its client long ago, so nobody hears the answer."""

    def __init__(self, ask: Ask, nursery: trio.Nursery, random: Random, fault: float = 0.3) -> None:
        self._ask, self._nursery, self._random, self._fault = ask, nursery, random, fault
        self.faults: dict[str, int] = {}

    async def __call__(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        what = self._random.choice(("lost", "answer lost", "twice", "again later"))
        if self._random.random() > self._fault:
            what = "none"
        self.faults[what] = self.faults.get(what, 0) + 1
        await trio.sleep(self._random.uniform(0, 0.02))
        if what == "lost":
            raise TransportClosed("lost")
        if what in ("twice", "again later"):
            delay_s = 0.0 if what == "twice" else self._random.uniform(0.1, 3)
            self._nursery.start_soon(self._again, delay_s, method, target, body, headers)
        answer = await self._ask(method, target, body, **headers)
        if what == "answer lost":
            raise TransportClosed("the answer was lost")
        await trio.sleep(self._random.uniform(0, 0.02))
        return answer

    async def _again(self, delay_s: float, method: str, target: str, body: bytes, headers: dict[str, str]) -> None:
        await trio.sleep(delay_s)
        with suppress(TransportClosed):
            answer = await self._ask(method, target, body, **headers)
            assert answer.status < 500, answer


def polled(w: World, number: int = 1, protocol: str = "syncd.v1.msgpack", peer: str = "10.0.0.1:1") -> PolledClient:
    return PolledClient(asking(lambda: w.connect(peer)), number, protocol)


async def greeted(w: World, number: int = 1, user: str = "u", **hello: Any) -> PolledClient:
    client = polled(w, number)
    await client.greet(w.token(user), **hello)
    return client
