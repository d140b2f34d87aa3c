"""Members over HTTP: backends write them as they write everything, and who is denied is given nothing any more."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

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
