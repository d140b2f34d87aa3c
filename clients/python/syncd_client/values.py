"""Values: what a field may hold, the one canonical encoding of it, and the names of things.

Owns section 1 of the protocol: which values and names exist. Knows nothing of messages, stores or time.

1. `canonical(v)` is equal for two values exactly if the protocol calls them equal, and shares no list or map with `v`.
2. `encoded(v)` gives one byte string for each value, whatever the order of map keys or the Python type of a number.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeAlias

import msgpack

from .errors import InvalidInput

# Python's type system cannot say "JSON-like, with bytes" without casts at each use; the functions here are the check.
Value: TypeAlias = Any

INTEGER_MAX = 2**53 - 1
ARRAY_ITEMS_MAX = 4_096
DEPTH_MAX = 16
_RECEIVED_DEPTH_MAX = DEPTH_MAX + 2  # of the innermost array of an element of a list, in what is hashed for its sum
VALUE_BYTES_MAX = 65_536
NAME_BYTES_MAX = 160
SPACE_BYTES_MAX = 200
SPACE_SEGMENTS_MAX = 16

_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def checked(value: Value, where: str = "value") -> Value:
    """The canonical form of a value given by the application. Raises InvalidInput that names the place."""
    result = _canonical(value, where, 0)
    size = len(packed(result))
    if size > VALUE_BYTES_MAX:
        raise InvalidInput(f"{where}: the encoded value is {size} bytes, at most {VALUE_BYTES_MAX} are allowed")
    return result


def _canonical(value: Value, where: str, depth: int) -> Value:
    if value is None or isinstance(value, (bool, bytes)):
        return value
    if isinstance(value, int):
        return checked_integer(value, where)
    if isinstance(value, float):
        return checked_number(value, where)
    if isinstance(value, str):
        utf8(value, where)
        return value
    if depth == DEPTH_MAX:
        raise InvalidInput(f"{where}: nested deeper than {DEPTH_MAX}")
    if isinstance(value, (list, tuple)):
        if len(value) > ARRAY_ITEMS_MAX:
            raise InvalidInput(f"{where}: an array of {len(value)} items, at most {ARRAY_ITEMS_MAX} are allowed")
        return [_canonical(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInput(f"{where}: a map key is {type(key).__name__}, expected text")
        ordered = sorted(value, key=lambda key: utf8(key, where))
        return {key: _canonical(value[key], f"{where}.{key}", depth + 1) for key in ordered}
    raise InvalidInput(f"{where}: {type(value).__name__} is not a type that can be synced")


def checked_integer(value: Value, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInput(f"{where}: expected an integer, got {type(value).__name__}")
    if abs(value) > INTEGER_MAX:
        raise InvalidInput(f"{where}: the integer {value} is outside +-(2^53 - 1)")
    return value


def checked_number(value: Value, where: str) -> int | float:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{where}: {value} is not a finite number")
        return int(value) if value.is_integer() and abs(value) <= INTEGER_MAX else value
    return checked_integer(value, where)


def utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{where}: the text holds a lone surrogate and has no UTF-8 form") from None


def checked_name(name: Value, where: str) -> str:
    """A collection, document id, field name or map key: 1 to 160 bytes of UTF-8 without control characters."""
    if not isinstance(name, str):
        raise InvalidInput(f"{where}: expected text, got {type(name).__name__}")
    size = len(utf8(name, where))
    if not 1 <= size <= NAME_BYTES_MAX:
        raise InvalidInput(f"{where}: {size} bytes long, expected 1 to {NAME_BYTES_MAX}")
    if _CONTROL.search(name):
        raise InvalidInput(f"{where}: {name!r} holds a control character")
    return name


def checked_space(name: Value) -> str:
    if not isinstance(name, str):
        raise InvalidInput(f"space: expected text, got {type(name).__name__}")
    if len(utf8(name, "space")) > SPACE_BYTES_MAX:
        raise InvalidInput(f"space: longer than {SPACE_BYTES_MAX} bytes")
    segments = name.split("/")
    if len(segments) > SPACE_SEGMENTS_MAX:
        raise InvalidInput(f"space: {len(segments)} segments, at most {SPACE_SEGMENTS_MAX} are allowed")
    for segment in segments:
        if segment in (".", "..") or not _SEGMENT.match(segment):
            raise InvalidInput(
                f"space: segment {segment!r} of {name!r}; expected [A-Za-z0-9._~-] with other bytes as %XX, not . or .."
            )
    return name


def canonical(value: Value, depth: int = 0) -> Value:
    """The canonical form of what came from the server: normalised and copied. Raises InvalidInput if it is no value (an
    infinite number, NaN, an extension of MessagePack) or nests too deep.

    The other limits are the writer's; a field of a delta (a list, say) may hold more bytes than a single value may, and
    is up to two levels deeper, and three in what is hashed for a sum. The depth is checked here too: how deep Python
    itself can follow depends on its version.
    """
    if isinstance(value, float):
        return checked_number(value, "value")
    if isinstance(value, (list, tuple, dict)) and depth > _RECEIVED_DEPTH_MAX:
        raise InvalidInput(f"nested deeper than {DEPTH_MAX}")
    if type(value) in (list, tuple):  # not isinstance: an extension of MessagePack is a named tuple
        return [canonical(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: canonical(value[key], depth + 1) for key in sorted(value, key=str.encode)}
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    raise InvalidInput(f"{type(value).__name__} is no type of a value")


def packed(value: Value) -> bytes:
    """MessagePack of something that is canonical already."""
    result: bytes = msgpack.packb(value, use_bin_type=True)
    return result


def encoded(value: Value) -> bytes:
    """The canonical encoding of any value."""
    return packed(canonical(value))
