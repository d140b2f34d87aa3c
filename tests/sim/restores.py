"""Restores: the store is put back to a backup, and the devices bring back what they still have.

Backups are taken at any moment, told to the server a while later or never, and put in the place of the store of a dead
server as `syncd restore` does it: mostly the newest, now and then an older one. The auditor's truth becomes what it was
at the backup; from there on it grows by what is pushed again, and is judged by the same rules as ever.

S10 nothing is lost that a device still has: each change of the lost stretch that its author holds is recorded again,
once, with one outcome; what it does not hold is void, and both its application and the operators can see it. R1 nobody
hears anything of an epoch that a restore ended. R2 who names such an epoch is told up to where it is the present one's
history, by brute force, and how many of its changes are recorded. R3 what is called safe is in a backup. R4 a device
keeps what is not safe, for as long as it may read.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from syncd.app.backups import marks, renewing
from syncd.core.values import decoded
from syncd.engine.batch import space_row
from syncd.engine.commands import MarkSafe
from syncd.store import fsck, keys
from syncd.store.api import Reader
from syncd.store.committer import Overloaded
from syncd.store.memory import MemoryStore
from syncd.store.tables import LETTERS
from tests.oracle.oracle import Told
from tests.sim.auditor import Lost, Recorded, Truth, Violation
from tests.sim.collection import COLLECTION
from tests.sim.determinism import sleep
from tests.sim.device import SimDevice
from tests.sim.leases import LEASES
from tests.sim.members import MEMBERSHIP
from tests.sim.notices import NOTICES
from tests.sim.plan import Plan
from tests.sim.planted import Mutant
from tests.sim.reviving import REVIVING
from tests.sim.server import SimStore
from tests.sim.topic import Topic, Work
from tests.sim.wiretap import raw

if TYPE_CHECKING:
    from tests.sim.world import World

BACKUPS_KEPT = 4
RESTORES_MAX = 3  # in one run
OLDER_SHARE = 0.3  # of the restores are from another backup than the newest
CHECK_S = 3.0  # that fsck may take, after which the server is told
LATE_SHARE = 0.5  # of the runs tell, after a restore, of a backup of the history that it ended:
LATE_COUNT, LATE_S_MEAN = 8, 4.0  # so often, so far apart
Heads = Mapping[str, tuple[bytes, int]]  # epoch and head of each space
POSITIONED = ("subscribe", "push", "ack", "sums")  # messages that name an epoch
OF_AN_EPOCH = ("subscribed", "delta", "outcomes", "differ", "repair")


@dataclass(frozen=True, slots=True, eq=False)
class Backup:
    """`topics`: what each knew. `known`: the epochs of each space that this store knows. `heads`: of its spaces."""

    image: Mapping[bytes, bytes]
    truth: Truth
    topics: Mapping[str, Any]
    known: Mapping[str, frozenset[bytes]]
    heads: Heads


class RestoreWork(Work):
    tolerated_notices = ("expired",)

    def __init__(self, world: "World", random: "Random", name: str) -> None:
        super().__init__(world, random, name)
        self._backups: list[Backup] = []
        self._restores = 0
        self._epochs: dict[str, bytes] = {}  # the present one of each space
        self._known: dict[str, frozenset[bytes]] = {}  # and those that the store knows, with it
        self._pasts: dict[bytes, tuple[str, list[Told]]] = {}  # the history of each epoch that ended
        self._highest: dict[str, dict[bytes, int]] = {}  # n by device, when the epoch began
        self._safe: dict[str, int] = {}  # what may be called safe
        self._named: dict[tuple[str, str], set[bytes]] = {}  # by node and space: the epochs named on this connection
        self._greeted: dict[str, int] = {}  # at which restore a node began its connection
        self._barred: set[tuple[bytes, str]] = set()  # devices that had to delete what they had, by space
        self._every_s = world.plan.safety_s / random.choice((4, 8, 16))
        self._late = Random(f"{world.seed}/{name}/delayed")
        self._is_late = self._late.random() < LATE_SHARE

    async def prepare(self) -> None:
        """Who makes no backups promises none; here one is there before the first device."""
        self._look()
        self._tell(self._taken().heads)
        await sleep(1)

    def _look(self) -> None:
        with self.world.server.store.read() as tx:
            for part in marks(tx):
                for name, epoch, _ in part:
                    self._epochs[name] = bytes.fromhex(epoch)
        for name, epoch in self._epochs.items():
            self._known[name] = self._known.get(name, frozenset()) | {epoch}

    # -- backups and restores ------------------------------------------------------------------------------------

    async def run(self) -> None:
        world, random = self.world, self.random
        while True:
            await sleep(random.expovariate(1 / self._every_s))
            if random.random() < 0.6:
                backup = self._taken()
                if random.random() < 0.8:
                    world.nursery.start_soon(self._told_later, backup)
            elif self._restores < RESTORES_MAX:
                self._restores += 1
                await world.server.kill()
                if world.server.life % 2 == 0:
                    self._put_back(self._chosen())

    def _taken(self) -> Backup:
        """At any moment, also while a life is about to end: a store is always what its last commit left."""
        server = self.world.server
        image = server.store.image()
        store = MemoryStore(image=image)
        with store.read() as tx:
            if findings := list(fsck.check(tx)):
                raise Violation("S13", f"a backup is damaged: {findings[:3]}", "server")
            heads = _heads(tx)
        self.world.trace.record("nemesis", f"backup {len(self._backups)}")
        self.count("backup")
        topics = {name: work.remembered() for name, work in self.world.works.items()}
        backup = Backup(image, self.world.auditor.truth(), topics, dict(self._known), heads)
        self._backups.append(backup)
        if len(self._backups) > BACKUPS_KEPT:
            del self._backups[self.random.randrange(BACKUPS_KEPT)]
        return backup

    async def _told_later(self, backup: Backup) -> None:
        """The server is told when the backup is checked; it may be dead by then, or another."""
        await sleep(self.random.random() * CHECK_S)
        self._tell(backup.heads)

    async def _told_too_late(self, heads: Heads) -> None:
        """A last copy was checked for so long that the store was put back meanwhile: what it has is of epochs that have
        ended, wherever the present ones have come to since."""
        for _ in range(LATE_COUNT):
            await sleep(self._late.expovariate(1 / LATE_S_MEAN))
            if self._tell(heads):
                self.count("told too late")

    def _tell(self, heads: Heads) -> bool:
        server = self.world.server
        if server.life % 2 == 0 or server.is_going or server.committer is None:
            return False
        for name, (epoch, head) in heads.items():
            if self._epochs.get(name) == epoch:
                self._safe[name] = max(self._safe.get(name, 0), head)
        told = tuple((name, epoch, head) for name, (epoch, head) in heads.items())
        with suppress(Overloaded):
            server.committer.submit(MarkSafe(told, server.clock.now_ms()), lambda _: self.count("told"))
        return True

    def _chosen(self) -> Backup:
        if self.random.random() < OLDER_SHARE:
            self.count("from an older backup")
            return self.random.choice(self._backups)
        return self._backups[-1]

    def _put_back(self, backup: Backup) -> None:
        world, server, auditor, safe = self.world, self.world.server, self.world.auditor, dict(self._safe)
        self.count("restore")
        world.trace.record("nemesis", f"restore of backup {self._backups.index(backup)}")
        former = {name: audit.copied() for name, audit in auditor.spaces.items()}
        for name, epoch in self._epochs.items():
            self._pasts[epoch] = (name, [told for _, told in former[name].oracle.accepted])
        if self._is_late:
            with server.store.read() as tx:
                world.nursery.start_soon(self._told_too_late, _heads(tx))
        server.store = SimStore(image=backup.image)
        for _ in renewing(server.store, self.random.randbytes, server.clock.now_ms()):
            pass
        auditor.put_back(backup.truth)
        for name, work in world.works.items():
            work.put_back(backup.topics[name])
        # Backups of the history that is given up now are of no use: see tests/README.md.
        del self._backups[self._backups.index(backup) + 1 :]
        self._known = {name: frozenset(known) for name, known in backup.known.items()}
        self._look()
        for name, epoch in self._epochs.items():
            if epoch in self._pasts:
                raise Violation("S10", f"{name}: a restore leaves the epoch as it was", "server")
            self._highest[name] = dict(auditor.space(name).highest)
            self._safe[name] = auditor.space(name).oracle.head  # it is in the backup that was restored
        for epoch, (name, past) in self._pasts.items():
            present = [told for _, told in auditor.space(name).oracle.accepted]
            pairs = zip(past, present, strict=False)
            ends = (at for at, (a, b) in enumerate(pairs) if a is not b)
            auditor.shared[epoch] = next(ends, min(len(past), len(present)))
        for device in world.devices:
            for name, audit in former.items():
                self._note_lost(device, name, audit.recorded, safe.get(name, 0))
            for name, told in world.settled.get(device.name, {}).items():
                recorded = auditor.space(name).recorded
                for n in [n for n, entry in told.items() if recorded.get((device.id, n)) != entry]:
                    del told[n]

    def _note_lost(
        self, device: SimDevice, space: str, recorded: Mapping[tuple[bytes, int], Recorded], safe: int
    ) -> None:
        """What was recorded of this device is not any more. R4. `safe`: what could be called so until now."""
        present, held = self.world.auditor.space(space).recorded, held_by(device, space)
        for (author, n), entry in recorded.items():
            if author != device.id or present.get((author, n)) == entry:
                continue
            is_held = entry.nonce in held
            self.world.auditor.lose(space, author, n, Lost(entry, is_held))
            self.count("lost and held" if is_held else "lost")
            is_owed = entry.seq is not None and entry.seq > safe and (author, space) not in self._barred
            if is_owed and not is_held:
                told = f"{space}: {device.name} let go of n = {n}, seq {entry.seq}, and no more is safe than {safe}"
                raise Violation("S10", told, device.name, "server")

    # -- on the wire ---------------------------------------------------------------------------------------------

    def sent(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name == "hello":
            self._greeted[node] = self.world.auditor.restores
            for place in [place for place in self._named if place[0] == node]:
                del self._named[place]
        elif name in POSITIONED and body.get("epoch") is not None:
            self._named.setdefault((node, body["space"]), set()).add(raw(body["epoch"]))

    def received(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if self._greeted.get(node) != self.world.auditor.restores:
            self._heard_late(device, name, body)
            return
        if name in OF_AN_EPOCH and raw(body["epoch"]) in self.world.auditor.shared:
            raise Violation("S10", f"{node} hears {name} of {body['space']} in an epoch that ended", node, "server")
        if name == "subscribed" and body["safe"] > self._safe.get(body["space"], 0):
            told = f"{node} is told that {body['safe']} of {body['space']} is safe, and a backup has"
            raise Violation("S10", f"{told} {self._safe.get(body['space'], 0)}", node, "server")
        if name == "expired":
            self._expired(node, device, body)
        elif name == "revoked":
            self._barred.add((device, body["space"]))
            self._let_go(device, body["space"], lambda n, entry: True)

    def _heard_late(self, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        """The last words of a server whose store was put back meanwhile: its device may let go of what they settle."""
        if name == "revoked":
            self._barred.add((device, body["space"]))
            self._let_go(device, body["space"], lambda n, entry: True)
        elif name == "subscribed":
            self._let_go(device, body["space"], lambda n, entry: entry.seq is not None and entry.seq <= body["safe"])
        elif name == "outcomes":
            refused = {n for n, _, _, seq, _ in body["outcomes"] if seq is None}
            self._let_go(device, body["space"], lambda n, entry: n in refused)

    def _let_go(self, device: bytes, space: str, is_gone: Callable[[int, Recorded], bool]) -> None:
        for place, lost in self.world.auditor.lost.items():
            if place[:2] == (space, device) and is_gone(place[2], lost.entry):
                self.world.auditor.lose(*place, replace(lost, is_held=False))

    def _expired(self, node: str, device: bytes, body: Mapping[str, Any]) -> None:
        space, shared = body["space"], self.world.auditor.shared
        epochs = [epoch for epoch in self._named.get((node, space), ()) if epoch in shared]
        wanted = [shared[epoch] if epoch in self._known[space] else 0 for epoch in epochs]
        # When this was said, less may have been pushed again than when it is heard.
        highest = self._highest[space].get(device, 0), self.world.auditor.space(space).highest.get(device, 0)
        is_so = highest[0] <= body["highest"] <= highest[1]
        told = (raw(body["epoch"]), body["fork"], body["highest"])
        if not is_so or not any(told[:2] == (self._epochs[space], fork) for fork in wanted):
            text = f"{node} is told {told} of {space}; it shares {wanted}, and {highest} changes are recorded"
            raise Violation("S10", text, node, "server")
        self.count("expired" if body["fork"] else "expired without a fork")

    # -- at rest -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        letters = self._letters()
        names = {device.id: device for device in self.world.devices}
        for (space, author, n), lost in self.world.auditor.lost.items():
            entry, device = self.world.auditor.space(space).recorded.get((author, n)), names[author]
            if entry is None or entry.outcome != "void":
                self.count("recorded again" if entry is not None and entry.nonce == lost.entry.nonce else "not yet")
                continue
            self.count("lost for good" if lost.entry.seq is not None else "void of what was refused")
            client = device.client
            told = None if client is None else client.store.outcome_of(space, lost.entry.nonce)
            if lost.entry.seq is not None and (told is None or told.outcome != "void"):
                raise Violation("S10", f"{device.name} lost n = {n} of {space}, and says of it {told}", device.name)
            if (space, author, n) not in letters:
                raise Violation("S10", f"{device.name} lost n = {n} of {space}, and operators do not see it", "server")

    def _letters(self) -> set[tuple[str, bytes, int]]:
        """What operators are shown as lost for good."""
        found = set()
        with self.world.server.store.read() as tx:
            for space in self._epochs:
                row = space_row(tx, space)
                for _, letter in LETTERS.scan(tx, keys.space_range(keys.LETTER, row.id)) if row is not None else ():
                    if letter.kind == "lost":
                        first, last = decoded(letter.payload)
                        found |= {(space, letter.device, n) for n in range(first, last + 1)}
        return found


def _heads(tx: Reader) -> Heads:
    return {name: (bytes.fromhex(epoch), head) for part in marks(tx) for name, epoch, head in part}


def held_by(device: SimDevice, space: str) -> set[bytes]:
    """The nonces of the changes that a device has, also of one that is off."""
    if device.client is not None:
        store = device.client.store
        return {entry.nonce for entry in (*store.outbox(space), *store.kept(space)) if entry.void_reason is None}
    file = device.directory / "replica.db"
    if not file.exists():
        return set()
    with closing(sqlite3.connect(file)) as db:
        rows = db.execute("SELECT nonce FROM entry WHERE space = ? AND void_reason IS NULL", (space,))
        return {nonce for (nonce,) in rows}


def tamed(plan: Plan) -> Plan:
    """A copy of a machine shares its id, and what either of them holds is not what the other does; a rogue holds
    positions of its own; and a follower, like all who keep no changes, cannot bring back what it read."""
    return replace(plan, faults=plan.faults - {"clone"}, rogues=0, is_followed=False)


MUTANTS = (
    Mutant(
        "restores: what was accepted is not offered again",
        "syncd_client.replica", "fill_gap", "if entry.outcome is not None:", "if False:",
        seeds=((15, "offline"),),
    ),
    Mutant(
        "restores: an epoch goes on",
        "syncd.engine.epochs", "renewed", "_replace(epoch=entropy(EPOCH_BYTES), parent=row.epoch,",
        "_replace(parent=row.epoch,",
        seeds=((13, "swarm"),),
    ),
    Mutant(
        "restores: the fork is one too high",
        "syncd.engine.epochs", "renewed", "EpochRow(row.head, now_ms)", "EpochRow(row.head + 1, now_ms)",
        seeds=((13, "swarm"),),
    ),
    Mutant(
        "restores: an epoch that ended is forgotten",
        "syncd.engine.epochs", "renewed", "EPOCHS.put(tx, keys.epoch(row.id, row.epoch), EpochRow(row.head, now_ms))",
        "EpochRow(row.head, now_ms)",
        seeds=((13, "swarm"),),
    ),
    Mutant(
        "restores: operators do not hear of what is lost",
        "syncd.engine.changes", "_recorded", "change.reason == LOST_IN_RESTORE and n == change.n", "False",
        seeds=((15, "offline"),),
    ),
    Mutant(
        "restores: the application does not hear of what is lost",
        "syncd_client.replica", "take_outcomes", "entry.void_reason == LOST_IN_RESTORE", "False",
        seeds=((38, "offline"),),
    ),
    Mutant(
        "restores: a change that is offered again has another nonce",
        "syncd_client.replica", "fill_gap",
        "replace(entry, outcome=None,", "replace(entry, nonce=new_nonce(), outcome=None,",
        seeds=((15, "offline"),),
    ),
    Mutant(
        "restores: a change that is recorded already is taken once more, as its nonce is forgotten",
        "syncd.engine.engine", "_expired", "0 if replica is None else replica.highest", "0",
        seeds=((15, "offline"),),
    ),
    Mutant(
        "restores: what was seen in the lost stretch counts as seen",
        "syncd_client.replica", "_cut_off", "base=min(entry.base, fork)", "base=entry.base",
        seeds=((15, "offline"),),
    ),
    Mutant(
        "restores: what is synced beyond the fork stays",
        "syncd_client.replica", "take_expired", "if row.complete > message.fork:", "if False:",
        seeds=((15, "offline"),),
    ),
    Mutant(
        "restores: a device lets go of what no backup has",
        "syncd_client.replica", "take_subscribed", "entry.seq <= message.safe", "entry.seq <= message.head",
        seeds=((38, "offline"),),
    ),
    Mutant(
        "restores: everything is called safe",
        "syncd.engine.epochs", "safe_seq", "head if META.get(tx, _BACKED_UP) is None else row.safe", "head",
        seeds=((13, "swarm"),),
    ),
    Mutant(
        "restores: a backup of an epoch that ended calls its seqs safe in the present one",
        "syncd.engine.epochs", "marked_safe", "and work.row.epoch == epoch and seq <=", "and seq <=",
        seeds=((17, "storm"),),
    ),
    Mutant(
        "restores: a change of roles calls the head safe",
        "syncd.net.standing", "subscribed", "now.head, 0, now.role", "now.head, now.head, now.role",
        seeds=((15, "offline"),),
    ),
    Mutant(
        "restores: nobody asks after a space that is not subscribed",
        "syncd_client.session", "Session._asked_after", "replica.last_kept(tx, row)", "None",
        seeds=((38, "offline"),),
    ),
    Mutant(
        "restores: a push in an epoch that ended is taken",
        "syncd.engine.engine", "_push", "command.epoch is not None and command.epoch != work.row.epoch", "False",
        seeds=((15, "offline"),),
    ),
)  # fmt: skip

RESTORES = Topic(
    "restores",
    RestoreWork,
    share=0.6,
    expected=("backup", "told", "told too late", "restore", "from an older backup", "expired", "lost and held", "lost",
              "recorded again"),
    mutants=MUTANTS,
    never_with=(LEASES, MEMBERSHIP, COLLECTION, REVIVING, NOTICES),
    tamed=tamed,
)  # fmt: skip
