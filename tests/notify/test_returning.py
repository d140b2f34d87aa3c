"""The chance that a person comes back by themselves, and when it falls to a threshold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.behaviour import area_under_curve, fitted, solved
from syncd.notify import profile as p
from syncd.notify.profile import DAY_MS, Profile
from syncd.notify.returning import SESSIONS_MIN, chance, crossing_ms

START_MS = 1_700_000_000_000


def visitor(every_days: float, count: int = 60) -> Profile:
    known = p.new(START_MS, 0)
    for index in range(count):
        known = p.with_session(known, START_MS + round(index * every_days * DAY_MS), 0)
    return known


visitors = st.floats(0.1, 20).map(visitor)


@given(visitors, st.integers(0, 300 * DAY_MS), st.integers(1, 300 * DAY_MS))
def test_the_chance_falls_with_time(known: Profile, wait_ms: int, more_ms: int) -> None:
    sooner, later = chance(known, known.latest_ms + wait_ms), chance(known, known.latest_ms + wait_ms + more_ms)
    assert sooner is not None and later is not None
    assert later < sooner


def test_who_comes_often_is_likelier_to_come_back() -> None:
    chances = [chance(known, known.latest_ms + 2 * DAY_MS) for known in map(visitor, (8, 4, 2, 1, 0.5))]
    assert None not in chances
    assert chances == sorted(chances)  # type: ignore[type-var]


@given(visitors, st.floats(0.02, 0.9))
def test_at_the_crossing_the_chance_is_the_threshold(known: Profile, threshold: float) -> None:
    at_ms = crossing_ms(known, threshold)
    if at_ms is None:
        return
    found = chance(known, at_ms)
    assert found is not None and at_ms >= known.latest_ms
    if at_ms > known.latest_ms:
        assert math.isclose(found, threshold, rel_tol=1e-3)
    else:
        assert found <= threshold + 1e-9  # it was as low from the beginning


def test_of_one_who_came_seldom_nothing_is_said() -> None:
    known = visitor(1.0, SESSIONS_MIN - 1)
    assert chance(known, known.latest_ms + DAY_MS) is None
    assert crossing_ms(known, 0.35) is None


def test_a_crossing_beyond_ten_years_is_none() -> None:
    assert crossing_ms(visitor(0.1), 0.0001) is None


def test_the_arithmetic_of_the_fit() -> None:
    assert solved([[0.0, 2.0], [1.0, 1.0]], [4.0, 5.0]) == pytest.approx([3.0, 2.0])
    assert area_under_curve([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert area_under_curve([1.0, 1.0], [True, False]) == 0.5
    moments = [
        (known, known.latest_ms + days * DAY_MS, days < 4) for known in map(visitor, (1, 2, 3)) for days in (1, 3, 5, 9)
    ]
    assert fitted(moments).elapsed < 0
