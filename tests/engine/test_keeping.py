"""What nobody changes goes when its time is over, whatever clocks do, and nothing else does."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.core.changes import DOCUMENTS_MAX
from syncd.core.schemas import Schema
from syncd.engine import history, keeping, reading
from syncd.engine.commands import Collect, Command, DeletedOld, DeleteOld, Done, EndLease, Post, Posted
from syncd.engine.grants import parsed_grant
from syncd.engine.keeping import DELETED_MAX, WALKED_MAX, marked
from syncd.engine.posting import SERVER
from syncd.engine.schemas import Schemas
from syncd.store import fsck, keys
from syncd.store.tables import KEEPING, LETTERS, MARKS_MAX, KeepingRow
from syncd.wire.messages import DELETED
from tests.engine.kit import SPACE, Daemon, api_key, device, one, raw

KEEP_MS = 3_200
PART_MS = KEEP_MS // MARKS_MAX
LOOK_MS = PART_MS // 4
YEARS_MS = 10 * 365 * 86_400_000
OTHER = "other/board"  # the schema is not for it


def in_force(keep_ms: int | None = KEEP_MS, **more: Any) -> Schemas:
    return Schemas([(parsed_grant("team/*", "reader"), Schema("chat", "chat", keep_ms=keep_ms, **more))])


def daemon_with(**more: Any) -> Daemon:
    daemon = Daemon()
    daemon.engine.schemas = in_force(**more)
    return daemon


def post(daemon: Daemon, *operations: list[Any], space: str = SPACE) -> Post:
    return Post(api_key(), space, list(operations), None, None, None)


def made(daemon: Daemon, *names: str, collection: str = "chat", space: str = SPACE) -> None:
    for name in names:
        daemon.ask(post(daemon, ["create", collection, name], space=space))


def is_due(daemon: Daemon, space: str = SPACE) -> bool:
    with daemon.store.read() as tx:
        return keeping.is_due(tx, daemon.row(space), daemon.engine.schemas.keeping(space), daemon.now_ms)


def look(daemon: Daemon, space: str = SPACE) -> list[tuple[str, str]]:
    """As the collector does: all steps that are due."""
    deleted: list[tuple[str, str]] = []
    while is_due(daemon, space):
        result = one(daemon.ask(DeleteOld(space)), DeletedOld)
        deleted += result.documents
        if not result.is_more:
            break
    return deleted


def let_pass(daemon: Daemon, ms: int, every_ms: int = PART_MS) -> list[tuple[str, str]]:
    deleted = []
    for _ in range(ms // every_ms):
        daemon.now_ms += every_ms
        deleted += look(daemon)
    return deleted


def row(daemon: Daemon, collection: str = "chat") -> KeepingRow | None:
    with daemon.store.read() as tx:
        return KEEPING.get(tx, keys.keeping(daemon.row().id, collection))


def live(daemon: Daemon, space: str = SPACE) -> set[tuple[str, str]]:
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))
        found = tx.scan(*keys.space_range(keys.DOCUMENT, daemon.row(space).id))
        names = [keys.parse_document(key)[1:] for key, _ in found]
        return {name for name in names if reading.document(tx, space, *name) is not None}


# -- the law ----------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A daemon under a clock that leaps, and what an onlooker counts: time between two looks, of a leap one part."""

    daemon: Daemon = field(default_factory=daemon_with)
    counted_ms: int = 0
    leaps: int = 0
    changed: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # counted, leaps so far

    def change(self, collection: str, name: str) -> Post:
        self.changed[collection, name] = self.counted_ms, self.leaps
        document = (collection, name)
        return post(self.daemon, ["create", *document], ["counter.inc", *document, "n", 1])

    def look(self, passed_ms: int, before: Command | None = None) -> None:
        self.daemon.now_ms += passed_ms
        self.counted_ms += min(max(0, passed_ms), PART_MS)
        self.leaps += passed_ms != LOOK_MS
        if before is None:
            gone = look(self.daemon)
        else:  # it is changed in the very batch of the step
            gone = list(one(self.daemon.decide(before, DeleteOld(SPACE)).results[1], DeletedOld).documents)
        for name in gone:
            assert name in self.changed, "it goes once"
            age_ms = self.counted_ms - self.changed.pop(name)[0]
            assert name[0] == "chat" and age_ms >= KEEP_MS * 31 // 32, (name, age_ms)
        for (collection, name), (at_ms, leaps) in self.changed.items():
            slack_ms = PART_MS * (self.leaps - leaps)
            is_old = self.counted_ms - at_ms > KEEP_MS * 34 // 32 + slack_ms
            assert collection != "chat" or not is_old, (name, self.counted_ms - at_ms)
        found = row(self.daemon)
        assert found is None or 0 < len(found.marks) <= MARKS_MAX + 1


