"""Floods: of connections, requests, credentials, bytes and changes. Who floods is refused or slowed, and told when to
come back; who stands beside notices nothing; and a wall clock that jumps neither bans nor frees anyone."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import BytesMessage
from wsproto.extensions import PerMessageDeflate

from syncd.net.counters import Counters
from syncd.net.gate import Gate, counted_as
from syncd.net.http import RECEIVE_BYTES
from syncd.net.limits import NetLimits
from syncd.net.rates import Rate
from tests.net.harness import Client, World, send_all, upgrade_request, world
from tests.net.test_http import everything, problem_of, said

SLOW = Rate(per_s=1, burst=3)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("10.0.0.1:1", "10.0.0.1"),
        ("unix", "unix"),
        ("[2001:db8:1:2:3:4:5:6]:1", "20010db800010002"),
        ("[2001:db8:1:2::ffff]:9", "20010db800010002"),
        ("[::ffff:10.0.0.1]:9", "10.0.0.1"),
        ("[fe80::1%eth0]:9", "fe80000000000000"),
        ("somewhere:1", "somewhere"),
    ],
)
def test_an_ipv6_address_counts_with_its_network(peer: str, expected: str) -> None:
    assert counted_as(peer) == expected


async def test_requests_of_an_address_beyond_the_rate_are_told_when_to_come_back(autojump_clock: MockClock) -> None:
    async with world(NetLimits(address_requests=SLOW)) as w:
        request = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answers = [await said(w, request) for _ in range(4)]
        assert [answer.split()[1] for answer in answers] == [b"200", b"200", b"200", b"429"]
        assert problem_of(answers[3]) == (429, "rate-limited") and b"Retry-After: 2\r\n" in answers[3]
        counters = w.hub.counters
        assert counters.rate_limited["requests_address"] == 1 and counters.responses == {200: 3, 429: 1}
        await trio.sleep(1)
        assert (await said(w, request)).split()[1] == b"200"


async def test_a_body_is_not_read_of_an_address_that_asks_too_often(autojump_clock: MockClock) -> None:
    async with world(NetLimits(address_requests=Rate(per_s=1, burst=1))) as w:
        await said(w, b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        transport = w.connect()
        await send_all(transport, b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert problem_of(await everything(transport)) == (429, "rate-limited")
        assert trio.current_time() < 1, "it was answered at once"


async def test_connections_that_are_refused_take_no_place_of_others(autojump_clock: MockClock) -> None:
    """One address that opens connections without end: before, each that was refused counted as one that is served."""
    limits = NetLimits(connections_max=10, connections_per_address_max=2, refusals_max=3)
    async with world(limits) as w:
        crowd = []
        for index in range(50):
            crowd.append(w.connect(f"10.6.6.6:{index}"))
            await wait_all_tasks_blocked()
        assert w.server.connection_count == 5, "two are served, three are told to come back"
        assert w.hub.counters.connections == {"served": 2, "refused_address": 48, "dropped": 45}
        client = Client(w.connect("10.0.0.1:1"))
        await client.upgrade()
        await client.greet(w.token())
        for transport in crowd:
            transport.abort()
        await wait_all_tasks_blocked()
        assert w.server.connection_count == 1


async def test_attempts_to_connect_beyond_the_rate_are_refused_and_free_again_later(autojump_clock: MockClock) -> None:
    async with world(NetLimits(address_connections=SLOW)) as w:
        request = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answers = [await said(w, request) for _ in range(4)]
        assert problem_of(answers[3]) == (429, "rate-limited") and b"Retry-After: 16" in answers[3]
        assert w.hub.counters.connections == {"served": 3, "refused_rate": 1}
        other = Client(w.connect("10.0.0.2:1"))
        await other.upgrade()
        await trio.sleep(1)
        assert (await said(w, request)).split()[1] == b"200"


async def refused_hello(w: World, peer: str, token: str, number: int = 9) -> tuple[str, int]:
    """(error, close code) of a hello that is refused."""
    client = Client(w.connect(peer), number)
    await client.upgrade()
    await client.send("hello", **client.hello(token))
    name = (await client.expect("error"))["name"]
    return str(name), (await client.closing()).code


async def test_who_guesses_tokens_has_to_wait_and_his_neighbour_goes_on(autojump_clock: MockClock) -> None:
    async with world(NetLimits(address_failures=Rate(per_s=0.1, burst=3))) as w:
        neighbour = await w.client(1)
        known = neighbour.welcome
        for _ in range(3):
            assert await refused_hello(w, "10.0.0.1:1", "a.b.c") == ("unauthenticated", 4200)
        assert await refused_hello(w, "10.0.0.1:1", "a.b.c") == ("rate_limited", 4100)
        assert await refused_hello(w, "10.0.0.1:1", w.token("new")) == ("rate_limited", 4100), "right ones wait, too"
        assert w.hub.counters.unauthenticated == {"malformed": 3}
        assert w.hub.counters.rate_limited["authentication"] == 2
        again = await w.client(1, session=known["session"])
        assert again.welcome["resumed"], "credentials that were good before go on"
        elsewhere = Client(w.connect("10.0.0.2:1"), 3)
        await elsewhere.upgrade()
        await elsewhere.greet(w.token("c"))
        await trio.sleep(10)
        assert await refused_hello(w, "10.0.0.1:1", "a.b.c") == ("unauthenticated", 4200), "one in ten seconds"
        assert await refused_hello(w, "10.0.0.1:1", "a.b.c") == ("rate_limited", 4100)


async def test_a_neighbour_of_one_who_guesses_changes_its_token_and_comes_back_with_it(
    autojump_clock: MockClock,
) -> None:
    async with world(NetLimits(address_failures=Rate(per_s=0.1, burst=3))) as w:
        neighbour = await w.client(1)
        for _ in range(3):
            await refused_hello(w, "10.0.0.1:1", "a.b.c")
        token = w.token(ttl_s=7200)
        assert await refused_hello(w, "10.0.0.1:1", token) == ("rate_limited", 4100)
        await neighbour.send("refresh", token=token)
        await neighbour.send("probe")
        await neighbour.expect("pong")
        again = Client(w.connect("10.0.0.1:1"), 1)
        await again.upgrade()
        await again.greet(token)
        await again.send("refresh", token="a.b.c")
        assert (await again.expect("error"))["name"] == "unauthenticated"
        assert w.hub.counters.unauthenticated == {"malformed": 4}, "a wrong one counts, and ends the connection"


async def test_expired_and_absent_tokens_are_no_guesses(autojump_clock: MockClock) -> None:
    async with world(NetLimits(address_failures=Rate(per_s=0.1, burst=1))) as w:
        stale = w.token(ttl_s=1)
        await trio.sleep(2)
        for _ in range(5):
            assert await refused_hello(w, "10.0.0.1:1", stale) == ("token_expired", 4201)
        assert w.hub.counters.unauthenticated == {"expired": 5}


@pytest.mark.parametrize("step_ms", [-1_000_000_000, 1_000_000_000])
async def test_a_wall_clock_that_jumps_neither_bans_nor_frees(
    autojump_clock: MockClock, step_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(NetLimits(address_failures=Rate(per_s=0.1, burst=2), address_requests=SLOW)) as w:
        request = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        for _ in range(3):
            await said(w, request)
        for _ in range(2):
            await refused_hello(w, "10.0.0.1:1", "a.b.c")
        monkeypatch.setattr("tests.net.harness.BASE_MS", 1_795_000_000_000 + step_ms)
        assert problem_of(await said(w, request)) == (429, "rate-limited")
        assert await refused_hello(w, "10.0.0.1:1", "a.b.c") == ("rate_limited", 4100)
        await trio.sleep(10)
        assert (await said(w, request)).split()[1] == b"200"
        assert await refused_hello(w, "10.0.0.1:1", "a.b.c") == ("unauthenticated", 4200)


async def test_one_who_sends_too_many_bytes_is_read_more_slowly_and_loses_nothing(autojump_clock: MockClock) -> None:
    async with world(NetLimits(user_bytes=Rate(per_s=10_000, burst=20_000))) as w:
        flood, other = await w.client(1, user="a"), await w.client(2, user="b")
        began_s = trio.current_time()
        for index in range(20):
            await flood.push(flood.change(["create", "c", str(index)], ["reg.set", "c", str(index), "f", "x" * 20_000]))
            await other.send("probe")
            await other.expect("pong")
        outcomes: list[str] = []
        while len(outcomes) < 20:
            message = await flood.receive()
            if message.name != "ping":
                outcomes.append(message["outcomes"][0][2])
        assert outcomes == ["applied"] * 20
        least_s = (20 * 20_000 - 20_000 - RECEIVE_BYTES) / 10_000  # the last piece is answered before its pause
        assert least_s <= trio.current_time() - began_s < (20 * 20_000 - 20_000) / 10_000 * 1.1
        assert w.hub.counters.rate_limited["bytes"] > 0
        assert len(w.hub.members) == 2, "silence while we do not read is not held against it"


async def test_bytes_count_as_what_they_become_when_they_came_compressed(autojump_clock: MockClock) -> None:
    """A kilobyte can be a megabyte of changes: it is parsed, held and stored like any other."""
    async with world(NetLimits(user_bytes=Rate(per_s=10_000, burst=20_000))) as w:
        client = await w.client(deflate=PerMessageDeflate())
        began_s = trio.current_time()
        for index in range(10):
            document = ["c", str(index)]
            await client.push(client.change(["create", *document], ["reg.set", *document, "f", "x" * 20_000]))
        answered = 0
        while answered < 10:
            answered += (await client.receive()).name == "outcomes"
        least_s = (9 * 20_000 - 20_000) / 10_000
        assert 0.95 * least_s <= trio.current_time() - began_s < 1.5 * least_s


async def test_numbers_that_a_void_gives_up_count_as_changes(autojump_clock: MockClock) -> None:
    async with world(NetLimits(user_changes=Rate(per_s=100, burst=1_000))) as w:
        client = await w.client()
        began_s = trio.current_time()
        for index in range(4):
            await client.push(["void", 1_000 * index + 1, 1_000 * index + 1_000, bytes(8), ""])
        answered = 0
        while answered < 4:
            answered += (await client.receive()).name == "outcomes"
        assert trio.current_time() - began_s >= 20


async def test_numbers_that_a_push_leaves_for_the_next_one_do_not_count_twice(autojump_clock: MockClock) -> None:
    """Counted each time that they were offered, a long gap after a restore cost all devices of its user most of an
    hour."""
    async with world(NetLimits(user_changes=Rate(per_s=100, burst=1_000))) as w:
        client, began_s, first, end = await w.client(), trio.current_time(), 1, 10_001
        while first < end:
            await client.push(*(["void", n, n + 999, bytes(8), ""] for n in range(first, end, 1_000)))
            while (answer := await client.receive()).name != "outcomes":
                assert answer.name == "ping"
            first = answer.body.get("gap", end)
        assert 80 < trio.current_time() - began_s < 120


async def test_who_is_not_read_for_long_hears_that_the_server_is_there(autojump_clock: MockClock) -> None:
    """Else it would take it for dead, come again, and bring what is not read yet once more: for ever."""
    async with world(NetLimits(user_bytes=Rate(per_s=100, burst=20_000))) as w:
        client = await w.client()
        await client.push(client.change(["create", "c", "d"], ["reg.set", "c", "d", "f", "x" * 50_000]))
        assert (await client.expect("outcomes"))["outcomes"][0][2] == "applied"
        await client.send("probe")
        began_s, heard_s = trio.current_time(), trio.current_time()
        while (await client.receive()).name == "ping":
            assert trio.current_time() - heard_s <= client.welcome["ping_ms"] / 1000 + 2, "or a client doubts"
            heard_s = trio.current_time()
        assert heard_s - began_s > 200, "then the probe was read"


async def test_who_is_read_piece_by_piece_hears_it_too(autojump_clock: MockClock) -> None:
    """Each piece is a sign of its life, so no ping is due; but it hears nothing."""
    async with world(NetLimits(user_bytes=Rate(per_s=100, burst=1_000))) as w:
        client = await w.client()
        change = client.change(["create", "c", "d"], ["reg.set", "c", "d", "f", "x" * 50_000])
        push = client.encoded("push", space="s", epoch=None, changes=[change])
        frame = client.websocket.send(BytesMessage(data=push))

        async def say() -> None:
            for at in range(0, len(frame), 700):
                await send_all(client.transport, frame[at : at + 700])
                await trio.sleep(6)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            for _ in range(15):
                with trio.fail_after(client.welcome["ping_ms"] / 1000 + 2):
                    await client.expect("ping")
            nursery.cancel_scope.cancel()


async def test_devices_of_a_user_share_what_they_may_push(autojump_clock: MockClock) -> None:
    async with world(NetLimits(user_changes=Rate(per_s=10, burst=20))) as w:
        clients = [await w.client(number) for number in range(1, 5)]
        began_s = trio.current_time()

        async def work(client: Client) -> None:
            for index in range(5):
                await client.push(*(client.change(["create", "c", f"{index} {i}"]) for i in range(5)))
                while (await client.expect("outcomes"))["outcomes"][-1][0] < client.n:
                    pass

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(work, client)
        assert trio.current_time() - began_s >= (100 - 20 - 20) / 10, "four devices, one bucket"
        assert w.hub.counters.rate_limited["changes"] > 0


async def test_no_table_of_the_gate_grows_without_bound(autojump_clock: MockClock) -> None:
    gate = Gate(NetLimits(rate_entries_max=50), Counters())
    for index in range(1_000):
        peer, name = f"10.{index // 256}.{index % 256}.1:1", f"user {index}"
        gate.connection_refused_s(peer)
        gate.request_refused_s(peer)
        gate.failed(peer, "malformed")
        gate.accepted(name.encode())
        gate.caller_refused_s(name)
        gate.input_pause_s(name, 10)
        gate.changes_pause_s(name, 10)
    sizes = [len(getattr(gate, name)) for name in vars(gate) if name.startswith("_") and not name.endswith("_max")]
    assert sizes == [50] * 7


async def test_upgrades_beyond_the_rate_are_told_random_times_before_any_token_is_looked_at(
    autojump_clock: MockClock,
) -> None:
    async with world(NetLimits(upgrades_per_s_max=1, upgrades_burst_max=1)) as w:
        await w.client(1)
        answer = await said(w, upgrade_request(Authorization="Bearer a.b.c"))
        assert problem_of(answer) == (503, "overloaded") and b"Retry-After: 16" in answer
        assert w.hub.counters.upgrades == {"accepted": 1, "overloaded": 1}
        assert not w.hub.counters.unauthenticated
