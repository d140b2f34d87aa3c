"""One conversation with the server, sans I/O: messages in, messages and effects out.

Owns section 6 from the client's side: what to subscribe, push and acknowledge now, how far each push got, what to do
with each answer. Durable facts are in `Tables`; what is here belongs to one connection and dies with it. Knows no
socket and no clock; `now_s` is monotonic, `now_ms` is wall time.

1. In each space, changes are sent in order of n; one is sent again only after the server has not taken it.
2. Nothing is pushed to a subscribed space before its `subscribed`: by then the outcomes of earlier pushes are known.
   But for the first flight, which saves a round trip: what it sends twice gets the same outcome twice.
3. At most `pushes_in_flight_max` pushes are unanswered, and each is within the limits of the welcome.
4. A revoked space is confirmed as purged after its outbox was answered, and after what is to be deleted was: each time
   that the server says `revoked`, so a confirmation that was lost is repeated.
5. Pushes, subscriptions and acks are computed from rows each time: a lost wake-up costs time, never a change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from typing import Any, TypeAlias

from . import happenings, renaming, replica
from . import mending as mend
from . import messages as m
from .codec import change_bytes
from .errors import PeerError
from .links import Flight, Link, Suspicion, pause_s
from .live import LIMITED, REFUSED, Live, PresenceChanged, Signal
from .policy import State
from .tables import Entry, Key, OutcomeRow, SpaceRow, Tables

UNEXPECTED_MESSAGE, NOT_SUBSCRIBED = 3, 14  # errors of section 12
FIRST_FLIGHT = "first-flight"  # the capability of a server that takes messages before its welcome (section 6)

# What is pushed before the welcome. TCP's initial window is ten segments, some 14,600 bytes; more would take another
# round trip in any case. In JSON, six times as long, it is still below the 65,536 bytes of a frame before the welcome.
FIRST_FLIGHT_BYTES_MAX = 10_000

# Room in a frame for what surrounds the changes of a push: type code, keys, the longest space name, an epoch.
PUSH_ENVELOPE_BYTES = 512
# A push that is not answered for so long on a living connection is offered again, which is always safe.
PUSH_ANSWER_S = 60.0
# The longest pause before a space is tried again after the server refused or lost it.
SPACE_RETRY_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Touched:
    """The view of these documents may have changed; None means any document of the space."""

    space: str
    keys: tuple[Key, ...] | None


@dataclass(frozen=True, slots=True)
class Settled:
    outcome: OutcomeRow


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the application should hear: forked, revoked, expired, drift, or an error of the server."""

    what: str
    space: str | None
    detail: str


Effect: TypeAlias = Touched | Settled | Notice | Signal | PresenceChanged


def _from_map(type_: Any, numbers: Any) -> Any:
    """Limits or parameters from a welcome: unknown names are ignored, missing ones keep their default."""
    return type_(**{item.name: max(1, numbers[item.name]) for item in fields_of(type_) if item.name in numbers})


