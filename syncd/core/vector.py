"""Full version vectors: the definition that the two-integer form is measured against.

`(base, n)` is what a change carries and what every rule uses; a `VersionVector` is what it *means*: the highest n per
device that the change had seen. No decision needs one: the tests' oracle computes with them, to prove the short form.
"""

from collections.abc import Iterable, Iterator, Mapping

from syncd.core.ids import Dot


class VersionVector:
    """An immutable map device -> highest n seen, with the partial order of causality. Absent means 0."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[bytes, int] | None = None) -> None:
        self._entries = {device: n for device, n in sorted((entries or {}).items()) if n}
        assert all(n > 0 for n in self._entries.values()), "a version vector counts from 1"

    @classmethod
    def of(cls, dots: Iterable[Dot]) -> "VersionVector":
        """The smallest vector that contains all `dots` (and, as devices count without gaps, all before them)."""
        entries: dict[bytes, int] = {}
        for device, n in dots:
            entries[device] = max(n, entries.get(device, 0))
        return cls(entries)

    def __getitem__(self, device: bytes) -> int:
        return self._entries.get(device, 0)

    def __contains__(self, dot: Dot) -> bool:
        return self._entries.get(dot.device, 0) >= dot.n

    def __iter__(self) -> Iterator[Dot]:
        return (Dot(device, n) for device, n in self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)

    def descends(self, other: "VersionVector") -> bool:
        """Whether everything `other` has seen, this one has seen too."""
        return all(self[device] >= n for device, n in other)

    def is_concurrent(self, other: "VersionVector") -> bool:
        """Whether neither descends the other."""
        return not self.descends(other) and not other.descends(self)

    def joined(self, other: "VersionVector") -> "VersionVector":
        """The least vector that descends both."""
        entries = dict(self._entries)
        for device, n in other._entries.items():
            entries[device] = max(n, entries.get(device, 0))
        return VersionVector(entries)

    def advanced(self, dot: Dot) -> "VersionVector":
        """This vector with `dot` added: the vector of a change is what it had seen, plus its own dot."""
        return self.joined(VersionVector({dot.device: dot.n}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionVector) and self._entries == other._entries

    def __hash__(self) -> int:
        return hash(tuple(self._entries.items()))

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{device.hex()[:8]}: {n}" for device, n in self) + "}"
