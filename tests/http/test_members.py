"""Members over HTTP: backends write them as they write everything, and who is denied is given nothing any more."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.engine.commands import Attach, Author, Bind, Purge, Refused
from tests.http.harness import Answer, Server

SPACE = "/v1/spaces/shop"


async def test_a_backend_with_the_scope_makes_members_and_one_that_only_writes_does_not(server: Server) -> None:
    club, writer = await server.key("club", "members:write:shop"), await server.key("shop", "changes:write:shop")
    invite = [["create", "_members", "42"], ["reg.set", "_members", "42", "role", "reader"]]
    assert (await server.change(writer, "shop", *invite)).json["outcome"] == "forbidden"
    assert (await server.ask("GET", f"{SPACE}/documents", server.token())).problem == "forbidden"
    assert (await server.change(club, "shop", *invite)).json["outcome"] == "applied"
    assert (await server.ask("GET", f"{SPACE}/documents/_members/42", server.token())).json["fields"] == {
        "role": "reader"
    }
    assert (await server.change(server.token(), "shop", ["create", "c", "x"])).problem == "forbidden"
    last = await server.change(club, "shop", ["reg.set", "_members", "42", "role", "none"])
    assert last.json["outcome"] == "applied", "an owner by its scope is left"


async def test_who_is_denied_reads_nothing_by_any_route_whatever_the_token_says(
    server: Server, autojump_clock: MockClock
) -> None:
    club, token = await server.key("club", "members:write:shop"), server.token(any="owner")
    await server.change(club, "shop", ["create", "c", "x"], ["reg.set", "c", "x", "f", 1])
    await server.ask("PUT", f"{SPACE}/consumers/copy", token, {"start": "0"})
    first = await server.ask("GET", f"{SPACE}/changes", token)
    waiting: list[Answer] = []

    async def wait(route: str) -> None:
        waiting.append(await server.ask("GET", f"{SPACE}/{route}", token))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, f"changes?wait=50&after={first.json['to']}")
        await server.ask("POST", f"{SPACE}/consumers/copy/ack", token, {"position": first.json["to"]})
        nursery.start_soon(wait, "consumers/copy/changes?wait=50")
        await wait_all_tasks_blocked()
        assert not waiting
        deny = [["create", "_members", "42"], ["reg.set", "_members", "42", "role", "none"]]
        await server.change(club, "shop", *deny)
    assert [each.problem for each in waiting] == ["forbidden", "forbidden"]
    stranger = server.token("43")
    for method, route, body in (
        ("GET", "documents", None), ("GET", "documents/c/x", None), ("GET", "explain/c/x", None),
        ("GET", "changes", None), ("GET", "consumers", None), ("GET", "consumers/copy/changes", None),
        ("GET", "consumers/copy", None),
        ("PUT", "consumers/copy", {"start": "0"}), ("DELETE", "consumers/copy", None),
        ("POST", "consumers/copy/ack", {"position": first.json["to"]}),
        ("POST", "changes", {"operations": [["create", "_members", "42"]]}),
    ):  # fmt: skip
        denied = await server.ask(method, f"{SPACE}/{route}", token, body)
        unknown = await server.ask(method, f"{SPACE}/{route}", stranger, body)
        assert denied.problem == "forbidden" and denied.json == unknown.json, (method, route)


async def denied(server: Server, users: int) -> str:
    """Makes devices with a copy, one of each user, and denies all of them; the secret of an owner's key."""
    club = await server.key("club", "members:write:shop")
    for number in range(users):
        user = f"u{number}"
        await server.change(club, "shop", *member(user, "reader", "create"))
        author = Author(bytes([number + 1]) * 16, bytes(16), "device", user, ())
        for command in (Bind(author), Attach(author, "shop", None, 0, 0, None, 0, None)):
            assert not isinstance(await server.committer.execute(command), Refused)
        await server.change(club, "shop", *member(user, "none"))
    return club


def member(user: str, role: str, *verbs: str) -> list[list[str]]:
    return [*([verb, "_members", user] for verb in verbs), ["reg.set", "_members", user, "role", role]]


async def test_owners_see_members_and_who_has_not_confirmed_a_purge_in_pages(server: Server) -> None:
    club = await denied(server, 5)
    whole = (await server.ask("GET", f"{SPACE}/members", club)).json
    assert [each["user"] for each in whole["members"]] == [f"u{number}" for number in range(5)]
    assert {each["role"] for each in whole["members"]} == {"none"} and "next" not in whole
    assert {each["user"]: each["device"] for each in whole["unpurged"]} == {
        f"u{number}": f"{number + 1:02x}" * 16 for number in range(5)
    }
    users, devices, query = [], [], ""
    for _ in range(4):
        page = (await server.ask("GET", f"{SPACE}/members?limit=2{query}", club)).json
        users, devices = users + page["members"], devices + page["unpurged"]
        if "next" not in page:
            break
        query = f"&after={page['next']}&unpurged_after={page['unpurged_next']}"
    assert users == whole["members"] and devices == whole["unpurged"]
    gone = Author(bytes([1]) * 16, bytes(16), "device", "u0", ())
    assert not isinstance(await server.committer.execute(Purge(gone, "shop")), Refused)
    left = (await server.ask("GET", f"{SPACE}/members", club)).json["unpurged"]
    assert {each["user"] for each in left} == {"u1", "u2", "u3", "u4"}


async def test_only_owners_see_members_and_a_guessed_space_answers_like_a_forbidden_one(server: Server) -> None:
    await denied(server, 1)
    for token in (server.token("u0", any="owner"), server.token("43", any="writer"), server.token("44", other="owner")):
        there = await server.ask("GET", f"{SPACE}/members", token)
        guessed = await server.ask("GET", "/v1/spaces/none/members", server.token("43", any="writer"))
        assert there.problem == guessed.problem == "forbidden"
        assert there.body.replace(b"shop", b"none") == guessed.body
    owner = server.token("45", any="owner")
    for query in ("limit=0", "limit=1001", "after=", "after=!", "after=_w", "unpurged_after=a", "from=1"):
        assert (await server.ask("GET", f"{SPACE}/members?{query}", owner)).problem == "malformed-request"
