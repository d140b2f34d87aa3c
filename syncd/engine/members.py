"""Members: what a user may do in a space, by its token and by the space's own list.

Owns the effective role: the greater of what the token grants on the space and what the reserved collection `_members`
says (the id of a document is a user's, its field `role` a role), except that a member whose role is `none` may do
nothing whatever the token says. So a space can let in and keep out whoever it likes, without waiting for tokens to end.

Whoever asks what somebody may do asks here: `Batch.role` inside a write transaction (it sees the changes before this
one), `role_of` over any other. Each costs one look at one document. API keys and the server are no members: a key does
what its scopes say, until it is revoked.

Members are documents like all others, and travel as they do. What is special about a change to them is said here: only
owners make one, and whether its author is one is judged by what was before it, so nobody lifts itself up. Its author
must have seen the last change of that member: of two owners who meet without knowing of each other, one would undo what
the other meant, and a right that comes back must not come back by accident. And it leaves the space an owner.

Invariants: M1 every role that is acted on was judged in the transaction that reads or writes what it is needed for. M2
who is `none` has no role, by no path. M3 after every change to members, a member is owner, or the author is by its
token: so somebody can always undo it.
"""

from collections.abc import Mapping

from syncd.core.changes import Operation
from syncd.core.documents import Document, has_unseen
from syncd.core.fields import Observer
from syncd.core.ids import MEMBERS, NAME_BYTES_MAX
from syncd.engine.commands import Author
from syncd.engine.grants import Role, role_on
from syncd.engine.quotas import KEY_PREFIX
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DOCUMENTS, SPACES, SpaceRow

ROLE = "role"  # the field
ROLES = {role.name.lower(): role for role in Role}  # its values


def is_kept(collection: str) -> bool:
    """Whether the tombstones of a collection are never collected: who alters a member must have seen that member's last
    change, also if it was its deletion, and however long ago."""
    return collection == MEMBERS


def member_key(author: Author) -> tuple[str, str] | None:
    """The name of the document that may say something of the author; None if there can be none."""
    user = author.user
    if author.kind == "server" or user.startswith(KEY_PREFIX) or len(user.encode()) > NAME_BYTES_MAX:
        return None
    return MEMBERS, user


def role_in(document: Document | None) -> Role | None:
    """What a member's document says; None: nothing, as if there were none."""
    field = None if document is None or not document.is_live else document.fields.get(ROLE)
    if field is None or field.type != "reg" or not field.is_visible:
        return None
    return ROLES.get(field.value) if isinstance(field.value, str) else None


def role_given(author: Author, space: str, member: Document | None) -> Role:
    """The effective role of an author about whom the space has this document."""
    return role_said(author, space, role_in(member))


def role_said(author: Author, space: str, said: Role | None) -> Role:
    """The effective role of an author of whom the space says this."""
    if author.kind == "server":
        return Role.OWNER
    if said is Role.NONE:
        return Role.NONE
    return max(role_on(author.grants, space), said or Role.NONE)


def role_of(tx: Reader, author: Author, space: str) -> Role:
    """The effective role in a space, existing or not, at the moment of a read transaction."""
    return role_at(tx, author, space, SPACES.get(tx, keys.space(space)))


def role_at(tx: Reader, author: Author, space: str, row: SpaceRow | None) -> Role:
    """`role_of`, by one who has the space's row (None: there is no such space) from this transaction."""
    name = member_key(author)
    document = None if row is None or name is None else DOCUMENTS.get(tx, keys.document(row.id, *name))
    return role_given(author, space, document)


def role_seq(document: Document | None) -> int:
    """The seq of the change by which the space says what it says of a member; 0 if it never said anything."""
    if document is None:
        return 0
    if not document.is_live:
        return document.rev
    field = document.fields.get(ROLE)
    return 0 if field is None else field.seq


def said_at(tx: Reader, author: Author, space_id: int) -> int:
    """`role_seq` of an author."""
    name = member_key(author)
    return 0 if name is None else role_seq(DOCUMENTS.get(tx, keys.document(space_id, *name)))


# -- changes to members -----------------------------------------------------------------------------------------------


class MemberRefused(Exception):
    """A change to a member cannot take effect: it ends in `outcome`."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


def check_member(role: Role, operation: Operation, before: Document | None, by: Observer) -> None:
    """Judge an operation on a member by its author's role and that member, both as they were before the change."""
    verb, user = operation.verb, operation.id
    if verb == "expect":
        return
    if role < Role.OWNER:
        raise MemberRefused(
            "forbidden", f"members are made and altered by owners, and the author is {role.name.lower()}"
        )
    if operation.field == ROLE and (
        verb not in ("reg.set", "reg.unset")
        or (verb == "reg.set" and not (isinstance(operation.args[0], str) and operation.args[0] in ROLES))
    ):
        raise MemberRefused("invalid", f"the field {ROLE} of a member is a reg: {', '.join(ROLES)}")
    if operation.seen > by.base:
        by = by._replace(base=operation.seen)
    last = _unseen(before, by)
    if last is not None:
        detail = f"the member {user} was altered at seq {last}, which this change had not seen"
        raise MemberRefused("precondition", detail)


def _unseen(before: Document | None, by: Observer) -> int | None:
    """The last change to a member, unless `by` has seen it and all before it."""
    if before is None:
        return None
    if not before.is_live:
        return next((seq for seq, slot in reversed(before.deletes) if not by.has_seen(seq, slot)), None)
    return before.writers[0][0] if has_unseen(before, by) else None


def owners_in(document: Document | None) -> int:
    return int(role_in(document) is Role.OWNER)


def regrants_of(
    altered: Mapping[tuple[str, str], tuple[Document | None, Document | None]],
) -> dict[str, tuple[Role | None, Role | None]]:
    """user -> what the space said and what it says, of those of whom it says something else now."""
    said = {
        name[1]: (role_in(before), role_in(after)) for name, (before, after) in altered.items() if name[0] == MEMBERS
    }
    return {user: (before, after) for user, (before, after) in said.items() if before is not after}


def check_owner_left(
    author: Author,
    space: str,
    owner_count: int,
    regrants: Mapping[str, tuple[Role | None, Role | None]],
    said: Role | None,
) -> None:
    """M3. `owner_count`, `said` (of the author): before the change. One who owns by token may take the last owner away,
    as long as it does not deny itself: it stands above the list and can always put someone on it."""
    if not regrants:
        return
    left = owner_count + sum((after is Role.OWNER) - (before is Role.OWNER) for before, after in regrants.values())
    name = member_key(author)
    if name is not None and name[1] in regrants:
        said = regrants[name[1]][1]
    if left < 1 and role_said(author, space, said) < Role.OWNER:
        raise MemberRefused("precondition", "the change would leave the space without an owner")
