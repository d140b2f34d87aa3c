"""What a history of changes must come to, from the definitions alone.

Owns a second, slow opinion on everything that the merge core decides. It keeps every accepted operation for ever, with
the full version vector of its author, and computes each answer anew from the whole list. It knows none of the
shortcuts: no (base, n), no pruned makers, no add that replaces adds, no two latest writers, no register without
siblings. Of syncd it may import the `VersionVector` and the ids, and nothing else.

How to read a `Fact`: it is one operation of an accepted change. "b saw a" means that the dot of a is in the vector with
which b was made, or that a is an earlier operation of the same change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from syncd.core.ids import Dot
from syncd.core.vector import VersionVector
from tests.oracle import stock

INTEGER_MAX = 2**53 - 1
MV_MAX = 8
FIELDS_MAX = 1_024  # of a document: those that were ever written in this life of it, and the names of its unique keys
KEPT = "_members"  # the collection of which no deletion is forgotten
ACCEPTED = ("applied", "merged", "noop")
FIELD_TYPES = ("reg", "mv", "counter", "max", "min", "set", "flag", "map", "bounded", "list", "text")

Key = tuple[str, str]
Shown = tuple[int, dict[str, list[Any]]]  # rev, visible fields


@dataclass(frozen=True, slots=True)
class Told:
    """A change as its author could tell it: `vector` is all that the author had read or made before, `vectors` the same
    per operation (an operation may have been made on a newer view); `bases`: up to which seq it had read everything,
    per operation. `dot` is unique per change; an author without memory uses a new device for each, because its changes
    do not follow from one another."""

    dot: Dot
    vector: VersionVector
    vectors: tuple[VersionVector, ...]
    stamp: int
    time: int
    operations: tuple[tuple[Any, ...], ...]
    bases: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """One operation that was accepted. `eff` only for those that time decides (reg, mv, map)."""

    seq: int
    index: int
    dot: Dot
    vector: VersionVector
    verb: str
    key: Key
    name: str | None
    args: tuple[Any, ...]
    eff: int
    is_void: bool = False  # a delete that had not seen all, where updates win
    frontier: int = 0  # where it stood: what had been deleted up to there is not revived

    @property
    def kind(self) -> str:
        return self.verb.partition(".")[0]

    @property
    def order(self) -> tuple[int, int, int]:
        return (self.eff, self.seq, self.index)

    @property
    def author(self) -> bytes:
        """Who holds what this operation leases: the device, or the key, whose changes do not follow from each other."""
        return self.dot.device[:16]

    def saw(self, other: "Fact") -> bool:
        if other.seq == self.seq:
            return other.index < self.index
        return other.dot in self.vector


@dataclass(slots=True)
class Incarnation:
    """One life of a document: the creates that had not seen an earlier maker, the deletes that had seen every maker,
    and the operations on fields that took effect in it."""

    makers: list[Fact] = field(default_factory=list)
    deletes: list[Fact] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    revivals: list[Fact] = field(default_factory=list)

    @property
    def is_live(self) -> bool:
        return not self.deletes


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a change ended. `op`: index of the refused operation. `met`: what was met, as (operation, verdict, seq)."""

    outcome: str
    seq: int | None
    op: int | None
    met: tuple[tuple[int, str, int], ...]


class _Refusal(Exception):
    def __init__(self, outcome: str, op: int) -> None:
        super().__init__(outcome)
        self.outcome, self.op = outcome, op


def packed(value: Any) -> bytes:
    """An injective form of a value, in the order in which sets list their elements."""
    data: bytes = msgpack.packb(value, use_bin_type=True)
    return data


# -- what a field holds, given every operation on it ------------------------------------------------------------------


def _unseen_by_later(facts: Sequence[Fact]) -> list[Fact]:
    # What saw a fact came after it: from the end on, one is soon found.
    return [fact for fact in facts if not any(other.saw(fact) for other in reversed(facts) if other is not fact)]


def winner(facts: Sequence[Fact]) -> Fact | None:
    """Of all sets that no other set has seen, the greatest by (eff, seq)."""
    return max(_unseen_by_later(facts), key=lambda fact: fact.order, default=None)


