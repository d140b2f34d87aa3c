"""What happened, in order: hashed whole, kept for the last few thousand events.

Two runs of a seed are the same run if and only if their hashes are. Only what a seed decides may be recorded: names,
virtual times, sizes, numbers.
"""

from collections import deque
from hashlib import sha256

import trio

KEPT_MAX = 20_000


class Trace:
    def __init__(self) -> None:
        self.count = 0
        self._hash = sha256()
        self._kept: deque[tuple[float, str, str]] = deque(maxlen=KEPT_MAX)

    def record(self, node: str, what: str) -> None:
        now_s = trio.current_time()
        self.count += 1
        self._hash.update(f"{now_s:.9f} {node} {what}\n".encode())
        self._kept.append((now_s, node, what))

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()[:16]

    def last(self, nodes: tuple[str, ...], count: int) -> list[str]:
        """The last events of these nodes (of all, if none is named)."""
        lines = [f"{at_s:10.3f}  {node:8} {what}" for at_s, node, what in self._kept if not nodes or node in nodes]
        return lines[-count:]
