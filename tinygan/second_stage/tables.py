"""Rescoring of tables of pictures: every shard by itself, here or on a cluster; the calibration alone is shared."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tinygan.checkpoint import Checkpoint
from tinygan.config import build_config, to_tree
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.images import Orientation
from tinygan.formats.parts import Answer, Part, PartFolder, Spread, work_through, write_part
from tinygan.formats.plausible import score_logit
from tinygan.formats.shards import Row, Shard, Table, read_rows
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.calibration import Calibration
from tinygan.second_stage.engine import CALIBRATION_FILE, ROUGHLY, ROUGHLY_IMAGES, fills_chunk, is_calibrated
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Opinion, Request, judge_images, without_opinion
from tinygan.second_stage.opinion import SecondOpinion
from tinygan.second_stage.rescoring import (
    RescoreConfig,
    calibrate_detector,
    refine_calibration,
    rescore_judged,
    sample_step,
)


class TableRescorer:
    """Rescores shards; one is sent to each worker, which builds the networks once.

    Args:
        weights: the checkpoint.
        config: how.
        options: device, precision and threads of each worker.
        orientation: the position of the pictures that boxes refer to.
    """

    def __init__(
        self, weights: Checkpoint, config: RescoreConfig, options: RuntimeOptions, orientation: Orientation = "upright"
    ) -> None:
        self._weights, self._config, self._options, self._orientation = weights, config, options, orientation

    def rescore(self, table: Table, folder: PartFolder, settings: Mapping[str, Any], spread: Spread) -> list[Part]:
        """Rescore a table.

        Args:
            table: the pictures to work on, and their boxes where a table has them.
            folder: the folder of the parts that are written.
            settings: the settings of the run, which the manifest repeats.
            spread: has shards worked on, here or elsewhere.

        Returns:
            The parts of the output, in order.

        Raises:
            DataError: if rows of what is done changed, or no row of the sample can be judged.
        """
        calibration = self._find_calibration(table, folder, spread)
        return work_through(table, folder, settings, spread, partial(self._make_worker, folder, calibration))

    def _find_calibration(self, table: Table, folder: PartFolder, spread: Spread) -> Calibration | None:
        """The calibration of the whole table, from pictures spread evenly; a run that goes on keeps its own."""
        if not is_calibrated(self._config):
            return None
        if not folder.has(CALIBRATION_FILE):
            found = self._calibrate(table, spread)
            folder.write(CALIBRATION_FILE, json.dumps(None if found is None else to_tree(found)).encode())
        tree = folder.read_json(CALIBRATION_FILE)
        return None if tree is None else build_config(Calibration, tree)

    def _calibrate(self, table: Table, spread: Spread) -> Calibration | None:
        """Roughly from few pictures, of which all boxes are judged, then from more, of which those worth a look are."""
        config = self._config
        every = sample_step(table.boxes, table.rows, config.calibration_proposals // ROUGHLY, ROUGHLY_IMAGES)
        whole = self._sample(table, spread, every, None)
        if whole and all(one.error for one in whole):
            raise DataError(f"none of {len(whole)} pictures, spread evenly, could be judged: {whole[0].error}")
        rough = calibrate_detector((one for one in whole if one.error is None), config.fusion)
        if rough is None:
            return None
        judged, worth = (sum(config.count_judged(one.proposals, known) for one in whole) for known in (None, rough))
        further = sample_step(-(-table.boxes * worth // max(1, judged)), table.rows, config.calibration_proposals)
        if further >= every:
            return rough
        names = {one.name for one in whole}
        partly = (one for one in self._sample(table, spread, further, rough) if one.name not in names)
        return refine_calibration(rough, whole, partly, config)

    def _sample(self, table: Table, spread: Spread, every: int, calibration: Calibration | None) -> list[Judged]:
        """Of the whole table's rows, those whose position ``every`` divides, judged."""
        some = [shard for shard in table.shards if shard.holds(every)]
        return [one for shard in spread(partial(self._make_sampler, every, calibration), some) for one in shard]

    def _make_sampler(
        self, every: int, calibration: Calibration | None
    ) -> Callable[[Sequence[Shard]], Iterator[list[Judged]]]:
        judge = self._open_judge()

        def work(shards: Sequence[Shard]) -> Iterator[list[Judged]]:
            for shard in shards:
                yield list(self._judge(judge, None, read_rows(shard, self._orientation, every), calibration))

        return work

    def _make_worker(
        self, folder: PartFolder, calibration: Calibration | None
    ) -> Callable[[Sequence[Shard]], Iterator[Part]]:
        judge, opinion = self._open_judge(), SecondOpinion.open(self._config, self._options)

        def work(shards: Sequence[Shard]) -> Iterator[Part]:
            for shard in shards:
                judged = self._judge(judge, opinion, read_rows(shard, self._orientation), calibration)
                yield write_part(folder, shard, (self._answer(one, calibration) for one in judged))

        return work

    def _open_judge(self) -> Judge:
        return Judge.from_weights(self._weights, Runtime(self._options))

    def _judge(
        self, judge: Judge, opinion: Opinion | None, rows: Iterable[Row], calibration: Calibration | None
    ) -> Iterator[Judged]:
        """Rows judged in order; those with an error are not looked at."""
        config, errors = self._config, deque[str | None]()

        def requests() -> Iterator[Request]:
            patches = images = 0
            for row in map(_checked, rows):
                errors.append(row.error)
                count = config.count_judged(row.proposals, calibration)
                patches, images = patches + count, images + 1
                closes = fills_chunk(patches, images)
                yield Request(row.name, row.image, row.proposals, count, closes, opinion_on=count)
                if closes:
                    patches = images = 0

        for one in judge_images(judge, requests(), **config.judging_options, opinion=opinion):
            error = errors.popleft() or one.error
            yield one if error is None else Judged(one.name, one.proposals, one.face_logits, one.boxes, error)

    def _answer(self, judged: Judged, calibration: Calibration | None) -> Answer:
        if judged.error is not None:
            return Answer(judged.name, judged.proposals, judged.error)
        (final,) = rescore_judged([judged], self._config, calibration)
        problem = None if judged.opinion_error is None else without_opinion(judged.opinion_error)
        return Answer(judged.name, final.sorted(), problem)


def _checked(row: Row) -> Row:
    """A row without boxes if its scores are unfit for fusion, as percents are."""
    try:
        score_logit(row.proposals.scores)
    except DataError as error:
        return row._replace(proposals=Detections.empty(), error=f"{row.name}: {error}")
    return row
