"""TLS in the daemon beside plain text: processor time of a delivery and of a connection, and memory of an idle one.

Two daemons, of which one has a certificate, on the same core; the load is `fanout`'s with one push in flight, and comes
through a tunnel (`tunnel.py`) in both cases. The tunnel is slower than the daemon, so only what the daemon itself uses
is reported, no rates. A record is encrypted for each subscriber, so none of the sharing of plain frames is left but
their encoding: the ratio says what that costs.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from bench import workload
from bench.daemon import RAISED, Daemon, device
from bench.measure import Figure, cores, cpu_s, pin, ratios, rss_bytes
from bench.native import Devices, Failed, Plan, compiled

SUBSCRIBERS, SUBSCRIBERS_QUICK = 1000, 300
CHANGES = 50  # in a run: 50,000 deliveries, so the commits in it weigh little
SETTLE_S = 1.0


@contextmanager
def _tunnel(port: int, ca: Path | None, core: int) -> Iterator[int]:
    """Yields the port to connect to."""
    command = [sys.executable, "-m", "bench.tunnel", str(port), *([str(ca)] if ca is not None else [])]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: pin(core)
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise Failed("the tunnel did not start")
        yield int(line)
    finally:
        process.kill()
        process.communicate()


def _certified(directory: Path) -> tuple[dict[str, str], Path]:
    """Variables of a daemon with a certificate for this host, and the file of who vouches for it."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    chain, key, ca = directory / "chain.pem", directory / "key.pem", directory / "ca.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return RAISED | {"SYNCD_TLS__CERTIFICATE": str(chain), "SYNCD_TLS__PRIVATE_KEY": str(key)}, ca


def _plans(port: int, token: str, subscribers: int, changes: int) -> list[Plan]:
    space = "bench/tls"
    pushes = []
    for n in range(1, changes + 1):
        first = [["create", "notes", "a"]] if n == 1 else []
        operation = ["reg.set", "notes", "a", "text", workload.BODY.format(n)]
        message = workload.push_message(space, [workload.change(n, [*first, operation])])
        pushes.append((1, workload.client_frame(message)))
    plans = [device(port, "publisher", token, space=None, pushes=pushes)]
    return plans + [device(port, f"subscriber {index}", token, space=space) for index in range(subscribers)]


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    server_core, load_core = cores()
    program = compiled("devices", directory)
    runs, subscribers = (3, SUBSCRIBERS_QUICK) if quick else (5, SUBSCRIBERS)
    certified, authority = _certified(directory)
    us: dict[str, list[float]] = {}
    opened_us: dict[str, float] = {}
    idle_kib: dict[str, float] = {}
    for name, settings, ca in (("plain", RAISED, None), ("TLS", certified, authority)):
        path = directory / name
        path.mkdir()
        with (
            Daemon(path / "state", server_core, settings=settings) as daemon,
            _tunnel(daemon.port, ca, load_core) as port,
        ):
            token = daemon.token("bench")
            plans = _plans(port, token, subscribers, (runs + 1) * CHANGES)
            with Devices(program, port, plans, path, load_core) as devices:
                say(f"tls: {name}, opening {subscribers} connections")
                before_s, before = cpu_s(daemon.pid), rss_bytes(daemon.pid)
                devices.open()
                opened_us[name] = (cpu_s(daemon.pid) - before_s) / len(plans) * 1e6
                time.sleep(SETTLE_S)
                idle_kib[name] = (rss_bytes(daemon.pid) - before) / len(plans) / 1024
                devices.go(1, CHANGES)
                us[name] = []
                for index in range(runs):
                    say(f"tls: {name}, run {index + 1} of {runs}")
                    before_s = cpu_s(daemon.pid)
                    counted = devices.go(1, CHANGES)
                    if counted["delivered"] != CHANGES * subscribers:
                        raise Failed(f"{counted['delivered']} deltas came, not {CHANGES * subscribers}")
                    us[name].append((cpu_s(daemon.pid) - before_s) / counted["delivered"] * 1e6)
            daemon.check()
    return [
        Figure("tls", "plain, CPU", "us/delivery", tuple(us["plain"])),
        Figure("tls", "TLS, CPU", "us/delivery", tuple(us["TLS"])),
        Figure("tls", "TLS / plain", "ratio", ratios(us["TLS"], us["plain"]), detail="of processor time"),
        Figure(
            "tls", "TLS, a connection, CPU", "us", (opened_us["TLS"],),
            detail=f"handshake, upgrade, hello, subscribe; in plain text {opened_us['plain']:.0f} us",
        ),
        Figure(
            "tls", "TLS, an idle connection", "KiB", (idle_kib["TLS"],),
            detail=f"of resident memory; in plain text {idle_kib['plain']:.1f} KiB",
        ),
    ]  # fmt: skip
