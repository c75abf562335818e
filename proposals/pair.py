"""Two detectors, the second of which is asked where the first is in doubt: YuNet, and CenterFace.

YuNet is fast and sure of many pictures. Where it finds boxes that may be faces or not, or tiny ones, the picture is
searched by CenterFace too, a network of 20 times as many weights, and the part with the tiny ones at twice its size.
The two err in different places, so each finds faces that the other missed, and where both found one, its box lies in
the middle (:func:`tinygan.joining.join_detections`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy.special import expit
from torch import Tensor

from proposals.centerface import CenterFaceConfig, CenterFaceNetwork, CenterFaceOutput
from proposals.detector import CROWD_MARGIN_PX, PyramidDetector, around, count_unsure
from proposals.views import WHOLE_SIDE_PX, View
from proposals.yunet import YuNetConfig, YuNetNetwork, YuNetOutput
from tinygan.boxes import longer_side
from tinygan.detections import BoolArray, Detections, FloatArray
from tinygan.errors import CheckpointError
from tinygan.formats.plausible import score_logit
from tinygan.joining import join_detections
from tinygan.models.centerface import widths_of
from tinygan.models.graphs import Graph
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.proposers import Entry, best_inside, check_image
from tinygan.runtime import Runtime, one_thread

FIRST, SECOND = "yunet.", "centerface."  # what names of their tensors begin with
TINY_SCORE = 0.1  # from which a tiny box makes the second network look


@dataclass(frozen=True, kw_only=True)
class PairConfig(YuNetConfig):
    """YuNet's settings, and when the other network is asked; with tiles it is not.

    Attributes:
        unsure: an image with so many boxes with scores of 0.2 to 0.6 is searched by the other network too, and so is
            one with a tiny box. 0: none is.
        whole: factor at which that network searches the whole image, relative to YuNet's; with 11/16 both stages take a
            sixth less time.
        closer: factor, likewise, at which it searches the part with tiny boxes as well.
        closer_below_px: boxes with scores of 0.1 and more whose longer side is shorter, at the largest of ``scales``,
            are tiny.
        second_px: number of pixels, after scaling, that this network sees at once at most, which bounds its memory.
        second_doubt: ``doubt`` of its boxes.
        second_trust: what is added to the log-odds of its scores, which are more cautious than YuNet's.
    """

    unsure: int = 3
    whole: float = 1.0
    closer: float = 2.0
    closer_below_px: float = 40.0
    second_px: int = 6_500_000
    second_doubt: float = 0.5
    second_trust: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.unsure < math.inf and 1 <= self.second_px < math.inf):
            raise ValueError(
                f"unsure must be finite and not negative, second_px finite and above 0, got {self.unsure} and "
                f"{self.second_px}"
            )
        if not 0 <= self.closer_below_px < math.inf:
            raise ValueError(f"closer_below_px must be finite and not negative, got {self.closer_below_px}")
        if not (0 < self.whole <= 1 and 0 < self.closer < math.inf and 0 <= self.second_doubt < math.inf):
            raise ValueError(
                f"whole must lie in (0, 1], closer must be above 0 and second_doubt not below, got {self.whole}, "
                f"{self.closer} and {self.second_doubt}"
            )
        if not math.isfinite(self.second_trust):
            raise ValueError(f"second_trust must be finite, got {self.second_trust}")


class PairedDetector:
    """Both networks as one proposer; ``fields["landmarks"]`` [N, 10] holds ``x, y`` of five points.

    Args:
        first: YuNet.
        second: CenterFace.
        config: when the second is asked.
    """

    def __init__(
        self, first: PyramidDetector[YuNetOutput], second: PyramidDetector[CenterFaceOutput], config: PairConfig
    ) -> None:
        self._first, self._second, self._config = first, second, config

    @property
    def side_by_side(self) -> int:
        """How many threads may usefully call this at the same time; see :func:`tinygan.runtime.on_own_threads`."""
        return self._first.side_by_side

    def graphs(self) -> list[Graph]:
        """What is exported; see :class:`tinygan.models.graphs.Exportable`."""
        return [
            replace(graph, name=prefix.removesuffix("."))
            for prefix, detector in ((FIRST, self._first), (SECOND, self._second))
            for graph in detector.graphs()
        ]

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`."""
        return [
            self._with_second(image, found) for image, found in zip(images, self._first.propose(images), strict=True)
        ]

    def _with_second(self, image: Tensor, found: Detections) -> Detections:
        """What was found in an image, joined with what the second network finds, if it is worth a look."""
        config, (height, width) = self._config, image.shape[1:]
        if not self._doubts(found, width, height):
            return found
        joined = join_detections(found, self._search_with_second(image, found))
        columns = {name: column for name, column in joined.fields.items() if name in found.fields}
        kept = replace(joined, fields=columns)[joined.scores >= config.score_threshold]
        return best_inside(kept, width, height, config.keep)

    def is_worth_a_look(self, found: Detections, width_px: int, height_px: int) -> bool:
        """Whether the second network should look at an image in which another detector found boxes.

        Args:
            found: boxes whose scores are probabilities of a face.
            width_px: the image's width.
            height_px: the image's height.

        Returns:
            Whether one of them is tiny or several are in doubt; not where the image is so large that this network would
            see tiny ones smaller than they are, and so believe too little in them.
        """
        inside = best_inside(found, width_px, height_px, len(found))
        if not self._doubts(inside, width_px, height_px):
            return False
        tiny = self._tiny(inside, width_px, height_px)
        if tiny.any():
            return self._views(inside.boxes[tiny], width_px, height_px)[-1].scale >= 1
        return self._config.closer * self._largest_factor(width_px, height_px) >= 1

    def look_again(self, image: Tensor, found: Detections) -> Detections:
        """What the second network finds in an image, the part with tiny boxes of another detector seen more closely.

        Args:
            image: uint8 RGB [3, H, W].
            found: boxes whose scores are probabilities of a face.

        Returns:
            Its boxes, with scores of the same meaning.

        Raises:
            ValueError: if the image is not uint8 [3, H, W].
        """
        check_image(image)
        height, width = image.shape[1:]
        return self._search_with_second(image, best_inside(found, width, height, len(found)))

    def _doubts(self, found: Detections, width_px: int, height_px: int) -> bool:
        """Whether boxes found in an image are tiny or in doubt."""
        config = self._config
        if not config.unsure or config.is_sliced(width_px, height_px):
            return False
        return bool(self._tiny(found, width_px, height_px).any()) or count_unsure(found) >= config.unsure

    def _tiny(self, found: Detections, width_px: int, height_px: int) -> BoolArray:
        """Which boxes are tiny, bool [N]."""
        config = self._config
        sides_px = longer_side(found.boxes) * config.largest_scale(width_px, height_px)
        tiny: BoolArray = (found.scores >= TINY_SCORE) & (sides_px < config.closer_below_px)
        return tiny

    def _search_with_second(self, image: Tensor, found: Detections) -> Detections:
        """What the second network finds in an image in which these boxes were found."""
        height, width = image.shape[1:]
        other = self._second.search(image, self._views(found.boxes[self._tiny(found, width, height)], width, height))
        return replace(other, scores=expit(score_logit(other.scores) + self._config.second_trust))

    def _views(self, tiny: FloatArray, width_px: int, height_px: int) -> list[View]:
        """What the second network searches: the whole image, and the part with tiny boxes more closely.

        Args:
            tiny: float64 [K, 4].
            width_px: the image's width.
            height_px: the image's height.
        """
        config, largest = self._config, self._largest_factor(width_px, height_px)
        whole = min(config.whole * config.largest_scale(width_px, height_px), largest)
        views = [View(0, 0, width_px, height_px, whole)]
        if len(tiny):
            part = around(_hull(tiny), width_px, height_px)
            sides = part[2] - part[0], part[3] - part[1]
            most = min(math.sqrt(config.second_px / math.prod(sides)), config.max_side_px / max(sides))
            factor = min(config.closer * largest, most)
            if factor > whole:
                views.append(View(*part, factor, WHOLE_SIDE_PX / whole, CROWD_MARGIN_PX / 4))
        return views

    def _largest_factor(self, width_px: int, height_px: int) -> float:
        """Factor by which the second network can see a whole image of this size; at most that of YuNet."""
        bound = math.sqrt(self._config.second_px / (width_px * height_px))
        return min(self._config.largest_scale(width_px, height_px), bound)


