"""fsck finds each kind of damage, and nothing in a healthy store."""

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest

from syncd.core.fields import Field
from syncd.core.sums import key_hash
from syncd.engine.batch import Batch
from syncd.engine.commands import CreateKey, Event, Forget, Idempotency, Post, PostEvents, PutConsumer
from syncd.engine.engine import Engine
from syncd.engine.feeding import owner_hash
from syncd.notify import versions
from syncd.notify.book import Book
from syncd.notify.service import Decider
from syncd.notify.workflows import definitions
from syncd.store import keys
from syncd.store.api import StoreDamaged, Writer
from syncd.store.fsck import Finding, check
from syncd.store.memory import MemoryStore
from syncd.store.tables import (
    API_KEYS,
    BUCKETS,
    BYREV,
    CONSUMERS,
    COUNTERS,
    DEVICES,
    DOCUMENTS,
    ENTRIES,
    EPOCHS,
    HOLDERS,
    HOLDINGS,
    IDEMPOTENCY,
    KEEPING,
    KEY_HASHES,
    LAPSED,
    LEASE_ENDS,
    LEASES,
    LOG,
    LOW_WATERS,
    META,
    REPLICAS,
    SCHEMA_VERSION,
    SLOTS,
    SPACE_NAMES,
    SPACES,
    TABLES,
    TOMBSTONES,
    UNIQUE,
    USER_DEVICES,
    VERSION_USES,
    WORKFLOW_VERSIONS,
    EpochRow,
    KeepingRow,
    LapsedRow,
    Table,
)
from tests.engine.kit import SPACE, Daemon, api_key, device, raw
from tests.engine.server import EngineServer
from tests.oracle.histories import World, random_history

ANN, BEN = device(1), device(2, user="ben")
KEY = api_key()
CAT = device(4, user="cat")
CAT_SLOT = 5
S = 1  # the number of SPACE
NOTES = keys.keeping(S, "notes")
ANN_SLOT, BEN_SLOT, KEY_SLOT = 1, 2, 3
DAY_MS = 86_400_000
PRINTS = "the record under key"


