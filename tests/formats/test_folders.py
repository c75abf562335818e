import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.folders import ParsedDetections
from tinygan.formats.registry import open_detections
from tinygan.formats.writing import DetectionWriter

ONE = Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.5]))


def test_folder_and_archive_hold_the_same(tmp_path):
    for name in ("out", "out.tar.gz", "out.zip"):
        writer = DetectionWriter(tmp_path / name)
        writer.write("event/a.b.jpg", ONE)
        writer.write("event/empty.jpg", Detections.empty())
        writer.close()
    for name in ("out", "out.tar.gz", "out.zip"):
        files = open_detections(tmp_path / name)
        assert sorted(files) == ["event/a.b", "event/empty"]
        assert files["event/a.b"].boxes.tolist() == [[1, 2, 3, 4]] and len(files["event/empty"]) == 0


def test_absent_empty_and_broken_sources(tmp_path):
    with pytest.raises(DataError, match="nothing: no such file or folder"):
        open_detections(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"expected one \.txt an image"):
        open_detections(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"x\.zip: expected a readable \.zip"):
        open_detections(tmp_path / "x.zip")
    (tmp_path / "broken.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"broken\.tar\.gz: expected a readable \.tar\.gz"):
        open_detections(tmp_path / "broken.tar.gz")


def test_bad_file_is_named_with_its_place(tmp_path):
    (tmp_path / "event").mkdir()
    (tmp_path / "event/a.txt").write_text("a\n1\n1 2 3\n")
    (tmp_path / "event/b.txt").write_bytes(b"\xff\x80\x00")
    files = open_detections(tmp_path)
    with pytest.raises(DataError, match=r"event/a\.txt:3: expected 'x y w h score'"):
        files["event/a"]
    with pytest.raises(DataError, match=r"event/b\.txt: expected text"):
        files["event/b"]


def test_boxes_beyond_float64_name_their_line(tmp_path):
    (tmp_path / "a.txt").write_text("a\n2\n1 2 3 4 5\n1e308 0 1e308 1 0.5\n")
    with pytest.raises(DataError, match=r"a\.txt:4: boxes must be finite"):
        open_detections(tmp_path)["a"]


def test_parsed_detections_have_text_and_place(tmp_path):
    files = ParsedDetections({"e/a.jpg": ONE}, tmp_path / "d.csv")
    assert files.text("e/a.jpg") == "e/a\n1\n1 2 2 2 0.5\n" and files.describe("e/a.jpg").endswith(
        "d.csv, image 'e/a.jpg'"
    )
    assert files["e/a.jpg"] is ONE and list(files) == ["e/a.jpg"] and len(files) == 1
