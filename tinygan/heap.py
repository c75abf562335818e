"""The heap of this process where the C library is glibc: shared by threads, and given back when it is full of holes.

A network that sees pictures of ever different sizes leaves holes of ever different sizes behind, between what oneDNN
keeps of each size. After some hundred pictures they hold two gigabytes more than the networks need.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

M_ARENA_MAX = -8  # of glibc's malloc.h
GROWTH = 1_000_000_000  # bytes; half of it would save 350 MB more, for a twentieth of the time, not a fiftieth
STATM = Path("/proc/self/statm")


def share_heap() -> None:
    """Let all threads of this process, which has only begun, share one heap, unless ``MALLOC_ARENA_MAX`` is set.

    glibc gives threads heaps of their own, each of which remains as large as the largest pictures that its thread saw:
    100 to 200 MB with the threads that decode and cut. Elsewhere nothing happens.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and (set_option := _of_libc("mallopt")) is not None:
        set_option(M_ARENA_MAX, 1)


class HeapTrimmer:
    """Gives unused memory back to the system whenever this process has grown by 1 GB since it last did."""

    def __init__(self) -> None:
        self._trim = _of_libc("malloc_trim")
        self._kept = 0
        self._alone = threading.Lock()

    def __call__(self) -> None:
        """Look how large this process is, which takes 20 microseconds, and act if it has grown."""
        if self._trim is None:
            return
        resident = _resident()
        self._kept = min(self._kept, resident)
        if resident < self._kept + GROWTH or not self._alone.acquire(blocking=False):
            return
        try:
            self._trim(0)
            self._kept = _resident()
        finally:
            self._alone.release()


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of glibc; ``None`` on other systems, and of musl, which lacks them."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _resident() -> int:
    """Bytes of memory that this process occupies."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


trim_heap = HeapTrimmer()
