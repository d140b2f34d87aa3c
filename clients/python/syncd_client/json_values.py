"""Values in JSON (section 5.1): bytes as `{"$b": ...}`, and map keys that begin with `$` with one more.

Owns both directions. Must not know messages.
"""

from __future__ import annotations

import base64
import binascii

from .errors import InvalidInput
from .values import Value


def json_value(value: Value) -> Value:
    if isinstance(value, bytes):
        return {"$b": base64.urlsafe_b64encode(value).rstrip(b"=").decode()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {("$" + key if key.startswith("$") else key): json_value(item) for key, item in value.items()}
    return value


def value_from_json(value: Value) -> Value:
    """The value that a JSON form stands for. Raises InvalidInput for a `$` key that is neither bytes nor escaped."""
    if isinstance(value, list):
        return [value_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["$b"] and isinstance(value["$b"], str):
        text = value["$b"]
        try:
            # urlsafe_b64decode skips what it does not know; the alphabet is checked so that one value has one form.
            data = base64.b64decode(text.translate(_URL_SAFE) + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
            raise InvalidInput("$b: expected base64url without padding")
        return data
    result = {}
    for key, item in value.items():
        if key.startswith("$"):
            if not key.startswith("$$"):
                raise InvalidInput(f"map key {key!r}: a key that begins with $ is written with one more $")
            key = key[1:]
        result[key] = value_from_json(item)
    return result


_URL_SAFE = str.maketrans("-_+/", "+/!!")
