"""Every shell passes every case of the kit."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import mobile_cases, shell_cases
from .shell_kit import CASES, SHELLS, Case, play

assert mobile_cases
assert shell_cases


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_shell(tmp_path: Path, shell: str, case: Case) -> None:
    play(case, SHELLS[shell], tmp_path)
