"""The regression table: what is compared with what, and when a difference is called one."""

import json
from pathlib import Path

import pytest

from bench.history import RECORDS_MAX, compared, is_more_better, keep, read, records
from bench.measure import Figure, Target

MACHINE = {"host": "a", "cpu": "c", "cores": 2, "time": "2026-01-01T00:00:00Z"}


def figure(*values: float, unit: str = "changes/s", target: Target | None = None, name: str = "n") -> Figure:
    return Figure("b", name, unit, values, target)


def record(*figures: Figure, time: str = "2026-01-01T00:00:00Z", host: str = "a") -> dict[str, object]:
    return {"machine": MACHINE | {"time": time, "host": host}, "figures": [each.as_json() for each in figures]}


@pytest.mark.parametrize(
    ("then", "now", "unit", "target", "mark"),
    [
        ((100.0,), (80.0,), "changes/s", None, "worse"),
        ((100.0,), (120.0,), "changes/s", None, "better"),
        ((100.0,), (97.0,), "changes/s", None, ""),  # taken once: 5 % are noise
        ((90.0, 100.0, 115.0), (80.0,), "changes/s", None, ""),  # within the spread of then
        ((100.0,), (75.0, 80.0, 100.0), "changes/s", None, ""),  # or of now
        ((4.0,), (5.0,), "us/change", None, "worse"),
        ((4.0,), (5.0,), "ms", None, "worse"),
        ((8.0,), (6.0,), "KiB", None, "better"),
        ((0.5,), (0.4,), "ratio", None, "worse"),
        ((3.0,), (4.0,), "ratio", Target(most=5.0), "worse"),
        ((3.0,), (4.0,), "ratio", Target(least=5.0), "better"),
        ((30.0,), (60.0,), "%", None, ""),
        ((0.0,), (1.0,), "ms", None, ""),
    ],
)
def test_a_figure_is_worse_only_beyond_the_spread(
    then: tuple[float, ...], now: tuple[float, ...], unit: str, target: Target | None, mark: str
) -> None:
    (found,) = compared([figure(*now, unit=unit, target=target)], [record(figure(*then, unit=unit, target=target))])
    assert found.mark == mark


def test_each_figure_is_compared_with_the_newest_record_that_has_it() -> None:
    newest, older = record(figure(10.0), time="2026-02-01T00:00:00Z"), record(figure(20.0), figure(5.0, name="other"))
    found = compared([figure(10.0), figure(5.0, name="other"), figure(1.0, name="new")], [newest, older])
    assert [(each.name, each.then, each.since[:7]) for each in found] == [
        ("n", 10.0, "2026-02"),
        ("other", 5.0, "2026-01"),
    ]
    assert found[0].share == 0.0


def test_records_are_of_this_machine_newest_first_and_bounded(tmp_path: Path) -> None:
    for index in range(RECORDS_MAX + 3):
        keep(tmp_path, record(figure(float(index)), time=f"2026-01-01T00:{index // 60:02}:{index % 60:02}Z"))
    (tmp_path / "2027.json").write_text("half a fi")
    keep(tmp_path, record(figure(0.0), time="2026-03-01T00:00:00Z", host="another"))
    found = records(tmp_path, MACHINE)
    assert [each["figures"][0]["median"] for each in found[:2]] == [RECORDS_MAX + 2, RECORDS_MAX + 1]
    assert len(list(tmp_path.glob("*.json"))) == RECORDS_MAX
    assert all(each["machine"]["host"] == "a" for each in found)


def test_a_file_that_is_no_result_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"figures": []}))
    with pytest.raises(ValueError, match="'machine' and 'figures' are expected"):
        read(path)


def test_the_target_decides_which_way_is_better() -> None:
    assert is_more_better(figure(1.0, unit="ratio", target=Target(most=4))) is False
    assert is_more_better(figure(1.0, unit="deliveries/s")) is True
    assert is_more_better(figure(1.0, unit="us/delivery")) is False
