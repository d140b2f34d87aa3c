"""Every shell passes every case of the kit, over a WebSocket and over polls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import mobile_cases, poll_cases, shell_cases
from .shell_kit import CASES, POLL_CASES, SHELLS, WEBSOCKET_CASES, Case, play

assert mobile_cases
assert poll_cases
# A poll is a dozen awaits more: what counts each of them, or waits for an hour, takes seconds.
SLOW_OVER_POLLS = (
    shell_cases.a_device_that_is_cancelled_at_any_await_leaves_a_consistent_store,
    shell_cases.superseded_stops_and_is_told,
)


def named(case: Case) -> str:
    return getattr(case, "__name__", "case")


def over_polls(case: Case) -> Any:
    return pytest.param(case, marks=pytest.mark.long if case in SLOW_OVER_POLLS else ())


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("case", CASES + WEBSOCKET_CASES, ids=named)
def test_a_shell(tmp_path: Path, shell: str, case: Case) -> None:
    play(case, SHELLS[shell], tmp_path, "websocket")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("case", [over_polls(case) for case in CASES + POLL_CASES], ids=named)
def test_a_shell_over_polls(tmp_path: Path, shell: str, case: Case) -> None:
    play(case, SHELLS[shell], tmp_path, "polls")
