"""Targets: what comes from backends, disks and operators: HTTP, the API's bodies, records, the configuration."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import trio
from trio.testing import MockClock

from syncd.app.config import ConfigError, Settings, loaded
from syncd.engine.grants import Grant, Role
from syncd.env.memory import MemoryTransport, transport_pair
from syncd.env.ports import TransportClosed
from syncd.net.api.service import ROUTES
from syncd.net.auth import Authenticator, Unauthenticated, bearer, sign_token
from syncd.net.exchange import Request, Response
from syncd.net.http import HttpShell, Upgrade
from syncd.net.limits import NetLimits
from syncd.net.problems import KINDS
from syncd.store.api import StoreDamaged
from syncd.store.tables import TABLES, packed
from tests.fuzz import corpus
from tests.fuzz.runner import Target
from tests.http.harness import NOW_MS, SIGNING_KEY, Server, check_described, whole_response

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_RECORD_KEY: Final = b"\x05key"
# What a request may be answered with: documented problems, and what the routes say when all goes well.
STATUSES: Final = frozenset({kind.status for kind in KINDS.values()} | {100, 101, 200, 201, 204, 207, 304}) - {500}
TOKEN: Final = sign_token(SIGNING_KEY, "42", [Grant("**", Role.OWNER)], 3600, NOW_MS)


# -- HTTP, from the bytes of a connection -----------------------------------------------------------------------------


class _Door:
    is_draining = False

    def refused_s(self) -> float | None:
        return None

    def request_refused_s(self, peer: str) -> float:
        return 0.0


async def _exchange(stream: bytes, piece_bytes: int) -> tuple[list[str], bytes, bool]:
    """What the handler was asked, what was answered, and whether the connection became a WebSocket."""
    asked: list[str] = []
    logs: list[str] = []
    server = Server()
    near, far = transport_pair()
    answered = bytearray()
    upgrades: list[Upgrade | None] = []

    async def handle(request: Request) -> Response:
        response = await whole_response(server.api, request)
        check_described(request.method, request.path, response)
        asked.append(f"{request.method} {request.path}?{request.query} {len(request.body)} {response.status}")
        return response

    shell = HttpShell(handle, _Door(), server.clock, NetLimits(), logs.append)

    async def serve() -> None:
        with suppress(TransportClosed):
            upgrades.append(await shell.converse(far))
        far.abort()

    async def read() -> None:
        while data := await near.receive(65536):
            answered.extend(data)

    async with trio.open_nursery() as nursery:
        await nursery.start(server.committer.run)
        async with trio.open_nursery() as both:
            both.start_soon(serve)
            both.start_soon(read)
            await _send(near, stream, piece_bytes)
        nursery.cancel_scope.cancel()
    assert not logs, logs[0]
    return asked, bytes(answered), any(upgrades)


async def _send(transport: MemoryTransport, stream: bytes, piece_bytes: int) -> None:
    try:
        for at in range(0, len(stream), piece_bytes):
            piece = stream[at : at + piece_bytes]
            while piece:
                piece = piece[transport.send_now(piece) :]
                if piece:
                    await transport.wait_writable()
            await trio.testing.wait_all_tasks_blocked()
        transport.shutdown()
    except TransportClosed:
        pass


def check_http(data: bytes) -> None:
    """The first byte: how long the pieces are; the rest: the byte stream of one connection."""
    size = int.from_bytes(data[:1]) + 16
    stream = data[1:]
    whole = trio.run(_exchange, stream, len(stream) or 1, clock=MockClock(autojump_threshold=0))
    statuses = {int(status) for status in _STATUS.findall(whole[1])}
    assert statuses <= STATUSES, f"answered {statuses - STATUSES}"
    in_pieces = trio.run(_exchange, stream, size, clock=MockClock(autojump_threshold=0))
    assert in_pieces[0] == whole[0], "the same bytes in other pieces are other requests"


def _http_seeds() -> list[bytes]:
    host = b"Host: a.example\r\n"
    auth = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
    body = json.dumps({"operations": [["reg.set", "notes", "n1", "title", {"$b": "AA"}]]}).encode()
    typed = b"Content-Type: application/json\r\n"
    post = b"POST /v1/spaces/room%2F1/changes?base=0 HTTP/1.1\r\n" + host + auth + typed
    chunked = b"%x;a=b\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)
    sync = b"GET /v1/sync HTTP/1.1\r\n" + host + b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    event = b'{"specversion":"1.0","id":"1","source":"/s","type":"t"}'
    get = b"GET /v1/spaces/room%2F1/documents/notes?limit=10 HTTP/1.1\r\n" + host + auth
    requests = [
        b"GET /healthz HTTP/1.1\r\n" + host + b"\r\nHEAD /docs HTTP/1.1\r\n" + host + b"Accept: text/*;q=0.5\r\n\r\n",
        post + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) + get + b"\r\n",
        post + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + get + b"\r\n",
        get + b'If-None-Match: "5@00"\r\nConnection: close\r\n\r\n',
        b"GET /v1/spaces/a/explain/notes/n1/title HTTP/1.0\r\n" + auth + b"\r\n",
        b"POST /v1/events HTTP/1.1\r\n" + host + auth + b"Content-Type: application/cloudevents+json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(event), event),
        sync + key + b"Sec-WebSocket-Protocol: x, syncd.v1.msgpack\r\n\r\n" + corpus.masked(2, b"\x92\x14\x80"),
        b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n",
        b"GET http://a.example/readyz HTTP/1.1\r\n" + host + b"\r\n",
    ]
    return [bytes((size,)) + request for request, size in zip(requests, range(0, 250, 25), strict=False)]


# -- the API's bodies and parameters ----------------------------------------------------------------------------------


async def _asked(method: str, target: str, headers: dict[str, str], body: bytes) -> int:
    server = Server()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.committer.run)
        answer = await server.ask(method, target, TOKEN, body, **headers)
        nursery.cancel_scope.cancel()
    return answer.status


def check_api(data: bytes) -> None:
    """`METHOD target`, then headers, each on a line; an empty line; the body. All with a token that may do anything."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    method, _, target = first.partition(" ")
    headers = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip()
    }
    headers.pop("authorization", None)
    reserved = {"method", "target", "credentials", "body", "self"}
    if not method.isalpha() or not target.isascii() or reserved & headers.keys():
        return  # the shell lets none through
    status = trio.run(_asked, method, target, headers, body, clock=MockClock(autojump_threshold=0))
    assert status in STATUSES, f"{method} {target}: {status}"


