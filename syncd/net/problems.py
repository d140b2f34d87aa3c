"""Problem details (RFC 9457): every error that the HTTP API answers, as one table.

Owns the names, statuses and texts of problems and how one is written. Must not know which route raises which. `type` is
the relative URI `/problems/NAME`, under which the text of the table is served.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from syncd.net.exchange import Response, json_content

MEDIA_TYPE = "application/problem+json"


class ProblemKind(NamedTuple):
    """One kind of problem: its HTTP status, a short title, and what a caller should know and do."""

    status: int
    title: str
    text: str


KINDS: dict[str, ProblemKind] = {
    "malformed-request": ProblemKind(
        400,
        "Malformed request",
        "The request could not be read: a header, a query parameter, the path or the JSON of the body breaks its"
        " syntax. Nothing was done. `detail` says what was expected and where. Repeating it as it is does not help.",
    ),
    "invalid-request": ProblemKind(
        422,
        "Invalid request",
        "The body is well-formed but not what this route takes. `pointer` is a JSON Pointer (RFC 6901) to the part of"
        " the body that is wrong. Nothing was done.",
    ),
    "unauthenticated": ProblemKind(
        401,
        "Authentication required",
        "The request carries no credentials, or they are not valid. Send `Authorization: Bearer` with a token or an"
        " API key. `reason` is one of missing, malformed, bad_signature, unknown_key, expired, not_yet_valid,"
        " wrong_issuer, wrong_audience, missing_claim, bad_grants.",
    ),
    "forbidden": ProblemKind(
        403,
        "Not allowed",
        "The credentials are valid but do not cover this request. `scope` names the scope that an API key needs; a"
        " token needs a grant on the space.",
    ),
    "quota-exceeded": ProblemKind(
        403,
        "Quota exceeded",
        "The user or API key has made as many spaces as it may make. Nothing was done. An operator can raise the"
        " quota.",
    ),
    "not-found": ProblemKind(
        404, "Not found", "There is nothing at this address, or the document is absent or was deleted."
    ),
    "method-not-allowed": ProblemKind(405, "Method not allowed", "The `Allow` header lists what this address takes."),
    "not-acceptable": ProblemKind(
        406, "Not acceptable", "The `Accept` header excludes every form that this address has; `available` lists them."
    ),
    "request-timeout": ProblemKind(
        408, "Request timeout", "The request did not arrive in full in time. Send it again."
    ),
    "unknown-connection": ProblemKind(
        404,
        "Unknown connection",
        "No polled connection has this key: it ended some time ago, or the server was restarted. Open a new one; the"
        " positions that you have stored say where to go on.",
    ),
    "out-of-order": ProblemKind(
        409,
        "Request out of order",
        "The number of this request is neither the next one, which is `expected`, nor that of the last one, which may"
        " be repeated as it was. Nothing was done.",
    ),
    "connection-ended": ProblemKind(
        410,
        "Connection ended",
        "The conversation is over. `code` is the close code that a WebSocket would have had (section 12 of the"
        " protocol), `detail` its reason. After a POST, read on: answers that were not fetched come first.",
    ),
    "bad-position": ProblemKind(
        409, "Position beyond the head", "The position lies beyond what the space holds. Use one that you have read."
    ),
    "too-many-consumers": ProblemKind(
        409,
        "Too many consumers",
        "The space, or the owner, has as many named consumers as it may. Delete those that nobody uses: `lag` and"
        " `used_ms` of the list tell which.",
    ),
    "workflow-conflict": ProblemKind(
        409,
        "Not in this state",
        "As many workflows or versions are kept as may be, or the workflow is active or configured and so cannot be"
        " deleted. `detail` says which. Nothing was done.",
    ),
    "expired-position": ProblemKind(
        410,
        "Expired position",
        "The position belongs to another epoch of the space, from before a restore, or lies before what is still known"
        " of deletions. `epoch` is the present one; up to seq `fork` both share their history: a reader that stands at"
        " or before it goes on at the same seq of the present epoch, any other reads all again and drops what it is not"
        " told of.",
    ),
    "history-gone": ProblemKind(
        410,
        "History gone",
        "What the document was as of this position is not kept any more ([retention] of the configuration says how long"
        " it is). From seq `known_from` on it is known.",
    ),
    "precondition-failed": ProblemKind(
        412, "Precondition failed", "The document is not at the revision that `If-Match` names. Read it again."
    ),
    "too-large": ProblemKind(
        413,
        "Content too large",
        "The body has more than `limit_bytes` bytes, or a list in it more than `limit` items, or all of it more than"
        " `limit` arrays and maps.",
    ),
    "unsupported-media-type": ProblemKind(
        415, "Unsupported media type", "The `Content-Type` is none of those in `supported`, or the body is compressed."
    ),
    "idempotency-key-reused": ProblemKind(
        422,
        "Idempotency-Key reused",
        "The same Idempotency-Key came with another request within its lifetime of 24 hours. Nothing was done. Use a"
        " new key for each request, and the same key only to repeat it.",
    ),
    "upgrade-required": ProblemKind(
        426, "Upgrade required", "This address speaks WebSocket only, with a subprotocol of syncd.v1."
    ),
    "headers-too-large": ProblemKind(
        431, "Header fields too large", "The request line and headers are larger than the server takes."
    ),
    "rate-limited": ProblemKind(
        429,
        "Too many requests",
        "This address, user or API key asked too often, or this address sent wrong credentials too often. Nothing was"
        " done. Repeat it after `Retry-After` seconds; batches carry more in fewer requests.",
    ),
    "too-many-waiting": ProblemKind(
        429,
        "Too many waiting",
        "The caller, or its address, has as many long polls and event streams waiting as it may. End some, follow"
        " several spaces by turns, or repeat after `Retry-After` seconds.",
    ),
    "internal": ProblemKind(
        500, "Internal error", "The server failed on this request; it was undone and logged. Repeating it is safe."
    ),
    "overloaded": ProblemKind(503, "Overloaded", "The request was not taken. Repeat it after `Retry-After` seconds."),
    "store-full": ProblemKind(
        503, "Store full", "There is no room for new data. Reads go on. An operator has to make room; repeat later."
    ),
    "not-ready": ProblemKind(503, "Not ready", "`reasons` lists what keeps the server from taking writes."),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as data. `fields` are the extension members; `headers` go into the response as they are."""

    name: str
    detail: str
    fields: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


class ProblemRaised(Exception):
    """Ends the handling of a request with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def raised(name: str, detail: str, headers: tuple[tuple[str, str], ...] = (), **fields: Any) -> ProblemRaised:
    """The exception to raise for a problem of the table."""
    assert name in KINDS, "every problem is in the table"
    return ProblemRaised(Problem(name, detail, fields, headers))


def problem_response(
    name: str, detail: str, instance: str, headers: tuple[tuple[str, str], ...] = (), **fields: Any
) -> Response:
    """The response for a problem. `instance` is the path of the request."""
    kind = KINDS[name]
    common = {"type": f"/problems/{name}", "title": kind.title, "status": kind.status}
    body = {**common, "detail": detail, "instance": instance, **fields}
    return json_content(kind.status, body, (*headers, ("Cache-Control", "no-store")), MEDIA_TYPE)
