"""What people and backends do: edits of every kind, spells offline, joining and leaving, posts and events with retries.

Owns the choice of each action, from generators of its own, so that another fault elsewhere does not change it.
"""

import json
from random import Random
from typing import TYPE_CHECKING, Any

from syncd.engine.grants import Grant, Role
from syncd.net.auth import sign_token
from syncd_client import Device
from syncd_client.codec import json_value
from syncd_client.space import Change, Space
from tests.oracle.histories import random_wire
from tests.oracle.oracle import packed
from tests.sim.auditor import Violation
from tests.sim.clocks import true_ms
from tests.sim.determinism import sleep
from tests.sim.device import SimDevice
from tests.sim.server import KEY
from tests.sim.sockets import ask_http

if TYPE_CHECKING:
    from tests.sim.world import World

BACKEND = "backend"
DOCUMENTS = tuple("abcdefghijkl")
ASK_S = 20.0  # how long a backend waits for an answer
RETRIES_MAX = 12


def random_operation(random: Random, delete_share: float) -> list[Any]:
    """One operation on a few documents; the first are the most contended."""
    while True:
        operation = list(random_wire(random))
        if operation[0] == "counter.inc" and not operation[4]:
            continue  # the client refuses it before it is a change
        if random.random() < delete_share:
            operation = ["delete", "", ""]
        operation[1:3] = ["c", random.choice(DOCUMENTS[: random.choice((1, 4, 12))])]
        return operation


def random_change(random: Random, delete_share: float) -> list[list[Any]]:
    operations = [
        random_operation(random, delete_share) for _ in range(1 if random.random() < 0.7 else random.randint(2, 4))
    ]
    if random.random() < 0.5:
        # Clients create what they edit: without this most changes would be refused.
        operations.insert(0, ["create", *operations[0][1:3]])
    return operations


class Person:
    """Uses one device."""

    def __init__(self, world: "World", device: SimDevice) -> None:
        self._world, self._device = world, device
        self._random = Random(device.random.random())
        self._read_at: dict[str, Any] = {}
        self._written: tuple[str, bytes | None, bytes, tuple[str, str], str, Any] | None = None  # the last plain write

    async def run(self) -> None:
        random, plan = self._random, self._world.plan
        await sleep(random.random() * plan.edit_every_s)
        while True:
            await sleep(random.expovariate(1 / plan.edit_every_s))
            client = self._device.client
            if client is None:
                continue
            roll = random.random()
            if roll < plan.offline_share:
                self._world.trace.record(self._device.name, "goes offline")
                await client.go_offline()
                await sleep(random.expovariate(1 / (4 * plan.edit_every_s)))
                # Whatever this device is now, it was told to be online.
                if self._device.client is not None:
                    self._device.client.go_online()
            elif roll < plan.offline_share + plan.join_share:
                self._join_or_leave()
            elif roll < plan.offline_share + plan.join_share + 0.03:
                client.background(60_000) if random.random() < 0.5 else client.foreground()
            else:
                for _ in range(1 if random.random() < 0.9 else random.randint(2, 12)):
                    self.edit()

    def _join_or_leave(self) -> None:
        random, client = self._random, self._device.client
        assert client is not None
        space = client.space(random.choice(self._world.spaces_of(self._device.user)))
        if not space.row.is_subscribed:
            self._world.trace.record(self._device.name, f"subscribes {space.name}")
            space.subscribe()
        else:
            forget = random.random() < 0.6
            self._world.trace.record(self._device.name, f"unsubscribes {space.name} forget={forget}")
            space.unsubscribe(forget=forget)
            self._world.auditor.forgotten[self._device.name, space.name] += forget
            self._written = None
            if random.random() < 0.5:
                space.subscribe()

    def edit(self) -> None:
        random, client = self._random, self._device.client
        assert client is not None
        space = client.space(random.choice(self._world.spaces_of(self._device.user)))
        operations = random_change(random, self._world.plan.delete_share)
        read_at = None
        if random.random() < 0.1:
            read_at = self._read_at.get(space.name)
        staged = _early_shown(client, space.name)
        if staged and random.random() < 0.6:
            shown = random.choice(sorted(staged))
            operations = [item for item in operations if item[0] != "create"] or [["reg.set", *shown, "reg", 1]]
            for operation in operations:
                operation[1:3] = shown
        for operation in operations:
            # A page set that is not complete yet may be shown; who edits what it shows says which rev that was.
            if tuple(operation[1:3]) in staged and random.random() < 0.7:
                operation.append({"seen": staged[operation[1], operation[2]]})
                self._world.count_fault("early display")
        target = operations[0][1:3]
        before = space.view(*target)
        if before is not None and random.random() < 0.3:
            self._read_at[space.name] = before.read_at
        change = self.commit(space, operations, read_at)
        if len(operations) == 1 and operations[0][0] == "reg.set" and before is not None and not staged:
            field, value = operations[0][3:5]
            if before.types.get(field, "reg") == "reg":
                self._written = (space.name, space.row.epoch, change.nonce, (target[0], target[1]), field, value)
                self.look()

    def commit(self, space: Space, operations: list[list[Any]], read_at: Any = None) -> Change:
        """A change of this device, of which the auditor knows."""
        complete, seen = space.row.complete, [(space.row.epoch, space.row.complete)]
        if read_at is not None:
            seen.append((read_at.epoch, read_at.seq))
        change = space.commit(operations, read_at=read_at)
        self._world.auditor.committed(
            self._device.id, space.name, change.n, change.nonce, seen, operations, self._device.name
        )
        self._world.trace.record(
            self._device.name, f"commits {space.name} n={change.n} at={complete} {[item[0] for item in operations]}"
        )
        self._written = None
        return change

    def look(self) -> None:
        """Read your writes: from the commit until the synced state has it, the view shows the last plain write, unless
        it was refused."""
        client, written = self._device.client, self._written
        if client is None or written is None:
            return
        name, epoch, nonce, target, field, value = written
        space, told = client.space(name), client.store.outcome_of(name, nonce)
        row = space.row
        if (
            row.revoked is not None
            # What was accepted before a restore is replayed again, in front of it.
            or row.epoch not in (epoch, None)
            or not row.is_subscribed
            or (told is not None and (told.seq is None or told.seq <= row.complete))
        ):
            self._written = None
            return
        shown = space.view(*target)
        # A delete by someone else may have arrived, or another type: then replay shows nothing of it, and rightly.
        synced = client.store.document(name, target)
        if synced is None or synced.fields.get(field, ("reg", None))[0] != "reg":
            return
        if shown is None or packed(shown.fields.get(field)) != packed(value):
            violation = Violation(
                "S9", f"{self._device.name} no longer shows its own {nonce.hex()} of {name}", self._device.name
            )
            self._world.fail(violation)


