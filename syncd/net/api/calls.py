"""A call: one request on its route, and what every handler needs to read it.

Owns the parts that all resources share: path parameters, query, body, who calls and what it may do. Must not know any
resource. Whatever is wrong with a request is raised as a problem that says what was expected and where.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol
from urllib.parse import parse_qsl

import orjson
import trio

from syncd.core.ids import (
    ID_BYTES,
    RESERVED_DEVICE_PREFIX,
    BadName,
    Position,
    check_name,
    check_space,
    parse_position,
)
from syncd.engine.commands import Author, Command, Failed, Refused, Result
from syncd.engine.grants import Role
from syncd.engine.members import role_of
from syncd.net.api.docs import Pages
from syncd.net.auth import (
    CHANGES_WRITE,
    DOCUMENTS_READ,
    MEMBERS_WRITE,
    Authenticator,
    KeyPrincipal,
    Principal,
    Unauthenticated,
    bearer,
    challenge,
)
from syncd.net.exchange import Health, Request
from syncd.net.live import Live
from syncd.net.problems import raised
from syncd.net.waiters import Waiters
from syncd.store.api import Reader, Store
from syncd.store.committer import Overloaded
from syncd.wire.cloudevents import UnsupportedContent, media_type_of
from syncd.wire.json_values import holds_too_much
from syncd.wire.limits import CONTAINERS_MAX

RETRY_OVERLOADED_S = 1  # the queue holds about a second of work
RETRY_FULL_S = 60  # somebody has to make room, or the collection of garbage has to
QUERY_FIELDS_MAX = 16

Caller = Principal | KeyPrincipal


class Executor(Protocol):
    """What is needed of `store.committer.Committer`."""

    async def execute(self, command: Command) -> Result: ...


class Clock(Protocol):
    """What is needed of `env.ports.Clock`."""

    def now_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ApiServices:
    """What handlers use of the daemon. `turns`: held by who reads for longer than some milliseconds in one go. Each of
    a hundred who read so at the same time is no longer than it may be; together they would hold the loop for seconds.
    """

    store: Store
    committer: Executor
    authenticator: Authenticator
    clock: Clock
    health: Callable[[], Health]
    pages: Pages
    waiters: Waiters
    live: Live
    uniform: Callable[[float, float], float]  # a number between two, for jitter
    turns: trio.Lock = field(default_factory=trio.Lock)


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its route. `parameters`: of the path, decoded. `caller` is None on open routes only. `produces`: the
    media type, of those that the route has, which the answer is to be of if all goes well."""

    services: ApiServices
    request: Request
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    caller: Caller | None
    produces: str

    def space(self) -> str:
        try:
            return check_space(self.parameters["space"])
        except BadName as error:
            raise raised("malformed-request", str(error), parameter="space") from None

    def name(self, parameter: str, what: str) -> str:
        try:
            return check_name(self.parameters[parameter], what)
        except BadName as error:
            raise raised("malformed-request", str(error), parameter=parameter) from None

    def known_caller(self) -> Caller:
        assert self.caller is not None, "the route is not open"
        return self.caller


# -- reading a request ------------------------------------------------------------------------------------------------


def parsed_query(text: str, allowed: tuple[str, ...]) -> dict[str, str]:
    """The query's parameters. Unknown ones are refused: a misspelt `afer` must not read from the start."""
    try:
        pairs = (
            parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX) if text else []
        )
    except ValueError:
        raise raised("malformed-request", "the query is percent-encoded UTF-8 with at most 16 parameters") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            shown, known = name[:40], ", ".join(allowed) or "none"
            raise raised(
                "malformed-request", f"unknown query parameter {shown!r}; known here: {known}", parameter=shown
            )
        if name in query:
            raise raised("malformed-request", f"the query parameter {name!r} is given twice", parameter=name)
        query[name] = value
    return query


def position_of(text: object, where: Mapping[str, Any]) -> Position:
    """A position, or a problem; `where` says which part of the request it was: `parameter` or `pointer`."""
    try:
        if isinstance(text, str):
            return parse_position(text)
    except BadName:
        pass
    name = "invalid-request" if "pointer" in where else "malformed-request"
    expected = "a position is SEQ@EPOCH: a decimal integer, '@' and 32 lower-case hexadecimal digits"
    raise raised(name, expected, **where)


def json_object(call: Call, bytes_max: int, known: frozenset[str]) -> dict[str, Any]:
    """The body, a JSON object with no other keys than `known`."""
    request = call.request
    supported = ["application/json"]
    try:
        media_type = media_type_of(request.headers.get("content-type"))
    except UnsupportedContent as error:
        raise raised("unsupported-media-type", str(error), supported=supported) from None
    if media_type not in supported:
        raise raised("unsupported-media-type", "expected a body of Content-Type application/json", supported=supported)
    if len(request.body) > bytes_max:
        raise raised("too-large", f"the body has at most {bytes_max} bytes", limit_bytes=bytes_max)
    body = _strict_json(request.body)
    if not isinstance(body, dict):
        raise raised("invalid-request", "the body is a JSON object", pointer="")
    for key in body:
        if key not in known:
            raise raised(
                "invalid-request", f"unknown key; known here: {', '.join(sorted(known))}", pointer=pointer(key)
            )
    return body


