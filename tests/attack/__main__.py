"""`make attack`: the whole table against the real daemon, over sockets, with a bystander who measures.

Prints for each attack what it was answered, as what it was counted, and the round trips (push, commit, outcome) of a
well-behaved device on the same server meanwhile. Attacks that wait for deadlines run together, at the end. Exit code 1
if an answer is not the documented one, something was not counted, logged as an error or left behind, or the bystander
was ever kept waiting for more than `WAIT_S_MAX`.
"""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import AF_INET, SO_RCVBUF, SOCK_STREAM, SOL_SOCKET, socket
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import trio

from syncd.env.real import SocketTransport
from tests.app.test_metrics import samples
from tests.attack.stage import ATTACKER, BYSTANDER, Attack
from tests.attack.table import ATTACKS
from tests.e2e.process import Daemon, running
from tests.net.harness import Client

WAIT_S_MAX = 2.0  # the machine may be busy with other things; a server that an attack holds up is so for longer
ROUND_S = 0.02
ROUNDS_MIN = 3
# So that a flood needs few descriptors, and less than what a busy machine answers.
TIGHT = {"SYNCD_SERVER__CONNECTIONS_PER_ADDRESS_MAX": "200", "SYNCD_RATES__ADDRESS_REQUESTS_PER_S": "100"}


class OverSockets:
    """A `Target`."""

    has_api = True

    def __init__(self, daemon: Daemon) -> None:
        host, _, port = daemon.http.rpartition(":")
        self._address, self._daemon = (host, int(port)), daemon

    async def connect(self, host: str = ATTACKER, buffer_bytes: int = 65536) -> Any:
        sock = socket(AF_INET, SOCK_STREAM)
        if buffer_bytes < 65536:
            sock.setsockopt(SOL_SOCKET, SO_RCVBUF, buffer_bytes)
        sock.bind((host, 0))
        sock.connect(self._address)  # loopback: at once
        return SocketTransport(sock)

    def token(self, user: str) -> str:
        return self._daemon.token(user, f"{user}/**:owner", "a/**:owner", "home/**:owner")


class Bystander:
    """A device that pushes a change, waits for its outcome, rests, and goes on."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.rounds_s: list[float] = []
        self._went_round = trio.Condition()

    async def wait_rounds(self, count: int) -> None:
        async with self._went_round:
            while len(self.rounds_s) < count:
                await self._went_round.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        client = self._client
        task_status.started()
        while True:
            began_s = time.perf_counter()
            await client.push(client.change(["create", "c", str(client.n % 50)]), space="home/quiet")
            while (message := await client.receive()).name != "outcomes":
                assert message.name in ("delta", "ping"), message
            async with self._went_round:
                self.rounds_s.append(time.perf_counter() - began_s)
                self._went_round.notify_all()
            await trio.sleep(ROUND_S)


class Stand:
    """The daemon, its bystander, and what was found."""

    def __init__(self, daemon: Daemon, bystander: Bystander) -> None:
        self.daemon, self.bystander = daemon, bystander
        self.target = OverSockets(daemon)
        self.failures: list[str] = []

    def counts(self) -> dict[tuple[str, str], float]:
        with urlopen(f"http://{self.daemon.admin}/metrics") as response:
            return samples(response.read())

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    async def quick(self, attack: Attack) -> None:
        before = await trio.to_thread.run_sync(self.counts)
        first = len(self.bystander.rounds_s)
        answer = await attack.run(self.target)
        await self.bystander.wait_rounds(first + ROUNDS_MIN)
        self.judge(attack, answer, before, await trio.to_thread.run_sync(self.counts), first)

    async def together(self, attacks: list[Attack]) -> None:
        before = await trio.to_thread.run_sync(self.counts)
        first = len(self.bystander.rounds_s)
        answers: dict[str, str] = {}

        async def one(attack: Attack) -> None:
            answers[attack.name] = await attack.run(self.target)

        async with trio.open_nursery() as nursery:
            for attack in attacks:
                nursery.start_soon(one, attack)
        after = await trio.to_thread.run_sync(self.counts)
        for attack in attacks:
            self.judge(attack, answers[attack.name], before, after, first)

    def judge(
        self, attack: Attack, answer: str, before: dict[tuple[str, str], float], after: dict[tuple[str, str], float],
        first: int,
    ) -> None:  # fmt: skip
        metric, label = attack.counted
        rose = after.get(attack.counted, 0) - before.get(attack.counted, 0)
        rounds_ms = [1000 * seconds for seconds in self.bystander.rounds_s[first:]]
        p50, worst = median(rounds_ms), max(rounds_ms)
        verdict = "ok"
        if answer != attack.answer:
            verdict = f"NOT {attack.answer!r}"
        elif not rose:
            verdict = "NOT COUNTED"
        elif worst > 1000 * WAIT_S_MAX:
            verdict = "THE BYSTANDER WAITED"
        if verdict != "ok":
            self.failures.append(f"{attack.name}: {verdict}")
        name = metric.removeprefix("syncd_").removesuffix("_total")
        print(f"{attack.name[:56]:56}  {answer[:60]:60}  {name}{{{label}}} +{rose:.0f}"[:165].ljust(165)
              + f" {p50:6.1f} {worst:7.1f} ms  {verdict}", flush=True)  # fmt: skip


@asynccontextmanager
async def staged(daemon: Daemon) -> AsyncIterator[Stand]:
    target = OverSockets(daemon)
    client = Client(await target.connect(BYSTANDER), 1)
    await client.upgrade()
    await client.greet(target.token("bystander"))
    bystander = Bystander(client)
    async with trio.open_nursery() as nursery:
        await nursery.start(bystander.run)
        await trio.sleep(1)
        yield Stand(daemon, bystander)
        nursery.cancel_scope.cancel()


async def attacked(daemon: Daemon) -> list[str]:
    async with staged(daemon) as stand:
        alone_ms = 1000 * median(stand.bystander.rounds_s)
        before_kib = stand.rss_kib()
        print(f"a bystander alone: {alone_ms:.1f} ms a round trip; columns: attack, answer, counted as, his p50, worst")
        for attack in ATTACKS:
            if not attack.is_long:
                await stand.quick(attack)
        await stand.together([attack for attack in ATTACKS if attack.is_long])
        await trio.sleep(6)  # closing handshakes that nobody answers
        counts = await trio.to_thread.run_sync(stand.counts)
        left = counts["syncd_connections", ""], counts["syncd_devices", ""], counts["syncd_devices_behind", ""]
        print(f"\nmemory {before_kib / 1024:.0f} -> {stand.rss_kib() / 1024:.0f} MiB; left: {left[0]:.0f} connection,"
              f" {left[1]:.0f} device, {left[2]:.0f} behind; {len(stand.bystander.rounds_s)} round trips of the"
              f" bystander, worst {1000 * max(stand.bystander.rounds_s):.0f} ms")  # fmt: skip
        if left[:2] != (1, 1):
            stand.failures.append(f"left behind: {left}")
        return stand.failures


def main() -> int:
    with TemporaryDirectory(prefix="syncd-attack-") as directory, running(Path(directory), TIGHT) as daemon:
        failures = trio.run(attacked, daemon)
        code = daemon.stop()
        if code:
            failures.append(f"the daemon ended with {code}")
        failures += [
            line for line in daemon.log.read_text().splitlines()
            if '"level": "error"' in line or '"level":"error"' in line or "Traceback" in line
        ]  # fmt: skip
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{len(ATTACKS)} attacks, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
