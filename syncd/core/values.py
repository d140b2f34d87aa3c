"""Values and their one canonical encoding.

Owns what a field may hold and how it is written down: two values are equal iff their encodings are. The encoding is
MessagePack by definition, so this module uses that library (pure functions, no I/O) although the rest of `core` needs
the standard library only; a second implementation of it here would be slower and one more thing to be wrong.

Invariants: V1 `encoded` gives one byte string per value. V2 `decoded(encoded(v))` is `v`. V3 what `normalized`
returns holds no float with an integral value within +-(2^53-1), no unsorted map, nothing outside the model.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgpack

from syncd.core.ids import SEQ_MAX

# None, bool, int, float, str, bytes, list or dict, normalized. A recursive union would cost casts and catch nothing.
Value = Any

INTEGER_MAX: Final = SEQ_MAX
DEPTH_MAX: Final = 16
ITEMS_MAX: Final = 4096  # a MessagePack array header allocates what it claims: bounds nested claims to 32 KiB a level
VALUE_BYTES_MAX: Final = 65536

_KEPT_AS_THEY_ARE: Final = frozenset({str, bytes, bool, type(None), int})  # an integer: if it lies in the range
_INTEGER_RANGE: Final = "an integer lies within +-(2^53 - 1)"
_SHORT: Final = (
    VALUE_BYTES_MAX // 5
)  # bytes, or characters of ASCII, whose encoding is not too large whatever its header
_LONG: Final = 8  # items from which on looking at all kinds at once is the cheaper way


class ValueRefused(ValueError):
    """A value is outside the model; the message says what was expected."""


class ValueTooLarge(ValueRefused):
    """A value is well-formed but larger than `VALUE_BYTES_MAX`."""


def normalized(value: object, depth: int = 0) -> Value:
    """Return `value` in canonical form (integral doubles as integers, maps sorted), or raise `ValueRefused`."""
    kind = type(value)
    if kind is str:
        return value
    if kind is int:
        if not -INTEGER_MAX <= value <= INTEGER_MAX:  # type: ignore[operator]
            raise ValueRefused(_INTEGER_RANGE)
        return value
    if value is None or kind is bool or kind is bytes:
        return value
    if kind is float:
        return _normalized_float(value)  # type: ignore[arg-type]
    if depth >= DEPTH_MAX:
        raise ValueRefused(f"values nest at most {DEPTH_MAX} deep")
    if kind is list or kind is tuple:
        if len(value) >= _LONG:  # type: ignore[arg-type]
            return _normalized_long(value, depth)  # type: ignore[arg-type]
        if not value:
            return []
        return [normalized(item, depth + 1) for item in value]  # type: ignore[attr-defined]
    if kind is dict:
        return _normalized_map(value, depth)  # type: ignore[arg-type]
    raise ValueRefused(
        "a value is null, a boolean, an integer, a double, text, bytes, an array or a map with text keys"
    )


def _normalized_long(items: list[Any] | tuple[Any, ...], depth: int) -> list[Value]:
    """An array of at least `_LONG` items: scalars without a call for each, because a frame full of small numbers would
    hold the loop up ten times longer."""
    if len(items) > ITEMS_MAX:
        raise ValueRefused(f"an array has at most {ITEMS_MAX} items")
    kinds = set(map(type, items))
    if int in kinds:
        integers = items if len(kinds) == 1 else [item for item in items if type(item) is int]
        if min(integers) < -INTEGER_MAX or max(integers) > INTEGER_MAX:
            raise ValueRefused(_INTEGER_RANGE)
    if kinds <= _KEPT_AS_THEY_ARE:
        return items if type(items) is list else list(items)
    return [item if type(item) in _KEPT_AS_THEY_ARE else normalized(item, depth + 1) for item in items]


def _normalized_float(value: float) -> int | float:
    if not math.isfinite(value):
        raise ValueRefused("a double is finite")
    if value.is_integer() and -INTEGER_MAX <= value <= INTEGER_MAX:
        return int(value)
    return value


def _normalized_map(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    if not value:
        return {}
    if len(value) > ITEMS_MAX:
        raise ValueRefused(f"a map has at most {ITEMS_MAX} keys")
    for key in value:
        if type(key) is not str:
            raise ValueRefused("the keys of a map are text")
    # Code points sort as their UTF-8 bytes do, so no key needs to be encoded to be sorted.
    return {key: normalized(value[key], depth + 1) for key in sorted(value)}


# Packers to use again: making one takes twice as long as packing a record. A packer is taken out while it is in use, so
# two threads never share one, and one that failed in the middle, which would go on with what it holds, is not put back.
# No more are spare than threads encode at once: the loop and the writer.
_spare_packers: deque[Callable[[Value], bytes]] = deque(maxlen=2)
_PACKER_BYTES = 4096  # to begin with; it grows to the largest value packed. The library's default is 256 KiB.


def encoded(value: Value) -> bytes:
    """The canonical encoding of a normalized value, or of a record made of such values.

    Raises `ValueRefused` on lone surrogates.
    """
    try:
        pack = _spare_packers.pop()
    except IndexError:
        pack = msgpack.Packer(use_bin_type=True, buf_size=_PACKER_BYTES).pack
    try:
        data = pack(value)
    except UnicodeEncodeError:
        raise ValueRefused("text is valid UTF-8") from None
    _spare_packers.append(pack)
    return data


def encoded_each(values: Iterable[Value]) -> list[bytes]:
    """`encoded` of each of several values; cheaper than one by one."""
    try:
        pack = _spare_packers.pop()
    except IndexError:
        pack = msgpack.Packer(use_bin_type=True, buf_size=_PACKER_BYTES).pack
    try:
        data = [pack(value) for value in values]
    except UnicodeEncodeError:
        raise ValueRefused("text is valid UTF-8") from None
    _spare_packers.append(pack)
    return data


def decoded(data: bytes) -> Value:
    """The inverse of `encoded`, for bytes that we wrote ourselves (arrays come back as lists)."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


def checked(value: object) -> Value:
    """`normalized`, and small enough: raises `ValueTooLarge` above `VALUE_BYTES_MAX` bytes. What is a scalar in
    canonical form is handed back as the same object."""
    # A scalar other than text and bytes has at most 9 bytes; short text cannot be too long: skip the encoding.
    if type(value) is str and len(value) <= _SHORT and value.isascii():
        return value
    result = normalized(value)
    kind = type(result)
    if kind is str or kind is list or kind is dict or (kind is bytes and len(result) > _SHORT):
        _check_size(result)
    return result


def _check_size(value: Value) -> None:
    size = len(encoded(value))
    if size > VALUE_BYTES_MAX:
        raise ValueTooLarge(f"a value has at most {VALUE_BYTES_MAX} bytes, not {size}")


def is_same(a: Value, b: Value) -> bool:
    """Whether two normalized values are equal. Not `==`: in Python `1 == True` and `[1] == [True]`."""
    if type(a) is not type(b):
        return False
    if type(a) is list or type(a) is dict:
        return encoded(a) == encoded(b)
    return bool(a == b)
