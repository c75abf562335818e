"""The exceptions that tinygan raises on purpose.

TinyGanError
├── ConfigError        a configuration key or value
├── DataError          a file, a folder or a line in it
├── CheckpointError    weights or training state
└── MissingDependency  an optional package that is not installed

Every message says what was got, what was expected, where, and what to do. The command line prints it
as one line and exits with 2. One bad input among several costs that input alone: it is skipped and listed.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

IN_MEMORY = "the image in memory"  # what an image is called of which the content alone is known


class TinyGanError(Exception):
    """Base of every error that tinygan raises on purpose."""


class ConfigError(TinyGanError):
    """A configuration key is unknown or its value is out of range."""


class DataError(TinyGanError):
    """A file or folder is absent, unreadable or malformed."""


class CheckpointError(TinyGanError):
    """A checkpoint is absent, damaged or of another kind than was asked for."""


class MissingDependency(TinyGanError):
    """An optional package is needed and not installed."""


def one_line(error: BaseException) -> str:
    """What an error says, or its kind if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def why_skipped(error: Exception, where: object) -> str:
    """A line on what one input raised, whatever it is, for the list of skipped inputs.

    Args:
        error: what was raised.
        where: the input that raised it.
    """
    return str(error) if isinstance(error, DataError) else unexpected(error, where)


def unexpected(error: Exception, where: object) -> str:
    """A line on an error that nobody foresaw, for the list of skipped inputs; ``--debug`` shows its traceback.

    Args:
        error: what was raised.
        where: the input that raised it.
    """
    log.debug("%s", where, exc_info=error)
    reason = " ".join(str(error).split())
    return f"{where}: failed: {type(error).__name__}{': ' if reason else ''}{reason}"
