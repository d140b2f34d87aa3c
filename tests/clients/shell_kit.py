"""The acceptance kit of the client's shells: virtual time under each event loop, a stage, and a small server.

A case is a coroutine function over a `Stage`; it must pass under every shell of SHELLS, over a WebSocket and over polls
(test_shells.py). The cases are in shell_cases.py and mobile_cases.py, those of polls alone in poll_cases.py. Nothing
sleeps: time jumps to the next thing that is due.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import trio
from trio.testing import MockClock

from syncd_client import Device, State, aio, open_device
from syncd_client.carriers import Carrier
from syncd_client.device import opened
from syncd_client.loops import Event, Loop, Run
from syncd_client.trio_shell import TrioLoop

from . import peer as p
from .peer import SPACE, Ended, Peer, Wire
from .polled_peer import PolledPeer

CASE_S = 10_000.0  # of virtual time: what still waits then waits for ever

Main: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class _Jumping(selectors.SelectSelector):
    """Never blocks: when nothing is ready, it moves the clock to the next timer."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            assert timeout is not None, "everybody waits, and nobody will wake anybody"
            # Well past the timer: asyncio fires those of the next nanosecond, too, and whoever finds it too early and
            # asks for the same time again would stop the clock.
            self.now_s += timeout + 1e-6
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own event loop under a virtual clock: what trio's MockClock with autojump is to trio."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run_trio(main: Main) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))


def run_asyncio(main: Main) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


@dataclass(frozen=True)
class Shell:
    run: Callable[[Main], None]
    loop: Callable[[], Loop]
    open_device: Callable[..., AbstractAsyncContextManager[Device]]


SHELLS = {
    "trio": Shell(run_trio, TrioLoop, open_device),
    "asyncio": Shell(run_asyncio, aio.AsyncioLoop, aio.open_device),
}


class Stage:
    """What a case plays on."""

    def __init__(self, shell: Shell, path: Path, carrier: Carrier = "websocket") -> None:
        self.shell = shell
        self.path = path
        self.carrier = carrier
        self.loop = shell.loop()
        self.peer = self.new_peer()

    @property
    def polled(self) -> PolledPeer:
        assert isinstance(self.peer, PolledPeer)
        return self.peer

    def new_peer(self, delay_s: float = 0.0) -> Peer:
        return (PolledPeer if self.carrier == "polls" else Peer)(self.loop, delay_s)

    def device(self, **options: Any) -> AbstractAsyncContextManager[Device]:
        settings = {"url": "ws://peer", "token": "T", "ports": self.peer.ports(), "durability": "off", **options}
        return self.shell.open_device(settings.pop("path", self.path), **settings)

    def now_s(self) -> float:
        return self.loop.now_s()

    async def sleep(self, seconds: float) -> None:
        await self.loop.sleep_until(self.now_s() + seconds)

    async def reaches(self, device: Device, state: State) -> None:
        await device.wait_until(lambda: device.status.state is state)

    async def is_quiet(self, seconds: float, run: Run) -> bool:
        """Whether it has not come about within this time."""
        return not await self.loop.within(self.now_s() + seconds, run)

    async def joined(self, head: int = 0, **welcome: Any) -> Wire:
        """Accept a connection and its subscription to the space."""
        wire = await self.peer.next()
        await wire.welcome(**welcome)
        await wire.subscribed(head)
        return wire

    async def welcomed(self, **welcome: Any) -> Wire:
        wire = await self.peer.next()
        await wire.welcome(**welcome)
        return wire


Case: TypeAlias = Callable[[Stage], Awaitable[None]]
CASES: list[Case] = []
WEBSOCKET_CASES: list[Case] = []  # what polls cannot do, or do by other means
POLL_CASES: list[Case] = []


def case(run: Case) -> Case:
    CASES.append(run)
    return run


def websocket_case(run: Case) -> Case:
    WEBSOCKET_CASES.append(run)
    return run


def poll_case(run: Case) -> Case:
    POLL_CASES.append(run)
    return run


