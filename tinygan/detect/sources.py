"""What a user named: pictures and videos, alone or in folders, and what each is written to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinygan.detect.video import VIDEO_SUFFIXES, require_av
from tinygan.errors import DataError
from tinygan.formats.names import IMAGE_SUFFIXES

_KNOWN = f"an image ({' '.join(IMAGE_SUFFIXES)}), a video ({' '.join(VIDEO_SUFFIXES)}) or a folder of them"


@dataclass(frozen=True)
class Source:
    """A picture or a video.

    Attributes:
        name: in tables: relative to the folder that was named, or the file's own name.
        path: on disk.
    """

    name: str
    path: Path

    @property
    def is_video(self) -> bool:
        """Whether it is a video rather than a picture, by its ending."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def output(self) -> str:
        """The picture or video to write, relative to the output folder."""
        return Path(self.name).with_suffix(".mp4" if self.is_video else ".png").as_posix()


def find_sources(named: Sequence[Path], out: Path) -> list[Source]:
    """List all pictures and videos before anything is computed or written.

    Args:
        named: files and folders; folders are read at any depth, without what lies in ``out``.
        out: the output folder.

    Raises:
        DataError: if a path is absent or of no known kind, a folder holds neither, or two would share an output.
        MissingDependency: if there is a video and no PyAV.
    """
    sources: list[Source] = []
    by_output: dict[str, Source] = {}
    for source in (source for path in named for source in _below(path, out)):
        rival = by_output.setdefault(source.output, source)
        if rival is source:
            sources.append(source)
        elif rival.path.resolve() != source.path.resolve():
            raise DataError(
                f"{rival.path} and {source.path} would both be written to {out / source.output}; "
                "rename one, or run them into different folders"
            )
    originals = {source.path.resolve(): source for source in sources}
    for source in sources:
        if (out / source.output).resolve() in originals:
            raise DataError(f"{out / source.output}: is an input, and would be written over; choose another --out")
    if videos := [source for source in sources if source.is_video]:
        require_av(videos[0].path)
    return sources


def _below(path: Path, out: Path) -> Iterator[Source]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {_KNOWN}")
    if not path.is_dir():
        if path.suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            raise DataError(f"{path}: expected {_KNOWN}")
        yield _checked(path.name, path)
        return
    known = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    own = out.resolve()
    if own in (path.resolve(), *path.resolve().parents):
        raise DataError(f"{out}: --out is, or lies above, the input folder {path}; choose another --out")
    files = [file for file in known if file.is_file() and own not in file.resolve().parents]
    if not files:
        raise DataError(f"{path}: holds no image and no video; expected {_KNOWN}")
    for file in files:
        yield _checked(file.relative_to(path).as_posix(), file)


def _checked(name: str, path: Path) -> Source:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{name!a}: expected a name in UTF-8; rename the file") from error
    return Source(name, path)
