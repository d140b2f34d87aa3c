"""Workflows over HTTP: versions, which one is active, and what one would decide without anything being written."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from syncd.engine.commands import Configure, Done
from tests.http.harness import NOW_MS, Server

READY = Path(__file__).resolve().parents[2] / "conf" / "workflows"
CART: dict[str, Any] = tomllib.loads((READY / "cart.toml").read_text())
DAY_MS = 86_400_000


def cart(delay: str = "1h") -> dict[str, Any]:
    """The workflow of an abandoned cart, with another first delay."""
    workflow = CART["workflow"]["cart"]
    return CART | {"workflow": {"cart": workflow | {"step": [{"delay": delay}, *workflow["step"][1:]]}}}


async def kept(server: Server, key: str, values: dict[str, Any]) -> str:
    answer = await server.ask("POST", "/v1/workflows", key, values)
    assert answer.status in (200, 201), answer.json
    (workflow,) = answer.json["workflows"]
    assert workflow["new"] == (answer.status == 201)
    return str(workflow["version"])


async def test_versions_are_kept_activated_stopped_and_forgotten(server: Server) -> None:
    key = await server.key("ops", "workflows:write")
    first, second = await kept(server, key, cart()), await kept(server, key, cart("2h"))
    assert first != second and await kept(server, key, cart()) == first
    head = (await server.ask("GET", "/v1/workflows/cart", key)).json
    assert head["active"] is None and {each["version"] for each in head["versions"]} == {first, second}
    for version in (first, second, second):
        answer = await server.ask("PUT", "/v1/workflows/cart/active", key, {"version": version})
        assert answer.json["active"] == version and answer.json["by"] == "key:ops"
    assert (await server.ask("DELETE", "/v1/workflows/cart", key)).problem == "workflow-conflict"
    shown = (await server.ask("GET", f"/v1/workflows/cart/versions/{second}", key)).json
    assert shown["definitions"]["workflow"]["cart"]["step"][0] == {"delay": "2h"}
    assert (await server.ask("DELETE", "/v1/workflows/cart/active", key)).json["active"] is None
    assert (await server.ask("DELETE", "/v1/workflows/cart", key)).status == 204
    assert (await server.ask("GET", "/v1/workflows", key)).json == {"policy": {}, "workflows": []}
    assert (await server.ask("GET", "/v1/workflows/cart", key)).problem == "not-found"


async def test_of_definitions_with_a_mistake_nothing_is_kept_and_all_mistakes_are_told(server: Server) -> None:
    key = await server.key("ops", "workflows:write")
    wrong = cart()
    wrong["category"] = {"shop": {"caps": ["1 a day"]}}
    wrong["workflow"]["cart"] |= {"trigger": {"event": "cart.updated", "where": "count > "}}
    answer = await server.ask("POST", "/v1/workflows", key, wrong)
    assert answer.problem == "invalid-request"
    problems = {each["pointer"]: each for each in answer.json["problems"]}
    assert set(problems) == {"/category/shop/caps/0", "/workflow/cart/trigger/where"}
    assert problems["/workflow/cart/trigger/where"]["column"] == 8
    answer = await server.ask("POST", "/v1/workflows", key, {"policy": {}} | cart())
    assert answer.problem == "invalid-request", "the policy is the operator's, and stands in the configuration"
    assert (await server.ask("GET", "/v1/workflows", key)).json["workflows"] == []


async def test_the_configuration_speaks_when_it_says_something_new_and_an_operators_word_stands_until_then(
    server: Server,
) -> None:
    key = await server.key("ops", "workflows:write")

    async def start(values: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(await server.committer.execute(Configure(values)), Done)
        heads = (await server.ask("GET", "/v1/workflows", key)).json["workflows"]
        return {each["name"]: each for each in heads}

    configured = {"policy": {"caps": ["4 / 24h"]}} | cart()
    head = (await start(configured))["cart"]
    first = head["active"]
    assert head["configured"] == first and head["by"] == "configuration"
    second = await kept(server, key, cart("2h"))
    await server.ask("PUT", "/v1/workflows/cart/active", key, {"version": second})
    assert (await start(configured))["cart"]["active"] == second, "a restart undoes no operator's word"
    await server.ask("DELETE", "/v1/workflows/cart/active", key)
    assert (await start(configured))["cart"]["active"] is None
    third = (await start({} | cart("3h")))["cart"]
    assert third["active"] == third["configured"] not in (first, second, None)
    gone = (await start({}))["cart"]
    assert gone["active"] is None and gone["configured"] is None
    versions = (await server.ask("GET", "/v1/workflows/cart", key)).json["versions"]
    assert {each["version"] for each in versions} == {first, second, third["active"]}, "a run may still be in them"


async def test_the_oldest_versions_make_room(server: Server) -> None:
    key = await server.key("ops", "workflows:write")
    made = []
    for hours in range(1, 41):
        made.append(await kept(server, key, cart(f"{hours}h")))
        server.clock.ms += 1
        if hours == 2:
            await server.ask("PUT", "/v1/workflows/cart/active", key, {"version": made[-1]})
    found = [each["version"] for each in (await server.ask("GET", "/v1/workflows/cart", key)).json["versions"]]
    assert set(found) == {made[1], *made[-31:]} and len(found) == 32


@pytest.mark.parametrize(
    ("user", "outcome", "reason", "says"),
    [
        ({}, "sent", None, "Sent at "),
        ({"preferences": {"category:shop": {"frequency": "off"}}}, "suppressed", "preference", "turned off by the cat"),
        ({"preferences": {"all": {"mute_until": NOW_MS + DAY_MS}}}, "suppressed", "mute", "everything is muted until"),
        ({"preferences": {"category:shop": {"frequency": "weekly"}}}, "digested", "preference", "the weekly digest"),
        ({"sent": [{"at_ms": NOW_MS - 1000, "category": "shop"}]}, "deferred", "caps", "cap 1 / 24h of shop is full"),
    ],
)
async def test_a_dry_run_tells_what_would_be_decided_and_writes_nothing(
    server: Server, user: dict[str, Any], outcome: str, reason: str | None, says: str
) -> None:
    key = await server.key("ops", "workflows:write")
    version = await kept(server, key, cart())
    image = server.store.image()
    body = {"version": version, "event": {"type": "cart.updated", "data": {"count": 2, "item": "the chair"}}}
    told = (await server.ask("POST", "/v1/workflows/cart/dry-run", key, body | {"user": user})).json
    assert (told["outcome"], told["reason"]) == (outcome, reason) and says in told["explanation"]
    assert told["notification"]["title"] == "Still thinking about the chair?" and len(told["verdicts"]) == 9
    none = body | {"event": {"type": "cart.updated", "data": {"count": 0}}}
    told = (await server.ask("POST", "/v1/workflows/cart/dry-run", key, none)).json
    assert not told["triggered"] and told["outcome"] is None and "count > 0" in told["explanation"]
    assert server.store.image() == image


async def test_a_dry_run_names_the_mistakes_in_a_state(server: Server) -> None:
    key = await server.key("ops", "workflows:write")
    version = await kept(server, key, cart())
    body = {"version": version, "user": {"zone": "Mars/Olympus", "sessions": -1}}
    answer = await server.ask("POST", "/v1/workflows/cart/dry-run", key, body)
    assert answer.problem == "invalid-request"
    assert {each["pointer"] for each in answer.json["problems"]} == {"/user/zone", "/user/sessions"}
    answer = await server.ask("POST", "/v1/workflows/cart/dry-run", key, {})
    assert answer.problem == "not-found", "the workflow is stopped"


async def test_only_keys_with_a_scope_see_and_alter_workflows(server: Server) -> None:
    reader, other = await server.key("reader", "notifications:read"), await server.key("other", "events:write")
    assert (await server.ask("GET", "/v1/workflows", reader)).status == 200
    for credentials in (reader, other, server.token("42", any="owner")):
        for method, path, body in (
            ("POST", "/v1/workflows", cart()),
            ("PUT", "/v1/workflows/cart/active", {"version": "0" * 16}),
            ("DELETE", "/v1/workflows/cart/active", None),
            ("DELETE", "/v1/workflows/cart", None),
        ):
            assert (await server.ask(method, path, credentials, body)).problem == "forbidden"
    for credentials in (other, server.token("42", any="owner")):
        for path in ("/v1/workflows", "/v1/workflows/cart", f"/v1/workflows/cart/versions/{'0' * 16}"):
            assert (await server.ask("GET", path, credentials)).problem == "forbidden"
