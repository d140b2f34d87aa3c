"""Formats: the ways in which one message leaves the server. All bytes of one format are the same for whoever gets them.

Owns the few formats there are, and how a payload becomes a frame in each. Must not know who gets it. What is framed
once for a format is shared: deltas by the hub, pages by those who return to the same position.
"""

from dataclasses import dataclass
from typing import Final

from syncd.net.deflate import deflated
from syncd.net.websocket import BINARY, DEFLATED, TEXT, frame
from syncd.wire.codec import JSON, MSGPACK, Codec
from syncd.wire.messages import ServerMessage


@dataclass(frozen=True, slots=True)
class Format:
    """`number`: the place in FORMATS. `is_deflated`: whether payloads that are worth it are compressed."""

    number: int
    codec: Codec
    is_deflated: bool

    def framed(self, payload: bytes) -> bytes:
        """One frame with a payload of this format's codec."""
        opcode = TEXT if self.codec.is_text else BINARY
        compressed = deflated(payload) if self.is_deflated else None
        return frame(opcode, payload) if compressed is None else frame(opcode | DEFLATED, compressed)

    def encoded(self, *messages: ServerMessage) -> bytes:
        """One frame with these messages."""
        return self.framed(self.codec.encode(*messages))


# Those of one codec stand together: a delta is encoded once for both.
FORMATS: Final = (
    Format(0, MSGPACK, is_deflated=False),
    Format(1, MSGPACK, is_deflated=True),
    Format(2, JSON, is_deflated=False),
    Format(3, JSON, is_deflated=True),
)


def format_of(codec: Codec, *, is_deflated: bool) -> Format:
    return next(item for item in FORMATS if item.codec is codec and item.is_deflated is is_deflated)
