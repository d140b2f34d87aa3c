"""Drift: what a device holds is damaged behind its back, is found by its sums, and is repaired.

A value is altered, a document is lost, another is there that never was. In most cases the application has its store
looked through (`verify`); in the others the next delta that touches it does, or a look when all is healed.

D1 a comparison brings no document that the device holds as it is. That each device then holds what it should, and that
nothing else calls itself drifted, is S7.
"""

from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from syncd_client.tables import DocumentRow
from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work
from tests.sim.wiretap import raw

if TYPE_CHECKING:
    from tests.sim.world import World

Key = tuple[str, str]


class DriftWork(Work):
    every_s_mean = 8.0

    def __init__(self, world: "World", random: Random, name: str) -> None:
        super().__init__(world, random, name)
        self._damaged: dict[tuple[str, str], dict[Key, None]] = {}  # by device and space, ever
        self._stood: dict[tuple[str, str], int] = {}  # up to where a device had everything when it began to compare

    async def act(self, device: SimDevice) -> None:
        client = device.client
        assert client is not None
        name = self.random.choice(self.world.spaces_of(device.user))
        space = client.space(name)
        if not space.row.is_subscribed or not space.row.complete:
            return
        device.is_damaged = True
        documents = sorted(space.synced(), key=lambda each: (each.collection, each.id))
        roll = self.random.random()
        with client.store.transaction() as tx:
            if roll < 0.3 or not documents:
                ghost = DocumentRow("c", f"ghost{self.random.randrange(9)}", 1, {"f": ("reg", 1)})
                tx.put_document(name, ghost)
                key = ghost.key
                self.count("ghost")
            else:
                found = self.random.choice(documents)
                key = (found.collection, found.id)
                if roll < 0.6:
                    tx.drop_document(name, key)
                    self.count("lost")
                else:
                    row = tx.document(name, key)
                    assert row is not None
                    fields = {**row.fields, "altered": ("reg", self.random.randrange(99))}
                    tx.put_document(name, DocumentRow(*key, row.rev, fields))
                    self.count("altered")
        self._damaged.setdefault((device.name, name), {})[key] = None
        self.world.trace.record(device.name, f"is damaged: {name} {key}")
        if self.random.random() < 0.7:
            space.verify()

    def sent(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name == "sums" and body.get("buckets") is not None:
            owner = next((each for each in self.world.devices if each.name == node), None)
            if owner is not None and owner.client is not None:
                self._stood[node, body["space"]] = owner.client.space(body["space"]).row.complete

    def received(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name != "repair" or (node, body["space"]) not in self._stood:
            return
        if raw(body["epoch"]) in self.world.auditor.shared:
            return  # the last words of a server whose store was put back meanwhile
        self.count("repair")
        place = (node, body["space"])
        stood, revs = self._stood[place], self.world.auditor.space(body["space"]).oracle.revs
        for collection, document, *_ in body["docs"]:
            key = (collection, document)
            if revs.get(key, 0) <= stood and key not in self._damaged.get(place, {}):
                raise Violation(
                    "S12", f"D1: {node}, at {stood} of {body['space']}, is brought {key}, which it has", node
                )

    def unfinished(self) -> list[str]:
        left = []
        for device in self.world.devices:
            if not device.is_damaged or device.client is None:
                continue
            for row in device.client.spaces():
                is_shown = row.is_subscribed and self.world.may_read(device, row.name)
                if is_shown and not device.client.space(row.name).verify():
                    left.append(f"{device.name} is looked through in {row.name}")
                elif is_shown and device.client.space(row.name).row.doubts:
                    left.append(f"{device.name} is being repaired in {row.name}")
        return left


MUTANTS = (
    Mutant(
        "drift: key hashes of the vanished are not told",
        "syncd.engine.repair", "repaired", "end = _page(row, space, docs, list(held))",
        "end = _page(row, space, docs, [])",
        seeds=((8, "swarm"),),
    ),
    Mutant(
        "drift: a bucket is skipped",
        "syncd.engine.repair", "compared",
        "if total != int.from_bytes(", "if number % 3 and total != int.from_bytes(",
        seeds=((15, "swarm"),),
    ),
)  # fmt: skip

DRIFT = Topic(
    "drift",
    DriftWork,
    share=0.2,
    expected=("ghost", "lost", "altered", "repair"),
    mutants=MUTANTS,
)
