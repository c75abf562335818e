"""Tables of detections, one box per row: CSV and Parquet (extra ``parquet``).

Columns are ``image, x1, y1, x2, y2, score`` in any order; read as well are the names that other tools give them (see
:mod:`tinygan.formats.headers`), with ``,``, ``;`` or tabs between them. Further columns of numbers become
``Detections.fields``; a field of several columns is stored as ``landmarks[0][0], landmarks[0][1], ...``. An image
without detections is a row in which all cells but ``image`` are empty. Numbers read back exactly.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinygan.detections import Detections, FloatArray
from tinygan.errors import DataError, MissingDependency
from tinygan.files import decode, encode, read_bytes, write_atomically
from tinygan.formats.categories import FACE, choose, keep_faces
from tinygan.formats.dialect import Order
from tinygan.formats.headers import CORNERS, IMAGE, SCORE, WRITTEN, Header, find_delimiter, find_header
from tinygan.formats.notation import to_corners
from tinygan.formats.rows import GroupedRows, Rows, ungroup

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_CHUNK = 50_000  # rows read or written at a time
_ELEMENT = re.compile(r"(.+?)((?:\[\d{1,4}\])+)")


def parse_csv(lines: Iterable[str], source: str, categories: Sequence[str] = ()) -> GroupedRows:
    """Read a CSV table.

    Args:
        lines: the header and one line per box, with their line ends. Columns that hold anything but numbers
            are left out with a warning; those without a name, silently.
        source: path for error messages.
        categories: of several categories those that are faces; default: ``face``.

    Raises:
        DataError: naming ``source:line`` of the first bad line.
    """
    lines = iter(lines)
    before = []
    for line in lines:
        before.append(line)
        if line.strip():
            break
    delimiter = find_delimiter(before[-1]) if before else ","
    reader = csv.reader(chain(before, lines), strict=True, delimiter=delimiter)
    header = next(_records(reader, source), (1, []))[1]
    table = _Columns(find_header(header, f"{source}:1"), len(header), source, decimal_commas=delimiter != ",")
    records = _records(reader, source)
    while chunk := list(islice(records, _CHUNK)):
        table.add(chunk)
    return table.read(categories)


def parse_records(entries: Sequence[Mapping[str, Any]], source: str, categories: Sequence[str] = ()) -> GroupedRows:
    """Read a table that is a JSON list of objects, one per box, as of supervision's JSON sink.

    Args:
        entries: columns by name.
        source: path for error messages.
        categories: of several categories those that are faces; default: ``face``.

    Raises:
        DataError: naming the first bad entry, from 1 on.
    """
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    table = _Columns(find_header(names, source), len(names), f"{source}: entry ")
    rows = ([_cell(entry.get(name)) for name in names] for entry in entries)
    table.add(list(enumerate(rows, 1)))
    return table.read(categories)


def load_csv(path: Path, categories: Sequence[str] = ()) -> GroupedRows:
    """Read a CSV table from disk; see :func:`parse_csv`."""
    text = decode(read_bytes(path, "a CSV table of detections"), str(path))
    return parse_csv(_lines(text), str(path), categories)


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


def load_parquet(path: Path, categories: Sequence[str] = ()) -> GroupedRows:
    """Read a Parquet table; columns and categories as in CSV, empty cells are nulls.

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
        return _from_arrow(table, str(path), categories)
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

    def __init__(self, header: Header, width: int, source: str, decimal_commas: bool = False) -> None:
        self.header, self.width = header, width
        self.source, self.decimal_commas = source, decimal_commas
        self.images: list[str] = []
        self.empty: list[str] = []
        self.categories: list[str] = []
        self.values: list[FloatArray] = []
        self.fields: dict[str, list[FloatArray]] = {name: [] for name in header.further}

    def add(self, records: list[tuple[int, list[str]]]) -> None:
        """Add lines, each with its number."""
        for number, record in records:
            if len(record) != self.width:
                raise DataError(
                    f"{self._place(number)}: expected {self.width} cells as in the header, got {len(record)}"
                )
        records = self._without_empty(records)
        if not records:
            return
        numbers, rows = zip(*records, strict=True)
        cells = list(zip(*rows, strict=True))
        images = cells[self.header.image]
        if "" in images:
            raise DataError(f"{self._place(numbers[images.index('')])}: expected the name of an image, got ''")
        self.images += images
        if self.header.category is not None:
            self.categories += cells[self.header.category]
        self.values.append(self._boxes(numbers, cells))
        for name, column in list(self.fields.items()):
            try:
                column.append(self._floats([cell or "nan" for cell in cells[self.header.further[name]]]))
            except ValueError as error:
                log.warning("%s: column '%s' is left out, as it does not hold numbers alone: %s", self.source, name,
                            error)  # fmt: skip
                del self.fields[name]

    def read(self, categories: Sequence[str]) -> GroupedRows:
        """What was added; of several categories those wanted, or called ``face``."""
        values = np.concatenate([np.zeros((0, 5)), *self.values])
        fields = {name: np.concatenate([np.zeros(0), *column]) for name, column in self.fields.items()}
        rows = Rows(self.images, values[:, :4], values[:, 4], _unflatten(fields), self.empty, self.header.order)
        return _faces_of(rows, self.header, self.categories, categories, self.source)

    def _place(self, number: int) -> str:
        return f"{self.source}{number}" if self.source.endswith(" ") else f"{self.source}:{number}"

    def _floats(self, cells: Sequence[str]) -> FloatArray:
        if self.decimal_commas:
            cells = [cell.replace(",", ".") for cell in cells]
        return np.fromiter(map(float, cells), np.float64, len(cells))

    def _without_empty(self, records: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
        """The records that hold a box; the images of the others are noted."""
        score, image = self.header.score, self.header.image
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
        columns = [cells[at] for at in self.header.numbers]
        try:
            values = np.stack([self._floats(column) for column in columns], axis=1)
            bad = ~np.isfinite(_to_corners(values, self.header.order)).all(axis=1)
        except ValueError:
            bad = np.array([not self._is_box(row) for row in zip(*columns, strict=True)])
        if bad.any():
            at = int(bad.argmax())
            got = ",".join(column[at] for column in columns)
            raise DataError(
                f"{self._place(numbers[at])}: expected finite numbers in {','.join(self.header.names)}; "
                f"got '{got[:200]}'"
            )
        return _to_corners(values, self.header.order)

    def _is_box(self, cells: Sequence[str]) -> bool:
        try:
            return bool(np.isfinite(_to_corners(self._floats(cells)[None], self.header.order)).all())
        except ValueError:
            return False


def _faces_of(rows: Rows, header: Header, of_rows: Sequence[object], wanted: Sequence[str], source: str) -> GroupedRows:
    """The rows that are faces, where a column says what each is."""
    if header.category is None or not len(of_rows):
        return GroupedRows(rows)
    if not header.is_category and not choose(set(of_rows), [*wanted, FACE]):
        return GroupedRows(rows)
    return GroupedRows(rows.kept(keep_faces(of_rows, wanted, source)))


def _to_corners(values: FloatArray, order: Order) -> FloatArray:
    """Five columns with corners, from columns in this order."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([to_corners(values[:, :4], order), values[:, 4:]], axis=1)


def _cell(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(value)


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


def _from_arrow(table: pa.Table, source: str, categories: Sequence[str]) -> GroupedRows:
    header = find_header(table.column_names, source)
    images = table.column(header.image).to_pylist()
    raw = np.stack([_arrow_floats(table.column(at)) for at in header.numbers], axis=1)
    fields = {}
    for name, place in header.further.items():
        if name.startswith("__index_level_"):
            continue
        try:
            fields[name] = _arrow_floats(table.column(place))
        except ValueError:
            log.warning("%s: column '%s' is left out, as it does not hold numbers", source, name)
    empty = np.logical_and.reduce([np.asarray(table.column(at).is_null()) for at in header.numbers])
    bad = ~np.isfinite(_to_corners(raw, header.order)).all(axis=1) & ~empty
    bad |= np.array([not isinstance(image, str) or not image for image in images], dtype=np.bool_)
    if bad.any():
        at_row = int(bad.argmax())
        raise DataError(
            f"{source}: row {at_row + 1}: expected an image's name and finite numbers in {','.join(header.names)}; "
            f"got {images[at_row]!r}, {raw[at_row].tolist()}"
        )
    kept = np.flatnonzero(~empty)
    values = _to_corners(raw, header.order)[kept]
    boxed = images if len(kept) == len(images) else [images[row] for row in kept]
    alone = [images[row] for row in np.flatnonzero(empty)]
    fields = _unflatten({name: column[kept] for name, column in fields.items()})
    rows = Rows(boxed, values[:, :4], values[:, 4], fields, alone, header.order)
    of_all = [] if header.category is None else table.column(header.category).to_pylist()
    return _faces_of(rows, header, [of_all[row] for row in kept] if of_all else [], categories, source)


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
