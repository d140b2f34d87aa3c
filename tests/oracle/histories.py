"""Random offline histories, and the world in which they happen.

A history is data: how many devices there are, how wrong their clocks go, and a list of events (edit, push, sync, the
clock moves on). So a failing one can be shrunk by Hypothesis and printed whole. `World` lets it happen: devices edit
offline against what they last synced, a server takes their changes in some order, and at each step what the server
says is compared with the oracle. The server is whatever keeps the three methods of `Server`.

Devices carry *full version vectors*, joined as they learn of changes, and beside them the two integers that travel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, NamedTuple, Protocol

from syncd.core.ids import Dot
from syncd.core.vector import VersionVector
from tests.oracle.oracle import Judgement, Oracle, Told, packed
from tests.oracle.replica import Replica, sum_of

DOCUMENTS = (("c", "a"), ("c", "b"), ("d", "a"))
FIELDS = ("reg", "mv", "counter", "max", "min", "set", "flag", "map", "mixed")
VALUES: tuple[Any, ...] = (None, True, False, 1, 0, "x", "é", b"x", 1.5, [1], [True], {"k": 1}, -1)
NUMBERS: tuple[Any, ...] = (0, 1, -1, 1.5, 7, -2.25, 2**53 - 1)
KEYS = ("k", "l")
LEASES = (bytes([1]) * 16, bytes([2]) * 16)  # few ids: another's are named, and what has ended
ELEMENTS = tuple(bytes(7) + bytes([number]) for number in range(1, 6))  # few: they meet, and are inserted anew
INDEXES = (b"\x40", b"\x80", b"\x80\x00", b"\xc0")
CARELESS = -900  # the skew of a device that stamps with its bare clock
CONTEXT_MAX = 2  # earlier ids that a change may name
KEY_AUTHOR = -1  # an API key: it has no memory of its own, and its changes arrive at once


# -- events -----------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One operation to come. `ahead`: 0, or how far beyond `complete` the display was that it was made on. `schema`: 0,
    or the version of its collection's schema that the application says it knows."""

    wire: tuple[Any, ...]
    ahead: int = 0
    schema: int = 0


class Edit(NamedTuple):
    """`device` commits a change. `back`: 0, or how many syncs ago the editor was opened in which it was made."""

    device: int
    steps: tuple[Step, ...]
    back: int = 0


class Push(NamedTuple):
    """`device` sends up to `at_most` changes of its outbox."""

    device: int
    at_most: int


class Sync(NamedTuple):
    """`device` receives everything up to the head."""

    device: int


class Tick(NamedTuple):
    ms: int


class Rename(NamedTuple):
    """`device` must go on under another id, as one whose store was copied: what it has not sent is made anew."""

    device: int


class Configure(NamedTuple):
    """The operator's next schemas come into force."""


Event = Edit | Push | Sync | Tick | Rename | Configure
Tables = Mapping[str, Mapping[str, Any]]  # name of a schema -> its table, as an operator writes it


class History(NamedTuple):
    """`skews`: how far each device's clock is off, in ms: one device per item. `wins`: the collections in which updates
    win over deletes that had not seen them. `laws`: the schemas that are in force one after the other
    (`lawful.py`)."""

    skews: tuple[int, ...]
    events: tuple[Event, ...]
    wins: frozenset[str] = frozenset()
    laws: tuple[Tables, ...] = ()


# -- seeded histories -------------------------------------------------------------------------------------------------


def random_wire(random: Random) -> tuple[Any, ...]:
    """One operation on a few documents with few fields, so that everything meets everything."""
    document = DOCUMENTS[0] if random.random() < 0.6 else random.choice(DOCUMENTS)
    roll = random.random()
    if roll < 0.15:
        return ("create", *document)
    if roll < 0.22:
        return ("delete", *document)
    name = random.choice(FIELDS)
    if roll < 0.28:
        return ("expect", *document, name)
    kind = name if name != "mixed" else random.choice(FIELDS[:-1])
    return (*_with_verb(random, kind, document, name),)


