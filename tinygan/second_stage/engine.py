"""Images + proposals -> rescored detections: the engine behind ``tinygan-rescore``."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinygan.boxes import longer_side
from tinygan.checkpoint import Weights
from tinygan.config import build_config, to_tree
from tinygan.detections import FloatArray
from tinygan.errors import DataError
from tinygan.files import write_atomically
from tinygan.formats.folders import DetectionFiles, DetectionWriter
from tinygan.formats.names import list_images, match_names
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_subset
from tinygan.second_stage.calibration import DetectorView, score_logit
from tinygan.second_stage.fusion import (
    view_detector,
)
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Answer, Request, judge_images
from tinygan.second_stage.rescoring import RescoreConfig, fuse_detections

log = logging.getLogger(__name__)
VIEW_FILE = "detector_view.json"
KEPT = ("rescore.json", VIEW_FILE)  # beside the detections
SETTINGS = ("method", "fusion", "view", "view_rois", "move_boxes", "max_rois")  # a resumed run must have the same


@dataclass
class Report:
    """What a run did; ``proposals = written + merged`` and ``proposals = rescored + passed_through``.

    Attributes:
        images: images whose detections were written.
        missing: images with proposals that are not on disk; their proposals were kept.
        unreadable: images that could not be decoded; their proposals were kept.
        without_proposals: images on disk for which there is no proposal file.
        proposals: boxes read.
        rescored: boxes judged by the networks.
        passed_through: boxes not judged: beyond ``max_rois`` (face logit imputed), or of images not read.
        merged: boxes removed by merging.
        written: boxes written.
        resumed: images found done by an earlier, cut-off run.
        view: where the view of the detector came from.
        seconds: wall time.
        rois_per_second: ``rescored`` of this run over ``seconds``.
    """

    images: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    without_proposals: list[str] = field(default_factory=list)
    proposals: int = 0
    rescored: int = 0
    passed_through: int = 0
    merged: int = 0
    written: int = 0
    resumed: int = 0
    view: str = "none"
    seconds: float = 0.0
    rois_per_second: float = 0.0

    @property
    def skipped(self) -> list[str]:
        """A line for every image that was not rescored."""
        return [
            *(f"{name}: not on disk, proposals kept" for name in self.missing),
            *(f"{problem}; proposals kept" for problem in self.unreadable),
            *(f"{name}: no proposal file" for name in self.without_proposals),
        ]

    def to_json(self) -> str:
        """Counts first, then the names behind them."""
        counts = {key: len(value) if isinstance(value, list) else value for key, value in asdict(self).items()}
        names = {f"{key}_images": value for key, value in asdict(self).items() if isinstance(value, list)}
        return json.dumps({**counts, **names}, indent=1) + "\n"


@dataclass(frozen=True)
class Plan:
    """Which proposal file belongs to which image.

    Attributes:
        files: the proposals.
        file_of: ``{output name: proposal file}``.
        image_of: ``{output name: image on disk}``; images that are missing have no entry.
        counts: ``{output name: number of proposals}``.
        without_proposals: images on disk without a proposal file.
    """

    files: DetectionFiles
    file_of: dict[str, str]
    image_of: dict[str, Path]
    counts: dict[str, int]
    without_proposals: list[str]


def plan_rescoring(proposals: Path, images: Path, config: RescoreConfig, subset: Path | None = None) -> Plan:
    """Match proposal files to images and read every one, before anything is computed or written.

    Raises:
        DataError: if a path is absent, a proposal file is malformed or its scores unfit for fusion, or
            names are ambiguous.
    """
    files = open_detections(proposals)
    on_disk = list_images(images)
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
    counts = {name: _count_proposals(files, file, config) for name, file in file_of.items()}
    return Plan(files, file_of, image_of, counts, sorted(set(image_of) - set(file_of)))


def rescore(plan: Plan, judge: Judge, config: RescoreConfig, writer: DetectionWriter) -> Report:
    """Rescore every proposal and write one file an image.

    Args:
        plan: what belongs together.
        judge: the networks.
        config: fusion and limits.
        writer: where detections go; images it holds already are left as they are.

    Returns:
        What was done.
    """
    started = time.monotonic()
    report = Report(without_proposals=plan.without_proposals)
    todo = []
    for name, count in plan.counts.items():
        report.images += 1
        report.proposals += count
        if name not in plan.image_of:
            report.missing.append(name)
            _keep(plan, name, writer, report)
        elif writer.has(name):
            report.resumed += 1
            _count(report, count, writer.count(name), config)
        else:
            todo.append(name)
    view, known = _find_view(plan, judge, config, writer, report)
    judged = sum(len(answer.face_logits) for answer in known.values())
    for name in todo:
        if name in known:
            _finish(plan, name, known[name], view, config, writer, report)
    for answer in _judge(plan, [name for name in todo if name not in known], judge, config, "rescoring"):
        _finish(plan, answer.name, answer, view, config, writer, report)
        judged += len(answer.face_logits)
    report.seconds = round(time.monotonic() - started, 3)
    report.rois_per_second = round(judged / max(report.seconds, 1e-9), 1)
    return report


def run_settings(weights: Weights, config: RescoreConfig, proposals: Path, precision: str) -> dict[str, object]:
    """What decides a run's result, as JSON types."""
    digest = hashlib.sha256()
    for name in sorted(weights.tensors):
        digest.update(weights.tensors[name].contiguous().numpy().tobytes())
    settings = {key: value for key, value in to_tree(config).items() if key in SETTINGS}
    where = {"proposals": str(proposals.resolve()), "precision": precision}
    return {"weights": digest.hexdigest(), **settings, **where}


