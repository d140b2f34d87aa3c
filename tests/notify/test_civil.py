"""Civil time in every zone of the IANA database, on every day of 2024-2030 on which a clock is changed."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.notify import civil
from syncd.notify.civil import BadTime, QuietHours, Schedule, instant_ms, offset_s, parse_quiet_hours, parse_span, shown
from syncd.notify.policy import MS_MAX

FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
WEEK_MS, HOUR_MS, MINUTE_MS = 604_800_000, 3_600_000, 60_000
EVERY_DAY = tuple(range(7))


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def changes(name: str) -> tuple[tuple[int, int, int], ...]:
    """(instant, offset before, offset after) of each change of a zone's clock, looked for week by week and then halved:
    another way than the module's, which never looks further than a day."""
    at = ZoneInfo(name)
    found = []
    for low in range(ms(FIRST), ms(LAST), WEEK_MS):  # Ramadan, the shortest change and back, lasts four weeks
        high = low + WEEK_MS
        before, after = offset_s(at, low), offset_s(at, high)
        if before != after:
            while high - low > 1000:
                middle = (low + high) // 2000 * 1000
                low, high = (middle, high) if offset_s(at, middle) == before else (low, middle)
            found.append((high, before, after))
    return tuple(found)


# Names that stand for the same clock are looked at once.
CHANGES = {changed: name for name in sorted(available_timezones()) if (changed := changes(name))}


def test_the_database_has_the_changes_that_the_other_tests_are_about() -> None:
    assert len(CHANGES) > 30
    assert any(after < before for changed in CHANGES for _, before, after in changed)  # folds
    assert any(abs(after - before) == 1800 for changed in CHANGES for _, before, after in changed)  # Lord Howe's


def test_each_date_has_one_occurrence_through_every_change_of_every_clock() -> None:
    looked = 0
    for changed, name in CHANGES.items():
        at = ZoneInfo(name)
        for change_ms, before, after in changed:
            shift = timedelta(seconds=abs(after - before))
            # What the clock shows at the change, before and after it; inside of gap or fold, and at both of its ends.
            edge = shown(at, change_ms)
            for local in (edge, edge - shift / 2, edge - shift, edge + shift / 2, edge + timedelta(hours=5)):
                schedule = Schedule(EVERY_DAY, local.time().replace(second=0, microsecond=0))
                now_ms, last, had = change_ms - 72 * HOUR_MS, None, []
                for _ in range(6):
                    found = schedule.upcoming(at, now_ms, last)
                    had.append(found)
                    now_ms, last = found.at_ms, found.date
                dates = [occurrence.date for occurrence in had]
                assert dates == [dates[0] + timedelta(days=index) for index in range(6)], (name, local)
                for occurrence in had:
                    late = shown(at, occurrence.at_ms) - datetime.combine(occurrence.date, schedule.time)
                    in_gap = abs(occurrence.at_ms - change_ms) <= shift / timedelta(milliseconds=1) and after > before
                    assert late in ((timedelta(0), shift) if in_gap else (timedelta(0),)), (name, occurrence)
                looked += 1
    assert looked > 2000


