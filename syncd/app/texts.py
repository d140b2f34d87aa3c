"""The process that merges updates of texts: `python -m syncd.app.texts DESCRIPTOR`, a child of the daemon.

Owns the library (the extra `text`), and the doubt about it: devices write what they like. Must not know where updates
are kept, or what becomes of an answer. Its parent is [merger.py](merger.py).

1. What is merged means what its parts meant, one after the other: it is loaded both ways and compared. Where an update
   is missing, or two claim the same place, the library's merging does not keep to that.
2. It asks the system for no more than `MEMORY_BYTES_MAX`, whatever an update says that it holds.
"""

import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import msgpack
from pycrdt import Doc, merge_updates

# The interpreter with the library takes 30 MiB, of addresses 60; what it is asked to merge is 128 KiB.
MEMORY_BYTES_MAX = 268_435_456
# An answer begins with one of these: what follows is an update, or why there is none.
MERGED, REFUSED = b"+", b"-"


def merged(updates: Sequence[bytes]) -> bytes:
    """One update that means what these mean. Raises ValueError if there is none, or the library makes none."""
    try:
        one = bytes(merge_updates(*updates))
        is_same = _loaded((one,)) == _loaded(updates)
    except BaseException as error:
        # The library is written in Rust. What it did not expect comes as a panic: no `Exception`, and of a class
        # that cannot be imported.
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the library cannot merge these updates: {error}") from None
    if not is_same:
        raise ValueError("merged, these updates mean something else")
    return one


def _loaded(updates: Sequence[bytes]) -> bytes:
    doc: Doc[Any] = Doc()
    for update in updates:
        doc.apply_update(update)
    return bytes(doc.get_update())


def answer(request: bytes) -> bytes:
    try:
        return MERGED + merged(msgpack.unpackb(request))
    except ValueError as error:
        return REFUSED + str(error).encode()


def main(descriptor: int) -> None:
    """Until the daemon closes its end, or is gone. The first message says that this is ready."""
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES_MAX), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # some systems know no such limit, or have a lower one already
            resource.setrlimit(limit, (most, most))
    with Connection(descriptor) as pipe, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send_bytes(REFUSED)
        while True:
            pipe.send_bytes(answer(pipe.recv_bytes()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
