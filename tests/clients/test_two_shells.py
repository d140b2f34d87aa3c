"""The asyncio shell and the trio shell against the real daemon, and what each may import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import trio

from syncd_client import aio, open_device
from syncd_client.device import Device
from tests.e2e.process import running

SPACE, EDITS, END_S = "home/list", 40, 60.0


async def edit(device: Device, name: str) -> None:
    """The same edits under either loop, while the other shell makes its own: fields of its own, and common ones."""
    space = device.space(SPACE)
    space.subscribe()
    if space.view("items", "both") is None:
        space.create("items", "both")
    for number in range(EDITS):
        space.inc("items", "both", "count")
        space.set("items", "both", "last", f"{name} {number}")
        space.add("items", "both", "names", f"{name} {number}")
        if number % 10 == 0:
            await device.loop.sleep_until(device.loop.now_s() + 0.05)
    assert await device.sync(SPACE)


def is_whole(device: Device) -> bool:
    document = device.space(SPACE).view("items", "both")
    return document is not None and document.fields.get("count") == 2 * EDITS and device.outbox_depth() == 0


async def test_both_shells_edit_one_space_at_once_and_agree(tmp_path: Path) -> None:
    with running(tmp_path / "daemon") as daemon:
        token = daemon.token("ann", "home/*:writer")
        seen: dict[str, tuple[bytes, object]] = {}

        def told(name: str, device: Device) -> None:
            space = device.space(SPACE)
            document = space.view("items", "both")
            assert document is not None
            assert len(document["names"]) == 2 * EDITS
            seen[name] = (space.checksum, document.fields)

        async def in_asyncio() -> None:
            async with asyncio.timeout(END_S):
                async with aio.open_device(tmp_path / "aio", url=daemon.sync_url, token=lambda: token) as device:
                    await edit(device, "asyncio")
                    await device.wait_until(lambda: is_whole(device))
                    told("asyncio", device)
                    assert device.user == "ann"

        async def in_trio() -> None:
            async with open_device(tmp_path / "trio", url=daemon.sync_url, token=lambda: token) as device:
                await edit(device, "trio")
                await device.wait_until(lambda: is_whole(device))
                told("trio", device)

        with trio.fail_after(END_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, lambda: aio.run(in_asyncio))
                nursery.start_soon(in_trio)
        assert seen["asyncio"] == seen["trio"]
        assert daemon.stop() == 0


def imported_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_asyncio_shell_needs_no_trio_and_the_trio_shell_no_websockets() -> None:
    assert not imported_by("import syncd_client.aio") & {"trio", "trio_websocket"}
    assert not imported_by("from syncd_client import open_device") & {"websockets", "uvloop"}
