"""A shop that sells from phones: the real engine, many small phones, and all that goes wrong between them.

Owns the world of `python -m tests.oversell`: virtual time, a server that dies at any commit and whose clock jumps,
phones that are offline most of the time, lose answers, are cloned, and die for good. Millions of takes need a harness
that is quick, so a phone here is its leases, its outbox and its clocks, by section 3.1 of the protocol, without a
store, a socket or documents; the reference client is held to the same rules by the simulator, at small size.

What must hold (`Broken` is raised where it does not):

1. At each commit, in what every subscriber is told: available + leased + taken = total, and nothing is negative.
2. At all times: what phones sold with certainty, wherever it is known by now, and what was taken from the reserve, less
   what came back, is no more than the stock.
3. What a phone was certain of is applied: a strict lease's takes whenever they arrive, a ttl's if they arrive in time.
4. In the end the server's books say what the outcomes said, and all stock is sold: to the last unit, and not one more.
"""

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from syncd.core.changes import parsed_change
from syncd.core.leases import LEASE_GRACE_MS, Certificate
from syncd.engine import reading
from syncd.engine.commands import (
    Ack,
    Attach,
    Attached,
    Author,
    Collect,
    Command,
    ConfirmLeaseClock,
    EndLease,
    Post,
    Posted,
    Push,
    Pushed,
    Result,
    Tended,
    TendLeases,
)
from syncd.engine.engine import Engine
from syncd.engine.frontier import Retention
from syncd.engine.grants import Grant, Role
from syncd.engine.reclaiming import listed
from syncd.store import fsck
from syncd.store.memory import MemoryStore
from syncd.wire.messages import OutcomeEntry

SPACE = "shop/main"
ITEMS = tuple(("stock", f"item{number}", "left") for number in range(4))
STEP_MS = 5_000
PUSH_CHANGES_MAX = 500
CLOCK_ERROR = 0.001  # what a phone allows for its own clock; the real error is a tenth of it
TTL_MS = (60_000, 20 * 60_000)
AHEAD_MS = 86_400_000  # the farthest that the server's clock is ever ahead
OWNER = (Grant("**", Role.OWNER),)
BACKEND = Author(b"\xee" * 16, None, "key", "key:shop", OWNER)


class Broken(AssertionError):
    """A promise was broken."""


def check(is_kept: bool, promise: str) -> None:
    if not is_kept:
        raise Broken(promise)


@dataclass(slots=True)
class Lease:
    item: int
    certificate: Certificate
    left: int
    asked: int  # true time
    ttl: int | None


@dataclass(slots=True)
class Entry:
    """A change in the outbox. `kind`: `strict`, `ttl` or `reserve` sell `units`; or `lease`, `give`, `refund`.
    `is_counted`: it was counted as sold when it was committed. `is_certain`: when it was last sent, it was in time."""

    wire: list[Any]
    item: int
    kind: str
    units: int
    lease: bytes = b""
    asked: int = 0
    ttl: int | None = None
    is_counted: bool = False
    is_certain: bool = False


@dataclass(slots=True)
class Phone:
    """`drift`: how fast its clock goes. `has_copy`: it was cloned or is a clone, so what it believes to be certain is
    so for one of the two at most."""

    author: Author
    drift: float
    leases: dict[bytes, Lease] = field(default_factory=dict)
    outbox: deque[Entry] = field(default_factory=deque)
    n: int = 0
    settled: int = 0
    base: int = 0
    is_online: bool = False
    turns_at: int = 0
    has_copy: bool = False
    is_dead: bool = False

    def is_in_time(self, asked: int, ttl: int | None, now: int) -> bool:
        """A ttl counts from when the phone asked, by its own clock."""
        return ttl is None or (now - asked) * self.drift * (1 + CLOCK_ERROR) < ttl

    def commit(self, entry_kind: str, item: int, units: int, operation: list[Any], nonce: bytes, **more: Any) -> Entry:
        self.n += 1
        verb, *rest = operation
        wire = [self.n, nonce, self.base, 0, [[f"bounded.{verb}", *ITEMS[item], *rest]]]
        entry = Entry(wire, item, entry_kind, units, **more)
        self.outbox.append(entry)
        return entry