def _hull(boxes: FloatArray) -> list[float]:
    """``x1, y1, x2, y2`` of what holds all of these boxes [K, 4]."""
    return [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_pair(config: PairConfig, weights: Path | None, runtime: Runtime) -> PairedDetector:
    """Build both networks, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent or not of both networks.
    """
    tensors = {} if weights is None else load_tensors(weights)
    first, second = YuNetNetwork(config), CenterFaceNetwork(widths_of(tensors, f"{SECOND}trunk."))
    if weights is not None:
        for prefix, network, name in ((FIRST, first, "YuNet"), (SECOND, second, "CenterFace")):
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if not own:
                raise CheckpointError(
                    f"{weights}: expected weights of both networks of proposer 'pair', there are none of {name}; "
                    "for one network name --proposer yunet or centerface"
                )
            load_into(network, {key: value.float() for key, value in own.items()}, weights, name)
    settings = CenterFaceConfig(
        top_k=config.top_k, score_threshold=config.score_threshold, doubt=config.second_doubt,
        doubt_below_px=config.doubt_below_px, keep=config.keep, nms_iou=config.nms_iou, max_side_px=config.max_side_px,
    )  # fmt: skip
    return PairedDetector(PyramidDetector(first, config, runtime), PyramidDetector(second, settings, runtime), config)


ENTRY = Entry(PairConfig, build_pair, packaged="pair", half=True)
