"""What the client needs of an event loop, whichever it is.

Owns the seam between the shell, which waits, and the two libraries that it can wait with: trio (trio_shell.py) and
asyncio (aio.py). Everything else of a device is the same code on both. Six primitives are all that a device uses, so
they stand here rather than behind anyio, whose emulation of trio's cancellation would reach into asyncio applications.

1. A primitive that is cancelled leaves no task behind: what it started has ended when it raises.
2. Events are set from the loop's own thread only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

Run: TypeAlias = Callable[[], Awaitable[object]]


class Event(Protocol):
    """Happens once: `trio.Event` and `asyncio.Event` are ones."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    async def wait(self) -> object: ...


class Loop(Protocol):
    def now_s(self) -> float:
        """The loop's own clock, monotonic, in seconds."""
        ...

    def event(self) -> Event: ...

    async def checkpoint(self) -> None:
        """Let others run, and let a cancellation in."""
        ...

    async def sleep_until(self, when_s: float) -> None: ...

    async def within(self, when_s: float, run: Run) -> bool:
        """Run until it has returned or the time has come; whether it has returned. `inf` is no limit."""
        ...

    async def race(self, *runs: Run) -> None:
        """Run all. When the first has returned, cancel the others and wait for their end. An error ends all, too, and
        is raised in an exception group."""
        ...

    def beside(self, *runs: Run) -> AbstractAsyncContextManager[None]:
        """Run all beside the block of the `async with`; they are cancelled at its end, and an error of one ends it."""
        ...
