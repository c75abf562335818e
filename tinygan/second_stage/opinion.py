"""A second opinion: where boxes remain in doubt, another detector searches the picture, and its word counts, too.

The judge sees one box at a time. A detector that sees the whole picture, and the part with tiny boxes at twice its
size, knows what lies around them: half of what a search beside a detector gains (:mod:`tinygan.second_stage.ensemble`)
needs no box of its own. Half of the pictures are not searched, as the judge leaves no doubt in them; doubt is read by
the fusion's usual calibration, not the one that was found for a detector.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from scipy.special import expit
from torch import Tensor

from tinygan.detections import Detections
from tinygan.files import is_address, read_address
from tinygan.formats.images import ImageFile, read_image
from tinygan.formats.plausible import score_logit
from tinygan.formats.sizes import LARGE_PIXELS, Size, read_size
from tinygan.joining import CONFIRMED_IOU, LESS_SURE
from tinygan.proposers import DEFAULT, choose_proposer, to_tensor
from tinygan.runtime import RuntimeOptions
from tinygan.second_stage.judging import Judged
from tinygan.second_stage.rescoring import RescoreConfig, rescore_judged

TRUST = 0.5  # added to the log-odds of what it finds: hard AP +0.2 in the mean of eight, the others no less
SURE = 0.9  # boxes of this usual score and more leave no doubt: a sixth less is searched, AP is the same

ONE_LARGE = threading.Lock()  # of the process, so that what asks can be pickled


@runtime_checkable
class Adviser(Protocol):
    """A detector that is asked about the boxes of another one."""

    def is_worth_a_look(self, found: Detections, width_px: int, height_px: int) -> bool:
        """Whether the boxes that were found in an image of this size leave doubt that it can clear up."""
        ...

    def look_again(self, image: Tensor, found: Detections) -> Detections:
        """What it finds in an image, uint8 RGB [3, H, W], in which these boxes were found."""
        ...


class SecondOpinion:
    """Asks a detector about judged proposals; several threads may share one.

    Args:
        adviser: the detector.
        config: how proposals are rescored, which tells which of them remain in doubt.
    """

    def __init__(self, adviser: Adviser, config: RescoreConfig) -> None:
        self._adviser, self._config = adviser, config

    @classmethod
    def open(cls, config: RescoreConfig, options: RuntimeOptions) -> SecondOpinion | None:
        """The first stage that ships, if proposals are rescored with a second opinion.

        Args:
            config: how they are rescored.
            options: device, precision, threads and backend of the second stage.

        Raises:
            CheckpointError: if its weights are damaged.
            ConfigError: if there is no such device or backend.
            MissingDependency: if the backend is not installed.
        """
        if not config.asks:
            return None
        choice = choose_proposer(DEFAULT)
        proposer = choice.build(choice.runtime(options))
        assert isinstance(proposer, Adviser)
        return cls(proposer, config)

    def __call__(self, judged: Judged, image: Path | ImageFile | Image.Image) -> Detections | None:
        """What the detector finds in the image, without its columns; ``None`` if the judge leaves no doubt.

        An image that leaves none is not decoded.

        Raises:
            DataError: if the image cannot be read.
        """
        (usual,) = rescore_judged([judged], self._config)
        doubted = usual[usual.scores < SURE]
        if not len(doubted):
            return None
        image, (width_px, height_px) = _with_size(image)
        if not self._adviser.is_worth_a_look(doubted, width_px, height_px):
            return None
        with ONE_LARGE if width_px * height_px > LARGE_PIXELS else nullcontext():
            picture = image if isinstance(image, Image.Image) else read_image(image)
            found = self._adviser.look_again(to_tensor(picture), doubted)
        return Detections(found.boxes, expit(score_logit(found.scores) + TRUST))


def _with_size(image: Path | ImageFile | Image.Image) -> tuple[ImageFile | Image.Image, Size]:
    """An image, and its width and height, without decoding it; of an address its content, so that it is fetched once.

    Raises:
        DataError: if it cannot be read.
    """
    if isinstance(image, Image.Image):
        return image, image.size
    file = image if isinstance(image, ImageFile) else ImageFile(image)
    if isinstance(file.path, str) and is_address(file.path):
        file = file._replace(path=read_address(file.path))
    return file, read_size(file.path, file.orientation)


def opinion_settings(config: RescoreConfig, options: RuntimeOptions) -> Mapping[str, Any] | None:
    """What decides a second opinion, as JSON types; ``None`` if none is asked for."""
    if not config.asks:
        return None
    choice = choose_proposer(DEFAULT)
    word = {"trust": TRUST, "sure": SURE, "same_iou": CONFIRMED_IOU, "share": LESS_SURE}
    return {**choice.settings(choice.runtime(options)), **word}
