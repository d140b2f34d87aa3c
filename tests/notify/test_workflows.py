"""Workflows as they are written: the ready ones, every mistake with its path, versions."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.notify.workflows import STEPS_MAX, BadDefinitions, Problem, definitions

READY = sorted((Path(__file__).resolve().parents[2] / "conf" / "workflows").glob("*.toml"))
GOOD = """
[policy]
caps = ["4 / 24h"]
quiet_hours = "22:00-08:00"
[category.learning]
caps = ["2 / 24h", "6 / 7d"]
[template.streak]
title = "Keep your streak of {days} days"
[workflow.nudge]
category = "learning"
trigger = { inactivity = { p_return_below = 0.35, fallback = "3d" } }
cancel_on = ["session.start"]
[[workflow.nudge.step]]
send = { templates = ["streak"] }
[[workflow.nudge.step]]
wait_for = "opened"
timeout = "2d"
[[workflow.nudge.step]]
branch = { where = "hour() > 3", then = [{ delay = "1h" }, { send = { templates = ["streak"] } }] }
"""


def problems(text: str) -> list[Problem]:
    with pytest.raises(BadDefinitions) as raised:
        definitions(tomllib.loads(text))
    return list(raised.value.problems)


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_a_ready_workflow_is_without_mistake_and_complete(file: Path) -> None:
    found = definitions(tomllib.loads(file.read_text()))
    assert found.workflows and set(found.versions) == set(found.workflows)
    used = {
        name
        for each in found.workflows.values()
        for _, step in each.steps()
        if step.send
        for name in step.send.templates
    }
    assert used == set(found.templates)


def test_there_are_five_ready_workflows_that_do_not_get_into_each_others_way() -> None:
    assert len(READY) == 5
    together: dict[str, dict[str, Any]] = {}
    for file in READY:
        for table, entries in tomllib.loads(file.read_text()).items():
            assert not set(entries) & set(together.get(table, {}))
            together.setdefault(table, {}).update(entries)
    assert len(definitions(together).workflows) == 5


@pytest.mark.parametrize(
    ("old", "new", "path", "message", "column"),
    [
        ('"3d"', '"3x"', "workflow nudge trigger inactivity fallback", "a span is a number", None),
        ("0.35", "1.5", "workflow nudge trigger inactivity p_return_below", "less than 1", None),
        ("hour() > 3", "hour( > 3", "workflow nudge step 2 branch where", "expected a value, found '>'", 7),
        (
            'templates = ["streak"] }\n[[',
            'templates = ["x"] }\n[[',
            "workflow nudge step 0 send templates 0",
            "no template 'x'",
            None,
        ),
        ('timeout = "2d"', "", "workflow nudge step 1", "'wait_for' and 'timeout' go together", None),
        ('timeout = "2d"', 'timeout = "2d"\ndelay = "1h"', "workflow nudge step 1", "exactly one of send, delay", None),
        ('category = "learning"', 'category = "x"', "workflow nudge category", "there are: learning", None),
        ('category = "learning"', "category = 3", "workflow nudge category", "expected a name of 1-32", None),
        ("title", "titel", "template streak titel", "an unknown key", None),
        ("{days}", "{days", "template streak title", "a brace to open and to close", None),
        ("{days}", "{1 + 1}", "template streak title", "the name of a field in braces", None),
        ('"2 / 24h"', '"2 per day"', "category learning caps 0", "a cap is written", None),
        ('"22:00-08:00"', '"night"', "policy quiet_hours", "quiet hours are written", None),
        ('"session.start"', '"session start"', "workflow nudge cancel_on 0", "the type of an event", None),
        ("inactivity = {", 'event = "x", inactivity = {', "workflow nudge trigger", "exactly one of event", None),
        ("[policy]", "[polizy]", "polizy", "an unknown key", None),
    ],
)
def test_a_mistake_is_told_with_its_path_and_what_was_expected(
    old: str, new: str, path: str, message: str, column: int | None
) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new, 1))
    told = [each for each in found if " ".join(map(str, each.path)) == path]
    assert told, found
    assert message in told[0].message
    assert told[0].column == column


def test_all_mistakes_are_told_at_once() -> None:
    text = GOOD.replace('"3d"', '"3x"').replace("hour() > 3", "hour( > 3").replace('"2 / 24h"', '"2"')
    assert len(problems(text)) == 3


def test_a_workflow_that_sends_nothing_or_never_ends_is_refused() -> None:
    nothing = GOOD.replace('send = { templates = ["streak"] }', 'delay = "1h"')
    assert [each.message for each in problems(nothing)] == ["no step sends anything"]
    long = GOOD + '[[workflow.nudge.step]]\ndelay = "1h"\n' * STEPS_MAX
    assert f"at most {STEPS_MAX} steps" in problems(long)[0].message
    step: dict[str, Any] = {"delay": "1h"}
    for _ in range(300):
        step = {"branch": {"where": "true", "then": [step]}}
    values = tomllib.loads(GOOD)
    values["workflow"]["nudge"]["step"].append(step)
    with pytest.raises(BadDefinitions):
        definitions(values)


def test_a_version_is_of_what_a_run_may_read_and_of_nothing_else() -> None:
    def version(text: str) -> str:
        return definitions(tomllib.loads(text)).versions["nudge"]

    usual = version(GOOD)
    other_order = GOOD.replace('[category.learning]\ncaps = ["2 / 24h", "6 / 7d"]\n', "") + (
        '[category.learning]\ncaps = ["2 / 24h", "6 / 7d"]\n[category.other]\n[template.unused]\ntitle = "x"\n'
    )
    assert version(other_order) == usual
    for old, new in (("0.35", "0.36"), ('"2 / 24h"', '"3 / 24h"'), ("Keep your", "Keep the"), ('"2d"', '"3d"')):
        assert version(GOOD.replace(old, new)) != usual


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(("workflow", "category", "template", "step", "send", "branch", "where", "then", "x")),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(("workflow", "category", "template", "policy", "more")), junk))
def test_whatever_is_given_is_read_or_refused(values: dict[str, Any]) -> None:
    try:
        definitions(values)
    except BadDefinitions as error:
        assert error.problems and all(each.message for each in error.problems)