def made() -> MemoryStore:
    """A store with a row in every table: two devices, a backend, events, refusals, deletes, trimmed logs."""
    daemon = Daemon()
    daemon.ask(CreateKey("backend", ("changes:write",), bytes(16), KEY.device))
    daemon.attach(ANN)
    daemon.attach(BEN)
    daemon.push(ANN, raw(1, ["create", "notes", "a"], ["reg.set", "notes", "a", "title", "one"]))
    daemon.push(ANN, raw(2, ["create", "notes", "b"], ["counter.inc", "notes", "b", "votes", 3]))
    daemon.push(BEN, raw(1, ["reg.set", "notes", "none", "title", "gone"]), raw(2, ["create", "notes", "c"]))
    daemon.push(BEN, raw(3, ["delete", "notes", "c"]), raw(4, ["set.add", "notes", "a", "tags", "x"], base=1))
    daemon.push(ANN, raw(3, ["reg.unset", "notes", "a", "title"]))
    daemon.ack(ANN, daemon.head(), 2)
    daemon.ack(BEN, 2, 1)
    post = [["counter.inc", "notes", "b", "votes", 1]]
    daemon.ask(Post(KEY, SPACE, post, None, None, Idempotency(b"k" * 16, b"r" * 16, DAY_MS)))
    for _ in range(1010):
        daemon.now_ms += 1
        daemon.ask(Post(KEY, SPACE, post, None, None, None))
    event = Event(b"e" * 16, "shop", "1", "sale", "ann", None, {"notification": NOTIFICATION})
    daemon.ask(PostEvents(KEY, (event,), DAY_MS))
    third = device(3)
    daemon.attach(third)
    daemon.ask(Forget(third, SPACE))
    daemon.ask(PutConsumer(KEY, "key:backend", SPACE, "mailer", "head"))
    daemon.attach(CAT)
    daemon.ask(Post(KEY, SPACE, post, None, None, None))
    with daemon.store.write() as tx:  # as a step of collection does with one who was away too long
        work = Batch(tx, daemon.now_ms, bytes).space(SPACE)
        assert work is not None
        work.lapse(CAT.device)
        work.flush()
    stock = [["bounded.restock", 10], ["bounded.lease", STRICT, 2, None], ["bounded.lease", TTL, 3, DAY_MS]]
    leasing: list[list[Any]] = [[verb, "stock", "d", "left", *args] for verb, *args in stock]
    daemon.ask(Post(KEY, SPACE, [["create", "stock", "d"], *leasing], None, None, None))
    held = [["create", "user", "e"], ["unique", "user", "e", "nick", "ann"], ["unique", "user", "e", "mail", "a@b"]]
    daemon.ask(Post(KEY, SPACE, held, None, None, None))
    with daemon.store.write() as tx:
        META.put(tx, keys.meta("schema"), (SCHEMA_VERSION,))
        EPOCHS.put(tx, keys.epoch(work.row.id, b"o" * 16), EpochRow(0, 1))
        versions.made(tx, daemon.now_ms, WORKFLOWS, "key:backend")
        KEEPING.put(tx, NOTES, KeepingRow(DAY_MS, daemon.now_ms, [3, 9], (4, 0)))
    daemon.engine = Engine(bytes, notices=Decider(Book()))
    sale = {"notification": NOTIFICATION}
    daemon.ask(PostEvents(KEY, (Event(b"f" * 16, "shop", "2", "sale", "zoe", None, sale),), DAY_MS))
    daily = [["create", "_preferences", "all"], ["reg.set", "_preferences", "all", "frequency", "daily"]]
    daemon.ask(Post(KEY, "user/zoe", daily, None, None, None))
    daemon.ask(PostEvents(KEY, (Event(b"g" * 16, "shop", "3", "sale", "zoe", None, sale),), DAY_MS))
    assert not daemon.alarms
    return daemon.store


