"""A device that only writes: one blocking socket, one push at a time, for loads whose size matters and not their rate.

Owns its numbers, and the check that each change was accepted. It subscribes to nothing: no delta is sent to it, and it
holds nothing back that others deleted.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgpack

from bench import workload
from bench.native import Failed
from bench.reader import Position, Reader

OUTCOMES = 35
DOCUMENTS_AT_ONCE = 100  # in a change; a server takes 128
CHANGES_AT_ONCE = 20  # in a push
TAKEN = ("applied", "merged")


class Writer(Reader):
    """A connection that was welcomed, as a context manager."""

    def __init__(self, port: int, name: str, token: str, made: int = 0) -> None:
        """`made`: how many changes the device has pushed before."""
        super().__init__(port, name, token, settled=made)
        self._n = made

    def push(self, space: str, changes: Iterable[list[list[Any]]], at: Position | None = None) -> None:
        """Changes, each a list of operations, made having read up to `at`. Raises `Failed` unless all are taken."""
        made = []
        for operations in changes:
            self._n += 1
            base = 0 if at is None else at.complete
            made.append([self._n, workload.nonce(self._n), base, workload.STAMP_MS, operations])
        epoch = None if at is None else at.epoch
        self._send(workload.message(workload.PUSH, {"space": space, "epoch": epoch, "changes": made}))
        answered = 0
        while answered < len(made):
            code, body = msgpack.unpackb(next(self._frames))
            if code != OUTCOMES:
                raise Failed(f"outcomes were expected, not message {code}: {str(body)[:200]}")
            refused = [entry for entry in body["outcomes"] if entry[2] not in TAKEN]
            if refused:
                raise Failed(f"a change is not taken: {refused[0]}")
            answered += len(body["outcomes"])

    def create(self, space: str, ids: Sequence[str], text: str) -> None:
        """Documents of one field."""
        self._each(space, ids, lambda name: [_created(name), _set(name, text)])

    def set(self, space: str, ids: Sequence[str], text: str) -> None:
        self._each(space, ids, lambda name: [_set(name, text)])

    def delete(self, space: str, ids: Sequence[str]) -> None:
        self._each(space, ids, lambda name: [["delete", workload.COLLECTION, name]])

    def _each(self, space: str, ids: Sequence[str], operations: Any) -> None:
        for first in range(0, len(ids), DOCUMENTS_AT_ONCE * CHANGES_AT_ONCE):
            some = ids[first : first + DOCUMENTS_AT_ONCE * CHANGES_AT_ONCE]
            parts = [some[at : at + DOCUMENTS_AT_ONCE] for at in range(0, len(some), DOCUMENTS_AT_ONCE)]
            self.push(space, [[made for name in part for made in operations(name)] for part in parts])


def _created(name: str) -> list[Any]:
    return [workload.CREATE, workload.COLLECTION, name]


def _set(name: str, text: str) -> list[Any]:
    return ["reg.set", workload.COLLECTION, name, "text", text]
