"""Changes: what a device commits atomically, checked and in canonical form.

Owns the operations that exist, their arguments and the limits inside one change. Must not know documents (whether an
operation *applies* is `documents`' business) nor messages (how a change reaches us is `wire`'s).

A change that is malformed *inside* still has a dot, and must end in an outcome, or its device would be stuck behind it
for ever: so `parsed_change` returns a `RefusedChange` for it. Only a change whose header cannot be read raises.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import call
from typing import Any, NamedTuple

from syncd.core.fields import ELEMENT_BYTES
from syncd.core.ids import ID_BYTES, NONCE_BYTES, SEQ_MAX, BadName, check_name
from syncd.core.leases import LEASE_ID_BYTES, LEASE_MAC_BYTES, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN
from syncd.core.values import INTEGER_MAX, Value, ValueRefused, ValueTooLarge, checked, encoded

OPERATIONS_MAX = 1000  # Firestore takes 500 writes in a batch; an editor's paste may make a few hundred
DOCUMENTS_MAX = 128  # with DOCUMENT_BYTES_MAX and DELTA_BYTES_MAX: what one seq alters fits one delta
CHANGE_BYTES_MAX = 262144
REASON_BYTES_MAX = 500
# An insert into the same place, again and again, takes a bit each: some 2,000 of them. Figma's are unbounded, and grow.
POSITION_BYTES_MAX = 256
_TOLD_DEPTH_MAX = 64  # of a refused change: a well-formed one nests 2 + 16 deep
# Earlier ids of a device that a change may name. One is the rule; the second is for a change that was not yet taken
# when its device had to change its id again. Each makes documents keep one writer more (documents.WRITERS_MAX).
CONTEXT_MAX = 2
VOID_COUNT_MAX = 1000  # each number given up is a row in the device log; a longer range comes as several voids


_new = (
    tuple.__new__
)  # what a named tuple's own constructor calls, after twice the time: there may be a thousand in a push


class ChangeMalformed(ValueError):
    """The header of a change (its dot, nonce, base or stamp) cannot be read, so it cannot even be refused."""


class Operation(NamedTuple):
    """One step of a change. `verb` is `type.action`, or `create`, `delete`, `expect`, `unique`
    (whose `field` is the name under which a key is reserved); `seen` raises the base for it. `schema`: the version of
    its collection's schema under which it was made; 0: it does not say."""

    verb: str
    collection: str
    id: str
    field: str | None
    args: tuple[Value, ...]
    seen: int
    schema: int = 0

    def wire(self) -> list[Value]:
        """The array that stands for this operation in a message and in the device log."""
        items: list[Value] = [self.verb, self.collection, self.id]
        if self.field is not None:
            items.append(self.field)
        items.extend(self.args)
        if self.seen or self.schema:
            options = {"schema": self.schema, "seen": self.seen}
            items.append({name: value for name, value in options.items() if value})
        return items


class Former(NamedTuple):
    """An earlier id of the device that made a change: all its changes up to `n`, the last of which has `seq` (0: none
    was accepted), count as seen."""

    device: bytes
    n: int
    seq: int


class Change(NamedTuple):
    """A well-formed change. `stamp` in ms. `payload` is the canonical encoding of its operations. `context`: what it
    has seen beside its base, if its device had another id when it was made."""

    n: int
    nonce: bytes
    base: int
    stamp: int
    operations: tuple[Operation, ...]
    payload: bytes
    context: tuple[Former, ...] = ()


@dataclass(frozen=True, slots=True)
class Void:
    """The device gives up its changes n..last."""

    n: int
    last: int
    nonce: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class RefusedChange:
    """A change whose inside breaks the protocol: it ends as `outcome` (`invalid` or `too_large`) at operation `op`."""

    n: int
    nonce: bytes
    base: int
    stamp: int
    outcome: str
    op: int | None
    reason: str
    payload: bytes


def numbers_of(changes: Sequence[Change | Void | RefusedChange]) -> int:
    """How many numbers of their device a push of these uses up at most: each is a row and an outcome, also of those
    given up together. What voids give up beyond `VOID_COUNT_MAX` is left to be sent again, and counts then."""
    count = sum(change.last - change.n + 1 if isinstance(change, Void) else 1 for change in changes)
    return min(count, VOID_COUNT_MAX + len(changes))