def test_quiet_hours_end_at_the_exact_second_through_every_change_of_every_clock() -> None:
    looked = 0
    for changed, name in CHANGES.items():
        at = ZoneInfo(name)
        for change_ms, before, after in changed[:2] + changed[-2:]:
            shift_s = abs(after - before)
            edge = shown(at, change_ms)
            edge_s = edge.hour * 3600 + edge.minute * 60
            for start_s, end_s in (
                (22 * 3600, 8 * 3600),
                ((edge_s - 7200) % 86400, edge_s),
                ((edge_s - 7200) % 86400, (edge_s - shift_s // 2) % 86400),
                ((edge_s - shift_s) % 86400, (edge_s + shift_s) % 86400),
            ):
                quiet = QuietHours(start_s, end_s)
                for now_ms in range(change_ms - 26 * HOUR_MS, change_ms + 26 * HOUR_MS, 37 * MINUTE_MS):
                    end_ms = quiet.end_ms(at, now_ms)
                    assert not quiet.is_quiet(at, end_ms)
                    if end_ms == now_ms:
                        continue
                    assert quiet.is_quiet(at, end_ms - 1000), (name, quiet, shown(at, end_ms))
                    assert all(quiet.is_quiet(at, ms) for ms in range(now_ms, end_ms, 29 * MINUTE_MS)), (name, quiet)
                    looked += 1
    assert looked > 1000


def test_quiet_hours_of_a_day_with_23_or_25_hours_are_shorter_or_longer_by_one() -> None:
    at, quiet = ZoneInfo("Europe/Berlin"), parse_quiet_hours("22:00-08:00")
    evenings = {date(2026, 3, 28): 9, date(2026, 6, 1): 10, date(2026, 10, 24): 11}
    for evening, hours in evenings.items():
        start_ms = instant_ms(at, datetime.combine(evening, time(22)))
        assert quiet.end_ms(at, start_ms) - start_ms == hours * HOUR_MS
        assert not quiet.is_quiet(at, start_ms - 1)


def test_quiet_hours_begin_again_when_the_clock_goes_back_into_them() -> None:
    at, quiet = ZoneInfo("Europe/Berlin"), parse_quiet_hours("22:00-02:30")
    first_ms = instant_ms(at, datetime(2026, 10, 25, 2, 30))
    assert not quiet.is_quiet(at, first_ms)
    again_ms = first_ms + 30 * MINUTE_MS  # 03:00 becomes 02:00
    assert quiet.is_quiet(at, again_ms)
    assert quiet.end_ms(at, again_ms) == first_ms + HOUR_MS


def test_one_who_flies_west_has_an_occurrence_once_and_one_who_flies_east_over_it_the_next() -> None:
    schedule = civil.parse_schedule("09:00")
    sydney, honolulu = ZoneInfo("Australia/Sydney"), ZoneInfo("Pacific/Honolulu")
    first = schedule.upcoming(sydney, instant_ms(sydney, datetime(2026, 11, 28, 8)))
    west = schedule.upcoming(honolulu, first.at_ms, first.date)
    assert west.date == date(2026, 11, 29)  # the 28th comes again in Honolulu, its occurrence does not
    over_it = instant_ms(honolulu, datetime(2026, 11, 27, 13))  # the 28th, 10:00, in Sydney
    assert schedule.upcoming(sydney, over_it, date(2026, 11, 26)).date == date(2026, 11, 29)


@given(st.sampled_from(sorted(CHANGES.values())), st.integers(ms(FIRST), ms(LAST)))
def test_an_instant_shows_a_time_that_means_that_instant_or_its_first_showing(name: str, now_ms: int) -> None:
    at = ZoneInfo(name)
    found_ms = instant_ms(at, shown(at, now_ms))
    assert found_ms <= now_ms
    assert shown(at, found_ms) == shown(at, now_ms)


def test_what_is_known_of_whole_days_is_what_the_zone_says_at_each_instant_around_every_change_of_every_clock() -> None:
    for changed, name in CHANGES.items():
        at = ZoneInfo(name)
        for change_ms, _, _ in changed[:2] + changed[-1:]:
            for now_ms in range(change_ms - 25 * HOUR_MS, change_ms + 25 * HOUR_MS, 97 * MINUTE_MS):
                local = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(at)
                assert shown(at, now_ms) == local.replace(tzinfo=None, fold=0)
                assert civil.written(at, now_ms) == f"{local:%Y-%m-%d %H:%M}"
                meant = local.replace(fold=0)
                assert instant_ms(at, meant.replace(tzinfo=None)) == ms(meant)


@pytest.mark.parametrize("name", ["Pacific/Kiritimati", "Europe/Berlin", "America/New_York"])
def test_a_clock_is_shown_up_to_the_end_of_the_calendar_and_beyond(name: str) -> None:
    """A mute may last until the year 9999: telling its end on a clock ahead of UTC must not fail."""
    at = ZoneInfo(name)
    assert civil.written(at, MS_MAX)[:4] == "9999"
    assert offset_s(at, MS_MAX) == offset_s(at, MS_MAX - 3 * 86_400_000)


def test_a_civil_day_is_not_24_hours() -> None:
    at = ZoneInfo("America/New_York")
    start_ms = instant_ms(at, datetime(2026, 3, 7, 12))
    assert parse_span("24h").end_ms(at, start_ms) - parse_span("1d").end_ms(at, start_ms) == HOUR_MS
    assert parse_span("1d").start_ms(at, parse_span("1d").end_ms(at, start_ms)) == start_ms


@pytest.mark.parametrize("text", ["90s", "20m", "24h", "1d", "14d"])
def test_a_span_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_span(text)) == text
    assert parse_span("2w") == parse_span("14d")


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_span, "0d", "a span is a number"),
        (parse_span, "1.5h", "a span is a number"),
        (parse_span, "9999w", "at most ten years"),
        (parse_quiet_hours, "22:00", "HH:MM-HH:MM"),
        (parse_quiet_hours, "24:00-08:00", "HH:MM-HH:MM"),
        (parse_quiet_hours, "08:00-08:00", "different times"),
        (civil.parse_schedule, "mon,mon 09:00", "a schedule is written"),
        (civil.parse_schedule, "xyz 09:00", "a schedule is written"),
        (civil.zone, "Europe/Atlantis", "IANA database"),
        (civil.zone, "../../etc/passwd", "IANA database"),
        (civil.zone, "x" * 4000, "IANA database"),
    ],
)
def test_what_is_no_time_is_refused_with_what_was_expected(parse: object, text: str, expected: str) -> None:
    assert callable(parse)
    with pytest.raises(BadTime, match=expected):
        parse(text)


@pytest.mark.parametrize("text", ["09:00", "mon,thu 18:30", "sun 00:00"])
def test_a_schedule_is_written_as_it_is_read(text: str) -> None:
    assert str(civil.parse_schedule(text)) == text
