"""The moments that a window has: the first that is free, then each full hour of the person's clock that is not quiet.

Owns their order, the hours of the week into which they fall, and how much of its worth a notification has left by then.
Must not know who the person is: all who live in one zone, with the same quiet hours, have the same moments, so they are
laid out once for all those to whom a batch would write.

Invariants: L1 the first is what the gates said, even silently in quiet hours; no other is in quiet hours. L2 they rise,
there are `SLOTS_MAX` at most, and none but the first lies beyond the window.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from syncd.notify import profile, timing
from syncd.notify.civil import QuietHours, local_ms, offset_s
from syncd.notify.limits import SLOTS_MAX
from syncd.notify.profile import HOUR_MS

LAYOUTS_KEPT = 256  # the zones and windows of one batch; 8 KB each


class Slots(NamedTuple):
    """`at_ms`: the moments. `bins`: of each, the hour into which it falls (`profile.bin_of`); `kinds`: of the days in
    them, 0 or 1. `between`: those that are no full hour of the clock: (place, how far into the hour). `left`: the part
    of a notification's worth that is left at each."""

    at_ms: tuple[int, ...]
    bins: tuple[int, ...]
    kinds: tuple[int, ...]
    between: tuple[tuple[int, int], ...]
    left: tuple[float, ...]

    def receptive(self, own: Sequence[float], people: Sequence[float]) -> list[float]:
        """How likely a person is to be there at each moment (`timing.receptiveness`), by their own 48 bins and the
        shares of all people."""
        spread = {kind: timing.density(own, people, bool(kind)) for kind in self.kinds}
        by_bin = [each for kind in (0, 1) for each in (timing.by_hour(spread[kind]) if kind in spread else _NEVER)]
        found = [by_bin[each] for each in self.bins]
        for place, into_ms in self.between:
            kind, hour = divmod(self.bins[place], timing.HOURS)
            found[place] = timing.receptiveness(spread[kind], hour * 3600 + into_ms / 1000)
        return found


# The bin of each hour of a week that begins on the first of 1970, a Thursday.
_BINS = [profile.bin_of(hour * 3600) for hour in range(168)]
_NEVER = (0.0,) * timing.HOURS  # in the place of a kind of day that does not occur


@lru_cache(maxsize=LAYOUTS_KEPT)
def laid_out(
    zone: ZoneInfo, quiet: QuietHours | None, now_ms: int, first_ms: int, end_ms: int, half_life_ms: int
) -> Slots:
    """The moments from `first_ms` to `end_ms`, for something that is worth half after `half_life_ms`."""
    last_ms = min(max(end_ms, first_ms), first_ms + SLOTS_MAX * HOUR_MS)
    shift_ms = offset_s(zone, first_ms) * 1000
    hour, into_ms = divmod(first_ms + shift_ms, HOUR_MS)
    found = [(first_ms, hour, into_ms)]
    at_ms = first_ms + HOUR_MS - into_ms
    if shift_ms == offset_s(zone, last_ms) * 1000:
        # Within two days a clock is changed once at most: where both ends have one offset, local time is an addition.
        hours, is_free = range(hour + 1, hour + 2 + (last_ms - at_ms) // HOUR_MS), _free_hours(quiet)
        found += [(each * HOUR_MS - shift_ms, each, 0) for each in hours if is_free[each % 24]]
    else:
        while at_ms <= last_ms:
            hour, into_ms = divmod(local_ms(zone, at_ms), HOUR_MS)
            if quiet is None or not quiet.has((hour % 24 * HOUR_MS + into_ms) / 1000):
                found.append((at_ms, hour, into_ms))
            at_ms += HOUR_MS - into_ms
    found = found[:SLOTS_MAX]
    bins = tuple([_BINS[hour % 168] for _, hour, _ in found])
    return Slots(
        tuple([at_ms for at_ms, _, _ in found]),
        bins,
        tuple({bin // timing.HOURS for bin in bins}),
        tuple([(place, into_ms) for place, (_, _, into_ms) in enumerate(found) if into_ms]),
        tuple([timing.left(at_ms - now_ms, half_life_ms) for at_ms, _, _ in found]),
    )


@lru_cache(maxsize=1024)
def _free_hours(quiet: QuietHours | None) -> tuple[bool, ...]:
    """Which full hours of a day are not quiet."""
    return tuple(quiet is None or not quiet.has(hour * 3600) for hour in range(24))
