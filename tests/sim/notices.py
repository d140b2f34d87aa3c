"""Notifications: backends whose events set workflows off, people who read, mute, choose and travel, also offline.

The server decides in these runs. Its definitions are the ready ones and small ones that bite within minutes: delays, a
wait for an answer, a digest, a throttle, cancelling events, collapse keys, expiries, caps, quiet hours. What becomes of
each candidate is judged by `notices_auditor.py` (N1-N10), after every transaction; and when all is at rest, time is
moved on in a copy of the store, across restarts and absences, until nothing waits any more.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import trio

from syncd.engine.commands import (
    Bind,
    Command,
    Configure,
    CreateKey,
    Decision,
    Done,
    EventResults,
    Fire,
    PostEvents,
    Push,
    Result,
)
from syncd.engine.engine import Engine
from syncd.net.auth import make_key, secret_hash
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.service import Decider
from syncd.store import fsck, keys
from syncd.store.memory import MemoryStore
from syncd.store.tables import DECISIONS, RUNS
from tests.oracle.oracle import Oracle, visible_fields
from tests.sim.auditor import Violation
from tests.sim.clocks import BASE_MS, SimEntropy
from tests.sim.commits import delivered_by
from tests.sim.determinism import sleep
from tests.sim.device import SimDevice
from tests.sim.notices_auditor import Delivered, NoticesAuditor, Rules, Wishes
from tests.sim.notices_planted import MUTANTS
from tests.sim.notices_staged import Paid, Staged
from tests.sim.server import ROOM_BYTES, SimServer
from tests.sim.sockets import ask_http
from tests.sim.topic import Topic, Work
from tests.sim.workload import ASK_S, BACKEND, RETRIES_MAX

if TYPE_CHECKING:
    from tests.sim.world import World

READY = Path(__file__).resolve().parents[2] / "conf" / "workflows"
SMALL = """
[policy]
caps = ["8 / 2m"]
[category.plain]
half_life = "10s"
[category.quick]
caps = ["2 / 20s"]
expires = "45s"
half_life = "10s"
[category.hot]
priority = "high"
caps = ["3 / 30s"]
[category.chat]
half_life = "10s"
[category.alarm]
priority = "critical"
expires = "30s"
[template.t]
title = "{title}"
[template.again]
title = "Again: {title}"
[workflow.remind]
category = "plain"
trigger = { event = "remind" }
[[workflow.remind.step]]
delay = "8s"
[[workflow.remind.step]]
send = { templates = ["t", "again"], choose = "bandit" }
[workflow.course]
category = "hot"
trigger = { event = "course" }
[[workflow.course.step]]
send = { templates = ["t"] }
[[workflow.course.step]]
wait_for = "opened"
timeout = "15s"
[[workflow.course.step]]
send = { templates = ["again"] }
[workflow.basket]
category = "quick"
trigger = { event = "basket", where = "count > 0" }
collapse = "basket:{key}"
cancel_on = ["paid"]
[[workflow.basket.step]]
delay = "5s"
[[workflow.basket.step]]
send = { templates = ["t"] }
[workflow.score]
category = "hot"
trigger = { event = "score" }
collapse = "match:{key}"
[[workflow.score.step]]
send = { templates = ["t"] }
[workflow.said]
category = "chat"
trigger = { event = "said" }
[[workflow.said.step]]
digest = "hourly"
[workflow.ping]
category = "hot"
trigger = { event = "ping" }
[[workflow.ping.step]]
throttle = "2 / 25s"
[[workflow.ping.step]]
send = { templates = ["t"] }
[workflow.alarm]
category = "alarm"
trigger = { event = "alarm" }
[[workflow.alarm.step]]
send = { templates = ["t"] }
[workflow.offer]
category = "plain"
trigger = { event = "offer" }
window = { within = "3h", at = "best" }
[[workflow.offer.step]]
send = { templates = ["t"] }
[workflow.morning]
category = "plain"
trigger = { schedule = "11:09" }
[[workflow.morning.step]]
send = { templates = ["again"] }
"""
HOLDS = {
    "basket": lambda data: data.get("count", 0) > 0,
    "cart": lambda data: data.get("count", 0) > 0,
    "team": lambda data: not data.get("own"),
    "breaking": lambda data: False,  # by what was learned; such events are not posted
    "sign_in": lambda data: bool(data.get("is_new_place")),
}
ZONES = ("UTC", "Europe/London", "Europe/Berlin", "Asia/Kathmandu", "Asia/Kolkata", "America/St_Johns", "Mars/Base")
EVENTS = (
    "remind", "remind", "course", "basket", "basket", "basket", "basket", "score", "score", "said", "said", "ping",
    "ping", "ping", "alarm", "offer", "paid", "paid", "direct", "direct", "direct", "cart.updated", "team.activity",
    "account.signed_in",
)  # fmt: skip
CATEGORIES = ("plain", "quick", "hot", "chat", "alarm", "c", "shop")
EVENTS_MAX = 60  # of one run: each costs the oracle some fields
OVERDUE_S = 8.0  # by then what is due has been taken, by a server that is up
SOON_MS = 20_000  # what falls due within this time is no rest
DAY_MS = 86_400_000
FUTURE_MS = 60 * DAY_MS  # longer than any wait of the definitions, and its back-off


def definitions() -> dict[str, Any]:
    values = tomllib.loads(SMALL)
    for file in sorted(READY.glob("*.toml")):
        for table, entries in tomllib.loads(file.read_text()).items():
            values.setdefault(table, {}).update(entries)
    return values


def wishes_of(oracle: Oracle) -> Wishes:
    """What a person chose, by the oracle's account of their space."""
    documents, zone = {}, ZoneInfo("UTC")
    for key in oracle.facts:
        if key[0] not in ("_preferences", "_profile"):
            continue
        last = oracle.incarnation(key)
        if last is None or not last.is_live:
            continue
        fields = {name: value for name, (_, value) in visible_fields(last).items()}
        if key[0] == "_preferences":
            documents[key[1]] = fields
        elif key[1] == "main" and isinstance(fields.get("zone"), str):
            with suppress(OSError, ValueError, KeyError):  # no zone of this world: as if none were named
                zone = ZoneInfo(fields["zone"])
    return Wishes(documents, zone)


