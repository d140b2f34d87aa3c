"""Targets: what stands between bytes and messages, on the server and in the reference client."""

import json
import zlib
from itertools import pairwise
from typing import Any

import msgpack
import orjson

from syncd.core.changes import Change, RefusedChange, Void
from syncd.net.websocket import Closed, FrameRefused, Inbound, Pinged, Scrap
from syncd.wire import messages as m
from syncd.wire.cloudevents import (
    BATCH,
    STRUCTURED,
    CloudEvent,
    MalformedContent,
    TooMuch,
    UnsupportedContent,
    parsed_events,
)
from syncd.wire.codec import CLIENT, JSON, MSGPACK, Codec, json_value
from syncd.wire.errors import ProtocolError
from syncd.wire.session import ServerSession
from syncd_client import codec as client
from syncd_client.errors import PeerError
from tests.fuzz import corpus
from tests.fuzz.runner import Target

_CODES = {schema.cls: schema.code for schema in CLIENT}
PAYLOAD_BYTES_MAX = 4_096  # of one WebSocket message here, so that short inputs reach the limit
CLOSE_CODES = (1002, 1003, 1007, 1009)
MESSAGE_FAULTS = frozenset((1003, 1007, 1009))
WELCOME = m.Welcome(bytes(16), 5, "ann", False, {}, 30_000, 1000, {}, "syncd")
_LATER_MS = 60_000  # between two frames: the bucket of messages is full again


