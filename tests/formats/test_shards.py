"""Tables of pictures: shards by the footers of files, and rows."""

import fsspec
import numpy as np
import pytest

from tests.formats.conftest import png, write_table
from tinygan.errors import DataError, MissingDependency
from tinygan.formats import shards
from tinygan.formats.images import read_image
from tinygan.formats.shards import plan_table, read_rows

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


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
