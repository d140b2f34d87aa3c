"""One run: a server whose Nth call fails, and three devices and a backend that do what such do about it.

What must hold: each command that the committer took has one answer, in order, unless the process ended by
`StoreDamaged`; it ends by nothing else; what a device was told is what the store has; each change took effect once;
devices are told nothing wrong, nor left without a word; all agree after the fault is gone; fsck finds nothing, ever;
nothing but the injected error is logged.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio
from trio.testing import MockClock

from syncd.app.daemon import adds_data, size_bytes
from syncd.engine.batch import space_row
from syncd.engine.commands import Command, Decision, Failed, Result
from syncd.engine.engine import Engine
from syncd.engine.grants import Grant, Role
from syncd.env.memory import MemoryListener, MemoryTransport
from syncd.env.ports import Environment, TransportClosed
from syncd.env.real import NoFaults
from syncd.net.api import Api
from syncd.net.auth import Authenticator, sign_token
from syncd.net.exchange import Health
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.net.server import Server
from syncd.store import fsck, keys
from syncd.store.api import StoreDamaged
from syncd.store.committer import Committer
from syncd.store.memory import MemoryStore
from syncd.store.tables import ENTRIES, REPLICAS
from syncd.wire.limits import DEFAULT
from tests.failures.backend import Backend
from tests.failures.faults import INJECTED, NETWORK, Fault, FaultyListener, FaultyOffload, FaultyStore, Kind
from tests.net.harness import (
    KEY,
    SPACE,
    Client,
    Clock,
    Closed,
    Entropy,
    Message,
    Mirror,
    send_all,
    upgrade_request,
)

DEVICES: Final = 3
CHANGES: Final = 4  # of each device
STORE_BYTES: Final = 2_000  # soon full: it has to grow
STORE_BYTES_MAX: Final = 1 << 20
DISK_S: Final = 0.01
STREAM_BYTES: Final = 200  # so that a frame does not always fit
PAUSE_S: Final = 0.5  # of a device before it connects again
RESTART_S: Final = 1.0
HEAL_S: Final = 8.0
SILENCE_S: Final = 5.0  # that long without a word, while something is owed
DEADLINE_S: Final = 120.0


class Again(Exception):
    """The device gives up this connection, and will make another."""


class Counting(Committer[Command, Result, Decision]):
    """Knows which commands were taken and which were answered."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.taken = 0
        self.answered: list[int] = []

    def submit(self, command: Command, done: Callable[[Result], None]) -> None:
        number = self.taken

        def counted(result: Result) -> None:
            self.answered.append(number)
            done(result)

        super().submit(command, counted)
        self.taken += 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """`hits`: how often the fault struck; `ends`: how often the process ended by `StoreDamaged`."""

    hits: int
    ends: int
    problems: tuple[str, ...]


class Log(logging.Handler):
    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(logging.Formatter().format(record))


