"""``tinygan-upscale``: pictures of faces in, the same 4 times as large out."""

from __future__ import annotations

import argparse
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from tinygan.cli.common import DONE, Parser, list_skipped, make_parser, name_unread, run_command
from tinygan.cli.options import add_image_options, add_output_options, add_runtime_options, runtime_options
from tinygan.errors import DataError
from tinygan.files import real_path, remove_half_written, write_atomically
from tinygan.formats.names import find_images, output_names

EXAMPLE = "tinygan-upscale FACE.png faces/ --out large"
MARK = "tinygan-upscale"  # the PNG's own note of how it was made; it also says that this picture is generated


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _upscale, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-upscale", "Make pictures of faces 4 times as wide and high.", EXAMPLE)
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="pictures, whole or cut-out faces, or folders of them")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write, a PNG for each picture")
    add("--scale", type=int, choices=(4, 2), default=4, help="how many times as wide and high (default: 4)")
    add(
        "--checkpoint",
        default="portrait",
        metavar="PATH|NAME",
        help="run folder or .safetensors file of tinygan-train, or the name of a checkpoint that ships: portrait "
        "(default) or lite",
    )
    add_output_options(parser, "pictures of an earlier run")
    add_image_options(parser)
    add_runtime_options(parser, "not used: pictures go one by one")
    return parser


def _upscale(arguments: argparse.Namespace) -> int:
    found, unread = _find(arguments.inputs, arguments.out)
    from tinygan.checkpoint import chosen_weights, find_weights
    from tinygan.formats.images import allow_pixels
    from tinygan.runtime import Runtime
    from tinygan.second_stage.upscaling import KINDS, SuperResolver

    allow_pixels(arguments.max_pixels)
    weights = find_weights(chosen_weights(arguments.checkpoint, KINDS))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    note = f"super-resolved {arguments.scale}x, weights {digest}, {arguments.orientation}"
    waiting = _waiting(found, note, arguments)
    remove_half_written(waiting.values())
    resolver = SuperResolver(weights, runtime=Runtime(runtime_options(arguments)))
    skipped = []
    for source, target in tqdm(waiting.items(), unit="picture", disable=None):
        try:
            large = resolver.upscale(source, arguments.scale, arguments.orientation)
        except DataError as error:
            message = str(error)
            skipped.append(message if message.startswith(str(source)) else f"{source}: {message}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, _png(large, note))
    done = len(waiting) - len(skipped)
    print(f"{arguments.out}: {done} picture{'' if done == 1 else 's'}, {arguments.scale} times as wide and high")
    name_unread(unread)
    return list_skipped(f"skipped: {len(skipped)} of {len(found)} pictures", skipped) if skipped else DONE


def _find(named: Sequence[Path], out: Path) -> tuple[dict[Path, Path], list[str]]:
    """``{picture: file to write}``, and the names of files of kinds that are not read."""
    sources: dict[str, Path] = {}
    unread: list[str] = []
    for path in named:
        for name, file in _below(path, out, unread):
            if real_path(sources.setdefault(name, file)) != real_path(file):
                raise DataError(f"{sources[name]} and {file} would both be written to {out / name}; rename one")
    if not sources:
        raise DataError(f"{named[0]}: holds no picture apart from --out {out}")
    targets = {sources[name]: out / f"{stem}.png" for name, stem in output_names(sources, out).items()}
    originals = {real_path(source) for source in targets}
    for target in targets.values():
        if real_path(target) in originals:
            raise DataError(f"{target}: is an input, and would be written over; choose another --out")
    return targets, unread


def _below(path: Path, out: Path, unread: list[str]) -> Iterator[tuple[str, Path]]:
    """Name and file of each picture of one input, without what lies in ``out``."""
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder of pictures")
        yield path.name, path
        return
    listing = find_images(path)
    unread += listing.unread
    own = real_path(out)
    for name in listing.names:
        if own not in real_path(path / name).parents:
            yield name, path / name


def _waiting(found: dict[Path, Path], note: str, arguments: argparse.Namespace) -> dict[Path, Path]:
    """The pictures that are still to be made.

    Raises:
        DataError: if one is there already and neither ``--resume`` nor ``--overwrite`` is given, or it was not made by
            this command, or is to be kept though it was made with other settings.
    """
    waiting = {}
    for source, target in found.items():
        made = _note_of(target) if target.exists() else note
        if made is None:
            raise DataError(f"{target}: was not written by tinygan-upscale; choose another --out")
        if not target.exists() or arguments.overwrite:
            waiting[source] = target
        elif not arguments.resume:
            raise DataError(f"{target}: is there already; continue with --resume or replace it with --overwrite")
        elif made != note:
            raise DataError(
                f"{target}: was made with other settings ('{made}', now '{note}'); repeat those, or replace it with "
                "--overwrite"
            )
    return waiting


def _note_of(file: Path) -> str | None:
    """What the picture says of how it was made; ``None`` if this command did not make it."""
    try:
        with Image.open(file) as image:
            note = image.info.get(MARK)
    except (OSError, ValueError):
        return None
    return note if isinstance(note, str) else None


def _png(picture: Image.Image, note: str) -> bytes:
    info = PngInfo()
    info.add_text(MARK, note)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
