"""What every command shares: its parser, one-line errors and exit codes.

Exit 0: all done. 1: done, some inputs were skipped and listed. 2: misuse or malformed input.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, NoReturn, TextIO

from tinygan import __version__
from tinygan.cli.ending import explain, hold_output, stoppable
from tinygan.cli.options import SHOW_CONFIG
from tinygan.errors import TinyGanError
from tinygan.heap import share_heap

if TYPE_CHECKING:
    from tinygan.formats.folders import DetectionFiles
    from tinygan.runtime import Runtime
    from tinygan.training.run import RunFolder

log = logging.getLogger(__name__)
DONE, SOME_SKIPPED, MISUSE = 0, 1, 2
LISTED = 20


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def waive_required(self) -> None:
        """Ask for no argument any more."""
        for action in self._actions:
            action.required = False

    def error(self, message: str) -> NoReturn:
        """Print one line on stderr and exit with 2."""
        self.exit(MISUSE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser(prog: str, description: str, example: str = "") -> Parser:
    """A parser with ``--version`` and ``--debug``.

    Args:
        prog: name of the command.
        description: what it does.
        example: command lines that ``--help`` ends with.
    """
    parser = Parser(prog=prog, description=description)
    add_example(parser, example)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_example(parser: argparse.ArgumentParser, example: str) -> None:
    """End ``--help`` with a worked example; its lines are printed as they are."""
    if example:
        parser.epilog = "example:\n" + "\n".join(f"  {line}" for line in example.splitlines())
        parser.formatter_class = argparse.RawDescriptionHelpFormatter


def tell_left_out(files: DetectionFiles) -> int:
    """Name on stderr the files that were left out, and why; returns the exit code."""
    if not files.left_out:
        return DONE
    return list_skipped(
        f"{files.source}: {len(files.left_out)} files were left out",
        [f"{name}: {reason}" for name, reason in files.left_out.items()],
    )


def name_unread(unread: Sequence[str]) -> None:
    """Say in one line on stderr how many pictures are of kinds that are not read, if there are any."""
    if unread:
        from tinygan.formats.names import describe_unread

        print(describe_unread(unread), file=sys.stderr)


def show_config(config: object) -> int:
    """Print settings for ``--show-config``; returns the exit code."""
    from tinygan.config import explain

    print(explain(config), end="")
    return DONE


class Printed(io.TextIOBase):
    """Standard output or error, which never fail a run: what it did counts, not who reads what it says.

    Characters that the terminal's encoding lacks are escaped. Once nobody reads any more, as in ``| head``, the rest is
    dropped.

    Args:
        stream: the stream of this process.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text, and what is buffered, so that it is known at once whether somebody reads it."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # or Python would try again as it ends, and fail
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered here."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self._stream.encoding


def run_command(parser: Parser, body: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn expected errors into one line and an exit code.

    Args:
        parser: made by :func:`make_parser`.
        body: does the work and returns an exit code.
        argv: arguments, for tests; the process's own by default.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else argv
    if argv is None:  # in a process of one's own
        share_heap()
    if SHOW_CONFIG in words:
        parser.waive_required()
    with redirect_stdout(Printed(sys.stdout)), redirect_stderr(Printed(sys.stderr)):
        return _run(parser, body, words)


def _run(parser: Parser, body: Callable[[argparse.Namespace], int], words: Sequence[str]) -> int:
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.debug:
        logging.getLogger("tinygan").setLevel(logging.DEBUG)
    with stoppable() as stop:
        try:
            with hold_output(arguments):
                code = body(arguments)
            stop.check()
            return code
        except (TinyGanError, OSError, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) or stop.signal is not None:
                resumable = getattr(arguments, "resume", None) is not None
                print(f"{parser.prog}: interrupted{'; continue with --resume' if resumable else ''}", file=sys.stderr)
                return stop.code
            if arguments.debug:
                raise
            message = explain(error) if isinstance(error, OSError) else str(error)
            print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
            return MISUSE


def open_run(arguments: argparse.Namespace, settings: str, runtime: Runtime) -> RunFolder:
    """The run folder ``--out``; of several processes the first one checks and makes it, the others open it.

    Also says on which device and in which precision it will be trained.

    Args:
        arguments: with ``out``, ``resume`` and ``overwrite``.
        settings: text of its ``config.yaml``.
        runtime: the process's device and precision.
    """
    from tinygan.training.run import RunFolder

    if runtime.is_main:
        RunFolder(arguments.out, settings, arguments.resume, arguments.overwrite).remove_half_written()
        log.info("%s", runtime)
    runtime.barrier()
    return RunFolder(arguments.out, settings, resume=True)


def end_run(message: str, unreadable: Sequence[str], runtime: Runtime) -> int:
    """Tell that a run is finished, and which images it could not read; returns the exit code."""
    runtime.barrier()  # a process that ended before the weights are written would take the others with it
    if not runtime.is_main:
        return DONE
    print(message)
    if unreadable:
        print(f"{len(unreadable)} images could not be read and were skipped:", *unreadable, sep="\n  ", file=sys.stderr)
        return SOME_SKIPPED
    return DONE


def list_skipped(summary: str, lines: Sequence[str], more: str = "") -> int:
    """Name the first skipped inputs on stderr.

    Args:
        summary: a line above them.
        lines: one line per input.
        more: where the others are listed, if they are too many.

    Returns:
        The exit code.
    """
    print(summary, *(f"  {line}" for line in lines[:LISTED]), sep="\n", file=sys.stderr)
    if len(lines) > LISTED:
        print(f"  … and {len(lines) - LISTED} more{more}", file=sys.stderr)
    return SOME_SKIPPED
