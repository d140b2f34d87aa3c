"""The server runs the vectors of protocol/vectors: codec, values, sums, names, timing; and the files are up to date."""

import json
from pathlib import Path
from typing import Any

import msgpack
import orjson
import pytest

from protocol.conformance.cddl import parsed
from syncd.core.changes import RefusedChange, parsed_change
from syncd.core.documents import Document
from syncd.core.fields import Field
from syncd.core.ids import BadName, check_name, check_space
from syncd.core.sums import CHAIN_START, bucket_of, chained, hashed
from syncd.core.values import ValueRefused, checked, encoded
from syncd.wire import messages as m
from syncd.wire.codec import JSON, MSGPACK, from_json_value, json_value
from syncd.wire.errors import CLOSE_BY_CODE, RANGES, ProtocolError
from syncd.wire.session import Due, ServerSession, ping_ms_for
from tests.protocol.make_vectors import VECTORS, files, text_of

SCHEMA = parsed((VECTORS.parent / "syncd.cddl").read_text())


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


CODEC, VALUES, SUMS, NAMES, TIMING = map(vectors, ("codec", "values", "sums", "names", "timing"))


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("name", sorted(files()))
def test_the_files_are_up_to_date(name: str) -> None:
    assert (VECTORS / f"{name}.json").read_text() == text_of(files()[name])


@pytest.mark.parametrize("case", CODEC["accepted"], ids=named)
def test_an_accepted_message_matches_the_schema(case: dict[str, Any]) -> None:
    raw = msgpack.unpackb(bytes.fromhex(case["msgpack"]), raw=False)
    assert SCHEMA.matches(f"{case['from']}-message", raw)


@pytest.mark.parametrize("case", [case for case in CODEC["accepted"] if case["from"] == "client"], ids=named)
def test_a_message_of_a_client_is_read_the_same_in_both_bindings(case: dict[str, Any]) -> None:
    (message,) = MSGPACK.decode(bytes.fromhex(case["msgpack"]))
    assert JSON.decode(json.dumps([case["json"]])) == [message]
    assert type(message).__name__.lower() == {1: "hello", 4: "push"}.get(
        case["json"][0], type(message).__name__.lower()
    )


def server_message(case: dict[str, Any]) -> m.ServerMessage | None:
    """The dataclass of a server's message, by its JSON form; None for one with keys that this version never sends."""
    code, _ = case["json"]
    classes: dict[int, Any] = {
        32: m.Welcome,
        33: m.Subscribed,
        34: m.Delta,
        37: m.Differ,
        38: m.Repair,
        35: m.Outcomes,
        36: m.Revoked,
        39: m.Heard,
        40: m.Presence,
        44: m.Noted,
        41: m.Expired,
        42: m.Error,
        43: m.Goaway,
        20: m.Ping,
        21: m.Pong,
    }
    raw = msgpack.unpackb(bytes.fromhex(case["msgpack"]), raw=False)[1]
    if "later" in raw:
        return None
    if "docs" in raw:
        raw["docs"] = tuple(m.DocumentEntry(*entry) for entry in raw["docs"])
    if "outcomes" in raw:
        raw["outcomes"] = tuple(m.OutcomeEntry(*entry) for entry in raw["outcomes"])
    if "results" in raw:
        raw["results"] = tuple(m.EventResult(*result) for result in raw["results"])
    if "here" in raw:
        raw["here"] = tuple(map(tuple, raw["here"]))
    if "caps" in raw:
        raw["caps"] = tuple(raw["caps"])
    if "from" in raw:
        raw["from_"] = raw.pop("from")
    message: m.ServerMessage = classes[code](**raw)
    return message


@pytest.mark.parametrize("case", [case for case in CODEC["accepted"] if case["from"] == "server"], ids=named)
def test_a_message_of_a_server_is_written_like_this(case: dict[str, Any]) -> None:
    message = server_message(case)
    if message is None:
        return
    assert orjson.loads(JSON.encode(message)) == [case["json"]]
    expected, written = bytes.fromhex(case["msgpack"]), MSGPACK.encode(message)
    # The order of a body's keys is free.
    assert len(written) == len(expected)
    assert msgpack.unpackb(written) == msgpack.unpackb(expected)


@pytest.mark.parametrize("case", CODEC["ignored"], ids=named)
def test_an_unknown_type_from_128_on_is_ignored(case: dict[str, Any]) -> None:
    assert MSGPACK.decode(bytes.fromhex(case["msgpack"])) == []


