"""What tests of decisions share: a store in memory and an engine that decides, workflows in TOML, people, a clock."""

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from syncd.core.changes import parsed_change
from syncd.core.ids import INBOX
from syncd.engine import reading
from syncd.engine.commands import (
    Attach,
    Author,
    Bind,
    Command,
    Configure,
    Decision,
    Done,
    Event,
    EventResults,
    Fire,
    Fired,
    PostEvents,
    Push,
    Pushed,
    Result,
)
from syncd.engine.engine import Engine
from syncd.engine.grants import Grant, Role
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.service import Decider
from syncd.store import fsck, keys
from syncd.store.memory import MemoryStore
from syncd.store.tables import DECISIONS, DISPATCHES, RUNS, TIMERS, DecisionRow, DispatchRow, RunRow
from tests.engine.kit import api_key, nonce, one

KEY = api_key()
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
READY = Path(__file__).resolve().parents[2] / "conf" / "workflows"


def at(text: str) -> int:
    """`2026-03-02 10:00` in UTC, in ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def ready(*names: str) -> dict[str, Any]:
    """The ready workflows of these names, together."""
    values: dict[str, Any] = {}
    for name in names:
        for table, entries in tomllib.loads((READY / f"{name}.toml").read_text()).items():
            values.setdefault(table, {}).update(entries)
    return values


class Office:
    """Store and engine as the daemon joins them, with people who do things. `restart`: what a process knows is gone,
    and what was committed is there."""

    def __init__(self, definitions: str | Mapping[str, Any] = "", now: str = "2026-03-02 10:00", seed: int = 0) -> None:
        self.random = Random(seed)
        self.store = MemoryStore()
        self.now_ms = at(now)
        self.events = 0
        self.numbers: dict[str, int] = {}
        self.alarms: list[str] = []
        self.restart()
        self.configure(tomllib.loads(definitions) if isinstance(definitions, str) else dict(definitions))

    def restart(self) -> None:
        self.engine = Engine(self.random.randbytes, further=carried_out, notices=Decider(Book()))

    def decide(self, *commands: Command) -> Decision:
        with self.store.write() as tx:
            decision = self.engine.decide(tx, self.now_ms, commands)
        self.alarms.extend(decision.alarms)
        return decision

    def ask(self, command: Command) -> Result:
        return self.decide(command).results[0]

    def configure(self, values: Mapping[str, Any]) -> None:
        one(self.ask(Configure(dict(values))), Done)

    def event(self, type: str, user: str = "ann", **data: Any) -> str:
        """A backend posts an event; its status."""
        self.events += 1
        key = self.events.to_bytes(16)
        event = Event(key, "https://shop", str(self.events), type, user, self.now_ms, data)
        results = one(self.ask(PostEvents(KEY, (event,), 7 * DAY_MS)), EventResults).results
        return results[0][0]

    def notify(self, user: str = "ann", category: str = "news", title: str = "Hello") -> str:
        return self.event("direct", user, notification={"title": title, "body": "b", "category": category})

    # -- people ------------------------------------------------------------------------------------------------------

    def device(self, user: str = "ann") -> Author:
        number = sum(user.encode()) % 200 + 1
        return Author(bytes([number]) * 16, bytes([number]) * 16, "device", user, (Grant("**", Role.OWNER),))

    def arrives(self, user: str = "ann") -> None:
        """A device connects."""
        self.ask(Bind(self.device(user)))

    def writes(self, *operations: Any, user: str = "ann") -> None:
        """A device of the user pushes one change in the user's space, which it has read to the end."""
        author, space = self.device(user), f"user/{user}"
        attached: Any = self.ask(Attach(author, space, None, 0, 0, None, 0, None))
        self.numbers[user] = n = self.numbers.get(user, 0) + 1
        change = parsed_change([n, nonce(n), attached.head, self.now_ms, list(operations)])
        pushed = one(self.ask(Push(author, space, attached.epoch, (change,))), Pushed)
        assert pushed.outcomes[0].seq is not None, pushed

    def sets(self, collection: str, document: str, user: str = "ann", **fields: Any) -> None:
        operations = [["reg.set", collection, document, name, value] for name, value in fields.items()]
        self.writes(["create", collection, document], *operations, user=user)

    def receipt(self, document: str, name: str, user: str = "ann") -> None:
        self.writes(["flag.enable", INBOX, document, name], user=user)

    # -- time --------------------------------------------------------------------------------------------------------

    def fire(self, trusted_ms: int | None = None) -> Fired:
        return one(self.ask(Fire(self.now_ms if trusted_ms is None else trusted_ms)), Fired)

    def next_ms(self) -> int | None:
        with self.store.read() as tx:
            first = next(tx.scan(*keys.table_range(keys.TIMER)), None)
        return None if first is None else keys.parse_timer(first[0])[0]

    def pass_until(self, now_ms: int) -> None:
        """Time passes, and what falls due is let go on at its moment."""
        while (due_ms := self.next_ms()) is not None and due_ms <= now_ms:
            self.now_ms = max(self.now_ms, due_ms)
            self.fire()
        self.now_ms = max(self.now_ms, now_ms)

    def passes(self, ms: int) -> None:
        self.pass_until(self.now_ms + ms)

    # -- what is there -----------------------------------------------------------------------------------------------

    def decisions(self, user: str = "ann") -> list[DecisionRow]:
        with self.store.read() as tx:
            return [row for _, row in DECISIONS.scan(tx, keys.of_user_range(keys.DECISION, keys.owner(user)))]

    def outcomes(self, user: str = "ann") -> list[str]:
        return [row.outcome for row in self.decisions(user)]

    def runs(self, user: str = "ann") -> list[RunRow]:
        with self.store.read() as tx:
            return [row for _, row in RUNS.scan(tx, keys.of_user_range(keys.RUN, keys.owner(user)))]

    def dispatches(self, user: str = "ann") -> dict[str, DispatchRow]:
        with self.store.read() as tx:
            found = DISPATCHES.scan(tx, keys.of_user_range(keys.DISPATCH, keys.owner(user)))
            return {keys.parse_dispatch(key)[1]: row for key, row in found}

    def timer_count(self) -> int:
        with self.store.read() as tx:
            return sum(1 for _ in TIMERS.scan(tx, keys.table_range(keys.TIMER)))

    def inbox(self, user: str = "ann") -> list[dict[str, Any]]:
        """What is shown, in order of ids."""
        with self.store.read() as tx:
            found = reading.documents(tx, f"user/{user}", INBOX, None, 1_000)
            documents = [] if found is None else found.found
            return [dict(each.fields) for each in documents]

    def check(self) -> None:
        """The store holds together, everything is explained, and no defect was contained."""
        assert not self.alarms, self.alarms
        with self.store.read() as tx:
            assert not list(fsck.check(tx))
