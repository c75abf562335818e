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
