"""permessage-deflate (RFC 7692) without context takeover: each message is compressed by itself.

Owns which offers are accepted, the compression of what is sent, and the bounded decompression of what is received. Must
not know frames, messages or sockets. With context takeover, as the RFC has it by default, a compressed message would
depend on all that went before it on its connection: nothing could be shared among subscribers, and every connection
would hold two windows, some 300 KiB.

Invariants: Z1 an inflater never gives out, nor allocates for it, more than one byte beyond what it is allowed. Z2 it
lives as long as one message: an idle connection holds none. Z3 what is compressed for one is readable by each that
agreed to `Agreement.is_sent`.
"""

import zlib
from dataclasses import dataclass
from typing import Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

NAME: Final = "permessage-deflate"
WINDOW_BITS_MIN: Final = 8
WINDOW_BITS_MAX: Final = 15

# Of a payload; shorter ones are sent as they are. A delta of one small change has 250 bytes and would have 220, for 19
# us on each side; two changes have 380 and 239. (zlib level 1 on bench's changes.)
DEFLATE_BYTES_MIN: Final = 256
# 200 KiB of small documents take 0.9 ms at level 1 (to 16.3 KiB), 3.7 ms at level 6 (to 17.0 KiB): the loop waits.
LEVEL: Final = 1
OFFERS_MAX: Final = 8  # that are looked at: Autobahn makes three, browsers one

_TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692, 7.2.1: the end of each message, which does not travel
_FLAGS: Final = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS: Final = ("server_max_window_bits", "client_max_window_bits")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What client and server agreed on. `response`: the header Sec-WebSocket-Extensions of the answer. `is_sent`: our
    messages may come compressed; else only the client's do."""

    response: str
    is_sent: bool


def agreed(header: str) -> Agreement | None:
    """The first offer in Sec-WebSocket-Extensions that can be accepted; None: compression is not used.

    That neither side takes over its context is demanded whether it was offered or not: a server may (RFC 7692, 7.1.1).
    A client that asks for a smaller window than what we compress with gets its messages as they are, which is always
    allowed, instead of a compression of its own.
    """
    for offer in header.split(",")[:OFFERS_MAX]:
        name, *items = (part.strip() for part in offer.split(";"))
        parameters = _parameters(items) if name.lower() == NAME else None
        if parameters is None:
            continue
        response = "; ".join((NAME, *_FLAGS))
        window = parameters.get("server_max_window_bits")
        if window is None:
            return Agreement(response, is_sent=True)
        return Agreement(f"{response}; server_max_window_bits={window}", is_sent=int(window) == WINDOW_BITS_MAX)
    return None


def _parameters(items: list[str]) -> dict[str, str] | None:
    """The parameters of one offer; None if one is unknown, repeated, or has a wrong value: then it is declined."""
    found: dict[str, str] = {}
    for item in items:
        name, has_value, value = (part.strip() for part in item.partition("="))
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if name in found:
            return None
        if name in _FLAGS:
            is_right = not has_value
        elif name in _WINDOWS:
            # The client may say only that it understands a limit of its own window; ours always has a value.
            is_right = _is_window(value) if has_value else name == "client_max_window_bits"
        else:
            is_right = False
        if not is_right:
            return None
        found[name] = value
    return found


def _is_window(value: str) -> bool:
    return value in map(str, range(WINDOW_BITS_MIN, WINDOW_BITS_MAX + 1))


def deflated(payload: bytes) -> bytes | None:
    """The compressed payload of one message; None if it is better sent as it is."""
    if len(payload) < DEFLATE_BYTES_MIN:
        return None
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS_MAX)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[: -len(_TAIL)] if len(data) < len(payload) else None


class Inflating(Extension):
    """The receiving half, as wsproto's frame parser calls it.

    Not wsproto's own `PerMessageDeflate`: that decompresses whatever comes to whatever it becomes, and a frame of 1 MiB
    can become 1 GiB. `bytes_max` bounds both, what comes and what becomes of it: blocks that hold nothing have no end.
    """

    __slots__ = (
        "_inflater",
        "_is_control",
        "_is_deflated",
        "_left_bytes",
        "_left_in_bytes",
        "bytes_max",
        "grown_bytes",
    )

    name = NAME

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._inflater: zlib._Decompress | None = None
        self._is_control = self._is_deflated = False
        self._left_bytes = self._left_in_bytes = 0  # of this message, to give out and to take
        self.grown_bytes = 0  # by so much more was given out than taken, of all messages

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        raise AssertionError("a server accepts, it does not offer")

    # -- what wsproto calls; it lets a `ParseFailed` through, which says more than the code that it would take ---------

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        # Called again for the same header, if that came in pieces.
        self._is_control = opcode.iscontrol()
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_deflated, self._inflater = rsv.rsv1, None
        elif rsv.rsv1:
            raise ParseFailed("only the first frame of a message says that it is compressed")  # RFC 7692, 6
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes:
        if self._is_control or not self._is_deflated or not data:
            return data
        if self._inflater is None:
            self._inflater = zlib.decompressobj(-WINDOW_BITS_MAX)
            self._left_bytes = self._left_in_bytes = self.bytes_max
        self._left_in_bytes -= len(data)
        if self._left_in_bytes < 0:
            raise self._too_big()
        return self._inflated(self._inflater, data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | None:
        if self._is_control or not fin or not self._is_deflated:
            return None
        inflater, self._inflater, self._is_deflated = self._inflater, None, False
        if inflater is None:
            raise _unreadable()  # RFC 7692, 7.2.3.6: even an empty message has a byte
        return b"" if inflater.eof else self._inflated(inflater, _TAIL)

    def _inflated(self, inflater: "zlib._Decompress", data: bytes) -> bytes:
        try:
            inflated = inflater.decompress(data, self._left_bytes + 1)
        except zlib.error:
            raise _unreadable() from None
        self._left_bytes -= len(inflated)
        self.grown_bytes += len(inflated) - len(data)
        if self._left_bytes < 0 or inflater.unconsumed_tail:
            raise self._too_big()
        # A final block ends the data; one byte may follow it (RFC 7692, 7.2.3.4). zlib would keep the rest for us.
        if len(inflater.unused_data) > 1:
            raise _unreadable()
        return inflated

    def _too_big(self) -> ParseFailed:
        text = f"a message has at most {self.bytes_max} bytes, compressed or not"
        return ParseFailed(text, CloseReason.MESSAGE_TOO_BIG)


def _unreadable() -> ParseFailed:
    return ParseFailed("a compressed message cannot be decompressed", CloseReason.INVALID_FRAME_PAYLOAD_DATA)
