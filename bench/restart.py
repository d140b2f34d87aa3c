"""A crowd at a restart: 10,000 devices are sent away by a daemon that stops, and come back to the one that follows it.

Owns the crowd (`Crowd`: a client of few bytes, one task for each device, one process), which obeys what `goaway`,
`welcome` and a 503 announce, and the times at which its members are back. The socket that is listened on is held here
and inherited, as `conf/syncd.socket` has it: who comes between the two daemons waits in its backlog. Counted is from
the moment of SIGTERM; a device is back when its subscription stands again. Nobody may be left out: one that does not
come back is a failure.
"""

import random
import signal
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import trio

from bench import workload
from bench.daemon import RAISED, Daemon
from bench.measure import Figure, Target, cores
from bench.memory import connections
from bench.native import Failed
from syncd.net.limits import NetLimits

DEVICES, DEVICES_QUICK = 10_000, 1_000
SPACES = 100
USERS = 2  # a user may have 10,000 connections at most
STATE = "restart"
OPEN_S_MAX, BACK_S_MAX = 300.0, 180.0
GOAWAY_CODE, READ_BYTES = 43, 65_536
ABSENT_MAX = 10  # attempts after a goaway that find nobody, before backing off (SPEC 11)
IN_TIME_TARGET = Target(most=1.0)
BACKLOG = 4096  # as in conf/syncd.socket
# The rate at which devices are let in is the daemon's own, as `goaway` is computed from it.
OPENINGS_PER_S = 0.8 * NetLimits().upgrades_per_s_max
SETTINGS = {name: value for name, value in RAISED.items() if name != "SYNCD_SERVER__UPGRADES_PER_S_MAX"} | {
    "SYNCD_LOG__LEVEL": "error"
}


@dataclass(slots=True)
class Tally:
    """What the crowd met. `back_s`: of each device, since the signal. `late_s`: of each, beyond what its own `goaway`
    announced; below 0 for most."""

    refused: int = 0  # no listener
    busy: int = 0  # 503
    resumed: int = 0
    window_s: float = 0.0  # the longest wait that any goaway announced
    back_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)


class _Cut(Exception):
    """The connection is gone."""