def _with_verb(random: Random, kind: str, document: tuple[str, str], name: str) -> tuple[Any, ...]:
    where = (*document, name)
    is_first = random.random() < 0.6
    match kind:
        case "reg":
            return ("reg.set", *where, random.choice(VALUES)) if is_first else ("reg.unset", *where)
        case "mv":
            return ("mv.set", *where, random.choice(VALUES))
        case "counter":
            by = random.choice((1, 2, -1, 5, 2**53 - 1, -(2**53 - 1))) if random.random() < 0.97 else 0
            return ("counter.inc", *where, by)
        case "max" | "min":
            return (f"{kind}.put", *where, random.choice(NUMBERS))
        case "set":
            return ("set.add" if is_first else "set.remove", *where, random.choice(VALUES[:5]))
        case "flag":
            return ("flag.enable" if is_first else "flag.disable", *where)
    return (
        ("map.put", *where, random.choice(KEYS), random.choice(VALUES))
        if is_first
        else ("map.drop", *where, random.choice(KEYS))
    )


def random_stock_wire(random: Random) -> tuple[Any, ...]:
    """One operation on a stock; now and then on the field that others use with another type."""
    where = (*DOCUMENTS[0], "stock" if random.random() < 0.95 else "mixed")
    lease, count = random.choice(LEASES), random.choice((1, 1, 2, 3))
    roll = random.random()
    if roll < 0.2:
        return ("bounded.restock", *where, random.choice((1, 3, 6, -1, -4)))
    if roll < 0.45:
        return ("bounded.lease", *where, lease, count, random.choice((None, 60_000)))
    if roll < 0.8:
        return ("bounded.take", *where, count, random.choice((lease, lease, lease, None)))
    return ("bounded.give", *where, lease, count) if roll < 0.9 else ("bounded.refund", *where, count)


def random_list_wire(random: Random) -> tuple[Any, ...]:
    """One operation on a list; now and then on the field that others use with another type."""
    where = (*DOCUMENTS[0], "list" if random.random() < 0.9 else "mixed")
    position = random.choice(INDEXES) + random.choice(ELEMENTS)
    roll = random.random()
    if roll < 0.1:
        return ("expect", *where)
    if roll < 0.4:
        return ("list.insert", *where, position, random.choice(VALUES))
    return ("list.move", *where, position) if roll < 0.75 else ("list.remove", *where, position[-8:])


def random_text_wire(random: Random) -> tuple[Any, ...]:
    """An update of a text; now and then on the field that others use with another type."""
    where = (*DOCUMENTS[0], "text" if random.random() < 0.9 else "mixed")
    return ("expect", *where) if random.random() < 0.1 else ("text.update", *where, random.randbytes(3))


def random_unique_wire(random: Random) -> tuple[Any, ...]:
    """One document takes a key, of which there are few."""
    return ("unique", *random.choice(DOCUMENTS), random.choice(("reg", "nick")), random.choice(KEYS))


def random_edit(random: Random, device: int) -> Edit:
    count = 1 if random.random() < 0.7 else random.randint(2, 5)
    steps = tuple(
        Step(random_wire(random), random.randint(1, 6) if random.random() < 0.06 else 0) for _ in range(count)
    )
    if device != KEY_AUTHOR and random.random() < 0.6:
        # Clients create what they edit: without this most histories would be a row of refusals.
        steps = (Step(("create", *steps[0].wire[1:3])), *steps)
    return Edit(device, steps, random.randint(1, 3) if random.random() < 0.08 else 0)


