"""The allocator's settings: what is large goes back to the system, whichever thread had it."""

import platform
import subprocess
import sys

import pytest

# A thread makes and drops tables that are large, as Python's of interned names, and keeps something small behind each.
PROGRAM = """
import sys, threading
from pathlib import Path
from syncd.app import allocator

def own_kib():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssAnon"))

if sys.argv[1] == "settled":
    assert allocator.settle()
bytearray(4 << 20)  # glibc takes pieces of up to this size from its arenas from now on
kept = []

def work():
    for _ in range(8):
        table = bytearray(b"x") * (2 << 20)
        kept.append(bytearray(600))
        del table

before = own_kib()
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(own_kib() - before)
"""


def left_kib(how: str) -> int:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return int(told)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_nothing_is_left_of_large_pieces_in_any_arena() -> None:
    assert left_kib("settled") < 1024 < left_kib("as it is"), "else the settings are not needed any more"