def standing(facts: Sequence[Fact]) -> list[Fact]:
    """The values of an `mv`, by falling (eff, seq): unseen by a later set, less those that gave way above the limit."""
    gone: set[int] = set()
    for end in range(1, len(facts) + 1):
        left = [fact for fact in _unseen_by_later(facts[:end]) if id(fact) not in gone]
        left.sort(key=lambda fact: fact.order, reverse=True)
        gone.update(id(fact) for fact in left[MV_MAX:])
    left = [fact for fact in _unseen_by_later(facts) if id(fact) not in gone]
    return sorted(left, key=lambda fact: fact.order, reverse=True)


def is_add(fact: Fact) -> bool:
    return fact.verb in ("set.add", "flag.enable")


def live_adds(facts: Sequence[Fact]) -> list[Fact]:
    """The adds of one element that stand: no later add or remove of it has seen them. Where sight is transitive, the
    textbook says the same with removes alone: the element is in iff there is an add that no remove has seen."""
    left = [fact for fact in _unseen_by_later(facts) if is_add(fact)]
    if all(b.vector.descends(a.vector) for a in facts for b in facts if b is not a and b.saw(a)):
        removes = [fact for fact in facts if not is_add(fact)]
        textbook = any(is_add(add) and not any(remove.saw(add) for remove in removes) for add in facts)
        assert textbook == bool(left), "an add that replaces adds must not change what is in the set"
    return left


def cells(facts: Sequence[Fact]) -> dict[bytes, list[Fact]]:
    """The operations by element or key: each element of a set and each key of a map stands for itself."""
    by_cell: dict[bytes, list[Fact]] = {}
    for fact in facts:
        by_cell.setdefault(packed(fact.args[0]), []).append(fact)
    return by_cell


def places(facts: Sequence[Fact]) -> dict[bytes, list[Fact]]:
    """What stands in a list: element -> its insert, and the moves that were taken while it was there. It is there from
    its insert until a remove, whoever had seen what: who names an element has seen its insert."""
    there: dict[bytes, list[Fact]] = {}
    for fact in facts:
        name = fact.args[0][-8:]
        if fact.verb == "list.insert":
            there.setdefault(name, [fact])
        elif fact.verb == "list.remove":
            there.pop(name, None)
        elif name in there:
            there[name].append(fact)
    return there


def content(kind: str, facts: Sequence[Fact]) -> frozenset[int]:
    """The operations of which a field's state is made (by identity): it is altered iff these change."""
    left: Iterable[Fact | None]
    if kind in ("reg", "unique"):
        left = [winner(facts)]
    elif kind == "mv":
        left = standing(facts)
    elif kind in ("counter", "text"):
        left = facts
    elif kind == "bounded":
        left = stock.movers(facts)
    elif kind in ("max", "min"):
        left = [(max if kind == "max" else min)(facts, key=lambda fact: fact.args[0])] if facts else []
    elif kind == "set":
        left = [fact for cell in cells(facts).values() for fact in live_adds(cell)]
    elif kind == "flag":
        left = live_adds(facts)
    elif kind == "list":
        left = [fact for placed in places(facts).values() for fact in (placed[0], winner(placed))]
    else:
        left = [winner(cell) for cell in cells(facts).values()]
    return frozenset(id(fact) for fact in left)


def value_of(kind: str, facts: Sequence[Fact]) -> Any:
    """What a delta shows of the field; for a `reg` a list of one value, or an empty one if it is unset."""
    if kind == "reg":
        last = winner(facts)
        assert last is not None
        return [last.args[0]] if last.verb == "reg.set" else []
    if kind == "mv":
        return [fact.args[0] for fact in standing(facts)]
    if kind == "counter":
        return sum(fact.args[0] for fact in facts)
    if kind in ("max", "min"):
        return (max if kind == "max" else min)(fact.args[0] for fact in facts)
    if kind == "set":
        return [cell[0].args[0] for _, cell in sorted(cells(facts).items()) if live_adds(cell)]
    if kind == "flag":
        return bool(live_adds(facts))
    if kind == "bounded":
        return stock.shown(stock.places(facts))
    if kind == "text":
        return [0, [[facts[-1].seq, b"".join(fact.args[0] for fact in facts)]]]  # as if all were merged by now
    if kind == "list":
        shown = []
        for placed in places(facts).values():
            at = winner(placed)
            assert at is not None
            shown.append([at.args[0], placed[0].args[1]])
        return sorted(shown, key=lambda item: item[0])
    put = {}
    for cell in cells(facts).values():
        last = winner(cell)
        assert last is not None
        if last.verb == "map.put":
            put[last.args[0]] = last.args[1]
    return dict(sorted(put.items()))


