"""What detectors on a feature pyramid share: thresholds, scales, overviews of long images, closer looks, NMS."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, nms

from proposals.candidates import LANDMARKS, Candidates, mean_of_both, mirror, or_none_known
from proposals.views import WHOLE_SIDE_PX, View, ViewConfig, resize, whole_views
from tinygan.detections import Detections
from tinygan.heap import trim_heap
from tinygan.models.backends import Run, deploy, place
from tinygan.models.folding import fold_batch_norm
from tinygan.models.graphs import Graph, Port
from tinygan.proposers import best_inside, check_image
from tinygan.runtime import Runtime

log = logging.getLogger(__name__)
OVERVIEW_FROM, OVERVIEW_STEP = 1.5, 2.5  # times overview_px; times the next smaller overview
ZOOM_SCORE = 0.3  # from which a tiny box counts as a face, where it is decided whether to zoom
CROWD_SCORE, CROWD_MARGIN_PX = 0.15, 64  # from which a tiny box belongs to the crowd; what is zoomed at around it
UNSURE = 0.2, 0.6  # scores of boxes that may be faces or not
NMS_AT_ONCE = 4  # times as many boxes as are kept

OutputT = TypeVar("OutputT")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(ViewConfig):
    """Which of a network's boxes are kept, and at which sizes it sees an image.

    Attributes:
        score_threshold: boxes of a lower face probability are dropped.
        top_k: number of boxes per scale, the best ones, that enter NMS.
        overview_px: images at least 1.5 times as long are searched once more, shrunk to this: faces of 48 px or more
            there are looked for in this overview alone, faces of less than 30 px there at full size alone. Still longer
            ones have further overviews, 2.5 times as large each. 0: there is no overview.
        zoom: factors, rising, at which the part of an image that holds many tiny faces is searched once more, and in
            its mirror image, for faces of less than 48 px at the next smaller factor; with tiles, and where nothing
            would be larger, it is not. Empty, or 0: no image is.
        zoom_faces: how many tiny faces make an image be searched once more.
        zoom_below_px: faces whose longer side is shorter, at the largest of ``scales``, are tiny.
        mirror_unsure: an image with so many boxes with scores of 0.2 to 0.6, not searched in tiles, is searched in its
            mirror image too, and scores are averaged. 0: no image is.
        max_side_px: longer sides (after scaling) are shrunk to this, which bounds memory.
        doubt_below_px: boxes whose longer side is shorter (in the image as given) lose some of their score.
        doubt: how much: this, times how often e divides ``doubt_below_px / longer side``, is taken from the logit. 0:
            scores are the network's. With 0.5 and 64, a box of 8 px with a score of 0.8 gets 0.59.
    """

    score_threshold: float = 0.02
    top_k: int = 5000
    overview_px: int = 0
    zoom: tuple[float, ...] = ()
    zoom_faces: int = 5
    zoom_below_px: float = 20.0
    mirror_unsure: int = 0
    max_side_px: int = 4096
    doubt_below_px: float = 64.0
    doubt: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold lies in [0, 1], got {self.score_threshold}")
        if not (self.doubt_below_px > 0 and self.doubt >= 0):
            raise ValueError(
                f"doubt_below_px must be above 0 and doubt not below, got {self.doubt_below_px} and {self.doubt}"
            )
        if sorted(set(self.zoom)) != list(self.zoom) or not all(0 <= factor < math.inf for factor in self.zoom):
            raise ValueError(f"zoom must be factors that rise, or 0 for none, got {self.zoom}")
        for name in ("overview_px", "zoom_below_px", "mirror_unsure"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("top_k", "max_side_px", "zoom_faces"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def overviews_of(self, longer_side_px: int) -> list[float]:
        """The scales of an image's overviews, from the largest to the smallest; none for a small image."""
        side_px, scales = float(self.overview_px), list[float]()
        while 0 < OVERVIEW_FROM * side_px <= longer_side_px:
            scales.insert(0, side_px / longer_side_px)
            side_px *= OVERVIEW_STEP
        return scales

    def views(self, width_px: int, height_px: int) -> list[View]:
        """What is searched of an image of this size."""
        if self.is_sliced(width_px, height_px):
            return super().views(width_px, height_px)
        return whole_views(width_px, height_px, self.scales, self.overviews_of(max(width_px, height_px)))

    def largest_scale(self, width_px: int, height_px: int) -> float:
        """The largest factor by which an image of this size is resized, without the zoom."""
        return min(max(self.scales), self.max_side_px / max(width_px, height_px))

    def crowd(self, found: Candidates, scale: float) -> list[float] | None:
        """``x1, y1, x2, y2`` of the part of an image that holds many tiny faces; None if there are few.

        Args:
            found: what was found in it.
            scale: factor by which it was resized.
        """
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(dim=1) * scale
        tiny = (found.scores >= CROWD_SCORE) & (sides < self.zoom_below_px)
        if int((found.scores[tiny] >= ZOOM_SCORE).sum()) < self.zoom_faces:
            return None
        boxes = found.boxes[tiny]
        return [*boxes[:, :2].amin(dim=0).tolist(), *boxes[:, 2:].amax(dim=0).tolist()]

    def zoomed_views(self, width_px: int, height_px: int, crowd: Sequence[float]) -> list[View]:
        """What is searched besides of an image of this size with a crowd.

        Args:
            width_px: the image's width.
            height_px: the image's height.
            crowd: ``x1, y1, x2, y2`` of the part that holds the tiny faces.
        """
        if self.is_sliced(width_px, height_px):
            return []
        part = around(crowd, width_px, height_px)
        views, known = [], self.largest_scale(width_px, height_px)
        for zoom in self.zoom:
            if min(zoom, self.max_side_px / max(width_px, height_px)) > known:
                views.append(View(*part, zoom, WHOLE_SIDE_PX / known, CROWD_MARGIN_PX / 4))
                known = zoom
        return views


