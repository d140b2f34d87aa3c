"""Yjs's encoding of an update (version 1), walked through before a library reads it: anybody who may write a text can
write any bytes as an update of it.

Owns what is demanded of such bytes. Must not know what an update means: that is the library's affair.

1. What is passed claims no more parts than its bytes can hold, so nobody reserves memory for what is not there.
2. Its values are not nested deeper than values of this protocol are: a library that recurses does not end the process
   (30,000 arrays within each other, 60 KB, do so to Yrs).
3. What the walk does not know is not passed: a library might read it otherwise.
"""

from .values import DEPTH_MAX

_LEFT, _RIGHT, _KEYED = 0x80, 0x40, 0x20  # bits of what begins an item; the lower ones say what it holds
_NUMBER_BITS_MAX = 64


def checked(update: bytes) -> bytes:
    """The update. Raises ValueError that says what cannot be at which byte."""
    walk = _Walk(update)
    for _ in walk.times("clients"):
        structs = walk.times("structs")
        walk.number("the client id")
        walk.number("the clock")
        for _ in structs:
            walk.struct()
    for _ in walk.times("clients with deletions"):
        walk.number("the client id")
        for _ in walk.times("deletions"):
            walk.number("the clock")
            walk.number("the length")
    if walk.at != len(update):
        raise ValueError(f"byte {walk.at}: {len(update) - walk.at} bytes follow the end")
    return update


class _Walk:
    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def _bad(self, problem: str) -> ValueError:
        return ValueError(f"byte {self.at}: {problem}")

    def skip(self, count: int, what: str) -> None:
        left = len(self._data) - self.at
        if count > left:
            raise self._bad(f"{what} of {count} bytes, and {left} are left")
        self.at += count

    def byte(self, what: str) -> int:
        if self.at >= len(self._data):
            raise self._bad(f"it ends before {what}")
        self.at += 1
        return self._data[self.at - 1]

    def number(self, what: str) -> int:
        """Seven bits a byte, the lowest first; all but the last byte have their highest bit set."""
        number = shift = 0
        while (byte := self.byte(what)) & 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift >= _NUMBER_BITS_MAX:
                raise self._bad(f"{what} is longer than {_NUMBER_BITS_MAX} bits")
        return number | byte << shift

    def times(self, what: str) -> range:
        """As many times as it says that there are of something, each of which takes a byte at least."""
        count, left = self.number(f"the number of {what}"), len(self._data) - self.at
        if count > left:
            raise self._bad(f"{count} {what}, and {left} bytes are left")
        return range(count)

    def string(self, what: str) -> None:
        self.skip(self.number(f"the length of {what}"), what)

    def id(self, what: str) -> None:
        self.number(what)
        self.number(what)

    def struct(self) -> None:
        info = self.byte("a struct")
        if info in (0, 10):  # what was collected, and what is left out
            self.number("a length")
            return
        if info & _LEFT:
            self.id("what is to the left")
        if info & _RIGHT:
            self.id("what is to the right")
        if not info & (_LEFT | _RIGHT):
            if self.number("the kind of parent") == 1:
                self.string("the parent's name")
            else:
                self.id("the parent")
            if info & _KEYED:
                self.string("the key")
        self._content(info & 0x1F)

    def _content(self, kind: int) -> None:
        if kind == 1:
            self.number("the length of what is deleted")
        elif kind == 2:
            for _ in self.times("JSON values"):
                self.string("a JSON value")
        elif kind in (3, 4, 5):  # bytes, text, something embedded
            self.string("a content")
        elif kind == 6:
            self.string("the name of a format")
            self.string("a format")
        elif kind == 7:
            self._type()
        elif kind == 8:
            for _ in self.times("values"):
                self._value(1)
        elif kind == 9:
            self.string("the id of a document")
            self._value(1)
        else:
            raise self._bad(f"a content of the kind {kind}; 1 to 9 are known")

    def _type(self) -> None:
        kind = self.number("the kind of a type")
        if kind == 3:
            self.string("the name of an element")
        elif kind not in (0, 1, 2, 4, 6):
            raise self._bad(f"a type of the kind {kind}; 0 to 4 and 6 are known")

    def _value(self, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise self._bad(f"values are nested deeper than {DEPTH_MAX}")
        kind = self.byte("a value")
        if kind in (116, 119):  # bytes, text
            self.string("a value")
        elif kind == 117:
            for _ in self.times("elements"):
                self._value(depth + 1)
        elif kind == 118:
            for _ in self.times("entries"):
                self.string("a key")
                self._value(depth + 1)
        elif kind == 125:
            self.number("an integer")  # with a sign, which does not alter how long it is
        elif kind in _FIXED_BYTES:
            self.skip(_FIXED_BYTES[kind], "a number")
        else:
            raise self._bad(f"a value of the kind {kind}; 116 to 127 are known")


_FIXED_BYTES = {120: 0, 121: 0, 122: 8, 123: 8, 124: 4, 126: 0, 127: 0}  # booleans, numbers, null, undefined
