"""What is learned of what happened, and when it is told late."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.engine.commands import Event, EventResults, PostEvents
from syncd.notify import profile
from syncd.notify.learning import LEARNED_MS_MAX
from syncd.notify.profile import Profile, of_row
from syncd.store import keys
from syncd.store.tables import PROFILES
from tests.engine.kit import one
from tests.notify.kit import DAY_MS, HOUR_MS, KEY, Office, at

WORKFLOW = '[category.a]\n[template.t]\ntitle = "x"\n[workflow.w]\ncategory = "a"\ntrigger = { event = "e" }\n'
WORKFLOW += '[[workflow.w.step]]\nsend = { templates = ["t"] }\n'
NOW = "2026-03-30 10:00"  # the day after the clocks of Berlin were changed


def posted(office: Office, *times_ms: int | None) -> None:
    """One request with a session for each of these times."""
    events = []
    for at_ms in times_ms:
        office.events += 1
        events.append(Event(office.events.to_bytes(16), "s", str(office.events), "session.start", "ann", at_ms, {}))
    results = one(office.ask(PostEvents(KEY, tuple(events), DAY_MS)), EventResults).results
    assert {status for status, _ in results} == {"accepted"}


def learned(office: Office) -> Profile | None:
    with office.store.read() as tx:
        row = PROFILES.get(tx, keys.profile(keys.owner("ann")))
    return None if row is None else of_row(row)


@settings(max_examples=40)
@given(hours=st.lists(st.integers(1, 24 * 60), min_size=1, max_size=20, unique=True), seed=st.integers(0, 2**32))
def test_sessions_that_are_posted_later_are_learned_as_if_they_had_been_told_at_once(
    hours: list[int], seed: int
) -> None:
    times = [at(NOW) - hour * HOUR_MS for hour in sorted(hours, reverse=True)]
    live = Office(WORKFLOW)
    live.sets("_profile", "main", "ann", zone="Europe/Berlin")
    for at_ms in times:
        live.now_ms = at_ms
        posted(live, None)
    late = Office(WORKFLOW, NOW)
    late.sets("_profile", "main", "ann", zone="Europe/Berlin")
    Random(seed).shuffle(times)
    posted(late, *times)
    one_, other = learned(live), learned(late)
    assert one_ is not None and other is not None and not live.alarms and not late.alarms
    now_ms = at(NOW)
    assert profile.hours_at(other, now_ms) == pytest.approx(profile.hours_at(one_, now_ms), rel=1e-4, abs=1e-6)
    assert profile.rates_at(other, now_ms) == pytest.approx(profile.rates_at(one_, now_ms), rel=1e-6)
    assert (other.latest_ms, other.sessions, other.first_ms) == (one_.latest_ms, one_.sessions, min(times))


def test_a_session_of_the_future_is_one_of_now_and_what_is_older_than_any_memory_teaches_nothing() -> None:
    office = Office(WORKFLOW, NOW)
    posted(office, at(NOW) + 400 * DAY_MS)
    found = learned(office)
    assert found is not None and (found.latest_ms, found.sessions) == (at(NOW), 1)
    posted(office, at(NOW) - LEARNED_MS_MAX, -(10**13))
    assert learned(office) == found and not office.alarms
