"""Bytes of one frame <-> messages, in both bindings (SPEC section 5).

Owns the schema: one table from message code to the keys of its body, each with a type. Must not know in which order
messages may come (`session`), nor what is inside a change (`core.changes` judges that).

Invariants: K1 a frame is decoded whole or not at all. K2 whatever the bytes, `decode` returns messages or raises
`ProtocolError`. K3 nothing is allocated for more than `limits` allow. K4 a message has one encoding in each binding. K5
what a frame holds of arrays and maps is counted while, or before, they are made: beyond `CONTAINERS_MAX` no more are.
"""

import json
from collections.abc import Generator, Iterator
from dataclasses import MISSING, fields
from typing import Any, Final, NamedTuple

import msgpack
import orjson

from syncd.core.values import Value, encoded
from syncd.wire import messages as m
from syncd.wire.errors import MALFORMED, RATE_LIMITED, TOO_MANY_CHANGES, TOO_MANY_EVENTS, UNKNOWN_MESSAGE, ProtocolError
from syncd.wire.json_values import NESTING, without_texts
from syncd.wire.json_values import from_json_value as from_json_value  # the codec's, to whoever reads JSON
from syncd.wire.json_values import json_value as json_value
from syncd.wire.keytypes import (
    BOOLEAN,
    BUCKET_SUMS,
    CHANGES,
    COUNT,
    COUNT_MAP,
    DOCUMENTS,
    EVENTS,
    FROM_ONE,
    HASH,
    HASHES,
    ID,
    MEMBERS,
    NUMBERS,
    OUTCOMES,
    PAIRS,
    PRESENCE,
    RESULTS,
    TEXT,
    TEXT_MAP,
    TEXTS,
    VALUE,
    Type,
    Wrong,
)  # fmt: skip
from syncd.wire.limits import (
    ARRAY_ITEMS_MAX,
    CONTAINERS_MAX,
    DEFAULT,
    JSON_FACTOR,
    MAP_ITEMS_MAX,
    MESSAGES_BURST_MAX,
    Limits,
)

