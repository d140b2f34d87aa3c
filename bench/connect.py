"""Connecting: what it costs to come back, from the upgrade to a subscription that stands, beside a bare handshake.

Each connection is another device of another user, with a token of its own; it comes back with the token with which it
came before, as devices do while one holds, and the daemon has verified that. The device is known, and its position is
the head: nothing is written and no document is read. One more figure has tokens that the daemon never saw. The measure
is processor time, so how fast the load opens connections does not matter.
"""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench import workload
from bench.bare import Bare
from bench.daemon import RAISED, Daemon, device
from bench.measure import Figure, Target, cores, cpu_s, ratios
from bench.native import Devices, Plan, compiled
from bench.reader import Reader
from syncd.engine.grants import Grant, Role
from syncd.net.auth import TokenKey, sign_token, token_key

SPACE = "bench/connect"
CONNECTIONS, CONNECTIONS_QUICK = 1500, 500
SETTLE_S, IDLE_S = 0.25, 0.003
TARGET = Target(least=0.7)
SECRET = b"a secret of the benchmarks, of more than 32 bytes"


def _keys(directory: Path) -> dict[str, TokenKey]:
    """A key of each kind, and the configuration of a daemon that takes both."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    materials = {"HS256": SECRET, "EdDSA": pem}
    lines = []
    for algorithm, material in materials.items():
        file = directory / f"{algorithm}.key"
        file.write_bytes(material)
        file.chmod(0o600)
        lines.append(f'[[auth.key]]\nkid = "{algorithm}"\nalgorithm = "{algorithm}"\nfile = "{file}"\n')
    (directory / "syncd.toml").write_text("".join(lines))
    return {algorithm: token_key(algorithm, algorithm, material) for algorithm, material in materials.items()}


def _tokens(key: TokenKey, count: int, now_ms: int | None = None) -> list[str]:
    grants, now_ms = [Grant("bench/**", Role.WRITER)], now_ms or time.time_ns() // 1_000_000
    return [sign_token(key, f"{key.kid}-{i}", grants, 3600.0, now_ms) for i in range(count)]


def _plans(port: int, tokens: list[str], name: str, subscribe: bytes) -> list[Plan]:
    plans = []
    for number, token in enumerate(tokens):
        plain = device(port, f"{name} {number}", token, space=None)
        plans.append(Plan(plain.upgrade, plain.hello, subscribe))
    return plans


def _opened_us(program: Path, port: int, pid: int, plans: list[Plan], directory: Path, core: int) -> float:
    """Processor microseconds of the server for one connection."""
    with Devices(program, port, plans, directory, core) as devices:
        before = cpu_s(pid)
        devices.open()
        used = cpu_s(pid) - before
    _settle(pid)
    return used / len(plans) * 1e6


def _settle(pid: int) -> None:
    """Until the server has seen that the connections are gone: it does next to nothing any more."""
    before, now = 0.0, cpu_s(pid)
    while now - before > IDLE_S:
        time.sleep(SETTLE_S)
        before, now = now, cpu_s(pid)


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    runs, count = (3, CONNECTIONS_QUICK) if quick else (5, CONNECTIONS)
    keys = _keys(directory)
    settings = {**RAISED, "SYNCD_CONFIG": str(directory / "syncd.toml")}
    bare: list[float] = []
    took: dict[str, list[float]] = {algorithm: [] for algorithm in keys}
    unseen: list[float] = []
    with (
        Daemon(directory / "connect", server_core, settings=settings) as daemon,
        Bare("handshake", server_core) as plain,
    ):
        tokens = {algorithm: _tokens(key, count) for algorithm, key in keys.items()}
        writer = device(daemon.port, "writer", tokens["HS256"][0], space=SPACE, pushes=_one_push())
        with Devices(program, daemon.port, [writer], directory, load_core) as devices:
            devices.open()
            devices.go(1, 1)
        with Reader(daemon.port, "reader", tokens["HS256"][0]) as reader:
            position = reader.catch_up(SPACE).position
        first = workload.client_frame(workload.subscribe_message(SPACE))
        resume = workload.client_frame(
            workload.message(
                workload.SUBSCRIBE,
                {
                    "space": SPACE, "epoch": position.epoch, "complete": position.complete,
                    "resume": position.complete, "settled": 0,
                },
            )
        )  # fmt: skip
        for algorithm in keys:
            say(f"connect: {count} devices introduce themselves ({algorithm})")
            plans = _plans(daemon.port, tokens[algorithm], algorithm, first)
            _opened_us(program, daemon.port, daemon.pid, plans, directory, load_core)
        bare_plans = _plans(plain.port, tokens["HS256"], "bare", b"")
        for index in range(runs):
            say(f"connect: run {index + 1} of {runs}")
            bare.append(_opened_us(program, plain.port, plain.pid, bare_plans, directory, load_core))
            for algorithm in keys:
                plans = _plans(daemon.port, tokens[algorithm], algorithm, resume)
                took[algorithm].append(_opened_us(program, daemon.port, daemon.pid, plans, directory, load_core))
            fresh = _tokens(keys["HS256"], count, now_ms=time.time_ns() // 1_000_000 - 1000 * (index + 1))
            plans = _plans(daemon.port, fresh, "HS256", resume)
            unseen.append(_opened_us(program, daemon.port, daemon.pid, plans, directory, load_core))
        daemon.check()
    figures = [Figure("connect", "bare h11 + wsproto handshake, CPU", "us/connection", tuple(bare))]
    for algorithm, times in took.items():
        name = f"connect, {algorithm}, resume"
        figures.append(Figure("connect", f"{name}, CPU", "us/connection", tuple(times)))
        target = TARGET if algorithm == "HS256" else None
        figures.append(Figure("connect", f"bare / {name}", "ratio", ratios(bare, times), target, "of processor time"))
    figures.append(
        Figure("connect", "connect, HS256, resume with a token never seen, CPU", "us/connection", tuple(unseen))
    )
    return figures


def _one_push() -> list[tuple[int, bytes]]:
    return [(1, workload.client_frame(workload.push_message(SPACE, [workload.single_field_change(1, 1)])))]
