"""What changes to members must come to, from the definitions alone.

Owns a second, slow opinion on roles: who may do what is read from the whole list of facts each time, and whether a
change has seen the last change of a member is asked of full version vectors. Of syncd it imports nothing but ids.

The rules: a member's role is what the field `role` of its document says. What somebody may do is the greater of that
and of what its token grants, and nothing if it says `none`. Only owners alter members, judged before the change. The
author has seen everything that the member is made of. After the change somebody is owner: a member, or the author.
"""

from dataclasses import dataclass

from syncd.core.ids import Dot
from tests.oracle.oracle import Fact, Incarnation, Judgement, Oracle, Told, visible_fields, writers

MEMBERS = "_members"
NAMES = ("none", "reader", "writer", "owner")
NONE, READER, WRITER, OWNER = range(4)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who makes a change. `user` None: an API key or the server, which are no members. `granted`: by its token."""

    user: str | None
    granted: int


def said_of(oracle: Oracle, user: str) -> int | None:
    """The role that the space says of a user, None if nothing."""
    kind, value = visible_fields(oracle.incarnation((MEMBERS, user))).get("role", (None, None))
    return NAMES.index(value) if kind == "reg" and value in NAMES else None


def role_of(oracle: Oracle, asker: Asker) -> int:
    said = None if asker.user is None else said_of(oracle, asker.user)
    return NONE if said == NONE else max(asker.granted, said or NONE)


def owners_of(oracle: Oracle) -> list[str]:
    return [user for collection, user in oracle.facts if collection == MEMBERS and said_of(oracle, user) == OWNER]


def judged(oracle: Oracle, told: Told, asker: Asker) -> Judgement:
    """Judge the next change of a writer, and keep it if it is accepted."""
    refused = _refused(oracle, told, role_of(oracle, asker))
    kept = {key: list(facts) for key, facts in oracle.facts.items()}, dict(oracle.revs), oracle.head
    before = {operation[2]: said_of(oracle, operation[2]) for operation in told.operations if operation[1] == MEMBERS}
    judgement = oracle.judge(told)
    is_earlier = judgement.outcome == "invalid" or (
        refused is not None and judgement.op is not None and judgement.op < (refused.op or 0)
    )
    if refused is None and judgement.seq is not None and before:
        is_altered = any(said_of(oracle, user) != said for user, said in before.items())
        if is_altered and not owners_of(oracle) and role_of(oracle, asker) < OWNER:
            refused = Judgement("precondition", None, None, ())
    if refused is None or (judgement.seq is None and is_earlier):
        return judgement
    if judgement.seq is not None:
        oracle.facts, oracle.revs, oracle.head = kept
        oracle.accepted.pop()
    return refused


def _refused(oracle: Oracle, told: Told, role: int) -> Judgement | None:
    """The first operation that may not alter the member that it is about, as everything was before the change."""
    for index, (verb, collection, user, *rest) in enumerate(told.operations):
        if collection != MEMBERS or verb == "expect":
            continue
        if role < OWNER:
            return Judgement("forbidden", None, index, ())
        if rest and rest[0] == "role" and (verb, rest[1:]) not in _ROLE_OPERATIONS:
            return Judgement("invalid", None, index, ())
        last, vector = oracle.incarnation((MEMBERS, user)), told.vectors[index]
        if last is not None and any(dot not in vector for dot in _made_of(last)):
            return Judgement("precondition", None, index, ())
    return None


_ROLE_OPERATIONS = [("reg.unset", []), *(("reg.set", [name]) for name in NAMES)]


def _made_of(last: Incarnation) -> list[Dot]:
    """The changes of which a member is made, as dots: a tombstone of its deletes, else of makers and writers."""
    if last.deletes:
        by_device: dict[bytes, Fact] = {}
        for delete in last.deletes:
            by_device.setdefault(delete.dot.device, delete)  # who has seen a device's first delete has seen its point
        return [delete.dot for delete in by_device.values()]
    names = {fact.name for fact in last.facts if fact.name is not None}
    return [fact.dot for fact in (*last.makers, *(w for name in names for w in writers(last, name)))]
