"""Checks plain data against a CDDL schema (RFC 8610): the part of the language that syncd.cddl uses.

The libraries at hand reject valid messages (choices in arrays) or accept wrong ones (empty maps, occurrences), so
this reads the schema itself: rules, choices, groups, arrays with `?`, `*`, `+` and n*m, maps with text keys and
`* tstr => type`, ranges, `.size`, and the prelude's simple types. Anything else in a schema is an error, not ignored.

Data is as MessagePack or CBOR decode it: None, bool, int, float, str, bytes, list, dict.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

Check = Callable[[Any], bool]

_TOKEN = re.compile(r'\s+|;[^\n]*|("[^"]*"|-?\d+|\.\.|\.size|=>|[A-Za-z][A-Za-z0-9_-]*|[][(){}=/,:?*+])')

_PRELUDE: dict[str, Check] = {
    "any": lambda v: True,
    "null": lambda v: v is None,
    "bool": lambda v: type(v) is bool,
    "uint": lambda v: type(v) is int and v >= 0,
    "int": lambda v: type(v) is int,
    "float64": lambda v: type(v) is float,
    "tstr": lambda v: type(v) is str,
    "bstr": lambda v: type(v) is bytes,
}


class SchemaError(ValueError):
    """The schema is not CDDL, or uses more of it than is supported."""


class Entry(NamedTuple):
    """One entry of a group: at least `least` and at most `most` times `check`, under `key` in a map (None: `* tstr =>`
    when `is_wild`). `group`: instead of one item, the entries of a named group, in line."""

    least: int
    most: int
    key: str | None
    is_wild: bool
    check: Check
    group: str | None


@dataclass(frozen=True)
class Schema:
    """A parsed schema. `checks`: rule name -> check; `groups`: name -> entries of a group rule."""

    checks: dict[str, Check]
    groups: dict[str, list[Entry]]

    def matches(self, rule: str, data: Any) -> bool:
        """Whether the data is what the rule describes."""
        return self.checks[rule](data)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise SchemaError(f"unknown token at: {text[position : position + 30]!r}")
            position = found.end()
            if found.group(1):
                self.tokens.append(found.group(1))
        self.at = 0
        self.schema = Schema(dict(_PRELUDE), {})

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise SchemaError(
                f"expected {expected or 'more'}, found {token!r} after {self.tokens[self.at - 5 : self.at]}"
            )
        self.at += 1
        return token

    def rules(self) -> Schema:
        while self.peek():
            name = self.take()
            self.take("=")
            if self.peek() == "(":
                self.take("(")
                self.schema.groups[name] = self.group(")")
            else:
                self.schema.checks[name] = self.choice()
        return self.schema

    def choice(self) -> Check:
        options = [self.single()]
        while self.peek() == "/":
            self.take("/")
            options.append(self.single())
        return options[0] if len(options) == 1 else lambda v: any(option(v) for option in options)

    def single(self) -> Check:
        token = self.peek()
        if token == "[":
            self.take()
            entries = self.group("]")
            return lambda v: type(v) is list and self.array(self.flat(entries), 0, v, 0)
        if token == "{":
            self.take()
            entries = self.group("}")
            return lambda v: type(v) is dict and self.map(entries, v)
        if token == "(":
            self.take()
            inner = self.choice()
            self.take(")")
            return inner
        self.take()
        if token.startswith('"'):
            text = token[1:-1]
            return lambda v: type(v) is str and v == text
        if re.fullmatch(r"-?\d+", token):
            return self.range(int(token))
        if self.peek() == ".size":
            return self.sized(token)
        return lambda v: self.schema.checks[token](v)

    def range(self, low: int) -> Check:
        if self.peek() != "..":
            return lambda v: type(v) is int and v == low
        self.take("..")
        high = int(self.take())
        return lambda v: type(v) is int and low <= v <= high

    def sized(self, name: str) -> Check:
        self.take(".size")
        if self.peek() == "(":
            self.take("(")
            size = self.range(int(self.take()))
            self.take(")")
        else:
            size = self.range(int(self.take()))
        return lambda v: self.schema.checks[name](v) and size(len(v.encode() if type(v) is str else v))

    def group(self, end: str) -> list[Entry]:
        entries = []
        while self.peek() != end:
            entries.append(self.entry())
            if self.peek() != end:
                self.take(",")
        self.take(end)
        return entries

    def entry(self) -> Entry:
        least, most = self.occurrence()
        if self.peek(1) == "=>":
            if self.take() != "tstr":
                raise SchemaError("only `tstr =>` is supported")
            self.take("=>")
            return Entry(least, most, None, True, self.choice(), None)
        if self.peek(1) == ":":
            key = self.take().strip('"')
            self.take(":")
            return Entry(least, most, key, False, self.choice(), None)
        name = self.peek()
        is_alone = self.peek(1) in (",", "]", "}", ")")
        return Entry(least, most, None, False, self.choice(), name if is_alone else None)

    def occurrence(self) -> tuple[int, int]:
        token = self.peek()
        if token == "?":
            self.take()
            return 0, 1
        if token == "+":
            self.take()
            return 1, 2**31
        if token == "*":
            self.take()
            return 0, 2**31
        if token.isdigit() and self.peek(1) == "*":
            self.take()
            self.take("*")
            return int(token), int(self.take())
        return 1, 1

    def flat(self, entries: list[Entry]) -> list[Entry]:
        result = []
        for entry in entries:
            group = self.schema.groups.get(entry.group) if entry.group else None
            result.extend([entry] if group is None else self.flat(group))
        return result

    def array(self, entries: list[Entry], index: int, items: list[Any], at: int) -> bool:
        if index == len(entries):
            return at == len(items)
        entry = entries[index]
        count = 0
        while count < entry.most and at + count < len(items) and entry.check(items[at + count]):
            count += 1
        # The greediest way first; an optional entry may have to leave its item to the next one.
        return any(self.array(entries, index + 1, items, at + n) for n in range(count, entry.least - 1, -1))

    @staticmethod
    def map(entries: list[Entry], data: dict[Any, Any]) -> bool:
        named = {entry.key: entry for entry in entries if not entry.is_wild}
        wild = [entry for entry in entries if entry.is_wild]
        if any(type(key) is not str for key in data):
            return False
        for key, entry in named.items():
            if key in data:
                if not entry.check(data[key]):
                    return False
            elif entry.least:
                return False
        return all(key in named or any(entry.check(item) for entry in wild) for key, item in data.items())


def parsed(text: str) -> Schema:
    """The schema that a CDDL text describes. Raises `SchemaError`, also for a name that no rule defines."""
    parser = _Parser(text)
    schema = parser.rules()
    words = re.sub(r';[^\n]*|"[^"]*"', " ", text)
    used = set(re.findall(r"(?<![.\w-])([a-z][a-z0-9_-]*)(?!\s*:)(?![\w-])", words))
    unknown = used - set(schema.checks) - set(schema.groups)
    if unknown:
        raise SchemaError(f"no rule defines {', '.join(sorted(unknown))}")
    return schema
