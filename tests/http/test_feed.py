"""The feed of a space and its named consumers over HTTP: places, problems, who may, and what an answer says."""

from typing import Any

import pytest

from syncd.core.ids import BadName
from syncd.engine import feeding
from tests.http.harness import Answer, Server

CHANGES = "/v1/spaces/shop/changes"
MAILER = "/v1/spaces/shop/consumers/mailer"
STRANGE = "0" * 32


def put(value: Any, field: str = "status", document: str = "1") -> list[Any]:
    return ["reg.set", "orders", document, field, value]


async def filled(server: Server) -> str:
    """A space with two changes; a token that may everything."""
    token = server.token(any="owner")
    await server.change(token, "shop", ["create", "orders", "1"], put("new"))
    await server.change(token, "shop", ["create", "orders", "2"])
    return token


async def test_the_feed_tells_each_document_once_with_what_changed_after_the_place(server: Server) -> None:
    token = await filled(server)
    first = await server.ask("GET", CHANGES, token)
    assert first.json["complete"] and [d["state"] for d in first.json["documents"]] == ["reset", "reset"]
    assert first.header("Position") == first.json["to"] and first.json["from"].startswith("0@")
    await server.change(token, "shop", put("packed"), put("x", "note"))
    await server.change(token, "shop", put("shipped"), ["reg.unset", "orders", "1", "note"])
    await server.change(token, "shop", ["delete", "orders", "2"])
    then = await server.ask("GET", f"{CHANGES}?after={first.json['to']}", token)
    assert then.json["documents"] == [
        {
            "collection": "orders", "id": "1", "rev": 4, "state": "patch",
            "fields": {"status": "shipped"}, "types": {"status": "reg"}, "unset": ["note"],
        },
        {"collection": "orders", "id": "2", "rev": 5, "state": "deleted"},
    ]  # fmt: skip
    assert (then.json["from"], then.json["after"]) == (first.json["to"], first.json["to"])
    nothing = await server.ask("GET", f"{CHANGES}?after={then.json['to']}", token)
    assert nothing.json["documents"] == [] and nothing.json["to"] == then.json["to"] and nothing.json["complete"]


async def test_pages_are_followed_by_the_place_they_give(server: Server) -> None:
    token = await filled(server)
    await server.change(token, "shop", put("later"))
    place, states = "0", []
    while True:
        page = (await server.ask("GET", f"{CHANGES}?limit=1&after={place}", token)).json
        states += [(d["id"], d["fields"]) for d in page["documents"]]
        place = page["to"]
        if page["complete"]:
            break
        assert "~0~" in place and page["from"].startswith("0@")
    assert states == [("2", {}), ("1", {"status": "later"})]


async def test_bytes_and_dollar_keys_are_written_as_in_documents(server: Server) -> None:
    token = server.token(any="owner")
    value = {"$$key": {"$b": "AP8"}}
    await server.change(token, "shop", ["create", "orders", "1"], put(value))
    assert (await server.ask("GET", CHANGES, token)).json["documents"][0]["fields"]["status"] == value


