"""Tables of detections, one box per row: CSV and Parquet (extra ``parquet``).

Columns are ``image, x1, y1, x2, y2, score`` (read as well: ``image, x, y, w, h, score``) in any order.
Further columns of numbers become ``Detections.fields``; a field of several columns is stored as
``landmarks[0][0], landmarks[0][1], ...``. An image without detections is a row in which all cells but
``image`` are empty. Numbers read back exactly.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinygan.boxes import xywh_to_xyxy
from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError, MissingDependency
from tinygan.files import decode, encode, read_bytes, write_atomically
from tinygan.formats.rows import GroupedRows, Rows, ungroup

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

IMAGE, SCORE = "image", "score"
CORNERS = ("x1", "y1", "x2", "y2")
SIZES = ("x", "y", "w", "h")
WRITTEN = (IMAGE, *CORNERS, SCORE)
_EXPECTED = f"a header '{','.join(WRITTEN)}' or '{','.join((IMAGE, *SIZES, SCORE))}'"
_CHUNK = 50_000  # rows read or written at a time
_ELEMENT = re.compile(r"(.+?)((?:\[\d{1,4}\])+)")


def parse_csv(lines: Iterable[str], source: str) -> Mapping[str, Detections]:
    """Read a CSV table.

    Args:
        lines: the header and one line per box, with their line ends. Columns that hold anything but numbers
            are left out with a warning; those without a name, silently.
        source: path for error messages.

    Returns:
        ``{image name: detections}``, both in file order.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    reader = csv.reader(lines, strict=True)
    header = next(_records(reader, source), (1, []))[1]
    table = _Columns(header, source)
    records = _records(reader, source)
    while chunk := list(islice(records, _CHUNK)):
        table.add(chunk)
    return GroupedRows(table.rows())


def load_csv(path: Path) -> Mapping[str, Detections]:
    """Read a CSV table from disk; see :func:`parse_csv`."""
    text = decode(read_bytes(path, "a CSV table of detections"), str(path))
    return parse_csv(_lines(text), str(path))


def format_csv(detections: Mapping[str, Detections]) -> str:
    """Detections as a CSV table, each image by falling score; numbers read back exactly.

    Raises:
        DataError: if a field is named like a column of the box, or an image has no name.
    """
    rows = ungroup(detections)
    fields = _columns_of(rows.fields)
    columns = [*rows.boxes.T, rows.scores, *fields.values()]
    quoted = {name: _quote(name) for name in detections}
    parts = [",".join(map(_quote, (*WRITTEN, *fields))) + "\n"]
    for start in range(0, len(rows.scores), _CHUNK):
        images = [quoted[name] for name in rows.images[start : start + _CHUNK]]
        cells = [list(map(_number, column[start : start + _CHUNK].tolist())) for column in columns]
        parts += [",".join(row) + "\n" for row in zip(images, *cells, strict=True)]
    parts += [quoted[name] + "," * len(columns) + "\n" for name in rows.empty]
    return "".join(parts)


def save_csv(path: Path, detections: Mapping[str, Detections]) -> None:
    """Write a CSV table atomically; see :func:`format_csv`."""
    write_atomically(path, encode(format_csv(detections), path))


def load_parquet(path: Path) -> Mapping[str, Detections]:
    """Read a Parquet table; columns as in CSV, empty cells are nulls.

    Raises:
        DataError: if the file is absent, damaged, or lacks a column.
        MissingDependency: if pyarrow is not installed.
    """
    pa = _import_pyarrow(path)
    import pyarrow.parquet as pq

    content = read_bytes(path, "a Parquet table of detections")
    try:
        table = pq.ParquetFile(io.BytesIO(content)).read()
        table.validate(full=True)
        return _from_arrow(table, str(path))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{path}: expected a readable Parquet table of detections: {reason}") from error


def save_parquet(path: Path, detections: Mapping[str, Detections]) -> None:
    """Write a Parquet table atomically; see :func:`load_parquet`."""
    pa = _import_pyarrow(path)
    import pyarrow.parquet as pq

    rows = ungroup(detections)
    fields = _columns_of(rows.fields)
    values = dict(zip((*CORNERS, SCORE, *fields), (*rows.boxes.T, rows.scores, *fields.values()), strict=True))
    nulls = pa.nulls(len(rows.empty), pa.float64())
    columns = {name: pa.concat_arrays([pa.array(column), nulls]) for name, column in values.items()}
    images = pa.array([*rows.images, *rows.empty], pa.string())
    content = io.BytesIO()
    pq.write_table(pa.table({IMAGE: images, **columns}), content)
    write_atomically(path, content.getvalue())


