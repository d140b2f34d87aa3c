"""A device that only reads: one blocking socket, for measurements in which one device is enough.

Owns the way from the upgrade to the last delta of a catch-up. It finds what it needs in a message and throws the rest
away, so that the processor time of the daemon is what is measured, not that of the load.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import msgpack

from bench import workload
from bench.native import Failed

WAIT_S = 60.0
DELETED = 2  # the state of a document entry


@dataclass(frozen=True, slots=True)
class Position:
    """`complete` of `epoch`."""

    epoch: bytes
    complete: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What a catch-up brought: frames with documents, their bytes, and the documents: how many of them are deleted, and
    how many field values the others have."""

    position: Position
    frames: int
    bytes: int
    documents: int
    deleted: int
    values: int


class Reader:
    """A connection that was welcomed, as a context manager."""

    def __init__(self, port: int, name: str, token: str, settled: int = 0) -> None:
        """`settled`: up to which of its changes the device needs no outcome told again."""
        self._settled = settled
        device = workload.sized_id(name)
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT_S)
        self._rest = bytearray()
        self._socket.sendall(workload.upgrade_request(f"127.0.0.1:{port}", device))
        while b"\r\n\r\n" not in self._rest:
            self._feed()
        head, _, rest = bytes(self._rest).partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise Failed(f"the upgrade is refused: {head[:200]!r}")
        self._rest = bytearray(rest)
        self._frames = self._received()
        self._send(workload.hello_message(device, token))
        self._expect(32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def catch_up(self, space: str, after: Position | None = None) -> CaughtUp:
        """Subscribe, and read to the delta that is complete."""
        epoch, complete = (after.epoch, after.complete) if after is not None else (None, 0)
        body = {"space": space, "epoch": epoch, "complete": complete, "resume": complete, "settled": self._settled}
        self._send(workload.message(workload.SUBSCRIBE, body))
        subscribed = self._expect(33)
        frames = size = documents = deleted = values = 0
        while complete < subscribed["head"]:
            frame = next(self._frames)
            frames, size = frames + 1, size + len(frame)
            _, delta = msgpack.unpackb(frame)
            documents += len(delta["docs"])
            deleted += sum(state == DELETED for _, _, _, state, _ in delta["docs"])
            values += sum(len(fields) for _, _, _, _, fields in delta["docs"])
            if delta.get("complete"):
                complete = delta["to"]
        return CaughtUp(Position(subscribed["epoch"], complete), frames, size, documents, deleted, values)

    def _send(self, message: bytes) -> None:
        self._socket.sendall(workload.client_frame(message))

    def _expect(self, code: int) -> Any:
        found, body = msgpack.unpackb(next(self._frames))
        if found != code:
            raise Failed(f"message {code} was expected, not {found}: {str(body)[:200]}")
        return body

    def _feed(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise Failed("the daemon hangs up")
        self._rest += data

    def _received(self) -> Iterator[bytes]:
        """The payload of each frame."""
        while True:
            size, head = self._rest[1] if len(self._rest) > 1 else 0, 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(self._rest[2:head], "big")
            if len(self._rest) < head or len(self._rest) < head + size:
                self._feed()
                continue
            payload = bytes(self._rest[head : head + size])
            del self._rest[: head + size]
            yield payload
