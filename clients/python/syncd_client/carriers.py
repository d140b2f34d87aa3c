"""What carries the next connection: a WebSocket, or polls where the network lets none through.

Owns the choice, and what it is made by: how the attempts before it ended. Pure, but for its own fields: time and random
numbers are passed in. Must not know how either is made (`trio_shell`, `aio`, `lanes`).

1. A server that cannot be reached at all says nothing about the proxies: only an upgrade that went wrong does. One that
   refuses polls says nothing of them, either.
2. Polls are taken after `BLOCKED_MAX` upgrades in a row went wrong, and a WebSocket is tried again after `AGAIN_MIN_S`,
   doubled each time up to `AGAIN_MAX_S`, with jitter; if that goes wrong, polls follow at once.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Carrier: TypeAlias = Literal["websocket", "polls"]
Mode: TypeAlias = Literal["auto", "websocket", "poll"]

BLOCKED_MAX = 2  # one may be a server that is restarted behind its proxy
AGAIN_MIN_S = 300.0  # a phone that left the office network should not poll all day,
AGAIN_MAX_S = 3_600.0  # nor one that stays there lose its connection all the time
# An upgrade that is answered so was judged by the server itself, or by one that would judge polls alike.
JUDGED = (401, 403, 429, 503)


class Choice:
    """`mode` other than auto: there is nothing to choose."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._blocked = 0  # upgrades that went wrong since one went well
        self._again_s = AGAIN_MIN_S
        self._due_s = 0.0  # when a WebSocket is tried again

    def next(self, now_s: float) -> Carrier:
        if self._mode != "auto":
            return "polls" if self._mode == "poll" else "websocket"
        return "polls" if self._blocked >= BLOCKED_MAX and now_s < self._due_s else "websocket"

    def upgraded(self) -> None:
        """A message came over a WebSocket."""
        self._blocked, self._again_s = 0, AGAIN_MIN_S

    def blocked(self, now_s: float, random: float) -> bool:
        """An upgrade went wrong; whether polls should be tried instead. `random` is uniform in [0, 1)."""
        self._blocked += 1
        if self._mode != "auto" or self._blocked < BLOCKED_MAX:
            return False
        self._due_s = now_s + self._again_s * (0.5 + random)
        self._again_s = min(AGAIN_MAX_S, 2 * self._again_s)
        return True

    def polls_failed(self) -> None:
        """Polls do not get through either: so a WebSocket is the next to be tried."""
        self._due_s = 0.0

    @property
    def again_s(self) -> float:
        """When a polled connection should give way to another try."""
        return self._due_s if self._mode == "auto" else float("inf")
