"""An author's dead letters over HTTP: its own are at its hand, and nobody else's."""

from typing import Any

import pytest

from syncd.core.changes import parsed_change
from syncd.engine import reading
from syncd.engine.commands import Author, Bind, Push, Pushed
from syncd.engine.grants import Grant, Role
from tests.engine.kit import one, raw
from tests.http.harness import Server

LETTERS = "/v1/spaces/shop/letters"
SET = ["reg.set", "orders", "1", "status", "late"]
PHONES = {user: user.encode().ljust(16, b"!") for user in ("ann", "ben")}


async def refused(server: Server, user: str, n: int, *operations: Any, role: Role = Role.WRITER, **when: int) -> int:
    """The number of the letter that a change of the user's phone became."""
    author = Author(PHONES[user], bytes(16), "device", user, (Grant("shop", role),))
    await server.committer.execute(Bind(author))
    with server.store.read() as tx:
        position = reading.position(tx, "shop")
    epoch, change = None if position is None else position.epoch, parsed_change(raw(n, *operations, **when))
    pushed = one(await server.committer.execute(Push(author, "shop", epoch, (change,))), Pushed)
    (entry,) = pushed.outcomes
    assert entry.detail is not None, entry
    (number,) = entry.detail["letters"]
    return int(number)


async def numbers(server: Server, token: str, query: str = "") -> list[int]:
    return [each["letter"] for each in (await server.ask("GET", LETTERS + query, token)).json["letters"]]


async def test_an_author_lists_and_reads_its_own_and_an_owner_all(server: Server) -> None:
    ann, ben = server.token("ann", shop="writer"), server.token("ben", shop="writer")
    first, second = await refused(server, "ann", 1, SET, stamp=5), await refused(server, "ben", 1, SET)
    assert (await numbers(server, ann), await numbers(server, ben)) == ([first], [second])
    assert await numbers(server, server.token("eve", shop="owner")) == [first, second]
    letter = (await server.ask("GET", f"{LETTERS}/{first}", ann)).json
    assert letter["payload"] == [SET] and letter["user"] == "ann" and letter["device"] == PHONES["ann"].hex()
    assert letter["kind"] == "change" and letter["stamp"] == 5 and "replay" not in letter
    seen = await server.ask("GET", f"{LETTERS}/{second}", server.token("eve", shop="owner"))
    assert seen.json["user"] == "ben" and seen.json["payload"] == [SET]


async def test_pages_end_and_others_letters_between_do_not_show(server: Server) -> None:
    mine = []
    for n in range(1, 8):
        mine.append(await refused(server, "ann", n, SET))
        await refused(server, "ben", n, SET)
    token, found, target = server.token("ann", shop="writer"), [], f"{LETTERS}?limit=3"
    for _ in range(10):
        page = (await server.ask("GET", target, token)).json
        assert len(page["letters"]) <= 3
        found += [each["letter"] for each in page["letters"]]
        if "next" not in page:
            break
        target = f"{LETTERS}?limit=3&from={page['next']}"
    assert found == mine


async def test_another_users_letter_is_as_one_that_never_was(server: Server) -> None:
    number = await refused(server, "ann", 1, SET)
    ben = server.token("ben", shop="writer")
    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/replay")):
        body = {"operations": [["create", "orders", "1"]]} if method == "POST" else None
        others = await server.ask(method, f"{LETTERS}/{number}{suffix}", ben, body)
        never = await server.ask(method, f"{LETTERS}/{number + 1}{suffix}", ben, body)
        assert others.problem == never.problem == "not-found"
        assert others.json["detail"].replace(str(number), "N") == never.json["detail"].replace(str(number + 1), "N")
    assert await numbers(server, server.token("ann", shop="writer")) == [number]
    assert (await server.ask("GET", "/v1/spaces/shop/documents/orders/1", ben)).problem == "not-found"


async def test_an_owner_reads_and_does_not_touch_what_is_anothers(server: Server) -> None:
    number = await refused(server, "ann", 1, SET)
    owner = server.token("eve", shop="owner")
    assert (await server.ask("POST", f"{LETTERS}/{number}/replay", owner)).problem == "forbidden"
    assert (await server.ask("DELETE", f"{LETTERS}/{number}", owner)).problem == "forbidden"
    letter = (await server.ask("GET", f"{LETTERS}/{number}", server.token("ann", shop="writer"))).json
    assert "replay" not in letter


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("GET", "/0"), ("DELETE", "/0"), ("POST", "/0/replay")])
async def test_a_guessed_space_answers_like_a_forbidden_one(server: Server, method: str, suffix: str) -> None:
    await refused(server, "ann", 1, SET)
    stranger = server.token("mal", other="owner")
    there = await server.ask(method, f"{LETTERS}{suffix}", stranger)
    guessed = await server.ask(method, f"/v1/spaces/none/letters{suffix}", stranger)
    assert there.problem == guessed.problem == "forbidden"
    assert there.body.replace(b"shop", b"none") == guessed.body


