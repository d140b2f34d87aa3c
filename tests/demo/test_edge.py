"""The demo's scene of the edge can fail: a phone that was sent everything, and a daemon that kept it, are found."""

from dataclasses import replace

import pytest

from syncd.app.demo.edge import CHANGES, TILE_BYTES, Figures, problems

GONE_BY = CHANGES * TILE_BYTES
GOOD = Figures(CHANGES, GONE_BY, CHANGES, CHANGES // 4, 0.3, GONE_BY // 10)


def test_what_holds_is_no_problem_also_where_the_system_tells_no_memory() -> None:
    assert problems(GOOD) == []
    assert problems(replace(GOOD, memory_bytes=None)) == []
    assert problems(replace(GOOD, values=CHANGES - 1, buffers_bytes=GONE_BY)) == []


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({"values": CHANGES}, "field values"),
        ({"all_values": CHANGES - 1}, "field values"),
        ({"memory_bytes": GONE_BY * 2 // 3}, "memory grew"),
    ],
)
def test_what_does_not_hold_is_told(seen: dict[str, int], told: str) -> None:
    (problem,) = problems(replace(GOOD, **seen))  # type: ignore[arg-type]
    assert told in problem
