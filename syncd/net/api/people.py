"""All that is kept of a person about notifications: told and erased over HTTP.

Owns these routes. An API key with the scope `users:erase` may do both; a person may have all that is kept of them told
by their own token, and turns to whoever runs the service to have it erased.
"""

from typing import Any

from syncd.engine.commands import ErasedUser, EraseUser
from syncd.net.api.calls import Call, executed, forbidden
from syncd.net.api.preferences import user_of
from syncd.net.api.workflows import check_scope_of
from syncd.net.auth import USERS_ERASE, KeyPrincipal
from syncd.net.exchange import Response, json_content
from syncd.notify import erasure
from syncd.wire.codec import json_value

STEPS_MAX = 200  # of one request: 20,000 documents; each waits for its commit
NO_STORE = ("Cache-Control", "no-store")


async def get_data(call: Call) -> Response:
    caller, user = call.known_caller(), user_of(call)
    is_own = not isinstance(caller, KeyPrincipal) and caller.user == user
    if not is_own and not (isinstance(caller, KeyPrincipal) and caller.has_scope(USERS_ERASE)):
        raise forbidden(f"this needs an API key with the scope {USERS_ERASE}, or the person's own token", USERS_ERASE)
    with call.services.store.read() as tx:
        told = erasure.exported(tx, user, call.services.clock.now_ms())
    return json_content(200, export_json(told), (NO_STORE,))


def export_json(told: dict[str, Any]) -> dict[str, Any]:
    """An export, with the values of documents as all documents have them in JSON."""
    documents = {
        collection: {
            name: {field: json_value(value) for field, value in fields.items()} for name, fields in each.items()
        }
        for collection, each in told["documents"].items()
    }
    return told | {"documents": documents}


async def delete_data(call: Call) -> Response:
    """In steps, until nothing is left; `more` if that takes another request."""
    check_scope_of(call, USERS_ERASE)
    user = user_of(call)
    documents, rows, is_more, steps = 0, 0, True, 0
    while is_more and steps < STEPS_MAX:
        step = await executed(call, EraseUser(user))
        assert isinstance(step, ErasedUser), "a step of an erasure is answered so"
        documents, rows, is_more, steps = documents + step.documents, rows + step.rows, step.is_more, steps + 1
    told = {"documents": documents, "rows": rows, "more": is_more}
    return json_content(200, told, (NO_STORE,))
