"""CloudEvents: what is an event, and that any input is answered in a documented way."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.wire.cloudevents import (
    BATCH,
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    STRUCTURED,
    CloudEvent,
    InvalidEvent,
    MalformedContent,
    TooMuch,
    UnsupportedContent,
    event_key,
    parsed_events,
    parsed_time_ms,
)
from syncd.wire.limits import CONTAINERS_MAX

GOOD = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.shipped"}


def structured(event: Any) -> CloudEvent | InvalidEvent:
    (result,) = parsed_events({"content-type": STRUCTURED}, json.dumps(event).encode())
    return result


def binary(body: bytes = b"", content_type: str | None = None, **attributes: str) -> CloudEvent | InvalidEvent:
    headers = {f"ce-{name}": value for name, value in ({k: str(v) for k, v in GOOD.items()} | attributes).items()}
    if content_type is not None:
        headers["content-type"] = content_type
    (result,) = parsed_events(headers, body)
    return result


def detail(result: CloudEvent | InvalidEvent) -> str:
    assert isinstance(result, InvalidEvent)
    return result.detail


def good(result: CloudEvent | InvalidEvent) -> CloudEvent:
    assert isinstance(result, CloudEvent), result
    return result


def test_all_attributes_of_an_event() -> None:
    event = good(
        structured(
            GOOD
            | {
                "subject": "42",
                "time": "2026-11-23T15:04:05.25+01:00",
                "datacontenttype": "application/json",
                "dataschema": "https://example.com/s",
                "data": {"a": [1, None]},
                "traceparent": "00-x",
                "n": 1,
                "b": True,
            }
        )
    )
    assert (event.source, event.id, event.type, event.subject) == ("/shop", "1", "order.shipped", "42")
    assert event.time_ms == round(datetime(2026, 11, 23, 14, 4, 5, tzinfo=UTC).timestamp() * 1000) + 250
    assert event.data == {"a": [1, None]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"specversion": None}, "'specversion'"),
        ({"specversion": "0.3"}, "'specversion'"),
        ({"specversion": 1.0}, "'specversion'"),
        ({"id": None}, "'id' is required"),
        ({"id": ""}, "'id'"),
        ({"id": 1}, "'id'"),
        ({"source": ""}, "'source'"),
        ({"source": "a b"}, "URI"),
        ({"source": "%"}, "URI"),
        ({"type": None}, "'type' is required"),
        ({"type": []}, "'type'"),
        ({"subject": ""}, "'subject'"),
        ({"subject": "a\nb"}, "control"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"time": 1}, "'time'"),
        ({"datacontenttype": "json"}, "media type"),
        ({"dataschema": "a b"}, "URI"),
        ({"data": 1, "data_base64": "AA=="}, "not both"),
        ({"data_base64": "!"}, "base64"),
        ({"data_base64": "AA"}, "base64"),
        ({"data_base64": 1}, "base64"),
        ({"Upper": "x"}, "a-z"),
        ({"snake_case": "x"}, "a-z"),
        ({"": "x"}, "a-z"),
        ({"ext": {}}, "'ext'"),
        ({"ext": 1.5}, "'ext'"),
        ({"ext": 2**31}, "32 bits"),
        ({"ext": "\x00"}, "control"),
        ({"id": "x" * 2049}, "2048"),
        ({"data": "x" * EVENT_BYTES_MAX}, str(EVENT_BYTES_MAX)),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], said: str) -> None:
    assert said in detail(structured(GOOD | change))


def test_an_event_of_exactly_the_limit_is_taken() -> None:
    room = EVENT_BYTES_MAX - len(json.dumps(GOOD | {"data": ""}, separators=(",", ":")))
    assert good(structured(GOOD | {"data": "x" * room}))
    assert "has at most" in detail(structured(GOOD | {"data": "x" * (room + 1)}))


def test_deep_data_is_refused_and_not_fatal() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    assert "deep" in detail(structured(GOOD | {"data": deep}))


def test_null_is_absent() -> None:
    event = good(structured(GOOD | {"subject": None, "time": None, "data": None, "data_base64": None, "ext": None}))
    assert (event.subject, event.time_ms, event.data) == (None, None, None)


def test_base64_data_is_bytes() -> None:
    assert good(structured(GOOD | {"data_base64": "AP8="})).data == b"\x00\xff"


# -- modes ------------------------------------------------------------------------------------------------------------


def test_binary_mode_reads_attributes_from_headers_and_data_by_its_type() -> None:
    event = good(binary(b'{"a":1}', "application/json; charset=utf-8", subject="j%C3%B6rg%20x", ext="1"))
    assert event.subject == "jörg x" and event.data == {"a": 1}
    assert good(binary("ö".encode(), "text/plain")).data == "ö"
    assert good(binary(b"\xff", "image/png")).data == b"\xff"
    assert good(binary(b"\xff")).data == b"\xff"
    assert good(binary()).data is None
    assert good(binary(b"[]", "application/vnd.x+json")).data == []


def test_headers_are_unquoted_and_decoded_once() -> None:
    assert good(binary(subject='"a \\"b\\" %25"')).subject == 'a "b" %'
    assert good(binary(subject="%2525")).subject == "%25"
    assert good(binary(subject="jörg".encode().decode("latin-1"))).subject == "jörg"
    assert "UTF-8" in detail(binary(subject="%FF"))
    assert "control" in detail(binary(subject="%00"))


@pytest.mark.parametrize(
    ("body", "content_type", "more", "said"),
    [
        (b"{", "application/json", {}, "no JSON"),
        (b"\xff", "text/plain", {}, "UTF-8"),
        (b"x" * EVENT_BYTES_MAX, "text/plain", {}, "has at most"),
        (b"", None, {"datacontenttype": "x/y"}, "ce-datacontenttype"),
        (b"", None, {"data": "x"}, "ce-data"),
        (b"", None, {"no-name": "x"}, "a-z"),
        (b"", None, {"specversion": "0.3"}, "specversion"),
        (b"", "json", {}, "media type"),
    ],
)
def test_what_is_wrong_in_binary_mode_is_said(
    body: bytes, content_type: str | None, more: dict[str, str], said: str
) -> None:
    assert said in detail(binary(body, content_type, **more))


def test_one_event_says_the_same_in_all_modes() -> None:
    event = GOOD | {"subject": "42", "time": "2026-11-23T15:04:05Z", "data": {"a": 1}}
    batch = parsed_events({"content-type": BATCH}, json.dumps([event]).encode())
    other = binary(b'{"a":1}', "application/json", subject="42", time="2026-11-23T15:04:05Z")
    assert structured(event) == batch[0] == other


def test_a_batch_has_results_in_order_and_a_limit() -> None:
    items: list[Any] = [GOOD, 1, None, [], GOOD | {"id": ""}, GOOD | {"id": "2"}]
    results = parsed_events({"content-type": BATCH}, json.dumps(items).encode())
    assert [isinstance(result, CloudEvent) for result in results] == [True, False, False, False, False, True]
    assert len(parsed_events({"content-type": BATCH}, json.dumps([1] * EVENTS_MAX).encode())) == EVENTS_MAX
    with pytest.raises(TooMuch) as refused:
        parsed_events({"content-type": BATCH}, json.dumps([1] * (EVENTS_MAX + 1)).encode())
    assert refused.value.limit == EVENTS_MAX
    with pytest.raises(TooMuch) as refused:
        parsed_events({"content-type": BATCH}, b"[[" + b"[]," * CONTAINERS_MAX + b"0]]")
    assert refused.value.limit == CONTAINERS_MAX


def test_content_types_are_read_without_case_and_parameters() -> None:
    for content_type in (STRUCTURED.upper(), f"{STRUCTURED}; charset=UTF-8", f' {STRUCTURED} ;charset="utf-8"'):
        assert parsed_events({"content-type": content_type}, json.dumps(GOOD).encode())
    for content_type in (
        f"{STRUCTURED}; charset=latin-1",
        "application/cloudevents",
        "application/cloudevents+avro",
        "application/json",
        "",
    ):
        with pytest.raises(UnsupportedContent):
            parsed_events({"content-type": content_type, "x": "y"}, b"{}")


# -- keys and times ---------------------------------------------------------------------------------------------------


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_events_have_one_key_iff_source_and_id_are_equal(one: tuple[str, str], other: tuple[str, str]) -> None:
    surrogates = any(0xD800 <= ord(c) < 0xE000 for c in "".join(one + other))
    if not surrogates:
        assert (event_key(*one) == event_key(*other)) == (one == other)
        assert len(event_key(*one)) == 16


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)), st.integers(-23 * 60, 23 * 60))
def test_times_are_read_to_the_millisecond(moment: datetime, offset_minutes: int) -> None:
    sign, (hours, minutes) = "-" if offset_minutes < 0 else "+", divmod(abs(offset_minutes), 60)
    text = f"{moment.isoformat(timespec='microseconds')}{sign}{hours:02}:{minutes:02}"
    utc = moment.replace(tzinfo=UTC) - timedelta(minutes=offset_minutes)
    cut = moment.microsecond % 1000
    assert parsed_time_ms(text) == (utc - timedelta(microseconds=cut) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        milliseconds=1
    )


def test_times_at_the_edges() -> None:
    assert parsed_time_ms("1970-01-01t00:00:00z") == 0
    assert parsed_time_ms("1990-12-31T23:59:60Z") == parsed_time_ms("1991-01-01T00:00:00Z")
    assert parsed_time_ms("1970-01-01T00:00:00.123456789Z") == 123
    for wrong in (
        "1970-01-01", "1970-01-01T00:00:00", "1970-02-30T00:00:00Z", "1970-01-01T24:00:00Z", "1970-01-01T00:00:61Z",
        "1970-01-01 00:00:00Z", "1970-01-01T00:00:00+24:00", "1970-01-01T00:00:00+00:60", "0000-01-01T00:00:00Z",
        "１970-01-01T00:00:00Z", "1970-01-01T00:00:00.Z", "1970-01-01T00:00:00Z\n",
    ):  # fmt: skip
        with pytest.raises(ValueError):
            parsed_time_ms(wrong)


# -- whatever comes ---------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
attribute_names = st.sampled_from(
    ["specversion", "id", "source", "type", "subject", "time", "data", "data_base64", "ext"]
)
nearly = st.dictionaries(attribute_names, json_values, max_size=4).map(lambda more: GOOD | more)


@given(st.sampled_from([STRUCTURED, BATCH]), st.one_of(json_values, nearly, st.lists(nearly | json_values, max_size=4)))
def test_any_json_gives_results_or_a_documented_error(content_type: str, value: Any) -> None:
    try:
        results = parsed_events({"content-type": content_type}, json.dumps(value).encode())
    except MalformedContent:
        assert not isinstance(value, dict if content_type == STRUCTURED else list) or "\\ud" in json.dumps(value)
        return
    assert len(results) == (len(value) if isinstance(value, list) else 1)


@given(
    st.binary(max_size=100),
    st.dictionaries(st.sampled_from(["content-type", *[f"ce-{n}" for n in GOOD], "ce-x"]), st.text()),
)
def test_any_request_gives_results_or_a_documented_error(body: bytes, headers: dict[str, str]) -> None:
    with suppress(UnsupportedContent, MalformedContent, TooMuch):
        assert len(parsed_events(headers, body)) >= 0


@given(st.binary(max_size=50))
def test_bytes_survive_base64(data: bytes) -> None:
    event = good(structured(GOOD | {"data_base64": base64.b64encode(data).decode()}))
    assert event.data == data
