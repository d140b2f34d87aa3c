"""The layout of keys: the only module that knows key bytes.

One ordered map holds every table: a key is a table's prefix byte, then big-endian integers and names, so that byte
order is the order in which each table is scanned. Names hold no control characters (core/ids.py), so a zero byte ends a
name that is followed by another; ids and hashes have fixed sizes.

| prefix | table | key | row |
| --- | --- | --- | --- |
| `A` | meta | name | schema version and the like |
| `B` | space | name | SpaceRow |
| `C` | space name | space | name |
| `D` | document | space, collection, 0, id | Document |
| `E` | byrev | space, rev, number | collection, id: one row per document, moved on write |
| `F` | log | space, seq | LogRow |
| `G` | device log | space, slot, n | EntryRow: the per-device change log |
| `H` | device | device id | DeviceRow |
| `I` | replica | space, device id | ReplicaRow: a device inside a space |
| `J` | slot | space, slot | device id |
| `K` | low-water | space, low, slot | nothing |
| `L` | bucket | space, number | sum |
| `M` | dead letter | space, number | LetterRow |
| `N` | idempotency | key hash | IdempotencyRow |
| `O` | expiry | ms, key hash | owner's hash: when an idempotency row goes, and from whose count |
| `P` | API key | hash of its secret | KeyRow |
| `Q` | consumer | space, hash of its owner, name | ConsumerRow |
| `R` | consumer owner | hash of the owner, space, name | nothing: a consumer by its owner |
| `S` | holdings | hash of a user's or key's name | HoldingsRow |
| `T` | lease | space, document number, lease id, field | LeaseRow: the lease itself is in its document |
| `U` | unique | space, name, 0, key | collection, id: the document that holds the key |
| `V` | tombstone | space, rev, number | nothing: a deleted document, by its rev |
| `W` | lapsed | space, slot | LapsedRow: a device that counts for nothing in the frontier any more |
| `v` | user's device | hash of the user, device id | nothing: who uses it, as an index |
| `X` | holder | space, hash of the user, device id | HolderRow: a device that has a copy of the space |
| `Y` | epoch | space, epoch | EpochRow: an epoch that ended, when the store was restored |
| `f` | workflow version | name, 0, hash of what it says | VersionRow |
| `h` | version use | version | UseRow: whose version it is, and how many runs are in it |
| `a` | profile | hash of a user's name; nothing: of all people | ProfileRow: what was learned of a user |
| `b` | timer | due ms, rank, hash of the user, number | nothing: when a run goes on; the most urgent first |
| `c` | run | hash of the user, number | RunRow |
| `d` | decision | hash of the user, number | DecisionRow: what became of one notification, and why |
| `e` | dispatch | hash of the user, document id | DispatchRow: one that was delivered, and its receipts |
| `g` | standing | hash of the user | StandingRow: what caps, conditions and numbers need of a user |
| `i` | counter | day, category, 0, workflow | CounterRow: what came of notifications that day |
| `q` | keeping | space, collection | KeepingRow: how old its documents are, where a schema keeps them only so long |
| `o` | lease end | ms, and the lease's key | nothing: leases that end by themselves, by time |
| `p` | key hash | space, hash of a name, number | collection, id: the live documents, by bucket |
"""

from functools import lru_cache
from hashlib import sha256
from struct import Struct

META, SPACE, SPACE_NAME, DOCUMENT, BYREV, LOG, DEVICE_LOG, DEVICE = b"A", b"B", b"C", b"D", b"E", b"F", b"G", b"H"
REPLICA, SLOT, LOW_WATER, BUCKET, LETTER, IDEMPOTENCY, EXPIRY, API_KEY = (
    b"I", b"J", b"K", b"L", b"M", b"N", b"O", b"P",
)  # fmt: skip
CONSUMER, CONSUMER_OWNER, HOLDINGS = b"Q", b"R", b"S"
EPOCH = b"Y"
TOMBSTONE, LAPSED = b"V", b"W"
UNIQUE = b"U"
KEEPING = b"q"
LEASE, LEASE_END = b"T", b"o"
HOLDER, KEY_HASH, USER_DEVICE = b"X", b"p", b"v"
WORKFLOW, VERSION_USE, COUNTER = b"f", b"h", b"i"
PROFILE, TIMER, RUN, DECISION, DISPATCH, STANDING = b"a", b"b", b"c", b"d", b"e", b"g"

HASH_BYTES = 16
LEASE_ID_BYTES = 16

