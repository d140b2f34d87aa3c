"""Conditions: a language so small that it always ends, always answers, and is checked before it is used.

Owns its grammar, its types and its evaluation. Must not know where facts come from: they are handed in. Nothing here
loops, recurses without bound, raises on any facts, or can reach anything but the facts.

    condition  = both {"or" both}
    both       = opposite {"and" opposite}
    opposite   = "not" opposite | comparison
    comparison = sum [("<" | "<=" | ">" | ">=" | "==" | "!=") sum]
    sum        = product {("+" | "-") product}
    product    = primary {"*" primary}
    primary    = number | text | span | "true" | "false" | field | call | "(" condition ")"
    call       = function "(" [condition {"," condition}] ")"
    field      = name {"." name}

A number is decimal (`0.3`), text stands in double quotes, a span is as elsewhere (`24h`, `7d`). A field is what the
event carries under that name: its type is not known beforehand, and it may be missing. Types of all else are checked
when a condition is read, and a mistake is told with its column.

Invariants: X1 evaluation is total: what cannot be compared is unequal and neither less nor greater; arithmetic on what
is no number is missing; what is missing is not true. X2 its cost is bounded by the length of the text. X3 a condition
means the same whenever it is read: no state, no clock, no draw.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from syncd.notify.civil import BadTime, Span, parse_span

TEXT_CHARS_MAX = 1000  # of a condition: a screen of text; longer ones belong into the application
DEPTH_MAX = 32  # of parentheses, `not` and calls within each other
CALL_ARGS_MAX = 4

NUMBER, TEXT, TRUTH, SPAN, ANY = "a number", "text", "true or false", "a span", "anything"


class BadExpression(ValueError):
    """A condition is refused. `column` counts characters from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"column {column}: {message}")
        self.message, self.column = message, column


class Function(NamedTuple):
    """What may be called: the types of its arguments and of its result, and what it says."""

    arguments: tuple[str, ...]
    result: str
    meaning: str


FUNCTIONS: Mapping[str, Function] = {
    "count": Function((TEXT, SPAN), NUMBER, "how often an event came from this person within a span, faded"),
    "since": Function((TEXT,), NUMBER, "hours since the latest such event of this person; missing if there is none"),
    "affinity": Function((TEXT,), NUMBER, "how much of what this person reads is on a topic, 0 to 1"),
    "p_return": Function((SPAN,), NUMBER, "the chance that this person comes back by themselves within `7d`, 0 to 1"),
    "sessions": Function((), NUMBER, "how often this person was there, in all"),
    "hour": Function((), NUMBER, "the hour on this person's clock, 0 to 23"),
    "weekday": Function((), NUMBER, "the day of this person's week, 1 (Monday) to 7"),
}

Call = Callable[[str, Sequence[Any]], Any]  # (function, arguments) -> value, None if there is none


class Facts(NamedTuple):
    """What a condition is about. `event`: its data, with `type` and `source`; `call` answers the functions."""

    event: Mapping[str, Any]
    call: Call


Evaluated = Callable[[Facts], Any]


# -- the tree ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """One part of a condition. `kind`: `constant`, `field`, `call`, or an operator. `column`: where it stands."""

    kind: str
    type: str
    column: int
    value: Any = None
    parts: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was read and checked."""

    text: str
    root: Node
    evaluated: "Evaluated" = field(compare=False, repr=False)

    def holds(self, facts: Facts) -> bool:
        return self.evaluated(facts) is True

    def calls(self, function: str) -> tuple[tuple[Any, ...], ...]:
        """The constant arguments of each call of a function: what must be counted so that it can be answered."""
        return tuple(
            tuple(part.value for part in node.parts)
            for node in _nodes(self.root)
            if (node.kind, node.value) == ("call", function)
        )

    def fields(self) -> tuple[str, ...]:
        """The fields of the event that it reads, as they are written."""
        return tuple(".".join(node.value) for node in _nodes(self.root) if node.kind == "field")


def _nodes(node: Node) -> Sequence[Node]:
    return [node, *(inner for part in node.parts for inner in _nodes(part))]


# -- reading ----------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<span>\d+[smhdw]\b) | (?P<number>\d+(?:\.\d+)?)(?![\w.]) | (?P<text>"(?:[^"\\]|\\["\\])*")
    | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*) | (?P<sign><=|>=|==|!=|[<>+*(),-])
    )""",
    re.X | re.ASCII,
)
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_WORDS = ("and", "or", "not", "true", "false")


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            column = at + len(text[at:]) - len(text[at:].lstrip()) + 1
            raise BadExpression(f"expected a value, a name or an operator, found {text[column - 1 :][:20]!r}", column)
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind) + 1))
        at = match.end()
    return [*found, _Token("end", "the end", len(text.rstrip()) + 1)]


