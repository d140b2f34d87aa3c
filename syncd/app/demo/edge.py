"""The demo's scene of the edge: a phone that stops reading while thousands of changes go by.

Owns that scene and its judgement. The phone is a process of the cast, stopped by the system with its socket open; the
changes are made by a device in this process, which only stands for a busy world, and another phone reads on. What it
proves: the daemon keeps nothing for who does not read, because the log is the queue, and who reads again gets the
newest state, in which most of what went by has been overtaken.

Invariants: E1 the phone that reads on is sent a field value for each change; the other, for at most one change in
`VALUES_SHARE`, or for what the kernel's buffers of a socket held before anyone could know. E2 the daemon's own memory
grows by less than one byte in `MEMORY_SHARE` of those that went by. What does not hold is a problem of the verdict.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from syncd.app.demo.stage import DeviceProcess
from syncd.app.demo.story import ROUTE, Story
from syncd_client import Space, open_device

CHANGES: Final = 2_000
VANS: Final = 50  # each its own document; they report together, and wait for the outcomes
TILE_BYTES: Final = 9_000  # so that what goes by is several times what the kernel's buffers of a socket usually take
VALUES_SHARE: Final = 2
MEMORY_SHARE: Final = 2  # a queue for the phone would be all but what the buffers take
SEND_BUFFERS: Final = Path("/proc/sys/net/ipv4/tcp_wmem")  # least, first and greatest size; of Linux
RECEIVE_BUFFER_BYTES: Final = 1_048_576  # of who does not read it stays about as it was, whatever it might become
READ_AGAIN_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen. `values`: sent to the phone that did not read; `all_values`: to the one that did; `memory_bytes`:
    how much the daemon's own memory grew, None where the system does not tell; `buffers_bytes`: a socket's, at most."""

    changes: int
    bytes_gone_by: int
    all_values: int
    values: int
    seconds: float
    memory_bytes: int | None
    buffers_bytes: int = 0


def problems(figures: Figures) -> list[str]:
    """What of E1 and E2 does not hold."""
    found = []
    overtaken = max(figures.changes // VALUES_SHARE, VANS + figures.buffers_bytes // TILE_BYTES)
    if figures.all_values < figures.changes or figures.values > overtaken:
        found.append(
            f"edge: {figures.changes} changes went by; the phone that read on was sent {figures.all_values} field"
            f" values, and the one that did not {figures.values}"
        )
    if figures.memory_bytes is not None and figures.memory_bytes * MEMORY_SHARE >= figures.bytes_gone_by:
        found.append(
            f"edge: {figures.bytes_gone_by} bytes went by a phone that does not read,"
            f" and the daemon's memory grew by {figures.memory_bytes}"
        )
    return found


async def edge(story: Story, token: str, store: Path) -> None:
    """Suspend Ben's phone, let the vans drive, wake it, and judge what it cost."""
    story.scene("A phone stops reading, while thousands of changes go by")
    phones = [story.devices["Ben's phone"], story.devices["Ann's phone"]]
    ben = phones[0]
    async with open_device(store, url=story.daemon.url, token=token, durability="off") as van:
        route = van.space(ROUTE)
        route.subscribe()
        for number in range(VANS):
            route.create("van", f"{number}")
        await route.wait_settled()
        for phone in phones:
            await phone.ask("subscribe", space=ROUTE)
            phone.spaces = (*phone.spaces, ROUTE)  # it is compared with the others at the end
            await phone.ask("wait", space=ROUTE, **{"for": {"complete": route.row.complete}})
        before = [await _values(phone) for phone in phones]
        ben.freeze()
        story.tell("Ben's phone is suspended: its socket is open, and nobody reads it; Ann's reads on")
        try:
            grown = await _drive(story, route)
            head = route.row.complete
            await phones[1].ask("wait", space=ROUTE, **{"for": {"complete": head}})
        finally:
            ben.thaw()
        began_s = trio.current_time()
        await ben.ask("wait", space=ROUTE, timeout_s=READ_AGAIN_S, **{"for": {"complete": head}})
        seconds = trio.current_time() - began_s
    values, all_values = [await _values(phone) - was for phone, was in zip(phones, before, strict=True)]
    figures = Figures(CHANGES, CHANGES * TILE_BYTES, all_values, values, seconds, grown, _buffers_bytes())
    _tell(story, figures)
    story.problems += problems(figures)
    for number in range(VANS):
        shown = await ben.document(ROUTE, "van", f"{number}")
        if shown is None or not shown["fields"]["tile"].startswith(_tile(CHANGES - VANS + number)[:8]):
            story.problems.append(f"edge: the phone that reads again does not show the newest of van {number}")


async def _drive(story: Story, route: Space) -> int | None:
    """All the changes; by how much the daemon's memory grew meanwhile, at most."""
    memory = story.daemon.memory_bytes()
    most = memory or 0
    for first in range(0, CHANGES, VANS):
        for number in range(first, first + VANS):
            route.set("van", f"{number - first}", "tile", _tile(number))
        await route.wait_settled()
        most = max(most, story.daemon.memory_bytes() or 0)
    return None if memory is None else most - memory


def _buffers_bytes() -> int:
    try:
        return int(SEND_BUFFERS.read_text().split()[2]) + RECEIVE_BUFFER_BYTES
    except OSError:
        return 0


def _tile(number: int) -> str:
    """A piece of a map, of which nobody needs but the newest."""
    return f"{number:08}".ljust(TILE_BYTES, ".")


async def _values(phone: DeviceProcess) -> int:
    return int((await phone.ask("status"))["field_values"])


def _tell(story: Story, figures: Figures) -> None:
    grown = figures.memory_bytes
    memory = "is not told by this system" if grown is None else f"grew by {grown / 1e6:.1f} MB at most"
    story.tell(
        f"{figures.changes} changes by {VANS} vans, {figures.bytes_gone_by / 1e6:.0f} MB, went by;"
        f" the daemon's memory {memory}; Ann's phone was sent {figures.all_values} field values"
    )
    story.tell(
        f"Ben's phone reads again: {figures.values} field values, and {figures.seconds:.1f} s later it shows the newest"
    )
