"""The carriage of one polled connection: a byte stream on the server's side, numbered HTTP bodies on the client's.

Owns what is between a `Connection` and the requests that carry its messages: the bytes that nobody has fetched or read
yet, the numbers that make a repeated request harmless, and how the end is told. Must not know HTTP (`fallback`), what a
message says, or what it leads to: to a `Connection`, `PolledTransport` is a socket like any other, so the conversation,
its order and its bounds are the same code.

Whole frames come and go. What `Delivery` and the hub hand over is framed once for all subscribers; here the head of the
frame is left off again, and what a request brings gets one, with a mask of zeros, which alters nothing.

Invariants: G1 message n of the client is handed on once, after n - 1, however often and in whatever order its requests
come. G2 answer k holds the same bytes each time it is fetched, and is kept until `after` = k says that it was received.
G3 what the client has not acknowledged counts as not sent: beyond `BUFFER_BYTES` of it nothing more is taken, and the
connection is behind, as on a socket that is full. G4 the end is told after the last message, and again each time.
"""

from collections import deque
from typing import Final

import trio

from syncd.env.ports import TransportClosed
from syncd.net.websocket import BINARY, CLOSE, TEXT, close_code, frames_of, masked_frame

BUFFER_BYTES: Final = 65_536  # in each direction, and then one frame more: frames are taken whole, or not at all
GATHER_S: Final = 0.01  # what comes so soon after the first message travels with it: pages, neighbouring deltas
POLLS_MAX: Final = 2  # of one connection that wait: the present one, and one that its client has given up
LOST: Final = (1006, "the connection ended without a close")


class OutOfOrder(Exception):
    """The number of a request is neither the next nor that of the last one. `expected`: the next."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"expected {expected}")
        self.expected = expected


class Ended(Exception):
    """The conversation is over. `code`: a WebSocket close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class PolledTransport:
    """`env.ports.Transport` for the server's end. The methods from `offer` on are the other end.

    What is taken is taken whole: a frame that several subscribers get is kept as the one object that it is.
    `held_bytes` is what was taken and not released yet, also while it is in an answer.
    """

    __slots__ = (
        *("_changed", "_inward", "_is_aborted", "_is_inward_ended", "_is_outward_ended", "_outward", "_unread_bytes"),
        *("held_bytes", "peer"),
    )

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.held_bytes = 0
        self._inward: deque[memoryview] = deque()
        self._unread_bytes = 0  # in it
        self._outward: deque[bytes | memoryview] = deque()
        self._is_inward_ended = self._is_outward_ended = self._is_aborted = False
        self._changed = trio.lowlevel.ParkingLot()  # few wait here: the reader, a pump, the requests under way

    # -- the server's end ----------------------------------------------------------------------------------------

    def send_now(self, data: bytes | memoryview) -> int:
        self._check_sending()
        if self.held_bytes >= BUFFER_BYTES:
            return 0
        self._outward.append(data)
        self.held_bytes += len(data)
        self._changed.unpark_all()
        return len(data)

    async def receive(self, bytes_max: int) -> bytes:
        assert bytes_max > 0
        await trio.lowlevel.checkpoint()
        while not self._is_aborted:
            if self._inward:
                first = self._inward.popleft()
                if len(first) > bytes_max:
                    self._inward.appendleft(first[bytes_max:])
                self._unread_bytes -= min(len(first), bytes_max)
                self._changed.unpark_all()
                return bytes(first[:bytes_max])
            if self._is_inward_ended:
                return b""
            await self._changed.park()
        raise TransportClosed("aborted")

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            self._check_sending()
            if self.held_bytes < BUFFER_BYTES:
                return
            await self._changed.park()

    def shutdown(self) -> None:
        self._is_outward_ended = True
        self._changed.unpark_all()

    def abort(self) -> None:
        """What was taken may still be fetched; what was brought and not read is dropped."""
        self._is_aborted = self._is_outward_ended = True
        self._inward.clear()
        self._unread_bytes = 0
        self._changed.unpark_all()

    def _check_sending(self) -> None:
        if self._is_aborted or self._is_outward_ended:
            raise TransportClosed("aborted" if self._is_aborted else "nothing may follow the end of the stream")

    # -- the other end -------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether `offer` takes something now."""
        return self._unread_bytes < BUFFER_BYTES or self._is_aborted

    @property
    def has_unfetched(self) -> bool:
        return bool(self._outward)

    @property
    def is_ended(self) -> bool:
        """Whether nothing will be sent any more."""
        return self._is_outward_ended

    def offer(self, data: bytes) -> None:
        """Bring bytes. Those for an aborted transport are lost, as they would be on a wire."""
        assert self.has_room, "whoever brings something has looked"
        if not self._is_aborted:
            self._inward.append(memoryview(data))
            self._unread_bytes += len(data)
            self._changed.unpark_all()

    def end_inward(self) -> None:
        """The client's half-close."""
        self._is_inward_ended = True
        self._changed.unpark_all()

    def fetched(self) -> bytes | memoryview | None:
        """The next piece as it was taken; it stays held until `release`."""
        return self._outward.popleft() if self._outward else None

    def release(self, size: int) -> None:
        """So many bytes have arrived."""
        self.held_bytes -= size
        assert self.held_bytes >= 0, "nothing is released twice"
        self._changed.unpark_all()

    async def wait_changed(self) -> None:
        """Until something was taken, read or ended. A checkpoint."""
        await self._changed.park()


