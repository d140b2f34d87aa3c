"""What a bounded field must hold, unit by unit.

The server keeps sums. Here each unit is a thing of its own that lies somewhere: in the reserve, with a lease, or sold.
An operation carries units from one place to another, or finds too few. Nothing can be conserved wrongly, because there
is nothing to add up. Leases do not end by time in these histories (`tests/engine/test_leases.py` has those).

After a restore a device may show a lease that this history never had (`Honoured`, told by whoever knows all histories).
Its units come from the reserve; what that lacks are units that do not exist, which the next ones to come in replace.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

RESERVE, SOLD = "reserve", "sold"
Place = str | tuple[bytes, bytes]  # (lease id, holder)


class Honoured(NamedTuple):
    """A lease of k units that was granted, and then lost with the history in which it was."""

    id: bytes
    k: int


class Shelf(NamedTuple):
    """`missing`: so many of the units do not exist. `honoured`: lease id -> holder. `known`: the ids of all leases that
    this history ever had. `ended`: seq of the last change by which somebody else ended one; 0: none."""

    units: list[Place]
    missing: int
    honoured: Mapping[bytes, bytes]
    known: frozenset[bytes]
    ended: int


class Operation(Protocol):
    """What is needed of an oracle's `Fact`."""

    @property
    def verb(self) -> str: ...
    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def author(self) -> bytes: ...
    @property
    def seq(self) -> int: ...


Op = TypeVar("Op", bound=Operation)
EMPTY = Shelf([], 0, {}, frozenset(), 0)


class TooFew(Exception):
    """The operation cannot take effect. The argument is its outcome."""


def named_by(operation: Operation) -> Any:
    """The lease that a take or give names, by its id, its certificate, or as an honoured one; None: it names none."""
    if operation.verb == "bounded.take":
        return operation.args[1]
    return operation.args[0] if operation.verb == "bounded.give" else None


def holds(shelf: Shelf, operation: Operation) -> bool:
    """Whether who takes or gives holds the lease that it names."""
    named = named_by(operation)
    if isinstance(named, Honoured) and named.id not in shelf.known:
        return True
    lease = named[0] if isinstance(named, list | tuple) else named
    return shelf.honoured.get(lease) == operation.author or (lease, operation.author) in shelf.units


def closed(shelf: Shelf, operation: Operation) -> str | None:
    """The outcome of what would be given out of the reserve of a space that was restored and gives nothing out."""
    if operation.verb == "bounded.lease":
        return "precondition"
    if operation.verb == "bounded.take" and not holds(shelf, operation):
        return "precondition" if operation.args[1] is None else "lease_expired"
    return None


def carried(shelf: Shelf, operation: Operation) -> tuple[Shelf, int | None]:
    """Where the units lie after an operation, and which end of the lease it names it met. Raises `TooFew`."""
    named = named_by(operation)
    if isinstance(named, Honoured) and named.id not in shelf.known:
        shelf = _honouring(shelf, named, operation.author)
    # A lease is named by its id, or by a certificate that begins with it.
    args = tuple(arg[0] if isinstance(arg, list | tuple) else arg for arg in operation.args)
    match operation.verb:
        case "bounded.restock" if args[0] > 0:
            return _received(shelf, args[0]), None
        case "bounded.restock":
            left = [unit for unit in _moved(shelf, RESERVE, "gone", -args[0]) if unit != "gone"]
            return shelf._replace(units=left), None
        case "bounded.lease":
            if args[0] in {*shelf.honoured, *(place[0] for place in shelf.units if isinstance(place, tuple))}:
                raise TooFew("invalid")
            units = _moved(shelf, RESERVE, (args[0], operation.author), args[1])
            return shelf._replace(units=units, known=shelf.known | {args[0]}), None
        case "bounded.take":
            mine = (args[1], operation.author)
            if mine in shelf.units or shelf.honoured.get(args[1]) == operation.author:
                return shelf._replace(units=_moved(shelf, mine, SOLD, args[0])), None
            outcome = "precondition" if args[1] is None else "lease_expired"
            return shelf._replace(units=_moved(shelf, RESERVE, SOLD, args[0], outcome)), args[1] and shelf.ended
        case "bounded.give":
            mine = (args[0], operation.author)
            is_held = mine in shelf.units or shelf.honoured.get(args[0]) == operation.author
            return (_back(shelf, mine, args[1]) if is_held else shelf), None
        case "bounded.end":
            return _ended(shelf, args[0], operation.seq), None
    assert operation.verb == "bounded.refund"
    return _back(shelf, SOLD, args[0]), None


