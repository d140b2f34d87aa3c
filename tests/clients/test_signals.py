"""Signals and presence through the reference client: what an application hears, and what is said again by itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from syncd.wire.limits import DEFAULT
from syncd_client import InvalidInput, State
from syncd_client import messages as m
from syncd_client.live import Live, PresenceChanged, Signal
from syncd_client.session import Session
from tests.net.devices import opened
from tests.net.harness import SPACE, world

REF, OTHER = b"ref12345", b"other123"


def subscribed(ref: bytes | None = REF) -> m.Subscribed:
    return m.Subscribed(SPACE, bytes(16), 0, 0, "owner", "live", ref)


@pytest.mark.parametrize("binding", ["msgpack", "json"])
async def test_two_devices_hear_and_see_each_other(tmp_path: Path, autojump_clock: MockClock, binding: Any) -> None:
    async with (
        world() as w, opened(w, tmp_path / "a", 1, binding=binding) as a, opened(w, tmp_path / "b", 2) as b,
    ):  # fmt: skip
        ours, theirs = a.space(SPACE), b.space(SPACE)
        assert not ours.signal("early", 1), "there is no connection yet"
        for space in (ours, theirs):
            space.subscribe()
        ours.announce({"name": "A", "raw": b"x"})
        await a.sync()
        await b.sync()
        with theirs.signals() as heard, ours.signals() as own:
            assert ours.signal("at", {"x": 1.5, "raw": b"y"}, ttl_s=5)
            signal = await anext(heard)
            assert (signal.key, signal.value, signal.is_own) == ("at", {"x": 1.5, "raw": b"y"}, False)
            assert (await anext(own)).is_own
        theirs.announce(True)
        await b.wait_until(lambda: len(theirs.present()) == 1)
        (member,) = theirs.present()
        assert (member.user, member.state, member.is_own) == ("u", {"name": "A", "raw": b"x"}, False)
        ours.announce(None)
        await b.wait_until(lambda: theirs.present_count == 0)
        assert theirs.present() == ()


async def test_signals_said_at_once_fit_the_frames_that_a_server_takes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with (
        world(wire_limits=replace(DEFAULT, frame_bytes_max=20_000)) as w, opened(w, tmp_path / "a", 1) as a,
    ):  # fmt: skip
        space = a.space(SPACE)
        space.subscribe()
        await a.sync()
        with space.signals() as heard:
            for number in range(8):
                assert space.signal(f"at {number}", "x" * 4000)
            with trio.fail_after(60):
                keys = [(await anext(heard)).key for _ in range(8)]
            assert keys == [f"at {number}" for number in range(8)]
        assert a.status.state is State.READY


async def test_what_was_announced_is_said_again_after_a_reconnect_and_nobody_leaves(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world() as w, opened(w, tmp_path / "a", 1) as a, opened(w, tmp_path / "b", 2) as b:
        for device, state in ((a, {"name": "A"}), (b, True)):
            device.space(SPACE).subscribe()
            device.space(SPACE).announce(state)
            await device.sync()
        watched = b.space(SPACE).presence()
        await b.wait_until(lambda: len(b.space(SPACE).present()) == 1)
        seen = [await anext(watched)]
        a.network_changed()
        assert a.space(SPACE).present() == () or True
        await trio.sleep(60)
        assert len(b.space(SPACE).present()) == 1 and a.space(SPACE).can_signal
        with trio.move_on_after(1):
            seen.append(await anext(watched))
        assert len({tuple(member.ref for member in members) for members in seen}) == 1
        await a.go_offline()
        await trio.sleep(20)
        assert b.space(SPACE).present() == ()


async def test_a_slow_application_hears_the_newest_and_nothing_that_is_over(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world() as w, opened(w, tmp_path / "a", 1) as a:
        space = a.space(SPACE)
        space.subscribe()
        await a.sync()
        with a.signals() as heard:
            for number in range(5):
                space.signal("k", number, ttl_s=60)
            space.signal("short", 1, ttl_s=0.5)
            await trio.sleep(2)
            assert (await anext(heard)).value == 4
            with trio.move_on_after(1) as scope:
                await anext(heard)
            assert scope.cancelled_caught


def test_what_a_server_would_refuse_is_not_sent() -> None:
    live, limits = Live(), m.Limits()
    live.subscribed(subscribed())
    for key, value, ttl_s in (("", 1, None), ("k", "x" * 8_192, None), ("k", 1, 0.0), ("k", 1, 301.0)):
        with pytest.raises(InvalidInput):
            live.signal(SPACE, key, value, ttl_s, limits)
    with pytest.raises(InvalidInput):
        live.wish(SPACE, {"name": "x" * 512}, limits)
    assert live.signal(SPACE, "k", 1, 0.5, limits) == m.Signal(SPACE, "k", 1, 500)


def test_nothing_is_said_to_a_server_that_knows_no_signals() -> None:
    live, limits = Live(), m.Limits()
    assert live.wish(SPACE, {"name": "A"}, limits) is None
    assert live.subscribed(subscribed(None)) == []
    assert live.signal(SPACE, "k", 1, None, limits) is None


def test_a_wish_is_said_in_each_subscription_until_it_is_taken_back() -> None:
    live, limits = Live(), m.Limits()
    live.wish(SPACE, {"name": "A"}, limits)
    said = [m.Signal(SPACE, presence={"name": "A"})]
    assert [live.subscribed(subscribed()), live.subscribed(subscribed())] == [said, said]
    assert live.wish(SPACE, None, limits) == m.Signal(SPACE, presence=False)
    assert live.subscribed(subscribed()) == []


def test_a_roster_is_the_whole_and_what_changed_since() -> None:
    live = Live()
    live.subscribed(subscribed())
    whole = m.Presence(SPACE, 2, ((REF, "ann", {}), (OTHER, "bob", {"a": 1})), whole=True)
    assert live.received(whole, 0.0) == PresenceChanged(SPACE)
    assert [(member.user, member.is_own) for member in live.present(SPACE)] == [("ann", True), ("bob", False)]
    live.received(m.Presence(SPACE, 2, ((OTHER, "bob", {"a": 2}),), left=REF + b"unknown!"), 0.0)
    assert [(member.user, member.state) for member in live.present(SPACE)] == [("bob", {"a": 2})]
    live.received(m.Presence(SPACE, 7, (), whole=True), 0.0)
    assert (live.present(SPACE), live.present_count(SPACE)) == ((), 7)
    heard = live.received(m.Heard(SPACE, REF, "k", 5_000, 1), 10.0)
    assert isinstance(heard, Signal) and (heard.is_own, heard.until_s) == (True, 15.0)


def test_a_refused_signal_leaves_the_pushes_of_its_space_alone(tmp_path: Path) -> None:
    session = Session(lambda: bytes(8))
    tx: Any = None
    for code, name in ((22, "signal_refused"), (23, "signal_limited")):
        (notice,) = session._error(tx, m.Error(code, name, "never", None, "why", SPACE), 0.0)
        assert (getattr(notice, "what", None), session.links) == ("signal", {})
