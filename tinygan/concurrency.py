"""Work done ahead on threads; results come in order, and the number of those that wait is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
