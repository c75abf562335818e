"""Which file belongs to which image: by the longest common path suffix, as evaluation tools disagree on prefixes."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tinygan.errors import DataError
from tinygan.files import walk_files

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff",
    ".jfif", ".jpe", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif",
)  # fmt: skip
_OTHER_PICTURES = (
    ".arw", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".hdr", ".j2k", ".jxl", ".jxr", ".mpo", ".nef", ".orf", ".psd",
    ".raf", ".raw", ".rw2", ".svg", ".tga",
)  # fmt: skip
_AROUND = " \t\r\n\ufeff"  # a name, with or without its ending, and not part of it
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")  # of pictures without an ending


def stem(name: str) -> str:
    """A relative path without an image's or a text file's ending; other dots belong to the name."""
    path = PurePosixPath(name.replace("\\", "/"))
    known = path.suffix.lower() in (*IMAGE_SUFFIXES, ".txt")
    return str(path.with_suffix("")) if known else str(path)


def list_images(folder: Path) -> list[str]:
    """Every image below ``folder``, as sorted POSIX paths relative to it.

    Raises:
        DataError: if the folder is absent or holds no image.
    """
    return find_images(folder).names


class Listing(NamedTuple):
    """What lies below a folder, as sorted POSIX paths relative to it.

    Attributes:
        names: images that are read, by their ending.
        unread: files that look like pictures and are not read.
    """

    names: list[str]
    unread: list[str]


def find_images(folder: Path) -> Listing:
    """Every picture below ``folder``, linked folders included.

    Raises:
        DataError: if the folder is absent or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    listing = Listing([], [])
    for path in walk_files(folder):
        if is_image_name(path.name):
            listing.names.append(path.relative_to(folder).as_posix())
        elif looks_like_picture(path):
            listing.unread.append(path.relative_to(folder).as_posix())
    listing.names.sort()
    listing.unread.sort()
    if not listing.names:
        also = f"; {describe_unread(listing.unread)}" if listing.unread else ""
        raise DataError(f"{folder}: expected images ({' '.join(IMAGE_SUFFIXES)}) in it or below, found none{also}")
    return listing


def is_image_name(name: str) -> bool:
    """Whether a file is read as an image, by its name; ``._x.jpg`` is what macOS notes on ``x.jpg``."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("._")


def looks_like_picture(path: Path) -> bool:
    """Whether a file that is not read may be a picture: by its ending, or by how it starts if it has none."""
    if path.name.startswith("."):
        return False
    if path.suffix:
        return path.suffix.lower() in _OTHER_PICTURES
    try:
        with path.open("rb") as file:
            head = file.read(12) if path.is_file() else b""
    except OSError:
        return False
    return head.startswith(_STARTS) or head[4:8] == b"ftyp"


def describe_unread(unread: Sequence[str]) -> str:
    """One line on the pictures that are not read: how many of which kind."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in unread)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"pictures of a kind that is not read: {len(unread)} ({counts}), such as {unread[0]}"


def output_names(names: Iterable[str], source: object = "images") -> dict[str, str]:
    """What the text file of each image is called, without ``.txt``.

    That is the image's :func:`stem`. Images that would share a file, as ``a.JPG`` and ``a.png`` would, keep their
    endings: ``a.JPG.txt``, ``a.png.txt``.

    Raises:
        DataError: if two would share a file even so; it names ``source``.
    """
    stems = {name: stem(name) for name in names}
    shared = Counter(stems.values())
    outputs = {name: file if shared[file] == 1 else name.replace("\\", "/") for name, file in stems.items()}
    owner: dict[str, str] = {}
    for name, output in outputs.items():
        if owner.setdefault(output, name) != name:
            raise DataError(
                f"{source}: images '{owner[output]}' and '{name}' would share the file {output}.txt; rename one"
            )
    return outputs


def match_names(files: Iterable[str], images: Iterable[str], source: str = "files") -> dict[str, str]:
    r"""Pair image names with file names.

    A file belongs to the image with which it shares the longest path suffix (endings aside), and the
    other way round. Composed and decomposed letters (NFC, as most systems write them, and NFD, as macOS does) are the
    same, and so are ``/`` and ``\\``.

    Args:
        files: relative paths of prediction files or names in a list.
        images: relative paths of images.
        source: what ``files`` came from, for the error message.

    Returns:
        ``{image: file}`` for every image that has a file.

    Raises:
        DataError: if two files fit one image, or two images one file, equally well.
    """
    by_base: dict[str, list[str]] = defaultdict(list)
    for image in images:
        by_base[_base(image)].append(image)
    best_of_file: dict[str, str] = {}
    for file in files:
        # Where a.jpg is no picture, it is the text of one that is called a.jpg.png.
        name = file if _base(file) in by_base else f"{file}.txt"
        found = _best(name, by_base.get(_base(name), []), source)
        if found is not None:
            best_of_file[file] = found
    rivals: dict[str, list[str]] = defaultdict(list)
    for file, best in best_of_file.items():
        rivals[best].append(file)
    matched = {image: _best(image, candidates, source) for image, candidates in rivals.items()}
    return {image: file for image, file in matched.items() if file is not None}


def select_names(wanted: Iterable[str], images: Iterable[str], source: str) -> list[str]:
    """The images named by a list, in the order of ``images``.

    Raises:
        DataError: if a name fits several images equally well, or no name fits any image.
    """
    images = list(images)
    matched = match_names(wanted, images, source)
    if not matched:
        raise DataError(f"{source}: none of its names is among the {len(images)} images here, such as {images[:1]}")
    return [image for image in images if image in matched]


def _key(name: str) -> str:
    """What is compared of a name."""
    return unicodedata.normalize("NFC", stem(name.strip(_AROUND)).strip(_AROUND))


def _base(name: str) -> str:
    return _key(name).rpartition("/")[2]


def _best(name: str, candidates: list[str], source: str) -> str | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    lengths = [_common_suffix(name, candidate) for candidate in candidates]
    longest = max(lengths)
    winners = [c for c, length in zip(candidates, lengths, strict=True) if length == longest]
    for part in (str, stem, _file_name):  # a.png rather than a.JPG, either than e/a.png
        winners = [winner for winner in winners if part(winner) == part(name)] or winners
    if len(set(map(_key, winners))) == 1:  # they differ in composed letters alone, if at all
        winners = [winner for winner in winners if _file_stem(winner) == _file_stem(name)] or winners
    if len(winners) > 1:
        raise DataError(
            f"{source}: '{name}' fits {winners[0]!r} and {winners[1]!r} equally well; "
            "give the folder that holds just one of them, or longer relative paths"
        )
    return winners[0]


def _file_name(name: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(name).name)


def _file_stem(name: str) -> str:
    return stem(name).rpartition("/")[2]


def _common_suffix(first: str, second: str) -> int:
    pairs = zip(reversed(_key(first).split("/")), reversed(_key(second).split("/")), strict=False)
    length = 0
    for left, right in pairs:
        if left != right:
            break
        length += 1
    return length
