"""Schemas in the engine: refused with an outcome and kept, read as of the present version, and never half-applied."""

from typing import Any

import pytest

from syncd.app.schemas import schemas
from syncd.core import documents
from syncd.core.documents import reservations
from syncd.core.values import decoded
from syncd.engine import history, reading
from syncd.engine.commands import Collect, Collected, Post, Posted, ReplayLetter, Revert, Reverted
from syncd.engine.frontier import Retention
from syncd.engine.schemas import Schemas
from syncd.store import fsck, keys
from syncd.store.tables import DOCUMENTS, ENTRIES, LETTERS
from tests.engine.kit import SPACE, Daemon, api_key, device, nonce, one, raw
from tests.oracle.replica import Replica

NAME = ("product", "p")
CREATE = ["create", *NAME]
DETAIL = {"name": "product", "version": 2}


def put(field: str, value: Any, *options: Any) -> list[Any]:
    return ["reg.set", *NAME, field, value, *options]


def in_force(**more: Any) -> Schemas:
    table = {
        "spaces": "team/*",
        "collection": "product",
        "version": 2,
        "other_fields": False,
        "fields": {
            "title": {"type": "reg", "required": True, "values": ["text"], "bytes_max": 10},
            "state": {"type": "reg", "one_of": ["draft", "shown"]},
            "count": {"type": "counter", "maximum": 3},
            "tags": {"type": "set", "items_max": 2},
        },
        "step": [{"to": 2, "renamed": {"name": "title"}, "defaults": {"state": "draft"}}],
        **more,
    }
    return schemas({"product": table})


def daemon_with(**more: Any) -> Daemon:
    daemon = Daemon()
    daemon.engine.schemas = in_force(**more)
    return daemon


def fields(daemon: Daemon, document: tuple[str, str] = NAME) -> dict[str, Any] | None:
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))
        found = reading.document(tx, SPACE, *document)
    return None if found is None else dict(found.fields)


def payload(daemon: Daemon, n: int) -> Any:
    """What the log keeps of a change of the first device."""
    with daemon.store.read() as tx:
        row = ENTRIES.get(tx, keys.device_log(daemon.row().id, 1, n))
    assert row is not None and row.payload is not None
    return decoded(row.payload)


