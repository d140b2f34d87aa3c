"""Stocks: people who lease units, sell them while they are offline, and give them back; the real client, in its store.

S16 in every commit reserve + leased + taken = total, and nothing is negative. K1 a take that its device was certain of
is applied, whatever happened to the network, the server and the device; but for one whose disk was copied, or who may
not write any more. What a stock holds unit by unit, and each outcome, is the oracle's affair. Leases do not end by time
here: `tests/oversell` and `tests/engine/test_leases.py` have that.
"""

from random import Random
from typing import TYPE_CHECKING, Any

from syncd.core.leases import Lease, book_of
from syncd.engine.commands import Command, Result
from syncd.store import keys
from syncd.store.tables import DOCUMENTS, SPACES
from syncd_client import NotCovered, Space, leases
from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work

if TYPE_CHECKING:
    from tests.sim.world import World

KEY, FIELD = ("stock", "chair"), "left"


class LeaseWork(Work):
    every_s_mean = 0.5
    ttls_ms: tuple[int, ...] = (5_000, 30_000, 600_000)
    is_deleting = True

    def __init__(self, world: "World", random: Random, name: str) -> None:
        super().__init__(world, random, name)
        self._seen: dict[str, list[Any]] = {}  # certificates by space, of anyone
        self._certain: list[tuple[SimDevice, bytes, str, bytes]] = []  # device, its id, space, nonce

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        space = device.client.space(self.place(device))
        if next(device.client.store.pages(space.name), None) is not None:
            return
        commit = self.world.people[device.name].commit
        document = space.view(*KEY)
        if document is None:
            commit(space, [["create", *KEY], ["bounded.restock", *KEY, FIELD, self.random.randint(3, 9)]])
        elif (certain := self._certain_take(space)) is not None:
            is_alone = not device.is_cloned and device.client.forked is None
            change = commit(space, certain)
            self.count("certain take")
            if is_alone:
                self._certain.append((device, device.client.id, space.name, change.nonce))
        else:
            operation = self._operation(space)
            self.count(operation[0])
            commit(space, [operation])

    def place(self, device: SimDevice) -> str:
        """The space in which somebody sells."""
        return self.random.choice(self.world.spaces_of(device.user))

    def _certain_take(self, space: Space) -> list[list[Any]] | None:
        if self.random.random() < 0.4:
            return None
        with space._store.reading() as tx:
            try:
                taken = leases.takes(tx, space.name, KEY, FIELD, self.random.choice((1, 1, 2)), space._now())
            except NotCovered:
                return None
        return [item.wire() for item in taken]

    def _operation(self, space: Space) -> list[Any]:
        random, roll = self.random, self.random.random()
        units = random.choice((1, 1, 2, 4))
        if roll < 0.4:
            ttl_ms = None if random.random() < 0.6 else random.choice(self.ttls_ms)
            return ["bounded.lease", *KEY, FIELD, random.randbytes(16), units, ttl_ms]
        if roll < 0.6:
            return ["bounded.restock", *KEY, FIELD, random.choice((1, 3, -1))]
        if roll < 0.7:
            return ["bounded.take", *KEY, FIELD, units, None]
        if roll < 0.8:
            return ["bounded.refund", *KEY, FIELD, 1]
        if roll < 0.85 and self.is_deleting:
            return ["delete", *KEY]
        seen = self._seen.setdefault(space.name, [])
        with space._store.reading() as tx:
            seen += [list(row.certificate) for row in leases.held(tx, space.name)][:1]
        if seen and roll < 0.93:
            # What no client of ours does: to take more than a lease has, or by another's.
            return ["bounded.take", *KEY, FIELD, random.choice((1, 2, 6)), random.choice(seen[-6:])]
        with space._store.reading() as tx:
            try:
                return leases.gives(tx, space.name, KEY, FIELD, 1)[0].wire()
            except NotCovered:
                return ["bounded.take", *KEY, FIELD, 1, random.randbytes(16)]

    def committed(self, now_ms: int, command: Command, result: Result) -> None:
        space = getattr(command, "space", None)
        with self.world.server.store.read() as tx:
            row = None if space is None else SPACES.get(tx, keys.space(space))
            document = None if row is None else DOCUMENTS.get(tx, keys.document(row.id, *KEY))
        field = None if document is None else document.fields.get(FIELD)
        if field is None or field.type != "bounded":
            return
        book = book_of(field.state)
        left = [Lease(*lease).left for lease in book.leases.values()]
        if book.reserve + sum(left) + book.taken != book.total + book.deficit:
            raise Violation("S16", f"{space}: the book does not add up: {book}", "server")
        if min(book.reserve, book.taken, book.total, *left) < 0 or book.deficit:
            raise Violation("S16", f"{space}: more was given out than there is: {book}", "server")

    def check(self) -> None:
        for device, made_as, space, nonce in self._certain:
            if device.client is None or device.is_cloned or device.client.id != made_as:
                continue
            told = device.client.store.outcome_of(space, nonce)
            if told is None or told.outcome in ("applied", "forbidden", "void"):
                self.count("was certain") if told is not None else None
                continue
            if self.is_released(space, nonce):
                continue
            raise Violation("K1", f"{space}: {device.name} was certain of {nonce.hex()}: {told.outcome}", device.name)

    def is_released(self, space: str, nonce: bytes) -> bool:
        """Whether somebody has taken back what made this take certain."""
        return False


SEEDS = ((3, "swarm"), (7, "offline"))  # where much is leased, taken and given

MUTANTS = (
    Mutant(
        "leases: a take is not checked against what is left",
        "syncd.core.leases",
        "_taken",
        "if lease.left < k:",
        "if False:",
        seeds=((50, "swarm"),),
    ),
    Mutant(
        "leases: whoever names a lease takes by it",
        "syncd.core.leases",
        "_taken",
        "and lease.slot == slot:",
        ":",
        seeds=((33, "offline"),),
    ),
    Mutant(
        "leases: a refund is paid twice",
        "syncd.core.leases",
        "_refunded",
        "taken=book.taken - k",
        "taken=book.taken - 2 * k",
        SEEDS,
    ),
    Mutant(
        "leases: more is leased than there is",
        "syncd.core.leases",
        "_leased",
        "if book.reserve < k:",
        "if book.reserve + 1 < k:",
        SEEDS,
    ),
    Mutant(
        "leases: a document with leases is deleted",
        "syncd.core.documents",
        "_deleted",
        "if document.has_leases:",
        "if False:",
        SEEDS,
    ),
    Mutant(
        "leases: the client counts what its outbox takes as there",
        "syncd_client.leases",
        "remaining",
        "if entry.outcome is None)",
        "if entry.outcome is not None)",
        seeds=((28, "offline"),),
    ),
    Mutant(
        "leases: the client forgets what was taken when it is told that it was",
        "syncd_client.leases",
        "_accepted",
        "left=row.left - units",
        "left=row.left",
        seeds=((28, "offline"),),
    ),
    Mutant(
        "leases: a give leaves the lease as it was",
        "syncd.core.leases",
        "_given",
        "left=lease.left - back",
        "left=lease.left",
        seeds=((28, "offline"),),
    ),
)

LEASES = Topic(
    "leases",
    LeaseWork,
    share=0.3,
    expected=("certain take", "was certain", "bounded.lease", "bounded.give", "delete"),
    mutants=MUTANTS,
)
