"""The library that merges updates of texts, if it is there (the extra `text`)."""

from syncd.core.texts import Merging


def merging() -> Merging | None:
    try:
        from pycrdt import merge_updates
    except ImportError:
        return None
    return Merging(lambda updates: merge_updates(*updates))
