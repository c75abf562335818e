"""``tinygan-compare``: figures of faces in one's own pictures, as those of Bai et al. 2018."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import DONE, Parser, list_skipped, make_parser, run_command
from tinygan.cli.options import (
    DETECTIONS,
    add_dialect_options,
    add_image_options,
    add_runtime_options,
    positive_int,
    read_dialect,
    runtime_options,
    share,
)
from tinygan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

    from tinygan.detections import ByteArray, Detections, FloatArray, GroundTruth
    from tinygan.second_stage.figures import Face
    from tinygan.second_stage.upscaling import SuperResolver

FIGURES = ("shrunk", "hard", "found")
EXAMPLE = """\
tinygan-compare shrunk --images faces --out figure1.png
tinygan-compare hard --images DIR --ground-truth EVAL --by blur --out figure4.png
tinygan-compare found --images DIR --ground-truth EVAL --detections D --out figure5.png"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _compare, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-compare", "Draw faces of pictures before and after; true faces and ours.", EXAMPLE)
    add = parser.add_argument
    add(
        "figure",
        choices=FIGURES,
        help="shrunk: faces made small, enlarged in every way, and as they were (the paper's Figure 1); hard: small "
        "faces that are blurred or badly lit, before and after (Figure 4); found: true faces green, ours red, and the "
        "failures (Figure 5)",
    )
    add("--images", required=True, type=Path, metavar="DIR", help="folder of pictures; without boxes each is one face")
    add("--ground-truth", type=Path, metavar="TRUTH", help="the annotated faces, of any format of tinygan-evaluate")
    add("--detections", type=Path, metavar="D", help=f"detected faces, in {DETECTIONS}")
    add("--min-score", type=share, default=0.5, metavar="S", help="lowest score of a detection (default: 0.5)")
    add(
        "--checkpoint",
        nargs="+",
        default=["lite", "portrait"],
        metavar="PATH|NAME",
        help="shrunk, hard: generators to compare (default: lite and portrait, which ship)",
    )
    add("--by", choices=("blur", "light", "size"), default="blur", help="hard: what is hardest comes first")
    add("--name", default="", metavar="TEXT", help="only pictures whose name contains this")
    add("--lr-px", type=positive_int, default=16, metavar="PX", help="shrunk: side of the small pictures (default: 16)")
    add("--rows", type=positive_int, metavar="N", help="number of faces (default: 8) or of pictures (found: 3)")
    add("--out", required=True, type=Path, metavar="FILE.png", help="picture to write")
    add_dialect_options(parser, "detections", " of detections and annotations")
    add_image_options(parser)
    add_runtime_options(parser, "not used: faces go one by one")
    return parser


def _compare(arguments: argparse.Namespace) -> int:
    if arguments.out.suffix.lower() != ".png":
        raise ConfigError(f"--out {arguments.out}: expected a file name that ends in .png")
    if arguments.figure == "found" and (arguments.ground_truth is None or arguments.detections is None):
        raise ConfigError("found needs --ground-truth TRUTH and --detections D: it shows one against the other")
    from tinygan.formats.images import allow_pixels
    from tinygan.formats.names import list_images
    from tinygan.pictures import save_png

    allow_pixels(arguments.max_pixels)
    listed = list_images(arguments.images)
    names = [name for name in listed if arguments.name in name]
    if not names:
        raise DataError(f"{arguments.images}: no picture's name contains '{arguments.name}'")
    skipped: list[str] = []
    truth, found = _truth(arguments, listed, skipped), _detections(arguments, listed)
    pictures = _Pictures(arguments, skipped)
    if arguments.figure == "found":
        sheet, drawn = _found(pictures, names, found, truth, arguments.rows or 3)
    else:
        sheet, drawn = _faces(pictures, names, _boxes(found, truth), arguments)
    save_png(sheet, arguments.out)
    print(f"{arguments.out}: {drawn}")
    return list_skipped(f"skipped: {len(skipped)} inputs", skipped) if skipped else DONE


class _Pictures:
    """Reads pictures; those that cannot be read are noted and left out."""

    def __init__(self, arguments: argparse.Namespace, skipped: list[str]) -> None:
        self._folder, self._orientation, self._skipped = arguments.images, arguments.orientation, skipped

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        from tinygan.formats.images import read_image

        for name in names:
            try:
                yield name, read_image(self._folder / name, self._orientation)
            except DataError as error:
                self._skipped.append(str(error))


