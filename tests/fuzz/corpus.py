"""Seeds: whole, right inputs, most of them from protocol/vectors. A fuzzer that starts from nothing spends its time on
the first byte.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgpack

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "protocol" / "vectors"


@cache
def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def _packed(value: Any) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True))


def messages(sender: str) -> list[tuple[bytes, bytes]]:
    """Every message of the vectors that `client` or `server` sends, in both bindings (a text frame has an array)."""
    return [
        (bytes.fromhex(entry["msgpack"]), json.dumps([entry["json"]]).encode())
        for entry in vectors("codec.json")["accepted"]
        if entry["from"] == sender
    ]


def rejected() -> tuple[list[bytes], list[bytes]]:
    """Frames that break the protocol: binary ones and texts."""
    entries = vectors("codec.json")["rejected"] + vectors("codec.json")["ignored"]
    binary = [bytes.fromhex(entry["msgpack"]) for entry in entries if "msgpack" in entry]
    return binary, [entry["json_text"].encode() for entry in entries if "json_text" in entry]


def pushes() -> tuple[list[bytes], list[bytes]]:
    """A push for each list of operations and each value of the vectors, in both bindings."""
    device, nonce = bytes(16), bytes(8)
    binary = [
        b"\x92\x04" + b"\x83\xa5space\xa1s\xa5epoch\xc0\xa7changes\x91\x95\x01" + _packed(nonce) + b"\x00\x00"
        + bytes.fromhex(entry["operations_msgpack"])
        for entry in vectors("codec.json")["refused_changes"]
    ]  # fmt: skip
    texts = []
    for entry in vectors("values.json")["values"]:
        operation = ["reg.set", "c", "d", "f", entry["json"]]
        change = [1, nonce.hex(), 0, 0, [operation]]
        texts.append(json.dumps([[4, {"space": "s", "epoch": device.hex(), "changes": [change]}]]).encode())
    return binary, texts


@cache
def histories() -> tuple[bytes, ...]:
    """The changes of every merge vector, each as the text frame of a push."""
    frames = []
    for path in sorted((VECTORS / "merge").glob("*.json")):
        changes = [
            [entry["n"], bytes(8).hex(), entry["base"], entry["stamp_ms"], entry["operations"]]
            for entry in json.loads(path.read_text())["changes"]
            if "operations" in entry
        ]
        frames.append(json.dumps([[4, {"space": "room/1", "epoch": None, "changes": changes}]]).encode())
    return tuple(frames)


@cache
def sessions() -> tuple[bytes, ...]:
    """What the server sends in each session vector, a text frame for each step."""
    frames = []
    for path in sorted((VECTORS / "sessions").glob("*.json")):
        steps = json.loads(path.read_text())["steps"]
        frames += [json.dumps(step["server"]).encode() for step in steps if "server" in step]
    return tuple(frames)


def masked(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A frame as a client sends it (RFC 6455, 5.2), written here and not by a library."""
    head = bytes(((0x80 if final else 0) | opcode,))
    size = len(payload)
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0x80 | 126,)) + size.to_bytes(2)
    else:
        head += bytes((0x80 | 127,)) + size.to_bytes(8)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
