"""How much is enough: monotone in what a person does, bounded, and never above what is worth it."""

from hypothesis import given
from hypothesis import strategies as st

from syncd.notify.profile import NO_STATS, CategoryStats
from syncd.notify.volume import BACKOFF_DOUBLINGS_MAX, BUDGET_MAX, Rates, backoff, rates, weekly_budget, worth_of_next

amounts = st.floats(0, 1000)


@st.composite
def known(draw: st.DrawFn) -> CategoryStats:
    shown = draw(amounts)
    opened = draw(st.floats(0, shown))
    return CategoryStats(shown, opened, draw(st.floats(0, shown - opened)), 0)


@given(amounts, amounts, amounts)
def test_rates_are_chances_whatever_was_counted(shown: float, opened: float, dismissed: float) -> None:
    found = rates(CategoryStats(shown, opened, dismissed, 0))
    assert 0 < found.opened <= 1 and found.dismissed >= 0 and found.opened + found.dismissed <= 1 + 1e-12


def test_of_an_unknown_person_the_usual_is_expected_and_evidence_outweighs_it() -> None:
    assert rates(NO_STATS) == Rates(0.1, 0.05)
    assert rates(CategoryStats(1000.0, 500.0, 0.0, 0)).opened > 0.45


@given(known(), st.floats(0.1, 50))
def test_who_opens_more_has_no_smaller_budget_and_who_dismisses_more_no_greater_one(
    stats: CategoryStats, more: float
) -> None:
    usual = weekly_budget(rates(stats))
    assert weekly_budget(rates(stats._replace(shown=stats.shown + more, opened=stats.opened + more))) >= usual
    assert weekly_budget(rates(stats._replace(shown=stats.shown + more, dismissed=stats.dismissed + more))) <= usual


@given(known())
def test_a_budget_is_the_number_of_those_that_are_worth_it(stats: CategoryStats) -> None:
    expected = rates(stats)
    budget = weekly_budget(expected)
    assert all(worth_of_next(expected, sent) > 0 for sent in range(budget))
    assert budget == BUDGET_MAX or worth_of_next(expected, budget) <= 0


def test_a_fan_hears_daily_the_usual_person_a_few_times_and_one_who_dismisses_all_hardly_ever() -> None:
    assert weekly_budget(rates(CategoryStats(200.0, 120.0, 2.0, 0))) >= 7
    assert 2 <= weekly_budget(rates(NO_STATS)) <= 6
    assert weekly_budget(rates(CategoryStats(60.0, 0.0, 50.0, 0))) == 0


def test_three_ignored_in_a_row_double_the_distance_up_to_a_bound() -> None:
    assert [backoff(count) for count in (0, 2, 3, 5, 6, 9)] == [1, 1, 2, 2, 4, 8]
    stretches = [backoff(count) for count in range(100)]
    assert stretches == sorted(stretches) and stretches[-1] == 2**BACKOFF_DOUBLINGS_MAX
