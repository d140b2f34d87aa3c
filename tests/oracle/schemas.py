"""What a schema makes of a change, from the words of the specification alone (SPEC 17).

Owns a second, slow opinion on rules and versions. It reads the tables in which the vectors write schemas down, and
looks at documents as they are seen, before a change and after it. Of syncd it imports nothing but ids.

The rules: an operation of an older version is read as one of the present. What an operation says by itself is judged
with it, in its turn; what only the whole tells, once for the change, and only for what the change made worse. What was
promised, and what takes away, is never refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.oracle.oracle import Judgement, Key, Oracle, Told, is_malformed, packed, visible_fields

Tables = Mapping[str, Mapping[str, Any]]  # name of a schema -> its table
FREE = ("expect", "unique", "delete", "bounded.take", "bounded.give", "bounded.refund")
KINDS = {
    "null": (type(None),), "boolean": (bool,), "integer": (int,), "number": (int, float), "text": (str,),
    "bytes": (bytes,), "array": (list,), "map": (dict,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a change breaks. `op` None: no operation alone does."""

    outcome: str
    op: int | None
    rule: str
    field: str | None
    schema: str
    version: int

    def told(self) -> dict[str, Any]:
        """`detail.schema` of the outcome."""
        where = {} if self.field is None else {"field": self.field}
        return {"name": self.schema, "version": self.version, "rule": self.rule, **where}


def judged(oracle: Oracle, told: Told, versions: tuple[int, ...], tables: Tables) -> tuple[Judgement, Broken | None]:
    """Judge the next change, and keep it if it is accepted. `versions`: what each operation says, 0 if nothing."""
    if any(map(is_malformed, told.operations)):
        return oracle.judge(told), None  # it is no change, and breaks no rule
    of = {table["collection"]: (name, table) for name, table in tables.items()}
    operations, broken = [], None
    for index, (operation, version) in enumerate(zip(told.operations, versions, strict=True)):
        name, table = of.get(operation[1], ("", None))
        if table is not None and broken is None and _is_too_old(table, operation[0], version):
            broken = Broken("invalid", index, "oldest", None, name, table.get("version", 1))
        operations.append(operation if table is None else _present(table, operation, version))
    if broken is not None:  # it cannot be read, so nothing of the change is judged
        return Judgement("invalid", None, broken.op, ()), broken
    told = replace(told, operations=tuple(operations))
    broken = next(
        (found for index, each in enumerate(operations) if each[1] in of
         and (found := _broken_alone(of[each[1]], index, each)) is not None), None,
    )  # fmt: skip
    if broken is not None:
        assert broken.op is not None
        earlier = oracle.copied().judge(_cut(told, broken.op))
        if earlier.seq is None and broken.op:
            return earlier, None
        return Judgement(broken.outcome, None, broken.op, ()), broken
    before = {(each[1], each[2]): _found(oracle, (each[1], each[2])) for each in operations}
    trial = oracle.copied()
    tried = trial.judge(told)
    if tried.seq is None:
        return oracle.judge(told), None
    told = _with_defaults(told, versions, of, before, trial)
    trial = oracle.copied()
    trial.judge(told)
    for key, was in before.items():
        if key[0] in of and (broken := _broken_whole(of[key[0]], was, _shown(trial, key))) is not None:
            return Judgement(broken.outcome, None, None, ()), broken
    return oracle.judge(told), None


def _cut(told: Told, count: int) -> Told:
    """The change as if it had only its first operations, which it has not: for a judgement that is thrown away."""
    return replace(told, operations=told.operations[:count], vectors=told.vectors[:count], bases=told.bases[:count])


# -- versions ---------------------------------------------------------------------------------------------------------


def _is_too_old(table: Mapping[str, Any], verb: str, version: int) -> bool:
    return 0 < version < table.get("oldest", 1) and verb not in FREE


def _steps(table: Mapping[str, Any], version: int) -> list[Mapping[str, Any]]:
    """What lies between a version and the present one."""
    return [step for step in table.get("step", ()) if 0 < version < step["to"]]


def _present(table: Mapping[str, Any], operation: tuple[Any, ...], version: int) -> tuple[Any, ...]:
    verb, collection, document, *rest = operation
    if verb in ("create", "delete", "unique"):
        return operation
    for step in _steps(table, version):
        rest[0] = step.get("renamed", {}).get(rest[0], rest[0])
    return (verb, collection, document, *rest)


