"""Signals and presence over connections: who hears what, in which order, and what a slow or denied one does not."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.net.limits import NetLimits
from syncd.net.live import PRESENCE_BATCH_S
from syncd.wire.limits import SIGNALS_BURST_MAX, Limits
from syncd.wire.messages import Signal
from tests.net.harness import SPACE, Client, Message, World, world
from tests.net.polled import polled
from tests.net.test_members import member, posted

CAPS = ["signals"]


async def joined(w: World, number: int, user: str = "u", role: str = "owner", **more: Any) -> Client:
    """A device that is subscribed, has read all there is, and hears signals."""
    client = Client(w.connect(**more), number)
    await client.upgrade()
    await client.greet(w.token(user, role), caps=CAPS)
    body = await client.subscribe()
    assert len(body["ref"]) == 8
    await told(client)
    return client


async def told(*clients: Client) -> list[Message]:
    """All that the server has to say for now, of signals and all else."""
    messages = []
    for client in clients:
        await wait_all_tasks_blocked()
        await client.send("probe", id=7)
        while (message := await client.receive()).name != "pong":
            messages.append(message)
    return messages


async def drained(client: Client) -> list[Message]:
    """What a client that was slow is sent when it reads: signals come behind the answer to a probe."""
    return [message for _ in range(4) for message in await told(client)]


def heard(messages: list[Message]) -> list[tuple[str, Any]]:
    return [(each["key"], each["value"]) for each in messages if each.name == "heard"]


async def test_a_signal_is_heard_by_all_who_listen_in_each_format_and_by_nobody_else(autojump_clock: MockClock) -> None:
    async with world() as w:
        a, b = await joined(w, 1, "ann"), await joined(w, 2, "bob", "reader")
        text = Client(w.connect(), 3, "syncd.v1.json")
        await text.upgrade()
        await text.greet(w.token("cy"), caps=CAPS)
        await text.subscribe()
        old, elsewhere = await w.client(4), await w.client(5, caps=CAPS)
        await old.subscribe()
        await elsewhere.subscribe("room/2")
        await told(text, old, elsewhere)
        before = len(w.commands)
        await a.send("signal", space=SPACE, key="at", value={"$x": b"1"}, ttl_ms=5_000)
        (own,), (other,), (json,) = await told(a), await told(b), await told(text)
        assert own.body == other.body and (other["user"], other["value"]) == ("ann", {"$x": b"1"})
        assert 4_000 < other["ttl_ms"] <= 5_000
        assert (json["value"], json["ref"]) == ({"$$x": {"$b": "MQ"}}, own["ref"].hex())
        assert a.device not in own["ref"] and own["ref"] not in a.device
        assert await told(old, elsewhere) == []
        assert len(w.commands) == before, "a signal is no command"


async def test_what_devices_know_each_other_by_differs_from_space_to_space(autojump_clock: MockClock) -> None:
    async with world() as w:
        a = await joined(w, 1)
        other = await a.subscribe("room/2")
        again = await a.subscribe()
        await a.send("signal", space=SPACE, key="k")
        assert [each["ref"] for each in await told(a) if each.name == "heard"] == [again["ref"]]
        assert other["ref"] != again["ref"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"key": "k", "value": "x" * 8_190}, "at most 8192 bytes, not 8193"),
        ({"key": "k", "ttl_ms": 300_001}, "from 1 to 300000"),
        ({"key": "k", "ttl_ms": 0}, "from 1 to 300000"),
        ({"key": ""}, "1-160 bytes"),
        ({"key": "a\n"}, "key of a signal"),
        ({"presence": {"name": "x" * 512}}, "at most 512 bytes"),
        ({"key": "k", "space": "room/2"}, "subscribed to"),
    ],
)
async def test_a_signal_beyond_a_limit_is_refused_and_closes_nothing(
    autojump_clock: MockClock, body: dict[str, Any], said: str
) -> None:
    async with world() as w:
        a = await joined(w, 1)
        await a.send("signal", **({"space": SPACE} | body))
        (answer,) = await told(a)
        assert (answer.name, answer["name"], answer["retry"]) == ("error", "signal_refused", "never")
        assert said in answer["detail"]
        assert w.hub.counters.signals == {"refused": 1}


@pytest.mark.parametrize("body", [{}, {"key": "k", "presence": True}])
async def test_a_signal_is_either_a_value_or_presence(autojump_clock: MockClock, body: dict[str, Any]) -> None:
    async with world() as w:
        a = await joined(w, 1)
        await a.send("signal", space=SPACE, **body)
        assert (await a.expect("error"))["name"] == "malformed"
        assert (await a.closing()).code == 1007


async def test_readers_send_no_signals_and_are_present(autojump_clock: MockClock) -> None:
    async with world() as w:
        a = await joined(w, 1, "ann")
        reader = await joined(w, 2, "bob", "reader")
        await reader.send("signal", space=SPACE, key="k", value=1)
        (answer,) = await told(reader)
        assert answer["name"] == "signal_refused" and "reader" in answer["detail"]
        await reader.send("signal", space=SPACE, presence={"name": "Bob"})
        assert [each["here"][0][1:] for each in await told(reader)] == [["bob", {"name": "Bob"}]]
        assert await told(a) == []


async def test_who_never_said_signals_may_not_send_them(autojump_clock: MockClock) -> None:
    async with world() as w:
        old = await w.client(1)
        assert "ref" not in await old.subscribe()
        await old.send("signal", space=SPACE, key="k", value=1)
        assert [each["name"] for each in await told(old) if each.name == "error"] == ["signal_refused"]


async def test_a_flood_of_signals_is_dropped_and_answered_and_the_rest_goes_on(autojump_clock: MockClock) -> None:
    async with world() as w:
        a, b = await joined(w, 1), await joined(w, 2)
        for number in range(SIGNALS_BURST_MAX + 20):
            await a.send("signal", space=SPACE, key="k", value=number)
        answers = await told(a)
        refused = [each for each in answers if each.name == "error"]
        assert len(refused) in (20, 21)  # times are floats
        assert {(each["name"], each["retry"], each["space"]) for each in refused} == {
            ("signal_limited", "backoff", SPACE)
        }
        assert all(0 < each["after_ms"] <= 1_000 for each in refused)
        values = [value for _, value in heard(await told(b))]
        assert values == sorted(values) and values[-1] == SIGNALS_BURST_MAX + 19 - len(refused)
        await trio.sleep(refused[-1]["after_ms"] / 1_000)
        await a.send("signal", space=SPACE, key="k", value="again")
        assert heard(await told(b)) == [("k", "again")]


async def test_a_space_takes_so_many_whoever_sends_them(autojump_clock: MockClock) -> None:
    from syncd.net.rates import Rate

    async with world(NetLimits(space_signals=Rate(1.0, 2.0))) as w:
        a, b = await joined(w, 1), await joined(w, 2)
        for client in (a, b, a):
            await client.send("signal", space=SPACE, key="k", value=1)
            await wait_all_tasks_blocked()
        errors = [each for each in [*await told(a), *await told(b)] if each.name == "error"]
        assert [each["name"] for each in errors] == ["signal_limited"]


async def test_a_slow_reader_gets_the_newest_of_each_key_behind_all_deltas_and_nothing_that_expired(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        a = await joined(w, 1)
        slow = await joined(w, 2, buffer_bytes=400)
        epoch = (await a.subscribe())["epoch"]
        await told(a)
        await a.push(a.change(["create", "c", "x"], ["reg.set", "c", "x", "f", "y" * 2_000]), epoch=epoch)
        await told(a)
        for number in range(30):
            await a.send("signal", space=SPACE, key=f"k{number % 3}", value=number, ttl_ms=60_000)
        await a.send("signal", space=SPACE, key="short", value=1, ttl_ms=1_000)
        await a.push(a.change(["reg.set", "c", "x", "f", "z"]), epoch=epoch)
        await told(a)
        await trio.sleep(2)
        messages = await drained(slow)
        names = [each.name for each in messages]
        assert names.index("heard") > max(at for at, name in enumerate(names) if name == "delta")
        assert sorted(heard(messages)) == [("k0", 27), ("k1", 28), ("k2", 29)]
        assert all(57_000 < each["ttl_ms"] <= 58_000 for each in messages if each.name == "heard")
        counted = w.hub.counters.signals
        assert (counted["conflated"] > 0, counted["expired"]) == (True, 1)


async def test_many_keys_for_a_slow_reader_are_bounded_and_the_oldest_give_way(autojump_clock: MockClock) -> None:
    async with world(NetLimits(signals_held_max=5), Limits(signals_per_s_max=10_000)) as w:
        a, slow = await joined(w, 1), await joined(w, 2, buffer_bytes=300)
        for number in range(40):
            await a.send("signal", space=SPACE, key=f"k{number:02}", value="x" * 200)
            await wait_all_tasks_blocked()
        (delivery,) = [each.delivery for each in w.hub.members if each.device == slow.device]
        assert delivery.waiting_bytes < 300 + 5 * 600
        keys = [key for key, _ in heard(await drained(slow))]
        assert keys == sorted(keys) and keys[-5:] == [f"k{number}" for number in range(35, 40)]
        assert len(keys) < 12
        assert w.hub.counters.signals["shed"] >= 25


async def test_the_denied_hear_no_signal_from_before_the_denial_is_handed_out(autojump_clock: MockClock) -> None:
    """Whoever learns of the denial, by the outcome or the delta, may say what the denied must not hear."""
    async with world() as w:
        await posted(w, ["create", "c", "x"])
        ann, bob = await joined(w, 1, "ann"), await joined(w, 2, "bob", "writer")
        await bob.send("signal", space=SPACE, presence={})
        await ann.send("signal", space=SPACE, presence=True)
        await trio.sleep(1)
        await told(ann, bob)
        change = ann.change(*member("bob", "none"))
        await ann.push(change, epoch=None)
        await ann.expect("outcomes")
        await ann.send("signal", space=SPACE, key="k", value="secret")
        messages = await told(bob)
        assert heard(messages) == [] and messages[-1].name == "revoked"
        await trio.sleep(PRESENCE_BATCH_S * 2)
        assert [(each["left"], each["count"]) for each in await told(ann) if each.name == "presence"] != []
        assert await told(bob) == []
        await bob.send("signal", space=SPACE, key="k", value=1)
        assert [each["name"] for each in await told(bob)] == ["signal_refused"]


async def test_presence_is_told_whole_first_and_then_by_what_changes(autojump_clock: MockClock) -> None:
    async with world() as w:
        ann, bob = await joined(w, 1, "ann"), await joined(w, 2, "bob")
        await ann.send("signal", space=SPACE, presence={"name": "Ann"})
        (whole,) = await told(ann)
        assert (whole["whole"], whole["count"], [each[1:] for each in whole["here"]]) == (
            True, 1, [["ann", {"name": "Ann"}]],
        )  # fmt: skip
        await bob.send("signal", space=SPACE, presence={"name": "Bob"})
        (whole,) = await told(bob)
        assert {each[1] for each in whole["here"]} == {"ann", "bob"}
        await trio.sleep(1)
        change = (await told(ann))[-1]
        assert ("whole" in change.body, change["count"]) == (False, 2)
        assert [each[1:] for each in change["here"] if each[1] == "bob"] == [["bob", {"name": "Bob"}]]
        await told(bob)
        await bob.send("signal", space=SPACE, presence={"name": "Bob", "away": True})
        await trio.sleep(1)
        (change,) = await told(ann)
        assert [each[2] for each in change["here"]] == [{"name": "Bob", "away": True}]
        await bob.send("signal", space=SPACE, presence=False)
        await trio.sleep(1)
        (change,) = await told(ann)
        assert (change["count"], change["here"], len(change["left"])) == (1, [], 8)
        assert [each.name for each in await told(bob)] == ["presence"], "he was told of his own state; then no more"


@pytest.mark.parametrize("is_back", [True, False])
async def test_a_lost_connection_is_a_leave_only_after_the_grace(autojump_clock: MockClock, is_back: bool) -> None:
    async with world() as w:
        ann, bob = await joined(w, 1, "ann"), await joined(w, 2, "bob")
        for client in (ann, bob):
            await client.send("signal", space=SPACE, presence={"name": "x"})
        await trio.sleep(1)
        await told(ann)
        bob.transport.abort()
        await trio.sleep(10)
        assert await told(ann) == []
        if is_back:
            bob = await joined(w, 2, "bob")
            await bob.send("signal", space=SPACE, presence={"name": "x"})
        await trio.sleep(10)
        assert [each["count"] for each in await told(ann)] == ([] if is_back else [1])
        assert w.hub.live.present_count == (2 if is_back else 1)


@pytest.mark.parametrize("how", ["unsubscribe", "bye"])
async def test_who_leaves_by_his_own_word_is_gone_at_once(autojump_clock: MockClock, how: str) -> None:
    async with world() as w:
        ann, bob = await joined(w, 1, "ann"), await joined(w, 2, "bob")
        for client in (ann, bob):
            await client.send("signal", space=SPACE, presence={})
        await trio.sleep(1)
        await told(ann)
        await bob.send(how, **({"space": SPACE} if how == "unsubscribe" else {"end": True}))
        await trio.sleep(1)
        assert [(each["count"], len(each["left"])) for each in await told(ann)] == [(1, 8)]


async def test_who_only_wants_to_know_any_more_has_left(autojump_clock: MockClock) -> None:
    async with world() as w:
        ann, bob = await joined(w, 1, "ann"), await joined(w, 2, "bob")
        for client in (ann, bob):
            await client.send("signal", space=SPACE, presence={})
        await trio.sleep(1)
        await told(ann)
        await told(bob)
        await bob.send("signal", space=SPACE, presence=True)
        await trio.sleep(1)
        for client in (ann, bob):
            assert [(each["count"], len(each["left"])) for each in await told(client)] == [(1, 8)]
        await bob.send("signal", space=SPACE, presence={})
        await trio.sleep(1)
        assert [(each["count"], each["here"][0][1]) for each in await told(ann)] == [(2, "bob")]


async def test_a_connection_that_is_superseded_is_neither_a_leave_nor_a_join(autojump_clock: MockClock) -> None:
    async with world() as w:
        ann, bob = await joined(w, 1, "ann"), await joined(w, 2, "bob")
        for client in (ann, bob):
            await client.send("signal", space=SPACE, presence={})
        await trio.sleep(1)
        await told(ann)
        again = await joined(w, 2, "bob")
        await again.send("signal", space=SPACE, presence={})
        await trio.sleep(60)
        assert [each for each in await told(ann) if each.name != "ping"] == []
        assert w.hub.live.present_count == 2


async def test_those_who_come_first_are_listed_and_the_others_counted(autojump_clock: MockClock) -> None:
    async with world(wire_limits=Limits(presence_members_max=2)) as w:
        clients = [await joined(w, number, f"u{number}") for number in range(1, 5)]
        for client in clients:
            await client.send("signal", space=SPACE, presence={})
            await wait_all_tasks_blocked()
        (whole,) = [each for each in await told(clients[3]) if each.name == "presence"]
        assert (whole["count"], [each[1] for each in whole["here"]]) == (4, ["u1", "u2"])
        await trio.sleep(1)
        await told(clients[3])
        await clients[0].send("unsubscribe", space=SPACE)
        await trio.sleep(1)
        change = (await told(clients[3]))[-1]
        assert (change["count"], [each[1] for each in change["here"]], len(change["left"])) == (3, ["u3"], 8)


async def test_a_device_is_present_in_so_many_spaces_and_all_together_are_bounded(autojump_clock: MockClock) -> None:
    async with world(NetLimits(presences_max=3), Limits(presence_spaces_max=2)) as w:
        a, b = await joined(w, 1), await joined(w, 2)
        for client in (a, b):
            for space in ("room/2", "room/3"):
                await client.subscribe(space)
            await told(client)
        for space in (SPACE, "room/2", "room/3"):
            await a.send("signal", space=space, presence={})
        assert [each["detail"] for each in await told(a) if each.name == "error"] == [
            "a device is present in at most 2 spaces at once"
        ]
        for space in (SPACE, "room/2"):
            await b.send("signal", space=space, presence={})
        assert [each["name"] for each in await told(b) if each.name == "error"] == ["signal_limited"]
        for client in (a, b):
            client.transport.abort()
        await trio.sleep(60)
        assert (w.hub.live.present_count, w.hub.room_count) == (0, 0)


async def test_what_a_backend_posts_reaches_who_listens_and_names_no_user(autojump_clock: MockClock) -> None:
    async with world() as w:
        a = await joined(w, 1, "ann")
        signals = [Signal(SPACE, "price", number) for number in (1, 2)] + [Signal(SPACE, "stock", 9)]
        assert w.hub.live.posted(SPACE, b"backend".ljust(16), None, signals) == 1
        messages = await told(a)
        assert heard(messages) == [("price", 2), ("stock", 9)]
        assert all("user" not in each.body for each in messages)
        assert w.hub.live.posted("room/9", b"backend".ljust(16), None, signals) == 0


async def test_who_polls_hears_what_others_hear(autojump_clock: MockClock) -> None:
    async with world() as w:
        a, poller = await joined(w, 1, "ann"), polled(w, 2)
        await poller.greet(w.token("bob"), caps=CAPS)
        await poller.subscribe()
        await told(poller)
        for number in range(3):
            await a.send("signal", space=SPACE, key="k", value=number)
        assert heard(await told(poller))[-1] == ("k", 2)
        await poller.send("signal", space=SPACE, key="from polls", value=1)
        assert ("from polls", 1) in heard(await told(a))


async def test_a_slow_watcher_is_told_who_is_present_whole(autojump_clock: MockClock) -> None:
    async with world() as w:
        a, slow = await joined(w, 1, "ann"), await joined(w, 2, "bob", buffer_bytes=300)
        await slow.send("signal", space=SPACE, presence=True)
        await told(slow)
        epoch = (await a.subscribe())["epoch"]
        await a.push(a.change(["create", "c", "x"], ["reg.set", "c", "x", "f", "y" * 2_000]), epoch=epoch)
        await told(a)
        for number in range(4):
            await a.send("signal", space=SPACE, presence={"n": number})
            await trio.sleep(1)
        messages = [each for each in await drained(slow) if each.name == "presence"]
        assert [(each["whole"], each["here"][0][2]) for each in messages] == [(True, {"n": 3})]