class _ChangeRefused(Exception):
    def __init__(self, outcome: str, op: int | None, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.op, self.reason = outcome, op, reason


def _integer(value: object) -> Value:
    if type(value) is not int or value == 0 or not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise ValueRefused("'by' is an integer other than 0 within +-(2^53 - 1)")
    return value


def _number(value: object) -> Value:
    if type(value) is not int and type(value) is not float:
        raise ValueRefused("the argument of a put is a number")
    return checked(value)


def _key(value: object) -> Value:
    return check_name(value, "a map key")


def _unique_key(value: object) -> Value:
    return check_name(value, "a unique key")


def _units(value: object) -> Value:
    if type(value) is not int or not 1 <= value <= INTEGER_MAX:
        raise ValueRefused("a number of units is an integer from 1 to 2^53 - 1")
    return value


def _lease_id(value: object) -> Value:
    if type(value) is not bytes or len(value) != LEASE_ID_BYTES:
        raise ValueRefused(f"the id of a lease is {LEASE_ID_BYTES} bytes")
    return value


def _lease(value: object) -> Value:
    """A lease is named by its id, or by its certificate."""
    if type(value) is bytes:
        return _lease_id(value)
    if (type(value) is list or type(value) is tuple) and len(value) == 5:
        lease_id, k, until, seq, mac = value
        is_time = until is None or _is_count(until, 0)
        if is_time and _is_count(seq, 1) and type(mac) is bytes and len(mac) == LEASE_MAC_BYTES:
            _lease_id(lease_id), _units(k)
            return value
    raise ValueRefused("a lease is its id or its certificate, [lease id, k, until or null, seq, MAC]")


def _lease_or_none(value: object) -> Value:
    return None if value is None else _lease(value)


def _ttl(value: object) -> Value:
    if value is not None and not (type(value) is int and LEASE_TTL_MS_MIN <= value <= LEASE_TTL_MS_MAX):
        raise ValueRefused(f"the ttl of a lease is {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} ms, or null: no end")
    return value


def _element(value: object) -> Value:
    if type(value) is not bytes or len(value) != ELEMENT_BYTES or not value[-1]:
        raise ValueRefused(f"an element of a list is {ELEMENT_BYTES} bytes, of which the last is not 0")
    return value


def _position(value: object) -> Value:
    """Positions end with an element, and so not with 0: between any two there is room for a third."""
    if type(value) is not bytes or len(value) <= ELEMENT_BYTES or not value[-1]:
        raise ValueRefused(f"a position is bytes, at least {ELEMENT_BYTES + 1}, of which the last is not 0")
    if len(value) > POSITION_BYTES_MAX:
        raise ValueTooLarge(f"a position has at most {POSITION_BYTES_MAX} bytes, not {len(value)}")
    return value


def _update(value: object) -> Value:
    if type(value) is not bytes or not value:
        raise ValueRefused("an update of a text is bytes, at least one")
    return checked(value)


# verb -> checks of its arguments after the field; None: the operation addresses the whole document
VERBS: dict[str, tuple[Callable[[object], Value], ...] | None] = {
    "create": None,
    "delete": None,
    "expect": (),
    "unique": (_unique_key,),
    "reg.set": (checked,),
    "reg.unset": (),
    "mv.set": (checked,),
    "counter.inc": (_integer,),
    "max.put": (_number,),
    "min.put": (_number,),
    "set.add": (checked,),
    "set.remove": (checked,),
    "flag.enable": (),
    "flag.disable": (),
    "map.put": (_key, checked),
    "map.drop": (_key,),
    "bounded.restock": (_integer,),
    "bounded.lease": (_lease_id, _units, _ttl),
    "bounded.take": (_units, _lease_or_none),
    "bounded.give": (_lease, _units),
    "bounded.refund": (_units,),
    "bounded.end": (_lease_id,),
    "list.insert": (_position, checked),
    "list.move": (_position,),
    "list.remove": (_element,),
    "text.update": (_update,),
}


def parsed_operation(raw: object, previous: Operation | None = None) -> Operation:
    """Check one operation array. `previous`: the one before it in its change, most often on the same document, whose
    names need no second look. Raises `BadName` or `ValueRefused`, saying what was expected."""
    if type(raw) is not list and type(raw) is not tuple:
        raise ValueRefused("an operation is an array")
    size = len(raw)
    if size < 3 or type(raw[0]) is not str:
        raise ValueRefused("an operation begins with its name, a collection and a document id")
    verb, collection, document = raw[0], raw[1], raw[2]
    try:
        checks = VERBS[verb]
    except KeyError:
        raise ValueRefused(f"unknown operation {verb[:40]!r}") from None
    if previous is None or document != previous.id or collection != previous.collection:
        check_name(collection, "a collection")
        check_name(document, "a document id")
    args: tuple[Value, ...] = ()
    field, end = None, 3
    if checks is not None:
        if size < 4:
            raise ValueRefused(f"{verb} names a field")
        field, end = check_name(raw[3], "a field"), 4 + len(checks)
        if end <= size <= end + 1:
            args = (checks[0](raw[4]),) if end == 5 else tuple(map(call, checks, raw[4:end]))
    if not end <= size <= end + 1:
        raise ValueRefused(f"{verb} has {end} items, not {size}")
    seen, schema = _options(raw[end]) if size > end else (0, 0)
    return _new(Operation, (verb, collection, document, field, args, seen, schema))


def _options(raw: object) -> tuple[int, int]:
    """(seen, schema); 0: not given."""
    if type(raw) is not dict or not raw or not set(raw) <= {"seen", "schema"}:
        raise ValueRefused(
            'the last item of an operation may only be {"seen": seq}, {"schema": version}, or both in one'
        )
    if not all(_is_count(value, 1) for value in raw.values()):
        raise ValueRefused("'seen' and 'schema' of an operation are integers from 1 to 2^53 - 1")
    return int(raw.get("seen", 0)), int(raw.get("schema", 0))


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and least <= value <= SEQ_MAX


def parsed_change(raw: object) -> Change | Void | RefusedChange:
    """Check one item of a push. Raises `ChangeMalformed` if its header cannot be read."""
    if type(raw) is not list and type(raw) is not tuple:
        raise ChangeMalformed("a change is an array")
    if raw and raw[0] == "void":
        return _parsed_void(raw)
    if len(raw) < 5:
        raise ChangeMalformed("a change is [n, nonce, base, stamp, operations], and perhaps its context")
    n, nonce, base, stamp, items = raw[:5]
    if not _is_count(n, 1):
        raise ChangeMalformed("'n' is an integer from 1 to 2^53 - 1")
    if type(nonce) is not bytes or len(nonce) != NONCE_BYTES:
        raise ChangeMalformed(f"'nonce' is {NONCE_BYTES} bytes")
    if not _is_count(base, 0):
        raise ChangeMalformed("'base' is an integer from 0 to 2^53 - 1")
    if not _is_count(stamp, 0):
        raise ChangeMalformed("'stamp' is an integer number of milliseconds from 0 to 2^53 - 1")
    try:
        if len(raw) > 6:
            raise _ChangeRefused("invalid", None, "a change has five items, or six with its context")
        context = _parsed_context(raw[5]) if len(raw) == 6 else ()
        operations, wires = _parsed_operations(items)
        payload = encoded(wires)
        if len(payload) > CHANGE_BYTES_MAX:
            raise _ChangeRefused(
                "too_large", None, f"the operations have at most {CHANGE_BYTES_MAX} bytes, not {len(payload)}"
            )
    except _ChangeRefused as refused:
        return RefusedChange(n, nonce, base, stamp, refused.outcome, refused.op, refused.reason, _kept(items))
    return _new(Change, (n, nonce, base, stamp, operations, payload, context))


def _parsed_context(raw: object) -> tuple[Former, ...]:
    if type(raw) is not list and type(raw) is not tuple:
        raise _ChangeRefused("invalid", None, "the context of a change is an array")
    if not 1 <= len(raw) <= CONTEXT_MAX:
        raise _ChangeRefused("invalid", None, f"a context names 1-{CONTEXT_MAX} earlier ids of the device")
    context = []
    for item in raw:
        is_former = (type(item) is list or type(item) is tuple) and len(item) == 3
        if not (is_former and type(item[0]) is bytes and len(item[0]) == ID_BYTES and _is_count(item[1], 1)):
            raise _ChangeRefused("invalid", None, "each item of a context is [device id, n, seq]")
        if not _is_count(item[2], 0):
            raise _ChangeRefused("invalid", None, "'seq' in a context is an integer from 0 to 2^53 - 1")
        context.append(Former(*item))
    if len({former.device for former in context}) != len(context):
        raise _ChangeRefused("invalid", None, "a context names a device once")
    return tuple(context)


def _parsed_void(raw: list[Any] | tuple[Any, ...]) -> Void:
    if len(raw) != 5:
        raise ChangeMalformed('a void is ["void", n, last n, nonce, reason]')
    _, n, last, nonce, reason = raw
    if not (_is_count(n, 1) and _is_count(last, n)):
        raise ChangeMalformed("a void gives up n to last n, integers from 1, n <= last n")
    if last - n >= VOID_COUNT_MAX:
        raise ChangeMalformed(f"a void gives up at most {VOID_COUNT_MAX} changes; send several")
    if type(nonce) is not bytes or len(nonce) != NONCE_BYTES:
        raise ChangeMalformed(f"'nonce' is {NONCE_BYTES} bytes")
    if type(reason) is not str or len(reason.encode("utf-8", "replace")) > REASON_BYTES_MAX:
        raise ChangeMalformed(f"the reason of a void is text of at most {REASON_BYTES_MAX} bytes")
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise ChangeMalformed("the reason of a void is valid UTF-8") from None
    return Void(n, last, nonce, reason)


def _parsed_operations(items: object) -> tuple[tuple[Operation, ...], Sequence[Any]]:
    """The operations, and what their canonical encoding is made of: the arrays as they came, where nothing in them had
    to be brought into canonical form."""
    if type(items) is not list and type(items) is not tuple:
        raise _ChangeRefused("invalid", None, "the operations are an array")
    if not items:
        raise _ChangeRefused("invalid", None, "a change has at least one operation")
    if len(items) > OPERATIONS_MAX:
        raise _ChangeRefused("too_large", None, f"a change has at most {OPERATIONS_MAX} operations")
    operations: list[Operation] = []
    operation: Operation | None = None
    is_canonical, nested_bytes = True, 0
    for index, item in enumerate(items):
        try:
            operation = parsed_operation(item, operation)
        except ValueTooLarge as error:
            raise _ChangeRefused("too_large", index, str(error)) from None
        except (ValueRefused, BadName) as error:
            raise _ChangeRefused("invalid", index, str(error)) from None
        operations.append(operation)
        # Only the last argument can be other than a name; what is canonical is handed back as the same object.
        if operation.args and operation.args[-1] is not item[3 + len(operation.args)]:
            is_canonical = False
        if operation.args and type(operation.args[-1]) in (list, dict):
            # A change that is too large is left at once: the rest of it, up to a whole frame, would hold the loop up.
            nested_bytes += len(encoded(operation.args[-1]))
            if nested_bytes > CHANGE_BYTES_MAX:
                raise _ChangeRefused("too_large", None, f"the operations have at most {CHANGE_BYTES_MAX} bytes")
    if len(operations) > DOCUMENTS_MAX and len({(each.collection, each.id) for each in operations}) > DOCUMENTS_MAX:
        raise _ChangeRefused("too_large", None, f"a change touches at most {DOCUMENTS_MAX} documents")
    return tuple(operations), items if is_canonical else [operation.wire() for operation in operations]


def _kept(items: object) -> bytes:
    """What a dead letter keeps of operations outside the model: as they came if operators can be shown them (JSON has
    neither bytes as keys nor endless nesting), else their beginning as one byte string."""
    try:
        payload = encoded(items)
    except (ValueError, TypeError, OverflowError):
        payload = None
    if payload is None:
        return encoded(_sketched(items))
    # What is cut off must still decode; the header of a byte string takes five bytes.
    is_whole = len(payload) <= CHANGE_BYTES_MAX and _is_tellable(items, 0)
    return payload if is_whole else encoded(payload[: CHANGE_BYTES_MAX - 5])


def _sketched(items: object) -> bytes:
    try:
        return repr(items)[:1000].encode("utf-8", "replace")
    except RecursionError:
        return b"nested too deep"


def _is_tellable(item: object, depth: int) -> bool:
    """Without a call for each scalar: there may be a quarter of a million."""
    if type(item) is dict:
        if not all(type(key) is str for key in item):
            return False
        items: Iterable[object] = item.values()
    elif type(item) is list or type(item) is tuple:
        items = item
    else:
        return True
    return depth < _TOLD_DEPTH_MAX and all(
        _is_tellable(each, depth + 1) for each in items if type(each) in (dict, list, tuple)
    )
