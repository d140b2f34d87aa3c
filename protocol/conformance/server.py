"""Plays conversations to a running server and checks its answers against the schema and the specification.

    python -m protocol.conformance.server ws://127.0.0.1:8080/v1/sync TOKEN [--space conformance] [--polls]

The token's user must be owner of every space below `--space`; each run uses new spaces and new devices. `--polls`: the
same conversations by the binding of SPEC 5.5, and the checks of its requests. Owns the
checks, one function each; shares no code with syncd or any client. Needs trio-websocket and msgpack.
"""
# A tool of its own, with its own edge:
# ruff: noqa: TID251

import argparse
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from protocol.conformance.cddl import parsed
from protocol.conformance.polled import Closed, PollingSocket, polling

SCHEMA = parsed((Path(__file__).resolve().parents[1] / "syncd.cddl").read_text())
LIMITS = (
    *("frame_bytes_max", "push_changes_max", "change_operations_max", "change_documents_max", "change_bytes_max"),
    *("value_bytes_max", "document_bytes_max", "document_fields_max", "delta_bytes_max", "subscriptions_max"),
    "pushes_in_flight_max",
    *("messages_per_s_max", "messages_burst_max", "hello_bytes_max", "frame_containers_max", "container_items_max"),
    *("signal_bytes_max", "signal_ttl_ms_max", "signals_per_s_max", "signals_burst_max"),
    *("presence_bytes_max", "presence_members_max", "presence_spaces_max"),
    *("events_max", "event_bytes_max", "events_per_minute_max", "events_burst_max"),
)
HELLO, SUBSCRIBE, PUSH, ACK, EVENT, PROBE, PING, PONG = 1, 2, 4, 5, 8, 13, 20, 21
WELCOME, SUBSCRIBED, DELTA, OUTCOMES, EXPIRED, ERROR, NOTED = 32, 33, 34, 35, 41, 42, 44
ANSWER_S = 5.0  # on a loaded machine; a server that needs longer fails here


class Failed(Exception):
    """The server did something that the specification does not allow."""


def check(condition: bool, said: str) -> None:
    if not condition:
        raise Failed(said)


