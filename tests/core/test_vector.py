"""Version vectors are a lattice: a partial order with least upper bounds."""

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.ids import Dot
from syncd.core.vector import VersionVector

devices = st.sampled_from([bytes([i]) * 16 for i in range(4)])
vectors = st.dictionaries(devices, st.integers(0, 4)).map(VersionVector)
dots = st.builds(Dot, devices, st.integers(1, 5))


@given(vectors, vectors, vectors)
def test_joining_is_commutative_associative_and_idempotent(
    a: VersionVector, b: VersionVector, c: VersionVector
) -> None:
    assert a.joined(b) == b.joined(a)
    assert a.joined(b).joined(c) == a.joined(b.joined(c))
    assert a.joined(a) == a


@given(vectors, vectors, vectors)
def test_descends_is_a_partial_order(a: VersionVector, b: VersionVector, c: VersionVector) -> None:
    assert a.descends(a)
    assert not (a.descends(b) and b.descends(a)) or a == b
    assert not (a.descends(b) and b.descends(c)) or a.descends(c)
    assert a.is_concurrent(b) == (not a.descends(b) and not b.descends(a))


@given(vectors, vectors, vectors)
def test_the_join_is_the_least_upper_bound(a: VersionVector, b: VersionVector, c: VersionVector) -> None:
    join = a.joined(b)
    assert join.descends(a) and join.descends(b)
    if c.descends(a) and c.descends(b):
        assert c.descends(join)


@given(vectors, dots)
def test_a_change_is_its_vector_and_its_dot(a: VersionVector, dot: Dot) -> None:
    after = a.advanced(dot)
    assert dot in after and after.descends(a)
    assert (after == a) == (dot in a)
    assert {d: after[d] for d, _ in after} == {**{d: a[d] for d, _ in a}, dot.device: max(a[dot.device], dot.n)}


@given(st.lists(dots))
def test_a_vector_contains_exactly_what_is_below_its_dots(many: list[Dot]) -> None:
    vector = VersionVector.of(many)
    for device in {dot.device for dot in many}:
        top = max(dot.n for dot in many if dot.device == device)
        assert all(Dot(device, n) in vector for n in range(1, top + 1)) and Dot(device, top + 1) not in vector


@given(vectors)
def test_equal_vectors_hash_alike_and_zero_is_absence(a: VersionVector) -> None:
    again = VersionVector({**dict(a), bytes([9]) * 16: 0})
    assert again == a and hash(again) == hash(a) and len(again) == len(a)
    assert repr(again) == repr(a)
