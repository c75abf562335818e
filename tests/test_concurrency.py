import itertools
import os
import platform
import subprocess
import sys
import threading

import pytest

from tinygan.concurrency import ordered_map

COUNT_HEAPS = """
import ctypes, threading
from tinygan.concurrency import share_heap
{call}
together = threading.Barrier(4)
def work():
    kept = [bytes(2_000) for _ in range(1_000)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def test_results_come_in_order_on_other_threads():
    threads = set()

    def square(number):
        threads.add(threading.current_thread())
        return number * number

    assert list(ordered_map(square, range(50), workers=3, ahead=5)) == [n * n for n in range(50)]
    assert threading.current_thread() not in threads and 1 <= len(threads) <= 3


def test_items_are_drawn_no_further_ahead_than_asked():
    drawn = itertools.count()
    results = ordered_map(lambda item: item, (next(drawn) for _ in range(1000)), workers=2, ahead=4)
    for _ in range(10):
        next(results)
    assert next(drawn) == 13  # ten given out, three waiting
    results.close()


def test_an_error_reaches_the_reader():
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda n: 1 / n, [1, 0], workers=2, ahead=2))
    assert list(ordered_map(str, [], workers=2, ahead=2)) == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have one heap")
@pytest.mark.parametrize(
    ("call", "wish", "shared"), [("", None, False), ("share_heap()", None, True), ("share_heap()", "4", False)]
)
def test_a_process_of_its_own_has_one_heap_for_all_threads_unless_its_user_wants_more(call, wish, shared):
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}
    if wish is not None:
        environment["MALLOC_ARENA_MAX"] = wish
    command = [sys.executable, "-c", COUNT_HEAPS.format(call=call)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert (told.count("<heap nr") == 1) is shared
