"""Merging updates of texts: the same meaning, or a ValueError, whatever devices wrote."""

from typing import Any

import pytest

from syncd.app.texts import merging
from tests.fuzz import text_targets
from tests.fuzz.text_targets import PANIC, edited

pycrdt = pytest.importorskip("pycrdt", reason="pycrdt is not there: texts are not merged")
LIBRARY = merging()
assert LIBRARY is not None


def shown(updates: Any) -> str:
    doc = pycrdt.Doc()
    for update in updates:
        doc.apply_update(update)
    return str(doc.get("text", type=pycrdt.Text))


@pytest.mark.parametrize("seed", range(1, 9))
def test_what_several_wrote_is_merged_into_one_that_means_the_same(seed: int) -> None:
    updates = edited(seed, 1 + seed % 4, 30)
    merged = LIBRARY.merge(updates)
    assert shown([merged]) == shown(updates)
    assert len(merged) < sum(map(len, updates))


def test_where_updates_are_missing_what_is_merged_means_the_same_or_is_not_made() -> None:
    """The library merges some of these to what editors show otherwise; found by fuzzing."""
    refused = 0
    for seed in range(1, 40):
        updates = edited(seed, 1 + seed % 5, 40)[::2]
        try:
            merged = LIBRARY.merge(updates)
        except ValueError:
            refused += 1
            assert shown([pycrdt.merge_updates(*updates)]) != shown(updates)
        else:
            assert shown([merged]) == shown(updates)
    assert 0 < refused < 39


def test_what_makes_the_library_panic_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        LIBRARY.merge(PANIC)
    assert text_targets.shown(list(PANIC)) is None


def test_what_is_no_update_is_not_merged() -> None:
    with pytest.raises(ValueError, match="merge"):
        LIBRARY.merge([*edited(1, 1, 3), b"no update"])
