"""Memory is given back when a process has grown, and not before; what networks use again is kept."""

import os
import subprocess
import sys

import pytest
import torch

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

MAPS = """
import resource
import sys
import torch
from torch import nn
from tinygan import heap
from tinygan.models.backends import place
from tinygan.runtime import Runtime, RuntimeOptions

if heap.trim_heap._trim is None:
    raise SystemExit("another C library")
place(nn.Sequential(nn.Conv2d(1, 1, 1)), Runtime(RuntimeOptions(device="cpu", threads=1)))

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def see():
    maps = [torch.ones(4_000_000) for _ in range(8)]  # 128 MB, freed when this ends

for _ in range(3):
    see()
before = faults()
for _ in range(5):
    see()
print(faults() - before)
"""
SIZES = """
import torch
from torch import nn
from tinygan.models.backends import place
from tinygan.runtime import Runtime, RuntimeOptions

network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
place(network, Runtime(RuntimeOptions(device="cpu", threads=1, precision="32")))
with torch.inference_mode():
    for turn in range(2):
        print("turn", turn, flush=True)
        for side in range(8, 1408):
            network(torch.zeros(1, 8, 1, side).contiguous(memory_format=torch.channels_last))
"""


def run(program, *arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "ONEDNN_"))}
    command = [sys.executable, "-c", program, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=clean | environment)
    if "another C library" in ran.stderr:
        pytest.skip("another C library")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_of_maps_is_used_again():
    assert int(run(MAPS)) < 1000
    assert int(run(MAPS, MALLOC_TRIM_THRESHOLD_="1000000")) > 100_000  # whoever says otherwise is heard


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="layers of x86")
def test_what_is_prepared_for_a_size_of_picture_is_kept():
    def prepared_anew(**environment):
        _, _, again = run(SIZES, ONEDNN_VERBOSE="profile", **environment).partition("turn 1")
        return again.count("create:cache_miss,cpu,convolution")

    assert prepared_anew() == 0
    assert prepared_anew(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024") > 1000  # whoever says otherwise is heard


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(
    ("growth", "least", "most"), [(100_000_000, 200_000_000, 400_000_000), (10**12, -1, 10_000_000)]
)
def test_holes_in_the_heap_are_given_back_once_a_process_has_grown(growth, least, most):
    assert least < int(run(HOLES, str(growth))) < most


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
