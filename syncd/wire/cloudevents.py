"""CloudEvents 1.0 over HTTP, without I/O: a content type, headers and a body become events.

Owns the three content modes of the HTTP binding (structured, binary, batch), the check of attributes, and the key by
which an event is taken only once. Must not know routes, responses or what an event does (`engine`).

Invariants: C1 any input gives a result for each event, in input order, or raises one of the three exceptions below.
C2 one bad event never hurts another. C3 two events have the same key iff they have the same (source, id).

The official SDK is not used: it has no batch mode, and stops at the first wrong attribute of the first event.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson

from syncd.core.values import encoded
from syncd.wire.json_values import holds_too_much
from syncd.wire.limits import CONTAINERS_MAX

EVENTS_MAX = 1000  # in a batch: one write transaction takes them all, and its length is what others wait for
EVENT_BYTES_MAX = 65536  # the CloudEvents specification asks intermediaries to forward at least this much
ATTRIBUTE_BYTES_MAX = 2048  # longer than any identifier; results repeat `source` and `id`
KEY_BYTES = 16

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
SUPPORTED: Final = (STRUCTURED, BATCH)

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")  # what the specification's String excludes
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;.*)?", re.ASCII)
_EXTENSION = re.compile(r"[a-z0-9]+")
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}):(\d{2})(?:\.(\d+))?(?:[Zz]|([+-])(\d{2}):(\d{2}))", re.ASCII)
_QUOTED_PAIR = re.compile(r"\\(.)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UnsupportedContent(ValueError):
    """The content type is none that carries events."""


class MalformedContent(ValueError):
    """The body cannot be read at all, so there are no events to give results for."""


class TooMuch(ValueError):
    """A batch has more than `limit` events, or the body as many arrays and maps."""

    def __init__(self, detail: str, limit: int) -> None:
        super().__init__(detail)
        self.limit = limit


class CloudEvent(NamedTuple):
    """An event whose attributes are right. `key`: hash of what makes it the same event, 16 bytes. `time_ms`: wall
    milliseconds. `data`: JSON, text, bytes or None. (A frozen dataclass takes four times as long to make, and a batch
    has hundreds.)"""

    key: bytes
    source: str
    id: str
    type: str
    subject: str | None
    time_ms: int | None
    data: Any


@dataclass(frozen=True, slots=True)
class InvalidEvent:
    """An event that cannot be taken. `source` and `id` are repeated if they are text; `detail` says what is wrong."""

    source: str | None
    id: str | None
    detail: str


class _Invalid(Exception):
    pass


def parsed_events(headers: Mapping[str, str], body: bytes) -> tuple[CloudEvent | InvalidEvent, ...]:
    """The events of a request in any content mode. Names in `headers` are lower-case.
    Raises `UnsupportedContent`, `MalformedContent`, `TooMuch`."""
    content_type = headers.get("content-type")
    media_type = media_type_of(content_type)
    if media_type == STRUCTURED:
        event = _json(body)
        if not isinstance(event, dict):
            raise MalformedContent("expected one event as a JSON object")
        return (_parsed(event),)
    if media_type == BATCH:
        batch = _json(body)
        if not isinstance(batch, list):
            raise MalformedContent("expected a batch of events as a JSON array")
        if len(batch) > EVENTS_MAX:
            raise TooMuch(f"a batch has at most {EVENTS_MAX} events, not {len(batch)}", EVENTS_MAX)
        return tuple([_parsed(event) for event in batch])
    if media_type.startswith("application/cloudevents") or "ce-specversion" not in headers:
        raise UnsupportedContent(
            f"expected {STRUCTURED}, {BATCH}, or an event in the binary mode with its attributes in 'ce-' headers"
        )
    return (_parsed_binary(headers, content_type, media_type, body),)


def media_type_of(content_type: str | None) -> str:
    """The media type alone, in lower case; empty if there is none. Raises `UnsupportedContent`: JSON is UTF-8."""
    media_type, _, parameters = (content_type or "").partition(";")
    media_type = media_type.strip().lower()
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        is_charset = name.strip().lower() == "charset"
        if is_charset and _is_json(media_type) and value.strip(' "').lower() not in ("utf-8", "utf8"):
            raise UnsupportedContent("JSON is UTF-8 (RFC 8259, 8.1)")
    return media_type


def event_key(source: str, event_id: str) -> bytes:
    """What makes an event the same event: the specification's (source, id)."""
    return hashlib.sha256(encoded([source, event_id])).digest()[:KEY_BYTES]


