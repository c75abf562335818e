"""What a user named: pictures and videos, alone or in folders, and what each is written to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tinygan.detect.video import VIDEO_SUFFIXES, require_av
from tinygan.errors import DataError
from tinygan.files import real_path, walk_files
from tinygan.formats.names import IMAGE_SUFFIXES, is_image_name, looks_like_picture

_KNOWN = f"an image ({' '.join(IMAGE_SUFFIXES)}), a video ({' '.join(VIDEO_SUFFIXES)}) or a folder of them"


@dataclass(frozen=True)
class Source:
    """A picture or a video.

    Attributes:
        name: in tables: relative to the folder that was named, or the file's own name.
        path: on disk.
        keep_ending: whether the output is called ``a.jpg.png``, as ``a.png`` would be another input's too.
    """

    name: str
    path: Path
    keep_ending: bool = False

    @property
    def is_video(self) -> bool:
        """Whether it is a video rather than a picture, by its ending."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def output(self) -> str:
        """The picture or video to write, relative to the output folder."""
        ending = ".mp4" if self.is_video else ".png"
        return f"{self.name}{ending}" if self.keep_ending else Path(self.name).with_suffix(ending).as_posix()


class Sources(NamedTuple):
    """What a user named.

    Attributes:
        found: pictures and videos.
        skipped: a line for every input that is neither.
        unread: names of files that look like pictures of kinds that are not read.
    """

    found: list[Source]
    skipped: list[str]
    unread: list[str]


def find_sources(named: Sequence[Path], out: Path) -> Sources:
    """List all pictures and videos before anything is computed or written.

    Args:
        named: files and folders; folders are read at any depth, without what lies in ``out``.
        out: the output folder.

    Raises:
        DataError: if a path is absent, none is of a known kind, or two would share an output.
        MissingDependency: if there is a video and no PyAV.
    """
    listed = Sources([], [], [])
    by_name: dict[str, Source] = {}
    for path in named:
        for source in _below(path, out, listed):
            rival = by_name.setdefault(source.name, source)
            if rival is source:
                listed.found.append(source)
            elif real_path(rival.path) != real_path(source.path):
                raise _shared(rival, source, out)
    if not listed.found:
        raise DataError(listed.skipped[0])
    sources = _with_outputs(listed.found, out)
    originals = {real_path(source.path): source for source in sources}
    for source in sources:
        if real_path(out / source.output) in originals:
            raise DataError(f"{out / source.output}: is an input, and would be written over; choose another --out")
    if videos := [source for source in sources if source.is_video]:
        require_av(videos[0].path)
    return listed._replace(found=sources)


def _with_outputs(sources: Sequence[Source], out: Path) -> list[Source]:
    """The same, each with an output of its own."""
    shared = Counter(source.output for source in sources)
    apart = [replace(source, keep_ending=shared[source.output] > 1) for source in sources]
    by_output: dict[str, Source] = {}
    for source in apart:
        if (rival := by_output.setdefault(source.output, source)) is not source:
            raise _shared(rival, source, out)
    return apart


def _shared(first: Source, second: Source, out: Path) -> DataError:
    return DataError(
        f"{first.path} and {second.path} would both be written to {out / second.output}; "
        "rename one, or run them into different folders"
    )


def _below(path: Path, out: Path, listed: Sources) -> list[Source]:
    """Pictures and videos of one input; what is neither is noted in ``listed``."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {_KNOWN}")
    if not path.is_dir():
        return _checked([(path.name, path)], listed) if _is_known(path) else _skip(f"{path}: expected {_KNOWN}", listed)
    own = real_path(out)
    if own in (real_path(path), *real_path(path).parents):
        raise DataError(f"{out}: --out is, or lies above, the input folder {path}; choose another --out")
    files = []
    for file in sorted(walk_files(path)):
        if _is_known(file):
            if own not in real_path(file).parents:
                files.append((file.relative_to(path).as_posix(), file))
        elif looks_like_picture(file):
            listed.unread.append(file.relative_to(path).as_posix())
    return (
        _checked(files, listed) if files else _skip(f"{path}: holds no image and no video; expected {_KNOWN}", listed)
    )


def _is_known(path: Path) -> bool:
    return is_image_name(path.name) or (path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("._"))


def _skip(reason: str, listed: Sources) -> list[Source]:
    listed.skipped.append(reason)
    return []


def _checked(files: Sequence[tuple[str, Path]], listed: Sources) -> list[Source]:
    sources = []
    for name, path in files:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            listed.skipped.append(f"{name!a}: expected a name in UTF-8; rename the file")
            continue
        sources.append(Source(name, path))
    return sources
