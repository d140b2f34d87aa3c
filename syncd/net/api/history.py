"""Reading the past of a document over HTTP: what it was as of a position, and the changes that made it.

Owns how a position in the past stands in a request, and what is answered where it is not known any more. How far a
history reaches, and what it says, is `engine.history`'s business. Whoever may read a document now may read its past.

Invariant: Y1 the role is judged in each transaction in which something is read.
"""

import re
from typing import Any

from syncd.core.documents import reservations
from syncd.core.ids import Position
from syncd.engine import reading
from syncd.engine.batch import DocumentName, space_row
from syncd.engine.commands import Refused, Revert, Reverted
from syncd.engine.epochs import fork_of
from syncd.engine.grants import Role
from syncd.engine.history import LISTED_MAX, NotTouched, Past, Rewind, listed, told
from syncd.net.api.calls import Call, author_of, check_role, executed, forbidden_on, json_object, position_of
from syncd.net.exchange import Response, json_content
from syncd.net.problems import ProblemRaised, raised
from syncd.store.api import Reader
from syncd.store.tables import SpaceRow
from syncd.wire.codec import json_value

LIMIT_DEFAULT = 50
BODY_BYTES_MAX = 1024  # a position


async def past_document(call: Call, space: str, name: DocumentName, at: Position, role: Role = Role.READER) -> Past:
    """What a document was as of a position, in steps between which others are served. Raises problems: also where
    there was none, or nobody knows."""
    rewind = Rewind(space, name, at.seq)
    while True:
        async with call.services.turns:
            with call.services.store.read() as tx:
                check_role(call, tx, space, role)
                row = space_row(tx, space)
                if row is None:
                    raise raised("not-found", f"there is no space {space}")
                _check_position(tx, row, at)
                found = rewind.step(tx)
        if found is not None:
            break
    if found.known_from is not None:
        raise history_gone(name, found.known_from)
    if not found.is_live:
        what = "was deleted" if found.document is not None else "did not exist"
        raise raised("not-found", f"as of seq {at.seq} {name[0]}/{name[1]} {what}")
    return found


def _check_position(tx: Reader, row: SpaceRow, at: Position) -> None:
    """A position in an epoch that ended is one of the present, if both share their history up to it."""
    if at.epoch != row.epoch:
        fork = fork_of(tx, row, at.epoch)
        if at.seq > fork:
            detail = "the position belongs to another epoch of the space"
            raise raised("expired-position", detail, epoch=row.epoch.hex(), fork=fork)
    if at.seq > row.head:
        raise raised("bad-position", f"the position lies beyond the head {row.head}")


def history_gone(name: DocumentName, known_from: int) -> ProblemRaised:
    detail = f"what {name[0]}/{name[1]} was then is not kept any more; it is known from seq {known_from} on"
    return raised("history-gone", detail, known_from=known_from)


def at_of(call: Call) -> Position:
    return position_of(call.query["at"], {"parameter": "at"})


async def get_history(call: Call) -> Response:
    """A page of the changes that touched a document, newest first."""
    space = call.space()
    name = call.name("collection", "a collection"), call.name("id", "a document id")
    limit, start = _count(call, "limit", LISTED_MAX) or LIMIT_DEFAULT, _count(call, "from", 2**53 - 1)
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.READER)
        row = space_row(tx, space)
        try:
            page = listed(tx, space, name, start, limit)
        except NotTouched as error:
            raise raised("malformed-request", f"{error}; 'from' is the 'next' of a page", parameter="from") from None
        changes = [] if row is None else told(tx, row.id, page.changes)
        position = reading.position(tx, space)
    headers = () if position is None else (("Position", str(position)),)
    if position is None or page.state == "absent":
        raise raised("not-found", f"{space} has no document {name[0]}/{name[1]}, and remembers none", headers)
    answer = {"collection": name[0], "id": name[1], "state": page.state, "rev": page.rev}
    answer |= {"position": str(position), "changes": [json_value(change) for change in changes]}
    if page.next is not None:
        answer["next"] = page.next
    if page.known_from is not None:
        answer["known_from"] = page.known_from
    return json_content(200, answer, (*headers, ("Cache-Control", "no-store")))


async def post_revert(call: Call) -> Response:
    """Make a document what it was as of a position, by a change of the caller's."""
    space, author = call.space(), author_of(call.known_caller())
    name = call.name("collection", "a collection"), call.name("id", "a document id")
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.WRITER)
        binding = reading.bound(tx, author)
    if isinstance(binding, Refused):
        raise raised("forbidden", binding.detail)
    body = json_object(call, BODY_BYTES_MAX, frozenset({"at"}))
    past = await past_document(call, space, name, position_of(body.get("at"), {"pointer": "/at"}), Role.WRITER)
    assert past.document is not None, "what was not there has been refused"
    keys = reservations(past.document)
    result = await executed(call, Revert(author, space, *name, past.document.visible(), keys))
    if isinstance(result, Refused):
        raise forbidden_on(space, Role.WRITER) if result.reason == "forbidden" else raised("not-found", result.detail)
    assert isinstance(result, Reverted), "a revert is answered by Reverted or Refused"
    position = str(result.posted.position)
    return json_content(200, revert_json(result), (("Position", position), ("Cache-Control", "no-store")))


def revert_json(result: Reverted) -> dict[str, Any]:
    posted = result.posted
    answer: dict[str, Any] = {"outcome": posted.outcome}
    if posted.seq is not None:
        answer["seq"] = posted.seq
    if posted.detail is not None:
        answer["detail"] = json_value(posted.detail)
    return answer | {"position": str(posted.position), "left": list(result.left)}


def _count(call: Call, name: str, most: int) -> int | None:
    text = call.query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,16}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise raised("malformed-request", f"{name!r} is an integer from 1 to {most}", parameter=name)
    return int(text)
