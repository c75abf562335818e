"""Images -> proposals on disk: the engine behind ``tinygan-propose``."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from tinygan.concurrency import ordered_map
from tinygan.config import to_tree
from tinygan.detections import Detections
from tinygan.errors import ConfigError, DataError, unexpected
from tinygan.files import fingerprint, report_json
from tinygan.formats import wider
from tinygan.formats.images import Orientation, read_image
from tinygan.formats.names import find_images, match_names, output_names
from tinygan.formats.sizes import several_or_large
from tinygan.formats.writing import DetectionWriter, Fingerprint
from tinygan.proposers import Proposer, to_tensor
from tinygan.runtime import Runtime, on_own_threads

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

    On a CPU several images that are not large are searched at once, if the proposer has an attribute ``side_by_side``
    above 1. Else images are decoded on threads while the network runs; at most ``workers + 2`` of them and one batch
    wait. Either way memory does not grow with their number.

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
    side_by_side = getattr(proposer, "side_by_side", 1) if batch_size == 1 else 1

    def search_one(name: str) -> list[_Searched]:
        return _search([_decode(name, plan)], proposer)

    def searched() -> Iterator[list[_Searched]]:
        for several, names in several_or_large(todo, plan.image_of.__getitem__, side_by_side):
            if several:
                yield from on_own_threads(search_one, names, side_by_side)
            else:
                decoded = ordered_map(lambda name: _decode(name, plan), names, workers, workers + 2)
                yield from (_search(batch, proposer) for batch in _batches(decoded, batch_size))

    with tqdm(total=len(todo), desc="proposing", unit="image", disable=None) as bar:
        for batch in searched():
            for one in batch:
                _keep(one, writer, inputs, report)
                bar.update()
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
        return _Decoded(name, to_tensor(picture))
    except DataError as error:
        return _Decoded(name, torch.zeros(3, 0, 0, dtype=torch.uint8), str(error))


class _Searched(NamedTuple):
    """What was found in an image, or why nothing could be: it could not be read, or the first stage failed."""

    name: str
    boxes: Detections
    unreadable: str | None = None
    failed: str | None = None


def _batches(pictures: Iterable[_Decoded], batch_size: int) -> Iterator[list[_Decoded]]:
    rest = iter(pictures)
    while batch := list(islice(rest, batch_size)):
        yield batch


def _search(batch: list[_Decoded], proposer: Proposer) -> list[_Searched]:
    """Search a batch; if the first stage fails on it, its images one by one."""
    none = Detections.empty()
    readable = [picture for picture in batch if picture.error is None]
    try:
        found = proposer.propose([picture.pixels for picture in readable]) if readable else []
        boxes = dict(zip([picture.name for picture in readable], found, strict=True))
    except ConfigError:  # of the first stage itself
        raise
    except Exception as error:  # whatever one image makes of somebody's network costs that image alone
        if len(batch) > 1:
            return [one for picture in batch for one in _search([picture], proposer)]
        name = batch[0].name
        return [
            _Searched(
                name, none, failed=f"{name}: {error}" if isinstance(error, DataError) else unexpected(error, name)
            )
        ]
    return [
        _Searched(one.name, boxes[one.name]) if one.error is None else _Searched(one.name, none, unreadable=one.error)
        for one in batch
    ]


def _keep(searched: _Searched, writer: DetectionWriter, inputs: Mapping[str, Fingerprint], report: Report) -> None:
    """Write what was found, or note why nothing was."""
    if searched.unreadable is not None:
        log.warning("unreadable: %s", searched.unreadable)
        report.unreadable.append(searched.unreadable)
        return
    if searched.failed is not None:
        log.warning("failed: %s", searched.failed)
        report.failed.append(searched.failed)
        return
    try:
        writer.write(searched.name, searched.boxes)
    except DataError as error:  # a name that is not UTF-8
        report.failed.append(str(error))
        return
    writer.finish(searched.name, inputs[searched.name])
    _count(report, len(searched.boxes))


def _count(report: Report, boxes: int) -> None:
    report.images += 1
    report.boxes += boxes
    report.without_boxes += boxes == 0
