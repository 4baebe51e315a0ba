"""What is freed goes back to the system: glibc would keep it, and a training on the CPU take twice its memory."""

import ctypes
import sys

M_MMAP_THRESHOLD = -3
LARGE = 256 * 1024
"""Bytes from which on a tensor gets pages of its own."""


def give_freed_memory_back() -> bool:
    """Have large tensors come from the system and return there, in this process; whether that could be set.

    Left alone, glibc raises its threshold to 32 MiB as it sees large blocks freed; activations then fragment the heap.
    New pages cost time: the embedded model trained 1.8 times as long (docs/performance.md), so a training does this
    only where `compute.memory_gb` limits it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, LARGE))
    except (OSError, AttributeError):  # another C library
        return False
