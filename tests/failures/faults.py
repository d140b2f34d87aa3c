"""The Nth call fails: a store, an offload and byte streams that do what theirs do until it is their turn.

Owns which call fails and how; must not know what the server makes of it. A `Fault` counts the calls of one operation in
the whole run, over all transactions, connections and lives of the server.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from syncd.env.memory import InlineOffload, MemoryListener
from syncd.env.ports import T, Transport, TransportClosed, Ts
from syncd.store.api import Reader, StoreDamaged, StoreFull, Usage, Writer
from syncd.store.memory import MemoryStore

INJECTED: Final = "injected"  # in the text of each error, so that a defect that it uncovers can be told from it


class Defect(Exception):
    """What a mistake of ours, or of a library, might raise."""


ERRORS: Final[dict[str, Callable[[str], Exception]]] = {
    "full": StoreFull,
    "damaged": StoreDamaged,
    "defect": Defect,
    "closed": TransportClosed,
}
QUIET: Final = frozenset({"refused", "short", "none"})  # failures that are told by what the call returns


@dataclass(frozen=True, slots=True)
class Kind:
    """Which operation fails, and how: a key of `ERRORS`, or one of `QUIET`."""

    operation: str
    how: str

    def __str__(self) -> str:
        return f"{self.operation}-{self.how}"


_WRITING: Final = ("begin", "put", "delete", "commit")
_READING: Final = ("read", "get", "scan", "last")
KINDS: Final = (
    *(Kind(operation, how) for operation in _WRITING for how in ("full", "damaged", "defect")),
    *(Kind(operation, how) for operation in _READING for how in ("damaged", "defect")),
    Kind("committed", "damaged"), Kind("grow", "damaged"), Kind("grow", "refused"), Kind("offload", "defect"),
    *(Kind(operation, "closed") for operation in ("send_now", "receive", "wait_writable")),
    Kind("send_now", "short"), Kind("send_now", "none"),
)  # fmt: skip
NETWORK: Final = frozenset({"send_now", "receive", "wait_writable"})


class Fault:
    """`at`: the call that fails, from 1; `is_lasting`: and all after it, until `heal`."""

    def __init__(self, kind: Kind, at: int, is_lasting: bool) -> None:
        self.kind, self._at, self._is_lasting = kind, at, is_lasting
        self.count = self.hits = 0
        self.healed = trio.Event()

    def strikes(self, operation: str) -> bool:
        """Called once for each call of each operation."""
        if operation != self.kind.operation or self.healed.is_set():
            return False
        self.count += 1
        is_hit = self.count == self._at or (self._is_lasting and self.count > self._at)
        self.hits += is_hit
        return is_hit

    def reach(self, operation: str) -> None:
        if self.strikes(operation):
            raise self.error()

    def error(self) -> Exception:
        return ERRORS[self.kind.how](f"{INJECTED}: {self.kind} {self.count}")


class FaultyReader:
    def __init__(self, tx: Reader, fault: Fault) -> None:
        self._reader, self._fault = tx, fault

    def get(self, key: bytes) -> bytes | None:
        self._fault.reach("get")
        return self._reader.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._fault.reach("scan")
        return self._reader.scan(start, stop)

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        self._fault.reach("last")
        return self._reader.last(start, stop)


class FaultyWriter(FaultyReader):
    def __init__(self, tx: Writer, fault: Fault) -> None:
        super().__init__(tx, fault)
        self._writer = tx

    def put(self, key: bytes, value: bytes) -> None:
        self._fault.reach("put")
        self._writer.put(key, value)

    def delete(self, key: bytes) -> bool:
        self._fault.reach("delete")
        return self._writer.delete(key)


class FaultyStore:
    """An `api.Store` in front of one in memory. `commit` fails with nothing written; `committed` after all was, as a
    sync does that fails when the pages had reached the disk."""

    def __init__(self, store: MemoryStore, fault: Fault) -> None:
        self._store, self._fault = store, fault

    @contextmanager
    def read(self) -> Iterator[Reader]:
        self._fault.reach("read")
        with self._store.read() as tx:
            yield FaultyReader(tx, self._fault)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        self._fault.reach("begin")
        with self._store.write() as tx:
            yield FaultyWriter(tx, self._fault)
            self._fault.reach("commit")
        self._fault.reach("committed")

    def usage(self) -> Usage:
        return self._store.usage()

    def grow(self) -> bool:
        if self._fault.strikes("grow"):
            if self._fault.kind.how == "refused":
                return False
            raise self._fault.error()
        return self._store.grow()

    def close(self) -> None:
        self._store.close()


class FaultyOffload(InlineOffload):
    """Fails before the call is made: no thread could be had."""

    def __init__(self, latency_s: float, fault: Fault) -> None:
        super().__init__(latency_s)
        self._fault = fault

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        self._fault.reach("offload")
        return await super().run(fn, *args)


class FaultyTransport:
    """The server's end of a stream. Once it has raised `TransportClosed` it is dead for both ends (P3)."""

    def __init__(self, transport: Transport, fault: Fault) -> None:
        self._transport, self._fault = transport, fault
        self._is_stuck = False

    @property
    def peer(self) -> str:
        return self._transport.peer

    def send_now(self, data: bytes | memoryview) -> int:
        if self._fault.strikes("send_now"):
            if self._fault.kind.how == "closed":
                self._close()
            if self._fault.kind.how == "none":
                self._is_stuck = True
                return 0
            return self._transport.send_now(data[:1])
        self._is_stuck = False
        return self._transport.send_now(data)

    async def receive(self, bytes_max: int) -> bytes:
        if self._fault.strikes("receive"):
            await trio.lowlevel.checkpoint()
            self._close()
        return await self._transport.receive(bytes_max)

    async def wait_writable(self) -> None:
        if self._fault.strikes("wait_writable"):
            await trio.lowlevel.checkpoint()
            self._close()
        if self._is_stuck:
            await trio.sleep(0.2)  # P2: to return at once would make a loop of it
        await self._transport.wait_writable()

    def shutdown(self) -> None:
        self._transport.shutdown()

    def abort(self) -> None:
        self._transport.abort()

    def _close(self) -> None:
        self._transport.abort()
        raise self._fault.error()


class FaultyListener:
    def __init__(self, listener: MemoryListener, fault: Fault) -> None:
        self._listener, self._fault = listener, fault

    @property
    def address(self) -> tuple[str, int]:
        return self._listener.address

    async def accept(self) -> FaultyTransport:
        return FaultyTransport(await self._listener.accept(), self._fault)

    def close(self) -> None:
        self._listener.close()


class _Dropped(Exception):
    pass


class ForgetfulStore(FaultyStore):
    """Says that a commit was made, and throws it away: what the proof must catch."""

    @contextmanager
    def write(self) -> Iterator[Writer]:
        try:
            with self._store.write() as tx:
                yield tx
                if self._fault.strikes("commit"):
                    raise _Dropped
        except _Dropped:
            pass
