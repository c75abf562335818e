"""Reads the weights of a first stage: tinygan's own, and PyTorch checkpoints published by others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tinygan.checkpoint import is_ours, load_checkpoint
from tinygan.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A network's tensors by name, without what training scripts wrap around them.

    Args:
        path: a file of ``torch.save``: a state dict, bare or under ``state_dict``, ``model_state_dict`` or ``model``,
            with or without the prefix ``module.`` that data-parallel training adds to each name; or a
            run folder or ``.safetensors`` file of ``tinygan-train-proposer``.

    Raises:
        CheckpointError: if the file is absent, is not a PyTorch file or not a state dict, or holds objects other than
            tensors.
    """
    if is_ours(path):
        return load_checkpoint(path, ("proposer",)).part("proposer")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a state dict of PyTorch (.pth)")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: expected a state dict of PyTorch (.pth), tensors only: {reason}") from error
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    tensors = {n: t for n, t in loaded.items() if isinstance(t, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise CheckpointError(
            f"{path}: expected a state dict (tensors by name), got {type(loaded).__name__} without any"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_into(network: nn.Module, tensors: dict[str, Tensor], path: Path, what: str, hint: str = "") -> None:
    """Load tensors into a network; every name and shape must fit.

    Args:
        network: the network, which is changed in place.
        tensors: the tensors by name, from :func:`load_tensors`.
        path: file of the tensors, for the error message.
        what: name of the network, for the error message.
        hint: what the user may do, for the error message.

    Raises:
        CheckpointError: if a name or a shape does not fit; one line says how many, with an example.
    """
    own = network.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # absent in checkpoints of old PyTorch
    missing = [name for name in own if name not in tensors and name not in counters]
    unknown = [name for name in tensors if name not in own]
    shapes = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if missing or unknown or shapes:
        found = [
            f"{len(names)} {kind} (such as {names[0]}{detail})"
            for kind, names, detail in (
                ("missing", missing, ""),
                ("unknown", unknown, ""),
                ("of another shape", shapes, _shapes(shapes, own, tensors)),
            )
            if names
        ]
        raise CheckpointError(
            f"{path}: not the weights of {what}: of its {len(own)} tensors (such as {next(iter(own))}) "
            f"{', '.join(found)}{hint}"
        )
    network.load_state_dict(tensors, strict=False)


def _shapes(names: list[str], own: dict[str, Tensor], tensors: dict[str, Tensor]) -> str:
    return f": {list(tensors[names[0]].shape)}, expected {list(own[names[0]].shape)}" if names else ""