def parsed_time_ms(text: str) -> int:
    """An RFC 3339 timestamp in wall milliseconds; finer fractions are cut off. Raises `ValueError`."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("no RFC 3339 timestamp")
    date, minutes, seconds, fraction, sign, offset_hours, offset_minutes = match.groups()
    leap = seconds == "60"  # a leap second, which datetime does not know, is the second after :59
    moment = datetime.fromisoformat(f"{date}T{minutes}:{'59' if leap else seconds}")
    offset = timedelta(hours=int(offset_hours or 0), minutes=int(offset_minutes or 0))
    if int(offset_minutes or 0) > 59 or offset >= timedelta(hours=24):
        raise ValueError("no RFC 3339 offset")
    aware = moment.replace(tzinfo=timezone(-offset if sign == "-" else offset))
    milliseconds = int(((fraction or "") + "000")[:3])
    return (aware - _EPOCH) // timedelta(milliseconds=1) + milliseconds + (1000 if leap else 0)


def _is_json(media_type: str) -> bool:
    return media_type in ("application/json", "text/json") or media_type.endswith("+json")


def _json(body: bytes) -> Any:
    if holds_too_much(body):
        raise TooMuch(f"a body holds at most {CONTAINERS_MAX} arrays and maps", CONTAINERS_MAX)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedContent(f"the body is no JSON: {error}") from None


def _parsed(raw: object) -> CloudEvent | InvalidEvent:
    """One event in the JSON format."""
    if not isinstance(raw, dict):
        return InvalidEvent(None, None, "an event is a JSON object")
    try:
        size = len(orjson.dumps(raw))
        if size > EVENT_BYTES_MAX:
            raise _Invalid(f"an event has at most {EVENT_BYTES_MAX} bytes of compact JSON, not {size}")
        # A null attribute is the same as none (JSON format, 2.2); data may be null, and that too is no data.
        attributes = {name: value for name, value in raw.items() if value is not None}
        data = _json_data(attributes)
        return _checked(attributes, data)
    except orjson.JSONEncodeError:
        return _invalid(raw, "the event is nested too deeply")
    except _Invalid as error:
        return _invalid(raw, str(error))


def _json_data(attributes: dict[str, Any]) -> Any:
    """Take `data` or `data_base64` out of the attributes."""
    data, coded = attributes.pop("data", None), attributes.pop("data_base64", None)
    if coded is None:
        return data
    if data is not None:
        raise _Invalid("an event has 'data' or 'data_base64', not both")
    try:
        return base64.b64decode(coded.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error):
        raise _Invalid("'data_base64' is base64 (RFC 4648, 4)") from None


def _parsed_binary(
    headers: Mapping[str, str], content_type: str | None, media_type: str, body: bytes
) -> CloudEvent | InvalidEvent:
    """One event in the binary content mode: attributes in `ce-` headers, data in the body."""
    coded = {name[3:]: value for name, value in headers.items() if name.startswith("ce-")}
    size = len(body) + sum(len(name) + len(value) for name, value in coded.items())
    attributes: dict[str, Any] = {}
    try:
        for name, value in coded.items():
            attributes[name] = _unescaped(name, value)
        if size > EVENT_BYTES_MAX:
            raise _Invalid(f"an event has at most {EVENT_BYTES_MAX} bytes, not {size}")
        for name in ("datacontenttype", "data", "data_base64"):
            if name in attributes:
                raise _Invalid(f"'ce-{name}' is no header of the binary mode: the body is the data")
        if content_type is not None:
            attributes["datacontenttype"] = content_type
        return _checked(attributes, _binary_data(media_type, body))
    except _Invalid as error:
        return _invalid(attributes, str(error))


def _unescaped(name: str, value: str) -> str:
    """The text of a header (HTTP binding, 3.1.3.2): quoted strings first, then one round of percent-decoding."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
    try:
        # A header's bytes above ASCII were read as Latin-1; a sender that did not encode them meant UTF-8.
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeError:
        raise _Invalid(f"'ce-{name}' is percent-encoded UTF-8") from None


