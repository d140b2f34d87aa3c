"""Positions: where the elements of a `list` stand, and room for one more between any two.

Owns the choice of positions that section 3.1 of the protocol leaves to clients. A position is bytes: an index of any
length, then the eight bytes of the element's name. Positions are compared as bytes. Knows neither values nor stores.

1. `index_between(a, b)` followed by any name sorts after position a and before position b.
2. It exists for any a < b, because no position ends with 0.
3. Positions of a run all begin with the first of it: what others insert at the same time never falls into a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InvalidInput
from .values import Value

ELEMENT_BYTES = 8
POSITION_BYTES_MAX = 256
RUN_MAX = 999  # elements inserted or moved at once: with a `create`, what a change may hold
_COUNT_BYTES = 2  # of the number that the elements of a run have
_MIDDLE = 0x80


@dataclass(frozen=True, slots=True)
class Item:
    """An element of a list as the view shows it."""

    element: bytes
    position: bytes
    value: Value


def items_of(value: Value) -> list[Item]:
    """The elements of a list field, in order."""
    return [Item(position[-ELEMENT_BYTES:], position, item) for position, item in value]


def element_of(entropy: bytes) -> bytes:
    """A name for a new element, of eight random bytes."""
    assert len(entropy) == ELEMENT_BYTES
    return entropy if entropy[-1] else entropy[:-1] + b"\x01"


def index_between(left: bytes | None, right: bytes | None) -> bytes:
    """An index for an element between two positions; None: the beginning, the end."""
    assert left is None or right is None or left < right
    if right is None:
        return bytes([_MIDDLE]) if left is None else _above(left, 1)
    if left is None:
        return _below(right, 1)
    if right.startswith(left):
        return left + _below(right[len(left) :], 0)
    differing = next(at for at in range(len(left)) if left[at] != right[at])
    low, high = left[differing], right[differing]
    if high - low > 1:
        return left[:differing] + bytes([(low + high) // 2])
    return left[: differing + 1] + _above(left[differing + 1 :], 0)


def _above(rest: bytes, step: int) -> bytes:
    """Bytes greater than `rest`, however both go on. `step`: by how much; 0: by half of the room."""
    for at, byte in enumerate(rest):
        if byte < 0xFF:
            return rest[:at] + bytes([byte + step if step else (byte + 0x100) // 2])
    return rest + bytes([_MIDDLE])


def _below(rest: bytes, step: int) -> bytes:
    """Bytes less than `rest`, which does not end with 0, however both go on."""
    at = next(at for at, byte in enumerate(rest) if byte)
    return rest[:at] + bytes([rest[at] - step if step else rest[at] // 2])


def positions_of_run(left: bytes | None, right: bytes | None, elements: Sequence[bytes]) -> list[bytes]:
    """Positions for elements in a row between two others. Raises InvalidInput if they would be too long."""
    if not 1 <= len(elements) <= RUN_MAX:
        raise InvalidInput(f"list: {len(elements)} elements at once, expected 1 to {RUN_MAX}")
    first = index_between(left, right) + elements[0]
    rest = [first + number.to_bytes(_COUNT_BYTES) + name for number, name in enumerate(elements[1:], 1)]
    if len(rest[-1] if rest else first) > POSITION_BYTES_MAX:
        raise InvalidInput("list: there is no room left at this place; respace makes some")
    return [first, *rest]


def neighbours(items: Sequence[Item], after: bytes | None) -> tuple[bytes | None, bytes | None]:
    """The positions on both sides of the place after an element (None: the beginning)."""
    at = 0 if after is None else place_of(items, after) + 1
    return (items[at - 1].position if at else None, items[at].position if at < len(items) else None)


def place_of(items: Sequence[Item], element: bytes) -> int:
    """The place of an element, from 0."""
    for place, item in enumerate(items):
        if item.element == element:
            return place
    raise InvalidInput(f"list: no element {element.hex()} is shown")


def respaced(items: Sequence[Item], after: bytes | None) -> list[bytes]:
    """Short positions for elements around the place after an element, which stay in their order: as few as help."""
    at = 0 if after is None else place_of(items, after) + 1
    reach = 1
    while True:
        low, high = max(0, at - reach), min(len(items), at + reach)
        window = items[low:high][:RUN_MAX]
        high = low + len(window)
        left = items[low - 1].position if low else None
        right = items[high].position if high < len(items) else None
        if not window:
            return []
        if len(index_between(left, right)) <= _SHORT or len(window) == len(items):
            return positions_of_run(left, right, [item.element for item in window])
        if len(window) == RUN_MAX:
            raise InvalidInput(f"list: the {RUN_MAX} elements around this place all have long positions")
        reach *= 2


_SHORT = POSITION_BYTES_MAX // 4
