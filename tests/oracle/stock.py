"""What a bounded field must hold, unit by unit.

The server keeps sums. Here each unit is a thing of its own that lies somewhere: in the reserve, with a lease, or sold.
An operation carries units from one place to another, or finds too few. Nothing can be conserved wrongly, because there
is nothing to add up. Leases do not end by time in these histories (`tests/engine/test_leases.py` has those).
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

RESERVE, SOLD = "reserve", "sold"
Place = str | tuple[bytes, bytes]  # (lease id, holder)


class Operation(Protocol):
    """What is needed of an oracle's `Fact`."""

    @property
    def verb(self) -> str: ...
    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def author(self) -> bytes: ...


Op = TypeVar("Op", bound=Operation)


class TooFew(Exception):
    """The operation cannot take effect. The argument is its outcome."""


def carried(units: list[Place], operation: Operation) -> tuple[list[Place], bool]:
    """Where the units lie after an operation, and whether it met the end of the lease it names. Raises `TooFew`."""
    # A lease is named by its id, or by a certificate that begins with it.
    args = tuple(arg[0] if isinstance(arg, list | tuple) else arg for arg in operation.args)
    match operation.verb:
        case "bounded.restock" if args[0] > 0:
            return [*units, *[RESERVE] * args[0]], False
        case "bounded.restock":
            return [unit for unit in _moved(units, RESERVE, "gone", -args[0]) if unit != "gone"], False
        case "bounded.lease":
            if any(place[0] == args[0] for place in units if isinstance(place, tuple)):
                raise TooFew("invalid")
            return _moved(units, RESERVE, (args[0], operation.author), args[1]), False
        case "bounded.take":
            mine = (args[1], operation.author)
            if mine in units:
                return _moved(units, mine, SOLD, args[0]), False
            outcome = "precondition" if args[1] is None else "lease_expired"
            return _moved(units, RESERVE, SOLD, args[0], outcome), args[1] is not None
        case "bounded.give":
            mine = (args[0], operation.author)
            return (_moved(units, mine, RESERVE, args[1]) if mine in units else units), False
    assert operation.verb == "bounded.refund"
    return _moved(units, SOLD, RESERVE, args[0]), False


def _moved(units: list[Place], from_: Place, to: Place, count: int, outcome: str = "precondition") -> list[Place]:
    if units.count(from_) < count:
        raise TooFew(outcome)
    moved = list(units)
    for _ in range(count):
        moved[moved.index(from_)] = to
    return moved


def places(operations: Sequence[Operation]) -> list[Place]:
    """Where the units lie after accepted operations."""
    units: list[Place] = []
    for operation in operations:
        units, _ = carried(units, operation)
    return units


def movers(operations: Sequence[Op]) -> list[Op]:
    """The operations that carried anything, and the first, which makes the field."""
    units: list[Place] = []
    found = []
    for operation in operations:
        before = units
        units, _ = carried(units, operation)
        if units is not before:
            found.append(operation)
    return found or list(operations[:1])


def shown(units: Sequence[Place]) -> dict[str, int]:
    leased = sum(isinstance(place, tuple) for place in units)
    return {"available": units.count(RESERVE), "leased": leased, "taken": units.count(SOLD), "total": len(units)}
