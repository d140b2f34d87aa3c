"""A device's conversation with the server: handshake, subscriptions, changes, and the ways in which it ends."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from wsproto.events import BytesMessage, CloseConnection
from wsproto.events import Ping as PingFrame

from syncd.engine.commands import Ack, Push
from syncd.env.memory import BUFFER_BYTES
from syncd.env.ports import TransportClosed
from syncd.net.limits import NetLimits
from tests.net.harness import SPACE, Client, Closed, Mirror, upgrade_request, world

SET = ["reg.set", "notes", "a", "text"]


async def test_hello_is_answered_by_what_the_server_enforces(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        assert client.welcome["user"] == "u"
        assert client.welcome["limits"]["frame_bytes_max"] == 1_048_576
        assert client.welcome["resumed"] is False


async def test_a_push_is_answered_and_then_shown_to_every_subscriber(autojump_clock: MockClock) -> None:
    async with world() as w:
        alice, bob = await w.client(1), await w.client(2, user="b")
        assert (await alice.subscribe())["mode"] == "live"
        await bob.subscribe()
        await alice.push(alice.change(["create", "notes", "a"], [*SET, "hello"]))
        outcome = await alice.expect("outcomes")
        assert outcome["outcomes"] == [[1, (1).to_bytes(8), "applied", 1, None]]
        for client in (alice, bob):
            delta = await client.expect("delta")
            assert delta["docs"] == [["notes", "a", 1, 1, {"text": ["reg", "hello"]}]]
            assert (delta["from"], delta["to"], delta["complete"]) == (0, 1, True)


async def test_hello_and_subscribe_may_come_before_the_response_is_read(autojump_clock: MockClock) -> None:
    """Bytes right behind the upgrade request belong to the WebSocket."""
    async with world() as w:
        client = Client(w.connect())
        hello = client.websocket.send(BytesMessage(data=client.encoded("hello", **client.hello(w.token()))))
        head = await client.upgrade(upgrade_request() + hello)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert (await client.expect("welcome"))["user"] == "u"


async def test_what_follows_the_hello_waits_for_the_welcome_and_is_then_taken(autojump_clock: MockClock) -> None:
    """A client that comes back says all in its first flight, and has the answers after one round trip."""
    async with world() as w:
        client = await w.client(1)
        epoch = (await client.subscribe())["epoch"]
        assert "first-flight" in client.welcome["caps"]
        client = Client(w.connect(), 1)
        flight = [
            ("hello", client.hello(w.token())),
            ("subscribe", {"space": SPACE, "epoch": epoch, "complete": 0, "resume": 0, "settled": 0}),
            ("push", {"space": SPACE, "epoch": epoch, "changes": [client.change(["create", "notes", "a"])]}),
        ]
        frames = [client.websocket.send(BytesMessage(data=client.encoded(name, **body))) for name, body in flight]
        await client.upgrade(upgrade_request() + b"".join(frames))
        await client.expect("welcome")
        await client.expect("subscribed")
        assert (await client.expect("outcomes"))["outcomes"][0][2] == "applied"
        assert (await client.expect("delta"))["to"] == 1


async def test_what_follows_a_hello_that_is_refused_has_no_effect(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect(), 1)
        push = {"space": SPACE, "epoch": None, "changes": [client.change(["create", "notes", "a"])]}
        flight = [("hello", client.hello("not a token")), ("push", push)]
        frames = [client.websocket.send(BytesMessage(data=client.encoded(name, **body))) for name, body in flight]
        await client.upgrade(upgrade_request() + b"".join(frames))
        assert (await client.expect("error"))["name"] == "unauthenticated"
        assert not [command for command in w.commands if isinstance(command, Push)]


async def test_catching_up_is_told_outcomes_first_then_pages(autojump_clock: MockClock) -> None:
    async with world() as w:
        alice = await w.client(1)
        await alice.push(*[alice.change(["create", "notes", str(i)], [*SET[:2], str(i), "text", i]) for i in range(20)])
        await alice.expect("outcomes")
        await alice.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=5)
        outcomes = await alice.expect("outcomes")
        assert [entry[0] for entry in outcomes["outcomes"]] == list(range(6, 21))
        subscribed = await alice.expect("subscribed")
        assert (subscribed["mode"], subscribed["head"]) == ("catch-up", 20)
        delta = await alice.expect("delta")
        assert len(delta["docs"]) == 20 and delta["complete"] and delta["start"] == 20


async def test_json_is_the_same_conversation_in_text(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect(), protocol="syncd.v1.json")
        head = await client.upgrade()
        assert b"Sec-WebSocket-Protocol: syncd.v1.json" in head
        await client.greet(w.token())
        other = await w.client(2)
        await other.subscribe()
        assert (await client.subscribe())["mode"] == "live"
        await client.push([1, "00" * 7 + "01", 0, 1, [["create", "notes", "a"], [*SET, {"$b": "AA"}]]])
        assert (await client.expect("outcomes"))["outcomes"][0][2] == "applied"
        assert (await client.expect("delta"))["docs"][0][4] == {"text": ["reg", {"$b": "AA"}]}
        assert (await other.expect("delta"))["docs"][0][4] == {"text": ["reg", b"\0"]}


async def test_the_token_may_come_with_the_upgrade(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect())
        await client.upgrade(upgrade_request(Authorization=f"Bearer {w.token()}"))
        body = client.hello(None)
        await client.send("hello", **body)
        await client.expect("welcome")


@pytest.mark.parametrize(
    ("token", "code", "name"),
    [(None, 4200, "unauthenticated"), ("a.b.c", 4200, "unauthenticated"), ("expired", 4201, "token_expired")],
)
async def test_who_has_no_good_token_is_told_why(
    token: str | None, code: int, name: str, autojump_clock: MockClock
) -> None:
    async with world() as w:
        client = Client(w.connect())
        await client.upgrade()
        if token == "expired":
            token = w.token(ttl_s=1)
            await trio.sleep(2)
        await client.send("hello", **client.hello(token))
        assert (await client.expect("error"))["name"] == name
        assert (await client.closing()).code == code


async def test_a_device_belongs_to_one_user(autojump_clock: MockClock) -> None:
    async with world() as w:
        await w.client(1, user="a")
        thief = Client(w.connect(), 1)
        await thief.upgrade()
        await thief.send("hello", **thief.hello(w.token("b")))
        assert (await thief.expect("error"))["name"] == "device_bound"
        assert (await thief.closing()).code == 4902


async def test_nothing_but_hello_is_taken_before_welcome(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect())
        await client.upgrade()
        await client.send("probe")
        assert (await client.expect("error"))["name"] == "unexpected_message"
        assert (await client.closing()).code == 4900


async def test_a_second_connection_of_a_device_ends_the_first(autojump_clock: MockClock) -> None:
    async with world() as w:
        first = await w.client(1)
        await first.subscribe()
        second = await w.client(1, session=first.welcome["session"])
        assert second.welcome["resumed"] is True
        assert (await first.expect("error"))["name"] == "superseded"
        assert (await first.closing()).code == 4901
        await second.subscribe()
        await second.push(second.change(["create", "notes", "a"]))
        await second.expect("outcomes")
        await second.expect("delta")


async def test_what_the_first_connection_pushed_is_told_to_the_second(autojump_clock: MockClock) -> None:
    """Else the device would see its own change in a delta before it hears that it was taken."""
    async with world() as w:
        first = await w.client(1)
        await first.subscribe()
        await first.push(first.change(["create", "notes", "a"]))
        mirror = Mirror()
        second = await w.client(1)
        await second.send("subscribe", space=SPACE, **mirror.positions())
        while mirror.complete < 1:
            mirror.take(await second.receive())
        assert mirror.outcomes == {1: ("applied", 1)}


async def test_a_subscription_without_a_role_is_revoked(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect())
        await client.upgrade()
        await client.greet(w.token(pattern="mine/*"))
        await client.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0)
        assert (await client.expect("revoked"))["space"] == SPACE
        await client.subscribe("mine/1")


async def test_refresh_judges_all_subscriptions_again(autojump_clock: MockClock) -> None:
    async with world() as w:
        client, other = await w.client(1), await w.client(2, user="b")
        await client.subscribe("room/1")
        await client.subscribe("hall/1")
        await client.send("refresh", token=w.token(pattern="hall/*"))
        assert (await client.expect("revoked"))["space"] == "room/1"
        await other.push(other.change(["create", "notes", "a"]), space="room/1")
        await other.expect("outcomes")
        other.n = 0
        await other.push(other.change(["create", "notes", "a"]), space="hall/1")
        assert (await client.expect("delta"))["space"] == "hall/1"


async def test_a_subscription_under_way_is_judged_by_the_token_that_has_come_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """The engine had judged it by the old token, nobody did by the new one, and a device at the head went live."""
    async with world() as w:
        writer = await w.client(1)
        await writer.push(writer.change(["create", "c", "1"]))
        epoch = (await writer.expect("outcomes"))["epoch"]
        reader = await w.client(2)
        asked = reader.encoded("subscribe", space=SPACE, epoch=epoch, complete=1, resume=1, settled=0)
        refreshed = reader.encoded("refresh", token=w.token(pattern="elsewhere/*"))
        await reader.send_event(BytesMessage(data=asked + refreshed))
        assert (await reader.expect("revoked"))["space"] == SPACE
        await writer.push(writer.change(["create", "c", "2"], base=1))
        await reader.send("probe")
        await reader.expect("pong")
        await trio.sleep(1)
        assert not reader.messages


async def test_refresh_keeps_the_user(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(1)
        await client.send("refresh", token=w.token("someone else"))
        assert (await client.expect("error"))["name"] == "token_user"
        assert (await client.closing()).code == 4900


async def test_an_expired_token_ends_the_connection_unless_it_is_refreshed(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        client = Client(w.connect())
        await client.upgrade()
        await client.greet(w.token(ttl_s=20))
        await trio.sleep(10)
        await client.send("refresh", token=w.token(ttl_s=15))
        await trio.sleep(14)
        await client.send("probe", id=7)
        assert (await client.expect("pong"))["id"] == 7
        assert (await client.expect("error"))["name"] == "token_expired"
        assert (await client.closing()).code == 4201
        assert trio.current_time() == pytest.approx(25, abs=0.6)


async def test_silence_is_pinged_and_then_closed(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client(keepalive_ms=20_000)
        assert client.welcome["ping_ms"] == 20_000
        began = trio.current_time()
        await client.expect("ping")
        assert trio.current_time() - began == pytest.approx(20, abs=0.6)
        assert (await client.closing()).code == 4001
        assert trio.current_time() - began == pytest.approx(45, abs=0.6)


async def test_any_byte_is_life(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        for _ in range(20):
            await trio.sleep(25)
            await client.send("pong")
        await client.send("probe")
        await client.expect("pong")  # no ping was due in 500 s


async def test_a_connection_without_hello_ends(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = Client(w.connect())
        await client.upgrade()
        began = trio.current_time()
        await client.send_event(PingFrame(payload=b"still here"))
        assert (await client.closing()).code == 4001
        assert trio.current_time() - began == pytest.approx(10, abs=0.6)


async def test_a_bad_space_name_concerns_only_itself(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.send("subscribe", space="a//b", epoch=None, complete=0, resume=0, settled=0)
        assert (await client.expect("error"))["name"] == "bad_space"
        await client.subscribe()


async def test_pushes_and_acks_reach_the_engine_in_order(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        epoch = (await client.subscribe())["epoch"]
        await client.push(client.change(["create", "notes", "a"]))
        await client.expect("outcomes")
        await client.expect("delta")
        frames = [
            client.encoded("ack", space=SPACE, epoch=epoch, applied=0, oldest_base=0, settled=0),
            client.encoded("ack", space=SPACE, epoch=epoch, applied=1, oldest_base=1, settled=1),
            client.encoded("push", space=SPACE, epoch=epoch, changes=[client.change(SET, base=1)]),
        ]
        await client.send_event(BytesMessage(data=b"".join(frames)))
        await client.expect("outcomes")
        asked = [command for command in w.commands if isinstance(command, Ack | Push)]
        assert [type(command) for command in asked] == [Push, Ack, Push]
        assert isinstance(asked[1], Ack) and asked[1].applied == 1, "acks that wait together become the newest"


async def test_an_ack_alone_is_taken_within_a_second(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        epoch = (await client.subscribe())["epoch"]
        await client.send("ack", space=SPACE, epoch=epoch, applied=0, oldest_base=0, settled=0)
        await trio.sleep(2)
        assert [type(command) for command in w.commands][-1] is Ack


async def test_the_server_reads_no_more_than_sixteen_pushes_ahead(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        pushes = [
            client.encoded("push", space=SPACE, epoch=None, changes=[client.change(["create", "notes", str(i)])])
            for i in range(50)
        ]
        waiting: list[int] = []
        submit = w.committer.submit

        def counting(command, done):  # type: ignore[no-untyped-def]
            submit(command, done)
            waiting.append(w.committer.stats().queue_count)

        w.committer.submit = counting  # type: ignore[method-assign]
        await client.send_event(BytesMessage(data=b"".join(pushes)))
        n = 0
        while n < 50:
            n = (await client.expect("outcomes"))["outcomes"][-1][0]
        assert max(waiting) <= 16


async def test_a_gap_is_told_and_nothing_is_taken(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        client.n = 4
        await client.push(client.change(["create", "notes", "a"]))
        assert (await client.expect("outcomes"))["gap"] == 1


async def test_pushing_again_is_answered_again(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.subscribe()
        change = client.change(["create", "notes", "a"])
        await client.push(change)
        first = await client.expect("outcomes")
        await client.expect("delta")
        await client.push(change)
        assert (await client.expect("outcomes"))["outcomes"] == first["outcomes"]


async def test_bye_ends_the_connection_normally(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.send("bye", end=True)
        assert (await client.closing()).code == 1000
        again = await w.client(session=client.welcome["session"])
        assert again.welcome["resumed"] is False


async def test_what_stands_before_a_bye_in_its_frame_is_done_and_the_bye_too(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        said = [
            client.encoded(name, **body) for name, body in (("probe", {"id": 7}), ("probe", {"id": 8}), ("bye", {}))
        ]
        await client.send_event(BytesMessage(data=b"".join(said)))
        with trio.fail_after(5):
            assert (await client.closing()).code == 1000


async def test_a_close_frame_is_answered_and_the_stream_ends(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.send_event(CloseConnection(code=1001))
        assert (await client.closing()).code == 1001
        assert await client.transport.receive(1) == b""
        client.transport.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert w.server.connection_count == 0 and not w.hub.members


async def test_who_never_answers_our_close_frame_is_cut_off(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.send("bye")
        with pytest.raises(Closed):
            await client.receive()
        await trio.sleep(6)
        assert w.server.connection_count == 0


async def test_subscriptions_behind_one_that_finds_the_socket_dead_leave_no_rooms(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        body = {"epoch": None, "complete": 0, "resume": 0, "settled": 0}
        spaces = [f"team/{number}" for number in range(4)]
        for space in spaces:  # so that they are answered at once from here on
            await client.subscribe(space)
            await client.send("unsubscribe", space=space)
        await trio.testing.wait_all_tasks_blocked()
        assert not w.hub.room_count
        asked = b"".join(client.encoded("subscribe", space=space, **body) for space in spaces)
        client.transport.send_now(client.websocket.send(BytesMessage(data=asked)))
        client.transport.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert w.server.connection_count == 0 and not w.hub.room_count


async def test_a_defect_ends_one_connection_only(autojump_clock: MockClock) -> None:
    async with world() as w:
        victim, other = await w.client(1), await w.client(2)
        read = w.store.read
        w.store.read = lambda: 1 / 0  # type: ignore[assignment, return-value]
        await victim.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0)
        assert (await victim.expect("error"))["name"] == "internal"
        assert (await victim.closing()).code == 1011
        w.store.read = read  # type: ignore[method-assign]
        assert "ZeroDivisionError" in w.logs[0]
        await other.subscribe()


async def test_a_subscription_that_was_forgotten_and_made_again_is_durable(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        client = await w.client()
        epoch = (await client.subscribe())["epoch"]
        await client.send("unsubscribe", space=SPACE, forget=True)
        await client.send("subscribe", space=SPACE, epoch=epoch, complete=0, resume=0, settled=0)
        await client.expect("subscribed")
        assert [type(command).__name__ for command in w.commands] == ["Bind", "Attach", "Forget", "Attach"]


async def test_drain_lets_devices_leave_in_their_own_time(autojump_clock: MockClock) -> None:
    async with world() as w:
        polite, stubborn = await w.client(1), await w.client(2)
        await polite.subscribe()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.server.drain, 20)
            goaway = await polite.expect("goaway")
            assert goaway["code"] == 1012
            with pytest.raises(TransportClosed):
                w.connect()
            await polite.push(polite.change(["create", "notes", "a"]))
            await polite.expect("outcomes")
            await polite.send("bye")
            assert (await polite.closing()).code == 1000
            assert trio.current_time() - began < 1
            await stubborn.expect("goaway")
            assert (await stubborn.closing()).code == 1012
            assert trio.current_time() - began == pytest.approx(20, abs=0.6)
            for client in (polite, stubborn):
                client.transport.abort()
        assert trio.current_time() - began < 22


async def test_who_says_hello_while_the_server_drains_is_sent_away_with_the_welcome(autojump_clock: MockClock) -> None:
    """It heard nothing, so the drain took until its deadline, and all who had come so were cut off at once."""
    async with world() as w:
        early, late = await w.client(1), w.make(w, 2, BUFFER_BYTES, "syncd.v1.msgpack", None)
        await late.upgrade()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.server.drain, 20)
            first = await early.expect("goaway")
            await late.greet(w.token())
            second = await late.expect("goaway")
            assert first["code"] == second["code"] == 1012
            assert first["retry_after_ms"] < second["retry_after_ms"], "each has a slot of its own"
            await late.push(late.change(["create", "notes", "a"]))
            await late.expect("outcomes")
            for client in (early, late):
                await client.send("bye")
                assert (await client.closing()).code == 1000
                client.transport.abort()
        assert trio.current_time() - began < 2


async def test_connections_of_a_user_are_bounded(autojump_clock: MockClock) -> None:
    async with world(NetLimits(connections_per_user_max=2)) as w:
        await w.client(1)
        await w.client(2)
        third = Client(w.connect(), 3)
        await third.upgrade()
        await third.send("hello", **third.hello(w.token()))
        assert (await third.expect("error"))["name"] == "overloaded"
        assert (await third.closing()).code == 4101
        await w.client(2)  # a device that is replaced is not one more
