"""An event that concerns nothing is left at that: what is stored is what a desk for each event would have left."""

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncd.core.ids import PROFILE
from syncd.engine.batch import Batch
from syncd.engine.commands import Bind
from syncd.engine.engine import Engine
from syncd.notify import service
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.desk import Desk
from syncd.notify.service import Decider
from tests.notify.kit import HOUR_MS, Office, ready

ON_EVENT = """
[category.news]
[template.t]
title = "{headline}"
body = "b"
[workflow.w]
category = "news"
trigger = { event = "order.shipped" }
[[workflow.w.step]]
send = { templates = ["t"] }
"""
TRIGGER = 'event = "order.shipped"'
ON_THRESHOLD = ON_EVENT.replace(TRIGGER, f'threshold = {{ {TRIGGER}, count = 2, within = "9h" }}')
COUNTING = ON_EVENT.replace(TRIGGER, f"{TRIGGER}, where = 'count(\"order.placed\", 9h) > 1'")
DEFINITIONS: dict[str, dict[str, Any]] = {
    "none": {}, "on event": tomllib.loads(ON_EVENT), "on threshold": tomllib.loads(ON_THRESHOLD),
    "counting": tomllib.loads(COUNTING),
    **{name: ready(name) for name in ("cart", "digest", "fitness")},
}  # fmt: skip
EVENTS = ("order.shipped", "order.placed", "cart.updated", "team.activity", "session.start", "session.end", "seen")
SETTING_OFF = {"count": 2, "own": False, "is_new_place": True}  # what the conditions of those workflows ask


class Thorough(Decider):
    """Never finds that an event is of no concern."""

    def _is_of_no_concern(self, batch: Batch, user: str, event: str, data: Mapping[str, Any]) -> bool:
        return False


class ThoroughOffice(Office):
    def restart(self) -> None:
        self.engine = Engine(self.random.randbytes, further=carried_out, notices=Thorough(Book()))


steps = st.one_of(
    st.tuples(
        st.just("event"), st.sampled_from(EVENTS), st.sampled_from(("ann", "ben")),
        st.sampled_from((SETTING_OFF, SETTING_OFF | {"topic": "rowing"}, {"topic": ""}, {"seconds": 90})),
    ),
    st.tuples(st.just("notify"), st.sampled_from(("ann", "ben"))),
    st.tuples(st.just("zone"), st.sampled_from(("Europe/Berlin", "Asia/Tokyo"))),
    st.tuples(st.just("comes"), st.sampled_from(("ann", "ben"))),
    st.tuples(st.just("configure"), st.sampled_from(list(DEFINITIONS))),
    st.tuples(st.just("passes"), st.integers(1, 30)),
)  # fmt: skip


def done(office: Office, step: tuple[Any, ...]) -> Any:
    match step:
        case ("event", event, user, data):
            return office.event(event, user, **data)
        case ("notify", user):
            return office.notify(user)
        case ("zone", zone):
            return office.sets(PROFILE, "main", zone=zone)
        case ("comes", user):
            return office.ask(Bind(office.device(user)))
        case ("configure", name):
            return office.configure(DEFINITIONS[name])
        case ("passes", hours):
            return office.pass_until(office.now_ms + hours * HOUR_MS)
    raise AssertionError(step)


def rows(office: Office) -> list[tuple[bytes, bytes]]:
    with office.store.read() as tx:
        return list(tx.scan(b"\0", b"\xff"))


@settings(max_examples=100, deadline=None)
@example(
    "cart", [("event", "cart.updated", "ann", SETTING_OFF), ("configure", "none"), ("event", "order.placed", "ann", {})]
)  # the run still waits for it
@example("counting", [("event", "order.placed", "ann", {})])
@given(st.sampled_from(list(DEFINITIONS)), st.lists(steps, min_size=2, max_size=15))
def test_what_is_stored_is_what_a_desk_for_each_would_have_left(name: str, history: list[tuple[Any, ...]]) -> None:
    office, thorough = Office(DEFINITIONS[name]), ThoroughOffice(DEFINITIONS[name])
    for step in history:
        assert done(office, step) == done(thorough, step), step
        assert rows(office) == rows(thorough), step
    assert office.alarms == thorough.alarms == []


@pytest.mark.parametrize(
    ("name", "event", "data", "expected"),
    [
        ("none", "order.shipped", {}, 0), ("none", "session.start", {}, 1), ("fitness", "order.shipped", {}, 1),
        ("none", "order.shipped", {"topic": "rowing"}, 1),
    ],
)  # fmt: skip
def test_a_desk_is_made_where_something_may_come_of_an_event(
    name: str, event: str, data: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    office, made = Office(DEFINITIONS[name]), []

    def counted(*args: Any) -> Desk:
        made.append(args)
        return Desk(*args)

    monkeypatch.setattr(service, "Desk", counted)
    office.event(event, **data)
    assert len(made) == expected


def test_a_defect_in_finding_out_costs_only_its_own_notification(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    monkeypatch.setattr(Book, "current", lambda self, tx: 1 // 0)
    assert office.event("order.shipped") == "accepted"
    assert len(office.alarms) == 1 and "ZeroDivisionError" in office.alarms[0]
