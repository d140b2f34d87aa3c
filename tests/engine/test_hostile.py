"""What one who means harm, or is lost, can ask of the engine: bounded work, an answer that leads on, no trap left."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from syncd.core.changes import VOID_COUNT_MAX, RefusedChange, parsed_change
from syncd.core.documents import FIELDS_MAX
from syncd.core.ids import Position
from syncd.core.schemas import Schema
from syncd.engine import batch as batches
from syncd.engine import changes, engine, reading
from syncd.engine.batch import TRIMMED_AT_ONCE, Batch
from syncd.engine.commands import (
    Ack,
    Attach,
    Attached,
    Collect,
    Event,
    Expired,
    Post,
    PostEvents,
    Push,
    Refused,
)
from syncd.engine.explaining import explained
from syncd.engine.frontier import STEP_BYTES_MAX, Retention, collected
from syncd.engine.grants import Grant, Role
from syncd.engine.posting import TRIMMED_PER_BATCH
from syncd.engine.schemas import Schemas
from syncd.store import fsck, keys
from syncd.wire.codec import json_value
from tests.engine.kit import SPACE, Daemon, api_key, device, nonce, one, raw

ANN = device(1)
STALE = b"e" * 16


def attach(daemon: Daemon, role: Role = Role.OWNER, **positions: object) -> object:
    where = {"epoch": None, "complete": 0, "resume": 0, "start": None, "settled": 0, "chain": None} | positions
    return daemon.ask(Attach(device(1, role=role), SPACE, **where))  # type: ignore[arg-type]


def test_an_epoch_of_a_lost_store_leads_a_writer_to_the_new_one() -> None:
    daemon = Daemon()
    expired = one(attach(daemon, epoch=STALE, complete=7, resume=7), Expired)
    assert expired.epoch == daemon.epoch() and (expired.fork, expired.highest) == (0, 0)
    one(attach(daemon, epoch=expired.epoch), Attached)

    daemon = Daemon()
    expired = one(daemon.ask(Push(ANN, SPACE, STALE, (parsed_change(raw(8, ["create", "c", "i"], base=7)),))), Expired)
    assert expired.epoch == daemon.epoch()
    assert daemon.push(ANN, raw(8, ["create", "c", "i"])).gap == 1


def test_an_epoch_of_a_lost_store_makes_nothing_for_a_reader() -> None:
    daemon = Daemon()
    assert isinstance(attach(daemon, Role.READER, epoch=STALE, complete=7, resume=7), Refused)
    assert daemon.epoch() is None


def test_what_is_expired_in_its_own_epoch_is_never_told_to_keep_what_it_has() -> None:
    daemon = Daemon()
    daemon.attach(ANN)
    for n in range(1, 6):
        daemon.push(ANN, raw(n, ["create", "c", str(n)]))
    daemon.ack(ANN, 5, 5)
    epoch = daemon.epoch()
    assert one(attach(daemon, epoch=epoch, complete=9, resume=9), Expired).fork == 5
    assert one(attach(daemon, epoch=epoch, complete=5, resume=5, chain=bytes(8)), Expired).fork == 0
    assert one(attach(daemon, epoch=epoch, complete=3, resume=3, chain=bytes(8)), Expired).fork == 0


def test_a_push_of_voids_writes_no_more_rows_than_one_void_may() -> None:
    daemon = Daemon()
    voids = [["void", first, first + 999, nonce(first), ""] for first in range(1, 5_000, 1_000)]
    result = daemon.push(ANN, *voids)
    assert (len(result.outcomes), result.gap) == (VOID_COUNT_MAX, 1_001)
    again = daemon.push(ANN, *voids)
    assert (len(again.outcomes), again.gap) == (VOID_COUNT_MAX, 1_001), "also when it is recorded already"
    assert len(daemon.push(ANN, *voids[1:]).outcomes) == VOID_COUNT_MAX


def test_a_push_reads_a_bounded_number_of_bytes_and_asks_for_the_rest_again() -> None:
    daemon = Daemon()
    count, text = 80, "x" * 60_000
    for i in range(count):
        fields = [["reg.set", "c", str(i), f"f{j}", text] for j in range(4)]
        daemon.push(ANN, raw(i + 1, ["create", "c", str(i)], *fields))
    small = [raw(count + 1 + i, ["reg.set", "c", str(i), "g", 1]) for i in range(count)]
    result = daemon.push(ANN, *small)
    assert result.gap is not None and 0 < len(result.outcomes) * 240_000 <= changes.LOADED_BYTES_MAX + 240_000
    rest = daemon.push(ANN, *small[len(result.outcomes) :])
    assert [entry.outcome for entry in rest.outcomes] == ["applied"] * len(rest.outcomes)
    assert result.gap == rest.outcomes[0].n


def test_no_refused_change_spoils_an_explanation() -> None:
    deep: object = 1
    for _ in range(500):
        deep = [deep]
    for bad in ({b"key": 1}, deep, [{1.5: 2}], float("nan")):
        daemon = Daemon()
        daemon.push(ANN, raw(1, ["create", "c", "i"], ["reg.set", "c", "i", "f", 1]))
        change = parsed_change(raw(2, ["reg.set", "c", "i", "f", bad]))
        assert isinstance(change, RefusedChange)
        assert daemon.push(ANN, change).outcomes[0].outcome == "invalid"
        with daemon.store.read() as tx:
            json.dumps(json_value(explained(tx, SPACE, "c", "i", None)))


def test_a_change_that_python_cannot_print_is_refused_like_others() -> None:
    deep: object = 1
    for _ in range(5_000):
        deep = [deep]
    assert isinstance(parsed_change(raw(1, ["reg.set", "c", "i", "f", deep])), RefusedChange)


def test_if_match_takes_any_names() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, ["create", "c", "i"]))
    epoch = daemon.epoch()
    assert epoch is not None
    for name in ("x" * 1_000, "a\0b", ""):
        match = ("c", name, Position(epoch, 1))
        result = daemon.ask(Post(api_key(), SPACE, [["create", "c", "i"]], None, match, None))
        assert isinstance(result, Refused) and result.reason == "if_match"


def test_expired_keys_do_not_pile_up_under_batches_of_events() -> None:
    daemon = Daemon()
    count = 4 * TRIMMED_PER_BATCH
    for batch in range(6):
        daemon.now_ms += 10_000
        keys_of_batch = [bytes([batch]) + i.to_bytes(15) for i in range(count)]
        events = tuple(Event(key, "source", key.hex(), "type", None, None, None) for key in keys_of_batch)
        daemon.ask(PostEvents(api_key(), events, 1_000))
    with daemon.store.read() as tx:
        rows = sum(1 for _ in tx.scan(*keys.table_range(keys.IDEMPOTENCY)))
    assert rows <= 2 * count


def test_the_acks_of_one_batch_drop_no_more_entries_than_one_ack_may() -> None:
    daemon, spaces = Daemon(), [f"a/{number}" for number in range(4)]
    for space in spaces:
        for first in range(1, 4_000, 1_000):
            daemon.push(ANN, ["void", first, first + 999, nonce(first), ""], space=space)

    def acked() -> int:
        acks = [Ack(ANN, space, daemon.epoch(space) or b"", 0, 0, 4_000) for space in spaces]
        before = len(daemon.store.image())
        daemon.decide(*acks)
        return before - len(daemon.store.image())

    assert [acked() for _ in range(8)] == [TRIMMED_AT_ONCE] * 6 + [0] * 2, "and later ones the rest"


def test_a_step_of_collection_reads_a_bounded_number_of_bytes_of_bodies_and_changes() -> None:
    schema = Schema("posts", "c", update_wins=True)
    daemon, text = Daemon(retention=Retention(recent_ms=0, history_ms=0)), "x" * 60_000
    daemon.engine.schemas = Schemas([(Grant("**", Role.OWNER), schema)])
    for n in range(1, 31):
        daemon.push(ANN, raw(n, ["create", "c", str(n)], *(["reg.set", "c", str(n), f"f{j}", text] for j in range(4))))
    daemon.push(ANN, *(raw(30 + n, ["delete", "c", str(n)], base=30) for n in range(1, 31)))
    daemon.attach(ANN, complete=60, resume=60, epoch=daemon.epoch())
    daemon.ack(ANN, 60, 60)
    steps = []
    while not steps or steps[-1].is_more:
        with daemon.store.write() as tx:
            steps.append(collected(Batch(counting := Counting(tx), 1_000, bytes), Collect(SPACE), daemon.retention))
        assert counting.bytes < STEP_BYTES_MAX + 300_000
    assert len(steps) > 20 and daemon.collect() == 0
    assert not [key for key in daemon.store.image() if key[:1] in (keys.DOCUMENT, keys.TOMBSTONE)]
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))


def test_to_explain_a_field_reads_a_bounded_number_of_bytes_however_many_changes_and_letters_there_are() -> None:
    daemon, text = Daemon(), "x" * 60_000
    fill = [["reg.set", "c", "i", f"f{j}", text] for j in range(4)]
    daemon.push(ANN, raw(1, ["create", "c", "i"], ["reg.set", "c", "i", "old", 1]))
    for n in range(2, 42):
        daemon.push(ANN, raw(n, *fill, base=n - 1))
        daemon.push(device(2), raw(n - 1, *fill[:3], ["counter.inc", "c", "i", "f0", 1], base=n))

    for field in ("old", None):
        with daemon.store.read() as tx:
            counting = Counting(tx)
            answer = explained(counting, SPACE, "c", "i", field)
        assert counting.bytes < 4 * 1024 * 1024, "and not the 20 MiB that are there"
        assert field is None or answer["fields"]["old"]["winner"]["seq"] == 1
        assert 0 < len(answer["refused"]) < 40 and answer["refused"][0]["letter"] == daemon.row().letter_next - 1


def test_a_list_reads_a_bounded_number_of_bytes_also_of_bodies_that_are_kept_of_what_is_deleted() -> None:
    schema = Schema("posts", "c", 1, None, {}, update_wins=True)
    daemon, text = Daemon(), "x" * 60_000
    daemon.engine.schemas = Schemas([(Grant("**", Role.OWNER), schema)])
    daemon.attach(device(2))  # who has not heard of the deletes
    for n in range(1, 31):
        daemon.push(ANN, raw(n, ["create", "c", str(n)], *(["reg.set", "c", str(n), f"f{j}", text] for j in range(4))))
    daemon.push(ANN, raw(31, ["create", "d", "last"]))
    daemon.push(ANN, *(raw(31 + n, ["delete", "c", str(n)], base=31) for n in range(1, 31)))
    found: list[str] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        with daemon.store.read() as tx:
            counting = Counting(tx)
            page = reading.documents(counting, SPACE, None, after, 100)
        assert counting.bytes < reading.LISTED_BYTES_MAX + 600_000
        found, after, pages = found + [each.id for each in page.found], page.after, pages + 1
    assert found == ["last"] and pages >= 3


def counters(daemon: Daemon, documents: int) -> int:
    """Documents of 800 counters, 13 KB each; the n of the last change."""
    for i in range(documents):
        document = ["c", str(i)]
        changes = raw(
            i + 1, ["create", *document], *(["counter.inc", *document, f"{j:x}", 1] for j in range(800)), base=i
        )
        assert daemon.outcome(ANN, changes) == "applied"
    return documents


def test_documents_of_many_small_fields_weigh_as_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """54 KB in 3,200 counters take as long as a megabyte of text: 64 of them held the writer for more than a second."""
    for module in (changes, engine):
        monkeypatch.setattr(module, "LOADED_BYTES_MAX", 4 * 1024 * 1024)
    daemon = Daemon()
    n = counters(daemon, 10)
    small = [["counter.inc", "c", str(i), "0", 1] for i in range(10)]
    result = daemon.push(ANN, *(raw(n + 1 + i, small[i], base=n) for i in range(10)))
    assert (len(result.outcomes), result.gap) == (6, n + 7), "what is not taken is asked for again"
    epoch = daemon.epoch()
    pushes = [Push(device(2 + i), SPACE, epoch, (parsed_change(raw(1, small[i], base=n)),)) for i in range(10)]
    with daemon.store.write() as tx:
        decision = daemon.engine.decide(tx, daemon.now_ms, pushes)
    assert len(decision.results) == 6, "the rest is for another transaction"


def test_a_change_that_names_too_many_fields_is_refused_before_they_are_all_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "CHANGE_FIELDS_MAX", 2_500)
    daemon = Daemon()
    n = counters(daemon, 5)
    deletes = [["delete", "c", str(i)] for i in range(5)]
    (refused,) = daemon.push(ANN, raw(n + 1, *deletes, base=n)).outcomes
    assert refused.outcome == "too_large" and refused.detail is not None and refused.detail["op"] == 3
    assert daemon.outcome(ANN, raw(n + 2, *deletes[:3], base=n)) == "applied"


def test_a_document_takes_so_many_fields_that_a_change_costs_the_writer_milliseconds() -> None:
    daemon = Daemon()
    where = ["c", "d"]
    fields = [["reg.set", *where, f"f{n}", n] for n in range(FIELDS_MAX)]
    assert daemon.outcome(ANN, raw(1, ["create", *where], *fields[:900])) == "applied"
    rest = [*fields[900:-1], ["unique", *where, "name", "ann"]]
    assert daemon.outcome(ANN, raw(2, *rest, ["reg.unset", *where, "f0"], base=1)) == "applied"
    for n, more in enumerate((fields[-1], ["reg.unset", *where, "g"], ["unique", *where, "g", "ann"]), 3):
        (refused,) = daemon.push(ANN, raw(n, ["reg.set", *where, "f1", "half"], more, base=2)).outcomes
        assert (refused.outcome, refused.seq) == ("too_large", None) and refused.detail is not None
        assert refused.detail["op"] == 1 and str(FIELDS_MAX) in refused.detail["reason"]
    with daemon.store.read() as tx:
        found = reading.document(tx, SPACE, *where)
        assert found is not None and found.fields["f1"] == 1 and len(found.fields) == FIELDS_MAX - 2
    taken = [["reg.set", *where, "f1", 2], ["reg.set", *where, "f0", 2], ["unique", *where, "name", "bob"]]
    assert daemon.outcome(ANN, raw(6, *taken, base=2)) == "applied", "what is there can be altered still"
    anew = [["delete", *where], ["create", *where], ["reg.set", *where, "another", 1]]
    assert daemon.outcome(ANN, raw(7, *anew, base=3)) == "applied", "a new incarnation begins with none"


def test_outcomes_are_read_and_told_in_pieces_however_large_the_changes_were() -> None:
    """A `subscribe` of a few bytes read a thousand changes of 256 KiB in one turn of the loop, a push that named them
    again did so in the writer, and what was told of leases filled a message of 50 MiB."""
    daemon = Daemon()
    big = [["create", "c", "a"], *(["reg.set", "c", "a", f"f{at}", "x" * 60_000] for at in range(4))]
    count = 40
    for n in range(1, count + 1):
        assert daemon.outcome(ANN, raw(n, *big)) in ("applied", "noop")
    attached = daemon.attach(ANN)
    told: list[int] = []
    is_all = False
    while not is_all:
        with daemon.store.read() as tx:
            counting = Counting(tx)
            n = told[-1] if told else 0
            page = reading.outcomes_after(counting, attached.space_id, attached.slot, n, 1_000)
        is_all = page.is_all
        assert counting.bytes < reading.PAGE_BYTES + 600_000 and page.outcomes
        told += [entry.n for entry in page.outcomes]
    assert told == list(range(1, count + 1))
    again = [raw(n) for n in range(1, count + 1)]
    told = []
    while len(told) < count:
        result = daemon.push(ANN, *again[len(told) :])
        told += [entry.n for entry in result.outcomes]
        assert len(result.outcomes) <= changes.AGAIN_BYTES_MAX // 240_000 + 1
        assert result.forked is None and result.gap == (len(told) + 1 if len(told) < count else None)
    assert told == list(range(1, count + 1))


def test_a_device_that_settles_nothing_fills_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was told is kept for so many of its changes, and what they did for as long as history is."""
    kept = 500
    monkeypatch.setattr(changes, "UNSETTLED_KEPT", kept)
    monkeypatch.setattr(batches, "SETTLED_KEPT", 100)
    daemon = Daemon(retention=Retention(lapse_ms=1_000, recent_ms=1_000, history_ms=1_000))
    attached = daemon.attach(ANN)
    big = ["reg.set", "c", "a", "f", "x" * 5_000]
    daemon.push(ANN, raw(1, ["create", "c", "a"]))
    for n in range(2, 2_000, 100):
        made = [raw(at, big, ["expect", "c", "b", "f"], base=1) for at in range(n, n + 50)]
        refused = [raw(at, ["delete", "c", "a"], ["reg.set", "c", "a", *big[3:]]) for at in range(n + 50, n + 100)]
        assert daemon.push(ANN, *made, *refused).gap is None
    daemon.now_ms += 10_000
    daemon.push(device(2), raw(1, ["create", "c", "z"]))
    daemon.now_ms += 10_000
    daemon.collect()
    with daemon.store.read() as tx:
        told = reading.outcomes_after(tx, attached.space_id, attached.slot, 0, 10_000, bytes_max=1 << 30)
        assert not list(fsck.check(tx))
    assert len(told.outcomes) == kept + 100 and told.outcomes[-1].n == 2_001
    assert told.read_bytes < 200 * len(told.outcomes), "nothing is left of what they did but in dead letters"
    again = daemon.push(ANN, raw(2_001, ["delete", "c", "a"]))
    assert [entry.n for entry in again.outcomes] == [2_001], "and a late repetition is known"


class Counting:
    """A transaction of which the bytes are counted that are read."""

    def __init__(self, tx: Any) -> None:
        self._tx, self.bytes = tx, 0

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._tx.get(key)
        self.bytes += len(found or b"")
        return found

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._tx.scan(start, stop):
            self.bytes += len(value)
            yield key, value

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        found: tuple[bytes, bytes] | None = self._tx.last(start, stop)
        return found

    def put(self, key: bytes, value: bytes) -> None:
        self._tx.put(key, value)

    def delete(self, key: bytes) -> bool:
        return bool(self._tx.delete(key))