def around(crowd: Sequence[float], width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of an image that is searched for a crowd, which lies in its middle."""
    left, top = (max(0, math.floor(side - CROWD_MARGIN_PX)) for side in crowd[:2])
    right, bottom = (
        min(limit, math.ceil(side + CROWD_MARGIN_PX))
        for side, limit in zip(crowd[2:], (width_px, height_px), strict=True)
    )
    return left, top, right, bottom


def count_unsure(found: Candidates | Detections) -> int:
    """How many boxes may be faces or not."""
    return int(((found.scores >= UNSURE[0]) & (found.scores < UNSURE[1])).sum())


def doubtful(scores: Tensor, boxes: Tensor, config: DetectorConfig) -> Tensor:
    """Scores that count small boxes less: of two boxes that look as likely, the smaller is less often a labelled face.

    Args:
        scores: float [K], in [0, 1].
        boxes: float [K, 4], ``x1, y1, x2, y2`` in pixels of the image.
        config: ``doubt`` and ``doubt_below_px``.

    Returns:
        float [K], in [0, 1]; larger boxes keep their score.
    """
    if config.doubt == 0:
        return scores
    share = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).clamp(min=1) / config.doubt_below_px
    return torch.sigmoid(torch.logit(scores, eps=1e-6) + config.doubt * share.clamp(max=1).log())


class DetectorNetwork(ABC, nn.Module, Generic[OutputT]):
    """A network that says of A places in a picture how likely a face is there, and where exactly.

    Attributes:
        side_step: sides of the pictures that it detects in are filled up with black, at the right and at the bottom, to
            a multiple of this. CPU backends prepare a network anew for every size of picture, a fifth of the time.
    """

    side_step = 1

    @abstractmethod
    def forward(self, pictures: Tensor) -> OutputT:
        """The output for pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float."""

    @abstractmethod
    def scores(self, output: OutputT) -> Tensor:
        """Face probabilities [B, A], float32."""

    @abstractmethod
    def decode(self, output: OutputT, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """Boxes and landmarks.

        Args:
            output: the network's output.
            places: int64 [K], which of the A places of each picture.

        Returns:
            ``x1, y1, x2, y2`` [B, K, 4], and ``x, y`` of five points in turn [B, K, 10], or None for a network that
            knows of none; pixels of the picture, float32.
        """

    @abstractmethod
    def load_weights(self, path: Path) -> None:
        """Load weights of ``tinygan-train-proposer`` or of another project.

        Raises:
            CheckpointError: if they are absent, damaged or another network's.
        """

    def kept_tensors(self) -> dict[str, Tensor]:
        """The weights that are saved after training: all that :meth:`forward` needs outside of it."""
        return self.state_dict()

    def deploy(self) -> None:
        """Change what makes it faster and leaves its answers; it is trained no more."""

    def before_training(self, pictures: Tensor) -> None:
        """Make loaded weights fit to be trained further.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8, as training will show them.
        """


class WholeAnswer(nn.Module, Generic[OutputT]):
    """What is exported: a network with its decoding.

    Args:
        network: the network.
    """

    def __init__(self, network: DetectorNetwork[OutputT]) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [B, 3, H, W] to scores [B, A], boxes [B, A, 4] and landmarks [B, A, 10], or [B, A, 0] for none."""
        output: OutputT = self.network(pictures)
        scores = self.network.scores(output)
        boxes, landmarks = self.network.decode(output, torch.arange(scores.shape[1], device=scores.device))
        return scores, boxes, or_none_known(landmarks, boxes)


class PyramidDetector(Generic[OutputT]):
    """A network as a proposer; ``fields["landmarks"]`` [N, 10] holds ``x, y`` of five points, if it learnt any.

    Images run one by one, at their own size: padding them to a common one would change what is found.

    Args:
        network: a trained network, which is copied.
        config: the thresholds and the scales.
        runtime: the device and the precision.
    """

    def __init__(self, network: DetectorNetwork[OutputT], config: DetectorConfig, runtime: Runtime) -> None:
        self._portable, self._config, self._runtime = deepcopy(network), config, runtime
        fold_batch_norm(self._portable)
        self._portable.deploy()
        self._network = self._portable
        self._said_shrunk = False
        self._run: Run | None = None  # PyTorch decodes the best places alone
        if runtime.backend == "torch":
            self._network = deepcopy(self._portable)  # with layers that cannot be exported
            place(self._network, runtime)
        else:
            self._run = deploy(self._graph(), runtime)

    @property
    def side_by_side(self) -> int:
        """How many threads may usefully call this at the same time; see :func:`tinygan.runtime.on_own_threads`."""
        return self._runtime.side_by_side

    def graphs(self) -> list[Graph]:
        """What is exported; see :class:`tinygan.models.graphs.Exportable`."""
        return [self._graph()]

    def _graph(self) -> Graph:
        pictures = Port("pictures", ("batch", 3, "height", "width"), "RGB in [0, 255]")
        scores = Port("scores", ("batch", "places"), "face probability of every place, in no order, before NMS")
        boxes = Port("boxes", ("batch", "places", 4), "x1, y1, x2, y2 in pixels of the picture; may reach beyond it")
        landmarks = Port("landmarks", ("batch", "places", 2 * LANDMARKS), "x, y of eyes, nose and corners of the mouth")
        return Graph("detector", WholeAnswer(self._portable), (pictures,), (scores, boxes, landmarks))

    @torch.inference_mode()
    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`."""
        with self._runtime.autocast():
            found = [self._detect(image) for image in images]
        trim_heap()
        return found

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        config, (height, width) = self._config, image.shape[1:]
        picture, views = _channels_last(image.to(self._runtime.device)), config.views(width, height)
        parts = [self._seen(picture, view) for view in views]
        found = self._distinct(parts)
        if self._is_unsure(found) and not config.is_sliced(width, height):
            both = [self._seen_twice(picture, view, part) for view, part in zip(views, parts, strict=True)]
            found = self._distinct(both)
        crowd = config.crowd(found, config.largest_scale(width, height))
        if crowd is not None and (closer := config.zoomed_views(width, height, crowd)):
            found = self._distinct([found, *(self._seen_twice(picture, view) for view in closer)])
        return best_inside(_detections(found), width, height, config.keep)

    @torch.inference_mode()
    def search(self, image: Tensor, views: Sequence[View]) -> Detections:
        """The boxes of these views, and of no others; as large an image is shrunk as a view says.

        Args:
            image: uint8 RGB [3, H, W].
            views: what is searched. A box of one is dropped where a later one surely keeps boxes (see
                :meth:`proposals.views.View.surely`), so those of tiles, of which the last is the whole image, are not
                for this. Boxes of all are joined by NMS.
        """
        height, width = image.shape[1:]
        parts: list[Candidates] = []
        with self._runtime.autocast():
            picture = _channels_last(image.to(self._runtime.device))
            for view in views:
                others = [~view.surely().keeps(part.boxes, width, height) for part in parts]
                parts = [Candidates(*(c[kept] for c in part)) for part, kept in zip(parts, others, strict=True)]
                parts.append(self._seen(picture, view))
        trim_heap()
        return best_inside(_detections(self._distinct(parts)), width, height, self._config.keep)

    def _distinct(self, parts: Sequence[Candidates]) -> Candidates:
        """The boxes of several views after NMS, by falling score: those that may be kept in the end, at least.

        The time of NMS grows with the square of the number of boxes, which for tiles of a large image is far above
        ``keep``. So it sees the best ones, and more if too few of them are left.
        """
        boxes, scores, landmarks = (torch.cat(columns) for columns in zip(*parts, strict=True))
        order, count = torch.argsort(scores, descending=True, stable=True), NMS_AT_ONCE * self._config.keep
        while True:
            best = order[:count]
            chosen = best[nms(boxes[best], scores[best], self._config.nms_iou)]
            if len(chosen) >= self._config.keep or count >= len(order):
                return Candidates(boxes[chosen], scores[chosen], landmarks[chosen])
            count *= 2

    def _is_unsure(self, found: Candidates) -> bool:
        """Whether there are so many boxes that may be faces or not that the mirror image is worth a look."""
        return 0 < self._config.mirror_unsure <= count_unsure(found)

    def _seen_twice(self, picture: Tensor, view: View, straight: Candidates | None = None) -> Candidates:
        """The boxes of one view and of its mirror image, each with the mean of its scores in both.

        Args:
            picture: [1, 3, H, W].
            view: what is searched.
            straight: its boxes, where they are known.
        """
        both = (straight or self._seen(picture, view), self._seen(picture, view, mirrored=True))
        straight, mirrored = (Candidates(*(c[: self._config.keep] for c in self._distinct([one]))) for one in both)
        iou = box_iou(straight.boxes, mirrored.boxes)
        means = (mean_of_both(straight, mirrored, iou), mean_of_both(mirrored, straight, iou.T))
        return Candidates(*(torch.cat(columns) for columns in zip(*means, strict=True)))

    def _seen(self, picture: Tensor, view: View, mirrored: bool = False) -> Candidates:
        """The boxes of one view that count; of a tile, after NMS, as there may be thousands of them."""
        height, width = picture.shape[-2:]
        part = picture[..., view.top : view.bottom, view.left : view.right]
        found = self._candidates(part, view.scale, mirrored)
        corner = found.boxes.new_tensor([view.left, view.top])
        boxes, landmarks = (
            found.boxes + corner.repeat(2),
            found.landmarks + corner.repeat(found.landmarks.shape[1] // 2),
        )
        chosen = view.keeps(boxes, width, height).nonzero()[:, 0]
        if part.shape != picture.shape:
            chosen = chosen[nms(boxes[chosen], found.scores[chosen], self._config.nms_iou)]
        return Candidates(boxes[chosen], found.scores[chosen], landmarks[chosen])

    def _candidates(self, picture: Tensor, scale: float, mirrored: bool) -> Candidates:
        """The best boxes of a picture at one scale, before NMS; looked for in its mirror image if so wished."""
        config, (height, width) = self._config, picture.shape[-2:]
        resized = self._resize(picture, scale)
        resized = resized.flip(3) if mirrored else resized
        below, right = (-side % self._network.side_step for side in resized.shape[-2:])
        scores, decode = self._answer(F.pad(resized, (0, right, 0, below)))
        likely = (scores > config.score_threshold).nonzero()[:, 0]
        scores, order = torch.sort(scores[likely], descending=True, stable=True)
        scores, best = scores[: config.top_k], likely[order[: config.top_k]]
        boxes, landmarks = decode(best)
        back = boxes.new_tensor([width / resized.shape[-1], height / resized.shape[-2]])
        boxes = boxes * back.repeat(2)
        points = landmarks * back.repeat(LANDMARKS) if landmarks.shape[1] else landmarks
        found = Candidates(boxes, doubtful(scores, boxes, config), points)
        return mirror(found, width) if mirrored else found

    def _answer(self, picture: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Scores [A] of a picture [1, 3, H, W], and what gives boxes [K, 4] and landmarks [K, 10] of K places."""
        if self._run is not None:
            scores, boxes, landmarks = self._run(picture)
            return scores[0], lambda places: (boxes[0, places], landmarks[0, places])
        output: OutputT = self._network(picture)

        def decode(places: Tensor) -> tuple[Tensor, Tensor]:
            boxes, landmarks = self._network.decode(output, places)
            return boxes[0], or_none_known(landmarks, boxes)[0]

        return self._network.scores(output)[0], decode

    def _resize(self, picture: Tensor, scale: float) -> Tensor:
        height, width = picture.shape[-2:]
        limit = self._config.max_side_px / max(height, width)
        if limit < min(scale, 1.0):  # that it is enlarged a little less costs hardly anything
            self._say_shrunk(max(height, width))
        factor = min(scale, limit)
        return resize(picture, *(max(1, round(side * factor)) for side in (height, width)))

    def _say_shrunk(self, side_px: int) -> None:
        if not self._said_shrunk:
            log.warning(
                "an image of %d px was shrunk to max_side_px = %d for detection, and others may be; --slice 640 "
                "finds more tiny faces in little memory, a larger max_side_px in more",
                side_px,
                self._config.max_side_px,
            )
        self._said_shrunk = True


def load_detector(
    network: DetectorNetwork[OutputT], config: DetectorConfig, weights: Path | None, runtime: Runtime
) -> PyramidDetector[OutputT]:
    """A network as a proposer, with weights if there are any.

    Raises:
        CheckpointError: if they are absent, damaged or another network's.
    """
    if weights is not None:
        network.load_weights(weights)
    return PyramidDetector(network, config, runtime)


def _detections(found: Candidates) -> Detections:
    boxes, scores, landmarks = (tensor.double().cpu().numpy() for tensor in found)
    return Detections(boxes, scores, {"landmarks": landmarks} if landmarks.shape[1] else {})


def _channels_last(image: Tensor) -> Tensor:
    """[3, H, W] to [1, 3, H, W] in a layout that padding and resizing keep; without it convolutions turn every view."""
    return image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
