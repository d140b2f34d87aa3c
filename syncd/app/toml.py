"""Where things stand in a TOML file.

Owns reading a TOML text into values, and the line and column of every key and value in it. `tomllib` gives the values
but keeps no positions; tree-sitter gives the positions but no values. Both read the same text, and a text that tomllib
refuses is never looked at twice. Must not know what the keys mean: that is `config.py`.
"""

import re
import tomllib
from dataclasses import dataclass
from typing import Any

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

Path = tuple[str | int, ...]
Position = tuple[int, int]  # line and column, both from 1; columns count characters, as editors do

_LANGUAGE = Language(tree_sitter_toml.language())
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_KEYS = ("bare_key", "quoted_key", "dotted_key")
_LONG_QUOTES = ('"""', "'''")
_LINE_END = re.compile(r"(?:\r?\n)?")  # right behind long quotes it is no part of the text
_ESCAPE = re.compile(r"\\(?:(?P<folded>[ \t]*\r?\n\s*)|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")


class TomlError(Exception):
    """Not TOML. `position` is where the parser stopped."""

    def __init__(self, message: str, position: Position) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value begin. For a table both are its header."""

    key: Position
    value: Position


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and where: `places` has every key, every table and every element of an array by its path."""

    values: dict[str, Any]
    places: dict[Path, Place]
    text: str

    def within(self, path: Path, index: int) -> Position:
        """Where the character `index` (from 0) of the text at `path` stands: behind the quotes, and behind escapes,
        which take more room in the file than in the text."""
        line, column = self.places[path].value
        at = _offset(self.text, line, column)
        quotes = self.text[at : at + 3] if self.text[at : at + 3] in _LONG_QUOTES else self.text[at : at + 1]
        assert quotes[:1] in ("'", '"'), "the value at this path is a text"
        at += len(quotes)
        if len(quotes) == 3:
            at += len(_LINE_END.match(self.text, at)[0])  # type: ignore[index]
        is_escaped = quotes[0] == '"'
        while index > 0:
            found = _ESCAPE.match(self.text, at) if is_escaped else None
            at += len(found[0]) if found is not None else 1
            if found is None or found["folded"] is None:
                index -= 1
        before = self.text[:at]
        return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1


def _offset(text: str, line: int, column: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.index("\n", start) + 1
    return start + column - 1


def document(text: str) -> Document:
    """Read a text. Raises `TomlError`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT.search(str(error))
        message = _AT.sub("", str(error))
        if found is not None and found[1] is not None:
            position = (int(found[1]), int(found[2]))
        else:
            lines = text.split("\n")
            position = (len(lines), len(lines[-1]) + 1)
        raise TomlError(message[:1].lower() + message[1:], position) from None
    return Document(values, _Reading(text).places, text)


class _Reading:
    """One walk over the tree of a valid text."""

    def __init__(self, text: str) -> None:
        self.places: dict[Path, Place] = {}
        self._lines = [line.encode() for line in text.split("\n")]
        self._arrays: dict[Path, int] = {}  # elements seen so far of each array of tables
        for node in Parser(_LANGUAGE).parse(text.encode()).root_node.named_children:
            self._read(node, ())

    def _position(self, node: Node) -> Position:
        row, column = node.start_point
        return row + 1, len(self._lines[row][:column].decode()) + 1

    def _read(self, node: Node, base: Path) -> None:
        if node.type == "pair":
            key, value = (child for child in node.named_children if child.type != "comment")
            path = self._placed(base, key, value)
            self._read_value(value, path)
        elif node.type in ("table", "table_array_element"):
            header = next(child for child in node.named_children if child.type in _KEYS)
            path = self._placed((), header, header)
            if node.type == "table_array_element":
                self._arrays[path] = index = self._arrays.get(path, -1) + 1
                path = (*path, index)
                self.places[path] = Place(self._position(header), self._position(header))
            for child in node.named_children:
                if child.type == "pair":
                    self._read(child, path)

    def _read_value(self, value: Node, path: Path) -> None:
        if value.type == "inline_table":
            for child in value.named_children:
                self._read(child, path)
        elif value.type == "array":
            for index, child in enumerate(child for child in value.named_children if child.type != "comment"):
                at = self._position(child)
                self.places[*path, index] = Place(at, at)
                self._read_value(child, (*path, index))

    def _placed(self, base: Path, key: Node, value: Node) -> Path:
        """Record a key. The tables that a dotted key or a header passes through stand at their first mention; an array
        of tables is passed through at its latest element."""
        path, at = base, self._position(key)
        names = _names(key)
        for index, name in enumerate(names):
            path = (*path, name)
            self.places.setdefault(path, Place(at, at))
            if index < len(names) - 1 and path in self._arrays:
                path = (*path, self._arrays[path])
        self.places[path] = Place(at, self._position(value))
        return path


def _names(key: Node) -> tuple[str, ...]:
    """The names of a bare, quoted or dotted key, unescaped by the parser that read the values."""
    assert key.text is not None
    value: Any = tomllib.loads(key.text.decode() + "=0")
    names: list[str] = []
    while isinstance(value, dict):
        name, value = next(iter(value.items()))
        names.append(name)
    return tuple(names)
