"""Collection: what is kept for devices that are away goes while they are away, and nobody can tell.

The server runs its collector with a retention of seconds. Devices lapse, frontier and floor rise, tombstones and log
rows go; in some runs they stay, and all else happens: the oracle, which never drops anything and only counts what was
deleted up to the floor as never made, is the same for both.

S8 what a device had not sent when it came back, after deletions were forgotten that it had not heard of, ends once.
S12 from any state that was, by pages from the floor on and by comparison below it, one comes to the state that is.
C1 frontier and floor never move back, nor pass each other or the head. C2 they pass no device that has not lapsed.
C3 the floor passes nothing that is younger than a reader without a place may count on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from syncd.engine import reading
from syncd.engine.batch import space_row
from syncd.engine.commands import (
    Ack,
    Attach,
    Attached,
    Author,
    Collect,
    Collected,
    Command,
    Done,
    Forget,
    Lose,
    Purge,
    Refused,
    Result,
)
from syncd.engine.frontier import Retention
from syncd.engine.reading import Cursor
from tests.engine.reconcile import reconcile
from tests.oracle.histories import exact
from tests.oracle.replica import Key, Replica, Shown
from tests.sim.auditor import SpaceAudit, Violation
from tests.sim.determinism import sleep
from tests.sim.planted import Mutant
from tests.sim.server import SimServer
from tests.sim.topic import Topic, Work

SHOTS_MAX = 4  # earlier states of a space that are kept


@dataclass(slots=True)
class Watched:
    """What is known from outside of a space's frontier. `lows`: user and position of each device that has a copy;
    `away`: of those that lapsed. `shots`: earlier states."""

    frontier: int = 0
    floor: int = 0
    lows: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    away: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    shots: list[tuple[int, dict[Key, Shown]]] = field(default_factory=list)
    regrants: int = 0

    def lose(self, device: bytes) -> None:
        self.lows.pop(device, None)
        self.away.pop(device, None)


class CollectionWork(Work):
    retention = Retention()

    def tune(self, server: SimServer) -> None:
        random = self.random
        self.retention = server.retention = Retention(
            lapse_ms=random.choice((3_000, 10_000, 40_000)), recent_ms=random.choice((0, 1_000, 10_000)),
            history_ms=random.choice((0, 5_000, 30_000)), is_collecting=random.random() < 0.75,
        )  # fmt: skip
        self._spaces: dict[str, Watched] = {}
        self._unsent: dict[tuple[str, str], list[bytes]] = {}  # of a device that came back, the nonces

    def _watched(self, space: str) -> Watched:
        return self._spaces.setdefault(space, Watched())

    async def run(self) -> None:
        """Earlier states are kept, and people stay away for longer than they are waited for."""
        away_s = self.retention.lapse_ms / 1000
        while True:
            await sleep(self.random.expovariate(1 / 4))
            space = self.random.choice(self.world.shared_spaces)
            shots, oracle = self._watched(space).shots, self.world.auditor.space(space).oracle
            if not shots or shots[-1][0] < oracle.head:
                shots.append((oracle.head, oracle.state()))
            if len(shots) > SHOTS_MAX:
                del shots[self.random.randrange(SHOTS_MAX)]
            device = self.random.choice(self.world.devices)
            if device.client is not None and self.random.random() < 0.3:
                await device.client.go_offline()
                for _ in range(self.random.randint(1, 4)):
                    await sleep(away_s * self.random.uniform(0.2, 0.8))
                    if device.client is not None:
                        self.world.people[device.name].edit()
                if device.client is not None:
                    device.client.go_online()

    # -- on the wire ---------------------------------------------------------------------------------------------

    def sent(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name != "subscribe" or not 0 < body["complete"] < self._watched(body["space"]).floor:
            return
        owner = next((each for each in self.world.devices if each.name == node), None)
        if owner is None or owner.client is None:
            return  # a rogue, or a copy
        entries = owner.client.store.outbox(body["space"])
        unsent = [entry.nonce for entry in entries if entry.outcome is None and entry.void_reason is None]
        self._unsent[node, body["space"]] = unsent
        self.count("came back below the floor")
        if unsent:
            self.count("with changes")

    def received(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name == "repair":
            self.count("repair")

    # -- in the store --------------------------------------------------------------------------------------------

    def committed(self, now_ms: int, command: Command, result: Result) -> None:
        match command, result:
            case Attach(author), Attached(head=head) if self._is_own(author):  # more may follow it in its batch
                watched = self._watched(command.space)
                stands = command.complete or command.start
                low = head if stands is None or stands < watched.floor else min(stands, head)
                watched.away.pop(author.device, None)
                watched.lows.setdefault(author.device, (author.user, low))
            case Ack(author), Done() if self._is_own(author):
                self._acked(self._watched(command.space), author, min(command.applied, command.oldest_base))
            case (Forget(author) | Lose(author) | Purge(author), Done()) | (Attach(author), Refused()):
                if self._is_own(author):
                    self._watched(command.space).lose(author.device)
            case Collect(space), Collected(dropped_count=dropped):
                self._collected(now_ms, space, dropped)

    def _is_own(self, author: Author) -> bool:
        return self.world.auditor.installations.get(author.device, author.installation) == author.installation

    def _acked(self, watched: Watched, author: Author, low: int) -> None:
        if author.device in watched.lows:
            low = max(low, watched.lows[author.device][1])
        elif author.device not in watched.away or not watched.away[author.device][1] < low >= watched.floor:
            return
        watched.away.pop(author.device, None)
        watched.lows[author.device] = (author.user, low)

    def _collected(self, now_ms: int, space: str, dropped: int) -> None:
        watched, audit = self._watched(space), self.world.auditor.space(space)
        with self.world.server.store.read() as tx:
            row = space_row(tx, space)
        if row is None:
            return
        head, was = audit.oracle.head, (watched.frontier, watched.floor)
        for _, said in audit.regrants[watched.regrants :]:
            for device in [device for device, (user, _) in watched.lows.items() if user in said]:
                watched.lose(device)
        watched.regrants = len(audit.regrants)
        for device, (user, low) in list(watched.lows.items()):
            if low < head and audit.times[low + 1] <= now_ms - self.retention.lapse_ms:
                watched.away[device] = (user, low)
                del watched.lows[device]
                self.count("lapsed")
        least = min((low for _, low in watched.lows.values()), default=head)
        told = f"{space}: frontier {was[0]} -> {row.frontier}, floor {was[1]} -> {row.floor}, head {head}"
        if not (was[0] <= row.frontier <= head and was[1] <= row.floor <= row.frontier):
            raise Violation("S12", f"C1: {told}", "server")
        if row.frontier > max(was[0], least) or row.floor > max(was[1], least):
            raise Violation("S12", f"C2: {told}, and a device that has not lapsed stands at {least}", "server")
        if row.floor > was[1] and audit.times[row.floor] > now_ms - self.retention.recent_ms:
            raise Violation("S12", f"C3: {told}, which is younger than {self.retention.recent_ms} ms", "server")
        if row.floor > was[1]:
            self.count("floor rose")
        watched.frontier, watched.floor = row.frontier, row.floor
        audit.oracle.floor, audit.oracle.frontier = row.floor, row.frontier
        if dropped:
            self.count("dropped")
            if not self.retention.is_collecting:
                raise Violation("S12", f"{told}: {dropped} rows are dropped, and collection is off", "server")
            self._check_deletions(space, audit)
            self._check_ways(space, audit, watched.shots[:1])

    def _check_deletions(self, space: str, audit: SpaceAudit) -> None:
        """Each deletion after the floor is still told to one who stands there."""
        oracle = audit.oracle
        unknown = {
            key: None for key, life in audit.lives.items() if not life[-1][1] and oracle.revs[key] > oracle.floor
        }
        with self.world.server.store.read() as tx:
            row = space_row(tx, space)
            if row is None or row.head != oracle.head or not 0 < row.floor < row.head:
                return
            at = row.floor
            while at < row.head:
                delta = reading.page(tx, Cursor(space, row.id, row.floor, at, None))
                at = delta.to
                for collection, document, *_ in delta.docs:
                    unknown.pop((collection, document), None)
        if unknown:
            told = f"{space}: floor {row.floor}, head {row.head}: that {list(unknown)[:3]} are deleted, nobody knows"
            raise Violation("S12", told, "server")

    # -- from then to now ----------------------------------------------------------------------------------------

    def check(self) -> None:
        for space, watched in self._spaces.items():
            self._check_ways(space, self.world.auditor.space(space), watched.shots)
        recorded = {name: {entry.nonce for entry in audit.recorded.values()} for name, audit in
                    self.world.auditor.spaces.items()}  # fmt: skip
        for (node, space), nonces in self._unsent.items():
            device = next(each for each in self.world.devices if each.name == node)
            lost = [nonce for nonce in nonces if nonce not in recorded.get(space, ())]
            if lost and self.world.may_write(device, space) and not device.is_cloned:
                raise Violation("S8", f"{node} came back to {space} and lost {len(lost)} of {len(nonces)}", node)

    def _check_ways(self, space: str, audit: SpaceAudit, shots: list[tuple[int, dict[Key, Shown]]]) -> None:
        """S12, from each of these states. The store is asked at its present head, which may lie behind the oracle's
        while a batch is being read."""
        store = self.world.server.store
        with store.read() as tx:
            row = space_row(tx, space)
        if row is None or row.head != audit.oracle.head:
            return
        wanted = exact(audit.oracle.state())
        for seq, state in shots:
            replica = Replica(seq, seq, documents=dict(state))
            if seq < row.floor:
                reconcile(store, space, replica)
            elif seq < row.head:
                with store.read() as tx:
                    try:
                        while not replica.complete >= row.head:
                            replica.receive(reading.page(tx, Cursor(space, row.id, seq, replica.resume, None)))
                    except AssertionError as error:
                        raise Violation(
                            "S12", f"{space}: by pages from {seq} to {row.head}: {error}", "server"
                        ) from None
            got = exact(replica.documents)
            if got != wanted:
                keys = [key for key in {**got, **wanted} if got.get(key) != wanted.get(key)]
                way = "by comparison" if seq < row.floor else "by pages"
                told = f"{space}: {way} from {seq} to {row.head}, floor {row.floor}: {keys[:3]} differ"
                raise Violation("S12", told, "server")
            self.count("way by comparison" if seq < row.floor else "way by pages")


MUTANTS = (
    Mutant(
        "collection: a tombstone above the floor goes",
        "syncd.engine.frontier",
        "_drop_tombstones",
        "keys.tombstones_range(space_id, work.row.floor)",
        "keys.tombstones_range(space_id, work.row.head)",
        seeds=((2, "swarm"),),
    ),
    Mutant(
        "collection: the floor is raised after the drop",
        "syncd.engine.frontier",
        "collected",
        "return Collected(name, lapsed, dropped,",
        "work.row = work.row._replace(floor=row.floor if dropped else floor)\n"
        "    return Collected(name, lapsed, dropped,",
        seeds=((2, "swarm"),),
    ),
    Mutant(
        "collection: a device that is away counts for nothing in the frontier",
        "syncd.engine.frontier",
        "least_low",
        "return keys.parse_low_water(key)[1]",
        "continue",
        seeds=((2, "swarm"),),
    ),
    Mutant(
        "collection: who has an edit open may be passed by the frontier",
        "syncd.engine.engine",
        "_ack",
        "low = max(low, min(command.applied, command.oldest_base))",
        "low = max(low, command.applied)",
        seeds=((8, "swarm"),),
    ),
    Mutant(
        "collection: the floor passes what is young",
        "syncd.engine.frontier",
        "collected",
        "now_ms, retention.recent_ms, retention))\n    work",
        "now_ms, 0, retention))\n    work",
        seeds=((3, "swarm"),),
    ),
    Mutant(
        "collection: a late delete of what was changed since is accepted",
        "syncd.core.documents",
        "_deleted",
        "if unseen and by.base < floor:",
        "if False:",
        seeds=((8, "swarm"),),
    ),
    Mutant(
        "collection: a late `expect` counts what is forgotten as never there",
        "syncd.core.documents",
        "_expected",
        "if by.base < floor:",
        "if False:",
        seeds=((2, "swarm"),),
    ),
    Mutant(
        "collection: a lapsed device is not told to reconcile",
        "syncd.engine.reading",
        "is_below_floor",
        "return (complete or (row.floor if start is None else start)) < row.floor",
        "return False",
        seeds=((20, "swarm"),),
    ),
    Mutant(
        "collection: a tombstone that is still stored answers, one that is gone does not",
        "syncd.engine.batch",
        "is_forgotten",
        "document.rev <= floor",
        "document.rev < 0",
        seeds=((98, "swarm"),),
    ),
    Mutant(
        "collection: rows go although collection is off",
        "syncd.engine.frontier",
        "collected",
        "if retention.is_collecting:",
        "if True:",
        seeds=((5, "swarm"),),
    ),
    Mutant(
        "collection: a returning device's low-water is where it stood",
        "syncd.engine.frontier",
        "low_on_arrival",
        "return work.head if stands is None or stands < work.row.floor else min(stands, work.head)",
        "return work.head if stands is None else min(stands, work.head)",
        seeds=((3, "swarm"),),
    ),
)

COLLECTION = Topic(
    "collection",
    CollectionWork,
    share=0.35,
    expected=("lapsed", "floor rose", "dropped", "came back below the floor", "with changes", "repair",
              "way by pages", "way by comparison"),
    mutants=MUTANTS,
)  # fmt: skip
