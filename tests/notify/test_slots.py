"""The moments of a window: the table that all people of a zone share says what each moment says alone."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.notify.civil import QuietHours, local_ms, zone
from syncd.notify.limits import SLOTS_MAX
from syncd.notify.profile import DAY_MS, HOUR_MS, bin_of
from syncd.notify.slots import Slots, laid_out
from syncd.notify.timing import HOURS, NOBODYS_HOURS, density, left, receptiveness

# Around changes of clocks by an hour and by half an hour, and where none is changed.
STARTS_MS = [
    int(datetime(2026, *day, tzinfo=UTC).timestamp()) * 1000 for day in ((3, 28), (4, 4), (6, 10), (10, 3), (10, 24))
]
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
quiet_hours = (
    st.none()
    | st.builds(lambda start, end: QuietHours(start * 60, end * 60), st.integers(0, 719), st.integers(720, 1439))
    | st.builds(lambda start, end: QuietHours(start * 60, end * 60), st.integers(720, 1439), st.integers(0, 719))
)


@settings(max_examples=60)
@given(
    st.sampled_from(ZONES), st.sampled_from(STARTS_MS), st.integers(0, 2 * DAY_MS), st.integers(-HOUR_MS, 3 * DAY_MS),
    quiet_hours, st.lists(st.floats(0, 500), min_size=48, max_size=48),
)  # fmt: skip
def test_a_window_has_the_full_hours_that_are_free_each_as_it_is_alone(
    name: str, start_ms: int, into_ms: int, length_ms: int, quiet: QuietHours | None, own: list[float]
) -> None:
    at, first_ms, half_life_ms = zone(name), start_ms + into_ms, 5 * HOUR_MS
    now_ms, end_ms = first_ms - HOUR_MS, first_ms + length_ms
    slots = laid_out(at, quiet, now_ms, first_ms, end_ms, half_life_ms)
    assert slots.at_ms == tuple(expected(name, quiet, first_ms, end_ms))
    assert slots.left == tuple(left(at_ms - now_ms, half_life_ms) for at_ms in slots.at_ms)
    assert slots.receptive(own, NOBODYS_HOURS) == [alone(name, at_ms, own) for at_ms in slots.at_ms]


def expected(name: str, quiet: QuietHours | None, first_ms: int, end_ms: int) -> list[int]:
    """Half an hour after the other, as these clocks are ahead of UTC by so much: L1, L2."""
    found, step_ms = [first_ms], HOUR_MS // 2
    for at_ms in range(first_ms // step_ms * step_ms + step_ms, end_ms + 1, step_ms):
        second = local_ms(zone(name), at_ms) % DAY_MS // 1000
        if second % 3600 == 0 and at_ms <= first_ms + SLOTS_MAX * HOUR_MS and not (quiet and quiet.has(second)):
            found.append(at_ms)
    return found[:SLOTS_MAX]


def alone(name: str, at_ms: int, own: list[float]) -> float:
    hour, into_ms = divmod(local_ms(zone(name), at_ms), HOUR_MS)
    bin = bin_of(hour * 3600)
    return receptiveness(density(own, NOBODYS_HOURS, bin >= HOURS), bin % HOURS * 3600 + into_ms / 1000)


def test_what_lies_behind_its_window_has_the_one_moment_that_the_gates_said() -> None:
    found = laid_out(zone("UTC"), None, STARTS_MS[0], STARTS_MS[0] + 90, STARTS_MS[0], HOUR_MS)
    assert isinstance(found, Slots) and found.at_ms == (STARTS_MS[0] + 90,)