class _PowerCut(Exception):
    """The machine is off before what was decided is on the disk."""


class Machine:
    """The server: a store, an engine, a clock that jumps. It dies before or after a commit."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.store = MemoryStore(limit_bytes=1 << 40)
        self.counts: Counter[str] = Counter()
        self.jump_ms = 0
        self.now = 1_795_000_000_000  # true time
        self.start()

    def start(self) -> None:
        """A new process: it knows what is stored, and has a monotonic clock of its own."""
        self.engine = Engine(self.random.randbytes, retention=Retention(recent_ms=0, history_ms=0))
        self.run_id, self.started = self.random.randbytes(16), self.now

    @property
    def wall(self) -> int:
        return self.now + self.jump_ms

    def ask(self, commands: list[Command], risk: float = 0.0) -> tuple[Result, ...] | None:
        """Decide in one commit. None: the machine died, before it or after it; nobody was answered."""
        roll = self.random.random()
        try:
            with self.store.write() as tx:
                decision = self.engine.decide(tx, self.wall, commands)
                if roll < risk / 2:
                    raise _PowerCut
        except _PowerCut:
            self.counts["crashes"] += 1
            self.start()
            return None
        check(not decision.alarms, f"the engine met a defect: {decision.alarms}")
        self.counts["commits"] += 1
        for delta in decision.deltas:
            for document in delta.docs:
                self._check_book(document.fields.get("left"))
        if roll > 1 - risk / 2:
            self.counts["crashes"] += 1
            self.start()
            return None
        return decision.results

    def _check_book(self, shown: list[Any] | None) -> None:
        if shown is not None:
            value = shown[1]
            self.counts["books"] += 1
            amounts = value["available"], value["leased"], value["taken"]
            check(sum(amounts) == value["total"], f"units appeared or vanished: {value}")
            check(min(amounts) >= 0 and "deficit" not in value, f"an amount is negative: {value}")

    def tend(self) -> bool:
        """A look at the clocks, and a few steps of collection."""
        mono_ms = self.now - self.started
        results = self.ask([TendLeases(self.run_id, mono_ms), *[Collect(SPACE)] * 4])
        assert results is not None and isinstance(results[0], Tended)
        self.counts["ended"] += results[0].ended
        return results[0].has_more

    def book(self, item: int) -> dict[str, int]:
        with self.store.read() as tx:
            document = reading.document(tx, SPACE, *ITEMS[item][:2])
        assert document is not None
        value: dict[str, int] = document.fields["left"]
        return value


class Shop:
    """`takes`: after so many accepted takes the shop closes, and what is left is counted."""

    def __init__(self, seed: int, phones: int, takes: int) -> None:
        self.random = Random(seed)
        self.machine = Machine(Random(seed + 1))
        self.takes_wanted = takes
        self.counts = self.machine.counts
        self.stock, self.sold, self.taken = ([0] * len(ITEMS) for _ in range(3))
        self.answered: set[tuple[bytes, int]] = set()  # of phones that have a copy
        self.phones: list[Phone] = []
        for item in range(len(ITEMS)):
            self._post(["create", *ITEMS[item][:2]], self._restocking(item, max(40, takes // 8)))
        for _ in range(phones):
            self.phones.append(self._phone())

    # -- the shop's own side -----------------------------------------------------------------------------------------

    def _restocking(self, item: int, units: int) -> list[Any]:
        self.stock[item] += units
        return ["bounded.restock", *ITEMS[item], units]

    def _post(self, *operations: list[Any]) -> str:
        results = self.machine.ask([Post(BACKEND, SPACE, list(operations), None, None, None)])
        assert results is not None and isinstance(results[0], Posted), results
        return results[0].outcome

    def _phone(self) -> Phone:
        random = self.random
        author = Author(random.randbytes(16), random.randbytes(16), "device", "staff", OWNER)
        results = self.machine.ask([Attach(author, SPACE, None, 0, 0, None, 0, None)])
        assert results is not None and isinstance(results[0], Attached), results
        return Phone(author, 1 + random.uniform(-1e-4, 1e-4), base=results[0].head)

    # -- the days of the shop ----------------------------------------------------------------------------------------

    def run(self) -> None:
        while self.counts["takes"] < self.takes_wanted:
            self._step()
            self._mishap()
        self._close()

    def _step(self) -> None:
        machine, random = self.machine, self.random
        machine.now += STEP_MS
        for phone in self.phones:
            if not phone.is_dead:
                self._move(phone)
                self._sell(phone)
        for item in range(len(ITEMS)):
            # Stock comes in seldom, so that there is a last unit again and again.
            if random.random() < 0.02:
                check(self._post(self._restocking(item, random.randint(1, self.takes_wanted // 100 + 20))) == "applied",
                      "a restock is applied")  # fmt: skip
        self._sync([phone for phone in self.phones if phone.is_online and not phone.is_dead], risk=0.03)
        while machine.tend():
            pass
        self._check_sold()

    def _check_sold(self) -> None:
        for item, (sold, stock) in enumerate(zip(self.sold, self.stock, strict=True)):
            check(sold <= stock, f"{sold} of {ITEMS[item][1]} are sold, the stock was {stock}")

    def _move(self, phone: Phone) -> None:
        now, random = self.machine.now, self.random
        if now < phone.turns_at:
            return
        phone.is_online = not phone.is_online
        longest = 60_000 if phone.is_online else 600_000
        phone.turns_at = now + random.randint(STEP_MS, longest)
        self.counts["spells offline"] += not phone.is_online

    def _sell(self, phone: Phone) -> None:
        """Customers come; the phone sells by its leases, and what it has no lease for only while it is online."""
        random, item = self.random, self.random.randrange(len(ITEMS))
        now = self.machine.now
        held = [lease for lease in phone.leases.values() if phone.is_in_time(lease.asked, lease.ttl, now)]
        room = PUSH_CHANGES_MAX * 4 - len(phone.outbox)
        customers = min(room, random.randint(0, 60))
        for number in range(customers):
            if not held and not phone.is_online:
                self.counts["customers sent away"] += customers - number
                break
            units = 1 if random.random() < 0.9 else random.randint(2, 3)
            lease = random.choice(held) if held else None
            if lease is not None:
                self._take(phone, lease, min(units, lease.left))
                if not lease.left:
                    held.remove(lease)
                    del phone.leases[lease.certificate[0]]
            elif phone.is_online and random.random() < 0.05:
                phone.commit("reserve", item, units, ["take", units, None], random.randbytes(8))
            else:
                self.counts["customers sent away"] += 1
        if phone.is_online:
            self._arrange(phone, item)

    def _take(self, phone: Phone, lease: Lease, units: int) -> None:
        is_strict = lease.ttl is None
        entry = phone.commit(
            "strict" if is_strict else "ttl", lease.item, units, ["take", units, lease.certificate],
            self.random.randbytes(8), lease=lease.certificate[0], asked=lease.asked, ttl=lease.ttl,
        )  # fmt: skip
        lease.left -= units
        if is_strict and not phone.has_copy:
            # The customer has it, whatever the server knows.
            entry.is_counted = True
            self.sold[lease.item] += units

    def _arrange(self, phone: Phone, item: int) -> None:
        """While there is a network: lease more, give back, refund."""
        random = self.random
        if sum(lease.left for lease in phone.leases.values() if lease.item == item) < 60 and random.random() < 0.5:
            lease, k = random.randbytes(16), random.randint(5, max(400, self.takes_wanted // 500))
            ttl = None if random.random() < 0.6 else random.randint(*TTL_MS)
            phone.commit("lease", item, k, ["lease", lease, k, ttl], random.randbytes(8), lease=lease,
                         asked=self.machine.now, ttl=ttl)  # fmt: skip
        if phone.leases and random.random() < 0.02:
            lease_id, held = random.choice(list(phone.leases.items()))
            units = random.randint(1, held.left)
            phone.commit("give", held.item, units, ["give", held.certificate, units], random.randbytes(8))
            held.left -= units
            if not held.left:
                del phone.leases[lease_id]
        if self.sold[item] and random.random() < 0.02:
            phone.commit("refund", item, 1, ["refund", 1], random.randbytes(8))
            self.sold[item] -= 1  # the customer has brought it back, whatever the server knows

    def _mishap(self) -> None:
        """Now and then: a clock that jumps, a phone that is cloned, a phone that is lost."""
        random, machine, roll = self.random, self.machine, self.random.random()
        if roll < 0.01:
            machine.jump_ms = random.choice((0, 0, 3_600_000, -3_600_000, AHEAD_MS, -90_000, 90_000))
            self.counts["clock jumps"] += 1
        elif roll < 0.015 and self.counts["clones"] < len(self.phones) // 5:
            phone = random.choice(self.phones)
            if not phone.is_dead and not phone.has_copy:
                self.counts["clones"] += 1
                phone.has_copy = True
                leases = {key: replace(lease) for key, lease in phone.leases.items()}
                outbox = deque(replace(entry) for entry in phone.outbox)
                self.phones.append(replace(phone, leases=leases, outbox=outbox))
        elif roll < 0.018 and self.counts["lost phones"] < len(self.phones) // 10:
            phone = random.choice(self.phones)
            # What it sold and never told nobody can know: a phone that is lost with that is an operator's judgement.
            if not phone.outbox and not phone.has_copy:
                self.counts["lost phones"] += not phone.is_dead
                phone.is_dead = True

    # -- the network -------------------------------------------------------------------------------------------------

    def _sync(self, phones: list[Phone], risk: float) -> None:
        """Each pushes what it has, all in one commit; some frames are lost on the way there, some on the way back."""
        random, now = self.random, self.machine.now
        senders, commands = [], list[Command]()
        for phone in phones:
            if not phone.outbox or random.random() < risk:
                continue
            entries = [phone.outbox[index] for index in range(min(PUSH_CHANGES_MAX, len(phone.outbox)))]
            for entry in entries:
                entry.is_certain = entry.kind in ("strict", "ttl") and phone.is_in_time(entry.asked, entry.ttl, now)
            epoch = self._epoch()
            commands.append(Push(phone.author, SPACE, epoch, tuple(parsed_change(entry.wire) for entry in entries)))
            commands.append(Ack(phone.author, SPACE, epoch, phone.base, phone.base, phone.settled))
            senders.append(phone)
        if not commands:
            return
        results = self.machine.ask(commands, risk)
        if results is None:
            self.counts["lost answers"] += len(senders)
            return
        for phone, result in zip(senders, results[::2], strict=True):
            if random.random() < risk:
                self.counts["lost answers"] += 1
                continue
            assert isinstance(result, Pushed), result
            for outcome in result.outcomes:
                self._answered(phone, outcome)
            if result.forked is not None:
                self._fork(phone)

    def _epoch(self) -> bytes:
        with self.machine.store.read() as tx:
            position = reading.position(tx, SPACE)
        assert position is not None
        return position.epoch

    def _fork(self, phone: Phone) -> None:
        """Another uses this id: a new one, under which the rest is pushed. Its leases stay with the old id."""
        self.counts["forks"] += 1
        check(phone.has_copy, "only a clone meets another replica of its id")
        anew = self._phone()
        rest, phone.outbox, phone.leases = phone.outbox, deque(), {}
        phone.author, phone.n, phone.settled, phone.base = anew.author, 0, 0, anew.base
        for entry in rest:
            if entry.kind != "lease":
                phone.n += 1
                entry.wire = [phone.n, entry.wire[1], phone.base, 0, entry.wire[4]]
                entry.kind = "copied" if entry.kind in ("strict", "ttl") else entry.kind
                phone.outbox.append(entry)

    def _answered(self, phone: Phone, outcome: OutcomeEntry) -> None:
        entry = phone.outbox.popleft()
        check(outcome.nonce == entry.wire[1], "an outcome is that of the change that was sent")
        phone.settled = outcome.n
        is_first = True
        if phone.has_copy:
            dot = (phone.author.device, outcome.n)
            is_first = dot not in self.answered
            self.answered.add(dot)
        if outcome.seq is None:
            self._refused(phone, entry, outcome)
        else:
            phone.base = max(phone.base, outcome.seq)
            self._accepted(phone, entry, outcome, is_first)

    def _accepted(self, phone: Phone, entry: Entry, outcome: OutcomeEntry, is_first: bool) -> None:
        item, units = entry.item, entry.units
        if entry.kind in ("strict", "ttl") and entry.is_certain:
            check(outcome.outcome == "applied", f"a certain take ended as {outcome.outcome}: {entry}")
        if entry.kind in ("strict", "ttl", "reserve", "copied"):
            if is_first:
                self.taken[item] += units
                self.sold[item] += 0 if entry.is_counted else units
                self.counts["takes"] += 1
                self.counts[f"takes {entry.kind}"] += 1
            if outcome.outcome == "merged":
                self.counts["takes after the end"] += 1
                phone.leases.pop(entry.lease, None)
        elif entry.kind == "refund" and is_first:
            self.taken[item] -= units
            self.counts["refunds"] += 1
        elif entry.kind == "lease":
            assert outcome.detail is not None
            (certificate,) = outcome.detail["leases"]
            phone.leases[entry.lease] = Lease(item, certificate, units, entry.asked, entry.ttl)
            self.counts["leases"] += is_first

    def _refused(self, phone: Phone, entry: Entry, outcome: OutcomeEntry) -> None:
        self.counts["refused"] += 1
        if entry.kind in ("strict", "ttl"):
            check(not entry.is_certain, f"a certain take ended as {outcome.outcome}: {entry}")
            phone.leases.pop(entry.lease, None)
        check(entry.kind != "give", f"a give ended as {outcome.outcome}")
        self.counts[outcome.outcome] += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Everyone comes home, all leases end in one of the three ways, and the rest is sold over the counter."""
        machine = self.machine
        living = [phone for phone in self.phones if not phone.is_dead]
        self._drain(living)
        for phone in living:
            for lease_id, lease in list(phone.leases.items()):
                if lease.ttl is None and not phone.has_copy:
                    give = ["give", lease.certificate, lease.left]
                    phone.commit("give", lease.item, lease.left, give, self.random.randbytes(8), lease=lease_id)
            phone.leases.clear()
        self._drain(living)
        machine.jump_ms = 0
        # After a clock was set back and forth leases end late, never early, until an operator confirms it; those that
        # were granted while it was ahead end when it has come there.
        machine.ask([ConfirmLeaseClock()])
        furthest = machine.now + AHEAD_MS + TTL_MS[1] + 2 * LEASE_GRACE_MS
        while machine.now < furthest:
            machine.now += LEASE_GRACE_MS
            while machine.tend():
                pass
        with machine.store.read() as tx:
            held = list(listed(tx, SPACE, 1_000_000))
        check(all(lease.until is None for lease in held), "leases with a ttl end by themselves")
        for lease in held:
            self.counts["ended by an operator"] += 1
            machine.ask([EndLease(SPACE, lease.collection, lease.document_id, lease.field, lease.lease)])
        self._check_sold()
        for item, where in enumerate(ITEMS):
            book = machine.book(item)
            check(book["leased"] == 0 and book["taken"] == self.taken[item], f"the outcomes said otherwise: {book}")
            check(book["total"] == self.stock[item], f"the stock was {self.stock[item]}: {book}")
            if book["available"]:
                last = self._post(["bounded.take", *where, book["available"], None])
                check(last == "applied", "what is left can be sold")
            self.counts["sold at the end"] += book["available"]
            check(machine.book(item)["taken"] == self.stock[item], "all stock is sold")
            check(self._post(["bounded.take", *where, 1, None]) == "precondition", "and not one more")
        with machine.store.read() as tx:
            check(not list(fsck.check(tx)), "the store is sound")

    def _drain(self, phones: list[Phone]) -> None:
        for phone in phones:
            phone.is_online = True
        for _ in range(10_000):
            if not any(phone.outbox for phone in phones):
                return
            self.machine.now += STEP_MS
            self._sync(phones, risk=0.0)
        raise Broken("an outbox does not drain")
