"""The real ports: the machine's clock, entropy, a worker thread, sockets.

The only module that asks the operating system for time, randomness, threads or sockets. Must not know protocols.

Sockets are stdlib sockets without blocking; trio only tells when they are ready. `trio.SocketStream` would cost a
checkpoint and a lock per send, where the fan-out wants to write thousands of sockets from one synchronous loop.
"""

import errno
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from logging import getLogger
from math import inf
from pathlib import Path
from typing import Any

import outcome
import trio

from syncd.env.ports import Environment, T, TransportClosed, Ts

_log = getLogger(__name__)

# Connections that the kernel finishes while the loop is busy. A restart brings all devices at once; what does not fit
# is retried by TCP after a second. The kernel lowers it to net.core.somaxconn (4,096 by default).
BACKLOG = 4096

# What the kernel takes of a connection beyond what is on its way to the peer. Its own bound is some 4 MiB, of memory
# and of news: a phone that reads again would get megabytes of what was long overwritten, before the newest state. The
# size of a page: while one is sent, the next is read.
UNSENT_BYTES_MAX = 262_144

# What accept() says when the process or the machine has run out of something. The listening socket stays readable, so
# without a pause the loop would spin: trio.serve_listeners pauses as long, for the same errors.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_EXHAUSTED_PAUSE_S = 0.1
_EXHAUSTED_TOLD_S = 60.0  # between two lines of the log about it: ten a second would bury what led to it

# A connection that died between the kernel's handshake and our accept(): Linux reports its pending error there.
_DIED_IN_BACKLOG = frozenset({errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT,
                              errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP,
                              errno.ENETUNREACH})  # fmt: skip


_BYTE = b"\0"  # that there is a call, or a result: what it is lies beside the pipe


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class SystemEntropy:
    def __init__(self) -> None:
        self._random = secrets.SystemRandom()

    def token(self, size: int) -> bytes:
        return os.urandom(size)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class NoFaults:
    """Production: nothing fails on purpose."""

    def reach(self, name: str) -> None:
        pass


class ThreadOffload:
    """One thread that lives as long as this object.

    A call is handed over, and its result handed back, by a byte in a pipe: the thread sleeps in `read`, and the loop
    wakes the very task that waits. Not by a queue and `TrioToken.run_sync_soon`: the queue's semaphore wakes a thread
    that can do nothing yet, as the loop has the interpreter's lock until it sleeps, and the token wakes a task of
    trio's, which wakes ours. A call that does nothing took 94 us of processor time that way and takes 63 (medians of
    3,000, interleaved, two cores); `trio.to_thread.run_sync` took half as long again as the queue.
    """

    def __init__(self, name: str) -> None:
        self._is_busy = False
        self._waiting = trio.lowlevel.ParkingLot()  # for their turn, in the order of the calls
        self._call: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self._outcome: outcome.Outcome[Any] | None = None
        self._begun, self._begin = os.pipe()
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_busy:
            await self._waiting.park()  # whoever has done hands its turn on: nobody comes in between
        self._is_busy = True
        self._call = fn, args
        os.write(self._begin, _BYTE)
        try:
            await trio.lowlevel.wait_readable(self._ended)
        except trio.Cancelled:  # which the next checkpoint of the caller says again
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._ended)
        os.read(self._ended, 1)
        ended, self._outcome = self._outcome, None
        if self._waiting:
            self._waiting.unpark()
        else:
            self._is_busy = False
        assert ended is not None, "the byte comes behind it"
        try:
            result: T = ended.unwrap()
        finally:
            del ended  # an error's traceback holds this frame
        return result

    def close(self) -> None:
        """Let the thread finish what it was given, and end it."""
        os.close(self._begin)
        self._thread.join()
        for end in (self._begun, self._ended, self._end):
            os.close(end)

    def _serve(self) -> None:
        while os.read(self._begun, 1):
            assert self._call is not None, "the byte comes behind it"
            (fn, args), self._call = self._call, None
            self._outcome = outcome.capture(fn, *args)
            del fn, args  # keep nothing alive while waiting for the next
            os.write(self._end, _BYTE)


