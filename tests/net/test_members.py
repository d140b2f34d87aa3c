"""Roles that change under live connections: nothing behind a change that took the right to read reaches its user."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.core.ids import MEMBERS
from syncd.engine.batch import space_row
from syncd.engine.commands import Author, Lose, Post, Purge
from syncd.engine.grants import Grant, Role
from syncd.engine.members import role_of
from syncd.env.memory import InlineOffload
from syncd.store import keys
from syncd.store.tables import HOLDERS
from tests.net.harness import SPACE, Client, Message, World, world

ADMIN = Author(b"admin" + bytes(11), None, "key", "key:admin", (Grant("**", Role.OWNER),))


async def posted(w: World, *operations: list[Any]) -> int:
    result: Any = await w.committer.execute(Post(ADMIN, SPACE, list(operations), None, None, None))
    assert result.seq is not None, result
    return int(result.seq)


def member(user: str, role: str) -> list[list[Any]]:
    return [["create", MEMBERS, user], ["reg.set", MEMBERS, user, "role", role]]


async def told(client: Client) -> list[Message]:
    """All that the server has to say for now."""
    await wait_all_tasks_blocked()
    messages = []
    while True:
        await client.send("probe", id=7)
        while (message := await client.receive()).name != "pong":
            messages.append(message)
        return messages


@asynccontextmanager
async def listener(w: World, number: int, user: str, **grant: str) -> AsyncIterator[Client]:
    """A device of this user that is live on the space."""
    client = Client(w.connect(), number)
    await client.upgrade()
    await client.greet(w.token(user, **grant))
    await client.subscribe()
    await told(client)
    yield client


async def test_what_commits_behind_a_denial_in_the_same_batch_does_not_reach_the_denied(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        await posted(w, ["create", "c", "x"])
        async with listener(w, 1, "bob", role="writer") as bob, listener(w, 2, "ann") as ann:
            boss = Client(w.connect(), 3)
            await boss.upgrade()
            await boss.greet(w.token("boss"))
            secret = ["reg.set", "c", "x", "f", "secret"]
            await boss.send(
                "push", space=SPACE, epoch=None,
                changes=[
                    boss.change(["create", "c", "before"]), boss.change(*member("bob", "none")),
                    boss.change(["create", "c", "y"], ["reg.set", "c", "y", "f", "secret"]),
                ],
            )  # fmt: skip
            heard = await told(bob)
            assert [(each.name, each.body.get("to"), each.body.get("seq")) for each in heard] == [
                ("delta", 3, None), ("revoked", None, 3),
            ]  # fmt: skip
            assert "secret" not in str(heard)
            assert [each["to"] for each in await told(ann)] == [3, 4]
            await posted(w, secret)
            assert await told(bob) == []


async def test_who_is_behind_reads_no_page_after_a_denial_not_even_one_that_is_kept(autojump_clock: MockClock) -> None:
    async with world() as w:
        for n in range(6):
            await posted(w, ["create", "c", f"x{n}"], ["reg.set", "c", f"x{n}", "f", "y" * 60_000])
        bob = await w.client(1, user="bob", buffer_bytes=1000)
        await bob.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0)
        await wait_all_tasks_blocked()  # its socket is full: it has the beginning of the first page
        await w.client(2, user="ann")  # whose pages are kept
        await posted(w, *member("bob", "none"))
        heard = await told(bob)
        assert [each.name for each in heard][-1] == "revoked"
        assert all(each["to"] <= 6 for each in heard if each.name == "delta")
        assert not any(each.body.get("complete") for each in heard)


class SlowDisk(InlineOffload):
    """A commit takes effect, and its sync returns when `returning` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.returning: trio.Event | None = None

    async def run(self, fn: Any, *args: Any) -> Any:
        result = await super().run(fn, *args)
        if self.returning is not None:
            await self.returning.wait()
        return result


async def test_between_a_denial_and_its_publication_nothing_is_read_for_the_denied(autojump_clock: MockClock) -> None:
    disk = SlowDisk()
    async with world(offload=disk) as w, trio.open_nursery() as nursery:
        for n in range(6):
            await posted(w, ["create", "c", f"x{n}"], ["reg.set", "c", f"x{n}", "f", "y" * 60_000])
        bob = await w.client(1, user="bob", buffer_bytes=1000)
        await bob.send("subscribe", space=SPACE, epoch=None, complete=0, resume=0, settled=0)
        await wait_all_tasks_blocked()
        disk.returning = trio.Event()
        nursery.start_soon(posted, w, *member("bob", "none"))
        await wait_all_tasks_blocked()
        heard = [*await told(bob), *await told(bob)]  # the second pong comes behind the next step of the pump
        assert [each.name for each in heard][-1] == "revoked" and all(each.body.get("to", 0) <= 6 for each in heard)
        assert not any(each.body.get("complete") for each in heard)
        disk.returning.set()
        await wait_all_tasks_blocked()
        assert await told(bob) == [], "what is published then does not concern it"