def _find_view(
    plan: Plan, judge: Judge, config: RescoreConfig, writer: DetectionWriter, report: Report
) -> tuple[DetectorView | None, dict[str, Answer]]:
    """The detector's map, and the answers it was found from; a resumed run takes the one it began with."""
    if config.method != "logit" or config.view == "none" or config.fusion.evidence is None:
        return None, {}
    file = writer.folder / VIEW_FILE
    known: dict[str, Answer] = {}
    if file.is_file():
        saved = json.loads(file.read_text())
    else:
        known = {answer.name: answer for answer in _judge(plan, _sample(plan, config), judge, config, "reading scores")}
        scores, face_logits, sides_px = _columns(plan, known)
        found = view_detector(config.fusion, scores, face_logits, sides_px)
        saved = {"proposals": len(scores), "view": None if found is None else to_tree(found)}
        write_atomically(file, json.dumps(saved).encode())
    view = None if saved["view"] is None else build_config(DetectorView, saved["view"])
    report.view = "usual" if view is None else f"found from {saved['proposals']} proposals"
    return view, known


def _sample(plan: Plan, config: RescoreConfig) -> list[str]:
    """Images spread evenly over all, with about ``view_rois`` proposals in all."""
    names = [name for name in plan.counts if name in plan.image_of]
    total = sum(min(plan.counts[name], config.max_rois) for name in names)
    return names[:: max(1, -(-total // config.view_rois))]


def _columns(plan: Plan, answers: Mapping[str, Answer]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores, face logits and sides of all judged proposals."""
    columns: list[tuple[FloatArray, FloatArray, FloatArray]] = [(np.zeros(0), np.zeros(0), np.zeros(0))]
    for name, answer in answers.items():
        best = plan.files[plan.file_of[name]].sorted()[: len(answer.face_logits)]
        columns.append((best.scores, answer.face_logits, longer_side(best.boxes)))
    scores, face_logits, sides_px = (np.concatenate(column) for column in zip(*columns, strict=True))
    return scores, face_logits, sides_px


def _judge(plan: Plan, names: list[str], judge: Judge, config: RescoreConfig, task: str) -> Iterator[Answer]:
    def requests() -> Iterator[Request]:
        for name in names:
            best = plan.files[plan.file_of[name]].sorted()[: config.max_rois]
            yield Request(name, plan.image_of[name], best.boxes)

    answers = judge_images(judge, requests(), config.batch_size, config.workers, config.looks)
    yield from tqdm(answers, total=len(names), desc=task, unit="image", disable=None)


def _finish(
    plan: Plan,
    name: str,
    answer: Answer,
    view: DetectorView | None,
    config: RescoreConfig,
    writer: DetectionWriter,
    report: Report,
) -> None:
    """Write one image's detections; those of an image that cannot be read as they are."""
    if answer.error is not None:
        log.warning("unreadable: %s", answer.error)
        report.unreadable.append(answer.error)
        _keep(plan, name, writer, report)
        return
    detections = plan.files[plan.file_of[name]].sorted()
    final = fuse_detections(detections, answer, config, view)
    writer.write(name, final)
    _count(report, len(detections), len(final), config)


def _count_proposals(files: DetectionFiles, file: str, config: RescoreConfig) -> int:
    detections = files[file]
    if config.method != "replace" or len(detections) > config.max_rois:  # unjudged boxes are imputed from scores
        try:
            score_logit(detections.scores)
        except DataError as error:
            raise DataError(f"{files.describe(file)}: {error}") from error
    return len(detections)


def _keep(plan: Plan, name: str, writer: DetectionWriter, report: Report) -> None:
    """Write proposals as they are."""
    writer.write_text(name, plan.files.text(plan.file_of[name]))
    report.passed_through += plan.counts[name]
    report.written += plan.counts[name]


def _count(report: Report, proposals: int, written: int, config: RescoreConfig) -> None:
    judged = min(proposals, config.max_rois)
    report.rescored += judged
    report.passed_through += proposals - judged
    report.written += written
    report.merged += proposals - written
