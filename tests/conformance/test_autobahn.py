"""Autobahn's test suite for WebSocket against the daemon's stack; `make autobahn` runs it outside of pytest."""

import sys
from pathlib import Path

import pytest

from tests.conformance.autobahn import GOOD, CaseResult, NoSuite, groups_of, prepared, results, summary


@pytest.mark.long
async def test_every_case_is_as_rfc_6455_and_rfc_7692_have_it() -> None:
    try:
        wstest = prepared(Path(sys.prefix) / "autobahn")
    except NoSuite as missing:
        pytest.skip(f"THE AUTOBAHN SUITE DID NOT RUN: {missing}")
    found = await results(wstest, groups_of([]))
    assert len(found) == 517, summary(found)
    assert [result for result in found if not result.is_good] == []


@pytest.mark.parametrize(
    ("case", "behavior", "closing", "is_good"),
    [
        ("6.4.1", "OK", "OK", True),
        ("7.1.6", "INFORMATIONAL", "INFORMATIONAL", True),
        ("6.4.1", "NON-STRICT", "OK", False),
        ("1.1.1", "OK", "FAILED", False),
        ("1.1.1", "UNIMPLEMENTED", "OK", False),
        ("12.1.1", "UNIMPLEMENTED", "UNIMPLEMENTED", False),
        ("13.1.1", "FAILED", "OK", False),
    ],
)
def test_only_what_is_right_in_messages_and_in_closing_is_good(
    case: str, behavior: str, closing: str, is_good: bool
) -> None:
    assert GOOD == ("OK", "INFORMATIONAL")
    assert CaseResult(case, behavior, closing, "x").is_good is is_good
