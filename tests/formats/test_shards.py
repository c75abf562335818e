"""Tables of pictures: shards, rows, and parts that appear once, wherever they are written."""

import io
import json

import fsspec
import numpy as np
import pytest
from PIL import Image

from tinygan.detections import Detections
from tinygan.errors import DataError, MissingDependency
from tinygan.formats import shards
from tinygan.formats.images import read_image
from tinygan.formats.shards import Answer, PartFolder, plan_table, read_rows, work_here, work_through, write_part

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(value: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 0, 0)).save(content, "PNG")
    return content.getvalue()


def write_table(file, rows, row_group_size=None, **columns):
    table = pa.table({"name": [f"picture {row}" for row in range(rows)], **columns})
    pq.write_table(table, file, row_group_size=row_group_size)


@pytest.fixture
def table(tmp_path):
    """Two files with 5 and 3 pictures, 2 rows a group; picture n has n boxes and the colour n."""
    (tmp_path / "in").mkdir()
    for name, numbers in (("a", range(5)), ("b", range(5, 8))):
        write_table(
            tmp_path / "in" / f"{name}.parquet",
            len(numbers),
            2,
            image=[png(number) for number in numbers],
            boxes=[[[box, 0.0, box + 2, 3.0] for box in range(number)] for number in numbers],
            scores=[[0.1 * (box + 1) for box in range(number)] for number in numbers],
        )
    return tmp_path / "in"


def answers(shard):
    return [Answer(row.name, row.proposals, row.error) for row in read_rows(shard)]


def make(folder):
    return lambda: lambda some: (write_part(folder, shard, answers(shard)) for shard in some)


def opened(address, resume=False, overwrite=False, settings=None):
    return PartFolder(str(address), "test", settings or {"a": 1}, resume=resume, overwrite=overwrite)


def test_footers_alone_tell_shards_rows_and_boxes(table, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 1)
    planned = plan_table(str(table), with_boxes=True)
    assert planned.rows == 8 and 28 <= planned.boxes <= 29  # a list without an element counts as one
    assert [(one.row_group, one.first, one.rows, one.start) for one in planned.shards[:5]] == [
        (0, 0, 1, 0), (0, 1, 1, 1), (1, 0, 1, 2), (1, 1, 1, 3), (2, 0, 1, 4)
    ]  # fmt: skip
    rows = [row for shard in planned.shards for row in read_rows(shard)]
    assert [np.asarray(read_image(row.image))[0, 0, 0] for row in rows] == list(range(8))
    assert [len(row.proposals) for row in rows] == list(range(8))
    assert rows[3].proposals.scores.tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert rows[3].proposals.boxes[0].tolist() == [2, 0, 4, 3]


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7, 9])
def test_a_sample_is_spread_evenly_over_all_shards(table, every):
    planned = plan_table(f"{table}/*.parquet", with_boxes=True)
    found = [[row.proposals for row in read_rows(shard, every=every)] for shard in planned.shards]
    assert [len(one) for some in found for one in some] == list(range(0, 8, every))
    assert [bool(some) for some in found] == [shard.holds(every) for shard in planned.shards]