def _with_defaults(told: Told, versions: tuple[int, ...], of: Any, before: Any, after: Oracle) -> Told:
    """The change, and for each document that it makes the fields that came since the version of the create by which it
    is made, and that the change does not write in it."""
    added = []
    for key, was in before.items():
        if key[0] not in of or not _is_made(was, _shown(after, key)):
            continue
        last = after.incarnation(key)
        assert last is not None, "what was made is there"
        written = {fact.name for fact in last.facts}
        given: dict[str, Any] = {}
        for step in _steps(of[key[0]][1], versions[last.makers[0].index]):
            given = {step.get("renamed", {}).get(name, name): value for name, value in given.items()}
            given.update(step.get("defaults", {}))
        added += [("reg.set", *key, name, value) for name, value in given.items() if name not in written]
    return replace(
        told,
        operations=(*told.operations, *added),
        vectors=(*told.vectors, *[told.vector] * len(added)),
        bases=(*told.bases, *[max(told.bases)] * len(added)),
    )


# -- rules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shown:
    """A document that lives: which life of it, and what is seen."""

    life: tuple[bytes, int]
    fields: dict[str, list[Any]]


def _shown(oracle: Oracle, key: Key) -> _Shown | None:
    last = oracle.incarnation(key)
    return None if last is None or not last.is_live else _Shown(tuple(last.makers[0].dot), visible_fields(last))


def _found(oracle: Oracle, key: Key) -> _Shown | None:
    """What a change finds: also what it may revive, as its life then goes on with the fields that it had."""
    last = oracle.incarnation(key)
    if last is not None and oracle.has_body(key):
        last.deletes.clear()
    if last is None or not last.is_live:
        return None
    return _Shown(tuple(last.makers[0].dot), visible_fields(last))


def _is_made(before: _Shown | None, after: _Shown | None) -> bool:
    return after is not None and (before is None or before.life != after.life)


def _broken_alone(schema: tuple[str, Mapping[str, Any]], op: int, operation: tuple[Any, ...]) -> Broken | None:
    name, table = schema
    verb, _, _, *rest = operation
    if verb in FREE or verb == "create":
        return None
    field, rule = rest[0], table.get("fields", {}).get(rest[0])

    def broken(outcome: str, what: str) -> Broken:
        return Broken(outcome, op, what, field, name, table.get("version", 1))

    if rule is None:
        is_taken = table.get("other_fields", True) or verb == "reg.unset"
        return None if is_taken else broken("invalid", "other_fields")
    if verb.partition(".")[0] != rule.get("type", verb.partition(".")[0]):
        return broken("type_mismatch", "type")
    if verb in ("reg.set", "mv.set", "max.put", "min.put", "set.add", "map.put", "list.insert"):
        found = wrong(rule, rest[-1])
        return None if found is None else broken(*found)
    if verb == "text.update" and len(rest[1]) > rule.get("bytes_max", len(rest[1])):
        return broken("too_large", "bytes_max")
    return None


def wrong(rule: Mapping[str, Any], value: Any) -> tuple[str, str] | None:
    """The first rule that a value breaks."""
    if "values" in rule and type(value) not in [kind for name in rule["values"] for kind in KINDS[name]]:
        return "invalid", "values"
    if "one_of" in rule and packed(value) not in [packed(each) for each in rule["one_of"]]:
        return "invalid", "one_of"
    if type(value) in (int, float):
        if "minimum" in rule and value < rule["minimum"]:
            return "invalid", "minimum"
        if "maximum" in rule and value > rule["maximum"]:
            return "invalid", "maximum"
    if isinstance(value, list | dict) and len(value) > rule.get("items_max", len(value)):
        return "too_large", "items_max"
    size = len(value) if isinstance(value, bytes) else len(value.encode() if isinstance(value, str) else packed(value))
    return ("too_large", "bytes_max") if size > rule.get("bytes_max", size) else None


def _broken_whole(schema: tuple[str, Mapping[str, Any]], before: _Shown | None, after: _Shown | None) -> Broken | None:
    """What a document may not be left as: the first field in the order of names."""
    if after is None:
        return None
    name, table = schema
    found = {} if before is None or before.life != after.life else before.fields
    for field, rule in sorted(table.get("fields", {}).items()):
        was, now = found.get(field), after.fields.get(field)
        if now is None:
            is_lost = was is not None or _is_made(before, after)
            wrong = ("invalid", "required") if rule.get("required") and is_lost else None
        else:
            wrong = _worse(rule, was, now)
        if wrong is not None:
            return Broken(wrong[0], None, wrong[1], field, name, table.get("version", 1))
    return None


def _worse(rule: Mapping[str, Any], was: list[Any] | None, now: list[Any]) -> tuple[str, str] | None:
    kind, value = now
    old = was[1] if was is not None and was[0] == kind else None
    if kind == "counter":
        if "minimum" in rule and value < min(rule["minimum"], old or 0):
            return "invalid", "minimum"
        return ("invalid", "maximum") if "maximum" in rule and value > max(rule["maximum"], old or 0) else None
    if kind in ("set", "list", "map") and "items_max" in rule:
        return ("too_large", "items_max") if len(value) > max(rule["items_max"], len(old or ())) else None
    return None
