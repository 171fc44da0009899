"""How a process that trains or scores on a CPU handles the memory that tensors give back."""

import ctypes
from functools import cache
from typing import Any

# glibc's numbers of its settings, and the largest values that it takes.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_TRIM, LARGEST_MMAP = (1 << 31) - 1, 32 << 20


@cache
def _libc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except (OSError, TypeError):  # no C library to ask, as on Windows
        return None


@cache
def keep_freed_memory() -> None:
    """Let the process keep what tensors give back, for the tensors of the next step.

    By default glibc returns large pieces to the system at once, and every tensor of every step
    begins with thousands of page faults. Nothing happens where there is no glibc.
    """
    if _libc() is not None:
        _libc().mallopt(MMAP_THRESHOLD, LARGEST_MMAP)
        _libc().mallopt(TRIM_THRESHOLD, LARGEST_TRIM)


def release_freed_memory() -> None:
    """Give the system back what the process has kept."""
    if _libc() is not None:
        _libc().malloc_trim(0)