class Stage:
    def __init__(self, fault: Fault, store_type: type[FaultyStore]) -> None:
        self.fault = fault
        self._store_type = store_type
        self.problems: list[str] = []
        self.store = MemoryStore(STORE_BYTES, STORE_BYTES_MAX)
        self.listener: MemoryListener | None = None
        self.committer: Counting | None = None
        self.ends = 0
        self.is_over = False
        self._entropy = Entropy()  # for all lives: what is drawn twice would be no entropy
        self._drained = trio.Event()

    # -- the server ----------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """One life after the other, as a supervisor starts them."""
        while not self.is_over:
            try:
                await self._life()
            except* StoreDamaged:
                self.ends += 1
            except* Exception as group:
                self.problems.append(f"the process ended by {group.exceptions[0]!r}")
            assert self.committer is not None
            if self.committer.answered != list(range(len(self.committer.answered))):
                self.problems.append(f"answers out of order: {self.committer.answered}")
            self.listener = None
            self._check_store()
            self.store = MemoryStore(STORE_BYTES, STORE_BYTES_MAX, self.store.image())
            if not self.is_over:
                await trio.sleep(RESTART_S)

    async def _life(self) -> None:
        store, limits, clock = self._store_type(self.store, self.fault), NetLimits(), Clock()
        offload = FaultyOffload(DISK_S, self.fault)
        hub = Hub(limits, DEFAULT)
        self.committer = committer = Counting(
            store, Engine(self._entropy.token).decide, lambda decision: decision.results, hub.publish, Failed, clock,
            offload, NoFaults(), adds_data=adds_data, size_bytes=size_bytes,
        )  # fmt: skip
        authenticator = Authenticator([KEY])
        api = Api(
            store=store, committer=committer, authenticator=authenticator, clock=clock, health=Health,
            waiters=hub.waiters, live=hub.live, uniform=self._entropy.uniform,
        )  # fmt: skip
        server = Server(
            Environment(clock, self._entropy, offload, NoFaults()), hub, api, authenticator, store, committer,
            self.logged, limits=limits,
        )  # fmt: skip
        self.listener = MemoryListener()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, [FaultyListener(self.listener, self.fault)])
            await committer.run()
            self._drained.set()
            nursery.cancel_scope.cancel()

    def logged(self, text: str) -> None:
        last = text.rstrip().rpartition("\n")[2]
        if INJECTED not in last:
            self.problems.append(f"logged: {text}")

    def connect(self, number: int) -> MemoryTransport:
        if self.listener is None:
            raise TransportClosed("the server is down")
        return self.listener.connect(f"10.0.0.{number}:1", STREAM_BYTES)

    # -- the end -------------------------------------------------------------------------------------------------

    @property
    def head(self) -> int:
        with self.store.read() as tx:
            row = space_row(tx, SPACE)
        return 0 if row is None else row.head

    async def drain(self) -> None:
        """Stop in order: every command that was taken is answered."""
        assert self.committer is not None
        self.is_over = True
        self.committer.close()
        await self._drained.wait()
        if len(self.committer.answered) != self.committer.taken:
            self.problems.append(f"{self.committer.taken} commands, {len(self.committer.answered)} answers")

    def _check_store(self) -> None:
        with self.store.read() as tx:
            self.problems.extend(f"fsck: {finding}" for finding in fsck.check(tx))

    def check(self, devices: "list[Device]", backend: Backend) -> None:
        """What the devices were told is what the store has, and all of them have the same."""
        self._check_store()
        with self.store.read() as tx:
            row = space_row(tx, SPACE)
            assert row is not None
            for device in devices:
                replica = REPLICAS.get(tx, keys.replica(row.id, device.id))
                for n, (outcome, seq) in device.mirror.outcomes.items():
                    key = None if replica is None else keys.device_log(row.id, replica.slot, n)
                    entry = None if key is None else ENTRIES.get(tx, key)
                    if entry is None and replica is not None and n <= replica.trimmed:
                        continue
                    if entry is None or (entry.outcome, entry.seq) != (outcome, seq):
                        self.problems.append(f"device {device.number} was told {n}: {outcome} {seq}; stored is {entry}")
        documents = devices[0].mirror.documents
        for device in devices[1:]:
            if device.mirror.documents != documents:
                self.problems.append(f"device {device.number} has {device.mirror.documents}, another {documents}")
        count = documents.get(("tally", "all"), {}).get("count")
        seqs = [seq for device in devices for _, seq in device.mirror.outcomes.values() if seq is not None]
        accepted = len({*seqs, *backend.seqs})
        if count != accepted or accepted != row.head:
            self.problems.append(f"{accepted} changes were accepted, the head is {row.head}, the tally {count}")


