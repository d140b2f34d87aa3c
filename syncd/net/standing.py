"""Standing: what the user of a connection may do in a space, and what is said when that changes.

Owns the judgement of a subscription, by the store or by a change of roles that has just been handed out, and the
messages about it. Must not know connections or channels. Whoever judges by the store does so in the transaction from
which it then reads: nothing is read for one who may not read it at that moment, however the change and its publication
lie to each other.
"""

from dataclasses import dataclass

from syncd.engine.batch import space_row
from syncd.engine.commands import Author
from syncd.engine.grants import Role
from syncd.engine.members import role_at, role_said, said_at
from syncd.store.api import Reader
from syncd.wire.messages import Revoked, Subscribed

BY_TOKEN, BY_SPACE = "the token does not allow reading this space", "a change of the space's members took the role away"


@dataclass(frozen=True, slots=True)
class Standing:
    """`seq`: of the change of members that decides it, 0 if the token does. `head`: of the space, when it was judged.
    `is_recorded`: that the copy of the device is lost was written down with that change."""

    role: Role
    seq: int
    head: int
    is_recorded: bool = False

    @property
    def may_read(self) -> bool:
        return self.role >= Role.READER


def standing(tx: Reader, author: Author, space: str) -> Standing:
    """At the moment of a read transaction."""
    row = space_row(tx, space)
    seq = 0 if row is None else said_at(tx, author, row.id)
    return Standing(role_at(tx, author, space, row), seq, 0 if row is None else row.head)


def standing_after(author: Author, space: str, seq: int, said: Role | None) -> Standing:
    """After the change `seq`, by which the space says this of the author."""
    return Standing(role_said(author, space, said), seq, seq, said is Role.NONE)


def revoked(space: str, now: Standing) -> Revoked:
    return Revoked(space, BY_SPACE if now.seq else BY_TOKEN, now.seq or None)


def subscribed(space: str, epoch: bytes, now: Standing, *, is_live: bool) -> Subscribed:
    """`subscribed` once more, with another role. `safe` 0: nothing new is said of it; the head is in no backup yet."""
    mode = "live" if is_live else "catch-up"
    return Subscribed(space, epoch, now.head, 0, now.role.name.lower(), mode)
