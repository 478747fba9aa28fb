"""What the C library does with memory that is given back to it while a model trains."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's ``mallopt``."""

LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""What glibc raises it to by itself, as large blocks are freed; ``mallopt`` takes no more."""

CHOSEN_OUTSIDE = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Variables of the environment by which glibc is told the same."""


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, glibc keeps memory that is freed, but for blocks over 32 MB; behind it, none.

    Each training step frees its large tensors, gradients among them, and the next one asks for the
    same again. glibc returns such blocks to the system, which clears every page of them when it is
    next touched: thousands of page faults a step. This holds for the whole process. Where the C
    library is another one, or its environment says what to keep, nothing changes.
    """
    libc = ctypes.CDLL(None)
    told = any(name in os.environ for name in CHOSEN_OUTSIDE)
    if told or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # Twice the other one, as glibc has it. Setting one of them ends its own adjusting.
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
        libc.malloc_trim(0)
