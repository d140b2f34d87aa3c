"""The arithmetic of the benchmarks: what a median, a spread, a ratio and a verdict are."""

import os

import pytest

from bench.measure import SPREAD_MAX, Figure, Target, cpu_s, ratios, rss_bytes, spread
from bench.profiling import grouped


def test_the_spread_is_the_distance_of_the_extremes_over_the_median() -> None:
    assert spread([90.0, 100.0, 120.0]) == pytest.approx(0.3)
    assert spread([5.0]) == 0.0


def test_a_ratio_pairs_runs_that_followed_each_other() -> None:
    assert ratios([50.0, 30.0], [100.0, 40.0]) == (0.5, 0.75)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("values", "target", "verdict"),
    [
        ((0.6, 0.61, 0.62), Target(least=0.55), "met"),
        ((0.5, 0.51, 0.52), Target(least=0.55), "missed"),
        ((7.9,), Target(most=8.0), "met"),
        ((8.1,), Target(most=8.0), "missed"),
        ((0.5, 0.7, 0.5 + 0.7 * (SPREAD_MAX + 0.01)), Target(least=0.55), "noisy"),
        ((5.6, 6.9, 9.8), Target(least=5.0), "met"),
        ((0.1, 0.2, 0.4), Target(least=0.5), "missed"),
        ((1.0,), None, ""),
    ],
)
def test_a_verdict_is_given_only_if_runs_are_near_each_other_or_all_on_one_side(
    values: tuple[float, ...], target: Target | None, verdict: str
) -> None:
    assert Figure("b", "n", "ratio", values, target).verdict == verdict


def test_the_json_of_a_figure_has_each_run() -> None:
    figure = Figure("fan-out", "one in flight / limit", "ratio", (0.5, 0.7, 0.6), Target(least=0.55))
    assert figure.as_json() | {"spread": 0} == {
        "benchmark": "fan-out", "name": "one in flight / limit", "unit": "ratio", "median": 0.6, "spread": 0,
        "values": [0.5, 0.7, 0.6], "target": ">= 0.55", "verdict": "met", "detail": "",
    }  # fmt: skip


def test_the_processor_time_and_memory_of_a_process_are_read() -> None:
    before = cpu_s(os.getpid())
    sum(range(200_000))
    assert cpu_s(os.getpid()) > before
    assert rss_bytes(os.getpid()) > 1 << 20


def test_samples_count_for_the_innermost_layer_and_function() -> None:
    profile = grouped([
        "run (syncd/store/committer.py:1);decide (syncd/engine/engine.py:60);packb (msgpack/__init__.py:30) 3",
        "run (syncd/store/committer.py:1) 1",
    ])  # fmt: skip
    assert profile.layers == (("engine", 0.75), ("committer", 0.25))
    assert profile.functions == (("packb (msgpack/__init__.py)", 0.75), ("run (store/committer.py)", 0.25))
