"""The registry: consistent with its own ranges, with the specification and with the files drawn from it."""

import json
import re
from pathlib import Path

import pytest

from syncd.wire import diagrams
from syncd.wire.errors import (
    ACTIONS,
    CLOSE_BY_CODE,
    CLOSES,
    DETAIL_CHARS_MAX,
    KIND_BY_NAME,
    KINDS,
    RANGES,
    RETRIES,
    ProtocolError,
    registry,
)
from syncd.wire.limits import DEFAULT

PROTOCOL = Path(__file__).resolve().parents[2] / "protocol"
SPEC = (PROTOCOL / "SPEC.md").read_text()


def test_the_registry_file_is_up_to_date() -> None:
    assert json.loads((PROTOCOL / "registry.json").read_text()) == registry()


def test_the_diagrams_are_up_to_date() -> None:
    assert (PROTOCOL / "states.md").read_text() == diagrams.document()


def test_codes_and_names_are_given_once() -> None:
    assert [kind.code for kind in KINDS] == list(range(1, len(KINDS) + 1))
    assert len(KIND_BY_NAME) == len(KINDS)
    assert len(CLOSE_BY_CODE) == len(CLOSES)


def test_a_close_code_does_what_its_range_says() -> None:
    for close in CLOSES:
        assert close.action in ACTIONS
        for span in RANGES:
            if span.first <= close.code <= span.last:
                assert (close.action, close.survives) == (span.action, span.survives)
    assert all("outbox" in close.survives for close in CLOSES), "nothing ever costs an outbox"


def test_an_error_closes_with_a_code_of_the_registry() -> None:
    for kind in KINDS:
        assert kind.retry in RETRIES
        assert kind.close is None or kind.close in CLOSE_BY_CODE


def test_the_specification_lists_the_same_errors() -> None:
    listed = re.findall(r"(\d+) `(\w+)` \((?:close )?(\d+|none)", SPEC.split("Errors: ")[1])
    told = [(kind.code, kind.name, kind.close) for kind in KINDS]
    assert [(int(code), name, None if close == "none" else int(close)) for code, name, close in listed] == told


def test_the_specification_lists_the_same_limits() -> None:
    table = SPEC.split("## 9 Limits")[1].split("## 10")[0]
    listed = {
        name: int(number.replace(",", "")) for name, number in re.findall(r"^\| `(\w+)` \| ([\d,]+)", table, re.M)
    }
    assert listed == DEFAULT.welcome()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_error_is_told_as_a_message(kind: object) -> None:
    assert isinstance(kind, type(KINDS[0]))
    told = ProtocolError(kind, "x" * 10_000, space="s").message()
    assert (told.code, told.name, told.retry, told.space) == (kind.code, kind.name, kind.retry, "s")
    assert told.detail is not None
    assert len(told.detail) == DETAIL_CHARS_MAX
