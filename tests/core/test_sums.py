"""Checksums: kept step by step they are what they are from nothing, and a client computes the same."""

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.documents import Document
from syncd.core.sums import BUCKET_COUNT, CHAIN_START, SUM_MASK, bucket_of, chained, document_sum, sum_change
from tests.core.strategies import names
from tests.oracle.histories import History, World
from tests.oracle.replica import hashed, sum_of
from tests.oracle.sequencer import Sequencer
from tests.oracle.strategies import histories


class Watching(Sequencer):
    """Compares after each change of a document, not only at the end."""

    def _keep(self, key: tuple[str, str], document: Document | None, growth: int) -> None:
        before = self.documents.get(key)
        super()._keep(key, document, growth)
        collection, name = key
        change = sum_change(collection, name, before, document)
        total = document_sum(collection, name, document)
        assert (document_sum(collection, name, before) + change) & SUM_MASK == total
        assert (change + sum_change(collection, name, document, before)) & SUM_MASK == 0
        live = {key: (document.rev, document.visible())} if document is not None and document.is_live else {}
        assert total == sum_of(live)


@given(histories())
def test_the_sum_kept_step_by_step_is_the_sum_from_nothing(history: History) -> None:
    World(history, Watching()).run()


@given(names, names)
def test_the_bucket_is_the_top_of_the_key_hash(collection: str, document_id: str) -> None:
    bucket = bucket_of(collection, document_id)
    assert 0 <= bucket < BUCKET_COUNT and bucket == hashed(["k", collection, document_id]) >> 54


links = st.tuples(st.binary(min_size=16, max_size=16), st.integers(1, 2**53 - 1), st.binary(min_size=8, max_size=8))


@given(st.lists(links, max_size=4), st.lists(links, max_size=4))
def test_chains_are_equal_iff_histories_are(
    a: list[tuple[bytes, int, bytes]], b: list[tuple[bytes, int, bytes]]
) -> None:
    ends = []
    for history in (a, b):
        chain = CHAIN_START
        for link in history:
            chain = chained(chain, *link)
        ends.append(chain)
    assert (ends[0] == ends[1]) == (a == b) and all(len(end) == 8 for end in ends)
