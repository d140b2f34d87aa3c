"""A small seeded mutator: the same seed gives the same inputs on every machine. For the short form in `make test`, and
where atheris is not installed; atheris has the coverage of the code to guide it, this has nothing but luck and seeds.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

INPUT_BYTES_MAX: Final = 16_384
STEPS_MAX: Final = 6

# Bytes that mean something to one of the parsers: headers of MessagePack with their longest claims, numbers at the
# edges, JSON and HTTP punctuation, text that is no UTF-8, frames of WebSocket.
TOKENS: Final = tuple(
    [bytes((value,)) for value in (0x00, 0x7F, 0x80, 0x81, 0x88, 0x89, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xD9, 0xFE, 0xFF)]
    + [b"\xdc\x10\x00", b"\xdd\xff\xff\xff\xff", b"\xde\x10\x00", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
    + [b"\xcf" + b"\xff" * 8, b"\xcf\x00\x20" + bytes(6), b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6)]
    + [b"\xd6\xff" + bytes(4), b"\xc7\x00\x01", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xef\xbb\xbf"]
    + [b"null", b"true", b"-1", b"1e400", b"9007199254740992", b"9007199254740993", b"0.5", b"NaN", b"[[[[[[[[", b"{}"]
    + [b'"$b"', b'{"$b":"AA"}', b'"\\ud800"', b'"\\u0000"', b"[]", b",", b":", b'"', b"\\", b"\r\n", b"\r\n\r\n", b"\n"]
    + [b"%00", b"%ff", b"%2F", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"]
    + [
        b"\x81\x80\0\0\0\0",
        b"\x82\xfe\x00\x7e\0\0\0\0",
        b"\x88\x82\0\0\0\0\x03\xe8",
        b"\x01\x80\0\0\0\0",
        b"\x80\x80\0\0\0\0",
    ]
)

_KINDS: Final = (
    b"0123456789",
    b"abcdefghijklmnopqrstuvwxyz",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    bytes(range(0x20)),
    bytes(range(0x80, 0xC0)),
    bytes(range(0xC0, 0x100)),
    bytes(range(0x20, 0x80)),
)


def _flipped(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _replaced(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    if data:
        data[draw.randrange(len(data))] = draw.randrange(256)


def _resembling(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    """A digit for a digit, a letter for a letter, another small number for a small one: what follows stays readable."""
    if not data:
        return
    at = draw.randrange(len(data))
    kind = next(kind for kind in _KINDS if data[at] in kind)
    data[at] = draw.choice(kind)


def _inserted(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    at = draw.randint(0, len(data))
    data[at:at] = draw.choice(TOKENS)


def _overwritten(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    at, token = draw.randint(0, len(data)), draw.choice(TOKENS)
    data[at : at + len(token)] = token


def _removed(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    at = draw.randint(0, len(data))
    del data[at : at + draw.randint(1, 16)]


def _cut(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    del data[draw.randint(0, len(data)) :]


def _repeated(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    at = draw.randint(0, len(data))
    piece = data[at : at + draw.randint(1, 32)]
    data[at:at] = piece * draw.choice((1, 2, 8, 64))


def _spliced(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    other = draw.choice(pool)
    data[draw.randint(0, len(data)) :] = other[draw.randint(0, len(other)) :]


def _moved(data: bytearray, draw: random.Random, pool: Sequence[bytes]) -> None:
    at = draw.randint(0, len(data))
    piece = data[at : at + draw.randint(1, 32)]
    del data[at : at + len(piece)]
    at = draw.randint(0, len(data))
    data[at:at] = piece


_STEPS: Final[tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...]] = (
    _resembling, _resembling, _resembling, _flipped, _replaced, _inserted, _overwritten, _removed,
    _cut, _repeated, _spliced, _moved,
)  # fmt: skip


def mutated(data: bytes, draw: random.Random, pool: Sequence[bytes]) -> bytes:
    """The input after some random steps. `pool`: inputs to take pieces from."""
    result = bytearray(data)
    for _ in range(1 if draw.random() < 0.6 else draw.randint(2, STEPS_MAX)):
        draw.choice(_STEPS)(result, draw, pool)
    return bytes(result[:INPUT_BYTES_MAX])