WORKFLOWS = {
    "category": {"shop": {}},
    "template": {"hello": {"title": "Hello"}},
    "workflow": {"cart": {"category": "shop", "trigger": {"event": "x"}, "step": [{"send": {"templates": ["hello"]}}]}},
}
SALES = keys.counter(Daemon().now_ms // DAY_MS, "sales", "")
CART = definitions(WORKFLOWS).versions["cart"]
STRICT, TTL = b"s" * 16, b"t" * 16  # two leases
NOTIFICATION = {"title": "Sold", "body": "Your chair was sold", "category": "sales"}


@pytest.fixture(scope="module")
def image() -> dict[bytes, bytes]:
    return made().image()


def findings(store: MemoryStore) -> list[Finding]:
    with store.read() as tx:
        return list(check(tx))


def test_a_healthy_store_has_no_findings_and_a_row_in_every_table(image: dict[bytes, bytes]) -> None:
    assert findings(MemoryStore(image=image)) == []
    assert {key[:1] for key in image} == {table.prefix for table in TABLES}
    assert findings(MemoryStore()) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_random_history_leaves_a_finding(seed: int) -> None:
    history = random_history(seed)
    server = EngineServer(seed, history.wins)
    World(history, server).run()
    assert findings(server.daemon.store) == []


# -- ways to do damage: each returns a function over a transaction -----------------------------------------------------

Damage = Callable[[Writer], None]


def changed(table: Table[Any], key: bytes, **items: Any) -> Damage:
    """Give a row other items, under a correct checksum."""

    def damage(tx: Writer) -> None:
        row = table.get(tx, key)
        assert row is not None
        table.put(tx, key, row._replace(**items))

    return damage


def replaced(table: Table[Any], key: bytes, row: Any) -> Damage:
    return lambda tx: table.put(tx, key, row)


def dropped(key: bytes) -> Damage:
    def damage(tx: Writer) -> None:
        assert tx.delete(key)

    return damage


def both(*damages: Damage) -> Damage:
    def damage(tx: Writer) -> None:
        for each in damages:
            each(tx)

    return damage


def last_log_dropped(tx: Writer) -> None:
    last = tx.last(*keys.space_range(keys.LOG, S))
    assert last is not None
    tx.delete(last[0])


def entry_copied(tx: Writer) -> None:
    entry = ENTRIES.get(tx, keys.device_log(S, KEY_SLOT, 500))
    assert entry is not None
    ENTRIES.put(tx, keys.device_log(S, KEY_SLOT, 1), entry)


def listed_as_deleted(tx: Writer) -> None:
    document = DOCUMENTS.get(tx, keys.document(S, "notes", "a"))
    assert document is not None
    TOMBSTONES.put(tx, keys.tombstone(S, document.rev, document.number), ())


def field_changed(name: str, **items: Any) -> Damage:
    def damage(tx: Writer) -> None:
        key = keys.document(S, "notes", "a")
        document = DOCUMENTS.get(tx, key)
        assert document is not None
        field: Field = document.fields[name]
        DOCUMENTS.put(tx, key, document._replace(fields={**document.fields, name: field._replace(**items)}))

    return damage


def book_changed(at: int, value: Any) -> Damage:
    """Give the book of stock/d another item."""

    def damage(tx: Writer) -> None:
        document = DOCUMENTS.get(tx, D)
        assert document is not None
        field = document.fields["left"]
        book = [*field.state[:at], value, *field.state[at + 1 :]]
        DOCUMENTS.put(tx, D, document._replace(fields={"left": field._replace(state=book)}))

    return damage


D = keys.document(S, "stock", "d")
D_NUMBER = 4
STRICT_KEY, TTL_KEY = (keys.lease(S, D_NUMBER, lease, "left") for lease in (STRICT, TTL))
TTL_ENDS = 1000 + 1010 + DAY_MS
TTL_END = keys.lease_end(TTL_ENDS, S, D_NUMBER, TTL, "left")
STRICT_LEASE, TTL_LEASE = [KEY_SLOT, 2, 2, None, False], [KEY_SLOT, 3, 3, TTL_ENDS, False]
A, B, C = (keys.document(S, "notes", name) for name in "abc")
A_HASHED = keys.key_hash(S, key_hash("notes", "a"), 1)
SPACE_KEY = keys.space(SPACE)
ANN_REPLICA = keys.replica(S, ANN.device)
BEN_REPLICA = keys.replica(S, BEN.device)
KEY_REPLICA = keys.replica(S, KEY.device)
NEVER = 1 << 40
OWNER = owner_hash("key:backend")
CONSUMER = keys.consumer(S, OWNER, "mailer")

BENS_COPY = keys.holder(S, keys.owner(BEN.user), BEN.device)
BENS = keys.holdings(keys.owner(BEN.user))

CASES: list[tuple[str, Damage, list[tuple[str, str]]]] = [
    ("schema row too long", replaced(META, keys.meta("x"), (1, 2)), [("meta", "has one item")]),
    ("stray key", lambda tx: tx.put(b"zed", b""), [("none", "belongs to no table")]),
    ("stray key between tables", lambda tx: tx.put(b"\x5f", b""), [("none", "belongs to no table")]),
    ("rows of no space", replaced(BUCKETS, keys.bucket(77, 1), (1,)), [("bucket", "no such space")]),
    # spaces
    ("space renamed", dropped(keys.space_name(S)), [
        *[(table, "no such space") for table in
          ("document", "byrev", "log", "device log", "replica", "slot", "low-water", "bucket", "dead letter",
           "consumer", "tombstone", "lapsed", "lease", "holder", "unique", "epoch", "key hash", "keeping")],
        ("space", "has no name"),
    ]),
    ("name of another space", replaced(SPACE_NAMES, keys.space_name(S), ("user/ann",)), [("space", "is named")]),
    ("name of no space", replaced(SPACE_NAMES, keys.space_name(9), ("gone",)), [("space name", "there is no space")]),
    ("floor beyond head", changed(SPACES, SPACE_KEY, floor=NEVER, frontier=NEVER), [
        ("space", "the floor"), ("space", "the frontier"), ("replica", "low-water"), ("replica", "low-water"),
    ]),
    ("floor beyond frontier", changed(SPACES, SPACE_KEY, floor=1), [("space", "beyond the frontier")]),
    ("bytes of the space", changed(SPACES, SPACE_KEY, log_bytes=5), [("space", "T, chain or bytes")]),
    ("frontier beyond head", changed(SPACES, SPACE_KEY, frontier=NEVER), [("space", "the frontier")]),
    ("safe beyond head", changed(SPACES, SPACE_KEY, safe=NEVER), [("space", "a backup has it up to")]),
    ("parent that never ended", changed(SPACES, SPACE_KEY, parent=b"p" * 16), [("epoch", "did not end at")]),
    ("epoch that ended late", replaced(EPOCHS, keys.epoch(S, b"e" * 16), (NEVER, 1)), [("epoch", "it ended at")]),
    ("epoch of no size", replaced(EPOCHS, keys.epoch(S, b"e"), (0, 1)), [("epoch", "it is no epoch that ended")]),
    ("short epoch", changed(SPACES, SPACE_KEY, epoch=b"1"), [("space", "the epoch has 1 bytes")]),
    ("sum of the space", changed(SPACES, SPACE_KEY, sum=7), [("space", "the sum is 0000000000000007")]),
    ("count of the space", changed(SPACES, SPACE_KEY, document_count=9), [("space", "it counts 9")]),
    ("owners of the space", changed(SPACES, SPACE_KEY, owner_count=1), [("space", "it counts 1 owners and has 0")]),
    ("chain of the space", changed(SPACES, SPACE_KEY, chain=bytes(8)), [("space", "T, chain or bytes")]),
    ("T of the space", changed(SPACES, SPACE_KEY, time=5), [("space", "T, chain or bytes")]),
    ("letters", changed(SPACES, SPACE_KEY, letter_next=0), [("dead letter", "never given")]),
    ("numbers", changed(SPACES, SPACE_KEY, number_next=5), [("document", "was never given")]),
    # documents
    ("document gone", both(dropped(A), changed(SPACES, SPACE_KEY, document_count=3)), [
        ("key hash", "no such live document"), ("byrev", "no document notes/a"),
        ("bucket", "its documents have 0000"), ("space", "the sum is"),
    ]),
    ("rev moved", changed(DOCUMENTS, C, rev=5), [
        ("document", "not listed in byrev"), ("document", "touched at 4, rev 5"), ("byrev", "has rev 5"),
        ("tombstone", "deleted and not listed"),
    ]),
    ("touched beyond the head", changed(DOCUMENTS, C, touched=NEVER), [("document", "touched at")]),
    ("touched by another's change", changed(DOCUMENTS, C, touched=5), [("document", "leads to seq 5, which does not")]),
    ("byrev gone", dropped(keys.byrev(S, 4, 3)), [
        ("document", "not listed in byrev"), ("tombstone", "no document"),
    ]),
    ("byrev names another", replaced(BYREV, keys.byrev(S, 4, 3), ("notes", "b")), [("byrev", "it names notes/b")]),
    ("byrev twice", replaced(BYREV, keys.byrev(S, 3, 3), ("notes", "c")), [("byrev", "has rev 4")]),
    ("number taken", changed(DOCUMENTS, C, number=1), [
        ("document", "taken by another"), ("document", "not listed in byrev"), ("tombstone", "deleted and not listed"),
    ]),
    ("born late", changed(DOCUMENTS, C, born=9), [("document", "was born at 9")]),
    ("no makers", changed(DOCUMENTS, C, makers=()), [("document", "nobody made it")]),
    ("fields of a tombstone", changed(DOCUMENTS, C, fields={"x": Field("flag", 0, 1, 1, ())}), [
        ("document", "deleted and has fields"),
    ]),
    ("writer from nowhere", changed(DOCUMENTS, C, writers=((4, 99),)), [("document", "which the space has not")]),
    ("field of the future", field_changed("tags", rev=900), [("document", "the field tags has rev 900")]),
    ("field by nobody", field_changed("tags", seq=NEVER), [("document", "the field tags names the change")]),
    ("value altered", field_changed("tags", state={}), [("bucket", "the sum is"), ("space", "the sum is")]),
    ("bucket altered", lambda tx: replaced(BUCKETS, next(iter(tx.scan(*keys.space_range(b"L", S))))[0], (1,))(tx), [
        ("bucket", "the sum is 0000000000000001"),
    ]),
    ("bucket gone", lambda tx: dropped(next(iter(tx.scan(*keys.space_range(b"L", S))))[0])(tx), [
        ("bucket", "the sum is missing"),
    ]),
    ("bucket 2000", replaced(BUCKETS, keys.bucket(S, 2000), (0,)), [("bucket", "there are 1024")]),
    # how old documents are
    ("kept for no time", changed(KEEPING, NOTES, keep_ms=0), [("keeping", "its documents are kept for 0 ms")]),
    ("no marks", changed(KEEPING, NOTES, marks=[]), [("keeping", "it has 0 marks")]),
    ("too many marks", changed(KEEPING, NOTES, marks=[5] * 34), [("keeping", "it has 34 marks, not 1 to 33")]),
    ("marks that fall", changed(KEEPING, NOTES, marks=[9, 3]), [("keeping", "its marks [9, 3] do not rise")]),
    ("mark of the future", changed(KEEPING, NOTES, marks=[3, NEVER]), [("keeping", "do not rise to the head")]),
    ("looked beyond the mark", changed(KEEPING, NOTES, place=(4, 1)), [("keeping", "looked through to [4, 1]")]),
    # the order
    ("log row gone", dropped(keys.log(S, 3)), [("log", "it follows seq 2")]),
    ("log begins late", dropped(keys.log(S, 1)), [("log", "it is the first")]),
    ("log ends early", last_log_dropped, [("log", "the log ends here")]),
    ("T falls", changed(LOG, keys.log(S, 500), time=1), [("log", "T falls")]),
    ("bytes fall", changed(LOG, keys.log(S, 500), log_bytes=1), [("log", "its bytes fall")]),
    ("chain altered", changed(LOG, keys.log(S, 900), chain=bytes(8)), [("log", "the chain does not follow")]),
    ("log by another", changed(LOG, keys.log(S, 2), slot=BEN_SLOT, n=1), [
        ("log", "whose log says seq None"), ("device log", "the log says that its seq 2"),
    ]),
    ("log by an unknown slot", changed(LOG, keys.log(S, 2), slot=50), [
        ("log", "slot 50 was never given"), ("device log", "the log says that its seq 2"),
    ]),
    ("log of the future", changed(LOG, keys.log(S, 2), n=50), [
        ("log", "has recorded only 3"), ("device log", "the log says that its seq 2"),
    ]),
    ("nonce altered", changed(ENTRIES, keys.device_log(S, ANN_SLOT, 2), nonce=bytes(8)), [("log", "does not follow")]),
    # device logs
    ("entry gone", dropped(keys.device_log(S, ANN_SLOT, 2)), [("device log", "it follows n 1")]),
    ("entries end early", dropped(keys.device_log(S, ANN_SLOT, 3)), [("device log", "its log ends here")]),
    ("entry trimmed and there", entry_copied, [
        ("device log", "below what was trimmed"), ("log", "whose log says seq"),
    ]),
    ("entry of no slot", replaced(ENTRIES, keys.device_log(S, 50, 1), (bytes(8), "void", None, None, 0, 0, None)), [
        ("device log", "the slot was never given"),
    ]),
    ("outcome with a seq", changed(ENTRIES, keys.device_log(S, BEN_SLOT, 1), outcome="applied"), [
        ("device log", "its outcome is applied, its seq None"),
    ]),
    ("seq of another", changed(ENTRIES, keys.device_log(S, ANN_SLOT, 3), seq=1), [
        ("device log", "a link leads to 5"), ("log", "whose log says seq 1"), ("device log", "is not above"),
        ("device log", "the log says that its seq 1"),
    ]),
    ("seq of the future", changed(ENTRIES, keys.device_log(S, ANN_SLOT, 3), seq=NEVER), [
        ("log", "whose log says"), ("device log", "beyond the head"),
    ]),
    # devices
    ("device gone", dropped(keys.device(BEN.device)), [
        ("replica", "the device has no row"), ("holdings", "1 devices are counted, 0 are there"),
        ("user's device", "no such device"),
    ]),
    ("not among its user's", dropped(keys.user_device(keys.owner("ben"), BEN.device)), [
        ("device", "not among the devices of its user 'ben'"),
    ]),
    ("among another's", replaced(USER_DEVICES, keys.user_device(keys.owner("eve"), BEN.device), ()), [
        ("user's device", "no such device of this user"),
    ]),
    ("kind unknown", changed(DEVICES, keys.device(BEN.device), kind="phone"), [("device", "unknown kind")]),
    ("no installation", changed(DEVICES, keys.device(BEN.device), installation=None), [("device", "installation")]),
    ("short device id", replaced(DEVICES, keys.device(b"x"), ("u", "key", None, 0)), [("device", "has 16 bytes")]),
    ("key without device", changed(API_KEYS, keys.api_key(bytes(16)), device=b"?" * 16), [("API key", "has no row")]),
    ("slot gone", dropped(keys.slot(S, BEN_SLOT)), [("slot", "has no row")]),
    ("last slot gone", dropped(keys.slot(S, CAT_SLOT)), [("slot", "has no row")]),
    ("slot never given", replaced(SLOTS, keys.slot(S, 50), (ANN.device,)), [("slot", "never given")]),
    ("replica gone", dropped(keys.replica(S, device(3).device)), [("slot", "has no replica")]),
    ("replica with a foreign slot", changed(REPLICAS, keys.replica(S, device(3).device), slot=BEN_SLOT), [
        ("replica", "is that of device"),
    ]),
    ("replica with no slot", changed(REPLICAS, keys.replica(S, device(3).device), slot=50), [
        ("replica", "never given"),
    ]),
    ("settled what was not recorded", changed(REPLICAS, ANN_REPLICA, settled=9), [("replica", "do not rise")]),
    ("trimmed what is there", changed(REPLICAS, ANN_REPLICA, trimmed=1), [("device log", "below what was trimmed")]),
    ("applied the future", changed(REPLICAS, ANN_REPLICA, applied=NEVER), [("replica", "it has applied")]),
    ("low-water moved", changed(REPLICAS, BEN_REPLICA, low=1), [
        ("replica", "not in the index"), ("low-water", "low-water is 1"),
    ]),
    ("low-water not indexed", dropped(keys.low_water(S, 2, BEN_SLOT)), [("replica", "not in the index")]),
    ("low-water of one who has none", replaced(LOW_WATERS, keys.low_water(S, 1, KEY_SLOT), ()), [
        ("low-water", "low-water is None"),
    ]),
    ("low-water of no slot", replaced(LOW_WATERS, keys.low_water(S, 1, 50), ()), [("low-water", "never given")]),
    # unique keys
    ("unique key not listed", dropped(keys.unique(S, "nick", "ann")), [("unique", "user/e holds it, and it is not")]),
    ("unique key of another", replaced(UNIQUE, keys.unique(S, "nick", "ann"), ("notes", "a")), [
        ("unique", "user/e holds it, and notes/a is listed"), ("unique", "notes/a does not hold it"),
    ]),
    ("unique key of nobody", replaced(UNIQUE, keys.unique(S, "nick", "eve"), ("user", "e")), [
        ("unique", "user/e does not hold it"),
    ]),
    # collection
    ("tombstone not listed", dropped(keys.tombstone(S, 4, 3)), [("tombstone", "is deleted and not listed")]),
    ("tombstone of the living", lambda tx: listed_as_deleted(tx), [("tombstone", "notes/a lives")]),
    ("tombstone of nothing", replaced(TOMBSTONES, keys.tombstone(S, 4, 9), ()), [("tombstone", "no document")]),
    ("key hash gone", dropped(A_HASHED), [("key hash", "lives and is not listed")]),
    ("key hash of nothing", replaced(KEY_HASHES, keys.key_hash(S, 5, 1), ("notes", "a")), [
        ("key hash", "no such live document"),
    ]),
    ("lapsed and active", replaced(LAPSED, keys.lapsed(S, BEN_SLOT), LapsedRow(1, 0)), [("lapsed", "is active")]),
    ("lapsed in the future", changed(LAPSED, keys.lapsed(S, CAT_SLOT), low=NEVER), [("lapsed", "was")]),
    ("lapsed of no slot", replaced(LAPSED, keys.lapsed(S, 50), LapsedRow(1, 0)), [("lapsed", "never given")]),
    # who has a copy
    ("copy not listed", dropped(BENS_COPY), [("replica", "not listed as having a copy")]),
    ("copy lost and kept", changed(HOLDERS, BENS_COPY, lost_seq=2), [("holder", "and has a low-water")]),
    ("copy lost in the future", changed(HOLDERS, BENS_COPY, lost_seq=NEVER), [
        ("holder", "and has a low-water"), ("holder", "the head is"),
    ]),
    ("copy of another", changed(HOLDERS, BENS_COPY, user="eve"), [("holder", "not that of its user 'eve'")]),
    ("copy of no replica", replaced(HOLDERS, keys.holder(S, keys.owner("eve"), b"?" * 16), ("eve", None, 0, 0)), [
        ("holder", "it has a copy, and no replica"),
    ]),
    # consumers
    ("consumer not listed", dropped(keys.consumer_owner(OWNER, S, "mailer")), [("consumer", "not listed")]),
    ("consumer gone", dropped(CONSUMER), [("consumer owner", "no such consumer")]),
    ("consumer of another", changed(CONSUMERS, CONSUMER, owner="key:other"), [("consumer", "not that of its owner")]),
    ("consumer whose reading never began", changed(CONSUMERS, CONSUMER, complete=0, resume=1, start=0), [
        ("consumer", "cannot have begun")]),
    ("consumer of the future", changed(CONSUMERS, CONSUMER, resume=NEVER), [("consumer", "the head is")]),
    ("consumer of another epoch", changed(CONSUMERS, CONSUMER, epoch=bytes(16), resume=NEVER), []),
    ("consumer of a short epoch", changed(CONSUMERS, CONSUMER, epoch=b"1"), [("consumer", "the epoch has 1 bytes")]),
    ("consumer that knows more than it read", changed(CONSUMERS, CONSUMER, complete=NEVER), [
        ("consumer", "it is complete up to"),
    ]),
    # leases
    ("units vanish", book_changed(2, 1), [("document", "do not add up"), *[
        (table, "the sum is") for table in ("bucket", "space")]]),
    ("a lease grows", book_changed(5, {
        STRICT: [KEY_SLOT, 2, 3, None, False], TTL: [KEY_SLOT, 3, 2, TTL_ENDS, False],
    }), [("document", "has 3 left of 2")]),
    ("a lease of nobody", book_changed(5, {STRICT: [50, 2, 2, None, False], TTL: TTL_LEASE}), [
        ("document", "by slot 50"),
    ]),
    ("a lease gone", book_changed(5, {STRICT: STRICT_LEASE}), [
        ("document", "do not add up"), ("lease", "no such lease"),
    ]),
    ("a reserve beside a deficit", both(book_changed(1, 6), book_changed(3, 1)), [
        ("document", "are impossible"), *[(table, "the sum is") for table in ("bucket", "space")],
    ]),
    ("lease not listed", dropped(STRICT_KEY), [("document", "is not listed with its end")]),
    ("lease listed with another end", changed(LEASES, TTL_KEY, until=7), [
        ("document", "is not listed with its end"), ("lease end", "it ends at 7"),
    ]),
    ("lease listed elsewhere", changed(LEASES, STRICT_KEY, collection="notes", document_id="a"), [
        ("lease", "the field has no such lease"),
    ]),
    ("lease never ends", dropped(TTL_END), [("document", "never ends")]),
    ("end of no lease", replaced(LEASE_ENDS, keys.lease_end(9, S, 77, TTL, "left"), ()), [
        ("lease end", "no such lease"),
    ]),
    # idempotency
    ("never expires", dropped(keys.expiry(1000 + DAY_MS, b"k" * 16)), [
        ("idempotency", "never expires"), ("holdings", "idempotency keys are counted"),
    ]),
    # holdings
    ("devices miscounted", changed(HOLDINGS, BENS, devices=2), [("holdings", "2 devices are counted, 1 are there")]),
    ("retired miscounted", changed(HOLDINGS, BENS, retired=2), [("holdings", "2 retired devices are counted")]),
    ("spaces below none", changed(HOLDINGS, BENS, spaces=-1), [("holdings", "-1 spaces")]),
    ("nobody counted", dropped(BENS), [("holdings", "are not counted")]),
    ("counted under another name", changed(HOLDINGS, BENS, user="eve"), [("holdings", "another name")]),
    # workflows
    ("version without use", dropped(keys.version_use(CART)), [("workflow version", "it has no use")]),
    ("use of another", changed(VERSION_USES, keys.version_use(CART), name="other"), [
        ("workflow version", "of the workflow 'other'"), ("version use", "'other' has no such version"),
    ]),
    ("run that is not there", changed(VERSION_USES, keys.version_use(CART), runs=1), [("version use", "0 are there")]),
    ("counted below nothing", changed(COUNTERS, SALES, sent=-1), [("counter", "it counts -1")]),
    ("nothing that is used", dropped(keys.workflow_version("cart", CART)), [("version use", "no such version")]),
    ("defines another", changed(WORKFLOW_VERSIONS, keys.workflow_version("cart", CART), values={}), [
        ("workflow version", "defines another"),
    ]),
    ("active and away", replaced(META, keys.workflow_set(), ([{}, {"cart": ["00" * 8, None, "ann", 1]}],)), [
        ("meta", "is not there"),
    ]),
    ("nothing to expire", dropped(keys.idempotency(b"k" * 16)), [("expiry", "nothing is remembered")]),
    ("expires twice", replaced(IDEMPOTENCY, keys.expiry(9, b"k" * 16), ()), [("expiry", "not here")]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_damage_gives_its_findings_and_no_others(
    image: dict[bytes, bytes], damage: Damage, expected: list[tuple[str, str]]
) -> None:
    store = MemoryStore(image=image)
    with store.write() as tx:
        damage(tx)
    found = findings(store)
    assert len(found) == len(expected), found
    for table, problem in expected:
        assert any(finding.table == table and problem in finding.problem for finding in found), (table, problem, found)


@pytest.mark.parametrize("row", [b"", b"\x92\x01", b"\x05", b"\xa3abc", b"\x81\x90\x01", b"\x97" + b"\x01" * 7])
def test_what_is_no_row_is_damage_also_under_a_right_checksum(row: bytes) -> None:
    record = row + crc32(row, crc32(b"key")).to_bytes(4)
    with pytest.raises(StoreDamaged, match=b"key".hex()):
        DOCUMENTS.row(b"key", record)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_flipped_bit_in_any_table_is_one_finding(image: dict[bytes, bytes], table: Table[Any]) -> None:
    store = MemoryStore(image=image)
    with store.write() as tx:
        last = tx.last(*keys.table_range(table.prefix))
        assert last is not None
        key, record = last
        tx.put(key, bytes([*record[:-1], record[-1] ^ 1]))
    (found,) = [finding for finding in findings(store) if "checksum" in finding.problem]
    assert found.table == table.name
    others = [finding for finding in findings(store) if finding != found]
    assert others == [], "what a damaged record said is unknown, so nothing is said about it"