def parse(text: str) -> Condition:
    """Read and check a condition. Raises `BadExpression`."""
    if len(text) > TEXT_CHARS_MAX:
        raise BadExpression(f"a condition has at most {TEXT_CHARS_MAX} characters, not {len(text)}", TEXT_CHARS_MAX + 1)
    reader = _Reader(_tokens(text))
    root = reader.condition()
    if reader.next.kind != "end":
        raise BadExpression(f"expected an operator or the end, found {reader.next.text!r}", reader.next.column)
    _expect(root, TRUTH)
    return Condition(text, root, _compiled(root))


def _expect(node: Node, type: str) -> None:
    if node.type not in (type, ANY):
        raise BadExpression(f"expected {type}, found {node.type}", node.column)


class _Reader:
    """One pass over the tokens; a method for each rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._at, self._depth = tokens, 0, 0

    @property
    def next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> _Token | None:
        """The next token, if it is one of these signs or words."""
        token = self.next
        if token.kind not in ("sign", "name") or token.text not in texts:
            return None
        self._at += 1
        return token

    def _closed(self, what: str) -> None:
        if self._take(")") is None:
            raise BadExpression(f"expected ')' after {what}, found {self.next.text!r}", self.next.column)

    def _deeper(self, column: int) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise BadExpression(f"nested more than {DEPTH_MAX} deep", column)

    def condition(self) -> Node:
        return self._joined(self._both, ("or",), TRUTH, TRUTH)

    def _both(self) -> Node:
        return self._joined(self._opposite, ("and",), TRUTH, TRUTH)

    def _sum(self) -> Node:
        return self._joined(self._product, ("+", "-"), NUMBER, NUMBER)

    def _product(self) -> Node:
        return self._joined(self._primary, ("*",), NUMBER, NUMBER)

    def _joined(self, part: Callable[[], Node], signs: tuple[str, ...], takes: str, gives: str) -> Node:
        """Parts with one of the signs between, from left to right, as one node of many parts: so a long sum is flat."""
        parts, used = [part()], [""]
        while (token := self._take(*signs)) is not None:
            parts.append(part())
            used.append(token.text)
        if len(parts) == 1:
            return parts[0]
        for node in parts:
            _expect(node, takes)
        return Node("+" if "+" in signs else signs[0], gives, parts[0].column, tuple(used), tuple(parts))

    def _opposite(self) -> Node:
        token = self._take("not")
        if token is None:
            return self._comparison()
        self._deeper(token.column)
        inner = self._opposite()
        self._depth -= 1
        _expect(inner, TRUTH)
        return Node("not", TRUTH, token.column, None, (inner,))

    def _comparison(self) -> Node:
        left = self._sum()
        token = self._take(*_COMPARISONS)
        if token is None:
            return left
        right = self._sum()
        if again := self._take(*_COMPARISONS):
            raise BadExpression("comparisons do not chain; join two by 'and'", again.column)
        for node in (left, right):
            if node.type == SPAN:
                raise BadExpression("a span is an argument of a function, and compares with nothing", node.column)
        if ANY not in (left.type, right.type) and left.type != right.type:
            raise BadExpression(f"expected {left.type}, as on the left, found {right.type}", right.column)
        if token.text not in ("==", "!="):
            for node in (left, right):
                if node.type == TRUTH:
                    raise BadExpression(f"{TRUTH} has no order; use '==' or '!='", node.column)
        return Node(token.text, TRUTH, left.column, None, (left, right))

    def _primary(self) -> Node:
        token = self.next
        self._at += token.kind != "end"
        match token.kind:
            case "number":
                return Node("constant", NUMBER, token.column, float(token.text))
            case "text":
                return Node("constant", TEXT, token.column, re.sub(r"\\(.)", r"\1", token.text[1:-1]))
            case "span":
                try:
                    return Node("constant", SPAN, token.column, parse_span(token.text))
                except BadTime as error:
                    raise BadExpression(str(error), token.column) from None
            case "name" if token.text in ("true", "false"):
                return Node("constant", TRUTH, token.column, token.text == "true")
            case "name" if token.text not in _WORDS:
                return self._call(token) if self._take("(") else Node("field", ANY, token.column, token.text.split("."))
            case "sign" if token.text == "(":
                self._deeper(token.column)
                inner = self.condition()
                self._closed("this part in parentheses")
                self._depth -= 1
                return inner
        raise BadExpression(f"expected a value, found {token.text!r}", token.column)

    def _call(self, token: _Token) -> Node:
        function = FUNCTIONS.get(token.text)
        if function is None:
            raise BadExpression(f"no function {token.text!r}; there are {', '.join(FUNCTIONS)}", token.column)
        self._deeper(token.column)
        arguments: list[Node] = []
        if not self._take(")"):
            arguments.append(self.condition())
            while len(arguments) < CALL_ARGS_MAX and self._take(","):
                arguments.append(self.condition())
            self._closed(f"the arguments of {token.text}")
        self._depth -= 1
        if len(arguments) != len(function.arguments):
            expected = ", ".join(function.arguments) or "nothing"
            raise BadExpression(
                f"{token.text}() takes {expected}; it was given {len(arguments)} arguments", token.column
            )
        for node, type in zip(arguments, function.arguments, strict=True):
            _expect(node, type)
            if token.text in ("count", "since") and node.kind != "constant":
                # What is counted must be known when the configuration is read, or nothing would have been counted yet.
                raise BadExpression(f"{token.text}() takes text and spans as they stand, no fields", node.column)
        return Node("call", function.result, token.column, token.text, tuple(arguments))


# -- evaluation -------------------------------------------------------------------------------------------------------


def _compiled(node: Node) -> Evaluated:
    """What gives the value of a node; None if it is missing (X1). Made once, as a condition is asked of each event."""
    match node.kind:
        case "constant":
            value = node.value
            return lambda facts: value
        case "field":
            path = tuple(node.value)
            return lambda facts: _field(facts.event, path)
        case "call":
            return _compiled_call(node)
    parts = tuple(_compiled(part) for part in node.parts)
    match node.kind:
        case "and":
            return lambda facts: all(part(facts) is True for part in parts)
        case "or":
            return lambda facts: any(part(facts) is True for part in parts)
        case "not":
            (inner,) = parts
            return lambda facts: inner(facts) is not True
        case "+" | "*":
            signs = tuple(node.value)
            return lambda facts: _arithmetic(signs, [part(facts) for part in parts])
    sign, (left, right) = node.kind, parts
    return lambda facts: _compared(sign, left(facts), right(facts))


def _compiled_call(node: Node) -> Evaluated:
    parts, types = [_compiled(part) for part in node.parts], FUNCTIONS[node.value].arguments
    name = node.value
    if all(part.kind == "constant" for part in node.parts):  # of the right types: that was checked when it was read
        constants = tuple(part.value for part in node.parts)
        return lambda facts: facts.call(name, constants)

    def called(facts: Facts) -> Any:
        arguments = [part(facts) for part in parts]
        for value, type in zip(arguments, types, strict=True):
            if _type_of(value) != type:
                return None
        return facts.call(name, arguments)

    return called


def _field(event: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = event
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, bool | int | float | str) else None


# Facts come from decoders and from what was learned: their classes are these, and no subclasses.
_TYPES: Mapping[type, str] = {bool: TRUTH, int: NUMBER, float: NUMBER, str: TEXT, Span: SPAN}


def _type_of(value: Any) -> str | None:
    return _TYPES.get(type(value))


def _arithmetic(signs: Sequence[str], values: Sequence[Any]) -> float | None:
    total: float | None = None
    for sign, value in zip(signs, values, strict=True):
        if _type_of(value) != NUMBER:
            return None
        try:
            number = float(value)
        except OverflowError:
            return None  # an integer of more than 300 digits
        if total is None:
            total = number
        else:
            total = total * number if sign == "*" else total - number if sign == "-" else total + number
    return total


def _compared(sign: str, left: Any, right: Any) -> bool:
    type = _type_of(left)
    is_alike = type is not None and type == _type_of(right)
    match sign:
        case "==":
            return bool(is_alike and left == right)
        case "!=":
            return not (is_alike and left == right)
    if not is_alike or type == TRUTH:
        return False
    return bool(_ORDERS[sign](left, right))


_ORDERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
