"""What is promised of notifications (N1-N10): a machine lets people, backends, clocks and restarts act at random.

The process restarts at each commit: whatever a decision needs is in the store.
"""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.notify.auditor import Auditor
from tests.notify.kit import HOUR_MS, Office

MINUTE_MS = 60_000
DEFINITIONS = """
[policy]
caps = ["5 / 24h"]
[category.news]
caps = ["2 / 6h"]
[category.ads]
expires = "8h"
[category.security]
priority = "critical"
[template.t]
title = "{title}"
[workflow.cart]
category = "ads"
trigger = { event = "cart" }
collapse = "{key}"
cancel_on = ["bought"]
window = { within = "12h", at = "best" }
[[workflow.cart.step]]
delay = "1h"
[[workflow.cart.step]]
send = { templates = ["t"] }
[workflow.sign_in]
category = "security"
trigger = { event = "signed_in" }
[[workflow.sign_in.step]]
send = { templates = ["t"] }
[workflow.weekly]
category = "news"
trigger = { schedule = "mon,wed 09:00" }
[[workflow.weekly.step]]
send = { templates = ["t"] }
"""
ZONES = ("UTC", "Europe/Berlin", "America/Los_Angeles", "Pacific/Auckland", "Asia/Kolkata")
QUIET: tuple[tuple[str, tuple[int, int] | None], ...] = (
    ("22:00-08:00", (22 * 60, 8 * 60)), ("12:30-13:45", (12 * 60 + 30, 13 * 60 + 45)), ("off", None),
)  # fmt: skip


class Promises(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.office = Office(DEFINITIONS, now="2026-03-27 20:00")  # two days before clocks change in Europe
        caps: list[tuple[str | None, int, int]] = [(None, 5, 24), ("news", 2, 6)]
        self.auditor = Auditor(caps, {"security"})
        self.office.arrives()

    def _restarted(self) -> Office:
        self.office.pass_until(self.office.now_ms + 1_000)
        self.office.restart()
        return self.office

    @rule(category=st.sampled_from(("news", "ads", "other")), count=st.integers(1, 4))
    def a_backend_posts(self, category: str, count: int) -> None:
        for _ in range(count):
            assert self._restarted().notify(category=category) == "accepted"

    @rule(key=st.sampled_from("ab"))
    def a_cart_changes(self, key: str) -> None:
        self._restarted().event("cart", key=key, title="Shoes")

    @rule()
    def a_cart_is_bought(self) -> None:
        self._restarted().event("bought")

    @rule()
    def somebody_signs_in(self) -> None:
        self._restarted().event("signed_in", title="New place")

    @rule(minutes=st.integers(1, 60 * 40))
    def time_passes(self, minutes: int) -> None:
        office = self._restarted()
        until_ms = office.now_ms + minutes * MINUTE_MS
        while (due_ms := office.next_ms()) is not None and due_ms <= until_ms:
            office.now_ms = max(office.now_ms, due_ms)
            office.fire()
            office.restart()
        office.now_ms = until_ms

    @rule(hours=st.integers(1, 60))
    def nobody_looks(self, hours: int) -> None:
        """The process is down; then it comes back and catches up."""
        office = self._restarted()
        began_ms = office.now_ms
        office.now_ms += hours * HOUR_MS
        self.auditor.absences.append((began_ms, office.now_ms))
        office.pass_until(office.now_ms)

    @rule(which=st.sampled_from(QUIET))
    def chooses_quiet_hours(self, which: tuple[str, tuple[int, int] | None]) -> None:
        office = self._restarted()
        self.auditor.quiet.append((office.now_ms, which[1]))
        office.sets("_preferences", "all", quiet_hours=which[0])

    @rule(category=st.sampled_from(("news", "ads", "security")), choice=st.sampled_from(("off", "daily", "instant")))
    def chooses_a_frequency(self, category: str, choice: str) -> None:
        office = self._restarted()
        off = self.auditor.off[-1][1] - {category} | ({category} if choice == "off" else frozenset())
        self.auditor.off.append((office.now_ms, frozenset(off)))
        office.sets("_preferences", f"category:{category}", frequency=choice)

    @rule(zone=st.sampled_from(ZONES))
    def flies(self, zone: str) -> None:
        office = self._restarted()
        self.auditor.zones.append((office.now_ms, zone))
        office.sets("_profile", "main", zone=zone)

    @rule(name=st.sampled_from(("seen", "opened", "dismissed")), pick=st.integers(0, 50))
    def answers(self, name: str, pick: int) -> None:
        documents = sorted(self.office.dispatches())
        if documents:
            self._restarted().receipt(documents[pick % len(documents)], name)

    @invariant()
    def all_promises_hold(self) -> None:
        self.office.check()
        self.auditor.audit(self.office.decisions(), self.office.inbox(), self.office.now_ms)
        due_ms = self.office.next_ms()
        assert due_ms is None or due_ms > self.office.now_ms - 2_000, "N10: nothing that is due is left behind"


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


@pytest.mark.long
def test_all_promises_hold_in_many_more_lives() -> None:
    run_state_machine_as_test(Promises, settings=settings(max_examples=400, stateful_step_count=40, deadline=None))


def test_a_schedule_has_one_occurrence_for_each_local_date_whatever_zones_its_person_is_in() -> None:
    office = Office(DEFINITIONS, now="2026-03-01 00:00")
    office.arrives()
    for step in range(120):
        office.sets("_profile", "main", zone=ZONES[step * 7 % len(ZONES)])
        office.passes(5 * HOUR_MS + step * MINUTE_MS)
        office.restart()
    office.check()
    made = [row.made_ms for row in office.decisions() if row.workflow == "weekly"]
    weeks = (office.now_ms - made[0]) / (7 * 24 * HOUR_MS)
    assert 2 * weeks - 2 <= len(made) <= 2 * weeks + 2
