"""Trains a first stage: ``tinygan-train-proposer`` from data to ``model.safetensors``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor
from torchvision.models import get_model
from tqdm import tqdm

from proposals.anchored import AnchoredNetwork
from proposals.backbones import ResNet, ResNetName
from proposals.detector import DetectorNetwork, PyramidDetector
from proposals.train.mining import hard_negatives
from proposals.train.pictures import Photograph, PictureSource, photographs, with_teachers
from proposals.train.recipe import AnchoredRecipe, DetectorRecipe
from proposals.train.stage import DetectorStage, freeze
from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, is_ours, load_checkpoint, save_checkpoint
from tinygan.config import to_tree
from tinygan.data.rois import split_holdout
from tinygan.detections import Detections, GroundTruth
from tinygan.errors import CheckpointError, ConfigError, DataError, MissingDependency
from tinygan.formats.fddb import load_folds
from tinygan.formats.images import read_image
from tinygan.formats.names import list_images, match_names
from tinygan.formats.registry import open_detections
from tinygan.formats.retinaface import load_labels
from tinygan.formats.tabular import load_csv, save_csv
from tinygan.formats.truths import load_faces
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.runtime import Runtime, seed_everything
from tinygan.training.loop import run_loop, stage_batch_size
from tinygan.training.prepare import match_proposals
from tinygan.training.run import NEGATIVES_FILE, STATE_FILE, RunFolder, finish, trained_on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProposerData:
    """What the user points training at.

    Attributes:
        root: the WIDER FACE root; None if ``truth`` and ``images`` are given instead.
        truth: annotated faces in any format of :func:`tinygan.formats.truths.load_faces`.
        images: the folder of their images.
        folds: numbers of FDDB's folds to train on; empty: all.
        landmarks: RetinaFace's ``label.txt``; without it only boxes are learnt.
        teachers: what other detectors found in the training images: faces that nobody labelled are learnt from them.
        init: weights to start from: a run folder or file of this command, a ``.pth``, or an ``.onnx``.
        init_body: weights of which the backbone alone is taken: those of any first stage with the same one.
    """

    root: Path | None = None
    truth: Path | None = None
    images: Path | None = None
    folds: tuple[int, ...] = ()
    landmarks: Path | None = None
    teachers: tuple[Path, ...] = ()
    init: Path | None = None
    init_body: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """What was trained on.

    Attributes:
        training_names: names of the images trained on.
        holdout_names: names of the images kept out of training.
        unreadable: one line per image that could not be read.
    """

    training_names: list[str]
    holdout_names: list[str]
    unreadable: list[str]


@dataclass(frozen=True)
class Inputs:
    """What a training starts from; it is read and checked before anything is written.

    Attributes:
        split: the images and their faces.
        training_names: names of the images to train on.
        holdout_names: names of the images kept out of training.
        photos: the photographs to train on, with their faces.
        network: the network before the first step.
    """

    split: WiderSplit
    training_names: list[str]
    holdout_names: list[str]
    photos: list[Photograph]
    network: DetectorNetwork[Any]


def read_inputs(data: ProposerData, recipe: DetectorRecipe) -> Inputs:
    """Read all but the images.

    Raises:
        DataError: if data are absent or malformed, or no image is left to train on.
        CheckpointError: if ``init`` does not fit.
        ConfigError: if a layer to freeze is unknown, or random weights were to be frozen.
    """
    split = annotated_images(data)
    training, holdout = split_holdout(split.faces, recipe.holdout)
    if not training:
        raise DataError(f"{split.images}: none of its {len(holdout)} images is left to train on; lower holdout")
    photos = photographs(split.images, split.faces, training, _labels(data.landmarks, split))
    if data.teachers:
        photos = with_teachers(photos, _taught(data.teachers, split, training), recipe.teacher)
    seed_everything(recipe.seed)
    network = first_network(recipe, data.init, data.init_body)
    optimiser = recipe.optimiser
    freeze(network, optimiser)
    if (
        data.init is None
        and data.init_body is None
        and optimiser.backbone_weights == "none"
        and (optimiser.freeze or optimiser.freeze_norm)
    ):
        raise ConfigError("optimiser.freeze and freeze_norm would keep random weights as they are; give --init W")
    return Inputs(split, training, holdout, photos, network)


def mine(inputs: Inputs, recipe: AnchoredRecipe, folder: RunFolder, runtime: Runtime) -> Inputs:
    """Search the training images, never the hold-out, for what the network takes for a face and is none.

    The run folder then holds ``negatives.csv``. A run that is continued learns from those it started with.

    Args:
        inputs: the images and the network before the first step, which was trained before.
        recipe: which boxes are hard negatives, and the thresholds of the network.
        folder: the run folder.
        runtime: the device and the precision; of several processes the first one searches.

    Returns:
        The same with the hard negatives of each photograph.
    """
    file = folder.file(NEGATIVES_FILE)
    if runtime.is_main and not folder.file(STATE_FILE).is_file():
        save_csv(file, _search(inputs, recipe, runtime))
    runtime.barrier()
    found = load_csv(file)
    named = zip(inputs.training_names, inputs.photos, strict=True)
    photos = [photo._replace(mined=found[name].boxes) if name in found else photo for name, photo in named]
    counts = [len(photo.mined) for photo in photos]
    log.info("%d hard negatives in %d of %d images", sum(counts), np.count_nonzero(counts), len(counts))
    if not sum(counts):
        log.warning("no hard negatives were found; mining.min_score may be too high for these weights")
    return replace(inputs, photos=photos)


def _search(inputs: Inputs, recipe: AnchoredRecipe, runtime: Runtime) -> dict[str, Detections]:
    """The hard negatives of each training image that can be read."""
    detector = PyramidDetector(inputs.network, recipe.network, runtime)
    found = {}
    named = list(zip(inputs.training_names, inputs.photos, strict=True))
    for name, photo in tqdm(named, desc="mining", unit="image", disable=None):
        try:
            pixels = np.array(read_image(photo.path))
        except DataError as error:
            log.warning("not searched: %s", error)
            continue
        (seen,) = detector.propose([torch.from_numpy(pixels).permute(2, 0, 1)])
        found[name] = hard_negatives(seen, photo.boxes, recipe.mining)
    return found


def train_proposer(inputs: Inputs, recipe: DetectorRecipe, folder: RunFolder, runtime: Runtime) -> list[str]:
    """Train to the end; the folder then holds ``model.safetensors`` of kind ``proposer``.

    Args:
        inputs: images, landmarks and first weights.
        recipe: everything else that decides the result.
        folder: the run folder; a run that was cut off is continued.
        runtime: the device and the precision.

    Returns:
        One line per image that this process could not read.
    """
    split = inputs.split
    on_disk = [name for name in inputs.holdout_names if (split.images / name).is_file()]
    measured = {name: split.faces[name] for name in _spread(on_disk, recipe.evaluate_images)}
    seed_everything(recipe.seed)
    size = stage_batch_size(recipe.loop, runtime)
    first = PictureSource(inputs.photos, recipe, size).draw(0)  # the same on all devices
    inputs.network.before_training(first.pictures)
    stage = DetectorStage(inputs.network, recipe, runtime, split.images, measured)
    source = PictureSource(inputs.photos, recipe, size, runtime.rank, runtime.world_size)
    run_loop(stage, source.draw, recipe.loop, folder, runtime)
    prepared = Prepared(inputs.training_names, inputs.holdout_names, list(source.unreadable))
    if runtime.is_main:
        tensors = {f"proposer.{name}": tensor for name, tensor in stage.result.kept_tensors().items()}
        checkpoint = Checkpoint("proposer", to_tree(recipe), tensors, trained_on(prepared), proposer=recipe.proposer)
        save_checkpoint(folder.file(WEIGHTS_FILE), checkpoint)
        finish(folder, prepared)
    return prepared.unreadable


def saved_proposer(init: Path | None) -> str | None:
    """The first stage whose weights these are, as far as that can be told without reading those of other projects.

    Raises:
        CheckpointError: if a run folder or ``.safetensors`` file is absent, damaged or of another kind.
    """
    if init is not None and is_ours(init):
        return load_checkpoint(init, ("proposer",)).proposer
    return "yunet" if init is not None and init.suffix == ".onnx" else None


def saved_network(init: Path | None, proposer: str) -> dict[str, object] | None:
    """The network settings saved with a run's weights; None for weights of other projects.

    Raises:
        CheckpointError: if a run folder or ``.safetensors`` file is absent, damaged, of another kind or first stage.
    """
    if init is None or not is_ours(init):
        return None
    saved = load_checkpoint(init, ("proposer",))
    if saved.proposer != proposer:
        raise CheckpointError(f"{init}: weights of proposer '{saved.proposer}', not of '{proposer}'")
    return {"network": saved.recipe["network"]}


def annotated_images(data: ProposerData) -> WiderSplit:
    """The images to train on, hold-out included, and their faces.

    Raises:
        DataError: if data are absent or malformed, or none of the annotated images is there.
    """
    if data.truth is None or data.images is None:
        assert data.root is not None
        return load_split(data.root, "train")
    faces = _faces_of_folds(data.truth, data.folds) if data.folds else load_faces(data.truth, data.images)
    matched = match_names(faces, list_images(data.images), str(data.truth))
    if not matched:
        raise DataError(f"{data.truth}: none of its {len(faces)} images is below {data.images}")
    if len(matched) < len(faces):
        log.warning("%s: %d of its %d images are not below %s, and are left out",
                    data.truth, len(faces) - len(matched), len(faces), data.images)  # fmt: skip
    return WiderSplit(data.images, {image: faces[name] for image, name in matched.items()})


def _faces_of_folds(truth: Path, folds: Sequence[int]) -> dict[str, GroundTruth]:
    """The faces of some of FDDB's folds."""
    found = load_folds(truth)
    absent = sorted(set(folds) - set(found.folds.values()))
    if absent:
        have = ", ".join(map(str, sorted(set(found.folds.values()))))
        raise DataError(f"{truth}: there is no fold {absent[0]}; there are {have}")
    return {name: faces for name, faces in found.faces.items() if found.folds[name] in folds}


