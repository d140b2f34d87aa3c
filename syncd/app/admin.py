"""The operators' interface: API keys, status, explanations, consumers, dead letters, over HTTP.

Owns its routes and what they answer; the command line is its main user. Must not know sockets: `daemon.py` serves one
instance on a UNIX socket and one on TCP.

Who may do what: on the UNIX socket everything, because only the daemon's own user (and root) can open the file; that
permission is the authentication, and nothing that could leak has to be kept for it. On TCP only health, status and
metrics, because a port on loopback is open to every user of the machine, and to every web page that a browser there
shows.

Invariants: O1 a route that reveals data or changes something exists only where `is_trusted`. O2 the secret of an API
key is answered once, when it is made, and kept nowhere. O3 what writes goes through the committer.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson
import trio

from syncd.app import notices
from syncd.core.documents import reservations
from syncd.core.ids import ID_BYTES, BadName, check_name, check_space
from syncd.core.leases import LEASE_ID_BYTES
from syncd.core.values import ValueRefused, decoded
from syncd.engine import reclaiming
from syncd.engine.batch import space_row
from syncd.engine.commands import (
    Command,
    ConfirmLeaseClock,
    CreateKey,
    DropLetter,
    EndLease,
    ErasedUser,
    EraseUser,
    Failed,
    MarkSafe,
    Posted,
    Refused,
    ReleaseLeases,
    ReplayLetter,
    Result,
    RetireDevice,
    Revert,
    Reverted,
    RevokeKey,
)
from syncd.engine.devices import of_user
from syncd.engine.explaining import explained
from syncd.engine.feeding import consumers
from syncd.engine.history import Rewind
from syncd.engine.leases import frozen
from syncd.engine.posting import SERVER
from syncd.engine.roster import members, unpurged
from syncd.env.ports import Clock, Entropy
from syncd.net.api.calls import parsed_query
from syncd.net.api.consumers import consumer_json
from syncd.net.api.history import history_gone, revert_json
from syncd.net.auth import SCOPES_MAX, SECRET_ENTROPY_BYTES, USER_CHARACTERS_MAX, check_scope, make_key, secret_hash
from syncd.net.exchange import Health, Request, Response, content, http_date, json_content
from syncd.net.problems import ProblemRaised, problem_response, raised
from syncd.notify import asking
from syncd.store import keys
from syncd.store.api import Reader, Store
from syncd.store.committer import Committer, Overloaded
from syncd.store.tables import API_KEYS, DEVICES, LETTERS, DeviceRow
from syncd.wire.codec import from_json_value, json_value

BODY_BYTES_MAX = 64 * 1024  # 64 scopes of 200 bytes, with room to spare
SAFE_MAX = 200  # spaces in one request about a backup: their rows are written in one transaction
SAFE_BYTES_MAX = 300 * SAFE_MAX  # a name of 200 bytes, an epoch, a seq
KEYS_MAX = 1_000  # listed at most: keys stand for backends, of which a company has tens
LEASES_PAGE_MAX = 1_000  # told at once: each costs the reading of its document
LEASE_KEY_BYTES_MAX = 512
DEVICES_PAGE, DEVICES_PAGE_MAX = 100, 1_000
DEVICES_READ = 10_000  # rows looked at for one page: some 20 ms of the loop
LETTER_BYTES_MAX = 2 * 1024 * 1024  # operations of 256 KiB take at most six times as much in JSON
LETTERS_PAGE = 100
LETTERS_PAGE_MAX = 1_000
LETTERS_BYTES_MAX = 2 * 1024 * 1024  # looked at for one page, which is read in one go on the loop: some 50 ms

AnyCommitter = Committer[Command, Result, Any]


# -- what is told, over a read transaction: the command line reads the same without a daemon --------------------------


def api_keys(tx: Reader) -> list[dict[str, Any]]:
    """All API keys without their secrets, by name."""
    rows = (row for _, row in islice(API_KEYS.scan(tx, keys.table_range(keys.API_KEY)), KEYS_MAX))
    return [
        {
            "name": row.name,
            "scopes": list(row.scopes),
            "device": row.device.hex(),
            "created_ms": row.created_ms,
            "revoked_ms": row.revoked_ms,
        }
        for row in sorted(rows, key=lambda row: (row.name, row.created_ms))
    ]


def explanation(tx: Reader, space: str, collection: str, document_id: str, field: str | None) -> dict[str, Any]:
    """Why a document or a field is as it is, ready for JSON. Raises `BadName`."""
    check_space(space)
    check_name(collection, "a collection")
    check_name(document_id, "a document id")
    if field is not None:
        check_name(field, "a field")
    answer: dict[str, Any] = json_value(explained(tx, space, collection, document_id, field))
    return answer


def devices(tx: Reader, user: str | None, after: str, limit: int) -> dict[str, Any]:
    """Devices of one user or of all, by id, from behind the id `after`; `after` of the answer: where the next page goes
    on, None at the end. A page looks at `DEVICES_READ` rows at most. Raises `BadName`."""
    if user is not None:
        page = of_user(tx, user, _device_id(after) if after else b"", limit)
        last = None if page.after is None else page.after.hex()
        return {"devices": [_device(device, row) for device, row in page.devices], "after": last}
    start, stop = keys.table_range(keys.DEVICE)
    if after:
        start = keys.device(_device_id(after)) + b"\0"
    found: list[dict[str, Any]] = []
    for count, (key, row) in enumerate(DEVICES.scan(tx, (start, stop)), 1):
        if row.kind == "device":
            found.append(_device(key[1:], row))
        if len(found) == limit or count == DEVICES_READ:
            return {"devices": found, "after": key[1:].hex()}
    return {"devices": found, "after": None}


def _device(device: bytes, row: DeviceRow) -> dict[str, Any]:
    installation = None if row.installation is None else row.installation.hex()
    shown = {"device": device.hex(), "user": row.user, "installation": installation}
    return shown | {"bound_ms": row.bound_ms, "retired_ms": row.retired_ms}


def _device_id(text: str) -> bytes:
    try:
        device = bytes.fromhex(text)
    except ValueError:
        device = b""
    if len(device) != ID_BYTES:
        raise BadName(f"a device id is {2 * ID_BYTES} hexadecimal digits, not {text[:40]!r}")
    return device


def dead_letters(tx: Reader, space: str, first: int, limit: int, kind: str | None = None) -> dict[str, Any]:
    """`letters`: of a space from the number `first` on, oldest first, of one kind or of all. `next`: from which number
    on to ask, if `LETTERS_BYTES_MAX` were looked at before the limit was reached. Raises `BadName`."""
    row = space_row(tx, check_space(space))
    found: list[dict[str, Any]] = []
    if row is None:
        return {"letters": found}
    size = 0
    for key, letter in LETTERS.scan(tx, (keys.letter(row.id, first), keys.space_range(keys.LETTER, row.id)[1])):
        number = int.from_bytes(key[-8:])
        if len(found) == limit:
            break
        if size > LETTERS_BYTES_MAX:
            return {"letters": found, "next": number}
        size += len(letter.payload)
        if kind in (None, letter.kind):
            fields = letter._asdict() | {"letter": number, "device": letter.device.hex()}
            fields |= {"payload": json_value(decoded(letter.payload)), "replay": json_value(letter.replay)}
            found.append(fields)
    return {"letters": found}


def consumers_of(tx: Reader, space: str) -> list[dict[str, Any]]:
    """The named consumers of a space, of all owners, those farthest behind first. Raises `BadName`."""
    found = [consumer_json(each) | {"owner": each.owner} for each in consumers(tx, check_space(space))]
    return sorted(found, key=lambda each: (each["lag"] is not None, -(each["lag"] or 0), each["owner"], each["name"]))


def leases_of(tx: Reader, space: str, after: str) -> dict[str, Any]:
    """The leases of a space, and until when its reserves are frozen by a restore. `after`: the `next` of the page
    before. Raises `BadName`."""
    row = space_row(tx, check_space(space))
    found = list(reclaiming.listed(tx, space, LEASES_PAGE_MAX + 1, _hex(after, "'after'", LEASE_KEY_BYTES_MAX)))
    page = found[:LEASES_PAGE_MAX]
    return {
        "leases": [
            {
                "lease": each.lease.hex(),
                "collection": each.collection,
                "id": each.document_id,
                "field": each.field,
                "device": each.device.hex(),
                "k": each.k,
                "left": each.left,
                "until_ms": each.until,
                "granted_ms": each.granted_ms,
                "honoured": each.is_honoured,
            }
            for each in page
        ],
        "next": page[-1].key.hex() if len(found) > len(page) else None,
        "frozen_until_ms": None if row is None else frozen(tx, row.id),
    }


def _hex(text: object, what: str, bytes_max: int = LEASE_ID_BYTES) -> bytes:
    try:
        value = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        value = b""
    if len(value) > bytes_max or (bytes_max == LEASE_ID_BYTES and len(value) != bytes_max) or (text and not value):
        raise raised("malformed-request", f"{what} is hexadecimal, as a list of leases gave it")
    return value


def members_of(tx: Reader, space: str) -> dict[str, Any]:
    """The members of a space, and the devices that have lost the right to read it and have not confirmed that their
    copy is gone. Raises `BadName`."""
    return {"members": members(tx, check_space(space)), "unpurged": unpurged(tx, space)}


# -- HTTP -------------------------------------------------------------------------------------------------------------


class _Call(NamedTuple):
    request: Request
    query: Mapping[str, str]
    name: str  # the last segment of the path, where a route takes one


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    path: str  # a trailing "/" takes one more segment
    query: tuple[str, ...]
    is_open: bool  # also on TCP
    handle: Callable[[_Call], Awaitable[Response]]


class Admin:
    """`status`: the daemon's, ready for JSON. `metrics`: media type and body. `is_trusted`: whoever reaches this
    instance may do everything."""

    def __init__(
        self,
        store: Store,
        committer: AnyCommitter,
        entropy: Entropy,
        clock: Clock,
        health: Callable[[], Health],
        status: Callable[[], dict[str, Any]],
        metrics: Callable[[], tuple[str, bytes]],
        *,
        is_trusted: bool,
    ) -> None:
        self._store, self._committer, self._entropy, self._clock = store, committer, entropy, clock
        self._health, self._status, self._metrics = health, status, metrics
        routes = (
            _Route("GET", "/healthz", (), True, self._healthz),
            _Route("GET", "/readyz", (), True, self._readyz),
            _Route("GET", "/admin/status", (), True, self._get_status),
            _Route("GET", "/metrics", (), True, self._get_metrics),
            _Route("GET", "/admin/apikeys", (), False, self._list_keys),
            _Route("POST", "/admin/apikeys", (), False, self._create_key),
            _Route("DELETE", "/admin/apikeys/", (), False, self._revoke_key),
            _Route("POST", "/admin/safe", (), False, self._mark_safe),
            _Route("GET", "/admin/explain", ("space", "collection", "id", "field"), False, self._explain),
            _Route("GET", "/admin/consumers", ("space",), False, self._list_consumers),
            _Route("GET", "/admin/leases", ("space", "after"), False, self._list_leases),
            _Route("POST", "/admin/leases/end", (), False, self._end_lease),
            _Route("POST", "/admin/leases/release", (), False, self._release_leases),
            _Route("POST", "/admin/leases/confirm-clock", (), False, self._confirm_clock),
            _Route("GET", "/admin/members", ("space",), False, self._list_members),
            _Route("GET", "/admin/deadletters", ("space", "from", "limit", "kind"), False, self._list_letters),
            _Route("GET", "/admin/deadletters/", ("space",), False, self._get_letter),
            _Route("POST", "/admin/deadletters/", ("space",), False, self._replay_letter),
            _Route("DELETE", "/admin/deadletters/", ("space",), False, self._drop_letter),
            _Route("GET", "/admin/devices", ("user", "after", "limit"), False, self._list_devices),
            _Route("DELETE", "/admin/devices/", (), False, self._retire_device),
            _Route("GET", "/admin/decisions", ("user", "limit"), False, self._list_decisions),
            _Route("GET", "/admin/decisions/", (), False, self._get_decision),
            _Route("GET", "/admin/report", ("from", "to", "by"), False, self._get_report),
            _Route("GET", "/admin/export", ("user",), False, self._export),
            _Route("POST", "/admin/erase", (), False, self._erase),
            _Route("POST", "/admin/revert", (), False, self._revert),
        )
        self._routes = tuple(route for route in routes if is_trusted or route.is_open)

    async def handle(self, request: Request) -> Response:
        try:
            response = await self._routed(request)
        except BadName as error:
            response = problem_response("malformed-request", str(error), request.path)
        except ProblemRaised as error:
            problem = error.problem
            response = problem_response(problem.name, problem.detail, request.path, problem.headers, **problem.fields)
        headers = (*response.headers, ("Date", http_date(request.received_ms)), ("Cache-Control", "no-store"))
        return Response(response.status, headers, b"" if request.method == "HEAD" else response.body)

    async def _routed(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        found = [route for route in self._routes if _matches(route.path, request.path)]
        if not found:
            raise raised("not-found", "there is no such address on this listener")
        route = next((route for route in found if route.method == method), None)
        if route is None:
            allowed = ", ".join(sorted(route.method for route in found))
            raise raised("method-not-allowed", f"this address takes {allowed}", (("Allow", allowed),))
        query = parsed_query(request.query, route.query)
        return await route.handle(_Call(request, query, _last_segment(route.path, request.path)))

    # -- open to all ---------------------------------------------------------------------------------------------

    async def _healthz(self, call: _Call) -> Response:
        return json_content(200, {"status": "ok"})  # that the loop runs is all it says

    async def _readyz(self, call: _Call) -> Response:
        health = self._health()
        if health.is_ready:
            return json_content(200, {"status": "ready"})
        raise raised("not-ready", "the daemon takes no writes at the moment", reasons=list(health.reasons))

    async def _get_status(self, call: _Call) -> Response:
        return json_content(200, self._status())

    async def _get_metrics(self, call: _Call) -> Response:
        return content(200, *self._metrics())

    # -- trusted only --------------------------------------------------------------------------------------------

    async def _list_keys(self, call: _Call) -> Response:
        with self._store.read() as tx:
            return json_content(200, {"keys": api_keys(tx)})

    async def _create_key(self, call: _Call) -> Response:
        body = _json_object(call.request, {"name", "scopes"})
        name, scopes = check_name(body.get("name"), "the name of an API key"), body.get("scopes")
        if not (isinstance(scopes, list) and 0 < len(scopes) <= SCOPES_MAX and all(isinstance(s, str) for s in scopes)):
            raise raised("invalid-request", f"'scopes' is a list of 1-{SCOPES_MAX} texts", pointer="/scopes")
        for scope in scopes:
            check_scope(scope)
        secret = make_key(self._entropy.token(SECRET_ENTROPY_BYTES))
        device = self._entropy.token(ID_BYTES)
        await self._executed(CreateKey(name, tuple(scopes), secret_hash(secret), device))
        return json_content(201, {"name": name, "scopes": scopes, "device": device.hex(), "secret": secret})

    async def _revoke_key(self, call: _Call) -> Response:
        await self._executed(RevokeKey(check_name(call.name, "the name of an API key")))
        return Response(204, ())

    async def _mark_safe(self, call: _Call) -> Response:
        """What a verified backup has: `syncd backup` tells it, `SAFE_MAX` spaces at a time."""
        body = _json_object(call.request, {"spaces", "made_ms"}, SAFE_BYTES_MAX)
        spaces, made_ms = body.get("spaces"), body.get("made_ms")
        if not (isinstance(spaces, list) and len(spaces) <= SAFE_MAX and (made_ms is None or type(made_ms) is int)):
            raise raised("invalid-request", f"'spaces' is a list of at most {SAFE_MAX}", pointer="/spaces")
        marks = []
        for item in spaces:
            try:
                name, epoch, seq = item
                marks.append((check_space(name), bytes.fromhex(epoch), int(seq)))
            except (TypeError, ValueError):
                raise raised("invalid-request", "each space is [name, epoch, seq]", pointer="/spaces") from None
        await self._executed(MarkSafe(tuple(marks), made_ms))
        return Response(204, ())

    async def _explain(self, call: _Call) -> Response:
        query = call.query
        for name in ("space", "collection", "id"):
            if name not in query:
                raise raised("malformed-request", f"the query parameter {name!r} is missing", parameter=name)
        with self._store.read() as tx:
            answer = explanation(tx, query["space"], query["collection"], query["id"], query.get("field"))
        return json_content(200, answer)

    async def _list_consumers(self, call: _Call) -> Response:
        if "space" not in call.query:
            raise raised("malformed-request", "the query parameter 'space' is missing", parameter="space")
        with self._store.read() as tx:
            return json_content(200, {"consumers": consumers_of(tx, call.query["space"])})

    async def _get_letter(self, call: _Call) -> Response:
        space, number = _letter_of(call)
        with self._store.read() as tx:
            found = dead_letters(tx, space, number, 1)["letters"]
        if not found or found[0]["letter"] != number:
            raise raised("not-found", f"there is no dead letter {number} in {space}")
        return json_content(200, found[0])

    async def _replay_letter(self, call: _Call) -> Response:
        """As it is, or with other operations in its place. Asked again, it answers what came of the first time."""
        space, number = _letter_of(call)
        body = _json_object(call.request, {"operations"}, LETTER_BYTES_MAX) if call.request.body else {}
        try:
            operations = from_json_value(body.get("operations"))
        except ValueRefused as error:
            raise raised("invalid-request", str(error), pointer="/operations") from None
        posted = await self._executed(ReplayLetter(SERVER, space, number, operations))
        assert isinstance(posted, Posted), "what is not refused has an outcome"
        told = {"outcome": posted.outcome, "seq": posted.seq, "detail": json_value(posted.detail)}
        return json_content(200, told | {"position": str(posted.position)})

    async def _drop_letter(self, call: _Call) -> Response:
        await self._executed(DropLetter(SERVER, *_letter_of(call)))
        return Response(204, ())

    async def _list_devices(self, call: _Call) -> Response:
        limit = _count(call.query, "limit", DEVICES_PAGE, 1, DEVICES_PAGE_MAX)
        with self._store.read() as tx:
            return json_content(200, devices(tx, call.query.get("user"), call.query.get("after", ""), limit))

    async def _retire_device(self, call: _Call) -> Response:
        await self._executed(RetireDevice(_device_id(call.name)))
        return Response(204, ())

    async def _list_members(self, call: _Call) -> Response:
        if "space" not in call.query:
            raise raised("malformed-request", "the query parameter 'space' is missing", parameter="space")
        with self._store.read() as tx:
            return json_content(200, members_of(tx, call.query["space"]))

    async def _list_letters(self, call: _Call) -> Response:
        if "space" not in call.query:
            raise raised("malformed-request", "the query parameter 'space' is missing", parameter="space")
        first = _count(call.query, "from", 0, 0, 2**53 - 1)
        limit = _count(call.query, "limit", LETTERS_PAGE, 1, LETTERS_PAGE_MAX)
        with self._store.read() as tx:
            return json_content(200, dead_letters(tx, call.query["space"], first, limit, call.query.get("kind")))

    async def _list_leases(self, call: _Call) -> Response:
        if "space" not in call.query:
            raise raised("malformed-request", "the query parameter 'space' is missing", parameter="space")
        with self._store.read() as tx:
            return json_content(200, leases_of(tx, call.query["space"], call.query.get("after", "")))

    async def _end_lease(self, call: _Call) -> Response:
        body = _json_object(call.request, {"space", "collection", "id", "field", "lease"})
        collection, document_id, field = (check_name(body.get(key), repr(key)) for key in ("collection", "id", "field"))
        lease = _hex(body.get("lease"), "'lease'")
        await self._executed(EndLease(check_space(body.get("space")), collection, document_id, field, lease))
        return Response(204, ())

    async def _release_leases(self, call: _Call) -> Response:
        body = _json_object(call.request, {"space"})
        await self._executed(ReleaseLeases(check_space(body.get("space"))))
        return Response(204, ())

    async def _confirm_clock(self, call: _Call) -> Response:
        await self._executed(ConfirmLeaseClock())
        return Response(204, ())

    async def _list_decisions(self, call: _Call) -> Response:
        limit = _count(call.query, "limit", asking.PAGE_MAX, 1, asking.PAGE_MAX)
        with self._store.read() as tx:
            return json_content(200, notices.decisions(tx, _user(call.query.get("user")), limit))

    async def _get_decision(self, call: _Call) -> Response:
        with self._store.read() as tx:
            found = notices.decision(tx, call.name)
        if found is None:
            raise raised("not-found", f"there is no decision {call.name[:60]!r}")
        return json_content(200, found)

    async def _get_report(self, call: _Call) -> Response:
        with self._store.read() as tx:
            return json_content(200, notices.engagement(tx, call.query, self._clock.now_ms()))

    async def _export(self, call: _Call) -> Response:
        user = _user(call.query.get("user"))
        with self._store.read() as tx:
            return json_content(200, notices.export(tx, user, self._clock.now_ms()))

    async def _erase(self, call: _Call) -> Response:
        """One step; whoever asks goes on as long as there is more."""
        step = await self._executed(EraseUser(_user(_json_object(call.request, {"user"}).get("user"))))
        assert isinstance(step, ErasedUser), "a step of an erasure is answered so"
        return json_content(200, {"documents": step.documents, "rows": step.rows, "more": step.is_more})

    async def _revert(self, call: _Call) -> Response:
        body = _json_object(call.request, {"space", "collection", "id", "at"})
        space, at = check_space(body.get("space")), body.get("at")
        name = check_name(body.get("collection"), "a collection"), check_name(body.get("id"), "a document id")
        if type(at) is not int or at < 0:
            raise raised("invalid-request", "'at' is a seq", pointer="/at")
        rewind, found = Rewind(space, name, at), None
        while found is None:
            await trio.lowlevel.checkpoint()
            with self._store.read() as tx:
                row = space_row(tx, space)
                if row is None or at > row.head:
                    raise raised("bad-position", f"{space} has no seq {at}")
                found = rewind.step(tx)
        if found.known_from is not None:
            raise history_gone(name, found.known_from)
        if found.document is None or not found.is_live:
            raise raised("not-found", f"as of seq {at} there was no document {name[0]}/{name[1]}")
        keys_then = reservations(found.document)
        result = await self._executed(Revert(SERVER, space, *name, found.document.visible(), keys_then))
        assert isinstance(result, Reverted), "what was refused has been raised"
        return json_content(200, revert_json(result))

    async def _executed(self, command: Command) -> Result:
        try:
            result = await self._committer.execute(command)
        except Overloaded as error:
            raise raised("overloaded", str(error), (("Retry-After", "1"),)) from None
        if isinstance(result, Failed):
            raise raised("store-full" if result.reason == "store_full" else "internal", result.detail)
        if isinstance(result, Refused):
            raise raised("not-found" if result.reason == "unknown" else "invalid-request", result.detail)
        return result


def _matches(route: str, path: str) -> bool:
    if not route.endswith("/"):
        return path == route
    return path.startswith(route) and "/" not in path[len(route) :] and path != route


def _last_segment(route: str, path: str) -> str:
    """What a route that ends with "/" takes, decoded; nothing for another."""
    try:
        return unquote(path[len(route) :], errors="strict")
    except UnicodeDecodeError:
        raise raised("malformed-request", "a segment of the path is percent-encoded UTF-8") from None


def _letter_of(call: _Call) -> tuple[str, int]:
    if "space" not in call.query:
        raise raised("malformed-request", "the query parameter 'space' is missing", parameter="space")
    if not (call.name.isascii() and call.name.isdecimal() and len(call.name) <= 16):
        raise raised("malformed-request", "a dead letter has a number")
    return check_space(call.query["space"]), int(call.name)


def _count(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and least <= int(text) <= most):
        raise raised("malformed-request", f"{name!r} is an integer from {least} to {most}", parameter=name)
    return int(text)


def _user(text: object) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= USER_CHARACTERS_MAX:
        raise raised("malformed-request", f"'user' is text of 1-{USER_CHARACTERS_MAX} characters", parameter="user")
    return text


def _json_object(request: Request, known: set[str], bytes_max: int = BODY_BYTES_MAX) -> dict[str, Any]:
    if len(request.body) > bytes_max:
        raise raised("too-large", f"the body has at most {bytes_max} bytes", limit_bytes=bytes_max)
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise raised("malformed-request", f"the body is no JSON: {error}") from None
    if not isinstance(body, dict) or not set(body) <= known:
        raise raised(
            "invalid-request", f"the body is a JSON object with the keys {', '.join(sorted(known))}", pointer=""
        )
    return body
