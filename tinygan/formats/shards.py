"""Tables of pictures: Parquet at any address of fsspec in, a folder of Parquet parts with a manifest out.

A row is a picture. ``image`` or ``bytes`` holds its file, or ``path`` says where that lies: an address, or a path,
relative ones to the table's folder. ``name`` is what it is called (else its path, else file and row). For rescoring,
``boxes`` holds lists of ``[x1, y1, x2, y2]`` in pixels and ``scores`` as many numbers.

The unit of work is a shard: up to :data:`ROWS` rows of one row group. Its part of the output says in its footer which
rows it was made of, and appears whole or not at all. So whatever is killed, nothing is lost, and a shard whose part is
there is not worked on again.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from tqdm import tqdm

from tinygan.concurrency import ordered_map
from tinygan.detections import Detections
from tinygan.errors import DataError, MissingDependency
from tinygan.files import difference, is_address, remove_half_written, write_atomically
from tinygan.formats.images import ImageFile, Orientation

ROWS = 512  # pictures of a shard, at most: minutes of work, so that a cluster's head has little to do
BATCH = 32  # rows that are decoded at once
SETTINGS, MANIFEST = "settings.json", "manifest.json"
_PART = re.compile(r"part-\d{6,}\.parquet")
_FOOTERS = 16  # threads that read footers
_COLUMNS = {  # of the output: how deep its lists of numbers are
    "boxes": 2, "scores": 1, "proposal_box": 2, "proposal_score": 1, "face_logit": 1, "outcome": 1, "landmarks": 2,
}  # fmt: skip
Item = TypeVar("Item")
Result = TypeVar("Result")
Spread: TypeAlias = "Callable[[Callable[[], Callable[[Sequence[Any]], Iterable[Any]]], Iterable[Any]], Iterator[Any]]"


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


class Answer(NamedTuple):
    """What was found in a picture.

    Attributes:
        name: what it is called.
        found: boxes with their columns.
        error: why it was not worked on.
    """

    name: str
    found: Detections
    error: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of the output, as its footer and the manifest have it.

    Attributes:
        shard: what it was made of.
        boxes: number of boxes.
        skipped: a line for every picture that was not worked on.
    """

    shard: Shard
    boxes: int = 0
    skipped: list[str] = field(default_factory=list)


def plan_table(address: str, with_boxes: bool) -> Table:
    """Cut a table into shards; only the footers of its files are read.

    Args:
        address: a Parquet file, a folder of them or a pattern, at any address of fsspec.
        with_boxes: whether there are to be columns ``boxes`` and ``scores``.

    Raises:
        DataError: if nothing is there, a file is no Parquet, or columns are missing.
        MissingDependency: without pyarrow, or what fsspec needs for such an address.
    """
    fs, path = _open(address)
    try:
        listed = fs.glob(path) if any(mark in path for mark in "*?[") else [path]
        below = [fs.find(one) if fs.isdir(one) else [one] for one in listed if fs.exists(one)]
    except Exception as error:  # each storage raises its own
        raise DataError(f"{address}: cannot be listed: {_one_line(error)}") from error
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
    parquet = _import_parquet()
    address = str(fs.unstrip_protocol(file)) if not _is_local(fs) else file
    try:
        with fs.open(file, "rb") as opened:
            footer = parquet.read_metadata(opened)
        made_of = str(fs.ukey(file))
    except Exception as error:
        raise DataError(f"{address}: expected a Parquet file: {_one_line(error)}") from error
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
    fs, path = _open(shard.file)
    seen, last = 0, shard.first + shard.rows
    with fs.open(path, "rb") as opened:
        file = _import_parquet().ParquetFile(opened)
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
        error = f"{name}: expected boxes x1, y1, x2, y2 and as many scores: {_one_line(problem)}"
    return Row(name, ImageFile(source, orientation), proposals, error)


