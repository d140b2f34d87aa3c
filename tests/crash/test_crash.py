"""The short form of the crash run: the same harness, a few blows."""

import pytest

from tests.crash.crash import Plan, Report, run


def _check(report: Report, devices: int) -> None:
    assert not report.problems, "\n".join(report.problems)
    assert report.acknowledged > devices, "the load reached the daemon"
    assert report.taken > 0


def test_kill_of_daemon_and_devices_loses_and_doubles_nothing() -> None:
    _check(run(Plan(daemon_kills=3, device_kills=2, devices=4, seed=7), print), 4)


@pytest.mark.long
def test_fifty_kills_under_load_of_twenty_devices() -> None:
    _check(run(Plan(daemon_kills=50, device_kills=30, devices=20, seed=1), print), 20)
