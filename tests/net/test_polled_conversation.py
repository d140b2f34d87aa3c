"""Over polls goes the same conversation as over a WebSocket, whatever the network does, however slow the client is."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd.env.ports import TransportClosed
from syncd.wire.limits import Limits
from tests.net import test_connection, test_delivery
from tests.net.harness import MAKE, SPACE, Mirror, World, world
from tests.net.polled import PolledClient, Unkind, asking, greeted, polled

SET = ["reg.set", "notes", "a", "text"]


# -- the same conversation --------------------------------------------------------------------------------------------

STORIES = [
    test_connection.test_hello_is_answered_by_what_the_server_enforces,
    test_connection.test_a_push_is_answered_and_then_shown_to_every_subscriber,
    test_connection.test_catching_up_is_told_outcomes_first_then_pages,
    test_connection.test_a_second_connection_of_a_device_ends_the_first,
    test_connection.test_what_the_first_connection_pushed_is_told_to_the_second,
    test_connection.test_refresh_judges_all_subscriptions_again,
    test_connection.test_refresh_keeps_the_user,
    test_connection.test_a_bad_space_name_concerns_only_itself,
    test_connection.test_an_ack_alone_is_taken_within_a_second,
    test_connection.test_a_gap_is_told_and_nothing_is_taken,
    test_connection.test_pushing_again_is_answered_again,
    test_connection.test_bye_ends_the_connection_normally,
    test_connection.test_a_defect_ends_one_connection_only,
    test_connection.test_a_subscription_that_was_forgotten_and_made_again_is_durable,
    test_delivery.test_a_slow_author_hears_its_outcomes_before_its_changes,
    test_delivery.test_one_slow_reader_holds_up_nobody,
    test_delivery.test_more_than_a_thousand_outcomes_come_in_pieces,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__.removeprefix("test_"))
async def test_a_story_of_a_websocket_is_the_same_over_polls(
    story: Callable[[MockClock], Awaitable[None]], autojump_clock: MockClock
) -> None:
    made = []

    def make(w: World, number: int, buffer_bytes: int, protocol: str, deflate: object) -> PolledClient:
        made.append(number)
        return polled(w, number, protocol)

    reset = MAKE.set(make)
    try:
        await story(autojump_clock)
    finally:
        MAKE.reset(reset)
    assert made


async def test_json_is_the_same_conversation_in_text(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = polled(w, protocol="syncd.v1.json")
        await client.greet(w.token())
        other = await greeted(w, 2)
        await other.subscribe()
        assert (await client.subscribe())["mode"] == "live"
        await client.push([1, "00" * 7 + "01", 0, 1, [["create", "notes", "a"], [*SET, {"$b": "AA"}]]])
        await client.send("probe", id=9)
        await trio.sleep(1)
        await client.poll()
        assert [message.name for message in client.messages] == ["outcomes", "delta", "pong"], "in one answer"
        assert (await other.expect("delta"))["docs"][0][4] == {"text": ["reg", b"\0"]}


@pytest.mark.parametrize("is_first_polled", [True, False])
async def test_a_device_replaces_itself_across_bindings(is_first_polled: bool, autojump_clock: MockClock) -> None:
    async with world() as w:
        first = await greeted(w) if is_first_polled else await w.client()
        second = await w.client() if is_first_polled else await greeted(w)
        assert (await first.expect("error"))["name"] == "superseded"
        assert (await first.closing()).code == 4901
        await second.subscribe()
        assert len(w.hub.members) == 1


async def test_what_was_pushed_over_a_websocket_is_told_over_polls(autojump_clock: MockClock) -> None:
    async with world() as w:
        first = await w.client()
        await first.push(first.change(["create", "notes", "a"]))
        second, mirror = await greeted(w), Mirror()
        await second.send("subscribe", space=SPACE, **mirror.positions())
        while mirror.complete < 1:
            mirror.take(await second.receive())
        assert mirror.outcomes == {1: ("applied", 1)}


async def unkind_history(seed: int) -> tuple[list[Any], dict[str, int]]:
    """Two devices, one over a WebSocket and one over polls on a network with faults, write by turns. What each sees."""
    random = Random(seed)
    async with world() as w, trio.open_nursery() as nursery:
        network = Unkind(asking(w.connect), nursery, random)
        over_polls = PolledClient(network, 1)
        await over_polls.greet(w.token())
        over_socket = await w.client(2)
        views = []
        for client in (over_polls, over_socket):
            mirror = Mirror()
            await client.send("subscribe", space=SPACE, **mirror.positions())
            views.append((client, mirror))
        total = 0
        for client, mirror in random.choices(views, k=random.randint(1, 15)):
            count = random.randint(1, 4)
            total += count
            changes = [client.change(["create", "notes", f"{client.device[-1]}-{client.n}"]) for _ in range(count)]
            await client.push(*changes)
            if random.random() < 0.5:
                with trio.fail_after(60):
                    mirror.take(await client.receive())
        for client, mirror in views:
            with trio.fail_after(60):
                while mirror.complete < total or len(mirror.outcomes) < client.n:
                    mirror.take(await client.receive())
        await over_polls.send("bye")
        assert (await over_polls.closing()).code == 1000
        await trio.sleep(40)
        assert not w.logs and w.server.polled_count == 0
        first, second = (mirror for _, mirror in views)
        assert first.documents == second.documents and len(first.documents) == total
        assert {outcome for outcome, _ in first.outcomes.values()} <= {"applied"}
        return sorted(first.documents), network.faults


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_over_an_unkind_network_nothing_is_lost_doubled_or_out_of_order(seed: int) -> None:
    """`Mirror` checks the order of outcomes and deltas, gaps and repetitions as they come."""
    trio.run(unkind_history, seed, clock=MockClock(autojump_threshold=0))


def test_the_unkind_network_does_all_that_it_is_there_for() -> None:
    seen = set()
    for seed in range(5):
        _, faults = trio.run(unkind_history, seed, clock=MockClock(autojump_threshold=0))
        seen |= set(faults)
    assert seen == {"none", "lost", "answer lost", "twice", "again later"}


async def test_a_first_download_comes_in_answers_no_longer_than_a_delta(autojump_clock: MockClock) -> None:
    async with world() as w:
        writer, mirror = await w.client(2), Mirror()
        for i in range(40):
            fields = [["reg.set", "notes", f"{i}", f"f{j}", "x" * 50_000] for j in range(5)]
            await writer.push(writer.change(["create", "notes", f"{i}"], *fields))
            await writer.expect("outcomes")
        reader = await greeted(w, 1)
        await reader.send("subscribe", space=SPACE, **mirror.positions())
        while mirror.complete < 40:
            mirror.take(await reader.receive())
        assert len(mirror.documents) == 40
        assert max(reader.answer_bytes) <= Limits().delta_bytes_max
        assert reader.polls < 60, "pages are not asked for one by one more than needed"


# -- who does not poll ------------------------------------------------------------------------------------------------


async def test_who_does_not_poll_is_behind_and_costs_a_bounded_amount(autojump_clock: MockClock) -> None:
    async with world() as w:
        slow, writer, mirror = await greeted(w, 1, keepalive_ms=600_000), await w.client(2), Mirror()
        await slow.send("subscribe", space=SPACE, **mirror.positions())
        mirror.take(await slow.expect("subscribed"))
        await writer.push(writer.change(["create", "notes", "a"]))
        await writer.expect("outcomes")
        delivery = next(member.delivery for member in w.hub.members if member.device == slow.device)
        transport: Any = delivery.transport
        for i in range(1_000):
            text = f"{i} " + "x" * 1_000
            await writer.push(writer.change(["reg.set", "notes", "a", "text", text], base=1), epoch=mirror.epoch)
            await writer.expect("outcomes")
            await trio.sleep(0.006)
            assert transport.held_bytes + delivery.waiting_bytes < 65_536 + 3_000
        assert delivery.is_stalled
        while mirror.complete < 1_001:
            mirror.take(await slow.receive())
        assert mirror.documents["notes", "a"]["text"].startswith("999 ")
        assert mirror.deltas < 80, "changes of one field collapse into the last"


async def test_an_abandoned_connection_ends_like_a_half_open_socket(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await greeted(w)
        began = trio.current_time()
        await trio.sleep(64.5)
        assert len(w.hub.members) == 1
        await trio.sleep(7)
        assert not w.hub.members and w.server.polled_count == 0
        assert (await client.closing()).code == 4001, "an end is remembered for a while"
        assert trio.current_time() - began < 75
        await trio.sleep(31)
        with pytest.raises(TransportClosed, match="unknown"):
            await client.poll()


async def test_a_poll_is_life(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await greeted(w)
        for _ in range(20):
            began = trio.current_time()
            assert await client.poll() == 204, "no ping is due"
            assert trio.current_time() - began == pytest.approx(25, abs=0.1)
        assert len(w.hub.members) == 1


async def test_who_polls_and_acknowledges_nothing_is_cut_off(autojump_clock: MockClock) -> None:
    async with world() as w:
        client, writer = await greeted(w), await w.client(2)
        await client.subscribe()
        for i in range(4):
            fields = [["reg.set", "notes", f"{i}", f"f{j}", "x" * 50_000] for j in range(5)]
            await writer.push(writer.change(["create", "notes", f"{i}"], *fields))
            await writer.expect("outcomes")
        began, after = trio.current_time(), client.after
        with pytest.raises(TransportClosed, match="unknown"):
            while True:
                client.after = after
                assert await client.poll() == 200
                await trio.sleep(10)
        assert 150 < trio.current_time() - began < 165, "120 s, and 30 more in which the end is told"
        assert not [member for member in w.hub.members if member.device == client.device]


async def test_a_slow_link_has_time_for_a_long_answer(autojump_clock: MockClock) -> None:
    """Between two polls a client may be loading for a minute. Its probes say that it lives."""
    async with world() as w:
        client, writer, mirror = await greeted(w), await w.client(2), Mirror()
        await client.send("subscribe", space=SPACE, **mirror.positions())
        for i in range(8):
            fields = [["reg.set", "notes", f"{i}", f"f{j}", "x" * 50_000] for j in range(5)]
            await writer.push(writer.change(["create", "notes", f"{i}"], *fields))
            await writer.expect("outcomes")
        while mirror.complete < 8:
            await client.poll()
            await trio.sleep(50)
            await client.send("probe")
            await trio.sleep(50)
            while client.messages:
                mirror.take(client.messages.popleft())