_SPACE_ONLY = Struct(">cI")
_SPACE_SEQ = Struct(">cIQ")
_SPACE_SLOT = Struct(">cII")
_SPACE_SEQ_U32 = Struct(">cIQI")
_SPACE_SLOT_N = Struct(">cIIQ")
_SPACE_U16 = Struct(">cIH")
_MS = Struct(">cQ")
_U32 = Struct(">I")
_PLACE = Struct(">II")  # space, document number
_TIMER = Struct(f">cQB{HASH_BYTES}sI")
_OF_USER = Struct(f">c{HASH_BYTES}sI")


def space_range(prefix: bytes, space: int) -> tuple[bytes, bytes]:
    """All keys of a table that begins its keys with the space: (start, stop)."""
    return _SPACE_ONLY.pack(prefix, space), _SPACE_ONLY.pack(prefix, space + 1)


def space_of(key: bytes) -> int:
    """The space of a key in a table that begins its keys with the space."""
    number: int = _SPACE_ONLY.unpack_from(key)[1]
    return number


def table_range(prefix: bytes) -> tuple[bytes, bytes]:
    return prefix, bytes([prefix[0] + 1])


def meta(name: str) -> bytes:
    return META + name.encode()


def space(name: str) -> bytes:
    return SPACE + name.encode()


def space_name(number: int) -> bytes:
    return _SPACE_ONLY.pack(SPACE_NAME, number)


def document(space: int, collection: str, document_id: str) -> bytes:
    return b"".join((_SPACE_ONLY.pack(DOCUMENT, space), collection.encode(), b"\0", document_id.encode()))


def collection_range(space: int, collection: str, after: str = "") -> tuple[bytes, bytes]:
    """The documents of one collection whose id is greater than `after`."""
    head = b"".join((_SPACE_ONLY.pack(DOCUMENT, space), collection.encode()))
    start = b"".join((head, b"\0", after.encode(), b"\0" if after else b""))
    return start, head + b"\1"


def parse_document(key: bytes) -> tuple[int, str, str]:
    number = _SPACE_ONLY.unpack_from(key)[1]
    collection, _, document_id = key[_SPACE_ONLY.size :].partition(b"\0")
    return number, collection.decode(), document_id.decode()


def byrev(space: int, rev: int, number: int) -> bytes:
    return _SPACE_SEQ_U32.pack(BYREV, space, rev, number)


def byrev_range(space: int, after_rev: int) -> tuple[bytes, bytes]:
    """All documents with rev > after_rev, by rising rev."""
    return _SPACE_SEQ.pack(BYREV, space, after_rev + 1), _SPACE_ONLY.pack(BYREV, space + 1)


def parse_byrev(key: bytes) -> tuple[int, int, int]:
    """(space, rev, number)"""
    _, space, rev, number = _SPACE_SEQ_U32.unpack(key)
    return space, rev, number


def log(space: int, seq: int) -> bytes:
    return _SPACE_SEQ.pack(LOG, space, seq)


def log_range(space: int, stop: int) -> tuple[bytes, bytes]:
    """The rows with seq < stop, by rising seq."""
    return _SPACE_ONLY.pack(LOG, space), _SPACE_SEQ.pack(LOG, space, stop)


def parse_log(key: bytes) -> tuple[int, int]:
    """(space, seq)"""
    _, space, seq = _SPACE_SEQ.unpack(key)
    return space, seq


def device_log(space: int, slot: int, n: int) -> bytes:
    return _SPACE_SLOT_N.pack(DEVICE_LOG, space, slot, n)


def device_log_range(space: int, slot: int, after_n: int) -> tuple[bytes, bytes]:
    """The entries of one device with n > after_n, by rising n."""
    return device_log(space, slot, after_n + 1), _SPACE_SLOT.pack(DEVICE_LOG, space, slot + 1)


def parse_device_log(key: bytes) -> tuple[int, int, int]:
    """(space, slot, n)"""
    _, space, slot, n = _SPACE_SLOT_N.unpack(key)
    return space, slot, n


def device(device_id: bytes) -> bytes:
    return DEVICE + device_id


def user_device(owner_hash: bytes, device_id: bytes) -> bytes:
    return USER_DEVICE + owner_hash + device_id


def user_devices_range(owner_hash: bytes) -> tuple[bytes, bytes]:
    """The devices of one user."""
    head = USER_DEVICE + owner_hash
    return head, head + b"\xff" * (HASH_BYTES + 1)


