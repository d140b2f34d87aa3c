"""The page at /docs: the API's description made readable.

Owns the loading of openapi.json from the package, and its rendering as one self-contained page. Must not know routes:
it shows what the description says. There is no script and nothing from elsewhere, so the page works without a network
and under a policy that forbids both; sections fold by the browser's own means.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, Final

import orjson

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--get:#0a7d4b;--post:#1d62c9}
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{margin:2.2rem 0 .6rem;font-size:1.25rem}h4{margin:1rem 0 .3rem}
details{border:1px solid var(--line);border-radius:.5rem;margin:.5rem 0;overflow:hidden}
summary{cursor:pointer;padding:.55rem .8rem}summary:hover{background:var(--soft)}
details>div{padding:.2rem 1rem 1rem;border-top:1px solid var(--line)}
details>div{scroll-margin-top:3rem}
code,pre{font:14px/1.5 ui-monospace,monospace}
pre{background:var(--soft);padding:.7rem;border-radius:.4rem;overflow:auto}
.method{display:inline-block;min-width:3.2rem;font-weight:700;color:var(--get)}.POST{color:var(--post)}
.quiet{opacity:.7}table{border-collapse:collapse;width:100%}
td{border-top:1px solid var(--line);padding:.35rem .6rem .35rem 0;vertical-align:top}
td:first-child{white-space:nowrap;width:1%}
""".strip()

_CODE = re.compile(r"`([^`]+)`")
_COMPACT_CHARACTERS = 90  # a schema that fits a line is shown on one


@dataclass(frozen=True, slots=True)
class Pages:
    """What the API says about itself: openapi.json as it lies in the package, the page made of it, and the page's
    Content-Security-Policy, which allows its one style sheet and nothing else."""

    openapi: bytes
    docs: bytes
    docs_policy: str


@cache
def loaded_pages() -> Pages:
    """Made once in a process: they are as constant as the package, and making them takes longer than all else in a
    start."""
    openapi = files("syncd.net.api").joinpath("openapi.json").read_bytes()
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Pages(openapi, _page(orjson.loads(openapi)).encode(), policy)


def _page(description: dict[str, Any]) -> str:
    info = description["info"]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>',
        f'<h1>{escape(info["title"])}</h1><p class="quiet">Version {escape(info["version"])} ·',
        ' <a href="/v1/openapi.json">OpenAPI</a></p>',
        f"<p>{_text(info['description'])}</p>",
    ]
    for tag in description["tags"]:
        parts.append(f"<h2>{escape(tag['name'].capitalize())}</h2><p>{_text(tag['description'])}</p>")
        parts += [
            _operation(description, method, path, item, operation)
            for path, item in description["paths"].items()
            for method, operation in item.items()
            if method != "parameters" and tag["name"] in operation["tags"]
        ]
    parts.append("<h2>Credentials</h2>" + _rows(_schemes(description)))
    parts.append("<h2>Schemas</h2>")
    parts += [
        _folded(f"schema-{name}", f"<code>{escape(name)}</code>", f"<pre>{_schema(schema)}</pre>")
        for name, schema in description["components"]["schemas"].items()
    ]
    return "".join(parts) + "</html>"


def _operation(
    description: dict[str, Any], method: str, path: str, item: dict[str, Any], operation: dict[str, Any]
) -> str:
    verb = method.upper()
    title = (
        f'<span class="method {verb}">{verb}</span> <code>{escape(path)}</code>'
        f' <span class="quiet">{escape(operation["summary"])}</span>'
    )
    parts = [f"<p>{_text(operation['description'])}</p>"]
    parameters = [_resolved(description, p) for p in (*item.get("parameters", ()), *operation.get("parameters", ()))]
    if parameters:
        parts.append("<h4>Parameters</h4>" + _rows(_parameters(parameters)))
    body = operation.get("requestBody")
    if body is not None:
        parts.append("<h4>Body</h4>" + "".join(_contents(body)))
    parts.append("<h4>Responses</h4>" + _rows(_responses(description, operation["responses"])))
    status, response = next(iter(operation["responses"].items()))
    parts += _contents(response, f"{status}: ")
    parts.append(f"<h4>Try it</h4><pre>{escape(_curl(verb, path, parameters, operation))}</pre>")
    return _folded(operation["operationId"], title, "".join(parts))


def _parameters(parameters: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for parameter in parameters:
        place = "required, " if parameter.get("required") else ""
        name = f'<code>{escape(parameter["name"])}</code><br><span class="quiet">{place}{parameter["in"]}</span>'
        yield name, f"{_text(parameter['description'])}<br><code>{_schema(parameter['schema'])}</code>"


def _responses(description: dict[str, Any], responses: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for status, response in responses.items():
        yield f"<code>{status}</code>", _text(_resolved(description, response)["description"])


def _schemes(description: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, scheme in description["components"]["securitySchemes"].items():
        yield f"<code>{escape(name)}</code>", _text(scheme["description"])


def _contents(holder: dict[str, Any], label: str = "") -> Iterator[str]:
    """The media types of a body, each with its schema and example."""
    for media_type, content in holder.get("content", {}).items():
        yield f"<p><code>{escape(label + media_type)}</code>: <code>{_schema(content['schema'])}</code></p>"
        examples = [content["example"]] if "example" in content else []
        examples += [example["value"] for example in content.get("examples", {}).values()]
        for example in examples:
            yield f"<pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"


def _curl(verb: str, path: str, parameters: list[dict[str, Any]], operation: dict[str, Any]) -> str:
    for parameter in parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]).replace("/", "%2F"))
    needed = {p["name"]: (p["in"], p["example"]) for p in parameters if p["in"] != "path" and p.get("required")}
    queries = "&".join(f"{name}={value}" for name, (where, value) in needed.items() if where == "query")
    words = ["curl", *(f"-H '{name}: {value}'" for name, (where, value) in needed.items() if where == "header")]
    if operation["security"]:
        words.append('-H "Authorization: Bearer $TOKEN"')
    if "requestBody" in operation:
        media_type, content = next(iter(operation["requestBody"]["content"].items()))
        words += [f"-H 'Content-Type: {media_type}'", f"-d '{_single_quoted(json.dumps(content['example']))}'"]
    words.append(f"'http://127.0.0.1:8740{path}?{queries}'" if queries else f"http://127.0.0.1:8740{path}")
    return " \\\n  ".join(words)


def _single_quoted(text: str) -> str:
    return text.replace("'", "'\\''")


def _resolved(description: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What a local reference stands for."""
    while "$ref" in node:
        found: Any = description
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def _schema(schema: dict[str, Any]) -> str:
    """A schema as JSON, its references linked."""
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > _COMPACT_CHARACTERS:
        text = json.dumps(schema, indent=2, ensure_ascii=False)
    link = r'<a href="#schema-\1">\1</a>'
    return re.sub(r'\{\s*"\$ref": "#/components/schemas/(\w+)"\s*\}', link, escape(text, quote=False))


def _text(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text)).replace("\n", "</p><p>")


def _rows(rows: Iterator[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{left}<td>{right}</tr>" for left, right in rows) + "</table>"


def _folded(anchor: str, title: str, body: str) -> str:
    # The anchor is inside: a browser that is sent to it unfolds what holds it, but not what is itself folded.
    return f'<details><summary>{title}</summary><div id="{escape(anchor)}">{body}</div></details>'
