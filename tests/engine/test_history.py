"""A document as of a seq is what it was then; its history is the changes that touched it."""

from typing import Any

from hypothesis import given, settings

from syncd.engine.batch import space_row
from syncd.engine.explaining import explained
from syncd.engine.history import Past, Rewind, backwards, stored
from syncd.store.api import Reader
from syncd.store.tables import SpaceRow
from tests.engine.kit import SPACE, Daemon, device, raw
from tests.engine.server import EngineServer
from tests.oracle.histories import DOCUMENTS, History, World, exact, random_history
from tests.oracle.strategies import histories


def past(tx: Reader, name: tuple[str, str], seq: int) -> Past:
    rewind = Rewind(SPACE, name, seq)
    while (found := rewind.step(tx)) is None:
        pass
    return found


def is_cut(tx: Reader, row: SpaceRow, name: tuple[str, str]) -> bool:
    """Whether something of a document's history is not kept any more."""
    document = stored(tx, row, name)
    if document is None:
        return row.floor > 0
    last = list(backwards(tx, row.id, name, document.touched))
    return not last or last[-1].before != 0


class Recorded(World):
    """What the oracle says of all documents after each seq, and which changes named which."""

    def __init__(self, history: History, server: EngineServer) -> None:
        super().__init__(history, server)
        self.states: list[dict[Any, Any]] = [{}]

    def _push(self, device: Any, count: int) -> None:
        # One change at a time: the oracle is asked for its state after each.
        for _ in range(max(1, min(count, len(device.outbox)))):
            before = self.oracle.head
            super()._push(device, 1)
            if self.oracle.head != before:
                self.states.append(exact(self.oracle.state()))


def check_all(world: Recorded, server: EngineServer) -> tuple[int, int]:
    """Compare each document as of each seq. How many were known and not."""
    known = unknown = 0
    with server.daemon.store.read() as tx:
        row = space_row(tx, SPACE)
        assert row is not None or len(world.states) == 1
        for name in DOCUMENTS:
            reached = 0
            for seq, state in enumerate(world.states):
                found = past(tx, name, seq)
                if found.known_from is not None:
                    assert found.known_from > seq and reached == 0, "what is known stays known later"
                    assert row is not None and is_cut(tx, row, name), "the history is there, and came to something else"
                    unknown += 1
                    continue
                known, reached = known + 1, 1
                wanted = state.get(name)
                if not found.is_live:
                    assert wanted is None
                    continue
                assert found.document is not None and wanted is not None, (name, seq, found)
                assert exact({name: (found.document.rev, found.document.visible())})[name] == wanted
    return known, unknown


@settings(max_examples=40)
@given(histories())
def test_a_document_as_of_a_seq_is_what_the_oracle_says_of_the_prefix(history: History) -> None:
    server = EngineServer(len(history.events), history.wins)
    world = Recorded(history, server)
    world.run()
    check_all(world, server)


def test_seeded_histories_are_known_whole_or_say_from_where_on() -> None:
    known = unknown = 0
    for seed in range(10):
        history = random_history(seed)
        server = EngineServer(seed, history.wins)
        world = Recorded(history, server)
        world.run()
        found = check_all(world, server)
        known, unknown = known + found[0], unknown + found[1]
    assert known > 2 * unknown > 0, (known, unknown)


def test_a_stock_and_a_quiet_document_of_a_busy_space_are_explained() -> None:
    daemon, ann, ben = Daemon(), device(1), device(2, user="ben")
    daemon.attach(ann)
    daemon.attach(ben)
    lease = bytes([7]) * 16
    daemon.push(
        ann,
        raw(1, ["create", "c", "a"], ["bounded.restock", "c", "a", "eggs", 5], ["reg.set", "c", "a", "note", "x"]),
        raw(2, ["bounded.lease", "c", "a", "eggs", lease, 2, None], ["bounded.take", "c", "a", "eggs", 1, None]),
        raw(3, ["create", "c", "busy"]),
    )
    for first in range(4, 2_500, 250):
        daemon.push(ann, *[raw(n, ["counter.inc", "c", "busy", "n", 1]) for n in range(first, first + 250)])
    head = daemon.head()
    daemon.push(ben, raw(1, ["reg.set", "c", "a", "note", "y"], base=head))
    with daemon.store.read() as tx:
        told = explained(tx, SPACE, "c", "a", None)
    assert [change["seq"] for change in told["changes"]] == [head + 1, 2, 1]
    sentence = told["fields"]["eggs"]["sentence"]
    assert (
        "5 in all, 2 are in the reserve" in sentence
        and "2 are leased to devices (1 leases) and 1 are taken" in sentence
    )
    assert "ben" in told["fields"]["note"]["sentence"]
