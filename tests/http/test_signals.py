"""Signals by HTTP: who may send them, what is taken, and that they reach who listens."""

from typing import Any

import pytest
from trio.testing import MockClock

from tests.http.harness import Server

SIGNAL = {"signals": [{"key": "price", "value": {"eur": 3.2}}]}
PLACE = "/v1/spaces/shop%2F1/signals"


async def test_a_backend_signals_with_its_scope_and_a_user_as_writer(server: Server) -> None:
    for credentials in (
        await server.key("feed", "signals:write:shop/*"), await server.key("shop", "changes:write:shop/*"),
        server.token(shop__1="writer"),
    ):  # fmt: skip
        answer = await server.ask("POST", PLACE, credentials, SIGNAL)
        assert (answer.status, answer.json) == (202, {"listeners": 0})


async def test_nobody_else_does_and_a_space_that_is_there_answers_as_one_that_is_not(server: Server) -> None:
    owner = server.token("7", shop__1="owner")
    made = await server.ask("POST", "/v1/spaces/shop%2F1/changes", owner, {"operations": [["create", "c", "a"]]})
    assert made.status == 200
    for credentials in (
        await server.key("elsewhere", "signals:write:other/*"), await server.key("reader", "documents:read:shop/*"),
        server.token(shop__1="reader"), server.token(),
    ):  # fmt: skip
        there = await server.ask("POST", PLACE, credentials, SIGNAL)
        guessed = await server.ask("POST", "/v1/spaces/shop%2F2/signals", credentials, SIGNAL)
        assert (there.status, there.problem, guessed.status) == (403, "forbidden", 403)
        assert there.body.replace(b"%2F1", b"%2F2").replace(b"shop/1", b"shop/2") == guessed.body


async def test_the_scope_of_signals_reads_and_writes_nothing(server: Server) -> None:
    key = await server.key("feed", "signals:write:**")
    assert (await server.ask("GET", "/v1/spaces/shop%2F1/documents", key)).status == 403
    change = {"operations": [["create", "c", "a"]]}
    assert (await server.ask("POST", "/v1/spaces/shop%2F1/changes", key, change)).status == 403


async def test_a_denied_member_signals_no_more_whatever_the_token_says(server: Server) -> None:
    denied = [["create", "_members", "42"], ["reg.set", "_members", "42", "role", "none"]]
    owner = server.token("7", shop__1="owner")
    assert (await server.ask("POST", "/v1/spaces/shop%2F1/changes", owner, {"operations": denied})).status == 200
    assert (await server.ask("POST", PLACE, server.token("42", shop__1="owner"), SIGNAL)).problem == "forbidden"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/signals"),
        ({"signals": []}, "/signals"),
        ({"signals": [{"key": "k"}] * 101}, "/signals"),
        ({"signals": [{"value": 1}]}, "/signals/0"),
        ({"signals": [{"key": "k", "user": "ann"}]}, "/signals/0"),
        ({"signals": [{"key": "k"}, {"key": ""}]}, "/signals/1"),
        ({"signals": [{"key": "k", "value": {"$x": 1}}]}, "/signals/0"),
        ({"signals": [{"key": "k", "ttl_ms": "1"}]}, "/signals/0/ttl_ms"),
        ({"signals": [{"key": "k", "ttl_ms": 300_001}]}, "/signals"),
        ({"signals": [{"key": "k", "value": "x" * 8_190}]}, "/signals"),
    ],
)
async def test_what_is_wrong_is_told_and_nothing_is_taken(server: Server, body: Any, pointer: str) -> None:
    answer = await server.ask("POST", PLACE, await server.key("feed", "signals:write:**"), body)
    assert (answer.status, answer.problem, answer.json["pointer"]) == (422, "invalid-request", pointer)


async def test_a_space_takes_so_many_signals_and_then_says_when(server: Server, autojump_clock: MockClock) -> None:
    key, many = await server.key("feed", "signals:write:**"), {"signals": [{"key": "k"}] * 100}
    answers = [await server.ask("POST", PLACE, key, many) for _ in range(22)]
    assert [answer.status for answer in answers[:19]] == [202] * 19
    assert (answers[21].status, answers[21].problem, answers[21].header("Retry-After")) == (429, "rate-limited", "1")
    assert (await server.ask("POST", "/v1/spaces/shop%2F2/signals", key, many)).status == 202
