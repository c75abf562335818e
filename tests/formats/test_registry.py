import json

import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import ConfigError, DataError
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.registry import FORMATS, find_format, name_of_suffix, open_detections, sniff_name

ONE = {"e/a": Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.5]))}


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_recognised_without_its_name(name, tmp_path):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    FORMATS[name].write(tmp_path / "detections", ONE, AS_WRITTEN)
    assert sniff_name(tmp_path / "detections") == name
    files = open_detections(tmp_path / "detections")
    assert files.source == tmp_path / "detections" and files["e/a"].boxes.tolist() == [[1, 2, 3, 4]]
    assert files.text("e/a") == "e/a\n1\n1 2 2 2 0.5\n"


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_archives_are_recognised_without_their_name(suffix, tmp_path):
    FORMATS["wider"].write(tmp_path / f"d{suffix}", ONE, AS_WRITTEN)
    (tmp_path / f"d{suffix}").rename(tmp_path / "d")
    assert sniff_name(tmp_path / "d") == "wider" and len(open_detections(tmp_path / "d")) == 1


def test_a_folder_of_folds_is_fddb(tmp_path):
    (tmp_path / "fold-01-out.txt").write_text("2002/a\n1\n1 2 3 4 0.5\n2002/b\n0\n")
    assert sniff_name(tmp_path) == "fddb" and sorted(open_detections(tmp_path)) == ["2002/a", "2002/b"]
    assert sorted(open_detections(tmp_path / "fold-01-out.txt")) == ["2002/a", "2002/b"]


def test_empty_files_are_judged_by_their_name(tmp_path):
    for name, message in (
        ("d.csv", r"d\.csv:1: expected a header"),
        ("d.json", r"d\.json:1: expected JSON"),
        ("d.txt", r"d\.txt: expected detections, found none"),
        ("d", "d: is in no known format of detections; name one of wider, parquet, coco, csv, fddb"),
    ):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=message):
            open_detections(tmp_path / name)
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(DataError, match="expected detections, found none"):
        open_detections(tmp_path / "d.json")


def test_a_named_format_is_not_sniffed(tmp_path):
    (tmp_path / "d").write_text("image,score,x1,y1,x2,y2\n")
    with pytest.raises(DataError, match="d:1: expected JSON"):
        open_detections(tmp_path / "d", "coco")


def test_names_of_formats():
    assert find_format("csv") is FORMATS["csv"]
    with pytest.raises(ConfigError, match="unknown format 'parket', expected one of .*; did you mean 'parquet'"):
        find_format("parket")


@pytest.mark.parametrize(
    ("file", "name"), [("a.JSON", "coco"), ("a.tar.gz", "wider"), ("a.pq", "parquet"), ("a.txt", "fddb"), ("a", None)]
)
def test_endings(file, name, tmp_path):
    assert name_of_suffix(tmp_path / file) == name


def test_image_names_by_id(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]))
    (tmp_path / "n.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}]}))
    assert list(open_detections(tmp_path / "d.json", dialect=Dialect(names=tmp_path / "n.json"))) == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "box", "score", "message"),
    [
        ("a", [0, 0, 1e100, 1], 0.5, "a number of image 'a' is too large"),
        ("a", [0, 0, 1, 1], 1e100, "a number of image 'a' is too large"),
        ("a\nb", [0, 0, 1, 1], 0.5, "expected a name of one line"),
        (" a", [0, 0, 1, 1], 0.5, "expected a name of one line"),
    ],
)
def test_what_fddb_cannot_hold(name, box, score, message, tmp_path):
    with pytest.raises(DataError, match=f"d: .*{message}"):
        FORMATS["fddb"].write(tmp_path / "d", {name: Detections(np.array([box]), np.array([score]))}, AS_WRITTEN)
    assert not (tmp_path / "d").exists()
