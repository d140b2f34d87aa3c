"""A backup of a daemon at work, and what devices bring back after it was put in the place of the store."""

import json
from pathlib import Path
from typing import Any

import trio

from syncd_client import Device, open_device
from tests.e2e.process import Daemon, run, running

SPACE = "team/board"
LIMIT_S = 120.0


def count_of(device: Device) -> Any:
    document = device.space(SPACE).view("tally", "all")
    return None if document is None else document.fields.get("count")


async def synced(device: Device) -> None:
    with trio.fail_after(LIMIT_S):
        assert await device.sync(SPACE)


async def counting(device: Device, counts: list[int], most: int) -> None:
    """Commit increments as fast as outcomes come back."""
    for _ in range(most):
        change = device.space(SPACE).inc("tally", "all", "count")
        counts.append(1)
        await change.outcome()


async def backed_up(daemon: Daemon, to: Path) -> dict[str, Any]:
    told = await trio.to_thread.run_sync(daemon.run, "backup", str(to), "--json")
    return dict(json.loads(told))


async def test_nothing_is_lost_that_a_device_still_has(tmp_path: Path) -> None:
    counts: list[int] = []

    def opened(name: str, daemon: Daemon) -> Any:
        return open_device(tmp_path / name, url=daemon.sync_url, token=daemon.token(name, "team/*:writer"))

    with running(tmp_path / "daemon") as daemon:
        async with opened("ann", daemon) as ann, opened("ben", daemon) as ben:
            for device in (ann, ben):
                device.space(SPACE).subscribe()
            ann.space(SPACE).create("tally", "all")
            await synced(ann)
            await synced(ben)
            told = await backed_up(daemon, tmp_path / "first")  # from now on devices keep what no backup has
            assert told["is_told"]
            async with trio.open_nursery() as load:
                load.start_soon(counting, ann, counts, 40)
                load.start_soon(counting, ben, counts, 40)
                await backed_up(daemon, tmp_path / "second")
            for device in (ann, ben):
                await counting(device, counts, 5)
                await synced(device)
            await synced(ann)
            assert count_of(ann) == count_of(ben) == len(counts)
            old_epoch = ann.space(SPACE).row.epoch
        refused = run(daemon.directory, "restore", str(tmp_path / "second"), "--yes")
        assert refused.returncode == 1
        assert "another daemon" in refused.stderr
        daemon.kill()
    restored = run(daemon.directory, "restore", str(tmp_path / "second"), "--yes", "--json")
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["replaced"].endswith("replaced-1.mdb")
    with running(tmp_path / "daemon") as daemon:
        async with opened("ann", daemon) as ann, opened("ben", daemon) as ben:
            await synced(ann)
            await synced(ben)
            await synced(ann)
            assert ann.space(SPACE).row.epoch not in (None, old_epoch)
            assert count_of(ann) == count_of(ben) == len(counts), "nothing is lost, and nothing counts twice"
            assert ann.space(SPACE).checksum == ben.space(SPACE).checksum
        assert daemon.stop() == 0
    assert run(daemon.directory, "fsck").returncode == 0


def test_a_backup_that_is_not_sound_gets_no_name_and_replaces_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "daemon") as daemon:
        daemon.run("backup", str(tmp_path / "good"))
        again = run(daemon.directory, "backup", str(tmp_path / "good"))
        assert again.returncode == 1
        assert "exists" in again.stderr
        daemon.stop()
    data = tmp_path / "good" / "data.mdb"
    spoilt = bytearray(data.read_bytes())
    at = spoilt.index(b"schema")
    spoilt[at + 6 : at + 8] = b"\xff\xff"
    data.write_bytes(spoilt)
    before = (daemon.directory / "store" / "data.mdb").read_bytes()
    refused = run(daemon.directory, "restore", str(tmp_path / "good"), "--yes")
    assert refused.returncode == 4, refused.stderr
    assert (daemon.directory / "store" / "data.mdb").read_bytes() == before
    assert not (daemon.directory / "store" / "restoring").exists()
