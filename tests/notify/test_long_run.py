"""What years bring: definitions that come and go, clocks that were ahead, people with much going on. Nothing grows for
ever, and nobody is forgotten."""

import tomllib
from typing import Any

import pytest

from syncd.core.ids import PREFERENCES
from syncd.engine.commands import Fire, Fired
from syncd.engine.quotas import Quotas
from syncd.notify import firing
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.limits import DECISIONS_KEPT, DIRECT_MAX, RUNS_MAX
from syncd.notify.reports import OTHER, report
from syncd.notify.service import Decider
from syncd.store import keys
from tests.engine.kit import one
from tests.notify.kit import DAY_MS, HOUR_MS, Office

ON_EVENT = """
category = "news"
trigger = { event = "published" }
step = [{ send = { templates = ["t"] } }]
"""


def workflows(count: int, text: str = ON_EVENT) -> str:
    return '[category.news]\npriority = "high"\n[template.t]\ntitle = "x"\n' + "".join(
        f"[workflow.w{n}]{text}" for n in range(count)
    )


def test_decisions_are_kept_to_a_number_however_many_an_event_leads_to() -> None:
    office = Office(workflows(6))
    for _ in range(100):
        office.event("published")
    office.check()
    assert DECISIONS_KEPT <= len(office.decisions()) <= DECISIONS_KEPT + RUNS_MAX + 2, "and those that wait"


def test_decisions_that_wait_are_no_reason_to_keep_all_that_came_after_them() -> None:
    """As many as may wait, the oldest of all, for the end of quiet hours that is hours away."""
    office = Office(workflows(1), now="2026-03-02 01:00")
    office.sets(PREFERENCES, "all", quiet_hours="00:00-23:00")
    for _ in range(RUNS_MAX + DIRECT_MAX):
        office.notify(category="news")
    office.sets(PREFERENCES, "category:other", frequency="off")
    for _ in range(2 * DECISIONS_KEPT):
        office.notify(category="other")
    office.check()
    assert len(office.decisions()) <= DECISIONS_KEPT + RUNS_MAX + DIRECT_MAX + 2


def caps() -> str:
    return workflows(1).replace("[category.news]", '[category.news]\ncaps = ["2 / 24h"]')


ABSENT = """
category = "news"
trigger = { inactivity = { p_return_below = 0.3, fallback = "3d" } }
step = [{ send = { templates = ["t"] } }]
"""


def test_one_who_came_by_a_clock_that_was_ahead_is_absent_by_the_true_one_when_it_is_set_back() -> None:
    office = Office(workflows(1, ABSENT))
    true_ms = office.now_ms
    office.now_ms += 300 * DAY_MS
    office.arrives()
    office.now_ms = true_ms
    office.arrives()
    office.passes(4 * DAY_MS)
    assert office.outcomes() == ["sent"]
    office.check()


def test_a_rule_of_absence_that_is_no_more_leaves_its_place_to_others() -> None:
    office = Office(workflows(0))
    for season in range(RUNS_MAX + 3):
        office.configure(tomllib.loads(workflows(1, ABSENT).replace("w0", f"season{season}")))
        office.arrives()
        office.passes(60 * DAY_MS)
    office.check()
    assert len(office.decisions()) == RUNS_MAX + 3, "each season's rule was set off"
    assert [run.name for run in office.runs() if run.kind == "watch"] == [f"season{RUNS_MAX + 2}"]


def test_a_schedule_goes_by_another_usual_zone_from_the_next_event_on() -> None:
    daily = ON_EVENT.replace('{ event = "published" }', '{ schedule = "09:00" }')
    office = Office(workflows(1, daily), now="2026-03-02 10:00")
    office.arrives()
    office.engine = type(office.engine)(
        office.random.randbytes, further=carried_out, notices=Decider(Book("America/New_York"))
    )
    office.event("anything")
    (run,) = office.runs()
    assert run.civil == "2026-03-02", "nine o'clock is still to come there"
    office.passes(5 * HOUR_MS)
    assert office.outcomes() == ["sent"]
    office.check()


def test_a_run_whose_version_is_lost_ends_when_what_it_waits_for_comes() -> None:
    waits = ON_EVENT.replace("[{ send", '[{ wait_for = "read", timeout = "9d" }, { send')
    office = Office(workflows(2, waits))
    office.event("published")
    run = next(run for run in office.runs() if run.name == "w0")
    with office.store.write() as tx:
        tx.delete(keys.workflow_version("w0", run.version))
    office.restart()
    office.event("read")
    assert not office.alarms and not office.runs() and office.outcomes() == ["sent"], "the other goes on"


def test_a_person_fills_no_report_with_categories_that_nobody_sends() -> None:
    office = Office(workflows(1))
    for first in range(0, 600, 60):
        made = [each for n in range(first, first + 60) for each in off(f"category:made{n}")]
        office.writes(*made)
    office.event("published")
    with office.store.read() as tx:
        day = office.now_ms // DAY_MS
        told = {each["category"]: each for each in report(tx, day, day + 1, "category")["groups"]}
    assert told["news"]["sent"] == 1 and told[OTHER]["opt_outs"] == 600


def test_what_a_timer_sends_reaches_people_who_have_no_space_yet_however_many_they_are() -> None:
    """The server makes their spaces, and is no user whose quota would be full one day."""
    office = Office(workflows(1, ON_EVENT.replace("[{ send", '[{ delay = "1h" }, { send')))
    office.engine = type(office.engine)(
        office.random.randbytes, Quotas(spaces_per_user_max=2), further=carried_out, notices=Decider(Book())
    )
    people = ("ann", "ben", "cat", "dan")
    for user in people:
        office.event("published", user)
    office.passes(2 * HOUR_MS)
    assert [office.outcomes(user) for user in people] == [["sent"]] * 4
    office.check()


def test_what_is_critical_is_found_behind_any_number_that_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "SCANNED_AT_ONCE", 8)
    later = ON_EVENT.replace("[{ send", '[{ delay = "1h" }, { send')
    text = (
        workflows(1, later)
        + "[category.fire]\npriority = 'critical'\n[workflow.alarm]"
        + later.replace("news", "fire").replace("published", "burns")
    )
    office = Office(text)
    for number in range(50):
        office.event("published", f"user{number}")
    office.event("burns")
    trusted_ms = office.now_ms
    office.now_ms += 2 * DAY_MS
    looks, after = 0, b""
    while looks == 0 or after:
        fired = one(office.ask(Fire(trusted_ms, after)), Fired)
        assert fired.held and fired.has_more == bool(fired.after)
        looks, after = looks + 1, fired.after
    assert looks == 7 and office.outcomes() == ["sent"] and not office.outcomes("user0")
    office.check()


def off(document: str) -> list[list[Any]]:
    return [["create", PREFERENCES, document], ["reg.set", PREFERENCES, document, "frequency", "off"]]
