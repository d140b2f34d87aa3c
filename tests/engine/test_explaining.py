"""Explanations are told in sentences: of documents that are there or are not, of fields, of what was refused."""

from typing import Any

import pytest

from syncd.engine.explaining import explained
from tests.engine.kit import SPACE, Daemon, device, raw

ANN, BEN = device(1), device(2, user="ben")


def told(daemon: Daemon, document: str = "a") -> dict[str, Any]:
    with daemon.store.read() as tx:
        return explained(tx, SPACE, "c", document, None)


@pytest.fixture
def daemon() -> Daemon:
    """A document that both devices have read, at seq 1."""
    found = Daemon()
    found.attach(ANN)
    found.attach(BEN)
    found.push(ANN, raw(1, ["create", "c", "a"], ["reg.set", "c", "a", "note", "x"]))
    return found


def test_a_deletion_names_who_deleted_and_what_was_not_known_there_is_a_letter(daemon: Daemon) -> None:
    daemon.push(ANN, raw(2, ["reg.set", "c", "a", "note", "y"]))
    daemon.push(BEN, raw(1, ["delete", "c", "a"], base=1))
    found = told(daemon)
    assert found["state"] == "deleted"
    assert found["sentence"].startswith(
        f"It was deleted at seq 3 by device {BEN.device.hex()[:8]} (user ben), which had"
    )
    assert "up to seq 1" in found["sentence"]
    (letter,) = found["refused"]
    assert letter["sentence"].startswith("The document as it was when change 1 of device ")
    assert "(user ben)" in letter["sentence"]


def test_what_is_absent_is_said_to_be_and_what_was_refused_of_it_is_told_all_the_same(daemon: Daemon) -> None:
    daemon.push(BEN, raw(1, ["reg.set", "c", "never", "note", "z"], base=1))
    found = told(daemon, "never")
    assert (found["state"], found["fields"]) == ("absent", {})
    assert found["sentence"].startswith("It does not exist: nobody made it, or ")
    (letter,) = found["refused"]
    assert "(user ben) would have done is kept as it was refused: gone: " in letter["sentence"]


def test_creates_that_met_are_counted_and_a_unique_key_names_its_holder_to_who_was_refused(daemon: Daemon) -> None:
    assert told(daemon)["sentence"] == "It is there since seq 1."
    daemon.push(BEN, raw(1, ["create", "c", "a"]), raw(2, ["create", "c", "b"]))
    assert "by 2 creates that had not seen each other" in told(daemon)["sentence"]
    daemon.push(ANN, raw(2, ["unique", "c", "a", "email", "x@y"]))
    daemon.push(BEN, raw(3, ["unique", "c", "b", "email", "x@y"], base=1))
    assert told(daemon)["unique"] == {"email": "x@y"} and told(daemon, "b")["unique"] == {}
    (letter,) = told(daemon, "b")["refused"]
    assert "c/a holds the key 'x@y' under the name 'email'" in letter["sentence"]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (["set.add", "c", "a", "f", 1], ["set.add", "c", "a", "f", 2], "set"),
        (["map.put", "c", "a", "f", "k", 1], ["map.put", "c", "a", "f", "l", 2], "map"),
        (["mv.set", "c", "a", "f", 1], ["mv.set", "c", "a", "f", 2], "mv"),
        (["flag.enable", "c", "a", "f"], ["flag.enable", "c", "a", "f"], "flag"),
        (
            ["list.insert", "c", "a", "f", b"\x80" + b"\1" * 8, "x"],
            ["list.insert", "c", "a", "f", b"\x80" + b"\2" * 8, "y"],
            "list",
        ),
    ],
)
def test_a_field_that_is_made_of_many_changes_is_explained_by_its_rule_and_by_what_had_not_met(
    daemon: Daemon, first: list[Any], second: list[Any], kind: str
) -> None:
    daemon.push(ANN, raw(2, first))
    daemon.push(BEN, raw(1, second, base=1))
    sentence = told(daemon)["fields"]["f"]["sentence"]
    assert sentence.startswith(f"f is a {kind} of 2 known changes: "), told(daemon)
    assert "at seq 3, had not seen 1 of the others." in sentence and "(user ben)" in sentence
    daemon.push(
        ANN, raw(3, first, base=3) if kind != "list" else raw(3, ["list.remove", "c", "a", "f", first[4][1:]], base=3)
    )
    if kind != "set":  # an add of what is there replaces itself
        assert told(daemon)["fields"]["f"]["sentence"].endswith("at seq 4, had seen all others.")
