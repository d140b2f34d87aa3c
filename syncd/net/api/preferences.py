"""A person's preferences over HTTP, and the link that turns a category off in one step.

Owns these routes. Preferences are documents in the person's own space (`notify/choosing.py`): who may write there may
choose, a backend by its key and a person by their token, and each request becomes one change like a device's. The page
behind an opt-out link is for people and for mail programs (RFC 8058): to look at it alters nothing, because programs
follow links to look for harm; a POST does it, whatever its body, as often as it comes.
"""

import re
from html import escape
from typing import Any

from syncd.core.ids import PREFERENCES, PROFILE, BadName, user_space
from syncd.engine import reading
from syncd.engine.commands import Post, Posted, Refused
from syncd.engine.grants import Grant, Role
from syncd.net.api.calls import Call, author_of, check_role, executed, forbidden_on, json_object, pointer
from syncd.net.api.workflows import refused_definitions
from syncd.net.auth import USER_CHARACTERS_MAX, KeyPrincipal, Principal
from syncd.net.exchange import Response, content, json_content
from syncd.net.problems import raised
from syncd.notify import choosing, optout, versions
from syncd.notify.workflows import BadDefinitions
from syncd.store.api import Reader

BODY_BYTES_MAX = 65_536
KNOWN = frozenset({"all", "categories", "topics", "profile"})
NO_STORE = ("Cache-Control", "no-store")
PLAIN = ("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'")
_CATEGORY = re.compile(r"[a-z][a-z0-9_.-]{0,31}", re.ASCII)


def user_of(call: Call) -> str:
    """The user whom the path names."""
    user = call.name("user", "a user")
    if len(user) > USER_CHARACTERS_MAX:
        raise raised("malformed-request", f"a user has at most {USER_CHARACTERS_MAX} characters", parameter="user")
    return user


def space_of(call: Call) -> str:
    try:
        return user_space(user_of(call))
    except BadName as error:
        raise raised("malformed-request", str(error), parameter="user") from None


async def get_preferences(call: Call) -> Response:
    with call.services.store.read() as tx:
        check_role(call, tx, space_of(call), Role.READER)
        return _shown(call, tx)


async def put_preferences(call: Call) -> Response:
    return await _altered(call, is_patch=False)


async def patch_preferences(call: Call) -> Response:
    return await _altered(call, is_patch=True)


async def _altered(call: Call, *, is_patch: bool) -> Response:
    """One change from what was read; what a device alters meanwhile meets it by the rules of merging."""
    space, caller = space_of(call), call.known_caller()
    with call.services.store.read() as tx:
        check_role(call, tx, space, Role.WRITER)
        before, position = _documents(tx, space), reading.position(tx, space)
    try:
        choices = choosing.chosen(json_object(call, BODY_BYTES_MAX, KNOWN))
    except BadDefinitions as error:
        raise refused_definitions(error) from None
    source = "backend" if isinstance(caller, KeyPrincipal) else "user"
    operations = choosing.operations(*before, choices, source, is_patch=is_patch)
    if operations:
        await _posted(call, Post(author_of(caller), space, operations, position, None, None))
    with call.services.store.read() as tx:
        return _shown(call, tx)


async def get_opt_out_link(call: Call) -> Response:
    """The link for one category, for a message that leaves the server by another way."""
    user, category = user_of(call), call.query.get("category", optout.EVERYTHING)
    if not _CATEGORY.fullmatch(category):
        raise raised("malformed-request", "'category' is the name of a category, or 'all'", parameter="category")
    with call.services.store.read() as tx:
        check_role(call, tx, space_of(call), Role.WRITER)
        token = optout.token(tx, user, category)
    if token is None:
        raise raised("not-ready", "the server has made no key for opt-out links yet", reasons=["no key"])
    return json_content(200, {"path": f"/opt-out/{token}", "category": category}, (NO_STORE,))


async def get_opt_out(call: Call) -> Response:
    """What the link is about. Nothing is done."""
    _, category = _opened(call)
    what = "all notifications" if category == optout.EVERYTHING else f"notifications about {category}"
    form = f'<form method="post"><button>Turn off {escape(what)}</button></form>'
    return _page(f"Turn off {what}?", f"<p>You will get no more {escape(what)}.</p>{form}")


async def post_opt_out(call: Call) -> Response:
    user, category = _opened(call)
    try:
        space = user_space(user)
    except BadName as error:  # sealed by us, when names could be longer
        raise raised("malformed-request", str(error), parameter="token") from None
    with call.services.store.read() as tx:
        documents, profile = _documents(tx, space)
        position = reading.position(tx, space)
    off = choosing.Choice(frequency="off")
    wanted = (
        choosing.Choices(all=choosing.Everything(frequency="off"))
        if category == optout.EVERYTHING
        else choosing.Choices(categories={category: off})
    )
    operations = choosing.operations(documents, profile, wanted, "user", is_patch=True)
    if operations:
        # The link is the credential, and this is all that it allows: the change is made as the user's own over HTTP.
        author = author_of(Principal(user, (Grant(space, Role.WRITER),), None, None))
        await _posted(call, Post(author, space, operations, position, None, None))
    what = "notifications" if category == optout.EVERYTHING else f"notifications about {category}"
    return _page("Turned off", f"<p>You will get no more {escape(what)}. You can turn them on again in the app.</p>")


# -- parts ------------------------------------------------------------------------------------------------------------


def _opened(call: Call) -> tuple[str, str]:
    with call.services.store.read() as tx:
        found = optout.opened(tx, call.parameters["token"])
    if found is None:
        raise raised("not-found", "this link is none of ours, or not all of it")
    return found


def _page(title: str, body: str) -> Response:
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><h1>{escape(title)}</h1>{body}</html>"
    )
    headers = (NO_STORE, PLAIN, ("Referrer-Policy", "no-referrer"))
    return content(200, "text/html; charset=utf-8", text.encode(), headers)


def _documents(tx: Reader, space: str) -> tuple[choosing.Documents, choosing.Documents]:
    """The documents of `_preferences` and of `_profile`, by id."""
    found = [
        {each.id: each.fields for each in reading.documents(tx, space, collection, None, choosing.READ_MAX).found}
        for collection in (PREFERENCES, PROFILE)
    ]
    return found[0], found[1]


def _shown(call: Call, tx: Reader) -> Response:
    documents, profile = _documents(tx, space_of(call))
    policy = versions.Parsed().active(tx).policy
    shown = choosing.shown(documents, profile, policy, call.services.clock.now_ms())
    return json_content(200, {"user": user_of(call)} | shown, (NO_STORE,))


async def _posted(call: Call, command: Post) -> None:
    result = await executed(call, command)
    if isinstance(result, Refused) and result.reason == "forbidden":
        raise forbidden_on(command.space, Role.WRITER)
    if not isinstance(result, Posted):  # the store was restored between the reading and the change
        raise raised("overloaded", "the space has changed meanwhile", (("Retry-After", "1"),))
    if result.seq is None:
        detail: dict[str, Any] = result.detail or {}
        raise raised("invalid-request", f"{result.outcome}: {detail.get('reason', 'refused')}", pointer=pointer("all"))
