"""Reverting: a document becomes what it was as of a seq, by a new change.

Owns which operations bring a document's visible state back, and what cannot be brought back. Must not know how the past
was found (`history.py`), nor who asks. History is not undone: the change is judged, ordered, merged and delivered like
any other, on top of all that came since, by an author who has seen all of it.

Invariants: V1 after a revert that was accepted, each field that is not named as left has the value that it had (a text,
the updates). V2 nothing that a rule forbids is tried: a lattice does not go down, a promise of stock is not taken back,
no update of a text is taken away, no key is taken from another document; what is left as it is, is said with its
reason. V3 a text that is too long to be brought back costs the other fields nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from syncd.core.changes import CHANGE_BYTES_MAX, OPERATIONS_MAX
from syncd.core.documents import Document, reservations
from syncd.core.fields import ELEMENT_BYTES
from syncd.core.ids import Position
from syncd.core.values import VALUE_BYTES_MAX, Value, encoded, is_same
from syncd.engine.batch import Batch, DocumentName
from syncd.engine.commands import Posted, Refused, Result, Revert, Reverted
from syncd.engine.grants import Role
from syncd.engine.posting import authored

Shown = list[Value] | None  # [type, value] of a field that is visible
Left = dict[str, Any]  # `field` or `unique`, and the `reason`

UPDATE_BYTES_MAX = VALUE_BYTES_MAX - 3  # of one update: as a value it is encoded in three bytes more
_LOWER = {"max": "a max takes no lower value", "min": "a min takes no higher value"}


def reverted(batch: Batch, command: Revert) -> Result:
    """Carry out a revert, in the name of its author."""
    author, name = command.author, (command.collection, command.document_id)
    role = Role.OWNER if author.kind == "server" else batch.role(author, command.space)
    if role < Role.WRITER:
        return Refused("forbidden", f"writing to {command.space} needs the role writer")
    work = batch.space(command.space)
    if work is None:
        return Refused("unknown", f"there is no space {command.space}")
    batch.device_made(author)
    operations, left = operations_to(name, command.fields, command.keys, work.document(name), work.key_holder)
    if not operations:
        return Reverted(Posted("noop", None, None, Position(work.row.epoch, work.head)), tuple(left))
    entry = authored(batch, work, author, role, work.head, operations)
    posted = Posted(entry.outcome, entry.seq, entry.detail, Position(work.row.epoch, work.head))
    return Reverted(posted, tuple(left))


def operations_to(
    name: DocumentName,
    fields: Mapping[str, list[Value]],
    kept: Mapping[str, str],
    document: Document | None,
    holder: Callable[[tuple[str, str]], DocumentName | None],
) -> tuple[list[Any], list[Left]]:
    """The operations that give a document these visible fields and unique keys, and what cannot be given."""
    is_live = document is not None and document.is_live
    operations: list[Any] = [] if is_live else [["create", *name]]
    left: list[Left] = []
    texts: dict[str, list[Any]] = {}
    now = document.visible() if document is not None and is_live else {}
    types = {field: item.type for field, item in document.fields.items()} if document is not None and is_live else {}
    for field in sorted({*fields, *now}):
        kind = fields[field][0] if field in fields else now[field][0]
        if types.get(field, kind) != kind:
            left.append({"field": field, "reason": f"its type is {types[field]} now, and was {kind}"})
            continue
        made, reason = _field(kind, [*name, field], fields.get(field), now.get(field))
        if kind == "text":
            texts[field] = made
        operations += made if kind != "text" else []
        if reason is not None:
            left.append({"field": field, "reason": reason})
    held = reservations(document) if is_live else {}  # a new incarnation holds nothing
    for under in sorted({*kept, *held}):
        wanted = kept.get(under)
        if wanted == held.get(under):
            continue
        if wanted is None:
            left.append({"unique": under, "reason": "a key is given back by taking another, or with the document"})
            continue
        other = holder((under, wanted))
        if other is not None and other != name:
            left.append({"unique": under, "reason": f"{other[0]}/{other[1]} holds the key {wanted!r} now"})
        else:
            operations.append(["unique", *name, under, wanted])
    for field, made in texts.items():
        if _fits([*operations, *made]):
            operations += made
        else:
            left.append({"field": field, "reason": f"its {len(made)} updates do not fit into one change with the rest"})
    return operations, left


def _fits(operations: list[Any]) -> bool:
    """Whether operations, of which the last may be updates of a text, are a change. What was merged may be too long."""
    longest = max((len(operation[-1]) for operation in operations if operation[0] == "text.update"), default=0)
    is_short = len(operations) <= OPERATIONS_MAX and longest <= UPDATE_BYTES_MAX
    return is_short and len(encoded(operations)) <= CHANGE_BYTES_MAX


def _field(kind: str, where: list[Any], then: Shown, now: Shown) -> tuple[list[Any], str | None]:
    """What brings one field back; and why not all of it comes back, if so. `then`, `now`: None if it was not there."""
    if then is not None and now is not None and is_same(then[1], now[1]):
        return [], None
    match kind:
        case "reg":
            return ([["reg.unset", *where]] if then is None else [["reg.set", *where, then[1]]]), None
        case "mv" if then is not None and then[1]:
            reason = None if len(then[1]) == 1 else f"of {len(then[1])} values that stood side by side one is set"
            return [["mv.set", *where, then[1][0]]], reason
        case "max" | "min" if then is not None:
            is_reached = now is None or (then[1] > now[1] if kind == "max" else then[1] < now[1])
            return ([[f"{kind}.put", *where, then[1]]], None) if is_reached else ([], _LOWER[kind])
        case "counter" | "set" | "flag" | "map" | "list":
            made = _DIFFERENCES[kind](where, then[1] if then else None, now[1] if now else None)
            return made, None if then is not None else f"it was not there then; a {kind} stays, and is made empty"
        case "bounded":
            return [], "units were sold or promised since: restock says what there is"
        case "text":
            return _text(where, then[1] if then else None, now[1] if now else None)
    return [], f"a field of type {kind} cannot be brought back"


def _counter(where: list[Any], then: int | None, now: int | None) -> list[Any]:
    by = (then or 0) - (now or 0)
    if by:
        return [["counter.inc", *where, by]]
    return [] if now is not None else [["counter.inc", *where, 1], ["counter.inc", *where, -1]]


def _set(where: list[Any], then: list[Value] | None, now: list[Value] | None) -> list[Any]:
    was, are = ({encoded(item): item for item in items or []} for items in (then, now))
    added = [["set.add", *where, item] for key, item in was.items() if key not in are]
    removed = [["set.remove", *where, item] for key, item in are.items() if key not in was]
    return added + removed or ([["set.remove", *where, None]] if now is None else [])


def _flag(where: list[Any], then: bool | None, now: bool | None) -> list[Any]:
    return [["flag.enable" if then else "flag.disable", *where]] if bool(then) != bool(now) or now is None else []


def _map(where: list[Any], then: dict[str, Value] | None, now: dict[str, Value] | None) -> list[Any]:
    was, are = then or {}, now or {}
    put = [
        ["map.put", *where, key, value] for key, value in was.items() if key not in are or not is_same(value, are[key])
    ]
    dropped = [["map.drop", *where, key] for key in are if key not in was]
    return put + dropped or ([["map.drop", *where, "-"]] if now is None else [])


def _list(where: list[Any], then: list[Value] | None, now: list[Value] | None) -> list[Any]:
    was, are = ({item[0][-ELEMENT_BYTES:]: item for item in items or []} for items in (then, now))
    made = [["list.remove", *where, name] for name in are if name not in was]
    for name, (position, value) in was.items():
        if name not in are:
            made.append(["list.insert", *where, position, value])
        elif are[name][0] != position:
            made.append(["list.move", *where, position])
    return made or ([["list.remove", *where, b"\0" * (ELEMENT_BYTES - 1) + b"\1"]] if now is None else [])


def _text(where: list[Any], then: Value, now: Value) -> tuple[list[Any], str | None]:
    """A text that is not there is given the updates that it had. Of one that is, updates cannot be taken away: what an
    update did is told by a library that reads them, and an author's later ones may hang on it."""
    if then is None:
        return [], "it was not there then: a text stays, and an editor can empty it"
    if now is None:
        return [["text.update", *where, data] for _, data in then[1]], None
    (*_, (last, _)), (*_, (newest, _)) = then[1], now[1]
    if last == newest or [data for _, data in then[1]] == [data for _, data in now[1]]:
        return [], None  # one of them may be merged
    return [], f"updates came since seq {last}, and only an editor, which reads them, can take back what they did"


_DIFFERENCES: dict[str, Callable[..., list[Any]]] = {
    "counter": _counter, "set": _set, "flag": _flag, "map": _map, "list": _list,
}  # fmt: skip
