"""Decisions over HTTP: what became of a notification, and why.

Owns these routes and who sees what: an API key with the scope `notifications:read` all of every decision, a person by
their token the decisions about themselves, in words for them. One who asks for another's is told that there is none.
"""

import re

from syncd.net.api.calls import Call, forbidden
from syncd.net.api.preferences import user_of
from syncd.net.auth import NOTIFICATIONS_READ, KeyPrincipal
from syncd.net.exchange import Response, json_content
from syncd.net.problems import raised
from syncd.notify import asking
from syncd.notify.desk import identity, parse_identity
from syncd.store import keys

LIMIT_DEFAULT = 50
NO_STORE = ("Cache-Control", "no-store")


async def get_decision(call: Call) -> Response:
    caller, text = call.known_caller(), call.parameters["id"]
    if isinstance(caller, KeyPrincipal) and not caller.has_scope(NOTIFICATIONS_READ):
        raise forbidden(f"this needs an API key with the scope {NOTIFICATIONS_READ}", NOTIFICATIONS_READ)
    named = parse_identity(text)
    with call.services.store.read() as tx:
        row = None if named is None else asking.found(tx, *named)
        is_shown = row is not None and (isinstance(caller, KeyPrincipal) or caller.user == row.user)
        if row is None or named is None or not is_shown:
            raise raised("not-found", f"there is no decision {text[:60]!r}, or it is about somebody else")
        tell = asking.told if isinstance(caller, KeyPrincipal) else asking.told_to_person
        return json_content(200, tell(tx, *named, row), (NO_STORE,))


async def get_decisions(call: Call) -> Response:
    """Newest first. `before`: the id of the last one of the page before."""
    caller, user = call.known_caller(), user_of(call)
    if isinstance(caller, KeyPrincipal):
        if not caller.has_scope(NOTIFICATIONS_READ):
            raise forbidden(f"this needs an API key with the scope {NOTIFICATIONS_READ}", NOTIFICATIONS_READ)
    elif caller.user != user:
        raise forbidden("decisions are shown to the person that they are about", NOTIFICATIONS_READ)
    limit, before, owner = _limit(call), _before(call), keys.owner(user)
    tell = asking.told if isinstance(caller, KeyPrincipal) else asking.told_to_person
    with call.services.store.read() as tx:
        rows = asking.listed(tx, user, before, limit + 1)
        shown = [tell(tx, owner, number, row) for number, row in rows[:limit]]
    following = identity(owner, rows[limit - 1][0]) if len(rows) > limit else None
    return json_content(200, {"decisions": shown, "before": following}, (NO_STORE,))


def _limit(call: Call) -> int:
    text = call.query.get("limit", str(LIMIT_DEFAULT))
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= asking.PAGE_MAX:
        raise raised("malformed-request", f"'limit' is an integer from 1 to {asking.PAGE_MAX}", parameter="limit")
    return int(text)


def _before(call: Call) -> int | None:
    text = call.query.get("before")
    if text is None:
        return None
    named = parse_identity(text)
    if named is None:
        raise raised("malformed-request", "'before' is the id of a decision", parameter="before")
    return named[1]
