"""Options that several commands have, and what is read from them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygan.errors import ConfigError
from tinygan.formats.dialect import NOTATIONS, RELATIVE, Dialect, Notation, parse_notation

if TYPE_CHECKING:
    from tinygan.runtime import RuntimeOptions

DETECTIONS = (
    "the official WIDER FACE submission format (a folder, .tar.gz or .zip), FDDB text, COCO results, CSV, Parquet, "
    "YOLO text or what other popular tools write; which one is found out"
)
FORMATS = "such as wider, csv, coco or yolo; any other word lists them all"
SHOW_CONFIG = "--show-config"
SUBSET = "names of images, one per line, or a *_bbx_gt.txt"
WIDER_ROOT = "WIDER FACE: a folder with WIDER_train/images and wider_face_split/"


def add_dialect_options(parser: argparse.ArgumentParser, what: str, truth: str = "") -> None:
    """Options that say what a file of boxes leaves unsaid; :func:`read_dialect` reads them.

    Args:
        parser: the command's parser.
        what: the files that the options are about.
        truth: further files that ``--category`` is about.
    """
    group = parser.add_argument_group(f"how {what} are read")
    group.add_argument(
        "--boxes",
        type=_notation,
        metavar="NOTATION",
        help=f"what the four numbers of a box are: {NOTATIONS} ({RELATIVE}: parts of the picture's size; or two, such "
        f"as xyxy,{RELATIVE}; default: as the format has it)",
    )
    group.add_argument(
        "--names",
        type=Path,
        metavar="COCO.json",
        help="COCO annotations that name the image ids and the categories of COCO results",
    )
    group.add_argument(
        "--category",
        action="append",
        default=[],
        metavar="NAME",
        help=f"of several categories{truth} the one that faces are; may be repeated (default: face)",
    )


def read_dialect(arguments: argparse.Namespace) -> Dialect:
    """What a file of boxes leaves unsaid, of the options that :func:`add_dialect_options` added and ``--images``."""
    images = getattr(arguments, "images", None)
    return Dialect(boxes=arguments.boxes, names=arguments.names, categories=tuple(arguments.category), images=images)


def add_runtime_options(
    parser: argparse.ArgumentParser, batch: str = "patches per forward pass"
) -> argparse._ArgumentGroup:
    """Options on where and how the networks run.

    Args:
        parser: the command's parser.
        batch: help for ``--batch-size``, which counts other things in other commands.

    Returns:
        The group of these options.
    """
    group = parser.add_argument_group("runtime")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "bf16", "32"],
        help="default: auto, bf16 on GPUs that multiply it natively, CPUs with AMX and AMD's with AVX512-BF16, else 32",
    )
    group.add_argument("--batch-size", type=positive_int, metavar="N", help=batch)
    group.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads (default: all cores this process may use, OMP_NUM_THREADS at most)",
    )
    return group


def add_backend_option(group: argparse._ArgumentGroup, exported: bool = False) -> None:
    """``--backend``: what runs trained networks.

    Args:
        group: the options that :func:`add_runtime_options` added.
        exported: whether there is ``--exported`` too.
    """
    group.add_argument(
        "--backend",
        choices=["torch", "onnxruntime", "openvino"],
        default="torch",
        help="what runs the networks, on CPUs: onnxruntime (pip install 'tinygan[onnx]') or openvino (pip install "
        "'tinygan[openvino]'), which are faster (default: torch)",
    )
    if exported:
        group.add_argument(
            "--exported",
            type=Path,
            metavar="DIR",
            help="networks of the second stage that tinygan-export --format openvino wrote, such as int8 ones, in "
            "place of the checkpoint's own; for --backend openvino",
        )


def runtime_options(arguments: argparse.Namespace) -> RuntimeOptions:
    """Where and how the networks run, of the options that :func:`add_runtime_options` added.

    Commands alone decide on the threads of torch: a library leaves them to the program that calls it.
    """
    from tinygan.runtime import RuntimeOptions, command_threads

    exported = None
    if getattr(arguments, "exported", None) is not None:
        from tinygan.models.exported import open_exported

        exported = open_exported(arguments.exported)
    return RuntimeOptions(
        device=arguments.device,
        precision=arguments.precision,
        threads=command_threads(arguments.threads),
        backend=getattr(arguments, "backend", "torch"),
        exported=exported,
    )


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """``--orientation`` and ``--max-pixels``: how pictures are read."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--orientation",
        choices=["upright", "stored"],
        default="upright",
        help="upright (default): EXIF orientation is applied, boxes refer to what viewers show; stored: boxes refer to "
        "the pixels as the file has them",
    )
    group.add_argument(
        "--max-pixels",
        type=positive_int,
        metavar="N",
        help="read images of up to N pixels, if you trust them (default: 178956970, against decompression bombs)",
    )


