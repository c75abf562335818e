"""``tinygan-anchors``: anchors that fit the faces of a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import DONE, Parser, make_parser, run_command
from tinygan.cli.options import SUBSET, WIDER_ROOT
from tinygan.errors import ConfigError

if TYPE_CHECKING:
    from tinygan.detections import FloatArray

EXAMPLE = "tinygan-anchors ROOT --count 6 --levels 3 --plot anchors.png"
FIRST_LEVEL = {3: 3, 4: 2, 5: 2}  # of RetinaFace's pyramid, by the number of its levels
HOLDOUT = 0.15


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _anchors, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-anchors", "Find the anchors that fit the faces of a data set, by k-means.", EXAMPLE)
    parser.add_argument("root", type=Path, metavar="ROOT", help=WIDER_ROOT)
    parser.add_argument("--subset", type=Path, metavar="LIST", help=f"count the faces of these images only: {SUBSET}")
    parser.add_argument("--count", type=int, default=6, metavar="K", help="anchors, all levels together (default: 6)")
    parser.add_argument(
        "--levels", type=int, default=3, choices=FIRST_LEVEL, help="levels of RetinaFace's pyramid (default: 3)"
    )
    parser.add_argument("--square", action="store_true", help="squares alone")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the search (default: 0)")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="S", help="images are seen at this scale (default: 1)"
    )
    parser.add_argument("--plot", type=Path, metavar="F.png", help="draw sizes, anchors and their best IoU")
    return parser


def _anchors(arguments: argparse.Namespace) -> int:
    import numpy as np

    from proposals.kmeans import cluster_sizes, split_levels
    from proposals.retinaface import RetinaFaceConfig
    from tinygan.data.rois import split_holdout
    from tinygan.formats.names import select_names
    from tinygan.formats.wider import load_split, load_subset

    if arguments.count < 1 or arguments.count % arguments.levels or arguments.scale <= 0 or arguments.seed < 0:
        raise ConfigError("--count is a multiple of --levels, --scale is above 0 and --seed not below")
    faces = load_split(arguments.root, "train").faces
    if arguments.subset is not None:
        faces = {
            name: faces[name] for name in select_names(load_subset(arguments.subset), faces, str(arguments.subset))
        }
    parts = dict(zip(("training part", "hold-out"), split_holdout(faces, HOLDOUT), strict=True))
    boxes = {
        part: arguments.scale
        * np.concatenate([np.zeros((0, 4)), *(faces[one].boxes[faces[one].usable] for one in names)])
        for part, names in parts.items()
    }
    sizes = boxes["training part"][:, 2:] - boxes["training part"][:, :2]
    if len(sizes) < arguments.count:
        raise ConfigError(f"{arguments.root}: its {len(sizes)} faces are fewer than --count {arguments.count} anchors")
    found = cluster_sizes(sizes, arguments.count, np.random.default_rng(arguments.seed), arguments.square)
    first = FIRST_LEVEL[arguments.levels]
    strides = tuple(2**level for level in range(first, first + arguments.levels))
    levels = split_levels(found, arguments.levels)
    present = RetinaFaceConfig()
    squares = [np.array([side if isinstance(side, tuple) else (side, side) for side in level], dtype=np.float64)
               for level in present.level_sides]  # fmt: skip
    for part, some in boxes.items():
        _print(f"{part}, {len(some):,} faces", "found", some, levels, strides)
        _print(f"{part}, {len(some):,} faces", "present", some, squares, present.level_strides)
    print(f"network: {{anchors: {[[[round(float(v), 1) for v in one] for one in level] for level in levels]}}}")
    if arguments.plot is not None:
        _draw(sizes, found, arguments.plot)
    return DONE


def _print(part: str, name: str, boxes: FloatArray, levels: Sequence[FloatArray], strides: Sequence[int]) -> None:
    """One line: the mean best IoU by size alone, and with positions."""
    import numpy as np

    from proposals.kmeans import best_on_grid, size_iou

    if len(boxes):
        alone = size_iou(boxes[:, 2:] - boxes[:, :2], np.concatenate(levels)).max(axis=1).mean()
        print(
            f"{part}: {name}: mean best IoU {alone:.3f}, on the grid {best_on_grid(boxes, levels, strides).mean():.3f}"
        )


def _draw(sizes: FloatArray, anchors: FloatArray, path: Path) -> None:
    """Sizes and anchors, in logarithms, and a histogram of the best IoU."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from proposals.kmeans import size_iou
    from tinygan.files import write_atomically

    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.loglog(*sizes.T, ".", markersize=1, alpha=0.3)
    left.loglog(*anchors.T, "o", color="tab:red")
    left.set(xlabel="width in px", ylabel="height in px", title="faces and anchors")
    right.hist(size_iou(sizes, anchors).max(axis=1), bins=50, range=(0, 1))
    right.set(xlabel="best IoU by size", ylabel="faces")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