class _Columns:
    """Columns of a CSV table, filled by chunks of lines."""

    def __init__(self, header: Sequence[str], source: str) -> None:
        self.source = source
        self.width = len(header)
        self.at, self.further = _find_columns(header, f"{source}:1")
        self.images: list[str] = []
        self.empty: list[str] = []
        self.values: list[FloatArray] = []
        self.fields: dict[str, list[FloatArray]] = {name: [] for name in self.further}

    def add(self, records: list[tuple[int, list[str]]]) -> None:
        """Add lines, each with its number."""
        for number, record in records:
            if len(record) != self.width:
                raise DataError(
                    f"{self.source}:{number}: expected {self.width} cells as in the header, got {len(record)}"
                )
        records = self._without_empty(records)
        if not records:
            return
        numbers, rows = zip(*records, strict=True)
        cells = list(zip(*rows, strict=True))
        images = cells[self.at[IMAGE]]
        if "" in images:
            raise DataError(f"{self.source}:{numbers[images.index('')]}: expected the name of an image, got ''")
        self.images += images
        self.values.append(self._boxes(numbers, cells))
        for name, column in list(self.fields.items()):
            try:
                column.append(_floats([cell or "nan" for cell in cells[self.further[name]]]))
            except ValueError as error:
                log.warning("%s: column '%s' is left out, as it does not hold numbers alone: %s", self.source, name,
                            error)  # fmt: skip
                del self.fields[name]

    def rows(self) -> Rows:
        """What was added."""
        values = np.concatenate([np.zeros((0, 5)), *self.values])
        fields = {name: np.concatenate([np.zeros(0), *column]) for name, column in self.fields.items()}
        return Rows(self.images, values[:, :4], values[:, 4], _unflatten(fields), self.empty)

    def _without_empty(self, records: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
        """The records that hold a box; the images of the others are noted."""
        score, image = self.at[SCORE], self.at[IMAGE]
        if all(record[score] for _, record in records):
            return records
        kept = []
        for number, record in records:
            if record[image] and not any(cell for place, cell in enumerate(record) if place != image):
                self.empty.append(record[image])
            else:
                kept.append((number, record))
        return kept

    def _boxes(self, numbers: Sequence[int], cells: Sequence[Sequence[str]]) -> FloatArray:
        """float64 [N, 5], ``x1, y1, x2, y2, score``."""
        names = [name for name in self.at if name != IMAGE]
        try:
            values = np.stack([_floats(cells[self.at[name]]) for name in names], axis=1)
            bad = ~np.isfinite(_to_corners(values, names)).all(axis=1)
        except ValueError:
            bad = np.array([not _is_box(row, names) for row in zip(*(cells[self.at[n]] for n in names), strict=True)])
        if bad.any():
            at = int(bad.argmax())
            got = ",".join(cells[self.at[name]][at] for name in names)
            raise DataError(
                f"{self.source}:{numbers[at]}: expected finite numbers in {','.join(names)}; got '{got[:200]}'"
            )
        return _to_corners(values, names)


def _find_columns(header: Sequence[str], place: str) -> tuple[dict[str, int], dict[str, int]]:
    """Places of the columns of the box, in the order image, box, score, and of the further ones."""
    cleaned = [name.strip() for name in header]
    known = [name.casefold() if name.casefold() in (*WRITTEN, *SIZES) else name for name in cleaned]
    doubles = sorted({name for name in known if name and known.count(name) > 1})
    if doubles:
        raise DataError(f"{place}: column '{doubles[0]}' stands twice in the header")
    box = CORNERS if set(CORNERS) <= set(known) else SIZES
    names = (IMAGE, *box, SCORE)
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(f"{place}: expected {_EXPECTED}; got '{','.join(cleaned)[:200]}'")
    at = {name: known.index(name) for name in names}
    return at, {cleaned[place]: place for place, name in enumerate(known) if name and name not in at}


def _to_corners(values: FloatArray, names: Sequence[str]) -> FloatArray:
    """Five columns with corners, from columns called ``names``."""
    if tuple(names[:4]) == CORNERS:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([xywh_to_xyxy(values[:, :4]), values[:, 4:]], axis=1)


def _is_box(cells: Sequence[str], names: Sequence[str]) -> bool:
    try:
        return bool(np.isfinite(_to_corners(_floats(cells)[None], names)).all())
    except ValueError:
        return False


def _floats(cells: Sequence[str]) -> FloatArray:
    return np.fromiter(map(float, cells), np.float64, len(cells))


def _records(reader: Any, source: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not blank, with their numbers."""
    try:
        for record in reader:
            if record:
                yield reader.line_num, record
    except csv.Error as error:
        raise DataError(f"{source}:{reader.line_num}: expected a line of CSV: {error}") from error


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends; an iterator, as a million of them at once take much memory."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _columns_of(fields: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    for key in fields:
        if key.strip().casefold() in WRITTEN or not key.strip():
            raise DataError(f"field '{key}' cannot be a column beside {', '.join(WRITTEN)}; rename it")
    return _flatten(fields)


def _flatten(fields: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Every field as columns: ``a`` stays, ``a`` [N, 2] becomes ``a[0]`` and ``a[1]``."""
    columns = {}
    for key, field in fields.items():
        for element in np.ndindex(field.shape[1:]):
            index: tuple[int | slice, ...] = (slice(None), *element)
            columns[key + "".join(f"[{place}]" for place in element)] = field[index]
    return columns


def _unflatten(columns: Mapping[str, FloatArray]) -> dict[str, npt.NDArray[Any]]:
    """The reverse of :func:`_flatten`; columns that do not make up a whole field stay as they are."""
    elements: dict[str, dict[tuple[int, ...], str]] = {}
    for name in columns:
        found = _ELEMENT.fullmatch(name)
        if found:
            place = tuple(int(number) for number in found[2][1:-1].split("]["))
            elements.setdefault(found[1], {})[place] = name
    fields: dict[str, npt.NDArray[Any]] = dict(columns)
    for key, names in elements.items():
        places = list(names)
        if key in columns or len({len(place) for place in places}) > 1:
            continue
        shape = tuple(int(side) + 1 for side in np.max(places, axis=0))
        if np.prod(shape, dtype=np.float64) != len(places):
            continue
        parts = [fields.pop(names[place]) for place in np.ndindex(shape)]
        fields[key] = np.stack(parts, axis=1).reshape(-1, *shape)
    return fields


def _number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return repr(value).removesuffix(".0")


def _quote(text: str) -> str:
    needs_quotes = any(character in text for character in ',"\r\n') or text != text.strip()
    return '"' + text.replace('"', '""') + '"' if needs_quotes else text


def _import_pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependency(f"{path}: Parquet needs pyarrow; pip install 'tinygan[parquet]'") from error
    return pyarrow


def _from_arrow(table: pa.Table, source: str) -> Mapping[str, Detections]:
    at, further = _find_columns(table.column_names, source)
    images = table.column(at[IMAGE]).to_pylist()
    names = [name for name in at if name != IMAGE]
    raw = np.stack([_arrow_floats(table.column(at[name])) for name in names], axis=1)
    fields = {}
    for name, place in further.items():
        if name.startswith("__index_level_"):
            continue
        try:
            fields[name] = _arrow_floats(table.column(place))
        except ValueError:
            log.warning("%s: column '%s' is left out, as it does not hold numbers", source, name)
    nulls = [np.asarray(table.column(at[name]).is_null()) for name in names]
    empty = np.logical_and.reduce(nulls)
    bad = ~np.isfinite(_to_corners(raw, names)).all(axis=1) & ~empty
    bad |= np.array([not isinstance(image, str) or not image for image in images], dtype=np.bool_)
    if bad.any():
        at_row = int(bad.argmax())
        raise DataError(
            f"{source}: row {at_row + 1}: expected an image's name and finite numbers in {','.join(names)}; "
            f"got {images[at_row]!r}, {raw[at_row].tolist()}"
        )
    kept = np.flatnonzero(~empty)
    values = _to_corners(raw, names)[kept]
    boxed = images if len(kept) == len(images) else [images[row] for row in kept]
    alone = [images[row] for row in np.flatnonzero(empty)]
    fields = _unflatten({name: column[kept] for name, column in fields.items()})
    return GroupedRows(Rows(boxed, values[:, :4], values[:, 4], fields, alone))


def _arrow_floats(column: pa.ChunkedArray) -> FloatArray:
    """float64 [N]; nulls are NaN. Raises ValueError if the column does not hold numbers."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"expected numbers, got {kind}")
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    values: FloatArray = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    return values
