"""One run: everything is made from the seed, lives through its phases, and is judged.

Phases: make; *safety*, in which people work and the nemesis acts; heal; *liveness*, in which everything must come to
rest before a virtual deadline; check; restart everything, come to rest, check again; send everyone away and see that
nothing is left.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from random import Random

import trio

from syncd.engine.commands import Author as EngineAuthor
from syncd.engine.commands import Command, CreateKey, Decision, Post, Result
from syncd.engine.grants import Grant, Role
from syncd.net.auth import make_key, secret_hash, sign_token
from syncd.net.limits import NetLimits
from syncd.net.rates import Rate
from syncd.wire.limits import Limits
from syncd_client.policy import State
from tests.sim import excesses, misdeeds  # noqa: F401 - they fill the table of misdeeds
from tests.sim.auditor import READER, WRITER, Auditor, Recorded, Violation
from tests.sim.clocks import true_ms
from tests.sim.commits import CommitReader
from tests.sim.determinism import sleep
from tests.sim.device import SimDevice
from tests.sim.final import check_everything, unfinished
from tests.sim.follower import FOLLOWER, Follower
from tests.sim.nemesis import Nemesis
from tests.sim.network import Network, Weather
from tests.sim.plan import Plan, drawn
from tests.sim.polling import carriers_of
from tests.sim.rogue import Rogue
from tests.sim.server import KEY, SimServer
from tests.sim.sockets import Refused, ask_http
from tests.sim.topics import TOPICS
from tests.sim.trace import Trace
from tests.sim.wiretap import TokenFacts, Wiretap
from tests.sim.workload import BACKEND, Backend, Person

RATES = {
    "address_connections": Rate(1.0, 25.0), "address_requests": Rate(0.5, 6.0), "caller_requests": Rate(0.5, 5.0),
    "address_failures": Rate(0.1, 3.0), "user_bytes": Rate(4000.0, 20_000.0), "user_changes": Rate(5.0, 20.0),
}  # fmt: skip
TOKEN_SLACK_MS = 1000  # tokens tell whole seconds
LOST_SHARE = 0.05  # of what comes to a device that polls
HEARD_S = 5.0  # by then a goaway has been heard
CROWD_COUNT = 8  # so many who are told the same are no accident
LIVENESS_S = 900.0  # three of the longest backoffs, and the time in which a dead connection is noticed
ALARMING = ("drift", "forked", "renamed", "malformed", "expired", "stopped")


class NotLive(Exception):
    """Something that must happen did not happen in time."""


class World:
    def __init__(self, seed: int, profile: str, directory: Path) -> None:
        self.seed = seed
        topics = [topic for topic in TOPICS if topic.is_in(seed, profile)]
        self.plan: Plan = reduce(lambda plan, topic: topic.tamed(plan), topics, drawn(seed, profile))
        self.trace = Trace()
        self.auditor = Auditor()
        self.faults: dict[str, int] = {}
        self.failure: BaseException | None = None
        self._directory = directory
        self._random = Random(f"{profile}/{seed}/world")
        self._scope = trio.CancelScope()
        self.is_safe_phase = True
        self.network = Network(self._fork(), self.trace)
        self.users = [f"u{index}" for index in range(self.plan.users)]
        self.shared_spaces = [f"s/{index}" for index in range(self.plan.spaces)]
        self.roles = {user: {space: self._role() for space in self.shared_spaces} for user in self.users}
        for user in self.users:
            self.roles[user][f"user/{user}"] = 3
        self.tokens: dict[str, TokenFacts] = {}
        self.settled: dict[str, dict[str, dict[int, Recorded]]] = {}
        self._given: dict[str, list[str]] = {}
        self.people: dict[str, Person] = {}
        self._names: dict[bytes, str] = {}
        self._notices: dict[str, tuple[int, int]] = {}
        self._token_random = self._fork()
        plan = self.plan
        self.net_limits = NetLimits(
            ping_ms=plan.ping_ms, first_jitter_ms=plan.first_jitter_ms, ack_ms=self._random.choice((500, 5000)),
            connections_per_user_max=-(-plan.devices // plan.users) + 2,
            connections_per_address_max=plan.connections_per_address_max,
            upgrades_per_s_max=plan.upgrades_per_s_max, upgrades_burst_max=plan.upgrades_per_s_max,
            control_bytes_max=plan.control_bytes_max,
            goaway_absence_ms=0,  # when a server is back is the nemesis's affair
            **(RATES if plan.is_rated else {}),
        )  # fmt: skip
        self.wire_limits = Limits(
            frame_bytes_max=plan.frame_bytes_max, push_changes_max=plan.push_changes_max,
            pushes_in_flight_max=plan.pushes_in_flight_max, subscriptions_max=plan.subscriptions_max,
        )  # fmt: skip
        self.topic_counts: dict[str, int] = {}
        self.works = {topic.name: topic.make(self, topic.stream(seed, profile), topic.name) for topic in topics}
        reader = CommitReader(self.auditor, self._name, tuple(self.works.values()))
        self.server = SimServer(
            self._fork(), self.network, self.trace, self.net_limits, self.wire_limits, self._guarded(reader.read),
            self._accepted,
        )  # fmt: skip
        self.server.disk_s = self.plan.disk_s
        for work in self.works.values():
            work.tune(self.server)
        reader.is_deciding = self.server.is_deciding
        self._losses = Random(f"{profile}/{seed}/losses")
        self._carriers = carriers_of(seed, profile, [f"d{index}" for index in range(plan.devices)])
        self.devices: list[SimDevice] = []
        self.clones: list[SimDevice] = []
        self.misdeeds: dict[str, int] = {}  # those that came to a verdict
        self.follower: Follower | None = None
        self._refusals_s: list[int] = []  # what each Retry-After of a refused upgrade said
        self.nursery: trio.Nursery

    def _fork(self) -> Random:
        return Random(self._random.getrandbits(64))

    def _role(self) -> int:
        return self._random.choice((3, 3, 2, 2, 2, 2, 1))

    def _name(self, device: bytes) -> str:
        return self._names.get(device, device.hex()[:8])

    def spaces_of(self, user: str) -> list[str]:
        return [*self.shared_spaces, f"user/{user}"]

    def count_fault(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def fail(self, violation: BaseException) -> None:
        """The first broken invariant ends the run."""
        if self.failure is None:
            self.failure = violation
            self._scope.cancel()

    def _guarded(
        self, read: Callable[..., None]
    ) -> Callable[[int, Sequence[Command], Sequence[Result], Decision], None]:
        def guarded(now_ms: int, commands: Sequence[Command], results: Sequence[Result], decision: Decision) -> None:
            try:
                read(now_ms, commands, results, decision)
            except Violation as violation:
                self.fail(violation)

        return guarded

    # -- tokens --------------------------------------------------------------------------------------------------

    def token(self, device: SimDevice) -> str:
        """The application's own service gives a token; now and then it is down, or an old one was cached."""
        random, faults = self._token_random, self.plan.faults if self.is_safe_phase else frozenset()
        if "auth-down" in faults and random.random() < 0.1:
            self.count_fault("auth-down")
            raise OSError("the token service does not answer")
        if "stale-token" in faults and random.random() < 0.15 and device.name in self._given:
            self.count_fault("stale-token")
            return random.choice(self._given[device.name])
        roles = {space: role for space, role in self.roles[device.user].items() if role}
        life_s = self.plan.token_s * (0.5 + random.random()) if self.is_safe_phase else 3600.0
        grants = [Grant(space, Role(role)) for space, role in roles.items()]
        token = sign_token(KEY, device.user, grants, life_s, true_ms(), token_id=str(random.getrandbits(32)))
        self.know_token(token, roles, true_ms() + round(life_s * 1000))
        self._given.setdefault(device.name, []).append(token)
        return token

    def know_token(self, token: str, roles: Mapping[str, int], expires_ms: int) -> None:
        self.tokens[token] = TokenFacts(roles, expires_ms)

    def _accepted(self, token: str) -> None:
        if token in self.tokens:
            facts = self.tokens[token]
            facts.accepted_s.append(trio.current_time())
            if facts.expires_ms + TOKEN_SLACK_MS < self.server.clock.now_ms():
                self.fail(Violation("S11", "the server takes a token that expired long ago", "server"))

    def name_device(self, device: bytes, name: str) -> None:
        self._names[device] = name

    def _tap(self, device: SimDevice) -> Wiretap:
        self.name_device(device.id, device.name)
        return self.tap_of(device.name, device.id)

    def tap_of(self, name: str, device: bytes, tolerated: tuple[str, ...] = ()) -> Wiretap:
        """What listens to a new connection."""
        look = self.people[name].look if name in self.people else lambda: None
        return Wiretap(
            self.auditor, self.trace, name, device, self.tokens,
            self.settled.setdefault(name, {}), self.fail, look, tuple(self.works.values()), tolerated,
        )  # fmt: skip

    def _refused(self, refused: Refused) -> None:
        if refused.retry_after_s is None:
            self.fail(Violation("S15", f"an upgrade was answered by {refused.status}, and not told when to come back"))
        else:
            self._refusals_s.append(refused.retry_after_s)

    # -- phases --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when all is well. Raises `Violation`, `NotLive`, or what crashed."""
        with self._scope:
            async with trio.open_nursery() as self.nursery:
                secret = await self._make()
                self.nursery.start_soon(self._monitor)
                await self._safety(secret)
                await self._heal()
                await self._rest()
                self._check()
                await self._restart()
                await self._rest()
                self._check()
                self._check_spread(self._refusals_s, "whose upgrade was refused", 1)
                await self._send_away()
                self.nursery.cancel_scope.cancel()
        if self.failure is not None:
            raise self.failure

    async def _make(self) -> str:
        plan, random = self.plan, self._random
        await self.server.start(self.nursery)
        committer = self.server.committer
        assert committer is not None
        secret = make_key(random.randbytes(32))
        await committer.execute(CreateKey("sim", ("events:write",), secret_hash(secret), random.randbytes(16)))
        maker = EngineAuthor(b"\0" * 6 + b"setup12345", None, "key", "setup", (Grant("**", Role.OWNER),))
        for space in [*self.shared_spaces, *(f"user/{user}" for user in self.users)]:
            await committer.execute(Post(maker, space, [["create", "c", "seed"]], None, None, None))
        for work in self.works.values():
            await work.prepare()
        self.network.weather[BACKEND] = self._weather()
        for index in range(plan.devices):
            name = f"d{index}"
            self.network.weather[name] = self._weather()
            user = self.users[index % len(self.users)]
            binding = random.choice(("msgpack", "msgpack", "json"))
            device = self._machine(name, user, binding)
            self.devices.append(device)
            if random.random() < 0.8:
                await self._first_start(device)
        self.server.fault_share = plan.fault_share
        return secret

    def _machine(self, name: str, user: str, binding: str) -> SimDevice:
        device = SimDevice(
            name, user, binding, self._directory / name, self._fork(), self.network, self.trace,
            self.token, self._tap, self._refused, self._carriers.get(name, ("websocket", False)),
            lambda: self.count_fault("polls"), self._loses_answer,
        )  # fmt: skip
        self.people[name] = Person(self, device)
        return device

    def _loses_answer(self) -> bool:
        """Now and then the answer to a poll, or to a message, is lost after the server has sent it."""
        is_lost = self.is_safe_phase and self._losses.random() < LOST_SHARE
        if is_lost:
            self.count_fault("lost answer")
        return is_lost

    async def run_clone(self, device: SimDevice, with_installation: bool, life_s: float) -> None:
        """A copy of this device's disk lives for so long beside it, and is used."""
        name = f"{device.name}-clone{len(self.clones)}"
        clone = self._machine(name, device.user, device.binding)
        clone.is_cloned, clone.is_damaged = True, device.is_damaged
        self.clones.append(clone)
        leave = None if with_installation else shutil.ignore_patterns("installation")
        await device.kill()
        shutil.copytree(device.directory, clone.directory, ignore=leave)
        await device.start(self.nursery)
        self.network.weather[name] = self._weather()
        await clone.start(self.nursery)
        # Whoever pushes first goes on, the other one is forked: the copy, or the machine that was copied.
        away_s = life_s / 2 if device.random.random() < 0.5 else 0.0
        if away_s and device.client is not None:
            await device.client.go_offline()
        try:
            with trio.move_on_after(life_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.people[name].run)
                    nursery.start_soon(self._quarrel, device, away_s)
                    nursery.start_soon(self._quarrel, clone, 0.0)
        finally:
            with trio.CancelScope(shield=True):
                await clone.kill()

    async def _quarrel(self, device: SimDevice, away_s: float) -> None:
        """Whoever was superseded is opened again now and then."""
        await sleep(away_s)
        while True:
            await sleep(1 + 4 * device.random.random())
            if device.client is not None:
                device.client.go_online()

    async def stop_server(self, deadline_s: float) -> None:
        """As on SIGTERM; and those who were told to leave come back one after the other."""
        self.auditor.goaways = told = []
        await self.server.stop(deadline_s)
        await sleep(HEARD_S)
        spread_ms = 1000 * self.net_limits.goaway_slack * len(told) / self.net_limits.upgrades_per_s_max
        try:
            self._check_spread([told_ms for _, told_ms in told], "who were sent away", spread_ms / 10)
        except Violation as violation:
            self.fail(violation)

    async def read_over_http(self) -> None:
        """Whatever the server cannot write, it can be read."""
        token = sign_token(KEY, "reader", [Grant("s/**", Role.READER)], 3600, true_ms())
        space, life = self.shared_spaces[0].replace("/", "%2F"), self.server.life
        target, headers = f"/v1/spaces/{space}/documents", {"Authorization": f"Bearer {token}"}
        told = await ask_http(self.network, BACKEND, "GET", target, headers, b"", 20.0)
        self.trace.record(BACKEND, f"reads a full store: {told and told[0]}")
        if (
            told is not None
            and told[0] not in (200, 401, 429)
            and self.server.life == life
            and not self.server.is_going
        ):
            self.fail(Violation("S15", f"a full store cannot be read: {told}", BACKEND))

    def _weather(self) -> Weather:
        plan = self.plan
        return Weather(plan.latency_s, plan.latency_s * self._random.random(), plan.buffer_bytes, plan.short_share)

    async def _first_start(self, device: SimDevice) -> None:
        await device.start(self.nursery)
        assert device.client is not None
        self._names[device.id] = device.name
        for space in self.spaces_of(device.user):
            if self._random.random() < 0.8:
                device.client.space(space).subscribe()

    async def _safety(self, secret: str) -> None:
        nemesis = Nemesis(self, self._fork())
        backend = Backend(self, self._fork(), secret)
        with trio.move_on_after(self.plan.safety_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nemesis.operate)
                nursery.start_soon(nemesis.run, nursery)
                nursery.start_soon(backend.run)
                # A feed from the start is refused at a page that ends below the floor: with pages this small, for ever.
                if self.plan.is_followed and self.server.retention is None:
                    self.network.weather[FOLLOWER] = self._weather()
                    self.follower = Follower(self, self._fork(), self._random.choice(self.shared_spaces))
                    nursery.start_soon(self.follower.run)
                for number in range(self.plan.rogues):
                    name = f"r{number}"
                    self.network.weather[name] = Weather(buffer_bytes=self._random.choice((4096, 65536)))
                    nursery.start_soon(Rogue(self, name, self._fork()).run)
                for work in self.works.values():
                    nursery.start_soon(work.run)
                for device in self.devices:
                    nursery.start_soon(self.people[device.name].run)
                    if not device.is_on:
                        nursery.start_soon(self._join_late, device)

    async def _join_late(self, device: SimDevice) -> None:
        await sleep(self._random.random() * self.plan.safety_s)
        await self._first_start(device)

    async def _heal(self) -> None:
        self.trace.record("nemesis", "heal")
        self.is_safe_phase = False
        self.server.fault_share = 0.0
        self.server.clock.correct()
        self.server.failing = None
        self.server.make_room()
        for work in self.works.values():
            work.heal()
        for name in self.network.weather:
            weather = self.network.weather[name]
            weather.latency_s, weather.jitter_s, weather.buffer_bytes, weather.short_share = 0.02, 0.01, 65536, 0.0
            self.network.mend(name)
        if self.server.life % 2 == 0 or self.server.is_draining:
            await self.server.wait_down()
            await self.server.start(self.nursery)
        for device in self.devices:
            if not device.is_on:
                await device.wait_down()
                await device.start(self.nursery)
            assert device.client is not None
            device.read_on()
            device.client.go_online()
        for link in self.network.of(None):
            if not link.is_lost:
                link.reset()  # everyone connects anew, with a token of now

    async def _rest(self) -> None:
        """Wait until nothing is on its way any more."""
        due_s = trio.current_time() + LIVENESS_S
        while True:
            await sleep(1)
            for device in self.devices:
                # The last that was heard of its copy may have superseded it; then its person opens it once more.
                if device.is_cloned and device.client is not None and device.client.status.state is State.STOPPED:
                    device.client.go_online()
            left = [*unfinished(self), *(text for work in self.works.values() for text in work.unfinished())]
            if not left:
                self.trace.record("nemesis", "at rest")
                break
            if trio.current_time() > due_s:
                raise NotLive("; ".join(left[:6]))
        if self.follower is not None:
            await self.follower.catch_up()
            self.faults["follower crashed"] = self.follower.crashes

    def _check(self) -> None:
        check_everything(self)
        for work in self.works.values():
            work.check()

    async def _restart(self) -> None:
        self.trace.record("nemesis", "restart of everything")
        for device in self.devices:
            await device.kill()
        await self.server.kill()
        await self.server.start(self.nursery)
        for device in self.devices:
            await device.start(self.nursery)

    def _check_spread(self, delays: Sequence[int], of: str, least: float) -> None:
        """A crowd that is sent away may not come back as one."""
        if len(delays) >= CROWD_COUNT and max(delays) - min(delays) < least:
            detail = f"{len(delays)} {of} were told to come back at the same time: {delays[:8]}"
            raise Violation("S18", detail, "server")

    async def _send_away(self) -> None:
        for device in self.devices:
            await device.stop()
        server, hub = self.server.server, self.server.hub
        assert server is not None and hub is not None
        due_s = trio.current_time() + 300
        # Who polled and went without a word is missed when polls no longer come.
        while (server.connection_count or server.polled_count) and trio.current_time() < due_s:
            await sleep(1)
        if server.connection_count or hub.room_count or hub.members:
            raise Violation(
                "S14", f"nobody is there: {server.connection_count} connections, {hub.room_count} rooms are left"
            )
        self.server.check_store()

    # -- all the time --------------------------------------------------------------------------------------------

    async def _monitor(self) -> None:
        while True:
            await sleep(0.5)
            try:
                self.server.check_bounds()
                for device in (*self.devices, *self.clones):
                    self._look_at(device)
            except Violation as violation:
                self.fail(violation)
            if self.server.defects:
                self.fail(Violation("S15", self.server.defects[0], "server"))

    def _look_at(self, device: SimDevice) -> None:
        client = device.client
        if client is None:
            return
        life, seen = self._notices.get(device.name, (0, 0))
        if life != id(client):
            life, seen = id(client), 0
        new = min(client.watchers.notice_count - seen, len(client.watchers.notices))
        self._notices[device.name] = (life, client.watchers.notice_count)
        for notice in list(client.watchers.notices)[len(client.watchers.notices) - new :]:
            if device.is_damaged and notice.what == "drift":
                continue
            if any(notice.what in work.tolerated_notices for work in self.works.values()):
                continue
            if notice.what in ALARMING and not (device.is_cloned and notice.what in ("forked", "renamed", "stopped")):
                raise Violation("S7", f"{device.name} notices: {notice}", device.name, "server")
        if client.status.state is State.STOPPED and not device.is_cloned:
            raise Violation("S15", f"{device.name} stopped: {client.status.reason}", device.name, "server")

    # -- for the final checks ------------------------------------------------------------------------------------

    def may_read(self, device: SimDevice, space: str) -> bool:
        return self.role(device, space) >= READER

    def role(self, device: SimDevice, space: str) -> int:
        """By the token that the user gets now, and by what the space says now."""
        audit = self.auditor.space(space)
        said = audit.said(device.user, audit.oracle.head)
        return 0 if said == 0 else max(said or 0, self.roles[device.user].get(space, 0))

    def may_write(self, device: SimDevice, space: str) -> bool:
        return self.role(device, space) >= WRITER
