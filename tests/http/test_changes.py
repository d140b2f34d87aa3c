"""POST changes: outcomes, positions, preconditions, idempotency."""

from typing import Any

import pytest

from syncd.engine.commands import Author, Bind, Refused
from syncd.net.api.calls import author_of
from syncd.net.auth import Principal
from syncd.wire.limits import CONTAINERS_MAX
from tests.http.harness import Server

CREATE = ["create", "orders", "1"]


def put(value: Any, field: str = "status", document: str = "1") -> list[Any]:
    return ["reg.set", "orders", document, field, value]


async def test_a_change_takes_effect_and_says_its_seq_and_position(server: Server) -> None:
    token = server.token(any="writer")
    made = await server.change(token, "shop/1", CREATE, put("new"))
    assert made.status == 200
    assert made.json["outcome"] == "applied" and made.json["seq"] == 1
    assert made.json["position"] == made.header("Position")
    read = await server.ask("GET", "/v1/spaces/shop%2F1/documents/orders/1", token)
    assert read.json == {
        "collection": "orders", "id": "1", "rev": 1, "fields": {"status": "new"}, "types": {"status": "reg"},
    }  # fmt: skip


async def test_a_refused_change_is_an_answer_not_an_error(server: Server) -> None:
    token = server.token(any="writer")
    refused = await server.change(token, "shop", put("x"))
    assert refused.status == 200
    assert refused.json["outcome"] == "gone" and refused.json["detail"]["op"] == 0 and "seq" not in refused.json


@pytest.mark.parametrize(
    ("operation", "outcome"),
    [
        (["reg.set", "orders", "1", "status"], "invalid"),
        (["nonsense", "orders", "1"], "invalid"),
        ("no operation", "invalid"),
        (["reg.set", "orders", "1", "status", "x" * 70_000], "too_large"),
        (["counter.inc", "orders", "1", "status", 1], "type_mismatch"),
        (["create", "_secret", "1"], "forbidden"),
    ],
)
async def test_what_is_wrong_inside_a_change_is_its_outcome(server: Server, operation: Any, outcome: str) -> None:
    token = server.token(any="writer")
    await server.change(token, "shop", CREATE, put("new"))
    assert (await server.change(token, "shop", operation)).json["outcome"] == outcome


async def test_bytes_and_dollar_keys_survive_both_ways(server: Server) -> None:
    token = server.token(any="writer")
    value = {"$$key": {"$b": "AP8"}, "list": [1, 2.5, None, True]}
    await server.change(token, "shop", CREATE, put(value))
    read = await server.ask("GET", "/v1/spaces/shop/documents/orders/1", token)
    assert read.json["fields"]["status"] == value


async def test_a_space_is_one_segment_of_the_path(server: Server) -> None:
    token = server.token(any="writer")
    assert (await server.change(token, "user/a%2Fb", CREATE)).status == 200
    assert (await server.ask("GET", "/v1/spaces/user%2Fa%252Fb/documents/orders/1", token)).status == 200
    assert (await server.ask("GET", "/v1/spaces/user/a/documents/orders/1", token)).status == 404


@pytest.mark.parametrize("space", ["%FF", "%20", "a%2F%2Fb", "..", "a%252fb", "x" * 201])
async def test_a_wrong_space_is_named(server: Server, space: str) -> None:
    token = server.token(any="writer")
    answer = await server.ask("POST", f"/v1/spaces/{space}/changes", token, {"operations": [CREATE]})
    assert answer.problem == "malformed-request"


