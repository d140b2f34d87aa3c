"""A revert brings the visible state of a document back, or says what it leaves and why."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings

from syncd.core.documents import Document, reservations
from syncd.engine.batch import space_row
from syncd.engine.commands import Refused, Revert, Reverted
from syncd.engine.history import stored
from syncd.engine.posting import SERVER
from syncd.engine.reverting import UPDATE_BYTES_MAX
from tests.engine.kit import SPACE, Daemon, api_key, device, one, raw
from tests.engine.server import EngineServer
from tests.engine.test_history import past
from tests.oracle.histories import DOCUMENTS, History, World
from tests.oracle.oracle import packed
from tests.oracle.strategies import histories

ANN = device(1)
NAME = ("c", "a")


def document(daemon: Daemon, name: tuple[str, str] = NAME) -> Document | None:
    with daemon.store.read() as tx:
        row = space_row(tx, SPACE)
        return None if row is None else stored(tx, row, name)


def as_of(daemon: Daemon, seq: int, name: tuple[str, str] = NAME) -> Document:
    with daemon.store.read() as tx:
        found = past(tx, name, seq).document
    assert found is not None
    return found


def revert(daemon: Daemon, then: Document, name: tuple[str, str] = NAME) -> Reverted:
    return one(daemon.ask(Revert(SERVER, SPACE, *name, then.visible(), reservations(then))), Reverted)


def shown(found: Document | None, without: set[str]) -> bytes:
    assert found is not None and found.is_live
    return packed(sorted((name, told(value)) for name, value in found.visible().items() if name not in without))


def told(value: list[Any]) -> list[Any]:
    """Of a text its updates, whenever they came."""
    return ["text", [data for _, data in value[1][1]]] if value[0] == "text" else value


@settings(max_examples=40)
@given(histories())
def test_a_revert_brings_back_all_that_it_does_not_name_as_left(history: History) -> None:
    server = EngineServer(len(history.events), history.wins)
    World(history, server).run()
    daemon = server.daemon
    head = daemon.head()
    for name in DOCUMENTS:
        for seq in range(1, head + 1, 3):
            with daemon.store.read() as tx:
                found = past(tx, name, seq)
            if found.document is None or not found.is_live:
                continue
            answer = revert(daemon, found.document, name)
            if answer.posted.outcome == "precondition":
                continue  # units of the document are leased meanwhile: it is not ended, and nothing was done
            assert answer.posted.outcome in ("applied", "noop"), answer
            left = {each["field"] for each in answer.left if "field" in each}
            assert shown(document(daemon, name), left) == shown(found.document, left)
            kept = {each["unique"] for each in answer.left if "unique" in each}
            held = reservations(document(daemon, name))
            assert {k: v for k, v in held.items() if k not in kept} == {
                k: v for k, v in reservations(found.document).items() if k not in kept
            }
            assert revert(daemon, found.document, name).posted.seq is None, "and once is enough"
    assert not daemon.alarms


def test_what_cannot_be_brought_back_is_named_with_its_reason() -> None:
    daemon = Daemon()
    daemon.attach(ANN)
    daemon.push(
        ANN,
        raw(1, ["create", *NAME], ["max.put", *NAME, "most", 1], ["bounded.restock", *NAME, "left", 5],
            ["unique", *NAME, "nick", "ann"], ["reg.set", *NAME, "text", "then"]),
        raw(2, ["max.put", *NAME, "most", 7], ["bounded.take", *NAME, "left", 1, None],
            ["unique", *NAME, "nick", "bea"], ["counter.inc", *NAME, "times", 3], ["reg.set", *NAME, "text", "now"]),
        raw(3, ["create", "c", "b"], ["unique", "c", "b", "nick", "ann"]),
    )  # fmt: skip
    answer = revert(daemon, as_of(daemon, 1))
    assert answer.posted.outcome == "applied"
    reasons: dict[str, Any] = {each.get("field", each.get("unique")): each["reason"] for each in answer.left}
    assert set(reasons) == {"most", "left", "nick", "times"}
    assert "c/b holds the key 'ann'" in reasons["nick"] and "restock" in reasons["left"]
    found = document(daemon)
    assert found is not None
    assert found.visible()["text"] == ["reg", "then"] and found.visible()["times"] == ["counter", 0]
    assert reservations(found) == {"nick": "bea"}


UPDATES = [b"one", b"two", b"three"]


def typed(daemon: Daemon, updates: list[bytes]) -> None:
    """A document with a text and a register, and an update in each change."""
    daemon.attach(ANN)
    daemon.push(ANN, raw(1, ["create", *NAME], ["reg.set", *NAME, "title", "then"]))
    daemon.push(ANN, *(raw(n, ["text.update", *NAME, "body", update]) for n, update in enumerate(updates, 2)))


def test_a_text_of_a_deleted_document_has_its_updates_again() -> None:
    daemon = Daemon()
    typed(daemon, UPDATES)
    daemon.push(ANN, raw(5, ["delete", *NAME]))
    told_first = revert(daemon, as_of(daemon, 3))
    assert told_first.left == () and told_first.posted.outcome == "applied"
    found = document(daemon)
    assert found is not None and told(found.visible()["body"]) == ["text", UPDATES[:2]]
    assert found.visible()["title"] == ["reg", "then"]
    assert revert(daemon, as_of(daemon, 3)).posted.outcome == "noop" and not daemon.alarms


def test_updates_of_a_text_are_not_taken_away_and_all_else_comes_back() -> None:
    daemon = Daemon()
    typed(daemon, UPDATES)
    daemon.push(ANN, raw(5, ["reg.set", *NAME, "title", "now"]))
    (left,) = revert(daemon, as_of(daemon, 3)).left
    assert left["field"] == "body" and "updates came since seq 3" in left["reason"] and "an editor" in left["reason"]
    (left,) = revert(daemon, as_of(daemon, 1)).left
    assert left["field"] == "body" and "was not there then" in left["reason"]
    found = document(daemon)
    assert found is not None and found.visible()["title"] == ["reg", "then"]
    assert told(found.visible()["body"]) == ["text", UPDATES]
    assert revert(daemon, as_of(daemon, 4)).left == (), "what has all its updates, and no others, is as it was"


def test_a_text_that_fits_into_no_change_costs_the_others_nothing() -> None:
    for updates in ([b"x"] * 999, [b"x" * 280] * 900):
        daemon = Daemon()
        typed(daemon, updates)
        head = daemon.head()
        daemon.push(ANN, raw(head + 1, ["text.update", *NAME, "other", b"x"]), raw(head + 2, ["delete", *NAME]))
        (left,) = revert(daemon, as_of(daemon, head + 1)).left
        assert left == {
            "field": "body",
            "reason": f"its {len(updates)} updates do not fit into one change with the rest",
        }
        found = document(daemon)
        assert found is not None and sorted(found.visible()) == ["other", "title"]


def test_the_longest_update_comes_back() -> None:
    daemon = Daemon()
    longest = b"x" * UPDATE_BYTES_MAX
    typed(daemon, [longest])
    assert daemon.outcome(ANN, raw(3, ["text.update", *NAME, "body", longest + b"x"])) == "too_large"
    daemon.push(ANN, raw(4, ["delete", *NAME]))
    assert revert(daemon, as_of(daemon, 2)).left == ()


def test_a_deleted_document_is_made_anew() -> None:
    daemon = Daemon()
    daemon.attach(ANN)
    daemon.push(ANN, raw(1, ["create", *NAME], ["set.add", *NAME, "tags", "x"]), raw(2, ["delete", *NAME]))
    assert revert(daemon, as_of(daemon, 1)).posted.seq == 3
    found = document(daemon)
    assert found is not None and found.is_live and found.visible() == {"tags": ["set", ["x"]]}


def test_who_may_not_write_reverts_nothing() -> None:
    daemon = Daemon()
    daemon.attach(ANN)
    daemon.push(ANN, raw(1, ["create", *NAME]), raw(2, ["delete", *NAME]))
    stranger = replace(api_key(), grants=())
    refused = one(daemon.ask(Revert(stranger, SPACE, *NAME, {}, {})), Refused)
    assert refused.reason == "forbidden" and daemon.head() == 2
