"""Devices that come back: bytes are counted by message, and whatever was lost, raised or grown misses its target."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench import returning, workload
from bench.measure import Figure
from bench.reader import CaughtUp, Position
from bench.returning import DELTA, OUTCOMES, PUSH, REPAIR, SUMS, Back, Meter, Sizes, causality_bytes, figures, names

AT = Position(bytes(16), 7)
FIRST = CaughtUp(AT, 3, 9_000, 50, 0, 100)
COUNTED = CaughtUp(AT, 1, 90, 1, 0, 1)
FEW, MANY = Sizes(10, 150, 250), Sizes(1_000, 152, 252)


def back(share: int, differ: int, received: int) -> Back:
    meter = Meter(Counter({PUSH: 100, SUMS: 50}), Counter({REPAIR: received, OUTCOMES: 70}), 17)
    meter.outcomes = {**dict.fromkeys(range(1, 10), "applied"), 10: "gone"}
    return Back(share, differ, 101, 10, 0, meter)


BACKS = [back(1, 2, 200), back(10, 11, 1_100), back(100, 101, 10_100)]


def rows(
    backs: list[Back] = BACKS, first: CaughtUp = FIRST, many: Sizes = MANY, counted: CaughtUp = COUNTED
) -> dict[str, Figure]:
    return {each.name: each for each in figures(backs, first, FEW, many, counted, 1_000)}


def missed(found: dict[str, Figure]) -> list[str]:
    return [name for name, figure in found.items() if figure.verdict == "missed"]


def test_each_message_of_a_frame_is_counted_and_the_longest_causality_is_kept() -> None:
    meter = Meter()
    pushes = [workload.change(n, []) for n in (1, 70_000)]
    messages = [workload.push_message("s", [each]) for each in pushes] + [workload.message(SUMS, {"space": "s"})]
    meter.count(b"".join(messages), meter.sent)
    told = [[1, bytes(8), "applied", 1, None], [2, bytes(8), "gone", None, None]]
    for _ in range(2):  # one that is told again is one
        meter.count(workload.message(OUTCOMES, {"space": "s", "outcomes": told}), meter.received)
    assert meter.outcomes == {1: "applied", 2: "gone"}
    assert meter.sent == {PUSH: len(messages[0]) + len(messages[1]), SUMS: len(messages[2])}
    assert meter.causality_bytes_max == causality_bytes(pushes[1]) == 5 + 10 + 1


def test_the_documents_of_a_run_are_disjoint_and_four_are_deleted_for_each_that_stays() -> None:
    found = names(500)
    assert len(found.kept) == 500 and len(found.hot) == len(found.doomed) == 5
    assert len(found.doomed) + len(found.passing) == 2_000
    assert not set(found.kept) & (set(found.doomed) | set(found.passing))


def test_what_goes_by_what_differs_and_loses_nothing_meets_all_targets() -> None:
    found = rows()
    assert missed(found) == []
    assert found["10 % differ: all that travelled, both ways"].median == 1_100 + 70 + 150
    assert found["received for each document that differs"].median == 1.0
    assert found["causality of a change: number, nonce, base"].median == 17


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (replace(BACKS[0], changes=11), "1 % differ: changes answered / made"),
        (replace(BACKS[0], resurrected=1), "1 % differ: documents that came back from the dead"),
        (replace(BACKS[0], meter=replace(BACKS[0].meter, causality_bytes_max=25)), "causality of a change: number"),
        (back(1, 2, 10_100), "received for each document that differs"),
    ],
)
def test_a_device_that_lost_a_change_raised_a_document_or_got_too_much_is_missed(wrong: Back, name: str) -> None:
    (found,) = missed(rows(backs=[wrong, *BACKS[1:]]))
    assert found.startswith(name)


def test_tombstones_growth_with_devices_and_a_history_of_values_are_missed() -> None:
    (found,) = missed(rows(first=replace(FIRST, deleted=1)))
    assert "tombstones" in found
    assert len(missed(rows(many=Sizes(1_000, 1_500, 2_500)))) == 2
    (found,) = missed(rows(counted=replace(COUNTED, values=2)))
    assert "increments" in found


def test_deltas_and_repairs_are_documents_and_outcomes_are_not() -> None:
    meter = Meter(received=Counter({REPAIR: 5, DELTA: 7, OUTCOMES: 100}))
    assert replace(BACKS[0], meter=meter).document_bytes == 12


@pytest.mark.long
def test_devices_come_back_to_a_small_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "WRITERS_QUICK", 20)
    found = {each.name: each for each in returning.run(tmp_path, quick=True, say=lambda text: None)}
    assert missed(found) == []
