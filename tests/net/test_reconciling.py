"""A device that differs from its space is brought what differs: after a long absence, or when its store is damaged."""

import sqlite3
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from syncd.engine.commands import Collect, Collected
from syncd.engine.frontier import Retention, is_due
from syncd.store import fsck, keys
from syncd.store.tables import SPACES
from syncd_client import Device
from syncd_client.mending import Mending
from tests.net.devices import Line, opened
from tests.net.harness import BASE_MS, SPACE, World, world

SOON = Retention(lapse_ms=60_000, recent_ms=1_000, history_ms=2_000)


async def collected(w: World) -> None:
    while True:
        with w.store.read() as tx:
            row = SPACES.get(tx, keys.space(SPACE))
            if row is None or not is_due(tx, row, BASE_MS + round(trio.current_time() * 1000), SOON):
                return
        result = await w.committer.execute(Collect(SPACE))
        assert isinstance(result, Collected)


def fill(device: Device, count: int) -> None:
    space = device.space(SPACE)
    space.subscribe()
    for number in range(count):
        space.create("notes", f"n{number}", {"title": f"note {number}", "text": "x" * 40})


def same(*devices: Device) -> None:
    shown = [{(each.collection, each.id): (each.rev, each.fields) for each in d.space(SPACE).synced()} for d in devices]
    assert all(each == shown[0] for each in shown), "every device has the same"
    assert len({device.space(SPACE).checksum for device in devices}) == 1


@pytest.mark.parametrize("binding", ["msgpack", "json"])
async def test_a_lapsed_device_gets_what_differs_and_loses_no_change(
    tmp_path: Path, autojump_clock: MockClock, binding: str
) -> None:
    async with world(retention=SOON) as w, opened(w, tmp_path / "a", 1) as ann:
        fill(ann, 200)
        await ann.space(SPACE).wait_settled()
        async with opened(w, tmp_path / "b", 2) as ben:
            ben.space(SPACE).subscribe()
            await ben.space(SPACE).wait_complete()
            await trio.sleep(10)
        notes = ann.space(SPACE)
        for number in range(20):
            notes.delete("notes", f"n{number}")
            notes.set("notes", f"n{number + 50}", "title", "new")
        notes.create("notes", "late", {"title": "born while he was away"})
        await notes.wait_settled()
        await trio.sleep(120)
        await collected(w)
        line = Line()
        async with opened(w, tmp_path / "b", 2, line, binding=binding) as ben:
            space = ben.space(SPACE)
            on_deleted = space.set("notes", "n3", "title", "to one that was deleted")
            on_changed = space.set("notes", "n55", "text", "to one that was changed")
            on_own = space.create("notes", "own", {"title": "made far away"})
            deletion = space.delete("notes", "n60")
            await space.wait_settled()
            await space.wait_complete()
            await trio.sleep(10)
            await notes.wait_complete()
            outcomes = [
                row.outcome if (row := change.settled()) else None
                for change in (on_deleted, on_changed, on_own, deletion)
            ]
            assert outcomes == ["gone", "applied", "applied", "precondition"]
            same(ann, ben)
            assert space.view("notes", "n3") is None, "nothing deleted comes back"
            assert space.view("notes", "late") is not None and space.view("notes", "n60") is not None
            assert notes.view("notes", "own") is not None
            # What he pushed at once may be among what differs.
            assert w.hub.counters.reconciled == 1 and 41 <= w.hub.counters.repaired <= 44
            whole = sum(len(each.id) + 60 for each in space.synced())
            assert line.received_bytes < 3 * whole
        await trio.sleep(100)
        await collected(w)
        assert not w.logs
        with w.store.read() as tx:
            assert not list(fsck.check(tx))


def damaged(directory: Path, *statements: str) -> None:
    db = sqlite3.connect(directory / "replica.db")
    with db:
        for statement in statements:
            db.execute(statement)
    db.close()


