"""Civil time: what a clock on the wall shows, and when it shows it.

Owns the way between instants (wall milliseconds since 1970, UTC) and local dates and times of an IANA zone, quiet
hours, and the occurrences of a civil schedule. Must not know what the time now is: it is handed in.

Invariants: T1 a local time that a clock never shows (a gap) means the instant by which it is late: it is shifted
forward by the gap. T2 a local time that a clock shows twice (a fold) means the first. T3 whether an instant is quiet is
decided by what the clock shows at it, so both passes of a fold are judged alike, and a gap that leaps over the end of
quiet hours ends them. T4 a schedule has one occurrence for each local date that it names, whatever the clock does.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAY_MS = 86_400_000
DAY_S = 86_400
MINUTE_MS = 60_000
_EPOCH = datetime(1970, 1, 1)
_MS = timedelta(milliseconds=1)
_DAYS_MAX = (datetime(9999, 12, 30) - _EPOCH).days  # the last on which every clock of the world is within the calendar
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONE_CHARS_MAX = 64  # the longest name of the IANA database has 32
ZONES_KEPT = 700  # every zone of the database: some 600
DAYS_KEPT = 8_192  # whose offsets are at hand: two weeks in every zone, 1 MB
MOMENTS_KEPT = 1_024  # what all people of a zone ask alike: the text of now, the end of these quiet hours; 200 KB


class BadTime(ValueError):
    """A zone, a time of day or a span breaks its syntax; the message says what was expected."""


@lru_cache(maxsize=ZONES_KEPT)
def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name such as `Europe/Berlin`. Raises `BadTime`."""
    if len(name) <= ZONE_CHARS_MAX:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # also for a name that would leave the directory of the database
    raise BadTime(f"expected a time zone of the IANA database such as 'Europe/Berlin', not {name[:ZONE_CHARS_MAX]!r}")


