"""Stage ``judge``: the discriminator alone is trained, to tell whether a proposal is a face, and where the face is.

    tinygan-train --stage judge --config lite --data ROOT --proposals P... --init runs/gan \\
        --surroundings retinaface_mobilenet025.pth --out runs/judge

5,000 steps of 64 regions, 79 minutes on one CPU core. The last line of ``metrics.jsonl`` on WIDER-mini with five
detectors' proposals, starting from an earlier judge (``--init``), on the hold-out: area under the ROC curve of the face
logit on small, medium and paired crops .838, .914, .950; mean IoU of the face and the box of the third head .721
(``experiments/lite/README.md``).

Shapes: B regions per batch; S = ``hr_size``, W = ``wide_size``.

Not in the paper. The generator is not changed. The discriminator of stage ``gan`` may get more filters, a second tower
for the surroundings and a third head, which predicts the box of the face. A proposal that the third head moves onto a
face is labelled as a face.

With ``--teacher RUN`` the discriminator learns from another one too; by ``judge_training.widths`` it may be a narrower
copy of it, as good for half of the arithmetic (``experiments/lite/README.md``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint, save_checkpoint
from tinygan.config import build_config, to_tree
from tinygan.data.cutting import CropConfig
from tinygan.data.patches import MEDIUM, PAIRED, SMALL, stream_of
from tinygan.data.regions import RegionBatch, Regions, RegionSource
from tinygan.detections import ByteArray, FloatArray, IntArray
from tinygan.errors import ConfigError
from tinygan.losses import box_loss, classification_loss, imitation_loss
from tinygan.models.build import build_discriminator, load_discriminator, load_generator
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig, Judgement, grow
from tinygan.models.pixels import to_float
from tinygan.models.pruning import shrink
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.models.surroundings import Surroundings
from tinygan.pictures import HIT, MISSED, UNJUDGED, draw_boxes, save_png, sr_sheet
from tinygan.runtime import Runtime, seed_everything
from tinygan.training.gan import check_fits, check_same
from tinygan.training.loop import descend, restore, run_loop, stage_batch_size, states_of
from tinygan.training.prepare import TrainingInput, prepare_regions
from tinygan.training.recipe import Recipe
from tinygan.training.run import RunFolder, finish, moving_average, trained_on
from tinygan.training.samples import roc_area

MEASURED, PICTURED = 4000, 8  # held-out regions in the figures, and on the sheet
NEAR_IOU = 0.1  # with a face, from which the teacher's box is learnt
DETECTOR_HEADS = ("ClassHead", "BboxHead", "LandmarkHead")  # of a public checkpoint; the tower has none


class JudgeStage:
    """The discriminator and its optimiser.

    Args:
        recipe: the sizes, the losses and the schedule; ``recipe.discriminator`` is the form after growing.
        runtime: the device and the precision.
        held_out: held-out regions, for figures and sample pictures.
        discriminator: the discriminator to train.
        teacher: a discriminator whose answers it learns as well; its weights stay.
    """

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        held_out: Regions,
        discriminator: Discriminator,
        teacher: Discriminator | None = None,
    ) -> None:
        self.recipe, self.runtime, self.held_out = recipe, runtime, held_out
        self.discriminator, settings = discriminator, recipe.judge_training
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        for network in filter(None, (self.discriminator, self.teacher)):
            runtime.place(network)
        tower = discriminator.surroundings
        slower = [(discriminator.features, settings.backbone_rate)]
        if tower is not None:
            slower.append((tower, settings.surroundings_rate))
        groups = [{"params": list(part.parameters()), "factor": factor} for part, factor in slower]
        of_parts = {id(parameter) for part, _ in slower for parameter in part.parameters()}
        heads = [parameter for parameter in discriminator.parameters() if id(parameter) not in of_parts]
        groups.append({"params": heads, "factor": 1.0})
        self.optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.average = moving_average(self.discriminator, settings.ema_decay)

    def step(self, batch: RegionBatch) -> Mapping[str, Tensor]:
        """Update the discriminator once, on its face logit and its box."""
        batch, settings = batch.to(self.runtime.device), self.recipe.judge_training
        self.discriminator.train()
        with self.runtime.autocast():
            verdict = self.discriminator(batch.hr, batch.wide)  # [B, 3, S, S], [B, 3, W, W] -> logits [B], boxes [B, 4]
        labels, terms = batch.labels, {}
        if verdict.box is not None:
            before, after = _ious(batch.boxes, batch.targets), _ious(verdict.box.detach(), batch.targets)  # [B] each
            teaches = before >= settings.box_iou  # [B]
            terms["box"] = box_loss(verdict.box[teaches], batch.targets[teaches])
            labels = (torch.maximum(before, after) >= self.recipe.rois.positive_iou).float()
        terms["classification"] = classification_loss(verdict.face_logit, labels)
        loss = terms["classification"] + settings.box_weight * terms.get("box", torch.zeros(()))
        if self.teacher is not None:
            terms["imitation"] = self._imitation(batch, verdict)
            loss = (1 - settings.taught) * loss + settings.taught * terms["imitation"]
        descend(loss, self.discriminator, self.optimiser, self.runtime)
        if self.average is not None:
            self.average.update_parameters(self.discriminator)
        with torch.no_grad():
            terms["accuracy_face"] = ((verdict.face_logit > 0) == (labels > 0.5)).float().mean()
            terms["share_of_faces"] = labels.mean()
        return terms

    def _imitation(self, batch: RegionBatch, verdict: Judgement) -> Tensor:
        """How far the answers are from the teacher's, boxes where a face may be near."""
        assert self.teacher is not None
        with torch.no_grad(), self.runtime.autocast():
            taught = self.teacher(batch.hr, batch.wide)
        loss = imitation_loss(verdict.face_logit, taught.face_logit)
        if verdict.box is None or taught.box is None:
            return loss
        near = _ious(batch.boxes, batch.targets) >= NEAR_IOU
        return loss + self.recipe.judge_training.box_weight * box_loss(verdict.box[near], taught.box[near].float())

    def set_learning_rate(self, rate: float) -> None:
        """Set the optimiser's learning rates."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]

    def state_dict(self) -> dict[str, Any]:
        """The state of the discriminator, its optimiser and its average."""
        self.runtime.average_buffers(self.discriminator)
        return states_of(self._parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all of them."""
        restore(self._parts(), state)

    def evaluate(self) -> dict[str, float]:
        """Area under the ROC curve of held-out proposals by size; mean IoU with the face before and after moving."""
        regions = self.held_out
        figures: dict[str, float] = {}
        rows = np.arange(len(regions))[:: max(1, -(-len(regions) // MEASURED))]
        if not len(rows):
            return {}
        face_logits, boxes = self._predict(rows)
        before, labels = _iou_rows(regions.boxes[rows], regions.targets[rows]), regions.labels[rows]
        if boxes is not None:
            after = _iou_rows(boxes, regions.targets[rows])
            near = before >= self.recipe.judge_training.box_iou
            figures = {"iou_before": float(before[near].mean()), "iou_after": float(after[near].mean())}
        streams = np.array([stream_of(side, self.recipe.crops) for side in regions.sides_px[rows]])
        for stream in (SMALL, MEDIUM, PAIRED):
            area = roc_area(face_logits[streams == stream], labels[streams == stream])
            if area is not None:
                figures[f"auc_{stream}"] = area
        return figures

    def draw_samples(self, path: Path) -> None:
        """Write a sheet of held-out faces: the crop with the boxes of the proposal (blue), the predicted face (green)
        and the true face (yellow), the crop as the discriminator sees it, and its surroundings."""
        regions = self.held_out
        faces = np.flatnonzero(np.isfinite(regions.targets[:, 0]))
        rows = faces[:: max(1, -(-len(faces) // PICTURED))]
        if not len(rows):
            return
        _, found = self._predict(rows)
        sheet = []
        for at, row in enumerate(rows):
            framed = [regions.boxes[row], regions.targets[row]] + ([] if found is None else [found[at]])
            drawn = self._draw_on_crop(regions.hr[row], np.stack(framed))
            sheet.append({"boxes": drawn, "crop": regions.hr[row], "wide": regions.wide[row]})
        save_png(sr_sheet(sheet, tile_px=192), path)

    def _draw_on_crop(self, hr: ByteArray, framed: FloatArray) -> ByteArray:
        """The crop, enlarged, with boxes given in its frame."""
        size_px = 3 * len(hr)
        large = np.asarray(Image.fromarray(hr).resize((size_px, size_px), Image.Resampling.BICUBIC))
        boxes = (framed / self.recipe.crops.context + 0.5) * size_px
        return draw_boxes(large, boxes, (UNJUDGED, MISSED, HIT)[: len(boxes)], width_px=1)

    def final_network(self) -> Discriminator:
        """The network to save: the average, if the recipe has one."""
        network = self.discriminator if self.average is None else self.average.module
        assert isinstance(network, Discriminator)
        return network

    @torch.no_grad()
    def _predict(self, rows: IntArray) -> tuple[FloatArray, FloatArray | None]:
        network = copy.deepcopy(self.final_network()).eval()
        logits: list[FloatArray] = []
        boxes: list[FloatArray] = []
        for part in np.array_split(rows, max(1, len(rows) // 200)):
            pictures = (to_float(np.array(stack[part])) for stack in (self.held_out.hr, self.held_out.wide))
            with self.runtime.autocast():
                verdict = network(*(picture.to(self.runtime.device) for picture in pictures))
            logits.append(verdict.face_logit.float().cpu().double().numpy())
            if verdict.box is not None:
                boxes.append(verdict.box.cpu().double().numpy())
        return np.concatenate(logits), np.concatenate(boxes) if boxes else None

    def _parts(self) -> dict[str, Any]:
        named: dict[str, Any] = {"discriminator": self.discriminator, "optimiser": self.optimiser}
        return named if self.average is None else {**named, "average": self.average}


def train_judge(
    data: TrainingInput,
    init: Path,
    recipe: Recipe,
    folder: RunFolder,
    runtime: Runtime,
    surroundings: Path | None = None,
    teacher: Path | None = None,
) -> list[str]:
    """Run the stage to its end; the folder then holds ``model.safetensors`` of kind ``gan``.

    Args:
        data: images and at least one detector's proposals.
        init: run folder of stage ``gan``, or of a stage ``judge`` that is to be trained further.
        recipe: the settings; the sizes must be those of ``init``, except that the discriminator may be larger.
        folder: the run folder.
        runtime: the device and the precision.
        surroundings: PyTorch file of a RetinaFace-MobileNet0.25, from which the tower for the surroundings starts.
        teacher: run folder of stage ``judge`` of another judge, whose answers are learnt as well.

    Returns:
        One line per image that could not be read.

    Raises:
        CheckpointError: if ``init`` is of another kind, the weights in ``init`` or ``surroundings`` do not fit, or the
            teacher sees other pictures.
        ConfigError: if ``surroundings`` is given but the recipe has no tower for the surroundings.
    """
    tower = None if surroundings is None else _public_tower(surroundings, recipe)
    start = load_checkpoint(init, ("gan", "fused"))
    check_fits(start, recipe, init)
    teaches = None if teacher is None else _teacher(teacher, recipe)
    recipe = replace(recipe, discriminator=recipe.judge_training.form(recipe.discriminator), second=None)
    generator = load_generator(start)
    runtime.place(generator)
    prepared = prepare_regions(data, recipe, generator, folder.patches, runtime)
    seed_everything(recipe.seed)
    discriminator = _starting_discriminator(start, recipe, tower)
    stage = JudgeStage(recipe, runtime, prepared.holdout, discriminator, teaches)
    batch_size = stage_batch_size(recipe.judge, runtime)
    batches = RegionSource(prepared.training, recipe.batches, batch_size, recipe.seed, runtime.rank, runtime.world_size)
    run_loop(stage, batches.draw, recipe.judge, folder, runtime)
    if runtime.is_main:
        tensors = {name: value for name, value in start.tensors.items() if name.startswith("generator.")}
        tensors |= {f"discriminator.{name}": value for name, value in stage.final_network().state_dict().items()}
        checkpoint = Checkpoint("gan", to_tree(recipe), tensors, trained_on(prepared) | start.trained_on)
        save_checkpoint(folder.file(WEIGHTS_FILE), checkpoint)
        finish(folder, prepared)
    return prepared.unreadable


def _starting_discriminator(
    start: Checkpoint, recipe: Recipe, surroundings: Mapping[str, Tensor] | None
) -> Discriminator:
    """The discriminator that is trained: that of ``start``, grown or narrowed; of another backbone its tower alone."""
    crops, form, trained = recipe.crops, recipe.discriminator, start.part("discriminator")
    before = build_config(DiscriminatorConfig, start.recipe["discriminator"])
    if form.backbone == before.backbone:
        discriminator = Discriminator(replace(form, weights="none"), crops.hr_size, crops.wide_size)
        if form.backbone == "vgg_lite" and any(map(int.__lt__, form.lite_widths, before.lite_widths)):
            shrink(discriminator, load_discriminator(start, crops.hr_size, crops.wide_size))
        else:
            grow(discriminator, trained)
    else:
        discriminator = build_discriminator(form, crops.hr_size, crops.wide_size)
        grow(discriminator, {name: value for name, value in trained.items() if name.startswith("surroundings.")})
    if discriminator.surroundings is not None and surroundings is not None:
        discriminator.surroundings.load_state_dict(surroundings)
    return discriminator


def _teacher(path: Path, recipe: Recipe) -> Discriminator:
    """The discriminator of a checkpoint, which must see the same pictures as the one that learns."""
    checkpoint, crops = load_checkpoint(path, ("gan", "fused")), recipe.crops
    check_same("crops", build_config(CropConfig, checkpoint.recipe["crops"]), crops, path)
    return load_discriminator(checkpoint, crops.hr_size, crops.wide_size)


def _public_tower(path: Path, recipe: Recipe) -> dict[str, Tensor]:
    if recipe.judge_training.surroundings == "none":
        raise ConfigError(
            f"{path}: weights for the tower of surroundings, but judge_training.surroundings is none; "
            "set judge_training.surroundings=mobilenet025"
        )
    tower, tensors = Surroundings(), load_tensors(path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(DETECTOR_HEADS)}
    load_into(tower, kept, path, "RetinaFace with backbone mobilenet025")
    return tower.state_dict()


def _ious(boxes: Tensor, targets: Tensor) -> Tensor:
    """IoU of each box with its own target, [B]; 0 where there is no target (NaN)."""
    low, high = torch.maximum(boxes[:, :2], targets[:, :2]), torch.minimum(boxes[:, 2:], targets[:, 2:])
    shared = (high - low).clamp_min(0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (targets[:, 2:] - targets[:, :2]).prod(dim=1)
    return (shared / (areas - shared)).nan_to_num(0.0)


def _iou_rows(boxes: FloatArray, targets: FloatArray) -> FloatArray:
    ious: FloatArray = _ious(torch.from_numpy(boxes), torch.from_numpy(targets)).numpy()
    return ious