def _api_seeds() -> list[bytes]:
    seeds = []
    for route in ROUTES:
        target = route.template.replace("{space}", "room%2F1").replace("{name}", "forbidden")
        for name in ("collection", "id", "field"):
            target = target.replace("{" + name + "}", name)
        query = "&".join(f"{name}=1" for name in route.query)
        if route.method == "GET":
            seeds.append(f'GET {target}?{query}\naccept: */*\nif-none-match: "1"\n\n'.encode())
    for frame in corpus.histories():
        for change in json.loads(frame)[0][1]["changes"][:1]:
            body = json.dumps({"operations": change[4]})
            head = "POST /v1/spaces/room%2F1/changes?base=0\ncontent-type: application/json\nidempotency-key: k\n\n"
            seeds.append((head + body).encode())
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "syncd.notification", "subject": "42"}
    notification = event | {"data": {"title": "t", "body": "b", "collapse_key": "c", "priority": "high"}}
    batch = "POST /v1/events\ncontent-type: application/cloudevents-batch+json\n\n" + json.dumps([event, notification])
    return [*seeds, batch.encode()]


# -- credentials ------------------------------------------------------------------------------------------------------


def check_credentials(data: bytes) -> None:
    """An Authorization header."""
    text = data.decode("latin-1")
    try:
        given = bearer(text)
        if given is not None:
            Authenticator([SIGNING_KEY]).token(given, NOW_MS)
    except Unauthenticated as refused:
        assert refused.detail


def _credential_seeds() -> list[bytes]:
    return [b"Bearer " + TOKEN.encode(), b"bearer a.b.c", b"Basic YTpi", b"Bearer eyJhbGciOiJub25lIn0.e30."]


# -- records ----------------------------------------------------------------------------------------------------------


