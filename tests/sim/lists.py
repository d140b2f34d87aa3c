"""Lists: people who insert, move and remove elements by what they see, and what must then stand where.

L1 an element stands between those between which its author put it, on all devices, as long as none of them is moved; no
element is anywhere twice. What the list holds at all, and the rest, is the oracle's affair.
"""

from random import Random
from typing import TYPE_CHECKING, Any

from syncd_client import InvalidInput, Space
from syncd_client.positions import element_of, items_of, neighbours, positions_of_run
from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work

if TYPE_CHECKING:
    from tests.sim.world import World

FIELD = "list"


class ListWork(Work):
    every_s_mean = 0.4

    def __init__(self, world: "World", random: Random, name: str) -> None:
        super().__init__(world, random, name)
        # (space, document, element) -> the elements left and right of it where it was put
        self._between: dict[tuple[str, tuple[str, str], bytes], tuple[bytes | None, bytes | None]] = {}
        self._moved: set[bytes] = set()

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        space = device.client.space(self.random.choice(self.world.spaces_of(device.user)))
        # Half of the time the same document, so that people meet.
        key = ("c", self.random.choice("aaabc"))
        if space.view(*key) is None or space.row.resume > space.row.complete:
            return  # another makes it; what is staged may be shown early, which is not this topic's
        operations = self._edit(space, key)
        self.count(operations[0][0].partition(".")[2])
        self.world.people[device.name].commit(space, operations)

    def _edit(self, space: Space, key: tuple[str, str]) -> list[list[Any]]:
        random, document = self.random, space.view(*key)
        is_list = document is not None and document.types.get(FIELD) == "list"
        items = items_of(document[FIELD]) if document is not None and is_list else []
        roll = random.random()
        if not items or roll < 0.35:
            # Mostly at the same places: the beginning, the end, behind the first.
            at = random.choice((0, min(1, len(items)), len(items), random.randint(0, len(items))))
            after = items[at - 1].element if at else None
            names = [element_of(random.randbytes(8)) for _ in range(random.choice((1, 1, 3)))]
            try:
                positions = positions_of_run(*neighbours(items, after), names)
            except InvalidInput:
                return [["list.remove", *key, FIELD, random.choice(items).element]]
            right = items[at].element if at < len(items) else None
            for left, name in zip((after, *names), names, strict=False):
                self._between[space.name, key, name] = (left, right)
            return [["list.insert", *key, FIELD, position, random.randrange(9)] for position in positions]
        chosen = random.choice(items)
        if roll < 0.7:
            others = [item for item in items if item is not chosen]
            after = random.choice(others).element if others and random.random() < 0.7 else None
            self._moved.add(chosen.element)
            position = positions_of_run(*neighbours(others, after), [chosen.element])[0]
            return [["list.move", *key, FIELD, position]]
        return [["list.remove", *key, FIELD, chosen.element]]

    def check(self) -> None:
        for device in self.world.devices:
            for row in device.client.spaces() if device.client is not None else ():
                for document in device.client.space(row.name).synced() if device.client is not None else ():
                    if document.types.get(FIELD) == "list":
                        self._check(device.name, row.name, (document.collection, document.id), document[FIELD])

    def _check(self, who: str, space: str, key: tuple[str, str], value: Any) -> None:
        names = [item.element for item in items_of(value)]
        if len(set(names)) != len(names):
            raise Violation("L1", f"{space}: {who} shows an element of {key} twice", who)
        places = {name: place for place, name in enumerate(names)}
        for name, place in places.items():
            left, right = self._between.get((space, key, name), (None, None))
            if {name, left, right} & self._moved:
                continue
            if not places.get(left or b"", -1) < place < places.get(right or b"", len(names)):
                raise Violation("L1", f"{space}: {who} shows {name.hex()} of {key} where nobody put it", who)
            self.count("stands where it was put")


MUTANTS = (
    Mutant(
        "the list: every move wins, however old",
        "syncd.core.fields",
        "_list",
        "_written(place, True, args[0], by)",
        "_written(None, True, args[0], by)",
        seeds=((1, "swarm"),),
    ),
    Mutant(
        "the list: a move brings a removed element back",
        "syncd.core.fields",
        "_list",
        "old = items.get(name)",
        'old = items.get(name) or ((args[0], None, 0, 0, 0) if action == "move" else None)',
        seeds=((16, "swarm"),),
    ),
    Mutant(
        "the list: equal indexes stand as they came",
        "syncd.core.fields",
        "_position",
        "return item[0]",
        "return item[0][:-ELEMENT_BYTES]",
        seeds=((1, "swarm"),),
    ),
    Mutant(
        "the list: the client leaves no room between neighbours",
        "syncd_client.positions",
        "index_between",
        "return left[: differing + 1] + _above(left[differing + 1 :], 0)",
        "return left[: differing + 1]",
        seeds=((12, "swarm"),),
    ),
    Mutant(
        "the list: the client shows a moved element at both places",
        "syncd_client.replay",
        "_placed",
        "if _is_named(item, position) else item for item in items)",
        "for item in items if _is_named(item, position)), key=_position) + sorted((item for item in items)",
        seeds=((12, "swarm"),),
    ),
)

LISTS = Topic(
    "lists", ListWork, share=0.3, expected=("insert", "move", "remove", "stands where it was put"), mutants=MUTANTS
)
