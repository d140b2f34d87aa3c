"""Texts: people who append updates by turns and at once, while the server folds what is old.

T1 an update is in a text once, and those of one author are in the order in which it made them. That none is lost, and
that all replicas have the same, is the oracle's affair (S7), which folds nothing.
"""

from typing import TYPE_CHECKING

from syncd_client import Space
from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work

if TYPE_CHECKING:
    from random import Random

    from tests.sim.world import World

FIELD = "text"
UPDATE_BYTES = 8  # the author, and how many it made: so merged ones, which are joined here, can be told apart


class TextWork(Work):
    every_s_mean = 0.3

    def __init__(self, world: "World", random: "Random", name: str) -> None:
        super().__init__(world, random, name)
        self._made: dict[str, int] = {}  # by device

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        space = device.client.space(self.random.choice(self.world.spaces_of(device.user)))
        key = ("c", self.random.choice("aaab"))
        document = space.view(*key)
        if document is None or document.types.get(FIELD, "text") != "text" or space.row.resume > space.row.complete:
            return
        operations = [["text.update", *key, FIELD, self._update(device)] for _ in range(self.random.choice((1, 1, 3)))]
        self.count("update")
        self.world.people[device.name].commit(space, operations)

    def _update(self, device: SimDevice) -> bytes:
        number = self._made[device.name] = self._made.get(device.name, 0) + 1
        return self.world.devices.index(device).to_bytes(2) + number.to_bytes(UPDATE_BYTES - 2)

    def check(self) -> None:
        for device in self.world.devices:
            for row in device.client.spaces() if device.client is not None else ():
                assert device.client is not None
                self._check(device.name, device.client.space(row.name))

    def _check(self, who: str, space: Space) -> None:
        for document in space.synced():
            if document.types.get(FIELD) != "text":
                continue
            updates = document[FIELD][1]
            if any(len(update) > UPDATE_BYTES for _, update in updates):
                self.count("a folded text is at rest")
            joined = b"".join(update for _, update in updates)
            last: dict[bytes, bytes] = {}
            for at in range(0, len(joined), UPDATE_BYTES):
                author, number = joined[at : at + 2], joined[at + 2 : at + UPDATE_BYTES]
                # A copy of a store pushes what it holds as well.
                if number <= last.get(author, b"") and not self.world.devices[int.from_bytes(author)].is_cloned:
                    key = f"{document.collection}/{document.id}"
                    raise Violation("T1", f"{space.name}: {who} has an update of {key} twice, or out of order", who)
                last[author] = number


MUTANTS = (
    Mutant(
        "the text: who stands before a fold is told only what follows",
        "syncd.core.texts",
        "since",
        "if seq < updates[0][0]:",
        "if seq < 0:",
        seeds=((1, "swarm"),),
    ),
)

TEXTS = Topic("texts", TextWork, share=0.3, expected=("update", "a folded text is at rest"), mutants=MUTANTS)
