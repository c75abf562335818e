"""Checkpoints: weights as safetensors, with the recipe of their networks; and resumable training state."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import save as serialise
from torch import Tensor

from tinygan.errors import CheckpointError
from tinygan.files import write_atomically

SHIPPED = Path(__file__).parent / "weights"  # the checkpoints that ship with tinygan
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1
_HEADER = {"format": int, "kind": str, "config": dict, "facts": dict}
_FACTS = {"trained_on": list, "proposer": str, "fusion": dict}  # each may be absent
Kind = Literal["generator", "gan", "fused", "proposer"]


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, as it is stored on disk.

    Attributes:
        kind: ``generator`` (stage mse-init), ``gan`` (stages gan and judge), ``fused`` (stage fusion), or ``proposer``
            (a first stage, of ``tinygan-train-proposer``).
        recipe: the resolved config from which the networks were built, as plain types.
        tensors: weights by name, prefixed ``generator.``, ``discriminator.`` or ``proposer.``.
        trained_on: hashes (:func:`name_hash`) of the names of all images that any of the networks was trained on.
        proposer: name of the first stage that has these weights; only for kind ``proposer``.
        fusion: parameters of the fitted fusion, as plain types, which ``tinygan.second_stage.fusion.stored_fusion``
            reads; only for kind ``fused``, and for a ``proposer`` with a fusion of its own.
    """

    kind: Kind
    recipe: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    trained_on: frozenset[str] = frozenset()
    proposer: str | None = None
    fusion: Mapping[str, Any] | None = None

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The state dict of one network, such as ``generator``."""
        cut = len(prefix) + 1
        return {name[cut:]: tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}.")}

    def digest(self) -> str:
        """SHA-256 of all tensors: what tells networks of these weights from those of others."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            digest.update(self.tensors[name].contiguous().numpy().tobytes())
        return digest.hexdigest()

    def was_trained_on(self, name: str) -> bool:
        """Whether any of the networks was trained on the image of this name."""
        return name_hash(name) in self.trained_on


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as a safetensors file, atomically; equal checkpoints give equal bytes."""
    facts: dict[str, Any] = {"trained_on": sorted(checkpoint.trained_on)}
    if checkpoint.proposer is not None:
        facts["proposer"] = checkpoint.proposer
    if checkpoint.fusion is not None:
        facts["fusion"] = checkpoint.fusion
    header = {"format": FORMAT, "kind": checkpoint.kind, "config": checkpoint.recipe, "facts": facts}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_atomically(path, serialise(tensors, metadata={"tinygan": json.dumps(header)}))


def packaged_weights(name: str, kinds: Sequence[Kind] = ("gan", "fused")) -> Path:
    """The file of a checkpoint that ships with tinygan.

    Args:
        name: name of the checkpoint.
        kinds: kinds that fit; if there is none of that name, the error lists those that ship.

    Raises:
        CheckpointError: if there is none of that name.
    """
    file = SHIPPED / f"{name}.safetensors"
    if not file.is_file():
        names = sorted(path.stem for path in SHIPPED.glob("*.safetensors") if _kind(path) in kinds)
        have = f"this tinygan ships {', '.join(names)}" if names else "this version of tinygan ships none"
        raise CheckpointError(
            f"--checkpoint {name}: no such file, folder or shipped checkpoint ({have}); "
            f"give a run folder of tinygan-train{'' if 'generator' in kinds else ' --stage fusion'}"
        )
    return file


def chosen_weights(checkpoint: str | Path, kinds: Sequence[Kind] = ("gan", "fused")) -> Path:
    """The weights that a user names: a file, a run folder, or the name of a checkpoint that ships.

    What has weights comes first, so a folder of anything else may be called like a checkpoint, such as ``lite``.

    Args:
        checkpoint: path or name.
        kinds: kinds that fit, for the error.

    Returns:
        A file, or the run folder as it is named.

    Raises:
        CheckpointError: if there is none.
    """
    path = Path(checkpoint)
    if path.is_file() or (path / WEIGHTS_FILE).is_file():
        return path
    ships = path.name == str(checkpoint) and (SHIPPED / f"{path.name}.safetensors").is_file()
    return find_weights(path) if path.exists() and not ships else packaged_weights(str(checkpoint), kinds)


def _kind(file: Path) -> str:
    with safetensors.safe_open(file, framework="pt") as opened:
        return str(json.loads(opened.metadata()["tinygan"])["kind"])


def is_ours(path: Path) -> bool:
    """Whether a path looks like a run folder or weights of tinygan, and not like a checkpoint of another project."""
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


def load_checkpoint(path: Path, kinds: tuple[Kind, ...]) -> Checkpoint:
    """Read a checkpoint of one of ``kinds`` from a run folder or file.

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
    except (safetensors.SafetensorError, ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected a safetensors file of tinygan: {error}") from error
    _check_header(header, file)
    if header["format"] > FORMAT:
        raise CheckpointError(f"{file}: written by a newer tinygan (format {header['format']}); upgrade tinygan")
    if header["kind"] not in kinds:
        raise CheckpointError(
            f"{file}: a checkpoint of kind '{header['kind']}', expected {' or '.join(kinds)}{_hint(header['kind'])}"
        )
    facts = header["facts"]
    return Checkpoint(
        kind=header["kind"],
        recipe=_renamed(header["config"]),
        tensors=tensors,
        trained_on=frozenset(facts.get("trained_on", ())),
        proposer=facts.get("proposer"),
        fusion=facts.get("fusion"),
    )


def _check_header(header: object, file: Path) -> None:
    """Refuse a header that tinygan did not write.

    Raises:
        CheckpointError: naming the part that is absent or of another type.
    """
    for tree, types in ((header, _HEADER), (header.get("facts") if isinstance(header, dict) else None, _FACTS)):
        for key, kind in types.items():
            value = tree.get(key) if isinstance(tree, dict) else None
            if not isinstance(value, kind) and not (types is _FACTS and isinstance(tree, dict) and value is None):
                raise CheckpointError(f"{file}: is damaged: expected '{key}' in its header, got {value!r:.60}")


def _renamed(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe, with keys of earlier versions replaced by those of today."""
    return {{"fusion": "fusion_search"}.get(key, key): value for key, value in recipe.items()}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write resumable training state atomically: if the process is killed, the last complete state remains."""
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
    """A short hash of an image's name, by which a checkpoint records what it was trained on."""
    return hashlib.md5(name.encode("utf-8"), usedforsecurity=False).hexdigest()[:12]


def _hint(kind: str) -> str:
    return {
        "generator": "; train stage gan from it first",
        "gan": "; fit stage fusion on it first",
        "fused": "; give the run folder of stage gan",
        "proposer": "; these are weights of a first stage, for tinygan-propose --weights",
    }.get(kind, "")
