"""What needs no credentials: health, readiness, and the API's description of itself.

Owns these answers. `/healthz` says that the loop runs, by being answered at all; `/readyz` reports what others observed
(a probe writes nothing); the description is openapi.json as it lies in the package, and a page made of it.
"""

from syncd.net.api.calls import Call
from syncd.net.exchange import Response, content, json_content
from syncd.net.problems import KINDS, raised

NO_STORE = ("Cache-Control", "no-store")
PUBLIC = ("Cache-Control", "public, max-age=300")  # five minutes: an upgraded server is seen soon enough


async def get_health(call: Call) -> Response:
    return json_content(200, {"status": "ok"}, (NO_STORE,))


async def get_readiness(call: Call) -> Response:
    health = call.services.health()
    if not health.is_ready:
        raise raised("not-ready", "; ".join(health.reasons), reasons=list(health.reasons))
    return json_content(200, {"status": "ready"}, (NO_STORE,))


async def get_openapi(call: Call) -> Response:
    return content(200, "application/json", call.services.pages.openapi, (PUBLIC,))


async def get_docs(call: Call) -> Response:
    pages = call.services.pages
    policy = ("Content-Security-Policy", pages.docs_policy)
    return content(200, "text/html; charset=utf-8", pages.docs, (PUBLIC, policy))


async def get_problem(call: Call) -> Response:
    """The short text at the address that is a problem's type."""
    name = call.parameters["name"]
    kind = KINDS.get(name)
    if kind is None:
        raise raised("not-found", f"there is no problem of this name; known: {', '.join(sorted(KINDS))}")
    text = f"{kind.title} ({kind.status})\n\n{kind.text}\n"
    return content(200, "text/plain; charset=utf-8", text.encode(), (PUBLIC,))
