"""The codec: every message both ways, nothing but `ProtocolError` for any bytes, and bounded memory."""

import json
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.conformance.cddl import parsed
from syncd.core.changes import Change, RefusedChange, Void
from syncd.core.values import normalized
from syncd.wire import messages as m
from syncd.wire.codec import CLIENT, CODECS, JSON, MSGPACK, SERVER, from_json_value, json_value
from syncd.wire.errors import ProtocolError
from syncd.wire.limits import CONTAINERS_MAX, DEFAULT, MESSAGES_BURST_MAX
from syncd_client import codec as client
from tests.core.strategies import values
from tests.wire.strategies import CLIENT_CODES, json_message, raw_client_messages, server_messages

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = parsed((ROOT / "protocol/syncd.cddl").read_text())
# What stands in backquotes in a row of SPEC section 5 and is not a key.
NOT_KEYS = re.compile(r"\(`[^)]*\)|1 to `.*|: `live`.*|map: `first.*?;|: `now`.*?;|:[^`]*`pong`.*|with the same.*")
H, ID = b"h" * 8, b"i" * 16
HELLO = [1, {"device": ID, "installation": ID, "time": 5}]


def packed(*messages: Any) -> bytes:
    return b"".join(msgpack.packb(message, use_bin_type=True) for message in messages)


def text(*messages: Any) -> str:
    return orjson.dumps([json_message(message) for message in messages]).decode()


def refused(data: bytes | str) -> ProtocolError:
    codec = JSON if isinstance(data, str) else MSGPACK
    with pytest.raises(ProtocolError) as caught:
        codec.decode(data)
    return caught.value


# -- repeated keys in JSON --------------------------------------------------------------------------------------------


class _Pairs(list[Any]):
    """A map of JSON as it is written: keys may come again."""


_TRICKY = st.text(alphabet='ab":{}[],\\\n\u00e9', max_size=4)
_WRITTEN = st.recursive(
    st.one_of(_TRICKY, st.integers(0, 9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(st.tuples(_TRICKY, inner), max_size=3).map(lambda pairs: _Pairs(pairs))
    ),
    max_leaves=12,
)


def _written(value: Any, separator: str) -> str:
    if isinstance(value, _Pairs):
        items = [f"{json.dumps(key)}{separator}{_written(item, separator)}" for key, item in value]
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(item, separator) for item in value) + "]"
    return json.dumps(value)


def _is_repeating(value: Any) -> bool:
    if isinstance(value, _Pairs):
        names = [key for key, _ in value]
        return len(set(names)) < len(names) or any(_is_repeating(item) for _, item in value)
    return isinstance(value, list) and any(map(_is_repeating, value))


@given(_WRITTEN, st.sampled_from((":", " : ")))
def test_a_repeated_key_is_found_wherever_it_stands_and_nothing_else_is_taken_for_one(value: Any, colon: str) -> None:
    """Keys are counted by their colons first; texts may hold colons, quotes and backslashes of their own."""
    data = f'[[20,{{"id"{colon}1}}],[200,{{"x"{colon}{_written(value, colon)}}}]]'
    if _is_repeating(value):
        assert "is repeated" in str(refused(data))
    else:
        assert JSON.decode(data) == [m.Ping(1)]


# -- what clients send ------------------------------------------------------------------------------------------------


def as_body(message: m.ClientMessage) -> dict[str, Any]:
    """The body that a decoded message stands for, without absent keys."""
    body = {}
    for name in type(message).__dataclass_fields__:
        value = getattr(message, name)
        if name == "changes":
            value = [as_change(change) for change in value]
        elif name == "events":
            value = [[*event[:3], event.data] for event in value]
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None and value is not False and value != []:
            body[name] = value
    return body


def as_change(change: Change | Void | RefusedChange) -> list[Any]:
    if isinstance(change, Void):
        return ["void", change.n, change.last, change.nonce, change.reason]
    assert isinstance(change, Change), change
    return [change.n, change.nonce, change.base, change.stamp, [op.wire() for op in change.operations]]


