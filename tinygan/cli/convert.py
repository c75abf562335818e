"""``tinygan-convert``: detections from one format into another."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tinygan.cli.common import Parser, make_parser, run_command, tell_left_out
from tinygan.cli.options import DETECTIONS, FORMATS, add_dialect_options, read_dialect
from tinygan.errors import ConfigError, DataError

EXAMPLE = "tinygan-convert P --to csv --out boxes.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _convert, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-convert", "Turn detections of many images from one format into another.", EXAMPLE)
    parser.add_argument("source", type=Path, metavar="IN", help=f"detections, in {DETECTIONS}")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=f"format to write, {FORMATS}")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="OUT",
        help="file to write; for wider and yolo a folder, .tar.gz or .zip",
    )
    parser.add_argument("--from", dest="format", metavar="FORMAT", help=f"format of IN, {FORMATS} (default: found out)")
    add_dialect_options(parser, "boxes")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images, where boxes are parts of an image's size"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def _convert(arguments: argparse.Namespace) -> int:
    from tinygan.formats.plausible import warn_of_degenerate
    from tinygan.formats.registry import find_format, open_detections, sniff_name

    source, out = arguments.source, arguments.out
    target = find_format(arguments.to)
    if target.write is None:
        raise ConfigError(f"--to {arguments.to}: this format is read, not written; choose another")
    if arguments.format is not None:
        find_format(arguments.format)
    _check_output(out, arguments.to, source, arguments.overwrite)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; expected detections")
    given = arguments.format or sniff_name(source)
    if arguments.names is not None and not {given, arguments.to} & {"coco", "sahi"}:
        raise ConfigError(f"--names is for coco, but this is from {given} to {arguments.to}; leave it out")
    dialect = read_dialect(arguments)
    files = open_detections(source, given, dialect)
    files.left_out |= {name: reason for name in files if (reason := files.stray(name)) is not None}
    detections = {name: files[name] for name in files if name not in files.left_out}
    if not detections:
        raise DataError(f"{source}: expected detections, found none; {next(iter(files.left_out.values()))}")
    warn_of_degenerate(detections.values(), str(source))
    target.write(out, detections, dialect)

    boxes = sum(map(len, detections.values()))
    notes = []
    empty = sum(not len(found) for found in detections.values())
    if empty and not target.keeps_empty:
        notes.append(f"images without boxes left out: {empty:,}")
    fields = sorted({field for found in detections.values() for field in found.fields})
    if fields and not target.keeps_fields:
        notes.append(f"columns left out: {', '.join(fields)}")
    print("; ".join([f"{out}: {given} to {arguments.to}, {len(detections):,} images, {boxes:,} boxes", *notes]))
    return tell_left_out(files)


def _check_output(out: Path, format: str, source: Path, overwrite: bool) -> None:
    """Refuse what would be lost or misleading, before anything is read."""
    from tinygan.formats.registry import DIALECTS, find_format, name_of_suffix

    named = name_of_suffix(out)
    if named is not None and named != format and format not in DIALECTS:
        raise ConfigError(f"--out {out}: is named like {named}, but --to is {format}; change one of them")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: no such folder as {out.parent}; make it first")
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise DataError(f"{out}: exists already; replace it with --overwrite or choose another --out")
    if out.is_dir() and (not find_format(format).is_folder or named == "wider"):
        raise DataError(f"{out}: is a folder, and a file is to be written; choose another --out")
    if out.is_dir() and out.resolve() in source.resolve().parents:
        raise DataError(f"{out}: holds {source}, and would be replaced; choose another --out")
