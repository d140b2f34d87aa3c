"""Counters: what happened at the edge, as plain numbers.

Owns one object for each server, which whoever decides something increments, and nothing else. Must not know who reads
it: `app` turns it into Prometheus text and into the answer of `syncd status`. An increment is an addition to an
attribute or to an entry of a small dict; nothing here formats, locks or looks at a clock.

Invariant: K1 labels are bounded: each key of each dict is a word of a table of ours, a code that we chose, or one of
the words given here; nothing that a peer wrote becomes one.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from syncd.engine.commands import Collected, Decision, DeletedOld, Posted, Pushed

# How an end is counted that has no close code of ours: the peer closed first, or the stream broke off.
BY_PEER, LOST = "peer", "lost"
# Why a connection was cut off for what it held.
STALLED, UNFINISHED = "no_progress", "unfinished"

COMMIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # an fsync of NVMe, to a sick disk
BATCH_COMMANDS = (1, 2, 4, 8, 16, 32, 64)  # up to the committer's batch_count_max


class Histogram:
    """How many values were at most each bound; the last place counts those beyond all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


class Counters:
    """All that is counted, since the process began.

    `connections`: `served`, or `refused_full`, `refused_address`, `refused_rate`; `dropped`: of those refused, cut off
    without an answer. `upgrades`: requests for a WebSocket, `accepted` or the name of the problem.
    `responses`: HTTP answers by status. `refusals`: problems that the HTTP shell answered, by name. `closes`: ends of
    WebSockets by our close code, or `peer`, `lost`. `errors`: `error` messages sent, by name. `rate_limited`: by kind
    of rate, whether it was refused or made to wait. `unauthenticated`: failed authentications by reason. `changes`:
    outcomes decided, by name. `pages`: deltas read from the store for one who was behind. `late`: changes made
    before what every active device had by then. `lapsed`: devices that were away too long. `collected`: rows dropped.
    `deleted_old`: documents that the server deleted, as nobody had changed them for as long as their schema keeps them.
    `cut_off`: connections that were ended for what they held: `no_progress`, answers that they did not read in time;
    `unfinished`, messages that they began and did not end.
    `foreign_positions`: subscriptions at a position of this epoch that is not of its history: somebody set the store or
    the device back.
    `leases_ended`: leases that ended by time. `lease_clock_lag_ms`: how much of what the wall clock shows is not
    confirmed to have passed.
    `signals`: taken from senders, `refused`, `limited`; then `sent`, to each listener, `conflated` (a newer value took
    the place), `shed` (too many waited), `expired` while they waited; `presence`: messages about it that were sent.
    `reconciled`: comparisons that devices began; `repaired`: documents that these found to differ.
    """

    __slots__ = (
        *("batch_commands", "bytes_sent", "changes", "closes", "collected", "commit_s", "connections", "cut_off"),
        *("deleted_old", "deltas_sent"),
        *("errors", "fell_behind", "foreign_positions", "lapsed", "late", "lease_clock_lag_ms", "leases_ended"),
        *("messages_received", "pages", "rate_limited", "reconciled", "refusals", "repaired", "responses", "signals"),
        *("unauthenticated", "upgrades"),
    )

    def __init__(self) -> None:
        self.connections: Counter[str] = Counter()
        self.upgrades: Counter[str] = Counter()
        self.responses: Counter[int] = Counter()
        self.refusals: Counter[str] = Counter()
        self.closes: Counter[int | str] = Counter()
        self.cut_off: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.rate_limited: Counter[str] = Counter()
        self.unauthenticated: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self.messages_received = 0
        self.deltas_sent = 0
        self.bytes_sent = 0
        self.pages = 0
        self.fell_behind = 0
        self.late = self.lapsed = self.collected = self.deleted_old = 0
        self.foreign_positions = 0
        self.leases_ended = self.lease_clock_lag_ms = 0
        self.reconciled = self.repaired = 0
        self.signals: Counter[str] = Counter()
        self.commit_s = Histogram(COMMIT_S)
        self.batch_commands = Histogram(BATCH_COMMANDS)

    def committed(self, commands: int, seconds: float) -> None:
        """One write transaction has returned."""
        self.batch_commands.observe(commands)
        self.commit_s.observe(seconds)

    def decided(self, decision: Decision) -> None:
        """What a commit made of the changes in it."""
        changes = self.changes
        self.late += decision.late_count
        for result in decision.results:
            if isinstance(result, Pushed):
                for entry in result.outcomes:
                    changes[entry.outcome] += 1
            elif isinstance(result, Posted):
                changes[result.outcome] += 1
            elif isinstance(result, Collected):
                self.lapsed += result.lapsed_count
                self.collected += result.dropped_count
            elif isinstance(result, DeletedOld):
                self.deleted_old += len(result.documents)
