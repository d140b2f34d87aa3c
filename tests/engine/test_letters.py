"""What becomes of a dead letter that somebody looks at, and of a device id that is retired."""

from typing import Any

from syncd.core.changes import Void
from syncd.engine.batch import LETTERS_MAX
from syncd.engine.commands import Done, DropLetter, Expired, Posted, Refused, ReplayLetter, RetireDevice
from syncd.engine.letters import LOOKED_BYTES_MAX, listed
from syncd.engine.posting import SERVER
from syncd.store import fsck, keys
from syncd.store.tables import DOCUMENTS, LETTERS, LetterRow
from tests.engine.kit import SPACE, Daemon, device, nonce, one, raw

ANN, BEN = device(1), device(2)
CREATE, SET = ["create", "c", "1"], ["reg.set", "c", "1", "f", "late"]


def letters(daemon: Daemon) -> dict[int, LetterRow]:
    with daemon.store.read() as tx:
        bounds = keys.space_range(keys.LETTER, daemon.row().id)
        return {keys.parse_letter(key)[1]: row for key, row in LETTERS.scan(tx, bounds)}


def value(daemon: Daemon) -> Any:
    with daemon.store.read() as tx:
        document = DOCUMENTS.get(tx, keys.document(daemon.row().id, "c", "1"))
        assert not list(fsck.check(tx))
    assert document is not None
    return {name: field.value for name, field in document.fields.items()} if document.is_live else None


def test_a_refused_change_is_replayed_once_with_its_own_base_and_time() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, SET, stamp=5))
    daemon.push(BEN, raw(1, CREATE, ["reg.set", "c", "1", "f", "new"], stamp=900))
    (number,) = letters(daemon)
    daemon.now_ms = 10_000
    again = [one(daemon.ask(ReplayLetter(SERVER, SPACE, number, None)), Posted) for _ in range(3)]
    assert [answer.outcome for answer in again] == ["gone"] * 3, "its base is from before the document"
    assert len(letters(daemon)) == 2, "a refused replay is a letter of its own, once"
    edited = max(letters(daemon))
    seen = [[*SET, {"seen": 1}]]
    first = one(daemon.ask(ReplayLetter(SERVER, SPACE, edited, seen)), Posted)
    assert (first.outcome, first.seq) == ("applied", 2)
    assert value(daemon) == {"f": "late"}
    head = daemon.head()
    assert one(daemon.ask(ReplayLetter(SERVER, SPACE, edited, seen)), Posted).seq == first.seq
    assert daemon.head() == head


def test_a_document_that_was_ended_comes_back_as_it_was() -> None:
    daemon = Daemon()
    made = [CREATE, SET, ["counter.inc", "c", "1", "n", 3], ["set.add", "c", "1", "s", b"x"]]
    daemon.push(ANN, raw(1, *made))
    daemon.push(BEN, raw(1, ["counter.inc", "c", "1", "n", 4], base=1))
    assert daemon.outcome(ANN, raw(2, ["delete", "c", "1"], base=1)) == "merged"
    assert value(daemon) is None
    (number,) = letters(daemon)
    assert one(daemon.ask(ReplayLetter(SERVER, SPACE, number, None)), Posted).outcome == "applied"
    assert value(daemon) == {"f": "late", "n": 7, "s": [b"x"]}


def test_what_is_no_operation_is_edited_or_refused_and_leaves_no_trace() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, ["explode", "c", "1"]))
    (number,) = letters(daemon)
    refused = one(daemon.ask(ReplayLetter(SERVER, SPACE, number, None)), Refused)
    assert refused.reason == "invalid"
    assert "unknown operation" in refused.detail
    assert letters(daemon)[number].replay is None
    assert one(daemon.ask(ReplayLetter(SERVER, SPACE, number, [CREATE])), Posted).outcome == "applied"


def test_a_page_of_letters_is_bounded_by_what_they_hold() -> None:
    daemon = Daemon()
    big = [["reg.set", "c", "absent", f"f{at}", "x" * 60_000] for at in range(4)]
    for n in range(1, 21):
        assert daemon.outcome(ANN, raw(n, *big)) == "gone"
    found: list[int] = []
    first: int | None = 0
    while first is not None:
        with daemon.store.read() as tx:
            page = listed(tx, ANN, SPACE, first, 200)
        assert 0 < len(page.letters) <= LOOKED_BYTES_MAX // 240_000 + 1
        found, first = found + [each.number for each in page.letters], page.next
    assert found == list(range(20))


def test_a_dropped_letter_is_gone() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, SET))
    (number,) = letters(daemon)
    assert daemon.ask(DropLetter(SERVER, SPACE, number)) == Done()
    assert letters(daemon) == {}
    for command in (
        DropLetter(SERVER, SPACE, number),
        ReplayLetter(SERVER, SPACE, number, None),
        DropLetter(SERVER, "no/such", 0),
    ):
        assert one(daemon.ask(command), Refused).reason == "unknown"


def test_what_a_restore_lost_is_listed_once_for_each_void() -> None:
    daemon = Daemon()
    lost = Void(1, 3, nonce(1), "lost_in_restore")
    for _ in range(2):
        daemon.push(ANN, lost)
    daemon.push(ANN, Void(4, 4, nonce(4), "not_held"))
    (row,) = letters(daemon).values()
    assert (row.kind, row.device, row.n, row.reason) == ("lost", ANN.device, 1, "lost_in_restore")


def test_a_retired_id_is_told_what_it_is_owed_and_nothing_new_is_taken() -> None:
    daemon = Daemon()
    daemon.push(ANN, raw(1, CREATE))
    assert daemon.ask(RetireDevice(ANN.device)) == Done() == daemon.ask(RetireDevice(ANN.device))
    result = daemon.push(ANN, raw(1, CREATE), raw(2, SET))
    assert [entry.outcome for entry in result.outcomes] == ["applied"]
    assert result.forked == 2
    assert not isinstance(daemon.ack(ANN, 1, 1), Expired)
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx)), "it no longer counts among the devices of its user"
    assert one(daemon.ask(RetireDevice(bytes(16))), Refused).reason == "unknown", "the server's own is none"
    # The device goes on under another id, and has seen what it did under the old one.
    change = [*raw(1, SET), [[ANN.device, 1, 1]]]
    assert daemon.outcome(BEN, change) == "applied"


def test_a_letter_that_its_own_replay_pushes_out_is_not_kept_for_ever() -> None:
    """A replay that is refused is a letter, too: the newest one, for which the oldest goes. That was put back."""
    daemon = Daemon()
    daemon.push(ANN, *(raw(n, SET) for n in range(1, LETTERS_MAX + 1)))
    oldest = min(letters(daemon))
    assert len(letters(daemon)) == LETTERS_MAX and oldest == daemon.row().letter_next - LETTERS_MAX
    asked = ReplayLetter(SERVER, SPACE, oldest, None)
    assert one(daemon.ask(asked), Posted).outcome == "gone"
    assert len(letters(daemon)) == LETTERS_MAX
    assert min(letters(daemon)) == daemon.row().letter_next - LETTERS_MAX
    assert one(daemon.ask(asked), Refused).reason == "unknown", "it gave way like any other"
