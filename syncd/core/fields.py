"""Field types: the state each keeps and the rule by which concurrent operations merge.

Owns one pure function per type: (state, action, arguments, observer) -> step. Must not know documents, spaces or the
store. A state is plain data (tuples, dicts, scalars) that is written to disk as it is; `None` means "no operation yet".

Invariants: F1 a state is never altered in place. F2 what a change has seen never beats it. F3 the outcome does not
depend on the order in which concurrent changes arrive, except through `(eff, seq)`. F4 `value_of` is normalized.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from syncd.core import leases, texts
from syncd.core.values import INTEGER_MAX, ITEMS_MAX, Value, decoded, encoded, is_same

MV_VALUES_MAX = 8
ELEMENT_BYTES = 8  # of the random name of a list's element, which ends its position
MAP_DROPPED_MAX = 256  # markers of dropped keys that a map keeps; the oldest are forgotten and counted

# A named tuple's own constructor is a Python function around this call; the tuples below are made for each operation.
_new = tuple.__new__

Mark = tuple[int, int]  # (seq, slot): which change wrote this
Register = tuple[bool, Value, int, int, int]  # present, value, eff, seq, slot
Item = tuple[bytes, Value, int, int, int]  # position, value, eff, seq, slot; the last three: of whoever placed it


class OperationRefused(Exception):
    """An operation cannot take effect: the whole change ends in `outcome`."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


class Observer(NamedTuple):
    """A change as the merge rules see it. `slot` is the device's slot in the space; `has_memory` is false for API keys
    and the server, whose earlier changes count as seen only through `base`. `stamp` and `time` (T of its seq) in ms.
    `context`: (slot, seq) of each earlier id of the device, whose changes up to that seq count as seen, too."""

    base: int
    slot: int
    has_memory: bool
    seq: int
    stamp: int
    time: int
    context: tuple[Mark, ...] = ()

    def has_seen(self, seq: int, slot: int) -> bool:
        """Happens-before, in two integers: `seq` lies below our base, or is our own earlier change (or this one)."""
        if seq <= self.base or seq == self.seq or (slot == self.slot and self.has_memory):
            return True
        return bool(self.context) and any(slot == former and seq <= last for former, last in self.context)

    @property
    def mark(self) -> Mark:
        return (self.seq, self.slot)


class Step(NamedTuple):
    """What an operation did to a field. `visible`: its value changed. `met`: concurrent changes, with a verdict each.
    `lost`: values that gave way and are kept as dead letters."""

    state: Any
    visible: bool
    met: tuple[tuple[str, int], ...] = ()
    lost: tuple[Value, ...] = ()


def _written(state: Register | None, present: bool, value: Value, by: Observer) -> Step:
    """The register rule, for `reg` and for each key of a `map`."""
    _, slot, _, seq, eff, time, _ = by
    if eff > time:
        eff = time
    if state is None:
        return _new(Step, ((present, value, eff, seq, slot), present, (), ()))
    was_present, old, old_eff, old_seq, old_slot = state
    met: tuple[tuple[str, int], ...] = ()
    if by.has_seen(old_seq, old_slot):
        if eff < old_eff:
            eff = old_eff
    elif eff < old_eff:
        return Step(state, False, (("lost", old_seq),))
    else:
        met = (("won", old_seq),)
    visible = present != was_present or (present and not is_same(value, old))
    return _new(Step, ((present, value, eff, seq, slot), visible, met, ()))


