"""Members: what a user may do in a space, by its token and by the space's own list.

Owns the effective role: the greater of what the token grants on the space and what the reserved collection `_members`
says (the id of a document is a user's, its field `role` a role), except that a member whose role is `none` may do
nothing whatever the token says. So a space can let in and keep out whoever it likes, without waiting for tokens to end.

Whoever asks what somebody may do asks here: `Batch.role` inside a write transaction (it sees the changes before this
one), `role_of` over any other. Each costs one look at one document. API keys and the server are no members: a key does
what its scopes say, until it is revoked.

Invariants: M1 every role that is acted on was judged in the transaction that reads or writes what it is needed for. M2
who is `none` has no role, by no path.
"""

from syncd.core.documents import Document
from syncd.core.ids import MEMBERS, NAME_BYTES_MAX
from syncd.engine.commands import Author
from syncd.engine.grants import Role, role_on
from syncd.engine.quotas import KEY_PREFIX
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DOCUMENTS, SPACES

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
    if author.kind == "server":
        return Role.OWNER
    said = role_in(member)
    if said is Role.NONE:
        return Role.NONE
    return max(role_on(author.grants, space), said or Role.NONE)


def role_of(tx: Reader, author: Author, space: str) -> Role:
    """The effective role in a space, existing or not, at the moment of a read transaction."""
    name, document = member_key(author), None
    row = None if name is None else SPACES.get(tx, keys.space(space))
    if row is not None and name is not None:
        document = DOCUMENTS.get(tx, keys.document(row.id, *name))
    return role_given(author, space, document)
