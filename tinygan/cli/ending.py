"""How a command ends that cannot go on: signals, full disks, and a lock on what it writes that ends with it."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

_FULL = "; free some space, then continue with --resume if the command has it"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "; choose a place that may be written to",
    errno.EACCES: "; check its permissions, or choose another place",
}


class Stop:
    """Notes that a run is to end: what a signal raises may be lost on its way through code that is not Python."""

    signal: int | None = None

    def check(self) -> None:
        """Raise what was lost."""
        if self.signal is not None:
            raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """The exit code, as shells have it."""
        return 128 + (self.signal or signal.SIGINT)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Let Ctrl-C and the first SIGTERM raise ``KeyboardInterrupt``, so that half-written files are removed.

    A second SIGTERM kills. Where somebody else listens to them, they do.
    """
    stop = Stop()

    def end(number: int, _: object) -> None:
        stop.signal = number
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    usual: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    ours = [number for number, handler in usual.items() if main and signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, end)
    try:
        yield stop
    finally:
        for number in ours:
            signal.signal(number, usual[number])


def hold_output(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Keep other runs out of ``--out`` of a command that can be continued; of several processes the first one does.

    What lies at an address cannot be locked: there, two runs write the same.
    """
    from tinygan.files import hold_folder
    from tinygan.formats.writing import working_folder

    out = getattr(arguments, "out", None)
    if out is None or isinstance(out, str) or not hasattr(arguments, "resume") or os.environ.get("RANK", "0") != "0":
        return nullcontext()
    return hold_folder(working_folder(out))


def explain(error: OSError) -> str:
    """Where an error of the operating system came up, and what to do."""
    if error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}{_HINTS.get(error.errno or 0, '')}"
