"""Training data on disk: arrays with one row per region, written once and read as memory maps."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygan.files import write_atomically

log = logging.getLogger(__name__)
INDEX_FILE = "index.json"
Rows: TypeAlias = "Mapping[str, npt.NDArray[Any]]"


class Layout(NamedTuple):
    """Type and shape of the rows of an array.

    Attributes:
        dtype: type of the numbers.
        shape: shape of one row.
    """

    dtype: type[np.generic]
    shape: tuple[int, ...] = ()


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    reason: str


def open_store(
    folder: Path, fingerprint: str, layouts: Mapping[str, Layout], parts: Iterable[Rows | Unreadable]
) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Open the arrays in a folder; they are written first, unless they are complete and have this fingerprint.

    Args:
        folder: folder of the files ``NAME.bin`` and ``index.json``, which is written last.
        fingerprint: a hash of everything that the rows depend on.
        layouts: types and shapes of rows by array name.
        parts: for each image its rows by array name, or why it could not be read; not iterated over if the arrays are
            there already.

    Returns:
        The arrays by name, [N, ...] each, read-only memory maps; and one line per image that could not be read.
    """
    index_file = folder / INDEX_FILE
    index: dict[str, Any] = json.loads(index_file.read_text()) if index_file.is_file() else {}
    if index.get("fingerprint") != fingerprint:
        index_file.unlink(missing_ok=True)
        index = {"fingerprint": fingerprint, **_write(folder, layouts, parts)}
        write_atomically(index_file, json.dumps(index).encode())
    return {name: _open(folder, name, layout, index["rows"][name]) for name, layout in layouts.items()}, index[
        "unreadable"
    ]


def _write(folder: Path, layouts: Mapping[str, Layout], parts: Iterable[Rows | Unreadable]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(layouts, 0)
    unreadable: list[str] = []
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in layouts}
        for part in _readable(parts, unreadable):
            for name, layout in layouts.items():
                rows = np.ascontiguousarray(part[name], layout.dtype)
                assert rows.shape[1:] == layout.shape, (name, rows.shape, layout.shape)
                files[name].write(rows.tobytes())
                counts[name] += len(rows)
    return {"rows": counts, "unreadable": unreadable}


def _readable(parts: Iterable[Rows | Unreadable], unreadable: list[str]) -> Iterator[Rows]:
    for part in parts:
        if isinstance(part, Unreadable):
            log.warning("skipped: %s", part.reason)
            unreadable.append(part.reason)
        else:
            yield part


def _open(folder: Path, name: str, layout: Layout, count: int) -> npt.NDArray[Any]:
    shape = (count, *layout.shape)
    return np.memmap(folder / f"{name}.bin", layout.dtype, "r", shape=shape) if count else np.zeros(shape, layout.dtype)
