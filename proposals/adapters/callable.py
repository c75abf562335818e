"""Any Python function that finds faces, as a proposer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from proposals.adapters.viewed import AdapterConfig, Viewed
from tinygan.detections import Detections, to_numpy
from tinygan.errors import CheckpointError, ConfigError, DataError
from tinygan.formats.plausible import Sample, explain_scores, refuse_boxes
from tinygan.proposers import Entry, best_inside, check_image
from tinygan.runtime import Runtime

Detector = Callable[[npt.NDArray[np.uint8]], tuple[npt.ArrayLike, npt.ArrayLike]]


@dataclass(frozen=True, kw_only=True)
class CallableConfig(AdapterConfig):
    """Which function, what it sees, and how many of its boxes count.

    Attributes:
        function: ``package.module:name``; it takes an image, uint8 RGB [H, W, 3], and returns ``boxes, scores``:
            [N, 4] ``x1, y1, x2, y2`` in pixels with x2/y2 exclusive, and [N] in [0, 1]; arrays, lists
            or tensors; or :class:`tinygan.Detections`, or both in one array [N, 5]. ``None``, alone or for both, and
            nothing at all are no face.
    """

    function: str = ""
    max_side_px: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        module, colon, name = self.function.partition(":")
        if not (module and colon and name):
            raise ValueError(f"function is package.module:name (set function=...), got '{self.function}'")


class CallableProposer:
    """A function as a proposer; boxes are cut to the image and sorted.

    Args:
        function: takes an image and returns ``boxes, scores``, see :class:`CallableConfig`.
        keep: number of boxes per image, the best ones, that are kept.
        name: the function's name, for messages.
    """

    def __init__(self, function: Detector, keep: int = 750, name: str = "the function") -> None:
        self._function, self._keep, self._name = function, keep, name

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`.

        Raises:
            DataError: if the function fails, or returns anything but scores and boxes in pixels.
            ConfigError: if its scores are no probabilities, which no other image will mend.
        """
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        pixels = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
        try:
            answer: Any = self._function(pixels)
        except Exception as error:  # whatever somebody's function may raise
            raise DataError(f"{self._name} failed: {type(error).__name__}: {error}; see where with --debug") from error
        try:
            found = _to_detections(answer)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self._name}: expected boxes [N, 4] and scores [N], finite numbers: {error}") from error
        if problem := explain_scores(found.scores):
            raise ConfigError(f"{self._name}: {problem}")
        refuse_boxes([Sample(found.boxes, found.scores, (pixels.shape[1], pixels.shape[0]))])
        return best_inside(found, pixels.shape[1], pixels.shape[0], self._keep)


def _to_detections(answer: Any) -> Detections:
    """What a function returns; raises TypeError or ValueError if it is neither boxes and scores nor nothing."""
    if isinstance(answer, Detections):
        return answer
    if answer is None or (hasattr(answer, "__len__") and len(answer) == 0):
        return Detections.empty()
    if isinstance(answer, np.ndarray | Tensor):
        rows = to_numpy(answer)
        if rows.ndim != 2 or rows.shape[1] != 5:
            raise ValueError(f"got one array {list(rows.shape)}, expected boxes and scores, or [N, 5]")
        return Detections(rows[:, :4], rows[:, 4])
    boxes, scores = answer
    return Detections.empty() if boxes is None and scores is None else Detections(boxes, scores)


def build_callable(config: CallableConfig, weights: Path | None, runtime: Runtime) -> Viewed:
    """Import the function, also from the current folder.

    Raises:
        ConfigError: if it cannot be imported or called.
        CheckpointError: if ``weights`` are given, which a function loads itself.
    """
    if weights is not None:
        raise CheckpointError(f"{weights}: proposer 'callable' takes no weights; let {config.function} load them")
    module, _, name = config.function.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"function {config.function}: cannot be imported: {error}; is it on PYTHONPATH?") from error
    if not callable(function):
        raise ConfigError(f"function {config.function}: expected a function, got {type(function).__name__}")
    return Viewed(CallableProposer(function, config.keep, config.function), config)


ENTRY = Entry(CallableConfig, build_callable)
