"""Fan-out: one publisher, many subscribers, about 100 bytes a change; deliveries per second against the limit in C.

Owns the two ways of publishing (one change in flight, sixteen), the pairing of runs with those of `limit.c`, and the
figures made of them. The path is whole: a device pushes, the daemon parses, merges, commits with fsync, answers and
delivers. A delivery is one change that reached one subscriber; a delta that carries several counts as several.
"""

import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import msgpack

from bench import workload
from bench.daemon import Daemon, device
from bench.measure import Figure, Target, cores, cpu_s, pin, ratios
from bench.native import Devices, Generator, Plan, compiled

SPACE = "bench/fanout"
DOCUMENTS = 64  # more than are in flight: no two changes of a batch touch one document and collapse
WINDOW = 16
UNBATCHED_TARGET = Target(least=0.55)
BATCHED_TARGET = Target(least=5.0)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: deliveries per second, microseconds of the server's processor per delivery, those of the generator's,
    acknowledgement medians."""

    per_s: float
    us: float
    generator_us: float
    ack_p50_ms: float
    ack_p99_ms: float


class Limit:
    """`limit.c` running on the server's core, as a context manager."""

    def __init__(self, program: Path, directory: Path, core: int) -> None:
        outcome = _counted(35, {"space": SPACE, "epoch": bytes(16), "outcomes": [[0, bytes(8), "applied", 1, None]]})
        delta = _example_delta()
        files = {
            "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "welcome": workload.server_frame(workload.message(32, {"resumed": False})),
            "subscribed": workload.server_frame(workload.message(33, {"head": 0, "mode": "live"})),
            "outcome": outcome,
            "delta": delta,
        }
        for name, data in files.items():
            (directory / name).write_bytes(data)
        arguments = ["upgrade", "welcome", "subscribed", "outcome", _offset(outcome, "outcomes", 2)]
        arguments += ["delta", _offset(delta, "from", 0), _offset(delta, "to", 0)]
        self._process = subprocess.Popen(
            [program, *arguments], cwd=directory, preexec_fn=partial(pin, core), text=True, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid

    def __enter__(self) -> "Limit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


_WIDE = 0xFFFF_FFFF  # packs as four bytes that limit.c counts up


def _counted(code: int, body: dict[str, object]) -> bytes:
    """A server's frame whose zeros in the outcome entry, `from` and `to` are made four bytes wide."""
    widened = {name: _WIDE if name in ("from", "after", "to") else value for name, value in body.items()}
    if "outcomes" in body:
        widened["outcomes"] = [[_WIDE, *entry[1:]] for entry in body["outcomes"]]  # type: ignore[attr-defined]
    return workload.server_frame(workload.message(code, widened)).replace(struct.pack(">I", _WIDE), bytes(4))


def _example_delta() -> bytes:
    """A delta as the daemon sends it for one change of the publisher: the limit sends as many bytes."""
    operation = workload.single_field_change(DOCUMENTS + 1, DOCUMENTS)[4][0]
    entry = [workload.COLLECTION, operation[2], 1000, 0, {operation[3]: ["reg", operation[4]]}]
    body = {
        "space": SPACE, "epoch": bytes(16), "from": 0, "after": 0, "to": 0, "t": workload.STAMP_MS, "chain": bytes(8),
        "docs": [entry], "complete": True, "sum": bytes(8),
    }  # fmt: skip
    return _counted(34, body)


def _offset(frame: bytes, key: str, skip: int) -> str:
    """Where the four bytes after a key stand: one more for their type byte, `skip` for array headers."""
    encoded: bytes = msgpack.packb(key)
    return str(frame.index(encoded) + len(encoded) + skip + 1)


def publisher(port: int, token: str, changes: int) -> Plan:
    pushes = []
    for n in range(1, changes + 1):
        change = workload.single_field_change(n, DOCUMENTS)
        pushes.append((1, workload.client_frame(workload.push_message(SPACE, [change]))))
    return device(port, "publisher", token, space=None, pushes=pushes)


def once(generator: Generator, pids: Sequence[int], window: int, count: int) -> Run:
    """`pids`: the processes of the server."""
    before, before_own = sum(map(cpu_s, pids)), cpu_s(generator.pid)
    counted = generator.go(window, count)
    used, used_own = sum(map(cpu_s, pids)) - before, cpu_s(generator.pid) - before_own
    delivered = counted["delivered"]
    return Run(
        delivered / counted["seconds"], used / delivered * 1e6, used_own / delivered * 1e6, counted["ack_p50_ms"],
        counted["ack_p99_ms"],
    )  # fmt: skip


def run(directory: Path, *, quick: bool, subscribers: int, say: Callable[[str], None]) -> list[Figure]:
    """All figures for one number of subscribers. Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    limit_program, devices_program = compiled("limit", directory), compiled("devices", directory)
    runs = 3 if quick else 5
    # About a second each, at 150,000 (unbatched) and 1,000,000 deliveries per second.
    unbatched, batched = max(20, 150_000 // subscribers), max(WINDOW * 20, 1_000_000 // subscribers)
    total = DOCUMENTS + unbatched + runs * (unbatched + batched)
    with (
        Daemon(directory / f"fanout-{subscribers}", server_core) as daemon,
        Limit(limit_program, directory, server_core) as limit,
    ):
        token = daemon.token("bench")

        def plans(port: int, changes: int) -> list[Plan]:
            listeners = [device(port, f"subscriber {i}", token, space=SPACE) for i in range(subscribers)]
            return [publisher(port, token, changes), *listeners]

        say(f"fan-out: opening 2 x {subscribers} connections")
        with (
            Devices(devices_program, limit.port, plans(limit.port, total), directory, load_core) as limited,
            Devices(devices_program, daemon.port, plans(daemon.port, total), directory, load_core) as devices,
        ):
            limited.open()
            devices.open()
            for generator in (limited, devices):
                generator.go(1, DOCUMENTS + unbatched)  # makes the documents, and warms up
            limits, singles, sixteens = [], [], []
            for index in range(runs):
                say(f"fan-out to {subscribers}: run {index + 1} of {runs}")
                limits.append(once(limited, [limit.pid], 1, unbatched))
                singles.append(once(devices, [daemon.pid], 1, unbatched))
                sixteens.append(once(devices, [daemon.pid], WINDOW, batched))
        daemon.check()
    return _figures(subscribers, limits, singles, sixteens)


def _figures(subscribers: int, limits: list[Run], singles: list[Run], sixteens: list[Run]) -> list[Figure]:
    name = f"fan-out {subscribers}"

    def column(runs: list[Run], field: str) -> tuple[float, ...]:
        return tuple(getattr(run, field) for run in runs)

    limit_per_s = column(limits, "per_s")
    return [
        Figure(name, "limit in C", "deliveries/s", limit_per_s),
        Figure(name, "limit in C, CPU", "us/delivery", column(limits, "us")),
        Figure(name, "one in flight", "deliveries/s", column(singles, "per_s")),
        Figure(name, "one in flight, CPU", "us/delivery", column(singles, "us")),
        Figure(name, "one in flight, acknowledged", "ms", column(singles, "ack_p50_ms"), detail="median of a run"),
        Figure(
            name, "one in flight / limit", "ratio", ratios(column(singles, "per_s"), limit_per_s), UNBATCHED_TARGET,
            "of deliveries per second",
        ),
        Figure(
            name, "limit / one in flight, CPU", "ratio", ratios(column(limits, "us"), column(singles, "us")),
            UNBATCHED_TARGET, "of processor time: other programs disturb it less",
        ),
        Figure(name, f"{WINDOW} in flight", "deliveries/s", column(sixteens, "per_s")),
        Figure(name, f"{WINDOW} in flight, CPU", "us/delivery", column(sixteens, "us")),
        Figure(
            name, f"{WINDOW} in flight / limit", "ratio", ratios(column(sixteens, "per_s"), limit_per_s), BATCHED_TARGET
        ),
    ]  # fmt: skip
