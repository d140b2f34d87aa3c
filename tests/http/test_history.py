"""The past of a document over HTTP: as of a position, and the list of its changes."""

from typing import Any

import pytest
import trio

from syncd.engine.commands import Collect, Collected
from syncd.engine.frontier import DAY_MS
from syncd.store.memory import MemoryStore
from tests.engine.kit import one
from tests.http import harness
from tests.http.harness import Server

DOCUMENT = "/v1/spaces/shop/documents/orders/1"


async def edited(server: Server, token: str, count: int) -> list[str]:
    """Makes a document and sets its field to 0, 1, ...; the positions after each."""
    made = await server.change(token, "shop", ["create", "orders", "1"])
    positions = [made.json["position"]]
    for number in range(count):
        made = await server.change(token, "shop", ["reg.set", "orders", "1", "step", number])
        positions.append(made.json["position"])
    return positions


async def test_a_document_is_read_as_of_each_position(server: Server) -> None:
    token = server.token(any="writer")
    positions = await edited(server, token, 5)
    for number, position in enumerate(positions[1:]):
        found = await server.ask("GET", f"{DOCUMENT}?at={position}", token)
        assert found.json["fields"] == {"step": number} and found.header("ETag") == f'"{position}"'
        assert found.header("Position") == positions[-1]
    assert (await server.ask("GET", f"{DOCUMENT}?at={positions[0]}", token)).json["fields"] == {}
    before = positions[0].replace("1@", "0@", 1)
    assert (await server.ask("GET", f"{DOCUMENT}?at={before}", token)).problem == "not-found"
    await server.change(token, "shop", ["delete", "orders", "1"])
    assert (await server.ask("GET", f"{DOCUMENT}?at={positions[-1]}", token)).json["fields"] == {"step": 4}


async def test_a_position_that_is_none_is_refused(server: Server) -> None:
    token = server.token(any="writer")
    epoch = (await edited(server, token, 1))[0].partition("@")[2]
    assert (await server.ask("GET", f"{DOCUMENT}?at=3@{epoch}", token)).problem == "bad-position"
    other = await server.ask("GET", f"{DOCUMENT}?at=1@{'0' * 32}", token)
    assert other.problem == "expired-position" and other.json["epoch"] == epoch and other.json["fork"] == 0
    assert (await server.ask("GET", f"{DOCUMENT}?at=1", token)).problem == "malformed-request"


async def test_the_history_comes_in_pages_newest_first(server: Server) -> None:
    token = server.token(any="writer")
    await edited(server, token, 7)
    await server.change(token, "shop", ["create", "orders", "2"])  # another document's change is not in it
    seqs, target = [], f"{DOCUMENT}/history?limit=3"
    for _ in range(3):
        page = (await server.ask("GET", target, token)).json
        seqs += [change["seq"] for change in page["changes"]]
        target = f"{DOCUMENT}/history?limit=3&from={page.get('next')}"
    assert seqs == [8, 7, 6, 5, 4, 3, 2, 1] and "next" not in page and page["known_from"] == 0
    assert page["changes"][0]["operations"] == [["reg.set", "orders", "1", "step", 0]]
    assert page["changes"][1]["user"] == "42" and page["changes"][1]["outcome"] == "applied"
    foreign = await server.ask("GET", f"{DOCUMENT}/history?from=9", token)
    assert foreign.problem == "malformed-request" and foreign.json["parameter"] == "from"


async def test_what_lost_is_in_the_history_too(server: Server) -> None:
    token = server.token(any="writer")
    first = (await edited(server, token, 0))[0]
    await server.change(token, "shop", ["max.put", "orders", "1", "most", 7])
    lost = await server.change(token, "shop", ["max.put", "orders", "1", "most", 5], query=f"?base={first}")
    assert lost.json["outcome"] == "noop"
    page = (await server.ask("GET", f"{DOCUMENT}/history", token)).json
    assert [(change["seq"], change["outcome"]) for change in page["changes"]] == [
        (3, "noop"), (2, "applied"), (1, "applied")
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["", "/history", "?at=1@" + "0" * 32])
async def test_who_may_not_read_the_present_may_not_read_the_past(server: Server, what: str) -> None:
    await edited(server, server.token(any="writer"), 1)
    stranger = server.token("43", other="writer")
    assert (await server.ask("GET", DOCUMENT + what, stranger)).problem == "forbidden"
    assert (await server.ask("GET", "/v1/spaces/none/documents/a/b" + what, stranger)).problem == "forbidden"


async def test_what_nobody_made_has_no_history(server: Server) -> None:
    token = server.token(any="writer")
    await edited(server, token, 1)
    assert (await server.ask("GET", "/v1/spaces/shop/documents/orders/9/history", token)).problem == "not-found"
    assert (await server.ask("GET", "/v1/spaces/none/documents/orders/9/history", token)).problem == "not-found"


