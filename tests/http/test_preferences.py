"""Preferences over HTTP: replaced, altered, shown with what holds; and links that turn a category off in one step."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from syncd.engine.commands import Configure, Done
from tests.http.harness import NOW_MS, Server

READY = Path(__file__).resolve().parents[2] / "conf" / "workflows"
HERE = "/v1/users/42/preferences"


async def configure(server: Server) -> None:
    values: dict[str, Any] = {"policy": {"quiet_hours": "22:00-08:00"}}
    for file in READY.glob("*.toml"):
        for table, entries in tomllib.loads(file.read_text()).items():
            values.setdefault(table, {}).update(entries)
    assert isinstance(await server.committer.execute(Configure(values)), Done)


async def test_put_replaces_and_patch_alters_what_it_names(server: Server) -> None:
    await configure(server)
    token = server.token("42")
    body = {
        "all": {"frequency": "daily", "quiet_hours": "21:00-07:00"},
        "categories": {"shop": {"frequency": "off"}, "team": {"frequency": "hourly"}},
        "topics": {"football": {"mute_until": NOW_MS + 1000}},
        "profile": {"zone": "Europe/Berlin", "locale": "de"},
    }
    found = (await server.ask("PUT", HERE, token, body)).json
    assert (
        found["categories"] == body["categories"] and found["topics"] == body["topics"] and found["all"] == body["all"]
    )
    assert found["profile"] == {"zone": "Europe/Berlin", "zone_from": "user", "locale": "de", "locale_from": "user"}
    assert found["quiet_hours"] == "21:00-07:00" and found["faults"] == []
    patch = {"all": {"quiet_hours": None}, "categories": {"shop": {"frequency": None}, "team": None}}
    found = (await server.ask("PATCH", HERE, token, patch)).json
    assert found["all"] == {"frequency": "daily"} and found["categories"] == {"shop": {}}
    assert found["topics"] == body["topics"] and found["quiet_hours"] == "22:00-08:00"
    found = (await server.ask("PUT", HERE, token, {"profile": {"zone": "Asia/Tokyo"}})).json
    assert (found["all"], found["categories"], found["topics"]) == ({}, {}, {})
    assert found["profile"] == {"zone": "Asia/Tokyo", "zone_from": "user"}


async def test_what_holds_follows_the_fixed_order_and_says_whose_word_it_is(server: Server) -> None:
    await configure(server)
    key = await server.key("ops", "changes:write:user/*")
    until = NOW_MS + 3_600_000
    body = {"all": {"frequency": "off", "mute_until": until}, "categories": {"shop": {"frequency": "instant"}}}
    held = (await server.ask("PUT", HERE, key, body)).json["effective"]
    assert held["security"]["frequency"] == "instant" and held["security"]["muted_until"] is None
    assert held["security"]["by"] == "critical"
    assert (held["shop"]["frequency"], held["shop"]["by"]) == ("instant", "the category shop")
    assert (held["team"]["frequency"], held["team"]["by"]) == ("off", "the choice for everything")
    assert {held[name]["muted_until"] for name in ("shop", "team")} == {until}
    held = (await server.ask("PUT", HERE, key, {})).json["effective"]
    assert (held["team"]["frequency"], held["team"]["by"]) == ("weekly", "the default of team")


async def test_what_is_so_already_makes_no_change(server: Server) -> None:
    token = server.token("42")
    body = {"categories": {"shop": {"frequency": "off"}}}
    await server.ask("PUT", HERE, token, body)
    image = server.store.image()
    await server.ask("PUT", HERE, token, body)
    await server.ask("PATCH", HERE, token, body)
    assert server.store.image() == image


async def test_what_devices_wrote_and_is_no_choice_is_told_and_holds_for_nothing(server: Server) -> None:
    await configure(server)
    token = server.token("42")
    operations = [["create", "_preferences", "category:shop"], ["create", "_preferences", "all"]]
    operations += [["reg.set", "_preferences", "category:shop", "frequency", "sometimes"]]
    operations += [["reg.set", "_preferences", "all", "mute_until", "tomorrow"]]
    operations += [["reg.set", "_preferences", "all", "quiet_hours", "late"]]
    assert (await server.change(token, "user/42", *operations)).json["outcome"] == "applied"
    found = (await server.ask("GET", HERE, token)).json
    assert found["effective"]["shop"]["frequency"] == "instant" and found["quiet_hours"] == "22:00-08:00"
    assert [fault.partition(":")[0] for fault in found["faults"]] == ["all", "all", "category"]
    assert "'sometimes'" in found["faults"][2]


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"all": {"frequency": "sometimes"}}, "/all/frequency"),
        ({"all": {"quiet_hours": "late"}}, "/all/quiet_hours"),
        ({"categories": {"Shop!": {}}}, "/categories/Shop!"),
        ({"categories": {"shop": {"mute_until": 1.5}}}, "/categories/shop/mute_until"),
        ({"topics": {"a\u0000": {}}}, "/topics/a\u0000"),
        ({"profile": {"zone": "Mars"}}, "/profile/zone"),
        ({"profile": {"name": "x"}}, "/profile/name"),
        ({"categories": {f"c{number}": {} for number in range(61)}}, "/categories"),
    ],
)
async def test_nothing_wrong_is_taken(server: Server, body: dict[str, Any], at: str) -> None:
    answer = await server.ask("PATCH", HERE, server.token("42"), body)
    assert answer.problem == "invalid-request" and answer.json["pointer"] == at, answer.json
    assert (await server.ask("GET", HERE, server.token("42"))).json["all"] == {}


async def test_only_who_may_write_in_the_space_may_choose(server: Server) -> None:
    stranger, reader = server.token("43"), await server.key("reader", "documents:read:user/*")
    assert (await server.ask("GET", HERE, stranger)).problem == "forbidden"
    assert (await server.ask("PUT", HERE, stranger, {})).problem == "forbidden"
    assert (await server.ask("GET", HERE, reader)).status == 200
    assert (await server.ask("PATCH", HERE, reader, {})).problem == "forbidden"
    assert (await server.ask("GET", "/v1/users/42/opt-out", reader)).problem == "forbidden"


async def test_a_link_turns_its_category_off_once_and_again_and_to_look_at_it_alters_nothing(server: Server) -> None:
    await configure(server)
    key = await server.key("ops", "changes:write:user/*")
    link = (await server.ask("GET", "/v1/users/42/opt-out?category=shop", key)).json["path"]
    assert (await server.ask("GET", "/v1/users/42/opt-out?category=shop", key)).json["path"] == link
    assert "42" not in link and "shop" not in link
    image = server.store.image()
    looked = await server.ask("GET", link)
    assert looked.status == 200 and b"shop" in looked.body and server.store.image() == image
    form = {"content_type": "application/x-www-form-urlencoded"}
    for _ in range(2):
        assert (await server.ask("POST", link, None, b"List-Unsubscribe=One-Click", **form)).status == 200
        held = (await server.ask("GET", HERE, key)).json
        assert held["effective"]["shop"]["frequency"] == "off" and held["effective"]["team"]["frequency"] == "weekly"
    image = server.store.image()
    assert (await server.ask("POST", link)).status == 200
    assert server.store.image() == image, "once more alters nothing"
    everything = (await server.ask("GET", "/v1/users/42/opt-out", key)).json["path"]
    await server.ask("POST", everything)
    held = (await server.ask("GET", HERE, key)).json["effective"]
    assert held["team"]["frequency"] == "off" and held["security"]["frequency"] == "instant"


async def test_a_link_that_was_altered_is_none_of_ours(server: Server) -> None:
    key = await server.key("ops", "changes:write:user/*")
    await configure(server)
    link = (await server.ask("GET", "/v1/users/42/opt-out?category=shop", key)).json["path"]
    start = len("/opt-out/")
    for at in range(start, len(link)):
        for other in {"A", "B", "-"} - {link[at]}:
            answer = await server.ask("POST", link[:at] + other + link[at + 1 :])
            assert answer.problem == "not-found"
    for wrong in (link[:start], link[:-1], link + "A", link + "%3D", "/opt-out/%C3%A9", "/opt-out/" + "A" * 2000):
        assert (await server.ask("POST", wrong)).status in (404, 405)