async def test_nobody_can_take_the_device_id_under_which_a_user_writes_over_http(server: Server) -> None:
    device = author_of(Principal("42", (), None, None)).device
    taken = await server.committer.execute(Bind(Author(device, b"i" * 16, "device", "43", ())))
    assert isinstance(taken, Refused) and taken.reason == "device_bound"
    assert (await server.change(server.token(any="writer"), "shop", CREATE)).json["outcome"] == "applied"


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "problem", "pointer"),
    [
        (b"{", "malformed-request", None),
        (b"\xff", "malformed-request", None),
        (b"", "malformed-request", None),
        (b'{"operations":[],"operations":[]}', "malformed-request", None),
        (b'{"operations":[["reg.set","c","1","f",{"a":1,"a":2}]]}', "malformed-request", None),
        (b'{"operations":[["reg.set","c","1","f",NaN]]}', "malformed-request", None),
        (b'{"operations":' + b"[" * 5000 + b"]" * 5000 + b"}", "malformed-request", None),
        (b"[]", "invalid-request", ""),
        (b"{}", "invalid-request", "/operations"),
        (b'{"operations":{}}', "invalid-request", "/operations"),
        (b'{"operations":[],"bas/e":1}', "invalid-request", "/bas~1e"),
        (b'{"operations":[[],["reg.set","c","1","f",{"$b":"!"}]]}', "invalid-request", "/operations/1"),
        (b'{"operations":[["reg.set","c","1","f",{"$x":1}]]}', "invalid-request", "/operations/0"),
        (b'{"operations":[],"base":"7"}', "invalid-request", "/base"),
        (b'{"operations":[],"base":7}', "invalid-request", "/base"),
    ],
)
async def test_a_wrong_body_is_refused_with_the_place(
    server: Server, body: bytes, problem: str, pointer: str | None
) -> None:
    token = server.token(any="writer")
    answer = await server.ask("POST", "/v1/spaces/shop/changes", token, body, content_type="application/json")
    assert answer.problem == problem
    assert answer.json.get("pointer") == pointer
    assert (await server.ask("GET", "/v1/spaces/shop/documents", token)).status == 404, "nothing was made"


async def test_only_plain_json_is_taken(server: Server) -> None:
    token = server.token(any="writer")
    target = "/v1/spaces/shop/changes"
    for headers in (
        {},
        {"content_type": "text/plain"},
        {"content_type": "application/json; charset=latin-1"},
        {"content_type": "application/json", "content_encoding": "gzip"},
    ):
        answer = await server.ask("POST", target, token, b'{"operations":[]}', **headers)
        assert answer.problem == "unsupported-media-type" and answer.json["supported"]
    good = await server.ask(
        "POST", target, token, {"operations": [CREATE]}, content_type="Application/JSON; charset=UTF-8"
    )
    assert good.status == 200


async def test_a_body_beyond_the_limit_is_refused(server: Server) -> None:
    token = server.token(any="writer")
    answer = await server.ask("POST", "/v1/spaces/shop/changes", token, {"operations": ["x" * 2_200_000]})
    assert answer.problem == "too-large" and answer.json["limit_bytes"] == 2 * 1024 * 1024


async def test_a_body_of_nothing_but_arrays_and_maps_is_refused_before_it_is_parsed(server: Server) -> None:
    """Half a million of them fit into the bytes, and held the loop for more than a second."""
    token, target = server.token(any="writer"), "/v1/spaces/shop/changes"
    for parts in (b"[],", b"{},"):
        body = b'{"operations":[' + parts * CONTAINERS_MAX + b"0]}"
        answer = await server.ask("POST", target, token, body, content_type="application/json")
        assert (answer.status, answer.problem, answer.json["limit"]) == (413, "too-large", CONTAINERS_MAX)
    answer = await server.ask("POST", target, token, {"operations": [CREATE, put('["\\' * (CONTAINERS_MAX + 1))]})
    assert answer.json["outcome"] == "too_large", "brackets in a text are no arrays"


# -- positions --------------------------------------------------------------------------------------------------------


async def test_without_a_base_a_change_overwrites_what_it_has_not_seen(server: Server) -> None:
    token = server.token(any="writer")
    await server.change(token, "shop", CREATE, put("a"))
    assert (await server.change(token, "shop", put("b"))).json["outcome"] == "applied"


