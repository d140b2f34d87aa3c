"""Memory per idle subscribed connection: what the daemon's resident memory grows by, divided by their number.

Each connection is another device with a subscription that is live, and nothing else going on. A few
hundred connections come first, so that what the daemon allocates once is not counted.
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path

from bench.daemon import Daemon, device
from bench.measure import Figure, Target, cores, rss_bytes
from bench.native import OPENINGS_PER_S, Devices, Failed, Plan, compiled

FIRST = 200
USERS = 10  # a user may have 10,000 connections at most
SPACES = 100  # connections share spaces, as the devices of a group do
CONNECTIONS, CONNECTIONS_QUICK = 10_000, 2_000
DESCRIPTORS_RESERVED = 500
SETTLE_S = 2.0
TARGET = Target(most=8.0)


def connections(wanted: int) -> int:
    """As many as the limit of descriptors allows. The soft limit is raised: both programs inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - FIRST - DESCRIPTORS_RESERVED)
    if room < 1000:
        raise Failed(f"the limit of open files, {hard}, leaves room for {room} connections; 1,000 are needed")
    return room


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    count = connections(CONNECTIONS_QUICK if quick else CONNECTIONS)
    with Daemon(directory / "memory", server_core) as daemon:
        tokens = [daemon.token(f"bench-{user}") for user in range(USERS)]

        def plans(name: str, number: int) -> list[Plan]:
            return [_idle(daemon.port, f"{name} {i}", tokens[i % USERS], i % SPACES) for i in range(number)]

        say(f"memory: opening {count} connections, {OPENINGS_PER_S} a second")
        with Devices(program, daemon.port, plans("first", FIRST), directory, load_core) as first:
            first.open()
            time.sleep(SETTLE_S)
            before = rss_bytes(daemon.pid)
            path = directory / "second"
            path.mkdir()
            with Devices(program, daemon.port, plans("idle", count), path, load_core) as devices:
                opened = devices.open()
                time.sleep(SETTLE_S)
                after = rss_bytes(daemon.pid)
        daemon.check()
    detail = f"{count} connections, RSS {before >> 20} -> {after >> 20} MiB"
    return [
        Figure("memory", "per idle subscribed connection", "KiB", ((after - before) / count / 1024,), TARGET, detail),
        Figure(
            "memory", "opened, authenticated, subscribed", "connections/s", (count / opened["seconds"],),
            detail=f"first contact; the load opens at most {OPENINGS_PER_S} a second",
        ),
    ]  # fmt: skip


def _idle(port: int, name: str, token: str, number: int) -> Plan:
    return device(port, name, token, space=f"bench/idle/{number}")