def random_history(seed: int) -> History:
    """2-5 devices and an API key; one device lapses in the middle and comes back at the end with all it holds."""
    random, stocks, lists = Random(seed), Random(f"{seed}/stocks"), Random(f"{seed}/lists")
    renaming, texts = Random(f"{seed}/renaming"), Random(f"{seed}/texts")
    uniques = Random(f"{seed}/uniques")
    count = random.randint(2, 5)
    skews = tuple(random.choice((0, 0, -40, 40, 10_000, CARELESS)) for _ in range(count))
    lapsed = random.randrange(count)
    length = random.randint(10, 60)
    events: list[Event] = []
    for step in range(length):
        device = random.randrange(count)
        roll = random.random()
        if roll < 0.45:
            events.append(random_edit(random, device))
        elif roll < 0.50:
            events.append(random_edit(random, KEY_AUTHOR))
        elif roll < 0.60:
            events.append(Tick(random.randint(0, 60)))
        elif renaming.random() < 0.05:
            events.append(Rename(device))
        elif device == lapsed and step > length // 2:
            continue
        elif roll < 0.80:
            events.append(Push(device, random.randint(1, 4)))
        else:
            events.append(Sync(device))
    share = stocks.choice((0.0, 0.1, 0.7))
    events = [_with_others(event, random_stock_wire, stocks, share) for event in events]
    share = lists.choice((0.0, 0.1, 0.7))
    events = [_with_others(event, random_list_wire, lists, share) for event in events]
    share = texts.choice((0.0, 0.1, 0.7))
    events = [_with_others(event, random_text_wire, texts, share) for event in events]
    share = uniques.choice((0.0, 0.0, 0.1, 0.5))
    wins = Random(f"{seed}/wins").choice((frozenset(), frozenset("c"), frozenset("cd")))
    return History(skews, tuple(_with_others(event, random_unique_wire, uniques, share) for event in events), wins)


def _with_others(event: Event, wire: Callable[[Random], tuple[Any, ...]], random: Random, share: float) -> Event:
    """The event, a share of whose operations on fields are others."""
    if not isinstance(event, Edit):
        return event
    steps = [
        step._replace(wire=wire(random)) if len(step.wire) > 3 and random.random() < share else step
        for step in event.steps
    ]
    return event._replace(steps=tuple(steps))


# -- the world --------------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A change as it travels: [n, nonce, base, stamp, operations], and its context."""

    n: int
    nonce: bytes
    base: int
    stamp: int
    operations: list[list[Any]]
    context: tuple[tuple[bytes, int, int], ...] = ()

    def wire(self) -> list[Any]:
        items = [self.n, self.nonce, self.base, self.stamp, self.operations]
        return [*items, [list(former) for former in self.context]] if self.context else items


class Answer(NamedTuple):
    """What a server says became of a change; `met` None if it does not tell. `schema`: which rule it broke."""

    outcome: str
    seq: int | None
    op: int | None
    met: tuple[tuple[int, str, int], ...] | None
    schema: dict[str, Any] | None = None


class Server(Protocol):
    """What the world needs of a server. Devices are numbered from 0; `KEY_AUTHOR` is the API key. `floor`: what was
    deleted up to there is forgotten; `frontier`: and what was deleted up to there is not revived, where updates win.
    Both move only in `collect`."""

    floor: int
    frontier: int

    def collect(self, now_ms: int) -> None:
        """Before each push: a good time to forget something."""
        ...

    def push(self, device: int, changes: Sequence[Sent], now_ms: int) -> list[Answer]: ...

    def deltas(self, replica: Replica, device: int) -> None:
        """Bring the replica to the head."""
        ...

    def finish(self) -> None:
        """Check whatever the server can check about itself."""
        ...


@dataclass(slots=True)
class View:
    """What a device knew at some moment: everything up to `complete`, whose full vector is `vector`."""

    complete: int
    time: int
    vector: VersionVector


class Made(NamedTuple):
    """A change in an outbox. `read`: the vector of what its author had read, its own changes left out."""

    sent: Sent
    told: Told
    read: VersionVector


@dataclass(slots=True)
class Device:
    """A replica with an outbox. `own`: the vector of its own changes; `taken`: of those that were pushed, the last of
    them that was accepted at `taken_seq`. `formers`: (id, n, seq) of the ids that it had before."""

    number: int
    id: bytes
    skew: int
    replica: Replica = field(default_factory=Replica)
    views: list[View] = field(default_factory=lambda: [View(0, 0, VersionVector())])
    own: VersionVector = field(default_factory=VersionVector)
    n: int = 0
    stamp: int = 0
    outbox: list[Made] = field(default_factory=list)
    taken: VersionVector = field(default_factory=VersionVector)
    taken_seq: int = 0
    formers: list[tuple[bytes, int, int]] = field(default_factory=list)


class Difference(AssertionError):
    """The server and the oracle disagree."""


