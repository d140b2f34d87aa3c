"""What a disk may hold after the power went: from the recorder's log to images of the file.

The model. What a sync covered is there. A write through (O_DSYNC) is there when it has returned, and covers nothing but
itself. Of the writes since the last sync any subset may be there, in units of a page (4,096 bytes), and torn anywhere
between two sectors of 512 bytes. A write that is missing in front of one that is there leaves zeros.

Crash points between two syncs need no images of their own: what is legal early in such an *epoch* is a subset of what
is legal at its end, where more has been acknowledged. So images are made of the whole epoch, and all that was
acknowledged in it must be there.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Final

from tests.powerloss.workload import MARK

PAGE_BYTES: Final = 4096
SECTOR_BYTES: Final = 512
SUBSETS_OF_MAX: Final = 4  # up to so many units all subsets are made
_HEAD: Final = struct.Struct("<cBQQ")


@dataclass(frozen=True, slots=True)
class Record:
    """One call, as recorder.c describes it."""

    op: str
    is_through: bool
    size: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Unit:
    """What is there or not as one: a piece of a write inside one page (or one sector of it)."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Epoch:
    """Between two syncs. `base`: what is there for certain. `acknowledged`: the last commit that was, None before the
    first answer."""

    number: int
    base: bytes
    units: tuple[Unit, ...]
    acknowledged: int | None


@dataclass(frozen=True, slots=True)
class Image:
    epoch: int
    label: str
    data: bytes
    acknowledged: int | None


@dataclass(frozen=True, slots=True)
class Recording:
    records: tuple[Record, ...]
    digests: dict[bytes, int]  # of all rows, after which commit

    @property
    def ops(self) -> str:
        """One letter for each call; small: written through."""
        return "".join(record.op.lower() if record.is_through else record.op for record in self.records)


def recording(log: bytes) -> Recording:
    records, at = list[Record](), 0
    digests: dict[bytes, int] = {}
    while at < len(log):
        op, through, size, offset = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        stored = size if op in b"WAD" else 0
        records.append(Record(op.decode(), bool(through), size, offset, log[at : at + stored]))
        at += stored
        if op == b"A":
            number, digest = MARK.unpack(records[-1].data)
            digests[digest] = max(number, digests.get(digest, 0))  # a commit may alter nothing
    return Recording(tuple(records), digests)


def applied(image: bytearray, units: Sequence[Unit]) -> bytearray:
    for unit in units:
        end = unit.offset + len(unit.data)
        if len(image) < end:
            image.extend(bytes(end - len(image)))
        image[unit.offset : end] = unit.data
    return image


def cut(offset: int, data: bytes, size: int) -> list[Unit]:
    """A write at the borders of pages or sectors."""
    units, at = [], 0
    while at < len(data):
        stop = min(len(data), at + size - (offset + at) % size)
        units.append(Unit(offset + at, data[at:stop]))
        at = stop
    return units


def epochs(made: Recording) -> Iterator[Epoch]:
    """All epochs, in order. A write through ends one and is part of it: it may be there before it returns."""
    durable, pending, number = bytearray(), list[Unit](), 0
    acknowledged: int | None = None
    for record in made.records:
        assert record.op in "WSAD", f"the model knows no {record.op}"
        if record.op == "A":
            acknowledged = MARK.unpack(record.data)[0]
        elif record.op == "W":
            units = cut(record.offset, record.data, PAGE_BYTES)
            if record.is_through:
                yield Epoch(number, bytes(durable), (*pending, *units), acknowledged)
                number += 1
                # No order is promised between these and what is pending, which stays so; but the newest bytes win.
                applied(durable, units)
                pending = [unit for unit in pending if not _is_within(unit, units)]
            else:
                pending += units
        elif record.op == "S":
            yield Epoch(number, bytes(durable), tuple(pending), acknowledged)
            number += 1
            applied(durable, pending)
            pending = []
    yield Epoch(number, bytes(durable), tuple(pending), acknowledged)


def final(made: Recording) -> bytes:
    """The file as the process saw it: proves that no write passed the recorder by."""
    image = bytearray()
    for record in made.records:
        if record.op == "W":
            applied(image, [Unit(record.offset, record.data)])
    return bytes(image)


def _is_within(unit: Unit, others: Sequence[Unit]) -> bool:
    return any(
        other.offset <= unit.offset and unit.offset + len(unit.data) <= other.offset + len(other.data)
        for other in others
    )


def images(epoch: Epoch, random: Random, sample: int) -> Iterator[Image]:
    """Few units: all subsets. Many: nothing, all, every prefix, every single omission, every one alone, and a sample;
    and a sample of torn ones. The same bytes may come more than once."""
    units = epoch.units
    count = len(units)

    def image(label: str, kept: Sequence[Unit]) -> Image:
        return Image(epoch.number, label, bytes(applied(bytearray(epoch.base), kept)), epoch.acknowledged)

    if count <= SUBSETS_OF_MAX:
        for chosen in product((False, True), repeat=count):
            yield image(f"subset {chosen}", [unit for unit, is_kept in zip(units, chosen, strict=True) if is_kept])
    else:
        for end in range(count + 1):
            yield image(f"the first {end} of {count}", units[:end])
        for omitted in range(count):
            yield image(f"all but {omitted} of {count}", units[:omitted] + units[omitted + 1 :])
            yield image(f"only {omitted} of {count}", units[omitted : omitted + 1])
        for number in range(sample):
            yield image(f"sample {number}", [unit for unit in units if random.random() < 0.5])
    for number in range(sample if count else 0):
        yield image(f"torn sample {number}", _torn(units, random))


def _torn(units: Sequence[Unit], random: Random) -> list[Unit]:
    """Each unit is there, missing, or there in some of its sectors."""
    kept: list[Unit] = []
    for unit in units:
        fate = random.random()
        if fate < 0.3:
            kept.append(unit)
        elif fate < 0.8:
            sectors = cut(unit.offset, unit.data, SECTOR_BYTES)
            kept += [sector for sector in sectors if random.random() < 0.5]
    return kept
