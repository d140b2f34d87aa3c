"""The types of the keys in a message's body: how each is read in each binding, and written in JSON.

Owns what a single key may hold. Must not know which message has which keys, nor frames (`codec`).

Invariants: T1 what a reader is given was parsed within the frame's limits; it returns what the message takes, or raises
`Wrong` with what was expected, or `ProtocolError` for what lies deeper; the codec adds the place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from syncd.core.changes import Change, ChangeMalformed, RefusedChange, Void, parsed_change
from syncd.core.ids import ID_BYTES, NONCE_BYTES, SEQ_MAX
from syncd.core.sums import BUCKET_COUNT
from syncd.core.values import Value, ValueRefused, normalized
from syncd.wire import messages as m
from syncd.wire.errors import MALFORMED, ProtocolError
from syncd.wire.json_values import from_json_value, json_value


class Wrong(Exception):
    """What was expected instead; whoever knows the place adds it."""


class Type(NamedTuple):
    """A type of body keys: how it is read in each binding (raises `Wrong`), and written in JSON (None: as it is)."""

    read: Callable[[Any], Any]
    read_json: Callable[[Any], Any]
    write_json: Callable[[Any], Any] | None = None


def _fixed(size: int) -> Type:
    def read(raw: Any) -> bytes:
        if type(raw) is not bytes or len(raw) != size:
            raise Wrong(f"{size} bytes")
        return raw

    return Type(read, lambda raw: _unhex(raw, size), bytes.hex)


def _unhex(raw: Any, size: int) -> bytes:
    if type(raw) is str and len(raw) == 2 * size:
        try:
            data = bytes.fromhex(raw)
        except ValueError:
            data = b""
        if data.hex() == raw:  # upper case and spaces are hexadecimal to Python, but not to the protocol
            return data
    raise Wrong(f"{2 * size} lower-case hexadecimal digits")


def _scalar(kind: type, expected: str) -> Type:
    def read(raw: Any) -> Any:
        if type(raw) is not kind:  # not isinstance: True is an int to Python
            raise Wrong(expected)
        return raw

    return Type(read, read)


def _count(least: int) -> Type:
    def read(raw: Any) -> int:
        if type(raw) is not int or not least <= raw <= SEQ_MAX:
            raise Wrong(f"an integer from {least} to 2^53 - 1")
        return raw

    return Type(read, read)


def _read_texts(raw: Any) -> tuple[str, ...]:
    if type(raw) is not list or any(type(item) is not str for item in raw):
        raise Wrong("an array of text")
    return tuple(raw)


def _read_text_map(raw: Any) -> dict[str, str]:
    if type(raw) is not dict or any(type(key) is not str or type(item) is not str for key, item in raw.items()):
        raise Wrong("a map of text to text")
    return raw


def _read_changes(raw: Any) -> tuple[Change | Void | RefusedChange, ...]:
    if type(raw) is not list or not raw:
        raise Wrong("an array of at least one change")
    changes = []
    for index, item in enumerate(raw):
        try:
            changes.append(parsed_change(item))
        except ChangeMalformed as error:
            raise ProtocolError(MALFORMED, f"[{index}]: {error}") from None
    return tuple(changes)


def _read_json_changes(raw: Any) -> tuple[Change | Void | RefusedChange, ...]:
    if type(raw) is not list:
        raise Wrong("an array of at least one change")
    return _read_changes([_unjson_change(item, index) for index, item in enumerate(raw)])


def _unjson_change(raw: Any, index: int) -> Any:
    """The change as MessagePack would have brought it; what has another shape is left for `parsed_change` to refuse."""
    if type(raw) is not list or len(raw) < 5:
        return raw
    at = 3 if raw[0] == "void" else 1
    try:
        items = [*raw[:at], _unhex(raw[at], NONCE_BYTES), *raw[at + 1 :]]
        if at == 1:
            items[4] = from_json_value(items[4])
            if len(items) > 5:
                items[5] = _unjson_context(items[5])
    except Wrong as error:
        raise ProtocolError(MALFORMED, f"[{index}]: 'nonce' is {error}") from None
    except ValueRefused as error:
        raise ProtocolError(MALFORMED, f"[{index}]: {error}") from None
    return items


def _unjson_context(raw: Any) -> Any:
    """Device ids are hexadecimal text here; what is none is left for `parsed_change` to refuse."""
    if type(raw) is not list:
        return raw
    read = []
    for item in raw:
        try:
            is_former = type(item) is list and len(item) == 3
            read.append([_unhex(item[0], ID_BYTES), *item[1:]] if is_former else item)
        except Wrong:
            read.append(item)
    return read


def _packed(size: int, least: int = 0, most: int = SEQ_MAX) -> Type:
    """So many items of `size` bytes, one after the other."""
    expected = f"{least} items of {size} bytes" if least == most else f"items of {size} bytes"

    def read(raw: Any) -> bytes:
        if type(raw) is not bytes or len(raw) % size or not least <= len(raw) // size <= most:
            raise Wrong(expected)
        return raw

    return Type(read, lambda raw: read(_unhex(raw, len(raw) // 2) if type(raw) is str else raw), bytes.hex)


def _read_numbers(raw: Any) -> tuple[int, ...]:
    if type(raw) is not list or any(type(item) is not int for item in raw):
        raise Wrong("an array of integers")
    return tuple(raw)


def _read_value(raw: Any) -> Value:
    try:
        return normalized(raw)
    except ValueRefused as error:
        raise ProtocolError(MALFORMED, f": {error}") from None


def _read_json_value(raw: Any) -> Value:
    try:
        return normalized(from_json_value(raw))
    except ValueRefused as error:
        raise ProtocolError(MALFORMED, f": {error}") from None


def _presence(read: Callable[[Any], Value]) -> Callable[[Any], Value]:
    def checked(raw: Any) -> Value:
        if type(raw) is bool:
            return raw
        if type(raw) is not dict or type(value := read(raw)) is not dict:
            raise Wrong("a map or a boolean")
        return value

    return checked


def _events(read: Callable[[Any], Value], read_id: Callable[[Any], bytes]) -> Callable[[Any], tuple[m.Happening, ...]]:
    def event(raw: Any) -> m.Happening:
        if type(raw) is not list or not 3 <= len(raw) <= 4 or type(raw[1]) is not str:
            raise Wrong("an array of [id, name, time, data?]")
        try:
            at_ms, data = COUNT.read(raw[2]), raw[3] if len(raw) == 4 else None
            if data is not None and (type(data) is not dict or type(data := read(data)) is not dict):
                raise Wrong("a map or null as data")
            return m.Happening(read_id(raw[0]), raw[1], at_ms, data)
        except Wrong as wrong:
            raise Wrong(f"events, each with {wrong}") from None

    def checked(raw: Any) -> tuple[m.Happening, ...]:
        if type(raw) is not list or not raw:
            raise Wrong("an array of at least one event")
        return tuple([event(item) for item in raw])

    return checked


def _results_json(results: tuple[m.EventResult, ...]) -> list[Any]:
    return [[result.id.hex(), result.status, result.detail] for result in results]


def _here_json(members: tuple[tuple[bytes, str, Value], ...]) -> list[Any]:
    return [[ref.hex(), user, json_value(state)] for ref, user, state in members]


def _docs_json(docs: tuple[m.DocumentEntry, ...]) -> list[Any]:
    # Field names are keys of the message, not of a value: they are not escaped.
    return [
        [d.collection, d.id, d.rev, d.state, {k: f and [f[0], json_value(f[1])] for k, f in d.fields.items()}]
        for d in docs
    ]


def _outcomes_json(entries: tuple[m.OutcomeEntry, ...]) -> list[Any]:
    return [[e.n, e.nonce.hex(), e.outcome, e.seq, json_value(e.detail)] for e in entries]


def _unread(raw: Any) -> Any:
    raise AssertionError("a server does not read this")


ID = _fixed(ID_BYTES)
HASH = _fixed(8)
TEXT = _scalar(str, "text")
BOOLEAN = _scalar(bool, "a boolean")
COUNT = _count(0)
FROM_ONE = _count(1)
TEXTS = Type(_read_texts, _read_texts)
TEXT_MAP = Type(_read_text_map, _read_text_map)
COUNT_MAP = Type(_unread, _unread)
CHANGES = Type(_read_changes, _read_json_changes)
DOCUMENTS = Type(_unread, _unread, _docs_json)
BUCKET_SUMS = _packed(8, BUCKET_COUNT, BUCKET_COUNT)
PAIRS = _packed(16)
HASHES = Type(_unread, _unread, bytes.hex)
NUMBERS = Type(_read_numbers, _read_numbers)
VALUE = Type(_read_value, _read_json_value, json_value)
PRESENCE = Type(_presence(_read_value), _presence(_read_json_value))
EVENTS = Type(_events(_read_value, ID.read), _events(_read_json_value, ID.read_json))
RESULTS = Type(_unread, _unread, _results_json)
MEMBERS = Type(_unread, _unread, _here_json)
OUTCOMES = Type(_unread, _unread, _outcomes_json)
