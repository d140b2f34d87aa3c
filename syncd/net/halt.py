"""Why a connection is not read for a while, and what its peer hears meanwhile.

Owns the waits of a reader: for its turn, when its user sends more than its share, and for room, when enough of what was
asked is under way. Must not know what is waited for, nor messages.

Invariants: H1 a peer that is not read hears something at least once in an interval of its pings. It hears no answer,
and what it sends in parts may be taken for a sign of its life again and again, so nothing else need come to it; it
would take the server for dead, come back, and send all of it once more: for ever.
"""

import trio


class Halt:
    """The halts of one connection."""

    __slots__ = ("_is_pausing", "_reassured_ms", "_room")

    def __init__(self) -> None:
        self._is_pausing = False
        self._room: trio.Event | None = None  # what is waited for
        self._reassured_ms = 0

    @property
    def is_on(self) -> bool:
        """Nothing is read now, and it is we who do not read."""
        return self._is_pausing or self._room is not None

    def reassures(self, now_ms: int, ping_ms: int) -> bool:
        """Whether the peer should hear something, as a pause begins. It is taken for done."""
        if now_ms - self._reassured_ms < ping_ms // 2:  # half: the next pause may last until the next deadline
            return False
        self._reassured_ms = now_ms
        return True

    async def pause(self, seconds: float) -> None:
        """Read nothing for so long: what the peer sends then waits with it, and nothing is lost."""
        self._is_pausing = True
        await trio.sleep(seconds)
        self._is_pausing = False

    async def wait_room(self) -> None:
        """Until `end`."""
        self._room = trio.Event()
        await self._room.wait()
        self._room = None

    def end(self) -> None:
        """There is room."""
        if self._room is not None:
            self._room.set()
