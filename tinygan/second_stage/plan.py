"""Which proposals belong to which image: what is read and checked before anything is rescored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError
from tinygan.files import fingerprint
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.folders import DetectionFiles
from tinygan.formats.images import Orientation
from tinygan.formats.names import find_images, match_names, output_names
from tinygan.formats.plausible import BoxCheck, explain_scores, score_logit
from tinygan.formats.registry import open_detections
from tinygan.formats.spool import Spool
from tinygan.formats.wider import load_subset
from tinygan.formats.writing import Fingerprint
from tinygan.second_stage.rescoring import RescoreConfig


@dataclass(frozen=True)
class Plan:
    """Which proposal file belongs to which image.

    Attributes:
        files: the proposals.
        file_of: ``{output name: proposal file}``; images to be searched may have none.
        image_of: ``{output name: image on disk}``; images that are missing have no entry.
        proposals: ``{output name: proposals by falling score}``.
        without_proposals: images on disk without a proposal file.
        unusable: why files among the proposals were not read.
        unread: pictures of kinds that are not read.
        orientation: ``upright`` or ``stored``: the position of the pictures that boxes refer to.
    """

    files: DetectionFiles
    file_of: dict[str, str]
    image_of: dict[str, Path]
    proposals: Mapping[str, Detections]
    without_proposals: list[str]
    unusable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    orientation: Orientation = "upright"


def plan_rescoring(
    proposals: Path,
    images: Path,
    config: RescoreConfig,
    subset: Path | None = None,
    orientation: Orientation = "upright",
    dialect: Dialect = AS_WRITTEN,
    format: str | None = None,
    search: bool = False,
) -> Plan:
    """Match proposal files to images and read every one, before anything is computed or written.

    Warns if the boxes do not look like what they are taken for. ``format`` is the proposals', if it is not to be found
    out. With ``search``, images without a proposal file are images without proposals.

    Raises:
        ConfigError: if there is no such format.
        DataError: if a path is absent, a proposal file is malformed or its scores unfit for fusion, or
            names are ambiguous.
    """
    files = open_detections(proposals, format, replace(dialect, images=images, orientation=orientation))
    on_disk, unread = find_images(images)
    if subset is None:
        file_of = match_names(files, on_disk, str(proposals))
        image_of = {name: images / name for name in on_disk}
        strays = sorted(set(files) - set(file_of.values()))
        for stray in strays:
            name = "/".join(stray.split("/")[-2:])
            file_of[name if name not in file_of else stray] = stray
    else:
        wanted = load_subset(subset)
        file_of = match_names(files, wanted, str(proposals))
        image_of = {name: images / file for name, file in match_names(on_disk, wanted, str(images)).items()}
        if not file_of:
            raise DataError(f"{proposals}: none of its {len(files)} files belongs to an image that {subset} lists")
    if not set(file_of) & set(image_of):
        raise DataError(
            f"{proposals}: none of its {len(files)} files belongs to an image below {images}; "
            "proposals are matched to images by event folder and name"
        )
    parsed, unusable = _read_proposals(files, file_of, image_of, config, orientation)
    without = sorted(set(image_of) - set(file_of))
    if search:
        for name in sorted(set(image_of) - set(parsed)):
            parsed.add(name, Detections.empty())
            file_of.pop(name, None)  # an empty one
        without = []
    output_names(parsed, images if search else proposals)  # no two of one file
    return Plan(files, file_of, image_of, parsed, without, unusable, unread, orientation)


def fingerprints(plan: Plan) -> dict[str, Fingerprint]:
    """What shows, for each image, that its picture or its proposals changed."""
    inputs = {}
    for name, proposals in plan.proposals.items():
        digest = hashlib.blake2b(proposals.boxes.tobytes() + proposals.scores.tobytes(), digest_size=8)
        inputs[name] = {"picture": fingerprint(plan.image_of.get(name)), "proposals": digest.hexdigest()}
    return inputs


def _read_proposals(
    files: DetectionFiles,
    file_of: Mapping[str, str],
    image_of: Mapping[str, Path],
    config: RescoreConfig,
    orientation: Orientation,
) -> tuple[Spool, list[str]]:
    """The proposals of all images by falling score, each file parsed once and its scores checked.

    Also says which files hold none: empty ones, and strays such as a README, which belong to no image.
    """
    proposals, unusable, check = Spool(), [], BoxCheck(image_of, file_of, orientation)
    for name, file in file_of.items():
        try:
            detections = files[file]
        except DataError as error:
            if name in image_of and files.text(file).strip():
                raise
            empty = name in image_of
            unusable.append(f"{files.describe(file)}: is empty, expected proposals" if empty else f"{error}; not read")
            continue
        if config.method != "replace" or len(detections) > config.max_rois:  # unjudged boxes are imputed from scores
            try:
                score_logit(detections.scores)
            except DataError as error:
                problem = explain_scores(_all_scores(files, file_of.values()))
                raise DataError(f"{files.describe(file)}: {problem}") from error
        proposals.add(name, detections.sorted())
        check.add(name, detections)
    if not proposals:
        raise DataError(unusable[0])
    check.warn(files)
    return proposals, unusable


def _all_scores(files: DetectionFiles, names: Iterable[str]) -> FloatArray:
    """Scores of all files that can be read: percents are told from logits by many of them."""
    scores = [np.zeros(0)]
    for name in names:
        with suppress(DataError):
            scores.append(files[name].scores)
    return np.concatenate(scores)
