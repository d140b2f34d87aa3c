"""Values as clients may send them, and as they may not."""

from typing import Any

from hypothesis import strategies as st

INTEGER_MAX = 2**53 - 1

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-INTEGER_MAX, INTEGER_MAX) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts | st.binary(max_size=12)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
# What any decoder of MessagePack or JSON may hand over, and more.
junk: st.SearchStrategy[Any] = st.recursive(
    scalars
    | st.floats()
    | st.integers(-(2**70), 2**70)
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(("void", "create", "reg.set", "map.put", "seen")),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers(0, 3) | texts | st.just("seen"), inner, max_size=3)
    ),
    max_leaves=10,
)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