async def test_what_is_not_kept_is_said_with_the_seq_from_which_on_it_is(server: Server) -> None:
    token = server.token(any="writer")
    positions = await edited(server, token, 3)
    server.clock.ms += 40 * DAY_MS
    assert one(await server.committer.execute(Collect("shop")), Collected).dropped_count
    token = server.token(any="writer")
    await server.change(token, "shop", ["reg.set", "orders", "1", "step", 9])
    gone = await server.ask("GET", f"{DOCUMENT}?at={positions[2]}", token)
    assert (gone.status, gone.problem, gone.json["known_from"]) == (410, "history-gone", 5)
    page = (await server.ask("GET", f"{DOCUMENT}/history", token)).json
    assert [change["seq"] for change in page["changes"]] == [5, 4] and page["known_from"] == 4
    assert (await server.ask("GET", f"{DOCUMENT}", token)).json["fields"] == {"step": 9}


async def test_a_revert_is_a_change_like_any_other(server: Server) -> None:
    token = server.token(any="writer")
    positions = await edited(server, token, 3)
    await server.change(token, "shop", ["max.put", "orders", "1", "most", 7])
    told = (await server.ask("POST", f"{DOCUMENT}/revert", token, {"at": positions[1]})).json
    assert (told["outcome"], told["seq"]) == ("applied", 6) and [each["field"] for each in told["left"]] == ["most"]
    assert (await server.ask("GET", DOCUMENT, token)).json["fields"] == {"step": 0, "most": 7}
    again = (await server.ask("POST", f"{DOCUMENT}/revert", token, {"at": positions[1]})).json
    assert again["outcome"] == "noop" and "seq" not in again


async def test_a_revert_says_which_text_it_leaves_and_brings_back_one_that_is_gone(server: Server) -> None:
    token = server.token(any="writer")
    await edited(server, token, 1)
    positions = []
    for update in ("AQ", "Ag"):
        made = await server.change(token, "shop", ["text.update", "orders", "1", "note", {"$b": update}])
        positions.append(made.json["position"])
    left = (await server.ask("POST", f"{DOCUMENT}/revert", token, {"at": positions[0]})).json
    assert (left["outcome"], "seq" in left) == ("noop", False)
    (note,) = left["left"]
    assert note["field"] == "note" and note["reason"].startswith("updates came since seq 3, and only an editor")
    await server.change(token, "shop", ["delete", "orders", "1"])
    told = (await server.ask("POST", f"{DOCUMENT}/revert", token, {"at": positions[0]})).json
    assert (told["outcome"], told["left"]) == ("applied", [])
    fields = (await server.ask("GET", DOCUMENT, token)).json["fields"]
    assert fields == {"step": 0, "note": [0, [[told["seq"], {"$b": "AQ"}]]]}


async def test_a_revert_needs_the_role_writer_and_a_position_at_which_there_was_something(server: Server) -> None:
    position = (await edited(server, server.token(any="writer"), 1))[0]
    target = f"{DOCUMENT}/revert"
    for stranger in (server.token("43", any="reader"), server.token("44", other="owner")):
        assert (await server.ask("POST", target, stranger, {"at": position})).problem == "forbidden"
    token = server.token(any="writer")
    before = position.replace("1@", "0@", 1)
    assert (await server.ask("POST", target, token, {"at": before})).problem == "not-found"
    assert (await server.ask("POST", target, token, {"at": "x"})).problem == "invalid-request"
    assert (await server.ask("POST", target, token, {})).problem == "invalid-request"
    assert (await server.ask("POST", target, token, {"at": position.replace("1@", "9@", 1)})).problem == "bad-position"


class Counted(MemoryStore):
    """A store that counts what is read of it in one turn of the loop, at most."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.now = self.most = 0

    def read(self) -> Any:
        self.now += 1
        return super().read()


class Turns(trio.abc.Instrument):
    def __init__(self, store: Counted) -> None:
        self._store = store

    def after_io_wait(self, timeout: float) -> None:
        self._store.most, self._store.now = max(self._store.most, self._store.now), 0


@pytest.mark.parametrize(
    ("target", "most"),
    [
        (f"{DOCUMENT}?at=", 30),  # each looks once whether there is such a document
        (f"{DOCUMENT}/history", 1),
        ("/v1/spaces/shop/explain/orders/1", 1),
        ("/v1/spaces/shop/documents", 1),
        ("/v1/spaces/shop/letters", 1),
        ("/v1/users/42/data", 1),
    ],
)
async def test_of_many_who_read_for_long_one_does_so_in_a_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, target: str, most: int
) -> None:
    """A hundred who look into the past at the same time held it for as long as a hundred steps take."""
    monkeypatch.setattr(harness, "MemoryStore", Counted)
    server = Server()
    assert isinstance(server.store, Counted)
    await nursery.start(server.committer.run)
    token = server.token(any="writer")
    target += (await edited(server, token, 5))[3] if target.endswith("=") else ""
    server.store.now = server.store.most = 0
    trio.lowlevel.add_instrument(turns := Turns(server.store))
    async with trio.open_nursery() as asking:
        for _ in range(30):
            asking.start_soon(server.ask, "GET", target, token)
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(turns)
    assert 0 < server.store.most <= most
    server.committer.close()