async def test_a_role_that_changes_is_told_and_a_role_that_is_lost_by_deletion_too(autojump_clock: MockClock) -> None:
    async with world() as w:
        await posted(w, *member("cyd", "reader"))
        async with listener(w, 1, "cyd", pattern="hall/*") as cyd:
            await posted(w, ["reg.set", MEMBERS, "cyd", "role", "writer"])
            heard = await told(cyd)
            assert [each.name for each in heard] == ["delta", "subscribed"]
            assert (heard[1]["role"], heard[1]["head"], heard[1]["mode"]) == ("writer", 2, "live")
            await posted(w, ["reg.set", MEMBERS, "cyd", "name", "C."])
            assert [each.name for each in await told(cyd)] == ["delta"], "the same role is not told again"
            await posted(w, ["delete", MEMBERS, "cyd"])
            heard = await told(cyd)
            assert [(each.name, each.body.get("seq")) for each in heard] == [("delta", None), ("revoked", 4)]
            assert isinstance(w.commands[-1], Lose), "which the change itself could not tell of the token"
            assert lost(w, cyd, "cyd") == 4
            await cyd.send("purged", space=SPACE)
            await told(cyd)
            assert isinstance(w.commands[-1], Purge) and lost(w, cyd, "cyd") == "-"


def lost(w: World, client: Client, user: str) -> Any:
    with w.store.read() as tx:
        row = HOLDERS.get(tx, keys.holder(1, keys.owner(user), client.device))
        assert role_of(tx, Author(client.device, client.installation, "device", user, ()), SPACE) == Role.NONE
    return "-" if row is None else row.lost_seq


@pytest.mark.parametrize("session", [None, "the old one"])
async def test_a_denied_device_that_comes_again_is_turned_away_whatever_it_names(
    autojump_clock: MockClock, session: str | None
) -> None:
    async with world() as w:
        await posted(w, ["create", "c", "x"])
        async with listener(w, 1, "bob") as bob:
            epoch = (await bob_epoch(w)) or b""
            old = bob.welcome["session"]
            await posted(w, *member("bob", "none"))
            await told(bob)
            again = Client(w.connect(), 1)
            await again.upgrade()
            await again.greet(w.token("bob"), **({"session": old} if session else {}))
            for where in (
                {"epoch": None}, {"epoch": epoch, "complete": 1, "resume": 1},
                {"epoch": b"e" * 16, "complete": 1, "resume": 1}, {"epoch": epoch, "resume": 1, "start": 2},
                {"epoch": epoch, "complete": 1, "resume": 1, "chain": bytes(8)},
            ):  # fmt: skip
                await again.send("subscribe", space=SPACE, **{"complete": 0, "resume": 0, "settled": 0, **where})
                (answer,) = await told(again)
                assert (answer.name, answer.body.get("seq")) == ("revoked", 2)
            await again.push(again.change(["create", "c", "z"]), epoch=epoch)
            (answer,) = await told(again)
            assert [entry[2:] for entry in answer["outcomes"]] == [["forbidden", None, None]]


async def bob_epoch(w: World) -> bytes | None:
    with w.store.read() as tx:
        row = space_row(tx, SPACE)
    return None if row is None else row.epoch


async def test_a_refreshed_token_neither_brings_a_denied_user_back_nor_hides_a_lesser_role(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        await posted(w, *member("cyd", "reader"))
        async with listener(w, 1, "cyd") as cyd:
            await cyd.send("refresh", token=w.token("cyd", role="reader"))
            (answer,) = await told(cyd)
            assert (answer.name, answer["role"]) == ("subscribed", "reader")
            await cyd.send("refresh", token=w.token("cyd", pattern="other/*"))
            assert await told(cyd) == [], "it is a member"
            await posted(w, ["reg.set", MEMBERS, "cyd", "role", "none"])
            assert [each.name for each in await told(cyd)] == ["delta", "revoked"]
            await cyd.send("refresh", token=w.token("cyd"))
            assert await told(cyd) == []