class WebSocket:
    """A WebSocket that ends as a polled connection does: by `Closed`."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self.send_message = socket.send_message

    async def get_message(self) -> bytes | str:
        try:
            return await self._socket.get_message()
        except ConnectionClosed as end:
            raise Closed(end.reason.code if end.reason is not None else 1006) from None


@asynccontextmanager
async def opened(url: str, subprotocol: str) -> AsyncIterator[WebSocket]:
    """A WebSocket over a stream that is ours: the library leaves it open when the server closes first."""
    parts = urlsplit(url)
    assert parts.hostname is not None, "a URL names a host"
    is_secure = parts.scheme == "wss"
    port = parts.port or (443 if is_secure else 80)
    socket_stream = await trio.open_tcp_stream(parts.hostname, port)
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = socket_stream
    if is_secure:
        stream = trio.SSLStream(socket_stream, ssl.create_default_context(), server_hostname=parts.hostname)
    async with stream, trio.open_nursery() as nursery:
        socket = await wrap_client_stream(nursery, stream, parts.netloc, parts.path, subprotocols=[subprotocol])
        check(socket.subprotocol == subprotocol, f"the subprotocol {subprotocol} was not taken")
        yield WebSocket(socket)
        with trio.move_on_after(ANSWER_S):
            await socket.aclose()
        nursery.cancel_scope.cancel()


def grown(old: list[Any] | None, field: list[Any]) -> list[Any]:
    """A field after what a delta tells of it: of a text, perhaps what follows a part alone."""
    if field[0] != "text" or not field[1][0]:
        return field
    check(old is not None, "what follows a part of a text is told to one who has not the part")
    have = [] if old is None else old[1][1]
    return ["text", [0, [*have, *(update for update in field[1][1] if update[0] > have[-1][0])]]]


@dataclass
class Peer:
    """One connection of one device. `replica`: documents by (collection, id), built from deltas by the rules of
    section 6."""

    socket: WebSocket | PollingSocket
    device: bytes
    pending: list[list[Any]] = field(default_factory=list)
    replica: dict[tuple[str, str], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    complete: int = 0
    resume: int = 0

    async def say(self, code: int, **body: Any) -> None:
        await self.socket.send_message(msgpack.packb([code, body], use_bin_type=True))

    async def next(self) -> list[Any]:
        """The next message, which must match the schema and keep the order rules. Raises `Closed`."""
        while not self.pending:
            with trio.fail_after(ANSWER_S):
                frame = await self.socket.get_message()
            check(isinstance(frame, bytes), "a text frame in the binary binding")
            unpacker = msgpack.Unpacker(None, raw=False)
            unpacker.feed(frame)
            self.pending.extend(unpacker)
        message = self.pending.pop(0)
        check(SCHEMA.matches("server-message", message) or message[0] >= 128, f"not in the schema: {message!r}")
        self.judge(message)
        return message

    def judge(self, message: list[Any]) -> None:
        code, body = message
        if code == OUTCOMES:
            for entry in body["outcomes"]:
                check(entry[3] is None or entry[3] > self.complete, "an outcome after the delta that holds its effect")
        if code == DELTA and body["to"] > self.complete:
            check(body["from"] <= self.complete, f"a gap: delta from {body['from']}, complete at {self.complete}")
            check(body["after"] <= self.resume, "a gap between pages")
            for collection, document, rev, state, fields in body["docs"]:
                check(rev <= body["to"], "a rev beyond `to`")
                _, old = self.replica.pop((collection, document), (0, {}))
                if state != 2:
                    merged = {**old, **fields} if state == 0 else fields
                    shown = {name: grown(old.get(name), item) for name, item in merged.items() if item is not None}
                    self.replica[collection, document] = (rev, shown)
            self.resume = body["to"]
            if body.get("complete"):
                self.complete = body["to"]
                check(body.get("sum") in (None, self.sum()), "the sum differs")

    def sum(self) -> bytes:
        def h(item: Any) -> int:
            return int.from_bytes(sha256(msgpack.packb(item, use_bin_type=True)).digest()[:8])

        total = 0
        for (collection, document), (rev, fields) in self.replica.items():
            total += h(["d", collection, document, rev])
            for name, (kind, value) in fields.items():
                total += h(["f", collection, document, name, value[1][-1][0] if kind == "text" else value])
        return (total % 2**64).to_bytes(8)

    async def expect(self, code: int) -> dict[str, Any]:
        """The next message but pings, which must be of this type."""
        message = await self.next()
        while message[0] == PING and code != PING:
            await self.say(PONG, **message[1])
            message = await self.next()
        check(message[0] == code, f"expected type {code}, received {message!r}")
        body: dict[str, Any] = message[1]
        return body

    async def subscribe(self, space: str, **where: Any) -> dict[str, Any]:
        """Subscribe and read until the subscription is live. Returns `subscribed`."""
        body = {"epoch": None, "complete": self.complete, "resume": self.resume, "settled": 0, **where}
        await self.say(SUBSCRIBE, space=space, **body)
        message = await self.next()
        if message[0] == OUTCOMES:
            message = await self.next()
        check(message[0] == SUBSCRIBED, f"expected subscribed, received {message!r}")
        while self.complete < message[1]["head"]:
            await self.expect(DELTA)
        result: dict[str, Any] = message[1]
        return result

    async def push(self, space: str, epoch: bytes, *changes: list[Any]) -> dict[str, Any]:
        await self.say(PUSH, space=space, epoch=epoch, changes=list(changes))
        return await self.expect(OUTCOMES)

    async def closed(self, error: str, code: int) -> None:
        """The server must say this error and close with this code."""
        told = await self.expect(ERROR)
        check(told["name"] == error, f"expected the error {error}, received {told!r}")
        try:
            while True:
                await self.next()
        except Closed as end:
            check(end.code == code, f"expected close {code}, was {end.code}")


@dataclass
class Server:
    """The server under test."""

    url: str
    token: str
    space: str
    is_polled: bool = False
    count: int = 0

    def opened(self, subprotocol: str = "syncd.v1.msgpack") -> AbstractAsyncContextManager[WebSocket | PollingSocket]:
        return polling(self.url, subprotocol) if self.is_polled else opened(self.url, subprotocol)

    def new_space(self) -> str:
        self.count += 1
        return f"{self.space}/{os.urandom(4).hex()}-{self.count}"

    @asynccontextmanager
    async def peer(self, device: bytes | None = None, *, hello: bool = True) -> AsyncIterator[Peer]:
        async with self.opened() as socket:
            peer = Peer(socket, device or os.urandom(16))
            if hello:
                await self.hello(peer)
            yield peer

    async def hello(self, peer: Peer) -> dict[str, Any]:
        now_ms = int(time.time() * 1000)
        await peer.say(HELLO, device=peer.device, installation=peer.device, token=self.token, time=now_ms)
        welcome = await peer.expect(WELCOME)
        check(set(LIMITS) <= set(welcome["limits"]), "a limit is not announced")
        return welcome


def change(n: int, base: int, *operations: list[Any], nonce: bytes | None = None) -> list[Any]:
    return [n, nonce or os.urandom(8), base, int(time.time() * 1000), list(operations)]


def noted(document: str, value: Any) -> list[list[Any]]:
    return [["create", "notes", document], ["reg.set", "notes", document, "title", value]]


# -- the checks -------------------------------------------------------------------------------------------------------


async def a_change_reaches_its_author_after_its_outcome_and_every_subscriber(server: Server) -> None:
    space = server.new_space()
    async with server.peer() as a, server.peer() as b:
        epoch = (await a.subscribe(space))["epoch"]
        await b.subscribe(space)
        told = await a.push(space, epoch, change(1, 0, *noted("n1", "x")), change(2, 0, *noted("n2", 1.5)))
        check([entry[2] for entry in told["outcomes"]] == ["applied", "applied"], f"outcomes: {told}")
        head = told["outcomes"][-1][3]
        for peer in (a, b):
            while peer.complete < head:
                await peer.expect(DELTA)
        check(a.replica == b.replica, "two subscribers differ")
        check(a.replica["notes", "n2"][1] == {"title": ["reg", 1.5]}, f"the replica holds {a.replica}")


async def the_same_change_again_gets_its_outcome_again(server: Server) -> None:
    space = server.new_space()
    async with server.peer() as peer:
        epoch = (await peer.subscribe(space))["epoch"]
        first = change(1, 0, *noted("n1", "x"))
        once = await peer.push(space, epoch, first)
        await peer.expect(DELTA)
        await peer.say(PUSH, space=space, epoch=epoch, changes=[first])
        peer.complete = 0  # the same outcome may come again, below complete
        again = await peer.expect(OUTCOMES)
        check(once["outcomes"] == again["outcomes"], "another outcome the second time")


async def a_gap_is_told_and_a_fork_is_told(server: Server) -> None:
    space = server.new_space()
    async with server.peer() as peer:
        epoch = (await peer.subscribe(space))["epoch"]
        check((await peer.push(space, epoch, change(3, 0, *noted("n1", 1)))).get("gap") == 1, "no gap was told")
        await peer.push(space, epoch, ["void", 1, 2, os.urandom(8), "lost"])
        told = await peer.push(space, epoch, change(3, 0, ["fly", "notes", "n1"]), change(4, 0, *noted("n1", 1)))
        check([entry[2] for entry in told["outcomes"]] == ["invalid", "applied"], f"outcomes: {told}")
        await peer.expect(DELTA)
        check((await peer.push(space, epoch, change(2, 0, *noted("n2", 1)))).get("forked") == 2, "no fork was told")


async def a_device_resumes_with_what_it_missed(server: Server) -> None:
    space, device = server.new_space(), os.urandom(16)
    async with server.peer(device) as peer:
        epoch = (await peer.subscribe(space))["epoch"]
        await peer.push(space, epoch, change(1, 0, *noted("n1", "x")))
        chain = (await peer.expect(DELTA))["chain"]
        replica, complete = peer.replica, peer.complete
        await peer.say(ACK, space=space, epoch=epoch, applied=complete, oldest_base=complete, settled=1)
    async with server.peer() as other:
        await other.subscribe(space)
        await other.push(space, epoch, change(1, complete, ["delete", "notes", "n1"], *noted("n2", None)))
    async with server.peer(device) as peer:
        peer.replica, peer.complete, peer.resume = replica, complete, complete
        await peer.subscribe(space, epoch=epoch, settled=1, chain=chain)
        check(set(peer.replica) == {("notes", "n2")}, f"after resuming: {peer.replica}")


async def another_epoch_is_expired(server: Server) -> None:
    space = server.new_space()
    async with server.peer() as peer:
        epoch = (await peer.subscribe(space))["epoch"]
        body = {"space": space, "epoch": os.urandom(16), "complete": 0, "resume": 0, "settled": 0}
        await peer.say(SUBSCRIBE, **body)
        check((await peer.expect(EXPIRED))["epoch"] == epoch, "expired names another epoch")


async def a_position_that_is_not_of_the_history_is_expired(server: Server) -> None:
    """Of the present epoch, but with another chain value: only this device is sent back."""
    space, device = server.new_space(), os.urandom(16)
    async with server.peer(device) as peer:
        epoch = (await peer.subscribe(space))["epoch"]
        await peer.push(space, epoch, change(1, 0, *noted("n1", "x")))
        chain = (await peer.expect(DELTA))["chain"]
        complete = peer.complete
    async with server.peer(device) as peer:
        wrong = bytes([chain[0] ^ 1]) + chain[1:]
        where = {"space": space, "epoch": epoch, "complete": complete, "resume": complete, "settled": 1}
        await peer.say(SUBSCRIBE, **where, chain=wrong)
        told = await peer.expect(EXPIRED)
        check((told["epoch"], told["highest"]) == (epoch, 1), f"of a position of another history: {told}")
        check(told["fork"] <= complete, f"a fork beyond the position: {told}")
        peer.complete = peer.resume = complete
        await peer.say(SUBSCRIBE, **where, chain=chain)
        await peer.expect(SUBSCRIBED)


async def what_is_pushed_to_another_epoch_is_not_taken(server: Server) -> None:
    """Then what was lost is given up by a void, and what is held is pushed again, as after a restore."""
    space = server.new_space()
    async with server.peer() as peer:
        epoch = (await peer.subscribe(space))["epoch"]
        second = change(2, 0, *noted("n2", 2))
        await peer.say(PUSH, space=space, epoch=os.urandom(16), changes=[change(1, 0, *noted("n1", 1)), second])
        told = await peer.expect(EXPIRED)
        check((told["epoch"], told["fork"], told["highest"]) == (epoch, 0, 0), f"of an unknown epoch: {told}")
        await peer.subscribe(space, epoch=epoch)
        lost = ["void", 1, 1, os.urandom(8), "lost_in_restore"]
        told = await peer.push(space, epoch, lost, second)
        check([entry[2] for entry in told["outcomes"]] == ["void", "applied"], f"after a restore: {told}")
        await peer.expect(DELTA)
        check(set(peer.replica) == {("notes", "n2")}, f"what was not taken is there: {peer.replica}")


async def a_text_is_told_from_where_one_stands(server: Server) -> None:
    """What follows, or all there is; these updates are none, so nobody can have merged them."""
    space, device = server.new_space(), os.urandom(16)
    written = [["create", "notes", "n1"], ["text.update", "notes", "n1", "body", b"one"]]

    first = ["text", [0, [[1, b"one"]]]]
    part = ["text", [1, [[2, b"two"], [2, b"three"]]]]
    whole = ["text", [0, [[1, b"one"], [2, b"two"], [2, b"three"]]]]

    def body_of(told: dict[str, Any]) -> Any:
        ((_, _, _, _, fields),) = told["docs"]
        return fields["body"]

    async with server.peer(device) as peer:
        epoch = (await peer.subscribe(space))["epoch"]
        await peer.push(space, epoch, change(1, 0, *written))
        told = await peer.expect(DELTA)
        check(body_of(told) == first, f"the first update: {told}")
        chain = told["chain"]
        more = [["text.update", "notes", "n1", "body", text] for text in (b"two", b"three")]
        await peer.push(space, epoch, change(2, 1, *more))
        told = await peer.expect(DELTA)
        check(body_of(told) in (part, whole), f"what follows 1: {told}")
    async with server.peer(device) as peer:
        peer.complete = peer.resume = 1
        peer.replica["notes", "n1"] = (1, {"body": first})
        where = {"space": space, "epoch": epoch, "complete": 1, "resume": 1, "settled": 2}
        await peer.say(SUBSCRIBE, **where, chain=chain)
        await peer.expect(SUBSCRIBED)
        told = await peer.expect(DELTA)
        check(body_of(told) in (part, whole), f"what follows 1, later: {told}")
    async with server.peer() as peer:
        await peer.subscribe(space)
        check(peer.replica["notes", "n1"][1]["body"] == whole, f"from the beginning: {peer.replica}")


async def probes_and_pings_are_answered(server: Server) -> None:
    async with server.peer() as peer:
        for code in (PROBE, PING):
            await peer.say(code, id=7)
            check((await peer.expect(PONG)).get("id") == 7, "the pong has another id")


async def what_may_be_ignored_is_ignored(server: Server) -> None:
    async with server.peer() as peer:
        await peer.say(200, anything=1)
        await peer.say(PROBE, id=1, later={"x": [1]})
        check((await peer.expect(PONG)).get("id") == 1, "an unknown key or type was not ignored")


async def an_event_counts_once_and_each_is_judged_by_itself(server: Server) -> None:
    first, now_ms = os.urandom(16), int(time.time() * 1000)
    async with server.peer() as peer:
        await peer.say(EVENT, events=[[first, "screen", now_ms, {"topic": "news"}], [os.urandom(16), "", now_ms]])
        results = (await peer.expect(NOTED))["results"]
        check([result[1] for result in results] == ["accepted", "invalid"], f"one has no name: {results}")
        check(results[0][0] == first, "results stand in the order of the events")
        await peer.say(EVENT, events=[[first, "screen", now_ms]])
        check((await peer.expect(NOTED))["results"] == [[first, "duplicate", None]], "an event was taken twice")
    async with server.peer() as other:
        await other.say(EVENT, events=[[first, "screen", now_ms]])
        check((await other.expect(NOTED))["results"][0][1] == "duplicate", "another device of the user told it again")


async def a_bad_space_is_an_error_that_closes_nothing(server: Server) -> None:
    async with server.peer() as peer:
        await peer.say(SUBSCRIBE, space="a//b", epoch=None, complete=0, resume=0, settled=0)
        check((await peer.expect(ERROR))["name"] == "bad_space", "another error")
        await peer.say(PROBE, id=1)
        await peer.expect(PONG)


async def malformed_input_is_told_and_closes(server: Server) -> None:
    async with server.peer() as peer:
        await peer.socket.send_message(b"\xc1")
        await peer.closed("malformed", 1007)
    async with server.peer() as peer:
        await peer.say(15)
        await peer.closed("unknown_message", 4900)
    async with server.peer() as peer:
        await peer.say(HELLO, device=peer.device, installation=peer.device, time=0)
        await peer.closed("unexpected_message", 4900)
    async with server.peer(hello=False) as peer:
        await peer.say(PROBE)
        await peer.closed("unexpected_message", 4900)
    async with server.peer(hello=False) as peer:
        await peer.say(HELLO, device=peer.device, installation=peer.device, time=0, token="not a token")
        await peer.closed("unauthenticated", 4200)


async def a_second_connection_of_a_device_closes_the_first(server: Server) -> None:
    async with server.peer() as first, server.peer(first.device):
        await first.closed("superseded", 4901)


async def json_says_the_same(server: Server) -> None:
    async with server.opened("syncd.v1.json") as socket:
        device = os.urandom(16).hex()
        hello = [HELLO, {"device": device, "installation": device, "token": server.token, "time": 0}]
        await socket.send_message(json.dumps([hello]))
        with trio.fail_after(ANSWER_S):
            ((code, body),) = json.loads(await socket.get_message())
        check(code == WELCOME, f"expected welcome, received {code}")
        check(
            len(body["session"]) == 32 and body["session"] == body["session"].lower(), "the session id is hexadecimal"
        )


# -- the requests of SPEC 5.5 -----------------------------------------------------------------------------------------


async def what_is_repeated_has_one_effect(server: Server) -> None:
    """The opening, a message and a poll, each sent twice: a lost answer costs nothing."""
    async with polling(server.url, "syncd.v1.msgpack") as socket:
        device = os.urandom(16)
        body = msgpack.packb([HELLO, {"device": device, "installation": device, "token": server.token, "time": 0}])
        first = await socket.open(body)
        check(first.status == 201 and "no-store" in first.headers.get("cache-control", ""), f"the opening: {first}")
        key = socket.key
        socket.key = ""
        again = await socket.open(body)
        check((again.status, socket.key) == (201, key), "the same opening gave another key")
        welcome = await socket.poll(0)
        check(welcome.status == 200, f"the first poll: {welcome}")
        check((await socket.poll(0)).body == welcome.body, "an answer that was not acknowledged came differently")
        space = server.new_space()
        subscribe = {"space": space, "epoch": None, "complete": 0, "resume": 0, "settled": 0}
        check((await socket.message(1, msgpack.packb([SUBSCRIBE, subscribe]))).status == 204, "a message")
        subscribed = msgpack.unpackb((await socket.poll(1)).body, raw=False)
        check(subscribed[0] == SUBSCRIBED, f"expected subscribed, received {subscribed}")
        probe = msgpack.packb([PROBE, {"id": 5}])
        for _ in range(2):
            check((await socket.message(2, probe)).status == 204, "a message that comes twice is taken twice over")
        pongs = [*msgpack.Unpacker(BytesIO((await socket.poll(2)).body), raw=False)]
        check(pongs == [[PONG, {"id": 5}]], f"one probe was answered by {pongs}")
        socket.n = 2


async def what_is_out_of_order_has_none(server: Server) -> None:
    async with server.peer() as peer:
        socket = peer.socket
        assert isinstance(socket, PollingSocket)
        for answer, expected in (
            (await socket.message(socket.n + 2, b"\x92\x0d\x80"), socket.n + 1),
            (await socket.poll(socket.after + 1), socket.after),
        ):
            check(answer.status == 409 and answer.told().get("expected") == expected, f"out of order: {answer}")
        await peer.say(PROBE, id=1)
        await peer.expect(PONG)


async def a_key_that_nobody_knows_is_404_and_none_is_401(server: Server) -> None:
    socket = PollingSocket(server.url, "syncd.v1.msgpack")
    check((await socket.poll(0)).status == 401, "a poll without a key was taken")
    socket.key = "x" * 32
    check((await socket.poll(0)).status == 404, "an unknown key was taken")
    check((await socket.message(1, b"\x92\x0d\x80")).status == 404, "an unknown key was taken")


async def the_end_is_told_again_each_time(server: Server) -> None:
    async with server.peer() as peer:
        socket = peer.socket
        assert isinstance(socket, PollingSocket)
        await peer.say(14)
        for _ in range(2):
            answer = await socket.poll(socket.after)
            check(answer.status == 410 and answer.told()["code"] == 1000, f"after bye: {answer}")


POLL_CHECKS: tuple[Callable[[Server], Awaitable[None]], ...] = (
    what_is_repeated_has_one_effect,
    what_is_out_of_order_has_none,
    a_key_that_nobody_knows_is_404_and_none_is_401,
    the_end_is_told_again_each_time,
)
CHECKS: tuple[Callable[[Server], Awaitable[None]], ...] = (
    a_change_reaches_its_author_after_its_outcome_and_every_subscriber,
    the_same_change_again_gets_its_outcome_again,
    a_gap_is_told_and_a_fork_is_told,
    a_device_resumes_with_what_it_missed,
    another_epoch_is_expired,
    a_position_that_is_not_of_the_history_is_expired,
    what_is_pushed_to_another_epoch_is_not_taken,
    a_text_is_told_from_where_one_stands,
    probes_and_pings_are_answered,
    what_may_be_ignored_is_ignored,
    an_event_counts_once_and_each_is_judged_by_itself,
    a_bad_space_is_an_error_that_closes_nothing,
    malformed_input_is_told_and_closes,
    a_second_connection_of_a_device_closes_the_first,
    json_says_the_same,
)


async def run(server: Server) -> int:
    """All checks, one after the other; prints a line for each. Returns the number of failures."""
    failures = 0
    for one in CHECKS + (POLL_CHECKS if server.is_polled else ()):
        try:
            await one(server)
            said = "ok"
        except Exception as error:  # whatever goes wrong is the finding
            failures += 1
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            said = f"FAILED: {type(error).__name__}: {error}"
        print(f"{one.__name__.replace('_', ' ')}: {said}")
    return failures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("url")
    arguments.add_argument("token")
    arguments.add_argument("--space", default="conformance")
    arguments.add_argument("--polls", action="store_true")
    given = arguments.parse_args()
    sys.exit(min(1, trio.run(run, Server(given.url, given.token, given.space, given.polls))))


if __name__ == "__main__":
    main()
