"""What is printed: a table that goes to no terminal is as wide as what it holds."""

from typing import Any

import pytest

from syncd.app import show

OPERATION = ["reg.set", "item", "milk", "note", "the blue one, " * 20]
CHANGE = {
    "seq": 17, "time": 0, "user": "ann", "device": "a" * 32, "n": 3, "base": 12, "outcome": "applied",
    "operations": [OPERATION, ["counter.inc", "item", "milk", "quantity", 1]],
}  # fmt: skip
EXPLAINED: dict[str, Any] = {
    "space": "home/cart", "collection": "item", "id": "milk", "state": "live", "rev": 3, "born": 1,
    "sentence": "It is there since seq 1.", "unique": {"code": "m-1"},
    "fields": {"note": {"type": "reg", "visible": True, "value": [1, "x"], "sentence": "note stands."}},
    "changes": [CHANGE], "refused": [{"letter": 4, "sentence": "What change 5 would have done is kept."}],
}  # fmt: skip


def test_piped_tables_have_a_line_for_each_operation_whatever_its_length(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show.printed(show.changes_table([CHANGE, CHANGE]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].split()[:3] == ["seq", "when", "user"]
    assert show.json_text(OPERATION) in lines[1] and lines[1].startswith("17 ")
    assert lines[2].strip() == '["counter.inc", "item", "milk", "quantity", 1]'
    assert all(line == line.rstrip() for line in lines)


def test_who_names_a_width_gets_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    show.printed(show.changes_table([CHANGE]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= 100


def test_an_explanation_is_sentences_and_no_history(capsys: pytest.CaptureFixture[str]) -> None:
    show.explanation(EXPLAINED, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "item/milk in home/cart: It is there since seq 1.",
        'It holds the unique key "m-1" under the name code.',
        "",
        'note (reg) = [1, "x"]',
        "  note stands.",
        "",
        "dead letter 4: What change 5 would have done is kept.",
    ]