@given(raw_client_messages)
def test_every_message_of_a_client_is_valid_and_read_as_it_was_written_in_both_bindings(raw: list[Any]) -> None:
    assert SCHEMA.matches("client-message", raw)
    (message,) = MSGPACK.decode(packed(raw))
    assert JSON.decode(text(raw)) == [message]
    body = {k: v for k, v in raw[1].items() if k != "x-later" and v is not None and v is not False and v != []}
    body |= {key: normalized(body[key]) for key in ("value", "presence") if key in body}
    if "events" in body:
        body["events"] = [[*event[:3], normalized(event[3]) if event[3:] else None] for event in body["events"]]
    if "changes" in body:
        body["changes"] = [
            c if c[0] == "void" else [*c[:4], [[*op[:3], *map(normalized, op[3:])] for op in c[4]]]
            for c in body["changes"]
        ]
    assert repr(as_body(message)) == repr({key: body[key] for key in as_body(message)})
    assert as_body(message).keys() == body.keys()


@given(st.lists(raw_client_messages, max_size=6), st.data())
def test_messages_come_out_the_same_however_they_are_put_into_frames(raws: list[Any], data: st.DataObject) -> None:
    whole = MSGPACK.decode(packed(*raws))
    split = data.draw(st.integers(0, len(raws)))
    assert MSGPACK.decode(packed(*raws[:split])) + MSGPACK.decode(packed(*raws[split:])) == whole
    assert JSON.decode(text(*raws[:split])) + JSON.decode(text(*raws[split:])) == whole


def test_the_strategies_cover_every_message_of_a_client() -> None:
    assert sorted(schema.code for schema in CLIENT) == CLIENT_CODES


def test_types_from_128_on_are_ignored_and_lesser_unknown_ones_are_not() -> None:
    assert MSGPACK.decode(packed([128, {"x": 1}], [12, {}], [4000, {}])) == [m.Foreground()]
    assert refused(packed([127, {}])).kind.name == "unknown_message"
    assert refused(packed([15, {}])).kind.name == "unknown_message"
    assert "servers only" in refused(packed([34, {}])).detail


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**HELLO[1], "device": None}, "'device' is missing"),  # type: ignore[dict-item]
        ({**HELLO[1], "device": b"short"}, "'device' is 16 bytes"),  # type: ignore[dict-item]
        ({**HELLO[1], "time": True}, "'time' is an integer from 0 to 2^53 - 1"),  # type: ignore[dict-item]
        ({**HELLO[1], "time": -1}, "'time' is an integer"),  # type: ignore[dict-item]
        ({**HELLO[1], "time": 2**53}, "'time' is an integer"),  # type: ignore[dict-item]
        ({**HELLO[1], "time": 5.0}, "'time' is an integer"),  # type: ignore[dict-item]
        ({**HELLO[1], "caps": "x"}, "'caps' is an array of text"),  # type: ignore[dict-item]
        ({**HELLO[1], "client": {"name": 1}}, "'client' is a map of text to text"),  # type: ignore[dict-item]
        ({**HELLO[1], "token": b"x"}, "'token' is text"),  # type: ignore[dict-item]
    ],
)
def test_an_error_names_the_message_the_key_and_what_was_expected(body: Any, said: str) -> None:
    error = refused(packed([12, {}], [1, body]))
    assert error.kind.name == "malformed"
    assert error.close_code == 1007
    assert error.detail.startswith("message 1 at byte 3 (hello): ")
    assert said in error.detail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([0, H, 0, 0, [["create", "c", "d"]]], "changes'[1]: 'n' is an integer"),
        ([1, b"x", 0, 0, [["create", "c", "d"]]], "changes'[1]: 'nonce' is 8 bytes"),
        ([1, H, -1, 0, [["create", "c", "d"]]], "changes'[1]: 'base'"),
        ("change", "changes'[1]: a change is an array"),
        ([1, H], "changes'[1]: a change is [n, nonce, base, stamp, operations]"),
        (["void", 3, 2, H, ""], "changes'[1]: a void gives up n to last n"),
    ],
)
def test_a_change_whose_header_cannot_be_read_is_named_by_its_index(change: Any, said: str) -> None:
    good = [1, H, 0, 0, [["create", "c", "d"]]]
    assert said in refused(packed([4, {"space": "s", "epoch": None, "changes": [good, change]}])).detail