async def test_a_base_tells_what_was_seen(server: Server) -> None:
    token = server.token(any="writer")
    first = (await server.change(token, "shop", CREATE, put("a"))).json["position"]
    await server.change(token, "shop", put("b"))
    met = await server.change(token, "shop", put("c"), query=f"?base={first}")
    assert met.json["outcome"] == "merged" and met.json["detail"]["met"] == [[0, "won", 2]]
    body = {"operations": [["expect", "orders", "1", "status"]], "base": first}
    expecting = await server.ask("POST", "/v1/spaces/shop/changes", token, body)
    assert expecting.json["outcome"] == "precondition"


async def test_a_base_beyond_the_head_is_a_conflict(server: Server) -> None:
    token = server.token(any="writer")
    position = (await server.change(token, "shop", CREATE)).json["position"]
    epoch = position.partition("@")[2]
    assert (await server.change(token, "shop", put(1), query=f"?base=9@{epoch}")).problem == "bad-position"
    assert (await server.change(token, "shop", put(1), query="?base=0@" + "0" * 32)).problem == "expired-position"
    assert (await server.change(token, "elsewhere", CREATE, query=f"?base=0@{epoch}")).problem == "bad-position"


async def test_a_base_of_another_epoch_is_answered_with_the_present_one(server: Server) -> None:
    token = server.token(any="writer")
    epoch = (await server.change(token, "shop", CREATE)).json["position"].partition("@")[2]
    expired = await server.change(token, "shop", put(1), query="?base=1@" + "f" * 32)
    assert expired.status == 410 and expired.json["epoch"] == epoch and expired.json["fork"] == 0


async def test_two_bases_must_agree(server: Server) -> None:
    token = server.token(any="writer")
    position = (await server.change(token, "shop", CREATE)).json["position"]
    body = {"operations": [put(1)], "base": position}
    assert (await server.ask("POST", f"/v1/spaces/shop/changes?base={position}", token, body)).status == 200
    other = "0" + position[position.index("@") :]
    answer = await server.ask("POST", f"/v1/spaces/shop/changes?base={other}", token, body)
    assert answer.problem == "invalid-request" and answer.json["pointer"] == "/base"


async def test_unknown_and_repeated_query_parameters_are_refused(server: Server) -> None:
    token = server.token(any="writer")
    for query in ("?bsae=1", "?base=1&base=1", "?base=%FF", "?access_token=x", "?base=nonsense"):
        assert (await server.change(token, "shop", CREATE, query=query)).problem == "malformed-request"


# -- preconditions ----------------------------------------------------------------------------------------------------


async def test_if_match_refuses_a_document_that_has_moved(server: Server) -> None:
    token = server.token(any="writer")
    await server.change(token, "shop", CREATE, put("a"))
    tag = (await server.ask("GET", "/v1/spaces/shop/documents/orders/1", token)).header("ETag") or ""
    good = await server.change(token, "shop", put("b"), if_match=tag)
    assert good.json["outcome"] == "applied"
    assert (await server.change(token, "shop", put("c"), if_match=tag)).problem == "precondition-failed"
    read = await server.ask("GET", "/v1/spaces/shop/documents/orders/1", token)
    assert read.json["fields"]["status"] == "b"


async def test_if_match_ignores_what_happened_to_other_documents(server: Server) -> None:
    token = server.token(any="writer")
    await server.change(token, "shop", CREATE, put("a"))
    tag = (await server.ask("GET", "/v1/spaces/shop/documents/orders/1", token)).header("ETag") or ""
    await server.change(token, "shop", ["create", "orders", "2"])
    assert (await server.change(token, "shop", put("b"), if_match=tag)).json["outcome"] == "applied"


async def test_if_match_of_an_absent_document_or_another_epoch_fails(server: Server) -> None:
    token = server.token(any="writer")
    tag = f'"1@{"f" * 32}"'
    assert (await server.change(token, "shop", CREATE, if_match=tag)).problem == "precondition-failed"
    await server.change(token, "shop", CREATE)
    answer = await server.change(token, "shop", put("b"), if_match=tag)
    assert answer.problem == "precondition-failed" and "epoch" in answer.json


