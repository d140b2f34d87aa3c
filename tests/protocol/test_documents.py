"""The documents of protocol/: AsyncAPI fits the vectors, the schema tells right from wrong, links lead to files."""

import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pycddl  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from protocol.conformance.cddl import SchemaError, parsed
from protocol.conformance.server import LIMITS
from syncd.core.changes import CHANGE_BYTES_MAX, DOCUMENTS_MAX, OPERATIONS_MAX
from syncd.core.documents import DOCUMENT_BYTES_MAX, FIELDS_MAX
from syncd.core.values import ITEMS_MAX, VALUE_BYTES_MAX
from syncd.wire import limits
from syncd.wire.codec import CLIENT, SERVER
from tests.protocol.make_asyncapi import FILE, key_of, text
from tests.protocol.make_vectors import VECTORS

PROTOCOL = VECTORS.parent
ASYNCAPI: dict[str, Any] = yaml.safe_load(FILE.read_text())
ACCEPTED = json.loads((VECTORS / "codec.json").read_text())["accepted"]


def test_the_asyncapi_file_is_up_to_date() -> None:
    assert FILE.read_text() == text()


def test_every_reference_of_the_asyncapi_file_leads_to_something() -> None:
    for reference in re.findall(r"\$ref: '?#/([^'\n]+)", FILE.read_text()):
        place: Any = ASYNCAPI
        for part in reference.split("/"):
            place = place[part]
        assert place


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["name"])
def test_a_message_of_the_vectors_fits_the_asyncapi_file(case: dict[str, Any]) -> None:
    side = CLIENT if case["from"] == "client" else SERVER
    name = next(key_of(schema) for schema in side if schema.code == case["json"][0])
    payload = ASYNCAPI["components"]["messages"][name]["payload"]
    jsonschema.validate(case["json"], payload, cls=jsonschema.Draft7Validator)


def test_the_schema_is_cddl_for_others_too() -> None:
    pycddl.Schema((PROTOCOL / "syncd.cddl").read_text())


@pytest.mark.parametrize(
    ("rule", "data", "fits"),
    [
        ("value", 2**53 - 1, True),
        ("value", 2**53, False),
        ("value", -(2**53), False),
        ("value", {"x": [1, 2.5, None, b"z", {}]}, True),
        ("value", {1: 1}, False),
        ("operation", ["create", "a", "b"], True),
        ("operation", ["create", "a", "b", {"seen": 4}], True),
        ("operation", ["create", "a", "b", {"seen": 0}], False),
        ("operation", ["create", "a", "b", {"seen": 1, "x": 1}], False),
        ("operation", ["create", "a"], False),
        ("operation", ["reg.sex", "a", "b", "f", 1], False),
        ("operation", ["counter.inc", "a", "b", "f", 0], False),
        ("operation", ["reg.set", "a", "b", "", 1], False),
        ("push", [4, {"space": "a", "epoch": None, "changes": []}], False),
        ("document-entry", ["a", "b", 3, 2, {}], True),
        ("document-entry", ["a", "b", 3, 2, {"f": ["reg", 1]}], False),
        ("document-entry", ["a", "b", 3, 1, {"f": None}], False),
        ("document-entry", ["a", "b", 3, 0, {"f": None}], True),
        ("field-value", ["mv", []], False),
        ("field-value", ["mv", [1] * 9], False),
        ("field-value", ["flag", 1], False),
        ("outcome-entry", [1, b"h" * 8, "applied", None, None], False),
        ("outcome-entry", [1, b"h" * 8, "gone", None, {"op": 0, "letters": [1]}], True),
        ("ping", [20, {"id": -1}], False),
        ("ping", [20, {"id": True}], False),
    ],
)
def test_the_schema_tells_right_from_wrong(rule: str, data: Any, fits: bool) -> None:
    assert parsed((PROTOCOL / "syncd.cddl").read_text()).matches(rule, data) is fits


@pytest.mark.parametrize("wrong", ["a = [", "a = b", "a = {1 => tstr}", "a = tstr .regexp 5", "a ! b"])
def test_a_schema_that_is_not_understood_is_refused(wrong: str) -> None:
    with pytest.raises(SchemaError):
        parsed(wrong)


def test_the_limits_of_the_specification_are_those_of_the_welcome_and_of_the_code() -> None:
    """One table, three places: SPEC section 9, what a welcome announces, what the conformance runner asks for."""
    section = (PROTOCOL / "SPEC.md").read_text().split("## 9 Limits")[1].split("## 10")[0]
    told = {
        name: int(figure.replace(",", ""))
        for name, figure in re.findall(r"^\| `(\w+_max)` \| (\d[\d,]*\d|\d)", section, re.MULTILINE)
    }
    assert told == limits.DEFAULT.welcome()
    assert set(LIMITS) == set(told)
    enforced = {
        "hello_bytes_max": limits.HELLO_BYTES_MAX, "frame_containers_max": limits.CONTAINERS_MAX,
        "container_items_max": limits.ARRAY_ITEMS_MAX, "messages_burst_max": limits.MESSAGES_BURST_MAX,
        "change_operations_max": OPERATIONS_MAX, "change_documents_max": DOCUMENTS_MAX,
        "change_bytes_max": CHANGE_BYTES_MAX, "value_bytes_max": VALUE_BYTES_MAX,
        "document_bytes_max": DOCUMENT_BYTES_MAX, "document_fields_max": FIELDS_MAX,
    }  # fmt: skip
    assert {name: told[name] for name in enforced} == enforced
    assert limits.ARRAY_ITEMS_MAX == limits.MAP_ITEMS_MAX == ITEMS_MAX


@pytest.mark.parametrize("path", sorted(PROTOCOL.glob("**/*.md")), ids=lambda path: path.name)
def test_links_lead_to_files(path: Any) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / link).exists(), link
