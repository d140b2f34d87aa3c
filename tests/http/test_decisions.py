"""Decisions, reports and what is kept of a person, over HTTP: who sees what, in which words."""

import tomllib
from pathlib import Path
from typing import Any

from syncd.core.ids import INBOX, PREFERENCES
from syncd.engine.commands import Configure, Done
from tests.http.harness import NOW_MS, Server

READY = Path(__file__).resolve().parents[2] / "conf" / "workflows"
DAY_MS = 86_400_000
INSIDE = ("holdout", "propensity", "score", "workflow", "version", "verdict", "experiment", "budget")


async def notified(server: Server, key: str, event: str, user: str = "42", category: str = "shop") -> None:
    notification = {"title": "Sold", "body": "b", "category": category}
    body = {"specversion": "1.0", "id": event, "source": "/shop", "type": "x", "subject": user}
    answer = await server.ask(
        "POST", "/v1/events", key, body | {"data": {"notification": notification}},
        content_type="application/cloudevents+json",
    )  # fmt: skip
    assert answer.json["results"][0]["status"] == "accepted", answer.json


async def configure(server: Server) -> None:
    values = tomllib.loads((READY / "cart.toml").read_text())
    assert isinstance(await server.committer.execute(Configure(values)), Done)


async def decisions(server: Server, credentials: str, user: str = "42") -> list[dict[str, Any]]:
    found = (await server.ask("GET", f"/v1/users/{user}/decisions", credentials)).json
    assert found["before"] is None
    return list(found["decisions"])


async def test_an_operator_sees_all_of_a_decision_and_a_person_their_own_without_internals(server: Server) -> None:
    await configure(server)
    key = await server.key("ops", "events:write", "notifications:read")
    token, stranger = server.token("42"), server.token("43")
    await server.ask("PATCH", "/v1/users/42/preferences", token, {"all": {"mute_until": NOW_MS + DAY_MS}})
    await notified(server, key, "1")
    (decision,) = await decisions(server, key)
    assert (decision["outcome"], decision["reason"]) == ("suppressed", "mute")
    assert decision["explanation"].startswith("Not sent: everything is muted until")
    assert decision["counterfactual"].startswith("It would have been sent at ")
    assert len(decision["verdicts"]) >= 9 and decision["source"] == {"source": "/shop", "id": "1"}
    assert (await server.ask("GET", f"/v1/decisions/{decision['id']}", key)).json == decision
    mine = (await server.ask("GET", f"/v1/decisions/{decision['id']}", token)).json
    assert mine["why"] == "You had muted it." and not mine["sent"] and mine["title"] is None
    assert not any(word in str(mine) for word in INSIDE)
    assert await decisions(server, token) == [mine]
    assert (await server.ask("GET", f"/v1/decisions/{decision['id']}", stranger)).problem == "not-found"
    assert (await server.ask("GET", "/v1/users/42/decisions", stranger)).problem == "forbidden"
    owner_of_all = server.token("43", any="owner")
    assert (await server.ask("GET", "/v1/users/42/decisions", owner_of_all)).problem == "forbidden"
    other = await server.key("other", "events:write")
    assert (await server.ask("GET", f"/v1/decisions/{decision['id']}", other)).problem == "forbidden"


async def test_two_reasons_are_told_apart_by_what_would_have_been_otherwise(server: Server) -> None:
    await configure(server)
    key = await server.key("ops", "events:write", "notifications:read")
    chosen = {"all": {"mute_until": NOW_MS + DAY_MS}, "categories": {"shop": {"frequency": "off"}}}
    await server.ask("PATCH", "/v1/users/42/preferences", server.token("42"), chosen)
    await notified(server, key, "1")
    (decision,) = await decisions(server, key)
    assert decision["reason"] == "preference"
    assert "even but for preference: mute would have stopped it" in decision["counterfactual"]


async def test_decisions_come_in_pages_newest_first(server: Server) -> None:
    await configure(server)
    key = await server.key("ops", "events:write", "notifications:read")
    for number in range(7):
        server.clock.ms += DAY_MS
        await notified(server, key, str(number))
    found: list[str] = []
    before = ""
    while True:
        page = (await server.ask("GET", f"/v1/users/42/decisions?limit=3{before}", key)).json
        found += [each["source"]["id"] for each in page["decisions"]]
        if page["before"] is None:
            break
        before = f"&before={page['before']}"
    assert found == ["6", "5", "4", "3", "2", "1", "0"]
    assert (await server.ask("GET", "/v1/users/42/decisions?limit=0", key)).problem == "malformed-request"
    assert (await server.ask("GET", "/v1/users/42/decisions?before=x", key)).problem == "malformed-request"
    assert (await server.ask("GET", f"/v1/decisions/{'0' * 40}", key)).problem == "not-found"