class Device:
    """An outbox, a mirror, and no patience: whatever goes wrong, it connects again and says it all again."""

    def __init__(self, stage: Stage, number: int, change_count: int = CHANGES) -> None:
        self._stage, self.number, self._change_count = stage, number, change_count
        self.mirror = Mirror()
        self.id = b"device\0\0" + number.to_bytes(8)
        self._outbox: list[list[Any]] = []
        self._sent = 0  # highest n sent on this connection

    @property
    def is_settled(self) -> bool:
        return len(self.mirror.outcomes) == self._change_count

    @property
    def is_done(self) -> bool:
        return self.is_settled and self.mirror.complete == self._stage.head

    async def run(self) -> None:
        await trio.sleep(0.003 * self.number)
        while not self._stage.is_over:
            transport: MemoryTransport | None = None
            try:
                transport = self._stage.connect(self.number)
                await self._converse(Client(transport, self.number))
            except (TransportClosed, Closed, Again):
                pass
            except AssertionError as error:
                self._stage.problems.append(f"device {self.number}: {error}")
            finally:
                if transport is not None:
                    transport.abort()
            await trio.sleep(PAUSE_S)

    async def _converse(self, client: Client) -> None:
        await self._upgrade(client)
        token = sign_token(KEY, "u", [Grant("**", Role.OWNER)], 3600, Clock().now_ms())
        await client.send("hello", **client.hello(token))
        if (await self._heard(client)).name != "welcome":
            raise Again
        self.mirror.connected()
        self._sent = 0
        is_acknowledged = False
        await client.send("subscribe", space=SPACE, **self.mirror.positions())
        while True:
            message = await self._heard(client)
            self.mirror.take(message)
            if message.name in ("error", "goaway"):
                raise Again
            if message.name == "ping":
                await client.send("pong", id=message.body.get("id"))
            assert message.name in ("subscribed", "outcomes", "delta", "ping", "pong"), message
            assert not message.body.get("gap") and not message.body.get("forked"), message
            if self.mirror.mode:
                await self._say(client)
            if self.is_settled and not is_acknowledged and self.mirror.complete:
                is_acknowledged = True
                positions = {"applied": self.mirror.complete, "oldest_base": self.mirror.complete}
                await client.send("ack", space=SPACE, epoch=self.mirror.epoch, settled=self._change_count, **positions)

    async def _upgrade(self, client: Client) -> None:
        await send_all(client.transport, upgrade_request(client.protocol))
        head = b""
        while b"\r\n\r\n" not in head:
            data = b""
            with trio.move_on_after(SILENCE_S):
                data = await client.transport.receive(4096)
            if not data:
                raise Again
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Again
        client.websocket.receive_data(rest)

    async def _heard(self, client: Client) -> Message:
        while True:
            with trio.move_on_after(SILENCE_S):
                return await client.receive()
            if not self.is_done:
                if self._stage.fault.kind.operation not in NETWORK:
                    self._stage.problems.append(f"device {self.number} was left without a word")
                raise Again

    async def _say(self, client: Client) -> None:
        """Push what has no outcome; make the next change when all have one."""
        unsettled = [change for change in self._outbox if change[0] not in self.mirror.outcomes]
        if not unsettled and len(self._outbox) < self._change_count:
            count = min(1 + self.number % 2, self._change_count - len(self._outbox))
            unsettled.extend(self._made() for _ in range(count))
        if unsettled and unsettled[-1][0] > self._sent:
            self._sent = unsettled[-1][0]
            await client.push(*unsettled, epoch=self.mirror.epoch)

    def _made(self) -> list[Any]:
        n = len(self._outbox) + 1
        own = f"own{self.number}"
        operations = [
            ["create", "tally", "all"], ["counter.inc", "tally", "all", "count", 1],
            *([["delete", "notes", own]] if n % 3 == 0 else [["create", "notes", own]]),
            *([] if n % 3 == 0 else [["reg.set", "notes", own, "text", "x" * 150]]),
            ["reg.set", "tally", "all", "last", self.number],
        ]  # fmt: skip
        self._outbox.append([n, n.to_bytes(8), self.mirror.complete, 1, operations])
        return self._outbox[-1]


def run(kind: Kind, at: int, is_lasting: bool, store_type: type[FaultyStore] = FaultyStore) -> Outcome:
    return trio.run(_run, Fault(kind, at, is_lasting), store_type, clock=MockClock(autojump_threshold=0))


async def _run(fault: Fault, store_type: type[FaultyStore]) -> Outcome:
    stage = Stage(fault, store_type)
    devices = [Device(stage, number + 1) for number in range(DEVICES)]
    backend = Backend(stage)
    log = Log(stage.logged)
    logger = logging.getLogger("syncd")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(log)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.serve)
            nursery.start_soon(backend.run)
            for device in devices:
                nursery.start_soon(device.run)
            with trio.move_on_after(HEAL_S):
                await _finished([*devices, backend])
            stage.fault.healed.set()
            reader = Device(stage, DEVICES + 1, change_count=0)  # sees it all for the first time
            nursery.start_soon(reader.run)
            with trio.move_on_after(DEADLINE_S) as deadline:
                await _finished([*devices, reader, backend])
            if deadline.cancelled_caught:
                places = [(device.is_settled, device.mirror.complete) for device in devices]
                stage.problems.append(f"the devices did not come to an end: {places}, the head is {stage.head}")
            else:
                await stage.drain()
                stage.check([*devices, reader], backend)
            nursery.cancel_scope.cancel()
    finally:
        logger.removeHandler(log)
        logger.propagate = propagates
    return Outcome(stage.fault.hits, stage.ends, tuple(stage.problems))


async def _finished(parties: Sequence[Device | Backend]) -> None:
    while not all(party.is_done for party in parties):  # noqa: ASYNC110 - many parts, none of which knows the others
        await trio.sleep(0.05)
