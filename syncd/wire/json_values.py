"""Values in the JSON binding (SPEC 5.1): bytes are marked, and keys that look like a mark are told apart from it.

Owns the two ways between a value and its JSON form, and whether a text holds more than is parsed. Must not know
messages.
"""

import base64
import binascii
from typing import Final

from syncd.core.values import DEPTH_MAX, Value, ValueRefused
from syncd.wire.limits import CONTAINERS_MAX

_TO_STANDARD = str.maketrans("-_+/", "+/!!")
# An argument of an operation lies three arrays below `changes`. What is deeper than that and a value may be is left as
# it is, for `normalized` to refuse: this function must not run out of stack first.
_JSON_DEPTH_MAX = DEPTH_MAX + 4
NESTING: Final = frozenset({list, dict})


def without_texts(data: str) -> str:
    """What stands outside of the texts in JSON. What is no JSON may give anything: the parser refuses it."""
    if "\\" in data:
        data = data.replace("\\\\", "").replace('\\"', "")  # in this order: a quote behind a pair of them ends the text
    return "".join(data.split('"')[::2])


def holds_too_much(body: bytes) -> bool:
    """Whether a body of JSON has more arrays and maps than a frame may: parsed, each costs the loop a microsecond or
    two. Texts, which may be full of brackets, are looked into only if there may be too many."""
    if body.count(b"[") + body.count(b"{") <= CONTAINERS_MAX:
        return False
    bare = without_texts(body.decode(errors="replace"))
    return bare.count("[") + bare.count("{") > CONTAINERS_MAX


def json_value(value: Value) -> Value:
    """The JSON form of a value: bytes as `{"$b": base64url}`, map keys that begin with `$` with one more."""
    kind = type(value)
    if kind is bytes:
        return {"$b": base64.urlsafe_b64encode(value).rstrip(b"=").decode()}
    if kind is dict:
        return {"$" + key if key.startswith("$") else key: json_value(item) for key, item in value.items()}
    if kind is list or isinstance(value, tuple):
        return [json_value(item) for item in value]
    return value


def from_json_value(value: Value, depth: int = 0) -> Value:
    """The value that a JSON form stands for; what needs no change is handed back. Raises `ValueRefused`."""
    kind = type(value)
    if (kind is not list and kind is not dict) or depth > _JSON_DEPTH_MAX:
        return value
    # Without a call for each number, and without a new object where nothing in it is written otherwise in JSON.
    is_flat = NESTING.isdisjoint(map(type, value if kind is list else value.values()))
    if kind is list:
        if is_flat:
            return value
        return [from_json_value(item, depth + 1) if type(item) in NESTING else item for item in value]
    if len(value) == 1 and "$b" in value:
        return _from_base64(value["$b"])
    if is_flat and "$" not in {key[:1] for key in value}:
        return value
    result = {}
    for key, item in value.items():
        if key.startswith("$"):
            if not key.startswith("$$"):
                raise ValueRefused(f"in JSON, a map key that begins with $ is written with one more: {key[:40]!r}")
            key = key[1:]
        result[key] = from_json_value(item, depth + 1)
    return result


def _from_base64(text: object) -> bytes:
    if type(text) is str:
        try:
            data = base64.b64decode(text.translate(_TO_STANDARD) + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            data = b""
        # Unused low bits of the last character could differ: one value, one form.
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text:
            return data
    raise ValueRefused('bytes in JSON are {"$b": base64url without padding}')
