"""Roles and grants: who may read or write a space.

Owns the order of roles and the matching of space patterns. Must not know tokens or API keys (they are verified at the
edge and arrive here as a `Grants` value).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from syncd.core.ids import BadName, check_space

GRANTS_MAX = 64  # patterns in one token: they are matched one by one for each space that a connection names


class Role(IntEnum):
    """What a user may do in a space; each role includes the lesser ones."""

    NONE = 0
    READER = 1
    WRITER = 2
    OWNER = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """A role on all spaces that match `pattern`: a space name in which a segment may be `*` (any one segment) and the
    last one `**` (one or more segments)."""

    pattern: str
    role: Role

    def matches(self, space: str) -> bool:
        pattern, name = self.pattern.split("/"), space.split("/")
        if pattern[-1] == "**" and len(name) >= len(pattern):
            pattern = pattern[:-1] + ["*"] * (len(name) - len(pattern) + 1)
        return len(pattern) == len(name) and all(p in ("*", s) for p, s in zip(pattern, name, strict=True))


def parsed_grant(pattern: str, role: str) -> Grant:
    """Check a pattern and a role name. Raises `BadName`."""
    segments = pattern.split("/")
    plain = ["x" if s == "*" or (s == "**" and i == len(segments) - 1) else s for i, s in enumerate(segments)]
    try:
        check_space("/".join(plain))
    except BadName:
        raise BadName(
            f"{pattern!r} is no space pattern: segments of a space name, '*' for any one, '**' at the end"
        ) from None
    try:
        return Grant(pattern, Role[role.upper()])
    except KeyError:
        raise BadName(f"a role is reader, writer or owner, not {role!r}") from None


def role_on(grants: Iterable[Grant], space: str) -> Role:
    """The greatest role that any grant gives on the space."""
    return max((grant.role for grant in grants if grant.matches(space)), default=Role.NONE)