class PartFolder:
    """The output: a part per shard, settings before and a manifest behind all of them.

    Args:
        address: folder, at any address of fsspec.
        command: the command's name, for messages.
        settings: what decides the results, as JSON types; a continued run must have the same.
        resume: continue what is there.
        overwrite: replace what is there: the parts, settings and manifest, and nothing else.

    Raises:
        DataError: if something is there that may be neither continued nor replaced.
    """

    def __init__(
        self, address: str, command: str, settings: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        fs, path = _open(address)
        self.address = path if _is_local(fs) else address  # workers may be in another folder
        there = {posixpath.basename(one) for one in fs.find(path)} if fs.isdir(path) else set()
        if fs.exists(path) and not fs.isdir(path):
            raise DataError(f"{address}: expected a folder to write into, but this is a file; choose another --out")
        if there and SETTINGS not in there:
            raise DataError(f"{address}: is not empty and was not written by {command}; choose another --out")
        self._parts = sorted(name for name in there if _PART.fullmatch(name))
        if there and overwrite:
            for name in [*self._parts, *({MANIFEST} & there), SETTINGS]:
                fs.rm(posixpath.join(path, name))
            self._parts = []
        elif there and not resume:
            raise DataError(
                f"{address}: holds results already; continue with --resume or replace them with --overwrite"
            )
        elif there and (before := json.loads(fs.cat_file(posixpath.join(path, SETTINGS)))) != settings:
            raise DataError(f"{address}: {difference(before, settings)}")
        self.write(SETTINGS, json.dumps(settings).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder in one step."""
        fs, path = _open(f"{self.address.rstrip('/')}/{name}")
        if _is_local(fs):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(path), content)
        else:
            fs.pipe_file(path, content)  # object stores show whole objects alone

    def read(self, name: str) -> bytes | None:
        """Content of a file of the folder; ``None`` without it."""
        fs, path = _open(f"{self.address.rstrip('/')}/{name}")
        return bytes(fs.cat_file(path)) if fs.exists(path) else None

    def done(self, table: Table) -> dict[int, Part]:
        """The parts that an earlier run wrote, by number.

        Raises:
            DataError: if one was made of other rows than are there now.
        """
        by_name = {shard.part: shard for shard in table.shards}
        done: dict[int, Part] = {}
        for name, part in zip(self._parts, ordered_map(self._read_part, self._parts, 16, 64), strict=True):
            if by_name.get(name) != part.shard:
                raise DataError(
                    f"{self.address}: changed since the run that is to be continued: {part.shard.file} ({name}); "
                    "put back what was there, or replace the results with --overwrite"
                )
            done[part.shard.number] = part
        return done

    def _read_part(self, name: str) -> Part:
        fs, path = _open(f"{self.address.rstrip('/')}/{name}")
        try:
            with fs.open(path, "rb") as file:
                noted = json.loads(_import_parquet().read_metadata(file).metadata[b"tinygan"])
            return Part(Shard(**noted["shard"]), noted["boxes"], noted["skipped"])
        except Exception as error:
            raise DataError(f"{self.address}/{name}: is damaged; replace the results with --overwrite") from error

    def finish(self, parts: Sequence[Part], settings: Mapping[str, Any]) -> None:
        """Write the manifest, and remove what killed workers left half written."""
        listed = [{"part": one.shard.part, **asdict(one)} for one in parts]
        totals = {"rows": sum(one.shard.rows for one in parts), "boxes": sum(one.boxes for one in parts)}
        fs, path = _open(self.address)
        if _is_local(fs):
            remove_half_written(Path(path, one.shard.part) for one in parts)
        lines = ",\n  ".join(json.dumps(one) for one in listed)
        head = json.dumps({"settings": settings, **totals})[:-1]
        self.write(MANIFEST, f'{head},\n "parts": [\n  {lines}\n ]}}\n'.encode())


def write_part(folder: PartFolder, shard: Shard, answers: Iterable[Answer]) -> Part:
    """Write the part of a shard; the same answers give the same bytes."""
    import pyarrow as pa

    every = list(answers)
    skipped = [one.error for one in every if one.error is not None]
    part = Part(shard, sum(len(one.found) for one in every), skipped)
    columns = {"name": pa.array([one.name for one in every], pa.string())}
    for name, depth in _COLUMNS.items():
        kind = pa.string() if name == "outcome" else pa.float64()
        for _ in range(depth):
            kind = pa.list_(kind)
        columns[name] = pa.array([_cells(one.found, name) for one in every], kind)
    columns["error"] = pa.array([one.error for one in every], pa.string())
    table = pa.table(columns).replace_schema_metadata({"tinygan": json.dumps(asdict(part))})
    content = io.BytesIO()
    _import_parquet().write_table(table, content, compression="zstd")
    folder.write(shard.part, content.getvalue())
    return part


def _cells(found: Detections, name: str) -> list[Any] | None:
    column = {"boxes": found.boxes, "scores": found.scores, **found.fields}.get(name)
    return None if column is None else column.tolist()


def work_through(
    table: Table,
    folder: PartFolder,
    settings: Mapping[str, Any],
    spread: Spread,
    make: Callable[[], Callable[[Sequence[Shard]], Iterable[Part]]],
) -> list[Part]:
    """Have all shards worked on that are not done, and write the manifest.

    Args:
        table: the input.
        folder: the output, which ``make`` writes to as well.
        settings: of the run.
        spread: ``spread(make, shards)`` gives the parts, in order.
        make: what works on shards.
    """
    parts = folder.done(table)
    todo = [shard for shard in table.shards if shard.number not in parts]
    left = sum(shard.rows for shard in todo)
    with tqdm(desc="pictures", total=left, unit="image", disable=None if left else True) as bar:
        for part in spread(make, todo):
            parts[part.shard.number] = part
            bar.update(part.shard.rows)
    every = [parts[shard.number] for shard in table.shards]
    folder.finish(every, settings)
    return every


def work_here(
    make: Callable[[], Callable[[Sequence[Item]], Iterable[Result]]], items: Iterable[Item]
) -> Iterator[Result]:
    """Work on items in this process; :meth:`tinygan.second_stage.cluster.Cluster.map` has a cluster do it."""
    if some := list(items):
        yield from make()(some)


def _open(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise MissingDependency(f"{address}: {_one_line(error)}") from error
    except ValueError as error:
        raise DataError(f"{address}: expected a path or an address that fsspec knows: {_one_line(error)}") from error
    return fs, str(path)


def _is_local(fs: Any) -> bool:
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _import_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency("--table needs pyarrow: pip install 'tinygan[ray]'") from error
    return pyarrow.parquet


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
