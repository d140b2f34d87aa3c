"""What one connection knows of each space, and of the changes that it has sent.

Owns the state of a subscription and of pushes on their way, and the search for a change that a server cannot read. Must
not know messages: what leads from one state to the next is in session.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from . import messages as m
from .mending import Mending


@dataclass(slots=True)
class Suspicion:
    """The search for a change that the server closes the connection on (section 12). Outlives connections.

    While it lasts, one push at a time is in flight, holding at most `changes_max` changes, until every suspect up to
    `last_n` of its space is answered.
    """

    changes_max: int
    last_n: dict[str, int]


@dataclass(frozen=True, slots=True)
class Flight:
    first_n: int
    last_n: int
    count: int


@dataclass(slots=True)
class Link:
    """What this connection knows of one space. Phases: none, asked, open, shut (refused for this connection)."""

    phase: str = "none"
    head: int = 0
    cursor_n: int = 1  # the next n to send
    flights: deque[Flight] = field(default_factory=deque)
    stale_gaps: int = 0  # answers still to come to pushes that were in flight behind one that was not taken
    retry_s: float = 0.0
    failures: int = 0
    progress_s: float = 0.0
    acked: m.Ack | None = None
    forget: bool = False
    is_purge_due: bool = False  # the server waits to hear that this copy is gone
    is_early: bool = False  # asked for, and perhaps pushed to, in the first flight
    complete: int = 0  # where the subscription in force stands: a row behind it was forgotten and joined again
    mending: Mending | None = None  # while the space reconciles: no delta is looked at
    must_mend: bool = False  # the server wants it
    is_asked_after: bool = False  # whether the server still has what it had, of a space that is not subscribed
    is_mended: bool = False  # it did, and the next sum will tell whether it helped

    def rewind(self, n: int) -> None:
        self.cursor_n = n
        self.stale_gaps = max(0, len(self.flights) - 1)
        self.flights.clear()
        self.is_early = False


def pause_s(link: Link) -> float:
    # Beyond 2^6 the pause is cut off in any case; after a day of refusals the power itself would overflow.
    return 2.0 ** min(link.failures, 6)