def test_what_is_wrong_inside_a_change_is_left_to_its_outcome() -> None:
    changes = [[1, H, 0, 0, [["fly", "c", "d"]]], [2, H, 0, 0, [["create", "c", "d"]], {}]]
    (push,) = MSGPACK.decode(packed([4, {"space": "s", "epoch": None, "changes": changes}]))
    assert isinstance(push, m.Push)
    assert [getattr(change, "outcome", None) for change in push.changes] == ["invalid", "invalid"]


def test_too_many_changes_are_refused_before_any_is_read() -> None:
    many = [[1, H, 0, 0, [["create", "c", "d"]]]] * (DEFAULT.push_changes_max + 1)
    error = refused(packed([4, {"space": "s", "epoch": None, "changes": many}]))
    assert (error.kind.name, error.close_code) == ("too_many_changes", 4900)
    assert MSGPACK.decode(packed([4, {"space": "s", "epoch": None, "changes": many[1:]}]))


# -- any bytes --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
@example(b"\xc1")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\x92\x0c\x81\x01\x02")
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes) -> None:
    try:
        assert isinstance(MSGPACK.decode(data), list)
    except ProtocolError as error:
        assert error.message().name == error.kind.name


@given(raw_client_messages, st.data())
def test_a_message_with_a_byte_changed_or_cut_off_is_messages_or_a_protocol_error(
    raw: Any, data: st.DataObject
) -> None:
    frame = bytearray(packed(raw))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    for attempt in (bytes(frame), packed(raw)[:at]):
        try:
            MSGPACK.decode(attempt)
        except ProtocolError as error:
            assert len(error.detail) <= 500


@given(st.text(max_size=100) | st.recursive(st.none() | st.text(max_size=3) | st.integers(), st.lists).map(json.dumps))
@example("[" * 3000)
@example("[[12,{}]" + "," * 50)
@example("[[12,{" + '"a":' * 1200 + "1" + "}" * 1200)
@example("[[12,{}],[1e999,{}]]")
@example('[[10,{"token":"\\ud800"}]]')
@example("[[12,{}]]" + "1" * 5000)
def test_any_text_is_messages_or_a_protocol_error(data: str) -> None:
    try:
        assert isinstance(JSON.decode(data), list)
    except ProtocolError as error:
        assert error.kind.name in ("malformed", "unknown_message")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x92\x0c", "message 0: begins at byte 0 and is cut off"),
        (packed([12, {}]) + b"\x92\x0c", "message 1: begins at byte 3 and is cut off"),
        (packed([12, {}]) + b"\xc1", "message 1: byte 3"),
        (b"\x92\x0c\x82\xa1a\x01\xa1a\x02", "the map key 'a' is repeated"),
        (b"\x92\x0c\x81\x01\x02", "map key"),
        (b"\x92\x0c\x81\xa1a\xd6\xff\x00\x00\x00\x00", "max_ext_len"),
        (b"\x92\x0c\x81\xa1a\xc7\x00\x01", "extension types are not used"),
        (b"\x92\x0c\x81\xa1a\xa1\xff", "utf-8"),
        (b"\xc0", "a message is an array of a type code and a map"),
        (b"\x93\x0c\x80\xc0", "a message is an array of a type code and a map"),
        (b"\x91" * 2000, "nested too deep"),
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        ('[[12,{"a":1,"a":2}]]', "the map key 'a' is repeated"),
        ("[[12,{}],[12,{}]", "character 16"),
        ('{"a":[]}', "a text frame is a JSON array of messages"),
        ('[[1,{"device":"' + "A" * 32 + '"}]]', "'device' is 32 lower-case hexadecimal digits"),
    ],
)
def test_what_is_not_a_message_is_told_with_its_place(data: bytes | str, said: str) -> None:
    error = refused(data)
    assert error.kind.name == "malformed"
    assert said in error.detail