def test_pictures_by_path_and_what_other_tools_call_them(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(png(1))
    fsspec.filesystem("memory").pipe_file("/shards/2.png", png(2))
    write_table(tmp_path / "a.parquet", 3, path=["photos/1.png", "memory://shards/2.png", "photos/3.png"])
    (shard,) = plan_table(str(tmp_path / "a.parquet"), with_boxes=False).shards
    rows = list(read_rows(shard))
    assert [np.asarray(read_image(row.image))[0, 0, 0] for row in rows[:2]] == [1, 2]
    with pytest.raises(DataError, match=r"photos/3\.png: no such image"):
        read_image(rows[2].image)
    images = [{"bytes": png(4), "path": "4.png"}, {"bytes": png(5), "path": None}]
    pq.write_table(pa.table({"image": images}), tmp_path / "b.parquet")
    (shard,) = plan_table(str(tmp_path / "b.parquet"), with_boxes=False).shards
    rows = list(read_rows(shard))
    assert [np.asarray(read_image(row.image))[0, 0, 0] for row in rows] == [4, 5]
    assert [row.name for row in rows] == ["4.png", f"{tmp_path}/b.parquet#0.1"]


def test_a_row_that_cannot_be_read_costs_that_row_alone(tmp_path):
    good = {"image": png(1), "boxes": [[0.0, 0, 1, 1]], "scores": [0.5]}
    bad = [
        {**good, "boxes": [[0.0, 0, 1]]}, {**good, "scores": []}, {**good, "image": None},
        {**good, "boxes": [[0.0, 0, float("nan"), 1]]},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist([good, *bad, good]), tmp_path / "a.parquet")
    (shard,) = plan_table(str(tmp_path / "a.parquet"), with_boxes=True).shards
    errors = [row.error for row in read_rows(shard)]
    assert errors[0] is errors[5] is None
    assert all("a.parquet#0." in error and "expected" in error for error in errors[1:5])


def test_what_is_no_table_is_one_line(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"a\.parquet: expected a Parquet file"):
        plan_table(str(tmp_path / "a.parquet"), with_boxes=False)
    write_table(tmp_path / "a.parquet", 1, path=["a.png"])
    with pytest.raises(DataError, match=r"with a column image or bytes .* and boxes, scores; has name, path"):
        plan_table(str(tmp_path / "a.parquet"), with_boxes=True)
    with pytest.raises(DataError, match=r"none: no such Parquet file"):
        plan_table(str(tmp_path / "none"), with_boxes=True)
    write_table(tmp_path / "a.parquet", 0, path=pa.array([], pa.string()))
    with pytest.raises(DataError, match="holds no row"):
        plan_table(str(tmp_path / "a.parquet"), with_boxes=False)
    with pytest.raises(DataError, match="nosuch://a: expected a path or an address that fsspec knows"):
        plan_table("nosuch://a", with_boxes=False)


def test_an_address_whose_package_is_absent_is_one_line(monkeypatch):
    def absent(address):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingDependency, match="s3://bucket: Install s3fs"):
        plan_table("s3://bucket", with_boxes=False)


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_parts_are_written_once_and_a_run_that_goes_on_repeats_none(table, tmp_path, where):
    address = str(tmp_path / "out") if where == "folder" else f"memory://{tmp_path}/out"
    planned, settings = plan_table(str(table), with_boxes=True), {"a": 1}
    assert len(planned.shards) == 5
    folder = opened(address)
    work_through(planned, folder, settings, work_here, make(folder))
    manifest = json.loads(folder.read("manifest.json"))
    assert manifest["rows"] == 8 and manifest["boxes"] == 28 and manifest["settings"] == settings
    whole = {part["part"]: folder.read(part["part"]) for part in manifest["parts"]}
    with pytest.raises(DataError, match="continue with --resume or replace them with --overwrite"):
        opened(address)
    with pytest.raises(DataError, match="a was 1, is now 2"):
        opened(address, resume=True, settings={"a": 2})
    fs, path = fsspec.core.url_to_fs(address)
    for gone in ("part-000001.parquet", "part-000004.parquet"):
        fs.rm(f"{path}/{gone}")
    made = []

    def counted(work, items):
        some = list(items)
        made.extend(shard.number for shard in some)
        return work_here(work, some)

    folder = opened(address, resume=True)
    work_through(planned, folder, settings, counted, make(folder))
    assert made == [1, 4] and {name: folder.read(name) for name in whole} == whole
    folder = opened(address, overwrite=True)
    assert folder.read("manifest.json") is None and folder.done(planned) == {}


def test_tables_that_changed_are_not_mixed(table, tmp_path):
    planned, folder = plan_table(str(table), with_boxes=True), opened(tmp_path / "out")
    work_through(planned, folder, {"a": 1}, work_here, make(folder))
    file = table / "b.parquet"
    file.write_bytes(file.read_bytes())  # another time
    with pytest.raises(DataError, match=r"out: changed since the run .*b\.parquet \(part-000003\.parquet\)"):
        opened(tmp_path / "out", resume=True).done(plan_table(str(table), with_boxes=True))
    (tmp_path / "out/part-000000.parquet").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"part-000000\.parquet: is damaged"):
        opened(tmp_path / "out", resume=True).done(planned)


def test_nothing_of_others_is_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(DataError, match="is not empty and was not written by test"):
        opened(tmp_path / "out", overwrite=True)
    with pytest.raises(DataError, match="expected a folder to write into"):
        opened(tmp_path / "out/mine.txt")


def test_what_a_killed_worker_left_half_written_is_removed(table, tmp_path):
    folder = opened(tmp_path / "out")
    for name in (".part-000001.parquet.abcd.tmp", ".mine.tmp"):
        (tmp_path / "out" / name).touch()
    work_through(plan_table(str(table), with_boxes=True), folder, {}, work_here, make(folder))
    assert [file.name for file in (tmp_path / "out").glob(".*")] == [".mine.tmp"]


def test_a_part_reads_back_exactly(table, tmp_path):
    planned, folder = plan_table(str(table), with_boxes=True), opened(tmp_path / "out")
    boxes = np.array([[1 / 3, 2, 3, 4], [5, 6, 7, 8]])
    columns = {"outcome": np.array(["kept", "moved"]), "landmarks": np.zeros((2, 10))}
    found = Detections(boxes, np.array([0.7, 0.1]), columns)
    part = write_part(folder, planned.shards[0], [Answer("x", found), Answer("y", Detections.empty(), "y: no")])
    assert part.boxes == 2 and part.skipped == ["y: no"]
    first, second = pq.read_table(tmp_path / "out" / planned.shards[0].part).to_pylist()
    assert first["boxes"] == boxes.tolist() and first["outcome"] == ["kept", "moved"] and first["face_logit"] is None
    assert np.shape(first["landmarks"]) == (2, 10) and first["error"] is None
    assert second["boxes"] == [] and second["error"] == "y: no"
