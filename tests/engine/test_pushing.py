"""Every change ends in exactly one outcome, whatever is sent, in whatever order, however often."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.changes import Change, Operation, parsed_change
from syncd.engine import reading
from syncd.engine.commands import Ack, Attach, Bind, Bound, Done, Expired, Push, Pushed, Refused
from syncd.engine.grants import Role
from syncd.store import fsck, keys
from syncd.store.tables import ENTRIES, LETTERS, EntryRow, LetterRow
from tests.engine.kit import SPACE, Daemon, api_key, device, nonce, one, raw, replica_row, space_rows

ANN, BOB = device(1), device(2, user="bob")
DOC = ("c", "i")
CREATE = ["create", *DOC]


def put(value: Any, field: str = "f") -> list[Any]:
    return ["reg.set", *DOC, field, value]


def letters(daemon: Daemon, space: str = SPACE) -> list[LetterRow]:
    with daemon.store.read() as tx:
        position = replica_row(tx, space, bytes(16))
        assert position is not None
        row = next(row for name, row in space_rows(tx) if name == space)
        return [letter for _, letter in LETTERS.scan(tx, keys.space_range(keys.LETTER, row.id))]


def check_store(daemon: Daemon) -> None:
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))


# -- the table of outcomes --------------------------------------------------------------------------------------------


def test_applied() -> None:
    daemon = Daemon()
    (entry,) = daemon.push(ANN, raw(1, CREATE, put(1))).outcomes
    assert (entry.n, entry.nonce, entry.outcome, entry.seq, entry.detail) == (1, nonce(1), "applied", 1, None)


def test_merged_names_what_it_met() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE, put(1), stamp=1))
    (won,) = daemon.push(BOB, raw(1, CREATE, put(2), stamp=2)).outcomes
    assert (won.outcome, won.seq) == ("merged", 2)
    assert won.detail == {"met": [[0, "maker", 1], [1, "won", 1]]}
    (lost,) = daemon.push(device(3), raw(1, CREATE, put(3), stamp=0)).outcomes
    assert (lost.outcome, lost.seq, lost.detail) == ("merged", 3, {"met": [[0, "maker", 2], [1, "lost", 2]]})


def test_noop_has_a_seq_and_moves_no_rev() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE, put(1)))
    (entry,) = daemon.push(ANN, raw(2, put(1), base=1)).outcomes
    assert (entry.outcome, entry.seq) == ("noop", 2)
    assert daemon.deltas[-1].to == 2 and daemon.deltas[-1].docs == ()


REFUSALS = [
    ("gone", [put(1)], 0),
    ("type_mismatch", [CREATE, put(1), ["counter.inc", *DOC, "f", 1]], 2),
    ("invalid", [CREATE, ["counter.inc", *DOC, "n", 2**53 - 1], ["counter.inc", *DOC, "n", 1]], 2),
    ("invalid", [CREATE, ["reg.sat", *DOC, "f", 1]], 1),
    ("invalid", [CREATE, [*put(1), {"seen": 99}]], 1),
    ("invalid", [], None),
    ("forbidden", [CREATE, ["create", "_counts", "ann"]], 1),
    ("too_large", [CREATE, put(b"x" * 65536)], 1),
    ("too_large", [CREATE, *[put(b"x" * 65000, f"f{i}") for i in range(5)]], None),
]


@pytest.mark.parametrize(("outcome", "operations", "op"), REFUSALS)
def test_a_refused_change_leaves_nothing_but_its_outcome_and_a_dead_letter(
    outcome: str, operations: list[Any], op: int | None
) -> None:
    daemon = Daemon()
    daemon.push(BOB, raw(1, ["create", "other", "o"]))
    (entry,) = daemon.push(ANN, raw(1, *operations)).outcomes
    assert (entry.outcome, entry.seq) == (outcome, None) and entry.detail is not None
    assert entry.detail.get("op") == op and entry.detail["reason"]
    assert len(letters(daemon)) == 1 and daemon.head() == 1 and len(daemon.deltas) == 1
    assert daemon.outcome(ANN, raw(2, CREATE)) == "applied", "n counts as used"
    check_store(daemon)


def test_precondition() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE), raw(2, put(1)))
    (entry,) = daemon.push(BOB, raw(1, put(2), ["expect", *DOC, "f"], base=1)).outcomes
    assert entry.outcome == "applied" or entry.outcome == "merged", "it sees its own operation"
    (entry,) = daemon.push(device(3), raw(1, ["expect", *DOC, "f"], put(3), base=2)).outcomes
    assert (entry.outcome, entry.seq) == ("precondition", None)


def test_forbidden_for_one_who_could_write_before() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE))
    reader = device(1, role=Role.READER)
    (entry,) = daemon.push(reader, raw(2, put(1), base=1)).outcomes
    assert (entry.outcome, entry.seq) == ("forbidden", None)
    nobody = device(1, role=Role.NONE)
    told = daemon.push(nobody, raw(2, put(1), base=1), raw(3, put(1), base=1)).outcomes
    assert [e.outcome for e in told] == ["forbidden", "forbidden"] and all(e.detail is None for e in told)


@pytest.mark.parametrize("role", [Role.NONE, Role.READER])
def test_one_who_never_could_write_makes_the_server_keep_nothing(role: Role) -> None:
    daemon = Daemon()
    assert one(daemon.push_result(device(1, role=role), raw(1, CREATE)), Refused).reason == "forbidden"
    daemon.push(BOB, raw(1, CREATE))
    image = daemon.store.image()
    assert one(daemon.push_result(device(1, role=role), raw(1, CREATE)), Refused).reason == "forbidden"
    kept = {key: row for key, row in daemon.store.image().items() if not key.startswith(keys.DEVICE)}
    assert kept == {key: row for key, row in image.items() if not key.startswith(keys.DEVICE)}


def test_void_records_a_range() -> None:
    daemon = Daemon()
    pushed = daemon.push(ANN, ["void", 1, 3, nonce(1), "lost"], raw(4, CREATE))
    assert [(e.n, e.outcome, e.seq) for e in pushed.outcomes] == [
        (1, "void", None), (2, "void", None), (3, "void", None), (4, "applied", 1),
    ]  # fmt: skip
    again = daemon.push(ANN, ["void", 1, 3, nonce(1), "lost"], raw(4, CREATE))
    assert again == pushed
    check_store(daemon)


def test_a_void_may_overlap_what_it_already_gave_up() -> None:
    daemon = Daemon()
    daemon.push(ANN, ["void", 1, 2, nonce(1), "lost"])
    pushed = daemon.push(ANN, ["void", 1, 4, nonce(1), "lost"])
    assert [e.n for e in pushed.outcomes] == [1, 2, 3, 4] and pushed.forked is None


def test_a_void_of_what_was_recorded_under_its_nonce_gets_that_outcome() -> None:
    """A client that bisects a rejected push does not know whether the server had taken it."""
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE))
    assert daemon.push(ANN, ["void", 1, 1, nonce(1), "rejected"]).outcomes[0].outcome == "applied"


def test_the_outcomes_of_one_push_are_independent() -> None:
    daemon = Daemon()
    pushed = daemon.push(ANN, raw(1, put(1)), raw(2, CREATE), raw(3, ["x"]), raw(4, put(1)))
    assert [e.outcome for e in pushed.outcomes] == ["gone", "applied", "invalid", "applied"]
    assert [e.seq for e in pushed.outcomes] == [None, 1, None, 2]


# -- once, in order ---------------------------------------------------------------------------------------------------


def test_a_repeated_push_is_told_the_same_and_alters_nothing() -> None:
    daemon = Daemon()
    changes = [raw(1, CREATE), raw(2, ["counter.inc", *DOC, "n", 5]), raw(3, put(1, "n"))]
    first = daemon.push(ANN, *changes)
    image, deltas = daemon.store.image(), len(daemon.deltas)
    assert daemon.push(ANN, *changes) == first
    assert daemon.push(ANN, *changes[1:]).outcomes == first.outcomes[1:]
    assert daemon.store.image() == image and len(daemon.deltas) == deltas


def test_a_gap_takes_nothing_from_there_on() -> None:
    daemon = Daemon()
    pushed = daemon.push(ANN, raw(1, CREATE), raw(3, put(1)), raw(2, put(2)))
    assert [e.n for e in pushed.outcomes] == [1] and (pushed.gap, pushed.forked) == (2, None)
    assert daemon.head() == 1
    pushed = daemon.push(ANN, raw(2, put(2)), raw(3, put(1)))
    assert [e.n for e in pushed.outcomes] == [2, 3] and pushed.gap is None


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), max_size=12))
def test_whatever_is_sent_each_n_is_recorded_once_and_in_order(pushes: list[tuple[int, int]]) -> None:
    daemon = Daemon()
    daemon.attach(ANN)
    recorded: dict[int, Any] = {}
    for first, count in pushes:
        pushed = daemon.push(ANN, *[raw(n, CREATE, ["counter.inc", *DOC, "n", n]) for n in range(first, first + count)])
        for entry in pushed.outcomes:
            assert recorded.setdefault(entry.n, entry) == entry
        assert pushed.gap == (len(recorded) + 1 if first > len(recorded) else None)
        assert sorted(recorded) == list(range(1, len(recorded) + 1))
    with daemon.store.read() as tx:
        found = reading.document(tx, SPACE, *DOC)
    assert (found.fields["n"] if found else 0) == sum(recorded)


def test_the_same_number_with_another_nonce_is_a_fork() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE), raw(2, put(1)))
    image = daemon.store.image()
    pushed = daemon.push(ANN, raw(1, CREATE), raw(2, put(1), salt=9), raw(3, put(2)))
    assert [e.n for e in pushed.outcomes] == [1] and (pushed.gap, pushed.forked) == (None, 2)
    assert daemon.store.image() == image


def test_another_installation_is_told_what_is_recorded_and_adds_nothing() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE))
    clone = device(1, installation=7)
    pushed = daemon.push(clone, raw(1, CREATE), raw(2, put(1)))
    assert [e.outcome for e in pushed.outcomes] == ["applied"] and pushed.forked == 2
    assert one(daemon.ack(clone, 1, 1), Done) == Done()
    with daemon.store.read() as tx:
        replica = replica_row(tx, SPACE, clone.device)
    assert replica is not None and (replica.highest, replica.settled) == (1, 0), "a clone's ack settles nothing"
    assert daemon.outcome(ANN, raw(2, put(1))) == "applied", "the first installation goes on"


def test_a_device_belongs_to_one_user() -> None:
    daemon = Daemon()
    assert daemon.ask(Bind(ANN)) == Bound()
    thief = device(1, user="mallory")
    for command in (Bind(thief), Push(thief, SPACE, None, ()), Attach(thief, SPACE, None, 0, 0, None, 0, None)):
        assert one(daemon.ask(command), Refused).reason == "device_bound"
    assert one(daemon.ask(Bind(device(0))), Refused).reason == "device_bound", "the server's own id"


# -- epochs and positions ---------------------------------------------------------------------------------------------


def test_a_push_of_another_epoch_is_answered_with_what_the_server_has() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE), raw(2, put(1)))
    image = daemon.store.image()
    change = parsed_change(raw(3, put(2)))
    expired = one(daemon.ask(Push(ANN, SPACE, b"e" * 16, (change,))), Expired)
    assert (expired.epoch, expired.fork, expired.highest) == (daemon.epoch(), 0, 2)
    assert one(daemon.ask(Ack(ANN, SPACE, b"e" * 16, 1, 1, 1)), Expired).highest == 2
    assert one(daemon.ask(Attach(ANN, SPACE, b"e" * 16, 0, 0, None, 0, None)), Expired).highest == 2
    assert daemon.store.image() == image


def test_a_push_without_epoch_reads_nothing() -> None:
    daemon = Daemon()
    assert one(daemon.ask(Push(ANN, SPACE, None, (parsed_change(raw(1, CREATE)),))), Pushed).gap is None
    late = parsed_change(raw(2, put(1), base=1))
    assert one(daemon.ask(Push(ANN, SPACE, None, (late,))), Refused).reason == "bad_position"


def test_without_an_epoch_no_operation_names_a_position() -> None:
    daemon = Daemon()
    daemon.push(BOB, raw(1, CREATE))
    change = parsed_change(raw(1, [*put(1), {"seen": 1}]))
    assert one(daemon.ask(Push(ANN, SPACE, None, (change,))), Refused).reason == "bad_position"
    assert daemon.outcome(ANN, raw(1, [*put(1), {"seen": 1}])) == "applied", "with the epoch it does"


def test_nobody_reads_beyond_the_head() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE))
    assert one(daemon.push_result(ANN, raw(2, put(1), base=2)), Refused).reason == "bad_position"
    assert one(daemon.ack(ANN, 2, 1), Refused).reason == "bad_position"
    assert one(daemon.ack(ANN, 1, 2), Refused).reason == "bad_position"
    assert daemon.outcome(ANN, raw(2, put(1), base=1)) == "applied"


# -- one change cannot hurt another -----------------------------------------------------------------------------------


def test_an_exception_inside_one_change_ends_that_change_only() -> None:
    """A change that breaks a promise of the parser stands for any defect of ours behind it."""
    daemon = Daemon()
    broken = (
        Operation("create", *DOC, None, (), 0),
        Operation("counter.inc", *DOC, "n", ("not a number",), 0),
    )
    poison = Change(2, nonce(2), 0, 0, broken, b"\x90")
    pushed = daemon.push(ANN, raw(1, ["create", "c", "before"]), poison, raw(3, ["create", "c", "after"]))
    assert [(e.outcome, e.seq) for e in pushed.outcomes] == [("applied", 1), ("invalid", None), ("applied", 2)]
    assert pushed.outcomes[1].detail is not None and pushed.outcomes[1].detail["reason"] == "internal"
    assert len(daemon.alarms) == 1 and "TypeError" in daemon.alarms[0]
    (letter,) = letters(daemon)
    assert (letter.n, letter.payload) == (2, b"\x90")
    with daemon.store.read() as tx:
        assert reading.document(tx, SPACE, *DOC) is None, "nothing of it took effect"
    check_store(daemon)


def test_a_failing_command_of_a_batch_leaves_the_others_their_results() -> None:
    daemon = Daemon()
    good = Push(ANN, SPACE, None, (parsed_change(raw(1, CREATE)),))
    bad = Push(BOB, SPACE, b"x" * 16, (parsed_change(raw(1, CREATE)),))
    also = Push(device(3), SPACE, None, (parsed_change(raw(1, CREATE)),))
    results = daemon.decide(good, bad, also).results
    assert [type(result) for result in results] == [Pushed, Expired, Pushed]


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_a_document_stays_within_its_limit_over_many_changes() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE))
    outcomes = [daemon.outcome(ANN, raw(n, put(b"x" * 60000, f"f{n}"))) for n in range(2, 8)]
    assert outcomes == ["applied"] * 4 + ["too_large"] * 2
    assert daemon.outcome(ANN, raw(8, put(0, "f2"))) == "applied", "what shrinks it is welcome"
    assert daemon.outcome(ANN, raw(9, put(b"x" * 60000, "f9"))) == "applied"


def test_what_one_seq_alters_fits_one_delta_whatever_is_in_the_documents() -> None:
    daemon = Daemon()
    n = 0
    for i in range(12):
        for field in "abcd":
            n += 1
            change = raw(n, ["create", "c", str(i)], ["reg.set", "c", str(i), field, b"x" * 60000], base=daemon.head())
            assert daemon.outcome(ANN, change) == "applied"
    touch = [["reg.set", "c", str(i), "e", 1] for i in range(12)]
    assert daemon.outcome(ANN, raw(n + 1, *touch)) == "too_large"
    assert daemon.outcome(ANN, raw(n + 2, *touch[:6])) == "applied"


# -- the log of a device ----------------------------------------------------------------------------------------------


def test_an_author_without_memory_sees_by_its_base_alone() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE))
    key = api_key()
    daemon.push(key, raw(1, put("new"), base=1, stamp=1))
    (entry,) = daemon.push(key, raw(2, put("replayed"), base=1, stamp=0)).outcomes
    assert entry.detail == {"met": [[0, "lost", 2]]}


def test_entries_keep_what_a_replay_needs() -> None:
    daemon = Daemon()
    pushed = daemon.push(ANN, raw(1, CREATE, stamp=5))
    with daemon.store.read() as tx:
        row = tx.get(keys.device_log(pushed.space_id, pushed.slot, 1))
        assert row is not None
        entry = ENTRIES.row(keys.device_log(pushed.space_id, pushed.slot, 1), row)
    assert isinstance(entry, EntryRow)
    parsed = parsed_change(raw(1, CREATE, stamp=5))
    assert isinstance(parsed, Change) and (entry.base, entry.stamp, entry.payload) == (0, 5, parsed.payload)
