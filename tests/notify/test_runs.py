"""From an event to the inbox: workflows are set off, wait, are decided and delivered, and each outcome is explained."""

import tomllib
from typing import Any

import pytest

from syncd.core.changes import parsed_change
from syncd.core.ids import INBOX, PREFERENCES, PROFILE
from syncd.engine.commands import (
    Attach,
    Attached,
    Configure,
    Done,
    Event,
    PostEvents,
    Push,
    Pushed,
    Refused,
    Started,
    StartWorkflow,
)
from syncd.notify import runs
from syncd.notify.desk import Desk
from syncd.notify.firing import TrustedClock
from syncd.notify.policy import MS_MAX
from syncd.store import fsck
from tests.engine.kit import nonce, one
from tests.notify.kit import DAY_MS, HOUR_MS, KEY, Office, at, ready

ALERT = """
[category.news]
[template.t]
title = "{headline}"
body = "by {author.name}"
[workflow.w]
category = "news"
trigger = { event = "published", where = "score > 3" }
[[workflow.w.step]]
send = { templates = ["t"] }
"""


def test_whoever_muted_everything_for_ever_is_told_so_on_any_clock() -> None:
    office = Office(ALERT)
    office.sets(PROFILE, "main", zone="Europe/Berlin")
    office.sets(PREFERENCES, "all", mute_until=MS_MAX)
    assert office.notify() == "accepted"
    office.check()
    (row,) = office.decisions()
    assert (row.outcome, row.reason) == ("suppressed", "mute")
    assert "muted until 9999" in row.explanation


def test_an_event_sets_a_workflow_off_and_its_notification_is_in_the_inbox_in_the_same_transaction() -> None:
    office = Office(ALERT)
    office.event("published", headline="Moon", author={"name": "Eve"}, score=4)
    office.event("published", headline="Sun", score=3)
    [shown] = office.inbox()
    assert (shown["title"], shown["body"], shown["category"]) == ("Moon", "by Eve", "news")
    [row] = office.decisions()
    assert (row.outcome, row.explanation) == ("sent", "Sent at 10:00.")
    assert len(office.runs()) == office.timer_count() == 0
    office.check()


def test_without_any_definition_what_a_backend_posts_is_shown_at_once() -> None:
    office = Office()
    assert office.notify() == "accepted"
    [shown] = office.inbox()
    assert (shown["title"], shown["body"], shown["category"], shown["source"]) == ("Hello", "b", "news", "https://shop")
    assert office.outcomes() == ["sent"]
    office.check()


def test_quiet_hours_of_the_recipients_own_choice_hold_what_a_backend_posts_until_they_end() -> None:
    office = Office(now="2026-03-02 23:00")
    office.sets("_preferences", "all", quiet_hours="22:00-08:00")
    office.notify()
    assert (office.inbox(), office.outcomes()) == ([], ["deferred"])
    office.check()
    office.pass_until(at("2026-03-03 07:59"))
    assert office.inbox() == []
    office.pass_until(at("2026-03-03 08:00"))
    assert office.outcomes() == ["sent"] and len(office.inbox()) == 1
    [row] = office.decisions()
    assert [tuple(past[1:3]) for past in row.past] == [("deferred", "quiet hours")]
    office.check()