class Carriage:
    """Numbers in both directions. `answer_bytes_max`: of one answer; the longest frame fits."""

    __slots__ = (
        *("_answer_bytes_max", "_answered_n", "_end", "_frames", "_is_text", "_kept", "_kept_bytes", "_polls"),
        *("_taken_n", "transport"),
    )

    def __init__(self, transport: PolledTransport, *, is_text: bool, answer_bytes_max: int) -> None:
        self.transport = transport
        self._is_text = is_text
        self._answer_bytes_max = answer_bytes_max
        self._taken_n = 0  # the client's messages up to this one were handed on
        self._frames: deque[tuple[memoryview, int]] = deque()  # payloads to send; bytes to release for each
        self._answered_n = 0  # answers that were made
        self._kept: bytes | None = None  # the last of them, until it is acknowledged
        self._kept_bytes = 0  # to release then
        self._polls: list[trio.CancelScope] = []
        self._end: tuple[int, str] | None = None  # code and reason; no exception is kept, whose traceback grows

    # -- in ------------------------------------------------------------------------------------------------------

    async def take(self, n: int, payload: bytes) -> None:
        """Message n of the client, once. Waits for room. Raises `OutOfOrder`, `Ended`."""
        while n != self._taken_n:
            if n != self._taken_n + 1:
                raise OutOfOrder(self._taken_n + 1)
            if self.transport.is_ended:
                raise self._ended()
            if self.transport.has_room:
                self._taken_n = n
                self.transport.offer(masked_frame(TEXT if self._is_text else BINARY, payload))
            else:
                await self.transport.wait_changed()
        await trio.lowlevel.checkpoint()

    # -- out -----------------------------------------------------------------------------------------------------

    async def answer(self, after: int, wait_s: float) -> bytes | None:
        """The messages of answer `after` + 1, and with that the word that those up to `after` have arrived; None if
        there is nothing to tell within `wait_s`. Raises `OutOfOrder`, `Ended`.

        Who asks twice gets the same answer twice, also when both ask at the same time: one of them may be a request
        that was lost on its way back. Of more than `POLLS_MAX` the oldest is answered with nothing."""
        await trio.lowlevel.checkpoint()
        if (ready := self._ready(after)) is not None:
            return ready
        scope = trio.CancelScope(deadline=trio.current_time() + wait_s)
        self._polls.append(scope)
        if len(self._polls) > POLLS_MAX:
            self._polls[0].cancel()
        try:
            with scope:
                while not self._has_news:
                    await self.transport.wait_changed()
                if after == self._answered_n and not self.transport.is_ended:
                    await trio.sleep(GATHER_S)
        finally:
            self._polls.remove(scope)
        return self._ready(after)

    def _ready(self, after: int) -> bytes | None:
        """The answer as far as it can be given now. Without await: of two that wait, one makes it, the other repeats
        it."""
        if after == self._answered_n - 1 and self._kept is not None:
            return self._kept
        if after != self._answered_n:
            raise OutOfOrder(self._answered_n)
        if self._kept is not None:
            self._kept = None
            self.transport.release(self._kept_bytes)
        if (made := self._made()) is not None:
            self._kept = made
            self._answered_n += 1
        elif self.transport.is_ended:
            raise self._ended()
        return made

    @property
    def _has_news(self) -> bool:
        transport = self.transport
        return bool(self._frames) or self._kept is not None or transport.has_unfetched or transport.is_ended

    def _made(self) -> bytes | None:
        """The frames that wait, as many as one answer holds, as one body. None: there are none."""
        self._fetch()
        payloads: list[memoryview] = []
        size = self._kept_bytes = 0
        while self._frames and (not payloads or size + len(self._frames[0][0]) <= self._answer_bytes_max):
            payload, held_bytes = self._frames.popleft()
            payloads.append(payload)
            size += len(payload)
            self._kept_bytes += held_bytes
        if not payloads:
            return None
        # Each text frame is an array of messages (SPEC 5.1), and so is the whole.
        return b"[" + b",".join(bytes(p[1:-1]) for p in payloads) + b"]" if self._is_text else b"".join(payloads)

    def _fetch(self) -> None:
        """Take apart what the connection has sent."""
        while (piece := self.transport.fetched()) is not None:
            for opcode, payload, frame_bytes in frames_of(piece):
                if opcode in (TEXT, BINARY):
                    self._frames.append((payload, frame_bytes))
                    continue
                self.transport.release(frame_bytes)
                if opcode == CLOSE and self._end is None:
                    self._end = close_code(payload)
                    self._answer_close(self._end[0])

    def _answer_close(self, code: int) -> None:
        """The client's close frame and the end of its bytes, as if it had answered at once: it has nothing to add, and
        the connection need not wait for it."""
        if self.transport.has_room:
            self.transport.offer(masked_frame(CLOSE, code.to_bytes(2)))
        self.transport.end_inward()

    def _ended(self) -> Ended:
        self._fetch()
        return Ended(*(self._end or LOST))
