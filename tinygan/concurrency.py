"""Work done ahead on threads; results come in order, and the number of those that wait is bounded."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

M_ARENA_MAX = -8  # of glibc's malloc.h
Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    prepare: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Like ``map``, but on threads; ``items`` is iterated over lazily, by the thread that takes the results.

    Args:
        function: the function, which is called on the threads.
        items: the arguments, one per call.
        workers: number of threads.
        ahead: largest number of calls, finished or not, whose results have not been taken.
        prepare: called once on each thread, before all others.
    """
    pool = ThreadPoolExecutor(workers, initializer=prepare)
    try:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after an error, or when no more results are wanted, what has not begun is not done
        pool.shutdown(cancel_futures=True)


def share_heap() -> None:
    """Let all threads of this process, which has only begun, share one heap, unless ``MALLOC_ARENA_MAX`` is set.

    glibc gives threads heaps of their own, each of which remains as large as the largest pictures that its thread saw:
    100 to 200 MB with the threads that decode and cut. Elsewhere nothing happens.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if set_option is not None:
            set_option(M_ARENA_MAX, 1)