def first_network(recipe: DetectorRecipe, init: Path | None, body: Path | None = None) -> DetectorNetwork[Any]:
    """The network before the first step.

    Args:
        recipe: which network, and whether it starts from ImageNet weights.
        init: weights of the whole network.
        body: weights of which the backbone alone is taken; the rest is random.

    Raises:
        CheckpointError: if ``init`` or ``body`` is absent or of another network.
        ConfigError: if ImageNet weights are set for a backbone that has none, or ``body`` for a network without one.
        MissingDependency: if they cannot be downloaded.
    """
    network = recipe.build()
    if init is not None:
        network.load_weights(init)
    elif body is not None:
        if not isinstance(network, AnchoredNetwork):
            raise ConfigError(f"--init-body: proposer '{recipe.proposer}' has no backbone of its own; give --init")
        prefix = "body."
        tensors = {n.removeprefix(prefix): t for n, t in load_tensors(body).items() if n.startswith(prefix)}
        what = f"a first stage with backbone {network.config.backbone}"
        load_into(network.body, tensors, body, what, "; --init-body takes its layers 'body'")
    elif recipe.optimiser.backbone_weights == "imagenet":
        if not isinstance(network, AnchoredNetwork) or not isinstance(network.body, ResNet):
            raise ConfigError("optimiser.backbone_weights: imagenet is for backbones resnet18 to resnet152; set none")
        network.body.load_state_dict(imagenet_tensors(network.body.name), strict=False)
    return network