def parse_user_device(key: bytes) -> tuple[bytes, bytes]:
    """(hash of the user, device)"""
    return key[1 : 1 + HASH_BYTES], key[1 + HASH_BYTES :]


def replica(space: int, device_id: bytes) -> bytes:
    return _SPACE_ONLY.pack(REPLICA, space) + device_id


def parse_replica(key: bytes) -> tuple[int, bytes]:
    """(space, device id)"""
    return _SPACE_ONLY.unpack_from(key)[1], key[_SPACE_ONLY.size :]


def slot(space: int, number: int) -> bytes:
    return _SPACE_SLOT.pack(SLOT, space, number)


def parse_slot(key: bytes) -> tuple[int, int]:
    """(space, slot)"""
    _, space, number = _SPACE_SLOT.unpack(key)
    return space, number


def low_water(space: int, low: int, slot: int) -> bytes:
    return _SPACE_SEQ_U32.pack(LOW_WATER, space, low, slot)


def parse_low_water(key: bytes) -> tuple[int, int, int]:
    """(space, low, slot)"""
    _, space, low, slot = _SPACE_SEQ_U32.unpack(key)
    return space, low, slot


def tombstone(space: int, rev: int, number: int) -> bytes:
    return _SPACE_SEQ_U32.pack(TOMBSTONE, space, rev, number)


def tombstones_range(space: int, rev: int) -> tuple[bytes, bytes]:
    """The tombstones with a rev up to this one, by rising rev."""
    return _SPACE_ONLY.pack(TOMBSTONE, space), _SPACE_SEQ.pack(TOMBSTONE, space, rev + 1)


def parse_tombstone(key: bytes) -> tuple[int, int, int]:
    """(space, rev, number)"""
    _, space, rev, number = _SPACE_SEQ_U32.unpack(key)
    return space, rev, number


def key_hash(space: int, hashed: int, number: int) -> bytes:
    return _SPACE_SEQ_U32.pack(KEY_HASH, space, hashed, number)


def key_hash_range(space: int, first: int, stop: int) -> tuple[bytes, bytes]:
    """The live documents with first <= key hash < stop, by rising hash."""
    end = _SPACE_ONLY.pack(KEY_HASH, space + 1) if stop >> 64 else _SPACE_SEQ.pack(KEY_HASH, space, stop)
    return _SPACE_SEQ.pack(KEY_HASH, space, first), end


def parse_key_hash(key: bytes) -> tuple[int, int, int]:
    """(space, key hash, number)"""
    _, space, hashed, number = _SPACE_SEQ_U32.unpack(key)
    return space, hashed, number


def keeping(space: int, collection: str) -> bytes:
    return _SPACE_ONLY.pack(KEEPING, space) + collection.encode()


def parse_keeping(key: bytes) -> tuple[int, str]:
    """(space, collection)"""
    return space_of(key), key[_SPACE_ONLY.size :].decode(errors="replace")


def lapsed(space: int, slot: int) -> bytes:
    return _SPACE_SLOT.pack(LAPSED, space, slot)


def parse_lapsed(key: bytes) -> tuple[int, int]:
    """(space, slot)"""
    _, space, slot = _SPACE_SLOT.unpack(key)
    return space, slot


def bucket(space: int, number: int) -> bytes:
    return _SPACE_U16.pack(BUCKET, space, number)


def parse_bucket(key: bytes) -> tuple[int, int]:
    """(space, bucket)"""
    _, space, number = _SPACE_U16.unpack(key)
    return space, number


def letter(space: int, number: int) -> bytes:
    return _SPACE_SEQ.pack(LETTER, space, number)


def parse_letter(key: bytes) -> tuple[int, int]:
    """(space, number)"""
    _, space, number = _SPACE_SEQ.unpack(key)
    return space, number


def epoch(space: int, epoch_id: bytes) -> bytes:
    return _SPACE_ONLY.pack(EPOCH, space) + epoch_id


def parse_epoch(key: bytes) -> tuple[int, bytes]:
    """(space, epoch)"""
    return space_of(key), key[_SPACE_ONLY.size :]


def idempotency(key_hash: bytes) -> bytes:
    return IDEMPOTENCY + key_hash


def expiry(at_ms: int, key_hash: bytes) -> bytes:
    return _MS.pack(EXPIRY, at_ms) + key_hash


def expiry_range(now_ms: int) -> tuple[bytes, bytes]:
    """What expired before now."""
    return EXPIRY, _MS.pack(EXPIRY, now_ms)


