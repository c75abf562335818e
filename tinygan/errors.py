"""The exceptions that tinygan raises on purpose.

TinyGanError
├── ConfigError        a configuration key or value
├── DataError          a file, a folder or a line in it
├── CheckpointError    weights or training state
└── MissingDependency  an optional package that is not installed

Every message says what was got, what was expected, where, and what to do. The command line prints it
as one line and exits with 2.
"""


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
