"""The operators' interface: what is answered where, and that nothing secret is told."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from syncd.app import admin, daemon
from syncd.app.admin import Admin
from syncd.core.changes import Void, parsed_change
from syncd.engine.commands import (
    Ack,
    Author,
    Bind,
    Command,
    CreateKey,
    DropLetter,
    Event,
    Forget,
    Post,
    PostEvents,
    Push,
    ReplayLetter,
    RevokeKey,
)
from syncd.engine.grants import Grant, Role
from syncd.net.exchange import Health, Request, Response
from syncd.store.committer import CommitterLimits
from tests.http.harness import Server
from tests.http.test_decisions import configure, notified

OPEN = ["/healthz", "/readyz", "/admin/status", "/metrics"]
TRUSTED = [
    "/admin/apikeys",
    "/admin/consumers?space=a",
    "/admin/explain?space=a&collection=b&id=c",
    "/admin/deadletters?space=a",
    "/admin/leases?space=a",
    "/admin/devices",
    "/admin/members?space=a",
]

SHOP = Author(b"k" * 16, None, "key", "key:shop", (Grant("**", Role.OWNER),))


class Entropy:
    """Counts, so that secrets differ."""

    def __init__(self) -> None:
        self.drawn = 0

    def token(self, size: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(size)

    def uniform(self, low: float, high: float) -> float:
        return low


class Operators:
    """Both instances of one daemon, without a network."""

    def __init__(self) -> None:
        self.server = Server()
        self.health = Health()
        self.trusted, self.open = self._made(is_trusted=True), self._made(is_trusted=False)

    def _made(self, *, is_trusted: bool) -> Admin:
        server = self.server
        return Admin(
            server.store, server.committer, Entropy(), server.clock, lambda: self.health, lambda: {"pid": 1},
            lambda: ("text/plain", b"x 1\n"),            is_trusted=is_trusted,
        )  # fmt: skip

    async def ask(self, method: str, target: str, body: Any = None, *, admin: Admin | None = None) -> tuple[int, Any]:
        response = await self.response(method, target, body, admin=admin)
        return response.status, json.loads(response.body) if response.body else None

    async def response(self, method: str, target: str, body: Any = None, *, admin: Admin | None = None) -> Response:
        path, _, query = target.partition("?")
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await (admin or self.trusted).handle(Request(method, path, query, {}, data, "unix", 0))


@pytest.fixture
async def operators() -> AsyncIterator[Operators]:
    found = Operators()
    async with trio.open_nursery() as nursery:
        await nursery.start(found.server.committer.run)
        yield found
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("target", TRUSTED)
async def test_what_reveals_data_does_not_exist_on_the_open_listener(operators: Operators, target: str) -> None:
    assert (await operators.ask("GET", target))[0] == 200
    assert (await operators.ask("GET", target, admin=operators.open))[0] == 404


@pytest.mark.parametrize("target", OPEN)
async def test_health_and_status_are_told_to_all(operators: Operators, target: str) -> None:
    assert (await operators.response("GET", target, admin=operators.open)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_changed_on_the_open_listener(operators: Operators, method: str) -> None:
    for target in OPEN + TRUSTED + ["/admin/apikeys/a"]:
        body = {"name": "a", "scopes": ["admin"]}
        assert (await operators.ask(method, target, body, admin=operators.open))[0] in (404, 405)
    assert (await operators.ask("GET", "/admin/apikeys"))[1] == {"keys": []}


async def test_a_daemon_that_takes_no_writes_is_not_ready_but_healthy(operators: Operators) -> None:
    operators.health = Health(("the disk is slow",))
    assert (await operators.ask("GET", "/healthz"))[0] == 200
    status, problem = await operators.ask("GET", "/readyz")
    assert (status, problem["reasons"]) == (503, ["the disk is slow"])


async def test_the_secret_of_a_key_is_told_once_and_opens_the_door(operators: Operators) -> None:
    status, made = await operators.ask("POST", "/admin/apikeys", {"name": "shop", "scopes": ["changes:write:a/*"]})
    assert status == 201
    changed = await operators.server.change(made["secret"], "a/b", ["create", "task", "1"])
    assert changed.response.status == 200
    listed = await operators.response("GET", "/admin/apikeys")
    assert made["secret"].encode() not in listed.body
    (key,) = json.loads(listed.body)["keys"]
    assert (key["name"], key["scopes"], key["device"], key["revoked_ms"]) == (
        "shop", ["changes:write:a/*"], made["device"], None,
    )  # fmt: skip


async def test_a_revoked_key_is_refused_and_its_name_is_free_again(operators: Operators) -> None:
    body = {"name": "a b/c", "scopes": ["admin"]}
    made = (await operators.ask("POST", "/admin/apikeys", body))[1]
    assert (await operators.ask("POST", "/admin/apikeys", body))[0] == 422
    assert (await operators.ask("DELETE", "/admin/apikeys/a%20b%2Fc"))[0] == 204
    assert (await operators.ask("DELETE", "/admin/apikeys/a%20b%2Fc"))[0] == 404
    assert (await operators.server.change(made["secret"], "a/b", ["create", "t", "1"])).response.status == 401
    assert (await operators.ask("POST", "/admin/apikeys", body))[0] == 201


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "the body is no JSON"),
        (b"[]", "the body is a JSON object with the keys name, scopes"),
        ({"name": "a", "scope": "admin"}, "the body is a JSON object with the keys name, scopes"),
        ({"scopes": ["admin"]}, "the name of an API key is text"),
        ({"name": "", "scopes": ["admin"]}, "the name of an API key has 1-160 bytes"),
        ({"name": "a"}, "'scopes' is a list of 1-64 texts"),
        ({"name": "a", "scopes": []}, "'scopes' is a list of 1-64 texts"),
        ({"name": "a", "scopes": ["admin"] * 65}, "'scopes' is a list of 1-64 texts"),
        ({"name": "a", "scopes": ["root"]}, "a scope is events:write, notifications:read, "),
        (b" " * 70_000, "the body has at most 65536 bytes"),
    ],
)
async def test_a_wrong_key_is_refused_with_what_was_expected(operators: Operators, body: Any, complaint: str) -> None:
    status, problem = await operators.ask("POST", "/admin/apikeys", body)
    assert 400 <= status < 500
    assert problem["detail"].startswith(complaint)
    assert (await operators.ask("GET", "/admin/apikeys"))[1] == {"keys": []}


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/admin/apikeys/", 404),
        ("DELETE", "/admin/apikeys/a/b", 404),
        ("DELETE", "/admin/apikeys/%FF", 400),
        ("GET", "/admin/explain", 400),
        ("GET", "/admin/explain?space=a&collection=b&id=c&feild=d", 400),
        ("GET", "/admin/explain?space=a%2F%2Fb&collection=b&id=c", 400),
        ("GET", "/admin/deadletters?space=a&limit=-1", 400),
        ("GET", "/admin/deadletters?space=a&limit=1001", 400),
        ("PUT", "/admin/status", 405),
    ],
)
async def test_a_wrong_request_is_answered_by_a_problem(
    operators: Operators, method: str, target: str, status: int
) -> None:
    response = await operators.response(method, target)
    assert (response.status, response.header("Content-Type")) == (status, "application/problem+json")


async def test_a_dead_letter_is_listed_with_what_it_held(operators: Operators) -> None:
    key = (await operators.ask("POST", "/admin/apikeys", {"name": "shop", "scopes": ["admin"]}))[1]["secret"]
    await operators.server.change(key, "a/b", ["create", "task", "1"], ["reg.set", "task", "1", "title", "milk"])
    await operators.server.change(key, "a/b", ["counter.inc", "task", "1", "title", 1])
    letters = (await operators.ask("GET", "/admin/deadletters?space=a%2Fb"))[1]["letters"]
    assert [(letter["kind"], letter["payload"]) for letter in letters] == [
        ("change", [["counter.inc", "task", "1", "title", 1]])
    ]
    after = letters[0]["letter"] + 1
    assert (await operators.ask("GET", f"/admin/deadletters?space=a%2Fb&from={after}"))[1] == {"letters": []}


async def test_an_explanation_with_bytes_is_json(operators: Operators) -> None:
    key = (await operators.ask("POST", "/admin/apikeys", {"name": "shop", "scopes": ["admin"]}))[1]["secret"]
    await operators.server.change(
        key, "a/b", ["create", "task", "1"], ["reg.set", "task", "1", "photo", {"$b": "AAEC"}]
    )
    status, found = await operators.ask("GET", "/admin/explain?space=a%2Fb&collection=task&id=1&field=photo")
    assert (status, found["fields"]["photo"]["value"]) == (200, {"$b": "AAEC"})


async def test_head_has_the_headers_of_get_and_no_body(operators: Operators) -> None:
    got, headed = [await operators.response(method, "/admin/status") for method in ("GET", "HEAD")]
    assert (headed.status, headed.body, headed.headers) == (got.status, b"", got.headers)


# -- what the committer is told of commands ---------------------------------------------------------------------------

AUTHOR = Author(b"d" * 16, None, "device", "42", ())
DELETE, CREATE = ["delete", "task", "1"], ["create", "task", "1"]


def push(*operations: list[Any]) -> Push:
    changes = tuple(parsed_change([n, b"n" * 8, 0, 0, [operation]]) for n, operation in enumerate(operations, 1))
    return Push(AUTHOR, "a", None, changes)


@pytest.mark.parametrize(
    ("command", "adds"),
    [
        (push(CREATE), True),
        (push(DELETE, CREATE), True),
        (push(DELETE, DELETE), False),
        (push(["bad"]), True),
        (Push(AUTHOR, "a", None, (Void(1, 9, b"n" * 8, "gone"),)), False),
        (Push(AUTHOR, "a", None, (Void(1, 1_000, b"n" * 8, "gone"),)), True),
        (Ack(AUTHOR, "a", b"e" * 16, 1, 1, 1), False),
        (Forget(AUTHOR, "a"), False),
        (RevokeKey("a"), False),
        (DropLetter(AUTHOR, "a", 1), False),
        (ReplayLetter(AUTHOR, "a", 1, None), True),
        (CreateKey("a", (), b"h" * 16, b"d" * 16), True),
        (Post(AUTHOR, "a", [DELETE], None, None, None), True),
    ],
)
def test_a_full_store_still_takes_what_makes_room(command: Command, adds: bool) -> None:
    assert daemon.adds_data(command) == adds


@pytest.mark.parametrize(
    "made",
    [
        lambda text: push(["reg.set", "task", "1", "title", text]),
        lambda text: Post(AUTHOR, "a", [["reg.set", "task", "1", "title", text]], None, None, None),
        lambda text: ReplayLetter(AUTHOR, "a", 1, [["reg.set", "task", "1", "title", text]]),
        lambda text: PostEvents(AUTHOR, (Event(b"k" * 16, "s", "1", "t", None, None, {"text": text}),), 1),
    ],
)
def test_a_command_weighs_at_least_what_it_carries(made: Callable[[str], Command]) -> None:
    weights = [daemon.size_bytes(made("x" * size)) for size in (0, 10_000, 60_000)]
    assert weights[1] - weights[0] >= 10_000 and weights[2] - weights[0] >= 60_000


def test_numbers_in_a_list_weigh_as_much_as_anywhere() -> None:
    def weight(value: Any) -> int:
        return daemon.size_bytes(Post(AUTHOR, "a", value, None, None, None))

    assert weight([1] * 100 + [True, None, 0.5]) - weight([]) == 103 * (weight([1]) - weight([]))
    assert weight([1, "x", [1]]) - weight(["x", [1]]) == weight([1]) - weight([])


async def test_operators_see_leases_and_end_them(operators: Operators) -> None:
    where = ["stock", "chair", "left"]
    lease = b"l" * 16
    operations = [["create", *where[:2]], ["bounded.restock", *where, 9], ["bounded.lease", *where, lease, 4, None]]
    await operators.server.committer.execute(Post(SHOP, "shop", operations, None, None, None))
    status, found = await operators.ask("GET", "/admin/leases?space=shop")
    assert status == 200 and (found["next"], found["frozen_until_ms"]) == (None, None)
    (told,) = found["leases"]
    assert (told["lease"], told["device"], told["k"], told["left"]) == (lease.hex(), SHOP.device.hex(), 4, 4)
    assert (told["collection"], told["id"], told["field"], told["until_ms"]) == (*where, None)
    body = {"space": "shop", "collection": "stock", "id": "chair", "field": "left", "lease": lease.hex()}
    assert (await operators.ask("POST", "/admin/leases/end", {**body, "lease": "ab"}))[0] == 400
    assert (await operators.ask("POST", "/admin/leases/end", body))[0] == 204
    assert (await operators.ask("POST", "/admin/leases/end", body))[0] == 404
    assert (await operators.ask("GET", "/admin/leases?space=shop"))[1]["leases"] == []
    assert (await operators.ask("POST", "/admin/leases/release", {"space": "shop"}))[0] == 404, "nothing is frozen"
    assert (await operators.ask("POST", "/admin/leases/confirm-clock", {}))[0] == 204
    for path in ("end", "release", "confirm-clock"):
        assert (await operators.ask("POST", f"/admin/leases/{path}", {}, admin=operators.open))[0] == 404


async def test_leases_are_listed_by_pages(operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "LEASES_PAGE_MAX", 2)
    where = ["stock", "chair", "left"]
    grants = [["bounded.lease", *where, bytes([number]) * 16, 1, 60_000] for number in range(5)]
    operations = [["create", *where[:2]], ["bounded.restock", *where, 9], *grants]
    await operators.server.committer.execute(Post(SHOP, "shop", operations, None, None, None))
    seen, after = [], ""
    while after is not None:
        _, found = await operators.ask("GET", f"/admin/leases?space=shop&after={after}")
        seen += [each["lease"] for each in found["leases"]]
        after = found["next"]
    assert seen == [(bytes([number]) * 16).hex() for number in range(5)]
    assert (await operators.ask("GET", "/admin/leases?space=shop&after=xx"))[0] == 400


async def test_a_dead_letter_is_shown_edited_replayed_once_and_dropped(operators: Operators) -> None:
    server, device = operators.server, bytes(range(1, 17))
    author = Author(device, bytes(16), "device", "ann", (Grant("**", Role.OWNER),))
    change = parsed_change([1, bytes(8), 0, 5, [["reg.set", "c", "1", "f", b"x"]]])
    await server.committer.execute(Push(author, "a/b", None, (change,)))
    (letter,) = (await operators.ask("GET", "/admin/deadletters?space=a%2Fb&kind=change"))[1]["letters"]
    target = f"/admin/deadletters/{letter['letter']}?space=a%2Fb"
    assert (await operators.ask("GET", target)) == (200, letter)
    assert (await operators.ask("GET", "/admin/deadletters/99?space=a%2Fb"))[0] == 404
    assert (await operators.ask("GET", "/admin/deadletters?space=a%2Fb&kind=lost"))[1] == {"letters": []}
    body = {"operations": [["create", "c", "1"], ["reg.set", "c", "1", "f", {"$b": "eA"}]]}
    told = [await operators.ask("POST", target, body) for _ in range(2)]
    assert told[0] == told[1]
    assert (told[0][0], told[0][1]["outcome"], told[0][1]["seq"]) == (200, "applied", 1)
    assert (await operators.ask("GET", target))[1]["replay"][:2] == ["applied", 1]
    for wrong in ({"operations": {"$x": 1}}, {"operation": []}):
        assert (await operators.ask("POST", target, wrong))[0] == 422
    assert (await operators.ask("DELETE", target))[0] == 204
    assert (await operators.ask("POST", target))[0] == 404


async def test_devices_are_listed_by_user_and_retired(operators: Operators) -> None:
    server, device = operators.server, bytes(range(1, 17))
    author = Author(device, bytes(16), "device", "ann", (Grant("**", Role.OWNER),))
    await server.committer.execute(Bind(author))
    (shown,) = (await operators.ask("GET", "/admin/devices?user=ann"))[1]["devices"]
    assert (shown["device"], shown["installation"], shown["retired_ms"]) == (device.hex(), "00" * 16, None)
    assert (await operators.ask("GET", "/admin/devices?user=ben"))[1] == {"devices": [], "after": None}
    assert (await operators.ask("GET", f"/admin/devices?after={device.hex()}"))[1] == {"devices": [], "after": None}
    assert (await operators.ask("DELETE", f"/admin/devices/{device.hex()}"))[0] == 204
    (shown,) = (await operators.ask("GET", "/admin/devices"))[1]["devices"]
    assert shown["retired_ms"] is not None
    assert (await operators.ask("DELETE", f"/admin/devices/{'ff' * 16}"))[0] == 404
    assert (await operators.ask("DELETE", "/admin/devices/none"))[0] == 400
    assert (await operators.ask("GET", "/admin/devices?limit=0"))[0] == 400


async def test_the_admin_socket_answers_the_same_and_erases_in_steps(operators: Operators) -> None:
    server = operators.server
    await configure(server)
    key = await server.key("ops", "events:write", "notifications:read")
    await notified(server, key, "1")
    status, listed = await operators.ask("GET", "/admin/decisions?user=42")
    assert status == 200 and listed["decisions"][0]["outcome"] == "sent"
    decision = listed["decisions"][0]
    assert await operators.ask("GET", f"/admin/decisions/{decision['id']}") == (200, decision)
    assert (await operators.ask("GET", f"/admin/decisions/{'0' * 40}"))[0] == 404
    assert (await operators.ask("GET", "/admin/report?by=day"))[1]["total"]["sent"] == 1
    assert (await operators.ask("GET", "/admin/report?by=user"))[0] == 400
    assert len((await operators.ask("GET", "/admin/export?user=42"))[1]["deliveries"]) == 1
    assert (await operators.ask("GET", "/admin/export"))[0] == 400
    steps = [(await operators.ask("POST", "/admin/erase", {"user": "42"}))[1] for _ in range(2)]
    assert [step["documents"] for step in steps] == [1, 0] and [step["more"] for step in steps] == [True, False]
    assert (await operators.ask("GET", "/admin/decisions?user=42"))[1]["decisions"] == []
    assert (await operators.ask("POST", "/admin/erase", {"user": ""}))[0] == 400
    for method, target in (
        ("GET", "/admin/decisions?user=42"),
        ("GET", "/admin/export?user=42"),
        ("POST", "/admin/erase"),
    ):
        assert (await operators.ask(method, target, admin=operators.open))[0] == 404, "only where the caller is trusted"


def test_voids_of_many_numbers_fill_a_batch_as_many_changes_do() -> None:
    """Each number is a row that the writer writes: what is 50 bytes on the wire must not be 64,000 rows in a batch."""
    long = Push(AUTHOR, "a", None, (Void(1, 1_000, b"n" * 8, "gone"),))
    assert 2 <= CommitterLimits().batch_bytes_max // daemon.size_bytes(long) <= 5
