"""Messages <-> frames, in both bindings, driven by one table.

Owns how a message looks in bytes (section 5.1). A frame from the server is decoded whole or not at all: the first thing
wrong with it raises PeerError naming the message, the item and what was expected.

1. `decoded(encoded(m)) == m` for every message, in both bindings.
2. An id is 16 or 8 bytes in a message; that it is hexadecimal text in JSON is known here only.
3. Unknown keys of a body, absent keys and message types >= 128 are ignored; another unknown type is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import msgpack
import orjson

from . import messages as m
from .errors import InvalidInput, PeerError
from .json_values import json_value as json_value  # the codec's, to whoever reads JSON
from .json_values import value_from_json as value_from_json
from .operations import operation_from
from .values import INTEGER_MAX, Value, canonical, packed


@dataclass(frozen=True, slots=True)
class Binding:
    """One of the two forms of the protocol."""

    name: str
    is_json: bool


MSGPACK = Binding("syncd.v1.msgpack", False)
JSON = Binding("syncd.v1.json", True)
BINDINGS = {"msgpack": MSGPACK, "json": JSON}

# A frame is refused before it is unpacked if it is longer than this: the longest delta (2 MiB) and its envelope, six
# times as long in JSON. The same figure is the transport's limit.
FRAME_BYTES_MAX = 6 * 2_621_440


# -- kinds of items --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    out: Callable[[Any, Binding], Any]
    into: Callable[[Any, Binding, str], Any]


def _wrong(where: str, expected: str, raw: object) -> PeerError:
    return PeerError(f"{where}: expected {expected}, got {type(raw).__name__}")


def _sized(size: int) -> Kind:
    def out(value: bytes, binding: Binding) -> Any:
        assert len(value) == size
        return value.hex() if binding.is_json else value

    def into(raw: Any, binding: Binding, where: str) -> bytes:
        if binding.is_json:
            if not isinstance(raw, str) or len(raw) != 2 * size or raw != raw.lower():
                raise _wrong(where, f"{2 * size} lower-case hexadecimal digits", raw)
            try:
                raw = bytes.fromhex(raw)
            except ValueError:
                raise _wrong(where, "hexadecimal text", raw) from None
        if not isinstance(raw, bytes) or len(raw) != size:
            raise _wrong(where, f"{size} bytes", raw)
        return raw

    return Kind(out, into)


def _plain(type_: type, expected: str) -> Kind:
    def into(raw: Any, binding: Binding, where: str) -> Any:
        if type(raw) is not type_:
            raise _wrong(where, expected, raw)
        return raw

    return Kind(lambda value, binding: value, into)


def _count_into(raw: Any, binding: Binding, where: str) -> int:
    if type(raw) is not int or not 0 <= raw <= INTEGER_MAX:
        raise _wrong(where, "an integer from 0 to 2^53 - 1", raw)
    return raw


def _map_of(type_: type, expected: str) -> Kind:
    def into(raw: Any, binding: Binding, where: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise _wrong(where, f"a map of {expected}", raw)
        # A welcome may hold limits of other types in later versions; what is not understood is left out.
        return {key: item for key, item in raw.items() if type(item) is type_}

    return Kind(lambda value, binding: dict(value), into)


def _texts_into(raw: Any, binding: Binding, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        raise _wrong(where, "an array of text", raw)
    return tuple(raw)


def _value_in(raw: Any, binding: Binding, where: str) -> Value:
    try:
        return canonical(value_from_json(raw) if binding.is_json else raw)
    except (InvalidInput, UnicodeEncodeError, TypeError, AttributeError, RecursionError) as error:
        raise PeerError(f"{where}: {error}") from None


def _array(raw: Any, length_min: int, where: str, expected: str) -> list[Any]:
    if not isinstance(raw, list) or len(raw) < length_min:
        raise _wrong(where, expected, raw)
    return raw


def _optional(kind: Kind, raw: Any, binding: Binding, where: str) -> Any:
    return None if raw is None else kind.into(raw, binding, where)


ID = _sized(16)
H8 = _sized(8)
TEXT = _plain(str, "text")
BOOL = _plain(bool, "a boolean")
COUNT = Kind(lambda value, binding: value, _count_into)
TEXTS = Kind(lambda value, binding: list(value), _texts_into)
TEXT_MAP = _map_of(str, "text")
COUNT_MAP = _map_of(int, "integers")


# -- changes, documents, outcomes ------------------------------------------------------------------------------------


def change_wire(change: m.Change | m.Void, binding: Binding) -> list[Value]:
    nonce = H8.out(change.nonce, binding)
    if isinstance(change, m.Void):
        return ["void", change.n, change.last_n, nonce, change.reason]
    operations = [operation.wire() for operation in change.operations]
    if binding.is_json:
        operations = json_value(operations)
    head = [change.n, nonce, change.base, change.stamp_ms, operations]
    if not change.context:
        return head
    return [*head, [[ID.out(former.device, binding), former.n, former.seq] for former in change.context]]


def change_bytes(change: m.Change | m.Void) -> int:
    """The size that the limits of section 9 measure."""
    return len(packed(change_wire(change, MSGPACK)))


def _changes_into(raw: Any, binding: Binding, where: str) -> tuple[m.Change | m.Void, ...]:
    return tuple(_change(item, binding, f"{where}[{i}]") for i, item in enumerate(_array(raw, 1, where, "changes")))


def _change(raw: Any, binding: Binding, where: str) -> m.Change | m.Void:
    items = _array(raw, 5, where, "a change of five items, or six")
    if items[0] == "void":
        n, last_n = (_count_into(item, binding, where) for item in items[1:3])
        return m.Void(n, last_n, H8.into(items[3], binding, where), TEXT.into(items[4], binding, where))
    operations = _value_in(items[4], binding, where)
    try:
        checked = tuple(operation_from(item) for item in operations)
    except (InvalidInput, TypeError) as error:
        raise PeerError(f"{where}: {error}") from None
    n, base, stamp_ms = (_count_into(item, binding, where) for item in (items[0], items[2], items[3]))
    context = tuple(
        _former(item, binding, where) for item in (_array(items[5], 1, where, "a context") if items[5:] else ())
    )
    return m.Change(n, H8.into(items[1], binding, where), base, stamp_ms, checked, context)


def _former(raw: Any, binding: Binding, where: str) -> m.Former:
    device, n, seq = _array(raw, 3, where, "an earlier id")[:3]
    return m.Former(ID.into(device, binding, where), _count_into(n, binding, where), _count_into(seq, binding, where))


def _docs_out(entries: Iterable[m.DocumentEntry], binding: Binding) -> list[Value]:
    return [_doc_wire(entry, binding) for entry in entries]


def _doc_wire(entry: m.DocumentEntry, binding: Binding) -> list[Value]:
    def pair(field: m.FieldValue | None) -> Value:
        if field is None:
            return None
        return [field[0], json_value(field[1]) if binding.is_json else field[1]]

    # Field names are the receiver's map keys, not keys of a value: they are not escaped in JSON.
    fields = {name: pair(field) for name, field in entry.fields.items()}
    return [entry.collection, entry.id, entry.rev, entry.state, fields]


def _docs_into(raw: Any, binding: Binding, where: str) -> tuple[m.DocumentEntry, ...]:
    return tuple(_doc(item, binding, f"{where}[{i}]") for i, item in enumerate(_array(raw, 0, where, "an array")))


# What a delta shows of each type of section 3. A type that is not known here is shown as it comes.
_ANY_SHAPE = (type(None), bool, int, float, str, bytes, list, dict)
_SHAPES: dict[str, tuple[type, ...]] = {
    "mv": (list,),
    "counter": (int,),
    "max": (int, float),
    "min": (int, float),
    "set": (list,),
    "flag": (bool,),
    "map": (dict,),
    "bounded": (dict,),
    "list": (list,),
    "text": (list,),
}


def _doc(raw: Any, binding: Binding, where: str) -> m.DocumentEntry:
    items = _array(raw, 5, where, "a document entry of five items")
    collection, id = TEXT.into(items[0], binding, where), TEXT.into(items[1], binding, where)
    rev = _count_into(items[2], binding, where)
    if items[3] not in (m.PATCH, m.RESET, m.DELETED) or not isinstance(items[4], dict):
        raise PeerError(f"{where}: expected a state from 0 to 2 and a map of fields")
    fields: dict[str, m.FieldValue | None] = {}
    for name, field in items[4].items():
        TEXT.into(name, binding, where)
        if field is None:
            fields[name] = None
            continue
        pair = _array(field, 2, f"{where}.{name}", "a type and a value")
        type_ = TEXT.into(pair[0], binding, f"{where}.{name}")
        value = _value_in(pair[1], binding, f"{where}.{name}")
        fields[name] = (type_, value)
        # A view that replays onto another shape would fail.
        inside = _INSIDE.get(type_)
        if type(value) not in _SHAPES.get(type_, _ANY_SHAPE) or (inside is not None and not inside(value)):
            raise _wrong(f"{where}.{name}", f"a value of the type {type_}", pair[1])
    return m.DocumentEntry(collection, id, rev, items[3], fields)


def _is_stock(value: dict[str, Any]) -> bool:
    """Amounts by name."""
    return all(type(amount) is int for amount in value.values())


def _is_list(value: list[Any]) -> bool:
    """[position, value] of each element."""
    return all(type(item) is list and len(item) == 2 and type(item[0]) is bytes for item in value)


def _is_text(value: list[Any]) -> bool:
    """A seq, and [seq, update] of each update after it."""
    if len(value) != 2 or type(value[0]) is not int or type(value[1]) is not list or not value[1]:
        return False
    return all(type(item) is list and [type(each) for each in item] == [int, bytes] for item in value[1])


_INSIDE: dict[str, Callable[[Any], bool]] = {"bounded": _is_stock, "list": _is_list, "text": _is_text}


def _outcomes_out(entries: Iterable[m.OutcomeEntry], binding: Binding) -> list[Value]:
    def detail(entry: m.OutcomeEntry) -> Value:
        return json_value(dict(entry.detail)) if entry.detail is not None and binding.is_json else entry.detail

    return [[e.n, H8.out(e.nonce, binding), e.outcome, e.seq, detail(e)] for e in entries]


def _outcomes_into(raw: Any, binding: Binding, where: str) -> tuple[m.OutcomeEntry, ...]:
    return tuple(_outcome(item, binding, f"{where}[{i}]") for i, item in enumerate(_array(raw, 0, where, "an array")))


def _outcome(raw: Any, binding: Binding, where: str) -> m.OutcomeEntry:
    items = [*_array(raw, 3, where, "an outcome entry"), None, None]
    detail = _value_in(items[4], binding, where)
    if detail is not None and not isinstance(detail, dict):
        raise _wrong(where, "a detail map or null", detail)
    return m.OutcomeEntry(
        n=_count_into(items[0], binding, where),
        nonce=H8.into(items[1], binding, where),
        outcome=TEXT.into(items[2], binding, where),
        seq=_optional(COUNT, items[3], binding, where),
        detail=detail,
    )


def _packed(size: int) -> Kind:
    """Items of `size` bytes, one after the other."""

    def into(raw: Any, binding: Binding, where: str) -> bytes:
        length = len(raw) // 2 if binding.is_json and isinstance(raw, str) else len(raw) if type(raw) is bytes else 0
        data: bytes = _sized(length).into(raw, binding, where)
        if len(data) % size:
            raise _wrong(where, f"items of {size} bytes", raw)
        return data

    return Kind(lambda value, binding: value.hex() if binding.is_json else value, into)


def _numbers_into(raw: Any, binding: Binding, where: str) -> tuple[int, ...]:
    return tuple(_count_into(item, binding, where) for item in _array(raw, 0, where, "an array of integers"))


def _value_out(value: Any, binding: Binding) -> Any:
    return json_value(value) if binding.is_json else value


def _presence_into(raw: Any, binding: Binding, where: str) -> Any:
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, dict):
        raise _wrong(where, "a map or a boolean", raw)
    return _state(raw, binding, where)


def _state(raw: Any, binding: Binding, where: str) -> dict[str, Value]:
    state = _value_in(raw, binding, where)
    if not isinstance(state, dict):
        raise _wrong(where, "a map", raw)
    return state


def _here_out(members: Iterable[tuple[bytes, str, Value]], binding: Binding) -> list[Value]:
    return [[H8.out(ref, binding), user, _value_out(state, binding)] for ref, user, state in members]


def _here_into(raw: Any, binding: Binding, where: str) -> tuple[tuple[bytes, str, dict[str, Value]], ...]:
    members = []
    for item in _array(raw, 0, where, "an array of members"):
        ref, user, state = _array(item, 3, where, "a ref, a user and a state")[:3]
        members.append((H8.into(ref, binding, where), TEXT.into(user, binding, where), _state(state, binding, where)))
    return tuple(members)


def _events_out(events: Sequence[m.Happening], binding: Binding) -> list[Value]:
    heads = [[ID.out(event.id, binding), event.name, event.time] for event in events]
    return [
        head if event.data is None else [*head, _value_out(event.data, binding)]
        for head, event in zip(heads, events, strict=True)
    ]


def _events_into(raw: Any, binding: Binding, where: str) -> tuple[m.Happening, ...]:
    return tuple(_event(item, binding, where) for item in _array(raw, 1, where, "an array of events"))


def _event(raw: Any, binding: Binding, where: str) -> m.Happening:
    id, name, at_ms, data = [*_array(raw, 3, where, "an id, a name, a time and data"), None][:4]
    told = None if data is None else _state(data, binding, where)
    at_ms = COUNT.into(at_ms, binding, where)
    return m.Happening(ID.into(id, binding, where), TEXT.into(name, binding, where), at_ms, told)


def _results_out(results: Iterable[m.EventResult], binding: Binding) -> list[Value]:
    return [[ID.out(result.id, binding), result.status, result.detail] for result in results]


def _results_into(raw: Any, binding: Binding, where: str) -> tuple[m.EventResult, ...]:
    return tuple(_result(item, binding, where) for item in _array(raw, 0, where, "an array of results"))


def _result(raw: Any, binding: Binding, where: str) -> m.EventResult:
    id, status, detail = [*_array(raw, 2, where, "an id, a status and a detail"), None][:3]
    texts = TEXT.into(status, binding, where), _optional(TEXT, detail, binding, where)
    return m.EventResult(ID.into(id, binding, where), *texts)


VALUE = Kind(_value_out, _value_in)
PRESENCE = Kind(_value_out, _presence_into)
HERE = Kind(_here_out, _here_into)
EVENTS = Kind(_events_out, _events_into)
RESULTS = Kind(_results_out, _results_into)
NUMBERS = Kind(lambda value, binding: list(value), _numbers_into)
CHANGES = Kind(lambda value, binding: [change_wire(change, binding) for change in value], _changes_into)
DOCS = Kind(_docs_out, _docs_into)
OUTCOMES = Kind(_outcomes_out, _outcomes_into)


# -- the table -------------------------------------------------------------------------------------------------------

_ID_KEYS = ("device", "installation", "session", "epoch")
_H8_KEYS = ("chain", "sum", "ref")
_TEXT_KEYS = (
    *("token", "space", "user", "role", "mode", "reason", "name", "retry", "detail", "server", "resume_url", "key"),
)
_BOOL_KEYS = ("forget", "end", "resumed", "done", "last", "whole")
_COUNT_KEYS = (
    *("time", "frame_bytes_max", "keepalive_ms", "complete", "resume", "start", "settled", "applied", "oldest_base"),
    *("id", "ping_ms", "ack_ms", "expires", "head", "safe", "from", "after", "to", "t", "gap", "forked", "seq"),
    *("at", "fork", "highest", "code", "after_ms", "retry_after_ms", "spread_ms", "ttl_ms", "count"),
)
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_ID_KEYS, ID),
    **dict.fromkeys(_H8_KEYS, H8),
    **dict.fromkeys(_TEXT_KEYS, TEXT),
    **dict.fromkeys(_BOOL_KEYS, BOOL),
    **dict.fromkeys(_COUNT_KEYS, COUNT),
    "client": TEXT_MAP,
    "caps": TEXTS,
    "limits": COUNT_MAP,
    "reconnect": COUNT_MAP,
    "changes": CHANGES,
    "docs": DOCS,
    "outcomes": OUTCOMES,
    "of": NUMBERS,
    "buckets": NUMBERS,
    "documents": _packed(16),
    "gone": _packed(8),
    "left": _packed(8),
    "value": VALUE,
    "presence": PRESENCE,
    "here": HERE,
    "events": EVENTS,
    "results": RESULTS,
}
# Where an attribute of a message and its key on the wire differ. `complete` is a seq in subscribe, a boolean in delta.
_RENAMED: dict[type, dict[str, str]] = {m.Delta: {"from_seq": "from"}}
_KIND_OVERRIDES: dict[tuple[type, str], Kind] = {(m.Delta, "complete"): BOOL, (m.Sums, "buckets"): _packed(8)}
# Keys that are always sent, as null if they have no value.
_NULLABLE = {(m.Subscribe, "epoch"), (m.Push, "epoch")}

CODES: dict[type, int] = {
    m.Hello: 1,
    m.Subscribe: 2,
    m.Unsubscribe: 3,
    m.Push: 4,
    m.Ack: 5,
    m.Sums: 6,
    m.Signal: 7,
    m.Event: 8,
    m.Purged: 9,
    m.Refresh: 10,
    m.Background: 11,
    m.Foreground: 12,
    m.Probe: 13,
    m.Bye: 14,
    m.Ping: 20,
    m.Pong: 21,
    m.Welcome: 32,
    m.Subscribed: 33,
    m.Delta: 34,
    m.Outcomes: 35,
    m.Revoked: 36,
    m.Differ: 37,
    m.Repair: 38,
    m.Heard: 39,
    m.Presence: 40,
    m.Expired: 41,
    m.Error: 42,
    m.Goaway: 43,
    m.Noted: 44,
}
_TYPES = {code: type_ for type_, code in CODES.items()}


@dataclass(frozen=True, slots=True)
class _Item:
    attribute: str
    key: str
    kind: Kind
    required: bool
    nullable: bool


def _items(type_: type) -> tuple[_Item, ...]:
    result = []
    for field in fields(type_):
        key = _RENAMED.get(type_, {}).get(field.name, field.name)
        kind = _KIND_OVERRIDES.get((type_, key)) or _KINDS[key]
        nullable = (type_, key) in _NULLABLE
        result.append(_Item(field.name, key, kind, field.default is MISSING and not nullable, nullable))
    return tuple(result)


_SCHEMA: dict[type, tuple[_Item, ...]] = {type_: _items(type_) for type_ in CODES}


# -- frames ----------------------------------------------------------------------------------------------------------


def _wire(message: m.Message, binding: Binding) -> list[Value]:
    body = {}
    for item in _SCHEMA[type(message)]:
        value = getattr(message, item.attribute)
        if value is not None:
            body[item.key] = item.kind.out(value, binding)
        elif item.nullable:
            body[item.key] = None
    return [CODES[type(message)], body]


def encoded(messages: Iterable[m.Message], binding: Binding) -> bytes | str:
    """One frame that holds the messages: bytes for msgpack, text for JSON."""
    wires = [_wire(message, binding) for message in messages]
    if binding.is_json:
        return orjson.dumps(wires).decode()
    return b"".join(packed(wire) for wire in wires)


def decoded(frame: bytes | str, binding: Binding) -> list[m.Message]:
    """The messages of one frame, in order. Raises PeerError."""
    if len(frame) > FRAME_BYTES_MAX:
        raise PeerError(f"frame: {len(frame)} bytes, at most {FRAME_BYTES_MAX} were announced")
    raws = _json_array(frame) if binding.is_json else _msgpack_items(frame)
    result = []
    for index, raw in enumerate(raws):
        message = _message(raw, binding, f"message {index}")
        if message is not None:
            result.append(message)
    return result


def _json_array(frame: bytes | str) -> list[Any]:
    if not isinstance(frame, str):
        raise PeerError("frame: expected a text frame")
    try:
        raws = orjson.loads(frame)
    except orjson.JSONDecodeError as error:
        raise PeerError(f"frame: {error}") from None
    return _array(raws, 0, "frame", "an array of messages")


def _msgpack_items(frame: bytes | str) -> list[Any]:
    if not isinstance(frame, bytes):
        raise PeerError("frame: expected a binary frame")
    unpacker = msgpack.Unpacker(None, raw=False, strict_map_key=True, max_buffer_size=FRAME_BYTES_MAX)
    unpacker.feed(frame)
    raws = []
    end = 0  # of the last whole message: at a message that is cut off, `tell` already counts its beginning
    try:
        while end < len(frame):
            raws.append(unpacker.unpack())
            end = unpacker.tell()
    except msgpack.OutOfData:
        raise PeerError(f"frame: offset {end}: a message is cut off") from None
    except (msgpack.UnpackException, ValueError, RecursionError) as error:
        raise PeerError(f"frame: offset {unpacker.tell()}: {error}") from None
    return raws


def _message(raw: Any, binding: Binding, where: str) -> m.Message | None:
    items = _array(raw, 2, where, "an array of a type code and a body")
    code, body = items[0], items[1]
    if type(code) is not int:
        raise _wrong(where, "a type code", code)
    type_ = _TYPES.get(code)
    if type_ is None:
        if code >= 128:
            return None
        raise PeerError(f"{where}: unknown message type {code}")
    if not isinstance(body, dict):
        raise _wrong(where, "a body", body)
    return _from_body(type_, body, binding, f"{where} ({type_.__name__.lower()})")


def _from_body(type_: type, body: Mapping[str, Any], binding: Binding, where: str) -> m.Message:
    arguments = {}
    for item in _SCHEMA[type_]:
        raw = body.get(item.key)
        if raw is not None:
            arguments[item.attribute] = item.kind.into(raw, binding, f"{where}.{item.key}")
        elif item.nullable:
            arguments[item.attribute] = None
        elif item.required:
            raise PeerError(f"{where}: the key {item.key} is missing")
    message: m.Message = type_(**arguments)
    return message
