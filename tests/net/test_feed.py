"""Waiting for changes: who is woken when, how every wait and every stream ends, and what a slow reader costs."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.core.ids import parse_place
from syncd.engine import reading
from syncd.engine.commands import CreateKey, Done, Post, Posted, RevokeKey
from syncd.env.memory import BUFFER_BYTES, MemoryTransport
from syncd.env.ports import TransportClosed
from syncd.net.api import Api
from syncd.net.auth import Authenticator, make_key, secret_hash
from syncd.net.exchange import Health, Later, Request, Response
from syncd.net.limits import NetLimits
from syncd.net.waiters import SLICE, Shared
from tests.engine.kit import api_key
from tests.net.harness import KEY, Clock, Entropy, World, send_all, world

SPACE = "shop"
CHANGES = "/v1/spaces/shop/changes"
MAILER = "/v1/spaces/shop/consumers/mailer"
WRITER = api_key()


class Feed:
    """A server with the real API, and one space. `reads`: how many read transactions there were."""

    def __init__(self) -> None:
        self.reads = 0
        self.api: Api
        self.w: World

    async def handle(self, request: Request) -> Response | Later:
        return await self.api.handle(request)

    async def write(self, *operations: list[Any]) -> None:
        result = await self.w.committer.execute(Post(WRITER, SPACE, list(operations), None, None, None))
        assert isinstance(result, Posted) and result.seq is not None, result

    async def put(self, value: object, document: str = "1", name: str = "f") -> None:
        await self.write(["reg.set", "c", document, name, value])

    def http(self, buffer_bytes: int = BUFFER_BYTES, token: str | None = None, peer: str = "10.0.0.1:1") -> "Http":
        return Http(self.w.connect(peer, buffer_bytes), token or self.w.token())

    def documents(self) -> dict[str, Any]:
        with self.w.store.read() as tx:
            return {found.id: found.fields for found in reading.documents(tx, SPACE, None, None, 1000).found}


@asynccontextmanager
async def feed(limits: NetLimits | None = None) -> AsyncIterator[Feed]:
    made = Feed()
    async with world(limits, api=made) as w:
        made.w = w
        made.api = Api(
            store=w.store, committer=w.committer, authenticator=Authenticator([KEY]), clock=Clock(), health=Health,
            waiters=w.hub.waiters, live=w.hub.live, uniform=Entropy().uniform,
        )  # fmt: skip
        read = w.store.read

        def counted() -> Any:
            made.reads += 1
            return read()

        w.store.read = counted  # type: ignore[method-assign]
        await made.write(["create", "c", "1"], ["create", "c", "2"])
        yield made
        await wait_all_tasks_blocked()
        assert w.hub.waiters.count == len(w.hub.waiters._counts) == len(w.hub.waiters._lots) == 0, "no place is lost"


class Http:
    """A client that speaks HTTP by h11."""

    def __init__(self, transport: MemoryTransport, token: str) -> None:
        self.transport, self.token = transport, token
        self.h11 = h11.Connection(h11.CLIENT)
        self.is_whole = False
        self._text = ""

    async def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        if self.h11.our_state is h11.DONE:
            self.h11.start_next_cycle()
        sent = {"Host": "x", "Authorization": f"Bearer {self.token}", "Content-Length": str(len(body))}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        parts = [self.h11.send(h11.Request(method=method, target=target, headers=list(sent.items()))) or b""]
        if body:
            parts.append(self.h11.send(h11.Data(data=body)) or b"")
        self.h11.send(h11.EndOfMessage())
        await send_all(self.transport, b"".join(parts))

    async def event(self) -> Any:
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(await self.transport.receive(65536))
        return event

    async def answer(self) -> tuple[int, Any]:
        """(status, JSON)"""
        head, body = await self.event(), b""
        while not isinstance(event := await self.event(), h11.EndOfMessage):
            body += event.data
        self.headers = dict(head.headers)
        return head.status_code, json.loads(body) if body else None

    async def get(self, target: str, **headers: str) -> tuple[int, Any]:
        await self.send("GET", target, **headers)
        return await self.answer()

    # -- server-sent events --------------------------------------------------------------------------------------

    async def stream(self, target: str = CHANGES, **headers: str) -> int:
        """Open a stream; the status."""
        await self.send("GET", target, Accept="text/event-stream", **headers)
        head = await self.event()
        self.headers = dict(head.headers)
        return int(head.status_code)

    async def block(self) -> dict[str, str] | None:
        """The next block of lines, comments under ''; None at the end of the stream, which is then whole."""
        while "\n\n" not in self._text:
            event = await self.event()
            if isinstance(event, h11.EndOfMessage):
                assert not self._text, "a stream ends with a whole event"
                self.is_whole = True
                return None
            self._text += event.data.decode()
        block, _, self._text = self._text.partition("\n\n")
        return dict(line.split(": ", 1) if not line.startswith(":") else ("", line[1:]) for line in block.split("\n"))

    async def delta(self) -> dict[str, Any]:
        """The next event; its id is where it leads."""
        while "data" not in (block := await self.block() or {"data": "null"}):
            pass
        delta: dict[str, Any] = json.loads(block["data"])
        assert block["event"] == "delta" and block["id"] == delta["to"]
        return delta


def values(delta: dict[str, Any]) -> dict[str, Any]:
    return {document["id"]: document.get("fields") for document in delta["documents"]}


# -- long poll --------------------------------------------------------------------------------------------------------


async def test_a_poll_is_answered_by_the_first_commit_and_nothing_polls_the_store(autojump_clock: MockClock) -> None:
    async with feed() as f:
        http = f.http()
        head = (await http.get(f"{CHANGES}?after=head"))[1]["to"]
        await http.send("GET", f"{CHANGES}?after={head}&wait=55")
        await wait_all_tasks_blocked()
        reads = f.reads
        await trio.sleep(54)
        assert f.reads == reads and f.w.hub.waiters.count == 1
        await f.put("x")
        status, delta = await http.answer()
        assert (status, values(delta), delta["after"]) == (200, {"1": {"f": "x"}}, head)
        assert trio.current_time() == 54 and f.w.hub.waiters.count == 0
        http.transport.abort()


async def test_a_commit_in_another_space_wakes_nobody(autojump_clock: MockClock) -> None:
    async with feed() as f:
        http = f.http()
        await http.send("GET", f"{CHANGES}?after=head&wait=20")
        await wait_all_tasks_blocked()
        reads = f.reads
        await f.w.committer.execute(Post(WRITER, "other", [["create", "c", "1"]], None, None, None))
        await wait_all_tasks_blocked()
        assert f.reads == reads
        status, delta = await http.answer()
        assert trio.current_time() == 20
        assert (status, delta["documents"], delta["to"], delta["complete"]) == (200, [], delta["after"], True)
        http.transport.abort()


async def test_what_is_there_is_answered_at_once(autojump_clock: MockClock) -> None:
    async with feed() as f:
        http = f.http()
        assert len((await http.get(f"{CHANGES}?wait=55"))[1]["documents"]) == 2 and trio.current_time() == 0
        http.transport.abort()


async def test_a_wait_never_outlives_its_token(autojump_clock: MockClock) -> None:
    async with feed() as f:
        http = f.http(token=f.w.token(ttl_s=20))
        status, problem = await http.get(f"{CHANGES}?after=head&wait=55")
        assert (status, problem["reason"]) == (401, "expired") and trio.current_time() == 20
        http.transport.abort()


async def test_a_key_that_is_revoked_during_its_wait_is_shown_nothing(autojump_clock: MockClock) -> None:
    async with feed() as f:
        secret = make_key(b"k" * 32)
        made = await f.w.committer.execute(CreateKey("k", ("documents:read:shop",), secret_hash(secret), b"k" * 16))
        assert made == Done()
        poll, stream = f.http(token=secret), f.http(token=secret)
        await poll.send("GET", f"{CHANGES}?after=head&wait=55")
        assert await stream.stream(f"{CHANGES}?after=head") == 200
        await wait_all_tasks_blocked()
        assert f.w.hub.waiters.count == 2
        assert await f.w.committer.execute(RevokeKey("k")) == Done()
        await f.put("secret")
        status, problem = await poll.answer()
        assert (status, problem["reason"]) == (401, "unknown_key")
        assert await stream.block() == {"retry": "3000"} and await stream.block() is None
        poll.transport.abort()
        stream.transport.abort()


async def test_waits_are_bounded_by_caller_by_address_and_in_all(autojump_clock: MockClock) -> None:
    limits = NetLimits(waiters_per_caller_max=2, waiters_per_address_max=3, waiters_max=4)
    async with feed(limits) as f:
        target = f"{CHANGES}?after=head&wait=55"

        async def waiting(user: str, peer: str) -> Http:
            http = f.http(token=f.w.token(user), peer=peer)
            await http.send("GET", target)
            await wait_all_tasks_blocked()
            return http

        open_ = [await waiting("a", "10.0.0.1:1"), await waiting("a", "10.0.0.2:1"), await waiting("b", "10.0.0.1:2")]
        for user, peer, expected in (("a", "10.0.0.3:1", (429, "too-many-waiting")),):
            refused = await waiting(user, peer)
            status, problem = await refused.answer()
            assert (status, problem["type"].rpartition("/")[2]) == expected and int(refused.headers[b"retry-after"]) > 0
            assert await refused.stream(target) == 429
            refused.transport.abort()
        open_.append(await waiting("c", "10.0.0.1:3"))
        full = await waiting("d", "10.0.0.4:1")
        status, problem = await full.answer()
        assert (status, problem["type"]) == (503, "/problems/overloaded")
        assert (await full.get(CHANGES))[0] == 200, "what needs no wait is answered"
        full.transport.abort()
        open_.pop().transport.abort()
        await wait_all_tasks_blocked()
        assert f.w.hub.waiters.count == 3
        crowded = await waiting("b", "10.0.0.1:4")
        assert f.w.hub.waiters.count == 4
        one_more = f.http(token=f.w.token("e"), peer="10.0.0.1:5")
        assert (await one_more.get(target))[0] == 503
        for http in (*open_, crowded, one_more):
            http.transport.abort()


async def test_the_addresses_of_one_network_count_as_one_among_those_who_wait(autojump_clock: MockClock) -> None:
    target = f"{CHANGES}?after=head&wait=55"
    async with feed(NetLimits(waiters_per_address_max=1)) as f:
        first = f.http(token=f.w.token("a"), peer="[2001:db8::1]:1")
        await first.send("GET", target)
        await wait_all_tasks_blocked()
        neighbour = f.http(token=f.w.token("b"), peer="[2001:db8::2]:1")
        assert (await neighbour.get(target))[0] == 429
        for http in (first, neighbour):
            http.transport.abort()


async def test_hundreds_of_waiters_are_woken_in_slices_and_read_once(autojump_clock: MockClock) -> None:
    count = 400
    async with feed(NetLimits(waiters_per_caller_max=count, waiters_per_address_max=count)) as f:
        waiters = f.w.hub.waiters
        clients: list[Http] = []
        answers: list[dict[str, Any]] = []

        async def poll() -> None:
            http = f.http()
            clients.append(http)
            answers.append((await http.get(f"{CHANGES}?after=head&wait=55"))[1])

        async with trio.open_nursery() as nursery:
            for started in range(count):
                nursery.start_soon(poll)
                if started % 100 == 99:
                    await wait_all_tasks_blocked()  # the listener's backlog has 128 places
            assert waiters.count == count
            turns = 0
            kept = len(waiters.shared._kept)

            async def count_turns() -> None:
                nonlocal turns
                while waiters.count:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(count_turns)
            await f.put("x")
        assert [values(delta) for delta in answers] == [{"1": {"f": "x"}}] * count
        assert len(waiters.shared._kept) == kept + 1, "one page was made for all"
        assert turns >= count // SLICE, "others had their turn meanwhile"
        for http in clients:
            http.transport.abort()


async def test_a_drain_answers_who_waits_at_once(autojump_clock: MockClock) -> None:
    async with feed() as f:
        poll, stream = f.http(), f.http()
        await poll.send("GET", f"{CHANGES}?after=head&wait=55")
        assert await stream.stream(f"{CHANGES}?after=head") == 200
        await wait_all_tasks_blocked()
        await f.w.server.drain(10.0)
        status, delta = await poll.answer()
        assert (status, delta["documents"]) == (200, []) and poll.headers[b"connection"] == b"close"
        assert await stream.block() == {"retry": "3000"} and await stream.block() is None
        assert trio.current_time() < 10
        poll.transport.abort()
        stream.transport.abort()


# -- consumers --------------------------------------------------------------------------------------------------------


async def test_a_consumer_waits_from_where_it_stands_also_when_another_worker_moves_it(
    autojump_clock: MockClock,
) -> None:
    async with feed() as f:
        one, other = f.http(), f.http()
        await one.send("PUT", MAILER, b'{"start":"head"}', Content_Type="application/json")
        assert (await one.answer())[0] == 201
        await one.send("GET", f"{MAILER}/changes?wait=30")
        await other.send("GET", f"{MAILER}/changes?wait=30")
        await trio.sleep(5)
        await f.put("x")
        first, second = (await one.answer())[1], (await other.answer())[1]
        assert values(first) == values(second) == {"1": {"f": "x"}}
        await one.send("GET", f"{MAILER}/changes?wait=30")
        assert (await one.answer())[1] == first, "not acknowledged: it comes again, and at once"
        body = json.dumps({"position": first["to"]}).encode()
        await other.send("POST", f"{MAILER}/ack", body, Content_Type="application/json")
        assert (await other.answer())[1]["lag"] == 0
        await one.send("GET", f"{MAILER}/changes?wait=30")
        await wait_all_tasks_blocked()
        await other.send("DELETE", MAILER)
        assert (await other.answer())[0] == 204
        await f.put("y")
        assert (await one.answer())[0] == 404
        one.transport.abort()
        other.transport.abort()


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_brings_each_delta_with_its_place_and_goes_on_after_the_last_id(
    autojump_clock: MockClock,
) -> None:
    async with feed() as f:
        http = f.http()
        assert await http.stream() == 200
        assert http.headers[b"content-type"] == b"text/event-stream" and http.headers[b"cache-control"] == b"no-store"
        assert await http.block() == {"retry": "3000"}
        first = await http.delta()
        assert set(values(first)) == {"1", "2"}
        await f.put("x")
        second = await http.delta()
        assert (values(second), second["after"]) == ({"1": {"f": "x"}}, first["to"])
        http.transport.abort()
        await f.put("y", "2")
        again = f.http()
        assert await again.stream(f"{CHANGES}?after=0", Last_Event_ID=second["to"]) == 200
        assert values(await again.delta()) == {"2": {"f": "y"}}
        wrong = f.http()
        assert await wrong.stream(Last_Event_ID="7") == 400
        for each in (again, wrong):
            each.transport.abort()


async def test_a_silent_stream_is_kept_alive_by_comments(autojump_clock: MockClock) -> None:
    async with feed() as f:
        http = f.http()
        await http.stream(f"{CHANGES}?after=head")
        assert await http.block() == {"retry": "3000"}
        for number in range(1, 4):
            assert await http.block() == {"": " still here"} and trio.current_time() == 15 * number
        http.transport.abort()


@pytest.mark.parametrize(("ttl_s", "end_s"), [(100, 99), (36_000, 3150)])
async def test_a_stream_ends_in_order_before_its_token_and_at_its_age(
    autojump_clock: MockClock, ttl_s: int, end_s: int
) -> None:
    async with feed() as f:
        http = f.http(token=f.w.token(ttl_s=ttl_s))
        await http.stream(f"{CHANGES}?after=head")
        while await http.block() is not None:
            pass
        assert http.is_whole and trio.current_time() == end_s
        http.transport.abort()


async def test_a_slow_reader_gets_the_newest_state_and_no_queue_grows(autojump_clock: MockClock) -> None:
    async with feed() as f:
        http = f.http(buffer_bytes=2000)
        await http.stream(f"{CHANGES}?after=head")
        await http.block()
        await f.put("x" * 3000)
        await wait_all_tasks_blocked()
        for number in range(500):
            await f.put(number)
        await f.put("y", "2")
        assert f.w.hub.waiters.count == 1
        assert values(await http.delta()) == {"1": {"f": "x" * 3000}}
        last = await http.delta()
        assert values(last) == {"1": {"f": 499}, "2": {"f": "y"}}, "five hundred changes are one"
        http.transport.abort()


async def test_a_reader_that_takes_nothing_is_cut_after_the_documented_time(autojump_clock: MockClock) -> None:
    async with feed() as f:
        http = f.http(buffer_bytes=2000)
        await http.stream(f"{CHANGES}?after=head")
        await http.block()
        await f.put("x" * 10_000)
        await wait_all_tasks_blocked()
        await trio.sleep(29)
        assert f.w.hub.waiters.count == 1
        await trio.sleep(2)
        assert f.w.hub.waiters.count == 0
        with pytest.raises((TransportClosed, h11.RemoteProtocolError)):
            while await http.block() is not None:
                pass
            raise TransportClosed("an end in order")
        assert not http.is_whole
        http.transport.abort()


# -- whatever happens -------------------------------------------------------------------------------------------------


class Backend:
    """A worker: applies what it is told, and saves its place with it, now and then only in memory."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.documents: dict[str, dict[str, Any]] = {}
        self.place = self.saved = "0"

    def take(self, delta: dict[str, Any]) -> None:
        assert delta["after"] == self.place or self.place == "0"
        for document in delta["documents"]:
            if document["state"] == "deleted":
                self.documents.pop(document["id"], None)
                continue
            if document["state"] == "reset":
                self.documents[document["id"]] = {}
            mine = self.documents[document["id"]]
            mine.update(document["fields"])
            for name in document["unset"]:
                mine.pop(name, None)
        self.place = delta["to"]
        if self.random.random() < 0.5:
            self.saved = self.place

    def crash(self) -> None:
        self.place = self.saved


