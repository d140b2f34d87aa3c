"""The requests of the HTTP fallback: what is refused and why, who may ask, how much is kept, and how it ends."""

import base64
import json

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.env.ports import TransportClosed
from syncd.net.limits import NetLimits
from tests.net.harness import SPACE, World, send_all, world
from tests.net.polled import (
    JSON,
    MESSAGES,
    MSGPACK,
    OPEN,
    Answer,
    PolledClient,
    asking,
    greeted,
    keeping,
    polled,
)

SET = ["reg.set", "notes", "a", "text"]
NEW = {"Content_Type": MSGPACK, "Idempotency_Key": "a key of its own"}


# -- requests ---------------------------------------------------------------------------------------------------------


async def asked(w: World, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    return await asking(w.connect)(method, target, body, **headers)


async def test_only_a_known_key_reads_or_alters_anything(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await greeted(w)
        for method, target in (("GET", f"{MESSAGES}?after=1"), ("POST", f"{MESSAGES}?n=1")):
            answer = await asked(w, method, target, Content_Type=MSGPACK)
            assert (answer.status, answer.problem) == (401, "unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            for wrong in ("x" * 32, client.key[:-1], client.key + "x", w.token()):
                answer = await asked(w, method, target, Authorization=f"Bearer {wrong}", Content_Type=MSGPACK)
                assert (answer.status, answer.problem) == (404, "unknown-connection")
            answer = await asked(w, method, f"{target}&key={client.key}", Content_Type=MSGPACK)
            assert answer.status == 401, "a key in a URL is none"
        assert len(base64.urlsafe_b64decode(client.key)) == 24
        await client.send("probe", id=1)
        await client.expect("pong")


@pytest.mark.parametrize(
    ("method", "target", "problem", "expected"),
    [
        ("POST", "?n=3", "out-of-order", 2),
        ("POST", "?n=1", "", None),
        ("GET", "?after=2", "out-of-order", 1),
        ("GET", "?after=1000000", "out-of-order", 1),
        ("GET", "", "malformed-request", None),
        ("GET", "?after=-1", "malformed-request", None),
        ("GET", "?after=1&after=1", "malformed-request", None),
        ("GET", "?after=1&n=1", "malformed-request", None),
        ("GET", "?after=%C2%B2", "malformed-request", None),
        ("GET", f"?after={'9' * 5_000}", "malformed-request", None),
        ("POST", "?n=0", "malformed-request", None),
        ("POST", "?after=1", "malformed-request", None),
        ("DELETE", "", "method-not-allowed", None),
    ],
)
async def test_a_wrong_number_is_refused_with_what_was_expected(
    method: str, target: str, problem: str, expected: int | None, autojump_clock: MockClock
) -> None:
    async with world() as w:
        client = await greeted(w)
        await client.send("probe", id=1)
        key = f"Bearer {client.key}"
        probe = client.encoded("probe", id=2) if method == "POST" else b""
        answer = await asked(w, method, MESSAGES + target, probe, Authorization=key, Content_Type=MSGPACK)
        if problem:
            assert answer.problem == problem and answer.json.get("expected") == expected
        else:
            assert answer.status == 204
        assert (await client.expect("pong"))["id"] == 1
        await client.send("probe", id=3)
        assert (await client.expect("pong"))["id"] == 3, "nothing was taken"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content_Type": "application/json"}, {"Content_Type": MSGPACK, "Content_Encoding": "gzip"}],
)
async def test_a_body_is_of_a_known_type(headers: dict[str, str], autojump_clock: MockClock) -> None:
    async with world() as w:
        answer = await asked(w, "POST", OPEN, b"x", **headers)
        assert (answer.status, answer.problem) == (415, "unsupported-media-type")
        assert answer.json["supported"] == (["identity"] if "Content_Encoding" in headers else [MSGPACK, JSON])
        client = await greeted(w)
        key = f"Bearer {client.key}"
        answer = await asked(w, "POST", f"{MESSAGES}?n=1", b"[]", Authorization=key, Content_Type=JSON)
        assert (answer.status, answer.json["supported"]) == (415, [MSGPACK])


async def test_nothing_else_is_below_the_address(autojump_clock: MockClock) -> None:
    async with world() as w:
        assert (await asked(w, "GET", f"{OPEN}/nonsense")).status == 404
        assert (await asked(w, "PUT", OPEN)).headers["allow"] == "POST, OPTIONS"
        assert (await asked(w, "GET", OPEN)).status == 426


async def test_through_a_proxy_of_http_1_0(autojump_clock: MockClock) -> None:
    async with world() as w:

        async def ask(method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
            transport = w.connect()
            lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
            length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
            await send_all(transport, f"{method} {target} HTTP/1.0\r\n{lines}{length}\r\n".encode() + body)
            data = b""
            while piece := await transport.receive(65536):
                data += piece
            head, _, rest = data.partition(b"\r\n\r\n")
            status, *told = head.decode().split("\r\n")
            items = dict(line.split(": ", 1) for line in told)
            names = {name.lower(): value for name, value in items.items()}
            assert "transfer-encoding" not in names and names["connection"] == "close"
            assert len(rest) == int(names.get("content-length", 0))
            return Answer(int(status.split()[1]), names, rest)

        client = PolledClient(ask)
        await client.greet(w.token())
        await client.subscribe()
        await client.push(client.change(["create", "notes", "a"]))
        await client.expect("outcomes")
        await client.expect("delta")
        assert await client.poll() == 204


async def test_one_connection_serves_all_requests_of_who_keeps_it(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = PolledClient(keeping(w.connect()))
        await client.greet(w.token())
        await client.subscribe()
        assert w.server.connection_count == 1


async def test_the_token_may_come_with_the_first_request(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = polled(w)
        client.opening = {"Authorization": f"Bearer {w.token()}"}
        await client.send("hello", **client.hello(None))
        await client.expect("welcome")


async def test_an_opening_that_comes_again_opens_nothing(autojump_clock: MockClock) -> None:
    """Late, it would supersede the connection that it opened itself."""
    async with world() as w:
        client = polled(w)
        body = client.encoded("hello", **client.hello(w.token()))
        first = await asked(w, "POST", OPEN, body, **NEW)
        client.key = first.json["key"]
        await client.expect("welcome")
        again = await asked(w, "POST", OPEN, body, **NEW)
        assert (again.status, again.body) == (201, first.body)
        for wrong in (b"x", b""):
            other = await asked(w, "POST", OPEN, wrong, **NEW)
            assert (other.status, other.problem) == (422, "idempotency-key-reused")
        other = await asked(w, "POST", OPEN, body, Authorization="Bearer x.y.z", **NEW)
        assert other.status == 422, "a key is not told to who has not the same token"
        assert w.server.polled_count == 1
        await client.send("bye")
        assert (await client.closing()).code == 1000
        assert (await asked(w, "POST", OPEN, body, **NEW)).body == first.body
        await trio.sleep(31)
        assert (await asked(w, "POST", OPEN, body, **NEW)).json["key"] != client.key
        answer = await asked(w, "POST", OPEN, body, Content_Type=MSGPACK)
        assert (answer.status, answer.json["header"]) == (400, "Idempotency-Key")


async def test_a_refused_hello_is_told_by_polls(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = polled(w)
        await client.send("hello", **client.hello("a.b.c"))
        assert (await client.expect("error"))["name"] == "unauthenticated"
        assert (await client.closing()).code == 4200
        with pytest.raises(TransportClosed, match="ended"):
            await client.send("probe")


# -- browsers ---------------------------------------------------------------------------------------------------------


async def test_an_origin_may_ask_as_it_may_upgrade(autojump_clock: MockClock) -> None:
    async with world(origins=frozenset({"https://app.example"})) as w:
        body = PolledClient(asking(w.connect)).encoded("probe")
        answer = await asked(w, "POST", OPEN, body, Origin="https://evil.example", **NEW)
        assert (answer.status, answer.problem) == (403, "forbidden")
        assert w.server.polled_count == 0
        answer = await asked(w, "POST", OPEN, body, Origin="https://app.example", **NEW)
        assert answer.status == 201
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["vary"] == "Origin" and "access-control-allow-credentials" not in answer.headers
        preflight = await asked(w, "OPTIONS", MESSAGES, Origin="https://app.example")
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-headers"] == "authorization, content-type, idempotency-key"
        assert (await asked(w, "OPTIONS", MESSAGES, Origin="https://evil.example")).status == 403
        assert "access-control-allow-headers" not in (await asked(w, "OPTIONS", OPEN)).headers


# -- bounds -----------------------------------------------------------------------------------------------------------


async def test_polled_connections_are_bounded_in_total_and_the_ended_give_way(autojump_clock: MockClock) -> None:
    async with world(NetLimits(polled_max=3)) as w:
        clients = [await greeted(w, number) for number in range(1, 4)]
        late = polled(w, 4)
        body = late.encoded("hello", **late.hello(w.token()))
        answer = await asked(w, "POST", OPEN, body, **NEW)
        assert (answer.status, answer.problem) == (503, "overloaded") and int(answer.headers["retry-after"]) > 0
        await clients[0].send("bye")
        assert (await clients[0].closing()).code == 1000
        await late.greet(w.token())
        with pytest.raises(TransportClosed, match="unknown"):
            await clients[0].poll()


async def test_polled_connections_of_an_address_are_bounded(autojump_clock: MockClock) -> None:
    async with world(NetLimits(connections_per_address_max=2)) as w:
        for number in (1, 2):
            await greeted(w, number)
        third = polled(w, 3)
        body = third.encoded("hello", **third.hello(w.token()))
        assert (await asked(w, "POST", OPEN, body, **NEW)).status == 503
        await polled(w, 3, peer="10.0.0.2:1").greet(w.token())


async def test_connections_of_a_user_are_bounded_whatever_carries_them(autojump_clock: MockClock) -> None:
    async with world(NetLimits(connections_per_user_max=2)) as w:
        await greeted(w, 1)
        await w.client(2)
        third = polled(w, 3)
        await third.send("hello", **third.hello(w.token()))
        assert (await third.expect("error"))["name"] == "overloaded"
        assert (await third.closing()).code == 4101


async def test_opening_counts_as_an_upgrade(autojump_clock: MockClock) -> None:
    async with world(NetLimits(upgrades_per_s_max=0.1, upgrades_burst_max=1)) as w:
        await greeted(w, 1)
        client = polled(w, 2)
        body = client.encoded("hello", **client.hello(w.token()))
        assert (await asked(w, "POST", OPEN, body, **NEW)).status == 503


async def test_who_opens_and_says_no_hello_is_forgotten(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = polled(w)
        await client.send_payload(b"")
        assert (await client.closing()).code == 4001
        await trio.sleep(31)
        assert w.server.polled_count == 0 and w.server.remembered_count == 0


async def test_before_hello_little_is_kept_and_a_long_body_is_refused(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = polled(w)
        await client.send("hello", **client.hello("x" * 100_000))
        assert (await client.closing()).code == 1009
        client = await greeted(w, 2)
        key = f"Bearer {client.key}"
        answer = await asked(
            w, "POST", f"{MESSAGES}?n=1", bytes(4 * 1024 * 1024 + 1), Authorization=key, Content_Type=MSGPACK
        )
        assert answer.status == 413
        await client.send("probe", id=1)
        await client.expect("pong")
        await client.send_payload(bytes(2_000_000))
        assert (await client.expect("error"))["name"] == "malformed"
        assert (await client.closing()).code == 1009


async def test_a_slow_body_is_no_message(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await greeted(w)
        transport = w.connect()
        head = f"POST {MESSAGES}?n=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.key}\r\n"
        await send_all(transport, f"{head}Content-Type: {MSGPACK}\r\nContent-Length: 100\r\n\r\n".encode())
        answer = b""
        with trio.fail_after(60):
            while b"\r\n\r\n" not in answer:
                with trio.move_on_after(5):
                    answer += await transport.receive(65536)
                if not answer:
                    await send_all(transport, b"x")
        assert answer.startswith(b"HTTP/1.1 408 ")
        await client.expect("ping")
        await client.send("probe", id=1)
        assert (await client.expect("pong"))["id"] == 1


async def test_a_message_that_is_not_taken_in_time_is_asked_for_again(autojump_clock: MockClock) -> None:
    """The reader stops at `pushes_in_flight_max`; what it does not read stays with the client, in order."""
    async with world() as w:
        client = await greeted(w)
        w.committer.submit = lambda command, done: None  # type: ignore[method-assign]  # nothing is ever answered
        pushes = [client.encoded("push", space=SPACE, epoch=None, changes=[client.change(["create", "n", f"{i}"])],
                                 padding="x" * 9_000) for i in range(50)]  # fmt: skip
        taken = 0
        key = f"Bearer {client.key}"
        for n, push in enumerate(pushes, 1):
            answer = await asked(w, "POST", f"{MESSAGES}?n={n}", push, Authorization=key, Content_Type=MSGPACK)
            if answer.status == 503:
                break
            taken = n
        assert 16 <= taken <= 32, "sixteen in flight, and what the buffer holds"
        assert answer.problem == "overloaded" and answer.headers["retry-after"]


@pytest.mark.parametrize(("name", "limit"), [("TAKES_MAX", 2), ("UNTAKEN_BYTES_MAX", 25_000)])
async def test_messages_that_wait_for_room_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr("syncd.net.fallback.UNTAKEN_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(f"syncd.net.fallback.{name}", limit)
    async with world() as w:
        client = await greeted(w)
        w.committer.submit = lambda command, done: None  # type: ignore[method-assign]  # nothing is ever answered
        headers = {"Authorization": f"Bearer {client.key}", "Content_Type": MSGPACK}

        def push(n: int) -> bytes:
            change = client.change(["create", "n", f"{n}"])
            return client.encoded("push", space=SPACE, epoch=None, changes=[change], padding="x" * 10_000)

        n, began_s = 0, trio.current_time()
        answers: list[tuple[float, Answer]] = []
        while trio.current_time() == began_s:  # until one has waited
            n += 1
            assert (await asked(w, "POST", f"{MESSAGES}?n={n}", push(n), **headers)).status in (204, 503)

        async def again() -> None:
            answer = await asked(w, "POST", f"{MESSAGES}?n={n}", push(n), **headers)
            answers.append((trio.current_time(), answer))

        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(again)
                await wait_all_tasks_blocked()
        assert [answer.status for _, answer in answers] == [503] * 3
        waited_s = [answered_s - began_s for answered_s, _ in answers]
        assert waited_s[0] == 0 < waited_s[1] == waited_s[2], "the third was refused at once, and nothing of it held"
        assert (await asked(w, "GET", f"{MESSAGES}?after=9", **headers)).status == 409, "polls go on"


async def test_a_reset_in_the_middle_of_a_poll_loses_nothing(autojump_clock: MockClock) -> None:
    async with world() as w:
        client, writer = await greeted(w), await w.client(2)
        await client.subscribe()
        transport = w.connect()
        request = f"GET {MESSAGES}?after={client.after} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.key}\r\n"
        await send_all(transport, (request + "\r\n").encode())
        await wait_all_tasks_blocked()
        transport.abort()
        await writer.push(writer.change(["create", "notes", "a"]))
        await writer.expect("outcomes")
        assert (await client.expect("delta"))["to"] == 1


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_drain_ends_a_poll_with_goaway(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await greeted(w)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.poll)
            await wait_all_tasks_blocked()
            nursery.start_soon(w.server.drain, 10)
            await trio.sleep(1)
            assert [message.name for message in client.messages] == ["goaway"]
            with pytest.raises(TransportClosed):
                w.connect()
        assert trio.current_time() - began < 17
        await wait_all_tasks_blocked()
        assert w.server.polled_count == 0 and not w.logs


async def test_who_keeps_its_connection_is_served_until_it_leaves(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = PolledClient(keeping(w.connect()))
        await client.greet(w.token())
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.server.drain, 10)
            await client.expect("goaway")
            await client.push(client.change(["create", "notes", "a"]))
            await client.expect("outcomes")
            await client.send("bye")
            assert (await client.closing()).code == 1000
        assert trio.current_time() - began < 1, "nobody had to wait for the deadline"


async def test_a_defect_in_a_poll_is_told_and_logged(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await greeted(w)
        polled_one = w.server._fallback._polled[client.key]  # type: ignore[union-attr]
        polled_one.carriage._polls = None  # type: ignore[assignment]
        answer = await asked(w, "GET", f"{MESSAGES}?after=1", Authorization=f"Bearer {client.key}")
        assert answer.status == 500 and json.loads(answer.body)["title"] == "Internal error"
        assert len(w.logs) == 1 and client.key not in w.logs[0]
