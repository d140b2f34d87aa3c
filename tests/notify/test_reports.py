"""Counters: whatever is counted in whatever order adds up, bounded in rows and in days, and names nobody."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from syncd.notify.civil import DAY_MS
from syncd.notify.reports import KEPT_DAYS, OTHER, SERIES_MAX, SESSIONS, Series, count, report
from syncd.store import keys
from syncd.store.memory import MemoryStore
from tests.notify.kit import HOUR_MS, Office, ready

series = st.builds(Series, st.sampled_from(("shop", "news", "a\0b")), st.sampled_from(("", "cart", "nudge")))
measures = st.sampled_from(("sent", "seen", "opened", "dismissed", "opt_outs"))


@given(st.lists(st.tuples(st.integers(0, 5), series, measures), max_size=40))
def test_every_way_to_add_up_comes_to_what_was_counted(counted: list[tuple[int, Series, str]]) -> None:
    store = MemoryStore()
    with store.write() as tx:
        for day, each, measure in counted:
            count(tx, day * DAY_MS, 5 * DAY_MS, each, **{measure: 1})
    expected = Counter(measure for _, _, measure in counted)
    with store.read() as tx:
        for by in ("category", "workflow", "day"):
            found = report(tx, 0, 6, by)
            for measure in ("sent", "seen", "opened", "dismissed", "opt_outs"):
                assert found["total"][measure] == expected[measure]
                assert sum(group[measure] for group in found["groups"]) == expected[measure]


def test_a_day_has_a_bounded_number_of_series_and_nothing_is_lost_by_it() -> None:
    store = MemoryStore()
    with store.write() as tx:
        for number in range(SERIES_MAX + 100):
            count(tx, DAY_MS, DAY_MS, Series(f"c{number}", ""), sent=1)
        count(tx, DAY_MS, DAY_MS, Series(f"c{SERIES_MAX + 1}", ""), opened=1)
    with store.read() as tx:
        found = report(tx, 1, 2, "category")
        rows = sum(1 for _ in tx.scan(*keys.table_range(keys.COUNTER)))
    assert rows == SERIES_MAX + 1 and found["total"]["sent"] == SERIES_MAX + 100
    (other,) = [group for group in found["groups"] if group["category"] == OTHER]
    assert (other["sent"], other["opened"]) == (100, 1)


def test_days_that_are_over_go_and_those_that_are_kept_stay() -> None:
    store = MemoryStore()
    with store.write() as tx:
        for day in range(KEPT_DAYS + 50):
            count(tx, day * DAY_MS, day * DAY_MS, Series("shop", "cart"), sent=1)
            count(tx, day * DAY_MS, day * DAY_MS, SESSIONS, sessions=2)
    with store.read() as tx:
        days = {keys.parse_counter(key)[0] for key, _ in tx.scan(*keys.table_range(keys.COUNTER))}
    assert days == set(range(49, KEPT_DAYS + 50))


def test_a_clock_that_was_ahead_for_a_moment_drops_no_year_and_ends_no_series() -> None:
    store = MemoryStore()
    shop = Series("shop", "cart")

    def counted(day: int, each: Series) -> None:
        with store.write() as tx:
            count(tx, day * DAY_MS, day * DAY_MS, each, sent=1)

    for day in (10_000, 10_001, 10_000 + 5 * KEPT_DAYS, 10_001, 10_002):
        counted(day, shop)
    counted(10_002, Series("news", ""))
    with store.read() as tx:
        days = {keys.parse_counter(key)[0] for key, _ in tx.scan(*keys.table_range(keys.COUNTER))}
        told = {each["category"]: each["sent"] for each in report(tx, 10_000, 10_003, "category")["groups"]}
    assert days >= {10_000, 10_001, 10_002} and told == {"shop": 4, "news": 1}


def test_sessions_and_their_length_are_counted_and_no_counter_names_anybody() -> None:
    office = Office(ready("cart"))
    for user in ("ann-4711", "ben-4711"):
        for seconds in (60, 180):
            office.arrives(user)
            office.event("session.end", user, seconds=seconds)
            office.passes(2 * HOUR_MS)
        office.notify(user, "shop")
    with office.store.read() as tx:
        found = report(tx, 0, 36_500, "workflow")
        rows = list(tx.scan(*keys.table_range(keys.COUNTER)))
    total = found["total"]
    assert (total["sessions"], total["session_s"], total["session_s_mean"], total["sent"]) == (4, 480, 120.0, 2)
    assert not any(b"4711" in key + record for key, record in rows)
    office.check()
