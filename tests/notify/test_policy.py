"""Whose word counts: caps as they are written, preferences as they win over each other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.notify.civil import zone
from syncd.notify.gates import Candidate, Person, judged
from syncd.notify.policy import (
    FREQUENCIES,
    BadPolicy,
    Category,
    Policy,
    Wish,
    frequency,
    muted_until,
    parse_cap,
    preferences,
)

NOW_MS = 1_795_000_000_000
NEWS, ALERT = Category("news", frequency="daily"), Category("alert", "critical")
POLICY = Policy({"news": NEWS, "alert": ALERT})
MUTED = {"mute_until": NOW_MS + 1}


@pytest.mark.parametrize(
    ("documents", "expected", "by"),
    [
        ({}, "daily", "the default of news"),
        ({"all": {"frequency": "off"}}, "off", "the choice for everything"),
        ({"all": {"frequency": "off"}, "category:news": {"frequency": "hourly"}}, "hourly", "the category news"),
        (
            {
                "all": {"frequency": "off"},
                "category:news": {"frequency": "off"},
                "topic:cycling": {"frequency": "instant"},
            },
            "instant",
            "the topic cycling",
        ),
        ({"topic:politics": {"frequency": "off"}}, "daily", "the default of news"),
        ({"all": {"frequency": "sometimes"}, "category:news": {"frequency": 7}}, "daily", "the default of news"),
    ],
)
def test_the_narrowest_wish_counts(documents: dict[str, dict[str, object]], expected: str, by: str) -> None:
    found = frequency(POLICY, preferences(documents), NEWS, "cycling")
    assert (found.frequency, found.by) == (expected, by)


def test_what_is_critical_is_turned_off_by_its_own_name_only() -> None:
    others = {"all": {"frequency": "off", **MUTED}, "topic:login": {"frequency": "off"}, "category:alert": MUTED}
    assert frequency(POLICY, preferences(others), ALERT, "login").frequency == "instant"
    assert muted_until(preferences(others), ALERT, "login", NOW_MS) is None
    named = {"category:alert": {"frequency": "off"}}
    assert frequency(POLICY, preferences(named), ALERT, "login").frequency == "off"


def test_the_longest_mute_that_holds_counts_and_one_that_has_ended_does_not() -> None:
    wishes = preferences(
        {
            "all": {"mute_until": NOW_MS},
            "category:news": {"mute_until": NOW_MS + 5},
            "topic:cycling": {"mute_until": NOW_MS + 9},
        }
    )
    assert muted_until(wishes, NEWS, "cycling", NOW_MS) == (NOW_MS + 9, "the topic cycling")
    assert muted_until(wishes, NEWS, "politics", NOW_MS) == (NOW_MS + 5, "the category news")
    assert muted_until(wishes, NEWS, "cycling", NOW_MS + 9) is None


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
)
documents = st.dictionaries(
    st.sampled_from(("all", "category:news", "topic:", ":", "category", "x:y")) | st.text(max_size=5),
    st.dictionaries(st.sampled_from(("frequency", "mute_until", "quiet_hours")), values, max_size=3),
    max_size=4,
)


@given(documents)
def test_whatever_devices_write_is_a_choice_or_none(found: dict[str, dict[str, object]]) -> None:
    wishes = preferences(found)
    assert frequency(POLICY, wishes, NEWS, "cycling").frequency in FREQUENCIES
    until = muted_until(wishes, NEWS, "cycling", NOW_MS)
    assert until is None or until[0] > NOW_MS


def test_quiet_hours_are_the_persons_else_the_operators_and_none_if_turned_off() -> None:
    policy = Policy({}, quiet_hours=preferences({"all": {"quiet_hours": "22:00-08:00"}}).quiet_hours)
    assert str(preferences({}).quiet(policy)) == "22:00-08:00"
    assert str(preferences({"all": {"quiet_hours": "23:00-06:30"}}).quiet(policy)) == "23:00-06:30"
    assert str(preferences({"all": {"quiet_hours": "late"}}).quiet(policy)) == "22:00-08:00"
    assert preferences({"all": {"quiet_hours": "off"}}).quiet(policy) is None


def test_a_wish_is_none_by_default() -> None:
    assert preferences({"category:news": {}}).categories["news"] == Wish()


@pytest.mark.parametrize("text", ["2 / 24h", "40 / 30d", "1 / 90s"])
def test_a_cap_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_cap(text)) == text


@pytest.mark.parametrize("text", ["2", "0 / 24h", "41 / 24h", "2 / 31d", "2 / day", "two / 24h", "2 / 0h"])
def test_what_is_no_cap_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(BadPolicy, match=r"a cap is written|a span is a number"):
        parse_cap(text)


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.text(max_size=2))
named = st.sampled_from(("all", "category:shop", "topic:x", "category:", ":", "", "shop"))
fields = st.dictionaries(st.sampled_from(("frequency", "mute_until", "quiet_hours", "other")), anything, max_size=4)


@given(st.dictionaries(named, fields, max_size=3), st.sampled_from(("normal", "critical")))  # all faults fit
def test_whatever_devices_wrote_a_decision_is_made_and_names_what_it_ignored(
    documents: dict[str, dict[str, Any]], priority: str
) -> None:
    found = preferences(documents)
    category = Category("shop", priority)
    policy = Policy({"shop": category})
    judgement = judged(Candidate("shop", "x"), policy, Person(zone("UTC"), found, (), 1.0), 1_000_000)
    preference = next(verdict for verdict in judgement.verdicts if verdict.gate == "preference")
    assert all(fault in preference.words for fault in found.faults)
    wrong = {name for name, each in documents.items() if each.get("frequency") not in (None, *FREQUENCIES)}
    assert wrong <= {name for name in documents if any(fault.startswith(f"{name}: ") for fault in found.faults)}
