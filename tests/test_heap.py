"""Memory is given back when a process has grown, and not before."""

import subprocess
import sys

import pytest

from tinygan import heap
from tinygan.heap import HeapTrimmer

HOLES = """
import sys
from tinygan import heap
heap.GROWTH = int(sys.argv[1])
if heap.trim_heap._trim is None:
    raise SystemExit("another C library")
blocks = [bytearray(100_000) for _ in range(6000)]  # 600 MB, of which every second block is freed
for block in blocks:
    block[::4096] = b"x" * len(block[::4096])
del blocks[::2]
before = heap._resident()
heap.trim_heap()
print(before - heap._resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(
    ("growth", "least", "most"), [(100_000_000, 200_000_000, 400_000_000), (10**12, -1, 10_000_000)]
)
def test_holes_in_the_heap_are_given_back_once_a_process_has_grown(growth, least, most):
    ran = subprocess.run([sys.executable, "-c", HOLES, str(growth)], capture_output=True, text=True)
    if "another C library" in ran.stderr:
        pytest.skip("another C library")
    assert least < int(ran.stdout) < most, ran.stderr


def test_it_looks_again_only_when_it_has_grown_as_much_again(monkeypatch):
    sizes, trims, trim = iter([500, 1500, 1200, 2100, 2300, 900, 400, 1500, 700, 700]), [], HeapTrimmer()
    monkeypatch.setattr(heap, "GROWTH", 1000)
    monkeypatch.setattr(heap, "_resident", lambda: next(sizes))
    trim._trim = trims.append
    for expected in (0, 1, 1, 2, 2, 3):  # of 500; 1500, which becomes 1200; 2100; 2300, to 900; 400; 1500, to 700
        trim()
        assert len(trims) == expected
    trim._trim = None  # another C library
    trim()


def test_where_the_system_does_not_tell_nothing_is_given_back(monkeypatch, tmp_path):
    monkeypatch.setattr(heap, "STATM", tmp_path / "absent")
    trims, trim = [], HeapTrimmer()
    trim._trim = trims.append
    trim()
    assert heap._resident() == 0 and not trims
