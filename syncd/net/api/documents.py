"""Reading documents over HTTP: one, a page of many, and why a field has its value.

Owns entity tags, cursors and the JSON of a document. Each read happens in one read transaction and says at which
position; pages are separate reads, so a later one may show changes that came after the first.
"""

import base64
import re
from urllib.parse import urlencode

import orjson

from syncd.core.ids import Position, check_name
from syncd.engine import reading
from syncd.engine.explaining import explained
from syncd.engine.grants import Role
from syncd.engine.reading import Found
from syncd.net.api.calls import Call, check_role
from syncd.net.api.history import at_of, past_document
from syncd.net.exchange import Response, content, json_content
from syncd.net.problems import raised
from syncd.store.api import Reader
from syncd.wire.codec import json_value

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
PAGE_BYTES = 1024 * 1024  # a page ends beyond this, whatever its limit: one document may have 256 KiB
CHUNK = 16  # documents read at once: what is read beyond the end of a page stays small
CURSOR_CHARACTERS_MAX = 1024
PRIVATE = ("Cache-Control", "private, no-cache")  # may be kept by the caller, and is asked for again with its tag

Headers = tuple[tuple[str, str], ...]
_LISTED_TAG = re.compile(r'\s*(?:W/)?("[\x21\x23-\x7e]*")\s*(?:,|$)')


async def get_document(call: Call) -> Response:
    space = call.space()
    collection, document_id = call.name("collection", "a collection"), call.name("id", "a document id")
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
        position = reading.position(tx, space)
        found = reading.document(tx, space, collection, document_id)
    headers = _position_header(position)
    if "at" in call.query:
        past = await past_document(call, space, (collection, document_id), at_of(call))
        assert past.document is not None, "what is not there has been refused"
        found = reading.shown(collection, document_id, past.document)
    if position is None or found is None:
        raise raised("not-found", f"{space} has no document {collection}/{document_id}", headers)
    headers += (("ETag", f'"{Position(position.epoch, found.rev)}"'), PRIVATE)
    if _is_known(call, headers):
        return Response(304, headers)
    return content(200, "application/json", _document_json(found), headers)


async def get_documents(call: Call) -> Response:
    space = call.space()
    collection = call.name("collection", "a collection") if "collection" in call.parameters else None
    limit = _limit(call.query.get("limit"))
    after = _after(call.query.get("after"), collection)
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
        position = reading.position(tx, space)
        if position is None:
            raise raised("not-found", f"there is no space {space}")
        headers = (*_position_header(position), ("ETag", f'"{position}"'), PRIVATE)
        if _is_known(call, headers):
            return Response(304, headers)
        items, last = _page(tx, space, collection, after, limit)
    parts = [b'{"position":', orjson.dumps(str(position)), b',"documents":[', b",".join(items), b"]"]
    if last is not None:
        cursor = base64.urlsafe_b64encode(orjson.dumps(last)).rstrip(b"=").decode()
        parts += [b',"next":', orjson.dumps(cursor)]
        target = f"{call.request.path}?{urlencode({'limit': limit, 'after': cursor})}"
        headers += (("Link", f'<{target}>; rel="next"'),)
    return content(200, "application/json", b"".join([*parts, b"}"]), headers)


async def get_explanation(call: Call) -> Response:
    space = call.space()
    collection, document_id = call.name("collection", "a collection"), call.name("id", "a document id")
    field = call.name("field", "a field") if "field" in call.parameters else None
    with call.services.store.read() as tx:
        role = check_role(call, tx, space, Role.READER)
        position = reading.position(tx, space)
        answer = explained(tx, space, collection, document_id, field)
    headers = (*_position_header(position), ("Cache-Control", "no-store"))
    if answer["state"] == "absent":
        raise raised("not-found", f"{space} has no document {collection}/{document_id}, and remembers none", headers)
    if field is not None and field not in answer["fields"]:
        raise raised("not-found", f"{collection}/{document_id} has no field {field}", headers)
    if role < Role.OWNER:
        del answer["refused"]  # what a refused change said was never visible to anyone but its author
    # Field names are the keys of a map here, not of a value, so they are not escaped as a value's keys are.
    fields = {name: json_value(explanation) for name, explanation in answer.pop("fields").items()}
    return json_content(200, {**json_value(answer), "fields": fields}, headers)


def _position_header(position: Position | None) -> Headers:
    return () if position is None else (("Position", str(position)),)


def _is_known(call: Call, headers: Headers) -> bool:
    """Whether If-None-Match names the entity tag among `headers` (weak comparison: RFC 9110, 13.1.2)."""
    given = call.request.headers.get("if-none-match")
    if given is None:
        return False
    current = dict(headers)["ETag"]
    return given.strip() == "*" or current in _LISTED_TAG.findall(given)


def _document_json(found: Found) -> bytes:
    fields = {name: json_value(value) for name, value in found.fields.items()}
    document = {"collection": found.collection, "id": found.id, "rev": found.rev}
    return orjson.dumps({**document, "fields": fields, "types": found.types})


def _page(
    tx: Reader, space: str, collection: str | None, after: tuple[str, str] | None, limit: int
) -> tuple[list[bytes], tuple[str, str] | None]:
    """The JSON of up to `limit` documents after `after`, and the last one's name if more follow."""
    items: list[bytes] = []
    size = 0
    while True:
        asked = min(limit - len(items), CHUNK)
        listing = reading.documents(tx, space, collection, after, asked)
        for found in listing.found:
            if size >= PAGE_BYTES:
                return items, after
            items.append(_document_json(found))
            size += len(items[-1])
            after = (found.collection, found.id)
        after = listing.after
        if after is None or len(items) == limit or len(listing.found) < asked:
            return items, after


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= LIMIT_MAX:
        raise raised("malformed-request", f"'limit' is an integer from 1 to {LIMIT_MAX}", parameter="limit")
    return int(text)


def _after(cursor: str | None, collection: str | None) -> tuple[str, str] | None:
    """The place that a cursor stands for. A cursor is ours, but it comes from outside."""
    if cursor is None:
        return None
    try:
        if len(cursor) > CURSOR_CHARACTERS_MAX:
            raise ValueError("longer than any cursor")
        name, document_id = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        place = check_name(name, "a collection"), check_name(document_id, "a document id")
        if collection is not None and name != collection:
            raise ValueError("a cursor of another list")
        return place
    except (ValueError, TypeError):  # also BadName, binascii.Error and what orjson raises
        expected = "'after' is the 'next' of an earlier page of the same list"
        raise raised("malformed-request", expected, parameter="after") from None
