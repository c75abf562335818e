"""The output of a table: parts that appear once, wherever they are written, and their manifest."""

import fsspec
import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.parts import Answer, PartFolder, work_here, work_through, write_part
from tinygan.formats.shards import plan_table, read_rows

pq = pytest.importorskip("pyarrow.parquet")


def answers(shard):
    return [Answer(row.name, row.proposals, row.error) for row in read_rows(shard)]


def make(folder):
    return lambda: lambda some: (write_part(folder, shard, answers(shard)) for shard in some)


def opened(address, resume=False, overwrite=False, settings=None):
    return PartFolder(str(address), "test", settings or {"a": 1}, resume=resume, overwrite=overwrite)


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_parts_are_written_once_and_a_run_that_goes_on_repeats_none(table, tmp_path, where):
    address = str(tmp_path / "out") if where == "folder" else f"memory://{tmp_path}/out"
    planned, settings = plan_table(str(table), with_boxes=True), {"a": 1}
    assert len(planned.shards) == 5
    folder = opened(address)
    work_through(planned, folder, settings, work_here, make(folder))
    manifest = folder.read_json("manifest.json")
    assert manifest["rows"] == 8 and manifest["boxes"] == 28 and manifest["settings"] == settings
    fs, path = fsspec.core.url_to_fs(address)
    whole = {part["part"]: fs.cat_file(f"{path}/{part['part']}") for part in manifest["parts"]}
    with pytest.raises(DataError, match="continue with --resume or replace them with --overwrite"):
        opened(address)
    with pytest.raises(DataError, match="a was 1, is now 2"):
        opened(address, resume=True, settings={"a": 2})
    for gone in ("part-000001.parquet", "part-000004.parquet"):
        fs.rm(f"{path}/{gone}")
    made = []

    def counted(work, items):
        some = list(items)
        made.extend(shard.number for shard in some)
        return work_here(work, some)

    folder = opened(address, resume=True)
    work_through(planned, folder, settings, counted, make(folder))
    assert made == [1, 4] and {name: fs.cat_file(f"{path}/{name}") for name in whole} == whole
    folder = opened(address, overwrite=True)
    assert not folder.has("manifest.json") and folder.done(planned) == {}


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
    for text in ("{", 100_000 * "[", "5"):
        (tmp_path / "out/settings.json").write_text(text)
        with pytest.raises(DataError, match=r"settings\.json: is damaged; replace the results with --overwrite"):
            opened(tmp_path / "out", resume=True)
    opened(tmp_path / "out", overwrite=True)


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
