"""Who holds what back, what is dropped, and what a device is told that comes after it."""

from dataclasses import replace
from random import Random

import pytest

from syncd.core.changes import parsed_change
from syncd.engine import frontier, reading
from syncd.engine.commands import Ack, Attach, Attached, Collect, Collected, Done, Forget, Post, Push
from syncd.engine.frontier import STEP_ROWS_MAX, Retention, lapsed_devices
from syncd.engine.posting import SERVER
from syncd.store import fsck, keys
from syncd.store.tables import DOCUMENTS, ENTRIES, LogRow
from tests.engine.kit import SPACE, Daemon, api_key, device, one, raw, replica_row
from tests.oracle.replica import Replica

ANN, BEN, CAT = device(1), device(2, user="ben"), device(3, user="cat")
SOON = Retention(lapse_ms=1_000, lapse_bytes=100_000, recent_ms=100, history_ms=200)


def made(retention: Retention = SOON) -> Daemon:
    """Ann and Ben have everything up to 3; then Ann deletes one of two documents."""
    daemon = Daemon(retention=retention)
    daemon.attach(ANN)
    daemon.attach(BEN)
    daemon.push(ANN, raw(1, ["create", "c", "a"]), raw(2, ["create", "c", "b"]), raw(3, ["reg.set", "c", "b", "x", 1]))
    daemon.ack(ANN, 3, 3)
    daemon.ack(BEN, 3, 0)
    daemon.now_ms += 10
    daemon.push(ANN, raw(4, ["delete", "c", "a"], base=3))
    daemon.ack(ANN, 4, 4)
    return daemon


def is_there(daemon: Daemon, name: str) -> bool:
    with daemon.store.read() as tx:
        return DOCUMENTS.get(tx, keys.document(1, "c", name)) is not None


def test_the_frontier_is_the_least_low_water_and_a_tombstone_goes_when_it_has_passed() -> None:
    daemon = made()
    daemon.now_ms += 500
    daemon.collect()
    assert (daemon.row().frontier, daemon.row().floor, is_there(daemon, "a")) == (3, 3, True)
    daemon.ack(BEN, 4, 0)
    daemon.collect()
    assert (daemon.row().frontier, daemon.row().floor, is_there(daemon, "a")) == (4, 4, False)
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))


def test_the_floor_passes_nothing_recent() -> None:
    daemon = made()
    daemon.ack(BEN, 4, 0)
    daemon.collect()
    assert daemon.row().floor == 0
    daemon.now_ms += 90
    daemon.collect()
    assert (daemon.row().frontier, daemon.row().floor) == (4, 3), "the deletion came ten milliseconds later"


def test_open_edits_and_unanswered_changes_hold_the_frontier_back() -> None:
    daemon = made()
    epoch = daemon.epoch()
    assert epoch is not None
    daemon.ask(Ack(BEN, SPACE, epoch, 4, 3, 0))
    daemon.now_ms += 500
    daemon.collect()
    assert daemon.row().floor == 3


@pytest.mark.parametrize("how", ["forgets", "never came", "has no memory"])
def test_who_wants_nothing_holds_nothing_back(how: str) -> None:
    daemon = made()
    if how == "forgets":
        daemon.ask(Forget(BEN, SPACE))
    else:
        daemon.ack(BEN, 4, 0)
        daemon.push(CAT if how == "never came" else ANN, raw(1 if how == "never came" else 5, ["create", "c", "z"]))
        daemon.ask(Post(api_key(), SPACE, [["create", "c", "y"]], None, None, None))
        daemon.ack(ANN, daemon.head(), 4)
        daemon.ack(BEN, daemon.head(), 0)
    daemon.now_ms += 500
    daemon.collect()
    assert daemon.row().floor == daemon.head() and not is_there(daemon, "a")


@pytest.mark.parametrize("why", ["days", "bytes"])
def test_a_device_lapses_by_the_age_or_the_bytes_of_what_it_has_not_acknowledged(why: str) -> None:
    daemon = made()
    if why == "days":
        daemon.now_ms += 1_000
    else:
        for n in range(5, 9):
            daemon.push(ANN, raw(n, ["reg.set", "c", "b", "x", "y" * 30_000], base=4))
        daemon.ack(ANN, daemon.head(), 8)
        daemon.now_ms += 500
    daemon.collect()
    with daemon.store.read() as tx:
        (found,) = lapsed_devices(tx, 1)
        assert (found.device, found.user, found.low, found.at_ms) == (BEN.device, "ben", 3, daemon.now_ms)
        assert not list(fsck.check(tx))
    assert not is_there(daemon, "a")


def test_one_who_has_everything_never_lapses_however_silent() -> None:
    daemon = made()
    daemon.ack(BEN, 4, 0)
    daemon.now_ms += 1_000_000
    daemon.collect()
    with daemon.store.read() as tx:
        assert lapsed_devices(tx, 1) == []


