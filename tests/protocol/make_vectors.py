"""Writes protocol/vectors/{codec,values,sums,names,timing}.json (`python -m tests.protocol.make_vectors`).

Owns the cases; bytes and hashes come from MessagePack and hashlib directly, not from syncd or its client, so that both
are tested against something that neither of them made. A test asserts that the files are up to date.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack

from syncd.wire.errors import CLOSES, RANGES
from tests.wire.strategies import json_message, json_value

VECTORS = Path(__file__).resolve().parents[2] / "protocol/vectors"
ID, EPOCH, NONCE, CHAIN = bytes(range(16)), bytes(range(16, 32)), bytes(range(8)), b"\xff" * 8
MAX = 2**53 - 1


def packed(value: Any) -> bytes:
    result: bytes = msgpack.packb(value, use_bin_type=True)
    return result


def hashed(value: Any) -> int:
    return int.from_bytes(sha256(packed(value)).digest()[:8])


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# -- codec ------------------------------------------------------------------------------------------------------------

HELLO: dict[str, Any] = {"device": ID, "installation": EPOCH, "time": 1_700_000_000_000}
VALUE: dict[str, Any] = {"": None, "$a": b"\x00\xff", "b": [1.5, -1, "é\u2028"], "n": {"deep": [[]]}}
OPERATIONS: list[list[Any]] = [
    ["create", "notes", "n1"],
    ["reg.set", "notes", "n1", "title", VALUE],
    ["reg.unset", "notes", "n1", "draft"],
    ["mv.set", "notes", "n1", "color", "red"],
    ["counter.inc", "notes", "n1", "likes", -3],
    ["max.put", "notes", "n1", "best", 2.5],
    ["min.put", "notes", "n1", "least", -MAX],
    ["set.add", "notes", "n1", "tags", b"tag"],
    ["set.remove", "notes", "n1", "tags", []],
    ["flag.enable", "notes", "n1", "done"],
    ["flag.disable", "notes", "n1", "done"],
    ["map.put", "notes", "n1", "by", "$key", True],
    ["map.drop", "notes", "n1", "by", "key"],
    ["bounded.restock", "notes", "n1", "stock", -2],
    ["bounded.lease", "notes", "n1", "stock", ID, 5, 86_400_000],
    ["bounded.lease", "notes", "n1", "stock", EPOCH, 5, None],
    ["bounded.take", "notes", "n1", "stock", 1, [ID, 5, 1_700_086_400_000, 9, EPOCH]],
    ["bounded.take", "notes", "n1", "stock", 1, [EPOCH, 5, None, 9, ID]],
    ["bounded.take", "notes", "n1", "stock", 1, ID],
    ["bounded.take", "notes", "n1", "stock", 1, None],
    ["bounded.give", "notes", "n1", "stock", ID, 2],
    ["bounded.refund", "notes", "n1", "stock", 1],
    ["list.insert", "notes", "n1", "items", b"\x80element1", VALUE],
    ["list.move", "notes", "n1", "items", b"\x00\xffelement1"],
    ["list.remove", "notes", "n1", "items", b"element1"],
    ["text.update", "notes", "n1", "text", b"\x01\x01update"],
    ["expect", "notes", "n1", "title"],
    ["unique", "notes", "n1", "slug", "first note"],
    ["delete", "notes", "n2", {"seen": 7}],
    ["reg.set", "notes", "n1", "title", VALUE, {"schema": 2}],
    ["create", "notes", "n3", {"schema": 2, "seen": 7}],
]
CLIENT: list[tuple[str, list[Any]]] = [
    ("hello with the required keys", [1, HELLO]),
    (
        "hello with every key",
        [
            1,
            {
                **HELLO,
                "session": CHAIN * 2,
                "token": "t.o.k",
                "client": {"name": "x", "version": "1"},
                "caps": ["a"],
                "frame_bytes_max": 4_194_304,
                "keepalive_ms": 45_000,
            },
        ],
    ),
    ("null means absent", [1, {**HELLO, "session": None, "token": None}]),
    ("an unknown key is ignored", [12, {"x-later": [1, {"x": b"y"}]}]),
    (
        "subscribe before the first contact",
        [2, {"space": "user/42", "epoch": None, "complete": 0, "resume": 0, "settled": 0}],
    ),
    (
        "subscribe in the middle of pages",
        [
            2,
            {
                "space": "user/42",
                "epoch": EPOCH,
                "complete": 5,
                "resume": 9,
                "start": 12,
                "settled": MAX,
                "chain": CHAIN,
            },
        ],
    ),
    ("unsubscribe", [3, {"space": "a/b~c._-%C3%A9", "forget": True}]),
    (
        "push with every operation, and a void",
        [
            4,
            {
                "space": "user/42",
                "epoch": EPOCH,
                "changes": [[1, NONCE, 0, 1_700_000_000_001, OPERATIONS], ["void", 2, 4, CHAIN, "not held"]],
            },
        ],
    ),
    (
        "push of a device that had another id before",
        [
            4,
            {
                "space": "user/42",
                "epoch": EPOCH,
                "changes": [[1, NONCE, 7, 1_700_000_000_001, OPERATIONS[:1], [[ID, 12, MAX], [EPOCH, 1, 0]]]],
            },
        ],
    ),
    ("ack", [5, {"space": "user/42", "epoch": EPOCH, "applied": 65_536, "oldest_base": 255, "settled": 127}]),
    ("sums of all buckets", [6, {"space": "user/42", "epoch": EPOCH, "buckets": bytes(8_184) + NONCE}]),
    (
        "sums of the documents of two buckets",
        [6, {"space": "user/42", "epoch": EPOCH, "of": [0, 1_023], "documents": NONCE + CHAIN, "last": True}],
    ),
    ("a signal", [7, {"space": "team/board", "key": "typing", "value": VALUE, "ttl_ms": 5_000}]),
    ("a signal without a value", [7, {"space": "team/board", "key": "typing"}]),
    ("presence with a state", [7, {"space": "team/board", "presence": {"name": "Ann", "$at": b"x"}}]),
    ("presence without one", [7, {"space": "team/board", "presence": False}]),
    (
        "events",
        [
            8,
            {"events": [[ID, "session.start", 1_700_000_000_001], [EPOCH, "screen", 5, {"topic": "a", "$n": b"x"}]]},
        ],
    ),
    ("purged", [9, {"space": "team/board"}]),
    ("refresh", [10, {"token": "new"}]),
    ("background", [11, {"keepalive_ms": 300_000}]),
    ("foreground", [12, {}]),
    ("probe", [13, {"id": 0}]),
    ("bye", [14, {"end": True}]),
    ("ping", [20, {}]),
    ("pong", [21, {"id": MAX}]),
]
RECONNECT = {"first_jitter_ms": 5_000, "backoff_ms": 1_000, "backoff_max_ms": 60_000, "stable_ms": 60_000}
FIELDS: dict[str, Any] = {
    "title": ["reg", VALUE],
    "color": ["mv", ["red", "blue"]],
    "likes": ["counter", 4],
    "best": ["max", 2.5],
    "least": ["min", -1],
    "tags": ["set", [b"tag", "x"]],
    "done": ["flag", False],
    "by": ["map", {"$key": 1}],
    "items": ["list", [[b"\x80element1", VALUE], [b"\x90element2", nested(14)]]],
    "text": ["text", [0, [[2, b"\x01\x01update"], [MAX, b"\x00"]]]],
}
SERVER: list[tuple[str, list[Any]]] = [
    (
        "welcome",
        [
            32,
            {
                "session": ID,
                "time": 1_700_000_000_000,
                "user": "ann",
                "resumed": False,
                "limits": {"frame_bytes_max": 1_048_576},
                "ping_ms": 30_000,
                "ack_ms": 1_000,
                "expires": 1_700_000_600_000,
                "reconnect": RECONNECT,
                "server": "syncd/0.1.0",
                "caps": [],
            },
        ],
    ),
    (
        "subscribed",
        [33, {"space": "user/42", "epoch": EPOCH, "head": 9, "safe": 0, "role": "owner", "mode": "catch-up"}],
    ),
    (
        "a page of a first download",
        [
            34,
            {
                "space": "user/42",
                "epoch": EPOCH,
                "from": 0,
                "after": 0,
                "to": 3,
                "start": 9,
                "t": 1_700_000_000_000,
                "chain": CHAIN,
                "docs": [["notes", "n1", 3, 1, FIELDS]],
            },
        ],
    ),
    (
        "a live delta with a patch and a deletion",
        [
            34,
            {
                "space": "user/42",
                "epoch": EPOCH,
                "from": 9,
                "after": 9,
                "to": 11,
                "complete": True,
                "t": 1_700_000_000_001,
                "chain": NONCE,
                "sum": CHAIN,
                "docs": [["notes", "n1", 10, 0, {"title": None, "$f": ["reg", 1]}], ["notes", "n2", 11, 2, {}]],
            },
        ],
    ),
    (
        "outcomes",
        [
            35,
            {
                "space": "user/42",
                "epoch": EPOCH,
                "outcomes": [
                    [1, NONCE, "applied", 10, None],
                    [2, NONCE, "merged", 11, {"met": [[0, "won", 9]]}],
                    [3, NONCE, "gone", None, {"op": 0, "reason": "the document does not exist"}],
                ],
                "gap": 5,
            },
        ],
    ),
    ("forked", [35, {"space": "user/42", "epoch": EPOCH, "outcomes": [], "forked": 2}]),
    ("differ", [37, {"space": "user/42", "epoch": EPOCH, "at": 12, "t": 5, "chain": CHAIN, "buckets": [0, 1_023]}]),
    (
        "repair",
        [
            38,
            {
                "space": "user/42",
                "epoch": EPOCH,
                "at": 12,
                "t": 5,
                "chain": CHAIN,
                "docs": [["notes", "n1", 9, 1, {"title": ["reg", "a"]}]],
                "gone": NONCE + CHAIN,
                "done": True,
                "last": True,
                "sum": NONCE,
            },
        ],
    ),
    ("revoked", [36, {"space": "user/42", "seq": 12, "reason": "removed"}]),
    (
        "a signal of a user",
        [
            39,
            {"space": "team/board", "ref": NONCE, "user": "ann", "key": "at", "value": [1.5, b"x"], "ttl_ms": 10_000},
        ],
    ),
    ("a signal of a backend", [39, {"space": "shop", "ref": CHAIN, "key": "price", "value": None, "ttl_ms": 1}]),
    (
        "all who are present",
        [
            40,
            {"space": "shop", "count": 9, "here": [[NONCE, "ann", {"$k": b"x"}], [CHAIN, "ann", {}]], "whole": True},
        ],
    ),
    ("who came and left", [40, {"space": "shop", "count": 1, "here": [[NONCE, "b", {}]], "left": CHAIN + NONCE}]),
    (
        "subscribed, to one who hears signals",
        [
            33,
            {"space": "shop", "epoch": EPOCH, "head": 0, "safe": 0, "role": "writer", "mode": "live", "ref": NONCE},
        ],
    ),
    (
        "what became of events",
        [44, {"results": [[ID, "accepted", None], [EPOCH, "duplicate", None], [ID, "invalid", "why"]]}],
    ),
    ("expired", [41, {"space": "user/42", "epoch": ID, "fork": 7, "highest": 3}]),
    (
        "an error about a space",
        [42, {"code": 18, "name": "forbidden", "retry": "never", "detail": "needs writer", "space": "user/42"}],
    ),
    ("an error with a pause", [42, {"code": 11, "name": "overloaded", "retry": "backoff", "after_ms": 250}]),
    (
        "goaway",
        [43, {"code": 1012, "retry_after_ms": 1_000, "spread_ms": 30_000, "resume_url": "wss://b.example/v1/sync"}],
    ),
    ("ping of the server", [20, {"id": 1}]),
    ("an unknown key of a server", [21, {"later": {"x": 1}}]),
]


def json_server(message: list[Any]) -> list[Any]:
    code, body = message
    result: dict[str, Any] = {}
    for key, item in body.items():
        if key == "docs":
            item = [[*d[:4], {n: f and [f[0], json_value(f[1])] for n, f in d[4].items()}] for d in item]
        elif key == "outcomes":
            item = [[o[0], o[1].hex(), o[2], o[3], json_value(o[4])] for o in item]
        elif key == "here":
            item = [[ref.hex(), user, json_value(state)] for ref, user, state in item]
        elif key == "results":
            item = [[result[0].hex(), *result[1:]] for result in item]
        elif key == "value":
            item = json_value(item)
        result[key] = item.hex() if isinstance(item, bytes) else item
    return [code, result]


def _push(change: Any) -> bytes:
    return packed([4, {"space": "s", "epoch": None, "changes": [change]}])


def _json_push(operation: str, nonce: str = "00" * 8) -> str:
    return f'[[4,{{"space":"s","epoch":null,"changes":[[1,"{nonce}",0,0,[{operation}]]]}}]]'


HELLO_BYTES = packed([1, HELLO])
REJECTED: list[tuple[str, bytes | str, str]] = [
    ("nothing begins with 0xc1", b"\xc1", "malformed"),
    ("cut off in the middle of a message", HELLO_BYTES[:-1], "malformed"),
    ("cut off behind a whole message", packed([12, {}]) + b"\x92\x0c", "malformed"),
    ("a message is an array", packed({"code": 12}), "malformed"),
    ("a message has two items", packed([12, {}, None]), "malformed"),
    ("the type code is an integer, not a boolean", packed([True, {}]), "malformed"),
    ("the type code is an integer, not text", packed(["hello", {}]), "malformed"),
    ("the body is a map", packed([12, []]), "malformed"),
    ("a reserved type is unknown", packed([15, {}]), "unknown_message"),
    ("the greatest type that is not ignored", packed([127, {}]), "unknown_message"),
    ("a client does not send a delta", packed([34, {}]), "unknown_message"),
    ("a key is missing", packed([1, {"device": ID, "installation": ID}]), "malformed"),
    ("a required key is null", packed([1, {**HELLO, "time": None}]), "malformed"),
    ("an id has 16 bytes", packed([1, {**HELLO, "device": ID[:15]}]), "malformed"),
    ("an id is bytes, not text", packed([1, {**HELLO, "device": ID.hex()}]), "malformed"),
    ("true is not 1", packed([1, {**HELLO, "time": True}]), "malformed"),
    ("1.0 is not 1", packed([1, {**HELLO, "time": 1.0}]), "malformed"),
    ("an integer above 2^53 - 1", packed([1, {**HELLO, "time": MAX + 1}]), "malformed"),
    ("a negative position", packed([13, {"id": -1}]), "malformed"),
    ("caps holds text", packed([1, {**HELLO, "caps": [1]}]), "malformed"),
    ("a key is repeated", b"\x92\x0d\x82\xa2id\x01\xa2id\x01", "malformed"),
    ("a key is an integer", b"\x92\x0c\x81\x01\x02", "malformed"),
    ("an extension type", b"\x92\x0c\x81\xa1a\xd4\x05\x00", "malformed"),
    ("a timestamp", b"\x92\x0c\x81\xa1a\xd6\xff\x00\x00\x00\x00", "malformed"),
    ("text that is not UTF-8", b"\x92\x0a\x81\xa5token\xa1\xff", "malformed"),
    ("a lone surrogate in UTF-8", b"\x92\x0a\x81\xa5token\xa3\xed\xa0\x80", "malformed"),
    ("an array that claims 2^32 - 1 items", b"\x92\x0c\xdd\xff\xff\xff\xff", "malformed"),
    ("an array that claims 4,097 items", b"\x92\x0c\x81\xa1a\xdc\x10\x01", "malformed"),
    ("nested deeper than any value", b"\x91" * 2_000, "malformed"),
    ("a push holds a change", packed([4, {"space": "s", "epoch": None, "changes": []}]), "malformed"),
    ("n counts from 1", _push([0, NONCE, 0, 0, OPERATIONS[:1]]), "malformed"),
    ("a nonce has 8 bytes", _push([1, ID, 0, 0, OPERATIONS[:1]]), "malformed"),
    ("a void ends where it begins, or later", _push(["void", 2, 1, NONCE, ""]), "malformed"),
    ("a change has five items", _push([1, NONCE, 0, 0]), "malformed"),
    (
        "too many changes",
        packed([4, {"space": "s", "epoch": None, "changes": [[1, NONCE, 0, 0, OPERATIONS[:1]]] * 1_001}]),
        "too_many_changes",
    ),
    ("an event message holds an event", packed([8, {"events": []}]), "malformed"),
    ("an event has an id of 16 bytes", packed([8, {"events": [[NONCE, "screen", 5]]}]), "malformed"),
    ("an event has a time", packed([8, {"events": [[ID, "screen", None]]}]), "malformed"),
    ("the data of an event is a map", packed([8, {"events": [[ID, "screen", 5, [1]]]}]), "malformed"),
    ("too many events", packed([8, {"events": [[ID, "screen", 5]] * 101}]), "too_many_events"),
    ("not JSON", "[[12,{}]", "malformed"),
    ("a text frame is an array", '{"12":{}}', "malformed"),
    ("a text frame holds messages, not one message", "[12,{}]", "malformed"),
    ("a repeated key in JSON", '[[13,{"id":1,"id":1}]]', "malformed"),
    ("upper-case hexadecimal", _json_push('["create","c","d"]', "AA" * 8), "malformed"),
    ("NaN is not JSON", '[[13,{"id":NaN}]]', "malformed"),
    ("a lone surrogate in JSON", '[[10,{"token":"\\ud800"}]]', "malformed"),
    ("$b with padding", _json_push('["reg.set","c","d","f",{"$b":"AA=="}]'), "malformed"),
    ("$b with the standard alphabet", _json_push('["reg.set","c","d","f",{"$b":"//8"}]'), "malformed"),
    ("$b with bits that mean nothing", _json_push('["reg.set","c","d","f",{"$b":"AB"}]'), "malformed"),
    ("a $ that is not doubled", _json_push('["reg.set","c","d","f",{"$x":1}]'), "malformed"),
]
# Changes whose header is right: they end in an outcome, and the connection stays open.
REFUSED: list[tuple[str, list[Any], str]] = [
    ("an unknown operation", [["text.insert", "c", "d", "f", 0]], "invalid"),
    ("no operation", [], "invalid"),
    ("operations are arrays", [{"op": "create"}], "invalid"),
    ("a field is missing", [["reg.set", "c", "d"]], "invalid"),
    ("an item too many", [["create", "c", "d", "f"]], "invalid"),
    ("an unknown option", [["create", "c", "d", {"see": 1}]], "invalid"),
    ("an option too many", [["create", "c", "d", {"seen": 1, "x": 1}]], "invalid"),
    ("a version of a schema is from 1", [["create", "c", "d", {"schema": 0}]], "invalid"),
    ("an empty collection", [["create", "", "d"]], "invalid"),
    ("a control character in an id", [["create", "c", "d\u0085"]], "invalid"),
    ("an id of 161 bytes", [["create", "c", "é" * 80 + "x"]], "invalid"),
    ("an increment of 0", [["counter.inc", "c", "d", "f", 0]], "invalid"),
    ("an increment that is a double", [["counter.inc", "c", "d", "f", 1.0]], "invalid"),
    ("true is not a number", [["max.put", "c", "d", "f", True]], "invalid"),
    ("an infinite double", [["reg.set", "c", "d", "f", float("inf")]], "invalid"),
    ("an integer outside +-(2^53 - 1)", [["reg.set", "c", "d", "f", MAX + 1]], "invalid"),
    ("bytes as a map key", [["reg.set", "c", "d", "f", {b"k": 1}]], "invalid"),
    ("a value 17 deep", [["reg.set", "c", "d", "f", nested(17)]], "invalid"),
    ("a value of 65,537 bytes", [["reg.set", "c", "d", "f", "x" * 65_534]], "too_large"),
    ("a position without an index", [["list.insert", "c", "d", "f", b"element1", 1]], "invalid"),
    ("a position that ends with 0", [["list.move", "c", "d", "f", b"\x80element\x00"]], "invalid"),
    ("a position that is text", [["list.move", "c", "d", "f", "position1"]], "invalid"),
    ("a position of 257 bytes", [["list.move", "c", "d", "f", b"\x80" * 257]], "too_large"),
    ("an update of a text that is text", [["text.update", "c", "d", "f", "update"]], "invalid"),
    ("an update of a text without a byte", [["text.update", "c", "d", "f", b""]], "invalid"),
    ("an element of nine bytes", [["list.remove", "c", "d", "f", b"\x80element1"]], "invalid"),
    ("a unique key that is a number", [["unique", "c", "d", "nick", 7]], "invalid"),
    ("1,001 operations", [["create", "c", "d"]] * 1_001, "too_large"),
    ("129 documents", [["create", "c", f"d{i}"] for i in range(129)], "too_large"),
]


def codec() -> dict[str, Any]:
    accepted = [
        *(("client", name, message, json_message(message)) for name, message in CLIENT),
        *(("server", name, message, json_server(message)) for name, message in SERVER),
    ]
    return {
        "accepted": [
            {"from": side, "name": name, "json": text, "msgpack": packed(message).hex()}
            for side, name, message, text in accepted
        ],
        "ignored": [{"name": name, "msgpack": packed(message).hex()} for name, message in
                    (("type 128", [128, {}]), ("a type of a later version", [9_999, {"x": [1]}]))],
        "rejected": [
            {"name": name, "error": error} | ({"json_text": data} if isinstance(data, str) else {"msgpack": data.hex()})
            for name, data, error in REJECTED
        ],
        "refused_changes": [
            {"name": name, "operations_msgpack": packed(operations).hex(), "outcome": outcome}
            for name, operations, outcome in REFUSED
        ],
    }  # fmt: skip


# -- values -----------------------------------------------------------------------------------------------------------

# canonical value, and other encodings of it
VALUES: list[tuple[Any, list[str]]] = [
    (None, []), (True, []), (False, []),
    (0, ["cc00", "cd0000", "d000", "ca00000000", "ca80000000", "cb0000000000000000", "cb8000000000000000"]),
    (1, ["cc01", "d001", "ca3f800000", "cb3ff0000000000000"]),
    (127, ["cc7f"]), (128, ["cd0080", "d10080"]), (255, []), (256, ["d20000" "0100"]), (65_535, []), (65_536, []),
    (2**31, ["d30000000080000000"]), (2**32 - 1, []), (2**32, ["cb41f0000000000000"]), (MAX, ["cb433fffffffffffff"]),
    (-1, ["d0ff", "d1ffff", "cbbff0000000000000"]), (-32, ["d0e0"]), (-33, []), (-128, ["d1ff80"]), (-129, []),
    (-32_768, []), (-32_769, []), (-(2**31), []), (-(2**31) - 1, []), (-MAX, ["cbc33fffffffffffff"]),
    (0.5, ["ca3f000000"]), (1.1, []), (-2.5, ["cac0200000"]), (5e-324, []), (1.7976931348623157e308, []),
    (2.0**53, []), (1e100, []),
    ("", ["d900"]), ("a", ["d90161", "da000161"]), ("é", []), ("\u0000", []), ("𝄞", []),
    ("x" * 31, []), ("x" * 32, []), ("x" * 255, []), ("x" * 256, []),
    (b"", ["c50000"]), (b"\x00", []), (b"\xff" * 256, []),
    ([], ["dc0000"]), ([1, [2, []]], []), (list(range(16)), []), ([None] * 4_096, []),
    ({}, ["de0000"]), ({"a": 1, "b": 2}, ["82a16202a16101"]), ({"$b": "AA"}, []), ({"$": 1, "$$": 2}, []),
    ({"": 0, "B": 0, "a": 0, "é": 0, "\uffff": 0, "𝄞": 0}, []),
    ({f"k{i:02}": i for i in range(16)}, []),
    (nested(16), []),
]  # fmt: skip
# MessagePack that no value has
NOT_VALUES: list[tuple[str, str]] = [
    ("an integer above 2^53 - 1", "cf0020000000000000"), ("an integer below -(2^53 - 1)", "d3ffe0000000000000"),
    ("NaN", "cb7ff8000000000000"), ("infinity", "cb7ff0000000000000"), ("an extension", "d40500"),
    ("a map key that is an integer", "810102"), ("a map key that is bytes", "81c4016101"),
    ("a repeated map key", "82a16101a16101"), ("text that is not UTF-8", "a1ff"),
    ("17 deep", "91" * 16 + "90"), ("4,097 items", "dc1001" + "c0" * 4_097),
]  # fmt: skip


def values() -> dict[str, Any]:
    return {
        "values": [
            {"json": json_value(value), "canonical": packed(value).hex(), "also": also} for value, also in VALUES
        ],
        "not_values": [{"name": name, "msgpack": data} for name, data in NOT_VALUES],
    }


# -- sums -------------------------------------------------------------------------------------------------------------

DOCUMENTS: list[list[Any]] = [
    ["notes", "n1", 3, FIELDS],
    ["notes", "empty", 1, {}],
    ["files", "é", MAX, {"data": ["reg", b"\x00"], "size": ["reg", 1]}],
]


def sums() -> dict[str, Any]:
    documents, total = [], 0
    for collection, document, rev, fields in DOCUMENTS:
        part = hashed(["d", collection, document, rev])
        for name, (kind, value) in fields.items():
            part += hashed(["f", collection, document, name, value[1][-1][0] if kind == "text" else value])
        total += part
        documents.append(
            {
                "collection": collection,
                "id": document,
                "rev": rev,
                "fields": {name: [kind, json_value(value)] for name, (kind, value) in fields.items()},
                "sum": (part % 2**64).to_bytes(8).hex(),
                "key_hash": hashed(["k", collection, document]).to_bytes(8).hex(),
                "bucket": hashed(["k", collection, document]) >> 54,
            }
        )
    chain, links = bytes(8), []
    for n, nonce in ((1, NONCE), (2, CHAIN), (MAX, bytes(8))):
        chain = sha256(chain + ID + n.to_bytes(8) + nonce).digest()[:8]
        links.append({"device": ID.hex(), "n": n, "nonce": nonce.hex(), "chain": chain.hex()})
    return {
        "documents": documents,
        "sum": (total % 2**64).to_bytes(8).hex(),
        "sum_of_nothing": bytes(8).hex(),
        "chain": links,
    }


# -- names ------------------------------------------------------------------------------------------------------------

NAMES: dict[str, Any] = {
    "spaces": {
        "valid": ["a", "user/42", "a.b/..c/...", "~/_-", "user/%C3%A9", "user/%2F", "%20", "x" * 200,
                  "/".join("a" * 16)],
        "invalid": ["", "/", "a/", "/a", "a//b", ".", "..", "a/..", "./a", "a b", "é", "%c3%a9", "%", "%4", "%zz",
                    "a\n", "x" * 201, "/".join("a" * 17), "a?b", "a%00b/%GG"],
    },
    "names": {
        "valid": ["a", "A b", "é" * 80, "x" * 160, "_inbox", "/", "$b", " ", "\u00a0", "\u2028"],
        "invalid": ["", "x" * 161, "é" * 80 + "x", "\u0000", "a\n", "\u007f", "\u0080", "\u009f"],
    },
}  # fmt: skip

# -- timing -----------------------------------------------------------------------------------------------------------


def timing() -> dict[str, Any]:
    """`random` is the uniform number in [0, 1) that is drawn."""
    delays = []
    for attempt, random, delay_ms in (
        (0, 0.0, 0), (0, 0.5, 2_500), (1, 0.5, 1_000), (2, 0.5, 2_000), (5, 0.5, 16_000), (6, 0.5, 30_000),
        (40, 0.999, 59_940), (10_000, 0.5, 30_000),
    ):  # fmt: skip
        delays.append({"attempt": attempt, "random": random, "delay_ms": delay_ms})
    return {
        "reconnect": {"parameters": RECONNECT, "delays": delays},
        "goaway": [{"retry_after_ms": 1_000, "spread_ms": 30_000, "random": 0.5, "delay_ms": 16_000}],
        "keep_alive": {
            "ping_ms_taken": [
                {"keepalive_ms": wish, "ping_ms": taken}
                for wish, taken in ((1, 15_000), (15_000, 15_000), (45_000, 45_000), (10**9, 600_000))
            ],
            "server": {"ping_ms": 30_000, "ping_after_ms": 30_000, "close_4001_after_ms": 65_000},
            "client": {"ping_ms": 30_000, "probe_after_ms": 35_000, "drop_after_probe_ms": 10_000},
        },
        "close_codes": [{"code": close.code, "action": close.action} for close in CLOSES]
        + [{"code": span.first + 77, "action": span.action} for span in RANGES],
    }


def files() -> dict[str, Any]:
    return {"codec": codec(), "values": values(), "sums": sums(), "names": NAMES, "timing": timing()}


def text_of(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / f"{name}.json").write_text(text_of(content))
