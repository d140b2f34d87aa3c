"""The demo's scene of notifications: its moments are right at any hour, and each way to come out wrong is a problem."""

import tomllib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.app.demo.notices import (
    AHEAD_H,
    DEFINITIONS,
    READY,
    WAITING,
    ZONE,
    expected_ms,
    habit_of,
    nudge_problems,
    sessions,
    stopped_problems,
)
from syncd.app.demo.story import explained_problems
from syncd.engine.commands import Event, EventResults, PostEvents
from syncd.store.tables import DecisionRow
from syncd.wire.cloudevents import parsed_time_ms
from tests.engine.kit import one
from tests.notify.kit import DAY_MS, KEY, Office

HOUR_MS = 3_600_000
BEST_MS = 1_000 * HOUR_MS
NUDGE: dict[str, Any] = {
    "outcome": "deferred", "reason": "timing", "until_ms": BEST_MS, "choice": {"explored": False},
    "scores": [{"at_ms": BEST_MS, "score": 0.5}, {"at_ms": BEST_MS + HOUR_MS, "score": 0.4}],
}  # fmt: skip
OFF = {"outcome": "suppressed", "reason": "preference"}
REMINDER = {"outcome": "cancelled", "by": "seen", "past": [{"outcome": "deferred"}]}


@settings(max_examples=30)
@given(hour=st.integers(0, 24 * 370))
def test_at_any_hour_of_a_year_the_nudge_waits_for_the_habit_of_emma_as_the_scene_expects(hour: int) -> None:
    now = datetime(2026, 11, 1, 0, 20, tzinfo=UTC) + timedelta(hours=hour)
    local = now.astimezone(ZONE)
    habit = habit_of(local)
    best_ms = expected_ms(local, habit)
    now_ms = round(now.timestamp() * 1000)
    assert (AHEAD_H - 2) * HOUR_MS < best_ms - now_ms < 24 * HOUR_MS
    office = Office(tomllib.loads(DEFINITIONS), f"{now:%Y-%m-%d %H:%M}", seed=hour)
    office.sets("_profile", "main", "emma", zone=str(ZONE))
    events = [
        Event(index.to_bytes(16), each["source"], each["id"], each["type"], "emma", parsed_time_ms(each["time"]), None)
        for index, each in enumerate(sessions(local, habit))
    ]
    assert {status for status, _ in one(office.ask(PostEvents(KEY, tuple(events), DAY_MS)), EventResults).results} == {
        "accepted"
    }
    office.now_ms += 10
    office.fire()
    (nudge,) = [row for row in office.decisions("emma") if row.workflow == "nudge"]
    assert nudge_problems(_told(nudge), best_ms) == [] and not office.alarms


def _told(row: DecisionRow) -> dict[str, Any]:
    assert row.choice is not None
    scores = [{"at_ms": at_ms, "score": score} for at_ms, score in row.scores]
    choice = {"explored": row.choice[2]}
    return {"outcome": row.outcome, "reason": row.reason, "until_ms": row.until_ms, "scores": scores, "choice": choice}


def test_what_came_out_as_told_is_no_problem() -> None:
    assert nudge_problems(NUDGE, BEST_MS) == []
    drawn = {**NUDGE, "until_ms": BEST_MS + HOUR_MS, "choice": {"explored": True}}
    assert nudge_problems(drawn, BEST_MS) == []
    assert stopped_problems(OFF, REMINDER, [READY]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcome": "sent", "reason": None, "until_ms": None},
        {"reason": "caps"},
        {"choice": None},
        {"until_ms": BEST_MS + HOUR_MS},
        {"until_ms": BEST_MS + 5 * HOUR_MS, "choice": {"explored": True}},
        {"scores": [NUDGE["scores"][1], NUDGE["scores"][0]]},
    ],
)
def test_a_nudge_that_waits_for_another_moment_is_a_problem(wrong: dict[str, Any]) -> None:
    assert nudge_problems({**NUDGE, **wrong}, BEST_MS)


@pytest.mark.parametrize(
    ("off", "reminder", "titles"),
    [
        ({**OFF, "outcome": "sent"}, REMINDER, [READY]),
        ({**OFF, "reason": "caps"}, REMINDER, [READY]),
        (OFF, {**REMINDER, "outcome": "sent"}, [READY]),
        (OFF, {**REMINDER, "by": "run 7"}, [READY]),
        (OFF, {**REMINDER, "past": []}, [READY]),
        (OFF, REMINDER, [READY, WAITING]),
        (OFF, REMINDER, []),
    ],
)
def test_what_was_sent_all_the_same_or_stopped_for_another_reason_is_a_problem(
    off: dict[str, Any], reminder: dict[str, Any], titles: list[str]
) -> None:
    assert stopped_problems(off, reminder, titles)


def test_explain_that_tells_another_value_or_of_no_meeting_is_a_problem() -> None:
    said = 'destination (reg) = "Bergen"\n  ... (neither had seen the other: bases 1 and 1) ...'
    fields = {"destination": "Bergen", "budget": 1000}
    assert explained_problems(said, fields) == []
    assert explained_problems(said, {**fields, "destination": "Lisbon"})
    assert explained_problems(said, {**fields, "budget": 700})
    assert explained_problems(said.replace("neither", "both"), fields)
