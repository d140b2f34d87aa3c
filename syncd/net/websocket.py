"""WebSocket frames: ours are made here, the peer's are taken apart by wsproto.

Owns the framing of what is sent, the limits on what is received, and what a peer's breach of RFC 6455 is called. Must
not know messages or sockets: bytes in, payloads and control frames out.

Frames from a server are not masked, so the same bytes serve every receiver: a delta is framed once for all. wsproto's
encoder would build an object and mask with nothing for each; its decoder does what is hard about receiving.

Invariants: F1 no more than `payload_bytes_max` of one message is ever held, however it is cut into frames and segments,
and whatever it inflates to; nor more than `UNFINISHED_BYTES_MAX` of all that are unfinished, as far as connections
tell `Unfinished`.
F2 nothing is handed on of a message that breaks the limit, the encoding or the kind.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from syncd.net.deflate import Inflating

TEXT, BINARY, CLOSE, PONG = 0x1, 0x2, 0x8, 0xA
REASON_BYTES_MAX = 123  # RFC 6455, 5.5: a control frame has at most 125 bytes, two of which are the code
# Of messages that have not come whole, on all connections: each may have a long one, and a byte now and then keeps it.
UNFINISHED_BYTES_MAX = 134_217_728
PIECE_BYTES_MIN = 128  # no client cuts messages so small but to make work: six bytes of an empty piece cost 10 us

NORMAL, PROTOCOL_ERROR, UNSUPPORTED_DATA, TOO_BIG = 1000, 1002, 1003, 1009
INTERNAL_ERROR, SERVICE_RESTART = 1011, 1012

DEFLATED = 0x40  # with the opcode: the payload is compressed (RFC 7692, 6)
_FINAL = _MASKED = 0x80
_NO_MASK = bytes(4)
_HEAD_BYTES = 6  # of the shortest masked frame: two, and the mask
_SIZE_16 = 126  # in the place of a size: it follows in two bytes


class FrameRefused(Exception):
    """The peer sent what cannot be taken. `code` is the close code to answer with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass(frozen=True, slots=True)
class Pinged:
    """A ping frame came; a pong with the same payload is due."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Scrap:
    """A frame came that carries next to nothing, a pong or a tiny piece of a message: work that no bytes bound."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer's close frame. `code` is what to answer with."""

    code: int