def _binary_data(media_type: str, body: bytes) -> Any:
    if not body:
        return None
    if _is_json(media_type):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _Invalid(f"the data is no JSON, as its Content-Type says: {error}") from None
    if media_type.startswith("text/"):
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise _Invalid("the data is text and so UTF-8") from None
    return body


def _invalid(attributes: Mapping[str, Any], detail: str) -> InvalidEvent:
    source, event_id = (attributes.get(name) for name in ("source", "id"))
    return InvalidEvent(_repeatable(source), _repeatable(event_id), detail)


def _repeatable(value: object) -> str | None:
    return value[:ATTRIBUTE_BYTES_MAX] if isinstance(value, str) else None


def _checked(attributes: dict[str, Any], data: Any) -> CloudEvent:
    """The event of these attributes. Raises `_Invalid`."""
    version = attributes.pop("specversion", None)
    if version != "1.0":
        raise _Invalid("'specversion' is '1.0'")
    source, event_id, event_type = (_text(attributes, name, required=True) for name in ("source", "id", "type"))
    assert source is not None and event_id is not None and event_type is not None
    if not _URI_REFERENCE.fullmatch(source):
        raise _Invalid("'source' is a URI reference (RFC 3986)")
    subject = _text(attributes, "subject")
    schema = _text(attributes, "dataschema")
    if schema is not None and not _URI_REFERENCE.fullmatch(schema):
        raise _Invalid("'dataschema' is a URI (RFC 3986)")
    content_type = _text(attributes, "datacontenttype")
    if content_type is not None and not _MEDIA_TYPE.fullmatch(content_type):
        raise _Invalid("'datacontenttype' is a media type (RFC 2046)")
    time_ms = _time_ms(_text(attributes, "time"))
    for name, value in attributes.items():
        _check_extension(name, value)
    return CloudEvent(event_key(source, event_id), source, event_id, event_type, subject, time_ms, data)


def _text(attributes: dict[str, Any], name: str, *, required: bool = False) -> str | None:
    """Take an attribute out: text that is not empty, or None."""
    value = attributes.pop(name, None)
    if value is None:
        if required:
            raise _Invalid(f"'{name}' is required")
        return None
    if not isinstance(value, str) or not value:
        raise _Invalid(f"'{name}' is text that is not empty")
    if _CONTROL.search(value):
        raise _Invalid(f"'{name}' has no control characters")
    if len(value.encode()) > ATTRIBUTE_BYTES_MAX:
        raise _Invalid(f"'{name}' has at most {ATTRIBUTE_BYTES_MAX} bytes")
    return value


def _time_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parsed_time_ms(text)
    except ValueError:
        raise _Invalid("'time' is a timestamp like 2026-11-23T15:04:05Z (RFC 3339)") from None


def _check_extension(name: str, value: object) -> None:
    shown = name[:40]
    if not _EXTENSION.fullmatch(name):
        raise _Invalid(f"the name of an attribute is of a-z and 0-9, not {shown!r}")
    if isinstance(value, str):
        if _CONTROL.search(value):
            raise _Invalid(f"'{shown}' has no control characters")
    elif type(value) is int:
        if not -(2**31) <= value < 2**31:
            raise _Invalid(f"'{shown}' lies within 32 bits, as the type Integer does")
    elif type(value) is not bool:
        raise _Invalid(f"'{shown}' is text, a boolean or an integer, as every extension attribute")