@pytest.mark.parametrize("seed", range(5))
async def test_whoever_is_cut_off_at_any_moment_ends_with_the_documents(autojump_clock: MockClock, seed: int) -> None:
    random = Random(seed)
    async with feed() as f:
        is_over = trio.Event()

        async def write() -> None:
            for number in range(60):
                await trio.sleep(random.choice([0, 0, 0.1, 3, 20]))
                document = random.choice("123")
                with f.w.store.read() as tx:
                    is_there = reading.document(tx, SPACE, "c", document) is not None
                if not is_there:
                    await f.write(["create", "c", document])
                elif random.random() < 0.15:
                    await f.write(["delete", "c", document])
                else:
                    await f.put(number, document, random.choice("fgh"))
            is_over.set()

        async def follow(backend: Backend, is_stream: bool) -> None:
            while not (is_over.is_set() and _is_at_head(f, backend.place)):
                http = f.http(buffer_bytes=random.choice([100, 65536]))
                with trio.move_on_after(random.choice([0.05, 1, 10, 100])) as life:
                    limit = random.choice([1, 2, 100])
                    if is_stream:
                        await http.stream(f"{CHANGES}?limit={limit}&after={backend.place}")
                        while not (is_over.is_set() and _is_at_head(f, backend.place)):
                            backend.take(await http.delta())
                    else:
                        for _ in range(5):
                            backend.take((await http.get(f"{CHANGES}?limit={limit}&wait=9&after={backend.place}"))[1])
                http.transport.abort()
                if life.cancelled_caught:
                    backend.crash()
                await trio.sleep(0.01)

        backends = [Backend(random) for _ in range(4)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for number, backend in enumerate(backends):
                nursery.start_soon(follow, backend, number % 2 == 0)
        for backend in backends:
            assert backend.documents == f.documents()


def _is_at_head(f: Feed, place: str) -> bool:
    with f.w.store.read() as tx:
        head = reading.position(tx, SPACE)
    assert head is not None
    return place != "0" and parse_place(place).complete == head.seq


def test_what_is_shared_is_bounded_and_the_oldest_goes_first() -> None:
    shared: Shared[str] = Shared(100)
    for key in "abcd":
        shared.keep(key, key, 25)
    assert shared.get("a") == "a"
    shared.keep("e", "e", 25)
    assert (shared.get("b"), shared.get("a"), shared.bytes) == (None, "a", 100)
    shared.keep("long", "long", 26)
    assert shared.get("long") is None and shared.bytes == 100
    shared.keep("a", "again", 1)
    assert shared.get("a") == "a"
