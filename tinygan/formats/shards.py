"""Tables of pictures: Parquet at any address of fsspec, cut into shards; :mod:`tinygan.formats.parts` is the output.

A row is a picture. ``image`` or ``bytes`` holds its file, or ``path`` says where that lies: an address, or a path,
relative ones to the table's folder. ``name`` is what it is called (else its path, else file and row). For rescoring,
``boxes`` holds lists of ``[x1, y1, x2, y2]`` in pixels and ``scores`` as many numbers.

The unit of work is a shard: up to :data:`ROWS` rows of one row group.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinygan.concurrency import ordered_map
from tinygan.detections import Detections
from tinygan.errors import DataError, MissingDependency, one_line
from tinygan.files import is_address
from tinygan.formats.images import ImageFile, Orientation

ROWS = 512  # pictures of a shard, at most: minutes of work, so that a cluster's head has little to do
BATCH = 32  # rows that are decoded at once
_FOOTERS = 16  # threads that read footers


@dataclass(frozen=True)
class Shard:
    """Rows that are worked on together.

    Attributes:
        number: of the shard, and of its part of the output.
        file: address of the Parquet file.
        row_group: in it.
        first: position of the first row in the row group.
        rows: number of rows.
        start: position of the first row in the whole table.
        made_of: what shows that the file changed.
    """

    number: int
    file: str
    row_group: int
    first: int
    rows: int
    start: int
    made_of: str

    @property
    def part(self) -> str:
        """Name of its part of the output."""
        return f"part-{self.number:06d}.parquet"

    def holds(self, every: int) -> bool:
        """Whether there is a row whose position in the whole table ``every`` divides."""
        return -self.start % every < self.rows


@dataclass(frozen=True)
class Table:
    """What is to be worked on, by the footers of its files.

    Attributes:
        shards: all of them.
        rows: number of pictures.
        boxes: number of boxes, about; 0 if there are none.
    """

    shards: list[Shard]
    rows: int
    boxes: int


class Row(NamedTuple):
    """A picture.

    Attributes:
        name: what it is called.
        image: its file.
        proposals: boxes by falling score; none where the table has no boxes.
        error: why they cannot be read.
    """

    name: str
    image: ImageFile
    proposals: Detections
    error: str | None = None


def plan_table(address: str, with_boxes: bool) -> Table:
    """Cut a table into shards; only the footers of its files are read.

    Args:
        address: a Parquet file, a folder of them or a pattern, at any address of fsspec.
        with_boxes: whether there are to be columns ``boxes`` and ``scores``.

    Raises:
        DataError: if nothing is there, a file is no Parquet, or columns are missing.
        MissingDependency: without pyarrow, or what fsspec needs for such an address.
    """
    fs, path = open_storage(address)
    try:
        listed = fs.glob(path) if any(mark in path for mark in "*?[") else [path]
        below = [fs.find(one) if fs.isdir(one) else [one] for one in listed if fs.exists(one)]
    except Exception as error:  # each storage raises its own
        raise DataError(f"{address}: cannot be listed: {one_line(error)}") from error
    files = [one for some in below for one in some if some == [one] or one.endswith((".parquet", ".pq"))]
    files = [one for one in files if not posixpath.basename(one).startswith((".", "_"))]  # as Ray Data and Spark do
    if not files:
        raise DataError(f"{address}: no such Parquet file, nor a folder or pattern of some")
    shards: list[Shard] = []
    start = boxes = 0
    footers = ordered_map(partial(_footer, fs, with_boxes), sorted(files), _FOOTERS, 4 * _FOOTERS)
    for file, made_of, groups in footers:
        for number, (rows, values) in enumerate(groups):
            for first in range(0, rows, ROWS):
                some = min(ROWS, rows - first)
                shards.append(Shard(len(shards), file, number, first, some, start + first, made_of))
            start, boxes = start + rows, boxes + values
    if not shards:
        raise DataError(f"{address}: holds no row")
    return Table(shards, start, boxes)


def _footer(fs: Any, with_boxes: bool, file: str) -> tuple[str, str, list[tuple[int, int]]]:
    """Address and fingerprint of a file, and the number of rows and of boxes of each row group."""
    parquet = import_parquet()
    address = str(fs.unstrip_protocol(file)) if not is_local(fs) else file
    try:
        with fs.open(file, "rb") as opened:
            footer = parquet.read_metadata(opened)
        made_of = str(fs.ukey(file))
    except Exception as error:
        raise DataError(f"{address}: expected a Parquet file: {one_line(error)}") from error
    paths = [footer.schema.column(at).path for at in range(footer.num_columns)]
    names = {one.partition(".")[0] for one in paths}
    if (with_boxes and not {"boxes", "scores"} <= names) or not names & {"image", "bytes", "path"}:
        also = " and boxes, scores" if with_boxes else ""
        raise DataError(
            f"{address}: expected a row per picture with a column image or bytes (its file) or path{also}; "
            f"has {', '.join(sorted(names))}"
        )
    at = next((place for place, one in enumerate(paths) if one.partition(".")[0] == "scores"), None)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    return address, made_of, [(one.num_rows, 0 if at is None else one.column(at).num_values) for one in groups]


def read_rows(shard: Shard, orientation: Orientation = "upright", every: int = 1) -> Iterator[Row]:
    """The pictures of a shard, read when needed.

    Args:
        shard: which.
        orientation: the position of the pictures that boxes refer to.
        every: of the whole table's rows, those whose position this divides.
    """
    fs, path = open_storage(shard.file)
    seen, last = 0, shard.first + shard.rows
    with fs.open(path, "rb") as opened:
        file = import_parquet().ParquetFile(opened)
        columns = [name for name in file.schema_arrow.names if name in _READ]
        for batch in file.iter_batches(BATCH, row_groups=[shard.row_group], columns=columns):
            for number in range(max(seen, shard.first), min(seen + len(batch), last)):
                if (shard.start + number - shard.first) % every == 0:
                    yield _row(shard, number, batch.slice(number - seen, 1).to_pylist()[0], orientation)
            seen += len(batch)
            if seen >= last:
                return


_READ = ("image", "bytes", "path", "name", "boxes", "scores")


def _row(shard: Shard, number: int, cells: Mapping[str, Any], orientation: Orientation) -> Row:
    content: Any = cells.get("image") or cells.get("bytes")
    path = cells.get("path")
    if isinstance(content, dict):  # as Hugging Face's data sets have it
        content, path = content.get("bytes"), path or content.get("path")
    name = str(cells.get("name") or path or f"{shard.file}#{shard.row_group}.{number}")
    error, proposals = None, Detections.empty()
    if isinstance(content, bytes):
        source: bytes | str = content
    else:
        source = str(path) if is_address(str(path)) else posixpath.join(posixpath.dirname(shard.file), str(path))
        error = None if isinstance(path, str) else f"{name}: expected the content of a picture's file, or its path"
    try:
        boxes = np.array(cells.get("boxes") or [], dtype=np.float64).reshape(-1, 4)
        proposals = Detections(boxes, np.array(cells.get("scores") or [], dtype=np.float64)).sorted()
    except (ValueError, TypeError, DataError) as problem:
        error = f"{name}: expected boxes x1, y1, x2, y2 and as many scores: {one_line(problem)}"
    return Row(name, ImageFile(source, orientation), proposals, error)


def open_storage(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        DataError: if fsspec knows no such address.
        MissingDependency: if it needs a package for it.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise MissingDependency(f"{address}: {one_line(error)}") from error
    except ValueError as error:
        raise DataError(f"{address}: expected a path or an address that fsspec knows: {one_line(error)}") from error
    return fs, str(path)


def is_local(fs: Any) -> bool:
    """Whether a file system is this machine's own."""
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def import_parquet() -> Any:
    """pyarrow's Parquet; a :class:`MissingDependency` without it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency("--table needs pyarrow: pip install 'tinygan[ray]'") from error
    return pyarrow.parquet