def _strict_json(data: bytes) -> Any:
    """orjson is strict but keeps the last of two equal keys in silence, and so would write half of what was meant: the
    standard parser reads the text again, only to find those."""
    if holds_too_much(data):
        raise raised("too-large", f"a body holds at most {CONTAINERS_MAX} arrays and maps", limit=CONTAINERS_MAX)
    try:
        value = orjson.loads(data)
        json.loads(data, object_pairs_hook=_unique)
    except orjson.JSONDecodeError as error:
        raise raised("malformed-request", f"the body is no JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise raised("malformed-request", f"the body is not taken: {error}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a repeated key")
    return members


def pointer(*parts: str | int) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part)[:80].replace("~", "~0").replace("/", "~1") for part in parts)


# -- who calls --------------------------------------------------------------------------------------------------------


def owner_of(caller: Caller) -> str:
    """The caller's name among all keys and users: for what belongs to it, and for what is counted by it."""
    return f"key:{caller.name}" if isinstance(caller, KeyPrincipal) else f"user:{caller.user}"


def unauthenticated(error: Unauthenticated) -> Exception:
    return raised("unauthenticated", error.detail, (challenge("invalid_token", error.detail),), reason=error.reason)


def check_credentials(call: Call, tx: Reader) -> None:
    """Raises a problem if the credentials that were good when the request came are so no more: it has waited."""
    caller, now_ms = call.known_caller(), call.services.clock.now_ms()
    try:
        if isinstance(caller, KeyPrincipal):
            secret = bearer(call.request.headers.get("authorization"))
            assert secret is not None, "the caller was known by it"
            call.services.authenticator.api_key(tx, secret)
        elif caller.expires_ms is not None and now_ms >= caller.expires_ms:
            raise Unauthenticated("expired", "the token has expired")
    except Unauthenticated as error:
        raise unauthenticated(error) from None


def author_of(caller: Caller) -> Author:
    """The caller as the engine knows it. A user's token over HTTP is a device too, the same for all tokens of the user,
    and without a memory of its own changes, as an API key: requests may come from anywhere at once."""
    if isinstance(caller, KeyPrincipal):
        return Author(caller.device, None, "key", f"key:{caller.name}", caller.grants)
    digest = sha256(b"syncd http user\0" + caller.user.encode()).digest()
    device = (RESERVED_DEVICE_PREFIX + digest)[:ID_BYTES]
    return Author(device, None, "key", caller.user, caller.grants)


def check_role(call: Call, tx: Reader, space: str, needed: Role) -> Role:
    """The caller's role, at the moment of the transaction in which it is going to read. Raises `forbidden` below
    `needed`, in words that do not tell whether the space exists."""
    role = role_of(tx, author_of(call.known_caller()), space)
    if role < needed:
        raise forbidden_on(space, needed)
    return role


def forbidden_on(space: str, needed: Role) -> Exception:
    scope = {Role.READER: DOCUMENTS_READ, Role.WRITER: CHANGES_WRITE, Role.OWNER: MEMBERS_WRITE}[needed]
    return forbidden(f"this needs the role {needed.name.lower()} on {space}", f"{scope}:{space}")


def forbidden(detail: str, scope: str) -> Exception:
    return raised("forbidden", detail, (challenge("insufficient_scope", detail, scope),), scope=scope)


# -- asking the engine ------------------------------------------------------------------------------------------------


async def executed(call: Call, command: Command) -> Result:
    """The result of a command after its commit; what stands in the way of any command is raised as a problem."""
    try:
        result = await call.services.committer.execute(command)
    except Overloaded as error:
        raise raised("overloaded", str(error), (("Retry-After", str(RETRY_OVERLOADED_S)),)) from None
    if isinstance(result, Failed):
        if result.reason == "store_full":
            raise raised("store-full", result.detail, (("Retry-After", str(RETRY_FULL_S)),))
        if result.reason == "overloaded":
            raise raised("overloaded", result.detail, (("Retry-After", str(RETRY_OVERLOADED_S)),))
        raise raised("internal", result.detail)
    if isinstance(result, Refused) and result.reason == "too_many_spaces":
        raise raised("quota-exceeded", result.detail)
    if isinstance(result, Refused) and result.reason == "too_many_keys":
        raise raised("rate-limited", result.detail, (("Retry-After", str(RETRY_FULL_S)),))
    return result