names = st.sampled_from("abcd")
actions = st.one_of(
    st.tuples(st.just("pass"), st.integers(1, 2 * MARKS_MAX)),
    st.tuples(st.sampled_from(["change", "batch", "other"]), names),
    st.tuples(st.just("leap"), st.sampled_from([YEARS_MS, 2 * PART_MS, PART_MS - 1, -YEARS_MS, -KEEP_MS, -1])),
)


@settings(max_examples=12)
@given(st.lists(actions, min_size=4, max_size=16))
def test_what_was_left_alone_for_long_enough_goes_and_nothing_else(history_: list[tuple[str, Any]]) -> None:
    world = World()
    world.daemon.now_ms = YEARS_MS * 5
    world.daemon.ask(world.change("notes", "stays"))
    world.daemon.ask(post(world.daemon, ["create", "chat", "stays"], space=OTHER))
    for what, value in history_:
        if what == "pass":
            for _ in range(value * PART_MS // LOOK_MS):
                world.look(LOOK_MS)
        elif what == "leap":
            world.look(value)
        elif what == "batch":
            world.look(1, world.change("chat", value))
        else:
            world.daemon.ask(world.change("chat" if what == "change" else "notes", value))
    assert live(world.daemon) == set(world.changed)
    assert live(world.daemon, OTHER) == {("chat", "stays")}
    assert not world.daemon.alarms


# -- steps ------------------------------------------------------------------------------------------------------------


def test_a_leap_of_the_clock_by_years_deletes_nothing_and_makes_one_mark() -> None:
    daemon = daemon_with()
    daemon.now_ms = 3 * YEARS_MS
    made(daemon, "a")
    assert let_pass(daemon, KEEP_MS - 3 * PART_MS) == []
    before = row(daemon)
    for by_ms in (YEARS_MS, -2 * YEARS_MS, YEARS_MS):
        daemon.now_ms += by_ms
        assert look(daemon) == []
    after = row(daemon)
    assert before is not None and after is not None and len(after.marks) <= len(before.marks) + 2


def test_what_changes_in_the_very_batch_of_the_step_stays() -> None:
    daemon = daemon_with()
    made(daemon, "a", "b")
    assert let_pass(daemon, KEEP_MS) == []
    daemon.now_ms += PART_MS
    change = post(daemon, ["counter.inc", "chat", "a", "n", 1])
    step = one(daemon.decide(change, DeleteOld(SPACE)).results[1], DeletedOld)
    assert step == DeletedOld(SPACE, (("chat", "b"),), is_more=False)
    assert live(daemon) == {("chat", "a")}


def test_many_that_one_change_made_go_in_steps_of_bounded_size() -> None:
    daemon, count = daemon_with(), 3 * DELETED_MAX + 1
    daemon.ask(post(daemon, *[["create", "chat", f"{number}"] for number in range(count)]))
    let_pass(daemon, KEEP_MS)
    daemon.now_ms += PART_MS
    sizes = []
    while is_due(daemon):
        sizes.append(len(one(daemon.ask(DeleteOld(SPACE)), DeletedOld).documents))
    assert sizes == [DELETED_MAX] * 3 + [1] and live(daemon) == set()


def test_what_other_collections_have_is_passed_once_and_in_steps_of_bounded_size() -> None:
    daemon = daemon_with()
    for first in range(0, 2 * WALKED_MAX, DOCUMENTS_MAX):
        numbers = range(first, first + DOCUMENTS_MAX)
        outcome = daemon.ask(post(daemon, *[["create", "notes", f"{number}"] for number in numbers]))
        assert one(outcome, Posted).outcome == "applied", outcome
    made(daemon, "a")
    let_pass(daemon, KEEP_MS)
    daemon.now_ms += PART_MS
    steps = []
    while is_due(daemon):
        steps.append(one(daemon.ask(DeleteOld(SPACE)), DeletedOld))
    assert [step.is_more for step in steps] == [True, True, False] and steps[-1].documents == (("chat", "a"),)
    made(daemon, "b")
    assert let_pass(daemon, KEEP_MS + 2 * PART_MS) == [("chat", "b")]


def test_large_documents_go_one_by_one() -> None:
    daemon = daemon_with()
    for name in "abc":
        large = [["reg.set", "chat", name, f"f{number}", "x" * 60_000] for number in range(3)]
        daemon.ask(post(daemon, ["create", "chat", name], *large))
    let_pass(daemon, KEEP_MS)
    daemon.now_ms += PART_MS
    assert one(daemon.ask(DeleteOld(SPACE)), DeletedOld) == DeletedOld(SPACE, (("chat", "a"),), is_more=True)
    assert look(daemon) == [("chat", "b"), ("chat", "c")]


def test_a_space_in_which_nothing_is_left_to_age_is_not_written_to_any_more() -> None:
    daemon = daemon_with()
    made(daemon, "a")
    made(daemon, "stays", collection="notes")
    let_pass(daemon, 4 * KEEP_MS)
    assert live(daemon) == {("notes", "stays")} and not is_due(daemon)
    daemon.now_ms += YEARS_MS
    assert not is_due(daemon)
    made(daemon, "b")
    assert let_pass(daemon, KEEP_MS - PART_MS) == []
    assert let_pass(daemon, 4 * PART_MS) == [("chat", "b")]


def test_a_space_without_such_documents_has_no_row() -> None:
    daemon = daemon_with()
    made(daemon, "stays", collection="notes")
    made(daemon, "stays", space=OTHER)
    let_pass(daemon, 2 * KEEP_MS)
    assert row(daemon) is None and not is_due(daemon, OTHER)
    assert daemon.ask(DeleteOld("no/such")) == DeletedOld("no/such", (), is_more=False)


# -- as any delete ----------------------------------------------------------------------------------------------------


def test_an_offline_edit_that_had_not_seen_it_is_told_that_the_document_is_gone() -> None:
    daemon = daemon_with()
    daemon.attach(device(1))
    made(daemon, "a")
    seen = daemon.head()
    assert let_pass(daemon, KEEP_MS + 2 * PART_MS) == [("chat", "a")]
    (told,) = daemon.deltas[-1].docs
    assert (told.collection, told.id, told.state) == ("chat", "a", DELETED)
    assert daemon.outcome(device(1), raw(1, ["reg.set", "chat", "a", "x", 1], base=seen)) == "gone"
    assert daemon.outcome(device(1), raw(2, ["create", "chat", "a"], base=daemon.head())) == "applied"


def test_an_offline_edit_revives_it_where_updates_win_and_it_ages_anew() -> None:
    daemon = daemon_with(update_wins=True)
    daemon.attach(device(1))
    made(daemon, "a")
    seen = daemon.head()
    assert let_pass(daemon, KEEP_MS + 2 * PART_MS) == [("chat", "a")]
    assert daemon.outcome(device(1), raw(1, ["reg.set", "chat", "a", "x", 1], base=seen)) == "merged"
    assert let_pass(daemon, KEEP_MS - PART_MS) == []
    assert let_pass(daemon, 3 * PART_MS) == [("chat", "a")]


def test_its_history_names_the_server() -> None:
    daemon = daemon_with()
    made(daemon, "a")
    let_pass(daemon, KEEP_MS + 2 * PART_MS)
    with daemon.store.read() as tx:
        newest, *_ = history.listed(tx, SPACE, ("chat", "a"), None, 9).changes
        (told,) = history.told(tx, daemon.row().id, [newest])
    assert (told["kind"], told["device"]) == ("server", SERVER.device.hex())
    assert told["operations"] == [["delete", "chat", "a"]]


def test_a_document_with_leases_stays_without_a_dead_letter_and_ages_anew_when_they_end() -> None:
    daemon = daemon_with()
    lease = b"s" * 16
    stock = [["bounded.restock", "chat", "a", "left", 5], ["bounded.lease", "chat", "a", "left", lease, 2, None]]
    daemon.ask(post(daemon, ["create", "chat", "a"], *stock))
    made(daemon, "b")
    assert let_pass(daemon, 2 * KEEP_MS) == [("chat", "b")]
    one(daemon.ask(EndLease(SPACE, "chat", "a", "left", lease)), Done)
    assert let_pass(daemon, KEEP_MS - PART_MS) == []
    assert let_pass(daemon, 3 * PART_MS) == [("chat", "a")]
    with daemon.store.read() as tx:
        assert not list(LETTERS.scan(tx, keys.table_range(keys.LETTER)))


# -- schemas that change ----------------------------------------------------------------------------------------------


def test_a_schema_that_is_taken_away_or_keeps_for_ever_deletes_nothing_more_and_leaves_no_row() -> None:
    for instead in (Schemas(), in_force(None)):
        daemon = daemon_with()
        made(daemon, "a")
        let_pass(daemon, KEEP_MS)
        daemon.engine.schemas = instead
        assert let_pass(daemon, KEEP_MS) == [] and row(daemon) is None
        daemon.engine.schemas = in_force()
        assert let_pass(daemon, KEEP_MS) == [], "it counts anew"
        assert let_pass(daemon, 2 * PART_MS) == [("chat", "a")]


def test_a_schema_that_keeps_longer_counts_anew_and_one_that_keeps_less_goes_on() -> None:
    daemon = daemon_with()
    made(daemon, "a")
    let_pass(daemon, KEEP_MS)
    daemon.engine.schemas = in_force(2 * KEEP_MS)
    assert let_pass(daemon, 2 * KEEP_MS) == []
    made(daemon, "b")
    daemon.engine.schemas = in_force()
    assert let_pass(daemon, 2 * PART_MS) == [("chat", "a")]
    assert let_pass(daemon, KEEP_MS - 2 * PART_MS) == []
    assert let_pass(daemon, 3 * PART_MS) == [("chat", "b")]


def test_a_mark_is_made_when_its_part_has_passed_and_not_before() -> None:
    first = marked(None, KEEP_MS, 7, 1_000)
    assert first == KeepingRow(KEEP_MS, 1_000, [7], (0, 0))
    assert marked(first, KEEP_MS, 9, 1_000 + PART_MS - 1) is first
    assert marked(first, KEEP_MS, 9, 1_000 + PART_MS) == KeepingRow(KEEP_MS, 1_000 + PART_MS, [7, 9], (0, 0))
    assert marked(first, KEEP_MS, 9, 900) == first._replace(marked_ms=900)
    assert marked(first, 1, 7, 1_001).marks == [7, 7], "a part may be less than a millisecond"


def test_collection_and_keeping_go_on_beside_each_other() -> None:
    daemon = daemon_with()
    made(daemon, "a", "b")
    daemon.now_ms += KEEP_MS
    results = daemon.decide(DeleteOld(SPACE), Collect(SPACE), DeleteOld(SPACE)).results
    assert [type(result).__name__ for result in results] == ["DeletedOld", "Collected", "DeletedOld"]
    assert live(daemon) == {("chat", "a"), ("chat", "b")}
