"""A slow reader at full speed: what a device costs that reads nothing while 100,000 changes go by, and its way back.

Owns the two rounds that are compared, the same load without it and with it, and what is measured of each: memory of the
daemon, the rate at which the other devices got everything, and what the slow one received when it read again. The log
is the queue: it should get the newest state of the documents, not the changes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from bench import workload
from bench.client import Conversation, Device, Ended, Refused, Replica, dialled
from bench.daemon import Daemon, device
from bench.fanout import SPACE
from bench.measure import Figure, Target, cores, memory_bytes, ratios
from bench.native import Devices, Failed, Plan, compiled

SUBSCRIBERS = 20
DOCUMENTS = 300
CHANGES_PER_PUSH, WINDOW = 20, 16
CHANGES = 100_000  # some 15 MB, many times what the kernel buffers for one connection
BUFFER_BYTES = 65_536  # the kernel doubles it; what it takes is nobody's memory but the kernel's
LOOK_S = 0.05
CONVERGE_S_MAX = 60.0
GROWTH_TARGET = Target(most=4.0)  # MiB: a remainder of one frame (2 MiB at most) and a page, with room for an arena
DISTURBED_TARGET = Target(least=0.85)
VALUES_TARGET = Target(most=0.1)


@dataclass(frozen=True, slots=True)
class Round:
    """`per_s`: changes that reached all other subscribers; `grown_bytes`: of the daemon's own memory, at its highest.
    Of the slow reader: `converged_s` after it read again, `values` it received, whether it was cut off meanwhile."""

    per_s: float
    grown_bytes: int
    converged_s: float = 0.0
    values: int = 0
    is_cut: bool = False


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    changes, rounds = CHANGES, 1 if quick else 2
    pushes = changes // CHANGES_PER_PUSH
    warm = DOCUMENTS // CHANGES_PER_PUSH + 100
    without, beside = [], []
    with Daemon(directory / "daemon", server_core) as daemon:
        token = daemon.token("bench")
        say("slow reader: making the changes")
        publisher = _publisher(daemon.port, token, warm + 2 * rounds * pushes)
        listeners = [device(daemon.port, f"subscriber {i}", token, space=SPACE) for i in range(SUBSCRIBERS)]
        with Devices(program, daemon.port, [publisher, *listeners], directory, load_core) as devices:
            devices.open()
            devices.go(WINDOW, warm)
            slow = Device("slow", token, {SPACE: Replica(SPACE)})
            for index in range(rounds):
                say(f"slow reader: round {index + 1} of {rounds}, without and with it")
                without.append(trio.run(_round, daemon, devices, pushes, None))
                beside.append(trio.run(_round, daemon, devices, pushes, slow))
        daemon.check("cut off as 4002")  # on a machine so slow that a round takes longer than its patience
    return figures(changes, without, beside)


def _publisher(port: int, token: str, pushes: int) -> Plan:
    frames = []
    for first in range(1, pushes * CHANGES_PER_PUSH + 1, CHANGES_PER_PUSH):
        numbers = range(first, first + CHANGES_PER_PUSH)
        made = [workload.single_field_change(n, DOCUMENTS) for n in numbers]
        frames.append((CHANGES_PER_PUSH, workload.client_frame(workload.push_message(SPACE, made))))
    return device(port, "publisher", token, space=None, pushes=frames)


async def _round(daemon: Daemon, devices: Devices, pushes: int, slow: Device | None) -> Round:
    """Push everything; with `slow`, it is live before, reads nothing meanwhile, and must then come to the head."""
    conversation = None if slow is None else await _live(daemon, slow, await _head(daemon, slow.token))
    before, peak = memory_bytes(daemon.pid)["RssAnon"], 0
    counted: dict[str, float] = {}

    async def push() -> None:
        counted.update(await trio.to_thread.run_sync(devices.go, WINDOW, pushes))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        while True:
            peak = max(peak, memory_bytes(daemon.pid)["RssAnon"])
            await trio.sleep(LOOK_S)
    per_s = counted["delivered"] / SUBSCRIBERS / counted["seconds"]
    if slow is None or conversation is None:
        return Round(per_s, peak - before)
    replica = slow.replicas[SPACE]
    head, received = await _head(daemon, slow.token), replica.values
    began_s = time.monotonic()
    is_cut = await _until(conversation, replica, head)
    if is_cut:  # it took nothing for longer than the daemon waits
        await _live(daemon, slow, head)
    return Round(per_s, peak - before, time.monotonic() - began_s, replica.values - received, is_cut)


async def _live(daemon: Daemon, slow: Device, head: int) -> Conversation:
    """Connected, subscribed, and at the head."""
    for _ in range(10):
        conversation = Conversation(slow, await dialled(daemon.port, receive_buffer_bytes=BUFFER_BYTES), "127.0.0.1")
        try:
            await conversation.open()
            await conversation.subscribe_all()
        except Refused as refused:
            await trio.sleep(refused.retry_after_s or 1.0)
            continue
        if not await _until(conversation, slow.replicas[SPACE], head):
            return conversation
    raise Failed("the slow reader was cut off again and again")


async def _head(daemon: Daemon, token: str) -> int:
    """Where the space stands: what a fresh device reaches."""
    fresh = Device("fresh", token, {SPACE: Replica(SPACE)})
    conversation = Conversation(fresh, await dialled(daemon.port), "127.0.0.1")
    await conversation.open()
    await conversation.subscribe_all()
    head = await conversation.wait_head(SPACE)
    await conversation.close()
    return head


async def _until(conversation: Conversation, replica: Replica, head: int) -> bool:
    """Read until the replica is there; whether the connection ended before."""
    with trio.move_on_after(CONVERGE_S_MAX) as scope:
        try:
            await conversation.serve_until(lambda: replica.complete >= head)
        except Ended:
            return True
    if scope.cancelled_caught:
        raise Failed(f"the slow reader is at {replica.complete} of {head} after {CONVERGE_S_MAX:.0f} s of reading")
    return False


def figures(changes: int, without: list[Round], beside: list[Round]) -> list[Figure]:
    grown, usual = [each.grown_bytes / 2**20 for each in beside], [each.grown_bytes / 2**20 for each in without]
    cut = sum(each.is_cut for each in beside)
    name, detail = "slow reader", f"{changes:,} changes of {DOCUMENTS} documents, {SUBSCRIBERS} other subscribers"
    return [
        Figure(name, "growth of memory without it", "MiB", tuple(usual), detail=detail),
        Figure(name, "growth of memory with it", "MiB", tuple(grown)),
        Figure(
            name, "of that, because of it", "MiB more",
            (max(0.0, max(more - less for more, less in zip(grown, usual, strict=True))),), GROWTH_TARGET,
            "the most of all rounds",
        ),
        Figure(
            name, "others' rate, with / without", "ratio",
            ratios([each.per_s for each in beside], [each.per_s for each in without]), DISTURBED_TARGET,
        ),
        Figure(
            name, "at the head again", "ms", tuple(each.converged_s * 1e3 for each in beside),
            detail=f"{cut} of {len(beside)} times it was cut off for taking nothing, and came back" if cut else "",
        ),
        Figure(
            name, "field values received / changes", "ratio", tuple(each.values / changes for each in beside),
            VALUES_TARGET, f"{', '.join(f'{each.values:,}' for each in beside)} values",
        ),
    ]  # fmt: skip
