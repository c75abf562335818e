"""Images + proposals -> rescored detections: the engine behind ``tinygan-rescore``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tqdm import tqdm

from tinygan.checkpoint import Checkpoint
from tinygan.config import build_config, to_tree
from tinygan.detections import Detections
from tinygan.files import report_json, write_atomically
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.images import ImageFile, Orientation
from tinygan.formats.writing import DetectionWriter, Fingerprint
from tinygan.joining import join_detections
from tinygan.runtime import Runtime
from tinygan.second_stage.calibration import Calibration
from tinygan.second_stage.ensemble import Searcher, search_images
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Opinion, Request, judge_chunks, without_opinion
from tinygan.second_stage.plan import Plan, fingerprints
from tinygan.second_stage.rescoring import (
    RescoreConfig,
    calibrate_detector,
    refine_calibration,
    rescore_judged,
    sample_step,
)

log = logging.getLogger(__name__)
Judging: TypeAlias = "Callable[[Iterable[Request]], Iterator[Judged]]"  # answers in order
CHUNK = 1024  # patches that are judged together, so that a result does not depend on where a run was cut off
CHUNK_IMAGES = 64  # at most, of which few proposals or none may count
ROUGHLY = 4  # a first calibration is found from so many times fewer proposals
ROUGHLY_IMAGES = 32  # but from so many images, if there are
CALIBRATION_FILE = "calibration.json"
ADDED = "added"  # what the record of a finished image says beside its fingerprints
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
    "again_from",
    "second_opinion",
)


@dataclass
class Report:
    """What a run did; ``proposals + added = written + merged`` and ``proposals = rescored + passed_through``.

    Attributes:
        images: images that have proposals, or were to be searched.
        missing: images with proposals that are not on disk; their proposals were kept.
        unreadable: why images could not be decoded, and that their proposals, if any, were kept.
        by_judge_alone: why images that leave doubt got no second opinion; the judge alone scored their proposals.
        without_proposals: images on disk for which there is no proposal file.
        sizeless: why proposal files were left out, as those whose boxes are parts of an image that cannot be read.
        unusable: why files among the proposals were not read: empty ones, and strays that hold no proposals.
        unread: pictures of kinds that are not read.
        proposals: boxes read.
        rescored: boxes judged by the networks.
        passed_through: boxes not judged: beyond ``max_rois`` (face logit imputed), or of images not read.
        merged: boxes removed by merging.
        added: boxes of faces that a search found and the detector did not.
        written: boxes written.
        resumed: images found done by an earlier, cut-off run.
        calibration: where the calibration of the detector came from.
        seconds: wall time.
        rois_per_second: ``rescored`` of this run over ``seconds``.
    """

    images: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    by_judge_alone: list[str] = field(default_factory=list)
    without_proposals: list[str] = field(default_factory=list)
    sizeless: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    proposals: int = 0
    rescored: int = 0
    passed_through: int = 0
    merged: int = 0
    added: int = 0
    written: int = 0
    resumed: int = 0
    calibration: str = "none"
    seconds: float = 0.0
    rois_per_second: float = 0.0

    @property
    def skipped(self) -> list[str]:
        """A line for every image that was not rescored in full, and every file of proposals that was not read."""
        return [
            *(f"{name}: not on disk, proposals kept" for name in self.missing),
            *self.unreadable,
            *self.by_judge_alone,
            *(f"{name}: no proposal file" for name in self.without_proposals),
            *self.sizeless,
            *self.unusable,
        ]

    def to_json(self) -> str:
        """Counts first, then the names behind them."""
        return report_json(asdict(self))


def rescore(
    plan: Plan,
    judge: Judge | Judging,
    config: RescoreConfig,
    writer: DetectionWriter,
    searcher: Searcher | None = None,
    opinion: Opinion | None = None,
) -> Report:
    """Rescore every proposal and write one file an image.

    Args:
        plan: what belongs together.
        judge: the networks; or what has requests judged elsewhere (:func:`tinygan.second_stage.cluster.judging`).
        config: fusion and limits.
        writer: where detections go; images it holds already are left as they are.
        searcher: searches the images as well; what both found is joined
            (:func:`tinygan.joining.join_detections`).
        opinion: asked about images that ``judge`` judges here; judging elsewhere asks by itself.

    Returns:
        What was done.

    Raises:
        DataError: if pictures or proposals of images that are done changed since.
    """
    started = time.monotonic()
    judging = _here(judge, config, opinion) if isinstance(judge, Judge) else judge
    report = Report(
        without_proposals=plan.without_proposals,
        sizeless=[f"{name}: {reason}" for name, reason in plan.files.left_out.items()],
        unusable=plan.unusable,
        unread=plan.unread,
    )
    inputs = fingerprints(plan)
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
    calibration, passes, known = _find_calibration(plan, judging, config, writer, report)
    seen = {name: one.calibration for one in passes for name in one.names}
    for name in done:
        report.resumed += 1
        proposals = plan.proposals[name]
        count = min(config.count_judged(proposals, calibration), config.count_judged(proposals, seen[name]))
        _count(report, count, len(proposals), writer.count(name), int(finished[name].get(ADDED, 0)))
    judged = sum(len(one.best) for one in known.values())
    asking = _Asking(set(todo), calibration, known)
    left = set(todo) if config.asks else set(todo) - set(known)

    def answers() -> Iterator[Judged]:
        nonlocal judged
        yield from (known[name] for name in todo if name not in left)
        # A run that is continued judges the images of its sample as they were judged, or their last bits would differ.
        for one_pass in passes:
            chunks = [chunk for chunk in _chunks(plan, one_pass, config) if not left.isdisjoint(chunk)]
            for one in _judge(plan, chunks, judging, config, one_pass.calibration, asking):
                if one.name not in known:
                    judged += len(one.best)
                if one.name in left:
                    yield one

    for one, found in _search(plan, answers(), searcher):
        _finish(plan, one, found, calibration, config, writer, report, inputs[one.name])
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
    search: Mapping[str, object] | None = None,
    opinion: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """What decides a run's result, as JSON types; ``search`` and ``opinion`` say what else looks at images."""
    settings = {key: value for key, value in to_tree(config).items() if key in SETTINGS}
    where: dict[str, object] = {
        "proposals": str(proposals.resolve() if isinstance(proposals, Path) else proposals),
        **runtime.settings(),
        "orientation": orientation,
    }
    where |= {"dialect": str(dialect)} if str(dialect) else {}
    where |= {"format": format} if format else {}
    where |= {"search": search} if search else {}
    where |= {"opinion": opinion} if opinion else {}
    return {"weights": weights.digest(), **settings, **where}