async def check_healed(tmp_path: Path, statements: tuple[str, ...], repaired: int, prompt: str) -> int:
    """Damage a store while its device is off. How many bytes it then took to heal it."""
    async with world() as w, opened(w, tmp_path / "a", 1) as ann:
        fill(ann, 400)
        await ann.space(SPACE).wait_settled()
        async with opened(w, tmp_path / "b", 2) as ben:
            ben.space(SPACE).subscribe()
            await ben.space(SPACE).wait_complete()
        damaged(tmp_path / "b", *statements)
        line = Line()
        async with opened(w, tmp_path / "b", 2, line) as ben:
            space = ben.space(SPACE)
            if prompt == "verify":
                assert not space.verify()
                assert not space.is_complete
            else:
                for number in range(0, 400, 25):
                    ann.space(SPACE).set("notes", f"n{number}", "title", "touched")
                await ann.space(SPACE).wait_settled()
            await trio.sleep(10)
            await space.wait_complete()
            same(ann, ben)
            assert space.verify()
        assert (w.hub.counters.reconciled, w.hub.counters.repaired) == (1, repaired)
        assert not w.logs
        return line.bytes


DAMAGES: dict[str, tuple[tuple[str, ...], int]] = {
    "changed": (
        ("UPDATE document SET fields = X'80' WHERE id IN ('n0', 'n7')", "UPDATE document SET rev = 1 WHERE id = 'n9'"),
        3,
    ),
    "removed": (("DELETE FROM document WHERE id IN ('n0', 'n1', 'n2')",), 3),
    "added": (("INSERT INTO document VALUES ('room/1', 'notes', 'ghost', 5, X'80', X'0000000000000001')",), 1),
    "no record": (("UPDATE document SET fields = X'C1' WHERE id = 'n8'",), 1),
    "sums lost": (("DELETE FROM bucket", "UPDATE space SET sum = X'0000000000000000'"), 0),
    "hashes lost": (("UPDATE document SET hash = X'00'", "DELETE FROM document WHERE id = 'n2'"), 1),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_store_that_is_verified_heals_by_what_differs(
    tmp_path: Path, autojump_clock: MockClock, damage: str
) -> None:
    statements, repaired = DAMAGES[damage]
    used = await check_healed(tmp_path, statements, repaired, "verify")
    assert used < 8_192 + 3_000 + 40 * 16 + repaired * 300 + 3_000, "sums of buckets, and little beside them"


async def test_a_damage_is_found_by_the_sum_of_the_next_delta_that_touches_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    statements = ("UPDATE document SET fields = X'80' WHERE id = 'n25'", "DELETE FROM document WHERE id = 'n50'")
    used = await check_healed(tmp_path, (*statements, "DELETE FROM document WHERE id = 'n51'"), 3, "delta")
    assert used < 30_000


async def test_two_repairs_that_do_not_help_lead_to_a_download(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong may lie where comparing does not look: here the device says that it holds what it does not."""
    from syncd_client import mending

    real = mending.opening

    def lying(tx: object, row: object) -> object:
        sums = real(tx, row)  # type: ignore[arg-type]
        return type(sums)(sums.space, sums.epoch, buckets=w_sums[0] if w_sums else sums.buckets)

    w_sums: list[bytes] = []
    async with world() as w, opened(w, tmp_path / "a", 1) as ann:
        fill(ann, 20)
        await ann.space(SPACE).wait_settled()
        with w.store.read() as tx:
            from syncd.store.tables import BUCKETS

            row = SPACES.get(tx, keys.space(SPACE))
            assert row is not None
            found = {keys.parse_bucket(k)[1]: s[0] for k, s in BUCKETS.scan(tx, keys.space_range(keys.BUCKET, row.id))}
            w_sums.append(b"".join(found.get(number, 0).to_bytes(8) for number in range(1024)))
        monkeypatch.setattr(mending, "opening", lying)
        async with opened(w, tmp_path / "b", 2) as ben:
            ben.space(SPACE).subscribe()
            await ben.space(SPACE).wait_complete()
        damaged(tmp_path / "b", "DELETE FROM document WHERE id = 'n3'")
        async with opened(w, tmp_path / "b", 2) as ben:
            assert not ben.space(SPACE).verify()
            for number in range(4):
                await trio.sleep(5)
                ann.space(SPACE).set("other", f"{number}", "x", 1)
                ann.space(SPACE).create("other", f"{number}")
            await trio.sleep(200)
            await ben.space(SPACE).wait_complete()
            same(ann, ben)


async def test_what_commits_while_a_device_reconciles_comes_afterwards(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world() as w, opened(w, tmp_path / "a", 1) as ann, opened(w, tmp_path / "b", 2) as ben:
        fill(ann, 300)
        ben.space(SPACE).subscribe()
        await ann.space(SPACE).wait_settled()
        await ben.space(SPACE).wait_complete()
        with ben.store.transaction():
            ben.store._db.execute("DELETE FROM document WHERE id < 'n2'")
        assert not ben.space(SPACE).verify()
        for number in range(100):
            ann.space(SPACE).set("notes", f"n{number}", "title", "meanwhile")
            ann.space(SPACE).delete("notes", f"n{number + 150}")
            ben.space(SPACE).set("notes", f"n{number + 120}", "text", "by the other")
            await trio.lowlevel.checkpoint()
        await ann.space(SPACE).wait_settled()
        await ben.space(SPACE).wait_settled()
        await trio.sleep(10)
        await ben.space(SPACE).wait_complete()
        await ann.space(SPACE).wait_complete()
        same(ann, ben)
        assert ben.space(SPACE).verify() and not w.logs


async def test_a_connection_that_ends_in_the_middle_leaves_nothing_half_applied(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world() as w, opened(w, tmp_path / "a", 1) as ann:
        fill(ann, 300)
        await ann.space(SPACE).wait_settled()
        async with opened(w, tmp_path / "b", 2) as ben:
            ben.space(SPACE).subscribe()
            await ben.space(SPACE).wait_complete()
        damaged(tmp_path / "b", "DELETE FROM document WHERE id < 'n15'")
        async with opened(w, tmp_path / "b", 2) as ben:
            await ben.space(SPACE).wait_complete()
            assert not ben.space(SPACE).verify()
            for _ in range(40):
                await trio.lowlevel.checkpoint()
                link = ben.session.links[SPACE] if ben.session else None
                if link is not None and isinstance(link.mending, Mending) and link.mending.staged:
                    break
            for member in w.hub.members:
                if member.device == ben.id:
                    member.delivery.abort()
            await trio.sleep(60)
            await ben.space(SPACE).wait_complete()
            same(ann, ben)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "malformed"),
        ({"buckets": bytes(8_192), "of": [1]}, "malformed"),
        ({"buckets": bytes(8_000)}, "malformed"),
        ({"of": [2, 1], "documents": b""}, "malformed"),
        ({"of": [1_024], "documents": b""}, "malformed"),
        ({"of": [0], "documents": bytes(15)}, "malformed"),
        ({"of": [0], "documents": bytes(32)}, "malformed"),
        ({"of": [0], "documents": b"\xff" * 16}, "malformed"),
    ],
)
async def test_sums_that_make_no_sense_are_malformed(
    autojump_clock: MockClock, body: dict[str, object], expected: str
) -> None:
    async with world() as w:
        client = await w.client()
        epoch = (await client.subscribe())["epoch"]
        await client.send("sums", space=SPACE, epoch=epoch, **body)
        assert (await client.expect("error"))["name"] == expected


async def test_sums_of_no_subscription_are_answered_so_and_questions_in_vain_are_not(autojump_clock: MockClock) -> None:
    async with world() as w:
        client = await w.client()
        await client.send("sums", space=SPACE, epoch=bytes(16), buckets=bytes(8_192))
        assert (await client.expect("error"))["name"] == "not_subscribed"
        epoch = (await client.subscribe())["epoch"]
        await client.send("sums", space=SPACE, epoch=epoch, of=[1], documents=b"", last=True)
        await client.send("sums", space=SPACE, epoch=epoch, buckets=bytes(8_192))
        differ = await client.expect("differ")
        assert (differ["at"], differ["buckets"]) == (0, [])
        await client.push([1, bytes(7) + b"\x01", 0, 1, [["create", "notes", "a"]]])
        await client.expect("outcomes")
        assert (await client.expect("delta"))["to"] == 1, "it is live again"