def _early_shown(client: Device, space: str) -> dict[tuple[str, str], int]:
    """The documents in pages that are staged, and the rev of each."""
    return {(document.collection, document.id): document.rev for page in client.store.pages(space) for document in page}


class Backend:
    """Posts changes and events over HTTP, and asks again until it has an answer."""

    def __init__(self, world: "World", random: Random, secret: str) -> None:
        self._world, self._random, self._secret = world, random, secret
        self._positions: dict[str, str] = {}
        self._count = 0

    async def run(self) -> None:
        while True:
            await sleep(self._random.expovariate(1 / self._world.plan.post_every_s))
            self._count += 1
            await (self._post() if self._random.random() < 0.6 else self._send_events())

    async def _post(self) -> None:
        random = self._random
        space = random.choice(self._world.shared_spaces)
        body: dict[str, Any] = {"operations": [json_value(item) for item in random_change(random, 0.05)]}
        if random.random() < 0.4 and space in self._positions:
            body["base"] = self._positions[space]
        token = sign_token(KEY, BACKEND, [Grant("s/**", Role.WRITER)], 3600, true_ms())
        answer = await self._ask(
            f"/v1/spaces/{space.replace('/', '%2F')}/changes",
            {"Authorization": f"Bearer {token}", "Idempotency-Key": f"post-{self._count}"},
            "application/json",
            body,
        )
        if answer is not None:
            self._positions[space] = answer["position"]

    async def _send_events(self) -> None:
        random = self._random
        events = []
        for index in range(random.randint(1, 3)):
            user = random.choice(self._world.users)
            notification = {"title": "t", "body": "b", "category": "c", "data": {"n": self._count}}
            events.append({
                "specversion": "1.0", "id": f"{self._count}-{index}", "source": "/sim", "type": "x", "subject": user,
                "data": {"notification": notification} if random.random() < 0.8 else None,
            })  # fmt: skip
        if random.random() < 0.2:
            events.append(events[0])
        await self._ask(
            "/v1/events", {"Authorization": f"Bearer {self._secret}"}, "application/cloudevents-batch+json", events
        )

    async def _ask(self, target: str, headers: dict[str, str], media_type: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        for _ in range(RETRIES_MAX):
            told = await ask_http(
                self._world.network, BACKEND, "POST", target, headers | {"Content-Type": media_type}, data, ASK_S
            )
            self._world.trace.record(BACKEND, f"POST {target} -> {told and told[0]}")
            if told is not None and told[0] < 300:
                return json.loads(told[1])
            if told is not None and told[0] == 410 and self._world.auditor.shared:
                self._positions.clear()  # they are of an epoch that a restore ended
                return None
            if told is not None and told[0] not in (401, 429, 503):
                self._world.fail(Violation("S15", f"POST {target} was answered {told}", BACKEND))
                return None
            await sleep(self._random.expovariate(1 / 3.0))
        return None
