"""An author's dead letters over HTTP: listed, read, replayed as they are or edited, and dropped.

Owns how they stand in requests and answers. Who sees a letter, who touches it, and what a replay is, is
`engine.letters`'s business. The device of another conversation is the same author: a letter of any of a user's devices
is the user's.
"""

from collections.abc import Mapping
from typing import Any

from syncd.core.values import decoded
from syncd.engine import letters
from syncd.engine.commands import DropLetter, Posted, Refused, ReplayLetter
from syncd.engine.grants import Role
from syncd.net.api.calls import Call, author_of, check_role, executed, forbidden, json_object
from syncd.net.api.changes import BODY_BYTES_MAX, operations_of
from syncd.net.auth import CHANGES_WRITE
from syncd.net.exchange import Response, json_content
from syncd.net.problems import raised
from syncd.wire.codec import json_value

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
NUMBER_MAX = 2**53 - 1
NO_STORE = ("Cache-Control", "no-store")


async def get_letters(call: Call) -> Response:
    space = call.space()
    first = _count(call.query, "from", 0, 0, NUMBER_MAX)
    limit = _count(call.query, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX)
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
        page = letters.listed(tx, author_of(call.known_caller()), space, first, limit)
    answer: dict[str, Any] = {"letters": [_shown(letter) for letter in page.letters]}
    if page.next is not None:
        answer["next"] = page.next
    return json_content(200, answer, (NO_STORE,))


async def get_letter(call: Call) -> Response:
    space, number = call.space(), _number(call)
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
        letter = letters.seen(tx, author_of(call.known_caller()), space, number)
    if letter is None:
        raise raised("not-found", f"there is no dead letter {number} in {space}")
    return json_content(200, _shown(letter) | {"payload": json_value(decoded(letter.row.payload))}, (NO_STORE,))


async def post_replay(call: Call) -> Response:
    """As it is, or with other operations in its place. Asked again, it answers what came of the first time."""
    space, number = call.space(), _number(call)
    body = json_object(call, BODY_BYTES_MAX, frozenset({"operations"})) if call.request.body else {}
    operations = operations_of(body) if body else None
    command = ReplayLetter(author_of(call.known_caller()), space, number, operations)
    result = await executed(call, command)
    if isinstance(result, Refused):
        raise _problem(call, result, space, Role.WRITER)
    assert isinstance(result, Posted), "what is not refused has an outcome"
    answer = _outcome(result.outcome, result.seq, result.detail) | {"position": str(result.position)}
    return json_content(200, answer, (("Position", answer["position"]), NO_STORE))


async def delete_letter(call: Call) -> Response:
    space, number = call.space(), _number(call)
    result = await executed(call, DropLetter(author_of(call.known_caller()), space, number))
    if isinstance(result, Refused):
        raise _problem(call, result, space, Role.READER)
    return Response(204, ())


def _shown(letter: letters.Letter) -> dict[str, Any]:
    """A letter without its payload, which may be large."""
    row = letter.row
    shown: dict[str, Any] = {"letter": letter.number, "user": letter.user, "device": row.device.hex()}
    shown |= {"kind": row.kind, "n": row.n, "base": row.base, "stamp": row.stamp, "reason": row.reason}
    shown |= {"at_ms": row.at_ms}
    if row.collection is not None and row.document_id is not None:
        shown |= {"collection": row.collection, "id": row.document_id}
    if row.replay is not None:
        shown["replay"] = _outcome(*row.replay)
    return shown


def _outcome(outcome: str, seq: int | None, detail: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"outcome": outcome}
    if seq is not None:
        told["seq"] = seq
    if detail is not None:
        told["detail"] = json_value(detail)
    return told


def _problem(call: Call, refused: Refused, space: str, needed: Role) -> Exception:
    if refused.reason == "unknown":
        return raised("not-found", refused.detail)
    if refused.reason == "invalid":
        return raised("invalid-request", refused.detail, pointer="/operations")
    assert refused.reason == "forbidden", "every refusal has a problem"
    with call.services.store.read() as tx:
        check_role(call, tx, space, needed)  # in the words of all routes, if that is why
    return forbidden(refused.detail, f"{CHANGES_WRITE}:{space}")


def _number(call: Call) -> int:
    return _integer(call.parameters["letter"], "letter", 0, NUMBER_MAX)


def _count(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    return default if name not in query else _integer(query[name], name, least, most)


def _integer(text: str, name: str, least: int, most: int) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 16 and least <= int(text) <= most:
        return int(text)
    raise raised("malformed-request", f"{name!r} is an integer from {least} to {most}", parameter=name)