def test_a_frame_of_the_other_kind_and_a_long_frame_have_close_codes_of_their_own() -> None:
    with pytest.raises(ProtocolError) as caught:
        MSGPACK.decode("[]")
    assert caught.value.close_code == 1003
    for codec, data in ((MSGPACK, b"\xc0" * (DEFAULT.frame_bytes_max + 1)), (JSON, " " * 6_300_000)):
        with pytest.raises(ProtocolError) as caught:
            codec.decode(data)
        assert caught.value.close_code == 1009


def test_a_frame_of_too_many_messages_is_refused_before_the_rest_is_read() -> None:
    assert len(MSGPACK.decode(packed([12, {}]) * MESSAGES_BURST_MAX)) == MESSAGES_BURST_MAX
    assert refused(packed([12, {}]) * (MESSAGES_BURST_MAX + 1) + b"\xc1").kind.name == "rate_limited"


@pytest.mark.parametrize(
    ("bomb", "bytes_max"),
    [
        (b"\xdc\x10\x00" * 1_000, 36 << 20),  # 1,000 nested headers, each claiming 4,096 items
        (b"\xde\x10\x00\xa0" * 1_000, 36 << 20),
        (b"\xdd\xff\xff\xff\xff", 1 << 16),
        (b"\xdf\xff\xff\xff\xff", 1 << 16),
        (b"\xdb\xff\xff\xff\xff", 1 << 16),
        (b"\xc6\xff\xff\xff\xff", 1 << 16),
        (b"\x92\x0c\x81\xa1a\xdc\x0f\xff" + b"\x90" * 4_095, 1 << 20),
    ],
)
def test_what_a_header_claims_is_not_allocated_beyond_the_bound(bomb: bytes, bytes_max: int) -> None:
    tracemalloc.start()
    try:
        MSGPACK.decode(bomb)
    except ProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < bytes_max


