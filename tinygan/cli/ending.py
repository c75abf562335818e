"""How a command ends that cannot go on: signals, full disks, and a lock on what it writes that ends with it."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # exit codes, as shells have them
_FULL = "; free some space, then continue with --resume if the command has it"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "; choose a place that may be written to",
    errno.EACCES: "; check its permissions, or choose another place",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: half-written files are removed."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the first SIGTERM raise :class:`Terminated`; a second one kills. Where somebody else listens, they do."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def hold_output(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Keep other runs out of ``--out`` of a command that can be continued; of several processes the first one does."""
    from tinygan.files import hold_folder
    from tinygan.formats.writing import working_folder

    out = getattr(arguments, "out", None)
    if out is None or not hasattr(arguments, "resume") or os.environ.get("RANK", "0") != "0":
        return nullcontext()
    return hold_folder(working_folder(out))


def explain(error: OSError) -> str:
    """Where an error of the operating system came up, and what to do."""
    if error.strerror is None:
        return str(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}{_HINTS.get(error.errno or 0, '')}"
