"""view = replay(outbox, synced): what the application sees.

Owns the rules of section 6 for one operation on one document. The client never merges: what replay shows of an edit is
a guess until the server's result replaces it. Pure functions over plain values; knows no store and no positions.

1. Replaying nothing gives the synced state itself.
2. Replay never alters its input, and its result shares no mutable value with it.
3. An operation that does not fit (absent document, other type) does nothing: no outbox can make a view fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from .messages import FieldValue
from .operations import Operation
from .positions import ELEMENT_BYTES
from .values import Value, canonical, encoded

# The fields of a document as the view shows it, or None if it shows no such document.
State: TypeAlias = dict[str, FieldValue] | None


def replayed(synced: Mapping[str, FieldValue] | None, operations: Iterable[Operation]) -> State:
    """The state of one document after operations, all of which address it, in order."""
    state: State = None
    if synced is not None:
        state = {name: (type_, canonical(value)) for name, (type_, value) in synced.items()}
    for operation in operations:
        state = _after(state, operation)
    return state


def _after(state: State, operation: Operation) -> State:
    if operation.name == "create":
        return {} if state is None else state
    if operation.name == "delete":
        return None
    if state is None or operation.name in ("expect", "unique"):
        return state
    type_, _, verb = operation.name.partition(".")
    name, arguments = operation.arguments[0], operation.arguments[1:]
    known = state.get(name)
    if known is not None and known[0] != type_:
        return state
    if verb == "unset":
        return {other: field for other, field in state.items() if other != name}
    before = None if known is None else known[1]
    return {**state, name: (type_, _RULES[operation.name](before, *arguments))}


def _added(before: Value, item: Value) -> Value:
    items = {encoded(element): element for element in before or []}
    items.setdefault(encoded(item), canonical(item))
    return [items[key] for key in sorted(items)]


def _removed(before: Value, item: Value) -> Value:
    gone = encoded(item)
    return [element for element in before or [] if encoded(element) != gone]


def _put(before: Value, key: str, value: Value) -> Value:
    return canonical({**(before or {}), key: value})


def _dropped(before: Value, key: str) -> Value:
    return {other: value for other, value in (before or {}).items() if other != key}


_NO_STOCK = {"available": 0, "leased": 0, "taken": 0, "total": 0}


def _moved(before: Value, **by: int) -> Value:
    """A stock after units moved between its amounts; as it was, if there are too few."""
    value = {**_NO_STOCK, **(before or {})}
    moved = {name: amount + by.get(name, 0) for name, amount in value.items()}
    return canonical(moved if min(moved.values()) >= 0 else value)


def _taken(before: Value, units: int, named: Value) -> Value:
    return _moved(before, taken=units, **{"available" if named is None else "leased": -units})


def _inserted(before: Value, position: bytes, value: Value) -> Value:
    items = before or []
    if any(_is_named(item, position) for item in items):
        return items
    return sorted([*items, [position, canonical(value)]], key=_position)


def _placed(before: Value, position: bytes) -> Value:
    items = before or []
    return sorted(([position, item[1]] if _is_named(item, position) else item for item in items), key=_position)


def _taken_out(before: Value, element: bytes) -> Value:
    return [item for item in before or [] if not _is_named(item, element)]


def _is_named(item: list[Value], name: bytes) -> bool:
    return bool(item[0][-ELEMENT_BYTES:] == name[-ELEMENT_BYTES:])


def _position(item: list[Value]) -> bytes:
    position: bytes = item[0]
    return position


# Each rule takes the field's value (None if the field is new) and the operation's arguments after the field name.
_RULES: dict[str, Callable[..., Value]] = {
    "reg.set": lambda before, value: canonical(value),
    "mv.set": lambda before, value: [canonical(value)],
    "counter.inc": lambda before, by: (before or 0) + by,
    "max.put": lambda before, number: number if before is None else max(before, number),
    "min.put": lambda before, number: number if before is None else min(before, number),
    "set.add": _added,
    "set.remove": _removed,
    "flag.enable": lambda before: True,
    "flag.disable": lambda before: False,
    "map.put": _put,
    "map.drop": _dropped,
    "bounded.restock": lambda before, by: _moved(before, available=by, total=by),
    "bounded.lease": lambda before, lease, units, ttl: _moved(before, available=-units, leased=units),
    "bounded.take": _taken,
    "bounded.give": lambda before, named, units: _moved(before, leased=-units, available=units),
    "bounded.refund": lambda before, units: _moved(before, taken=-units, available=units),
    "list.insert": _inserted,
    "list.move": _placed,
    "list.remove": _taken_out,
    "text.update": lambda before, update: [0, [*(before or [0, []])[1], [None, update]]],
}
