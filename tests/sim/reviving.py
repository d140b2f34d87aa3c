"""Updates that win: people who delete what others edit at the same time, in a collection where no delete ends what it
had not seen.

Which delete is without effect, and what is revived until when, is the oracle's affair (S17), as is what then stands
(S7), and that a key stays with the body that holds it (S17, S13).
R1 a document is dead only if the delete that ended it had seen all that was ever written to it.
"""

from typing import TYPE_CHECKING

from syncd.core.schemas import Schema
from syncd.engine.batch import space_row
from syncd.engine.commands import Collected, Command, Result
from syncd.engine.grants import Grant, Role
from syncd.engine.schemas import Schemas
from tests.oracle.oracle import writers
from tests.sim.auditor import SpaceAudit, Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work

if TYPE_CHECKING:
    from random import Random

    from tests.sim.server import SimServer
    from tests.sim.world import World

COLLECTION = "c"


class RevivingWork(Work):
    every_s_mean = 0.7

    def __init__(self, world: "World", random: "Random", name: str) -> None:
        super().__init__(world, random, name)
        self._revived: dict[tuple[str, int], None] = {}

    def tune(self, server: "SimServer") -> None:
        server.schemas = Schemas([(Grant("**", Role.NONE), Schema("wins", COLLECTION, update_wins=True))])
        self.world.auditor.wins = frozenset({COLLECTION})

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        space = device.client.space(self.random.choice(self.world.spaces_of(device.user)))
        key = (COLLECTION, self.random.choice("aaab"))
        if space.view(*key) is None or space.row.resume > space.row.complete:
            return  # the workload makes it; what is staged may be shown early, which is not this topic's
        roll = self.random.random()
        if roll < 0.45:
            operation = ["delete", *key]
        elif roll < 0.55:
            operation = ["unique", *key, "nick", self.random.choice(("ann", "ben"))]
        else:
            operation = ["reg.set", *key, "reg", self.random.randrange(9)]
        self.count(operation[0])
        self.world.people[device.name].commit(space, [operation])

    def committed(self, now_ms: int, command: Command, result: Result) -> None:
        if isinstance(result, Collected):
            with self.world.server.store.read() as tx:
                row = space_row(tx, result.space)
            assert row is not None, "what is collected is there"
            self.world.auditor.space(result.space).oracle.frontier = row.frontier

    def check(self) -> None:
        for name, audit in self.world.auditor.spaces.items():
            self._check(name, audit)

    def _check(self, space: str, audit: SpaceAudit) -> None:
        oracle = audit.oracle
        for key in oracle.facts:
            last = oracle.incarnation(key) if key[0] == COLLECTION else None
            if last is None:
                continue
            for revival in last.revivals:
                if (space, revival.seq) not in self._revived:
                    self._revived[space, revival.seq] = None
                    self.count("revived")
            for name in {fact.name for fact in last.facts} if last.deletes else ():
                lost = [fact.seq for fact in writers(last, name or "") if not last.deletes[0].saw(fact)]
                if lost:
                    raise Violation("R1", f"{space}: {key} is deleted by one who had not seen {lost}", "server")


MUTANTS = (
    Mutant(
        "updates win: a delete ends what it had not seen",
        "syncd.core.documents", "_lost_delete", "if not by.has_seen(seq, slot))", "if not by)",
        seeds=((1, "swarm"),),
    ),
    Mutant(
        "updates win: who has seen the delete revives, too",
        "syncd.core.documents", "_revived", "or any(starmap(by.has_seen, document.deletes))", "",
        seeds=((1, "swarm"),),
    ),
    Mutant(
        "updates win: a body is revived when the frontier has long passed the delete",
        "syncd.engine.batch", "SpaceWork._keeps_body", "and document.rev > self.row.frontier", "",
        seeds=((150, "offline"),),
    ),
    Mutant(
        "updates win: what is revived is not brought whole to those who had deleted it",
        "syncd.core.documents", "_revived", "born=by.seq, ", "",
        seeds=((2, "swarm"),),
    ),
)  # fmt: skip

REVIVING = Topic("reviving", RevivingWork, share=0.25, expected=("delete", "reg.set", "revived"), mutants=MUTANTS)