def imagenet_tensors(name: ResNetName) -> dict[str, Tensor]:
    """torchvision's ResNet, trained on ImageNet.

    Raises:
        MissingDependency: if they are not there and cannot be downloaded.
    """
    try:
        tensors: dict[str, Tensor] = get_model(name, weights="IMAGENET1K_V1").state_dict()
    except (URLError, OSError) as error:
        raise MissingDependency(
            f"ImageNet weights of {name} could not be downloaded ({error}); connect to the network, put "
            "torchvision's file into $TORCH_HOME/hub/checkpoints, give --init W, or train from scratch with "
            "--set optimiser.backbone_weights=none"
        ) from error
    return {name: tensor for name, tensor in tensors.items() if torch.is_tensor(tensor) and not name.startswith("fc.")}


def _labels(path: Path | None, split: WiderSplit) -> Mapping[str, GroundTruth] | None:
    """Landmarks by the split's own image names.

    Raises:
        DataError: if the file is absent, malformed or of other images.
    """
    if path is None:
        return None
    labels = load_labels(path)
    matched = match_names(labels, split.faces, str(path))
    if not matched:
        raise DataError(f"{path}: none of its {len(labels)} images is among those of {split.images}")
    return {image: labels[name] for image, name in matched.items()}


def _taught(paths: Sequence[Path], split: WiderSplit, names: Sequence[str]) -> list[Detections]:
    """What all teachers found in each of the named images, in any order.

    Raises:
        DataError: if a path is absent, malformed or of other images.
    """
    teachers = [match_proposals(open_detections(path), split) for path in paths]
    found = [[Detections.empty(), *(teacher[name] for teacher in teachers if name in teacher)] for name in names]
    return [
        Detections(np.concatenate([one.boxes for one in some]), np.concatenate([one.scores for one in some]))
        for some in found
    ]


def _spread(names: Sequence[str], count: int) -> list[str]:
    """About ``count`` of the names, evenly spaced."""
    return list(names[:: max(1, -(-len(names) // count))]) if count else []
