"""The heap of this process where the C library is glibc: shared by threads, used again, and given back with its holes.

Maps of tens of megabytes are freed after each layer. Memory that goes back to the system then comes anew for the next
layer, page by page, which takes longer than the layer: it is kept. But a network that sees pictures of ever different
sizes leaves holes of ever different sizes behind, between what oneDNN keeps of each size. After some hundred pictures
they hold two gigabytes more than the networks need.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
KEPT_BYTES = 1 << 28  # free memory at the end of the heap that is kept
HEAP_BYTES = 1 << 25  # less than this comes from the heap; glibc allows no more
MALLOC_SETTINGS = {f"MALLOC_{name}_" for name in ("MMAP_THRESHOLD", "MMAP_MAX", "TRIM_THRESHOLD", "TOP_PAD")}
PRIMITIVES = 4096  # layers with sizes of pictures that oneDNN keeps ready, 0.1 MB each; its own 1,024 are of 4 pictures
GROWTH = 1_000_000_000  # bytes; half of it would save 350 MB more, for a twentieth of the time, not a fiftieth
STATM = Path("/proc/self/statm")


def share_heap() -> None:
    """Let all threads of this process, which has only begun, share one heap, unless ``MALLOC_ARENA_MAX`` is set.

    glibc gives threads heaps of their own, each of which remains as large as the largest pictures that its thread saw:
    100 to 200 MB with the threads that decode and cut. Elsewhere nothing happens.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and (set_option := _of_libc("mallopt")) is not None:
        set_option(M_ARENA_MAX, 1)


@cache
def reuse_memory() -> None:
    """Let this process keep what networks on a CPU use again: memory of their maps, and what oneDNN prepares.

    Both hold for the whole process, and each is left as it is where the environment says something about it. oneDNN
    reads its limit when it first computes in a process; a later call changes nothing for it. Both stages took 0.6 of
    the time on 32 pictures of WIDER FACE that came again, 0.8 on 87 new ones, for half a gigabyte.
    """
    tuned = MALLOC_SETTINGS & os.environ.keys() or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if not tuned and (set_option := _of_libc("mallopt")) is not None:
        set_option(M_MMAP_THRESHOLD, HEAP_BYTES)  # set alone, either fixes the other, this one at 128 KB
        set_option(M_TRIM_THRESHOLD, KEPT_BYTES)
    if not {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"} & os.environ.keys():
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(PRIMITIVES)


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