def visible_fields(incarnation: Incarnation | None) -> dict[str, list[Any]]:
    """field -> [type, value] of what can be seen of a document."""
    if incarnation is None or not incarnation.is_live:
        return {}
    names: dict[str, list[Fact]] = {}
    for fact in incarnation.facts:
        assert fact.name is not None
        names.setdefault(fact.name, []).append(fact)
    shown = {}
    for name, facts in names.items():
        kind = facts[0].kind
        if kind == "unique":
            continue
        value = value_of(kind, facts)
        if kind != "reg":
            shown[name] = [kind, value]
        elif value:
            shown[name] = [kind, value[0]]
    return shown


def writers(incarnation: Incarnation, name: str) -> list[Fact]:
    """The operations on a field that altered what it is made of, at the time when they were accepted."""
    facts = [fact for fact in incarnation.facts if fact.name == name]
    found = []
    before: frozenset[int] = frozenset()
    for end in range(1, len(facts) + 1):
        after = content(facts[0].kind, facts[:end])
        if after != before or end == 1:
            found.append(facts[end - 1])
        before = after
    return found


# -- the history ------------------------------------------------------------------------------------------------------


class Oracle:
    """Takes changes in the order in which the server took them, and judges each from the whole list of facts.

    `floor`: what was deleted up to here counts as never made. The server moves it; no rule looks at how far it got in
    dropping anything. `wins`: the collections in which updates win over deletes that had not seen them; `frontier`:
    what was deleted there up to here is not revived any more. `is_frozen`: the reserves of stocks give nothing out, as
    after a restore.
    """

    def __init__(self, wins: frozenset[str] = frozenset()) -> None:
        self.head = self.floor = self.frontier = 0
        self.is_frozen = False
        self.wins = wins
        self.accepted: list[tuple[int, Told]] = []
        self.facts: dict[Key, list[Fact]] = {}
        self.revs: dict[Key, int] = {}
        # What a live document shows is made of its facts alone, and the same last one has the same before it at all
        # times: it was appended once. So nothing is computed again until something is done to the document.
        self._visible: dict[Key, tuple[Fact, dict[str, list[Any]]]] = {}
        self._shown: dict[Key, tuple[Fact, int, Shown | None]] = {}

    def copied(self) -> "Oracle":
        copy = Oracle(self.wins)
        copy.head, copy.floor, copy.frontier = self.head, self.floor, self.frontier
        copy.is_frozen = self.is_frozen
        copy.accepted = list(self.accepted)
        copy.facts, copy.revs = {key: list(facts) for key, facts in self.facts.items()}, dict(self.revs)
        return copy

    def incarnation(self, key: Key) -> Incarnation | None:
        """The last life of a document, by a walk through everything that was ever done to it."""
        last: Incarnation | None = None
        for fact in self.facts.get(key, ()):
            if fact.verb == "create":
                is_kept = last is not None and not last.is_live and last.deletes[0].seq > fact.frontier
                if last is not None and is_kept and self._revives(last, fact):
                    last.deletes.clear()
                    last.revivals.append(fact)
                elif last is None or not last.is_live:
                    last = Incarnation([fact])
                elif not any(fact.saw(maker) for maker in last.makers):
                    last.makers.append(fact)
            elif last is None:
                continue
            elif fact.verb == "delete":
                if not fact.is_void and all(fact.saw(maker) for maker in last.makers):
                    last.deletes.append(fact)
            elif fact.verb != "expect":
                if not last.is_live:  # it was accepted all the same
                    last.deletes.clear()
                    last.revivals.append(fact)
                last.facts.append(fact)
        is_forgotten = last is not None and not last.is_live and self.revs[key] <= self.floor and key[0] != KEPT
        return None if is_forgotten else last

    def _revives(self, last: Incarnation, fact: Fact) -> bool:
        """Whether a change knew a document, and none of its deletes. Where updates do not win, it is refused."""
        is_known = any(fact.saw(maker) for maker in last.makers)
        return fact.key[0] in self.wins and is_known and not any(fact.saw(delete) for delete in last.deletes)

    def has_body(self, key: Key) -> bool:
        """Whether a document that was deleted may be revived."""
        return key[0] in self.wins and self.revs.get(key, 0) > self.frontier

    def state(self) -> dict[Key, Shown]:
        """(collection, id) -> (rev, visible fields) of all live documents. Nobody may alter what it returns."""
        shown = {}
        for key, facts in self.facts.items():
            rev, known = self.revs.get(key, 0), self._shown.get(key)
            if known is None or known[0] is not facts[-1] or known[1] != rev:
                last = self.incarnation(key)
                is_live = last is not None and last.is_live
                known = self._shown[key] = (facts[-1], rev, (rev, self._fields(key, last)) if is_live else None)
            if known[2] is not None:
                shown[key] = known[2]
        return shown

    def _fields(self, key: Key, last: Incarnation | None) -> dict[str, list[Any]]:
        """What can be seen of a document, of which this is the last life. Nobody may alter it."""
        if last is None or not last.is_live:
            return {}
        newest, known = self.facts[key][-1], self._visible.get(key)
        if known is None or known[0] is not newest:
            known = self._visible[key] = (newest, visible_fields(last))
        return known[1]

    def judge(self, told: Told) -> Judgement:
        """Judge the next change, and keep it if it is accepted."""
        malformed = next((i for i, operation in enumerate(told.operations) if is_malformed(operation)), None)
        if malformed is not None:
            return Judgement("invalid", None, malformed, ())
        kept = {key: list(facts) for key, facts in self.facts.items()}, dict(self.revs)
        met: list[tuple[int, str, int]] = []
        verdicts = []
        try:
            for index, operation in enumerate(told.operations):
                verdict, found = self._take(told, index, operation)
                verdicts.append(verdict)
                met.extend((index, what, seq) for what, seq in found)
        except _Refusal as refusal:
            self.facts, self.revs = kept
            return Judgement(refusal.outcome, None, refusal.op, ())
        self.head += 1
        self.accepted.append((self.head, told))
        outcome = next((word for word in ("merged", "applied") if word in verdicts), "noop")
        return Judgement(outcome, self.head, None, tuple(met))

    def _take(self, told: Told, index: int, operation: tuple[Any, ...]) -> tuple[str, list[tuple[str, int]]]:
        verb, collection, document, *rest = operation
        key = (collection, document)
        has_field = verb not in ("create", "delete")
        name, args = (rest[0], tuple(rest[1:])) if has_field else (None, ())
        if verb == "unique":
            name = f"unique {name}"  # beside the fields: one may have the same name
        last = self.incarnation(key)
        seq = self.head + 1
        made = (seq, index, told.dot, told.vectors[index], verb, key, name, args, min(told.stamp, told.time))
        fact = Fact(*made, frontier=self.frontier)
        before = last is not None and last.is_live, self._fields(key, last), last.makers[0] if last else None
        back: list[tuple[str, int]] = []
        if last is not None and not last.is_live and self.has_body(key):
            if verb not in ("delete", "expect") and self._revives(last, fact):
                back = [("won", last.deletes[0].seq)]
                last.deletes.clear()
            elif verb == "delete" and (unseen := _unseen_of(last, fact)) and not _unknown(last, fact):
                self.facts[key].append(replace(fact, is_void=True))
                return "noop", [("lost", max(unseen))]
        is_late = told.bases[index] < self.floor and collection != KEPT
        if verb == "create":
            verdict, met = _judged_create(last, fact)
        elif verb == "delete":
            verdict, met = _judged_delete(last, fact, is_late, collection in self.wins)
            if met and met[0][0] == "lost":
                fact = replace(fact, is_void=True)
        elif verb == "unique":
            fact, met = self._judged_unique(last, fact)
            verdict = "merged" if met else ""
        elif verb == "expect":
            verdict, met = _judged_expect(last, fact, is_late), []
        else:
            fact, met = _judged_update(last, fact, self.is_frozen)
            verdict = "merged" if met else ""
        self.facts.setdefault(key, []).append(fact)
        last = self.incarnation(key)
        after = last is not None and last.is_live, self._fields(key, last), last.makers[0] if last else None
        altered = _differ(before, after)
        if altered:
            self.revs[key] = seq
        return ("merged" if back else verdict) or ("applied" if altered else "noop"), [*back, *met]

    def _judged_unique(self, last: Incarnation | None, fact: Fact) -> tuple[Fact, list[tuple[str, int]]]:
        """The key of a document under a name is a register. What would win there must be no other living document's."""
        assert fact.name is not None
        if last is None or not last.is_live or not any(fact.saw(maker) for maker in last.makers):
            raise _Refusal("gone", fact.index)
        _check_room(last, fact)
        facts = [other for other in last.facts if other.name == fact.name]
        stored, met = winner(facts), []
        if stored is not None and fact.saw(stored):
            fact = replace(fact, eff=max(fact.eff, stored.eff))
        elif stored is not None:
            met = [("won" if fact.order > stored.order else "lost", stored.seq)]
        if winner([*facts, fact]) is fact and any(
            self.held(key, fact.name) == fact.args[0] for key in self.facts if key != fact.key
        ):
            raise _Refusal("precondition", fact.index)
        return fact, met

    def held(self, key: Key, name: str) -> Any:
        """The unique key that a document holds."""
        last = self.incarnation(key)
        if last is None or not (last.is_live or self.has_body(key)):
            return None
        holding = winner([fact for fact in last.facts if fact.name == name])
        return None if holding is None else holding.args[0]