async def test_a_report_adds_up_what_was_sent_seen_opened_and_turned_off(server: Server) -> None:
    await configure(server)
    key = await server.key("ops", "events:write", "notifications:read")
    for user in ("1", "2", "3", "4"):
        await notified(server, key, user, user)
    server.clock.ms += 2 * DAY_MS  # receipts count on the day of their notification
    for user, fields in (("1", ("seen", "opened")), ("2", ("seen", "dismissed")), ("3", ("seen",))):
        token = server.token(user)
        (document,) = (await server.ask("GET", f"/v1/spaces/user%2F{user}/documents/{INBOX}", token)).json["documents"]
        for _ in range(2):  # a receipt is counted once
            operations = [["flag.enable", INBOX, document["id"], field] for field in fields]
            assert (await server.change(token, f"user/{user}", *operations)).json["seq"]
    off = {"categories": {"shop": {"frequency": "off"}}}
    await server.ask("PATCH", "/v1/users/2/preferences", server.token("2"), off)
    report = (await server.ask("GET", "/v1/reports/engagement?by=category", key)).json
    (shop,) = report["groups"]
    assert shop["category"] == "shop"
    assert [shop[name] for name in ("sent", "seen", "opened", "dismissed", "opt_outs")] == [4, 3, 1, 1, 1]
    assert (shop["opened_rate"], shop["seen_rate"]) == (0.25, 0.75)
    assert {name: report["total"][name] for name in ("sent", "opened")} == {"sent": 4, "opened": 1}
    days = (await server.ask("GET", "/v1/reports/engagement?by=day", key)).json["groups"]
    assert [(each["sent"], each["opened"], each["opt_outs"]) for each in days] == [(4, 1, 0), (0, 0, 1)]
    earlier = (await server.ask("GET", "/v1/reports/engagement?to=2026-01-31", key)).json
    assert earlier["groups"] == [] and earlier["from"] == "2026-01-02" and earlier["total"]["opened_rate"] is None


async def test_a_report_refuses_what_it_cannot_read(server: Server) -> None:
    key = await server.key("ops", "notifications:read")
    for query in ("by=user", "from=yesterday", "from=2026-02-30", "from=2026-03-01&to=2026-02-01", "from=2020-01-01"):
        assert (await server.ask("GET", f"/v1/reports/engagement?{query}", key)).problem == "malformed-request", query
    assert (await server.ask("GET", "/v1/reports/engagement", server.token("42"))).problem == "forbidden"


async def test_what_is_kept_of_a_person_is_told_to_them_and_erased_by_who_may(server: Server) -> None:
    await configure(server)
    key = await server.key("ops", "events:write", "notifications:read", "users:erase")
    token = server.token("42")
    await server.ask("PUT", "/v1/users/42/preferences", token, {"categories": {"shop": {"frequency": "instant"}}})
    await notified(server, key, "1")
    await notified(server, key, "2", "43")
    told = (await server.ask("GET", "/v1/users/42/data", token)).json
    assert told["documents"][PREFERENCES] == {"category:shop": {"frequency": "instant"}}
    assert [each["content"]["title"] for each in told["decisions"]] == ["Sold"] and len(told["deliveries"]) == 1
    assert told == (await server.ask("GET", "/v1/users/42/data", key)).json
    assert (await server.ask("GET", "/v1/users/43/data", token)).problem == "forbidden"
    assert (await server.ask("DELETE", "/v1/users/42/data", token)).problem == "forbidden"
    erased = (await server.ask("DELETE", "/v1/users/42/data", key)).json
    assert erased["documents"] == 2 and erased["rows"] >= 3 and not erased["more"]
    told = (await server.ask("GET", "/v1/users/42/data", key)).json
    assert not any(told[part] for part in ("learned", "standing", "runs", "decisions", "deliveries"))
    assert told["documents"] == {"_preferences": {}, "_profile": {}, "_inbox": {}}
    assert (await server.ask("DELETE", "/v1/users/42/data", key)).json == {"documents": 0, "rows": 0, "more": False}
    assert len((await server.ask("GET", "/v1/users/43/data", key)).json["decisions"]) == 1, "of nobody else"
