"""The loops of `tests.failures`, a part of them in the short form; and a store that lies, which must be caught."""

import pytest

from tests.failures.faults import KINDS, ForgetfulStore, Kind
from tests.failures.loop import Tally, strike
from tests.failures.stage import run

MODES = pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "for-ever"])


def _check(tally: Tally) -> None:
    print(f"N={tally.reached}, {tally.runs} runs, {tally.ends} ends of the process")
    assert not tally.problems, "\n".join(tally.problems[:5])
    assert tally.reached, "the workload makes such calls"


@MODES
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_failing_call_loses_nothing_doubles_nothing_and_leaves_nobody_without_an_answer(
    kind: Kind, is_lasting: bool
) -> None:
    _check(strike(kind, is_lasting, factor=8 if is_lasting else 3))


@pytest.mark.long
@MODES
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_call_may_fail(kind: Kind, is_lasting: bool) -> None:
    _check(strike(kind, is_lasting))


@pytest.mark.parametrize("kind", [Kind("commit", "damaged"), Kind("committed", "damaged")], ids=str)
def test_a_store_that_cannot_vouch_for_a_commit_ends_the_process(kind: Kind) -> None:
    assert run(kind, 2, False).ends == 1


def test_a_store_that_forgets_a_commit_is_caught() -> None:
    assert any(run(Kind("commit", "full"), at, False, ForgetfulStore).problems for at in range(5, 11))