def parse_expiry(key: bytes) -> bytes:
    """The key hash."""
    return key[_MS.size :]


def api_key(secret_hash: bytes) -> bytes:
    return API_KEY + secret_hash


def consumer(space: int, owner_hash: bytes, name: str) -> bytes:
    return b"".join((_SPACE_ONLY.pack(CONSUMER, space), owner_hash, name.encode()))


def consumers_range(space: int, owner_hash: bytes) -> tuple[bytes, bytes]:
    """The consumers of one owner in a space. A name is UTF-8, in which no byte is 255."""
    head = _SPACE_ONLY.pack(CONSUMER, space) + owner_hash
    return head, head + b"\xff"


def parse_consumer(key: bytes) -> tuple[int, bytes, str]:
    """(space, owner hash, name)"""
    names = _SPACE_ONLY.size + HASH_BYTES
    return space_of(key), key[_SPACE_ONLY.size : names], key[names:].decode(errors="replace")


def consumer_owner(owner_hash: bytes, space: int, name: str) -> bytes:
    return b"".join((CONSUMER_OWNER, owner_hash, _U32.pack(space), name.encode()))


def consumer_owner_range(owner_hash: bytes) -> tuple[bytes, bytes]:
    """All consumers of an owner, in spaces numbered below 255 * 2^24."""
    return CONSUMER_OWNER + owner_hash, CONSUMER_OWNER + owner_hash + b"\xff"


def parse_consumer_owner(key: bytes) -> tuple[bytes, int, str]:
    """(owner hash, space, name)"""
    space_at = 1 + HASH_BYTES
    name_at = space_at + _U32.size
    return key[1:space_at], _U32.unpack_from(key, space_at)[0], key[name_at:].decode(errors="replace")


# The same few again and again within a transaction, whose number is bounded by that of its commands.
@lru_cache(maxsize=1024)  # an event asks for it five times
def owner(user: str) -> bytes:
    """Stands for a user or API key, whose name may be longer than a key can be."""
    return sha256(user.encode()).digest()[:HASH_BYTES]


def holdings(owner_hash: bytes) -> bytes:
    return HOLDINGS + owner_hash


def unique(space: int, name: str, key: str) -> bytes:
    return b"".join((_SPACE_ONLY.pack(UNIQUE, space), name.encode(), b"\0", key.encode()))


def parse_unique(key: bytes) -> tuple[int, str, str]:
    """(space, name, key)"""
    name, _, held = key[_SPACE_ONLY.size :].partition(b"\0")
    return space_of(key), name.decode(), held.decode()


def lease(space: int, number: int, lease_id: bytes, field: str) -> bytes:
    return b"".join((LEASE, _PLACE.pack(space, number), lease_id, field.encode()))


def parse_lease(key: bytes) -> tuple[int, int, bytes, str]:
    """(space, document number, lease id, field)"""
    id_at = 1 + _PLACE.size
    field_at = id_at + LEASE_ID_BYTES
    return *_PLACE.unpack_from(key, 1), key[id_at:field_at], key[field_at:].decode(errors="replace")


def lease_end(until_ms: int, space: int, number: int, lease_id: bytes, field: str) -> bytes:
    return _MS.pack(LEASE_END, until_ms) + lease(space, number, lease_id, field)[1:]


def lease_end_range(until_ms: int) -> tuple[bytes, bytes]:
    """The leases that ended before `until_ms`."""
    return LEASE_END, _MS.pack(LEASE_END, until_ms)


def parse_lease_end(key: bytes) -> tuple[int, bytes]:
    """(ms, the lease's key)"""
    return _MS.unpack_from(key)[1], LEASE + key[_MS.size :]


def lease_freeze(space: int) -> bytes:
    """Of a space that gives no stock out after a restore."""
    return meta("lease freeze ") + _U32.pack(space)


def lease_freezes_range() -> tuple[bytes, bytes]:
    start = meta("lease freeze ")
    return start, start + b"\xff" * (_U32.size + 1)


def parse_lease_freeze(key: bytes) -> int:
    """The space."""
    return int(_U32.unpack_from(key, len(key) - _U32.size)[0])


def lease_spent(space: int, lease_id: bytes) -> bytes:
    """Of a lease that was honoured after a restore, and has been ended."""
    return meta("lease spent ") + _U32.pack(space) + lease_id


