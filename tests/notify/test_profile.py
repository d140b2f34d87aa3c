"""What is learned of a person: bounded, faded by its own time, and the same in whatever order it is heard."""

import math

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.values import encoded
from syncd.notify import profile as p
from syncd.notify.profile import DAY_MS, HOUR_MS, PROFILE_BYTES_MAX, Profile

NOW_MS = 1_795_000_000_000
times = st.integers(NOW_MS - 400 * DAY_MS, NOW_MS)
offsets = st.sampled_from((-36000, 0, 7200, 20700))


def learned(sessions: list[tuple[int, int]]) -> Profile:
    known = p.new(NOW_MS - 400 * DAY_MS, 0)
    for at_ms, offset_s in sessions:
        known = p.with_session(known, at_ms, offset_s)
    return known


@given(st.lists(st.tuples(times, offsets), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_sessions_count_the_same_in_any_order(sessions: list[tuple[int, int]], random: object) -> None:
    shuffled = list(sessions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = learned(sessions), learned(shuffled)
    pairs = zip(p.hours_at(one, NOW_MS), p.hours_at(other, NOW_MS), strict=True)
    assert all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-9) for a, b in pairs)
    for a, b in zip(p.rates_at(one, NOW_MS), p.rates_at(other, NOW_MS), strict=True):
        assert math.isclose(a, b, rel_tol=1e-9)
    assert (one.latest_ms, one.sessions) == (other.latest_ms, other.sessions)


@given(times, offsets)
def test_a_session_counts_one_at_its_hour_and_half_after_a_half_life(at_ms: int, offset_s: int) -> None:
    known = learned([(at_ms, offset_s)])
    hours = p.hours_at(known, at_ms)
    here = p.bin_of(at_ms // 1000 + offset_s)
    assert math.isclose(hours[here], 1.0, rel_tol=1e-5)
    assert sum(hours) - hours[here] == 0
    assert math.isclose(p.hours_at(known, at_ms + p.HOURS_HALF_LIFE_MS)[here], 0.5, rel_tol=1e-5)


def test_a_rate_is_sessions_a_day_of_one_who_comes_evenly() -> None:
    for a_day in (0.5, 1, 4):
        step_ms = round(DAY_MS / a_day)
        known = p.new(0, 0)
        for at_ms in range(0, 1500 * DAY_MS, step_ms):
            known = p.with_session(known, at_ms, 0)
        recent, steady = p.rates_at(known, 1500 * DAY_MS)
        assert math.isclose(recent, a_day, rel_tol=0.05)
        assert math.isclose(steady, a_day, rel_tol=0.05)


def test_weights_stay_finite_over_a_lifetime_and_rare_events_keep_their_proportions() -> None:
    known = p.new(0, 0)
    for at_ms in range(0, 80 * 365 * DAY_MS, 30 * DAY_MS):
        known = p.with_receipt(p.with_topic(p.with_session(known, at_ms, 0), "news", at_ms), "news", "opened", at_ms)
    assert at_ms - known.landmark_ms <= p.LANDMARK_MS_MAX
    assert all(math.isfinite(value) for value in (*p.hours_at(known, at_ms), *p.rates_at(known, at_ms)))
    assert math.isclose(p.category_at(known, "news", at_ms).opened, 2.0, rel_tol=1e-6)  # 1 + 1/2 + 1/4 + ...


@given(st.lists(st.tuples(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60), times), max_size=20))
def test_a_record_is_at_most_a_kibibyte_whatever_is_learned(events: list[tuple[str, str, int]]) -> None:
    known = learned([(NOW_MS, 0)])
    for index, (topic, category, at_ms) in enumerate(events):
        receipt = ("shown", "opened", "dismissed", "ignored")[index % 4]
        known = p.with_receipt(p.with_topic(known, topic, at_ms), category, receipt, at_ms)
    assert len(encoded(tuple(known))) <= PROFILE_BYTES_MAX


def test_the_fullest_record_fits() -> None:
    known = learned([(NOW_MS, 0)])
    for index in range(30):
        name = f"{index:02}" + "ä" * 40
        for receipt in ("shown", "opened", "dismissed", "ignored"):
            known = p.with_receipt(known, name, receipt, NOW_MS + index * HOUR_MS)
        known = p.with_topic(known, name, NOW_MS + index * HOUR_MS)
    assert (len(known.taste), len(known.categories)) == (p.TOPICS_MAX, p.CATEGORIES_MAX)
    assert 900 < len(encoded(tuple(known))) <= PROFILE_BYTES_MAX


def test_who_reads_one_topic_has_an_affinity_that_grows_with_evidence() -> None:
    known, seen = p.new(NOW_MS, 0), []
    for _ in range(12):
        known = p.with_topic(known, "cycling", NOW_MS)
        seen.append(p.affinity_at(known, "cycling", NOW_MS))
    assert seen == sorted(seen)
    assert seen[0] == 0.25 and seen[2] == 0.5 and seen[-1] == 0.8
    assert p.affinity_at(known, "politics", NOW_MS) == 0
    assert p.affinity_at(known, "cycling", NOW_MS + 365 * DAY_MS) < 0.01


def test_a_topic_that_is_no_longer_read_gives_way_to_one_that_is() -> None:
    known = p.with_topic(p.new(NOW_MS, 0), "old", NOW_MS)
    for index in range(p.TOPICS_MAX):
        known = p.with_topic(known, f"new {index}", NOW_MS + 90 * DAY_MS)
    assert "old" not in known.taste and len(known.taste) == p.TOPICS_MAX


def test_an_open_ends_a_row_of_ignored_ones_and_nothing_else_does() -> None:
    known = p.new(NOW_MS, 0)
    for receipt in ("ignored", "shown", "ignored", "dismissed"):
        known = p.with_receipt(known, "learning", receipt, NOW_MS)
    assert p.category_at(known, "learning", NOW_MS).ignored_in_a_row == 3
    known = p.with_receipt(known, "learning", "opened", NOW_MS)
    assert p.category_at(known, "learning", NOW_MS).ignored_in_a_row == 0


def test_a_stay_is_bounded_and_smoothed() -> None:
    known = p.with_stay(p.new(NOW_MS, 0), 100.0)
    assert known.stay_s == 100.0
    assert p.with_stay(known, 200.0).stay_s == 120.0
    assert p.with_stay(p.new(NOW_MS, 0), 1e9).stay_s == p.STAY_S_MAX
