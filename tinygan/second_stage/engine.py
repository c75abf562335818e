"""Images + proposals -> rescored detections: the engine behind ``tinygan-rescore``."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tqdm import tqdm

from tinygan.checkpoint import Checkpoint
from tinygan.config import build_config, to_tree
from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError
from tinygan.files import fingerprint, report_json, write_atomically
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.folders import DetectionFiles
from tinygan.formats.images import ImageFile, Orientation
from tinygan.formats.names import find_images, match_names, output_names
from tinygan.formats.plausible import BoxCheck, explain_scores
from tinygan.formats.registry import open_detections
from tinygan.formats.spool import Spool
from tinygan.formats.wider import load_subset
from tinygan.formats.writing import DetectionWriter, Fingerprint
from tinygan.runtime import Runtime
from tinygan.second_stage.calibration import Calibration, score_logit
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Request, judge_images
from tinygan.second_stage.rescoring import RescoreConfig, calibrate_detector, rescore_judged

log = logging.getLogger(__name__)
Judging: TypeAlias = "Callable[[Iterable[Request]], Iterator[Judged]]"  # answers in order
CHUNK = 1024  # patches that are judged together, so that a result does not depend on where a run was cut off
CALIBRATION_FILE = "calibration.json"
KEPT = ("rescore.json", CALIBRATION_FILE)  # beside the detections
# A resumed run must have the same.
SETTINGS = (
    "method",
    "fusion",
    "calibration",
    "calibration_proposals",
    "move_boxes",
    "max_rois",
    "min_score",
    "least_log_odds",
)


@dataclass
class Report:
    """What a run did; ``proposals = written + merged`` and ``proposals = rescored + passed_through``.

    Attributes:
        images: images whose detections were written.
        missing: images with proposals that are not on disk; their proposals were kept.
        unreadable: images that could not be decoded; their proposals were kept.
        without_proposals: images on disk for which there is no proposal file.
        sizeless: why proposal files were left out, as those whose boxes are parts of an image that cannot be read.
        unusable: why files among the proposals were not read: empty ones, and strays that hold no proposals.
        unread: pictures of kinds that are not read.
        proposals: boxes read.
        rescored: boxes judged by the networks.
        passed_through: boxes not judged: beyond ``max_rois`` (face logit imputed), or of images not read.
        merged: boxes removed by merging.
        written: boxes written.
        resumed: images found done by an earlier, cut-off run.
        calibration: where the calibration of the detector came from.
        seconds: wall time.
        rois_per_second: ``rescored`` of this run over ``seconds``.
    """

    images: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    without_proposals: list[str] = field(default_factory=list)
    sizeless: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    proposals: int = 0
    rescored: int = 0
    passed_through: int = 0
    merged: int = 0
    written: int = 0
    resumed: int = 0
    calibration: str = "none"
    seconds: float = 0.0
    rois_per_second: float = 0.0

    @property
    def skipped(self) -> list[str]:
        """A line for every image that was not rescored, and every file of proposals that was not read."""
        return [
            *(f"{name}: not on disk, proposals kept" for name in self.missing),
            *(f"{problem}; proposals kept" for problem in self.unreadable),
            *(f"{name}: no proposal file" for name in self.without_proposals),
            *self.sizeless,
            *self.unusable,
        ]

    def to_json(self) -> str:
        """Counts first, then the names behind them."""
        return report_json(asdict(self))


@dataclass(frozen=True)
class Plan:
    """Which proposal file belongs to which image.

    Attributes:
        files: the proposals.
        file_of: ``{output name: proposal file}``.
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
) -> Plan:
    """Match proposal files to images and read every one, before anything is computed or written.

    Warns if the boxes do not look like what they are taken for. ``format`` is the proposals', if it is not to be found
    out.

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
    output_names(parsed, proposals)  # no two of one file
    without = sorted(set(image_of) - set(file_of))
    return Plan(files, file_of, image_of, parsed, without, unusable, unread, orientation)


def rescore(plan: Plan, judge: Judge | Judging, config: RescoreConfig, writer: DetectionWriter) -> Report:
    """Rescore every proposal and write one file an image.

    Args:
        plan: what belongs together.
        judge: the networks; or what has requests judged elsewhere (:func:`tinygan.second_stage.cluster.judging`).
        config: fusion and limits.
        writer: where detections go; images it holds already are left as they are.

    Returns:
        What was done.

    Raises:
        DataError: if pictures or proposals of images that are done changed since.
    """
    started = time.monotonic()
    judging = _here(judge, config) if isinstance(judge, Judge) else judge
    report = Report(
        without_proposals=plan.without_proposals,
        sizeless=[f"{name}: {reason}" for name, reason in plan.files.left_out.items()],
        unusable=plan.unusable,
        unread=plan.unread,
    )
    inputs = _fingerprints(plan)
    finished = writer.done(inputs)
    todo: list[str] = []
    done: list[str] = []
    for name, proposals in plan.proposals.items():
        report.images += 1
        report.proposals += len(proposals)
        if name not in plan.image_of:
            report.missing.append(name)
            _keep(plan, name, writer, report)
        else:
            (done if name in finished else todo).append(name)
    sample = _sample(plan, config) if is_calibrated(config) else []
    calibration, known = _find_calibration(plan, sample, judging, config, writer, report)
    for name in done:
        report.resumed += 1
        proposals = plan.proposals[name]
        _count(report, config.count_judged(proposals, calibration), len(proposals), writer.count(name))
    judged = sum(len(one.best) for one in known.values())
    for name in todo:
        if name in known:
            _finish(plan, known[name], calibration, config, writer, report, inputs[name])
    unknown, others = set(todo) - set(known), set(plan.image_of) - set(sample)
    # A run that is continued judges the images of its sample as that was judged, or their last bits would differ.
    for names, seen in ((sample, None), ([name for name in plan.proposals if name in others], calibration)):
        chunks = [chunk for chunk in _chunks(plan, names, config, seen) if not unknown.isdisjoint(chunk)]
        for one in _judge(plan, chunks, judging, config, "rescoring", seen):
            judged += len(one.best)
            if one.name in unknown:
                _finish(plan, one, calibration, config, writer, report, inputs[one.name])
    report.seconds = round(time.monotonic() - started, 3)
    report.rois_per_second = round(judged / max(report.seconds, 1e-9), 1)
    return report


def run_settings(
    weights: Checkpoint,
    config: RescoreConfig,
    proposals: Path | str,
    runtime: Runtime,
    orientation: Orientation = "upright",
    dialect: Dialect = AS_WRITTEN,
    format: str | None = None,
) -> dict[str, object]:
    """What decides a run's result, as JSON types."""
    settings = {key: value for key, value in to_tree(config).items() if key in SETTINGS}
    where = {
        "proposals": str(proposals.resolve() if isinstance(proposals, Path) else proposals),
        **runtime.settings(),
        "orientation": orientation,
    }
    where |= {"dialect": str(dialect)} if str(dialect) else {}
    where |= {"format": format} if format else {}
    return {"weights": weights.digest(), **settings, **where}