class Session:
    """`is_early`: the server is known to take messages before its welcome. `live`: the device's, over connections."""

    def __init__(
        self,
        new_nonce: Callable[[], bytes],
        suspicion: Suspicion | None = None,
        *,
        is_early: bool = False,
        live: Live | None = None,
    ) -> None:
        self.state = State.HELLO
        self.welcome: m.Welcome | None = None
        self.goaway: m.Goaway | None = None
        self.error: m.Error | None = None
        self.parameters = m.Parameters()
        self.suspicion = suspicion
        self.links: dict[str, Link] = {}
        self.live = live or Live()
        self.telling = happenings.Telling()
        self.is_too_early = False  # the server refused the first flight: it is another than it was
        self.is_renamed = False  # the device has another id now: nothing more is sent on this connection
        self._is_leaving = False  # the id is being left (renaming.py)
        self._is_early = is_early
        self._new_nonce = new_nonce
        self._dirty: dict[str, None] = {}
        self._replies: list[m.ClientMessage] = []
        self._acks_due: dict[str, None] = {}
        self._ack_s = 0.0

    # -- receiving ---------------------------------------------------------------------------------------------------

    def received(self, tx: Tables, message: m.Message, now_ms: int, now_s: float) -> list[Effect]:
        """Take one message of the server. Raises PeerError for one that may not come now."""
        effects = [] if self.is_renamed else self._received(tx, message, now_ms, now_s)
        if self._is_leaving and not self.is_renamed and renaming.is_done(tx):
            effects += self._rename(tx)
        return effects

    def _rename(self, tx: Tables) -> list[Effect]:
        """All has been answered that can be under the old id. The connection speaks for that one, and ends."""
        effects: list[Effect] = [Settled(row) for row in renaming.rename(tx, self._new_nonce() + self._new_nonce())]
        self.is_renamed, self.suspicion = True, None
        effects.append(Notice("renamed", None, "this device goes on under another id, with all that was not taken"))
        return effects

    def _received(self, tx: Tables, message: m.Message, now_ms: int, now_s: float) -> list[Effect]:
        if isinstance(message, m.Ping):
            self._replies.append(m.Pong(message.id))
            return []
        if isinstance(message, m.Pong):
            return []
        if isinstance(message, m.Goaway):
            self.goaway = message
            self.state = State.DRAINING
            return []
        if isinstance(message, m.Error):
            return self._error(tx, message, now_s)
        if isinstance(message, m.Welcome):
            return self._welcome(tx, message, now_ms)
        if self.welcome is None:
            raise PeerError(f"{type(message).__name__.lower()} before welcome")
        if isinstance(message, m.Subscribed):
            return self._subscribed(tx, message)
        if isinstance(message, m.Delta):
            return self._delta(tx, message, now_s)
        if isinstance(message, m.Differ | m.Repair):
            return self._compared(tx, message, now_s)
        if isinstance(message, m.Heard | m.Presence):
            return [self.live.received(message, now_s)]
        if isinstance(message, m.Noted):
            return [Notice("event", None, why) for why in self.telling.noted(tx, message)]
        if isinstance(message, m.Outcomes):
            return self._outcomes(tx, message, now_s)
        if isinstance(message, m.Revoked):
            return self._revoked(tx, message)
        if isinstance(message, m.Expired):
            return self._expired(tx, message)
        raise PeerError(f"{type(message).__name__.lower()} is a message of clients")

    def _welcome(self, tx: Tables, message: m.Welcome, now_ms: int) -> list[Effect]:
        if self.welcome is not None:
            raise PeerError("welcome came twice")
        self.welcome = message
        self.live.connected()
        self.telling.welcomed(message.caps)
        self.parameters = m.Parameters(
            limits=_from_map(m.Limits, message.limits),
            reconnect=_from_map(m.Reconnect, message.reconnect),
            ping_ms=message.ping_ms,
            ack_ms=message.ack_ms,
        )
        if self.state is State.HELLO:
            self.state = State.READY
        tx.put_setting("offset_ms", message.time - now_ms)
        tx.put_setting("limits", dict(message.limits))
        tx.put_setting("first_flight", FIRST_FLIGHT in message.caps)
        self._is_leaving = renaming.is_leaving(tx)
        self.look_at_all(tx)
        return []

    def _subscribed(self, tx: Tables, message: m.Subscribed) -> list[Effect]:
        link, row = self._link(message.space), replica.space_row(tx, message.space)
        if row.epoch not in (None, message.epoch):
            raise PeerError(f"subscribed.epoch: {message.space} changed its epoch without expired")
        replica.take_subscribed(tx, message)
        if link.phase in ("asked", "shut"):  # what was refused in between was a push, as of a first flight
            link.phase, link.failures = "open", 0
            if not link.is_early:
                link.rewind(row.settled + 1)
            link.stale_gaps, link.is_early = 0, False
            self._replies.extend(self.live.subscribed(message))
        link.head, link.is_purge_due, link.is_asked_after = message.head, False, True
        if message.mode == "reconcile":
            link.must_mend, link.mending = True, None
        if link.retry_s == float("inf"):  # pushes were refused for good, and the role is perhaps another now
            link.retry_s = 0.0
            link.rewind(row.settled + 1)
        self._changed(message.space)
        return []

    def _delta(self, tx: Tables, delta: m.Delta, now_s: float) -> list[Effect]:
        link = self._link(delta.space)
        if link.phase not in ("asked", "open") or link.mending is not None:
            return []
        result = replica.take_delta(tx, delta)
        if result.what == "gap" and link.phase == "open":
            self._retry(delta.space, link, now_s, 0.0)
        return self._applied(delta.space, link, result, delta.to, now_s, is_summed=delta.sum is not None)

    def _applied(
        self, space: str, link: Link, result: replica.Applied, to: int, now_s: float, *, is_summed: bool
    ) -> list[Effect]:
        """What follows when the space has moved to `to`, or could not."""
        if result.what == "drift":
            # The first download again is at once; one that still differs must not become a loop at network speed.
            self._retry(space, link, now_s, 0.0 if link.failures == 0 else pause_s(link))
            detail = f"checksum differs at {to}, although it was repaired: everything is downloaded again"
            return [Touched(space, None), Notice("drift", space, detail)]
        if result.what not in ("applied", "doubt"):
            return []
        link.complete = to
        self._changed(space)
        effects: list[Effect] = [Touched(space, result.touched)]
        if result.what == "doubt":
            link.is_mended = False
            effects.append(Notice("drift", space, f"checksum differs at {to}: what differs is fetched"))
        elif is_summed:
            link.failures, link.is_mended = 0, False
        return effects

    def _compared(self, tx: Tables, message: m.Differ | m.Repair, now_s: float) -> list[Effect]:
        link, row = self._link(message.space), replica.space_row(tx, message.space)
        mending = link.mending
        if mending is None or message.epoch != row.epoch or (isinstance(message, m.Repair) and mending.differ is None):
            return []
        if row.complete < link.complete:  # it was forgotten meanwhile: what differed is not all that is missing now
            return []
        take: Any = mend.take_differ if isinstance(message, m.Differ) else mend.take_repair
        result: m.Sums | replica.Applied | None = take(tx, row, mending, message)
        if isinstance(result, m.Sums):
            self._replies.append(result)
        if not isinstance(result, replica.Applied):
            return []
        assert mending.differ is not None
        link.mending, link.must_mend, link.is_mended = None, False, True
        is_summed = isinstance(message, m.Differ) or message.sum is not None
        return self._applied(message.space, link, result, mending.differ.at, now_s, is_summed=is_summed)

    def _outcomes(self, tx: Tables, message: m.Outcomes, now_s: float) -> list[Effect]:
        link = self._link(message.space)
        answered = replica.take_outcomes(tx, message)
        if message.outcomes:
            highest = max(answer.n for answer in message.outcomes)
            while link.flights and link.flights[0].first_n <= highest:
                if link.flights[0].last_n > highest:
                    break
                link.flights.popleft()
            link.progress_s, link.stale_gaps, link.failures = now_s, 0, 0
            self._clear_suspicion(message.space, highest)
        effects: list[Effect] = [Touched(message.space, answered.touched)] if answered.touched else []
        effects.extend(Settled(row) for row in answered.settled)
        forked = answered.forked
        if message.gap is not None and forked is None:
            forked = self._gap(tx, message.space, link, message.gap)
        if forked is not None:
            link.flights.clear()
            self._leave(tx)
            effects.append(Notice("forked", message.space, f"n = {forked} is another replica's, or this id is retired"))
        self._changed(message.space)
        return effects

    def _leave(self, tx: Tables) -> None:
        """The id is to be left. What was refused for good on this connection will not be asked for on it again."""
        self._is_leaving = True
        for name, link in self.links.items():
            if link.retry_s == float("inf"):
                renaming.end_resending(tx, name, 0)

    def _gap(self, tx: Tables, space: str, link: Link, expected_n: int) -> int | None:
        if link.stale_gaps > 0:
            link.stale_gaps -= 1
            return None
        row = replica.space_row(tx, space)
        if expected_n >= row.next_n or self._is_leaving:
            # While the id is being left, nothing is made void under it: what has no answer is offered under the next.
            expected_n = min(expected_n, row.settled + 1) if self._is_leaving else row.next_n
            renaming.note_fork(tx, space, expected_n)
            return expected_n
        replica.fill_gap(tx, space, expected_n, self._new_nonce, "not_held")
        link.rewind(expected_n)
        return None

    def _revoked(self, tx: Tables, message: m.Revoked) -> list[Effect]:
        link = self._link(message.space)
        touched = replica.take_revoked(tx, message)
        self.live.ended(message.space)
        link.phase, link.acked, link.is_purge_due = "shut", None, True
        self._acks_due.pop(message.space, None)
        self._dirty[message.space] = None
        return [Touched(message.space, touched), Notice("revoked", message.space, message.reason)]

    def _expired(self, tx: Tables, message: m.Expired) -> list[Effect]:
        link = self._link(message.space)
        forked, touched = replica.take_expired(tx, message, self._new_nonce)
        link.phase, link.acked = "none", None
        link.rewind(replica.space_row(tx, message.space).settled + 1)
        link.stale_gaps = 0
        self._changed(message.space)
        effects: list[Effect] = [
            Touched(message.space, touched),
            Notice("expired", message.space, f"new epoch, fork at {message.fork}"),
        ]
        if forked:
            self._leave(tx)
            effects.append(Notice("forked", message.space, f"the server holds n = {message.highest} of this device"))
        return effects

    def _error(self, tx: Tables, message: m.Error, now_s: float) -> list[Effect]:
        detail = f"{message.name}{': ' if message.detail else ''}{message.detail or ''}"
        if message.code == happenings.LIMITED:
            self.telling.limited(message.after_ms, now_s)
            return []
        if message.space is None:
            self.error = message  # a close follows; its code says what to do
            if self.welcome is None and self.links and message.code == UNEXPECTED_MESSAGE:
                self.is_too_early = True
                tx.put_setting("first_flight", False)
            return [Notice("error", None, detail)]
        if message.code in (REFUSED, LIMITED):
            return [Notice("signal", message.space, detail)]
        if message.code == NOT_SUBSCRIBED:
            return []  # an ack or unsubscribe crossed the end of the subscription: nothing was lost
        link = self._link(message.space)
        effects: list[Effect] = [Notice("error", message.space, detail)]
        if message.retry == "never":
            # A refused subscription still lets changes be pushed; their outcomes say whether they may.
            if link.phase == "asked":
                link.phase = "shut"
            elif link.phase != "none" or not replica.space_row(tx, message.space).is_subscribed:
                link.flights.clear()
                link.retry_s = float("inf")
                if self._is_leaving:  # the server holds nothing of this device there, and takes nothing
                    renaming.end_resending(tx, message.space, 0)
        elif message.retry == "resync":
            effects.append(Touched(message.space, replica.drop_synced(tx, message.space)))
            self._retry(message.space, link, now_s, pause_s(link))
        else:
            wait_s = 0.001 * message.after_ms if message.after_ms else pause_s(link)
            link.rewind(replica.space_row(tx, message.space).settled + 1)
            if link.phase == "asked":
                self._retry(message.space, link, now_s, wait_s)
            else:
                link.failures += 1
                link.retry_s = now_s + min(wait_s, SPACE_RETRY_MAX_S)
        self._dirty[message.space] = None
        return effects

    def _retry(self, space: str, link: Link, now_s: float, pause_s: float) -> None:
        """Subscribe again after a pause; until then deltas of the old subscription are not looked at."""
        link.phase, link.acked = "none", None
        link.failures += 1
        link.retry_s = now_s + min(pause_s, SPACE_RETRY_MAX_S)
        self._dirty[space] = None

    def _link(self, space: str) -> Link:
        return self.links.setdefault(space, Link())

    def _changed(self, space: str) -> None:
        self._dirty[space] = None
        self._acks_due[space] = None

    def rejoin(self, space: str) -> None:
        """The application wants the space again: ask, also if it was refused on this connection."""
        link = self.links.get(space)
        if link is not None and link.phase == "shut":
            link.phase, link.retry_s, link.is_purge_due = "none", 0.0, False
        self.look_at(space)

    def renewed(self, token: str) -> None:
        """A new token, which may grant what the last one did not: ask again for what was refused."""
        self.say(m.Refresh(token))
        for space, link in self.links.items():
            if link.retry_s == float("inf"):
                link.retry_s = 0.0
                link.rewind(1)
            self.rejoin(space)

    def say(self, message: m.ClientMessage) -> None:
        """Send this with the next outgoing messages."""
        self._replies.append(message)

    # -- sending -----------------------------------------------------------------------------------------------------

    def look_at(self, space: str) -> None:
        """There may be something new to send for this space."""
        self._dirty[space] = None

    def look_at_all(self, tx: Tables) -> None:
        self._dirty.update(dict.fromkeys(row.name for row in tx.spaces()))

    def outgoing(self, tx: Tables, now_s: float) -> list[m.ClientMessage]:
        """What to send now. What it returns is counted as sent."""
        result, self._replies = self._replies, []
        if self.is_renamed:
            return []
        for name, link in self.links.items():
            if link.flights and now_s >= link.progress_s + PUSH_ANSWER_S:
                link.rewind(replica.space_row(tx, name).settled + 1)
                link.stale_gaps = 0
                self._dirty[name] = None
        if self._is_early and self.state is State.HELLO:
            self._is_early = False
            result.extend(self._first_flight(tx, now_s))
        if self.state is State.READY:
            names, self._dirty = list(self._dirty), {}
            for name in names:
                result.extend(self._for_space(tx, name, now_s))
            result.extend(self.telling.outgoing(tx, self.parameters.limits, now_s))
        if self.welcome is not None and self._acks_due and now_s >= self._ack_s:
            result.extend(self.acks(tx, now_s))
        return result

    def next_due_s(self, now_s: float) -> float:
        """When `outgoing` may have something to send although nothing was received or committed."""
        # A space that is looked at again but may retry already waits for room among the pushes in flight: an answer.
        due = [link.retry_s for name, link in self.links.items() if name in self._dirty and link.retry_s > now_s]
        due.extend(link.progress_s + PUSH_ANSWER_S for link in self.links.values() if link.flights)
        if self._acks_due:
            due.append(self._ack_s)
        due.append(self.telling.due_s(now_s))
        return min(due, default=float("inf"))

    def acks(self, tx: Tables, now_s: float) -> list[m.ClientMessage]:
        """Acks for what changed, now: at most once each `ack_ms`, and before `bye` or `background`."""
        names, self._acks_due = list(self._acks_due), {}
        if self.is_renamed:
            return []
        self._ack_s = now_s + 0.001 * self.parameters.ack_ms
        result: list[m.ClientMessage] = []
        for name in names:
            link, row = self._link(name), replica.space_row(tx, name)
            if link.phase != "open" or row.epoch is None or row.complete < link.complete:
                continue
            ack = replica.ack_message(tx, row)
            if ack != link.acked:
                link.acked = ack
                result.append(ack)
        return result

    def _for_space(self, tx: Tables, name: str, now_s: float) -> list[m.ClientMessage]:
        link, row = self._link(name), tx.space(name)
        if row is None:
            return []
        if link.is_purge_due and self._has_said_all(tx, row, link):
            link.is_purge_due = False
            return [m.Purged(name)]
        if now_s < link.retry_s:
            self._dirty[name] = None
            return []
        result: list[m.ClientMessage] = []
        if link.phase in ("asked", "open") and (not row.is_subscribed or row.complete < link.complete):
            result.append(m.Unsubscribe(name, forget=link.forget or None))
            self.live.ended(name)
            link.phase, link.acked, link.forget = "none", None, False
        if row.is_subscribed and link.phase == "none":
            # Asked again on this connection: what was pushed with the first flight has had its answer by `subscribed`.
            link.phase, link.complete, link.is_early = "asked", row.complete, False
            link.mending, link.must_mend, link.is_mended = None, False, False
            result.append(replica.subscribe_message(row))
        if link.phase == "open" and link.mending is None and (link.must_mend or (row.doubts and not link.is_mended)):
            link.mending = mend.Mending()
            result.append(mend.opening(tx, row))
        if not row.is_subscribed or link.phase in ("open", "shut"):
            result.extend(self._pushes(tx, row, link, now_s))
        if not (row.is_subscribed or link.is_asked_after):
            result.extend(self._asked_after(tx, row, link, now_s))
        return result

    def _asked_after(self, tx: Tables, row: SpaceRow, link: Link, now_s: float) -> list[m.ClientMessage]:
        """Whether the server was restored, once on each connection. What is pushed anyway is answered by that, too."""
        last = None if link.flights or renaming.is_leaving(tx) else replica.last_kept(tx, row)
        link.is_asked_after, link.progress_s = True, now_s
        return [] if last is None else [self._pushed(row, link, [last])]

    def _has_said_all(self, tx: Tables, row: SpaceRow, link: Link) -> bool:
        """Nothing is left that this connection could still get an answer to."""
        if link.phase != "shut" or link.retry_s == float("inf"):
            return link.phase == "shut"
        left = tx.unanswered(row.name, 1, 1)
        return not left or not renaming.sends(row, left[0].n, leaving=renaming.is_leaving(tx))

    def _pushes(self, tx: Tables, row: SpaceRow, link: Link, now_s: float) -> list[m.ClientMessage]:
        if not link.flights:
            link.progress_s = now_s
        result: list[m.ClientMessage] = []
        while True:
            if self._in_flight() >= (1 if self.suspicion else self.parameters.limits.pushes_in_flight_max):
                self._dirty[row.name] = None
                return result
            entries = self._next_batch(tx, row, link)
            if not entries:
                return result
            result.append(self._pushed(row, link, entries))

    def _first_flight(self, tx: Tables, now_s: float) -> list[m.ClientMessage]:
        """What is sent behind the hello, without waiting for the welcome, under the limits of the one before: every
        subscription, and of what waits to be pushed the beginning."""
        self.parameters = replace(self.parameters, limits=_from_map(m.Limits, tx.setting("limits") or {}))
        room_bytes = FIRST_FLIGHT_BYTES_MAX
        result: list[m.ClientMessage] = []
        for row in tx.spaces():
            if not row.is_subscribed or len(self.links) >= self.parameters.limits.subscriptions_max:
                continue
            link = self._link(row.name)
            link.phase, link.complete, link.is_early = "asked", row.complete, True
            result.append(replica.subscribe_message(row))
            link.cursor_n, link.progress_s = row.settled + 1, now_s
            is_free = self.suspicion is None and self._in_flight() < self.parameters.limits.pushes_in_flight_max
            if row.epoch is None or not is_free:
                continue  # what is pushed without an epoch might meet one, and be expired for nothing
            batch = self._next_batch(tx, row, link)
            while batch and sum(change_bytes(replica.wire_change(entry)) for entry in batch) > room_bytes:
                batch = batch[: len(batch) // 2]
            if batch:
                room_bytes -= sum(change_bytes(replica.wire_change(entry)) for entry in batch)
                result.append(self._pushed(row, link, batch))
        return result

    def _pushed(self, row: SpaceRow, link: Link, batch: list[Entry]) -> m.Push:
        link.cursor_n = batch[-1].last_n + 1
        link.flights.append(Flight(batch[0].n, batch[-1].last_n, len(batch)))
        return m.Push(row.name, row.epoch, tuple(replica.wire_change(entry) for entry in batch))

    def _next_batch(self, tx: Tables, row: SpaceRow, link: Link) -> list[Entry]:
        limits, count_max = self.parameters.limits, self.parameters.limits.push_changes_max
        if self.suspicion is not None and link.cursor_n <= self.suspicion.last_n.get(row.name, 0):
            count_max = min(count_max, self.suspicion.changes_max)
        batch: list[Entry] = []
        room_bytes = limits.frame_bytes_max - PUSH_ENVELOPE_BYTES
        is_leaving = renaming.is_leaving(tx)
        for entry in tx.unanswered(row.name, link.cursor_n, count_max):
            if not renaming.sends(row, entry.n, leaving=is_leaving):
                break
            room_bytes -= change_bytes(replica.wire_change(entry))
            if batch and room_bytes < 0:
                break
            batch.append(entry)
        return batch

    def _in_flight(self) -> int:
        return sum(len(link.flights) for link in self.links.values())

    # -- the end of a connection -------------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Nothing that was pushed waits for its answer."""
        return self._in_flight() == 0 and not self.telling.is_waiting

    def is_complete(self, row: SpaceRow) -> bool:
        """The space had everything that the server had when the subscription began."""
        link = self.links.get(row.name)
        is_sure = link is not None and link.mending is None and not row.doubts
        return link is not None and is_sure and link.phase == "open" and row.complete >= link.head

    def is_shut(self, space: str) -> bool:
        link = self.links.get(space)
        return link is not None and link.phase == "shut"

    def suspected(self, tx: Tables) -> tuple[Suspicion | None, list[Effect]]:
        """After a close that calls what was sent malformed: narrow the search, or give the one suspect up."""
        flights = [(name, flight) for name, link in self.links.items() for flight in link.flights]
        if not flights:
            return self.suspicion, []
        last_n = {name: flight.last_n for name, flight in flights}
        if len(flights) > 1:
            changes_max = self.suspicion.changes_max if self.suspicion else self.parameters.limits.push_changes_max
            return Suspicion(changes_max, last_n), []
        name, flight = flights[0]
        if flight.count > 1:
            return Suspicion((flight.count + 1) // 2, last_n), []
        entry = tx.entry(name, flight.first_n)
        if entry is None or entry.outcome is not None or entry.void_reason is not None:
            return None, []
        replica.give_up(tx, name, entry.n, "malformed")
        effects: list[Effect] = [
            Touched(name, tuple(dict.fromkeys(operation.key for operation in entry.operations))),
            Notice("malformed", name, f"the server cannot read n = {entry.n}; its payload is kept among the refused"),
        ]
        return self.suspicion, effects

    def _clear_suspicion(self, space: str, answered_n: int) -> None:
        if self.suspicion is None:
            return
        if answered_n >= self.suspicion.last_n.get(space, answered_n + 1):
            del self.suspicion.last_n[space]
        if not self.suspicion.last_n:
            self.suspicion = None
