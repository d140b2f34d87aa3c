"""Signals: deliveries per second to a thousand listeners, beside the fan-out of deltas in the same run, in one process.

Owns two loops over the same subscribers, whose transports take everything: so what is measured is what this process
does for a delivery, and the kernel's part, the same for both, is left out. One signal and one delta of about 100 bytes
go out at a time; then signals of many senders at once, which leave together. The store counts its transactions: of a
run of signals there must be none.
"""

from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import trio

from bench.measure import Figure, Target, ratios
from bench.native import Failed
from syncd.engine.commands import Attached, Author, Decision
from syncd.engine.reading import Cursor
from syncd.net.channels import Channel, Wiring
from syncd.net.delivery import Delivery
from syncd.net.formats import FORMATS
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.net.pages import Pages
from syncd.net.rates import Rate
from syncd.net.turns import Turns
from syncd.net.wheel import Wheel
from syncd.store.memory import MemoryStore
from syncd.wire.limits import Limits
from syncd.wire.messages import Delta, DocumentEntry, Signal

SPACE = "bench/signals"
LISTENERS = 1_000
TOGETHER = 16  # senders whose signals come in one turn of the loop
EPOCH = bytes(16)
FASTEST = 1_000_000.0  # no rate stands in the way of a measurement


class Sink:
    """A transport that takes everything."""

    peer = "127.0.0.1:1"

    def send_now(self, data: bytes) -> int:
        return len(data)

    def abort(self) -> None:
        pass


class Counting(MemoryStore):
    """A store that counts the transactions that are opened."""

    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.opened = 0

    def read(self) -> Any:
        self.opened += 1
        return super().read()

    def write(self) -> Any:
        self.opened += 1
        return super().write()


class Bench:
    def __init__(self, nursery: trio.Nursery) -> None:
        limits = NetLimits(space_signals=Rate(FASTEST, FASTEST))
        self.hub = Hub(limits, Limits(signals_per_s_max=int(FASTEST)))
        self.store = Counting()
        self.hub.live.start(Wheel(), bytes(32))
        wiring = Wiring(
            self.store, self.hub, nursery, Pages(1), 65_536, 256, self.hub.counters, limits.signals_held_max,
            limits.signals_held_bytes_max, Turns(),
        )  # fmt: skip
        self.channels = [self._joined(number, wiring) for number in range(LISTENERS)]
        self._to = 0

    def _joined(self, number: int, wiring: Wiring) -> Channel:
        owner: Any = None
        sink: Any = Sink()
        delivery = Delivery(sink, FORMATS[0], wiring, owner)
        delivery.heard_as = number.to_bytes(16)
        channel = delivery.begin(SPACE, 0)
        answer = Attached(SPACE, 1, 1, EPOCH, 0, "writer", 0, 0)
        delivery.attached(channel, answer, Cursor(SPACE, 1, 0, 0, None))
        return channel

    async def deltas(self, count: int) -> None:
        for _ in range(count):
            fields: dict[str, list[Any] | None] = {"at": ["reg", "x" * 40]}
            entry = DocumentEntry("c", "document", self._to + 1, 0, fields)
            delta = Delta(SPACE, EPOCH, self._to, self._to, self._to + 1, 1, bytes(8), (entry,), True, None, bytes(8))
            self._to += 1
            await self.hub.publish(Decision((), (delta,), ()))

    async def signals(self, count: int, senders: int) -> None:
        counters = self.hub.counters.signals
        for number in range(count):
            for sender in range(senders):
                channel = self.channels[sender]
                author = Author(sender.to_bytes(16), None, "device", "user", ())
                refused = self.hub.live.received(Signal(SPACE, "at", f"{number:060}"), channel, author)
                if refused:
                    raise Failed(f"a signal was refused: {refused}")
            expected = LISTENERS * senders * (number + 1)
            while counters["sent"] - self._sent < expected:
                await trio.lowlevel.checkpoint()
        self._sent = counters["sent"]

    _sent = 0


async def _measured(runs: int, count: int, say: Callable[[str], None]) -> tuple[list[list[float]], int]:
    columns: list[list[float]] = [[], [], []]
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        nursery.start_soon(bench.hub.live.run, print)
        await bench.deltas(5)
        await bench.signals(5, 1)
        opened = 0
        for number in range(runs):
            say(f"signals to {LISTENERS}: run {number + 1} of {runs}")
            began = process_time()
            await bench.deltas(count)
            columns[0].append(count * LISTENERS / (process_time() - began))
            before, began = bench.store.opened, process_time()
            await bench.signals(count, 1)
            columns[1].append(count * LISTENERS / (process_time() - began))
            began = process_time()
            await bench.signals(count // 4, TOGETHER)
            columns[2].append(count // 4 * TOGETHER * LISTENERS / (process_time() - began))
            opened += bench.store.opened - before
        nursery.cancel_scope.cancel()
    return columns, opened


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    """Raises `Failed` if a signal opened a transaction."""
    runs, count = (3, 100) if quick else (5, 400)
    (deltas, signals, together), opened = trio.run(_measured, runs, count, say)
    if opened:
        raise Failed(f"{opened} transactions were opened for signals, which touch no row")
    name = f"signals {LISTENERS}"
    return [
        Figure(name, "deltas, one at a time", "deliveries/CPU-s", tuple(deltas), detail="without the kernel's part"),
        Figure(name, "signals, one at a time", "deliveries/CPU-s", tuple(signals)),
        Figure(name, f"signals of {TOGETHER} senders at once", "deliveries/CPU-s", tuple(together)),
        Figure(name, "signals / deltas", "ratio", ratios(signals, deltas), Target(least=0.4)),
        Figure(name, f"signals of {TOGETHER} / deltas", "ratio", ratios(together, deltas), Target(least=3.0)),
        Figure(name, "transactions opened for signals", "count", (float(opened),)),
    ]
