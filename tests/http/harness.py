"""The API over a memory store, the real engine and the real committer.

Every response that a test gets was checked against openapi.json.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from syncd.core.values import encoded
from syncd.engine.commands import Command, CreateKey, Decision, Done, Failed, PostEvents, Result
from syncd.engine.engine import Engine
from syncd.engine.grants import Grant, Role
from syncd.env.memory import InlineOffload
from syncd.env.real import NoFaults
from syncd.net.api import Api
from syncd.net.api.service import ROUTES
from syncd.net.auth import Authenticator, make_key, secret_hash, sign_token, token_key
from syncd.net.counters import Counters
from syncd.net.exchange import Health, Later, Request, Response
from syncd.net.fallback import METHODS
from syncd.net.limits import NetLimits
from syncd.net.live import Live
from syncd.net.waiters import Waiters
from syncd.notify.book import Book
from syncd.notify.carrying import carried_out
from syncd.notify.service import Decider
from syncd.store import keys
from syncd.store.committer import Committer
from syncd.store.memory import MemoryStore
from syncd.store.tables import META
from syncd.wire.limits import DEFAULT

NOW_MS = 1_795_000_000_000
SIGNING_KEY = token_key("test", "HS256", b"a secret of at least thirty-two bytes")
OPENAPI: dict[str, Any] = orjson.loads(files("syncd.net.api").joinpath("openapi.json").read_bytes())
_REGISTRY: Registry[Any] = Registry().with_resource("urn:api", Resource.from_contents(OPENAPI, DRAFT202012))


@dataclass
class Clock:
    """A clock that moves only when a test moves it."""

    ms: int = NOW_MS

    def now_ms(self) -> int:
        return self.ms


class Answer:
    """A response, with its body read."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.status = response.status
        self.body = response.body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The name of the problem that this is."""
        assert self.header("Content-Type") == "application/problem+json", self.body
        return str(self.json["type"]).removeprefix("/problems/")

    def header(self, name: str) -> str | None:
        return self.response.header(name)


async def whole_response(api: Api, request: Request) -> Response:
    """The response, waited for if it comes later."""
    response = await api.handle(request)
    return await response.answer() if isinstance(response, Later) else response


class Server:
    """One daemon without a network."""

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        self.clock = Clock()
        self.store = MemoryStore(limit_bytes)
        self.health = Health()
        self.waiters = Waiters(NetLimits())
        self.live = Live({}, NetLimits(), DEFAULT, Counters())
        numbers = iter(range(1, 1 << 30))
        engine = Engine(lambda size: next(numbers).to_bytes(size), further=carried_out, notices=Decider(Book()))
        with self.store.write() as tx:  # as each start makes it
            META.put(tx, keys.meta("opt-out key"), (bytes(range(64)),))
        self.committer: Committer[Command, Result, Decision] = Committer(
            self.store, engine.decide, lambda decision: decision.results, self._publish, Failed, self.clock,
            InlineOffload(), NoFaults(), adds_data=lambda command: True, size_bytes=_size_bytes,
        )  # fmt: skip
        self.api = Api(
            store=self.store,
            committer=self.committer,
            authenticator=Authenticator([SIGNING_KEY]),
            clock=self.clock,
            health=lambda: self.health,
            waiters=self.waiters,
            live=self.live,
            uniform=lambda low, high: (low + high) / 2,
        )

    async def _publish(self, decision: Decision) -> None:
        for delta in decision.deltas:
            await self.waiters.wake(delta.space)

    def token(self, user: str = "42", **grants: str) -> str:
        """A token; in a keyword, `__` stands for `/` and a leading `any` for `**`."""
        given = [
            Grant(name.replace("__", "/").replace("any", "**"), Role[role.upper()]) for name, role in grants.items()
        ]
        return sign_token(SIGNING_KEY, user, given, 3600, self.clock.ms)

    async def key(self, name: str, *scopes: str) -> str:
        """The secret of a new API key."""
        secret = make_key(name.encode().ljust(32, b"\0"))
        made = await self.committer.execute(
            CreateKey(name, scopes, secret_hash(secret), name.encode().ljust(16, b"\0"))
        )
        assert isinstance(made, Done)
        return secret

    async def ask(
        self, method: str, target: str, credentials: str | None = None, body: Any = None, **headers: str
    ) -> Answer:
        """`body`: bytes as they are, anything else as JSON; in the name of a header `_` stands for `-`."""
        path, _, query = target.partition("?")
        sent = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        if credentials is not None:
            sent["authorization"] = f"Bearer {credentials}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        request = Request(method, path, query, sent, body or b"", "127.0.0.1:1", self.clock.ms)
        response = await whole_response(self.api, request)
        check_described(method, path, response)
        return Answer(response)

    async def change(
        self, credentials: str, space: str, *operations: list[Any], query: str = "", **headers: str
    ) -> Answer:
        target = f"/v1/spaces/{space.replace('%', '%25').replace('/', '%2F')}/changes{query}"
        return await self.ask("POST", target, credentials, {"operations": list(operations)}, **headers)


def _size_bytes(command: Command) -> int:
    return sum(len(encoded(event.source)) for event in command.events) if isinstance(command, PostEvents) else 100


def template_of(path: str) -> str | None:
    """The template in openapi.json that a path matches."""
    segments = path.split("/")
    for template in OPENAPI["paths"]:
        parts = template.split("/")
        same = [part.startswith("{") or part == segment for part, segment in zip(parts, segments, strict=False)]
        if len(parts) == len(segments) and all(same):
            return str(template)
    return None


def errors_of(pointer: str, value: Any) -> Iterator[str]:
    """What a schema of openapi.json, at a JSON pointer, says against a value."""
    validator = Draft202012Validator({"$ref": f"urn:api#{pointer}"}, registry=_REGISTRY)
    return (error.message for error in validator.iter_errors(value))


def check_described(method: str, path: str, response: Response) -> None:
    """Assert that the response is one of those that openapi.json describes."""
    assert response.header("Date") and response.header("X-Content-Type-Options") == "nosniff"
    template = template_of(path)
    verb = "get" if method == "HEAD" else method.lower()
    operation = OPENAPI["paths"].get(template, {}).get(verb)
    media_type = (response.header("Content-Type") or "").partition(";")[0]
    if template is None or operation is None:
        assert response.status in (404, 405)
        pointer = "/components/schemas/Problem"
    else:
        described = operation["responses"].get(str(response.status))
        assert described is not None, f"{method} {template} does not describe {response.status}: {response.body!r}"
        where = f"/paths/{template.replace('/', '~1')}/{verb}/responses/{response.status}"
        if "$ref" in described:
            where = described["$ref"].removeprefix("#")
            described = OPENAPI["components"]["responses"][where.rpartition("/")[2]]
        for name in described.get("headers", {}):
            if name not in ("Link", "Retry-After", "WWW-Authenticate"):
                assert response.header(name), f"{method} {path} lacks {name}"
        if response.status in (204, 304):
            assert response.body == b"" and response.header("Content-Length") is None
            assert "content" not in described
            return
        assert media_type in described["content"], f"{media_type} is not described"
        pointer = f"{where}/content/{media_type.replace('/', '~1')}/schema"
    if media_type == "text/event-stream":
        assert response.body == b"" and response.header("Content-Length") is None
        return
    if method == "HEAD":
        assert response.body == b"" and response.header("Content-Length")
        return
    assert response.header("Content-Length") == str(len(response.body))
    if media_type.endswith("json"):
        body = json.loads(response.body)
        assert not list(errors_of(_quoted(pointer), body)), (list(errors_of(_quoted(pointer), body)), body)
    if response.status >= 400:
        assert media_type == "application/problem+json"
        assert json.loads(response.body)["status"] == response.status


def _quoted(pointer: str) -> str:
    return pointer.replace("{", "%7B").replace("}", "%7D")


def described_routes() -> set[tuple[str, str]]:
    return {
        (method.upper(), path) for path, item in OPENAPI["paths"].items() for method in item if method != "parameters"
    }


def served_routes() -> set[tuple[str, str]]:
    polled = {(method, path) for path, methods in METHODS.items() for method in methods}
    return {(route.method, route.template) for route in ROUTES} | polled
