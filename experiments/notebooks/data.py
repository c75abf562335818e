"""What the notebooks share: pictures with known faces, how long to train, sheets of faces, drawings as pictures.

``DATA`` and ``PROPOSALS`` in the environment name a WIDER FACE root and a first stage's boxes; without them the sample
crowd set is drawn. ``QUICK=1`` makes everything as short as in the tests.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.demo.crowd import make_crowd
from experiments.sr_quality.run import cut_faces
from tinygan.data.cutting import CropConfig, upscale
from tinygan.data.patches import PAIRED
from tinygan.detections import ByteArray
from tinygan.errors import ConfigError
from tinygan.evaluate.curves import Difference
from tinygan.pictures import sr_sheet
from tinygan.second_stage.upscaling import SuperResolver

OUT = Path(os.environ.get("NOTEBOOKS_OUT", "runs/notebooks"))
QUICK = bool(os.environ.get("QUICK"))
TILE_PX = 112


@dataclass(frozen=True)
class Data:
    """Pictures with known faces, in the layout of WIDER FACE, and a first stage's boxes in them.

    Attributes:
        root: the WIDER FACE root.
        proposals: the boxes, of both splits.
        name: what they are, in words.
    """

    root: Path
    proposals: Path
    name: str

    @property
    def images(self) -> Path:
        """The validation pictures."""
        return self.root / "WIDER_val" / "images"

    @property
    def truth(self) -> Path:
        """The faces in them."""
        return self.root / "wider_face_split" / "wider_face_val_bbx_gt.txt"


def open_data() -> Data:
    """The data that ``DATA`` and ``PROPOSALS`` name, else the sample crowd set, which is drawn when it is first needed.

    Raises:
        ConfigError: if only one of both is named.
    """
    root, proposals = os.environ.get("DATA"), os.environ.get("PROPOSALS")
    if bool(root) != bool(proposals):
        raise ConfigError(f"got DATA={root} and PROPOSALS={proposals}; name both, or neither for the sample")
    if root and proposals:
        return Data(Path(root), Path(proposals), f"the pictures of {Path(root).name}")
    sample = Data(OUT / "crowd/data", OUT / "crowd/proposals", "the sample crowd set (drawn)")
    if not sample.root.exists():
        make_crowd(sample.root, sample.proposals)
    return sample


def large_faces(data: Data, count: int, side_px: int = 96) -> list[ByteArray]:
    """Faces large enough to be made small and compared with what they were.

    Args:
        data: of which the validation pictures are taken.
        count: how many, spread over all of them.
        side_px: uint8 RGB [side_px, side_px, 3] each.
    """
    faces = cut_faces(data.root, CropConfig(lr_size=side_px // 4))[PAIRED]
    return list(faces[:: max(1, len(faces) // count)][:count])


def shrink(face: ByteArray, side_px: int) -> ByteArray:
    """A face made small by bicubic interpolation."""
    return np.asarray(Image.fromarray(face).resize((side_px, side_px), Image.Resampling.BICUBIC))


def compare_row(
    lr: ByteArray, lite: SuperResolver, portrait: SuperResolver, hr: ByteArray | None
) -> dict[str, ByteArray | None]:
    """A small face, and what each way of enlarging it gives; all have the size of 4 times the small one."""
    columns: dict[str, ByteArray | None] = {"LR": lr, "bicubic": upscale(lr), **lite.stages(lr)}
    return {
        **columns,
        "portrait": np.asarray(portrait.upscale(lr)),
        "HR": None if hr is None else shrink(hr, 4 * len(lr)),
    }


def read_picture(file: Path) -> Image.Image:
    """A picture that a command has written."""
    with Image.open(file) as opened:
        picture: Image.Image = opened.convert("RGB")
    return picture


def sheet(rows: Sequence[Mapping[str, ByteArray | None]], labels: Sequence[str]) -> Image.Image:
    """Rows of faces with a label each, as a picture."""
    return Image.fromarray(sr_sheet(rows, TILE_PX, labels))


def draw_gains(gains: Mapping[str, Difference], title: str) -> Image.Image:
    """Gains in points of AP with their intervals, a row each; those without faces are left out."""
    known = {name: gain for name, gain in gains.items() if np.isfinite([gain.value, gain.low, gain.high]).all()}
    figure = Figure(figsize=(6.4, 0.8 + 0.4 * len(known)), layout="constrained")
    axes = figure.subplots()
    values = 100 * np.array([(gain.value, gain.value - gain.low, gain.high - gain.value) for gain in known.values()])
    axes.errorbar(values[:, 0], list(known), xerr=values[:, 1:].T, fmt="o", color="#0b57a4", capsize=4)
    axes.axvline(0, color="#707070", linewidth=1)
    axes.margins(y=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("gain in points of AP, 95 % interval")
    axes.set_title(title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return Image.open(content)
