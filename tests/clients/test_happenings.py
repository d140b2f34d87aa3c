"""What the user did, told through the reference client: durable, bounded, and counted once whatever gets lost."""

import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from syncd.engine.commands import PostEvents
from syncd_client import InvalidInput
from syncd_client.happenings import EVENTS, EVENTS_KEPT_MAX, RETRY_S, Telling, told
from syncd_client.messages import Event, EventResult, Limits, Noted
from syncd_client.store import Store
from tests.net.devices import opened
from tests.net.harness import World, world


def names(w: World) -> list[str]:
    """Of the events that reached the engine, in order."""
    return [event.type for command in w.commands if isinstance(command, PostEvents) for event in command.events]


@pytest.mark.parametrize("binding", ["msgpack", "json"])
async def test_events_wait_for_a_connection_in_their_order_and_survive_the_process(
    tmp_path: Path, autojump_clock: MockClock, binding: str
) -> None:
    async with world() as w:
        async with opened(w, tmp_path / "a", 1, binding=binding) as device:
            await device.go_offline()
            device.event("session.start")
            device.event("screen", {"topic": "news", "raw": b"x"})
            assert device.events_waiting == 2
        assert names(w) == []
        async with opened(w, tmp_path / "a", 1, binding=binding) as device:
            device.event("session.end", {"seconds": 20})
            await device.wait_until(lambda: device.events_waiting == 0)
        assert names(w) == ["session.start", "screen", "session.end"]


async def test_a_refused_event_is_told_to_the_application_and_waits_no_longer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world() as w, opened(w, tmp_path / "a", 1) as device:
        device.event("old", at_ms=0)
        device.event("new")
        await device.wait_until(lambda: device.events_waiting == 0)
        assert [(notice.what, notice.detail) for notice in device.watchers.notices] == [
            ("event", "an event is told within 7 days")
        ]


async def test_what_is_no_event_is_refused_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world() as w, opened(w, tmp_path / "a", 1) as device:
        for name, data in (("", {}), ("a\x00", {}), ("screen", {"x": "y" * 5_000}), ("screen", {"x": object()})):
            with pytest.raises(InvalidInput):
                device.event(name, data)  # type: ignore[arg-type]
        assert device.events_waiting == 0


def test_of_too_many_events_the_oldest_give_way_and_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path, entropy=bytes, durability="off")
    with store.transaction() as tx:
        dropped = [told(tx, number.to_bytes(16), f"e{number}", None, 5, 4_096) for number in range(EVENTS_KEPT_MAX + 7)]
        assert dropped == [0] * EVENTS_KEPT_MAX + [1] * 7
        kept = tx.events(2 * EVENTS_KEPT_MAX)
        assert [row.name for row in kept] == [f"e{number}" for number in range(7, EVENTS_KEPT_MAX + 7)]
        assert tx.setting("events_dropped") == 7
    store.close()


def test_one_message_of_events_is_on_its_way_at_a_time_and_what_was_not_taken_is_told_again(tmp_path: Path) -> None:
    store, telling = Store(tmp_path, entropy=bytes, durability="off"), Telling()
    with store.transaction() as tx:
        for number in range(5):
            told(tx, number.to_bytes(16), f"e{number}", {"n": "x" * 1_000}, 5, 4_096)
        assert telling.outgoing(tx, Limits(), 0.0) == [], "no server is known that takes events"
        telling.welcomed((EVENTS,))
        limits = Limits(events_max=3)
        (first,) = telling.outgoing(tx, limits, 0.0)
        assert isinstance(first, Event) and [event.name for event in first.events] == ["e0", "e1", "e2"]
        assert telling.is_waiting and telling.outgoing(tx, limits, 0.0) == []
        telling.limited(None, 0.0)
        assert telling.due_s(0.0) == RETRY_S and telling.outgoing(tx, limits, RETRY_S - 1) == []
        assert telling.outgoing(tx, limits, RETRY_S) == [first], "the same again, under the same ids"
        results = [EventResult(event.id, "duplicate") for event in first.events]
        assert telling.noted(tx, Noted((*results[:2], EventResult(first.events[2].id, "invalid", "why")))) == ["why"]
        (second,) = telling.outgoing(tx, Limits(frame_bytes_max=2_500), RETRY_S)
        assert isinstance(second, Event) and [event.name for event in second.events] == ["e3"], "what fits a frame"
        assert [row.name for row in tx.events(9)] == ["e3", "e4"]
    store.close()


async def test_an_answer_that_is_lost_counts_nothing_twice(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The connection is cut as soon as the server has the event: the client cannot know, and tells it again."""
    async with world() as w, opened(w, tmp_path / "a", 1) as device:
        await device.wait_until(lambda: device.status.state.value == "ready")
        device.event("once")
        while not names(w):
            await trio.lowlevel.checkpoint()
        device.network_changed()
        await device.wait_until(lambda: device.events_waiting == 0)
        told_names = names(w)
        assert set(told_names) == {"once"}
        assert not device.watchers.notices


def test_the_command_keeps_an_event_without_a_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "syncd_client.cli", "--store", str(tmp_path), "event", "screen", '{"topic": "x"}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"event":"screen","waiting":1,"dropped":0}\n'
