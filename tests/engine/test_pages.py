"""Catching up: pages of any size, interrupted anywhere, while others write, come to what one delta would have said."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.engine import reading
from syncd.engine.changes import DELTA_BYTES_MAX
from syncd.engine.commands import Attach, Attached, Expired, Refused, Result
from syncd.store import fsck
from syncd.wire.messages import DELETED, PATCH, RESET, Delta
from tests.engine.kit import SPACE, Daemon, device, one, raw
from tests.oracle.histories import exact
from tests.oracle.replica import Replica

ANN, BOB = device(1), device(2)


class Writer:
    """Writes changes that have seen everything."""

    def __init__(self, daemon: Daemon, seed: int = 0) -> None:
        self.daemon, self.n, self.random = daemon, 0, Random(seed)
        daemon.attach(ANN)

    def write(self, *operations: Any) -> str:
        self.n += 1
        return self.daemon.outcome(ANN, raw(self.n, *operations, base=self.daemon.head(), stamp=self.n))

    def anything(self) -> None:
        """A change of one to three documents of eight: created, deleted, set, unset."""
        operations: list[Any] = []
        for name in self.random.sample("abcdefgh", self.random.choice((1, 1, 1, 2, 3))):
            operations.append(["create", "c", name])
            roll = self.random.random()
            field = self.random.choice("xyz")
            if roll < 0.25:
                operations.append(["delete", "c", name])
            elif roll < 0.45:
                operations.append(["reg.unset", "c", name, field])
            else:
                operations.append(["reg.set", "c", name, field, self.random.randrange(1000)])
            if roll < 0.05:
                operations.append(["create", "c", name])
        assert self.write(*operations) in ("applied", "noop")


def entries(pages: Any) -> list[Any]:
    return [entry for page in pages for entry in page.docs]


def whole(daemon: Daemon) -> dict[Any, Any]:
    """The state by a first download in one delta."""
    replica = Replica()
    pages = daemon.catch_up(replica, daemon.attach(BOB))
    assert len(pages) == 1
    return exact(replica.documents)


EVENTS = st.lists(st.tuples(st.sampled_from(("write", "page")), st.sampled_from((1, 80, 200, 5000))), max_size=30)


@given(st.integers(0, 2**32), EVENTS, st.sampled_from((1, 100, 1 << 18)))
def test_any_pages_between_any_writes_come_to_the_same(seed: int, events: list[tuple[str, int]], last: int) -> None:
    daemon = Daemon()
    writer, replica = Writer(daemon, seed), Replica()
    attached = daemon.attach(BOB)
    for what, size in events:
        if what == "write":
            writer.anything()
        else:
            page = daemon.page(replica, attached, size)
            assert (page.from_, page.after) == (replica.complete, replica.resume) and page.to >= page.after
            assert replica.receive(page)
    daemon.catch_up(replica, attached, last)
    assert exact(replica.documents) == whole(daemon) and replica.complete == daemon.head()


@given(st.integers(0, 2**32), st.integers(1, 25))
def test_live_deltas_from_any_point_are_the_catch_up_from_that_point(seed: int, count: int) -> None:
    daemon = Daemon()
    writer = Writer(daemon, seed)
    for _ in range(count):
        writer.anything()
    for known in range(len(daemon.deltas) + 1):
        live, paged = Replica(), Replica()
        for delta in daemon.deltas[:known]:
            assert live.receive(delta) and paged.receive(delta)
        attached = daemon.attach(BOB, epoch=daemon.epoch(), complete=paged.complete, resume=paged.resume)
        daemon.catch_up(paged, attached, 100)
        for delta in daemon.deltas:  # those from before are ignored
            assert live.receive(delta)
        assert exact(live.documents) == exact(paged.documents) == whole(daemon)
        assert (live.complete, live.t) == (paged.complete, paged.t)


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_a_page_ends_on_a_seq_boundary(seed: int, count: int) -> None:
    daemon = Daemon()
    writer = Writer(daemon, seed)
    for _ in range(count):
        writer.anything()
    pages = daemon.catch_up(Replica(), daemon.attach(BOB), 1)
    last = 0
    for page in pages:
        revs = {entry.rev for entry in page.docs}
        assert len(revs) <= 1 and all(last < rev <= page.to for rev in revs), "at one byte, one seq a page"
        last = page.to
    assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]


def test_a_first_download_carries_no_tombstone_from_before_its_start() -> None:
    daemon = Daemon()
    writer, replica = Writer(daemon), Replica()
    attached = daemon.attach(BOB)
    for name in "abc":
        writer.write(["create", "c", name], ["reg.set", "c", name, "x", 1])
    writer.write(["delete", "c", "a"])
    pages = [daemon.page(replica, attached, 1)]
    assert replica.receive(pages[0]) and pages[0].start == 4
    writer.write(["delete", "c", "b"])
    pages += daemon.catch_up(replica, attached, 1)
    deleted = [(entry.id, entry.state) for entry in entries(pages) if entry.state == DELETED]
    assert deleted == [("b", DELETED)], "b was alive when the download began, and may have been told"
    assert {page.start for page in pages} == {4}
    assert set(replica.documents) == {("c", "c")}


def test_catching_up_carries_every_tombstone() -> None:
    daemon = Daemon()
    writer, replica = Writer(daemon), Replica()
    attached = daemon.attach(BOB)
    writer.write(["create", "c", "a"])
    daemon.catch_up(replica, attached)
    writer.write(["delete", "c", "a"])
    assert [entry.state for entry in entries(daemon.catch_up(replica, attached))] == [DELETED]
    assert not replica.documents


def test_a_document_made_anew_replaces_the_one_before() -> None:
    daemon = Daemon()
    writer, replica = Writer(daemon), Replica()
    attached = daemon.attach(BOB)
    writer.write(["create", "c", "a"], ["reg.set", "c", "a", "old", 1])
    daemon.catch_up(replica, attached)
    writer.write(["delete", "c", "a"], ["create", "c", "a"], ["reg.set", "c", "a", "new", 2])
    writer.write(["reg.set", "c", "a", "newer", 3])
    (entry,) = entries(daemon.catch_up(replica, attached))
    assert entry.state == RESET and set(entry.fields) == {"new", "newer"}
    assert replica.documents["c", "a"] == (3, {"new": ["reg", 2], "newer": ["reg", 3]})


def test_a_patch_lists_what_changed_and_what_is_no_longer_visible() -> None:
    daemon = Daemon()
    writer, replica = Writer(daemon), Replica()
    attached = daemon.attach(BOB)
    writer.write(["create", "c", "a"], *[["reg.set", "c", "a", name, 1] for name in "xyz"])
    daemon.catch_up(replica, attached)
    writer.write(["reg.unset", "c", "a", "x"], ["reg.set", "c", "a", "y", 2], ["reg.unset", "c", "a", "never"])
    (entry,) = entries(daemon.catch_up(replica, attached))
    assert entry == ("c", "a", 2, PATCH, {"x": None, "y": ["reg", 2]})


def test_a_hot_counter_costs_one_value() -> None:
    daemon = Daemon()
    writer, replica = Writer(daemon), Replica()
    attached = daemon.attach(BOB)
    writer.write(["create", "c", "a"], ["reg.set", "c", "a", "title", "x" * 1000])
    daemon.catch_up(replica, attached)
    for _ in range(300):
        writer.write(["counter.inc", "c", "a", "likes", 1])
    (page,) = daemon.catch_up(replica, attached)
    assert page.docs == (("c", "a", 301, PATCH, {"likes": ["counter", 300]}),)
    assert (page.from_, page.to, page.complete) == (1, 301, True)


def test_a_batch_of_changes_to_one_document_is_one_entry() -> None:
    daemon = Daemon()
    daemon.attach(ANN)
    daemon.push(ANN, raw(1, ["create", "c", "a"]), *[raw(n, ["counter.inc", "c", "a", "n", 1]) for n in range(2, 102)])
    (delta,) = daemon.deltas
    assert delta.docs == (("c", "a", 101, RESET, {"n": ["counter", 100]}),)


def test_what_grew_unseen_after_its_last_rev_can_still_be_read() -> None:
    """Markers of unset fields move no rev: the documents of one seq may become larger on disk than any delta."""
    daemon = Daemon()
    writer = Writer(daemon)
    names = [str(i) for i in range(14)]
    writer.write(*[["create", "c", name] for name in names])
    for name in names:
        for part in range(2):
            fields = [f"{part}{i:03}" + "x" * 150 for i in range(500)]
            assert writer.write(*[["reg.unset", "c", name, field] for field in fields]) == "noop"
    assert len(names) * 2 * 500 * 154 > DELTA_BYTES_MAX
    replica = Replica()
    pages = daemon.catch_up(replica, daemon.attach(BOB))
    assert len(replica.documents) == len(names) and len(pages) == 1


def test_positions_of_pages_carry_the_time_and_chain_of_their_seq() -> None:
    daemon = Daemon()
    writer, replica = Writer(daemon), Replica()
    for i in range(6):
        daemon.now_ms += 10
        writer.write(["create", "c", str(i)])
    pages = daemon.catch_up(replica, daemon.attach(BOB), 1)
    assert [(page.to, page.t) for page in pages] == [(i + 1, 1_010 + 10 * i) for i in range(6)]
    live = {delta.to: (delta.t, delta.chain) for delta in daemon.deltas}
    assert all(live[page.to] == (page.t, page.chain) for page in pages)
    daemon.now_ms -= 50
    writer.write(["create", "c", "later"])
    assert daemon.deltas[-1].t == 1_060, "T never falls"


# -- where a subscription may begin -----------------------------------------------------------------------------------


def attach(daemon: Daemon, **positions: Any) -> Result:
    where: dict[str, Any] = {"complete": 0, "resume": 0, "start": None, "settled": 0, "chain": None, **positions}
    return daemon.ask(Attach(BOB, SPACE, positions.pop("epoch", daemon.epoch()), **{k: where[k] for k in KEYS}))


KEYS = ("complete", "resume", "start", "settled", "chain")


@pytest.mark.parametrize(
    "positions",
    [
        {"complete": 2, "resume": 1},
        {"complete": 0, "resume": 1},
        {"complete": 1, "resume": 1, "start": 1},
        {"complete": 0, "resume": 0, "start": 1},
    ],
)
def test_positions_that_no_client_can_have_are_refused(positions: dict[str, int]) -> None:
    daemon = Daemon()
    writer = Writer(daemon)
    for i in range(3):
        writer.write(["create", "c", str(i)])
    assert one(attach(daemon, **positions), Refused).reason == "bad_position"


def test_a_position_of_another_history_is_expired() -> None:
    daemon = Daemon()
    writer = Writer(daemon)
    for i in range(3):
        writer.write(["create", "c", str(i)])
    assert isinstance(attach(daemon, complete=4, resume=4), Expired)
    chain = daemon.deltas[1].chain
    assert isinstance(attach(daemon, complete=2, resume=2, chain=chain), Attached)
    assert isinstance(attach(daemon, complete=1, resume=2, chain=chain), Expired)
    assert isinstance(attach(daemon, complete=2, resume=2, chain=bytes(8)), Expired)


def test_the_second_attach_needs_no_write() -> None:
    daemon = Daemon()
    command = Attach(BOB, SPACE, None, 0, 0, None, 0, None)
    with daemon.store.read() as tx:
        assert reading.attached(tx, command) is None
    result = daemon.ask(command)
    image = daemon.store.image()
    with daemon.store.read() as tx:
        assert reading.attached(tx, command) == result
    assert daemon.ask(command) == result and daemon.store.image() == image
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))


def test_every_live_delta_continues_the_one_before() -> None:
    daemon = Daemon()
    writer = Writer(daemon, 3)
    for _ in range(30):
        writer.anything()
    heads = [0, *(delta.to for delta in daemon.deltas)]
    assert [delta.from_ for delta in daemon.deltas] == heads[:-1]
    assert all(isinstance(delta, Delta) and delta.complete and delta.after == delta.from_ for delta in daemon.deltas)
