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


LEFT = [
    {"field": "sold", "reason": "units were sold or promised since: restock says what there is"},
    {"unique": "code", "reason": "item/tea holds the key 'm-1' now"},
]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (
            {"outcome": "applied", "seq": 9, "position": "9@e", "left": []},
            ["Change 9 makes item/milk what it was as of seq 4."],
        ),
        (
            {"outcome": "noop", "position": "8@e", "left": LEFT},
            [
                "Nothing had to be changed: item/milk is what it was as of seq 4, but for what follows.",
                "The field sold is not as it was: units were sold or promised since: restock says what there is.",
                "The unique key under the name code is not as it was: item/tea holds the key 'm-1' now.",
            ],
        ),
        (
            {"outcome": "invalid", "detail": {"reason": "a schema forbids it"}, "position": "8@e", "left": []},
            ["Nothing was changed: invalid, a schema forbids it."],
        ),
    ],
)
def test_a_revert_says_what_it_left_in_sentences(
    capsys: pytest.CaptureFixture[str], found: dict[str, Any], lines: list[str]
) -> None:
    show.reverted("item/milk", 4, found, as_json=False)
    assert capsys.readouterr().out.splitlines() == lines
