"""TLS over any byte stream, and the certificates of a listener.

Owns encryption between a `Transport` and whoever uses it, by OpenSSL on memory buffers, so that one class serves
sockets, doubles and simulated networks; and the files of a certificate, which are looked at again now and then, because
they are renewed every few weeks and a restart should not be needed for it. Must not know protocols.

The handshake is done by whoever receives first. So it counts, like a request that does not come, against the limits on
the first request: a stranger who connects and says nothing holds one connection for `header_s`, and no place before it.

Invariants: T1 no more than one record is encrypted and not yet handed over, so a slow reader costs 16 KiB beside what
OpenSSL keeps. T2 bytes count as taken when their record has been handed over whole, not before: whoever sends is told
that something waits as long as something does (port rule P6 brings the same bytes again). T3 an end of the inner stream
without a close_notify is never taken for the end of what was said.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from syncd.env.ports import Listener, Transport, TransportClosed

RECORD_BYTES: Final = 16_384  # RFC 8446, 5.1: the most that one record carries
# One that goes in one segment. Records begin so small, grow while the stream takes them whole, and are small again when
# it does not: on a slow link progress shows in steps of a segment, and a receiver can use what has come.
SEGMENT_BYTES: Final = 1_300
RECEIVE_BYTES: Final = 65_536
RENEWED_S: Final = 60.0  # how often, at most, a listener looks whether its certificate has been renewed


class BadCertificate(Exception):
    """A certificate or its key cannot be used. The text says which file, and why."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a listener offers: TLS 1.2 and 1.3 with Python's choice of ciphers. Raises `BadCertificate`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could ask for one handshake after the other
    context.set_alpn_protocols(["http/1.1"])
    for file in (certificate, key):
        if not file.is_file():
            raise BadCertificate(f"{file}: there is no such file")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "no PEM").replace("_", " ").lower()
        raise BadCertificate(f"{certificate} with {key}: {reason}") from None
    except (OSError, ValueError) as error:
        raise BadCertificate(f"{certificate} with {key}: {error}") from None
    return context


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal, where nobody sits.
    raise ValueError("the key is encrypted; a daemon cannot ask for its password")