def _differ(before: tuple[bool, Any, Fact | None], after: tuple[bool, Any, Fact | None]) -> bool:
    return (
        before[0] != after[0]
        or (after[0] and before[2] is not after[2])
        or packed(sorted(before[1].items())) != packed(sorted(after[1].items()))
    )


def is_malformed(operation: tuple[Any, ...]) -> bool:
    """The few ways in which the generated histories break the form of an operation."""
    if operation[0] == "counter.inc":
        return not operation[4]
    return (
        operation[0] not in ("create", "delete", "expect", "unique")
        and operation[0].partition(".")[0] not in FIELD_TYPES
    )


def _judged_create(last: Incarnation | None, fact: Fact) -> tuple[str, list[tuple[str, int]]]:
    if last is None:
        return "applied", []
    knows = any(fact.saw(maker) for maker in last.makers)
    if last.is_live:
        return ("noop", []) if knows else ("merged", [("maker", last.makers[-1].seq)])
    if knows and not any(fact.saw(delete) for delete in last.deletes):
        raise _Refusal("gone", fact.index)
    return "applied", []


def _unknown(last: Incarnation, fact: Fact) -> list[Fact]:
    return [maker for maker in last.makers if not fact.saw(maker)]


def _unseen_of(last: Incarnation, fact: Fact) -> set[int]:
    """The changes that wrote to a document and that a delete had not seen. To have revived it is to have written."""
    names = {other.name for other in last.facts if other.name is not None}
    found = {writer.seq for name in names for writer in writers(last, name) if not fact.saw(writer)}
    return found | {revival.seq for revival in last.revivals if not fact.saw(revival)}