def fills_chunk(patches: int, images: int) -> bool:
    """Whether so many patches of so many images are judged together, and further ones after them."""
    return patches >= CHUNK or images >= CHUNK_IMAGES


def is_calibrated(config: RescoreConfig) -> bool:
    """Whether the detector's calibration is found before anything is rescored."""
    return config.method == "logit" and config.calibration != "none" and config.fusion.curve is not None


class _Pass(NamedTuple):
    """Images that are judged by the same rule, whichever of them are done already.

    Attributes:
        names: the images.
        calibration: says which proposals are not worth a look; ``None``: all are judged.
    """

    names: list[str]
    calibration: Calibration | None


class _Asking(NamedTuple):
    """Once the calibration is known a second opinion is asked, about the proposals that count by it.

    Attributes:
        names: the images about which it is asked.
        calibration: the detector's; ``None``: the usual one, by which all count.
        known: what was judged to find it.
    """

    names: Set[str]
    calibration: Calibration | None
    known: Mapping[str, Judged]

    def added_to(self, request: Request, config: RescoreConfig) -> Request:
        """A request that also says what a second opinion is asked about, and what is known of the image."""
        counted = config.count_judged(request.proposals, self.calibration) if request.name in self.names else None
        return replace(request, opinion_on=counted, known=self.known.get(request.name))