def test_a_talking_device_lapses_too_and_counts_again_when_it_has_come_on() -> None:
    daemon = made()
    epoch = daemon.epoch()
    assert epoch is not None
    daemon.now_ms += 1_000
    daemon.ask(Ack(BEN, SPACE, epoch, 4, 3, 0))  # a change that was made at 3 is not answered yet
    daemon.collect()
    low = lambda: _low(daemon)  # noqa: E731
    assert low() is None
    daemon.ask(Ack(BEN, SPACE, epoch, 4, 3, 0))
    assert low() is None, "it has not come on: it would lapse again at once"
    assert daemon.ask(Ack(BEN, SPACE, epoch, 4, 4, 0)) == Done()
    assert low() == 4
    with daemon.store.read() as tx:
        assert lapsed_devices(tx, 1) == []


def _low(daemon: Daemon) -> int | None:
    with daemon.store.read() as tx:
        row = replica_row(tx, SPACE, BEN.device)
    assert row is not None
    return row.low


def test_a_lapsed_device_that_lacks_nothing_forgotten_goes_on_where_it_was() -> None:
    daemon = made(replace(SOON, recent_ms=100_000))
    daemon.now_ms += 1_000
    daemon.collect()
    assert _low(daemon) is None and daemon.row().floor == 0
    daemon.attach(BEN, epoch=daemon.epoch(), complete=3, resume=3)
    assert _low(daemon) == 3


def test_a_change_from_before_the_floor_is_judged_like_any_other_and_counted() -> None:
    daemon = made()
    daemon.push(ANN, raw(5, ["reg.set", "c", "b", "x", 2], base=4))
    daemon.ack(ANN, 5, 5)
    daemon.now_ms += 1_000
    daemon.collect()
    late = [
        (raw(1, ["reg.set", "c", "b", "z", 3], base=3), "applied"),
        (raw(2, ["reg.set", "c", "a", "x", 3], base=3), "gone"),
        (raw(3, ["delete", "c", "b"], base=3), "precondition"),
        (raw(4, ["delete", "c", "a"], base=3), "noop"),
        (raw(5, ["expect", "c", "a", "x"], ["create", "c", "k"], base=3), "precondition"),
        (raw(6, ["create", "c", "n"], ["reg.set", "c", "n", "x", 1], base=3), "applied"),
    ]
    assert [daemon.outcome(BEN, change) for change, _ in late] == [outcome for _, outcome in late]
    assert not is_there(daemon, "a"), "an update resurrects nothing"


def test_what_came_by_a_clock_that_was_ahead_is_dropped_by_how_much_has_come_since() -> None:
    """T stands still for a year then: by time nothing of it would go, whatever comes, until the true clock is there."""
    daemon = made()
    daemon.now_ms += 365 * 86_400_000
    daemon.push(ANN, raw(5, ["create", "c", "ahead"], base=4))
    daemon.now_ms -= 365 * 86_400_000
    text = ["reg.set", "c", "ahead", "f", "x" * 1_000]
    for n in range(6, 306):
        daemon.push(ANN, raw(n, text, base=n - 1))
        daemon.ack(ANN, n, n)
        daemon.ack(BEN, n, 0)
        daemon.now_ms += 10
        daemon.collect()
    assert daemon.row().floor > 150 and len(_log(daemon)) < 150, "some 100,000 bytes are kept"
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))


def test_late_changes_are_counted() -> None:
    daemon = made()
    daemon.now_ms += 1_000
    daemon.collect()
    changes = tuple(parsed_change(raw(n, ["create", "c", f"n{n}"], base=base)) for n, base in ((1, 3), (2, 4)))
    assert daemon.decide(Push(BEN, SPACE, daemon.epoch(), changes)).late_count == 1


def test_the_log_below_the_floor_goes_after_the_history_retention_and_takes_payloads_with_it() -> None:
    daemon = made()
    daemon.ack(BEN, 4, 0)
    daemon.now_ms += 150
    daemon.collect()
    assert _log(daemon) == [1, 2, 3, 4]
    daemon.now_ms += 100
    daemon.collect()
    assert _log(daemon) == [4], "a position at the floor still has its chain value"
    with daemon.store.read() as tx:
        entries = [ENTRIES.get(tx, keys.device_log(1, 1, n)) for n in (1, 2, 3, 4)]
        assert [entry is not None and entry.payload is None for entry in entries] == [True, True, True, False]
        assert not list(fsck.check(tx))
    # A first download ends its pages where the log is gone.
    replica, attached = Replica(), daemon.attach(CAT)
    assert len(daemon.catch_up(replica, attached, 1)) == 1 and set(replica.documents) == {("c", "b")}


def _log(daemon: Daemon) -> list[int]:
    with daemon.store.read() as tx:
        return [keys.parse_log(key)[1] for key, _ in tx.scan(*keys.space_range(keys.LOG, 1))]


