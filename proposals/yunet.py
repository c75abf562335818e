"""YuNet (Wu, Peng, Yu 2023): an anchor-free detector of faces and five landmarks, 74,000 parameters.

Every cell of the maps at strides 8, 16 and 32 says how likely it sees a face (class x objectness), and the face's box
and points from its own corner. Names of layers, widths and decoding are those of the public YuNet-n, so that the ONNX
files of OpenCV Zoo (``face_detection_yunet``) load. In them batch normalisation is folded into the convolutions.

Differs from the public network: it sees colours in [0, 1], not in [0, 255]. That makes the weights of the first layer
255 times as large, as large as those of other layers. Else every optimiser destroys the public weights in a few steps:
that layer's gradient was 100 times that of any other layer (1350 against 11), and its weights 60 times as small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proposals.candidates import LANDMARKS
from proposals.detector import DetectorConfig, DetectorNetwork, PyramidDetector, load_detector
from tinygan.errors import CheckpointError
from tinygan.models.blocks import one_by_one
from tinygan.models.onnx_file import read_convolutions
from tinygan.models.public_weights import load_into, load_tensors
from tinygan.models.strips import in_strips
from tinygan.proposers import Entry
from tinygan.runtime import Runtime, one_thread

STRIDES, FINE_STRIDE = (8, 16, 32), 4
STEM, CHANNELS = 16, 64
COLUMNS = {"cls": 1, "bbox": 4, "obj": 1, "kps": 2 * LANDMARKS}  # numbers per cell, in the order of the public file
PRIOR = 0.02  # face probability of every cell before training
FIRST_LAYER, WHITE = "backbone.model0.conv1", 255.0
MAX_LOG_SIDE = 8.0  # log(side / stride): a wild answer stays finite


@dataclass(frozen=True, kw_only=True)
class YuNetConfig(DetectorConfig):
    """Network and thresholds.

    Attributes:
        fine: whether there is a fourth level at stride 4, for faces of 5 to 12 px; the public weights have none.
        norm: whether convolutions are followed by batch normalisation, for training; in the public weights it is folded
            into the convolutions.
        class_share: the score is this power of the class probability, whose training target is the box's IoU, times the
            rest of the power of the object probability. 0.5 in OpenCV.
    """

    fine: bool = False
    norm: bool = False
    class_share: float = 0.4
    nms_iou: float = 0.5
    overview_px: int = 256
    zoom: tuple[float, ...] = (1.5, 2.0)
    mirror_unsure: int = 8
    keep: int = 1500
    doubt: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.class_share <= 1:
            raise ValueError(f"class_share lies in [0, 1], got {self.class_share}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels from cell to cell of each level, in the order of the output."""
        return (FINE_STRIDE, *STRIDES) if self.fine else STRIDES


class YuNetOutput(NamedTuple):
    """The network's answer for the A cells of B pictures, in the order of :func:`cells`.

    Attributes:
        class_logits: [B, A], face or not.
        object_logits: [B, A], whether this cell is one that answers for a face.
        boxes: [B, A, 4], centre from the cell's corner, and log of width and height, in strides.
        landmarks: [B, A, 10], ``x, y`` of five points from the cell's corner, in strides.
        sizes: height and width of each level, in cells.
    """

    class_logits: Tensor
    object_logits: Tensor
    boxes: Tensor
    landmarks: Tensor
    sizes: list[tuple[int, int]]


