"""First stages: detectors that propose boxes for tinygan's second stage."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tinygan.errors import ConfigError

if TYPE_CHECKING:
    from proposals.base import Proposer
    from tinygan.runtime import Runtime


@dataclass(frozen=True)
class Entry:
    """Where a proposer lives; its module is imported when it is asked for.

    Attributes:
        module: dotted name.
        config: its config dataclass there.
        build: function ``(config, weights path or None, runtime) -> Proposer`` there.
        needs_weights: whether it is of no use without a weights file.
    """

    module: str
    config: str
    build: str
    needs_weights: bool

    def config_type(self) -> type[Any]:
        """The config dataclass."""
        return cast("type[Any]", getattr(import_module(self.module), self.config))


PROPOSERS: Mapping[str, Entry] = {
    "callable": Entry("proposals.adapters.callable", "CallableConfig", "build_callable", needs_weights=False),
    "retinaface": Entry("proposals.retinaface", "RetinaFaceConfig", "build_retinaface", needs_weights=True),
}


def find_proposer(name: str) -> Entry:
    """A row of the table.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name in PROPOSERS:
        return PROPOSERS[name]
    close = difflib.get_close_matches(name, PROPOSERS, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise ConfigError(f"proposer '{name}': no such first stage; {hint}there are {', '.join(sorted(PROPOSERS))}")


def build_proposer(name: str, config: object, weights: Path | None, runtime: Runtime) -> Proposer:
    """Build a first stage.

    Args:
        name: a key of ``PROPOSERS``.
        config: an instance of its config dataclass.
        weights: its weights file; ``None`` leaves random weights where the proposer has any.
        runtime: device and precision.

    Raises:
        ConfigError: if there is no such proposer.
        CheckpointError: if the weights are absent or another network's.
    """
    entry = find_proposer(name)
    expected = entry.config_type()
    if not isinstance(config, expected):
        raise TypeError(f"proposer '{name}': expected a {expected.__name__}, got {type(config).__name__}")
    return cast("Proposer", getattr(import_module(entry.module), entry.build)(config, weights, runtime))
