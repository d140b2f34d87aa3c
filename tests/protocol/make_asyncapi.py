"""Writes protocol/asyncapi.yaml (`python -m tests.protocol.make_asyncapi`): the JSON binding, for AsyncAPI tools.

Message types and keys come from the codec's table; what a key holds is told here as JSON Schema. The CDDL schema is the
precise one; this file describes the shape for generators of documentation.
"""

from typing import Any

import yaml  # type: ignore[import-untyped]

from syncd.wire import codec, keytypes
from syncd.wire.codec import Schema
from syncd.wire.keytypes import Type
from tests.protocol.make_vectors import VECTORS

FILE = VECTORS.parent / "asyncapi.yaml"
MAX = 2**53 - 1
COUNT = {"type": "integer", "minimum": 0, "maximum": MAX}
ARRAY = {"type": "array"}
KINDS: list[tuple[Type, dict[str, Any]]] = [
    (keytypes.ID, {"type": "string", "pattern": "^[0-9a-f]{32}$"}),
    (keytypes.HASH, {"type": "string", "pattern": "^[0-9a-f]{16}$"}),
    (keytypes.TEXT, {"type": "string"}),
    (keytypes.BOOLEAN, {"type": "boolean"}),
    (keytypes.COUNT, COUNT),
    (keytypes.FROM_ONE, {**COUNT, "minimum": 1}),
    (keytypes.TEXTS, {"type": "array", "items": {"type": "string"}}),
    (keytypes.TEXT_MAP, {"type": "object", "additionalProperties": {"type": "string"}}),
    (keytypes.COUNT_MAP, {"type": "object", "additionalProperties": COUNT}),
    (keytypes.CHANGES, {**ARRAY, "minItems": 1, "maxItems": 1000, "items": {**ARRAY, "minItems": 5, "maxItems": 6}}),
    (keytypes.DOCUMENTS, {**ARRAY, "items": {**ARRAY, "minItems": 5, "maxItems": 5}}),
    (keytypes.NUMBERS, {**ARRAY, "items": {"type": "integer", "minimum": 0, "maximum": 1023}}),
    (keytypes.BUCKET_SUMS, {"type": "string", "pattern": "^[0-9a-f]{16384}$"}),
    (keytypes.PAIRS, {"type": "string", "pattern": "^([0-9a-f]{32})*$"}),
    (keytypes.HASHES, {"type": "string", "pattern": "^([0-9a-f]{16})*$"}),
    (keytypes.VALUE, {}),
    (keytypes.PRESENCE, {"type": ["object", "boolean"]}),
    (keytypes.MEMBERS, {**ARRAY, "items": {**ARRAY, "minItems": 3, "maxItems": 3}}),
    (keytypes.EVENTS, {**ARRAY, "minItems": 1, "maxItems": 100, "items": {**ARRAY, "minItems": 3, "maxItems": 4}}),
    (keytypes.RESULTS, {**ARRAY, "items": {**ARRAY, "minItems": 3, "maxItems": 3}}),
    (keytypes.OUTCOMES, {**ARRAY, "items": {**ARRAY, "minItems": 5, "maxItems": 5}}),
]


def kind_of(type_: Type) -> dict[str, Any]:
    return next(dict(schema) for known, schema in KINDS if known is type_)


def _or_null(kind: dict[str, Any]) -> list[str]:
    types = kind["type"]
    return [*([types] if isinstance(types, str) else types), "null"]


def key_of(schema: Schema) -> str:
    """Both sides have a message `signal`: that of the server stands under the name of what it is to a client."""
    return schema.cls.__name__.lower()


def message_of(schema: Schema) -> dict[str, Any]:
    properties = {}
    for key in schema.keys:
        kind = kind_of(key.type)
        properties[key.name] = kind if key.is_required or "type" not in kind else {**kind, "type": _or_null(kind)}
    body = {"type": "object", "properties": properties, "required": [k.name for k in schema.keys if k.is_required]}
    return {
        "name": schema.name,
        "title": f"{schema.name} ({schema.code})",
        "payload": {"type": "array", "items": [{"const": schema.code}, body], "minItems": 2, "maxItems": 2},
    }


def document() -> dict[str, Any]:
    schemas = {key_of(schema): schema for schema in (*codec.CLIENT, *codec.SERVER)}

    def references(side: tuple[Schema, ...]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/sync/messages/{key_of(schema)}"} for schema in side]

    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "syncd",
            "version": "1.0.0",
            "description": "Offline-first sync over one WebSocket. SPEC.md is normative, syncd.cddl the precise schema."
            " A frame of the JSON binding is an array of the messages below.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {"host": "127.0.0.1:8080", "protocol": "ws", "description": "A daemon on this machine."},
        },
        "channels": {
            "sync": {
                "address": "/v1/sync",
                "description": "Subprotocols: syncd.v1.json (text frames) and syncd.v1.msgpack (binary frames).",
                "servers": [{"$ref": "#/servers/local"}],
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in schemas},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {
            "receiveFromClient": {
                "action": "receive",
                "channel": {"$ref": "#/channels/sync"},
                "summary": "What a client sends.",
                "messages": references(codec.CLIENT),
            },
            "sendToClient": {
                "action": "send",
                "channel": {"$ref": "#/channels/sync"},
                "summary": "What a server sends.",
                "messages": references(codec.SERVER),
            },
        },
        "components": {"messages": {name: message_of(schema) for name, schema in schemas.items()}},
    }


def text() -> str:
    class Plain(yaml.SafeDumper):  # type: ignore[misc]
        """Without anchors: a reader should not have to look elsewhere."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    written: str = yaml.dump(document(), Dumper=Plain, sort_keys=False, width=118, allow_unicode=True)
    return "# Generated from the codec's table by `python -m tests.protocol.make_asyncapi`.\n" + written


if __name__ == "__main__":
    FILE.write_text(text())
