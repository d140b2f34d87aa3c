"""`syncd demo`: the whole story, start to verdict.

Owns the order of the scenes, the directory, and the exit code. Exits 0 only if all devices and the server agree by
checksum, the store is sound, and no acknowledged change is missing.
"""

import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import trio
from rich.console import Console

from syncd.app.demo.access import PLANS, access
from syncd.app.demo.edge import edge
from syncd.app.demo.notices import DEFINITIONS, Notices
from syncd.app.demo.stage import Daemon, DeviceProcess, StageError
from syncd.app.demo.stock import SHOP, stock
from syncd.app.demo.story import CART, PARTY, ROUTE, TRIP, Story, cast, grants_of
from syncd.app.demo.verify import Replica, Verdict, verdict
from syncd.engine.grants import parsed_grant
from syncd.env.real import SystemClock
from syncd.net.auth import sign_token, token_key
from syncd.store.lmdb import open_store

DEVICES_MIN, DEVICES_MAX = 2, 60  # each is a process of about 45 MB
MAP_BYTES = 1024**3  # the daemon's default; address space only
# A daemon that is back after a second should be found again while somebody is watching.
SETTINGS = "\n[reconnect]\nfirst_jitter_ms = 200\nbackoff_ms = 200\nbackoff_max_ms = 1000\n"
STOPPED = 130  # the exit code of a program that Ctrl-C ended: 128 + SIGINT
TOKEN_TTL_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds`: how long everyone edits, in all; `keep`: leave the daemon up at the end; `json_file`: the verdict."""

    devices: int = 6
    seconds: float = 18.0
    keep: bool = False
    seed: int = 1
    json_file: Path | None = None


def run(options: Options) -> int:
    """Play the demo; returns the exit code."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    directory = Path(tempfile.mkdtemp(prefix="syncd-demo-"))
    code = 1
    errors: list[Exception] = []
    try:
        code = trio.run(_play, options, directory, console)
    except* StageError as group:
        errors += group.exceptions
    except* KeyboardInterrupt:
        code = STOPPED
    if code == STOPPED:  # Ctrl-C reaches the devices, too: what they fail at then is no finding
        console.print("stopped; all processes have ended, and nothing is kept")
    else:
        for error in errors:
            console.print(f"DISAGREED the demo could not go on: {error}", markup=False)
    if code in (0, STOPPED):
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"stores and logs are kept in {directory}", markup=False, soft_wrap=True)
    return code


def _device(part: Any, number: int, daemon: Daemon, directory: Path, nursery: trio.Nursery) -> DeviceProcess:
    token_file = directory / f"device-{number}.token"
    token_file.write_text(_token(daemon, part.user))
    token_file.chmod(0o600)
    store = directory / f"device-{number}"
    return DeviceProcess(part.name, part.user, part.spaces, store, token_file, nursery)


def _token(daemon: Daemon, user: str) -> str:
    grants = tuple(parsed_grant(pattern, role) for pattern, role in grants_of(user).items())
    key = token_key("demo", "HS256", daemon.secret)
    return sign_token(key, user, grants, TOKEN_TTL_S, SystemClock().now_ms())


async def _play(options: Options, directory: Path, console: Console) -> int:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_terminated)
        daemon = Daemon(directory, nursery, SETTINGS + DEFINITIONS)
        parts = cast(options.devices)
        devices = [_device(part, number, daemon, directory, nursery) for number, part in enumerate(parts, 1)]
        story = Story(console, daemon, devices, options.seed)
        await story.open()
        await story.shop(options.seconds / 2, "Everyone shops from one cart")
        await story.notify()
        notices = Notices(story)
        await notices.play()
        await edge(story, _token(daemon, "van"), directory / "van")
        made = await story.part()
        await story.crash(options.seconds / 2)
        await story.unite()
        await notices.after_crash()
        await story.explain(made)
        await stock(story)
        await access(story, _token(daemon, "ann"))
        replicas = await _replicas(devices)
        found = _verdict(daemon, devices, replicas)
        found = replace(found, problems=(*story.problems, *found.problems))
        code = _conclude(options, console, story, devices, found)
        if options.keep and code == 0:
            await _keep(console, daemon, devices)
        for device in devices:
            await device.quit()
        # After --keep, Ctrl-C has reached the daemon, too, and a second signal ends it at once, not in order.
        if await daemon.stop() != 0 and not options.keep:
            console.print(f"DISAGREED the daemon did not stop in order; its log is {daemon.log}", markup=False)
            code = 1
        nursery.cancel_scope.cancel()
    return code


async def _until_terminated() -> None:
    """SIGTERM ends the demo as Ctrl-C does: the nursery takes all processes with it."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            raise KeyboardInterrupt


async def _replicas(devices: Sequence[DeviceProcess]) -> list[Replica]:
    return [
        Replica(device.name, row["space"], row["complete"], row["checksum"], row["outbox"])
        for device in devices
        for row in (await device.ask("status"))["spaces"]
        if row["space"] in device.spaces
    ]


def _verdict(daemon: Daemon, devices: Sequence[DeviceProcess], replicas: Sequence[Replica]) -> Verdict:
    """Read the store beside the running daemon, as any reader of LMDB may."""
    acknowledged = [change for device in devices for change in device.acknowledged.values()]
    store = open_store(daemon.store, map_bytes=MAP_BYTES, map_bytes_max=MAP_BYTES, read_only=True)
    try:
        with store.read() as tx:
            return verdict(tx, acknowledged, replicas)
    finally:
        store.close()


def _conclude(
    options: Options, console: Console, story: Story, devices: Sequence[DeviceProcess], found: Verdict
) -> int:
    story.scene("The verdict")
    names = [
        space
        for space in (CART, TRIP, ROUTE, SHOP, PLANS, PARTY, "user/ann")
        if any(space in device.spaces for device in devices)
    ]
    acknowledged = sum(len(device.acknowledged) for device in devices)
    refused = sum(change.seq is None for device in devices for change in device.acknowledged.values())
    story.tell(f"compared {len(devices)} devices with the store on disk, over {', '.join(names)}")
    story.tell(
        f"looked up each of the {acknowledged} acknowledged changes in the store (refused with a reason:"
        f" {refused}), and checked every record (fsck)"
    )
    for problem in found.problems[:20]:
        console.print(f"        {problem}", markup=False)
    word = "DISAGREED" if found.problems else "AGREED"
    if options.json_file is not None:
        summary = {
            "agreed": not found.problems, "devices": len(devices), "acknowledged": acknowledged,
            "restarts": story.restarts, **asdict(found),
        }  # fmt: skip
        options.json_file.write_text(json.dumps(summary, indent=2) + "\n")
    console.print()
    console.print(
        f"{word} devices={len(devices)} changes={found.changes} acknowledged={acknowledged}"
        f" missing={found.missing} restarts={story.restarts} checksum={found.checksum}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    return 1 if found.problems else 0


async def _keep(console: Console, daemon: Daemon, devices: Sequence[DeviceProcess]) -> None:
    """Leave everything up, with commands to try, until the user has enough."""
    first = devices[0]
    for device in devices:
        await device.quit()
    python = Path(sys.executable).parent
    console.print(
        f"\nThe daemon stays up (pid {daemon.pid}). Try, in another terminal:\n\n"
        f"  cd {daemon.config.parent}\n"
        f"  export PATH={python}:$PATH SYNCD_CONFIG={daemon.config.name}\n"
        f"  syncd status\n"
        f"  syncd explain {TRIP} plan/summer destination\n"
        f"  syncd-device --store {first.store.name} --url {daemon.url} \\\n"
        f"      --token-file {first.token_file.name} set {TRIP} plan summer destination '\"Oslo\"'\n"
        f"  syncd explain {TRIP} plan/summer destination\n\n"
        "Ctrl-C ends it, and removes what it stored.",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:  # an end in order, not an interruption
        async for _ in signals:
            return