def frame(opcode: int, payload: bytes) -> bytes:
    """One final unmasked frame (RFC 6455, 5.2). `opcode`: with DEFLATED, if the payload is."""
    size = len(payload)
    if size < 126:
        return bytes((_FINAL | opcode, size)) + payload
    if size < 65536:
        return bytes((_FINAL | opcode, 126, size >> 8, size & 0xFF)) + payload
    return bytes((_FINAL | opcode, 127)) + size.to_bytes(8) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; a reason that is too long is cut between characters."""
    text = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()
    return frame(CLOSE, code.to_bytes(2) + text)


def close_code(payload: memoryview) -> tuple[int, str]:
    """Code and reason of one of our close frames."""
    return int.from_bytes(payload[:2]), str(payload[2:], "utf-8")


def frames_of(data: bytes | memoryview) -> Iterator[tuple[int, memoryview, int]]:
    """Our own frames taken apart again: opcode, payload, size of the whole frame. `data` holds whole ones."""
    view = memoryview(data)
    while view:
        size, head = view[1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(view[2:head])
        assert view[0] & 0xF0 == _FINAL and len(view) >= head + size, "a frame of ours, whole and as `frame` makes it"
        yield view[0] & 0x0F, view[head : head + size], head + size
        view = view[head + size :]


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """One frame as from a client: masked (RFC 6455, 5.3), with zeros, which alter nothing."""
    data = frame(opcode, payload)
    head = len(data) - len(payload)
    return bytes((data[0], data[1] | _MASKED)) + data[2:head] + _NO_MASK + payload


class Holder(Protocol):
    def give_up(self) -> None:
        """End the connection: too much is held, and of it for longest what has come of your message."""
        ...


class Unfinished:
    """What is held of messages that have not come whole, for all connections together."""

    def __init__(self) -> None:
        self.bytes = 0
        self._held: dict[Holder, int] = {}  # in the order in which their messages began

    def hold(self, holder: Holder, size: int) -> None:
        """So much is held for it now. If that is too much in all, those whose messages began first are ended: who means
        to finish one does so within seconds."""
        self.bytes += size - self._held.get(holder, 0)
        self._held[holder] = size
        while self.bytes > UNFINISHED_BYTES_MAX:
            oldest = next(iter(self._held))
            self.let_go(oldest)
            oldest.give_up()

    def let_go(self, holder: Holder) -> None:
        """Nothing is held for it any more. Idempotent."""
        self.bytes -= self._held.pop(holder, 0)


class Inbound:
    """The receiving half of one connection.

    It sits on wsproto's frame parser. `wsproto.connection.Connection` above that adds a queue of events, which costs
    every idle connection 0.7 KiB, and reports a peer's close frame and a breach of the protocol by the same event.

    The parser is made when something comes that is no whole message in one plain frame, and judges all from there on.
    Most connections never need one: devices send short messages, which come as they were sent. One is taken apart here
    in 3 us, there in 20, and a parser that waits is memory of an idle connection.
    """

    __slots__ = ("_buffer", "_inflating", "_is_ended", "_is_text", "_left", "_payload_bytes_max", "_protocol")

    def __init__(self, *, is_text: bool, payload_bytes_max: int, is_deflated: bool = False) -> None:
        """`is_deflated`: the peer may compress."""
        self._inflating = Inflating(payload_bytes_max) if is_deflated else None
        self._protocol: FrameProtocol | None = None
        self._left: tuple[bytes, int] | None = None  # of a piece whose messages were not all asked for, and from where
        self._is_text = is_text
        self._payload_bytes_max = payload_bytes_max
        self._buffer: bytearray | None = None  # of a message that came in pieces
        self._is_ended = False  # the peer's close frame was read: nothing after it counts

    @property
    def held_bytes(self) -> int:
        """Of a message that has not come whole."""
        return 0 if self._buffer is None else len(self._buffer)

    def grown(self) -> int:
        """By how many bytes what came has grown since this was asked last, because it was compressed."""
        if self._inflating is None:
            return 0
        grown, self._inflating.grown_bytes = max(0, self._inflating.grown_bytes), 0
        return grown

    def allow(self, payload_bytes_max: int) -> None:
        """Another bound, from the next message on."""
        self._payload_bytes_max = payload_bytes_max
        if self._inflating is not None:
            self._inflating.bytes_max = payload_bytes_max

    def receive(self, data: bytes) -> Iterator[bytes | str | Pinged | Scrap | Closed]:
        """Whole payloads and control frames. Raises `FrameRefused`."""
        if self._is_ended:
            return
        if self._protocol is None:
            at = 0
            if self._left is not None:
                data, self._left = self._left[0][self._left[1] :] + data, None
            while (plain := self._plain(data, at)) is not None:
                message, at = plain
                self._left = (data, at) if at < len(data) else None
                yield message
                self._left = None
            if at == len(data):
                return
            self._protocol = FrameProtocol(
                client=False, extensions=[] if self._inflating is None else [self._inflating]
            )
            data = data[at:]
        self._protocol.receive_bytes(data)
        try:
            for received in self._protocol.received_frames():
                payload = received.payload
                if received.opcode is Opcode.CLOSE:
                    assert isinstance(payload, tuple)
                    self._is_ended = True
                    # 1005, "no code was given", never travels: the answer then is a normal closure.
                    yield Closed(NORMAL if payload[0] == CloseReason.NO_STATUS_RCVD else int(payload[0]))
                    return
                if received.opcode is Opcode.PING:
                    assert not isinstance(payload, str | tuple)
                    yield Pinged(bytes(payload))
                elif received.opcode is Opcode.PONG:
                    yield Scrap()
                else:
                    assert not isinstance(payload, tuple)
                    whole = self._taken(payload, received.message_finished)
                    if whole is not None:
                        yield whole
                    elif received.frame_finished and len(payload) < PIECE_BYTES_MIN:
                        yield Scrap()
        except ParseFailed as breach:
            raise FrameRefused(int(breach.code), str(breach) or "malformed frame") from None

    def _plain(self, data: bytes, at: int) -> tuple[bytes | str, int] | None:
        """The message that lies whole in one frame at this place, and where the next one begins. None: whatever else
        it is, and whatever is wrong with it, the parser says."""
        if len(data) < at + _HEAD_BYTES or data[at] != (_FINAL | (TEXT if self._is_text else BINARY)):
            return None
        size, start = data[at + 1] & ~_MASKED, at + _HEAD_BYTES
        if size == _SIZE_16:
            size, start = int.from_bytes(data[at + 2 : at + 4]), start + 2
            if size < _SIZE_16:
                return None
        elif size > _SIZE_16:
            return None
        end = start + size
        if not data[at + 1] & _MASKED or end > len(data) or size > self._payload_bytes_max:
            return None
        mask = data[start - 4 : start] * (size // 4 + 1)
        payload = (int.from_bytes(data[start:end]) ^ int.from_bytes(mask[:size])).to_bytes(size)
        if not self._is_text:
            return payload, end
        try:
            return payload.decode(), end
        except UnicodeDecodeError:
            return None

    def _taken(self, payload: bytes | bytearray | str, is_last: bool) -> bytes | str | None:
        """The whole payload, once its last piece is here."""
        if isinstance(payload, str) is not self._is_text:
            expected = "text frames (JSON)" if self._is_text else "binary frames (MessagePack)"
            raise FrameRefused(UNSUPPORTED_DATA, f"this subprotocol has {expected} only")
        # The pieces of text are kept as UTF-8: a list of them would let a peer that sends single characters make each
        # cost fifty bytes.
        piece = payload.encode() if isinstance(payload, str) else payload
        held = 0 if self._buffer is None else len(self._buffer)
        if held + len(piece) > self._payload_bytes_max:
            raise FrameRefused(TOO_BIG, f"a message has at most {self._payload_bytes_max} bytes")
        if is_last and self._buffer is None:
            return payload if isinstance(payload, str) else bytes(payload)
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer += piece
        if not is_last:
            return None
        whole, self._buffer = self._buffer, None
        return whole.decode() if self._is_text else bytes(whole)
