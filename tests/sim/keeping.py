"""Keeping: documents that nobody changes go after some seconds, by changes of the server, under clocks that leap.

The server's collector sweeps all the time, with a schema that keeps a collection of its own for a few seconds. What
becomes of offline edits of what went (`gone`, or revived in the runs where updates win) is the oracle's affair (S17),
as is what then stands (S7): a deletion by the server is a change like any other.

E1 a document is deleted only if nobody has changed it for as long as its schema keeps it, in time of which each look of
the server counts one part at most, whatever its clock says. E2 when all is at rest, each goes. E3 nothing else does.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from syncd.core.schemas import Schema
from syncd.engine.batch import space_row
from syncd.engine.commands import Collected, Command, DeletedOld, Push, Pushed, Result
from syncd.engine.frontier import Retention
from syncd.engine.grants import Grant, Role
from syncd.engine.schemas import Schemas
from syncd.store.tables import MARKS_MAX
from tests.oracle.members import Asker
from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work

if TYPE_CHECKING:
    from random import Random

    from tests.sim.server import SimServer
    from tests.sim.world import World

COLLECTION = "log"
SWEEP_S, SHORT_S = 0.1, 40.0  # in a longer run all goes more slowly: each sweep is a commit in each space
NEVER_MS = 1 << 50


@dataclass(slots=True)
class Steps:
    """The steps in one space: at which head each was taken, and how much time had been counted by then."""

    heads: list[int] = field(default_factory=list)
    counted_ms: list[float] = field(default_factory=list)
    at_ms: int = 0  # by the server's clock, the last one

    def copied(self) -> "Steps":
        return Steps(list(self.heads), list(self.counted_ms), self.at_ms)


class KeepingWork(Work):
    every_s_mean = 0.5

    def __init__(self, world: "World", random: "Random", name: str) -> None:
        super().__init__(world, random, name)
        self._pace = max(1.0, world.plan.safety_s / SHORT_S)
        self._keep_ms = round(self._pace * MARKS_MAX * random.choice((100, 250, 500)))
        self._wins = random.random() < 0.4
        self._steps: dict[str, Steps] = {}

    def tune(self, server: "SimServer") -> None:
        schema = Schema("log", COLLECTION, update_wins=self._wins, keep_ms=self._keep_ms)
        server.schemas = Schemas([*server.schemas.given, (Grant("**", Role.NONE), schema)])
        server.sweep_s = self._pace * SWEEP_S
        if self._wins:
            self.world.auditor.wins |= {COLLECTION}
        if server.retention is None:  # nothing is forgotten, but what is kept no longer
            server.retention = Retention(lapse_ms=NEVER_MS, recent_ms=NEVER_MS, is_collecting=False)

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        space = device.client.space(self.random.choice(self.world.spaces_of(device.user)))
        key = (COLLECTION, self.random.choice("aabcdefgh"))  # one is changed so often that it stays for long
        if space.view(*key) is None:
            operations: list[list[Any]] = [["create", *key], ["reg.set", *key, "reg", self.random.randrange(9)]]
        elif self.random.random() < 0.9:
            operations = [["counter.inc", *key, "n", 1]]
        else:
            operations = [["delete", *key]]
        self.count(operations[0][0])
        self.world.people[device.name].commit(space, operations)

    # -- in the store --------------------------------------------------------------------------------------------

    def committed(self, now_ms: int, command: Command, result: Result) -> None:
        match command, result:
            case _, DeletedOld(space, documents):
                self._stepped(now_ms, space, documents)
            case _, Collected(space):
                with self.world.server.store.read() as tx:
                    row = space_row(tx, space)
                assert row is not None, "what is collected is there"
                self.world.auditor.space(space).oracle.frontier = row.frontier
            case Push(changes=changes), Pushed(outcomes=outcomes):
                told = {entry.n: entry.outcome for entry in outcomes}
                for change in changes:
                    for operation in getattr(change, "operations", ())[:1]:
                        if operation.collection == COLLECTION and told.get(change.n) == "gone":
                            self.count("edit of what is gone")

    def _stepped(self, now_ms: int, space: str, documents: tuple[tuple[str, str], ...]) -> None:
        """E1, E3. The next look at a document after its last change is the earliest from which it can be old."""
        steps, audit = self._steps.setdefault(space, Steps(at_ms=now_ms)), self.world.auditor.space(space)
        passed_ms = min(max(0, now_ms - steps.at_ms), self._keep_ms / MARKS_MAX)
        now_counted_ms = passed_ms + (steps.counted_ms[-1] if steps.counted_ms else 0)
        steps.at_ms = now_ms
        steps.heads.append(audit.oracle.head)
        steps.counted_ms.append(now_counted_ms)
        for key in documents:
            if key[0] != COLLECTION:
                raise Violation("E3", f"{space}: {key} is deleted as too old, and nothing says how long it is kept")
            rev, head = audit.oracle.revs[key], audit.oracle.head
            age_ms = now_counted_ms - steps.counted_ms[bisect_left(steps.heads, rev)]
            if age_ms < self._keep_ms:
                told = f"{space}: {key} at rev {rev} is deleted after {age_ms:.0f} of {self._keep_ms} ms"
                raise Violation("E1", told, "server")
            answer = ("applied", head + 1, None, head + 1)
            self.world.auditor.posted_change(now_ms, space, Asker(None, 3), None, None, [["delete", *key]], answer)
            self.count("deleted as too old")
            if self.world.auditor.restores:
                self.count("deleted as too old, after a restore")

    # -- backups -------------------------------------------------------------------------------------------------

    def remembered(self) -> dict[str, Steps]:
        return {space: steps.copied() for space, steps in self._steps.items()}

    def put_back(self, remembered: dict[str, Steps]) -> None:
        """What came since the backup has not been, and the time since then is one part at most, as every leap."""
        self._steps = {space: steps.copied() for space, steps in remembered.items()}

    # -- at rest -------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """E2."""
        waiting = []
        for name, audit in self.world.auditor.spaces.items():
            left = [key for key, life in audit.lives.items() if key[0] == COLLECTION and life[-1][1]]
            waiting += [f"{name}: {key} grows old" for key in left]
        return waiting


MUTANTS = (
    Mutant(
        "keeping: what lies beyond the oldest mark goes, too",
        "syncd.engine.keeping", "_Step.walked", "target = row.marks[0]", "target = row.marks[-1]",
        seeds=((7, "swarm"),),
    ),
    Mutant(
        "keeping: age counts from when the collection was first looked at, whatever changed since",
        "syncd.engine.keeping", "marked", "marks=[*kept.marks, head]", "marks=[head] * (len(kept.marks) + 1)",
        seeds=((7, "swarm"),),
    ),
    Mutant(
        "keeping: a leap of the clock counts as the time that it shows",
        "syncd.engine.keeping", "marked", "marks=[*kept.marks, head]",
        "marks=[*kept.marks, *[head] * min(MARKS_MAX, passed_ms * MARKS_MAX // keep_ms)]",
        seeds=((7, "swarm"),),
    ),
)  # fmt: skip

KEEPING = Topic(
    "kept for days", KeepingWork, share=0.15, expected=("deleted as too old", "edit of what is gone"), mutants=MUTANTS,
)  # fmt: skip
