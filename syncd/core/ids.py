"""Identifiers: what a space, a document, a device and a change may be called.

Owns the syntax of names and the fixed sizes of ids. Must not know where ids come from (entropy lives in `env`) or how
they are stored. Every check raises `BadName` with what was expected, so that the same sentence reaches a client.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

ID_BYTES = 16
NONCE_BYTES = 8
SEQ_MAX = 2**53 - 1  # the largest integer that JSON readers keep exact
NAME_BYTES_MAX = 160  # an LMDB key holds 511 bytes: 5 + 160 + 1 + 160 leaves room for every table
SPACE_BYTES_MAX = 200
SPACE_SEGMENTS_MAX = 16

# Ids that the server makes without drawing them (its own, and those of users who write over HTTP) begin with it, and a
# client's may not, or one could take another's place. A random id begins so once in 2^48.
RESERVED_DEVICE_PREFIX = bytes(6)

INBOX = "_inbox"
PREFERENCES = "_preferences"
PROFILE = "_profile"
MEMBERS = "_members"  # of a space: the id of a document is a user's, its field `role` what that user may do
WRITABLE_RESERVED = frozenset({INBOX, PREFERENCES, PROFILE, MEMBERS})

_SEGMENT = r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+"
_SPACE = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,{SPACE_SEGMENTS_MAX - 1}}}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_PLAIN = re.compile(r"[A-Za-z0-9_~-]+", re.ASCII)  # text that stands for itself, but for dots, of which some do not
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-")


class BadName(ValueError):
    """A name or an id breaks its syntax; the message says what was expected."""


class Dot(NamedTuple):
    """The identity of a change: the device that made it and its number in that device's log of one space."""

    device: bytes
    n: int


class Position(NamedTuple):
    """A place in a space's order. `seq` has a meaning only inside its `epoch`."""

    epoch: bytes
    seq: int

    def __str__(self) -> str:
        return f"{self.seq}@{self.epoch.hex()}"


def parse_position(text: str) -> Position:
    """Read `SEQ@EPOCH` (HTTP's way of writing a position). Raises `BadName`."""
    seq, at, epoch = text.partition("@")
    if (
        not (at and re.fullmatch(r"[0-9]{1,16}", seq, re.ASCII) and re.fullmatch(r"[0-9a-f]{32}", epoch))
        or int(seq) > SEQ_MAX
    ):
        raise BadName("a position is SEQ@EPOCH: a decimal integer, '@' and 32 lower-case hexadecimal digits")
    return Position(bytes.fromhex(epoch), int(seq))


class Place(NamedTuple):
    """Where a reader of a space's feed stands: everything up to `complete` is known, and pages beyond it were taken up
    to `resume`. Between two pages both are needed: a document that changes again moves behind the pages already taken,
    with its earlier changes still unseen. Where they are equal it is a position, and is written as one. `start`: of a
    reading that began with nothing and is not complete yet, where the head was then: what is deleted later may be among
    the documents that were read."""

    epoch: bytes
    complete: int
    resume: int
    start: int = 0

    def __str__(self) -> str:
        between = "" if self.resume == self.complete else f"~{self.complete}"
        begun = f"~{self.start}" if self.start else ""
        return f"{self.resume}{between}{begun}@{self.epoch.hex()}"


def parse_place(text: str) -> Place:
    """Read `SEQ@EPOCH`, `RESUME~COMPLETE@EPOCH` with 0 < COMPLETE < RESUME, or `RESUME~0~START@EPOCH`.
    Raises `BadName`."""
    numbers, _, epoch = text.partition("@")
    try:
        parsed = [parse_position(f"{number}@{epoch}") for number in numbers.split("~")]
        seqs = [position.seq for position in parsed]
        match seqs:
            case [resume]:
                return Place(parsed[0].epoch, resume, resume)
            case [resume, complete] if 0 < complete < resume:
                return Place(parsed[0].epoch, complete, resume)
            case [resume, 0, start] if resume and start:
                return Place(parsed[0].epoch, 0, resume, start)
    except BadName:
        pass
    raise BadName(
        "a place in a feed is SEQ@EPOCH, or between two pages RESUME~COMPLETE@EPOCH or RESUME~0~START@EPOCH, as an"
        " answer's 'to' gave it"
    )


def check_space(name: object) -> str:
    """Return `name` if it is a valid space name, else raise `BadName`."""
    if not isinstance(name, str):
        raise BadName("a space name is text")
    if len(name) > SPACE_BYTES_MAX or not _SPACE.fullmatch(name):
        raise BadName(
            f"a space name is 1-{SPACE_SEGMENTS_MAX} segments of [A-Za-z0-9._~-] joined by '/', at most"
            f" {SPACE_BYTES_MAX} bytes; other bytes of a segment are percent-encoded (%2F, upper-case digits)"
        )
    if "." in name and any(segment in (".", "..") for segment in name.split("/")):
        raise BadName("the segments '.' and '..' are not allowed in a space name")
    return name


def check_name(name: object, what: str) -> str:
    """Return `name` if it may name a collection, document, field or map key (`what` says which). Raises `BadName`."""
    if not isinstance(name, str):
        raise BadName(f"{what} is text of 1-{NAME_BYTES_MAX} bytes")
    try:
        return _checked_name(name)
    except BadName as wrong:
        raise BadName(f"{what} {wrong}") from None


# Names in each operation, and the same few again and again: remembering them halves the cost of parsing a change.
# 1 MB at most: what is not a name is not remembered.
@lru_cache(maxsize=4096)
def _checked_name(name: str) -> str:
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise BadName("is valid UTF-8") from None
    if not 0 < size <= NAME_BYTES_MAX:
        raise BadName(f"has 1-{NAME_BYTES_MAX} bytes, not {size}")
    if _CONTROL.search(name):
        raise BadName("has no control characters")
    return name


def check_id(value: object, what: str) -> bytes:
    """Return `value` if it is an id of 16 bytes, else raise `BadName`."""
    if type(value) is not bytes or len(value) != ID_BYTES:
        raise BadName(f"{what} is {ID_BYTES} bytes")
    return value


def segment(text: str) -> str:
    """Percent-encode any text (a user id, say) as one segment of a space name."""
    if _PLAIN.fullmatch(text):
        return text
    encoded = "".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in text.encode())
    return encoded if encoded not in (".", "..") else encoded.replace(".", "%2E")


@lru_cache(maxsize=1024)  # asked for again and again about the same few users of a transaction
def user_space(user: str) -> str:
    """The space that belongs to one user: inbox, preferences, profile. Raises `BadName` if the user id is too long."""
    return check_space(f"user/{segment(user)}")


def user_of(space: str) -> str | None:
    """Whose space it is, if it is a user's."""
    head, _, name = space.partition("/")
    user = unquote(name, errors="replace")
    # A name may be encoded in more ways than one, and only one of them is the user's.
    return user if head == "user" and name and segment(user) == name else None
