"""Keep freed memory for the next step, on Linux.

The C library gives large freed blocks back to the system at once. A training step frees and asks for the same blocks again,
and pays for every 4 KiB page of them with a fault: on two virtual cores a tenth to a quarter of the time of a toy step,
and of scoring replies. So notebooks, the processes of a run, and trainings begin with it.
`keep_freed_memory` raises the two thresholds of glibc's malloc (mallopt(3)) for this process. GPU memory has PyTorch's own
cache, which does the same. Left out: other C libraries (macOS, Windows, musl), where nothing is changed.
"""
from __future__ import annotations

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_HEAP_BLOCK = 32 * 2**20      # the most that glibc takes for M_MMAP_THRESHOLD on 64-bit machines
NEVER_TRIM = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Tell malloc not to return freed blocks to the system; True if it took the settings, False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK), (M_TRIM_THRESHOLD, NEVER_TRIM))
    taken = [mallopt(name, value) == 1 for name, value in settings]      # both, even if the first is refused
    return all(taken)
