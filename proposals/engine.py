"""Images -> proposals on disk: the engine behind ``tinygan-propose``."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tinygan.concurrency import ordered_map
from tinygan.config import to_tree
from tinygan.errors import ConfigError, DataError, unexpected
from tinygan.files import fingerprint, report_json
from tinygan.formats import wider
from tinygan.formats.images import Orientation, read_image
from tinygan.formats.names import find_images, match_names, output_names
from tinygan.formats.writing import DetectionWriter, Fingerprint
from tinygan.proposers import Proposer
from tinygan.runtime import Runtime

log = logging.getLogger(__name__)
KEPT = ("propose.json",)  # beside the proposals


@dataclass
class Report:
    """What a run did.

    Attributes:
        images: images whose proposals were written.
        missing: names of the subset that are not on disk.
        unreadable: why each image that could not be decoded was skipped.
        failed: why the first stage could not search others.
        unread: pictures of kinds that are not read.
        without_boxes: images in which nothing was found; their files hold no box.
        boxes: proposals written.
        resumed: images found done by an earlier, cut-off run.
        seconds: wall time.
        ms_per_image: wall time over the images of this run.
    """

    images: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    without_boxes: int = 0
    boxes: int = 0
    resumed: int = 0
    seconds: float = 0.0
    ms_per_image: float = 0.0

    @property
    def skipped(self) -> list[str]:
        """A line for every image without proposals."""
        return [*(f"{name}: not on disk" for name in self.missing), *self.unreadable, *self.failed]

    def to_json(self) -> str:
        """Counts first, then the names behind them."""
        return report_json(asdict(self))


@dataclass(frozen=True)
class Plan:
    """Which images to look at.

    Attributes:
        image_of: ``{output name: image on disk}``; names are relative to the folder of images.
        missing: names of the subset that are not on disk.
        unread: pictures of kinds that are not read.
        orientation: ``upright`` or ``stored``; boxes refer to the picture in this position.
    """

    image_of: Mapping[str, Path]
    missing: list[str]
    unread: list[str] = field(default_factory=list)
    orientation: Orientation = "upright"


def plan_proposing(images: Path, subset: Path | None = None, orientation: Orientation = "upright") -> Plan:
    """List images before anything is computed or written.

    Raises:
        DataError: if a path is absent, no image is there, or two images would share one file.
    """
    (names, unread), missing = find_images(images), []
    if subset is not None:
        wanted = list(dict.fromkeys(wider.load_subset(subset)))
        matched = match_names(wanted, names, str(subset))
        if not matched:
            raise DataError(
                f"{subset}: none of its {len(wanted)} names is among the {len(names)} images below {images}"
            )
        found = set(matched.values())
        names, missing = [name for name in names if name in matched], [name for name in wanted if name not in found]
    output_names(names, images)  # no two of one file
    return Plan({name: images / name for name in names}, missing, unread, orientation)


def run_settings(
    proposer: str,
    config: object,
    weights: Path | None,
    images: Path,
    runtime: Runtime,
    orientation: Orientation = "upright",
) -> dict[str, object]:
    """What decides a run's result, as JSON types."""
    digest = None if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest()
    tree = json.loads(json.dumps(to_tree(config)))
    where = {"images": str(images.resolve()), **runtime.settings(), "orientation": orientation}
    return {"proposer": proposer, "config": tree, "weights": digest, **where}


def propose_all(
    plan: Plan, proposer: Proposer, writer: DetectionWriter, batch_size: int = 1, workers: int = 2
) -> Report:
    """Run a first stage over all images and write one file per image.

    Images are decoded on threads while the network runs; at most ``workers + 2`` of them and one batch wait, so
    memory does not grow with their number.

    Args:
        plan: the images.
        proposer: finds boxes.
        writer: where they go; images it holds already are left as they are.
        batch_size: images handed to the proposer at once.
        workers: threads that decode.

    Returns:
        What was done.

    Raises:
        DataError: if images that are done changed since, or the first stage fails on every image.
        ConfigError: if the first stage's scores are no probabilities.
    """
    started = time.monotonic()
    report = Report(missing=plan.missing, unread=plan.unread)
    inputs = {name: {"picture": fingerprint(path)} for name, path in plan.image_of.items()}
    done = writer.done(inputs)
    for name in done:
        report.resumed += 1
        _count(report, writer.count(name))
    todo = [name for name in plan.image_of if name not in done]
    batch: list[_Decoded] = []
    for picture in tqdm(
        ordered_map(lambda name: _decode(name, plan), todo, workers, workers + 2),
        total=len(todo),
        desc="proposing",
        unit="image",
        disable=None,
    ):
        if picture.error is not None:
            log.warning("unreadable: %s", picture.error)
            report.unreadable.append(picture.error)
            continue
        batch.append(picture)
        if len(batch) == batch_size:
            _search(batch, proposer, writer, inputs, report)
            batch = []
    _search(batch, proposer, writer, inputs, report)
    if report.failed and not report.images:
        raise DataError(report.failed[0])
    report.seconds = round(time.monotonic() - started, 3)
    report.ms_per_image = round(1000 * report.seconds / max(report.images - report.resumed, 1), 1)
    return report


class _Decoded(NamedTuple):
    """An image, uint8 RGB [3, H, W] (without a pixel if it could not be read), and why it could not."""

    name: str
    pixels: Tensor
    error: str | None = None


def _decode(name: str, plan: Plan) -> _Decoded:
    try:
        picture = read_image(plan.image_of[name], plan.orientation)
        return _Decoded(name, torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    except DataError as error:
        return _Decoded(name, torch.zeros(3, 0, 0, dtype=torch.uint8), str(error))


def _search(
    batch: list[_Decoded],
    proposer: Proposer,
    writer: DetectionWriter,
    inputs: Mapping[str, Fingerprint],
    report: Report,
) -> None:
    """Search a batch and write what was found; if the first stage fails on it, its images one by one."""
    if not batch:
        return
    try:
        found = proposer.propose([picture.pixels for picture in batch])
    except ConfigError:  # of the first stage itself
        raise
    except Exception as error:  # whatever one image makes of somebody's network costs that image alone
        if len(batch) > 1:
            for picture in batch:
                _search([picture], proposer, writer, inputs, report)
            return
        name = batch[0].name
        reason = f"{name}: {error}" if isinstance(error, DataError) else unexpected(error, name)
        log.warning("failed: %s", reason)
        report.failed.append(reason)
        return
    for picture, boxes in zip(batch, found, strict=True):
        try:
            writer.write(picture.name, boxes)
        except DataError as error:  # a name that is not UTF-8
            report.failed.append(str(error))
            continue
        writer.finish(picture.name, inputs[picture.name])
        _count(report, len(boxes))


def _count(report: Report, boxes: int) -> None:
    report.images += 1
    report.boxes += boxes
    report.without_boxes += boxes == 0