def check(what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise Difference(f"{what}:\n  server {got!r}\n  oracle {wanted!r}")


class World:
    """Lets a history happen on a server, and compares with the oracle at every step."""

    def __init__(self, history: History, server: Server) -> None:
        self.history, self.server, self.oracle = history, server, Oracle(history.wins)
        self.now = 1_000
        self.devices = [Device(i, bytes([i + 1]) * 16, skew) for i, skew in enumerate(history.skews)]
        self.key = Device(KEY_AUTHOR, bytes([255]) * 16, 0)
        self.sent: dict[int, tuple[bytes, Sent]] = {}  # seq -> who sent it, and as what
        self.ids = len(self.devices)  # given so far
        self.times = [0]  # T(seq)
        self.counts: dict[str, int] = {}

    def run(self) -> dict[str, int]:
        """Returns how often each outcome occurred. Raises `Difference`."""
        for event in self.history.events:
            match event:
                case Edit(device=number, steps=steps, back=back):
                    self._edit(self._device(number), steps, back)
                case Push(device=number, at_most=count):
                    self._push(self._device(number), count)
                case Sync(device=number):
                    self._sync(self._device(number))
                case Tick(ms=ms):
                    self.now += ms
                case Rename(device=number):
                    self._rename(self._device(number))
                case Configure():
                    self._configure()
        for device in self.devices:
            self._push(device, len(device.outbox))
        for device in self.devices:
            self._sync(device)
        self._check_happens_before()
        self.server.finish()
        return self.counts

    def _configure(self) -> None:
        raise AssertionError("a history with schemas happens in a world that knows them")

    def _judged(self, sent: Sent, told: Told, answer: Answer) -> Judgement:
        """What the oracle says of a change, which is kept if it is accepted."""
        return self.oracle.judge(told)

    def _device(self, number: int) -> Device:
        return self.key if number == KEY_AUTHOR else self.devices[number % len(self.devices)]

    def _edit(self, device: Device, steps: Sequence[Step], back: int) -> None:
        is_key = device is self.key
        view = device.views[max(0, len(device.views) - 1 - back)]
        device.n += 1
        dot = Dot(device.id + device.n.to_bytes(4, "big"), 1) if is_key else Dot(device.id, device.n)
        if is_key:
            # A backend has read some position, not far below the head.
            base = max(0, self.oracle.head - back)
            view = View(base, self.times[base], self._read(VersionVector(), base))
        vector = view.vector.joined(device.own)
        operations, vectors, bases = [], [], []
        for step in steps:
            seen = min(view.complete + step.ahead, self.oracle.head) if step.ahead else 0
            options = {**({"seen": seen} if seen else {}), **({"schema": step.schema} if step.schema else {})}
            operations.append([*step.wire, options] if options else list(step.wire))
            vectors.append(self._read(vector, seen))
            bases.append(max(seen, view.complete))
        clock = max(0, self.now + device.skew)
        # One that breaks the rule must not lose what it had seen, nor win for ever.
        device.stamp = clock if device.skew == CARELESS else max(clock, view.time, device.stamp)
        stamp = max(0, self.now) if is_key else device.stamp
        nonce = packed(device.number)[:1] * 4 + device.n.to_bytes(4, "big")
        sent = Sent(device.n, nonce, view.complete, stamp, operations, _context(device, view.complete))
        wires = tuple(step.wire for step in steps)
        told = Told(dot, vector, tuple(vectors), stamp, 0, wires, tuple(bases))
        device.outbox.append(Made(sent, told, view.vector))
        if is_key:
            self._push(device, 1)
        else:
            device.own = device.own.advanced(dot)

    def _rename(self, device: Device) -> None:
        """The changes that were not taken are made anew, in order, as what they are: by one who has seen what it made
        under its earlier ids."""
        if len(device.formers) == CONTEXT_MAX:
            return  # of a third id it would have to forget the first: it would have seen less than its vector says
        device.formers.append((device.id, device.taken[device.id], device.taken_seq))
        self.ids += 1
        device.number, device.id = self.ids - 1, bytes([self.ids]) * 16
        device.own, device.taken_seq, device.n = device.taken, 0, 0
        again, device.outbox = device.outbox, []
        for sent, told, read in again:
            device.n += 1
            dot, vector = Dot(device.id, device.n), read.joined(device.own)
            seen = [operation[-1]["seen"] if _is_raised(operation) else 0 for operation in sent.operations]
            vectors = tuple(self._read(vector, seq) for seq in seen)
            context = _context(device, sent.base)
            told = replace(told, dot=dot, vector=vector, vectors=vectors)
            device.outbox.append(Made(sent._replace(n=device.n, context=context), told, read))
            device.own = device.own.advanced(dot)

    def _read(self, vector: VersionVector, to: int) -> VersionVector:
        """`vector`, and all changes up to seq `to`."""
        return vector.joined(VersionVector.of(told.dot for seq, told in self.oracle.accepted if seq <= to))

    def _push(self, device: Device, count: int) -> None:
        batch, device.outbox = device.outbox[:count], device.outbox[count:]
        if not batch:
            return
        self.server.collect(self.now)
        self.oracle.floor, self.oracle.frontier = self.server.floor, self.server.frontier
        answers = self.server.push(device.number, [made.sent for made in batch], self.now)
        assert len(answers) == len(batch), "one outcome for each change"
        for (sent, told, _), answer in zip(batch, answers, strict=True):
            device.taken = device.taken.advanced(told.dot)
            time = max(self.times[-1], self.now)
            judged = self._judged(sent, replace(told, time=time), answer)
            self.counts[judged.outcome] = self.counts.get(judged.outcome, 0) + 1
            check(
                f"outcome of {sent}", (answer.outcome, answer.seq, answer.op), (judged.outcome, judged.seq, judged.op)
            )
            check_met(answer, judged)
            if judged.seq is not None:
                self.times.append(time)
                self.sent[judged.seq] = (device.id, sent)
                device.taken_seq = judged.seq

    def _sync(self, device: Device) -> None:
        self.server.deltas(device.replica, device.number)
        check("position", device.replica.complete, self.oracle.head)
        state = self.oracle.state()
        check("state", exact(device.replica.documents), exact(state))
        check("sum", sum_of(device.replica.documents), sum_of(state))
        view = device.views[-1]
        vector = view.vector
        for seq, told in self.oracle.accepted[view.complete :]:
            vector = vector.joined(told.vector).advanced(told.dot)
            assert seq > view.complete
        device.views.append(View(device.replica.complete, self.times[self.oracle.head], vector))

    def _check_happens_before(self) -> None:
        """For all pairs: the two integers say what the full vectors say."""
        accepted = self.oracle.accepted
        for b_seq, b in accepted:
            b_id, b_sent = self.sent[b_seq]
            for a_seq, a in accepted:
                a_id, a_sent = self.sent[a_seq]
                is_own = a_id == b_id and a_id != self.key.id and a_sent.n < b_sent.n
                is_former = any(a_id == former and a_seq <= seq for former, _, seq in b_sent.context)
                if (a_seq <= b_sent.base or is_own or is_former) != (a.dot in b.vector):
                    raise Difference(f"happens-before of {a_sent} and {b_sent}")


def _context(device: Device, base: int) -> tuple[tuple[bytes, int, int], ...]:
    return tuple(former for former in device.formers if former[2] > base)


def _is_raised(operation: list[Any]) -> bool:
    return isinstance(operation[-1], dict) and "seen" in operation[-1]


def check_met(answer: Answer, judged: Judgement) -> None:
    """A server names who was met; for a delete at least one of those that it ended."""
    if answer.met is None:
        return
    got, wanted = set(answer.met), set(judged.met)
    ended = {item for item in wanted if item[1] == "ended"}
    if not (wanted - ended <= got <= wanted and {i[0] for i in ended} == {i[0] for i in got if i[1] == "ended"}):
        raise Difference(f"met:\n  server {answer.met!r}\n  oracle {judged.met!r}")


def exact(documents: dict[tuple[str, str], tuple[int, dict[str, list[Any]]]]) -> dict[Any, Any]:
    """A comparable form in which 1 is not True, and a text is the same however many of its updates are merged."""
    return {
        key: (rev, {name: packed(unmerged(shown)) for name, shown in fields.items()})
        for key, (rev, fields) in documents.items()
    }


def unmerged(shown: list[Any]) -> list[Any]:
    """A text as one update, where to merge means to join: so all of them are there, once, in order."""
    if shown[0] != "text":
        return shown
    after, updates = shown[1]
    return ["text", [after, [[updates[-1][0], b"".join(update for _, update in updates)]]]]
