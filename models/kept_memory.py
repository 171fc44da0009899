"""Memory that a process keeps for its next tensors instead of giving it back."""

import ctypes
import os

# Numbers of the GNU C library's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# The largest block that it takes from the heap when told to; larger ones are mapped one by one.
LARGEST_FROM_HEAP = 32 * 2**20
FREE_AT_MOST = 2**30
SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB of freed memory for what this process allocates next.

    By default it hands the blocks of large tensors back to the system, which clears and maps fresh
    pages for the next ones: on a virtual machine that can take as long as the arithmetic on them.
    Blocks up to 32 MiB profit. The process grows no larger than at its peak, but stays there.

    Returns:
        Whether it could be set; not where another library allocates, or the environment says how.
    """
    if any(name in os.environ for name in SET_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    from_heap = mallopt(MMAP_THRESHOLD, LARGEST_FROM_HEAP)
    kept = mallopt(TRIM_THRESHOLD, FREE_AT_MOST)
    return bool(from_heap and kept)
