"""Which file belongs to which image: by the longest common path suffix, as evaluation tools disagree on prefixes."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tinygan.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


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
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    if not names:
        raise DataError(f"{folder}: expected images ({' '.join(IMAGE_SUFFIXES)}) in it or below, found none")
    return names


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
        found = _best(file, by_base.get(_base(file), []), source)
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
    return unicodedata.normalize("NFC", stem(name.strip(" \t\r\n\ufeff")))


def _base(name: str) -> str:
    return _key(name).rpartition("/")[2]


def _best(name: str, candidates: list[str], source: str) -> str | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    lengths = [_common_suffix(name, candidate) for candidate in candidates]
    longest = max(lengths)
    winners = [c for c, length in zip(candidates, lengths, strict=True) if length == longest]
    if len(winners) > 1 and len(set(map(_key, winners))) == 1:
        winners = _same_to_the_letter(name, winners) or winners
    if len(winners) > 1:
        raise DataError(
            f"{source}: '{name}' fits {winners[0]!r} and {winners[1]!r} equally well; "
            "give the folder that holds just one of them, or longer relative paths"
        )
    return winners[0]


def _same_to_the_letter(name: str, candidates: list[str]) -> list[str]:
    """Of candidates that differ in their endings or in composed letters alone, those that do not."""
    for part in (PurePosixPath, stem):
        wanted = PurePosixPath(part(name)).name
        same = [candidate for candidate in candidates if PurePosixPath(part(candidate)).name == wanted]
        if same:
            return same
    return []


def _common_suffix(first: str, second: str) -> int:
    pairs = zip(reversed(_key(first).split("/")), reversed(_key(second).split("/")), strict=False)
    length = 0
    for left, right in pairs:
        if left != right:
            break
        length += 1
    return length