def play(run: Case, shell: Shell, path: Path, carrier: Carrier) -> None:
    async def main() -> None:
        stage = Stage(shell, path, carrier)
        assert await stage.loop.within(stage.now_s() + CASE_S, lambda: run(stage)), "it waits for ever"

    shell.run(main)


class Counting:
    """A loop that calls `on_await` when its await number `at` begins. The awaits of a device are all of its loop and of
    its transport; the transport of the tests waits by the loop, too."""

    def __init__(self, loop: Loop, at: int, on_await: Callable[[], None]) -> None:
        self._loop, self._at, self._on_await = loop, at, on_await
        self.count = 0

    def _count(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._on_await()

    def now_s(self) -> float:
        return self._loop.now_s()

    def event(self) -> Event:
        return _CountedEvent(self._loop.event(), self._count)

    async def checkpoint(self) -> None:
        self._count()
        await self._loop.checkpoint()

    async def sleep_until(self, when_s: float) -> None:
        self._count()
        await self._loop.sleep_until(when_s)

    async def within(self, when_s: float, run: Run) -> bool:
        return await self._loop.within(when_s, run)

    async def race(self, *runs: Run) -> None:
        self._count()
        await self._loop.race(*runs)

    def beside(self, *runs: Run) -> AbstractAsyncContextManager[None]:
        return self._loop.beside(*runs)


class _CountedEvent:
    def __init__(self, event: Event, count: Callable[[], None]) -> None:
        self._event, self._count = event, count

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> object:
        self._count()
        return await self._event.wait()


def counted_device(
    stage: Stage, loop: Loop, peer: Peer, path: Path, *, online: bool = True
) -> AbstractAsyncContextManager[Device]:
    """A device whose every await passes `loop`."""
    return opened(
        loop, path, peer.ports(), url="ws://peer", token="T", binding="msgpack", online=online, keepalive_ms=None,
        durability="off",
    )  # fmt: skip


class Server:
    """A server of one space that takes every change, as the protocol demands it of a repeated one, too."""

    def __init__(self, peer: Peer) -> None:
        self.recorded: dict[int, bytes] = {}  # n -> nonce; its seq is n
        self.documents: list[list[Any]] = []
        self._peer = peer

    async def run(self) -> None:
        while True:
            wire = await self._peer.next()
            try:
                await self._serve(wire)
            except Ended:
                wire.hang_up(1006)

    async def _serve(self, wire: Wire) -> None:
        await wire.welcome(ack_ms=100)
        while True:
            code, body = await wire.next()
            if code == p.SUBSCRIBE:
                await self._subscribe(wire, body)
            elif code == p.PUSH:
                self._push(wire, body)
                highest = max(self.recorded)
                answers = [[n, self.recorded[n], "applied", n] for n in [change[0] for change in body["changes"]]]
                await wire.outcomes(*answers)
                await wire.delta(highest - 1 if highest > 1 else 0, highest, self.documents[-1:])
            elif code == p.BYE:
                wire.hang_up(1000)
                return

    async def _subscribe(self, wire: Wire, body: dict[str, Any]) -> None:
        head = max(self.recorded, default=0)
        answers = [[n, nonce, "applied", n] for n, nonce in self.recorded.items() if n > body["settled"]]
        if answers:
            await wire.outcomes(*answers)
        place = {"space": SPACE, "epoch": p.EPOCH, "head": head, "safe": head, "role": "writer", "mode": "live"}
        await wire.say(p.SUBSCRIBED, **place)
        if body["complete"] < head:
            await wire.delta(body["complete"], head, self.documents[body["complete"] :])

    def _push(self, wire: Wire, body: dict[str, Any]) -> None:
        for n, nonce, *_rest, operations in body["changes"]:
            assert n <= len(self.recorded) + 1, "a gap"
            assert self.recorded.setdefault(n, nonce) == nonce, f"n = {n} came with two nonces"
            if len(self.documents) < n:
                self.documents.append([operations[0][1], operations[0][2], n, 1, {}])


@asynccontextmanager
async def serving(stage: Stage, peer: Peer) -> AsyncIterator[Server]:
    server = Server(peer)
    async with stage.loop.beside(server.run):
        yield server
