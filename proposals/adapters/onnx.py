"""Any face detector in an ONNX file, as a proposer; a small YAML file says what it takes and what its outputs mean.

Presets describe public detectors: ``onnx/scrfd``, ``yolov5_face``, ``yolov7_face``, ``yolov8_face``, ``centerface``,
``retinaface`` and ``yunet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from proposals.adapters.decoding import DECODERS, DecodingConfig, Found
from proposals.adapters.viewed import Viewed
from proposals.views import positive, resize
from tinygan.detections import Detections
from tinygan.errors import CheckpointError, ConfigError, MissingDependency
from tinygan.models.backends import onnx_session
from tinygan.models.graphs import import_extra
from tinygan.proposers import Entry, best_inside, check_image
from tinygan.runtime import Runtime, one_thread

MOST = 5000  # boxes of a picture that enter NMS
LEAST_SIDE_PX = 1 / 16  # narrower boxes are none


@dataclass(frozen=True, kw_only=True)
class OnnxConfig(DecodingConfig):
    """What an ONNX file of a detector takes and gives.

    Attributes:
        order: the order of the colours that it takes.
        mean: is subtracted from the colours, in [0, 255] and in that order.
        std: divides what is left.
        padding: grey value, in [0, 255], of what is added at the right and at the bottom.
        side_px: longer side to which pictures are resized; 0: as they are. A file of a fixed size always gets that.
        multiple: sides are padded to multiples of this.
        any_size: whether a size that the file fixes is left out of account, for networks of convolutions alone (needs
            the package onnx).
        score_threshold: boxes of a lower score are dropped.
    """

    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    padding: float = 0.0
    side_px: int = 0
    multiple: int = 32
    any_size: bool = False
    score_threshold: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mean) != 3 or len(self.std) != 3 or not positive(self.std):
            raise ValueError(f"mean and std are three numbers, std above 0; got {self.mean} and {self.std}")
        if not (0 <= self.padding <= 255 and self.side_px >= 0 and self.multiple >= 1):
            raise ValueError("padding lies in [0, 255], side_px is 0 or more and multiple at least 1")
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold lies in [0, 1], got {self.score_threshold}")


class OnnxProposer:
    """A detector in an ONNX file; ``fields["landmarks"]`` [N, 10] holds ``x, y`` of five points, if it gives any.

    Args:
        session: onnxruntime's session of the file.
        config: what it takes and gives.
        name: the file's name, for messages.

    Raises:
        ConfigError: if the file takes no pictures, or lacks an output that ``config`` names.
    """

    def __init__(self, session: Any, config: OnnxConfig, name: str) -> None:
        self._session, self._config, self._name = session, config, name
        first, outputs = session.get_inputs()[0], [output.name for output in session.get_outputs()]
        channels = first.shape[1] if len(first.shape) == 4 else None
        if channels != 3 and not isinstance(channels, str):  # a word where any number is taken
            raise ConfigError(f"{name}: expected an input [1, 3, height, width], got {first.name} {first.shape}")
        if unknown := [output for output in config.outputs if output not in outputs]:
            raise ConfigError(f"{name}: outputs: there is no {unknown[0]}; there are {', '.join(outputs)}")
        self._input, self._outputs = first.name, list(config.outputs) or outputs
        self._half = first.type == "tensor(float16)"
        height, width = first.shape[2:]
        self._fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find faces; see :class:`tinygan.proposers.Proposer`.

        Raises:
            ConfigError: if the outputs are not what the settings say.
        """
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        check_image(image)
        height, width = image.shape[1:]
        size, shown = self._sizes(height, width)
        resized = resize(image.cpu()[None], *shown)[0]
        colours = (resized if self._config.order == "rgb" else resized.flip(0)).float()
        below, right = size[0] - shown[0], size[1] - shown[1]
        padded = F.pad(colours, (0, right, 0, below), value=self._config.padding)
        found = self._decode(((padded - self._mean) / self._std)[None], size)
        back = torch.tensor([width / shown[1], height / shown[0]])
        boxes, landmarks = found.boxes * back.repeat(2), found.landmarks * back.repeat(found.landmarks.shape[1] // 2)
        chosen = nms(boxes, found.scores, self._config.nms_iou)
        columns = [tensor[chosen].double().numpy() for tensor in (boxes, found.scores, landmarks)]
        fields = {"landmarks": columns[2]} if landmarks.shape[1] else {}
        return best_inside(Detections(columns[0], columns[1], fields), width, height, self._config.keep)

    def _sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of the input, and of the picture in its upper left corner."""
        config, factor = self._config, 1.0
        if self._fixed is not None:
            factor = min(self._fixed[0] / height, self._fixed[1] / width)
        elif config.side_px:
            factor = config.side_px / max(height, width)
        shown = max(1, round(height * factor)), max(1, round(width * factor))
        below, right = (-(-side // config.multiple) * config.multiple for side in shown)
        return self._fixed or (below, right), shown

    def _decode(self, pictures: Tensor, size: tuple[int, int]) -> Found:
        """The likely boxes of an input, the best ones first."""
        values = pictures.numpy().astype(np.float16 if self._half else np.float32)
        try:
            answers = self._session.run(self._outputs, {self._input: values})
            outputs = [torch.from_numpy(np.asarray(answer, np.float32)) for answer in answers]
            found = DECODERS[self._config.decode](outputs, self._config, size)
            boxes, scores, landmarks = found
            if not len(boxes) == len(scores) == len(landmarks):
                raise ValueError(f"as many boxes as scores, got {len(boxes)} and {len(scores)}")
        except Exception as error:  # of onnxruntime, or shapes that do not fit
            kind, reason = self._config.decode, " ".join(str(error).split())
            raise ConfigError(
                f"{self._name}: its outputs are not decode={kind}: expected {reason}; see --config onnx/…"
            ) from error
        if len(scores) and not (scores.min() >= 0 and scores.max() <= 1 + 1e-3):
            raise ConfigError(f"{self._name}: scores lie in [0, 1], got up to {scores.max():g}; look at decode, scores")
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
        usable = (sides > LEAST_SIDE_PX) & boxes.isfinite().all(dim=1)
        likely = (usable & (scores >= self._config.score_threshold)).nonzero()[:, 0]
        order = likely[scores[likely].argsort(descending=True, stable=True)[:MOST]]
        return Found(boxes[order], scores[order].clamp(max=1), landmarks[order])


def free_sizes(content: bytes) -> bytes:
    """An ONNX file whose pictures may have any size and number.

    Raises:
        MissingDependency: without the package onnx.
    """
    onnx = import_extra("onnx", "onnx", "any_size")
    model = onnx.load_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        for number, side in enumerate(value.type.tensor_type.shape.dim):
            if number != 1 or value not in model.graph.input:
                side.dim_param = f"{value.name}_{number}"
    del model.graph.value_info[:]
    made: bytes = model.SerializeToString()
    return made


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_onnx(config: OnnxConfig, weights: Path | None, runtime: Runtime) -> Viewed:
    """Open an ONNX file.

    Raises:
        CheckpointError: if ``weights`` is absent or no ONNX file.
        ConfigError: if the settings do not say what its outputs mean.
        MissingDependency: if onnxruntime is not installed.
    """
    if weights is None or not weights.is_file():
        raise CheckpointError(f"{weights}: no such file; expected a detector in an ONNX file (.onnx)")
    if config.decode == "none":
        raise ConfigError(f"{weights}: say what its outputs mean: --config onnx/scrfd, or another preset, or a file")
    content = weights.read_bytes()
    try:
        session = onnx_session(free_sizes(content) if config.any_size else content, runtime, "proposer 'onnx'")
    except MissingDependency:
        raise
    except Exception as error:  # onnxruntime's and onnx's own errors have no base in common
        raise CheckpointError(f"{weights}: expected an ONNX file: {' '.join(str(error).split())[:160]}") from error
    return Viewed(OnnxProposer(session, config, weights.name), config)


ENTRY = Entry(OnnxConfig, build_onnx, wanted="an ONNX file, and --config onnx/scrfd or another that describes it")
