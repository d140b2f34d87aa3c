"""Links by which somebody turns a category off in one step, without signing in.

Owns what such a link carries: a user and a category, sealed, so that nobody can make one for another, and nobody who
sees one in a log learns whom it is for. Must not know HTTP. One link may do one thing, and doing it twice changes
nothing, so it never expires: a message may be opened after years.

Sealed by AES-SIV (RFC 5297), which needs no nonce: the same user and category give the same link, so a decision that
runs again writes the same message.
"""

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from syncd.engine.batch import Batch
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import META

KEY_BYTES = 64  # AES-256 twice: for the tag and for the text
TOKEN_CHARS_MAX = 1_024  # a user of 128 characters of four bytes, and a category, in base64
EVERYTHING = "all"  # in the place of a category: it may be turned off, too
_KEY = keys.meta("opt-out key")
_PURPOSE = [b"syncd opt-out 1"]  # bound into the seal: a key that served two ends would let one stand for the other


def ensure_key(batch: Batch) -> None:
    """Made once; whoever has it can turn categories off, and nothing else. It is in backups, as links outlive those."""
    if META.get(batch.tx, _KEY) is None:
        META.put(batch.tx, _KEY, (batch.entropy(KEY_BYTES),))


def token(tx: Reader, user: str, category: str) -> str | None:
    """What stands in a link; None before the first start that made the key."""
    row = META.get(tx, _KEY)
    if row is None:
        return None
    sealed = AESSIV(row[0]).encrypt(f"{category}\0{user}".encode(), _PURPOSE)
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def opened(tx: Reader, text: str) -> tuple[str, str] | None:
    """(user, category) of a link; None if it is none of ours."""
    row = META.get(tx, _KEY)
    if row is None or len(text) > TOKEN_CHARS_MAX:
        return None
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        said = AESSIV(row[0]).decrypt(sealed, _PURPOSE).decode()
    except (ValueError, binascii.Error, InvalidTag):  # also of what is not ASCII, and of what is too short
        return None
    if token(tx, said.partition("\0")[2], said.partition("\0")[0]) != text:
        return None  # the same bytes in another spelling
    category, _, user = said.partition("\0")
    return user, category
