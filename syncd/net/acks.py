"""Acks that wait: devices say often what is durable on them, and only the last word about each space counts.

Owns the newest ack of each space of one connection, until the time has come or something else is to be asked of the
engine. Must not know what an ack does, nor who connected.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from syncd.engine.commands import Ack, Author, Command, Result
from syncd.store.committer import Committer, Overloaded
from syncd.wire import messages as m


class Acks:
    """`due_s`: when those that wait are due, on trio's clock; None: none wait."""

    __slots__ = ("_waiting", "due_s")

    def __init__(self) -> None:
        self._waiting: dict[str, m.Ack] | None = None
        self.due_s: float | None = None

    def put(self, ack: m.Ack, due_s: float) -> bool:
        """Let an ack wait. Whether it is the first one, and so `due_s` was set."""
        is_first = self._waiting is None
        if self._waiting is None:
            self._waiting, self.due_s = {}, due_s
        self._waiting[ack.space] = ack
        return is_first

    def submit(
        self, author: Author, committer: Committer[Command, Result, Any], done: Callable[[str, Result], None]
    ) -> None:
        """What waited goes to the committer. An ack that it does not take is lost: the next one says more."""
        acks, self._waiting, self.due_s = self._waiting or {}, None, None
        for ack in acks.values():
            command = Ack(author, ack.space, ack.epoch, ack.applied, ack.oldest_base, ack.settled)
            try:
                committer.submit(command, partial(done, ack.space))
            except Overloaded:
                return
