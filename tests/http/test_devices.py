"""Devices over HTTP: a person sees and retires their own, an operator's key anybody's, and nobody else's is told."""

import pytest

from syncd.engine.commands import Attach, Author, Bind, Done, Refused, RetireDevice
from tests.http.harness import Server

MINE = "/v1/users/42/devices"


def author(number: int, user: str = "42") -> Author:
    return Author(bytes([number]) * 16, bytes(16), "device", user, ())


async def bound(server: Server, *devices: Author) -> list[str]:
    for each in devices:
        assert not isinstance(await server.committer.execute(Bind(each)), Refused)
    return [each.device.hex() for each in devices]


async def test_devices_are_listed_in_pages_and_those_of_others_are_not_among_them(server: Server) -> None:
    mine = await bound(server, *(author(number) for number in (3, 1, 2)))
    await bound(server, author(9, "43"))
    whole = await server.ask("GET", MINE, server.token())
    assert [each["device"] for each in whole.json["devices"]] == sorted(mine) and "next" not in whole.json
    assert all(each["retired_ms"] is None and each["bound_ms"] for each in whole.json["devices"])
    first = await server.ask("GET", f"{MINE}?limit=2", server.token())
    last = await server.ask("GET", f"{MINE}?limit=2&after={first.json['next']}", server.token())
    assert first.json["devices"] + last.json["devices"] == whole.json["devices"] and "next" not in last.json
    key = await server.key("ops", "admin")
    assert (await server.ask("GET", MINE, key)).json == whole.json
    assert (await server.ask("GET", "/v1/users/44/devices", key)).json == {"devices": []}


async def test_a_retired_device_is_told_nothing_new_is_taken_and_again_is_as_once(server: Server) -> None:
    phone, tablet = await bound(server, author(1), author(2))
    for _ in range(2):
        assert (await server.ask("DELETE", f"{MINE}/{phone}", server.token())).status == 204
    found = {
        each["device"]: each["retired_ms"] for each in (await server.ask("GET", MINE, server.token())).json["devices"]
    }
    assert found[phone] is not None and found[tablet] is None
    attached = await server.committer.execute(Attach(author(1), "user/42", None, 0, 0, None, 0, None))
    assert getattr(attached, "is_other", None) is True or isinstance(attached, Refused), attached


async def test_nobody_sees_or_retires_what_is_anothers_but_an_operator(server: Server) -> None:
    (theirs,) = await bound(server, author(9, "43"))
    shop = await server.key("shop", "events:write", "changes:write:**")
    for method, target in (("GET", "/v1/users/43/devices"), ("DELETE", f"/v1/users/43/devices/{theirs}")):
        for secret in (server.token(), shop):
            assert (await server.ask(method, target, secret)).problem == "forbidden"
        assert (await server.ask(method, target)).problem == "unauthenticated"
    assert (await server.ask("DELETE", f"{MINE}/{theirs}", server.token())).problem == "not-found"
    assert await server.committer.execute(RetireDevice(author(9).device, "43")) == Done()
    ops = await server.key("ops", "admin")
    assert (await server.ask("DELETE", f"/v1/users/43/devices/{theirs}", ops)).status == 204
    assert (await server.ask("DELETE", f"/v1/users/43/devices/{'ab' * 16}", ops)).problem == "not-found"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"{MINE}?limit=0"), ("GET", f"{MINE}?limit=1001"), ("GET", f"{MINE}?after=xyz"),
        ("GET", f"{MINE}?user=43"), ("DELETE", f"{MINE}/{'AB' * 16}"), ("DELETE", f"{MINE}/ab"),
    ],
)  # fmt: skip
async def test_what_is_no_id_and_no_count_is_refused_with_what_was_expected(
    server: Server, method: str, target: str
) -> None:
    assert (await server.ask(method, target, server.token())).problem == "malformed-request"
