"""The process dies between any two calls of the store: nothing is lost, and nothing is shown twice.

A life posts events, makes choices and lets time fire timers. At the Nth call it is killed: what was not committed is
gone, and who had no answer asks again, as backends do (the same event id) and as the firing loop does. However often it
dies and wherever, the inbox comes out as if it never had.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from syncd.engine.commands import Event, PostEvents
from syncd.store.api import Reader, Usage, Writer
from syncd.store.memory import MemoryStore
from tests.notify.kit import DAY_MS, KEY, Office, at

DEFINITIONS = """
[policy]
caps = ["3 / 24h"]
quiet_hours = "22:00-08:00"
[category.news]
[category.team]
frequency = "daily"
[template.a]
title = "{title}"
[template.b]
title = "Still {title}"
[workflow.cart]
category = "news"
trigger = { event = "cart" }
collapse = "{title}"
cancel_on = ["bought"]
[[workflow.cart.step]]
delay = "1h"
[[workflow.cart.step]]
send = { templates = ["a"] }
[[workflow.cart.step]]
wait_for = "opened"
timeout = "1d"
[[workflow.cart.step]]
send = { templates = ["b"] }
[workflow.team]
category = "team"
trigger = { event = "team" }
[[workflow.team.step]]
send = { templates = ["a"] }
[template.c]
title = "Good morning"
[workflow.morning]
category = "news"
trigger = { schedule = "09:00" }
[[workflow.morning.step]]
send = { templates = ["c"] }
"""


class Killed(BaseException):
    """The process is no more."""


class Mortal:
    """A store whose process dies at the Nth of its calls, before the call does anything; of a commit, before or after
    it."""

    def __init__(self, store: MemoryStore, dies_at: int) -> None:
        self.store, self.calls, self._dies_at = store, 0, dies_at

    def reach(self) -> None:
        self.calls += 1
        if self.calls == self._dies_at:
            raise Killed

    @contextmanager
    def read(self) -> Iterator[Reader]:
        with self.store.read() as tx:
            yield tx

    @contextmanager
    def write(self) -> Iterator[Writer]:
        self.reach()
        with self.store.write() as tx:
            yield MortalWriter(self, tx)
            self.reach()
        self.reach()

    def usage(self) -> Usage:
        return self.store.usage()

    def grow(self) -> bool:
        return self.store.grow()

    def close(self) -> None:
        self.store.close()


class MortalWriter:
    def __init__(self, mortal: Mortal, tx: Writer) -> None:
        self._mortal, self._tx = mortal, tx

    def get(self, key: bytes) -> bytes | None:
        self._mortal.reach()
        return self._tx.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._mortal.reach()
        return self._tx.scan(start, stop)

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        return self._tx.last(start, stop)

    def put(self, key: bytes, value: bytes) -> None:
        self._mortal.reach()
        self._tx.put(key, value)

    def delete(self, key: bytes) -> bool:
        self._mortal.reach()
        return self._tx.delete(key)


class Mill(Office):
    """An office that dies once, and whose people try again."""

    def __init__(self, dies_at: int) -> None:
        super().__init__(DEFINITIONS, now="2026-03-02 10:00")
        self.mortal = Mortal(self.store, dies_at)
        self.deaths = 0
        self.store = self.mortal  # type: ignore[assignment]

    def again(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Killed:
            self.deaths += 1
            self.restart()
            act()

    def posts(self, number: int, type: str, **data: Any) -> None:
        event = Event(number.to_bytes(16), "https://shop", str(number), type, "ann", self.now_ms, data)
        self.again(lambda: self.ask(PostEvents(KEY, (event,), 30 * DAY_MS)))

    def waits_until(self, now_ms: int) -> None:
        while (due_ms := self.next_ms()) is not None and due_ms <= now_ms:
            self.now_ms = max(self.now_ms, due_ms)
            self.again(self.fire)
        self.now_ms = max(self.now_ms, now_ms)


def life(dies_at: int) -> Mill:
    mill = Mill(dies_at)
    news = {"notification": {"title": "Direct", "body": "b", "category": "news"}}
    mill.posts(1, "cart", title="Shoes")
    mill.posts(2, "team", title="One")
    mill.waits_until(at("2026-03-02 12:00"))
    mill.posts(3, "cart", title="Boots")
    mill.posts(4, "team", title="Two")
    mill.posts(5, "direct", **news)
    mill.waits_until(at("2026-03-02 21:50"))
    mill.posts(6, "cart", title="Socks")
    mill.waits_until(at("2026-03-02 23:00"))
    mill.posts(7, "direct", **news)
    mill.posts(8, "cart", title="Socks")
    mill.waits_until(at("2026-03-03 09:30"))
    mill.posts(9, "bought")
    mill.posts(10, "direct", **news)
    mill.posts(11, "team", title="Three")
    mill.waits_until(at("2026-03-05 12:00"))
    mill.posts(12, "cart", title="Hats")
    mill.posts(13, "team", title="Four")
    mill.waits_until(at("2026-03-09 12:00"))
    return mill


def shown(mill: Mill) -> list[tuple[str, int, str]]:
    return sorted((each["title"], each["at"], each["category"]) for each in mill.inbox())


UNHARMED = life(0)
CALLS = UNHARMED.mortal.calls


def test_the_life_that_dies_is_long_enough_to_die_in_a_thousand_places() -> None:
    assert CALLS > 1_000 and len(UNHARMED.inbox()) >= 10, (CALLS, len(UNHARMED.inbox()))
    outcomes = set(UNHARMED.outcomes())
    assert outcomes >= {"sent", "digested", "cancelled"}, outcomes
    UNHARMED.check()


def check(dies_at: int) -> None:
    mill = life(dies_at)
    assert mill.deaths == 1
    mill.check()
    assert shown(mill) == shown(UNHARMED)
    said = [(row.made_ms, row.outcome, row.decided_ms, row.explanation) for row in mill.decisions()]
    assert said == [(row.made_ms, row.outcome, row.decided_ms, row.explanation) for row in UNHARMED.decisions()]


def test_a_death_loses_nothing_and_shows_nothing_twice() -> None:
    """At places that lie apart evenly; the long test dies at each."""
    for dies_at in range(7, CALLS, CALLS // 20):
        check(dies_at)


@pytest.mark.long
def test_a_death_at_each_of_all_places_loses_nothing_and_shows_nothing_twice() -> None:
    for dies_at in range(1, CALLS + 1):
        check(dies_at)