class ConvUnit(nn.Sequential):
    """A 1x1 convolution and a depthwise 3x3 one, without anything between.

    Args:
        inputs: channels in.
        outputs: channels out.
        norm: whether batch normalisation follows.
        activate: whether ReLU follows.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d

    def __init__(self, inputs: int, outputs: int, norm: bool, activate: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True) if activate else nn.Identity()


class _Stem(nn.Sequential):
    """A 3x3 convolution of stride 2, and a unit: [B, 3, H, W] to [B, 16, H / 2, W / 2]."""

    conv1: nn.Conv2d

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(STEM) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True)
        self.conv2 = ConvUnit(STEM, STEM, norm)


class _Pair(nn.Sequential):
    """Two units, the second of which changes the width: [B, inputs, H, W] to [B, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(inputs, inputs, norm)
        self.conv2 = ConvUnit(inputs, outputs, norm)


class _Backbone(nn.Module):
    """Maps at strides 4, 8, 16 and 32."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.model0 = _Stem(norm)
        self.pool = nn.MaxPool2d(2)
        self.model1 = _Pair(STEM, CHANNELS, norm)
        self.model2, self.model3, self.model4, self.model5 = (_Pair(CHANNELS, CHANNELS, norm) for _ in range(4))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to four maps of 64 channels, fine to coarse."""
        near = in_strips(self._near, pictures, stride=4, reach=3, widest=STEM / 4)
        maps = [in_strips(self._first, near, stride=1, reach=4, widest=CHANNELS, as_large=True)]
        for model in (self.model3, self.model4, self.model5):
            maps.append(model(self.pool(maps[-1])))
        return maps

    def _near(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], of any type, to [B, 16, H / 4, W / 4]."""
        near = pictures.to(self.model0.conv1.weight.dtype)  # bytes are exact in bf16
        for layer in one_by_one(self.model0, self.pool):
            near = layer(near)
        return near

    def _first(self, near: Tensor) -> Tensor:
        """[B, 16, H / 4, W / 4] to the first map, [B, 64, H / 4, W / 4]."""
        first = near
        for layer in one_by_one(self.model1, self.model2):
            first = layer(first)
        return first


class _Neck(nn.Module):
    """Top-down pyramid: a level is smoothed before it is handed down."""

    def __init__(self, fine: bool, norm: bool) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvUnit(CHANNELS, CHANNELS, norm) for _ in STRIDES)
        self.fine = ConvUnit(CHANNELS, CHANNELS, norm) if fine else None

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Four maps, fine to coarse, to those of the levels."""
        units = [*([] if self.fine is None else [self.fine]), *self.lateral_convs]
        levels: list[Tensor] = []
        for unit, level in zip(reversed(units), reversed(maps), strict=False):  # without stride 4, its map is left out
            handed = F.interpolate(levels[0], scale_factor=2.0, mode="nearest") if levels else None
            levels.insert(0, unit(level if handed is None else level + handed))
        return levels


class _Heads(nn.Module):
    """What is said of each cell; every level has heads of its own. Those of stride 4 come last."""

    def __init__(self, fine: bool, norm: bool) -> None:
        super().__init__()
        count = len(STRIDES) + fine

        def last(columns: int) -> nn.ModuleList:
            return nn.ModuleList(ConvUnit(CHANNELS, columns, norm=False, activate=False) for _ in range(count))

        self.multi_level_share_convs = nn.ModuleList(
            nn.Sequential(ConvUnit(CHANNELS, CHANNELS, norm)) for _ in range(count)
        )
        self.multi_level_cls, self.multi_level_bbox = last(COLUMNS["cls"]), last(COLUMNS["bbox"])
        self.multi_level_obj, self.multi_level_kps = last(COLUMNS["obj"]), last(COLUMNS["kps"])
        self.joined: nn.ModuleList | None = None
        for unit in (*self.multi_level_cls, *self.multi_level_obj):
            assert isinstance(unit, ConvUnit) and unit.conv2.bias is not None
            nn.init.constant_(unit.conv2.bias, torch.logit(torch.tensor(PRIOR)).item())

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels to [B, A, columns] for each of ``COLUMNS``."""
        order = [len(STRIDES), 0, 1, 2][-len(levels) :]  # of the heads, fine to coarse
        shared = [self.multi_level_share_convs[at](level) for at, level in zip(order, levels, strict=True)]
        said = [self._said(at, level).flatten(2) for at, level in zip(order, shared, strict=True)]
        rows = torch.cat([maps.transpose(1, 2) for maps in said], dim=1)
        return list(torch.split(rows, list(COLUMNS.values()), dim=2))

    def _said(self, at: int, level: Tensor) -> Tensor:
        """What the heads of a level say of it: [B, 64, H, W] to [B, 16, H, W], all columns in turn."""
        if self.joined is not None:
            said: Tensor = self.joined[at](level)
            return said
        return torch.cat([heads[at](level) for heads in self._apart()], dim=1)

    def _apart(self) -> list[Any]:
        """The heads of each of ``COLUMNS``, by level."""
        return [getattr(self, f"multi_level_{name}") for name in COLUMNS]

    @torch.no_grad()
    def join(self) -> None:
        """Let one unit per level say all columns, in place of four; the answers are the same."""
        self.joined = nn.ModuleList(_side_by_side(units) for units in zip(*self._apart(), strict=True))
        for name in COLUMNS:
            delattr(self, f"multi_level_{name}")


class YuNetNetwork(DetectorNetwork[YuNetOutput]):
    """Backbone, pyramid and heads.

    Args:
        config: the levels, and whether there is batch normalisation.
    """

    side_step = 2 * STRIDES[-1]

    def __init__(self, config: YuNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _Backbone(config.norm)
        self.neck = _Neck(config.fine, config.norm)
        self.bbox_head = _Heads(config.fine, config.norm)
        self._folded = self._absorbed = False

    def forward(self, pictures: Tensor) -> YuNetOutput:
        """Judge every cell.

        Args:
            pictures: RGB [B, 3, H, W] in [0, 255], uint8 or float; sides that are no multiples of 32 are padded with
                black at the right and at the bottom.
        """
        below, right = (-side % STRIDES[-1] for side in pictures.shape[-2:])
        colours = pictures if self._absorbed else pictures.flip(1).float() / WHITE
        levels = self.neck(self.backbone(F.pad(colours, (0, right, 0, below))))
        faces, boxes, objects, landmarks = self.bbox_head(levels)
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]  # no int(): an export keeps them free
        return YuNetOutput(faces[..., 0], objects[..., 0], boxes, landmarks, sizes)

    def scores(self, output: YuNetOutput) -> Tensor:
        """See :class:`proposals.detector.DetectorNetwork`; a weighted geometric mean of both probabilities."""
        faces, objects = torch.sigmoid(output.class_logits.float()), torch.sigmoid(output.object_logits.float())
        return faces.pow(self.config.class_share) * objects.pow(1 - self.config.class_share)

    def decode(self, output: YuNetOutput, places: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`proposals.detector.DetectorNetwork`."""
        where = cells(output.sizes, self.config.strides).to(places.device)[places]
        boxes = place_boxes(output.boxes[:, places].float(), where)
        return boxes, place_landmarks(output.landmarks[:, places].float(), where)

    @torch.no_grad()
    def deploy(self) -> None:
        """See :class:`proposals.detector.DetectorNetwork`.

        Filters of the first layer are turned to RGB in [0, 255], and heads are joined.
        """
        weight = self.backbone.model0.conv1.weight
        weight.copy_(weight.flip(1) / WHITE)
        self.bbox_head.join()
        self._absorbed = True

    def load_weights(self, path: Path) -> None:
        """See :class:`proposals.detector.DetectorNetwork`; also the public ONNX files.

        In a network with a level at stride 4, its layers start as copies of those of stride 8 if ``path`` has none. In
        one with batch normalisation, that does nothing at first if ``path`` has it folded.
        """
        tensors = onnx_tensors(path) if path.suffix == ".onnx" else load_tensors(path)
        fitting = _with_fine_level(tensors) if self.config.fine else tensors
        self._folded = "backbone.model0.conv1.bias" in tensors and "backbone.model0.bn1.weight" not in tensors
        if self._folded:
            plain = YuNetNetwork(YuNetConfig(fine=self.config.fine)).state_dict()
            fitting = {**{name: one for name, one in self.state_dict().items() if name not in plain}, **fitting}
        load_into(self, fitting, path, f"YuNet{_settings(self.config)}", _hint(tensors, self.config))

    @torch.no_grad()
    def before_training(self, pictures: Tensor) -> None:
        """Give folded weights their batch normalisation back.

        Its statistics are those of the pictures, its scale and shift undo them, so that the network answers as before.
        """
        if not self._folded:
            return

        def measure(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
            variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean)

        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        hooks = [norm.register_forward_hook(measure) for norm in norms]
        self.eval()(pictures)
        for hook in hooks:
            hook.remove()
        self._folded = False


def _side_by_side(units: Sequence[ConvUnit]) -> ConvUnit:
    """Units that see the same map as one, whose channels are theirs in turn."""
    inputs, outputs = units[0].conv1.in_channels, sum(unit.conv1.out_channels for unit in units)
    joined = ConvUnit(inputs, outputs, norm=False, activate=False)
    for name, values in joined.named_parameters():
        values.copy_(torch.cat([unit.get_parameter(name) for unit in units]))
    return joined


def cells(sizes: list[tuple[int, int]], strides: tuple[int, ...]) -> Tensor:
    """Corners of all cells, float32 [A, 3]: ``x, y`` in pixels and the stride; level by level, row by row."""
    levels = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = (torch.arange(count) * stride for count in (height, width))
        corners = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        levels.append(F.pad(corners, (0, 1), value=stride))
    return torch.cat(levels).float()


def place_boxes(answers: Tensor, where: Tensor) -> Tensor:
    """Boxes from what cells say of them.

    Args:
        answers: float [..., 4], centre from the cell's corner, and log of width and height, in strides.
        where: float [..., 3], from :func:`cells`.

    Returns:
        float [..., 4], ``x1, y1, x2, y2`` in pixels.
    """
    stride = where[..., 2:]
    centre = where[..., :2] + answers[..., :2] * stride
    half = answers[..., 2:].clamp(max=MAX_LOG_SIDE).exp() * stride / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def place_landmarks(answers: Tensor, where: Tensor) -> Tensor:
    """Points [..., 2 K] in pixels, from what cells say of them: ``x, y`` from the cell's corner, in strides."""
    corners = where[..., :2].repeat(*[1] * (where.ndim - 1), answers.shape[-1] // 2)
    return corners + answers * where[..., 2:]


def onnx_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a public YuNet, under the names of :class:`YuNetNetwork`.

    The names of folded convolutions are lost in the file; they are the one on the picture, and the depthwise ones,
    which take the output of a 1x1 convolution whose name is there.

    Raises:
        CheckpointError: if the file is absent, no ONNX file, or has a convolution that is no part of a YuNet.
    """
    tensors = {}
    for convolution in read_convolutions(path):
        name = convolution.name.removesuffix(".weight")
        if convolution.before is not None:
            name = convolution.before.name.removesuffix(".conv1.weight") + ".conv2"
        elif f"{FIRST_LAYER}.weight" not in tensors:
            name = FIRST_LAYER
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = convolution.weight, convolution.bias
        if name == FIRST_LAYER:
            tensors[f"{name}.weight"] = convolution.weight * WHITE  # the file's network sees colours in [0, 255]
    if not tensors:
        raise CheckpointError(f"{path}: there is no convolution in this ONNX file; expected a YuNet")
    return tensors


def _with_fine_level(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with copies of stride 8's for stride 4 where they are absent."""
    copies = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if name.startswith("neck.lateral_convs.0."):
            copies[".".join(["neck", "fine", *parts[3:]])] = tensor
        elif name.startswith("bbox_head.multi_level_") and parts[2] == "0":
            copies[".".join([*parts[:2], str(len(STRIDES)), *parts[3:]])] = tensor
    return {**copies, **tensors}


def _settings(config: YuNetConfig) -> str:
    """Which settings its tensors depend on."""
    chosen = [f"{name}=true" for name in ("fine", "norm") if getattr(config, name)]
    return f" with {' and '.join(chosen)}" if chosen else ""


def _hint(tensors: dict[str, Tensor], config: YuNetConfig) -> str:
    """What to do about weights that do not fit."""
    if "backbone.model0.conv1.bias" not in tensors:
        return "; expected layers backbone, neck and bbox_head (an .onnx of OpenCV Zoo's face_detection_yunet)"
    if "backbone.model0.bn1.weight" in tensors and not config.norm:
        return "; these have batch normalisation: set norm=true"
    return "; these have a level at stride 4: set fine=true" if "neck.fine.conv1.weight" in tensors else ""


@one_thread()  # threads of torch started here would keep a process forked later from computing
def build_yunet(config: YuNetConfig, weights: Path | None, runtime: Runtime) -> PyramidDetector[YuNetOutput]:
    """Build the network, and load weights if there are any.

    Raises:
        CheckpointError: if ``weights`` is absent, no ONNX or PyTorch file, or of another network.
    """
    return load_detector(YuNetNetwork(config), config, weights, runtime)


ENTRY = Entry(
    YuNetConfig,
    build_yunet,
    packaged="yunet",
    recipe="proposals.train.yunet:YuNetRecipe",
    half=True,
)