def _honouring(shelf: Shelf, lease: Honoured, holder: bytes) -> Shelf:
    there = min(shelf.units.count(RESERVE), lease.k)
    units = _moved(shelf, RESERVE, (lease.id, holder), there)
    units += [(lease.id, holder)] * (lease.k - there)
    honoured = {**shelf.honoured, lease.id: holder}
    missing, known = shelf.missing + lease.k - there, shelf.known | {lease.id}
    return shelf._replace(units=units, missing=missing, honoured=honoured, known=known)


def _moved(shelf: Shelf, from_: Place, to: Place, count: int, outcome: str = "precondition") -> list[Place]:
    if shelf.units.count(from_) < count:
        raise TooFew(outcome)
    moved = list(shelf.units)
    for _ in range(count):
        moved[moved.index(from_)] = to
    return moved


def _received(shelf: Shelf, count: int) -> Shelf:
    """Units that are new: they take the place of those that are missing, and what is left goes to the reserve."""
    found = min(shelf.missing, count)
    return shelf._replace(units=[*shelf.units, *[RESERVE] * (count - found)], missing=shelf.missing - found)


def _back(shelf: Shelf, from_: Place, count: int) -> Shelf:
    """Units come back to the reserve. While some are missing, it is those that come."""
    units = _moved(shelf, from_, "back", count)
    found = min(shelf.missing, count)
    for _ in range(found):
        units.remove("back")
    return shelf._replace(units=[RESERVE if unit == "back" else unit for unit in units], missing=shelf.missing - found)


def _ended(shelf: Shelf, lease: bytes, seq: int) -> Shelf:
    """By an operator: what is left comes back."""
    place = next((unit for unit in shelf.units if isinstance(unit, tuple) and unit[0] == lease), None)
    if place is None and lease not in shelf.honoured:
        return shelf
    after = shelf if place is None else _back(shelf, place, shelf.units.count(place))
    honoured = {each: holder for each, holder in shelf.honoured.items() if each != lease}
    return after._replace(honoured=honoured, ended=seq)


def places(operations: Sequence[Operation]) -> Shelf:
    """Where the units lie after accepted operations."""
    shelf = EMPTY
    for operation in operations:
        shelf, _ = carried(shelf, operation)
    return shelf


def movers(operations: Sequence[Op]) -> list[Op]:
    """The operations that carried anything, and the first, which makes the field."""
    shelf = EMPTY
    found = []
    for operation in operations:
        before = shelf
        shelf, _ = carried(shelf, operation)
        if shelf is not before:
            found.append(operation)
    return found or list(operations[:1])


def has_leases(shelf: Shelf) -> bool:
    """An honoured one counts until somebody ends it."""
    return bool(shelf.honoured) or any(isinstance(place, tuple) for place in shelf.units)


def shown(shelf: Shelf) -> dict[str, int]:
    leased = sum(isinstance(place, tuple) for place in shelf.units)
    sold, total = shelf.units.count(SOLD), len(shelf.units) - shelf.missing
    missing = {"deficit": shelf.missing} if shelf.missing else {}
    return {"available": shelf.units.count(RESERVE), **missing, "leased": leased, "taken": sold, "total": total}