def add_config_options(parser: argparse.ArgumentParser, settings: str, presets: Sequence[str] = ()) -> None:
    """``--config``, ``--set`` and ``--show-config``.

    Args:
        parser: the command's parser.
        settings: what the options set.
        presets: names of the presets that fit.
    """
    group = parser.add_argument_group(f"settings of {settings}")
    if presets:
        group.add_argument("--config", metavar="NAME|FILE", help=f"a preset ({', '.join(presets)}) or a YAML file")
    else:
        group.add_argument("--config", metavar="FILE", help="a YAML file")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="set one key, such as section.key=value; may be repeated",
    )
    group.add_argument(
        SHOW_CONFIG,
        action="store_true",
        help="print every key, its value and its meaning as YAML that --config reads, and stop",
    )


def add_view_options(parser: argparse.ArgumentParser, title: str = "what the first stage sees") -> None:
    """``--scale``, ``--slice`` and ``--overlap``: at which sizes, and in which parts, the first stage sees pictures."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--scale",
        type=_factors,
        metavar="S[,S]",
        help="detect in pictures resized by this factor, such as 2 for tiny faces; several, such as 1,2, are joined",
    )
    group.add_argument(
        "--slice",
        type=positive_int,
        metavar="PX",
        help="detect in tiles of this side (640), and in the whole picture shrunk to it: for large pictures",
    )
    group.add_argument(
        "--overlap", type=share, metavar="SHARE", help="with --slice: by which share tiles overlap (default: 0.2)"
    )


def view_overrides(arguments: argparse.Namespace, proposer: str, config: type[Any]) -> list[str]:
    """The options of :func:`add_view_options` as ``key=value`` overrides of a first stage's settings.

    Args:
        arguments: parsed.
        proposer: name of the first stage.
        config: the dataclass of its settings.

    Raises:
        ConfigError: if an option is given that this first stage lacks, or ``--overlap`` without ``--slice``.
    """
    if arguments.overlap is not None and arguments.slice is None:
        raise ConfigError(f"--overlap {arguments.overlap:g} is for --slice; give that too, such as --slice 640")
    overrides = []
    known = {field.name for field in fields(config)}
    for option, key in (("scale", "scales"), ("slice", "slice_px"), ("overlap", "slice_overlap")):
        value = getattr(arguments, option)
        if value is not None and key not in known:
            raise ConfigError(
                f"--{option}: first stage '{proposer}' has no setting '{key}'; tinygan's detectors have it"
            )
        overrides += [] if value is None else [f"{key}={value}"]
    return overrides


def add_output_options(parser: argparse.ArgumentParser, what: str) -> None:
    """``--resume`` and ``--overwrite``, of which one at most may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", help=f"continue {what} that was cut off")
    group.add_argument("--overwrite", action="store_true", help=f"replace {what} that exists")


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return value


def share(text: str) -> float:
    """An argparse type: a number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1], got {text}")
    return value


def _notation(text: str) -> Notation:
    try:
        return parse_notation(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2] + f", got {text}") from error


def _factors(text: str) -> list[float]:
    """An argparse type: numbers above 0 with commas between them."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"expected factors above 0, such as 2 or 1,2, got {text}")
    return values
