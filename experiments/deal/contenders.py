"""What is compared: first stages at one size, at two, in tiles, and with the second stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from proposals.adapters.callable import CallableProposer
from proposals.views import View, sliced_views, whole_views
from tinygan.checkpoint import load_checkpoint
from tinygan.detect.detector import LITE, FaceDetector
from tinygan.detections import Detections
from tinygan.proposers import Choice, Proposer, best_inside, choose_proposer
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.stage import SecondStage

PLAIN, TWICE, SLICED, BOTH = "alone", "1x + 2x", "sliced", "with lite"
SLICE_PX, OVERLAP, NMS_IOU, KEEP = 640, 0.2, 0.4, 750
SETTINGS = {PLAIN: [], TWICE: ["scales=[1,2]"], SLICED: [f"slice_px={SLICE_PX}", f"slice_overlap={OVERLAP}"]}

Find = Callable[[Image.Image], Detections]


@dataclass(frozen=True)
class Contender:
    """A way to find faces.

    Attributes:
        stage: name of its first stage.
        way: one of ``alone``, ``1x + 2x``, ``sliced`` and ``with lite``.
        find: the faces of a picture.
    """

    stage: str
    way: str
    find: Find

    @property
    def key(self) -> str:
        """Its name as that of a file."""
        return "_".join(f"{self.stage} {self.way}".replace("+", "and").replace("/", "_").split())


class Viewed:
    """A first stage without settings of its own, at several sizes or in tiles; boxes are joined by NMS.

    Args:
        first: what finds faces in each view.
        views: of a picture of some width and height.
    """

    def __init__(self, first: Proposer, views: Callable[[int, int], Sequence[View]]) -> None:
        self._first, self._views = first, views

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        height, width = image.shape[1:]
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        for view in self._views(width, height):
            part = image[:, view.top : view.bottom, view.left : view.right]
            size = [max(1, round(side * view.scale)) for side in part.shape[1:]]
            resized = F.interpolate(part[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
            (found,) = self._first.propose([resized[0].round().clamp(0, 255).to(torch.uint8)])
            back = np.array([part.shape[2] / size[1], part.shape[1] / size[0]] * 2)
            placed = found.boxes * back + np.array([view.left, view.top] * 2)
            kept = view.keeps(torch.from_numpy(placed), width, height).numpy()
            boxes.append(placed[kept])
            scores.append(found.scores[kept])
        every, sure = np.concatenate(boxes), np.concatenate(scores)
        chosen = nms(torch.from_numpy(every), torch.from_numpy(sure), NMS_IOU).numpy()
        return best_inside(Detections(every[chosen], sure[chosen]), width, height, KEEP)


def contenders(weights: Sequence[Path], threads: int) -> Iterator[Contender]:
    """All ways of all first stages that run here.

    Args:
        weights: runs or files of ``tinygan-train-proposer`` beside the first stages that ship.
        threads: of torch.
    """
    options = RuntimeOptions(precision="32", threads=threads)
    for name, choice in _choices(weights):
        firsts = {
            way: replace(choice, config=_choose(choice, overrides).config).build(Runtime(options))
            for way, overrides in SETTINGS.items()
        }
        yield from _ways(name, firsts, FaceDetector.open(choice, options=options))
    if find_spec("facenet_pytorch") is not None:
        mtcnn = CallableProposer(mtcnn_function(), KEEP, "MTCNN")
        second = SecondStage(LITE, runtime=Runtime(options))
        yield from _ways("MTCNN", in_views(mtcnn), FaceDetector(mtcnn, second))


def in_views(first: Proposer) -> dict[str, Proposer]:
    """Any first stage at one size, at two, and in tiles."""
    return {
        PLAIN: first,
        TWICE: Viewed(first, lambda width, height: whole_views(width, height, [1.0, 2.0])),
        SLICED: Viewed(first, lambda width, height: sliced_views(width, height, [1.0], SLICE_PX, OVERLAP)),
    }


def mtcnn_function() -> Callable[[object], object]:
    """MTCNN with the weights that come with facenet-pytorch, for faces of 10 px and more."""
    from facenet_pytorch import MTCNN  # type: ignore[import-not-found]

    network = MTCNN(keep_all=True, min_face_size=10, device="cpu")
    return lambda pixels: network.detect(pixels)


def _choices(weights: Sequence[Path]) -> Iterator[tuple[str, Choice]]:
    yield "YuNet", choose_proposer("yunet")
    yield "RetinaFace", choose_proposer("retinaface")
    for path in weights:
        proposer = load_checkpoint(path, ("proposer",)).proposer
        yield path.stem, choose_proposer(proposer, path)


def _choose(choice: Choice, overrides: Sequence[str]) -> Choice:
    assert choice.weights is not None
    return choose_proposer(choice.name, choice.weights, overrides=overrides)


def _ways(stage: str, firsts: Mapping[str, Proposer], both: FaceDetector) -> Iterator[Contender]:
    for way, first in firsts.items():
        yield Contender(stage, way, _finder(first))
    yield Contender(stage, BOTH, lambda picture: both.detect(picture, min_score=0.0))


def _finder(first: Proposer) -> Find:
    def find(picture: Image.Image) -> Detections:
        (found,) = first.propose([torch.from_numpy(np.array(picture)).permute(2, 0, 1)])
        return found

    return find
