import itertools
import threading
import time

import pytest

from tinygan.concurrency import ordered_map


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


def test_after_an_error_what_has_not_begun_is_not_done():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.05)
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        list(ordered_map(work, [0, *range(1, 30)], workers=2, ahead=30))
    assert len(begun) < 10


def test_each_thread_is_prepared_once():
    prepared = []
    list(ordered_map(str, range(20), 3, 5, prepare=lambda: prepared.append(threading.current_thread())))
    assert len(prepared) == len(set(prepared)) <= 3
