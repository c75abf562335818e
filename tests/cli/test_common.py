import os
import subprocess
import sys

import pytest

from tinygan.cli.common import make_parser, run_command
from tinygan.cli.options import positive_int
from tinygan.errors import DataError


def parser():
    return make_parser("tinygan-test", "A command of the test.")


def fail(error):
    def body(arguments):
        raise error

    return body


@pytest.mark.parametrize("error", [DataError("a.txt:3: expected\na number"), FileNotFoundError(2, "No such file", "x")])
def test_expected_errors_are_one_line_and_2(error, capsys):
    assert run_command(parser(), fail(error), []) == 2
    text = capsys.readouterr().err
    assert text.startswith("tinygan-test: error: ") and text.count("\n") == 1


def test_debug_shows_the_traceback():
    with pytest.raises(DataError):
        run_command(parser(), fail(DataError("x")), ["--debug"])


def test_bugs_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(parser(), fail(ZeroDivisionError()), [])


def test_interrupt_is_130(capsys):
    assert run_command(parser(), fail(KeyboardInterrupt()), []) == 130


def test_misuse_is_one_line_and_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(parser(), lambda _: 0, ["--nonsense"])
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_exit_code_is_the_bodys():
    assert run_command(parser(), lambda _: 1, []) == 1
    assert positive_int("3") == 3


HEAPS = """
import ctypes, sys, threading
from tinygan.cli.common import make_parser, run_command

def work(arguments):
    def keep(together):
        blocks = [ctypes.CDLL(None).malloc(4096) for _ in range(64)]
        together.wait()
    together = threading.Barrier(4)
    threads = [threading.Thread(target=keep, args=(together,)) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    libc = ctypes.CDLL(None)
    libc.fdopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    libc.malloc_info(0, libc.fdopen(1, b"w")), libc.fflush(None)
    return 0

sys.argv[1:] = []
raise SystemExit(run_command(make_parser("tinygan-test", "A command."), work))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize("wished", [None, "3"])
def test_threads_of_a_command_share_one_heap_unless_told_otherwise(wished):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment |= {"MALLOC_ARENA_MAX": wished} if wished else {}
    ran = subprocess.run([sys.executable, "-c", HEAPS], env=environment, capture_output=True, text=True, check=True)
    heaps = ran.stdout.count("<heap nr=")
    if not heaps:
        pytest.skip("another C library")
    assert (heaps > 1) == (wished is not None)