# -- the schema -------------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """One key of a body. `attribute`: its name in the dataclass. A key that is not required may be absent or null, and
    then stands for `default`."""

    name: str
    attribute: str
    type: Type
    is_required: bool
    default: Any


class Schema(NamedTuple):
    """One message type."""

    code: int
    name: str
    cls: type
    keys: tuple[Key, ...]


def _schema(code: int, cls: type, named: str = "", /, **types: Type) -> Schema:
    """`key=TYPE` in the order of SPEC section 5; a trailing underscore marks an optional key, as `?` does there.
    `named`: if the message has another name than its class."""
    defaults = {field.name: None if field.default is MISSING else field.default for field in fields(cls)}
    keys = []
    for text, type_ in types.items():
        name = text.removesuffix("_")
        attribute = "from_" if name == "from" else name
        keys.append(Key(name, attribute, type_, name == "from" or name == text, defaults[attribute]))
    return Schema(code, named or cls.__name__.lower(), cls, tuple(keys))


_PING, _PONG = _schema(20, m.Ping, id_=COUNT), _schema(21, m.Pong, id_=COUNT)

CLIENT: Final = (
    _schema(
        1, m.Hello, device=ID, installation=ID, session_=ID, token_=TEXT, client_=TEXT_MAP, caps_=TEXTS, time=COUNT,
        frame_bytes_max_=COUNT, keepalive_ms_=COUNT,
    ),
    # An epoch is null before the first contact; required by the specification, but its absence can mean nothing else.
    _schema(
        2, m.Subscribe, space=TEXT, epoch_=ID, complete=COUNT, resume=COUNT, start_=COUNT, settled=COUNT, chain_=HASH
    ),
    _schema(3, m.Unsubscribe, space=TEXT, forget_=BOOLEAN),
    _schema(4, m.Push, space=TEXT, epoch_=ID, changes=CHANGES),
    _schema(5, m.Ack, space=TEXT, epoch=ID, applied=COUNT, oldest_base=COUNT, settled=COUNT),
    _schema(6, m.Sums, space=TEXT, epoch=ID, buckets_=BUCKET_SUMS, of_=NUMBERS, documents_=PAIRS, last_=BOOLEAN),
    _schema(7, m.Signal, space=TEXT, key_=TEXT, value_=VALUE, ttl_ms_=COUNT, presence_=PRESENCE),
    _schema(8, m.Event, events=EVENTS),
    _schema(9, m.Purged, space=TEXT),
    _schema(10, m.Refresh, token=TEXT),
    _schema(11, m.Background, keepalive_ms_=COUNT),
    _schema(12, m.Foreground),
    _schema(13, m.Probe, id_=COUNT),
    _schema(14, m.Bye, end_=BOOLEAN),
    _PING,
    _PONG,
)  # fmt: skip
SERVER: Final = (
    _schema(
        32, m.Welcome, session=ID, time=COUNT, user=TEXT, resumed=BOOLEAN, limits=COUNT_MAP, ping_ms=COUNT,
        ack_ms=COUNT, expires_=COUNT, reconnect=COUNT_MAP, server=TEXT, caps=TEXTS,
    ),
    _schema(33, m.Subscribed, space=TEXT, epoch=ID, head=COUNT, safe=COUNT, role=TEXT, mode=TEXT, ref_=HASH),
    _schema(
        34, m.Delta, space=TEXT, epoch=ID, from_=COUNT, after=COUNT, to=COUNT, complete_=BOOLEAN, start_=COUNT, t=COUNT,
        chain=HASH, sum_=HASH, docs=DOCUMENTS,
    ),
    _schema(35, m.Outcomes, space=TEXT, epoch=ID, outcomes=OUTCOMES, gap_=FROM_ONE, forked_=FROM_ONE),
    _schema(36, m.Revoked, space=TEXT, seq_=COUNT, reason=TEXT),
    _schema(37, m.Differ, space=TEXT, epoch=ID, at=COUNT, t=COUNT, chain=HASH, buckets=NUMBERS),
    _schema(
        38, m.Repair, space=TEXT, epoch=ID, at=COUNT, t=COUNT, chain=HASH, docs=DOCUMENTS, gone=HASHES, done_=BOOLEAN,
        last_=BOOLEAN, sum_=HASH,
    ),
    _schema(39, m.Heard, "signal", space=TEXT, ref=HASH, user_=TEXT, key=TEXT, value=VALUE, ttl_ms=COUNT),
    _schema(40, m.Presence, space=TEXT, count=COUNT, here=MEMBERS, left_=HASHES, whole_=BOOLEAN),
    _schema(41, m.Expired, space=TEXT, epoch=ID, fork=COUNT, highest=COUNT),
    _schema(42, m.Error, code=COUNT, name=TEXT, retry=TEXT, after_ms_=COUNT, detail_=TEXT, space_=TEXT),
    _schema(43, m.Goaway, code=COUNT, retry_after_ms=COUNT, spread_ms=COUNT, resume_url_=TEXT),
    _schema(44, m.Noted, results=RESULTS),
    _PING,
    _PONG,
)  # fmt: skip
_CLIENT_BY_CODE: Final = {schema.code: schema for schema in CLIENT}
_SERVER_BY_CLASS: Final = {schema.cls: schema for schema in SERVER}
_SERVER_NAMES: Final = {schema.code: schema.name for schema in SERVER}
IGNORED_CODE_MIN: Final = 128  # types from here on may be ignored; a later version relies on it

# -- encoding ---------------------------------------------------------------------------------------------------------


def _body(schema: Schema, message: m.ServerMessage) -> dict[str, Any]:
    body = {}
    for name, attribute, _, is_required, _ in schema.keys:
        value = getattr(message, attribute)
        if is_required or (value is not None and value is not False):
            body[name] = value
    return body


def _delta_body(delta: m.Delta) -> dict[str, Any]:
    """`_body` of the message that is sent most, without reflection. Entries are tuples: they pack as they are."""
    body: dict[str, Any] = {
        "space": delta.space,
        "epoch": delta.epoch,
        "from": delta.from_,
        "after": delta.after,
        "to": delta.to,
        "t": delta.t,
        "chain": delta.chain,
        "docs": delta.docs,
    }
    if delta.complete:
        body["complete"] = True
    if delta.start is not None:
        body["start"] = delta.start
    if delta.sum is not None:
        body["sum"] = delta.sum
    return body


def _message(message: m.ServerMessage) -> tuple[Schema, dict[str, Any]]:
    schema = _SERVER_BY_CLASS[type(message)]
    return schema, _delta_body(message) if type(message) is m.Delta else _body(schema, message)


def _json_body(schema: Schema, body: dict[str, Any]) -> dict[str, Any]:
    for name, _, type_, _, _ in schema.keys:
        if type_.write_json is not None and name in body:
            body[name] = type_.write_json(body[name])
    return body


# -- decoding ---------------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[Any] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the map key {str(repeated)[:40]!r} is repeated")
    return result


_TOO_MANY = f"a frame holds at most {CONTAINERS_MAX} arrays and maps"


def _counting() -> Generator[Any, Any, None]:
    """Hands back each of the first `CONTAINERS_MAX` things that are sent to it, and refuses the next."""
    item = None
    for _ in range(CONTAINERS_MAX + 1):
        item = yield item
    raise ValueError(_TOO_MANY)


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError("extension types are not used")


_BOUNDS: Final[dict[str, Any]] = {
    "raw": False,
    "strict_map_key": True,  # integer keys could be made to collide
    "max_array_len": ARRAY_ITEMS_MAX,
    "max_map_len": MAP_ITEMS_MAX,
    "max_ext_len": 0,  # also timestamps, which never reach the hook
    "ext_hook": _no_extension,
}


def _unpacked(data: bytes) -> Iterator[tuple[str, Any]]:
    """The raw messages of a binary frame, each with its place. Text, bytes and nesting are bounded by the frame."""
    # A frame has no more arrays and maps than bytes: the usual one needs no counting.
    counted = None
    if len(data) > CONTAINERS_MAX:
        counter = _counting()
        next(counter)
        counted = counter.send
    else:
        try:
            raw = msgpack.unpackb(data, object_pairs_hook=_unique, **_BOUNDS)
        except (ValueError, msgpack.UnpackException):
            pass  # more than one message, or none that is right: gone through again, to say where
        else:
            yield "message 0 at byte 0", raw
            return
    unpacker = msgpack.Unpacker(
        None,
        read_size=len(data),
        max_buffer_size=len(data),
        list_hook=counted,
        object_pairs_hook=_unique if counted is None else lambda pairs: counted(_unique(pairs)),
        **_BOUNDS,
    )
    unpacker.feed(data)
    offset = index = 0
    while offset < len(data):
        try:
            raw = unpacker.unpack()
        except msgpack.OutOfData:
            raise ProtocolError(MALFORMED, f"message {index}: begins at byte {offset} and is cut off") from None
        except msgpack.StackError:
            raise ProtocolError(MALFORMED, f"message {index}: byte {unpacker.tell()}: nested too deep") from None
        except (ValueError, msgpack.UnpackException) as error:
            said = str(error) or "no MessagePack begins with this byte"
            raise ProtocolError(MALFORMED, f"message {index}: byte {unpacker.tell()}: {said}") from None
        yield f"message {index} at byte {offset}", raw
        offset, index = unpacker.tell(), index + 1


def _check_counts(data: str, items_max: int) -> None:
    """JSON: no more arrays and maps than a frame holds, nor more items in them than a frame of MessagePack has bytes.
    What stands in texts is neither; they are looked into only if there may be too many."""
    for is_bare in (False, True):
        if data.count("[") + data.count("{") <= CONTAINERS_MAX and data.count(",") <= items_max:
            return
        if not is_bare:
            data = without_texts(data)
    raise ProtocolError(MALFORMED, f"in the frame: {_TOO_MANY}, and {items_max} items")


def _key_count(value: Value) -> int:
    """How many keys the maps of a parsed frame have."""
    count, waiting = 0, [value]
    while waiting:
        items = waiting.pop()
        if type(items) is dict:
            count += len(items)
            items = items.values()
        if not NESTING.isdisjoint(map(type, items)):
            waiting.extend([item for item in items if type(item) in NESTING])
    return count


def _check_unique(data: str, raws: list[Any]) -> None:
    """Raises `ValueError` at a repeated key. orjson keeps the last of two equal ones in silence; but each key has a
    colon, so as many keys as colons leave no place for another. Only if there may be one, the standard parser is asked,
    which takes ten times as long."""
    count = _key_count(raws)
    if data.count(":") != count and without_texts(data).count(":") != count:
        json.loads(data, object_pairs_hook=_unique)


def _parsed(data: str, items_max: int) -> Iterator[tuple[str, Any]]:
    """The raw messages of a text frame. orjson is strict (UTF-8, no NaN, no lone surrogates)."""
    _check_counts(data, items_max)
    try:
        raws = orjson.loads(data)
        if type(raws) is not list:
            raise ProtocolError(MALFORMED, "a text frame is a JSON array of messages")
        _check_unique(data, raws)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(MALFORMED, f"character {error.pos}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise ProtocolError(MALFORMED, f"in the frame: {error}") from None
    for index, raw in enumerate(raws):
        yield f"message {index}", raw


def _decoded(raw: Any, where: str, is_text: bool, limits: Limits) -> m.ClientMessage | None:
    """One message; None for a type that may be ignored."""
    if type(raw) is not list or len(raw) != 2 or type(raw[0]) is not int or type(raw[1]) is not dict:
        raise ProtocolError(MALFORMED, f"{where}: a message is an array of a type code and a map")
    code, body = raw
    schema = _CLIENT_BY_CODE.get(code)
    if schema is None:
        if code >= IGNORED_CODE_MIN:
            return None
        known = _SERVER_NAMES.get(code)
        said = f"{known} is sent by servers only" if known else f"there is no message type {code}"
        raise ProtocolError(UNKNOWN_MESSAGE, f"{where}: {said}")
    attributes = {}
    for name, attribute, type_, is_required, default in schema.keys:
        item = body.get(name)
        if item is None:
            if is_required:
                raise ProtocolError(MALFORMED, f"{where} ({schema.name}): the key '{name}' is missing")
            attributes[attribute] = default
            continue
        if type_ is CHANGES and type(item) is list and len(item) > limits.push_changes_max:
            said = f"a push has at most {limits.push_changes_max} changes, not {len(item)}"
            raise ProtocolError(TOO_MANY_CHANGES, f"{where} ({schema.name}): {said}")
        if type_ is EVENTS and type(item) is list and len(item) > limits.events_max:
            said = f"a message has at most {limits.events_max} events, not {len(item)}"
            raise ProtocolError(TOO_MANY_EVENTS, f"{where} ({schema.name}): {said}")
        try:
            attributes[attribute] = type_.read_json(item) if is_text else type_.read(item)
        except Wrong as wrong:
            raise ProtocolError(MALFORMED, f"{where} ({schema.name}): '{name}' is {wrong}") from None
        except ProtocolError as error:
            raise ProtocolError(error.kind, f"{where} ({schema.name}): '{name}'{error.detail}") from None
    message: m.ClientMessage = schema.cls(**attributes)
    return message


# -- the two bindings -------------------------------------------------------------------------------------------------


class Codec:
    """One binding. Stateless: one instance serves all connections. `name` is its WebSocket subprotocol."""

    __slots__ = ("is_text", "name")

    def __init__(self, name: str, is_text: bool) -> None:
        self.name, self.is_text = name, is_text

    def frame_bytes_max(self, limits: Limits = DEFAULT) -> int:
        """The longest frame that this binding takes: limits are measured on MessagePack."""
        return limits.frame_bytes_max * (JSON_FACTOR if self.is_text else 1)

    def decode(self, data: bytes | str, limits: Limits = DEFAULT) -> list[m.ClientMessage]:
        """The messages of one frame, without those that may be ignored. Raises `ProtocolError`."""
        if type(data) is not (str if self.is_text else bytes):
            expected = "text" if self.is_text else "binary"
            raise ProtocolError(MALFORMED, f"{self.name} uses {expected} frames", close_code=1003)
        bytes_max = self.frame_bytes_max(limits)
        if len(data) > bytes_max:
            said = f"a frame has at most {bytes_max} bytes, not {len(data)}"
            raise ProtocolError(MALFORMED, said, close_code=1009)
        messages = []
        raws = _parsed(data, limits.frame_bytes_max) if isinstance(data, str) else _unpacked(data)
        for count, (where, raw) in enumerate(raws, 1):
            if count > MESSAGES_BURST_MAX:  # before the rest is decoded: the bucket could never allow it
                raise ProtocolError(RATE_LIMITED, f"a frame holds at most {MESSAGES_BURST_MAX} messages")
            message = _decoded(raw, where, self.is_text, limits)
            if message is not None:
                messages.append(message)
        return messages

    def encode(self, *messages: m.ServerMessage) -> bytes:
        """The payload of one frame that holds these messages."""
        if self.is_text:
            wires = []
            for message in messages:
                schema, body = _message(message)
                wires.append((schema.code, _json_body(schema, body)))
            return orjson.dumps(wires)
        parts = []
        for message in messages:
            schema, body = _message(message)
            parts.append(encoded((schema.code, body)))
        return parts[0] if len(parts) == 1 else b"".join(parts)


MSGPACK: Final = Codec("syncd.v1.msgpack", False)
JSON: Final = Codec("syncd.v1.json", True)
CODECS: Final = {codec.name: codec for codec in (MSGPACK, JSON)}
