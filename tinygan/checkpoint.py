"""Weights as safetensors beside the config that built them, and resumable training state."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as serialise
from torch import Tensor

from tinygan.errors import CheckpointError
from tinygan.files import write_atomically

WEIGHTS_FILE = "model.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Weights:
    """A trained model on disk.

    Attributes:
        kind: ``generator`` (stage mse-init), ``gan`` or ``fused``.
        config: the resolved config that built the networks.
        tensors: weights by name, prefixed ``generator.`` or ``discriminator.``.
        facts: further facts, JSON types: fusion parameters, hashes of the training images.
    """

    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The state dict of one network."""
        cut = len(prefix) + 1
        return {name[cut:]: tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_weights(path: Path, weights: Weights) -> None:
    """Write a safetensors file atomically."""
    header = {"format": FORMAT, "kind": weights.kind, "config": weights.config, "facts": weights.facts}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    write_atomically(path, serialise(tensors, metadata={"tinygan": json.dumps(header)}))


def packaged_weights(name: str) -> Path:
    """The file of a checkpoint that ships with tinygan.

    Raises:
        CheckpointError: if there is none of that name.
    """
    folder = Path(__file__).parent / "weights"
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        names = sorted(path.stem for path in folder.glob("*.safetensors") if _kind(path) in ("gan", "fused"))
        have = f"this tinygan ships {', '.join(names)}" if names else "this version of tinygan ships none"
        raise CheckpointError(
            f"--checkpoint {name}: no such file, folder or shipped checkpoint ({have}); "
            "give a run folder of tinygan-train --stage fusion"
        )
    return file


def _kind(file: Path) -> str:
    with safetensors.safe_open(file, framework="pt") as opened:
        return str(json.loads(opened.metadata()["tinygan"])["kind"])


def is_ours(path: Path) -> bool:
    """Whether a path looks like a run folder or weights of tinygan's, rather than a checkpoint of others."""
    return path.is_dir() or path.suffix == ".safetensors"


def find_weights(path: Path) -> Path:
    """The weights file of a run folder, or the file itself.

    Raises:
        CheckpointError: if there is none.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        what = f"no {WEIGHTS_FILE} in this folder; has its stage finished?" if path.is_dir() else "no such file;"
        raise CheckpointError(f"{path}: {what} expected a run folder of tinygan-train or a .safetensors file")
    return file


def load_weights(path: Path, kinds: tuple[str, ...]) -> Weights:
    """Read weights of one of ``kinds`` from a run folder or file.

    Raises:
        CheckpointError: if the file is absent, damaged, not tinygan's, or of another kind.
    """
    file = find_weights(path)
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        header = json.loads(metadata["tinygan"])
    except KeyError as error:
        raise CheckpointError(f"{file}: a safetensors file, but not one of tinygan's") from error
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{file}: expected a safetensors file of tinygan: {error}") from error
    if header["format"] > FORMAT:
        raise CheckpointError(f"{file}: written by a newer tinygan (format {header['format']}); upgrade tinygan")
    if header["kind"] not in kinds:
        raise CheckpointError(
            f"{file}: a checkpoint of kind '{header['kind']}', expected {' or '.join(kinds)}{_hint(header['kind'])}"
        )
    return Weights(header["kind"], _renamed(header["config"]), tensors, header["facts"])


def _renamed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of an earlier version under the keys of now."""
    return {{"fusion": "fusion_search"}.get(key, key): value for key, value in config.items()}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write resumable training state atomically: a kill leaves the last whole state."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: damaged training state; delete it to start again") from error
    return state


def name_hash(name: str) -> str:
    """A short hash of an image's name, by which a checkpoint remembers what it was trained on."""
    return hashlib.md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()[:12]


def _hint(kind: str) -> str:
    return {
        "generator": "; train stage gan from it first",
        "gan": "; fit stage fusion on it first",
        "fused": "; give the run folder of stage gan",
        "proposer": "; these are weights of a first stage, for tinygan-propose --weights",
    }.get(kind, "")
