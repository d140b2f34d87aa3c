"""The API as one function from request to response.

Owns the table of routes, and what holds for all of them: matching, authentication, content negotiation, HEAD, problems,
`Date`. Must not know how bytes travel (`net.http`) or what a resource does (the modules beside this one). Only the
problems of the table in `net.problems` are answered here; an exception that nobody expected goes up to the shell, which
logs it and answers 500.

Invariants: A1 a handler of a route that is not open runs only for an authenticated caller. A2 every error has a body of
type application/problem+json. A3 the table and openapi.json describe the same routes (a test compares them).
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from syncd.net.api.calls import ApiServices, Call, Caller, Clock, Executor, owner_of, parsed_query, unauthenticated
from syncd.net.api.changes import post_change
from syncd.net.api.consumers import (
    delete_consumer,
    get_consumer,
    get_consumer_changes,
    get_consumers,
    post_ack,
    put_consumer,
)
from syncd.net.api.decisions import get_decision, get_decisions
from syncd.net.api.devices import delete_device, get_devices
from syncd.net.api.docs import loaded_pages
from syncd.net.api.documents import get_document, get_documents, get_explanation
from syncd.net.api.events import post_events
from syncd.net.api.feed import EVENT_STREAM, get_changes
from syncd.net.api.history import get_history, post_revert
from syncd.net.api.letters import delete_letter, get_letter, get_letters, post_replay
from syncd.net.api.members import get_members
from syncd.net.api.operations import get_docs, get_health, get_openapi, get_problem, get_readiness
from syncd.net.api.people import delete_data, get_data
from syncd.net.api.preferences import (
    get_opt_out,
    get_opt_out_link,
    get_preferences,
    patch_preferences,
    post_opt_out,
    put_preferences,
)
from syncd.net.api.reports import get_engagement
from syncd.net.api.signals import post_signals
from syncd.net.api.workflows import (
    delete_active,
    delete_workflow,
    get_workflow,
    get_workflow_version,
    get_workflows,
    post_dry_run,
    post_workflows,
    put_active,
)
from syncd.net.auth import Authenticator, Unauthenticated, bearer, challenge, digest, is_api_key
from syncd.net.counters import Counters
from syncd.net.exchange import Health, Later, Request, Response, http_date
from syncd.net.gate import Gate
from syncd.net.limits import NetLimits
from syncd.net.live import Live
from syncd.net.problems import ProblemRaised, problem_response, raised
from syncd.net.waiters import Waiters
from syncd.store.api import Store

T = TypeVar("T")
Handler = Callable[[Call], Awaitable[Response | Later]]
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Route:
    """`template`: as in OpenAPI, each `{name}` one whole segment. `query`: the parameters it knows. `produces`: the
    media types of its answer when all goes well, of which `Accept` chooses. `is_open`: needs no credentials. `is_long`:
    it may read for tens of milliseconds in one go; such requests take turns (`calls.ApiServices.turns`)."""

    method: str
    template: str
    handler: Handler
    query: tuple[str, ...] = ()
    produces: tuple[str, ...] = (_JSON,)
    is_open: bool = False
    is_long: bool = False


_SPACE: Final = "/v1/spaces/{space}"
_WORKFLOW: Final = "/v1/workflows/{name}"
_USER: Final = "/v1/users/{user}"

ROUTES: Final = (
    Route("POST", "/v1/events", post_events),
    Route("POST", f"{_SPACE}/changes", post_change, ("base",)),
    Route("GET", f"{_SPACE}/changes", get_changes, ("after", "wait", "limit"), (_JSON, EVENT_STREAM)),
    Route("POST", f"{_SPACE}/signals", post_signals),
    Route("GET", f"{_SPACE}/consumers", get_consumers),
    Route("PUT", f"{_SPACE}/consumers/{{name}}", put_consumer),
    Route("GET", f"{_SPACE}/consumers/{{name}}", get_consumer),
    Route("DELETE", f"{_SPACE}/consumers/{{name}}", delete_consumer),
    Route("GET", f"{_SPACE}/consumers/{{name}}/changes", get_consumer_changes, ("wait", "limit")),
    Route("POST", f"{_SPACE}/consumers/{{name}}/ack", post_ack),
    Route("GET", f"{_SPACE}/documents", get_documents, ("limit", "after"), is_long=True),
    Route("GET", f"{_SPACE}/documents/{{collection}}", get_documents, ("limit", "after"), is_long=True),
    Route("GET", f"{_SPACE}/documents/{{collection}}/{{id}}", get_document, ("at",)),
    Route("GET", f"{_SPACE}/documents/{{collection}}/{{id}}/history", get_history, ("from", "limit"), is_long=True),
    Route("POST", f"{_SPACE}/documents/{{collection}}/{{id}}/revert", post_revert),
    Route("GET", f"{_SPACE}/explain/{{collection}}/{{id}}", get_explanation, is_long=True),
    Route("GET", f"{_SPACE}/explain/{{collection}}/{{id}}/{{field}}", get_explanation, is_long=True),
    Route("GET", f"{_SPACE}/letters", get_letters, ("from", "limit"), is_long=True),
    Route("GET", f"{_SPACE}/letters/{{letter}}", get_letter),
    Route("DELETE", f"{_SPACE}/letters/{{letter}}", delete_letter),
    Route("POST", f"{_SPACE}/letters/{{letter}}/replay", post_replay),
    Route("GET", f"{_SPACE}/members", get_members, ("limit", "after", "unpurged_after")),
    Route("GET", "/v1/workflows", get_workflows),
    Route("POST", "/v1/workflows", post_workflows),
    Route("GET", f"{_WORKFLOW}", get_workflow),
    Route("DELETE", f"{_WORKFLOW}", delete_workflow),
    Route("GET", f"{_WORKFLOW}/versions/{{version}}", get_workflow_version),
    Route("PUT", f"{_WORKFLOW}/active", put_active),
    Route("DELETE", f"{_WORKFLOW}/active", delete_active),
    Route("POST", f"{_WORKFLOW}/dry-run", post_dry_run),
    Route("GET", f"{_USER}/preferences", get_preferences),
    Route("PUT", f"{_USER}/preferences", put_preferences),
    Route("PATCH", f"{_USER}/preferences", patch_preferences),
    Route("GET", f"{_USER}/opt-out", get_opt_out_link, ("category",)),
    Route("GET", f"{_USER}/decisions", get_decisions, ("limit", "before")),
    Route("GET", f"{_USER}/data", get_data, is_long=True),
    Route("DELETE", f"{_USER}/data", delete_data),
    Route("GET", f"{_USER}/devices", get_devices, ("limit", "after")),
    Route("DELETE", f"{_USER}/devices/{{device}}", delete_device),
    Route("GET", "/v1/decisions/{id}", get_decision),
    Route("GET", "/v1/reports/engagement", get_engagement, ("from", "to", "by")),
    Route("GET", "/opt-out/{token}", get_opt_out, produces=("text/html",), is_open=True),
    Route("POST", "/opt-out/{token}", post_opt_out, produces=("text/html",), is_open=True),
    Route("GET", "/healthz", get_health, is_open=True),
    Route("GET", "/readyz", get_readiness, is_open=True),
    Route("GET", "/v1/openapi.json", get_openapi, is_open=True),
    Route("GET", "/docs", get_docs, produces=("text/html",), is_open=True),
    Route("GET", "/problems/{name}", get_problem, produces=("text/plain",), is_open=True),
)


class Api:
    """All routes over one daemon's services."""

    def __init__(
        self,
        *,
        store: Store,
        committer: Executor,
        authenticator: Authenticator,
        clock: Clock,
        health: Callable[[], Health],
        waiters: Waiters,
        live: Live,
        uniform: Callable[[float, float], float],
        gate: Gate | None = None,
    ) -> None:
        self._gate = gate or Gate(NetLimits(), Counters())
        self._services = ApiServices(
            store, committer, authenticator, clock, health, loaded_pages(), waiters, live, uniform
        )
        self._by_path: dict[tuple[str, ...], dict[str, Route]] = {}
        self._plain: dict[tuple[str, str], Route] = {}  # those without parameters, once more
        for route in ROUTES:
            if "{" not in route.template:
                self._plain[route.method, route.template] = route
            self._by_path.setdefault(tuple(route.template.split("/")[1:]), {})[route.method] = route

    async def handle(self, request: Request) -> Response | Later:
        """The response to a request, now or later. Raises only what nobody expected."""
        answer = await _caught(request, self._answer(request))
        if isinstance(answer, Response):
            return self._completed(request, answer)
        later = answer

        async def completed() -> Response:
            return self._completed(request, await _caught(request, _awaited(later.answer)))

        return Later(later.wait_s, completed)

    def _completed(self, request: Request, response: Response) -> Response:
        """The response with what all have in common."""
        common = (("Date", http_date(self._services.clock.now_ms())), ("X-Content-Type-Options", "nosniff"))
        if request.method == "HEAD":
            return Response(response.status, response.headers + common)
        return Response(response.status, response.headers + common, response.body, response.stream)

    async def _answer(self, request: Request) -> Response | Later:
        route, parameters = self._matched(request)
        caller = None if route.is_open else self._caller(request)
        query = parsed_query(request.query, route.query)
        produces = negotiated(request.headers.get("accept"), route.produces)
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise raised("unsupported-media-type", "a compressed body is not taken", supported=["identity"])
        call = Call(self._services, request, parameters, query, caller, produces)
        if not route.is_long:
            return await route.handler(call)
        async with self._services.turns:
            return await route.handler(call)

    def _matched(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        route = self._plain.get((request.method, request.path))
        if route is not None:
            return route, {}
        segments = request.path.split("/")[1:]
        for template, methods in self._by_path.items():
            if len(template) != len(segments):
                continue
            pairs = list(zip(template, segments, strict=True))
            if any(part != segment for part, segment in pairs if not part.startswith("{")):
                continue
            route = methods.get("GET" if request.method == "HEAD" else request.method)
            if route is None:
                allowed = ", ".join(sorted(methods) + (["HEAD"] if "GET" in methods else []))
                raise raised("method-not-allowed", f"this address takes {allowed}", (("Allow", allowed),))
            return route, {part[1:-1]: _unescaped(segment) for part, segment in pairs if part.startswith("{")}
        raise raised("not-found", "there is nothing at this address; /docs lists what there is")

    def _caller(self, request: Request) -> Caller:
        gate = self._gate
        try:
            credentials = bearer(request.headers.get("authorization"))
            if credentials is None:
                gate.failed(request.peer, "missing")
                detail = "expected 'Authorization: Bearer' and a token or an API key"
                raise raised("unauthenticated", detail, (challenge(),), reason="missing")
            credentials_digest = digest(credentials)
            if wait_s := gate.credentials_refused_s(request.peer, credentials_digest):
                raise rate_limited("this address sent wrong credentials too often", wait_s)
            caller = self._verified(credentials, credentials_digest)
        except Unauthenticated as error:
            gate.failed(request.peer, error.reason)
            raise unauthenticated(error) from None
        gate.accepted(credentials_digest)
        if wait_s := gate.caller_refused_s(owner_of(caller)):
            raise rate_limited("these credentials ask too often", wait_s)
        return caller

    def _verified(self, credentials: str, credentials_digest: bytes) -> Caller:
        services = self._services
        if is_api_key(credentials):
            with services.store.read() as tx:
                return services.authenticator.api_key(tx, credentials)
        return services.authenticator.token(credentials, services.clock.now_ms(), credentials_digest)


def rate_limited(detail: str, wait_s: float) -> ProblemRaised:
    return raised("rate-limited", detail, (("Retry-After", str(int(wait_s) + 1)),))


async def _caught(request: Request, answer: Coroutine[Any, Any, T]) -> T | Response:
    """An answer, or the problem that it ended with."""
    try:
        return await answer
    except ProblemRaised as error:
        problem = error.problem
        return problem_response(problem.name, problem.detail, request.path, problem.headers, **problem.fields)


async def _awaited(answer: Callable[[], Awaitable[T]]) -> T:
    return await answer()


def _unescaped(segment: str) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise raised("malformed-request", "a segment of the path is percent-encoded UTF-8") from None


def negotiated(accept: str | None, available: tuple[str, ...]) -> str:
    """The media type that an Accept header likes best, the first of equals (RFC 9110, 12.5.1). Raises `not-acceptable`
    if it excludes all."""
    if accept is None or not accept.strip():
        return available[0]
    ranges = [[part.strip().lower() for part in item.split(";")] for item in accept.split(",")]
    qualities = {media_type: _liking(media_type, ranges) for media_type in available}
    best = max(available, key=lambda media_type: qualities[media_type])
    if qualities[best] <= 0:
        raise raised("not-acceptable", f"this address answers with {' or '.join(available)}", available=list(available))
    return best


def _liking(media_type: str, ranges: list[list[str]]) -> float:
    """The quality that the most specific of the ranges gives to a media type."""
    specificity = {media_type: 3, f"{media_type.partition('/')[0]}/*": 2, "*/*": 1}
    best, quality = 0, 0.0
    for media_range, *parameters in ranges:
        rank = specificity.get(media_range, 0)
        if rank > best:
            best, quality = rank, _quality(parameters)
    return quality


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
