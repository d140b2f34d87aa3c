"""The members of a space over HTTP, for its owners, and the devices that have not confirmed a purge.

Owns the route that reads them, and its cursors. There is none that writes a member: that is a change to `_members` like
any other, and a second way would have to judge it a second time.
"""

import base64
from collections.abc import Mapping
from typing import Any

from syncd.core.ids import BadName, check_name
from syncd.engine import roster
from syncd.engine.grants import Role
from syncd.net.api.calls import Call, check_role
from syncd.net.exchange import Response, json_content
from syncd.net.problems import raised

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
CURSOR_CHARACTERS_MAX = 256  # a user of 160 bytes, in base64
NO_STORE = ("Cache-Control", "no-store")


async def get_members(call: Call) -> Response:
    space = call.space()
    limit = _limit(call.query.get("limit"))
    after, unpurged_after = _user(call.query), _place(call.query, "unpurged_after")
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.OWNER)
        members, last = roster.member_page(tx, space, after, limit)
        unpurged, unpurged_last = roster.unpurged_page(tx, space, unpurged_after, limit)
    answer: dict[str, Any] = {"members": members, "unpurged": unpurged}
    if last is not None:
        answer["next"] = _cursor(last.encode())
    if unpurged_last is not None:
        answer["unpurged_next"] = _cursor(unpurged_last)
    return json_content(200, answer, (NO_STORE,))


def _cursor(place: bytes) -> str:
    return base64.urlsafe_b64encode(place).rstrip(b"=").decode()


def _user(query: Mapping[str, str]) -> str:
    try:
        place = _place(query, "after").decode()
        return check_name(place, "a member") if place else ""
    except (UnicodeDecodeError, BadName):
        raise _no_cursor("after") from None


def _place(query: Mapping[str, str], name: str) -> bytes:
    """What a cursor stands for; nothing if there is none. A cursor is ours, but it comes from outside."""
    cursor = query.get(name)
    if cursor is None:
        return b""
    try:
        if not 0 < len(cursor) <= CURSOR_CHARACTERS_MAX:
            raise ValueError("no length of a cursor")
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
    except ValueError:
        raise _no_cursor(name) from None


def _no_cursor(name: str) -> Exception:
    given = "next" if name == "after" else "unpurged_next"
    return raised("malformed-request", f"{name!r} is the {given!r} of an earlier page", parameter=name)


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    raise raised("malformed-request", f"'limit' is an integer from 1 to {LIMIT_MAX}", parameter="limit")