def _reg(state: Register | None, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    return _written(state, action == "set", args[0] if args else None, by)  # `reserve`: see core/documents.py


def _mv(state: Any, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    eff = min(by.stamp, by.time)
    rest = []
    for item in state or ():
        if by.has_seen(item[2], item[3]):
            eff = max(eff, item[1])
        else:
            rest.append(item)
    standing = sorted([*rest, (args[0], eff, by.seq, by.slot)], key=lambda item: (item[1], item[2]), reverse=True)
    kept, gone = standing[:MV_VALUES_MAX], standing[MV_VALUES_MAX:]
    before = [item[0] for item in state or ()]
    after = [item[0] for item in kept]
    met = tuple(("beside", item[2]) for item in rest)
    if gone and gone[0][2] == by.seq:
        return Step(state, False, met, (args[0],))
    return Step(tuple(kept), state is None or not is_same(before, after), met, tuple(item[0] for item in gone))


def _counter(state: int | None, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    total = (state or 0) + args[0]
    if not -INTEGER_MAX <= total <= INTEGER_MAX:
        raise OperationRefused("invalid", f"the counter would be {total}, outside +-(2^53 - 1)")
    return Step(total, True)


def _max(state: Value, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    return Step(args[0], True) if state is None or args[0] > state else Step(state, False)


def _min(state: Value, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    return Step(args[0], True) if state is None or args[0] < state else Step(state, False)


def _adds(marks: tuple[Mark, ...], is_add: bool, by: Observer) -> tuple[tuple[Mark, ...], tuple[tuple[str, int], ...]]:
    """Add wins: what is left of an element's adds, and which concurrent adds a remove left standing."""
    rest = tuple(mark for mark in marks if not by.has_seen(mark[0], mark[1]))
    if is_add:
        return (*rest, by.mark), ()
    if len(rest) == len(marks):
        rest = marks  # the same object: nothing ended, so the remove wrote nothing
    return rest, tuple(("lost", mark[0]) for mark in rest)


def _set(state: dict[bytes, tuple[Mark, ...]] | None, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    key = encoded(args[0])
    before = () if state is None else state.get(key, ())
    after, met = _adds(before, action == "add", by)
    if after is before and state is not None:
        return Step(state, False, met)
    elements = dict(state or {})
    if after:
        elements[key] = after
        if len(elements) > ITEMS_MAX:
            raise OperationRefused("too_large", f"a set has at most {ITEMS_MAX} elements")
    elif before:
        del elements[key]
    return Step(elements, state is None or bool(before) != bool(after), met)


def _flag(state: tuple[Mark, ...] | None, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    after, met = _adds(() if state is None else state, action == "enable", by)
    return Step(after, state is None or bool(state) != bool(after), met)


def _map(state: tuple[dict[str, Register], int] | None, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    keys, forgotten = state or ({}, 0)
    is_put = action == "put"
    old = keys.get(args[0])
    step = _written(old, is_put, args[1] if is_put else None, by)
    if step.state is old:
        return Step(state, False, step.met)
    keys = {**keys, args[0]: step.state}
    is_other = old is None or old[0] != is_put  # a key more that is visible, or that was dropped: only then count them
    if is_put and is_other and len(keys) > ITEMS_MAX and sum(register[0] for register in keys.values()) > ITEMS_MAX:
        raise OperationRefused("too_large", f"a map has at most {ITEMS_MAX} keys")
    if not is_put and is_other and len(keys) > MAP_DROPPED_MAX:
        dropped = [key for key, register in keys.items() if not register[0]]
        if len(dropped) > MAP_DROPPED_MAX:
            del keys[min(dropped, key=lambda key: keys[key][3])]
            forgotten += 1
    return Step((keys, forgotten), state is None or step.visible, step.met)


def _bounded(state: Any, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    """The book of `core/leases.py`. It asks for no sight: units are there or not, whatever their author had seen."""
    result = leases.moved(state, action, args, by.slot, by.seq, by.time)
    if isinstance(result, leases.Refusal):
        raise OperationRefused(*result)
    is_visible = state is None or list(state[:4]) != list(result.book[:4])
    return Step(result.book, is_visible, result.met)


def _list(state: dict[bytes, Item] | None, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    """Elements by name. The name is random, so who names an element has seen its insert, whatever the bases say.

    A removed element leaves no marker. None is needed: only an insert makes an element, and a name is inserted once, so
    a move that arrives after the remove finds nothing to move. The position is decided by the register rule.
    """
    items = state or {}
    name = args[0][-ELEMENT_BYTES:]
    old = items.get(name)
    if action == "insert":
        if old is not None:
            raise OperationRefused("invalid", "the list has an element of this name; a new one is random")
        if len(items) >= ITEMS_MAX:
            raise OperationRefused("too_large", f"a list has at most {ITEMS_MAX} elements")
        return Step({**items, name: (args[0], args[1], min(by.stamp, by.time), by.seq, by.slot)}, True)
    if old is None:
        return Step(items if state is None else state, state is None)
    if action == "remove":
        met = () if by.has_seen(old[3], old[4]) else (("won", old[3]),)
        rest = dict(items)
        del rest[name]
        return Step(rest, True, met)
    place: Register = (True, old[0], *old[2:])
    step = _written(place, True, args[0], by)
    if step.state is place:
        return Step(state, False, step.met)
    return Step({**items, name: (step.state[1], old[1], *step.state[2:])}, step.visible, step.met)


def _text(state: texts.TextState | None, action: str, args: tuple[Value, ...], by: Observer) -> Step:
    """Nothing is decided: updates commute, and who reads them merges."""
    start, updates = state or (0, ())
    if len(updates) >= ITEMS_MAX:
        raise OperationRefused("too_large", f"a text has at most {ITEMS_MAX} updates that are not merged")
    return Step((start, (*updates, (by.seq, args[0]))), True)


def _ordered(state: dict[bytes, Item]) -> list[Value]:
    """[position, value] of each element. No two positions are equal, as each ends with the name of its element."""
    return [[item[0], item[1]] for item in sorted(state.values(), key=_position)]


def _position(item: Item) -> bytes:
    return item[0]


def _listed(state: dict[bytes, Any]) -> list[Value]:
    return [decoded(key) for key in sorted(state)]


def _mapped(state: tuple[dict[str, Register], int]) -> dict[str, Value]:
    return {key: register[1] for key, register in sorted(state[0].items()) if register[0]}


class FieldType(NamedTuple):
    """`step` applies an action, `value_of` gives what a delta shows of a state."""

    step: Callable[[Any, str, tuple[Value, ...], Observer], Step]
    value_of: Callable[[Any], Value]


TYPES: dict[str, FieldType] = {
    "reg": FieldType(_reg, lambda state: state[1]),
    "mv": FieldType(_mv, lambda state: [item[0] for item in state]),
    "counter": FieldType(_counter, lambda state: state),
    "max": FieldType(_max, lambda state: state),
    "min": FieldType(_min, lambda state: state),
    "set": FieldType(_set, _listed),
    "flag": FieldType(_flag, lambda state: bool(state)),
    "map": FieldType(_map, _mapped),
    "bounded": FieldType(_bounded, leases.value_of),
    "list": FieldType(_list, _ordered),
    "text": FieldType(_text, texts.whole),
}


class Field(NamedTuple):
    """A field as stored. `rev`: seq of its last visible change, 0 if there was none; `(seq, slot)`: the last change
    that wrote to it, visibly or not. What lost against it, or ended nothing, wrote nothing."""

    type: str
    rev: int
    seq: int
    slot: int
    state: Any

    @property
    def is_visible(self) -> bool:
        return self.type != "reg" or bool(self.state[0])

    @property
    def has_leases(self) -> bool:
        """Whether units of this field are promised to devices."""
        return self.type == "bounded" and bool(leases.book_of(self.state).leases)

    @property
    def value(self) -> Value:
        """What a delta shows of it."""
        return self.state[1] if self.type == "reg" else TYPES[self.type].value_of(self.state)

    @property
    def counted(self) -> Value:
        """What the checksum counts of it: of a text its rev, as merging its updates changes nothing."""
        return self.rev if self.type == "text" else self.value

    def shown(self, since: int) -> list[Value]:
        """[type, value] for one who has everything up to `since`."""
        return [self.type, texts.since(self.state, since) if self.type == "text" else self.value]


def stepped(
    field: Field | None, type_name: str, action: str, args: tuple[Value, ...], by: Observer
) -> tuple[Field, Step]:
    """Apply one operation to a field (None: it does not exist yet). Raises `OperationRefused`."""
    if field is None:
        step = TYPES[type_name].step(None, action, args, by)
        rev = by.seq if step.visible else 0
    elif field.type != type_name:
        raise OperationRefused("type_mismatch", f"the field is of type {field.type}, not {type_name}")
    else:
        step = TYPES[type_name].step(field.state, action, args, by)
        if step.state is field.state:
            return field, step
        rev = by.seq if step.visible else field.rev
    return _new(Field, (type_name, rev, by.seq, by.slot, step.state)), step
