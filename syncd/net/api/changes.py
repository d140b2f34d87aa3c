"""POST /v1/spaces/{space}/changes: a backend's change, and its outcome after the commit.

Owns how a change, its base, its precondition and its Idempotency-Key stand in a request. What becomes of the operations
is the engine's business: each outcome, also a refusal, is an answer with status 200.
"""

import re
from hashlib import sha256
from typing import Any

import orjson

from syncd.core.ids import Position
from syncd.core.values import ValueRefused
from syncd.engine import reading
from syncd.engine.commands import Author, Expired, Idempotency, Post, Posted, Refused, Result
from syncd.engine.grants import Role
from syncd.net.api.calls import (
    Call,
    author_of,
    check_role,
    executed,
    forbidden_on,
    json_object,
    pointer,
    position_of,
)
from syncd.net.exchange import Response, json_content
from syncd.net.problems import raised
from syncd.wire.codec import from_json_value, json_value

IDEMPOTENCY_LIFETIME_MS = 24 * 3600 * 1000  # stated in the API's description: as Stripe's
HASH_BYTES = 16
BODY_BYTES_MAX = 2 * 1024 * 1024  # a change of 256 KiB in MessagePack takes at most six times as much in JSON

_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")


async def post_change(call: Call) -> Response:
    space, author = call.space(), author_of(call.known_caller())
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.WRITER)
        binding = reading.bound(tx, author)
    if isinstance(binding, Refused):
        # A device id is the client's own choice, so someone may have taken the one that stands for this user here.
        raise raised("forbidden", binding.detail)
    body = json_object(call, BODY_BYTES_MAX, frozenset({"operations", "base"}))
    base = _base(call, body)
    if_match = _if_match(call, body)
    command = Post(author, space, operations_of(body), base, if_match, _idempotency(call, author, space, body))
    result = await executed(call, command)
    if not isinstance(result, Posted):
        raise _problem(result, command)
    answer: dict[str, Any] = {"outcome": result.outcome}
    if result.seq is not None:
        answer["seq"] = result.seq
    if result.detail is not None:
        answer["detail"] = json_value(result.detail)
    position = str(result.position)
    return json_content(200, answer | {"position": position}, (("Position", position), ("Cache-Control", "no-store")))


def operations_of(body: dict[str, Any]) -> Any:
    operations = body.get("operations")
    if not isinstance(operations, list):
        raise raised("invalid-request", "'operations' is an array of operations", pointer="/operations")
    converted = []
    for index, operation in enumerate(operations):
        try:
            converted.append(from_json_value(operation))
        except ValueRefused as error:
            raise raised("invalid-request", str(error), pointer=pointer("operations", index)) from None
    return converted


def _base(call: Call, body: dict[str, Any]) -> Position | None:
    """Where the backend read what it edits: from the body or the query."""
    in_query, in_body = call.query.get("base"), body.get("base")
    position = None if in_body is None else position_of(in_body, {"pointer": "/base"})
    if in_query is not None:
        other = position_of(in_query, {"parameter": "base"})
        if position is not None and position != other:
            raise raised("invalid-request", "'base' in the query and in the body differ", pointer="/base")
        position = other
    return position


def _if_match(call: Call, body: dict[str, Any]) -> tuple[str, str, Position] | None:
    """The document that all operations concern, and the revision that it must be at."""
    header = call.request.headers.get("if-match")
    if header is None:
        return None
    tag = _ENTITY_TAG.fullmatch(header.strip())
    if tag is None:
        expected = "If-Match takes one entity tag, as a read of the document gave it"
        raise raised("malformed-request", expected, header="If-Match")
    operations = body.get("operations")
    documents = {
        (operation[1], operation[2])
        for operation in (operations if isinstance(operations, list) else ())
        if isinstance(operation, list) and len(operation) > 2 and all(isinstance(name, str) for name in operation[1:3])
    }
    if len(documents) != 1:
        raise raised("invalid-request", "with If-Match all operations concern one document", pointer="/operations")
    if tag[1]:
        # RFC 9110, 13.1.1 demands the strong comparison, in which a weak tag never matches.
        raise raised("precondition-failed", "If-Match compares strongly, so a weak entity tag never matches")
    collection, document_id = documents.pop()
    return collection, document_id, position_of(tag[2], {"header": "If-Match"})


def _idempotency(call: Call, author: Author, space: str, body: dict[str, Any]) -> Idempotency | None:
    """The key is the author's own. The request is compared as data: a retry may write its JSON in another way."""
    key = call.request.headers.get("idempotency-key")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        expected = "Idempotency-Key has 1-255 printable ASCII characters"
        raise raised("malformed-request", expected, header="Idempotency-Key")
    asked = [space, body, call.query.get("base"), call.request.headers.get("if-match")]
    try:
        request = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise raised("invalid-request", "the operations are nested too deeply", pointer="/operations") from None
    who = sha256(author.device + b"\0" + key.encode()).digest()[:HASH_BYTES]
    return Idempotency(who, sha256(request).digest()[:HASH_BYTES], IDEMPOTENCY_LIFETIME_MS)


def _problem(result: Result, command: Post) -> Exception:
    """Why the change was not even judged."""
    if isinstance(result, Expired):
        fields: dict[str, Any] = {"epoch": result.epoch.hex(), "fork": result.fork}
        detail = "the position belongs to another epoch of the space"
        # An entity tag of another epoch simply does not match; only a stated base is a position that has expired.
        is_base = command.base is not None and command.base.epoch != result.epoch
        return raised("expired-position" if is_base else "precondition-failed", detail, **fields)
    assert isinstance(result, Refused), "a post is answered by Posted, Expired or Refused"
    if result.reason == "forbidden":
        return forbidden_on(command.space, Role.WRITER)
    if result.reason == "idempotency_reuse":
        return raised("idempotency-key-reused", result.detail)
    if result.reason == "if_match" or command.if_match is not None:
        return raised("precondition-failed", result.detail)
    assert result.reason == "bad_position", "every refusal of a post has a problem"
    return raised("bad-position", result.detail)