def _find_calibration(
    plan: Plan, judging: Judging, config: RescoreConfig, writer: DetectionWriter, report: Report
) -> tuple[Calibration | None, list[_Pass], dict[str, Judged]]:
    """The calibration, how all images are judged, and those that were judged to find it.

    A first, rough calibration, from few images, says of further ones which proposals are worth a look. A resumed run
    keeps what it began with.
    """
    names = [name for name in plan.proposals if name in plan.image_of]
    if not is_calibrated(config):
        return None, [_Pass(names, None)], {}
    file = writer.folder / CALIBRATION_FILE
    saved = json.loads(file.read_text()) if file.is_file() else {}
    first = _Pass(_spread(plan, names, config, None, config.calibration_proposals // ROUGHLY, ROUGHLY_IMAGES), None)
    whole = {} if saved else _judged(plan, first, judging, config)
    rough = _from_tree(saved.get("rough")) if saved else calibrate_detector(whole.values(), config.fusion)
    further = [] if rough is None else _spread(plan, names, config, rough, config.calibration_proposals)
    begun = set(first.names)
    more = _Pass([name for name in further if name not in begun], rough)
    partly = {} if saved else _judged(plan, more, judging, config)
    if not saved:
        found = rough
        if rough is not None and partly:
            found = refine_calibration(rough, whole.values(), partly.values(), config)
        count = sum(len(one.best) for one in (*whole.values(), *partly.values()))
        trees = {key: None if one is None else to_tree(one) for key, one in (("rough", rough), ("calibration", found))}
        saved = {"proposals": count, **trees}
        write_atomically(file, json.dumps(saved).encode())
    calibration = _from_tree(saved["calibration"])
    report.calibration = "usual" if calibration is None else f"found from {saved['proposals']} proposals"
    sample = begun.union(more.names)
    others = _Pass([name for name in names if name not in sample], calibration)
    return calibration, [first, more, others], {**whole, **partly}


def _from_tree(tree: dict[str, object] | None) -> Calibration | None:
    """A calibration as it was saved."""
    return None if tree is None else build_config(Calibration, tree)


def _spread(
    plan: Plan,
    names: list[str],
    config: RescoreConfig,
    calibration: Calibration | None,
    proposals: int,
    images: int = 1,
) -> list[str]:
    """Images spread evenly over those with proposals, of which about ``proposals`` are judged; at least ``images``."""
    names = [name for name in names if len(plan.proposals[name])]
    total = sum(config.count_judged(plan.proposals[name], calibration) for name in names)
    return names[:: sample_step(total, len(names), proposals, images)]


def _judged(plan: Plan, one_pass: _Pass, judging: Judging, config: RescoreConfig) -> dict[str, Judged]:
    """What the judge says of the images of a sample, by name."""
    chunks = _chunks(plan, one_pass, config)
    return {one.name: one for one in _judge(plan, chunks, judging, config, one_pass.calibration)}


def _here(judge: Judge, config: RescoreConfig, opinion: Opinion | None) -> Judging:
    """Judging in this process."""
    return partial(judge_chunks, judge, **config.judging_options, opinion=opinion)


def _chunks(plan: Plan, one_pass: _Pass, config: RescoreConfig) -> Iterator[list[str]]:
    """Images that are judged together, whichever of them are done already: what they are depends on the plan alone."""
    chunk: list[str] = []
    patches = 0
    for name in one_pass.names:
        chunk.append(name)
        patches += config.count_judged(plan.proposals[name], one_pass.calibration)
        if fills_chunk(patches, len(chunk)):
            yield chunk
            chunk, patches = [], 0
    if chunk:
        yield chunk


def _judge(
    plan: Plan,
    chunks: Iterable[list[str]],
    judging: Judging,
    config: RescoreConfig,
    calibration: Calibration | None,
    asking: _Asking | None = None,
) -> Iterator[Judged]:
    """Chunks judged in order, of each image the proposals that count by a calibration; ``None``: all.

    Without ``asking`` this serves to find a calibration, and no second opinion is asked.
    """
    chunks, task = list(chunks), "reading scores" if asking is None else "rescoring"

    def requests() -> Iterator[Request]:
        for chunk in chunks:
            for name in chunk:
                proposals = plan.proposals[name]
                image = ImageFile(plan.image_of[name], plan.orientation)
                count = config.count_judged(proposals, calibration)
                request = Request(name, image, proposals, count, closes=name == chunk[-1])
                yield request if asking is None else asking.added_to(request, config)

    yield from tqdm(judging(requests()), total=sum(map(len, chunks)), desc=task, unit="image", disable=None)


def _search(
    plan: Plan, judged: Iterator[Judged], searcher: Searcher | None
) -> Iterator[tuple[Judged, Detections | None]]:
    """What was judged with what a search finds in the same images; nothing if there is none."""
    if searcher is None:
        return ((one, None) for one in judged)
    return search_images(searcher, judged, plan.image_of, plan.orientation)


def _finish(
    plan: Plan,
    judged: Judged,
    found: Detections | None,
    calibration: Calibration | None,
    config: RescoreConfig,
    writer: DetectionWriter,
    report: Report,
    made_of: Fingerprint,
) -> None:
    """Write one image's detections; those of an image that cannot be read as they are, to be read again on resume."""
    if judged.error is not None:
        log.warning("unreadable: %s", judged.error)
        kept = _keep(plan, judged.name, writer, report)
        report.unreadable.append(f"{judged.error}; {'proposals kept' if kept else 'nothing written'}")
        return
    count = min(config.count_judged(judged.proposals, calibration), len(judged.best))
    final, added = rescore_judged([judged.first(count)], config, calibration)[0], 0
    if found is not None:
        final = join_detections(final, found)
        added = int((final.fields["found_by"] == "second").sum())
        made_of = {**made_of, ADDED: str(added)}
    writer.write(judged.name, final)
    if judged.opinion_error is None:
        writer.finish(judged.name, made_of)
    else:  # a run that is continued asks again
        problem = without_opinion(judged.opinion_error)
        log.warning("%s", problem)
        report.by_judge_alone.append(problem)
    _count(report, count, len(judged.proposals), len(final), added)


def _keep(plan: Plan, name: str, writer: DetectionWriter, report: Report) -> bool:
    """Write proposals as they are; returns whether there are any."""
    if name not in plan.file_of:
        return False
    writer.write_text(name, plan.files.text(plan.file_of[name]))
    report.passed_through += len(plan.proposals[name])
    report.written += len(plan.proposals[name])
    return True


def _count(report: Report, judged: int, proposals: int, written: int, added: int) -> None:
    report.rescored += judged
    report.passed_through += proposals - judged
    report.written += written
    report.added += added
    report.merged += proposals + added - written
