"""Workflows over HTTP: their versions, which one is active, and what one would decide.

Owns these routes: who may call them, and how definitions and mistakes in them stand in JSON. Definitions have the shape
that they have in TOML; what makes them right, and which version becomes active, is decided by `notify`.
"""

import re
from typing import Any

from syncd.engine.commands import ActivateWorkflow, Command, Done, DropWorkflow, KeepWorkflows, Kept, Refused, Result
from syncd.net.api.calls import Call, executed, forbidden, json_object, owner_of, pointer
from syncd.net.auth import NOTIFICATIONS_READ, WORKFLOWS_WRITE, KeyPrincipal
from syncd.net.exchange import Response, json_content
from syncd.net.problems import raised
from syncd.notify import dryrun, versions
from syncd.notify.versions import Head, Version
from syncd.notify.workflows import BadDefinitions, definitions
from syncd.store.api import Reader

BODY_BYTES_MAX = 1024 * 1024  # some fifty workflows of the largest size; a file of a configuration has as much
ACTIVE_BYTES_MAX = 1024
PROBLEMS_MAX = 100  # told of one request
_VERSION = re.compile("[0-9a-f]{16}")
NO_STORE = ("Cache-Control", "no-store")


def check_scope_of(call: Call, *scopes: str) -> str:
    """Raises `forbidden` unless the caller is an API key with one of the scopes. Returns whose word it is."""
    caller = call.known_caller()
    if not isinstance(caller, KeyPrincipal) or not any(caller.has_scope(scope) for scope in scopes):
        raise forbidden(f"this needs an API key with the scope {' or '.join(scopes)}", scopes[0])
    return owner_of(caller)


def _check_reader(call: Call) -> None:
    check_scope_of(call, NOTIFICATIONS_READ, WORKFLOWS_WRITE)


async def get_workflows(call: Call) -> Response:
    _check_reader(call)
    with call.services.store.read() as tx:
        found = versions.workflow_set(tx)
    shown = [_head_json(name, head) for name, head in found.heads.items()]
    return json_content(200, {"policy": found.policy, "workflows": shown}, (NO_STORE,))


async def post_workflows(call: Call) -> Response:
    by = check_scope_of(call, WORKFLOWS_WRITE)
    values = json_object(call, BODY_BYTES_MAX, frozenset({"category", "template", "workflow"}))
    try:
        found = definitions(values)
        versions.parts(values, found)
    except BadDefinitions as error:
        raise refused_definitions(error) from None
    if not found.workflows:
        raise raised("invalid-request", "the definitions have a workflow", pointer="/workflow")
    kept = await _carried_out(call, KeepWorkflows(values, by))
    assert isinstance(kept, Kept), "what is not refused is kept"
    shown = [{"name": name, "version": version, "new": is_new} for name, version, is_new in kept.versions]
    is_new = any(each["new"] for each in shown)
    return json_content(201 if is_new else 200, {"workflows": shown}, (NO_STORE,))


async def get_workflow(call: Call) -> Response:
    _check_reader(call)
    name = _name(call)
    with call.services.store.read() as tx:
        head = versions.workflow_set(tx).heads.get(name)
        kept = versions.kept(tx, name)
    if head is None:
        raise _unknown(name)
    shown = [{"version": version, "made_ms": row.made_ms, "by": row.by} for version, row in kept]
    return json_content(200, _head_json(name, head) | {"versions": shown}, (NO_STORE,))


async def get_workflow_version(call: Call) -> Response:
    _check_reader(call)
    name, wanted = _name(call), call.parameters["version"]
    with call.services.store.read() as tx:
        row = dict(versions.kept(tx, name)).get(wanted)
    if row is None:
        raise raised("not-found", f"the workflow {name!r} has no version {wanted[:40]!r}")
    told = {"name": name, "version": wanted, "made_ms": row.made_ms, "by": row.by, "definitions": row.values}
    return json_content(200, told, (NO_STORE,))


async def delete_workflow(call: Call) -> Response:
    check_scope_of(call, WORKFLOWS_WRITE)
    await _carried_out(call, DropWorkflow(_name(call)))
    return Response(204, (NO_STORE,))


async def put_active(call: Call) -> Response:
    by, name = check_scope_of(call, WORKFLOWS_WRITE), _name(call)
    version = json_object(call, ACTIVE_BYTES_MAX, frozenset({"version"})).get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        expected = "'version' is one of the workflow's versions: 16 hexadecimal digits"
        raise raised("invalid-request", expected, pointer="/version")
    await _carried_out(call, ActivateWorkflow(name, version, by))
    return _head_response(call, name)


async def delete_active(call: Call) -> Response:
    """New runs begin no more. The answer is the head, as after an activation: stopping is no deletion."""
    by, name = check_scope_of(call, WORKFLOWS_WRITE), _name(call)
    await _carried_out(call, ActivateWorkflow(name, None, by))
    return _head_response(call, name)


async def post_dry_run(call: Call) -> Response:
    _check_reader(call)
    name = _name(call)
    body = json_object(call, BODY_BYTES_MAX, frozenset({"version", "event", "user", "now_ms"}))
    wanted = body.pop("version", None)
    if wanted is not None and not isinstance(wanted, str):
        raise raised("invalid-request", "'version' is one of the workflow's versions", pointer="/version")
    body.setdefault("now_ms", call.services.clock.now_ms())
    try:
        question = dryrun.asked(body)
    except BadDefinitions as error:
        raise refused_definitions(error) from None
    with call.services.store.read() as tx:
        found = versions.workflow_set(tx)
        head = found.heads.get(name)
        if head is None:
            raise _unknown(name)
        version = wanted if wanted is not None else head.active
        if version is None:
            raise raised("not-found", f"the workflow {name!r} is stopped; name the version that is meant")
        parsed = _parsed(tx, name, version)
    if parsed is None:
        raise raised("not-found", f"the workflow {name!r} has no version {version[:40]!r}")
    return json_content(200, dryrun.told(parsed, versions.policy_of(found), question), (NO_STORE,))


# -- shapes -----------------------------------------------------------------------------------------------------------


def _parsed(tx: Reader, name: str, version: str) -> Version | None:
    found = versions.Parsed().version(tx, version) if _VERSION.fullmatch(version) else None
    return found if found is not None and found.name == name else None


def _name(call: Call) -> str:
    return call.name("name", "the name of a workflow")


def _head_json(name: str, head: Head) -> dict[str, Any]:
    return {"name": name, **head._asdict()}


def _head_response(call: Call, name: str) -> Response:
    with call.services.store.read() as tx:
        head = versions.workflow_set(tx).heads.get(name)
    if head is None:  # it was deleted meanwhile
        raise _unknown(name)
    return json_content(200, _head_json(name, head), (NO_STORE,))


def _unknown(name: str) -> Exception:
    return raised("not-found", f"there is no workflow {name!r}")


async def _carried_out(call: Call, command: Command) -> Result:
    result = await executed(call, command)
    if isinstance(result, Refused):
        raise raised("not-found" if result.reason == "unknown" else "workflow-conflict", result.detail)
    assert isinstance(result, Done | Kept), "a command on workflows is answered by these"
    return result


def refused_definitions(error: BadDefinitions) -> Exception:
    """All mistakes, the first one as the problem itself. `column`: within a condition, from 1."""
    problems = [
        {"pointer": pointer(*each.path), "detail": each.message}
        | ({} if each.column is None else {"column": each.column})
        for each in error.problems[:PROBLEMS_MAX]
    ]
    first = problems[0]
    return raised("invalid-request", str(first["detail"]), pointer=first["pointer"], problems=problems)