class SocketTransport:
    """A connected stream socket. Owns it."""

    __slots__ = ("_socket", "peer")  # there are as many as connections

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # A frame is one send: nothing is gained by holding it back until the last one is acknowledged.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        self.peer = _peer(sock)
        self._socket = sock

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise TransportClosed(str(error)) from None

    async def receive(self, bytes_max: int) -> bytes:
        # Waiting comes first, although bytes may be here already: it is the checkpoint that keeps one busy peer from
        # occupying the loop, and saves the failing recv() of every idle connection.
        while True:
            await _ready(trio.lowlevel.wait_readable, self._socket)
            try:
                return self._socket.recv(bytes_max)
            except BlockingIOError:
                continue
            except OSError as error:
                raise TransportClosed(str(error)) from None

    async def wait_writable(self) -> None:
        await _ready(trio.lowlevel.wait_writable, self._socket)

    def shutdown(self) -> None:
        with suppress(OSError):  # the peer may be gone already: the next call tells
            self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class SocketListener:
    """A listening socket, made here or inherited. Owns it, and removes the UNIX socket's file `path` at the end."""

    def __init__(self, sock: socket.socket, path: Path | None = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._path = path
        self._told_s = -inf
        self.address = _address(sock)

    async def accept(self) -> SocketTransport:
        while True:
            await _ready(trio.lowlevel.wait_readable, self._socket)
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                await self._survive(error)
                continue
            try:
                return SocketTransport(sock)
            except OSError:
                sock.close()  # reset before we could look at it

    async def _survive(self, error: OSError) -> None:
        if error.errno in _EXHAUSTED:
            now_s = trio.current_time()
            if now_s - self._told_s >= _EXHAUSTED_TOLD_S:
                self._told_s = now_s
                _log.warning("cannot accept connections for now: %s", error)
            await trio.sleep(_EXHAUSTED_PAUSE_S)
        elif error.errno == errno.EBADF:
            raise TransportClosed("closed") from None
        elif error.errno not in _DIED_IN_BACKLOG:
            raise error

    def close(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            if self._path is not None:
                self._path.unlink(missing_ok=True)


def listen_tcp(host: str, port: int) -> SocketListener:
    """Listen on `host`, an address or a name of this machine (its first address is taken). Port 0: any. Raises OSError.

    An IPv6 socket takes IPv6 only, so that `0.0.0.0` and `::` can be listened on side by side.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # Without it a restart could not bind for the minute that old connections spend in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return SocketListener(sock)


def listen_unix(path: Path) -> SocketListener:
    """Listen on a UNIX socket that only our own user may connect to. Raises OSError.

    A socket file left by a process that died is replaced: whoever calls holds the lock of the directory it lies in.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "not a socket, so it is not replaced", str(path))
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)  # before listen(): until then nobody can connect. A umask would hold for all threads.
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return SocketListener(sock, path)


def environment() -> Environment:
    """The machine. The offload thread is the store's writer; it ends with the process."""
    return Environment(SystemClock(), SystemEntropy(), ThreadOffload("syncd-writer"), NoFaults())


async def _ready(wait: Callable[[socket.socket], Awaitable[None]], sock: socket.socket) -> None:
    """Wait on a socket. Raises `TransportClosed` if it was closed before (trio would register -1), or is meanwhile."""
    if sock.fileno() == -1:
        raise TransportClosed("closed")
    try:
        await wait(sock)
    except trio.ClosedResourceError:
        raise TransportClosed("closed") from None


def _peer(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return "unix"
    host, port = sock.getpeername()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def _address(sock: socket.socket) -> tuple[str, int]:
    name = sock.getsockname()
    return (str(name), 0) if sock.family == socket.AF_UNIX else (str(name[0]), int(name[1]))