def nested(leaf: bytes, count: int) -> bytes:
    """A push of one change with `count` leaves in arrays of 4,000, in changes of 15 arrays."""
    arrays = [leaf * len(range(start, min(start + 4_000, count))) for start in range(0, count, 4_000)]
    values = b"".join(b"\xdc" + (len(array) // len(leaf)).to_bytes(2) + array for array in arrays)
    operation = b"\x95" + packed("reg.set", "c", "i", "f") + b"\xdc" + len(arrays).to_bytes(2) + values
    change = b"\x95" + packed(1, b"12345678", 0, 0) + b"\x91" + operation
    return b"\x92\x04\x82" + packed("space", "a/b", "changes") + b"\x91" + change


def test_a_frame_holds_a_bounded_number_of_arrays_and_maps_in_both_bindings() -> None:
    beside = 2 + 5 + -(-CONTAINERS_MAX // 4_000)  # message, body, changes, change, operations, operation, outer, inner
    for leaf in (b"\x90", b"\x80"):
        assert len(MSGPACK.decode(nested(leaf, CONTAINERS_MAX - beside))) == 1
        error = refused(nested(leaf, CONTAINERS_MAX - beside + 1))
        assert error.kind.name == "malformed" and str(CONTAINERS_MAX) in error.detail
    junk = ",".join(["[]"] * (CONTAINERS_MAX - 3))
    assert len(JSON.decode(f'[[12,{{"junk":[{junk.removesuffix(",[]")}]}}]]')) == 1
    assert str(CONTAINERS_MAX) in refused(f'[[12,{{"junk":[{junk}]}}]]').detail


@pytest.mark.parametrize("inside", ["[{", '\\"[{', "\\\\", "\\u005b,"])
def test_brackets_and_commas_in_texts_are_neither_arrays_nor_items(inside: str) -> None:
    assert len(JSON.decode(f'[[12,{{"junk":["{inside * 600_000}"]}}]]')) == 1


@pytest.mark.parametrize("end", ["", "\\"])
def test_a_text_without_an_end_is_gone_through_once(end: str) -> None:
    # If each quote in it were looked at as a beginning, this would take hours.
    assert refused('[[12,{"junk":"' + '\\"[' * 1_000_000 + end).kind.name == "malformed"


def test_a_json_frame_has_no_more_items_than_one_of_messagepack_could_hold() -> None:
    assert str(DEFAULT.frame_bytes_max) in refused("[[12,{}]" + ",1" * (DEFAULT.frame_bytes_max + 1) + "]").detail


STEPS_MAX = 16 * CONTAINERS_MAX  # calls of functions, of Python or of C, while one frame is read


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(nested(b"\x90", 1_040_000), id="a million empty arrays"),
        pytest.param(nested(b"\x80", 131_000), id="as many empty maps as may be"),
        pytest.param(nested(b"\x01\xc0", 520_000), id="a million numbers and nulls"),
        pytest.param(nested(b"\xca\x3f\xc0\0\0", 205_000), id="doubles"),
    ],
)
def test_reading_any_frame_takes_a_bounded_number_of_steps(frame: bytes) -> None:
    assert len(frame) <= DEFAULT.frame_bytes_max
    steps = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        MSGPACK.decode(frame)
    except ProtocolError:
        pass
    finally:
        sys.setprofile(None)
    assert 0 < steps <= STEPS_MAX


# -- what servers send ------------------------------------------------------------------------------------------------


def plain(data: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(None, raw=False, strict_map_key=True)
    unpacker.feed(data)
    return list(unpacker)


@given(server_messages)
def test_every_message_of_a_server_is_valid_and_says_the_same_in_both_bindings(message: m.ServerMessage) -> None:
    frame = MSGPACK.encode(message)
    (raw,) = plain(frame)
    assert SCHEMA.matches("server-message", raw)
    assert frame == packed(raw), "the shortest form of everything"
    (read,) = client.decoded(frame, client.MSGPACK)
    assert client.decoded(JSON.encode(message).decode(), client.JSON) == [read]
    for name in type(message).__dataclass_fields__:
        told, sent = getattr(read, {"from_": "from_seq"}.get(name, name)), getattr(message, name)
        if name not in ("docs", "outcomes", "t"):
            assert told == sent or (sent is False and told is None)


@given(st.lists(server_messages, max_size=5))
def test_several_messages_make_one_frame(messages: list[m.ServerMessage]) -> None:
    assert MSGPACK.encode(*messages) == b"".join(MSGPACK.encode(message) for message in messages)
    assert orjson.loads(JSON.encode(*messages)) == [orjson.loads(JSON.encode(message))[0] for message in messages]


@given(values)
def test_a_value_is_the_same_after_json(value: Any) -> None:
    value = normalized(value)
    assert normalized(from_json_value(orjson.loads(orjson.dumps(json_value(value))))) == value


def test_the_tables_and_the_specification_list_the_same_keys() -> None:
    """SPEC 5.3 and 5.4: each row is `| code | `name` | body |`; keys are in backquotes, `?` after optional ones."""
    spec = (ROOT / "protocol/SPEC.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| `\w+` \|(.*)\|$", spec, re.M))
    for schema in (*CLIENT, *SERVER):
        if schema.name in ("ping", "pong"):
            continue
        row = NOT_KEYS.sub("", rows[str(schema.code)])
        told = {key: mark == "?" for key, mark in re.findall(r"`(\w+)`(\??)", row)}
        keys = {key.name: not key.is_required for key in schema.keys}
        if "epoch" in keys:
            keys["epoch"] = False  # null is written out, though its absence is understood
        assert told == keys, schema.name


def test_a_codec_is_found_by_its_subprotocol() -> None:
    assert CODECS == {"syncd.v1.msgpack": MSGPACK, "syncd.v1.json": JSON}