class Rows:
    """The rows of decisions and runs as they were seen last: what is the same is not read again."""

    def __init__(self) -> None:
        self._raw: dict[bytes, bytes] = {}
        self._runs: dict[bytes, Any] = {}

    def read(self, store: MemoryStore) -> tuple[dict[str, dict[int, Any]], dict[str, dict[int, Any]]]:
        """By user: decisions that are new or other than before, and all runs."""
        decisions: dict[str, dict[int, Any]] = {}
        runs: dict[str, dict[int, Any]] = {}
        found: dict[bytes, Any] = {}
        with store.read() as tx:
            for key, raw in tx.scan(*keys.table_range(keys.DECISION)):
                if self._raw.get(key) != raw:
                    row = DECISIONS.get(tx, key)
                    assert row is not None
                    self._raw[key] = raw
                    decisions.setdefault(row.user, {})[keys.parse_of_user(key)[1]] = row
            for key, raw in tx.scan(*keys.table_range(keys.RUN)):
                row = self._runs[key] if self._raw.get(key) == raw else RUNS.get(tx, key)
                self._raw[key], found[key] = raw, row
                runs.setdefault(row.user, {})[keys.parse_of_user(key)[1]] = row
        self._runs = found
        return decisions, runs


class NoticesWork(Work):
    every_s_mean = 4.0

    def __init__(self, world: "World", random: Random, name: str) -> None:
        super().__init__(world, random, name)
        self._values = definitions()
        self._staged = Staged(world.seed, world.plan.profile)
        self._staged.define(self._values)
        self._paid = Paid(world.seed, world.plan.profile)
        self._secret = ""
        self._posted = 0
        self._delivered: dict[str, list[Delivered]] = {}
        self._wishes: dict[str, list[Wishes]] = {}
        self._rows = Rows()
        self._due: dict[bytes, float] = {}
        self._due_life = 0
        self._check_count = 0

    def tune(self, server: SimServer) -> None:
        server.is_deciding = True
        random = self.random
        if random.random() < 0.4:
            self._values["policy"]["quiet_hours"] = self._hours(0.0)
            self._values["policy"]["quiet_action"] = random.choice(("defer", "defer", "silence", "drop"))
        self.auditor = NoticesAuditor(Rules(self._values, HOLDS))

    async def prepare(self) -> None:
        committer, random = self.world.server.committer, self.random
        assert committer is not None
        self._secret = make_key(random.randbytes(32))
        key = CreateKey("notices", ("events:write",), secret_hash(self._secret), random.randbytes(16))
        await committer.execute(key)
        assert isinstance(await committer.execute(Configure(self._values)), Done)

    # -- what backends and people do ---------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            nursery.start_soon(self._post)
            nursery.start_soon(self._watch)
            if self._staged.is_on:
                nursery.start_soon(self._staged.run, self)
            if self._paid.is_on:
                nursery.start_soon(self._paid.run, self)

    async def _post(self) -> None:
        every_s = max(self.world.plan.safety_s / EVENTS_MAX, 1.5)
        while self._posted < EVENTS_MAX:
            await sleep(self.random.expovariate(1 / every_s))
            count = 1 if self.random.random() < 0.7 else self.random.randint(2, 4)
            events = [self._event() for _ in range(count)]
            await self.post(events)
            if self.random.random() < 0.15:
                self.count("posted again")
                await self.post([self.random.choice(events)])

    def _event(self) -> dict[str, Any]:
        random = self.random
        self._posted += 1
        type = random.choice(EVENTS)
        data: dict[str, Any] = {
            "title": f"T{self._posted}", "key": random.choice("aab"), "count": random.choice((0, 1, 3)),
        }  # fmt: skip
        match type:
            case "direct":
                category = random.choice(("plain", "quick", "quick", "hot", "alarm", "chat"))
                data = {"notification": {"title": data["title"], "body": "b", "category": category}}
            case "cart.updated":
                data |= {"cart_id": "c1", "item": "Shoes", "total": 80}
            case "account.signed_in":
                data |= {"is_new_place": True, "sign_in_id": random.choice("xy"), "place": "Oslo", "device": "Phone"}
        return {
            "specversion": "1.0", "id": f"notice-{self._posted}", "source": "/notices", "type": type,
            "subject": random.choice((self.world.users[0], random.choice(self.world.users))), "data": data,
        }  # fmt: skip

    async def post(self, events: Sequence[Mapping[str, Any]]) -> None:
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/cloudevents-batch+json"}
        body = json.dumps(events).encode()
        for _ in range(RETRIES_MAX):
            told = await ask_http(self.world.network, BACKEND, "POST", "/v1/events", headers, body, ASK_S)
            self.world.trace.record(BACKEND, f"posts {[event['type'] for event in events]} -> {told and told[0]}")
            if told is not None and told[0] < 300:
                return
            if told is not None and told[0] not in (401, 429, 503):
                self.world.fail(Violation("S15", f"events were answered {told}", BACKEND))
            self.count("retried")
            await sleep(self.random.expovariate(1 / 3.0))

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        space = device.client.space(f"user/{device.user}")
        if space.row.resume > space.row.complete:
            return  # what is staged may be shown early, which is not this topic's
        random, roll = self.random, self.random.random()
        inbox = [document.id for document in space.documents("_inbox")]
        if roll < 0.5 and inbox:
            name = random.choice(("seen", "opened", "opened", "dismissed"))
            self.count(name)
            self._commit(device, [["flag.enable", "_inbox", random.choice(inbox), name]])
        elif roll < 0.65:
            self.choose(device, "_profile", "main", "zone", random.choice(ZONES))
        elif roll < 0.8:
            self.choose(device, "_preferences", "all", "quiet_hours", self._quiet_hours())
        elif roll < 0.9:
            of = random.choice(("all", *(f"category:{name}" for name in CATEGORIES)))
            until_ms = device.clock.now_ms() + random.choice((-1_000, 5_000, 20_000))
            self.choose(device, "_preferences", of, "mute_until", until_ms)
        else:
            of = random.choice(("all", *(f"category:{name}" for name in CATEGORIES)))
            chosen = random.choice(("instant", "instant", "instant", "hourly", "daily", "off", "sometimes"))
            self.choose(device, "_preferences", of, "frequency", chosen)

    def _quiet_hours(self) -> str:
        """Some minutes around now on a clock of the world, or none, or what is none."""
        if self.random.random() < 0.25:
            return self.random.choice(("off", "off", "25:00-26:00"))
        return self._hours(trio.current_time())

    def _hours(self, now_s: float) -> str:
        random = self.random
        minute = (BASE_MS // 60_000 + round(now_s / 60) + random.choice((0, 0, 60, 345, 330, -210))) % 1440
        start = (minute + random.randint(-1, 2)) % 1440
        end = (start + random.choice((1, 2, 3, 600))) % 1440
        return f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"

    def choose(self, device: SimDevice, collection: str, document: str, name: str, value: Any) -> None:
        assert device.client is not None
        space = device.client.space(f"user/{device.user}")
        made = [] if space.view(collection, document) is not None else [["create", collection, document]]
        self.count(name)
        self._commit(device, [*made, ["reg.set", collection, document, name, value]])

    def _commit(self, device: SimDevice, operations: list[list[Any]]) -> None:
        assert device.client is not None
        self.world.people[device.name].commit(device.client.space(f"user/{device.user}"), operations)

    # -- what the server made of it ----------------------------------------------------------------------------------

    def committed(self, now_ms: int, command: Command, result: Result) -> None:
        match command, result:
            case PostEvents(), EventResults(told):
                for event, (status, _) in zip(command.events, told, strict=True):
                    if status == "accepted" and event.subject is not None:
                        self.auditor.event(now_ms, event.subject, (event.source, event.id), event.type, event.data)
            case Push(space=space), _ if space.startswith("user/"):
                self._look(space.removeprefix("user/"))

    def _look(self, user: str) -> Wishes:
        found = wishes_of(self.world.auditor.space(f"user/{user}").oracle)
        history = self._wishes.setdefault(user, [self.auditor.person(user).wishes])
        if history[-1] != found:
            history.append(found)
        return found

    def delivered(self, now_ms: int, user: str, seq: int, document: str, fields: Mapping[str, Any]) -> None:
        self._delivered.setdefault(user, []).append(Delivered(document, fields, self._look(user)))

    def decided(self, now_ms: int, commands: Sequence[Command], decision: Decision) -> None:
        if not any(isinstance(command, PostEvents | Fire | Bind | Push) for command in commands):
            return
        decisions, runs = self._rows.read(self.world.server.store)
        for user in sorted({*decisions, *runs, *self._delivered, *self._wishes, *self.auditor.people}):
            wishes = self._wishes.get(user) or [self.auditor.person(user).wishes]
            self.auditor.committed(
                now_ms, user, decisions.get(user, {}), runs.get(user, {}), self._delivered.get(user, ()), wishes
            )
        self._delivered.clear()
        self._wishes.clear()

    async def _watch(self) -> None:
        """N8: nothing that is due stays where it is, while somebody is there to take it."""
        while True:
            await sleep(1.0)
            self._look_at_timers()

    def _look_at_timers(self) -> None:
        server, now_s = self.world.server, trio.current_time()
        if server.life % 2 == 0 or server.is_going or server.limit_bytes < ROOM_BYTES or server.life != self._due_life:
            self._due_life = server.life
            self._due.clear()
            return
        with server.store.read() as tx:
            due = [key for key, _ in tx.scan(*keys.timers_range(server.clock.now_ms()))]
        self._due = {key: self._due.get(key, now_s) for key in due}
        late = [key for key, since_s in self._due.items() if now_s - since_s > OVERDUE_S]
        if late:
            due_ms = keys.parse_timer(late[0])[0]
            self.world.fail(Violation("N8", f"what fell due at {due_ms} waits, and the server is up", "server"))

    # -- at the end --------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        self._look_at_timers()
        with self.world.server.store.read() as tx:
            first = next(tx.scan(*keys.table_range(keys.TIMER)), None)
        due_ms = None if first is None else keys.parse_timer(first[0])[0]
        if due_ms is not None and due_ms < self.world.server.clock.now_ms() + SOON_MS:
            return [f"something falls due at {due_ms}"]
        return []

    def check(self) -> None:
        self.auditor.check()
        self._check_screens()
        self._check_count += 1
        if self._check_count == 2:
            future = Future(self)
            future.check()
            for what, count in future.auditor.seen.items():
                key = f"{self._name}: {what}"
                self.world.topic_counts[key] = self.world.topic_counts.get(key, 0) + count

    def _check_screens(self) -> None:
        """N2: no device shows twice what was decided once, or what one event said."""
        for device in self.world.devices:
            assert device.client is not None
            shown: dict[Any, str] = {}
            for document in device.client.space(f"user/{device.user}").documents("_inbox"):
                marks = [document.fields.get("decision")]
                if "event" in document.fields:
                    marks.append((document.fields.get("source"), document.fields["event"]))
                for mark in marks:
                    if mark in shown:
                        told = f"{device.name} shows {mark} as {shown[mark]} and as {document.id}"
                        raise Violation("N2", told, device.name)
                    shown[mark] = document.id


class Future:
    """What comes of it all: a copy of the store, in which timers fall due one after the other, across restarts of the
    process and hours in which nobody looks."""

    def __init__(self, work: NoticesWork) -> None:
        self._random = work.random
        self._store = MemoryStore(ROOM_BYTES, image=work.world.server.store.image())
        self.auditor = deepcopy(work.auditor)
        self.auditor.is_live = False
        self._rows = deepcopy(work._rows)
        self._began_ms = self._now_ms = work.world.server.clock.now_ms()
        self._last_ms = self._now_ms + FUTURE_MS
        self._is_counted = work.count
        self._restart()

    def _restart(self) -> None:
        entropy = SimEntropy(Random(self._random.random())).token
        self._engine = Engine(entropy, further=carried_out, notices=Decider(Book()))

    def check(self) -> None:
        over_ms = self._began_ms + DAY_MS
        while self._now_ms < over_ms or self._is_waiting(over_ms):
            with self._store.read() as tx:
                first = next(tx.scan(*keys.table_range(keys.TIMER)), None)
            if first is None or (due_ms := keys.parse_timer(first[0])[0]) > self._last_ms:
                break
            late_ms = self._random.choice((0, 0, 0, 500, 5_000))
            if self._random.random() < 0.05:
                late_ms = self._random.choice((3_600_000, 10 * 3_600_000))
                self._is_counted("absence")
            self._now_ms = max(self._now_ms, due_ms) + late_ms
            if self._random.random() < 0.2:
                self._restart()
            self._fire()
        self.auditor.check(over_ms)
        self._is_counted("over")
        with self._store.read() as tx:
            if findings := list(fsck.check(tx)):
                raise Violation("S13", f"fsck, when time has moved on: {findings[:3]}", "server")

    def _is_waiting(self, before_ms: int) -> bool:
        """Whether anything that began before then goes on. Schedules begin runs for ever."""
        runs = [run for person in self.auditor.people.values() for run in person.runs.values()]
        return any(run.kind != "watch" and run.began_ms < before_ms for run in runs)

    def _fire(self) -> None:
        with self._store.write() as tx:
            decision = self._engine.decide(tx, self._now_ms, (Fire(self._now_ms),))
        if decision.alarms:
            raise Violation("S15", f"the engine contained a defect: {decision.alarms[0]}", "server")
        came = delivered_by(decision)
        decisions, runs = self._rows.read(self._store)
        for user in sorted({*decisions, *runs, *self.auditor.people}):
            wishes = self.auditor.person(user).wishes
            shown = [Delivered(document, fields, wishes) for _, document, fields in came.get(user, ())]
            self.auditor.committed(self._now_ms, user, decisions.get(user, {}), runs.get(user, {}), shown, (wishes,))


NOTICES = Topic(
    "notices",
    NoticesWork,
    share=0.2,
    expected=(
        "sent", "deferred", "digested", "collapsed", "cancelled", "suppressed", "expired", "throttle", "back-off",
        "critical passes", "cap full", "judged anew", "digest closed", "opened", "zone", "quiet_hours", "mute_until",
        "frequency", "posted again", "retried", "over", "absence", "schedule",
    ),
    mutants=MUTANTS,
)  # fmt: skip