def _truth(arguments: argparse.Namespace, names: Sequence[str], skipped: list[str]) -> dict[str, GroundTruth] | None:
    from tinygan.formats.names import match_names
    from tinygan.formats.truths import load_faces

    if arguments.ground_truth is None:
        return None
    faces = load_faces(arguments.ground_truth, arguments.images, arguments.category, skipped)
    matched = match_names(faces, names, str(arguments.ground_truth))
    return {image: faces[file] for image, file in matched.items()}


def _detections(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Detections] | None:
    from tinygan.formats.names import match_names
    from tinygan.formats.registry import open_detections

    if arguments.detections is None:
        return None
    files = open_detections(arguments.detections, dialect=read_dialect(arguments))
    matched = match_names(files, names, str(arguments.detections))
    best = {image: files[file] for image, file in matched.items()}
    return {image: one[one.scores >= arguments.min_score] for image, one in best.items()}


def _boxes(
    found: Mapping[str, Detections] | None, truth: Mapping[str, GroundTruth] | None
) -> dict[str, FloatArray] | None:
    """The faces to draw: the true ones, else the detected ones; ``None``: each picture is one."""
    if truth is not None:
        return {name: one.boxes[one.usable] for name, one in truth.items()}
    return None if found is None else {name: one.boxes for name, one in found.items()}


def _faces(
    pictures: _Pictures, names: Sequence[str], boxes: Mapping[str, FloatArray] | None, arguments: argparse.Namespace
) -> tuple[ByteArray, str]:
    from tinygan.pictures import sr_sheet
    from tinygan.second_stage.figures import CONTEXT, HARDNESS, SMALL_PX, cut_faces, hard_row, shrunk_row

    wanted = names if boxes is None else [name for name in names if len(boxes.get(name, ()))]
    shrunk, size = arguments.figure == "shrunk", 4 * arguments.lr_px
    faces: list[Face] = []
    for name, image in pictures.read(wanted):
        cut = cut_faces(name, image, None if boxes is None else boxes[name])
        faces += [face for face in cut if (len(face.pixels) >= size if shrunk else 8 <= len(face.pixels) <= SMALL_PX)]
    if not faces:
        need = f"of {size} px or more" if shrunk else f"of 8 to {SMALL_PX} px"
        raise DataError(f"{arguments.images}: no face has a crop {need}, of {len(wanted)} pictures")
    rows, resolvers = arguments.rows or 8, _resolvers(arguments)
    if shrunk:
        chosen = faces[:: max(1, -(-len(faces) // rows))][:rows]
        sheet = sr_sheet([shrunk_row(face, arguments.lr_px, resolvers) for face in chosen], tile_px=160)
        return sheet, f"{len(chosen)} of {len(faces)} faces, {size} px made {arguments.lr_px} px and enlarged again"
    hardest = sorted(faces, key=lambda face: -HARDNESS[arguments.by](face.pixels))[:rows]
    around = 1.0 if boxes is None else CONTEXT
    labels = [f"{len(face.pixels) / around:.0f} px" for face in hardest]  # the face's size, not its crop's
    sheet = sr_sheet([hard_row(face, resolvers) for face in hardest], tile_px=160, labels=labels)
    return sheet, f"{len(hardest)} of {len(faces)} small faces, the hardest by {arguments.by}"


def _resolvers(arguments: argparse.Namespace) -> dict[str, SuperResolver]:
    from tinygan.runtime import Runtime
    from tinygan.second_stage.upscaling import SuperResolver

    runtime = Runtime(runtime_options(arguments))
    several = len(arguments.checkpoint) > 1
    named = {Path(one).stem if several or one != "lite" else "": one for one in arguments.checkpoint}
    return {name: SuperResolver(one, runtime=runtime) for name, one in named.items()}


def _found(
    pictures: _Pictures,
    names: Sequence[str],
    found: Mapping[str, Detections] | None,
    truth: Mapping[str, GroundTruth] | None,
    rows: int,
) -> tuple[ByteArray, str]:
    import numpy as np

    from tinygan.second_stage.figures import compare, found_picture, most_failures

    assert found is not None and truth is not None
    both = [name for name in names if name in truth and name in found]
    if not both:
        raise DataError("no picture has both annotated faces and detections; are they of the same pictures?")
    chosen = most_failures({name: compare(found[name], truth[name]) for name in both}, rows)
    drawn = [found_picture(name, image, found[name], truth[name]) for name, image in pictures.read(chosen)]
    if not drawn:
        raise DataError("none of the pictures to draw could be read")
    return np.concatenate(drawn), f"the {len(drawn)} pictures with the most failures, of {len(both)}"
