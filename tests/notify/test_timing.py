"""The choice of a moment: densities, values and propensities."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from syncd.notify.profile import DAY_MS, HOUR_MS
from syncd.notify.timing import (
    EXPLORED_SHARE,
    EXPLORED_SLOTS,
    HOURS,
    NOBODYS_HOURS,
    WINDOW_H,
    Slot,
    Worth,
    best,
    by_hour,
    choose,
    density,
    left,
    receptiveness,
    score,
    scored,
)

NOW_MS = 1_795_000_000_000
counts = st.lists(st.floats(0, 500, allow_subnormal=False), min_size=48, max_size=48)


@given(counts, st.booleans())
def test_a_density_is_positive_and_sums_to_one(own: list[float], is_weekend: bool) -> None:
    spread = density(own, NOBODYS_HOURS, is_weekend)
    assert min(spread) > 0
    assert math.isclose(sum(spread), 1.0, rel_tol=1e-9)


def test_nothing_known_is_the_population_and_much_known_is_the_person() -> None:
    nothing = density([0.0] * 48, NOBODYS_HOURS, False)
    assert max(range(HOURS), key=lambda hour: nothing[hour]) in (19, 20)
    own = [0.0] * 48
    own[6] = 200.0
    assert max(range(HOURS), key=lambda hour: density(own, NOBODYS_HOURS, False)[hour]) == 6
    # What is known of weekdays tells something of the weekend, where nothing is known yet.
    assert max(range(HOURS), key=lambda hour: density(own, NOBODYS_HOURS, True)[hour]) == 6


@given(st.floats(0, 86399))
def test_one_who_is_there_at_all_hours_alike_is_average_at_each(second: float) -> None:
    assert math.isclose(receptiveness([1 / HOURS] * HOURS, second), 1.0, rel_tol=1e-9)


@given(counts, st.integers(0, 23))
def test_receptiveness_goes_over_from_hour_to_hour_without_a_step(own: list[float], hour: int) -> None:
    spread = density(own, NOBODYS_HOURS, False)
    before, at = receptiveness(spread, hour * 3600 - 1e-6), receptiveness(spread, hour * 3600)
    assert math.isclose(before, at, rel_tol=1e-4, abs_tol=1e-6)


@given(counts, st.booleans())
def test_a_table_of_hours_says_to_the_last_bit_what_each_hour_says_alone(own: list[float], is_weekend: bool) -> None:
    spread = density(own, NOBODYS_HOURS, is_weekend)
    assert by_hour(spread) == [receptiveness(spread, hour * 3600) for hour in range(HOURS)]
    assert WINDOW_H == 2


@given(st.lists(st.tuples(st.integers(0, 2 * DAY_MS), st.floats(0, 24)), min_size=1, max_size=48), st.data())
def test_many_moments_are_scored_and_ranked_as_each_alone(times: list[tuple[int, float]], data: st.DataObject) -> None:
    shares = st.floats(0, 1)
    half_life_ms = data.draw(st.integers(60_000, 30 * DAY_MS))
    worth = Worth(data.draw(shares), half_life_ms, *(data.draw(shares) for _ in range(4)))
    parts_left = [left(wait_ms, half_life_ms) for wait_ms, _ in times]
    found = scored(worth, parts_left, [receptive for _, receptive in times])
    alone = [score(worth, Slot(NOW_MS + wait_ms, 0.0, False), receptive, NOW_MS) for wait_ms, receptive in times]
    assert found == alone
    assert best(found, 4) == sorted(range(len(alone)), key=lambda index: (-alone[index], index))[:4]


def test_breaking_news_goes_now_and_a_nudge_waits_by_the_same_formula() -> None:
    slots = [Slot(NOW_MS + hours * HOUR_MS, 0.0, False) for hours in range(12)]
    receptive = [0.5] * 11 + [2.0]  # this person is there in eleven hours

    def best(half_life_ms: int) -> int:
        worth = Worth(1.0, half_life_ms, 0.2, 0.05, 0.2, 0.0)
        return choose([score(worth, slot, r, NOW_MS) for slot, r in zip(slots, receptive, strict=True)], 0.5, False).at

    assert best(HOUR_MS // 3) == 0
    assert best(DAY_MS) == 11


scores = st.lists(st.floats(-1, 1), min_size=1, max_size=30)


@given(scores)
def test_a_propensity_is_the_measure_of_the_draws_that_choose_the_slot(values: list[float]) -> None:
    count = min(len(values), EXPLORED_SLOTS)
    steps = 50 * count  # even, and on no edge between two slots
    chosen: Counter[int] = Counter()
    propensities: dict[int, float] = {}
    for step in range(steps):
        draw = EXPLORED_SHARE * (step + 0.5) / steps
        choice = choose(values, draw, True)
        chosen[choice.at] += 1
        propensities[choice.at] = choice.propensity
    usual = choose(values, 0.5, True)
    assert math.isclose(sum(propensities.values()), 1.0)
    for index, propensity in propensities.items():
        measure = EXPLORED_SHARE * chosen[index] / steps + (1 - EXPLORED_SHARE) * (index == usual.at)
        assert math.isclose(propensity, measure, abs_tol=1e-9) or len(values) == 1


@given(scores, st.floats(0, 1, exclude_max=True))
def test_what_may_not_be_explored_is_the_best_with_certainty(values: list[float], draw: float) -> None:
    choice = choose(values, draw, False)
    assert values[choice.at] == max(values) and choice.at == values.index(max(values))
    assert (choice.propensity, choice.is_explored) == (1.0, False)
