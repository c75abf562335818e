"""First stages: detectors that propose boxes for tinygan's second stage."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tinygan.errors import CheckpointError, ConfigError

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
        packaged: name of the weights that ship with tinygan, for when none are given.
    """

    module: str
    config: str
    build: str
    packaged: str | None = None

    def config_type(self) -> type[Any]:
        """The config dataclass."""
        return cast("type[Any]", getattr(import_module(self.module), self.config))


PROPOSERS: Mapping[str, Entry] = {
    "callable": Entry("proposals.adapters.callable", "CallableConfig", "build_callable"),
    "retinaface": Entry("proposals.retinaface", "RetinaFaceConfig", "build_retinaface", "retinaface_mobilenet025"),
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


@dataclass(frozen=True)
class Choice:
    """A first stage as a user chose it.

    Attributes:
        name: a key of ``PROPOSERS``.
        config: an instance of its config dataclass.
        weights: its weights file or run folder.
    """

    name: str
    config: object
    weights: Path | None

    def build(self, runtime: Runtime) -> Proposer:
        """See :func:`build_proposer`."""
        return build_proposer(self.name, self.config, self.weights, runtime)


def choose_proposer(
    name: str, weights: Path | None = None, source: str | Path | None = None, overrides: Sequence[str] = ()
) -> Choice:
    """A first stage's settings and weights.

    Args:
        name: a key of ``PROPOSERS``.
        weights: a run folder or file of ``tinygan-train-proposer``, whose settings come along, or a weights file of
            others; default: those that ship with tinygan.
        source: a YAML file or preset that overrides settings.
        overrides: ``key=value`` strings that override both.

    Raises:
        ConfigError: if there is no such first stage, preset or key.
        CheckpointError: if the weights are absent or another first stage's.
    """
    from tinygan.checkpoint import find_weights, is_ours, load_weights, packaged_weights
    from tinygan.config import load_config

    entry = find_proposer(name)
    if weights is None and entry.packaged is not None:
        weights = packaged_weights(entry.packaged)
    base = None
    if weights is not None and is_ours(weights):
        weights = find_weights(weights)
        saved = load_weights(weights, ("proposer",))
        if saved.facts["proposer"] != name:
            raise CheckpointError(f"{weights}: weights of proposer '{saved.facts['proposer']}', not of '{name}'")
        base = saved.config["network"]
    return Choice(name, load_config(entry.config_type(), source, overrides, base=base), weights)


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