def test_a_cart_is_reminded_of_once_and_not_after_it_was_bought() -> None:
    office = Office(ready("cart"))
    office.event("cart.updated", cart_id="c", item="Shoes", count=1, total=20)
    office.passes(HOUR_MS // 2)
    office.event("cart.updated", cart_id="c", item="Boots", count=2, total=20)
    assert len(office.runs()) == 1
    office.passes(10 * HOUR_MS)
    assert [shown["title"] for shown in office.inbox()] == ["Still thinking about Boots?"]
    office.event("order.placed")
    assert office.runs() == [] and office.timer_count() == 0
    office.check()


def test_what_waits_for_its_moment_is_cancelled_by_an_event_and_says_by_which() -> None:
    office = Office(ready("cart"), now="2026-03-02 01:00")
    office.event("cart.updated", cart_id="c", item="Shoes", count=1, total=20)
    office.passes(HOUR_MS)
    assert office.outcomes() == ["deferred"]  # a better moment comes within six hours of two in the night
    [row] = office.decisions()
    assert row.reason == "timing" and row.choice is not None and 0 < row.choice[1] <= 1
    office.event("order.placed")
    [row] = office.decisions()
    assert (row.outcome, row.by, row.explanation) == (
        "cancelled",
        "order.placed",
        "Not sent: cancelled by order.placed.",
    )
    office.check()


def test_a_cap_holds_over_midnight_and_the_decision_says_when_it_is_free_again() -> None:
    office = Office('[policy]\ncaps = ["2 / 24h"]\n', now="2026-03-02 23:50")
    office.notify()
    office.passes(20 * 60_000)
    office.notify()
    office.notify()
    assert office.outcomes() == ["sent", "sent", "deferred"]
    waiting = office.decisions()[-1]
    assert waiting.until_ms == at("2026-03-03 23:50")
    assert "cap 2 / 24h is full, free again at 23:50" in waiting.explanation
    office.pass_until(at("2026-03-03 23:50"))
    assert office.outcomes() == ["sent", "sent", "sent"]
    office.check()


def test_one_who_wants_a_daily_digest_gets_one_with_all_of_the_day() -> None:
    office = Office()
    office.sets("_preferences", "category:news", frequency="daily")
    for title in ("One", "Two", "Three"):
        office.notify(title=title)
        office.passes(HOUR_MS)
    assert (office.outcomes(), office.inbox()) == (["digested"] * 3, [])
    office.check()
    office.pass_until(at("2026-03-02 18:00"))
    [shown] = office.inbox()
    assert (shown["title"], shown["body"], shown["count"]) == ("3 new in news", "One\nTwo\nThree", 3)
    assert office.timer_count() == 0
    office.check()


def test_a_choice_made_while_something_waits_is_obeyed() -> None:
    office = Office(now="2026-03-02 23:00")
    office.sets("_preferences", "all", quiet_hours="22:00-08:00")
    office.notify()
    office.notify(category="ads")
    office.sets("_preferences", "category:ads", frequency="off")
    assert office.outcomes() == ["deferred", "suppressed"]
    office.sets("_preferences", "all", quiet_hours="off")
    assert office.outcomes() == ["sent", "suppressed"]
    office.check()


def test_a_run_waits_for_what_becomes_of_its_own_notification() -> None:
    office = Office("""
[category.news]
[template.a]
title = "first"
[template.b]
title = "second"
[workflow.w]
category = "news"
trigger = { event = "e" }
[[workflow.w.step]]
send = { templates = ["a"] }
[[workflow.w.step]]
wait_for = "opened"
timeout = "2d"
[[workflow.w.step]]
send = { templates = ["b"] }
""")
    office.event("e")
    [document] = office.dispatches()
    office.receipt(document, "seen")
    assert len(office.inbox()) == 1
    office.receipt(document, "opened")
    assert sorted(shown["title"] for shown in office.inbox()) == ["first", "second"]
    assert office.dispatches()[document].opened_ms == office.now_ms
    assert office.runs() == []
    office.check()


def test_what_becomes_of_another_notification_cancels_no_run() -> None:
    office = Office("""
[category.news]
[template.a]
title = "{what}"
[workflow.w]
category = "news"
trigger = { event = "e" }
cancel_on = ["seen"]
[[workflow.w.step]]
send = { templates = ["a"] }
[[workflow.w.step]]
delay = "1d"
[[workflow.w.step]]
send = { templates = ["a"] }
""")
    office.event("e", what="first")
    [first] = office.dispatches()
    office.event("e", what="second")
    [second] = [document for document in office.dispatches() if document != first]
    office.receipt(second, "seen")
    assert len(office.runs()) == 1, "the other has its reminder to come"
    office.receipt(first, "seen")
    assert office.runs() == []
    office.check()


def test_a_nudge_comes_after_an_absence_once_and_again_only_after_the_next() -> None:
    office = Office(ready("fitness"), now="2026-01-05 18:00")
    for _ in range(20):
        office.arrives()
        office.passes(DAY_MS)
    assert office.decisions() == []
    office.passes(40 * DAY_MS)
    assert office.outcomes() == ["sent"]
    office.arrives()
    office.passes(60 * DAY_MS)
    assert office.outcomes() == ["sent", "sent"]
    office.check()


def test_a_schedule_fires_once_for_each_local_date_also_for_one_who_flies_west_over_it() -> None:
    office = Office("""
[category.daily]
[template.t]
title = "Good morning"
[workflow.w]
category = "daily"
trigger = { schedule = "09:00" }
[[workflow.w.step]]
send = { templates = ["t"] }
""", now="2026-03-02 00:30")  # fmt: skip
    office.sets("_profile", "main", zone="Asia/Tokyo")
    office.arrives()
    office.pass_until(at("2026-03-02 01:00"))  # ten in the morning there: the 3rd is next
    assert office.decisions() != [] or office.timer_count() == 1
    before = len(office.decisions())
    office.sets("_profile", "main", zone="America/Los_Angeles")
    office.pass_until(at("2026-03-02 23:00"))
    office.check()
    dates = {run.event.get("last") for run in office.runs() if run.kind == "watch"}
    assert len(office.decisions()) <= before + 1 and len(dates) == 1
    office.pass_until(at("2026-03-06 23:00"))
    times = [row.made_ms for row in office.decisions()]
    assert len(times) == len(set(times)) and office.timer_count() == 1
    office.check()


def test_one_who_ignores_a_category_hears_of_it_less_and_an_open_ends_that() -> None:
    office = Office(ALERT.replace("[category.news]", '[category.news]\nhalf_life = "12h"'))
    for _ in range(4):
        office.event("published", headline="Moon", score=4)
        office.passes(13 * HOUR_MS)
    office.event("published", headline="Moon", score=4)
    assert office.outcomes() == ["sent"] * 4 + ["deferred"]  # three were ignored: twice half a day from the last
    waiting = office.decisions()[-1]
    assert waiting.reason == "back-off" and "the last 3 of news were ignored" in waiting.explanation
    assert waiting.until_ms == waiting.made_ms - 13 * HOUR_MS + 24 * HOUR_MS
    office.check()
    office.receipt(sorted(office.dispatches())[0], "opened")
    office.event("published", headline="Sun", score=4)
    assert office.decisions()[-1].outcome == "sent"
    office.check()


def test_runs_of_a_person_are_bounded_and_what_finds_no_room_is_told() -> None:
    office = Office(ready("cart"))
    for number in range(40):
        office.event("cart.updated", cart_id=str(number), item="Shoes", count=1, total=20)
    assert len(office.runs()) == 32 and office.outcomes() == ["suppressed"] * 8
    assert "32 runs, as many as may be" in office.decisions()[0].explanation
    office.notify()
    assert office.outcomes()[-1] == "sent"
    office.check()


def test_a_defect_in_a_decision_keeps_no_device_from_its_changes_and_stops_no_timer(monkeypatch: Any) -> None:
    office = Office(ready("cart"))
    office.event("cart.updated", cart_id="c", item="Shoes", count=1, total=20)
    office.event("cart.updated", "ben", cart_id="c", item="Boots", count=1, total=20)
    broken = runs.go_on

    def go_on(desk: Desk, number: int) -> None:
        if desk.user == "ann":
            raise RuntimeError("a defect")
        broken(desk, number)

    monkeypatch.setattr(runs, "go_on", go_on)
    office.passes(8 * HOUR_MS)
    assert len(office.inbox("ben")) == 1 and office.inbox("ann") == []
    assert office.runs("ann") == [] and any("a defect" in alarm for alarm in office.alarms)
    with office.store.read() as tx:
        assert not list(fsck.check(tx))


def test_decisions_of_a_person_are_kept_to_a_number_with_their_dispatches() -> None:
    office = Office()
    for _ in range(230):
        office.notify()
    assert len(office.decisions()) == len(office.dispatches()) == 200
    office.check()


@pytest.mark.parametrize(("policy", "made"), [("fire", 5), ("coalesce", 1), ("skip", 0)])
def test_after_a_downtime_a_schedule_does_as_its_workflow_says_and_goes_on(policy: str, made: int) -> None:
    office = Office(f"""
[category.daily]
[template.t]
title = "Good morning"
[workflow.w]
category = "daily"
trigger = {{ schedule = "09:00" }}
after_downtime = "{policy}"
[[workflow.w.step]]
send = {{ templates = ["t"] }}
""", now="2026-03-02 10:00")  # fmt: skip
    office.arrives()
    office.now_ms += 5 * DAY_MS  # five mornings
    office.restart()
    office.fire()
    assert office.decisions() == []  # no herd at once
    office.passes(11 * 60_000)
    assert len(office.decisions()) == made
    office.passes(DAY_MS)
    assert len(office.decisions()) == made + 1
    office.check()


def test_a_clock_that_leaps_holds_what_is_not_critical_until_as_much_time_has_passed() -> None:
    clock, trusted_ms = TrustedClock(at("2026-03-02 10:00"), 0).looked(at("2026-03-02 10:01"), 60_000)
    assert trusted_ms == at("2026-03-02 10:01")
    for minutes in (0, 30, 59):
        clock, trusted_ms = clock.looked(at("2026-03-09 10:01"), (1 + minutes) * 60_000)
        assert trusted_ms == at("2026-03-02 10:01") + minutes * 60_000
    _, trusted_ms = clock.looked(at("2026-03-02 11:00"), 60 * 60_000)
    assert trusted_ms == at("2026-03-02 11:00")

    office = Office(ready("cart") | {"policy": {}})
    office.event("cart.updated", cart_id="c", item="Shoes", count=1, total=20)
    believed_ms, office.now_ms = office.now_ms, office.now_ms + 7 * DAY_MS
    fired = office.fire(believed_ms)
    assert (fired.count, fired.held) == (0, True) and len(office.runs()) == 1
    office.now_ms = believed_ms  # it was set right
    office.passes(8 * HOUR_MS)
    assert office.outcomes() == ["sent"]
    office.now_ms -= DAY_MS  # and back: nothing is fired again
    assert office.fire().count == 0 and office.outcomes() == ["sent"]
    office.check()


def test_a_workflow_of_the_api_is_set_off_for_people_and_no_other_is() -> None:
    definitions = tomllib.loads(ALERT.replace('{ event = "published", where = "score > 3" }', "{ api = true }"))
    office = Office(definitions)
    started = one(office.ask(StartWorkflow(KEY, "w", ("ann", "ben"), {"headline": "Moon"})), Started)
    assert started.runs == ((0, None), (0, None))
    assert [shown["title"] for user in ("ann", "ben") for shown in office.inbox(user)] == ["Moon", "Moon"]
    assert isinstance(office.ask(StartWorkflow(KEY, "none", ("ann",), {})), Refused)
    office.check()


def test_three_events_within_a_span_set_a_threshold_off_once() -> None:
    office = Office(ALERT.replace('{ event = "published", where = "score > 3" }',
                                  '{ threshold = { event = "failed", count = 3, within = "1h" } }'))  # fmt: skip
    for _ in range(4):
        office.event("failed", headline="Three")
        office.passes(60_000)
    assert len(office.inbox()) == 1
    office.passes(DAY_MS)
    for _ in range(2):
        office.event("failed")
    assert len(office.inbox()) == 1
    office.check()


def test_a_run_keeps_the_version_with_which_it_began() -> None:
    values = ready("cart")
    office = Office(values)
    office.event("cart.updated", cart_id="c", item="Shoes", count=1, total=20)
    office.configure({**values, "template": {**values["template"], "reminder": {"title": "Other"}}})
    office.restart()
    office.passes(8 * HOUR_MS)
    assert [shown["title"] for shown in office.inbox()] == ["Still thinking about Shoes?"]
    office.check()


WAITING = """
[category.news]
[template.t]
title = "t"
[workflow.w]
category = "news"
trigger = { event = "put" }
cancel_on = ["bought"]
[[workflow.w.step]]
wait_for = "%s"
timeout = "9d"
[[workflow.w.step]]
send = { templates = ["t"] }
"""


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_run_hears_what_its_own_version_waits_for_whatever_is_in_force_by_now(is_restarted: bool) -> None:
    office = Office(WAITING % "paid")
    office.event("put")
    office.event("put", user="bob")
    without = tomllib.loads((WAITING % "seen").replace('cancel_on = ["bought"]', ""))
    put = Event(b"e" * 16, "https://shop", "e", "put", "cy", office.now_ms, {})
    # In one transaction: the last run of the old version begins, and the new version comes into force.
    assert office.decide(PostEvents(KEY, (put,), DAY_MS), Configure(without)).results[1] == Done()
    if is_restarted:
        office.restart()
    for user in ("ann", "cy"):
        office.event("paid", user=user)
        assert office.outcomes(user) == ["sent"]
    assert len(office.runs("bob")) == 1
    office.event("bought", user="bob")
    assert office.runs("bob") == []
    office.check()


def test_a_version_that_comes_into_force_again_still_counts_the_runs_that_are_in_it() -> None:
    office = Office(WAITING % "paid")
    office.event("put")
    office.configure(tomllib.loads(WAITING % "seen"))
    office.configure(tomllib.loads(WAITING % "paid"))
    office.check()
    office.event("paid")
    office.check()
    assert office.outcomes() == ["sent"]


def test_what_was_of_no_use_any_more_when_a_downtime_ended_is_not_sent() -> None:
    office = Office('[category.ads]\nexpires = "12h"\n[policy]\nquiet_hours = "22:00-08:00"', now="2026-03-02 23:00")
    office.notify(category="ads")
    assert office.outcomes() == ["deferred"]
    office.now_ms += 20 * HOUR_MS
    office.restart()
    office.pass_until(office.now_ms + HOUR_MS)
    [row] = office.decisions()
    assert (row.outcome, row.reason, office.inbox()) == ("expired", "expiry", [])
    office.check()


def test_a_digest_that_closes_after_its_category_was_turned_off_is_not_sent() -> None:
    office = Office()
    office.sets("_preferences", "category:news", frequency="daily")
    office.notify()
    office.sets("_preferences", "category:news", frequency="off")
    office.passes(DAY_MS)
    assert (office.outcomes(), office.inbox()) == (["digested", "suppressed"], [])
    office.check()


def test_one_who_is_held_out_gets_nothing_but_what_is_critical_and_that_is_told() -> None:
    office = Office('[policy]\nholdout = 1.0\n[category.security]\npriority = "critical"')
    office.notify()
    office.notify(category="security")
    assert office.outcomes() == ["held_out", "sent"]
    office.check()


def test_a_run_that_waits_hears_events_also_when_the_decision_that_it_waits_for_is_forgotten() -> None:
    office = Office("""
[category.news]
[category.ads]
frequency = "off"
[template.a]
title = "first"
[workflow.w]
category = "news"
trigger = { event = "e" }
[[workflow.w.step]]
send = { templates = ["a"] }
[[workflow.w.step]]
wait_for = "opened"
timeout = "30d"
""")
    office.event("e")
    for _ in range(220):
        office.notify(category="ads")
    office.sets("_inbox", "other", opened=True)
    office.notify(category="news")
    document = next(name for name in office.dispatches())
    office.receipt(document, "opened")
    assert len(office.runs()) == 1
    office.passes(31 * DAY_MS)
    assert office.runs() == []
    office.check()


def test_a_run_that_cannot_even_be_ended_does_not_stop_those_behind_it(monkeypatch: Any) -> None:
    office = Office(ready("cart"))
    office.event("cart.updated", cart_id="c", item="Shoes", count=1, total=20)
    office.event("cart.updated", "ben", cart_id="c", item="Boots", count=1, total=20)
    broken = Desk.flush

    def flush(desk: Desk) -> None:
        if desk.user == "ann":
            raise RuntimeError("a defect")
        broken(desk)

    monkeypatch.setattr(Desk, "flush", flush)
    office.passes(8 * HOUR_MS)
    assert len(office.inbox("ben")) == 1
    assert office.timer_count() == 1 and any("cannot be ended" in alarm for alarm in office.alarms)


def test_a_notification_waits_for_its_window_once_however_often_its_person_chooses_anew() -> None:
    definitions = tomllib.loads(ALERT)
    definitions["workflow"]["w"]["window"] = {"within": "6h", "at": "best"}
    office = Office(definitions, now="2026-03-02 01:00")
    office.event("published", score=5, headline="Rain")
    for hour in range(11):
        office.passes(HOUR_MS)
        office.sets("_preferences", f"category:other{hour}", frequency="daily")
    assert [fields["at"] for fields in office.inbox() if fields["at"] <= at("2026-03-02 07:00")] != []


def test_a_zone_moves_what_waits_also_when_its_change_comes_behind_another_in_one_push() -> None:
    office = Office("[policy]\nquiet_hours = '22:00-08:00'", now="2026-03-02 21:00")
    office.notify(title="Seen")
    office.now_ms = at("2026-03-02 22:30")
    office.notify(title="Waits")
    document = next(iter(office.dispatches()))
    author, space = office.device(), "user/ann"
    attached = one(office.ask(Attach(author, space, None, 0, 0, None, 0, None)), Attached)
    fly = [["create", "_profile", "main"], ["reg.set", "_profile", "main", "zone", "America/New_York"]]
    changes = tuple(
        parsed_change([n, nonce(n), attached.head, office.now_ms, operations])
        for n, operations in enumerate([[["flag.enable", INBOX, document, "seen"]], fly], 1)
    )
    one(office.ask(Push(author, space, attached.epoch, changes)), Pushed)
    assert office.outcomes() == ["sent", "sent"]  # there it is half past five in the afternoon
