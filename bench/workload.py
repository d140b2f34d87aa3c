"""What the benchmarks send: changes, messages, frames, and the bytes a client opens a connection with.

Owns the client's side of the protocol as far as the generator (`devices.c`) needs it ready-made: that program copies
bytes and counts what comes back, so that it costs less than the server it loads. Everything here is made before a
measurement begins. Shares no code with the server; `msgpack` gives the canonical encoding for what is sent here.
"""

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

SUBPROTOCOL = "syncd.v1.msgpack"
HELLO, SUBSCRIBE, PUSH = 1, 2, 4
CREATE = "create"
COLLECTION = "notes"
STAMP_MS = 1_700_000_000_000  # in the past: a stamp from the future would be cut to the server's time

# Text of about 100 bytes in three fields: what one edit of a small record carries.
TITLE = "Buy milk, eggs and bread"
BODY = "Remember the blue bag; shop closes at eight. {:08d}"


def sized_id(*parts: object) -> bytes:
    """A device's id (16 bytes), the same in every run."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:16]


def nonce(n: int) -> bytes:
    return hashlib.sha256(n.to_bytes(8, "big")).digest()[:8]


def change(n: int, operations: list[list[Any]]) -> list[Any]:
    """A change that is based on nothing: a device always sees its own earlier changes."""
    return [n, nonce(n), 0, STAMP_MS, operations]


def single_field_change(n: int, documents: int) -> list[Any]:
    """Change n of a publisher: the first `documents` make a document each, the others set one field of about 100 bytes,
    document after document, so that changes in flight at the same time never collapse into one."""
    document_id = f"d{n % documents}"
    operations: list[list[Any]] = [[CREATE, COLLECTION, document_id]] if n <= documents else []
    return change(n, [*operations, ["reg.set", COLLECTION, document_id, "text", f"{TITLE} {BODY.format(n)}"]])


def three_field_change(n: int, documents: int) -> list[Any]:
    """Change n of a device: sets three fields, about 100 bytes, of a document; the first `documents` make it, too."""
    document_id = f"d{n % documents}"
    operations: list[list[Any]] = [[CREATE, COLLECTION, document_id]] if n <= documents else []
    return change(
        n,
        [
            *operations,
            ["reg.set", COLLECTION, document_id, "title", TITLE],
            ["reg.set", COLLECTION, document_id, "body", BODY.format(n)],
            ["reg.set", COLLECTION, document_id, "order", n * 1000],
        ],
    )


def three_field_pushes(space: str, pushes: int, changes: int, documents: int) -> Iterator[bytes]:
    """The messages of one device: `pushes` pushes of `changes` changes each."""
    for first in range(1, pushes * changes + 1, changes):
        yield push_message(space, [three_field_change(n, documents) for n in range(first, first + changes)])


# -- messages ---------------------------------------------------------------------------------------------------------


def message(code: int, body: dict[str, Any]) -> bytes:
    data: bytes = msgpack.packb([code, body])
    return data


def hello_message(device: bytes, token: str) -> bytes:
    # The longest keep-alive: a ping in the middle of a measurement would be noise, and the generator answers none.
    installation = hashlib.sha256(device).digest()[:16]
    body = {"device": device, "installation": installation, "token": token, "time": STAMP_MS, "keepalive_ms": 600_000}
    return message(HELLO, body)


def subscribe_message(space: str) -> bytes:
    return message(SUBSCRIBE, {"space": space, "epoch": None, "complete": 0, "resume": 0, "settled": 0})


def push_message(space: str, changes: list[list[Any]]) -> bytes:
    return message(PUSH, {"space": space, "epoch": None, "changes": changes})


# -- frames -----------------------------------------------------------------------------------------------------------

_MASK = bytes.fromhex("37fa213d")  # of RFC 6455's own example; unmasking costs the same whatever it is


def client_frame(payload: bytes) -> bytes:
    """One masked binary frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", 0x82, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x82, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x82, 0x80 | 127, size)
    mask = (_MASK * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
    return head + _MASK + masked


def server_frame(payload: bytes) -> bytes:
    """One unmasked binary frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BB", 0x82, size) + payload
    assert size < 65536, "the benchmarks' own frames are short"
    return struct.pack(">BBH", 0x82, 126, size) + payload


def upgrade_request(host: str, key: bytes, *, is_deflated: bool = False) -> bytes:
    """The HTTP request that opens a WebSocket; `key`: 16 bytes. `is_deflated`: compression is offered."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if is_deflated else ""
    return (
        f"GET /v1/sync HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(key).decode()}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{offer}\r\n"
    ).encode()