def _read_record(table: Any, key: bytes, record: bytes) -> None:
    try:
        table.row(key, record)
    except StoreDamaged as damaged:
        assert key.hex() in str(damaged), "a damaged record is named by its key"


def check_records(data: bytes) -> None:
    """The first byte: which table; the rest: the record, once as it is and once with its checksum made right."""
    table, record = TABLES[(data[0] if data else 0) % len(TABLES)], data[1:]
    _read_record(table, _RECORD_KEY, record)
    mended = record[:-4]
    _read_record(table, _RECORD_KEY, mended + crc32(mended, crc32(_RECORD_KEY)).to_bytes(4))


def _record_seeds() -> list[bytes]:
    field = ["reg", 5, [[1, 2, 100, 3, "v"]]]
    rows: list[list[Any]] = [
        [1, 2],
        [1, b"e" * 16, None, 0, 5, 0, 0, 1000, b"c" * 8, 2**63, 1, 2, 3, 4],
        [7],
        [1, 5, 3, [[1, 2]], [], [1, 2], {"title": field}],
        [5],
        [1, 2, 1000, b"c" * 8],
        [b"n" * 8, "accepted", 5, {"op": 1}, 0, 1000, b"\x90"],
        ["ann", "device", b"i" * 16, 1000],
        [1, 5, 5, None, 0, 1000, 0],
    ]
    return [bytes((index % len(TABLES),)) + packed(_RECORD_KEY, row) for index, row in enumerate(rows * 2)]


# -- the configuration ------------------------------------------------------------------------------------------------


@cache
def _directory() -> Path:
    """Of this process; what is written there is one small file."""
    return Path(tempfile.mkdtemp(prefix="syncd-fuzz-"))


@contextmanager
def _file(data: bytes) -> Iterator[Path]:
    file = _directory() / "syncd.toml"
    file.write_bytes(data)
    yield file
    file.unlink()


def check_configuration(data: bytes) -> None:
    """A file; behind a byte 1, lines of variables."""
    text, _, variables = data.partition(b"\x01")
    environ = {"SYNCD_STATE_DIR": "/nowhere"}
    for line in variables.decode("utf-8", "surrogateescape").replace("\0", "").split("\n"):
        name, _, value = line.partition("=")
        if name:
            environ[name] = value
    environ.pop("SYNCD_CONFIG", None)
    with _file(text) as file:
        try:
            assert isinstance(loaded(file, environ), Settings)
        except ConfigError as refused:
            assert refused.problems
            assert all(problem.encode() and "\n" not in problem for problem in refused.problems), refused.problems


def _configuration_seeds() -> list[bytes]:
    example = (corpus.ROOT / "conf" / "syncd.toml").read_text()
    sections = re.split(
        r"^(?=\[)", re.sub(r"^# (\w+ = )", r"\1", example.partition("# [[auth.key]]")[0], flags=re.M), flags=re.M
    )
    short = [re.sub(r"^#.*\n", "", section, flags=re.M).encode() for section in sections[1:]]
    return [
        *short,
        b"".join(short),
        b'[[auth.key]]\nkid = "a"\nalgorithm = "HS256"\nfile = "key"\n',
        b'server.listen = \'127.0.0.1:1\'\n[store]\ndirectory = """x\ny"""\n',
        b"a = {b = [1, {c = 1979-05-27T07:32:00Z}], 'd' = 0x1F}\n",
        b"\x01SYNCD_SERVER__LISTEN=127.0.0.1:0\nSYNCD_LISTEN=x\nSYNCD_LISTN=y\nSYNCD_SERVER__CONNECTIONS_MAX=1_000",
    ]


TARGETS = (
    Target("http", "documented answers only; whole = in pieces", _http_seeds, check_http, 100),
    Target("api", "every answer is described in openapi.json, none is 500", _api_seeds, check_api, 250),
    Target("credentials", "Unauthenticated only", _credential_seeds, check_credentials, 2_000),
    Target("records", "StoreDamaged only, also under a right checksum", _record_seeds, check_records, 6_000),
    Target(
        "configuration", "ConfigError only, one line for each mistake", _configuration_seeds, check_configuration, 1_500
    ),
)
