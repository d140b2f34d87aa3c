"""Peers: the fan-out of `fanout`, done by other servers in the same minutes on the same core.

Owns the rounds: in each, the C limit, the daemon and every peer that is installed take their turn, so that a ratio is
of two runs that followed one another. A peer that is not installed is named, loudly, with its package: no failure.
"""

import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.daemon import Daemon, device
from bench.fanout import DOCUMENTS, SPACE, WINDOW, Limit, Run, once, publisher
from bench.measure import Figure, Target, cores, ratios
from bench.native import Devices, Failed, Generator, compiled, sized
from bench.servers import PEERS, Peer, Role, Running

SUBSCRIBERS = 1000
UNBATCHED, BATCHED_MAX = 150, 1000  # publishes of a run: about a second each at what a good server does
BATCHED_MIN = 10 * WINDOW
WARM = DOCUMENTS + UNBATCHED
NCHAN_TARGET = Target(least=0.85)
BATCHED_TARGET = Target(least=1.0)
NCHAN = "nchan"


@dataclass(slots=True)
class Contender:
    """A server under load. `batched`: publishes of a run with sixteen in flight."""

    name: str
    generator: Generator
    pids: list[int]
    batched: int = BATCHED_MAX
    singles: list[Run] = field(default_factory=list)
    sixteens: list[Run] = field(default_factory=list)

    def warm(self) -> None:
        """Make what is made once, and see how many publishes make a second."""
        self.generator.go(1, WARM)
        self.batched = batched_count(once(self.generator, self.pids, WINDOW, BATCHED_MIN).per_s)

    def run(self) -> None:
        self.singles.append(once(self.generator, self.pids, 1, UNBATCHED))
        self.sixteens.append(once(self.generator, self.pids, WINDOW, self.batched))


def batched_count(per_s: float) -> int:
    """Publishes that take about a second."""
    return max(BATCHED_MIN, min(BATCHED_MAX, round(per_s / SUBSCRIBERS)))


def plan(peer: Peer, publishes: int) -> bytes:
    """What `peers.c` reads."""
    parts = [struct.pack("<II", peer.message_bytes, peer.ack_bytes), _role(peer.publisher), _role(peer.subscriber)]
    parts.append(struct.pack("<II", SUBSCRIBERS, publishes))
    parts += [sized(peer.publish(n)) for n in range(1, publishes + 1)]
    return b"".join(parts)


def _role(role: Role) -> bytes:
    return sized(role.upgrade) + sized(role.hello) + sized(role.ready)


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `NoCompiler`, `Failed`."""
    installed = [peer for peer in PEERS if peer.is_found()]
    for peer in PEERS:
        if peer not in installed:
            click.secho(
                f"SKIPPED: {peer.name} is not installed (Debian: {peer.package}; make peers)", fg="red", err=True
            )
    if not installed:
        raise Failed(f"no peer is installed; Debian has {', '.join(peer.package for peer in PEERS)}")
    server_core, _ = cores()
    runs = 3 if quick else 5
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(directory / "daemon", server_core))
        program = compiled("peers", directory)
        limit, ours = _own(stack, directory, daemon, runs)
        others = [_other(stack, peer, program, directory, runs) for peer in installed]
        limits = []
        for contender in (ours, *others):
            say(f"peers: {contender.name} warms up")
            contender.warm()
        for index in range(runs):
            say(f"peers: run {index + 1} of {runs}")
            limits.append(once(limit.generator, limit.pids, 1, UNBATCHED))
            for contender in (ours, *others):
                contender.run()
        daemon.check()
    missing = ", ".join(peer.name for peer in PEERS if peer not in installed)
    return figures(limits, ours, others, f"not installed: {missing}" if missing else "")


def _publishes(runs: int) -> int:
    return WARM + BATCHED_MIN + runs * (UNBATCHED + BATCHED_MAX)


def _own(stack: ExitStack, directory: Path, daemon: Daemon, runs: int) -> tuple[Contender, Contender]:
    """The C limit, and the daemon."""
    server_core, load_core = cores()
    program, token = compiled("devices", directory), daemon.token("bench")
    limit = stack.enter_context(Limit(compiled("limit", directory), directory, server_core))
    made = []
    for name, port, pid in (("limit in C", limit.port, limit.pid), ("syncd", daemon.port, daemon.pid)):
        plans = [device(port, f"subscriber {i}", token, space=SPACE) for i in range(SUBSCRIBERS)]
        plans.insert(0, publisher(port, token, _publishes(runs)))
        generator = stack.enter_context(Devices(program, port, plans, directory, load_core))
        generator.open()
        made.append(Contender(name, generator, [pid]))
    made[0].generator.go(1, WARM)
    return made[0], made[1]


def _other(stack: ExitStack, peer: Peer, program: Path, directory: Path, runs: int) -> Contender:
    server_core, load_core = cores()
    running = stack.enter_context(Running(peer, directory / peer.name, server_core))
    path = directory / f"{peer.name}.plan"
    path.write_bytes(plan(peer, _publishes(runs)))
    command: list[str | Path] = [program, str(running.port), str(path)]
    generator = stack.enter_context(Generator(f"the generator for {peer.name}", command, load_core))
    generator.open()
    return Contender(peer.name, generator, running.pids)


def figures(limits: list[Run], ours: Contender, others: Iterable[Contender], note: str = "") -> list[Figure]:
    """The rates, the processor time beside them, and the ratios that have a target."""
    limit_per_s = [run.per_s for run in limits]
    found = [Figure("peers", "limit in C, one in flight", "deliveries/s", tuple(limit_per_s), detail=note)]
    for each in (ours, *others):
        for way, runs in (("one in flight", each.singles), (f"{WINDOW} in flight", each.sixteens)):
            rates, us = [run.per_s for run in runs], [run.us for run in runs]
            found += [
                Figure("peers", f"{each.name}, {way}", "deliveries/s", tuple(rates), detail=_generator(runs)),
                Figure("peers", f"{each.name}, {way}, CPU", "us/delivery", tuple(us)),
                Figure("peers", f"{each.name}, {way} / limit", "ratio", ratios(rates, limit_per_s)),
            ]
    for each in others:
        for way, mine, theirs, target in (
            ("one in flight", ours.singles, each.singles, NCHAN_TARGET if each.name == NCHAN else None),
            (f"{WINDOW} in flight", ours.sixteens, each.sixteens, BATCHED_TARGET),
        ):
            rate = ratios([run.per_s for run in mine], [run.per_s for run in theirs])
            cpu = ratios([run.us for run in theirs], [run.us for run in mine])
            found += [
                Figure("peers", f"syncd / {each.name}, {way}", "ratio", rate, target, "of deliveries per second"),
                Figure("peers", f"{each.name} / syncd, {way}, CPU", "ratio", cpu, target, "of processor time"),
            ]
    return found


def _generator(runs: list[Run]) -> str:
    """A generator that was the slower one measured itself."""
    slower = sum(run.generator_us > run.us for run in runs)
    return f"the generator took more processor time than the server in {slower} runs" if slower else ""
