"""What systemd and the daemon say to each other: readiness, life signs, inherited sockets.

Owns the two small protocols, sd_notify(3) and sd_listen_fds(3). The packages for them are no longer maintained, and
each is a datagram or three variables. Without systemd (no variables) everything here does nothing.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio

LISTEN_FDS_START = 3  # sd_listen_fds(3): inherited descriptors begin behind stdin, stdout and stderr


class Notifier:
    """Tells systemd how the service is, within its context. A message that cannot be delivered is dropped: the service
    matters more. Its socket is made once: when there are no more file descriptors, the daemon waits for some to be
    closed, and a life sign that needed one would be what ends it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading "@" stands for the zero byte of Linux's abstract addresses.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval_us = environ.get("WATCHDOG_USEC", "") if is_for_us else ""
        self._watchdog_s = int(interval_us) / 1e6 if interval_us.isdecimal() else 0.0
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._socket is not None:
            self._socket.close()

    def notify(self, *assignments: str) -> None:
        """`READY=1`, `STOPPING=1`, `STATUS=...`, `WATCHDOG=1`"""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto("\n".join(assignments).encode(), self._address)

    async def run_watchdog(self) -> None:
        """A life sign from the event loop itself, so that a loop that hangs is found out. Twice per interval, as
        sd_watchdog_enabled(3) advises. Returns at once if systemd wants none."""
        while self._watchdog_s > 0:
            self.notify("WATCHDOG=1")
            await trio.sleep(self._watchdog_s / 2)


def inherited_socket(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that systemd opened for us (`conf/syncd.socket`), so that a restart refuses no connection
    attempt. Raises `ValueError` if there is more than one: there is one port to serve."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    told = environ.get("LISTEN_FDS", "0")
    if told not in ("0", "1"):
        raise ValueError(f"LISTEN_FDS: got {told!r} sockets, expected 1: the address of server.listen")
    count = int(told)
    return socket.socket(fileno=LISTEN_FDS_START) if count == 1 else None
