"""Compression: a fan-out of deltas of some KiB, to subscribers that agreed to it and to others, on one daemon.

A delta is deflated once, so compressing costs a subscriber nothing, and its bytes are fewer: the ratio of processor
time says whether that is so. What it would cost to deflate for each is measured beside it, in this process.
"""

import time
from collections.abc import Callable
from pathlib import Path

from bench import workload
from bench.daemon import Daemon, device
from bench.measure import Figure, Target, cores, cpu_s, ratios
from bench.native import Devices, Failed, Plan, compiled
from syncd.net.deflate import deflated

SUBSCRIBERS = 1000
CHANGES, CHANGES_QUICK = 100, 40  # in a run
LINES = 20  # of text in a change: some 1.6 KiB
TARGET = Target(most=1.1)


def text(number: int) -> str:
    return "\n".join(f"{number + line}. {workload.TITLE} {workload.BODY.format(line)}" for line in range(LINES))


def _pushes(space: str, count: int) -> list[tuple[int, bytes]]:
    pushes = []
    for n in range(1, count + 1):
        operations = [["create", "notes", "a"]] if n == 1 else []
        operation = ["reg.set", "notes", "a", "text", text(n)]
        message = workload.push_message(space, [workload.change(n, [*operations, operation])])
        pushes.append((1, workload.client_frame(message)))
    return pushes


def _plans(port: int, token: str, name: str, count: int, *, is_deflated: bool) -> list[Plan]:
    space = f"bench/deflate/{name}"
    plans = [device(port, f"publisher {name}", token, space=None, pushes=_pushes(space, count))]
    for index in range(SUBSCRIBERS):
        plain = device(port, f"{name} {index}", token, space=space)
        key = workload.sized_id(name, index)
        upgrade = workload.upgrade_request(f"127.0.0.1:{port}", key, is_deflated=is_deflated)
        plans.append(Plan(upgrade, plain.hello, plain.subscribe))
    return plans


def _one_by_one_us() -> float:
    """What one more subscriber would cost, if its delta were deflated for it."""
    payload, calls = text(1).encode(), 200
    began = time.thread_time()
    for _ in range(calls):
        deflated(payload)
    return (time.thread_time() - began) / calls * 1e6


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    runs, each = (3, CHANGES_QUICK) if quick else (5, CHANGES)
    us: dict[str, list[float]] = {"plain": [], "deflated": []}
    sizes: dict[str, list[float]] = {"plain": [], "deflated": []}
    alone: list[float] = []
    with Daemon(directory / "deflate", server_core) as daemon:
        token = daemon.token("bench")

        def devices(name: str) -> Devices:
            plans = _plans(daemon.port, token, name, (runs + 1) * each, is_deflated=name == "deflated")
            path = directory / name
            path.mkdir()
            return Devices(program, daemon.port, plans, path, load_core)

        with devices("plain") as plain, devices("deflated") as small:
            say(f"deflate: opening 2 x {SUBSCRIBERS} connections")
            both = {"plain": plain, "deflated": small}
            for generator in both.values():
                generator.open()
                generator.go(1, each)
            for index in range(runs):
                say(f"deflate: run {index + 1} of {runs}")
                for name, generator in both.items():
                    before = cpu_s(daemon.pid)
                    counted = generator.go(1, each)
                    used = cpu_s(daemon.pid) - before
                    if counted["delivered"] != each * SUBSCRIBERS:
                        raise Failed(f"{counted['delivered']} deltas came, not {each * SUBSCRIBERS}")
                    us[name].append(used / counted["delivered"] * 1e6)
                    sizes[name].append(counted["bytes"] / counted["delivered"])
                alone.append(_one_by_one_us())
        daemon.check()
    return [
        Figure("deflate", "plain, CPU", "us/delivery", tuple(us["plain"])),
        Figure("deflate", "deflated, CPU", "us/delivery", tuple(us["deflated"])),
        Figure(
            "deflate", "deflated / plain", "ratio", ratios(us["deflated"], us["plain"]), TARGET, "of processor time"
        ),
        Figure("deflate", "deflated / plain, bytes", "ratio", ratios(sizes["deflated"], sizes["plain"])),
        Figure("deflate", "deflating for one subscriber", "us/delivery", tuple(alone), detail="what sharing saves"),
    ]