def test_what_a_backend_wrote_is_trimmed_although_it_acknowledges_nothing() -> None:
    daemon = Daemon(retention=SOON)
    for number in range(1_200):
        daemon.ask(Post(api_key(), SPACE, [["create", "c", f"d{number}"]], None, None, None))
    daemon.now_ms += 1_000
    daemon.collect()
    with daemon.store.read() as tx:
        kept = [keys.parse_device_log(key)[2] for key, _ in tx.scan(*keys.space_range(keys.DEVICE_LOG, 1))]
        assert kept == list(range(201, 1_201))
        assert not list(fsck.check(tx))


def test_a_first_download_in_the_middle_holds_the_floor_at_its_start() -> None:
    daemon = made()
    daemon.ack(BEN, 4, 0)
    attached = daemon.attach(CAT)
    replica = Replica()
    page = daemon.page(replica, attached, 1)
    assert not page.complete or replica.receive(page)
    daemon.push(ANN, raw(5, ["delete", "c", "b"], base=4))
    for author in (ANN, BEN):
        daemon.ack(author, 5, 0)
    daemon.now_ms += 500
    daemon.collect()
    assert daemon.row().floor == 4
    if not page.complete:
        assert replica.receive(page)
    daemon.catch_up(replica, attached, 1)
    assert replica.documents == {}


def test_a_step_is_bounded_and_touches_no_space_of_its_own_batch() -> None:
    daemon = Daemon(retention=SOON)
    daemon.attach(ANN)
    for n in range(1, 301):
        daemon.push(ANN, raw(2 * n - 1, ["create", "c", f"d{n}"]), raw(2 * n, ["delete", "c", f"d{n}"]))
    daemon.ack(ANN, daemon.head(), 600)
    daemon.now_ms += 1_000
    first = one(daemon.ask(Collect(SPACE)), Collected)
    assert first.is_more and 0 < first.dropped_count <= STEP_ROWS_MAX
    post = Post(api_key(), SPACE, [["create", "c", "z"]], None, None, None)
    result = daemon.decide(post, Collect(SPACE)).results[1]
    assert result == Collected(SPACE, 0, 0, is_more=True)
    assert daemon.ask(Collect("no/such")) == Collected("no/such", 0, 0, is_more=False)
    daemon.collect()
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))
        assert sum(1 for _ in tx.scan(*keys.space_range(keys.BYREV, 1))) == 1


def test_the_tombstone_of_a_member_is_kept_for_ever() -> None:
    daemon = made()
    for verb in ("create", "delete"):
        daemon.ask(Post(SERVER, SPACE, [[verb, "_members", "eve"]], None, None, None))
    daemon.ack(ANN, daemon.head(), 4)
    daemon.ack(BEN, daemon.head(), 0)
    daemon.now_ms += 1_000
    daemon.collect()
    with daemon.store.read() as tx:
        assert DOCUMENTS.get(tx, keys.document(1, "_members", "eve")) is not None
        assert not list(fsck.check(tx))
    assert not is_there(daemon, "a")


def test_with_collection_off_everything_moves_and_nothing_goes() -> None:
    daemon = made(replace(SOON, is_collecting=False))
    daemon.now_ms += 1_000
    daemon.collect()
    assert daemon.row().floor == 4 and is_there(daemon, "a") and len(_log(daemon)) == 4
    assert daemon.outcome(BEN, raw(1, ["create", "c", "a"], base=3)) == "applied", "as if the tombstone were gone"
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))


@pytest.mark.parametrize("seed", range(5))
def test_the_floor_is_found_by_bisection_wherever_it_is(seed: int) -> None:
    random = Random(seed)
    daemon = Daemon(retention=SOON)
    daemon.attach(ANN)
    times = []
    for n in range(1, random.randint(2, 60)):
        daemon.now_ms += random.choice((0, 0, 3, 40))
        daemon.push(ANN, raw(n, ["create", "c", f"d{n}"]))
        times.append(daemon.now_ms)
    with daemon.store.read() as tx:
        for least in range(len(times) + 1):
            for before_ms in (times[0] - 1, times[-1], random.choice(times)):
                expected = sum(1 for time in times[:least] if time <= before_ms)

                def is_past(log: LogRow, before_ms: int = before_ms) -> bool:
                    return log.time <= before_ms

                assert frontier._risen(tx, 1, 0, least, is_past) == expected


def test_a_subscription_below_the_floor_stands_and_has_to_reconcile() -> None:
    daemon = made()
    daemon.now_ms += 1_000
    daemon.collect()
    where = Attach(BEN, SPACE, daemon.epoch(), 3, 3, None, 0, None)
    assert reading.is_below_floor(daemon.row(), 3, None)
    assert one(daemon.ask(where), Attached).is_forgotten
    assert _low(daemon) == daemon.head(), "what it is going to be brought is at least as new"
    assert not one(daemon.ask(replace(where, epoch=None, complete=0, resume=0)), Attached).is_forgotten
