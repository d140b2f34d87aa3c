"""What holds for every route: who may call, negotiation, problems, and that the description is true."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from syncd.net.auth import make_key
from syncd.net.exchange import Health, Request
from syncd.net.problems import KINDS
from tests.http.harness import (
    NOW_MS,
    OPENAPI,
    Server,
    check_described,
    described_routes,
    errors_of,
    served_routes,
    whole_response,
)

CLOSED = [
    ("POST", "/v1/events"),
    ("POST", "/v1/spaces/shop/changes"),
    ("GET", "/v1/spaces/shop/changes"),
    ("GET", "/v1/spaces/shop/consumers"),
    ("PUT", "/v1/spaces/shop/consumers/a"),
    ("GET", "/v1/spaces/shop/consumers/a"),
    ("DELETE", "/v1/spaces/shop/consumers/a"),
    ("GET", "/v1/spaces/shop/consumers/a/changes"),
    ("POST", "/v1/spaces/shop/consumers/a/ack"),
    ("GET", "/v1/spaces/shop/documents"),
    ("GET", "/v1/spaces/shop/documents/c"),
    ("GET", "/v1/spaces/shop/documents/c/1"),
    ("GET", "/v1/spaces/shop/explain/c/1"),
    ("GET", "/v1/spaces/shop/explain/c/1/f"),
    ("GET", "/v1/spaces/shop/members"),
    ("GET", "/v1/spaces/shop/letters"),
    ("GET", "/v1/spaces/shop/letters/1"),
    ("DELETE", "/v1/spaces/shop/letters/1"),
    ("POST", "/v1/spaces/shop/letters/1/replay"),
    ("GET", "/v1/workflows"),
    ("POST", "/v1/workflows"),
    ("GET", "/v1/workflows/cart"),
    ("DELETE", "/v1/workflows/cart"),
    ("GET", "/v1/workflows/cart/versions/0123456789abcdef"),
    ("PUT", "/v1/workflows/cart/active"),
    ("DELETE", "/v1/workflows/cart/active"),
    ("POST", "/v1/workflows/cart/dry-run"),
    ("GET", "/v1/users/42/preferences"),
    ("PUT", "/v1/users/42/preferences"),
    ("PATCH", "/v1/users/42/preferences"),
    ("GET", "/v1/users/42/opt-out"),
    ("GET", "/v1/users/42/decisions"),
    ("GET", "/v1/users/42/data"),
    ("DELETE", "/v1/users/42/data"),
    ("GET", "/v1/decisions/00"),
    ("GET", "/v1/reports/engagement"),
]
OPEN = ["/healthz", "/readyz", "/v1/openapi.json", "/docs", "/problems/not-found"]
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


# -- the description --------------------------------------------------------------------------------------------------


def test_the_description_is_valid() -> None:
    validate(OPENAPI)


def test_the_description_and_the_table_name_the_same_routes() -> None:
    assert described_routes() == served_routes()


def test_the_protocols_folder_shows_the_same_description() -> None:
    assert json.loads((Path(__file__).parents[2] / "protocol" / "openapi.json").read_bytes()) == OPENAPI


def test_every_example_of_the_description_matches_its_schema() -> None:
    checked = 0

    def visit(node: Any, pointer: str) -> None:
        nonlocal checked
        if isinstance(node, dict):
            if "schema" in node and ("example" in node or "examples" in node):
                examples = [node["example"]] if "example" in node else [e["value"] for e in node["examples"].values()]
                for example in examples:
                    checked += 1
                    assert not list(errors_of(f"{pointer}/schema", example)), pointer
            for key, value in node.items():
                visit(
                    value,
                    f"{pointer}/{key.replace('~', '~0').replace('/', '~1').replace('{', '%7B').replace('}', '%7D')}",
                )
        elif isinstance(node, list):
            for index, value in enumerate(node):
                visit(value, f"{pointer}/{index}")

    visit(OPENAPI, "")
    assert checked > 12


def test_the_check_of_responses_finds_a_wrong_body() -> None:
    assert list(errors_of("/components/schemas/Document", {"collection": "c"}))
    assert list(errors_of("/paths/~1healthz/get/responses/200/content/application~1json/schema", {"status": "bad"}))


def test_every_problem_named_in_the_source_is_in_the_table_and_every_one_of_the_table_is_used() -> None:
    package = Path(__file__).parents[2] / "syncd"
    source = "".join(path.read_text() for path in package.rglob("*.py") if path.name != "problems.py")
    unused = [name for name in KINDS if f'"{name}"' not in source]
    assert not unused
    assert {re.fullmatch(r"[a-z-]+", name) is not None for name in KINDS} == {True}


# -- open routes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OPEN)
async def test_open_routes_need_no_credentials_and_head_has_the_length_of_get(server: Server, path: str) -> None:
    got, head = await server.ask("GET", path), await server.ask("HEAD", path)
    assert got.status == head.status == 200
    assert head.header("Content-Length") == str(len(got.body)) and head.header("ETag") == got.header("ETag")


async def test_readiness_reports_what_is_wrong(server: Server) -> None:
    server.health = Health(("the last commit failed", "the store is full"))
    answer = await server.ask("GET", "/readyz")
    assert answer.problem == "not-ready" and answer.json["reasons"] == ["the last commit failed", "the store is full"]
    assert (await server.ask("GET", "/healthz")).status == 200


async def test_every_type_of_problem_has_its_text(server: Server) -> None:
    for name, kind in KINDS.items():
        text = (await server.ask("GET", f"/problems/{name}")).body.decode()
        assert text.startswith(kind.title) and kind.text in text
    assert (await server.ask("GET", "/problems/nonsense")).problem == "not-found"


async def test_the_docs_page_needs_nothing_from_elsewhere(server: Server) -> None:
    answer = await server.ask("GET", "/docs")
    page = answer.body.decode()
    assert "<script" not in page and "://" not in page.replace("http://127.0.0.1:8740", "")
    policy = answer.header("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    for path, item in OPENAPI["paths"].items():
        assert f"<code>{path}</code>" in page
        assert all(operation["summary"] in page for method, operation in item.items() if method != "parameters")
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))


async def test_the_served_description_is_the_file(server: Server) -> None:
    assert (await server.ask("GET", "/v1/openapi.json")).json == OPENAPI


# -- who may call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_closed_routes_challenge_those_without_valid_credentials(server: Server, method: str, path: str) -> None:
    nothing = await server.ask(method, path)
    assert nothing.problem == "unauthenticated" and nothing.json["reason"] == "missing"
    assert nothing.header("WWW-Authenticate") == 'Bearer realm="syncd"'
    old = server.token(any="owner")
    server.clock.ms += 3_600_000
    for credentials, reason in (
        (old, "expired"),
        ("nonsense", "malformed"),
        (server.token()[:-2] + "AA", "bad_signature"),
        ("sk_short", "malformed"),
        (make_key(b"?" * 32), "unknown_key"),
    ):
        answer = await server.ask(method, path, credentials)
        assert answer.problem == "unauthenticated" and answer.json["reason"] == reason
        assert 'error="invalid_token"' in (answer.header("WWW-Authenticate") or "")
        assert credentials not in answer.body.decode() + (answer.header("WWW-Authenticate") or "")
    basic = await server.ask(method, path, authorization="Basic YTpi")
    assert basic.problem == "unauthenticated" and basic.json["reason"] == "malformed"


ROLES = ["", "reader", "writer", "owner"]


@pytest.mark.parametrize("role", ROLES)
async def test_a_token_may_what_its_grants_say_and_no_more(server: Server, role: str) -> None:
    owner = server.token(any="owner")
    await server.change(owner, "shop/1", ["create", "c", "1"], ["reg.set", "c", "1", "f", 1])
    token = server.token("43", shop__any=role) if role else server.token("43", other__any="owner")
    reads = [
        "/v1/spaces/shop%2F1/documents", "/v1/spaces/shop%2F1/documents/c", "/v1/spaces/shop%2F1/documents/c/1",
        "/v1/spaces/shop%2F1/explain/c/1", "/v1/spaces/shop%2F1/explain/c/1/f",
    ]  # fmt: skip
    for target in reads:
        answer = await server.ask("GET", target, token)
        assert answer.status == (200 if role else 403)
        if not role:
            assert answer.json["scope"] == "documents:read:shop/1"
            assert 'error="insufficient_scope"' in (answer.header("WWW-Authenticate") or "")
    written = await server.change(token, "shop/1", ["reg.set", "c", "1", "f", 2])
    assert written.status == (200 if role in ("writer", "owner") else 403)
    elsewhere = await server.change(token, "shop", ["create", "c", "1"])
    assert elsewhere.problem == "forbidden"
    events = await server.ask("POST", "/v1/events", token, EVENT, content_type="application/cloudevents+json")
    assert events.problem == "forbidden" and events.json["scope"] == "events:write"


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        ((), set()),
        (("events:write",), {"event"}),
        (("documents:read:shop/*",), {"read"}),
        (("changes:write:shop/*",), {"read", "write"}),
        (("changes:write:other/*", "documents:read:**"), {"read"}),
        (("admin",), {"event", "read", "write"}),
    ],
)
async def test_an_api_key_may_what_its_scopes_say_and_no_more(
    server: Server, scopes: tuple[str, ...], may: set[str]
) -> None:
    await server.change(server.token(any="owner"), "shop/1", ["create", "c", "1"])
    key = await server.key("backend", *scopes)
    statuses = {
        "event": (
            await server.ask("POST", "/v1/events", key, EVENT, content_type="application/cloudevents+json")
        ).status,
        "read": (await server.ask("GET", "/v1/spaces/shop%2F1/documents/c/1", key)).status,
        "write": (await server.change(key, "shop/1", ["reg.set", "c", "1", "f", 1])).status,
    }
    assert {name for name, status in statuses.items() if status < 300} == may
    assert {status for status in statuses.values() if status >= 300} <= {403}


async def test_who_may_not_read_is_not_told_what_exists(server: Server) -> None:
    await server.change(server.token(any="owner"), "shop/1", ["create", "c", "1"])
    stranger = server.token("43")
    there = await server.ask("GET", "/v1/spaces/shop%2F1/documents/c/1", stranger)
    absent = await server.ask("GET", "/v1/spaces/shop%2F2/documents/c/1", stranger)
    assert there.body.replace(b"shop/1", b"shop/2").replace(b"%2F1", b"%2F2") == absent.body


# -- negotiation and routing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/spaces", "/v1/spaces/a/documents/b/c/d", "/healthz/", "//healthz", ""]
)
async def test_unknown_addresses_are_not_found(server: Server, path: str) -> None:
    assert (await server.ask("GET", path)).problem == "not-found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/events", "POST"),
        ("DELETE", "/v1/spaces/a/documents", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("HEAD", "/v1/spaces/a/consumers/b/ack", "POST"),
        ("POST", "/v1/spaces/a/consumers/b", "DELETE, GET, PUT, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(server: Server, method: str, path: str, allowed: str) -> None:
    answer = await server.ask(method, path)
    assert answer.status == 405 and answer.header("Allow") == allowed


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("", 200), ("*/*", 200), ("application/json", 200), ("application/*;q=0.1", 200), ("text/html, */*;q=0.8", 200),
        ("APPLICATION/JSON", 200), ("text/html", 406), ("application/json;q=0", 406),
        ("*/*, application/json;q=0", 406),
        ("application/json;q=x", 406), ("application/*;q=0, */*", 406), (";;,", 406),
    ],
)  # fmt: skip
async def test_accept_is_honoured(server: Server, accept: str, status: int) -> None:
    answer = await server.ask("GET", "/healthz", accept=accept)
    assert answer.status == status
    if status == 406:
        assert answer.json["available"] == ["application/json"]


async def test_the_date_is_the_clocks(server: Server) -> None:
    server.clock.ms = 784111777_000
    assert (await server.ask("GET", "/healthz")).header("Date") == "Sun, 06 Nov 1994 08:49:37 GMT"


# -- when the server cannot -------------------------------------------------------------------------------------------


async def test_a_full_store_refuses_writes_and_goes_on_reading(nursery: trio.Nursery) -> None:
    server = Server(limit_bytes=60_000)
    await nursery.start(server.committer.run)
    token = server.token(any="writer")
    await server.change(token, "shop", ["create", "c", "1"])
    refused = await server.change(token, "shop", ["reg.set", "c", "1", "f", "x" * 60_000])
    assert refused.problem == "store-full" and int(refused.header("Retry-After") or "") > 0
    assert (await server.ask("GET", "/v1/spaces/shop/documents/c/1", token)).status == 200
    server.committer.close()


async def test_a_closing_server_says_to_try_again(server: Server) -> None:
    server.committer.close()
    answer = await server.change(server.token(any="writer"), "shop", ["create", "c", "1"])
    assert answer.problem == "overloaded" and int(answer.header("Retry-After") or "") > 0


# -- whatever comes ---------------------------------------------------------------------------------------------------

names = st.sampled_from(
    ["/v1", "spaces", "events", "shop", "documents", "changes", "explain", "c", "%2F", "%", "..", "é"]
)
values = st.one_of(st.text(max_size=20), st.sampled_from(['"1@0"', "*", "application/json", "0@" + "0" * 32]))
headers = st.dictionaries(
    st.sampled_from(["content-type", "accept", "if-match", "if-none-match", "idempotency-key", "authorization"]), values
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", "x"]),
    st.one_of(st.lists(names, max_size=7).map("/".join), st.sampled_from([path for _, path in CLOSED] + OPEN)),
    st.text(max_size=20),
    headers,
    st.one_of(
        st.binary(max_size=40), st.recursive(st.text(), st.lists).map(lambda v: json.dumps({"operations": v}).encode())
    ),
    st.booleans(),
)
def test_whatever_comes_the_answer_is_described(
    method: str, path: str, query: str, sent: dict[str, str], body: bytes, has_token: bool
) -> None:
    async def ask() -> None:
        server = Server()
        async with trio.open_nursery() as nursery:
            await nursery.start(server.committer.run)
            if has_token:
                sent["authorization"] = f"Bearer {server.token(any='owner')}"
            request = Request(method, path, query, sent, body, "peer", NOW_MS)
            response = await whole_response(server.api, request)
            check_described(method, path, response)
            assert response.status < 500
            server.committer.close()

    trio.run(ask)
