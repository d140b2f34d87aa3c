"""kill -9, again and again, of the real daemon and of real devices, under load.

What must hold at the end: every change that a device had committed locally (its store had answered) has exactly one
outcome on the server, under the same nonce; every outcome that a device had stored is what the server recorded; every
device agrees with the server by checksum; fsck finds nothing; and a counter that each change raised by one is exactly
the number of changes that took effect: none was applied twice, none was lost.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from syncd.app.demo.stage import Daemon, DeviceProcess, StageError
from syncd.app.demo.verify import Replica, Verdict, verdict
from syncd.core.values import decoded
from syncd.engine import reading
from syncd.engine.batch import space_row
from syncd.engine.grants import parsed_grant
from syncd.env.real import SystemClock
from syncd.net.auth import sign_token, token_key
from syncd.store import keys
from syncd.store.lmdb import open_store
from syncd.store.tables import ENTRIES, LOG, REPLICAS

SPACES = ("crash/one", "crash/two")
# Clients of a daemon that dies every second would back off for minutes; the load is what matters here.
SETTINGS = "\n[reconnect]\nfirst_jitter_ms = 50\nbackoff_ms = 100\nbackoff_max_ms = 1000\n"
MAP_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class Plan:
    """`daemon_kills` and `device_kills` are spread at random over the run."""

    daemon_kills: int
    device_kills: int
    devices: int
    seed: int
    pause_s: float = 1.0  # the longest life of a daemon between two kills, on average half of it


@dataclass(slots=True)
class Committed:
    """What devices had answered: (device, space, n) -> nonce."""

    nonces: dict[tuple[bytes, str, int], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    problems: tuple[str, ...]
    committed: int
    acknowledged: int
    taken: int
    verdict: Verdict


def run(plan: Plan, tell: Callable[[str], None]) -> Report:
    """Run a plan; raises `StageError` if a process does not do its part."""
    with tempfile.TemporaryDirectory(prefix="syncd-crash-") as directory:
        return trio.run(_run, plan, Path(directory), tell)


async def _run(plan: Plan, directory: Path, tell: Callable[[str], None]) -> Report:
    random = Random(plan.seed)
    committed = Committed()
    async with trio.open_nursery() as nursery:
        daemon = Daemon(directory, nursery, SETTINGS)
        await daemon.start()
        devices = [_device(daemon, directory, nursery, number) for number in range(plan.devices)]
        async with trio.open_nursery() as starting:
            for device in devices:
                starting.start_soon(device.start, daemon.url)
        await _settled(devices[:1], await _first(devices[0], committed))
        async with trio.open_nursery() as load:
            for device in devices:
                load.start_soon(_edits, device, Random(f"{plan.seed}/{device.name}"), committed)
            await _kills(plan, random, daemon, devices, tell)
            load.cancel_scope.cancel()
        tell(f"settling: {len(committed.nonces)} changes were committed on {len(devices)} devices")
        await _settled(devices, None)
        report = await _report(daemon, devices, committed)
        for device in devices:
            await device.quit()
        assert await daemon.stop() == 0, "a daemon in good health stops in order"
        nursery.cancel_scope.cancel()
    return report


def _device(daemon: Daemon, directory: Path, nursery: trio.Nursery, number: int) -> DeviceProcess:
    user = f"u{number}"
    key = token_key("demo", "HS256", daemon.secret)
    token_file = directory / f"{user}.token"
    token_file.write_text(sign_token(key, user, (parsed_grant("crash/*", "writer"),), 3600, SystemClock().now_ms()))
    return DeviceProcess(user, user, SPACES, directory / user, token_file, nursery)


async def _first(device: DeviceProcess, committed: Committed) -> list[tuple[str, int]]:
    made = []
    for space in SPACES:
        n = await _commit(
            device, space, committed, ["create", "tally", "all"], ["counter.inc", "tally", "all", "count", 1]
        )
        made.append((space, n))
    return made


async def _commit(device: DeviceProcess, space: str, committed: Committed, *operations: list[object]) -> int:
    answer = await device.ask("commit", space=space, operations=list(operations))
    committed.nonces[bytes.fromhex(device.device), space, answer["n"]] = answer["nonce"]
    return int(answer["n"])


async def _edits(device: DeviceProcess, random: Random, committed: Committed) -> None:
    """Commit without end: each change raises the tally by one and does something else, too."""
    while True:
        await trio.sleep(random.expovariate(10))
        space = random.choice(SPACES)
        name = f"d{random.randrange(12)}"
        tally: list[object] = ["counter.inc", "tally", "all", "count", 1]
        other: list[list[object]] = [
            [["create", "thing", name], ["reg.set", "thing", name, "by", device.user]],
            [["delete", "thing", name]],
            [["set.add", "tally", "all", "who", device.user]],
            [["reg.set", "thing", name, "by", device.user]],
        ][random.randrange(4)]
        try:
            await _commit(device, space, committed, tally, *other)
        except StageError:
            # Killed under our hands: what was not answered was not promised. Wait for it to be started again.
            while not device.is_running:  # noqa: ASYNC110 - started by another task, at its own time
                await trio.sleep(0.05)


async def _kills(
    plan: Plan, random: Random, daemon: Daemon, devices: list[DeviceProcess], tell: Callable[[str], None]
) -> None:
    blows = [True] * plan.daemon_kills + [False] * plan.device_kills
    random.shuffle(blows)
    for count, is_daemon in enumerate(blows, 1):
        await trio.sleep(random.uniform(0.05, plan.pause_s))
        if is_daemon:
            await daemon.kill()
            await trio.sleep(random.uniform(0, 0.2))
            await daemon.start()
        else:
            device = random.choice(devices)
            await device.kill()
            await trio.sleep(random.uniform(0, 0.2))
            await device.start(daemon.url)
        known = sum(len(device.acknowledged) for device in devices)
        tell(f"{count}/{len(blows)} killed {'the daemon' if is_daemon else device.name}; {known} changes acknowledged")


async def _settled(devices: list[DeviceProcess], made: list[tuple[str, int]] | None) -> None:
    if made is not None:
        for space, n in made:
            await devices[0].outcome(space, n)
        return
    heads = dict.fromkeys(SPACES, 0)
    for device in devices:
        await device.ask("wait", **{"for": "settled", "timeout_s": 35.0})
    for device in devices:
        await device.ask("wait", **{"for": "complete", "timeout_s": 35.0})
        for row in (await device.ask("status"))["spaces"]:
            heads[row["space"]] = max(heads[row["space"]], row["complete"])
    for device in devices:
        for space in SPACES:
            await device.ask("wait", space=space, **{"for": {"complete": heads[space]}, "timeout_s": 35.0})


async def _report(daemon: Daemon, devices: list[DeviceProcess], committed: Committed) -> Report:
    replicas = [
        Replica(device.name, row["space"], row["complete"], row["checksum"], row["outbox"])
        for device in devices
        for row in (await device.ask("status"))["spaces"]
    ]
    acknowledged = [change for device in devices for change in device.acknowledged.values()]
    store = open_store(daemon.store, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES, read_only=True)
    try:
        with store.read() as tx:
            found = verdict(tx, acknowledged, replicas)
            problems = [*found.problems]
            for (device, space, n), nonce in committed.nonces.items():
                row = space_row(tx, space)
                replica = None if row is None else REPLICAS.get(tx, keys.replica(row.id, device))
                entry = None
                if row is not None and replica is not None:
                    entry = ENTRIES.get(tx, keys.device_log(row.id, replica.slot, n))
                    if entry is None and n <= replica.trimmed:
                        continue
                if entry is None or entry.nonce.hex() != nonce:
                    problems.append(f"{space}: change {n} of {device.hex()[:8]} was committed there and is not here")
            taken = 0
            for space in SPACES:
                raised, tally = _tally(tx, space)
                taken += raised
                if raised != tally:
                    problems.append(f"{space}: {raised} changes raised the tally, which is {tally}")
    finally:
        store.close()
    return Report(tuple(problems), len(committed.nonces), len(acknowledged), taken, found)


def _tally(tx: object, space: str) -> tuple[int, int]:
    """(changes that took effect and raised the tally, its value)"""
    row = space_row(tx, space)  # type: ignore[arg-type]
    assert row is not None
    raised = 0
    for _, log in LOG.scan(tx, keys.space_range(keys.LOG, row.id)):  # type: ignore[arg-type]
        entry = ENTRIES.get(tx, keys.device_log(row.id, log.slot, log.n))  # type: ignore[arg-type]
        if entry is None:
            raised += 1  # left the device log long after it was settled; all changes of this load raise the tally
            continue
        raised += sum(1 for operation in decoded(entry.payload or b"\x90") if operation[0] == "counter.inc")
    found = reading.document(tx, space, "tally", "all")  # type: ignore[arg-type]
    return raised, 0 if found is None else found.fields["count"]
