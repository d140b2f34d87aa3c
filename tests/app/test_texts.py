"""Merging updates of texts: the same meaning, or a ValueError, whatever devices wrote; also if it ends the process."""

import signal
import sys
from typing import Any

import pytest

pycrdt = pytest.importorskip("pycrdt", reason="pycrdt is not there: texts are not merged")

from syncd.app.merger import Merger  # noqa: E402
from syncd.app.texts import merged  # noqa: E402
from tests.fuzz import text_targets  # noqa: E402
from tests.fuzz.text_targets import PANIC, edited, nested, var  # noqa: E402

START_S = 60.0  # of a process, on a machine with other things to do


def shown(updates: Any) -> str:
    doc = pycrdt.Doc()
    for update in updates:
        doc.apply_update(update)
    return str(doc.get("text", type=pycrdt.Text))


@pytest.mark.parametrize("seed", range(1, 9))
def test_what_several_wrote_is_merged_into_one_that_means_the_same(seed: int) -> None:
    updates = edited(seed, 1 + seed % 4, 30)
    one = merged(updates)
    assert shown([one]) == shown(updates)
    assert len(one) < sum(map(len, updates))


def test_where_updates_are_missing_what_is_merged_means_the_same_or_is_not_made() -> None:
    """The library merges some of these to what editors show otherwise; found by fuzzing."""
    refused = 0
    for seed in range(1, 40):
        updates = edited(seed, 1 + seed % 5, 40)[::2]
        try:
            one = merged(updates)
        except ValueError:
            refused += 1
            assert shown([pycrdt.merge_updates(*updates)]) != shown(updates)
        else:
            assert shown([one]) == shown(updates)
    assert 0 < refused < 39


def test_what_makes_the_library_panic_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        merged(PANIC)
    assert text_targets.shown(list(PANIC)) is None


def test_what_is_no_update_is_not_merged() -> None:
    with pytest.raises(ValueError, match="merge"):
        merged([*edited(1, 1, 3), b"no update"])


# -- in a process of its own -------------------------------------------------------------------------------------------


def lost(how: str, status: int) -> str:
    return f"the process that merges texts {how} (status {status}): nothing is merged until there is a new one"


def test_a_process_merges_and_says_why_it_does_not() -> None:
    told: list[str] = []
    updates = edited(1, 2, 30)
    with Merger(told.append, answer_s=START_S) as merger:
        assert merger.is_ready(START_S)
        assert shown([merger.merge(updates)]) == shown(updates)
        with pytest.raises(ValueError, match="cannot merge"):
            merger.merge(PANIC)
        assert shown([merger.merge(updates)]) == shown(updates), "a refusal ends nothing"
    assert not merger.is_ready()
    assert not told


@pytest.mark.parametrize(
    "hostile",
    [nested(32_000), var(1 << 28) + b"\x00", b"\x00" + var((1 << 32) - 1)],
    ids=["values nested 32,000 deep", "268 million clients", "four thousand million deletions"],
)
def test_what_would_end_the_daemon_or_take_its_memory_does_not(hostile: bytes) -> None:
    """The first ends whatever process reads it: found when it was one of the daemon's own."""
    told: list[str] = []
    updates = edited(1, 2, 30)
    with Merger(told.append, answer_s=START_S, rest_s=0.0) as merger:
        assert merger.is_ready(START_S)
        with pytest.raises(ValueError):
            merger.merge([*updates, hostile])
        if told:
            assert told == [lost("was ended by what it read", -signal.SIGSEGV)]
            with pytest.raises(ValueError, match="not there yet"):
                merger.merge(updates)  # which starts another, and does not wait for it
        assert merger.is_ready(START_S)
        assert shown([merger.merge(updates)]) == shown(updates)
    assert bool(told) == (hostile == nested(32_000))


def test_a_process_that_does_not_answer_is_ended() -> None:
    told: list[str] = []
    silent = "import sys; from multiprocessing.connection import Connection; pipe = Connection(int(sys.argv[1]))\n"
    silent += "pipe.send_bytes(b'-')\nwhile True: pipe.recv_bytes()"
    with Merger(told.append, command=(sys.executable, "-c", silent), answer_s=0.01) as merger:
        assert merger.is_ready(START_S)
        with pytest.raises(ValueError, match="too long"):
            merger.merge([b"x", b"y"])
        assert told == [lost("gave no answer within 0.01 s", -signal.SIGKILL)]
        for _ in range(3):
            with pytest.raises(ValueError, match="not there yet"):
                merger.merge([b"x", b"y"])
        assert not merger.is_ready(), "no other is started before its time"


def test_a_process_that_does_not_start_is_told_once() -> None:
    told: list[str] = []
    with Merger(told.append, command=(sys.executable, "-c", "raise SystemExit(3)")) as merger:
        assert not merger.is_ready(START_S)
        for _ in range(3):
            with pytest.raises(ValueError, match="not there yet"):
                merger.merge([b"x", b"y"])
    assert told == [
        "the process that merges texts did not start (status 3): nothing is merged until there is a new one"
    ]


def test_where_no_process_can_be_started_nothing_is_merged_and_it_is_told_once() -> None:
    """The error of the system went up into the transaction: the change that happened to be the next was refused."""
    told: list[str] = []
    with Merger(told.append, command=("/nonexistent/python",)) as merger:
        for _ in range(3):
            with pytest.raises(ValueError, match="not there yet"):
                merger.merge([b"x", b"y"])
    (line,) = told
    assert line.startswith("the process that merges texts cannot be started ([Errno 2]"), line