class Member:
    """One device: its token, its session, its place."""

    __slots__ = ("hello", "index", "rest", "session", "sock", "space")

    def __init__(self, index: int, token: str) -> None:
        self.index, self.space = index, f"bench/restart/{index % SPACES}"
        device_id = workload.sized_id(f"crowd {index}")
        self.hello: dict[str, Any] = {
            "device": device_id, "installation": device_id, "token": token, "time": workload.STAMP_MS,
            "keepalive_ms": 600_000,
        }  # fmt: skip
        self.session: bytes | None = None
        self.rest = b""
        self.sock: trio.socket.SocketType | None = None

    async def join(self, port: int) -> dict[str, Any] | float:
        """`welcome`, with the subscription standing, or the seconds of a Retry-After. Raises `_Cut`, `OSError`."""
        self.leave()
        self.rest, self.sock = b"", trio.socket.socket()
        await self.sock.connect(("127.0.0.1", port))
        await self.sock.send(workload.upgrade_request(f"127.0.0.1:{port}", self.hello["device"]))
        while b"\r\n\r\n" not in self.rest:
            await self._read()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            return retry_after_s(head)
        if self.session is not None:
            self.hello["session"] = self.session
        await self.sock.send(workload.client_frame(workload.message(workload.HELLO, self.hello)))
        welcome = await self.awaited(32)
        self.session = welcome["session"]
        await self.sock.send(workload.client_frame(workload.subscribe_message(self.space)))
        await self.awaited(33)
        return welcome

    async def awaited(self, code: int) -> dict[str, Any]:
        """The next message of this kind; others are passed over."""
        while True:
            payload = await self._frame()
            unpacker = msgpack.Unpacker()
            unpacker.feed(payload)
            for found, body in unpacker:
                if found == code:
                    answer: dict[str, Any] = body
                    return answer
                if found == 42:
                    raise Failed(f"device {self.index}: the server answers {body!r}"[:300])

    async def _frame(self) -> bytes:
        while True:
            rest = self.rest
            size = rest[1] & 0x7F if len(rest) >= 2 else 0
            head = 4 if size == 126 else 2
            if len(rest) >= head:
                size = int.from_bytes(rest[2:4]) if head == 4 else size
                if len(rest) >= head + size and len(rest) >= 2:
                    if rest[0] & 0x0F == 8:
                        raise _Cut
                    self.rest = rest[head + size :]
                    return rest[head : head + size]
            await self._read()

    async def _read(self) -> None:
        assert self.sock is not None
        data = await self.sock.recv(READ_BYTES)
        if not data:
            raise _Cut
        self.rest += data

    def leave(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def retry_after_s(head: bytes) -> float:
    """Of an answer to an upgrade that was not accepted. Raises `Failed` if it is not a 503 that says when to return."""
    status, *lines = head.decode("latin-1").split("\r\n")
    for line in lines:
        name, _, value = line.partition(":")
        if " 503 " in status and name.lower() == "retry-after":
            return float(value)
    raise Failed(f"an upgrade was answered {status!r} without a Retry-After")


def backoff_s(attempt: int, reconnect: dict[str, int], rng: random.Random) -> float:
    """SPEC 11: uniform(0, min(`backoff_max_ms`, `backoff_ms` x 2^attempt))."""
    return rng.uniform(0, min(reconnect["backoff_max_ms"], reconnect["backoff_ms"] * 2**attempt)) / 1000


class Crowd:
    """All devices. `opened` is set when every one is subscribed; `signalled_s` is when the daemon was told to stop."""

    def __init__(self, port: int, members: list[Member]) -> None:
        self._port, self._members = port, members
        self._random = random.Random(1)
        self._joined = 0
        self.opened, self.returned = trio.Event(), trio.Event()
        self.signalled_s = 0.0
        self.tally = Tally()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(self._live, member)
                await trio.sleep(1 / OPENINGS_PER_S)

    async def _live(self, member: Member) -> None:
        welcome = await self._come_in(member, {"backoff_ms": 1000, "backoff_max_ms": 60_000}, is_return=False)
        self._joined += 1
        if self._joined == len(self._members):
            self.opened.set()
        goaway = await member.awaited(GOAWAY_CODE)
        wait_ms = goaway["retry_after_ms"] + self._random.uniform(0, goaway["spread_ms"])
        announced_s = (goaway["retry_after_ms"] + goaway["spread_ms"]) / 1000
        told_s = time.monotonic()
        member.leave()
        self.tally.window_s = max(self.tally.window_s, told_s + announced_s - self.signalled_s)
        await trio.sleep(wait_ms / 1000)
        welcome = await self._come_in(member, welcome["reconnect"], is_return=True)
        now_s, tally = time.monotonic(), self.tally
        tally.resumed += bool(welcome["resumed"])
        tally.back_s.append(now_s - self.signalled_s)
        tally.late_s.append(now_s - told_s - announced_s)
        if len(tally.back_s) == len(self._members):
            self.returned.set()
        await trio.sleep_forever()

    async def _come_in(self, member: Member, reconnect: dict[str, int], *, is_return: bool) -> dict[str, Any]:
        attempt = 0
        absent_left = ABSENT_MAX if is_return else 0
        while True:
            try:
                answer = await member.join(self._port)
            except (OSError, _Cut) as error:
                is_late = isinstance(error, ConnectionRefusedError) and absent_left > 0
                absent_left -= is_late
                attempt = 1 if is_late else attempt + 1
                self.tally.refused += is_return
                await trio.sleep(backoff_s(attempt, reconnect, self._random))
                continue
            if isinstance(answer, dict):
                return answer
            self.tally.busy += is_return
            await trio.sleep(answer)

    def close(self) -> None:
        for member in self._members:
            member.leave()


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `Failed`."""
    return trio.run(_restarted, directory, connections(DEVICES_QUICK if quick else DEVICES), say)


async def _restarted(directory: Path, count: int, say: Callable[[str], None]) -> list[Figure]:
    server_core, _ = cores()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
        return await _crowd_returned(
            partial(Daemon, directory / STATE, server_core, settings=SETTINGS, listener=listener), count, say
        )


async def _crowd_returned(daemon: Callable[[], Daemon], count: int, say: Callable[[str], None]) -> list[Figure]:
    with daemon() as first:
        tokens = [first.token(f"bench-{user}") for user in range(USERS)]
        crowd = Crowd(first.port, [Member(index, tokens[index % USERS]) for index in range(count)])
        say(f"restart: {count} devices come in, {OPENINGS_PER_S:.0f} a second")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.run)
            with trio.fail_after(OPEN_S_MAX):
                await crowd.opened.wait()
            say("restart: SIGTERM, and a new daemon on the same socket")
            crowd.signalled_s = time.monotonic()
            first.send_signal(signal.SIGTERM)
            code = await trio.to_thread.run_sync(first.wait)
            stopped_s = time.monotonic() - crowd.signalled_s
            if code:
                raise Failed(f"the daemon ended with {code} after SIGTERM")
            with await trio.to_thread.run_sync(daemon) as again:
                up_s = time.monotonic() - crowd.signalled_s
                with trio.move_on_after(BACK_S_MAX):
                    await crowd.returned.wait()
                again.check()
                nursery.cancel_scope.cancel()
            crowd.close()
    return figures(count, crowd.tally, stopped_s, up_s)


def figures(count: int, tally: Tally, stopped_s: float, up_s: float) -> list[Figure]:
    """Raises `Failed` if somebody did not come back."""
    if len(tally.back_s) < count:
        raise Failed(f"{count - len(tally.back_s)} of {count} devices were not back after {BACK_S_MAX:.0f} s")
    back = sorted(tally.back_s)
    name = "restart"

    def at(share: float) -> tuple[float]:
        return (back[min(count - 1, int(share * count))],)

    detail = f"{tally.busy:,} answers 503, {tally.refused:,} attempts without a listener, {tally.resumed:,} resumed"
    return [
        Figure(name, "the old daemon has ended", "s", (stopped_s,), detail=f"{count:,} devices"),
        Figure(name, "the new one listens", "s", (up_s,)),
        Figure(name, "half of the devices are back", "s", at(0.5)),
        Figure(name, "99 % are back", "s", at(0.99)),
        Figure(name, "all are back", "s", (back[-1],), detail=detail),
        Figure(name, "announced window", "s", (tally.window_s,), detail="the latest return that a goaway asked for"),
        Figure(
            name, "all back / announced window", "ratio", (back[-1] / tally.window_s,), IN_TIME_TARGET,
            f"beyond its own: median {statistics.median(tally.late_s):.1f} s, most {max(tally.late_s):.1f} s",
        ),
    ]  # fmt: skip
