"""How much all pumps together read from the store in one turn of the event loop.

Owns that sum, and who waits because of it. Must not know what is read. One step of a pump is bounded; as many at once
as there are connections are not: 25 that subscribed anew in the same moment had their pages of 51 ms read in one turn.

Invariants: U1 in a turn of the loop less than `bytes_max` has been read when another step begins. U2 whoever waits goes
on: each step, whatever becomes of it, wakes others when its turn has passed.
"""

from collections.abc import Callable
from typing import Final

import trio

from syncd.engine.reading import PAGE_BYTES

# A page of the usual size, 2 ms of work; one of nothing but counters takes 50. What is shared is read once, and counts
# once, so a crowd that catches up with the same changes is not held up.
READ_BYTES_MAX: Final = PAGE_BYTES
WOKEN: Final = 64  # at once of those who wait: to wake ten thousand, of whom few can go on, would take a turn by itself


class Turns:
    """The turns of all pumps of a server."""

    __slots__ = ("_bytes_max", "_lot", "_read_bytes")

    def __init__(self, bytes_max: int = READ_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._read_bytes = 0  # by those whose turn has not passed yet
        self._lot = trio.lowlevel.ParkingLot()

    async def take(self, step: Callable[[], int]) -> None:
        """Call `step` as soon as something may be read in this turn, at once if it may be now; then let others run. It
        returns how many bytes it has read, and may find that all is otherwise by now."""
        while self._read_bytes >= self._bytes_max:
            await self._lot.park()
        read_bytes = 0
        try:
            read_bytes = step()
            self._read_bytes += read_bytes
            await trio.lowlevel.checkpoint()
        finally:
            self._read_bytes -= read_bytes
            if self._lot and self._read_bytes < self._bytes_max:
                self._lot.unpark(count=WOKEN)
