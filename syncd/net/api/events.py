"""POST /v1/events: CloudEvents in, a result for each after the commit.

Owns the way from the parts of a request to the engine's events and back. What makes an event valid is
`wire.cloudevents`' business, what it does the engine's.
"""

from syncd.engine.commands import EventResults, PostEvents
from syncd.net.api.calls import Call, author_of, executed, forbidden
from syncd.net.auth import EVENTS_WRITE, KeyPrincipal
from syncd.net.exchange import BODY_BYTES_MAX, Response, json_content
from syncd.net.problems import raised
from syncd.wire.cloudevents import (
    SUPPORTED,
    CloudEvent,
    MalformedContent,
    TooMuch,
    UnsupportedContent,
    parsed_events,
)

REMEMBERED_MS = 7 * 24 * 3600 * 1000  # (source, id) is known for a week: longer than any producer retries


async def post_events(call: Call) -> Response:
    caller, request = call.known_caller(), call.request
    if not isinstance(caller, KeyPrincipal) or not caller.has_scope(EVENTS_WRITE):
        raise forbidden(f"this needs an API key with the scope {EVENTS_WRITE}", EVENTS_WRITE)
    if len(request.body) > BODY_BYTES_MAX:
        raise raised("too-large", f"the body has at most {BODY_BYTES_MAX} bytes", limit_bytes=BODY_BYTES_MAX)
    try:
        events = parsed_events(request.headers, request.body)
    except UnsupportedContent as error:
        raise raised("unsupported-media-type", str(error), supported=list(SUPPORTED)) from None
    except MalformedContent as error:
        raise raised("malformed-request", str(error)) from None
    except TooMuch as error:
        raise raised("too-large", str(error), limit=error.limit) from None
    good = tuple([event for event in events if isinstance(event, CloudEvent)])
    judged: tuple[tuple[str, str | None], ...] = ()
    if good:
        result = await executed(call, PostEvents(author_of(caller), good, REMEMBERED_MS))
        assert isinstance(result, EventResults) and len(result.results) == len(good), "one result per event"
        judged = result.results
    remaining = iter(judged)
    results = []
    for event in events:
        status, detail = next(remaining) if isinstance(event, CloudEvent) else ("invalid", event.detail)
        entry = {"source": event.source, "id": event.id, "status": status}
        results.append(entry if detail is None else entry | {"detail": detail})
    return json_content(202, {"results": results}, (("Cache-Control", "no-store"),))
