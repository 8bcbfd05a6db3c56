"""How glibc's allocator is told to keep large blocks of freed memory, where a model runs on the CPU.

Each forward pass frees and asks for the same large tensors again. By default every one of them is mapped and unmapped,
and its pages are faulted in anew: a tenth of a training step went there.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """From now on this process reuses what it frees, until `return_freed_memory`. Only glibc is told."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST)


def return_freed_memory() -> None:
    """Gives all pages that hold nothing back to the system: for the end of a piece of work."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