def _text_of(data: bytes) -> str | None:
    """What a text frame can hold: anything that is UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


# -- the server's codec -----------------------------------------------------------------------------------------------


def _raw_change(change: Change | Void | RefusedChange) -> list[Any] | None:
    if isinstance(change, RefusedChange):
        return None  # its payload is kept as evidence, perhaps cut: nothing to write again
    if isinstance(change, Void):
        return ["void", change.n, change.last, change.nonce, change.reason]
    raw = [change.n, change.nonce, change.base, change.stamp, [list(op.wire()) for op in change.operations]]
    return [*raw, [list(former) for former in change.context]] if change.context else raw


def _raw(message: m.ClientMessage) -> list[Any] | None:
    """The message as MessagePack brings it, written from what was read; None if that cannot be."""
    body = {}
    for name in type(message).__dataclass_fields__:
        value = getattr(message, name)
        if name == "changes":
            value = [_raw_change(change) for change in value]
            if None in value:
                return None
        body[name] = list(value) if isinstance(value, tuple) else value
    return [_CODES[type(message)], body]


def _hexed(value: Any) -> Any:
    """Bytes of messages, as JSON writes them; only values inside of changes write theirs in another way."""
    if isinstance(value, list | tuple):
        return [_hexed(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _in_json(raw: list[Any]) -> list[Any]:
    """The same message in the JSON binding."""
    body = {key: value if key == "changes" else _hexed(value) for key, value in raw[1].items()}
    body |= {key: json_value(raw[1][key]) for key in ("value", "presence") if key in body}
    if "events" in body:
        body["events"] = [[id.hex(), name, at_ms, json_value(data)] for id, name, at_ms, data in raw[1]["events"]]
    for index, change in enumerate(body.get("changes", ())):
        at = 3 if change[0] == "void" else 1
        written = [*change[:at], change[at].hex(), *change[at + 1 :]]
        former = [[[device.hex(), *place] for device, *place in context] for context in written[5:]]
        body["changes"][index] = written if at == 3 else [*written[:4], json_value(written[4]), *former]
    return [raw[0], body]


def _check_identity(messages: list[m.ClientMessage]) -> None:
    raws = [raw for message in messages if (raw := _raw(message)) is not None]
    kept = [message for message in messages if _raw(message) is not None]
    again = MSGPACK.decode(b"".join(msgpack.packb(raw, use_bin_type=True) for raw in raws))
    assert repr(again) == repr(kept), "a message read, written and read again is another"
    in_json = JSON.decode(orjson.dumps([_in_json(raw) for raw in raws]).decode())
    assert repr(in_json) == repr(kept), "a message is not the same in the JSON binding"


def _check_codec(codec: Codec, frame: bytes | str) -> None:
    try:
        messages = codec.decode(frame)
    except ProtocolError as refused:
        assert refused.detail, "a refusal says what was expected"
        json.dumps(refused.detail).encode()  # it travels in an `error`
        return
    _check_identity(messages)


def check_msgpack(data: bytes) -> None:
    _check_codec(MSGPACK, data)


def check_json(data: bytes) -> None:
    text = _text_of(data)
    if text is not None:
        _check_codec(JSON, text)


def _binary_seeds() -> list[bytes]:
    changes = []
    for text in corpus.histories():
        raws = [raw for message in JSON.decode(text.decode()) if (raw := _raw(message)) is not None]
        changes.append(b"".join(bytes(msgpack.packb(raw, use_bin_type=True)) for raw in raws))
    return [binary for binary, _ in corpus.messages("client")] + corpus.rejected()[0] + corpus.pushes()[0] + changes


def _text_seeds() -> list[bytes]:
    texts = [text for _, text in corpus.messages("client")]
    return texts + corpus.rejected()[1] + corpus.pushes()[1] + list(corpus.histories())


# -- the session ------------------------------------------------------------------------------------------------------


def _conversation(codec: Codec, frames: list[bytes | str]) -> tuple[list[str], str, str]:
    """What is read until the first refusal, the kind of that, and the state at the end."""
    session = ServerSession(codec, 0)
    read: list[str] = []
    refused = ""
    for number, frame in enumerate(frames, 1):
        try:
            for message in session.receive(frame, number * _LATER_MS):
                read.append(repr(message))
                if isinstance(message, m.Hello):
                    assert session.send(WELCOME)
        except ProtocolError as error:
            assert session.send(error.message()) or session.is_closed, "an error can always be told"
            session.close()
            refused = error.kind.name
    assert not session.is_closed or session.deadline_ms is None
    return read, refused, session.state.value


def _parts(codec: Codec, frame: bytes | str) -> list[bytes | str]:
    """Each message of a frame in a frame of its own; a frame behind a `bye` is read by nobody and may be anything."""
    try:
        return _cut(frame)
    except (msgpack.UnpackException, ValueError):
        return [frame]


def _cut(frame: bytes | str) -> list[bytes | str]:
    if isinstance(frame, str):
        return [orjson.dumps([raw]).decode() for raw in orjson.loads(frame)] or [frame]
    unpacker = msgpack.Unpacker(None, raw=False, max_buffer_size=len(frame) + 1)
    unpacker.feed(frame)
    ends = [0]
    while ends[-1] < len(frame):
        unpacker.skip()
        ends.append(unpacker.tell())
    return [frame[begin:end] for begin, end in pairwise(ends)] or [frame]


def check_session(data: bytes) -> None:
    """The first byte: which binding; the rest: frames, each behind two bytes of length. Bytes before `hello` was read
    are met by a session that waits for it."""
    codec = JSON if data[:1] == b"j" else MSGPACK
    frames: list[bytes | str] = []
    rest = data[1:]
    while rest:
        piece = rest[2 : 2 + int.from_bytes(rest[:2])]
        rest = rest[2 + len(piece) :]
        text = _text_of(piece)
        frames.append(piece if codec is MSGPACK or text is None else text)
    whole = _conversation(codec, frames)
    if not whole[1]:
        parts = [part for frame in frames for part in _parts(codec, frame)]
        in_parts = _conversation(codec, parts)
        assert in_parts == whole, "messages mean the same in one frame and in many"


def _framed(frames: list[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(2) + frame for frame in frames)


def _session_seeds() -> list[bytes]:
    pairs = corpus.messages("client")
    hello = next(pair for pair in pairs if pair[0].startswith(b"\x92\x01"))
    seeds = []
    for letter, index in ((b"m", 0), (b"j", 1)):
        seeds += [letter + _framed([hello[index], pair[index]]) for pair in pairs]
        seeds.append(letter + _framed([hello[index], *(pair[index] for pair in pairs[1:])]))
    seeds.append(b"m" + _framed([hello[0], b"".join(pair[0] for pair in pairs if pair is not hello)]))
    return seeds


# -- WebSocket frames -------------------------------------------------------------------------------------------------


def _received(is_text: bool, is_deflated: bool, pieces: list[bytes]) -> tuple[list[str], int]:
    """Payloads and control frames (how many scraps there are depends on the pieces), and the code of a refusal."""
    inbound = Inbound(is_text=is_text, payload_bytes_max=PAYLOAD_BYTES_MAX, is_deflated=is_deflated)
    items: list[str] = []
    try:
        for piece in pieces:
            for item in inbound.receive(piece):
                if isinstance(item, Scrap):
                    continue
                assert isinstance(item, Pinged | Closed | (str if is_text else bytes)), item
                if isinstance(item, str | bytes):
                    size = len(item.encode() if isinstance(item, str) else item)
                    assert size <= PAYLOAD_BYTES_MAX, "a payload is longer than the limit"
                elif isinstance(item, Pinged):
                    assert len(item.payload) <= 125
                items.append(repr(item))
    except FrameRefused as refused:
        assert refused.code in CLOSE_CODES, refused
        return items, refused.code
    return items, 0


def check_websocket(data: bytes) -> None:
    """The first byte: which kind, compressed or not, and how long the pieces are; the rest: the byte stream."""
    head, stream = data[:1] or b"\0", data[1:]
    is_text, is_deflated, size = bool(head[0] & 1), bool(head[0] & 0x80), (head[0] >> 1) % 61 + 1
    whole = _received(is_text, is_deflated, [stream])
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    items, code = _received(is_text, is_deflated, pieces)
    assert items == whole[0], "the same bytes in other pieces are read otherwise"
    # A message with two faults (of the wrong kind, no UTF-8, too long) is refused for the one that is met first.
    assert code == whole[1] or {code, whole[1]} <= MESSAGE_FAULTS, f"in pieces {code}, whole {whole[1]}"


def _deflated(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _websocket_seeds() -> list[bytes]:
    text, binary = b"[[20,{}]] \xc3\xa9\xe2\x80\xa8", bytes(range(256))
    ping, close = corpus.masked(0x9, b"ping"), corpus.masked(0x8, b"\x03\xe8bye")
    streams = [
        b"\x01" + corpus.masked(1, text) + ping + close,
        b"\x00" + corpus.masked(2, binary) + ping + close,
        b"\x07" + corpus.masked(1, text[:5], final=False) + ping + corpus.masked(0, text[5:]) + close,
        b"\x0e" + corpus.masked(2, binary, final=False) + corpus.masked(0, binary, final=False) + corpus.masked(0, b""),
        b"\x21" + corpus.masked(1, b"x" * PAYLOAD_BYTES_MAX) + corpus.masked(1, b"y" * (PAYLOAD_BYTES_MAX + 1)),
        b"\x40" + corpus.masked(0xA, b"pong") + corpus.masked(0x8, b""),
        b"\x03" + corpus.masked(1, text[:-1]) + corpus.masked(1, b"\xed\xa0\x80"),
        b"\x05" + corpus.masked(0x8, b"\x03"),
        b"\x02" + corpus.masked(0x9, b"p" * 125) * 3 + corpus.masked(2, binary * 12),
        b"\x81" + corpus.masked(0x41, _deflated(text)) + ping + corpus.masked(1, text) + close,
        b"\x8e" + corpus.masked(0x42, _deflated(binary)[:99], final=False) + corpus.masked(0, _deflated(binary)[99:]),
        b"\x84"
        + corpus.masked(0x42, _deflated(bytes(PAYLOAD_BYTES_MAX)))
        + corpus.masked(0x42, _deflated(bytes(10**6))),
    ]
    return streams + [b"\x00" + corpus.masked(2, frame) for frame, _ in corpus.messages("client")]


# -- CloudEvents ------------------------------------------------------------------------------------------------------


def check_cloudevents(data: bytes) -> None:
    """Lines of headers, an empty line, the body."""
    head, _, body = data.partition(b"\n\n")
    pairs = (line.partition(b":") for line in head.split(b"\n"))
    headers = {name.decode("latin-1").strip().lower(): value.decode("latin-1").strip() for name, _, value in pairs}
    try:
        events = parsed_events(headers, body)
    except (UnsupportedContent, MalformedContent, TooMuch) as refused:
        assert str(refused)
        return
    names: dict[bytes, tuple[str, str]] = {}
    for event in events:
        if isinstance(event, CloudEvent):
            assert names.setdefault(event.key, (event.source, event.id)) == (event.source, event.id)
            json.dumps([event.source, event.id, event.type, event.subject]).encode()
        else:
            assert event.detail
    assert len(set(names.values())) == len(names), "one event has two keys"


def _cloudevent_seeds() -> list[bytes]:
    event = {"specversion": "1.0", "id": "1", "source": "/shop?a=%20", "type": "order.shipped", "subject": "42"}
    more = {"time": "2026-11-23T15:04:05.123+01:30", "datacontenttype": "application/json", "data": {"a": [1.5, None]}}
    coded = {"dataschema": "https://a.example/s#1", "data_base64": "AAECAw==", "ext1": 5, "flag": True}
    structured, batch = f"content-type: {STRUCTURED}\n\n".encode(), f"content-type: {BATCH}; charset=utf-8\n\n".encode()
    binary = "".join(f"ce-{name}: {value}\n" for name, value in event.items())
    return [
        structured + json.dumps(event | more).encode(),
        structured + json.dumps(event | coded).encode(),
        batch + json.dumps([event, event | more, event | coded, {"id": "2"}, 7]).encode(),
        f'{binary}ce-time: 2026-11-23T15:04:05Z\nce-name: "a \\" b%C3%A9"\ncontent-type: text/plain\n\nhello'.encode(),
        f"{binary}content-type: application/json\n\n[1]".encode(),
        f"{binary}content-type: application/octet-stream\n\n\x00\x01".encode(),
    ]


# -- the reference client's codec -------------------------------------------------------------------------------------


def _check_client(frame: bytes | str, binding: client.Binding) -> None:
    try:
        messages = client.decoded(frame, binding)
    except PeerError as refused:
        assert str(refused)
        return
    for other in (client.MSGPACK, client.JSON):
        again = client.decoded(client.encoded(messages, other), other)
        assert repr(again) == repr(messages), f"a message is not the same after {other.name}"


def check_client(data: bytes) -> None:
    """The first byte: which binding."""
    text = _text_of(data[1:])
    if data[:1] != b"j":
        _check_client(data[1:], client.MSGPACK)
    elif text is not None:
        _check_client(text, client.JSON)


def _client_seeds() -> list[bytes]:
    pairs = corpus.messages("server")
    return (
        [b"m" + binary for binary, _ in pairs]
        + [b"j" + text for _, text in pairs]
        + [b"j" + text for text in corpus.sessions()]
        + [b"m" + binary for binary in corpus.rejected()[0]]
    )


TARGETS = (
    Target("msgpack", "ProtocolError only; read, written and read is the same", _binary_seeds, check_msgpack, 6_000),
    Target("json", "the same for text frames", _text_seeds, check_json, 4_000),
    Target("session", "errors can be told; one frame of many = many frames", _session_seeds, check_session, 3_000),
    Target("websocket", "documented close codes; limits; whole = in pieces", _websocket_seeds, check_websocket, 1_000),
    Target("cloudevents", "a result for each, or one of three exceptions", _cloudevent_seeds, check_cloudevents, 4_000),
    Target("client", "PeerError only; read, written and read is the same", _client_seeds, check_client, 4_000),
)  # fmt: skip
