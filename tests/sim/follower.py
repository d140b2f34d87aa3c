"""A backend that follows a space as a named consumer, and crashes between delivery, application and acknowledgement.

Owns a copy of the space's documents, which is durable whenever a delivery was applied. It applies what it gets, also
twice, and acknowledges; a crash loses the acknowledgement, or the delivery with it. F1 nothing is left out: each
delivery begins no later than where the copy stands. F2 nothing that was not acknowledged counts as read. F3 at rest the
copy is the space.
"""

import json
from random import Random
from typing import TYPE_CHECKING, Any

from syncd.core.ids import parse_place
from syncd.engine.grants import Grant, Role
from syncd.net.auth import sign_token
from syncd_client.codec import json_value, value_from_json
from tests.oracle.histories import unmerged
from tests.oracle.replica import grown
from tests.sim.auditor import Violation
from tests.sim.clocks import true_ms
from tests.sim.determinism import sleep
from tests.sim.server import KEY
from tests.sim.sockets import ask_http

if TYPE_CHECKING:
    from tests.sim.world import World

FOLLOWER = "follower"
ASK_S = 20.0
WAIT_S = 5  # of a long poll
ROUNDS_MAX = 400  # to catch up with a space at rest
PASSING = (401, 429, 503)  # its token is too young or too old for a wrong clock; too fast; not now


class Follower:
    def __init__(self, world: "World", random: Random, space: str) -> None:
        self._world, self._random, self.space = world, random, space
        self.documents: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        self._complete = 0  # the copy has everything up to here
        self._resume = 0  # and, of the pages since, those up to here
        self._acked = 0
        self._owed: str | None = None  # a place whose ack was refused: too fast, say; asking on would take its turn
        self.crashes = 0

    async def run(self) -> None:
        while True:
            await sleep(self._random.expovariate(1.0))
            await self.step(WAIT_S)

    async def catch_up(self) -> None:
        """To the head of a space in which nothing happens any more."""
        head = self._world.auditor.space(self.space).oracle.head
        for _ in range(ROUNDS_MAX):
            if self._complete == self._acked == head:
                break
            await sleep(0 if await self.step(0) else 2)
        else:
            raise Violation("F3", f"the follower of {self.space} stands at {self._complete} of {head}", FOLLOWER)
        wanted = {
            key: (rev, {name: _joined([kind, json_value(value)]) for name, (kind, value) in fields.items()})
            for key, (rev, fields) in self._world.auditor.space(self.space).oracle.state().items()
        }
        held = {
            key: (rev, {name: _joined(shown) for name, shown in fields.items()})
            for key, (rev, fields) in self.documents.items()
        }
        if json.dumps(_listed(held)) != json.dumps(_listed(wanted)):
            keys = [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]
            shown = [f"{key}: {held.get(key)} instead of {wanted.get(key)}" for key in keys[:2]]
            raise Violation("F3", f"the follower of {self.space} has {shown}", FOLLOWER, "server")

    async def step(self, wait_s: int) -> bool:
        """One delivery, and what becomes of it. False: there was none."""
        if self._owed is not None and not await self._acknowledge(self._owed):
            return False
        told = await self._ask("GET", f"/changes?limit={self._random.choice((1, 3, 100))}&wait={wait_s}", None)
        if told is None:
            return False
        roll = self._random.random() if self._world.is_safe_phase else 1.0
        if roll < 0.15:
            self.crashes += 1  # what was delivered is forgotten
            return True
        self._applied(told)
        if roll < 0.3:
            self.crashes += 1  # the copy has it, and the server does not know
            return True
        await self._acknowledge(told["to"])
        return told["after"] != told["to"]

    async def _acknowledge(self, place: str) -> bool:
        is_taken = await self._ask("POST", "/ack", {"position": place}) is not None
        self._owed = None if is_taken else place
        if is_taken:
            self._acked = max(self._acked, parse_place(place).complete)
        return is_taken

    def _applied(self, told: dict[str, Any]) -> None:
        after, to = parse_place(told["after"]), parse_place(told["to"])
        stands = f"the follower of {self.space}, at {self._complete}, {self._resume}"
        if after.complete > self._complete or after.resume > max(self._resume, self._complete):
            self._world.fail(
                Violation("F1", f"{stands}, is given {told['after']} to {told['to']}: a gap", FOLLOWER, "server")
            )
        for entry in told["documents"]:
            key = (entry["collection"], entry["id"])
            if entry["state"] == "deleted":
                self.documents.pop(key, None)
                continue
            fields = {} if entry["state"] == "reset" else dict(self.documents.get(key, (0, {}))[1])
            for name in entry["unset"]:
                fields.pop(name, None)
            for name, value in entry["fields"].items():
                shown = [entry["types"][name], value]
                fields[name] = grown(fields.get(name), shown) if shown[0] == "text" else shown
            self.documents[key] = (entry["rev"], fields)
        self._complete = max(self._complete, to.complete)
        self._resume = max(self._resume, to.resume)

    async def _ask(self, method: str, rest: str, body: dict[str, Any] | None) -> Any:
        world = self._world
        token = sign_token(KEY, "follower", [Grant("s/**", Role.READER)], 3600, true_ms())
        target = f"/v1/spaces/{self.space.replace('/', '%2F')}/consumers/copy{rest}"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = b"" if body is None else json.dumps(body).encode()
        told = await ask_http(world.network, FOLLOWER, method, target, headers, data, ASK_S)
        world.trace.record(FOLLOWER, f"{method} {rest} -> {told and told[0]}")
        if told is not None and told[0] in (200, 201):
            return json.loads(told[1])
        if told is not None and told[0] == 404 and not rest.startswith("/ack"):
            await self._ask("PUT", "", {"start": "0"})
        elif told is not None and told[0] not in PASSING:
            world.fail(Violation("S15", f"{method} {target} was answered {told}", FOLLOWER))
        return None


def _listed(documents: dict[tuple[str, str], tuple[int, dict[str, Any]]]) -> list[Any]:
    return [[key, rev, sorted(fields.items())] for key, (rev, fields) in sorted(documents.items())]


def _joined(shown: list[Any]) -> list[Any]:
    """A field as JSON shows it, with the updates of a text as one."""
    return ["text", json_value(unmerged(["text", value_from_json(shown[1])])[1])] if shown[0] == "text" else shown