def offset_s(at: ZoneInfo, now_ms: int) -> int:
    """How far the clock is ahead of UTC at an instant."""
    found = _steady_s(at, now_ms // DAY_MS)
    return _offset_s(at, now_ms // 1000) if found is None else found


@lru_cache(maxsize=DAYS_KEPT)
def _steady_s(at: ZoneInfo, day: int) -> int | None:
    """The offset on a whole day of UTC; None if the clock is changed on it. No clock has ever been changed twice within
    a day, so no change hides between equal ends. Beyond the calendar the clock is as on its last days."""
    day = min(day, _DAYS_MAX)
    first_s, last_s = _offset_s(at, day * DAY_S), _offset_s(at, day * DAY_S + DAY_S - 1)
    return first_s if first_s == last_s else None


def _offset_s(at: ZoneInfo, now_s: int) -> int:
    local = (_EPOCH + timedelta(seconds=now_s)).replace(tzinfo=UTC).astimezone(at)
    offset = local.utcoffset()
    assert offset is not None, "a zone has an offset"
    return int(offset.total_seconds())


def local_ms(at: ZoneInfo, now_ms: int) -> int:
    """What the clock on the wall shows, as milliseconds since it showed 1970."""
    return now_ms + offset_s(at, now_ms) * 1000


def shown(at: ZoneInfo, now_ms: int) -> datetime:
    """What the clock on the wall shows, without a zone. Milliseconds are kept."""
    return _EPOCH + timedelta(milliseconds=local_ms(at, now_ms))


def written(at: ZoneInfo, now_ms: int) -> str:
    """What the clock on the wall shows, as `2026-03-02 10:00`."""
    return _written(at, now_ms // 1000)


@lru_cache(maxsize=MOMENTS_KEPT)
def _written(at: ZoneInfo, now_s: int) -> str:
    day, second = divmod(now_s + offset_s(at, now_s * 1000), DAY_S)
    hour, minute = divmod(second // 60, 60)
    return f"{_written_day(day)} {hour:02}:{minute:02}"


@lru_cache(maxsize=DAYS_KEPT)
def _written_day(day: int) -> str:
    return (_EPOCH + timedelta(days=min(day, _DAYS_MAX + 1))).date().isoformat()


def instant_ms(at: ZoneInfo, local: datetime) -> int:
    """When the clock shows `local` (T1, T2)."""
    return _instant_ms(at, round((local - _EPOCH) / _MS))


def _instant_ms(at: ZoneInfo, shown_ms: int) -> int:
    """When the clock shows so many milliseconds since 1970 (T1, T2).

    With `fold=0` a zone reads a local time by the offset before a change of the clock. In a fold that is the first of
    the two; in a gap the instant found shows, on the changed clock, as much later as the gap is long. See PEP 495.
    Where the clock is not changed for a day before and after, there is one offset to read it by.
    """
    day = shown_ms // DAY_MS
    steady = _steady_s(at, day)
    if steady is not None and steady == _steady_s(at, day - 1) == _steady_s(at, day + 1):
        return shown_ms - steady * 1000
    offset = (_EPOCH + timedelta(milliseconds=shown_ms)).replace(tzinfo=at).utcoffset()
    assert offset is not None, "a zone has an offset"
    return shown_ms - round(offset / _MS)


def _changed_ms(at: ZoneInfo, after_ms: int, until_ms: int) -> int | None:
    """The first second after `after_ms`, up to `until_ms`, at which the offset is another; None if it is the same at
    both ends. No clock has ever been changed twice within a day, so no change hides between equal ends."""
    low, high = after_ms // 1000, -(-until_ms // 1000)
    before = offset_s(at, low * 1000)
    if offset_s(at, high * 1000) == before:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if offset_s(at, middle * 1000) == before:
            low = middle
        else:
            high = middle
    return high * 1000


# -- quiet hours ------------------------------------------------------------------------------------------------------

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_CHANGES_MAX = 4  # of a zone's offset that one search passes through; within two days there has never been a second


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `start_s` up to, not including, `end_s` (seconds since midnight, on the wall's clock), over midnight if the
    start is later than the end."""

    start_s: int
    end_s: int

    def __str__(self) -> str:
        texts = [f"{second // 3600:02}:{second // 60 % 60:02}" for second in (self.start_s, self.end_s)]
        return "-".join(texts)

    def has(self, second: float) -> bool:
        """Whether a second of the day is quiet."""
        if self.start_s < self.end_s:
            return self.start_s <= second < self.end_s
        return second >= self.start_s or second < self.end_s

    def is_quiet(self, at: ZoneInfo, now_ms: int) -> bool:
        """Whether the clock shows a quiet time (T3)."""
        return self.has(local_ms(at, now_ms) % DAY_MS / 1000)

    def end_ms(self, at: ZoneInfo, now_ms: int) -> int:
        """The first instant from `now_ms` on that is not quiet: `now_ms` itself, the end by the clock, or the change of
        the clock that leaps over it. Back in quiet hours after a fold, the answer is the end of that second stay."""
        return _quiet_until_ms(self, at, now_ms)


@lru_cache(maxsize=MOMENTS_KEPT)
def _quiet_until_ms(quiet: QuietHours, at: ZoneInfo, now_ms: int) -> int:
    for _ in range(_CHANGES_MAX):
        into_ms = local_ms(at, now_ms) % DAY_MS
        if not quiet.has(into_ms / 1000):
            return now_ms
        end_ms = now_ms + (quiet.end_s * 1000 - into_ms) % DAY_MS
        changed_ms = _changed_ms(at, now_ms, end_ms)
        if changed_ms is None or changed_ms > end_ms:
            return end_ms
        now_ms = changed_ms
    raise AssertionError("no clock is changed so often within quiet hours")


def parse_quiet_hours(text: str) -> QuietHours:
    """Read `22:00-08:00`. Raises `BadTime`."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise BadTime(f"quiet hours are written HH:MM-HH:MM such as '22:00-08:00', not {text[:40]!r}")
    hours = [int(part) for part in found.groups()]
    start_s, end_s = hours[0] * 3600 + hours[1] * 60, hours[2] * 3600 + hours[3] * 60
    if start_s == end_s:
        raise BadTime(f"quiet hours begin and end at different times, not both at {text[:5]}")
    return QuietHours(start_s, end_s)


# -- schedules --------------------------------------------------------------------------------------------------------

_SCHEDULE = re.compile(r"(?:([a-z]{3}(?:,[a-z]{3})*) )?([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One date of a schedule, and the instant at which it falls due in some zone. The date is what is remembered of it:
    the instant is found anew when the zone or its rules change."""

    date: date
    at_ms: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """A time of day on some weekdays (0 is Monday), in whatever zone its person is."""

    weekdays: tuple[int, ...]
    time: time

    def __str__(self) -> str:
        days = "" if len(self.weekdays) == 7 else ",".join(_WEEKDAYS[day] for day in self.weekdays) + " "
        return f"{days}{self.time:%H:%M}"

    def on(self, at: ZoneInfo, day: date) -> Occurrence:
        """The occurrence of a date (T1, T2, T4)."""
        return Occurrence(day, instant_ms(at, datetime.combine(day, self.time)))

    def after(self, at: ZoneInfo, day: date) -> Iterator[Occurrence]:
        """The occurrences of the dates after `day`, one by one."""
        while True:
            day += timedelta(days=1)
            if day.weekday() in self.weekdays:
                yield self.on(at, day)

    def upcoming(self, at: ZoneInfo, now_ms: int, last: date | None = None) -> Occurrence:
        """The first occurrence from now on whose date comes after `last`, the date of the one that was had. So one who
        flies west, and lives a date twice, has its occurrence once; one who flies east over it has the next."""
        since = shown(at, now_ms).date() - timedelta(days=2)  # an occurrence that a gap shifts ends up a date later
        if last is not None:
            since = max(since, last)
        return next(found for found in self.after(at, since) if found.at_ms >= now_ms)


def parse_schedule(text: str) -> Schedule:
    """Read `09:00` (each day) or `mon,thu 18:30`. Raises `BadTime`."""
    found = _SCHEDULE.fullmatch(text)
    names = found[1].split(",") if found is not None and found[1] else list(_WEEKDAYS)
    if found is None or not set(names) <= set(_WEEKDAYS) or len(set(names)) < len(names):
        raise BadTime(
            f"a schedule is written HH:MM, or mon,thu HH:MM with days from {'/'.join(_WEEKDAYS)}; not {text[:60]!r}"
        )
    return Schedule(tuple(sorted(_WEEKDAYS.index(name) for name in names)), time(int(found[2]), int(found[3])))


# -- spans ------------------------------------------------------------------------------------------------------------

_SPAN_PARTS = re.compile(r"(\d{1,6})(s|m|h|d|w)", re.ASCII)
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000}
SPAN_DAYS_MAX = 3660  # ten years; also what keeps `end_ms` within the calendar


@dataclass(frozen=True, slots=True)
class Span:
    """How long something lasts: `elapsed_ms` on a stopwatch, or `days` on a calendar. `24h` and `1d` differ where a
    clock is changed between: a day later is the same time of day."""

    elapsed_ms: int
    days: int

    def __str__(self) -> str:
        if self.days:
            return f"{self.days}d"
        for unit in ("h", "m"):
            if self.elapsed_ms % _UNIT_MS[unit] == 0:
                return f"{self.elapsed_ms // _UNIT_MS[unit]}{unit}"
        return f"{self.elapsed_ms // 1000}s"

    @property
    def nominal_ms(self) -> int:
        """With days of 24 hours: for comparisons, and for rates, to which an hour a year is nothing."""
        return self.elapsed_ms + self.days * DAY_MS

    def end_ms(self, at: ZoneInfo, start_ms: int) -> int:
        """When it ends that begins at an instant."""
        if not self.days:
            return start_ms + self.elapsed_ms
        return _instant_ms(at, local_ms(at, start_ms) + self.days * DAY_MS)

    def start_ms(self, at: ZoneInfo, end_ms: int) -> int:
        """When it began that ends at an instant."""
        if not self.days:
            return end_ms - self.elapsed_ms
        return _instant_ms(at, local_ms(at, end_ms) - self.days * DAY_MS)


def parse_span(text: str) -> Span:
    """Read `90s`, `20m`, `24h`, `1d` or `2w`. Raises `BadTime`."""
    found = _SPAN_PARTS.fullmatch(text)
    if found is not None:
        number, unit = int(found[1]), found[2]
        days = number * {"d": 1, "w": 7}.get(unit, 0)
        span = Span(number * _UNIT_MS.get(unit, 0), days)
        if 0 < span.nominal_ms <= SPAN_DAYS_MAX * DAY_MS:
            return span
    raise BadTime(
        f"a span is a number and one of s, m, h (elapsed), d, w (civil), at most ten years; not {text[:40]!r}"
    )