@pytest.mark.parametrize("case", CODEC["rejected"], ids=named)
def test_a_rejected_frame_has_the_error_of_the_vector(case: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        if "json_text" in case:
            JSON.decode(case["json_text"])
        else:
            MSGPACK.decode(bytes.fromhex(case["msgpack"]))
    assert caught.value.kind.name == case["error"]


@pytest.mark.parametrize("case", CODEC["refused_changes"], ids=named)
def test_a_refused_change_has_the_outcome_of_the_vector(case: dict[str, Any]) -> None:
    operations = msgpack.unpackb(bytes.fromhex(case["operations_msgpack"]), raw=False)
    change = parsed_change([1, bytes(8), 0, 0, operations])
    assert isinstance(change, RefusedChange)
    assert change.outcome == case["outcome"]


@pytest.mark.parametrize("case", VALUES["values"], ids=lambda case: case["canonical"][:24])
def test_a_value_has_one_canonical_encoding(case: dict[str, Any]) -> None:
    value = checked(from_json_value(case["json"]))
    assert encoded(value).hex() == case["canonical"]
    assert json_value(value) == case["json"]
    for other in case["also"]:
        assert encoded(checked(msgpack.unpackb(bytes.fromhex(other), raw=False))).hex() == case["canonical"]


@pytest.mark.parametrize("case", VALUES["not_values"], ids=named)
def test_what_is_no_value_is_refused(case: dict[str, Any]) -> None:
    """By the codec if MessagePack itself is broken, else with the outcome of its change."""
    operation = b"\x95" + b"".join(map(msgpack.packb, ("reg.set", "c", "d", "f"))) + bytes.fromhex(case["msgpack"])
    change = b"\x95\x01" + b"\xc4\x08" + bytes(8) + b"\x00\x00\x91" + operation
    push = b"\x92\x04\x83" + b"\xa5space\xa1s" + b"\xa5epoch\xc0" + b"\xa7changes\x91" + change
    try:
        (message,) = MSGPACK.decode(push)
    except ProtocolError as error:
        assert error.kind.name == "malformed"
        return
    assert isinstance(message, m.Push)
    assert isinstance(message.changes[0], RefusedChange)


def test_sums_and_buckets() -> None:
    total = 0
    for case in SUMS["documents"]:
        part = hashed(("d", case["collection"], case["id"], case["rev"]))
        for name, (kind, value) in case["fields"].items():
            counted = value[1][-1][0] if kind == "text" else checked(from_json_value(value))
            part += hashed(("f", case["collection"], case["id"], name, counted))
        assert (part % 2**64).to_bytes(8).hex() == case["sum"]
        assert hashed(("k", case["collection"], case["id"])).to_bytes(8).hex() == case["key_hash"]
        assert bucket_of(case["collection"], case["id"]) == case["bucket"]
        total += part
    assert (total % 2**64).to_bytes(8).hex() == SUMS["sum"]


def test_the_sum_of_a_document_is_that_of_its_visible_fields() -> None:
    from syncd.core.sums import document_sum

    case = next(case for case in SUMS["documents"] if case["id"] == "é")
    registers = {
        name: Field("reg", 1, 1, 1, (True, from_json_value(value), 0, 1, 1))
        for name, (_, value) in case["fields"].items()
    }
    hidden = Field("reg", 1, 1, 1, (False, None, 0, 1, 1))
    document = Document(1, case["rev"], 1, ((1, 1),), (), ((1, 1),), {**registers, "unset": hidden}, case["rev"])
    assert document_sum(case["collection"], case["id"], document).to_bytes(8).hex() == case["sum"]


def test_chain() -> None:
    chain = CHAIN_START
    for link in SUMS["chain"]:
        chain = chained(chain, bytes.fromhex(link["device"]), link["n"], bytes.fromhex(link["nonce"]))
        assert chain.hex() == link["chain"]


def test_names() -> None:
    for name in NAMES["spaces"]["valid"]:
        assert check_space(name) == name
    for name in NAMES["names"]["valid"]:
        assert check_name(name, "a field") == name
    for name in NAMES["spaces"]["invalid"]:
        with pytest.raises(BadName):
            check_space(name)
    for name in NAMES["names"]["invalid"]:
        with pytest.raises(BadName):
            check_name(name, "a field")


def test_a_value_that_is_too_deep_or_too_long_is_refused() -> None:
    with pytest.raises(ValueRefused):
        checked("x" * 65_534)


def test_keep_alive_of_the_server() -> None:
    for case in TIMING["keep_alive"]["ping_ms_taken"]:
        assert ping_ms_for(case["keepalive_ms"]) == case["ping_ms"]
    times = TIMING["keep_alive"]["server"]
    session = ServerSession(MSGPACK, 0, ping_ms=times["ping_ms"])
    session.receive(bytes.fromhex(CODEC["accepted"][0]["msgpack"]), 0)
    session.send(m.Welcome(bytes(16), 0, "ann", False, {}, times["ping_ms"], 1000, {}, "syncd"))
    assert session.deadline_ms == times["ping_after_ms"]
    assert session.tick(times["ping_after_ms"]) is Due.PING
    assert session.deadline_ms == times["close_4001_after_ms"]
    assert session.tick(times["close_4001_after_ms"]) is Due.CLOSE


def test_close_codes() -> None:
    for case in TIMING["close_codes"]:
        close = CLOSE_BY_CODE.get(case["code"])
        span = next((span for span in RANGES if span.first <= case["code"] <= span.last), None)
        assert case["action"] in {entry.action for entry in (close, span) if entry is not None}


def test_every_vector_file_is_known() -> None:
    assert {path.stem for path in Path(VECTORS).glob("*.json")} == set(files())
