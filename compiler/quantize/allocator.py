"""How the C library hands out memory while a network is trained."""
from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# Names and numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 256 << 20}


def keep_freed_memory() -> None:
    """Let the process keep what it frees, where the C library is glibc; elsewhere do nothing.

    By default large blocks go back to the system at once, and each step of a training waits
    for their pages to be cleared again: a sixth of the time of LUT-Q on ResNet-20.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for setting, value in _SETTINGS.items():
            mallopt(setting, value)