def _judged_delete(
    last: Incarnation | None, fact: Fact, is_late: bool, update_wins: bool
) -> tuple[str, list[tuple[str, int]]]:
    if last is None:
        return "noop", []
    unknown = _unknown(last, fact)
    if unknown:
        return "noop", [("maker", maker.seq) for maker in unknown]
    if not last.is_live:
        return "noop", []
    for name in {other.name for other in last.facts if other.kind == "bounded"}:
        # A lease is a promise to a device that may be offline.
        if stock.has_leases(stock.places([f for f in last.facts if f.name == name])):
            raise _Refusal("precondition", fact.index)
    ended = _unseen_of(last, fact)
    if ended and update_wins:
        return "noop", [("lost", max(ended))]
    if ended and is_late:
        raise _Refusal("precondition", fact.index)
    return ("merged" if ended else "applied"), [("ended", seq) for seq in sorted(ended)]


def _judged_expect(last: Incarnation | None, fact: Fact, is_late: bool) -> str:
    """A deletion counts as a write to every field of the document. Of what may have been deleted, and is forgotten, a
    late change cannot tell that it was not."""
    assert fact.name is not None
    if last is None:
        if is_late:
            raise _Refusal("precondition", fact.index)
        return "noop"
    if not last.is_live:
        passes = any(fact.saw(delete) for delete in last.deletes)
    else:
        passes = all(fact.saw(writer) for writer in writers(last, fact.name)[-1:])
    if not passes:
        raise _Refusal("precondition", fact.index)
    return "noop"