def holder(space: int, owner_hash: bytes, device_id: bytes) -> bytes:
    return b"".join((_SPACE_ONLY.pack(HOLDER, space), owner_hash, device_id))


def holders_range(space: int, owner_hash: bytes) -> tuple[bytes, bytes]:
    """The devices of one user that have a copy of a space."""
    head = _SPACE_ONLY.pack(HOLDER, space) + owner_hash
    return head, head + b"\xff" * (HASH_BYTES + 1)


def parse_holder(key: bytes) -> tuple[int, bytes, bytes]:
    """(space, hash of the user, device id)"""
    device_at = _SPACE_ONLY.size + HASH_BYTES
    return space_of(key), key[_SPACE_ONLY.size : device_at], key[device_at:]


def workflow_set() -> bytes:
    """Of what is in force: the policy, and the workflows with their active versions."""
    return meta("workflows")


def workflow_version(name: str, version: str) -> bytes:
    """`version`: hexadecimal, as everywhere but in keys."""
    return b"".join((WORKFLOW, name.encode(), b"\0", bytes.fromhex(version)))


def workflow_range(name: str) -> tuple[bytes, bytes]:
    """All versions of one workflow."""
    head = WORKFLOW + name.encode()
    return head + b"\0", head + b"\1"


def parse_workflow_version(key: bytes) -> tuple[str, str]:
    """(name, version)"""
    name, _, version = key[1:].partition(b"\0")
    return name.decode(errors="replace"), version.hex()


def version_use(version: str) -> bytes:
    return VERSION_USE + bytes.fromhex(version)


def parse_version_use(key: bytes) -> str:
    """The version."""
    return key[1:].hex()


# -- notifications ----------------------------------------------------------------------------------------------------

POPULATION = PROFILE  # the profile of all people together: no hash is empty


def profile(owner_hash: bytes) -> bytes:
    return PROFILE + owner_hash


def standing(owner_hash: bytes) -> bytes:
    return STANDING + owner_hash


def timer(due_ms: int, rank: int, owner_hash: bytes, number: int) -> bytes:
    return _TIMER.pack(TIMER, due_ms, rank, owner_hash, number)


def timers_range(now_ms: int) -> tuple[bytes, bytes]:
    """The timers that are due at `now_ms`, the earliest first, of each millisecond the most urgent."""
    return TIMER, _MS.pack(TIMER, now_ms + 1)


def parse_timer(key: bytes) -> tuple[int, int, bytes, int]:
    """(due ms, rank, hash of the user, number of the run)"""
    _, due_ms, rank, owner_hash, number = _TIMER.unpack(key)
    return due_ms, rank, owner_hash, number


def run(owner_hash: bytes, number: int) -> bytes:
    return _OF_USER.pack(RUN, owner_hash, number)


def decision(owner_hash: bytes, number: int) -> bytes:
    return _OF_USER.pack(DECISION, owner_hash, number)


def parse_of_user(key: bytes) -> tuple[bytes, int]:
    """(hash of the user, number) of a run or a decision."""
    _, owner_hash, number = _OF_USER.unpack(key)
    return owner_hash, number


def of_user_range(prefix: bytes, owner_hash: bytes) -> tuple[bytes, bytes]:
    """All runs, decisions or dispatches of a user, the first two by rising number."""
    return prefix + owner_hash, prefix + owner_hash + b"\xff" * (_U32.size + 1)


def dispatch(owner_hash: bytes, document_id: str) -> bytes:
    return b"".join((DISPATCH, owner_hash, document_id.encode()))


def parse_dispatch(key: bytes) -> tuple[bytes, str]:
    """(hash of the user, document id)"""
    return key[1 : 1 + HASH_BYTES], key[1 + HASH_BYTES :].decode(errors="replace")


def counter(day: int, category: str, workflow: str) -> bytes:
    """`day`: days since 1970."""
    return b"".join((COUNTER, _U32.pack(day), category.encode(), b"\0", workflow.encode()))


def counters_range(first: int, stop: int) -> tuple[bytes, bytes]:
    """The counters of the days `first` up to, not including, `stop`."""
    return COUNTER + _U32.pack(first), COUNTER + _U32.pack(stop)


def parse_counter(key: bytes) -> tuple[int, str, str]:
    """(day, category, workflow)"""
    category, _, workflow = key[1 + _U32.size :].partition(b"\0")
    return _U32.unpack_from(key, 1)[0], category.decode(errors="replace"), workflow.decode(errors="replace")
