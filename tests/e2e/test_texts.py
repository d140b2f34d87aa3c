"""Two Yjs documents, edited by two devices without a network, come to one text through a daemon that merges."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from syncd_client import Device, UnreadableText, open_device
from tests.e2e.process import run, running
from tests.fuzz import text_targets

pycrdt = pytest.importorskip("pycrdt", reason="pycrdt is not there: no real Yjs documents are tried")
editing = pytest.importorskip("syncd_client.editing")

SPACE = "team/notes"
LIMIT_S = 60.0


async def synced(device: Device) -> None:
    with trio.fail_after(LIMIT_S):
        assert await device.sync(SPACE)


def editor_of(device: Device) -> Any:
    return editing.TextEditor(device.space(SPACE).text_field("notes", "n1", "body"))


async def test_two_yjs_documents_converge(tmp_path: Path) -> None:
    with running(tmp_path / "daemon") as daemon:

        def opened(name: str) -> Any:
            token = daemon.token(name, "team/*:writer")
            return open_device(tmp_path / name, url=daemon.sync_url, token=token, durability="off")

        async with opened("ann") as ann, opened("ben") as ben, opened("cem") as cem:
            for device in (ann, ben, cem):
                device.space(SPACE).subscribe()
            ann.space(SPACE).create("notes", "n1")
            first = editor_of(ann)
            first.insert(0, "The fox jumps.")
            first.commit()
            for device in (ann, ben, cem):
                await synced(device)
            second = editor_of(ben)
            # Neither reads what the other writes until both have written a lot: more than the daemon leaves unmerged.
            for number in range(150):
                first.insert(len(str(first)), f" {number}")
                first.commit()
                second.insert(4, "x" if number % 2 else "é")
                second.delete(5, number % 2)
                second.commit()
            for device in (ann, ben, ann):
                await synced(device)
            assert first.refresh()
            assert second.refresh()
            await synced(cem)
            assert str(first) == str(second) == str(editor_of(cem))
            # Each x stands where an é was put before it, and then taken out.
            assert str(first) == "The " + 75 * "x" + "fox jumps." + "".join(f" {number}" for number in range(150))
            for device in (ann, ben, cem):
                await synced(device)
            assert ann.space(SPACE).checksum == ben.space(SPACE).checksum == cem.space(SPACE).checksum
            # Merging waits for nobody, so not for its own process to have started either: it comes with later updates.
            with trio.fail_after(LIMIT_S):
                for number in count():
                    async with opened(f"dan {number}") as dan:  # who comes later is told what was merged
                        dan.space(SPACE).subscribe()
                        await synced(dan)
                        assert str(editor_of(dan)) == str(first)
                        document = dan.space(SPACE).view("notes", "n1")
                        assert document is not None
                        if len(document["body"][1]) < 256:
                            break
                    for _ in range(32):
                        first.insert(0, ".")
                        first.commit()
                    await synced(ann)
        assert daemon.stop() == 0
    assert run(daemon.directory, "fsck").returncode == 0


async def test_what_ends_the_process_that_reads_it_does_not_end_the_daemon(tmp_path: Path) -> None:
    """Arrays within each other, 60 KB: the library's stack overflows. What has them is not merged, and that is all."""
    hostile = text_targets.nested(32_000)
    with running(tmp_path / "daemon") as daemon:
        token = daemon.token("ann", "team/*:writer")
        async with open_device(tmp_path / "ann", url=daemon.sync_url, token=token, durability="off") as ann:
            space = ann.space(SPACE)
            space.subscribe()
            with trio.fail_after(LIMIT_S):
                for number in count():
                    space.create("notes", f"n{number}")
                    field = space.text_field("notes", f"n{number}", "body")
                    field.update(hostile, *(200 * [b"\x00\x00"]))
                    await synced(ann)
                    field.update(*(60 * [b"\x00\x00"]))
                    await synced(ann)
                    if "was ended by what it read" in daemon.log.read_text():
                        break
            with pytest.raises(UnreadableText, match=r"update 1 of the text cannot be read: .* deeper than 16"):
                editing.TextEditor(field)
        assert daemon.stop() == 0
