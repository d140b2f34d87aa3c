"""Bounded counters: a stock that cannot be oversold, and the leases by which devices sell from it while offline.

Owns the book of one `bounded` field as a pure function: (book, action, arguments, who and when) -> the book after, or
why not. Must not know documents, certificates (a server's proof of a lease is `engine.leases`') nor clocks: the time of
the change is handed in.

It is kept as books are: every action moves units between accounts, so units neither appear nor vanish. `total` changes
by restocking alone. What is left of a lease belongs to the one slot that it was given to: only its takes use it, so
what a device holds cannot be sold by another, in whatever order changes arrive. Everything else competes for the
reserve, first come first served.

Invariants: L1 reserve + what is left of all leases + taken = total + deficit, and none of them is negative. L2 there is
a deficit only while the reserve is empty: what comes back, or is restocked, pays it first. L3 a lease ends by being
used up, given back or ended; its id is then unknown, but for an honoured one, which stays until it is ended, so that
its certificate is not honoured twice. L4 a take by the holder within its lease always succeeds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from syncd.core.values import INTEGER_MAX, Value

LEASE_ID_BYTES = 16
LEASE_MAC_BYTES = 16
# Some 45 bytes each in the document, written with it: 46 KB. A shop with more tills takes the rest online.
LEASES_MAX = 1024
LEASE_TTL_MS_MAX = 30 * 24 * 3_600_000  # how long stock may wait for a phone that never comes back; DHCP's are days
LEASE_TTL_MS_MIN = 1_000  # a shorter one would be over before its outcome has arrived
# How long after `until` what is left goes back: for a take on its way. The device reckons with its own clock's error.
LEASE_GRACE_MS = 60_000

Certificate = list[Value]  # [lease id, k, until or None, seq, MAC]


class Lease(NamedTuple):
    """`slot`: who holds it. `k` units were leased, `left` are. `until`: when it ends, in ms; None: never by itself.
    `is_honoured`: it was granted by a server whose memory of it was lost, and shown by its certificate."""

    slot: int
    k: int
    left: int
    until: int | None
    is_honoured: bool


class Book(NamedTuple):
    """The state of a `bounded` field. `deficit`: units promised that are not there, after a restore. `ended`: seq of
    the last change that ended a lease before it was used up or given back; 0: none did."""

    total: int
    reserve: int
    taken: int
    deficit: int
    ended: int
    leases: Mapping[bytes, Lease]


class Honoured(NamedTuple):
    """A lease that the book does not know, but the server vouches for."""

    id: bytes
    k: int
    until: int | None


class Moved(NamedTuple):
    """`book` is the same object if nothing was moved. `met`: the change that had ended the lease."""

    book: Any
    met: tuple[tuple[str, int], ...] = ()


class Refusal(NamedTuple):
    """The operation cannot take effect."""

    outcome: str
    reason: str


EMPTY = Book(0, 0, 0, 0, 0, {})


def book_of(state: Any) -> Book:
    """The book as it is stored (None: there is none yet)."""
    return EMPTY if state is None else Book(*state)


def lease_of(book: Book, lease_id: bytes) -> Lease | None:
    found = book.leases.get(lease_id)
    return None if found is None else Lease(*found)


def lease_id_of(named: Any) -> bytes | None:
    """The id of the lease that an operation names: by its id, by its certificate, or (None) not at all."""
    if named is None or type(named) is bytes:
        return named
    lease_id: bytes = named[0]
    return lease_id


def value_of(state: Any) -> dict[str, Value]:
    """What everyone sees: sums, and nobody's leases."""
    total, reserve, taken, deficit = state[:4]
    shown = {"available": reserve}
    if deficit:
        shown["deficit"] = deficit
    return shown | {"leased": total + deficit - reserve - taken, "taken": taken, "total": total}


def is_held(state: Any, slot: int, named: Any) -> bool:
    """Whether the slot holds the lease that it names."""
    lease = lease_of(book_of(state), lease_id_of(named) or b"")
    return lease is not None and lease.slot == slot


def moved(state: Any, action: str, args: tuple[Value, ...], slot: int, seq: int, time: int) -> Moved | Refusal:
    """Carry out one action of `slot` in the change `seq`, at server time `time`."""
    book = book_of(state)
    result: Moved | Refusal
    match action:
        case "restock":
            result = _restocked(book, args[0])
        case "lease":
            result = _leased(book, args[0], args[1], None if args[2] is None else time + args[2], slot)
        case "take":
            result = _taken(_with_honoured(book, args[1], slot), args[0], args[1], slot)
        case "give":
            result = _given(book, _with_honoured(book, args[0], slot), args[0], args[1], slot)
        case "refund":
            result = _refunded(book, args[0])
        case _:
            assert action == "end", action
            result = _ended(book, args[0], seq)
    if isinstance(result, Refusal):
        return result
    if result.book is book:
        return Moved(EMPTY if state is None else state)
    _check(result.book)
    return result


