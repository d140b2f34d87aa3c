"""Feeds and consumers: from any place, with any limits, what is read comes to the documents; nothing is left out."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.ids import BadName, Place, parse_place
from syncd.engine import feeding, reading
from syncd.engine.batch import space_row
from syncd.engine.commands import (
    AckConsumer,
    Author,
    Consumer,
    Done,
    DropConsumer,
    Expired,
    Post,
    Posted,
    PutConsumer,
    Refused,
    UseConsumer,
)
from syncd.engine.grants import Grant, Role
from syncd.store import fsck, keys
from syncd.store.tables import EPOCHS, SPACES, EpochRow, SpaceRow
from syncd.wire.messages import DELETED, RESET, Delta
from tests.engine.kit import SPACE, Daemon, api_key, one

KEY = api_key()
OWNER = "key:backend"
START = Place(b"", 0, 0)


# -- a backend --------------------------------------------------------------------------------------------------------


class Backend:
    """A daemon with one writer, and what a reader makes of its feed."""

    def __init__(self) -> None:
        self.daemon = Daemon()
        self.write([["create", "c", "a"]])

    def write(self, operations: list[Any]) -> None:
        one(self.daemon.ask(Post(KEY, SPACE, operations, None, None, None)), Posted)

    def populate(self) -> None:
        for name in "bcd":
            self.write([["create", "c", name], ["reg.set", "c", name, "f", 0]])

    @property
    def row(self) -> SpaceRow:
        with self.daemon.store.read() as tx:
            row = space_row(tx, SPACE)
        assert row is not None
        return row

    @property
    def start(self) -> Place:
        return Place(self.row.epoch, 0, 0)

    def refused(self, place: Place) -> Expired | Refused | None:
        with self.daemon.store.read() as tx:
            return feeding.refused_place(tx, self.row, SPACE, place)

    def read(self, place: Place, limit: int) -> Delta:
        assert self.refused(place) is None
        with self.daemon.store.read() as tx:
            return feeding.fed(tx, self.row, SPACE, place, limit)

    def after(self, place: Place, delta: Delta) -> Place:
        return feeding.place_after(place, delta, self.row.head)

    def documents(self) -> dict[tuple[str, str], dict[str, Any]]:
        with self.daemon.store.read() as tx:
            listing = reading.documents(tx, SPACE, None, None, 1000)
        return {(found.collection, found.id): found.fields for found in listing.found}


@dataclass
class Reader:
    """What a reader has made of a feed so far: it applies what it is given, and remembers where it stood."""

    place: Place
    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def take(self, delta: Delta) -> None:
        for entry in delta.docs:
            name = (entry.collection, entry.id)
            if entry.state == DELETED:
                self.documents.pop(name, None)
                continue
            document = {} if entry.state == RESET else self.documents.setdefault(name, {})
            self.documents[name] = document
            for field_name, value in entry.fields.items():
                if value is None:
                    document.pop(field_name, None)
                else:
                    document[field_name] = value[1]
        self.place = feeding.place_after(self.place, delta, max(delta.to, 1))


names = st.sampled_from("abcd")
fields = st.sampled_from("fgh")
sets = st.tuples(st.just("reg.set"), st.just("c"), names, fields, st.integers(0, 99)).map(list)
operations = st.one_of(
    sets,
    sets,
    sets,
    st.tuples(st.just("create"), st.just("c"), names).map(list),
    st.tuples(st.just("delete"), st.just("c"), names).map(list),
    st.tuples(st.just("reg.unset"), st.just("c"), names, fields).map(list),
)
# Mostly single sets, on documents that exist: so that many are accepted, and move behind what was read already.
writes = st.tuples(st.just("write"), st.one_of(sets.map(lambda one_set: [one_set]), st.lists(operations, max_size=3)))
limits = st.sampled_from([1, 1, 1, 2, 4])
reads = st.tuples(st.just("read"), limits)
saves = st.tuples(st.just("save"), st.just(0))
crashes = st.tuples(st.just("crash"), st.just(0))


@given(st.lists(st.one_of(writes, writes, reads, reads, saves, crashes), min_size=8, max_size=40), st.integers(1, 5))
def test_a_feed_read_in_pieces_between_writes_and_crashes_comes_to_the_documents(
    steps: list[tuple[str, Any]], limit: int
) -> None:
    """A crash throws the reader back to the place that it saved last, with all that it had applied since."""
    backend = Backend()
    backend.populate()
    reader = Reader(backend.start)
    saved = reader.place
    for step, argument in steps:
        if step == "write":
            backend.write(argument)
        elif step == "read":
            before = reader.place
            delta = backend.read(before, argument)
            assert all(entry.rev > before.resume for entry in delta.docs), "nothing comes twice"
            assert delta.to > before.resume or not delta.docs
            reader.take(delta)
            reader.place = parse_place(str(reader.place))  # all that a caller keeps of it is its text
        elif step == "save":
            saved = reader.place
        else:
            reader.place = saved
    while reader.place.complete < backend.row.head:
        reader.take(backend.read(reader.place, limit))
    assert reader.documents == backend.documents()


def test_what_moved_behind_a_page_is_told_whole_by_a_later_one() -> None:
    """The trap of paging by one number: f of the document was set before the page that was taken, and moved behind it
    by a change of g."""
    backend = Backend()
    backend.write([["reg.set", "c", "a", "f", 1]])
    backend.write([["create", "c", "b"]])
    backend.write([["reg.set", "c", "a", "g", 2]])
    reader = Reader(backend.start)
    reader.take(backend.read(reader.place, 1))
    assert (reader.place.complete, reader.place.resume) == (0, 3) and str(reader.place).startswith("3~0~3@")
    reader.take(backend.read(reader.place, 1))
    assert reader.documents[("c", "a")] == {"f": 1, "g": 2}


def test_a_change_is_never_divided_by_the_limit() -> None:
    backend = Backend()
    backend.write([["create", "c", name] for name in "bcd"])
    first = backend.read(backend.start, 1)
    second = backend.read(backend.after(backend.start, first), 1)
    assert [len(first.docs), len(second.docs)] == [1, 3] and second.complete


def test_a_deletion_is_told_also_to_one_who_reads_from_the_start() -> None:
    """It may have applied pages that it never saved, and then begins anew."""
    backend = Backend()
    backend.write([["delete", "c", "a"]])
    assert [entry.state for entry in backend.read(backend.start, 10).docs] == [DELETED]


def test_a_change_that_alters_nothing_moves_the_place_all_the_same() -> None:
    backend = Backend()
    head = Place(backend.row.epoch, 1, 1)
    backend.write([["delete", "c", "none"]])
    delta = backend.read(head, 10)
    assert (delta.docs, backend.after(head, delta)) == ((), head._replace(complete=2, resume=2))


def altered(backend: Backend, **items: Any) -> None:
    with backend.daemon.store.write() as tx:
        SPACES.put(tx, keys.space(SPACE), backend.row._replace(**items))


def renewed(backend: Backend, fork: int) -> None:
    """What a restore does: another epoch, which shares the seqs up to `fork` with the one before."""
    old = backend.row
    with backend.daemon.store.write() as tx:
        EPOCHS.put(tx, keys.epoch(old.id, old.epoch), EpochRow(fork, 0))
    altered(backend, epoch=b"n" * 16, parent=old.epoch, fork=fork)


def test_a_place_of_another_epoch_names_the_present_one_and_what_both_share() -> None:
    backend = Backend()
    parent = backend.start
    renewed(backend, fork=1)
    assert backend.refused(parent) == Expired(SPACE, b"n" * 16, 1, 0)
    stranger = Place(b"?" * 16, 1, 1)
    assert backend.refused(stranger) == Expired(SPACE, b"n" * 16, 0, 0)


def test_places_beyond_the_head_or_before_what_is_known_of_deletions_do_not_hold() -> None:
    backend = Backend()
    epoch = backend.row.epoch
    backend.write([["create", "c", "b"]])
    backend.write([["create", "c", "c"]])
    beyond = backend.refused(Place(epoch, 1, 4))
    assert isinstance(beyond, Refused) and beyond.reason == "bad_position"
    altered(backend, floor=2)
    for place, holds in (
        (Place(epoch, 0, 0), True), (Place(epoch, 1, 1), False), (Place(epoch, 1, 3), False),
        (Place(epoch, 0, 1, 1), False), (Place(epoch, 0, 1, 2), True), (Place(epoch, 0, 1, 3), True),
    ):  # fmt: skip
        refusal = backend.refused(place)
        assert (refusal is None) == holds, place
        assert holds or refusal == Expired(SPACE, epoch, 0, 0)


# -- places as text ---------------------------------------------------------------------------------------------------

E = "0123456789abcdef" * 2


@given(st.binary(min_size=16, max_size=16), st.lists(st.integers(1, 2**53 - 1), min_size=2, max_size=2))
def test_every_place_is_read_as_it_was_written(epoch: bytes, numbers: list[int]) -> None:
    low, high = sorted(numbers)
    for place in (Place(epoch, 0, 0), Place(epoch, low, low), Place(epoch, low, high), Place(epoch, 0, low, high)):
        assert parse_place(str(place)) == place


def test_a_reading_from_the_start_passes_a_floor_that_lies_beyond_its_first_page() -> None:
    backend = Backend()
    backend.populate()
    altered(backend, floor=backend.row.head - 1)
    reader = Reader(backend.start)
    pages = 0
    while reader.place.complete < backend.row.head:
        delta = backend.read(reader.place, 1)
        reader.take(delta)
        reader.place = parse_place(str(backend.after(backend.start, delta)))
        pages += 1
    assert pages > 1 and reader.documents == backend.documents()


def test_a_reading_that_began_before_what_is_known_of_deletions_begins_anew() -> None:
    backend = Backend()
    backend.populate()
    place = backend.after(backend.start, backend.read(backend.start, 1))
    backend.write([["delete", "c", "b"]])
    altered(backend, floor=backend.row.head)
    assert backend.refused(place) == Expired(SPACE, backend.row.epoch, 0, 0), "what it read of c/b may be forgotten"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        f"1~1@{E}",
        f"1~2@{E}",
        f"~1@{E}",
        f"1~@{E}",
        f"2~0@{E}",
        f"2~1~0@{E}",
        f"2~1~3@{E}",
        f"2~1@{E[1:]}",
        f"-1@{E}",
        f"१@{E}",
    ],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(BadName, match="RESUME~COMPLETE@EPOCH"):
        parse_place(text)


# -- consumers --------------------------------------------------------------------------------------------------------


class Following(Backend):
    """A backend with a consumer of its own."""

    def __init__(self, start: Place | str = "0") -> None:
        super().__init__()
        self.made = one(self.daemon.ask(PutConsumer(KEY, OWNER, SPACE, "mailer", start)), Consumer)

    def consumer(self) -> Consumer:
        with self.daemon.store.read() as tx:
            found = feeding.consumer(tx, SPACE, OWNER, "mailer")
        assert found is not None
        return found

    def next(self, limit: int) -> Delta:
        return self.read(self.consumer().place, limit)

    def ack(self, place: Place) -> Any:
        return self.daemon.ask(AckConsumer(KEY, OWNER, SPACE, "mailer", place))


worker_steps = st.one_of(
    writes,
    writes,
    st.tuples(st.just("deliver"), limits),
    st.tuples(st.just("deliver"), limits),
    st.tuples(st.just("ack"), st.just(0)),
    st.tuples(st.just("ack"), st.just(0)),
    st.tuples(st.just("again"), st.just(0)),
    st.tuples(st.just("crash"), st.just(0)),
)


@given(st.lists(worker_steps, min_size=8, max_size=40))
def test_whatever_crashes_between_delivery_and_ack_no_change_is_lost(steps: list[tuple[str, Any]]) -> None:
    """The worker keeps its documents in a database of its own; what it holds in memory, a delivery that it has applied
    and not acknowledged, dies with it, and so does whatever the server has not committed."""
    backend = Following()
    backend.populate()
    worker = Reader(backend.start)
    in_hand: Place | None = None
    acked: list[Place] = []
    for step, argument in steps:
        if step == "write":
            backend.write(argument)
        elif step == "deliver":
            here = backend.consumer().place
            delta = backend.next(argument)
            assert all(entry.rev > here.resume for entry in delta.docs), "what was acknowledged does not come again"
            worker.take(delta)
            in_hand = worker.place = backend.after(here, delta)
        elif step == "ack" and in_hand is not None:
            stands = one(backend.ack(in_hand), Consumer).place
            assert stands == in_hand == backend.consumer().place
            acked.append(in_hand)
            in_hand = None
        elif step == "again" and acked:
            before = backend.consumer().place
            assert one(backend.ack(acked[0]), Consumer).place == before, "an old acknowledgement moves nothing"
        elif step == "crash":
            in_hand = None
    while backend.consumer().place.complete < backend.row.head:
        delta = backend.next(2)
        worker.take(delta)
        one(backend.ack(worker.place), Consumer)
    assert worker.documents == backend.documents()
    with backend.daemon.store.read() as tx:
        assert list(fsck.check(tx)) == []


@given(
    st.lists(
        st.one_of(
            writes,
            st.tuples(st.sampled_from(["deliver", "ack"]), st.tuples(st.integers(0, 1), limits)),
        ),
        min_size=8,
        max_size=40,
    )
)
def test_two_workers_on_one_consumer_lose_nothing(steps: list[tuple[str, Any]]) -> None:
    """Each is given what the consumer has not acknowledged. Whatever both have seen together covers every document, and
    the consumer stands at both acknowledgements."""
    backend = Following()
    backend.populate()
    in_hand: list[Place | None] = [None, None]
    told: list[list[Delta]] = [[], []]
    done: list[Delta] = []
    for step, argument in steps:
        if step == "write":
            backend.write(argument)
            continue
        number, limit = argument
        if step == "deliver":
            delta = backend.next(limit)
            told[number] = [delta]
            in_hand[number] = backend.after(backend.consumer().place, delta)
        elif (place := in_hand[number]) is not None:
            before = backend.consumer().place
            stands = one(backend.ack(place), Consumer).place
            assert stands.complete >= before.complete and stands.resume >= before.resume, "it never moves back"
            done += told[number]
            in_hand[number] = None
    while (place := backend.consumer().place).complete < backend.row.head:
        delta = backend.read(place, 2)
        done.append(delta)
        one(backend.ack(backend.after(place, delta)), Consumer)
    # The newest of what was acknowledged about each field: that is what a database which compares revs comes to.
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for delta in sorted(done, key=lambda delta: delta.to):
        reader = Reader(START, known)
        reader.take(delta)
    assert known == backend.documents()


def test_a_consumer_is_made_once_and_stays_where_it_is() -> None:
    backend = Following("head")
    assert backend.made.is_new and backend.made.place == Place(backend.row.epoch, 1, 1)
    backend.write([["create", "c", "b"]])
    again = one(backend.daemon.ask(PutConsumer(KEY, OWNER, SPACE, "mailer", "0")), Consumer)
    assert not again.is_new and again.place == backend.made.place and again.head.seq == 2


def test_a_consumer_of_an_epoch_that_is_over_is_told_and_can_be_made_anew() -> None:
    backend = Following("head")
    old = backend.consumer().place
    renewed(backend, fork=1)
    new = Place(b"n" * 16, 1, 1)
    assert backend.ack(old) == Expired(SPACE, b"n" * 16, 1, 0)
    assert backend.ack(new) == Expired(SPACE, b"n" * 16, 1, 0), "its own position is over"
    made = one(backend.daemon.ask(PutConsumer(KEY, OWNER, SPACE, "mailer", new)), Consumer)
    assert made.is_new and made.place == new
    assert one(backend.ack(new), Consumer).place == new


def test_a_consumer_that_stands_before_what_is_known_of_deletions_can_be_made_anew() -> None:
    """It was told 410 whatever it asked, and to ask for it again, as for one whose epoch is over, left it there."""
    backend = Following("head")
    backend.write([["create", "c", "b"]])
    backend.write([["delete", "c", "b"]])
    altered(backend, floor=2)
    assert backend.refused(backend.consumer().place) == Expired(SPACE, backend.row.epoch, 0, 0)
    made = one(backend.daemon.ask(PutConsumer(KEY, OWNER, SPACE, "mailer", "0")), Consumer)
    assert made.is_new and backend.refused(made.place) is None and made.place == backend.start


def test_an_acknowledgement_that_was_never_given_out_is_refused() -> None:
    backend = Following()
    epoch = backend.row.epoch
    for place in (Place(epoch, 2, 2), Place(epoch, 0, 2), Place(epoch, 0, 1, 2)):
        assert one(backend.ack(place), Refused).reason == "bad_position"
    backend.write([["create", "c", "b"]])
    backend.write([["create", "c", "d"]])
    assert one(backend.ack(Place(epoch, 1, 2)), Refused).reason == "bad_position", "from another feed: it would skip"
    assert backend.consumer().place == Place(epoch, 0, 0)
    assert one(backend.ack(Place(epoch, 0, 2, 3)), Consumer).place == Place(epoch, 0, 2, 3)


def test_who_may_not_read_may_not_move_and_owners_do_not_meet() -> None:
    backend = Following()
    stranger = Author(b"s" * 16, None, "key", "key:other", (Grant("other/**", Role.OWNER),))
    place = backend.start
    for command in (
        PutConsumer(stranger, "key:other", SPACE, "x", "0"),
        AckConsumer(stranger, OWNER, SPACE, "mailer", place),
        DropConsumer(stranger, OWNER, SPACE, "mailer"),
    ):
        assert one(backend.daemon.ask(command), Refused).reason == "forbidden"
    reader = Author(b"r" * 16, None, "key", "key:reader", (Grant("**", Role.READER),))
    assert (
        one(backend.daemon.ask(AckConsumer(reader, "key:reader", SPACE, "mailer", place)), Refused).reason == "unknown"
    )
    one(backend.daemon.ask(PutConsumer(reader, "key:reader", SPACE, "mailer", "head")), Consumer)
    with backend.daemon.store.read() as tx:
        assert [c.owner for c in feeding.consumers(tx, SPACE, OWNER)] == [OWNER]
        assert {c.owner for c in feeding.consumers(tx, SPACE)} == {OWNER, "key:reader"}


def test_a_dropped_consumer_is_gone_from_everywhere() -> None:
    backend = Following()
    assert backend.daemon.ask(DropConsumer(KEY, OWNER, SPACE, "mailer")) == Done()
    assert one(backend.daemon.ask(DropConsumer(KEY, OWNER, SPACE, "mailer")), Refused).reason == "unknown"
    assert one(backend.ack(backend.start), Refused).reason == "unknown"
    with backend.daemon.store.read() as tx:
        assert list(tx.scan(b"Q", b"S")) == []


def test_consumers_are_bounded_by_space_and_by_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Following()
    monkeypatch.setattr(feeding, "SPACE_CONSUMERS_MAX", 2)
    monkeypatch.setattr(feeding, "OWNER_CONSUMERS_MAX", 3)

    def put(space: str, name: str, owner: str = OWNER) -> Any:
        return backend.daemon.ask(PutConsumer(KEY, owner, space, name, "0"))

    one(put(SPACE, "2"), Consumer)
    assert one(put(SPACE, "3", "key:other"), Refused).reason == "too_many"
    one(put(SPACE, "2"), Consumer)  # it is there already
    one(backend.daemon.ask(Post(KEY, "b", [["create", "c", "a"]], None, None, None)), Posted)
    one(put("b", "3"), Consumer)
    assert one(put("b", "4"), Refused).reason == "too_many"
    one(put("b", "4", "key:other"), Consumer)
    assert one(put("none", "1"), Refused).reason == "unknown_space"


def test_users_leave_places_for_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Following()  # with one of its own
    monkeypatch.setattr(feeding, "SPACE_CONSUMERS_MAX", 4)
    monkeypatch.setattr(feeding, "USERS_CONSUMERS_MAX", 2)

    def put(owner: str, name: str) -> Any:
        return backend.daemon.ask(PutConsumer(KEY, owner, SPACE, name, "0"))

    one(put("user:a", "1"), Consumer)
    one(put("user:b", "1"), Consumer)
    assert one(put("user:c", "1"), Refused).reason == one(put("user:a", "2"), Refused).reason == "too_many"
    one(put("user:a", "1"), Consumer)  # it is there already
    one(put("key:other", "1"), Consumer)


def test_the_time_of_the_last_use_is_kept() -> None:
    backend = Following()
    backend.daemon.now_ms = 5_000
    assert backend.daemon.ask(UseConsumer(OWNER, SPACE, "mailer")) == Done()
    assert (backend.consumer().made_ms, backend.consumer().used_ms) == (1_000, 5_000)
    backend.daemon.now_ms = 6_000
    backend.ack(backend.start)
    assert backend.consumer().used_ms == 6_000
    assert backend.daemon.ask(UseConsumer(OWNER, SPACE, "none")) == Done()
