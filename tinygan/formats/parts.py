"""The output of work on tables of pictures: a Parquet part per shard, and a manifest behind all of them.

A part says in its footer which rows it was made of, and appears whole or not at all. So whatever is killed, nothing is
lost, and a shard whose part is there is not worked on again.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from tqdm import tqdm

from tinygan.concurrency import ordered_map
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.files import difference, remove_half_written, write_atomically
from tinygan.formats.shards import Shard, Table, import_parquet, is_local, open_storage

SETTINGS, MANIFEST = "settings.json", "manifest.json"
_PART = re.compile(r"part-\d{6,}\.parquet")
_COLUMNS = {  # of the output: how deep its lists of numbers are
    "boxes": 2, "scores": 1, "proposal_box": 2, "proposal_score": 1, "face_logit": 1, "outcome": 1, "landmarks": 2,
}  # fmt: skip
Item = TypeVar("Item")
Result = TypeVar("Result")
Spread: TypeAlias = "Callable[[Callable[[], Callable[[Sequence[Any]], Iterable[Any]]], Iterable[Any]], Iterator[Any]]"


class Answer(NamedTuple):
    """What was found in a picture.

    Attributes:
        name: what it is called.
        found: boxes with their columns.
        error: why it was not worked on, or not in full.
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
        skipped: a line for every picture that was not worked on, or not in full.
    """

    shard: Shard
    boxes: int = 0
    skipped: list[str] = field(default_factory=list)


class PartFolder:
    """The output: a part per shard, settings before and a manifest behind all of them.

    Args:
        address: folder, at any address of fsspec.
        command: the command's name, for messages.
        settings: what decides the results, as JSON types; a continued run must have the same.
        resume: continue what is there.
        overwrite: replace what is there: the parts, settings, manifest and what is kept, and nothing else.
        kept: names of further files that the run keeps beside the parts, which ``overwrite`` removes.

    Raises:
        DataError: if something is there that may be neither continued nor replaced.
    """

    def __init__(
        self,
        address: str,
        command: str,
        settings: Mapping[str, Any],
        *,
        resume: bool,
        overwrite: bool,
        kept: Collection[str] = (),
    ) -> None:
        fs, path = open_storage(address)
        self.address = path if is_local(fs) else address  # workers may be in another folder
        there = {posixpath.basename(one) for one in fs.find(path)} if fs.isdir(path) else set()
        if fs.exists(path) and not fs.isdir(path):
            raise DataError(f"{address}: expected a folder to write into, but this is a file; choose another --out")
        if there and SETTINGS not in there:
            raise DataError(f"{address}: is not empty and was not written by {command}; choose another --out")
        self._parts = sorted(name for name in there if _PART.fullmatch(name))
        if there and overwrite:
            for name in [*self._parts, *({MANIFEST, *kept} & there), SETTINGS]:
                fs.rm(posixpath.join(path, name))
            self._parts = []
        elif there and not resume:
            raise DataError(
                f"{address}: holds results already; continue with --resume or replace them with --overwrite"
            )
        elif there and (before := self.read_json(SETTINGS)) != settings:
            if not isinstance(before, dict):
                raise self._damaged(SETTINGS)
            raise DataError(f"{address}: {difference(before, settings)}")
        self.write(SETTINGS, json.dumps(settings).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder in one step."""
        fs, path = open_storage(f"{self.address.rstrip('/')}/{name}")
        if is_local(fs):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(path), content)
        else:
            fs.pipe_file(path, content)  # object stores show whole objects alone

    def has(self, name: str) -> bool:
        """Whether there is such a file in the folder."""
        fs, path = open_storage(f"{self.address.rstrip('/')}/{name}")
        return bool(fs.exists(path))

    def read_json(self, name: str) -> Any:
        """What a file of the folder holds.

        Raises:
            DataError: if it is damaged.
        """
        fs, path = open_storage(f"{self.address.rstrip('/')}/{name}")
        try:
            return json.loads(fs.cat_file(path))
        except (ValueError, RecursionError) as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> DataError:
        return DataError(f"{self.address}/{name}: is damaged; replace the results with --overwrite")

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
        fs, path = open_storage(f"{self.address.rstrip('/')}/{name}")
        try:
            with fs.open(path, "rb") as file:
                noted = json.loads(import_parquet().read_metadata(file).metadata[b"tinygan"])
            return Part(Shard(**noted["shard"]), noted["boxes"], noted["skipped"])
        except Exception as error:
            raise self._damaged(name) from error

    def finish(self, parts: Sequence[Part], settings: Mapping[str, Any]) -> None:
        """Write the manifest, and remove what killed workers left half written."""
        listed = [{"part": one.shard.part, **asdict(one)} for one in parts]
        totals = {"rows": sum(one.shard.rows for one in parts), "boxes": sum(one.boxes for one in parts)}
        fs, path = open_storage(self.address)
        if is_local(fs):
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
    import_parquet().write_table(table, content, compression="zstd")
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
        table: the pictures to work on, and their boxes where a table has them.
        folder: the folder of the parts, into which ``make`` writes as well.
        settings: the settings of the run, which the manifest repeats.
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