async def test_if_match_takes_one_strong_tag_and_one_document(server: Server) -> None:
    token = server.token(any="writer")
    await server.change(token, "shop", CREATE)
    tag = (await server.ask("GET", "/v1/spaces/shop/documents/orders/1", token)).header("ETag") or ""
    assert (await server.change(token, "shop", put(1), if_match=f"W/{tag}")).problem == "precondition-failed"
    for wrong in ("*", f"{tag}, {tag}", tag.strip('"'), '"1"'):
        answer = await server.change(token, "shop", put(1), if_match=wrong)
        assert answer.problem == "malformed-request" and answer.json["header"] == "If-Match"
    two = await server.change(token, "shop", put(1), put(1, document="2"), if_match=tag)
    assert two.problem == "invalid-request" and two.json["pointer"] == "/operations"


# -- idempotency ------------------------------------------------------------------------------------------------------


async def test_a_repeated_request_with_its_key_gets_the_original_answer(server: Server) -> None:
    token = server.token(any="writer")
    operations: list[list[Any]] = [CREATE, ["counter.inc", "orders", "1", "parcels", 2]]
    first = await server.change(token, "shop", *operations, idempotency_key="k")
    await server.change(token, "shop", put("between"))
    again = await server.change(token, "shop", *operations, idempotency_key="k")
    assert again.json == first.json
    read = await server.ask("GET", "/v1/spaces/shop/documents/orders/1", token)
    assert read.json["fields"]["parcels"] == 2


async def test_a_refused_outcome_is_replayed_too(server: Server) -> None:
    token = server.token(any="writer")
    first = await server.change(token, "shop", put("x"), idempotency_key="k")
    await server.change(token, "shop", CREATE)
    assert (await server.change(token, "shop", put("x"), idempotency_key="k")).json == first.json


async def test_the_same_data_in_other_json_is_the_same_request(server: Server) -> None:
    token = server.token(any="writer")
    one = b'{"operations":[["create","c","1"],["reg.set","c","1","f",{"a":1,"b":2}]]}'
    other = b'{"operations": [["create","c","1"], ["reg.set","c","1","f",{"b":2,"a":1}]]}'
    headers = {"content_type": "application/json", "idempotency_key": "k"}
    first = await server.ask("POST", "/v1/spaces/shop/changes", token, one, **headers)
    assert (await server.ask("POST", "/v1/spaces/shop/changes", token, other, **headers)).json == first.json


async def test_a_reused_key_is_refused(server: Server) -> None:
    token = server.token(any="writer")
    await server.change(token, "shop", CREATE, idempotency_key="k")
    assert (await server.change(token, "shop", put(1), idempotency_key="k")).problem == "idempotency-key-reused"
    assert (await server.change(token, "other", CREATE, idempotency_key="k")).problem == "idempotency-key-reused"


async def test_a_key_is_its_authors_own_and_ends_after_a_day(server: Server) -> None:
    token = server.token(any="writer")
    assert (await server.change(token, "shop", CREATE, idempotency_key="k")).json["seq"] == 1
    other = server.token("43", any="writer")
    assert (await server.change(other, "shop", put("b"), idempotency_key="k")).json["seq"] == 2
    server.clock.ms += 24 * 3600 * 1000
    token = server.token(any="writer")
    assert (await server.change(token, "shop", put("c"), idempotency_key="k")).json["seq"] == 3


@pytest.mark.parametrize("key", ["", "x" * 256, "é"])
async def test_a_wrong_idempotency_key_is_refused(server: Server, key: str) -> None:
    answer = await server.change(server.token(any="writer"), "shop", CREATE, idempotency_key=key)
    assert answer.problem == "malformed-request" and answer.json["header"] == "Idempotency-Key"