def is_calibrated(config: RescoreConfig) -> bool:
    """Whether the detector's calibration is found before anything is rescored."""
    return config.method == "logit" and config.calibration != "none" and config.fusion.curve is not None


def _find_calibration(
    plan: Plan, sample: list[str], judging: Judging, config: RescoreConfig, writer: DetectionWriter, report: Report
) -> tuple[Calibration | None, dict[str, Judged]]:
    """The calibration, and the judged images it was found from; a resumed run keeps the one it began with."""
    if not is_calibrated(config):
        return None, {}
    file = writer.folder / CALIBRATION_FILE
    known: dict[str, Judged] = {}
    if file.is_file():
        saved = json.loads(file.read_text())
    else:
        chunks = _chunks(plan, sample, config, None)
        known = {one.name: one for one in _judge(plan, chunks, judging, config, "reading scores")}
        found = calibrate_detector(known.values(), config.fusion)
        count = sum(len(one.best) for one in known.values())
        saved = {"proposals": count, "calibration": None if found is None else to_tree(found)}
        write_atomically(file, json.dumps(saved).encode())
    calibration = None if saved["calibration"] is None else build_config(Calibration, saved["calibration"])
    report.calibration = "usual" if calibration is None else f"found from {saved['proposals']} proposals"
    return calibration, known


def _sample(plan: Plan, config: RescoreConfig) -> list[str]:
    """Images spread evenly over all, with about ``calibration_proposals`` proposals in all."""
    names = [name for name in plan.proposals if name in plan.image_of]
    total = sum(config.count_judged(plan.proposals[name], None) for name in names)
    return names[:: max(1, -(-total // config.calibration_proposals))]


def _here(judge: Judge, config: RescoreConfig) -> Judging:
    """Judging in this process."""
    return partial(
        judge_images, judge, batch_size=config.batch_size, workers=config.workers, looks=config.looks
    )  # fmt: skip


def _chunks(
    plan: Plan, names: list[str], config: RescoreConfig, calibration: Calibration | None
) -> Iterator[list[str]]:
    """Images that are judged together, whichever of them are done already: what they are depends on the plan alone."""
    chunk: list[str] = []
    patches = 0
    for name in names:
        chunk.append(name)
        patches += config.count_judged(plan.proposals[name], calibration)
        if patches >= CHUNK:
            yield chunk
            chunk, patches = [], 0
    if chunk:
        yield chunk


def _judge(
    plan: Plan,
    chunks: Iterable[list[str]],
    judging: Judging,
    config: RescoreConfig,
    task: str,
    calibration: Calibration | None = None,
) -> Iterator[Judged]:
    chunks = list(chunks)

    def requests() -> Iterator[Request]:
        for chunk in chunks:
            for name in chunk:
                proposals = plan.proposals[name]
                image = ImageFile(plan.image_of[name], plan.orientation)
                count = config.count_judged(proposals, calibration)
                yield Request(name, image, proposals, count, closes=name == chunk[-1])

    yield from tqdm(judging(requests()), total=sum(map(len, chunks)), desc=task, unit="image", disable=None)


def _finish(
    plan: Plan,
    judged: Judged,
    calibration: Calibration | None,
    config: RescoreConfig,
    writer: DetectionWriter,
    report: Report,
    made_of: Fingerprint,
) -> None:
    """Write one image's detections; those of an image that cannot be read as they are, to be read again on resume."""
    if judged.error is not None:
        log.warning("unreadable: %s", judged.error)
        report.unreadable.append(judged.error)
        _keep(plan, judged.name, writer, report)
        return
    count = config.count_judged(judged.proposals, calibration)
    final = rescore_judged([judged.first(count)], config, calibration)[0]
    writer.write(judged.name, final)
    writer.finish(judged.name, made_of)
    _count(report, count, len(judged.proposals), len(final))


def _fingerprints(plan: Plan) -> dict[str, Fingerprint]:
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


def _keep(plan: Plan, name: str, writer: DetectionWriter, report: Report) -> None:
    """Write proposals as they are."""
    writer.write_text(name, plan.files.text(plan.file_of[name]))
    report.passed_through += len(plan.proposals[name])
    report.written += len(plan.proposals[name])


def _count(report: Report, judged: int, proposals: int, written: int) -> None:
    report.rescored += judged
    report.passed_through += proposals - judged
    report.written += written
    report.merged += proposals - written
