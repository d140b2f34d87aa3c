"""What one capability adds to a run: work of its own, rules of its own, planted bugs of its own.

Owns the hooks that `world.py` calls, each of which does nothing here. Everything of a capability stands in one file,
`tests/sim/<topic>.py`, and is named once in `topics.py`. Must not draw from any stream but the one it is given: a run
without the topic stays what it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from syncd.engine.commands import Command, Decision, Result
from tests.sim.determinism import sleep
from tests.sim.plan import Plan

ACTS_MIN, ACTS_MAX = 40, 80  # of a topic in a long run, about
HEARD_MAX = 400  # acts times devices
BURST_ACTS = 20  # as dense as in a short run: what has its own time, as what is kept for seconds, is met within it

if TYPE_CHECKING:
    from tests.sim.device import SimDevice
    from tests.sim.planted import Mutant
    from tests.sim.server import SimServer
    from tests.sim.world import World


class Work:
    """One topic in one run. Override what is needed; `self.count` what happened, so that a long run can tell that it
    did. Raise `auditor.Violation` anywhere in a hook to fail the run."""

    every_s_mean = 5.0  # between two calls of `act`, in a burst
    tolerated_errors: tuple[str, ...] = ()  # that a well-behaved device may be told in a run with this topic
    tolerated_notices: tuple[str, ...] = ()  # that its client may give

    def __init__(self, world: "World", random: Random, name: str) -> None:
        self.world, self.random, self._name = world, random, name

    def count(self, what: str) -> None:
        """It happened. `what` may stand in the topic's `expected`."""
        counts, key = self.world.topic_counts, f"{self._name}: {what}"
        counts[key] = counts.get(key, 0) + 1

    def tune(self, server: "SimServer") -> None:
        """Before the first life of the server: how it is set up."""

    async def prepare(self) -> None:
        """Before the devices start; `world.server` is up, and `world.server.committer` takes commands."""

    async def run(self) -> None:
        """A task of the phase in which things go wrong; cancelled at its end. By default: `act` with a device that is
        on, now and then; in a long run by bursts, so that it does not cost more the longer it lasts."""
        plan = self.world.plan
        acts = max(ACTS_MIN, min(ACTS_MAX, HEARD_MAX // plan.devices))
        rest_s_mean = BURST_ACTS * (plan.safety_s / acts - self.every_s_mean)
        while True:
            if rest_s_mean > 0:
                await sleep(self.random.expovariate(1 / rest_s_mean))
            for _ in range(BURST_ACTS):
                await sleep(self.random.expovariate(1 / self.every_s_mean))
                device = self.random.choice(self.world.devices)
                if device.client is not None:
                    await self.act(device)

    async def act(self, device: "SimDevice") -> None:
        """Someone uses this device, whose `client` is there. Changes go through `world.people[device.name].commit`, so
        that the auditor knows them."""

    def heal(self) -> None:
        """The faults end: put back what was altered, as `world.roles` or a clock."""

    def sent(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        """A device says this; before the server has it."""

    def received(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        """A device hears this; before the device has it."""

    def committed(self, now_ms: int, command: Command, result: Result) -> None:
        """The server made this durable, after the auditor has judged it, and told nobody yet."""

    def delivered(self, now_ms: int, user: str, seq: int, document: str, fields: Mapping[str, Any]) -> None:
        """The server put this into an inbox, as the next seq after the oracle's head of the user's space."""

    def decided(self, now_ms: int, commands: Sequence[Command], decision: Decision) -> None:
        """All of one transaction was told by `committed` and `delivered`."""

    def remembered(self) -> Any:
        """A copy of what this topic knows of the server's store, for a backup that is made now."""

    def put_back(self, remembered: Any) -> None:
        """The store is the one of a backup; `remembered` is what was known of it then, and may be needed once more."""

    def unfinished(self) -> list[str]:
        """What has not come to rest yet; asked once a second when all is healed."""
        return []

    def check(self) -> None:
        """Everything is at rest: before, and again after, the restart of everything."""


@dataclass(frozen=True, slots=True)
class Topic:
    """`share`: of the runs of `profiles` that have it. `expected`: what must have been counted in a long run of many
    seeds. `mutants`: planted bugs that it alone brings to light, each with a seed that does. `never_with`: it
    gives way to these. `only_with`: and takes part where these do. `tamed`: what it takes out of the plan of a run."""

    name: str
    make: Callable[["World", Random, str], Work]
    share: float = 0.3
    profiles: tuple[str, ...] = ("swarm", "offline", "storm")
    expected: tuple[str, ...] = ()
    mutants: tuple["Mutant", ...] = ()
    never_with: tuple["Topic", ...] = ()
    only_with: tuple["Topic", ...] = ()
    tamed: Callable[[Plan], Plan] = lambda plan: plan

    def is_in(self, seed: int, profile: str) -> bool:
        if profile not in self.profiles or Random(f"{profile}/{seed}/{self.name}/share").random() >= self.share:
            return False
        if not all(other.is_in(seed, profile) for other in self.only_with):
            return False
        return not any(other.is_in(seed, profile) for other in self.never_with)

    def stream(self, seed: int, profile: str) -> Random:
        return Random(f"{profile}/{seed}/{self.name}")
