"""A slow reader and a restart: announcements are obeyed, who is missing is a failure, rounds are compared in pairs."""

import random
from pathlib import Path

import pytest

from bench import restart
from bench.native import Failed
from bench.restart import Tally, backoff_s, retry_after_s
from bench.restart import figures as restart_figures
from bench.slow import Round
from bench.slow import figures as slow_figures

MIB = 1 << 20


def test_memory_is_what_the_slow_reader_adds_and_values_are_counted_against_changes() -> None:
    without = [Round(1000.0, 2 * MIB), Round(1000.0, 3 * MIB)]
    beside = [Round(900.0, 3 * MIB, 0.5, 300), Round(950.0, 8 * MIB, 0.7, 600, True)]
    found = {each.name: each for each in slow_figures(10_000, without, beside)}
    assert found["of that, because of it"].values == (5.0,), "the worst round counts"
    assert found["of that, because of it"].verdict == "missed"
    assert found["others' rate, with / without"].values == (0.9, 0.95)
    assert found["field values received / changes"].values == (0.03, 0.06)
    assert "1 of 2 times it was cut off" in found["at the head again"].detail


def test_a_device_that_does_not_come_back_is_a_failure() -> None:
    tally = Tally(window_s=10.0, back_s=[1.0, 2.0, 8.0], late_s=[0.0, 0.0, 0.5])
    with pytest.raises(Failed, match="1 of 4 devices were not back"):
        restart_figures(4, tally, 0.5, 1.0)
    found = {each.name: each for each in restart_figures(3, tally, 0.5, 1.0)}
    assert found["all back / announced window"].values == (0.8,)
    assert (found["half of the devices are back"].median, found["all are back"].median) == (2.0, 8.0)


def test_a_503_says_when_to_return_and_anything_else_is_a_failure() -> None:
    assert retry_after_s(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 12") == 12.0
    for head in (b"HTTP/1.1 503 Service Unavailable\r\nDate: x", b"HTTP/1.1 401 Unauthorized\r\nRetry-After: 1"):
        with pytest.raises(Failed, match="without a Retry-After"):
            retry_after_s(head)


def test_a_failed_attempt_waits_at_most_what_the_welcome_announced() -> None:
    rng, reconnect = random.Random(1), {"backoff_ms": 1000, "backoff_max_ms": 60_000}
    for attempt, most_s in ((1, 2.0), (3, 8.0), (10, 60.0)):
        waits = [backoff_s(attempt, reconnect, rng) for _ in range(200)]
        assert min(waits) >= 0 and 0.8 * most_s < max(waits) <= most_s


@pytest.mark.long
def test_a_small_crowd_comes_back_to_the_daemon_that_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "DEVICES_QUICK", 200)
    monkeypatch.setattr(restart, "connections", lambda wanted: wanted)
    found = {each.name: each for each in restart.run(tmp_path, quick=True, say=lambda text: None)}
    assert found["all are back"].detail.endswith(" resumed")
    assert found["half of the devices are back"].median <= found["all are back"].median