class TlsTransport:
    """A `Transport` that speaks TLS through another one, which it owns."""

    __slots__ = (
        *("_changed", "_inner", "_input", "_is_aborted", "_is_ended", "_is_open", "_output", "_owed", "_piece_bytes"),
        *("_rest", "_tls", "peer"),
    )

    def __init__(self, inner: Transport, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """`server_name`: of the server that a client wants to reach; None: we are the server."""
        self.peer = inner.peer
        self._inner = inner
        self._input, self._output = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._input, self._output, server_side=server_name is None, server_hostname=server_name
        )
        self._rest = memoryview(b"")  # of the record that was begun
        self._owed = 0  # bytes that are in the record on its way, and were not counted as taken
        self._piece_bytes = SEGMENT_BYTES  # in the next record
        self._is_open = False  # the handshake is done
        self._is_ended = False  # nothing more can be sent
        self._is_aborted = False  # nor received: what OpenSSL still holds was not read in time
        self._changed: trio.lowlevel.ParkingLot | None = trio.lowlevel.ParkingLot()  # until it is open

    def send_now(self, data: bytes | memoryview) -> int:
        if self._is_ended:
            raise TransportClosed("closed")
        if not self._is_open or not self._flush():
            return 0
        view = memoryview(data)
        taken, self._owed = self._owed, 0
        assert taken <= len(view), "P6: what was offered and not taken comes first"
        while taken < len(view):
            piece = view[taken : taken + self._piece_bytes]
            try:
                self._tls.write(piece)
            except ssl.SSLError as error:
                raise TransportClosed(_reason(error)) from None
            if not self._flush():
                self._owed, self._piece_bytes = len(piece), SEGMENT_BYTES
                break
            taken += len(piece)
            if len(piece) == self._piece_bytes:
                self._piece_bytes = min(RECORD_BYTES, 2 * self._piece_bytes)
        return taken

    async def receive(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._is_aborted:
                await trio.lowlevel.cancel_shielded_checkpoint()
                raise TransportClosed("closed")
            try:
                if self._is_open:
                    data = self._tls.read(bytes_max)
                    await trio.lowlevel.cancel_shielded_checkpoint()  # not one that could lose what was read
                    return data
                self._tls.do_handshake()
                await self._opened()
                continue
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                await trio.lowlevel.checkpoint()
                return b""
            except ssl.SSLError as error:
                with suppress(TransportClosed):
                    self._flush()  # the alert that says why
                raise TransportClosed(_reason(error)) from None
            if not self._is_open:
                await self._flush_all()
            elif not self._is_ended:  # else what found no room before the end is lost, and what comes is read on
                self._flush()  # an answer to a change of keys; who sends next brings it on its way otherwise
            if received := await self._inner.receive(RECEIVE_BYTES):
                self._input.write(received)
            else:
                self._input.write_eof()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._changed is not None and not self._is_ended:
            await self._changed.park()
        if self._is_ended:
            raise TransportClosed("closed")
        await self._flush_all()

    def shutdown(self) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        with suppress(ssl.SSLError, TransportClosed):
            if self._is_open:
                with suppress(ssl.SSLWantReadError):  # the peer's own close_notify comes later, or never
                    self._tls.unwrap()
                self._flush()
        self._inner.shutdown()
        self._wake()

    def abort(self) -> None:
        self._is_ended = self._is_aborted = True
        self._inner.abort()
        self._wake()

    async def _opened(self) -> None:
        await self._flush_all()
        self._is_open = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.unpark_all()

    def _flush(self) -> bool:
        """Hand over what is encrypted; whether nothing is left. Raises `TransportClosed`."""
        while True:
            if not self._rest:
                if not self._output.pending:
                    return True
                self._rest = memoryview(self._output.read())
            taken = self._inner.send_now(self._rest)
            self._rest = self._rest[taken:]
            if self._rest:
                return False

    async def _flush_all(self) -> None:
        while not self._flush():
            await self._inner.wait_writable()


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "TLS: the stream was cut off"
    return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"


class Certificate:
    """A certificate and its key in two PEM files; the same file may hold both. `warn` is told of one that is bad."""

    def __init__(self, certificate: Path, key: Path, warn: Callable[[str], None]) -> None:
        """Raises `BadCertificate`."""
        self._certificate, self._key, self._warn = certificate, key, warn
        self._marks = self._marked()
        self._context = server_context(certificate, key)
        self._looked_s = trio.current_time()

    def context(self) -> ssl.SSLContext:
        """What new connections are offered. A renewed certificate is taken within a minute; one that cannot be used
        leaves the old one in force."""
        now_s = trio.current_time()
        if now_s - self._looked_s >= RENEWED_S:
            self._looked_s = now_s
            marks = self._marked()
            if marks != self._marks:
                self._marks = marks
                try:
                    self._context = server_context(self._certificate, self._key)
                except BadCertificate as error:
                    self._warn(f"the renewed certificate is not used: {error}")
        return self._context

    def _marked(self) -> tuple[object, ...]:
        """Changes when a file does."""
        marks: list[object] = []
        for file in (self._certificate, self._key):
            try:
                found = file.stat()
            except OSError:
                marks.append(None)
            else:
                marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(marks)


class TlsListener:
    """A `Listener` whose connections speak TLS. Owns the one that it wraps."""

    def __init__(self, inner: Listener, certificate: Certificate) -> None:
        self.address = inner.address
        self._inner, self._certificate = inner, certificate

    async def accept(self) -> TlsTransport:
        return TlsTransport(await self._inner.accept(), self._certificate.context())

    def close(self) -> None:
        self._inner.close()
