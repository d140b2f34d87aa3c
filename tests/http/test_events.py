"""POST events: results in order, at most once, into the inbox."""

import json
from typing import Any

import trio

from tests.http.harness import Server

BATCH = "application/cloudevents-batch+json"
SINGLE = "application/cloudevents+json"


def event(event_id: str = "1", **more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": event_id, "source": "/shop", "type": "order.shipped", **more}


async def test_each_event_gets_its_result_in_input_order(server: Server) -> None:
    key = await server.key("shop", "events:write")
    batch = [event("1"), event("2", type=""), "no event", event("1"), event("3"), event("4", specversion="2.0")]
    answer = await server.ask("POST", "/v1/events", key, batch, content_type=BATCH)
    assert answer.status == 202
    results = answer.json["results"]
    assert [result["status"] for result in results] == [
        "accepted", "invalid", "invalid", "duplicate", "accepted", "invalid",
    ]  # fmt: skip
    assert [result["id"] for result in results] == ["1", "2", None, "1", "3", "4"]
    assert all(("detail" in result) == (result["status"] == "invalid") for result in results)


async def test_a_repeated_event_is_a_duplicate_for_a_week(server: Server) -> None:
    key = await server.key("shop", "events:write")
    for expected in ("accepted", "duplicate"):
        answer = await server.ask("POST", "/v1/events", key, event(), content_type=SINGLE)
        assert [result["status"] for result in answer.json["results"]] == [expected]
    other = await server.ask("POST", "/v1/events", key, event(source="/other"), content_type=SINGLE)
    assert other.json["results"][0]["status"] == "accepted"
    server.clock.ms += 7 * 24 * 3600 * 1000
    later = await server.ask("POST", "/v1/events", key, event(), content_type=SINGLE)
    assert later.json["results"][0]["status"] == "accepted"


async def test_a_notification_lands_in_the_inbox_of_its_subject(server: Server) -> None:
    key = await server.key("shop", "events:write")
    notification = {"title": "On its way", "body": "It left.", "category": "orders", "data": {"order": 1042}}
    headers = {"ce_specversion": "1.0", "ce_id": "7", "ce_source": "/shop", "ce_type": "x", "ce_subject": "j%C3%B6rg"}
    body = json.dumps({"notification": notification}).encode()
    answer = await server.ask("POST", "/v1/events", key, body, content_type="application/json", **headers)
    assert answer.json["results"][0]["status"] == "accepted"
    token = server.token("jörg")
    inbox = await server.ask("GET", "/v1/spaces/user%2Fj%25C3%25B6rg/documents/_inbox", token)
    (document,) = inbox.json["documents"]
    assert document["fields"]["title"] == "On its way" and document["fields"]["data"] == {"order": 1042}


async def test_a_wrong_notification_is_invalid_and_may_be_sent_again(server: Server) -> None:
    key = await server.key("shop", "events:write")
    wrong = event(subject="42", data={"notification": {"title": "no body"}})
    answer = await server.ask("POST", "/v1/events", key, [wrong, event("2")], content_type=BATCH)
    assert [result["status"] for result in answer.json["results"]] == ["invalid", "accepted"]
    good = {"notification": {"title": "t", "body": "b", "category": "c"}}
    answer = await server.ask("POST", "/v1/events", key, event(subject="42", data=good), content_type=SINGLE)
    assert answer.json["results"][0]["status"] == "accepted"


async def test_an_empty_batch_is_no_error(server: Server) -> None:
    key = await server.key("shop", "events:write")
    assert (await server.ask("POST", "/v1/events", key, [], content_type=BATCH)).json == {"results": []}


async def test_bodies_that_hold_no_events_are_problems(server: Server) -> None:
    key = await server.key("shop", "events:write")

    async def problem(body: bytes, content_type: str) -> str:
        return (await server.ask("POST", "/v1/events", key, body, content_type=content_type)).problem

    assert await problem(b"{", SINGLE) == "malformed-request"
    assert await problem(b"[]", SINGLE) == "malformed-request"
    assert await problem(b"{}", BATCH) == "malformed-request"
    assert await problem(b"{}", "application/json") == "unsupported-media-type"
    assert await problem(b"<x/>", "application/cloudevents+xml") == "unsupported-media-type"
    assert await problem(b"{}", f"{SINGLE}; charset=utf-16") == "unsupported-media-type"
    assert await problem(json.dumps([event()] * 1001).encode(), BATCH) == "too-large"
    assert await problem(b"[" + b" " * 4 * 1024 * 1024 + b"]", BATCH) == "too-large"


async def test_two_producers_of_one_event_get_one_accepted(server: Server) -> None:
    key = await server.key("shop", "events:write")
    statuses: list[str] = []

    async def produce() -> None:
        answer = await server.ask("POST", "/v1/events", key, event(), content_type=SINGLE)
        statuses.append(answer.json["results"][0]["status"])

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(produce)
    assert sorted(statuses) == ["accepted"] + ["duplicate"] * 4
