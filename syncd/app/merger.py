"""The daemon's side of merging texts. A process of its own does it, as the library that it takes reads what anybody has
written: some bytes end the process that reads them, by a stack that overflows or memory that is not there.

Owns that process. Must not know the library, or where updates are kept.

1. Whatever an update does to the library, the daemon gets a ValueError within `ANSWER_S`, and goes on without merging.
2. Nobody waits for a process to start: until it is ready nothing is merged. One that ended is replaced by the next
   attempt, and not before `REST_S`: whoever makes it end again and again costs one start in that time.

This holds off accidents. It is no cage: the process has the daemon's rights.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic  # noqa: TID251 - the writer's thread has no loop whose clock it could ask
from types import TracebackType
from typing import Self

import msgpack

# Some 4 ms are usual, and the writer waits for them. A busy machine is no reason to give a process up.
ANSWER_S = 0.5
REST_S = 10.0
COMMAND = (sys.executable, "-m", "syncd.app.texts")
_MERGED = b"+"[0]


def is_possible() -> bool:
    """Whether there is a library that merges."""
    return find_spec("pycrdt") is not None


class Merger:
    """A context: within it there is a process. `merge` is called by one thread. `tell` hears that one has ended, and
    how, at most once in `rest_s`."""

    def __init__(
        self, tell: Callable[[str], None], *, command: Sequence[str] = COMMAND,
        answer_s: float = ANSWER_S, rest_s: float = REST_S,
    ) -> None:  # fmt: skip
        self._tell, self._command = tell, command
        self._answer_s, self._rest_s = answer_s, rest_s
        self._child: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._is_ready = False
        self._started_s = 0.0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._child is not None:
            self._end(self._child)

    def is_ready(self, wait_s: float = 0.0) -> bool:
        """Whether there is a process that takes updates; waits so long for one that is starting."""
        if self._child is None or self._is_ready:
            return self._is_ready
        _, pipe = self._child
        try:
            if pipe.poll(wait_s):
                pipe.recv_bytes()
                self._is_ready = True
        except (EOFError, OSError):
            self._lost("did not start")
        return self._is_ready

    def merge(self, updates: Sequence[bytes]) -> bytes:
        """One update that means what these mean. Raises ValueError if there is none, or nobody is there to say so."""
        if self._child is None and monotonic() - self._started_s >= self._rest_s:
            self._start()
        if not self.is_ready() or self._child is None:
            raise ValueError("the process that merges is not there yet")
        _, pipe = self._child
        try:
            pipe.send_bytes(msgpack.packb(list(updates)))
            if not pipe.poll(self._answer_s):
                self._lost(f"gave no answer within {self._answer_s:g} s")
                raise ValueError("the library takes too long over these updates")
            answer = pipe.recv_bytes()
        except (EOFError, OSError):
            self._lost("was ended by what it read")
            raise ValueError("the library does not survive these updates") from None
        if answer[0] != _MERGED:
            raise ValueError(answer[1:].decode())
        return answer[1:]

    def _start(self) -> None:
        self._started_s, self._is_ready = monotonic(), False
        try:
            ours, theirs = Pipe()
            with theirs:
                process = subprocess.Popen(
                    (*self._command, str(theirs.fileno())), pass_fds=(theirs.fileno(),), start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
        except OSError as error:  # no descriptor, no memory, or the program is being replaced
            self._tell(f"the process that merges texts cannot be started ({error}): nothing is merged until it can")
        else:
            self._child = process, ours

    def _lost(self, how: str) -> None:
        if self._child is not None:
            status = self._end(self._child)
            self._tell(
                f"the process that merges texts {how} (status {status}): nothing is merged until there is a new one"
            )

    def _end(self, child: tuple[subprocess.Popen[bytes], Connection]) -> int:
        process, pipe = child
        self._child, self._is_ready = None, False
        pipe.close()
        process.kill()  # it holds nothing that could be lost; if it has ended, its status is its own
        return process.wait()