def _check(book: Book) -> None:
    """L1 and L2, at each step."""
    left = 0
    for lease in book.leases.values():
        assert lease[2] >= 0, "a lease was overdrawn"
        left += lease[2]
    assert min(book.total, book.reserve, book.taken, book.deficit) >= 0, "an account is negative"
    assert book.reserve + left + book.taken == book.total + book.deficit, "units appeared or vanished"
    assert not (book.reserve and book.deficit), "a deficit stands beside a reserve"


def _with_reserve(book: Book, by: int) -> Book:
    """Units that come into the reserve pay the deficit first; `by` is never more than the reserve below 0."""
    paid = min(book.deficit, by) if by > 0 else 0
    return book._replace(reserve=book.reserve + by - paid, deficit=book.deficit - paid)


def _with_lease(book: Book, lease_id: bytes, lease: Lease | None) -> Book:
    leases = dict(book.leases)
    if lease is None or (not lease.left and not lease.is_honoured):
        leases.pop(lease_id, None)
    else:
        leases[lease_id] = lease
    return book._replace(leases=leases)


def _short(book: Book, wanted: int) -> str:
    return f"the reserve holds {book.reserve}, not {wanted}"


def _restocked(book: Book, by: int) -> Moved | Refusal:
    if by < 0 and book.reserve < -by:
        return Refusal("precondition", _short(book, -by))
    if book.total + by > INTEGER_MAX:
        return Refusal("invalid", f"the total would be {book.total + by}, above 2^53 - 1")
    return Moved(_with_reserve(book, by)._replace(total=book.total + by))


def _leased(book: Book, lease_id: bytes, k: int, until: int | None, slot: int) -> Moved | Refusal:
    if lease_id in book.leases:
        return Refusal("invalid", "a lease of this id is outstanding; a new one is random")
    if book.reserve < k:
        return Refusal("precondition", _short(book, k))
    if len(book.leases) >= LEASES_MAX:
        return Refusal("too_large", f"a field has at most {LEASES_MAX} leases")
    return Moved(_with_lease(_with_reserve(book, -k), lease_id, Lease(slot, k, k, until, False)))


def _with_honoured(book: Book, named: Any, slot: int) -> Book:
    """The book, with the lease in it that the server vouches for; what the reserve lacks for it is a deficit."""
    if type(named) is not Honoured or named.id in book.leases:
        return book
    there = min(book.reserve, named.k)
    short = book._replace(reserve=book.reserve - there, deficit=book.deficit + named.k - there)
    return _with_lease(short, named.id, Lease(slot, named.k, named.k, named.until, True))


def _taken(book: Book, k: int, named: Any, slot: int) -> Moved | Refusal:
    lease_id = lease_id_of(named)
    lease = None if lease_id is None else lease_of(book, lease_id)
    if lease_id is not None and lease is not None and lease.slot == slot:
        if lease.left < k:
            return Refusal("precondition", f"the lease has {lease.left} left, not {k}")
        return Moved(_with_lease(book, lease_id, lease._replace(left=lease.left - k))._replace(taken=book.taken + k))
    # Certainty belongs to the holder. What a clone of its device, or the device under a new id, sold by this lease is
    # sold without it, like what comes after the end.
    if book.reserve < k:
        return Refusal("precondition" if lease_id is None else "lease_expired", _short(book, k))
    met = () if lease_id is None else (("ended", book.ended),)
    return Moved(_with_reserve(book, -k)._replace(taken=book.taken + k), met)


def _given(before: Book, book: Book, named: Any, back: int, slot: int) -> Moved | Refusal:
    """What has ended already, or is another's, is not there to be given back: nothing happens."""
    lease_id = lease_id_of(named)
    assert lease_id is not None, "a give names a lease"
    lease = lease_of(book, lease_id)
    if lease is None or lease.slot != slot:
        return Moved(before)
    if lease.left < back:
        return Refusal("precondition", f"the lease has {lease.left} left, not {back}")
    return Moved(_with_reserve(_with_lease(book, lease_id, lease._replace(left=lease.left - back)), back))


def _refunded(book: Book, k: int) -> Moved | Refusal:
    if book.taken < k:
        return Refusal("precondition", f"{book.taken} were taken, not {k}")
    return Moved(_with_reserve(book._replace(taken=book.taken - k), k))


def _ended(book: Book, lease_id: bytes, seq: int) -> Moved | Refusal:
    lease = lease_of(book, lease_id)
    if lease is None:
        return Moved(book)
    without = _with_lease(book, lease_id, None)
    return Moved(_with_reserve(without, lease.left)._replace(ended=seq))
