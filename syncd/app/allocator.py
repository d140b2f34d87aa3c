"""The C library's allocator, told what kind of process this is: so memory stays where it is, however long it runs.

Owns the three settings below. Must not know who allocates. Where the library is not glibc, nothing is done: others
(musl, macOS) keep no arena for each thread and give large pieces back by themselves.

What is large and seldom made anew, such as Python's table of interned names (2 MiB), would else be left once in each
arena, and again beside each hole that is a little too small: steps of one or two MiB in the first hours of a daemon,
which nobody can tell from a leak.
"""

import ctypes

# From malloc.h, which ctypes does not read.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

# The writer and the loop take turns under the interpreter's lock: they never allocate at once, and need one arena.
ARENAS_MAX = 1
# From this size on a piece is the system's, and goes back when it is freed. glibc raises its own bound to whatever was
# freed last, 32 MiB at most. A page for a reader, which comes often, is a quarter of it, and so costs no system call.
MAPPED_BYTES_MIN = 1_048_576
# So much may lie free at the end of the heap; glibc's rule is twice the bound above, while that moves.
TRIMMED_BYTES_MIN = 2_097_152


def settle() -> bool:
    """Once, before the first thread. Whether the library took the settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = (
        (_M_ARENA_MAX, ARENAS_MAX), (_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN), (_M_TRIM_THRESHOLD, TRIMMED_BYTES_MIN),
    )  # fmt: skip
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
