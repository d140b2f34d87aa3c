"""Commands about notifications and people, from the store when no daemon runs."""

import json
from pathlib import Path

import pytest

from syncd.core.ids import PREFERENCES
from syncd.store.lmdb import open_store
from tests.app.test_cli import MIB, run
from tests.notify.kit import DAY_MS, Office, ready


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A state directory with the store of a daemon that ran, and told two people something."""
    office = Office(ready("cart"))
    office.sets(PREFERENCES, "all", mute_until=office.now_ms + DAY_MS)
    office.notify(category="shop")
    office.notify("ben", "shop")
    store = open_store(tmp_path / "store", map_bytes=16 * MIB, map_bytes_max=16 * MIB)
    with store.write() as tx:
        for key, record in office.store.image().items():
            tx.put(key, record)
    store.close()
    return tmp_path


def test_decisions_are_listed_and_explained_in_sentences(directory: Path) -> None:
    shown = run(directory, "decisions", "ann").stdout
    assert "suppressed  shop" in shown and "    Not sent: everything is muted until 2026-03-03 10:00.\n" in shown
    (decision,) = json.loads(run(directory, "decisions", "ann", "--json").stdout)["decisions"]
    told = run(directory, "explain", "decision", decision["id"]).stdout
    assert told.startswith(
        "Not sent: everything is muted until 2026-03-03 10:00.\nIt would have been sent at 2026-03-02"
    )
    assert "  caps        passes  under every cap\n" in told and "user        ann\n" in told
    assert json.loads(run(directory, "explain", "decision", decision["id"], "--json").stdout) == decision
    for wrong in ("0" * 40, "x"):
        found = run(directory, "explain", "decision", wrong)
        assert (found.exit_code, found.stderr) == (1, f"error: there is no decision {wrong!r}\n")
    assert run(directory, "decisions", "eve").stdout == "nothing was decided about eve\n"


def test_a_report_is_a_table_or_json_and_refuses_what_is_no_date(directory: Path) -> None:
    days = ("--from", "2026-03-01", "--to", "2026-03-02")
    found = json.loads(run(directory, "report", *days, "--json").stdout)
    assert found["groups"][0]["category"] == "shop" and found["total"]["sent"] == 1
    table = run(directory, "report", *days).stdout
    assert "2026-03-01 to 2026-03-02" in table and "shop" in table and "0 (0.0%)" in table
    wrong = run(directory, "report", "--from", "yesterday")
    assert wrong.exit_code == 1 and "'from' is a date such as" in wrong.stderr


def test_an_export_is_json_and_an_erasure_needs_the_daemon(directory: Path) -> None:
    found = json.loads(run(directory, "export", "ann").stdout)
    assert found["user"] == "ann" and list(found["documents"][PREFERENCES]) == ["all"] and len(found["decisions"]) == 1
    assert run(directory, "erase", "ann", "--yes").exit_code == 5
    assert run(directory, "erase", "ann", stdin="n\n").exit_code == 1
