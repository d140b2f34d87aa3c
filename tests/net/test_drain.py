"""A restart under a thousand devices: they leave in their own time, come back as announced, and all get in."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import trio
from trio.testing import MockClock

from syncd.env.memory import transport_pair
from syncd.env.ports import TransportClosed
from syncd.net.limits import NetLimits
from syncd_client.errors import TransportClosed as TransportEnded
from syncd_client.messages import Goaway
from syncd_client.reconnect import Reconnecting
from tests.clients.test_reconnect import session
from tests.net.harness import Client, Closed, Entropy, World, world

DEVICES, RATE, STUBBORN = 1_000, 100.0, 50
LIMITS = NetLimits(
    upgrades_per_s_max=RATE, upgrades_burst_max=RATE, connections_per_user_max=DEVICES, goaway_spread_ms=1_000,
    goaway_absence_ms=0,
)  # fmt: skip
DEADLINE_S = 15.0
SPREAD_S = LIMITS.goaway_slack * DEVICES / RATE


class Chance(Entropy):
    """Different numbers each time, the same in each run."""

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(7)

    def uniform(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)


async def admitted(w: World, client: Client, attempts: list[float], random: Random) -> None:
    """Connect as a client of the specification does: again when told, or after its backoff."""
    backoff_s = 1.0
    while True:
        attempts.append(trio.current_time())
        try:
            client.transport = w.connect()
            head = await client.upgrade()
            if head.startswith(b"HTTP/1.1 101 "):
                await client.greet(w.token())
                return
            wait_s = float(head.lower().partition(b"retry-after: ")[2].split()[0])
            client.transport.abort()
        except TransportClosed:
            wait_s = 0.0
        client.__init__(client.transport, int.from_bytes(client.device[8:]))  # type: ignore[misc]
        await trio.sleep(max(wait_s, random.uniform(0, backoff_s)))
        backoff_s = min(60.0, 2 * backoff_s)


async def test_a_thousand_devices_survive_a_restart(autojump_clock: MockClock) -> None:
    random = Random(3)
    told_ms: list[int] = []
    attempts: list[float] = []
    closes: Counter[int] = Counter()
    back: list[int] = []
    full = replace(LIMITS, upgrades_burst_max=DEVICES)  # so that all are there at once
    async with world(full, entropy=Chance()) as old, world(LIMITS, entropy=Chance()) as new:
        clients = [await _arrived(old, number) for number in range(DEVICES)]

        async def live(client: Client, number: int) -> None:
            goaway = await client.expect("goaway")
            assert goaway["code"] == 1012
            told_ms.append(goaway["retry_after_ms"])
            if number < STUBBORN:
                try:
                    await client.receive()
                except Closed as closed:
                    closes[closed.code] += 1
                    client.transport.abort()
                await trio.sleep(random.uniform(0, 5))
            else:
                await trio.sleep((goaway["retry_after_ms"] + random.uniform(0, goaway["spread_ms"])) / 1000)
                await client.send("bye")
                closes[(await client.closing()).code] += 1
                client.transport.abort()
            again = Client(client.transport, number)
            await admitted(new, again, attempts, random)
            back.append(number)

        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                nursery.start_soon(live, client, number)
            await old.server.drain(DEADLINE_S)
            drained_s = trio.current_time() - began_s
            assert old.server.connection_count == 0 and old.logs == []
        assert drained_s == pytest.approx(DEADLINE_S, abs=1), "the stubborn are closed at the deadline, and not later"
        assert closes == {1000: DEVICES - STUBBORN, 1012: STUBBORN}, "each got its last frame"

        # The delays fill the time that the next process needs to take all, and no second of it is a crowd.
        assert max(told_ms) > 0.99 * 1000 * SPREAD_S >= 0.99 * max(told_ms)
        seconds = Counter(int(at_s - began_s) for at_s in attempts)
        assert max(seconds.values()) < 1.2 * RATE, seconds
        assert sorted(back) == list(range(DEVICES)), "none is starved"
        assert trio.current_time() - began_s < SPREAD_S + 2 * LIMITS.refused_retry_max_s
        assert len(attempts) < 1.2 * DEVICES and new.logs == []


ABSENCE_S = 3.0


@pytest.mark.parametrize("gap_s", [2.5, 6.0])
async def test_a_thousand_devices_are_back_as_announced_though_nobody_listens_for_a_while(
    gap_s: float, autojump_clock: MockClock
) -> None:
    """They leave at once, as the reference client does, whose own decisions these are; and the next process listens
    when it can: within the time that was expected, or 3 s later."""
    random, told_s, back_s, tries = Random(11), list[float](), dict[int, float](), Counter[int]()
    limits = replace(LIMITS, goaway_absence_ms=int(1000 * ABSENCE_S))
    window_s = ABSENCE_S + SPREAD_S + limits.goaway_spread_ms / 1000
    full = replace(limits, upgrades_burst_max=DEVICES)
    async with world(full, entropy=Chance()) as old, world(limits, entropy=Chance()) as new:
        clients = [await _arrived(old, number) for number in range(DEVICES)]

        async def live(client: Client, number: int) -> None:
            goaway = Goaway(**(await client.expect("goaway")).body)
            told_s.append((goaway.retry_after_ms + goaway.spread_ms) / 1000)
            await client.send("bye")
            ended = await client.closing()
            client.transport.abort()
            plan, met = Reconnecting("ws://server.invalid", renews=True), session(goaway)
            plan.welcomed(met)
            plan.ended(TransportEnded(ended.code), met, 100.0, random.random(), trio.current_time())
            while True:
                await trio.sleep_until(plan.due_s)
                tries[number] += 1
                is_absent, wait_s = trio.current_time() < listens_s, 0.0
                if not is_absent:
                    again = Client(new.connect(), number)
                    head = await again.upgrade()
                    if head.startswith(b"HTTP/1.1 101 "):
                        await again.greet(new.token())
                        back_s[number] = trio.current_time() - began_s
                        return
                    again.transport.abort()
                    wait_s = float(head.lower().partition(b"retry-after: ")[2].split()[0])
                now_s = trio.current_time()
                plan.ended(TransportEnded(1006), None, 0.0, random.random(), now_s, is_absent=is_absent)
                plan.due_s = max(plan.due_s, now_s + wait_s)

        began_s = trio.current_time()
        listens_s = began_s + gap_s
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                nursery.start_soon(live, client, number)
            await old.server.drain(DEADLINE_S)
            assert trio.current_time() - began_s < 0.1, "who left is not waited for"
        assert old.logs == new.logs == []

    assert min(told_s) >= ABSENCE_S + 1 and max(told_s) <= window_s
    assert sorted(back_s) == list(range(DEVICES)), "none is starved"
    if gap_s <= ABSENCE_S:
        assert max(back_s.values()) <= window_s + 0.1
        assert tries.total() == DEVICES, "no attempt is in vain"
    else:
        # 300 were there before it was, and are admitted beside those whose turn it is; the last are told when.
        assert max(back_s.values()) <= window_s + LIMITS.refused_retry_max_s
        assert sorted(back_s.values())[int(0.8 * DEVICES)] <= window_s
        assert max(tries.values()) <= 12 and tries.total() <= 3 * DEVICES


async def test_a_crowd_that_comes_at_once_gets_in_as_fast_as_it_is_admitted(autojump_clock: MockClock) -> None:
    """Nobody spread them, as after a power cut: each is refused with a time of its own, and obeys."""
    random, attempts = Random(5), list[float]()
    count, rate = 300, 30.0
    async with world(replace(LIMITS, upgrades_per_s_max=rate, upgrades_burst_max=rate), entropy=Chance()) as w:
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(admitted, w, Client(transport_pair()[0], number), attempts, random)
        took_s = trio.current_time() - began_s
        assert len(w.hub.members) == count
        assert took_s < 3 * LIMITS.refused_retry_max_s, "three waits at most"
        admitted_per_s = w.hub.counters.upgrades["accepted"] / took_s
        assert admitted_per_s <= rate + rate / took_s
        assert w.hub.counters.upgrades["overloaded"] < 3 * count
        assert not w.hub.counters.unauthenticated and w.logs == []


async def _arrived(w: World, number: int) -> Client:
    client = Client(w.connect(), number)
    await client.upgrade()
    await client.greet(w.token())
    return client
