"""The short and the long form of the proof. Without a C compiler nothing is proved, and the skip says so."""

import pytest

from tests.powerloss.images import SECTOR_BYTES, Record, Recording, Unit, cut, epochs
from tests.powerloss.proof import Plan, Report, compiler, run_apart
from tests.powerloss.workload import MARK

needs_compiler = pytest.mark.skipif(
    compiler() is None, reason="NO POWER CUT IS SIMULATED: the recorder needs a C compiler (cc, gcc or clang)"
)


def _check(report: Report, images_min: int) -> None:
    print(f"{report.images} images of {report.epochs} epochs, {report.commits} acknowledgements: {report.found}")
    assert not report.bad, "\n".join(report.problems)
    assert report.images >= images_min


@pytest.fixture(scope="module")
def short() -> Report:
    return run_apart(Plan(commits=18))


@needs_compiler
def test_every_disk_that_a_power_cut_may_leave_has_all_that_was_acknowledged(short: Report) -> None:
    _check(short, 250)


@needs_compiler
def test_data_is_synced_before_the_meta_page_is_written_through_and_that_before_the_answer(short: Report) -> None:
    commits = short.ops[short.ops.index("A") + 1 :].split("A")
    assert commits.pop() == ""
    for calls in commits:
        assert calls == "W" * (len(calls) - 2) + "Sw"


@needs_compiler
def test_the_name_of_a_new_store_is_durable_before_anything_is_acknowledged(short: Report) -> None:
    assert {"made", "store"} <= set(short.directories)


@needs_compiler
@pytest.mark.parametrize("kind", ["nosync", "nometasync"])
def test_a_store_with_unsafe_flags_is_caught(kind: str) -> None:
    report = run_apart(Plan(kind, commits=6, images_max=60))
    assert report.bad, report.found


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_disks_have_all_that_was_acknowledged(seed: int) -> None:
    _check(run_apart(Plan(commits=80, seed=seed, sample=6)), 2_000)


def test_a_write_through_covers_itself_and_nothing_that_came_before() -> None:
    def write(offset: int, through: bool) -> Record:
        return Record("W", through, 4, offset, b"%04d" % offset)

    answer = Record("A", False, MARK.size, 0, MARK.pack(7, b""))
    made = Recording((write(0, False), write(8192, True), answer, Record("S", False, 0, 0, b"")), {})
    first, second, last = epochs(made)
    assert (first.base, first.acknowledged) == (b"", None)
    assert first.units == (Unit(0, b"0000"), Unit(8192, b"8192"))
    assert (second.base, second.acknowledged) == (bytes(8192) + b"8192", 7)
    assert second.units == (Unit(0, b"0000"),), "it may still be missing, although it was written earlier"
    assert (last.base, last.units) == (b"0000" + bytes(8188) + b"8192", ())


def test_a_write_is_torn_between_sectors_only() -> None:
    pieces = cut(500, bytes(1_000), SECTOR_BYTES)
    assert [(piece.offset, len(piece.data)) for piece in pieces] == [(500, 12), (512, 512), (1024, 476)]