@pytest.mark.parametrize(
    ("operations", "outcome", "op", "rule"),
    [
        ([CREATE], "invalid", None, "required"),
        ([CREATE, put("title", 1)], "invalid", 1, "values"),
        ([CREATE, put("title", "x" * 11)], "too_large", 1, "bytes_max"),
        ([CREATE, put("title", "x"), put("colour", 1)], "invalid", 2, "other_fields"),
        ([CREATE, put("title", "x"), put("state", "gone")], "invalid", 2, "one_of"),
        ([CREATE, ["mv.set", *NAME, "title", "x"]], "type_mismatch", 1, "type"),
        ([CREATE, put("title", "x"), ["counter.inc", *NAME, "count", 4]], "invalid", None, "maximum"),
        ([CREATE, put("title", "x"), *(["set.add", *NAME, "tags", i] for i in "abc")], "too_large", None, "items_max"),
        ([CREATE, put("title", "x"), ["reg.unset", *NAME, "title"]], "invalid", None, "required"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_whole_and_kept(operations: Any, outcome: str, op: int | None, rule: str) -> None:
    daemon, author = daemon_with(), device(1)
    elsewhere = ["create", "other", "o"]
    entry = daemon.push(author, raw(1, elsewhere, *operations), raw(2, CREATE, put("title", "ok"))).outcomes
    assert [each.outcome for each in entry] == [outcome, "applied"]
    detail = entry[0].detail
    assert detail is not None and detail.get("op") == (None if op is None else op + 1)
    assert detail["schema"] | DETAIL == detail["schema"] and detail["schema"]["rule"] == rule
    assert "the schema 'product'" in detail["reason"]
    assert fields(daemon) == {"title": "ok"} and fields(daemon, ("other", "o")) is None
    with daemon.store.read() as tx:
        letter = LETTERS.get(tx, keys.letter(daemon.row().id, detail["letters"][0]))
    assert letter is not None and decoded(letter.payload) == [elsewhere, *operations]
    again = daemon.push(author, raw(1, elsewhere, *operations)).outcomes[0]
    assert again == entry[0]


def test_a_backend_is_refused_with_the_same_outcome() -> None:
    daemon = daemon_with()
    posted = one(daemon.ask(Post(api_key(), SPACE, [CREATE, put("title", 1)], None, None, None)), Posted)
    assert (posted.outcome, posted.seq) == ("invalid", None)
    assert posted.detail is not None and posted.detail["schema"] == {**DETAIL, "rule": "values", "field": "title"}


def test_a_schema_is_for_the_spaces_that_it_names() -> None:
    daemon, author = daemon_with(), device(1)
    assert daemon.push(author, raw(1, CREATE), space="home/x").outcomes[0].outcome == "applied"
    assert daemon.push(author, raw(1, CREATE), space="team/x").outcomes[0].outcome == "invalid"


def test_what_was_there_before_a_schema_is_left_alone() -> None:
    daemon, author = Daemon(), device(1)
    daemon.push(author, raw(1, CREATE, put("colour", 1), put("state", "odd"), ["counter.inc", *NAME, "count", 9]))
    daemon.engine.schemas = in_force()
    before = fields(daemon)
    assert daemon.outcome(author, raw(2, put("state", "shown"))) == "applied"
    assert daemon.outcome(author, raw(3, ["counter.inc", *NAME, "count", -1])) == "applied"
    assert daemon.outcome(author, raw(4, ["counter.inc", *NAME, "count", 1])) == "invalid"
    assert daemon.outcome(author, raw(5, put("colour", 2))) == "invalid"
    assert daemon.outcome(author, raw(6, ["reg.unset", *NAME, "colour"])) == "applied"
    assert daemon.outcome(author, raw(7, put("title", "t"))) == "applied"
    assert daemon.outcome(author, raw(8, ["reg.unset", *NAME, "title"])) == "invalid"
    assert before == {"colour": 1, "state": "odd", "count": 9}
    assert fields(daemon) == {"state": "shown", "count": 8, "title": "t"}


def test_a_change_of_an_older_version_is_read_as_one_of_the_present() -> None:
    daemon, author, old = daemon_with(), device(1), {"schema": 1}
    first = daemon.push(author, raw(1, [*CREATE, old], put("name", "ann", old))).outcomes[0]
    assert first.outcome == "applied" and fields(daemon) == {"title": "ann", "state": "draft"}
    assert daemon.outcome(author, raw(2, put("name", "bob", old), put("state", "shown", old))) == "applied"
    assert fields(daemon) == {"title": "bob", "state": "shown"}
    assert payload(daemon, 1) == [[*CREATE, old], put("title", "ann", old), put("state", "draft")]
    rewind = history.Rewind(SPACE, NAME, 1)
    past = None
    while past is None:
        with daemon.store.read() as tx:
            past = rewind.step(tx)
    assert past.document is not None and past.document.visible()["title"] == ["reg", "ann"]


def test_who_makes_what_another_has_made_meanwhile_makes_no_document() -> None:
    """A maker that is read from the store is the maker that it was: the document need not have what is required, and
    gets no defaults, in whatever batch the second create comes."""
    daemon, old = Daemon(), {"schema": 1}
    daemon.push(device(1), raw(1, CREATE, ["counter.inc", *NAME, "count", 1]))
    daemon.engine.schemas = in_force()
    again = [raw(1, [*CREATE, old], ["counter.inc", *NAME, "count", 1, old]), raw(2, [*CREATE, old])]
    assert [each.outcome for each in daemon.push(device(2), *again).outcomes] == ["merged", "noop"]
    assert daemon.outcome(device(3), raw(1, [*CREATE, old])) == "merged"
    assert fields(daemon) == {"count": 2}


def test_a_default_for_which_a_document_has_no_room_refuses_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "FIELDS_MAX", 2)
    daemon = daemon_with(other_fields=True)
    old = {"schema": 1}
    full = [[*CREATE, old], put("name", "x", old), put("more", 1)]
    (refused,) = daemon.push(device(1), raw(1, *full)).outcomes
    assert refused.outcome == "too_large" and "2 fields" in (refused.detail or {})["reason"] and not daemon.alarms
    assert daemon.outcome(device(1), raw(2, *full[:2])) == "applied"
    assert fields(daemon) == {"title": "x", "state": "draft"}


def test_the_create_that_makes_a_document_says_which_defaults_it_gets() -> None:
    daemon, author = daemon_with(), device(1)
    title, old = put("title", "x"), {"schema": 1}
    daemon.push(author, raw(1, [*CREATE, old], title, CREATE))
    assert fields(daemon) == {"title": "x", "state": "draft"}
    daemon.push(author, raw(2, ["delete", *NAME], CREATE, title, [*CREATE, old]))
    assert fields(daemon) == {"title": "x"}
    daemon.push(author, raw(3, put("state", "shown"), ["delete", *NAME], [*CREATE, old], title))
    assert fields(daemon) == {"title": "x", "state": "draft"}


def test_a_default_gives_way_to_what_is_there() -> None:
    daemon, old = daemon_with(), {"schema": 1}
    daemon.push(device(1), raw(1, CREATE, put("title", "t"), put("state", "shown")))
    assert daemon.outcome(device(2), raw(1, [*CREATE, old], put("name", "n", old))) == "merged"
    assert (fields(daemon) or {})["state"] == "shown"
    daemon.push(device(1), raw(2, ["delete", *NAME], base=2))
    own = raw(3, [*CREATE, old], put("state", "shown", old), put("name", "n", old), base=3)
    assert daemon.outcome(device(1), own) == "applied"
    assert fields(daemon) == {"title": "n", "state": "shown"}


def test_what_is_older_than_the_oldest_is_refused_and_may_be_replayed_when_it_is_taken_again() -> None:
    daemon, author, old = daemon_with(oldest=2), device(1), {"schema": 1}
    entry = daemon.push(author, raw(1, [*CREATE, old], put("name", "ann", old))).outcomes[0]
    assert entry.outcome == "invalid" and entry.detail is not None
    assert entry.detail["schema"] == {**DETAIL, "rule": "oldest"} and entry.detail["op"] == 0
    daemon.engine.schemas = in_force()
    replayed = one(daemon.ask(ReplayLetter(author, SPACE, entry.detail["letters"][0], None)), Posted)
    assert replayed.outcome == "applied" and fields(daemon) == {"title": "ann", "state": "draft"}


def test_a_version_that_the_server_does_not_know_yet_is_judged_by_the_present_rules() -> None:
    daemon, author, new = daemon_with(), device(1), {"schema": 3}
    assert daemon.outcome(author, raw(1, [*CREATE, new], put("title", "t", new))) == "applied"
    assert daemon.outcome(author, raw(2, put("heading", "t", new))) == "invalid"


def test_a_lease_is_taken_whatever_a_schema_says_by_then() -> None:
    daemon, author, lease = Daemon(), device(1), nonce(1) * 2
    daemon.push(author, raw(1, CREATE, put("title", "t"), ["bounded.restock", *NAME, "left", 5]))
    daemon.push(author, raw(2, ["bounded.lease", *NAME, "left", lease, 3, None]))
    daemon.engine.schemas = in_force()
    assert daemon.outcome(author, raw(3, ["bounded.take", *NAME, "left", 1, lease])) == "applied"
    assert daemon.outcome(author, raw(4, ["bounded.give", *NAME, "left", lease, 2])) == "applied"
    assert daemon.outcome(author, raw(5, ["bounded.restock", *NAME, "left", 1])) == "invalid"


# -- where updates win ------------------------------------------------------------------------------------------------

WINS = schemas({"w": {"spaces": "team/*", "collection": "product", "update_wins": True}})
UNIQUE = ["unique", *NAME, "nick", "ann"]
SECOND = ("product", "q")
TAKE = [["create", *SECOND], ["unique", *SECOND, "nick", "ann"]]


def winning(**more: Any) -> Daemon:
    """Two devices know a document that the first has deleted; the second has not heard of it."""
    daemon = Daemon(retention=Retention(recent_ms=more.pop("recent_ms", 0), **more))
    daemon.engine.schemas = WINS
    daemon.attach(device(1))
    daemon.push(device(1), raw(1, CREATE, put("title", "t"), UNIQUE))
    daemon.attach(device(2), epoch=daemon.epoch(), complete=1, resume=1)
    daemon.push(device(1), raw(2, ["delete", *NAME], base=1))
    return daemon


@pytest.mark.parametrize("is_collecting", [True, False])
def test_a_key_stays_with_a_body_until_the_frontier_has_passed_the_delete(is_collecting: bool) -> None:
    daemon = winning(is_collecting=is_collecting)
    refused = daemon.push(device(1), raw(3, *TAKE, base=2)).outcomes[0]
    assert refused.outcome == "precondition" and (refused.detail or {})["holder"] == list(NAME)
    for number in (1, 2):
        daemon.ack(device(number), 2, 0)
    daemon.collect()
    assert daemon.row().frontier == 2
    assert daemon.outcome(device(1), raw(4, *TAKE, base=2)) == "applied"
    assert daemon.outcome(device(3), raw(1, put("title", "late"), base=1)) == "gone"
    assert fields(daemon) is None and fields(daemon, SECOND) == {}


@pytest.mark.parametrize("is_collecting", [True, False])
def test_between_floor_and_frontier_a_body_counts_as_absent(is_collecting: bool) -> None:
    daemon = winning(is_collecting=is_collecting, recent_ms=10_000)
    for number in (1, 2):
        daemon.ack(device(number), 2, 0)
    one(daemon.ask(Collect(SPACE)), Collected)
    assert (daemon.row().frontier, daemon.row().floor) == (2, 0)
    assert daemon.outcome(device(3), raw(1, put("title", "late"), base=1)) == "gone"
    assert daemon.outcome(device(3), raw(2, *TAKE, base=2)) == "applied"
    assert daemon.outcome(device(1), raw(3, CREATE, UNIQUE, base=2)) == "precondition"
    daemon.now_ms += 20_000
    daemon.collect()
    assert fields(daemon, SECOND) == {}
    assert daemon.outcome(device(1), raw(4, CREATE, put("title", "new"), base=2)) == "applied"
    assert fields(daemon) == {"title": "new"}


def test_an_update_brings_a_document_back_with_its_key_to_everyone() -> None:
    daemon, replica = winning(), Replica()
    attached = daemon.attach(device(4))
    daemon.catch_up(replica, attached)
    assert replica.documents == {}
    assert daemon.outcome(device(2), raw(1, put("state", "s"), base=1)) == "merged"
    daemon.catch_up(replica, attached)
    assert {name: fields for name, (_, fields) in replica.documents.items()} == {
        NAME: {"title": ["reg", "t"], "state": ["reg", "s"]}
    }
    assert daemon.outcome(device(4), raw(1, *TAKE, base=3)) == "precondition"


def test_a_new_life_of_a_document_frees_what_the_body_held() -> None:
    daemon = winning()
    assert daemon.outcome(device(1), raw(3, CREATE, base=2)) == "applied"
    assert daemon.outcome(device(1), raw(4, *TAKE, base=3)) == "applied"
    assert fields(daemon) == {} and daemon.outcome(device(2), raw(1, put("title", "x"), base=1)) == "gone"


def test_a_body_counts_as_absent_when_updates_do_not_win_any_more() -> None:
    daemon = winning()
    daemon.engine.schemas = Schemas()
    assert daemon.outcome(device(2), raw(1, put("title", "x"), base=1)) == "gone"
    assert daemon.outcome(device(1), raw(3, *TAKE, base=2)) == "applied"
    assert fields(daemon, SECOND) == {} and fields(daemon) is None


@pytest.mark.parametrize("looked_at", [None, NAME, SECOND])
def test_a_choice_that_is_taken_back_and_made_again_keeps_the_bodies_that_nothing_has_met_meanwhile(
    looked_at: tuple[str, str] | None,
) -> None:
    """By its name or by its key; of what was met nothing comes back, and its key is free. Nobody is told otherwise."""
    daemon = winning()
    daemon.engine.schemas = Schemas()
    if looked_at == NAME:
        assert daemon.outcome(device(3), raw(1, put("title", "x"), base=1)) == "gone"
    if looked_at == SECOND:
        assert daemon.outcome(device(3), raw(1, *TAKE, base=2)) == "applied"
    daemon.engine.schemas = WINS
    replica, attached = Replica(), daemon.attach(device(4))
    daemon.catch_up(replica, attached)
    is_kept = looked_at is None
    assert daemon.outcome(device(2), raw(1, put("state", "s"), base=1)) == ("merged" if is_kept else "gone")
    assert fields(daemon) == ({"title": "t", "state": "s"} if is_kept else None)
    daemon.catch_up(replica, attached)
    assert (NAME in replica.documents) == is_kept
    third = ("product", "r")
    taken = daemon.outcome(device(1), raw(3, ["create", *third], ["unique", *third, "nick", "ann"], base=2))
    assert taken == ("applied" if looked_at == NAME else "precondition")


def test_a_revert_of_a_document_whose_body_is_kept_takes_its_key_again() -> None:
    daemon = winning()
    past = None
    rewind = history.Rewind(SPACE, NAME, 1)
    while past is None:
        with daemon.store.read() as tx:
            past = rewind.step(tx)
    assert past.document is not None
    command = Revert(device(1), SPACE, *NAME, past.document.visible(), reservations(past.document))
    assert one(daemon.ask(command), Reverted).posted.outcome == "applied"
    assert fields(daemon) == {"title": "t"}
    assert daemon.outcome(device(1), raw(4, *TAKE, base=3)) == "precondition"


def test_a_change_without_a_schema_is_kept_as_it_came() -> None:
    """No schema is for its collection: what it says of versions is kept, and means nothing."""
    daemon, author = Daemon(), device(1)
    operations = [[*CREATE, {"schema": 1}], put("name", "x", {"schema": 4})]
    assert daemon.outcome(author, raw(1, *operations)) == "applied"
    assert payload(daemon, 1) == operations and fields(daemon) == {"name": "x"}


def test_fsck_finds_a_body_where_no_updates_can_win() -> None:
    daemon = Daemon()
    daemon.push(device(1), raw(1, ["create", "_inbox", "i"]), raw(2, ["delete", "_inbox", "i"]))
    key = keys.document(daemon.row().id, "_inbox", "i")
    with daemon.store.write() as tx:
        row = DOCUMENTS.get(tx, key)
        assert row is not None and not row.has_body
        DOCUMENTS.put(tx, key, row._replace(writers=row.makers))
    with daemon.store.read() as tx:
        assert "reserved collection" in str(list(fsck.check(tx)))
