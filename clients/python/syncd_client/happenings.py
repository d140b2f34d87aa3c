"""What the user does, told to the server, sans I/O (section 16): kept until it was taken.

Owns the queue of events: which wait in the store, which are on their way on this connection, and what becomes of them.
Knows no socket; `now_s` is monotonic.

1. An event is durable before `told` returns, and stays until the server has judged it: it counts once, however often it
   is sent, for its id is its name. 2. At most `EVENTS_KEPT_MAX` wait; the oldest give way, and are counted.
3. One message of events is on its way at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import messages as m
from .errors import InvalidInput
from .tables import EventRow, Tables
from .values import Value, checked, checked_name, packed

EVENTS = "events"  # the capability of servers that take events
LIMITED = 25  # the error of section 12 by which nothing of a message was taken
EVENTS_KEPT_MAX = 1_000  # some days of one person; 4 MB at worst
ENVELOPE_BYTES = 64  # of an event in a message, around its name and data
RETRY_S = 5.0  # if the server does not say how long it wants to be left alone


def told(tx: Tables, id: bytes, name: str, data: Mapping[str, Value] | None, at_ms: int, bytes_max: int) -> int:
    """Keep an event that was at `at_ms` by this device's clock; how many of the oldest gave way for it."""
    checked_name(name, "event")
    kept = None if data is None else checked(dict(data))
    if kept is not None and len(packed(kept)) > bytes_max:
        raise InvalidInput(f"event: the data has at most {bytes_max} bytes")
    time_ms = max(0, at_ms + (tx.setting("offset_ms") or 0))
    dropped = tx.add_event(EventRow(id, name, time_ms, kept), EVENTS_KEPT_MAX)
    if dropped:
        tx.put_setting("events_dropped", (tx.setting("events_dropped") or 0) + dropped)
    return dropped


class Telling:
    """The events of one connection. `is_due`: there may be some to send."""

    def __init__(self) -> None:
        self.is_due = False
        self.retry_s = 0.0
        self._is_taken = False  # the server takes events
        self._in_flight: tuple[bytes, ...] = ()

    def welcomed(self, caps: tuple[str, ...]) -> None:
        self._is_taken = self.is_due = EVENTS in caps

    def look_at(self) -> None:
        self.is_due = self._is_taken

    def outgoing(self, tx: Tables, limits: m.Limits, now_s: float) -> list[m.ClientMessage]:
        """The next message, if there is something to tell and nothing of it on its way."""
        if not self.is_due or self._in_flight or now_s < self.retry_s:
            return []
        events: list[m.Happening] = []
        room_bytes = limits.frame_bytes_max // 2
        for row in tx.events(limits.events_max):
            room_bytes -= ENVELOPE_BYTES + len(row.name.encode()) + len(packed(row.data))
            if events and room_bytes < 0:
                break
            events.append(m.Happening(row.id, row.name, row.time_ms, row.data))
        if not events:
            self.is_due = False
            return []
        self._in_flight = tuple(event.id for event in events)
        return [m.Event(tuple(events))]

    def noted(self, tx: Tables, message: m.Noted) -> list[str]:
        """What was judged waits no longer; why some were not taken."""
        for result in message.results:
            tx.drop_event(result.id)
        self._in_flight = ()
        return [result.detail or result.status for result in message.results if result.status == "invalid"]

    def limited(self, after_ms: int | None, now_s: float) -> None:
        """Nothing of the message was taken: the same again, later."""
        self._in_flight = ()
        self.retry_s = now_s + (RETRY_S if after_ms is None else after_ms / 1000)

    @property
    def is_waiting(self) -> bool:
        """Something was sent that has no answer."""
        return bool(self._in_flight)

    def due_s(self, now_s: float) -> float:
        """When there is something to send although nothing comes."""
        return self.retry_s if self.is_due and not self._in_flight and self.retry_s > now_s else float("inf")