async def test_a_replay_is_a_change_of_its_author_once_with_its_own_time(server: Server) -> None:
    token = server.token("ann", shop="writer")
    number = await refused(server, "ann", 1, SET, stamp=5)
    first = await server.ask("POST", f"{LETTERS}/{number}/replay", token)
    assert first.json["outcome"] == "gone", "its base is from before the document"
    edited = {"operations": [["create", "orders", "1"], SET]}
    again = await server.ask("POST", f"{LETTERS}/{number}/replay", token, edited)
    assert again.json == first.json, "it is replayed once"
    (_, other) = await numbers(server, token)
    told = await server.ask("POST", f"{LETTERS}/{other}/replay", token, edited)
    assert told.json["outcome"] == "applied" and told.header("Position") == told.json["position"]
    (change,) = (await server.ask("GET", "/v1/spaces/shop/documents/orders/1/history", token)).json["changes"]
    assert change["user"] == "ann" and change["stamp"] == 5, change
    assert (await server.ask("GET", f"{LETTERS}/{other}", token)).json["replay"]["outcome"] == "applied"


async def test_a_replay_gives_nobody_a_right_that_it_lacks(server: Server) -> None:
    invite = [["create", "_members", "ann"], ["reg.set", "_members", "ann", "role", "owner"]]
    number = await refused(server, "ann", 1, *invite)
    reader, writer = server.token("ann", shop="reader"), server.token("ann", shop="writer")
    assert await numbers(server, reader) == [number]
    assert (await server.ask("POST", f"{LETTERS}/{number}/replay", reader)).problem == "forbidden"
    told = await server.ask("POST", f"{LETTERS}/{number}/replay", writer)
    assert told.json["outcome"] == "forbidden"
    assert (await server.ask("GET", "/v1/spaces/shop/documents/_members/ann", writer)).problem == "not-found"


async def test_who_is_denied_by_the_space_sees_not_even_its_own(server: Server) -> None:
    number = await refused(server, "ann", 1, SET)
    club, token = await server.key("club", "members:write:shop"), server.token("ann", any="owner")
    await server.change(club, "shop", ["create", "_members", "ann"], ["reg.set", "_members", "ann", "role", "none"])
    for method, suffix in (("GET", ""), ("GET", f"/{number}"), ("DELETE", f"/{number}"), ("POST", f"/{number}/replay")):
        assert (await server.ask(method, LETTERS + suffix, token)).problem == "forbidden"
    assert await numbers(server, club) == [number]


async def test_a_dropped_letter_is_gone_and_an_api_key_has_letters_of_its_own(server: Server) -> None:
    ann, key = server.token("ann", shop="writer"), await server.key("shop", "changes:write:shop")
    await refused(server, "ann", 1, SET)
    assert (await server.change(key, "shop", SET)).json["outcome"] == "gone"
    (number,) = await numbers(server, key)
    assert (await server.ask("DELETE", f"{LETTERS}/{number}", ann)).problem == "not-found"
    assert (await server.ask("DELETE", f"{LETTERS}/{number}", key)).status == 204
    assert (await server.ask("DELETE", f"{LETTERS}/{number}", key)).problem == "not-found"
    assert await numbers(server, key) == [] and len(await numbers(server, ann)) == 1


async def test_what_is_wrong_with_a_request_is_said(server: Server) -> None:
    token = server.token("ann", shop="writer")
    number = await refused(server, "ann", 1, ["explode", "orders", "1"])
    replay = f"{LETTERS}/{number}/replay"
    told = await server.ask("POST", replay, token)
    assert told.problem == "invalid-request" and "unknown operation" in told.json["detail"]
    for body in ({"operations": 1}, {"operations": None}, {"operation": []}, {"operations": [{"$b": "!"}]}):
        assert (await server.ask("POST", replay, token, body)).problem == "invalid-request"
    for bad in ("x", "-1", "1.0", "9" * 17, "%C2%B2"):
        assert (await server.ask("GET", f"{LETTERS}/{bad}", token)).problem == "malformed-request"
    for query in ("limit=0", "limit=201", "from=x", "after=1"):
        assert (await server.ask("GET", f"{LETTERS}?{query}", token)).problem == "malformed-request"
    assert "replay" not in (await server.ask("GET", f"{LETTERS}/{number}", token)).json
