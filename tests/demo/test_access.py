"""The scene of somebody who loses access judges what it saw: each way in which it could come out wrong is a problem."""

from dataclasses import replace
from typing import Any

import pytest

from syncd.app.demo.access import Seen, problems

PLAN = {"place": "the lake", "for": "Ben"}
GOOD = Seen(("forbidden", "forbidden"), 2, 2, 0, (PLAN, PLAN), (("d1",), ()), "d1")


def test_what_was_refused_kept_deleted_and_confirmed_is_no_problem() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        ({"outcomes": ("forbidden", "applied")}, "ended as forbidden, applied"),
        ({"letters": 1}, "1 are dead letters"),
        ({"kept": 0}, "0 are kept"),
        ({"left": 1}, "still shows 1 documents"),
        ({"others": (PLAN, {**PLAN, "place": "my garden"})}, "the others see"),
        ({"others": (PLAN, {"kind": "plum"})}, "the others see"),
        ({"unconfirmed": ((), ())}, "have not confirmed"),
        ({"unconfirmed": (("d1",), ("d1",))}, "have not confirmed"),
    ],
)
def test_whatever_did_not_come_out_as_told_is_named(seen: dict[str, Any], word: str) -> None:
    assert any(word in problem for problem in problems(replace(GOOD, **seen)))
