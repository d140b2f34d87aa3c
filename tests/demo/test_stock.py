"""The scene of the last one in stock judges what it saw: each way in which it could come out wrong is a problem."""

from typing import Any

import pytest

from syncd.app.demo.stock import SOLD_OUT, problems


def test_one_certain_sale_that_is_applied_and_a_refused_other_are_no_problem() -> None:
    assert problems(1, "applied", "precondition", "precondition", dict(SOLD_OUT)) == []


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        ((2, "applied", "precondition", "precondition", SOLD_OUT), "2 phones were certain"),
        ((0, "none", "precondition", "precondition", SOLD_OUT), "0 phones were certain"),
        ((1, "precondition", "precondition", "precondition", SOLD_OUT), "certain ended as precondition"),
        ((1, "applied", "applied", "precondition", SOLD_OUT), "a lease ended as applied"),
        ((1, "applied", "precondition", "applied", SOLD_OUT), "an uncertain sale as applied"),
        ((1, "applied", "precondition", "precondition", {**SOLD_OUT, "taken": 2, "deficit": 1}), "the stock has"),
        ((1, "applied", "precondition", "precondition", {}), "the stock has"),
    ],
)
def test_whatever_did_not_come_out_as_told_is_named(seen: tuple[int, str, str, str, dict[str, Any]], word: str) -> None:
    assert any(word in problem for problem in problems(*seen))
