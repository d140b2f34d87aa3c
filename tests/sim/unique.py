"""Unique keys: people who take few keys for few documents, and delete them.

That no two documents hold one key is the oracle's affair (S17) and fsck's (S13). K1 who is refused a key is told of its
holder, which is another document.
"""

from typing import Any

from syncd.engine.commands import Command, Push, Pushed, Result
from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work

NAMES, KEYS = ("nick", "reg"), ("ann", "ben", "cat")


class UniqueWork(Work):
    every_s_mean = 1.0

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        random = self.random
        space = device.client.space(random.choice(self.world.spaces_of(device.user)))
        if space.row.resume > space.row.complete:
            return  # what is staged may be shown early, which is not this topic's
        key = ("c", random.choice("aabbcd"))
        operations: list[list[Any]] = [] if space.view(*key) is not None else [["create", *key]]
        if random.random() < 0.15:
            operations.append(["delete", *key])
        operations.append(["unique", "c", random.choice("aabbcd"), random.choice(NAMES), random.choice(KEYS)])
        self.world.people[device.name].commit(space, operations)

    def committed(self, now_ms: int, command: Command, result: Result) -> None:
        if not isinstance(command, Push) or not isinstance(result, Pushed):
            return
        changes = {change.n: change for change in command.changes}
        for entry in result.outcomes:
            operations = getattr(changes.get(entry.n), "operations", ())
            if not any(operation.verb == "unique" for operation in operations):
                continue
            self.count("taken" if entry.seq is not None else entry.outcome)
            if entry.outcome != "precondition" or entry.detail is None:
                continue
            refused = operations[entry.detail["op"]]
            if refused.verb == "unique" and entry.detail["holder"] == [refused.collection, refused.id]:
                raise Violation("K1", f"{command.space}: {refused} is refused for its own key", "server")


MUTANTS = (
    Mutant(
        "unique: a delete frees nothing",
        "syncd.engine.reserving", "taken", "for key in had - has:", "for key in (had - has) if has else ():",
        seeds=((3, "swarm"),),
    ),
    Mutant(
        "unique: what an earlier change of the batch took is forgotten",
        "syncd.engine.reserving", "Reservations.keep", "self._held.update(held)",
        "self._held |= {key: name for key, name in held.items() if name is None}",
        seeds=((3, "swarm"),),
    ),
    Mutant(
        "unique: a key that lost is taken all the same",
        "syncd.core.documents", "_reserved", "(key,), by)", "(key,), by._replace(stamp=by.time))",
        seeds=((3, "swarm"),),
    ),
    Mutant(
        "unique: whoever comes last has the key",
        "syncd.engine.reserving", "taken", "if holder is not None and holder != name:", "if False:",
        seeds=((3, "swarm"),),
    ),
)  # fmt: skip

UNIQUE = Topic("unique", UniqueWork, share=0.25, expected=("taken", "precondition"), mutants=MUTANTS)
