"""Buckets by key: what is let through in any time, whom a full table forgets, and that no wall clock matters."""

from hypothesis import example, given
from hypothesis import strategies as st

from syncd.net.rates import Rate, RateTable

STEPS = st.lists(
    st.tuples(st.floats(0, 5), st.sampled_from(["a", "b"]), st.floats(0.1, 3)), max_size=60
)  # (seconds since the one before, who, how much)


@given(st.floats(0.1, 50), st.floats(3, 20), STEPS)
def test_in_any_stretch_of_time_no_more_passes_than_the_bucket_and_what_flows_in(
    per_s: float, burst: float, steps: list[tuple[float, str, float]]
) -> None:
    table, now_s = RateTable(Rate(per_s, burst), 10), 1000.0
    passed: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}
    for later_s, key, cost in steps:
        now_s += later_s
        if not table.refused_s(key, now_s, cost):
            passed[key].append((now_s, cost))
    for taken in passed.values():
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                stretch_s = taken[last][0] - taken[first][0]
                assert sum(cost for _, cost in taken[first : last + 1]) <= burst + per_s * stretch_s + 1e-6


@given(st.floats(0.1, 50), st.floats(3, 20), STEPS)
@example(2.5, 3.0, [(0.0, "a", 3.0)])  # a full bucket, all at once: 1000 + 1.2 - 1000 - 1.2 is more than 0
def test_who_comes_back_when_told_is_let_through(
    per_s: float, burst: float, steps: list[tuple[float, str, float]]
) -> None:
    table, now_s = RateTable(Rate(per_s, burst), 10), 1000.0
    for later_s, key, cost in steps:
        now_s += later_s
        wait_s = table.refused_s(key, now_s, cost)
        if wait_s:
            assert table.empty_s(key, now_s, cost) == wait_s, "asking takes nothing, and says the same"
            now_s += wait_s + 1e-6
            assert table.refused_s(key, now_s, cost) == 0


@given(st.floats(0.1, 100), st.integers(1, 500), st.floats(0, 1e6))
@example(50.0, 100, 3.1)  # 100 times 0.02 s are a little more than 2 s there
def test_a_full_bucket_gives_all_that_it_holds_one_by_one(per_s: float, burst: int, now_s: float) -> None:
    table = RateTable(Rate(per_s, burst), 10)
    assert not any(table.refused_s("a", now_s) for _ in range(burst))
    assert table.refused_s("a", now_s) > 0


@given(st.floats(0.1, 50), st.floats(3, 20), STEPS)
def test_who_pauses_as_told_is_never_faster_than_the_rate(
    per_s: float, burst: float, steps: list[tuple[float, str, float]]
) -> None:
    table, began_s = RateTable(Rate(per_s, burst), 10), 1000.0
    now_s, taken = began_s, 0.0
    for _, _, cost in steps:
        taken += cost
        now_s += table.pause_s("a", now_s, cost)
        assert taken <= burst + per_s * (now_s - began_s) + 1e-6


def test_a_table_is_bounded_and_forgets_who_was_quiet_longest() -> None:
    table = RateTable(Rate(1, 1), 100)
    for index in range(10_000):
        assert table.refused_s(f"stranger {index}", 0.0) == 0
        assert table.refused_s("regular", 0.0) == (0 if index == 0 else 1)
        table.pause_s("regular", 0.0, 0.0)  # as one who goes on asking
        assert len(table) <= 100


def test_a_rate_of_zero_is_no_limit_and_keeps_nothing() -> None:
    table = RateTable(Rate(0, 0), 100)
    assert [table.refused_s("a", 0.0), table.pause_s("a", 0.0, 1e9), table.empty_s("a", 0.0)] == [0, 0, 0]
    assert len(table) == 0