def _check_room(last: Incarnation, fact: Fact) -> None:
    """A document takes no field more than so many."""
    names = {other.name for other in last.facts}
    if fact.name not in names and len(names) >= FIELDS_MAX:
        raise _Refusal("too_large", fact.index)


def _judged_update(last: Incarnation | None, fact: Fact, is_frozen: bool) -> tuple[Fact, list[tuple[str, int]]]:
    """The fact with its effective time, and what it met."""
    facts = [other for other in last.facts if other.name == fact.name] if last is not None and last.is_live else []
    is_holder = False
    if fact.kind == "bounded":
        shelf = stock.places([other for other in facts if other.kind == "bounded"])
        is_holder = last is not None and last.is_live and stock.holds(shelf, fact)
        if is_frozen and not is_holder and (outcome := stock.closed(shelf, fact)) is not None:
            raise _Refusal(outcome, fact.index)
    if last is None or not last.is_live or not (is_holder or any(fact.saw(maker) for maker in last.makers)):
        raise _Refusal("gone", fact.index)
    _check_room(last, fact)
    if facts and facts[0].kind != fact.kind:
        raise _Refusal("type_mismatch", fact.index)
    if fact.kind == "bounded":
        try:
            _, ended = stock.carried(shelf, fact)
        except stock.TooFew as error:
            raise _Refusal(str(error), fact.index) from None
        return fact, [] if ended is None else [("ended", ended)]
    if fact.kind == "list":
        return _judged_place(places(facts).get(fact.args[0][-8:], []), fact)
    if fact.kind in ("set", "map"):
        facts = cells(facts).get(packed(fact.args[0]), [])
    if fact.kind in ("reg", "map"):
        stored = winner(facts)
        if stored is None:
            return fact, []
        if fact.saw(stored):
            return replace(fact, eff=max(fact.eff, stored.eff)), []
        return fact, [("won" if fact.order > stored.order else "lost", stored.seq)]
    if fact.kind == "mv":
        beside = [other for other in standing(facts) if not fact.saw(other)]
        eff = max([fact.eff, *(other.eff for other in standing(facts) if fact.saw(other))])
        return replace(fact, eff=eff), [("beside", other.seq) for other in beside]
    if fact.kind == "counter":
        if abs(sum(other.args[0] for other in facts) + fact.args[0]) > INTEGER_MAX:
            raise _Refusal("invalid", fact.index)
    elif fact.kind in ("set", "flag") and not is_add(fact):
        return fact, [("lost", add.seq) for add in live_adds(facts) if not fact.saw(add)]
    return fact, []


def _judged_place(placed: list[Fact], fact: Fact) -> tuple[Fact, list[tuple[str, int]]]:
    """`placed`: the insert and the moves of the element that the operation names, if it is there."""
    stored = winner(placed)
    if fact.verb == "list.insert" and stored is not None:
        raise _Refusal("invalid", fact.index)
    if stored is None:
        return fact, []
    if fact.verb == "list.remove":
        return fact, [] if fact.saw(stored) else [("won", stored.seq)]
    if fact.saw(stored):
        return replace(fact, eff=max(fact.eff, stored.eff)), []
    return fact, [("won" if fact.order > stored.order else "lost", stored.seq)]