async def test_one_may_begin_at_the_head(server: Server) -> None:
    token = await filled(server)
    head = await server.ask("GET", f"{CHANGES}?after=head", token)
    assert head.json["documents"] == [] and head.json["to"] == head.json["after"] == head.header("Position")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=", "after"), ("after=1", "after"), ("after=tail", "after"), (f"after=1~1@{STRANGE}", "after"),
        ("wait=-1", "wait"), ("wait=56", "wait"), ("wait=1.5", "wait"), ("wait=", "wait"), ("limit=0", "limit"),
        ("limit=1001", "limit"), ("limit=x", "limit"), ("afer=0", "afer"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(server: Server, query: str, parameter: str) -> None:
    token = await filled(server)
    answer = await server.ask("GET", f"{CHANGES}?{query}", token)
    assert answer.problem == "malformed-request" and answer.json["parameter"] == parameter


async def test_places_that_do_not_hold_are_told_apart(server: Server) -> None:
    token = await filled(server)
    epoch = (await server.ask("GET", CHANGES, token)).json["to"].partition("@")[2]
    beyond = await server.ask("GET", f"{CHANGES}?after=9@{epoch}&wait=5", token)
    assert beyond.problem == "bad-position" and "the head 2" in beyond.json["detail"]
    expired = await server.ask("GET", f"{CHANGES}?after=1@{STRANGE}", token)
    assert (expired.status, expired.problem) == (410, "expired-position")
    assert (expired.json["epoch"], expired.json["fork"]) == (epoch, 0)
    nowhere = await server.ask("GET", "/v1/spaces/none/changes", token)
    assert nowhere.problem == "not-found"


async def test_a_head_request_does_not_wait(server: Server) -> None:
    token = await filled(server)
    for accept in ("application/json", "text/event-stream"):
        answer = await server.ask("HEAD", f"{CHANGES}?after=head&wait=50", token, accept=accept)
        assert answer.status == 200


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", "application/json"), ("*/*", "application/json"), ("", "application/json"),
        ("text/event-stream", "text/event-stream"), ("text/*", "text/event-stream"),
        ("application/json;q=0.5, text/event-stream", "text/event-stream"),
        ("application/json, text/event-stream", "application/json"), ("text/html", "application/problem+json"),
    ],
)  # fmt: skip
async def test_accept_chooses_between_a_poll_and_a_stream(server: Server, accept: str, expected: str) -> None:
    token = await filled(server)
    answer = await server.ask("GET", CHANGES, token, accept=accept)
    assert answer.header("Content-Type") == expected
    assert (answer.response.stream is not None) == (expected == "text/event-stream")


async def test_a_revoked_role_and_a_revoked_key_read_nothing(server: Server) -> None:
    await filled(server)
    stranger = await server.ask("GET", CHANGES, server.token("43", other="owner"))
    assert stranger.problem == "forbidden" and stranger.json["scope"] == "documents:read:shop"


# -- consumers --------------------------------------------------------------------------------------------------------


async def consumer(server: Server, credentials: str, start: str = "0", target: str = MAILER) -> Answer:
    return await server.ask("PUT", target, credentials, {"start": start})


async def test_a_consumer_reads_acknowledges_and_stands_where_it_acknowledged(server: Server) -> None:
    await filled(server)
    key = await server.key("backend", "documents:read:shop")
    made = await consumer(server, key)
    assert made.status == 201 and made.json["lag"] == 2 and made.json["position"].startswith("0@")
    assert (await consumer(server, key, "head")).status == 200
    read = await server.ask("GET", f"{MAILER}/changes", key)
    assert len(read.json["documents"]) == 2
    again = await server.ask("GET", f"{MAILER}/changes", key)
    assert again.json == read.json, "what is not acknowledged comes again"
    for _ in range(2):
        acked = await server.ask("POST", f"{MAILER}/ack", key, {"position": read.json["to"]})
        assert acked.status == 200 and acked.json["position"] == read.json["to"] and acked.json["lag"] == 0
    assert (await server.ask("GET", f"{MAILER}/changes", key)).json["documents"] == []
    assert (await server.ask("GET", MAILER, key)).json == acked.json
    assert (await server.ask("GET", "/v1/spaces/shop/consumers", key)).json == {"consumers": [acked.json]}
    assert (await server.ask("DELETE", MAILER, key)).status == 204
    for method, target, body in (
        ("GET", MAILER, None), ("GET", f"{MAILER}/changes?wait=1", None), ("DELETE", MAILER, None),
        ("POST", f"{MAILER}/ack", {"position": read.json["to"]}),
    ):  # fmt: skip
        assert (await server.ask(method, target, key, body)).problem == "not-found"


async def test_a_consumer_is_its_owners_alone(server: Server) -> None:
    token = await filled(server)
    key = await server.key("backend", "documents:read:shop")
    await consumer(server, key)
    assert (await server.ask("GET", MAILER, token)).problem == "not-found"
    assert (await server.ask("GET", "/v1/spaces/shop/consumers", token)).json == {"consumers": []}
    with pytest.raises(BadName, match="API keys"):
        server.token("key:backend", shop="reader")  # no user is called like a key


async def test_what_a_consumer_cannot_do_is_refused_in_words(server: Server) -> None:
    token = await filled(server)
    epoch = (await consumer(server, token, "head")).json["position"].partition("@")[2]
    ack = f"{MAILER}/ack"
    for position, problem in (
        (f"9@{epoch}", "bad-position"), (f"1@{STRANGE}", "expired-position"), ("head", "invalid-request"),
        (3, "invalid-request"), (None, "invalid-request"),
    ):  # fmt: skip
        assert (await server.ask("POST", ack, token, {"position": position})).problem == problem
    behind = await server.ask("POST", ack, token, {"position": f"1@{epoch}"})
    assert behind.json["position"] == f"2@{epoch}", "it never moves back"
    assert (await server.ask("POST", ack, token, {"position": f"1@{epoch}", "x": 1})).json["pointer"] == "/x"
    other = "/v1/spaces/shop/consumers/other"
    for start, problem in (
        (f"9@{epoch}", "bad-position"), (f"1@{STRANGE}", "expired-position"), ("tail", "invalid-request"),
    ):  # fmt: skip
        assert (await server.ask("PUT", other, token, {"start": start})).problem == problem
    assert (await server.ask("PUT", "/v1/spaces/none/consumers/a", token, {"start": "0"})).problem == "not-found"
    assert (await server.ask("PUT", "/v1/spaces/shop/consumers/%00", token, {"start": "0"})).json["parameter"] == "name"


async def test_too_many_consumers_are_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await filled(server)
    monkeypatch.setattr(feeding, "SPACE_CONSUMERS_MAX", 1)
    await consumer(server, token)
    answer = await consumer(server, token, target="/v1/spaces/shop/consumers/b")
    assert (answer.status, answer.problem) == (409, "too-many-consumers")


async def test_a_consumer_that_is_only_read_shows_that_it_is_used(server: Server) -> None:
    token = await filled(server)
    made = (await consumer(server, token)).json["used_ms"]
    server.clock.ms += feeding.USED_MS - 1
    await server.ask("GET", f"{MAILER}/changes", token)
    assert (await server.ask("GET", MAILER, token)).json["used_ms"] == made
    server.clock.ms += 1
    await server.ask("GET", f"{MAILER}/changes", token)
    assert (await server.ask("GET", MAILER, token)).json["used_ms"] == made + feeding.USED_MS


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", CHANGES, None), ("PUT", MAILER, {"start": "0"}), ("GET", MAILER, None), ("DELETE", MAILER, None),
        ("GET", f"{MAILER}/changes", None), ("POST", f"{MAILER}/ack", {"position": f"0@{STRANGE}"}),
        ("GET", "/v1/spaces/shop/consumers", None),
    ],
)  # fmt: skip
async def test_each_route_needs_the_role_reader(server: Server, method: str, target: str, body: Any) -> None:
    await filled(server)
    stranger = server.token("43", other="owner")
    assert (await server.ask(method, target, stranger, body)).problem == "forbidden"
    reader = server.token("43", shop="reader")
    assert (await server.ask(method, target, reader, body)).status != 403
